"""vmap over weights is one batched call, never a loop; its members, examples and directions do not mix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from communication import collectives
from jax.sharding import PartitionSpec as P

import oracle
import parallel
import ternax as tx

MEMBERS, TOKENS, IN, OUT = 4, 8, 96, 16


@functools.cache
def case():
    random = np.random.default_rng(7)
    stack = jax.tree.map(lambda *a: jnp.stack(a), *(oracle.weight(random, IN, OUT) for _ in range(MEMBERS)))
    return stack, *(jnp.asarray(oracle.dyadic(random, (TOKENS, n))) for n in (IN, OUT))


def member(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def loss(w, x, dy):
    return jnp.sum(tx.linear(w, x) * dy)


def curved(w, x, dy):
    return jnp.sum(tx.linear(w, x) ** 2 * dy)


def twice(w, x, dy):
    h = tx.bind(w)
    return jnp.sum(h(x) * dy) + jnp.sum(h(-x) * jnp.abs(dy))


def step(w, x, dy):
    return tx.update(w, tx.grad(loss)(w, x, dy), votes=1)


def jvp_and_linearize(w, x, dy):
    layer = functools.partial(tx.linear, w)
    return jax.jvp(layer, (x,), (jnp.abs(x),)), jax.linearize(layer, x)[1](jnp.abs(x))


# Each as one member sees it.
USES = {
    "forward": lambda w, x, dy: tx.linear(w, x),
    "ensemble": tx.grad(loss, argnums=(0, 1)),
    "update": step,
    "jvp, linearize": jvp_and_linearize,
    "HVP in x": lambda w, x, dy: jax.jvp(jax.grad(lambda x: curved(w, x, dy)), (x,), (jnp.abs(x),)),
    "bind": tx.grad(twice),
    "vmap of grad": jax.vmap(tx.grad(loss), (None, 0, 0)),
}


CALLS = ("matmul", "matmul_transposed", "correlate", "scale", "accumulate")


def calls(text):
    return {name: n for name in CALLS if (n := text.count(f"@ternax_{name}("))}


@pytest.mark.parametrize("use", USES)
def test_members_are_one_call_and_do_not_mix(use):
    """A loop over the members would read as many calls; a wrong batch rule would give one member another's numbers."""
    ws, x, dy = case()
    together = jax.jit(jax.vmap(USES[use], (0, None, None)))
    found = together(ws, x, dy)
    for k in range(MEMBERS):
        for a, b in zip(jax.tree.leaves(member(found, k)), jax.tree.leaves(USES[use](member(ws, k), x, dy)), strict=True):
            assert np.array_equal(a, b)
    assert calls(together.lower(ws, x, dy).as_text()) == calls(jax.jit(USES[use]).lower(member(ws, 0), x, dy).as_text())


def test_an_ensemble_of_ensembles_is_one_call_too():
    ws, x, dy = case()
    grid = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), ws)
    together = jax.jit(jax.vmap(jax.vmap(step, (0, None, None)), (0, None, None)))
    assert calls(together.lower(grid, x, dy).as_text()) == {"correlate": 1, "accumulate": 1}
    assert np.array_equal(together(grid, x, dy).corr.reshape(ws.corr.shape), jax.vmap(step, (0, None, None))(ws, x, dy).corr)


def test_a_batch_never_becomes_a_loop():
    ws, x, dy = case()
    program = str(jax.make_jaxpr(jax.vmap(jax.vmap(tx.grad(loss, argnums=(0, 1)), (None, 0, 0)), (0, None, None)))(ws, x, dy))
    assert program.count("ternax_correlate[") == 1
    assert not [loop for loop in ("scan[", "while[") if loop in program]


def test_scores_per_example_are_not_the_score_of_the_batch():
    """Their sum is a vote of the examples; a wrong fold would give every example the batch's score."""
    ws, x, dy = case()
    w = member(ws, 0)
    each = jax.vmap(tx.grad(loss), (None, 0, 0))(w, x, dy)
    for k in range(TOKENS):
        assert np.array_equal(each.score[k], oracle.score(x[k : k + 1], dy[k : k + 1], w.unpack(), 32))
    assert np.array_equal(each.votes, np.ones(TOKENS))
    assert np.any(each.score.sum(0) != oracle.score(x, dy, w.unpack(), 32))


@pytest.mark.parametrize("use", [pytest.param(use, marks=pytest.mark.cell(use, "members over devices")) for use in USES])
def test_members_on_different_devices_exchange_nothing(use):
    ws, x, dy = case()
    mesh = parallel.make_mesh(member=4, data=2)
    placed = tx.shard(ws, mesh, P("member", None, None)), parallel.put(mesh, x), parallel.put(mesh, dy)
    run = jax.jit(jax.vmap(USES[use], (0, None, None)))
    assert collectives(run.lower(*placed).compile().as_text()) == []
    found = run(*placed)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(run(ws, x, dy)), strict=True):
        assert np.array_equal(a, b)
    leaf = jax.tree.leaves(found)[0]
    assert leaf.sharding.spec[0] == "member"


def test_members_and_data_are_split_together():
    """The members' batch is reduced over ``data`` only: over all devices it would add up different members."""
    ws, x, dy = case()
    mesh = parallel.make_mesh(member=4, data=2)
    placed = tx.shard(ws, mesh, P("member", None, None)), parallel.put(mesh, x, "data"), parallel.put(mesh, dy, "data")
    run = jax.jit(jax.vmap(step, (0, None, None)))
    assert {c.devices for c in collectives(run.lower(*placed).compile().as_text())} == {2}
    assert np.array_equal(run(*placed).corr_int64(), jax.vmap(step, (0, None, None))(ws, x, dy).corr_int64())
