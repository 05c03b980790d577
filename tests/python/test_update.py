"""The update: exact, counted, in place, and refused where the gradient is no sum of scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
import ternax as tx

OUT, IN = 24, 320


@pytest.fixture
def case(random):
    corr = random.integers(-(2**40), 2**40, (OUT, IN // 32))
    w = oracle.weight(random, IN, OUT, corr=corr, step=2**36)
    x, dy = (jnp.asarray(oracle.dyadic(random, (16, n))) for n in (IN, OUT))
    return w, x, dy


def loss(w, x, dy):
    return jnp.sum(tx.linear(w, x) * dy)


def step(w, x, dy):
    return tx.update(w, tx.grad(loss)(w, x, dy))


def test_an_update_subtracts_the_scores_and_counts_one_step(backend, case):
    w, x, dy = case
    score = oracle.score(x, dy, w.unpack(), 32)
    for new in (step(w, x, dy), jax.jit(step)(w, x, dy)):
        assert np.array_equal(new.corr_int64(), w.corr_int64() - score)
        assert new.step_int64() == 2**36 + 1
        assert np.array_equal(new.trits, w.trits)
        assert not np.any(new.score)


def test_a_score_that_agrees_with_the_trits_shrinks_the_scale(backend):
    w = tx.from_trits(np.ones((1, 32)), exponent=[[-4]])
    new = step(w, jnp.ones((1, 32)), jnp.ones((1, 1)))
    assert new.corr_int64() == -32
    assert new.scale() == 2.0**-8  # the example of SPEC 11


def test_both_backends_reach_the_same_integers_over_many_steps(random):
    def train(w, x, dy):
        return jax.lax.scan(lambda w, _: (step(w, x, dy), None), w, length=50)[0]

    w, x, dy = oracle.weight(random, IN, OUT), *(jnp.asarray(oracle.dyadic(random, (16, n))) for n in (IN, OUT))
    found = {}
    for name in ("native", "reference"):
        with tx.backend(name):
            found[name] = jax.jit(train)(w, x, dy)
    assert np.array_equal(found["native"].corr, found["reference"].corr)
    assert found["native"].step_int64() == 50
    assert np.all(np.abs(found["native"].corr_int64()) <= 50 * 32)


def test_a_stack_of_layers_is_updated_as_one(backend, case, random):
    w, x, dy = case
    stack = jax.tree.map(lambda *a: jnp.stack(a), w, oracle.weight(random, IN, OUT))
    grad = tx.grad(lambda ws: jax.lax.scan(lambda c, w: (c + loss(w, x, dy), None), 0.0, ws)[0])(stack)
    for new in (tx.update(stack, grad), jax.vmap(tx.update)(stack, grad)):
        assert np.array_equal(new.corr_int64(), stack.corr_int64() - np.asarray(grad.score, np.int64))
        assert np.array_equal(new.step_int64(), [2**36 + 1, 1])


def test_votes_keep_the_correlation_within_its_bound(backend, random):
    w = tx.from_trits(np.ones((2, 64)))
    vote = lambda w: sum(loss(w, jnp.ones((1, 64)), jnp.ones((1, 2))) for _ in range(5))
    for _ in range(3):
        w = tx.update(w, tx.grad(vote)(w))
    assert w.step_int64() == 15
    assert np.array_equal(w.corr_int64(), np.full((2, 2), -15 * 32))


def test_a_donated_update_is_in_place(case):
    w, x, dy = case
    stack = jax.tree.map(lambda a: jnp.stack([a, a]), w)
    single = jax.jit(step, donate_argnums=0)
    layers = jax.jit(
        lambda ws, x, dy: tx.update(ws, tx.grad(lambda ws: jax.lax.scan(lambda c, w: (c + loss(w, x, dy), None), 0.0, ws)[0])(ws)),
        donate_argnums=0,
    )
    for run, made in ((single, w), (layers, stack)):
        state = jax.tree.map(jnp.array, made)
        before = [leaf.unsafe_buffer_pointer() for leaf in (state.corr, state.step, state.trits)]
        text = run.lower(state, x, dy).compile().as_text()
        assert not [line for line in text.splitlines() if " copy(" in line and "s32[]" not in line]
        new = run(state, x, dy)
        assert [leaf.unsafe_buffer_pointer() for leaf in (new.corr, new.step, new.trits)] == before
        assert state.corr.is_deleted()


def test_without_donation_the_old_state_stays(backend, case):
    w, x, dy = case
    before = w.corr_int64().copy()
    jax.block_until_ready(jax.jit(step)(w, x, dy))
    assert np.array_equal(w.corr_int64(), before)


# ---------------------------------------------------------------------------------------------------------- refusals
DISHONEST = {
    "a scaled loss": lambda g: jax.tree.map(lambda a: a / 3, g),
    "an average of votes": lambda g: dataclasses.replace(g, score=g.score * 0.5 + 0.25),
    "scores beyond their votes": lambda g: dataclasses.replace(g, score=g.score + 33),
    "NaN": lambda g: dataclasses.replace(g, score=g.score.at[2, 3].set(jnp.nan)),
    "negative votes": lambda g: dataclasses.replace(g, votes=-g.votes),
}


@pytest.mark.parametrize("cause", DISHONEST)
def test_a_dishonest_gradient_is_refused_eagerly_with_its_likely_cause(backend, case, cause):
    w, x, dy = case
    with pytest.raises(ValueError, match=r"was the loss scaled, or the gradient averaged over devices, clipped or cast\?"):
        tx.update(w, DISHONEST[cause](tx.grad(loss)(w, x, dy)))


@pytest.mark.parametrize("cause", DISHONEST)
def test_a_dishonest_gradient_is_refused_under_jit(backend, case, cause):
    w, x, dy = case
    run = jax.jit(lambda w, x, dy: tx.update(w, DISHONEST[cause](tx.grad(loss)(w, x, dy))))
    if oracle.refuses(backend):
        with pytest.raises(jax.errors.JaxRuntimeError, match="was the loss scaled"):
            jax.block_until_ready(run(w, x, dy))
    else:
        new = run(w, x, dy)
        assert new.step_int64() < 0
        assert np.array_equal(new.corr_int64(), w.corr_int64())
        assert np.all(np.isnan(tx.linear(new, x)))
        with pytest.raises(ValueError, match=r"w\.step must not be negative"):
            tx.update(new, tx.grad(loss)(w, x, dy))


def test_only_the_caller_can_tell_a_doubled_gradient_from_votes(backend, case):
    w, x, dy = case
    double = lambda w: tx.update(w, jax.tree.map(lambda a: 2 * a, tx.grad(loss)(w, x, dy)), votes=1)
    with pytest.raises(ValueError, match=r"grad\.votes must be 1, got 2"):
        double(w)
    if oracle.refuses(backend):
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"grad\.votes must be 1"):
            jax.block_until_ready(jax.jit(double)(w))
    else:
        assert jax.jit(double)(w).step_int64() < 0
    twice = tx.update(w, jax.tree.map(lambda a: 2 * a, tx.grad(loss)(w, x, dy)))
    assert twice.step_int64() == 2**36 + 2


def test_a_gradient_of_the_wrong_kind_is_named(case):
    w, x, dy = case
    grad = tx.grad(loss)(w, x, dy)
    with pytest.raises(TypeError, match=r"grad\.score must be float32, got bfloat16"):
        tx.update(w, dataclasses.replace(grad, score=grad.score.astype(jnp.bfloat16)))
    with pytest.raises(ValueError, match=r"grad\.score must have shape \(24, 10\), got \(24, 9\)"):
        tx.update(w, dataclasses.replace(grad, score=grad.score[:, :9]))
    with pytest.raises(TypeError, match="grad must be the gradient of a TernaryWeight"):
        tx.update(w, grad.score)
