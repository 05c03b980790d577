"""A donated training step writes the state where it lies: no copy of it in the compiled program, the same buffers after it.

Were the custom call not aliased, every step would read and write twice the state, and hold it twice.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import oracle
import parallel
import ternax as tx

SIZE, TOKENS, LAYERS = 64, 16, 3
# A copy of an integer array, scalars (loop counters) apart.
COPY = re.compile(r"= (?:s32|u8|s8)\[(\d[\d,]*)\]\S* copy\(")


def one(random):
    return oracle.weight(random, SIZE, SIZE)


def stack(random):
    return jax.tree.map(lambda *a: jnp.stack(a), *(one(random) for _ in range(LAYERS)))


def loss(w, x, dy):
    """Curved, as losses are: of a linear one the score needs no forward pass, which may then read the state after the update."""
    return jnp.sum(tx.linear(w, x) ** 2 * dy)


def deep(ws, x, dy, wrap=lambda layer: layer):
    layer = wrap(lambda h, w: (jnp.tanh(tx.linear(w, h)), None))
    return jnp.sum(lax.scan(layer, x, ws)[0] * dy)


def step(w, x, dy, total=loss):
    value, grad = tx.value_and_grad(total)(w, x, dy)
    return tx.update(w, grad), value


def steps_in_scan(ws, x, dy):
    return lax.scan(lambda ws, _: step(ws, x, dy, deep), ws, length=5)


def bound(w, x, dy):
    h = tx.bind(w)
    return jnp.sum(h(h(x)) ** 2 * dy)


PROGRAMS = {
    "a layer": (one, step),
    "a compact layer": (lambda random: tx.compact(one(random)), step),
    "a layer used twice": (one, functools.partial(step, total=bound)),
    "a stack in a scan": (stack, functools.partial(step, total=deep)),
    "a stack in a rematerialized scan": (stack, functools.partial(step, total=functools.partial(deep, wrap=jax.checkpoint))),
    "steps in a scan over a stack in a scan": (stack, steps_in_scan),
}


def pointers(w):
    leaves = (w.trits, w.exponent, w.corr, w.step)
    return [[shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards] for leaf in leaves]


def assert_in_place(program, w, *data):
    w = jax.tree.map(jnp.copy, w)  # buffers that nothing else holds, as after a first step
    run = jax.jit(program, donate_argnums=0)
    assert COPY.findall(run.lower(w, *data).compile().as_text()) == []
    before, old = pointers(w), w
    new, _ = run(w, *data)
    assert pointers(new) == before
    assert old.corr.is_deleted()
    return new


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_donated_step_copies_no_state(random, name):
    make, program = PROGRAMS[name]
    new = assert_in_place(program, make(random), *(oracle.dyadic(random, (TOKENS, SIZE)) for _ in range(2)))
    assert np.all(new.step_int64() >= 1)


@pytest.mark.parametrize("name", ["data", "data × column", "data × row"])
def test_a_donated_step_over_a_mesh_copies_no_state(random, name):
    form, data = parallel.FORMS[name], [oracle.dyadic(random, (TOKENS, SIZE)) for _ in range(2)]
    alone = one(random)
    new = assert_in_place(step, *form.place(alone, *data, 0))
    assert np.array_equal(new.corr_int64(), step(alone, *data)[0].corr_int64())


def test_a_donated_step_in_shard_map_copies_no_state(random):
    mesh, split = parallel.make_mesh(d=8), jax.sharding.PartitionSpec("d")
    everywhere = jax.sharding.PartitionSpec()

    def inside(w, x, dy):
        new, value = step(w, x, dy)
        return new, lax.psum(value, "d")

    program = jax.shard_map(inside, mesh=mesh, in_specs=(everywhere, split, split), out_specs=everywhere)
    assert_in_place(program, tx.shard(one(random), mesh, everywhere), *(oracle.dyadic(random, (TOKENS, SIZE)) for _ in range(2)))


def test_without_donation_the_old_state_stays(random):
    """Writing into a buffer that the caller still holds would be the worse mistake."""
    w, data = one(random), [oracle.dyadic(random, (TOKENS, SIZE)) for _ in range(2)]
    before = w.corr_int64().copy()
    run = jax.jit(step)
    assert {"2", f"{SIZE},2,2"} <= set(COPY.findall(run.lower(w, *data).compile().as_text()))
    assert np.any(run(w, *data)[0].corr_int64() != before)
    assert np.array_equal(w.corr_int64(), before)


def test_optax_may_copy_the_correlations_once_and_nothing_else(random):
    """Its updates are differences, so that the old state must outlive the call; the trits are never touched."""
    params = {"w": stack(random)}
    optimizer = tx.with_ternary(optax.sgd(0.1))
    x, dy = (oracle.dyadic(random, (TOKENS, SIZE)) for _ in range(2))

    def train(params, state):
        updates, state = optimizer.update(tx.grad(lambda p: deep(p["w"], x, dy))(params), state, params)
        return optax.apply_updates(params, updates), state

    text = jax.jit(train, donate_argnums=(0, 1)).lower(params, optimizer.init(params)).compile().as_text()
    copied = COPY.findall(text)
    assert len(copied) == len(set(copied))
    assert set(copied) <= {f"{LAYERS},{SIZE},2,2", f"{LAYERS},2"}
