"""Two meanings of a score over devices: the sign of the whole batch's gradient, and the sum of the shards' own scores."""

import functools
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from communication import collectives

import oracle
import parallel
import ternax as tx

TOKENS, IN, OUT = 32, 128, 16


@functools.cache
def case():
    random = np.random.default_rng(4)
    return oracle.weight(random, IN, OUT), oracle.dyadic(random, (TOKENS, IN)), oracle.dyadic(random, (TOKENS, OUT))


def scores(*parts):
    """The sum of the scores of equal parts of the batch, cut along each leading dimension."""
    w, x, dy = case()
    if len(parts) == 2:
        x, dy = (a.reshape(-1, 2, a.shape[-1]) for a in (x, dy))
    pieces = [(x, dy)]
    for axis, count in enumerate(parts):
        pieces = [piece for x, dy in pieces for piece in zip(np.split(x, count, axis), np.split(dy, count, axis), strict=True)]
    return sum(oracle.score(x, dy, w.unpack(), 32) for x, dy in pieces)


def gradient(form, w, x, dy, reduce):
    return tx.grad(lambda w: jnp.sum(tx.linear(w, x, reduce=reduce, **form.options) * dy))(w), None


def parts_of(form):
    """Into how many parts the form cuts the batch, and the sequence."""
    if not isinstance(form, parallel.Jit):
        return (4,) if isinstance(form, parallel.ShardMap) else (8,)
    size = lambda axes: math.prod(form.mesh[a] for a in ((axes,) if isinstance(axes, str) else axes or ()))
    return (size(form.batch), size(form.sequence)) if form.sequence else (size(form.batch),)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.cell("vote", name)) for name in parallel.FORMS])
def test_a_vote_is_the_sum_of_the_shards_scores_and_counts_them(name):
    """Counted as one vote, the sum would let the correlation outgrow step * group_size."""
    form, (w, x, dy) = parallel.FORMS[name], case()
    if form.sequence:
        x, dy = (a.reshape(-1, 2, a.shape[-1]) for a in (x, dy))
    grad, _ = form.run(functools.partial(gradient, reduce="vote"), w, x, dy)
    assert np.array_equal(grad.score, scores(*parts_of(form)))
    assert grad.votes == math.prod(parts_of(form))


def test_exact_and_vote_differ_and_only_exact_is_the_same_on_any_number_of_devices():
    """Were the signs taken before the sum, exact would depend on the devices too."""
    found = {}
    for reduce in ("exact", "vote"):
        for devices in (1, 2, 8):
            form = parallel.Jit({"data": devices}, batch="data")
            found[reduce, devices] = np.asarray(form.run(functools.partial(gradient, reduce=reduce), *case())[0].score)
    assert all(np.array_equal(found["exact", devices], scores(1)) for devices in (1, 2, 8))
    assert np.mean(found["vote", 8] != found["exact", 8]) > 0.5
    assert np.mean(found["vote", 2] != found["vote", 8]) > 0.5


# ------------------------------------------------------------------------------------------------------------- the law
def unanimous(w, rows):
    """The loss whose every weight gradient agrees with its trit: each use scores the full group size."""
    return jnp.sum(tx.linear(w, jnp.ones((rows, 64)), reduce="vote"))


def accumulated(w):
    each = [tx.grad(unanimous)(w, 1) for _ in range(4)]
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), each)


def examples(w):
    each = jax.vmap(tx.grad(lambda w, _: unanimous(w, 1)), (None, 0))(w, jnp.ones(4))
    return jax.tree.map(lambda a: a.sum(0), each)


WAYS_TO_VOTE = {
    "microbatches, added": (accumulated, 4),
    "a layer used four times": (tx.grad(lambda w: sum(unanimous(w, 1) for _ in range(4))), 4),
    "examples, added": (
        lambda w: jax.tree.map(lambda a: a.sum(0), jax.vmap(tx.grad(lambda w, _: unanimous(w, 1)), (None, 0))(w, jnp.ones(4))),
        4,
    ),
}


@pytest.mark.parametrize("way", WAYS_TO_VOTE)
def test_the_correlation_never_outgrows_step_times_group_size(way):
    """With one step per update it would be four times that: a gain of 2^16 where 2^4 is the most."""
    gradient, votes = WAYS_TO_VOTE[way]
    w = tx.from_trits(np.ones((2, 64)), exponent=np.zeros((2, 2), int))
    step = jax.jit(lambda w: tx.update(w, gradient(w), votes=votes))
    for n in range(1, 6):
        w = step(w)
        assert w.step_int64() == n * votes
        assert np.array_equal(w.corr_int64(), np.full((2, 2), -32 * n * votes))
    assert np.all(w.scale() == 2.0**-4)


