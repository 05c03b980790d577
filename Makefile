# Every target does its own set-up in $(VENV): only Python >= 3.11, Rust and a C++ compiler must be there.
#   make env     the package, editable, in .venv
#   make demo    trains a ternary network on real digits, beside a dense one
#   make test    formatters, linters, type checker, Rust and Python tests
#   make check-aarch64   compiles everything for aarch64: needs that target of Rust and a C++ compiler for it
#   make wheel   builds the wheel and runs the README's example from it
#   make parity  the PyTorch reference against ternax, live, and the notebook
#   make bench   ratios against named peers
#   make xla-rs  programs exported from jax, run by Rust without Python (with the XLA of tensorflow-cpu: 2 GB of disk)
#   make gpu-check PYTHON=... [WHEEL=...]   on a machine with an NVIDIA GPU, a Python with JAX for CUDA and the test tools; fetches nothing:
#                without a wheel, the crates of Cargo.lock must lie in cargo's cache already (cargo fetch --locked) or be vendored
# PYTHON chooses the interpreter, JAX the version (JAX='jax==0.8.3'), VENV where the environment lies.

PYTHON ?= python3
VENV ?= .venv
JAX ?= jax
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN := $(VENV)/bin
RUST := Cargo.toml Cargo.lock build.rs cbindgen.toml pyproject.toml $(shell find src cpp -type f)
# The C++ shim compiles against the headers of the environment's own jaxlib wherever cargo runs by itself.
CARGO := PYTHON=$(abspath $(BIN)/python) cargo

# Where `make xla-rs` keeps its XLA and its programs.
XLA := .venv-xla
# The crate xla reads its C header with libclang, which needs the compiler's own headers.
BINDGEN = LIBCLANG_PATH="$$(echo $(abspath $(VENV))/lib/python*/site-packages/clang/native)" \
	BINDGEN_EXTRA_CLANG_ARGS="-I$$(cc -print-file-name=include)"
# The wheel's library lacks a few functions that the crate names and these programs never call: symbols are bound when called.
XLA_LINK = -C relro-level=partial -C link-args="-Wl,--unresolved-symbols=ignore-all -L$(abspath $(XLA))/extension/lib \
	-Wl,-rpath,$(abspath $(XLA))/extension/lib -ltensorflow_framework"

.PHONY: env demo test test-rust test-python lint check-aarch64 wheel parity bench xla-rs gpu-check gpu-choice clean

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
	DOCS_RS=1 $(BINDGEN) $(CARGO) clippy --features xla-rs --example run_hlo -- -D warnings
	$(BIN)/clang-format --dry-run -Werror $(shell find cpp tests \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \))
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not part of `lint`: `rustup target add aarch64-unknown-linux-gnu` and, say, Debian's g++-aarch64-linux-gnu are needed.
check-aarch64: $(VENV)/.group-test
	$(CARGO) clippy --all-targets --target aarch64-unknown-linux-gnu -- -D warnings

test-rust: $(VENV)/.group-test
	$(CARGO) test

test-python: $(VENV)/.group-test
	$(BIN)/python -m pytest --numprocesses auto

parity: $(VENV)/.group-parity
	$(BIN)/python tests/parity/live.py
	$(BIN)/python python/notebooks/execute.py

bench: $(VENV)/.group-bench
	$(CARGO) bench --bench targets --features peers
	TERNAX_NUM_THREADS=1 $(CARGO) bench --bench sweep
	$(BIN)/python python/benchmarks/roofline.py
	$(BIN)/python python/benchmarks/layer.py
	$(BIN)/python python/benchmarks/targets.py
	$(BIN)/python python/benchmarks/devices.py

# The package as a stranger gets it: a wheel, installed where the sources are not.
wheel: $(VENV)/.created
	rm -rf dist $(VENV)-wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	ls dist/ternax-*-py3-none-*.whl
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/pip install --quiet $(JAX) pytest "$$(ls $(CURDIR)/dist/*.whl)[optax]"
	$(VENV)-wheel/bin/python -m pytest tests/python/test_readme.py
	$(VENV)-wheel/bin/ternax --help

$(XLA)/.extension: pyproject.toml tests/xla_rs/make_extension.py | $(VENV)/.created
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(XLA)/packages --group xla-rs
	$(BIN)/python tests/xla_rs/make_extension.py $(XLA)/packages $(XLA)/extension
	touch $@

xla-rs: $(VENV)/.group-bindgen $(XLA)/.extension
	$(BIN)/python python/examples/without_python.py $(XLA)/programs
	XLA_EXTENSION_DIR=$(abspath $(XLA)/extension) XLA_FFI_INCLUDE_DIR=$(abspath $(XLA)/extension/include) $(BINDGEN) $(CARGO) rustc --release --features xla-rs --example run_hlo \
		--target-dir $(XLA)/target -- $(XLA_LINK)
	TF_ENABLE_ONEDNN_OPTS=0 $(XLA)/target/release/examples/run_hlo $(XLA)/programs/infer $(XLA)/programs/train

# Uses the given Python as it is, since such machines often reach no package registry: either a wheel, or the library built here.
gpu-check:
ifdef WHEEL
	$(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target out/gpu-check/site $(WHEEL)
	PYTHONPATH=$(abspath out/gpu-check/site) $(PYTHON) tests/gpu/check.py
else
	PYTHON=$(PYTHON) cargo build --release --offline --locked
	TERNAX_LIBRARY=$(abspath target/release/libternax.so) PYTHONPATH=$(abspath python) $(PYTHON) tests/gpu/check.py
endif

# Takes over the choice of implementations that the last gpu-check measured, and that its benchmark used.
gpu-choice:
	cp out/gpu-check/cuda_choice.json python/ternax/cuda_choice.json

clean:
	rm -rf target .venv* out python/ternax/_native
