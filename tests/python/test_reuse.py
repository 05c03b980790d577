"""``bind`` across devices: one sign of one summed gradient, however often and wherever the layer is used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from communication import collectives
from jax import lax

import oracle
import parallel
import ternax as tx

SIZE, TIMES, TOKENS = 64, 4, 16
ALL = ("one device", "data", "data × column", "data × row", "shard_map", "shard_map, unchecked", "pmap")


@functools.cache
def case():
    random = np.random.default_rng(6)
    w = tx.from_trits(oracle.trits(random, SIZE, SIZE), exponent=np.zeros((SIZE, 2), int))
    return w, *(random.integers(-2, 3, (TIMES, TOKENS, SIZE)).astype(np.float32) for _ in range(2))


def recurrent(form, w, xs, dys):
    """A recurrent network that forgets all but signs, so that its sums stay exact."""

    def total(w):
        h = tx.bind(w, **form.options)
        cell = lambda state, x: (form.alike(jnp.sign(h(state)), x) + x, h(state))
        return jnp.sum(lax.scan(cell, xs[0] * 0, xs)[1] * dys)

    return tx.grad(total)(w), None


def tied(form, w, xs, dys):
    """One weight in two layers of a network."""

    def total(w):
        h = tx.bind(w, **form.options)
        hidden = form.alike(jax.nn.relu(h(xs[0])), xs[0])
        return jnp.sum(h(hidden) * dys[0])

    return tx.grad(total)(w), None


def microbatches(form, w, xs, dys):
    """A loss that goes through the batch piece by piece, and one example at a time."""

    def total(w):
        h = tx.bind(w, **form.options)
        piece = lambda carry, part: (carry, jnp.sum(jax.vmap(h)(part[0]) * part[1]))
        return jnp.sum(lax.scan(piece, None, (xs, dys))[1])

    return tx.grad(total)(w), None


def training(form, w, xs, dys):
    """Three updates by the gradient of a layer that every step uses twice."""

    def step(w, _):
        def total(w):
            h = tx.bind(w, **form.options)
            return jnp.sum(h(xs[0]) * dys[0]) + jnp.sum(h(xs[1]) * dys[1])

        return tx.update(w, tx.grad(total)(w), votes=1), None

    return lax.scan(step, w, length=3)[0], None


@functools.cache
def eager(use):
    w, xs, dys = case()
    return jax.tree.map(np.asarray, use(parallel.FORMS["one device"], w, jnp.asarray(xs), jnp.asarray(dys))[0])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("use", [recurrent, tied, microbatches, training], ids=lambda use: use.__name__)
def test_a_bound_layer_counts_once_wherever_it_is_used(use, name):
    """Summed over its uses, or over devices, the signs would differ and the votes be 2, 4 or 8."""
    found, _ = parallel.FORMS[name].run(use, *case(), lead=1)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(eager(use)), strict=True):
        assert np.array_equal(a, b)
    if use is not training:
        assert found.votes == 1


def test_a_loss_in_microbatches_scores_as_the_whole_batch_does_only_if_bound():
    w, xs, dys = case()
    whole = oracle.score(xs.reshape(-1, SIZE), dys.reshape(-1, SIZE), w.unpack(), 32)
    assert np.array_equal(eager(microbatches).score, whole)
    pieces = [oracle.score(x, dy, w.unpack(), 32) for x, dy in zip(xs, dys, strict=True)]
    plain = lambda w: jnp.sum(lax.scan(lambda c, p: (c, jnp.sum(tx.linear(w, p[0]) * p[1])), None, (xs, dys))[1])
    unbound = tx.grad(plain)(w)
    assert np.array_equal(unbound.score, sum(pieces))
    assert unbound.votes == TIMES
    assert np.any(unbound.score != TIMES * whole)


def test_a_bound_layer_in_a_loop_moves_no_more_than_a_dense_one():
    form = parallel.FORMS["data"]
    w, xs, dys = form.place(*case(), 1)
    dense = parallel.put(parallel.make_mesh(**form.mesh), np.asarray(w.dequantize()))
    moved = []
    for grad, weight, layer in ((tx.grad, w, tx.bind), (jax.grad, dense, lambda w: lambda x: x @ w.T)):

        def total(w, xs, dys, layer=layer):
            h = layer(w)
            return jnp.sum(lax.scan(lambda state, x: (jnp.sign(h(state)) + x, h(state)), xs[0] * 0, xs)[1] * dys)

        text = jax.jit(grad(total)).lower(weight, xs, dys).compile().as_text()
        moved.append(sorted((c.kind, c.shapes) for c in collectives(text)))
    assert moved[0] == moved[1] == [("all-reduce", ((SIZE, SIZE),))]