def test_a_vote_over_devices_keeps_the_law_over_many_steps():
    mesh = parallel.make_mesh(d=8)
    w, (x, dy) = tx.shard(case()[0], mesh, jax.sharding.PartitionSpec()), (parallel.put(mesh, a, "d") for a in case()[1:])
    step = jax.jit(lambda w, x, dy: tx.update(w, tx.grad(lambda w: jnp.sum(tx.linear(w, x, reduce="vote") * dy))(w), votes=8))
    for _ in range(10):
        w = step(w, x, dy)
    assert w.step_int64() == 80
    assert np.array_equal(w.corr_int64(), -10 * scores(8))
    assert np.all(np.abs(w.corr_int64()) <= 80 * 32)


def test_averaged_microbatches_are_refused_with_the_likely_cause():
    w, x, dy = case()
    loss = lambda w, x, dy: jnp.sum(tx.linear(w, x) * dy)
    halves = [tx.grad(loss)(w, x[part], dy[part]) for part in (slice(0, 16), slice(16, 32))]
    average = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    with pytest.raises(ValueError, match="was the loss scaled, or the gradient averaged"):
        tx.update(w, average)
    with pytest.raises(jax.errors.JaxRuntimeError, match="was the loss scaled, or the gradient averaged"):
        jax.block_until_ready(jax.jit(tx.update)(w, average))


@pytest.mark.parametrize("name", ["data", "data × column", "shard_map", "shard_map, unchecked"])
def test_scaled_scores_are_refused_in_sharded_programs_before_anything_is_written(name):
    def update(form, w, x, dy):
        grad, _ = gradient(form, w, x, dy, "exact")
        return tx.update(w, jax.tree.map(lambda a: a * 0.3, grad)), None

    with pytest.raises(jax.errors.JaxRuntimeError, match="was the loss scaled"):
        jax.block_until_ready(parallel.FORMS[name].run(update, *case()))
    with tx.backend("reference"):
        new, _ = parallel.FORMS[name].run(update, *case())
    assert new.step_int64() < 0
    assert not np.any(new.corr_int64())


def test_an_optimizer_that_expects_one_vote_refuses_a_vote():
    w, x, dy = case()
    params = {"w": w}
    optimizer = tx.with_ternary(optax.sgd(0.1), votes=1)
    grads = tx.grad(lambda p: sum(jnp.sum(tx.linear(p["w"], a) * b) for a, b in ((x, dy), (-x, dy))))(params)
    with pytest.raises(ValueError, match=r"grad\.votes must be 1, got 2"):
        optimizer.update(grads, optimizer.init(params), params)


# --------------------------------------------------------------------------------------------------------- what moves
def test_a_vote_moves_the_scores_only():
    moved, form = {}, parallel.FORMS["data"]
    for reduce in ("exact", "vote"):
        arguments = form.place(*case(), 0)
        step = lambda w, x, dy, reduce=reduce: tx.update(w, gradient(form, w, x, dy, reduce)[0])
        moved[reduce] = collectives(jax.jit(step).lower(*arguments).compile().as_text())
    assert [(c.kind, c.shapes[0]) for c in moved["vote"]] == [("all-reduce", (OUT, IN // 32))]
    assert sorted((c.kind, c.shapes[0]) for c in moved["exact"]) == [("all-gather", (OUT, IN // 32)), ("reduce-scatter", (OUT // 8, IN))]
    sent = {reduce: sum(c.bytes_sent for c in found) for reduce, found in moved.items()}
    assert sent["exact"] == (4 * OUT * IN + 4 * OUT * IN // 32) * 7 // 8
    assert sent["vote"] == (4 * OUT * IN // 32 + 4) * 2 * 7 // 8


def test_the_script_prints_the_bytes_of_both():
    script = pathlib.Path(__file__).parents[2] / "python" / "benchmarks" / "communication.py"
    command = [sys.executable, script, "--devices", "4", "--out", "64", "--in", "320", "--tokens", "16"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"XLA_FLAGS": ""})
    printed = {name: int(sent) for name, sent in re.findall(r"(exact|vote): \d+ collectives, (\d+) bytes", result.stdout)}
    assert printed["exact"] > 15 * printed["vote"]
    assert "reduce-scatter  (16, 320) over 4 devices: 61440 bytes" in result.stdout
