"""shard_map: gradients inside and outside, checked and unchecked, weights split by hand, and what only ``votes=`` can refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import oracle
import parallel
import ternax as tx

TOKENS, IN, OUT = 32, 128, 16
DEVICES = 8


@functools.cache
def case():
    random = np.random.default_rng(2)
    return oracle.weight(random, IN, OUT), *(jnp.asarray(oracle.dyadic(random, (TOKENS, n))) for n in (IN, OUT))


def scores(parts=1):
    """The sum of the scores of so many equal parts of the batch."""
    w, x, dy = case()
    halves = zip(np.split(x, parts), np.split(dy, parts), strict=True)
    return sum(oracle.score(a, b, w.unpack(), 32) for a, b in halves)


def spread(function, **settings):
    mesh = parallel.make_mesh(d=DEVICES)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P(), **settings))


def loss(w, x, dy, **options):
    return jnp.sum(tx.linear(w, x, **options) * dy)


def gradient(**options):
    return tx.grad(functools.partial(loss, **options))


def assert_scores(grad, score, votes=1):
    assert np.array_equal(grad.score, score)
    assert np.array_equal(grad.votes, np.broadcast_to(votes, np.shape(grad.votes)))


# ------------------------------------------------------------------------------------------------------ grad outside
def bound(w, x, dy):
    h = tx.bind(w)
    return jnp.sum(h(x) * dy) + jnp.sum(h(jnp.abs(x)) * dy)


def over_time(layer, w, x, dy):
    h = layer(w)
    return jnp.sum(lax.scan(lambda _, part: (None, h(part[0]) * part[1]), None, (jnp.stack([x, jnp.abs(x)]), jnp.stack([dy, dy])))[1])


def members(ws, x, dy):
    return jnp.sum(jax.vmap(loss, (0, None, None))(ws, x, dy))


def layers(ws, x, dy, wrap=lambda body: body):
    return jnp.sum(lax.scan(wrap(lambda c, w: (c, loss(w, x, dy))), None, ws)[1])


OUTSIDE = {
    "grad": (loss, False),
    "grad of vmap": (lambda w, x, dy: jnp.sum(jax.vmap(lambda a: tx.linear(w, a))(x) * dy), False),
    "ensemble": (members, True),
    "scan of layers": (layers, True),
    "remat": (functools.partial(layers, wrap=jax.checkpoint), True),
    "bind": (bound, False),
    "bind in scan": (functools.partial(over_time, tx.bind), False),
    "reuse": (functools.partial(over_time, lambda w: functools.partial(tx.linear, w)), False),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.cell(name, "grad of shard_map")) for name in OUTSIDE])
def test_a_gradient_around_a_checked_map_is_that_of_the_whole_batch(name):
    """Taken per device and summed, it would be a vote of eight."""
    total, stacked = OUTSIDE[name]
    w, x, dy = case()
    if stacked:
        w = jax.tree.map(lambda *a: jnp.stack(a), w, oracle.weight(np.random.default_rng(3), IN, OUT))
    found = tx.grad(lambda w: spread(lambda *a: lax.psum(total(*a), "d"))(w, x, dy))(w)
    want = tx.grad(total)(w, x, dy)
    assert_scores(found, want.score, want.votes)


@pytest.mark.cell("compact", "grad of shard_map")
@pytest.mark.cell("microbatches", "grad of shard_map")
def test_gradients_of_microbatches_around_a_checked_map_add_up_to_a_vote():
    """With as many votes as microbatches, not as microbatches times devices."""
    w, x, dy = case()
    total = spread(lambda *a: lax.psum(loss(*a), "d"))
    each = [tx.grad(total)(tx.compact(w), a, b) for a, b in zip(np.split(x, 2), np.split(dy, 2), strict=True)]
    assert_scores(jax.tree.map(jnp.add, *each), scores(2), 2)


@pytest.mark.cell("update", "grad of shard_map")
def test_updates_by_gradients_around_a_checked_map_are_those_of_one_device():
    w, x, dy = case()
    step = lambda total: jax.jit(lambda w: tx.update(w, tx.grad(total)(w, x, dy), votes=1))
    mapped, alone = step(spread(lambda *a: lax.psum(loss(*a), "d"))), step(loss)
    assert np.array_equal(mapped(mapped(w)).corr_int64(), alone(alone(w)).corr_int64())


@pytest.mark.cell("vote", "grad of shard_map")
def test_a_vote_around_a_checked_map_counts_each_device_once():
    w, x, dy = case()
    total = spread(lambda *a: lax.psum(loss(*a, reduce="vote"), "d"))
    assert_scores(tx.grad(total)(w, x, dy), scores(DEVICES), DEVICES)


def test_a_gradient_around_an_unchecked_map_is_summed_once_per_device_and_refused_by_votes():
    """jax sums the cotangent of what every device holds once more; no check inside can see it, so the caller must count."""
    w, x, dy = case()
    total = spread(lambda *a: lax.psum(loss(*a, axis_name="d"), "d"), check_vma=False)
    update = lambda w: tx.update(w, tx.grad(total)(w, x, dy), votes=1)
    found = tx.grad(total)(w, x, dy)
    assert np.all(found.votes % DEVICES == 0)
    assert found.votes > 1
    assert_scores(found, found.votes * scores(), found.votes)
    with pytest.raises(ValueError, match=r"grad\.votes must be 1, got \d+.* \(a psum of what jax had summed already\)\?"):
        update(w)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"grad\.votes must be 1"):
        jax.block_until_ready(jax.jit(update)(w))


# ------------------------------------------------------------------------------------------------------- grad inside
@pytest.mark.parametrize("settings", [{}, {"check_vma": False}], ids=["checked", "unchecked"])
def test_a_second_psum_multiplies_scores_and_votes_and_is_refused_by_votes(settings):
    w, x, dy = case()
    options = {"axis_name": "d"} if settings else {}
    double = lambda *a: lax.psum(gradient(**options)(*a), "d")
    found = spread(double, **settings)(w, x, dy)
    assert_scores(found, DEVICES * scores(), DEVICES)
    assert tx.update(w, found).step_int64() == DEVICES, "the law |corr| <= step * group_size holds all the same"
    with pytest.raises(ValueError, match=r"grad\.votes must be 1, got 8"):
        tx.update(w, found, votes=1)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"grad\.votes must be 1"):
        jax.block_until_ready(spread(lambda w, *a: tx.update(w, double(w, *a), votes=1), **settings)(w, x, dy))


def test_averaging_what_is_summed_already_changes_nothing():
    assert_scores(spread(lambda *a: lax.pmean(gradient()(*a), "d"))(*case()), scores())


def test_unchecked_gradients_without_an_axis_name_are_each_devices_own():
    """Their psum is an honest vote, their pmean is not: it must not pass for one."""
    w, x, dy = case()
    run = lambda reduction: spread(lambda *a: reduction(gradient()(*a), "d"), check_vma=False)(w, x, dy)
    assert_scores(run(lax.psum), scores(DEVICES), DEVICES)
    with pytest.raises(ValueError, match="the gradient averaged over devices"):
        tx.update(w, run(lax.pmean))
    with pytest.raises(jax.errors.JaxRuntimeError, match="averaged over devices"):
        inside = lambda w, *a: tx.update(w, lax.pmean(gradient()(w, *a), "d"))
        jax.block_until_ready(spread(inside, check_vma=False)(w, x, dy))


def test_a_result_of_varying_inputs_may_not_pass_for_the_same_on_every_device():
    """A bare custom call forgets what varies: jax would hand out the result of one device as that of all."""
    with pytest.raises(ValueError, match="out_specs"):
        spread(lambda w, x, dy: tx.linear(w, x))(*case())


@pytest.mark.parametrize("settings", [{}, {"check_vma": False}], ids=["checked", "unchecked"])
@pytest.mark.parametrize("layer", ["linear", "bind"])
def test_partly_manual_meshes_reduce_over_the_manual_axis_and_split_over_the_automatic_one(settings, layer):
    w, x, dy = case()
    mesh = parallel.make_mesh(data=4, model=2)
    options = {"axis_name": "data"} if settings else {}
    call = {"linear": lambda w, x: tx.linear(w, x, **options), "bind": lambda w, x: tx.bind(w, **options)(x)}[layer]
    run = jax.shard_map(
        tx.grad(lambda w, x, dy: jnp.sum(call(w, x) * dy)),
        mesh=mesh,
        in_specs=(P(), P("data"), P("data")),
        out_specs=P(),
        axis_names={"data"},
        **settings,
    )
    for rule in (P("model"), P(None, "model")):
        assert_scores(jax.jit(run)(tx.shard(w, mesh, rule), x, dy), scores())


def test_rows_split_by_hand_score_their_own_rows_and_the_input_gradient_is_summed():
    """Column parallel: an input gradient that was not summed over the rows would be one device's part of it."""
    w, x, dy = case()
    mesh = parallel.make_mesh(data=4, model=2)
    rows = jax.tree.map(lambda a: P("model") if a.ndim > 1 else P(), w)

    def score_and_dx(w, x, dy):
        grad, dx = tx.grad(loss, argnums=(0, 1))(w, x, dy)
        return grad.score, dx

    in_specs, out_specs = (rows, P("data"), P("data", "model")), (P("model"), P("data"))
    score, dx = jax.jit(jax.shard_map(score_and_dx, mesh=mesh, in_specs=in_specs, out_specs=out_specs))(w, x, dy)
    assert np.array_equal(score, scores())
    assert np.array_equal(dx, dy @ oracle.dense(w))


def test_the_axis_name_is_ignored_where_jax_knows_what_varies():
    """Reducing over both would count every device twice."""
    assert_scores(spread(gradient(axis_name="d"))(*case()), scores())
    assert_scores(spread(gradient(axis_name="d", reduce="vote"))(*case()), scores(DEVICES), DEVICES)
