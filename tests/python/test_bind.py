"""A layer that is used several times in one step: the sign of the summed gradient, once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import oracle
import ternax as tx

OUT, IN = 24, 320


@pytest.fixture
def case(random):
    w = oracle.weight(random, IN, OUT)
    x, dy = (jnp.asarray(oracle.dyadic(random, (16, n))) for n in (IN, OUT))
    return w, x, dy, oracle.score(x, dy, w.unpack(), 32)


def assert_once(grad, score):
    assert np.array_equal(grad.score, score)
    assert np.array_equal(grad.votes, np.ones_like(grad.votes))


def over_time(w, x, dy):
    h = tx.bind(w)
    parts = x.reshape(4, 4, IN), dy.reshape(4, 4, OUT)
    return lax.scan(lambda c, p: (c + jnp.sum(h(p[0]) * p[1]), None), 0.0, parts)[0]


def test_a_bound_layer_computes_what_linear_does(backend, case):
    w, x, _, _ = case
    for dtype in (jnp.float32, jnp.bfloat16):
        assert np.array_equal(tx.bind(w)(x.astype(dtype)), tx.linear(w, x.astype(dtype)))


def test_two_uses_score_the_sign_of_their_summed_gradient(backend, case):
    w, x, dy, score = case

    def twice(w):
        h = tx.bind(w)
        return jnp.sum(h(x[:7]) * dy[:7]) + jnp.sum(h(x[7:]) * dy[7:])

    assert_once(jax.jit(tx.grad(twice))(w), score)


def test_scan_over_time_counts_once(backend, case):
    w, x, dy, score = case
    assert_once(jax.jit(tx.grad(over_time))(w, x, dy), score)
    assert_once(jax.jit(tx.grad(jax.checkpoint(over_time)))(w, x, dy), score)


def test_vmap_inside_and_outside_of_bind(backend, case):
    w, x, dy, score = case
    assert_once(jax.jit(tx.grad(lambda w: jnp.sum(jax.vmap(tx.bind(w))(x) * dy)))(w), score)
    assert_once(jax.jit(tx.grad(lambda w: jnp.sum(jax.vmap(lambda a: tx.bind(w)(a.astype(jnp.float32)))(x) * dy)))(w), score)
    each = jax.vmap(tx.grad(lambda w, a, b: jnp.sum(tx.bind(w)(a) * b)), (None, 0, 0))(w, x[:3], dy[:3])
    assert_once(each, np.stack([oracle.score(x[i : i + 1], dy[i : i + 1], w.unpack(), 32) for i in range(3)]))


def test_an_ensemble_of_bound_layers(backend, case, random):
    _, x, dy, _ = case
    members = [oracle.weight(random, IN, OUT) for _ in range(3)]
    stack = jax.tree.map(lambda *a: jnp.stack(a), *members)
    want = np.stack([oracle.score(x, dy, m.unpack(), 32) for m in members])
    assert_once(jax.jit(jax.vmap(tx.grad(over_time), (0, None, None)))(stack, x, dy), want)


def test_the_input_gradient_of_a_bound_layer_is_that_of_linear(backend, case):
    w, x, dy, _ = case
    assert np.array_equal(jax.grad(lambda x: jnp.sum(tx.bind(w)(x) * dy))(x), dy @ oracle.dense(w))


def test_a_bound_layer_that_is_not_used_does_not_vote(backend, case):
    w, x, _, _ = case
    grad = tx.grad(lambda w: (tx.bind(w), jnp.sum(x))[1])(w)
    assert not np.any(grad.score)
    assert grad.votes == 0
