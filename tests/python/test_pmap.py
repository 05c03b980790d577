"""pmap, for programs that still use it: replicas stay equal, and the scores are those of the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import oracle
import ternax as tx

DEVICES, IN, OUT = 4, 128, 16


@pytest.fixture
def case(random):
    return oracle.weight(random, IN, OUT), *(jnp.asarray(oracle.dyadic(random, (DEVICES, 4, n))) for n in (IN, OUT))


def loss(w, x, dy, **options):
    return jnp.sum(tx.linear(w, x, **options) * dy)


def whole(w, x, dy):
    return oracle.score(x.reshape(-1, IN), dy.reshape(-1, OUT), w.unpack(), 32)


def spread(function, in_axes=(None, 0, 0)):
    return jax.pmap(function, axis_name="d", in_axes=in_axes, devices=jax.devices()[:DEVICES])


def test_replicas_that_update_themselves_stay_equal_to_one_device(case):
    """Scores of each device's own part would drive the replicas apart."""
    w, xs, dys = case
    step = lambda w, x, dy: tx.update(w, tx.grad(functools.partial(loss, axis_name="d"))(w, x, dy), votes=1)
    replicas = jax.tree.map(lambda a: jnp.stack([a] * DEVICES), w)
    run = spread(step, in_axes=0)
    for _ in range(5):
        replicas = run(replicas, xs, dys)
    for k in range(DEVICES):
        assert np.array_equal(replicas.corr_int64()[k], -5 * whole(*case))
        assert replicas.step_int64()[k] == 5


def test_without_an_axis_name_the_gradients_are_each_devices_own_and_their_psum_a_vote(case):
    w, xs, dys = case
    own = [oracle.score(x, dy, w.unpack(), 32) for x, dy in zip(xs, dys, strict=True)]
    assert np.array_equal(spread(tx.grad(loss))(w, xs, dys).score, own)
    summed = spread(lambda *a: lax.psum(tx.grad(loss)(*a), "d"))(w, xs, dys)
    assert np.array_equal(summed.score, [sum(own)] * DEVICES)
    assert np.array_equal(summed.votes, [DEVICES] * DEVICES)


def test_an_average_of_the_devices_votes_is_refused(case):
    w, xs, dys = case
    average = jax.tree.map(lambda a: a[0], spread(lambda *a: lax.pmean(tx.grad(loss)(*a), "d"))(w, xs, dys))
    with pytest.raises(ValueError, match="the gradient averaged over devices"):
        tx.update(w, average)


def test_a_second_psum_is_refused_by_votes(case):
    w, xs, dys = case
    double = spread(lambda *a: lax.psum(tx.grad(functools.partial(loss, axis_name="d"))(*a), "d"))(w, xs, dys)
    double = jax.tree.map(lambda a: a[0], double)
    assert np.array_equal(double.score, DEVICES * whole(*case))
    with pytest.raises(ValueError, match=r"grad\.votes must be 1, got 4"):
        tx.update(w, double, votes=1)
