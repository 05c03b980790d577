# Every target does its own set-up in $(VENV): only Python >= 3.11, Rust and a C++ compiler must be there.
#   make env     the package, editable, in .venv
#   make demo    trains a ternary network on real digits, beside a dense one
#   make test    formatters, linters, type checker, Rust and Python tests
#   make wheel   builds the wheel and runs the README's example from it
#   make parity  the PyTorch reference against ternax, live, and the notebook
#   make bench   ratios against named peers
# PYTHON chooses the interpreter, JAX the version (JAX='jax==0.8.3'), VENV where the environment lies.

PYTHON ?= python3
VENV ?= .venv
JAX ?= jax
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
RUST := Cargo.toml Cargo.lock build.rs cbindgen.toml pyproject.toml $(shell find src cpp -type f)
# The C++ shim compiles against the headers of the environment's own jaxlib wherever cargo runs by itself.
CARGO := PYTHON=$(abspath $(BIN)/python) cargo

.PHONY: env demo test test-rust test-python lint wheel parity bench clean

env: $(VENV)/.package

$(VENV)/.created:
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 is needed, this is {v}: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	touch $@

$(VENV)/.package: $(RUST) | $(VENV)/.created
	$(BIN)/pip install --quiet $(JAX) --editable .
	touch $@

# A dependency group of pyproject.toml, without moving jax from the version that was asked for.
$(VENV)/.group-%: pyproject.toml $(VENV)/.package
	$(BIN)/pip install --quiet $(JAX) --group $*
	touch $@

demo: $(VENV)/.group-demo
	$(BIN)/python python/examples/digits.py

test: lint test-rust test-python

lint: $(VENV)/.group-test
	cargo fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(BIN)/clang-format --dry-run -Werror $(shell find cpp tests \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \))
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-rust: $(VENV)/.group-test
	$(CARGO) test

test-python: $(VENV)/.group-test
	$(BIN)/python -m pytest

parity: $(VENV)/.group-parity
	$(BIN)/python tests/parity/live.py
	$(BIN)/python python/notebooks/execute.py

bench: $(VENV)/.group-bench
	$(CARGO) bench --bench targets --features peers
	$(BIN)/python python/benchmarks/roofline.py
	$(BIN)/python python/benchmarks/layer.py
	$(BIN)/python python/benchmarks/targets.py

# The package as a stranger gets it: a wheel, installed where the sources are not.
wheel: $(VENV)/.created
	rm -rf dist $(VENV)-wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	ls dist/ternax-*-py3-none-*.whl
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/pip install --quiet $(JAX) pytest "$$(ls $(CURDIR)/dist/*.whl)[optax]"
	$(VENV)-wheel/bin/python -m pytest tests/python/test_readme.py
	$(VENV)-wheel/bin/ternax --help

clean:
	rm -rf target .venv* out python/ternax/_native
