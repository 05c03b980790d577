"""Choosing between the native calls and their jax.numpy twins."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
import ternax as tx


@pytest.fixture
def case(random):
    return oracle.weight(random, 64, 8), jnp.asarray(oracle.dyadic(random, (4, 64)))


def is_native(f, *args):
    return "ternax_matmul" in f.lower(*args).as_text()


def test_switching_works_after_a_trace(case):
    run = jax.jit(tx.linear)
    native = run(*case)
    assert is_native(run, *case)
    with tx.backend("reference"):
        assert np.array_equal(run(*case), native)
        assert not is_native(run, *case)
        with tx.backend("native"):
            assert is_native(run, *case)
    assert is_native(run, *case)


def test_a_pullback_runs_on_the_backend_of_its_forward_pass(case):
    w, x = case
    with tx.backend("reference"):
        y, pullback = jax.vjp(tx.linear, w, x)
    assert "ternax_" not in jax.jit(pullback).lower(y).as_text()
    _, pullback = jax.vjp(tx.linear, w, x)
    with tx.backend("reference"):
        assert "ternax_correlate" in jax.jit(pullback).lower(y).as_text()


def test_an_error_leaves_the_backend_as_it_was(case):
    with pytest.raises(ZeroDivisionError), tx.backend("reference"):
        raise ZeroDivisionError
    assert is_native(jax.jit(tx.linear), *case)


def test_unknown_backends():
    with pytest.raises(ValueError, match="backend must be 'native' or 'reference', got 'fast'"), tx.backend("fast"):
        pass


@pytest.mark.parametrize("platform", ["tpu", "rocm"])
def test_platforms_without_native_calls_run_the_reference(case, platform):
    w, x = case
    step = lambda w, x: tx.update(w, tx.grad(lambda w: jnp.sum(tx.linear(w, x) ** 2))(w))
    text = jax.jit(step).trace(w, x).lower(lowering_platforms=(platform,)).as_text()
    assert "ternax_" not in text.replace("ternax_call_", "")
    assert "dot_general" in text


def python(code, **environment):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    return result.returncode, result.stdout + result.stderr


def test_the_environment_chooses_the_backend():
    code = "import ternax as tx, jax; print('ternax_pack' in jax.jit(lambda t: tx.init(t, 64, 8).trits).lower(jax.random.key(0)).as_text())"
    assert python(code, TERNAX_BACKEND="reference") == (0, "False\n")
    assert python(code, TERNAX_BACKEND="native") == (0, "True\n")
    status, output = python(code, TERNAX_BACKEND="fast")
    assert status
    assert "TERNAX_BACKEND must be 'native' or 'reference', got 'fast'" in output


def test_the_reference_backend_needs_no_library():
    code = "import ternax as tx, jax, jax.numpy as jnp; print(tx.linear(tx.init(jax.random.key(0), 64, 8), jnp.ones(64)).shape)"
    assert python(code, TERNAX_BACKEND="reference", TERNAX_LIBRARY="/nowhere/lib.so") == (0, "(8,)\n")


def test_importing_changes_nothing_global():
    code = (
        "import jax, logging, os; before = dict(jax.config.values), dict(os.environ), list(logging.root.handlers)\n"
        "import ternax; assert before == (dict(jax.config.values), dict(os.environ), list(logging.root.handlers))\n"
        "import sys; assert 'optax' not in sys.modules"
    )
    assert python(code) == (0, "")
