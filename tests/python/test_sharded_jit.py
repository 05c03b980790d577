"""Sharded jit: what moves between the devices, and that nothing else does.

The results of every form are compared with one device in ``test_transforms``; here are the widths of real layers, the collectives
of the compiled programs, and weights that cannot be split.
"""

import contextlib
import dataclasses
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

TOKENS, IN, OUT = 32, 768, 64
GROUPS, BYTES = IN // 32, 7


def step(w, x, dy):
    y, pullback = jax.vjp(tx.linear, w, x)
    grad, dx = pullback(dy)
    return tx.update(w, grad, votes=1), y, dx


@functools.cache
def problem(in_dim, out=OUT, tokens=TOKENS):
    random = np.random.default_rng(in_dim)
    return oracle.weight(random, in_dim, out), oracle.dyadic(random, (tokens, in_dim)), oracle.dyadic(random, (tokens, out))


def moved(compiled):
    return sorted((c.kind, *c.shapes) for c in collectives(compiled.as_text()))


def context(form):
    return jax.set_mesh(parallel.make_mesh(True, **form.mesh)) if form.explicit else contextlib.nullcontext()


def compiled(form, w, x, dy, function=step):
    if form.sequence:
        x, dy = (a.reshape(-1, 2, a.shape[-1]) for a in (x, dy))
    arguments = form.place(w, x, dy, 0)
    with context(form):
        return jax.jit(function).lower(*arguments).compile(), arguments


def assert_step(found, w, x, dy):
    """The integers bit for bit, y and dx equal to the float64 oracle."""
    new, y, dx = found
    assert np.array_equal(new.corr_int64(), -oracle.score(x, dy, w.unpack(), w.group_size))
    assert new.step_int64() == 1
    assert np.array_equal(np.asarray(y).reshape(len(x), -1), x @ oracle.dense(w).T)
    assert np.array_equal(np.asarray(dx).reshape(len(x), -1), dy @ oracle.dense(w))


# What one step moves, per device: dW is reduce-scattered over rows, the scores are gathered where the weight is whole. x is
# [tokens, 768], y and dy [tokens, 64]: none of them may appear in an all-gather.
SCORES = ("all-gather", (OUT, GROUPS))
MOVED = {
    "data": [SCORES, ("reduce-scatter", (OUT // 8, IN))],
    "data over two axes": [SCORES, ("reduce-scatter", (OUT // 8, IN))],
    "batch × sequence": [SCORES, ("reduce-scatter", (OUT // 8, IN))],
    "column": [("all-reduce", (TOKENS, IN))],
    "row": [("all-reduce", (TOKENS, OUT))],
    "data × column": [
        ("all-gather", (OUT // 2, GROUPS)),
        ("all-reduce", (TOKENS // 4, IN)),
        ("reduce-scatter", (OUT // 8, IN)),
    ],
    "data × row": [
        ("all-gather", (OUT, GROUPS // 2)),
        ("all-reduce", (TOKENS // 4, OUT)),
        ("reduce-scatter", (OUT // 4, IN // 2)),
    ],
    "FSDP": [SCORES, ("all-gather", (OUT, GROUPS, BYTES)), ("reduce-scatter", (OUT // 8, IN))],
}
EXPLICIT = {f"Explicit: {name}": MOVED[name] for name in ("data", "data × column", "data × row")}
SPLITS = {name: parallel.FORMS[name] for name in MOVED | EXPLICIT}
SPLITS["Explicit: FSDP"] = parallel.Jit({"data": 8}, batch="data", out="data", explicit=True)


@pytest.mark.parametrize("name", SPLITS)
def test_a_step_moves_gradients_and_scores_but_never_gathers_activations(name):
    """A bare custom call would have x and dy gathered on every device, and compute everything eight times."""
    w, x, dy = problem(IN)
    run, arguments = compiled(SPLITS[name], w, x, dy)
    assert moved(run) == MOVED[name.removeprefix("Explicit: ")]
    new, y, dx = found = run(*arguments)
    assert_step(found, w, x, dy)
    assert new.corr.sharding.is_equivalent_to(arguments[0].corr.sharding, 3), "the state leaves its place"
    assert y.sharding.is_equivalent_to(arguments[2].sharding, y.ndim)
    assert dx.sharding.is_equivalent_to(arguments[1].sharding, dx.ndim)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("in_dim", [768, 1024, 4096])
def test_inputs_are_split_at_group_borders_at_the_widths_of_real_layers(in_dim, devices):
    """Rows packed as a whole could be cut at none of these: a cut would have to be a multiple of 160 inputs."""
    w, x, dy = problem(in_dim, out=8, tokens=4)
    run, arguments = compiled(parallel.Jit({"model": devices}, inputs="model"), w, x, dy)
    assert moved(run) == [("all-reduce", (4, 8))]
    assert {s.data.shape for s in arguments[0].trits.addressable_shards} == {(8, in_dim // 32 // devices, BYTES)}
    assert_step(run(*arguments), w, x, dy)


def test_a_column_and_a_row_layer_keep_their_hidden_activations_apart():
    """One sum forward, one backward; gathering the hidden activations would cost as much again."""
    mesh = parallel.make_mesh(data=2, model=4)
    random = np.random.default_rng(0)
    plain = {"up": oracle.weight(random, 64, 256), "down": oracle.weight(random, 256, 64)}
    params = tx.shard(plain, mesh, {"up": P("model"), "down": P(None, "model")})
    x, dy = (parallel.put(mesh, oracle.dyadic(random, (16, 64)), "data") for _ in range(2))

    def both(params, x, dy):
        y, pullback = jax.vjp(lambda params, x: tx.linear(params["down"], jax.nn.relu(tx.linear(params["up"], x))), params, x)
        return y, *pullback(dy)

    run = jax.jit(both)
    found = [(kind, shape) for kind, *shapes in moved(run.lower(params, x, dy).compile()) for shape in shapes]
    scores, sums, gradients = ("all-gather", (64, 2)), ("all-reduce", (8, 64)), ("reduce-scatter", (32, 64))
    assert found == [scores, scores, sums, sums, gradients, gradients]
    y, grads, dx = run(params, x, dy)
    want_y, want, want_dx = both(plain, jnp.asarray(x), jnp.asarray(dy))
    assert np.array_equal(y, want_y)
    assert np.array_equal(dx, want_dx)
    assert all(np.array_equal(grads[k].score, want[k].score) for k in plain)


def test_rows_that_do_not_divide_by_the_devices_are_reduced_whole():
    w, x, dy = problem(64, out=10)
    run, arguments = compiled(parallel.FORMS["data"], w, x, dy)
    assert moved(run) == [("all-reduce", (10, 64))]
    assert_step(run(*arguments), w, x, dy)


@pytest.mark.parametrize(("in_dim", "mesh"), [(160, {"z": 8}), (320, {"z": 8}), (320, {"z": 4, "y": 2}), (100, {"z": 4})])
def test_an_input_that_is_split_through_groups_gives_right_results(in_dim, mesh):
    """jax fails where half an axis lands on the groups; an input is no weight, and is gathered instead."""
    w, x, dy = problem(in_dim)
    split = parallel.put(parallel.make_mesh(**mesh), x, None, "z")
    assert_step(jax.jit(step)(w, split, dy), w, x, dy)


def test_eager_calls_on_sharded_arrays_are_partitioned_too():
    w, x, dy = problem(IN)
    w, split, dys = parallel.FORMS["data × row"].place(w, x, dy, 0)
    y = tx.linear(w, split)
    assert y.sharding.spec == P("data")
    assert_step(step(w, split, dys), w, x, dy)


def test_both_backends_split_alike():
    w, x, dy = problem(IN)
    with tx.backend("reference"):
        run, arguments = compiled(parallel.FORMS["data × column"], w, x, dy)
        agreement = ("all-reduce", (1,))  # whether a shard refused its scores; on CPU the native call raises instead
        assert moved(run) == sorted([*MOVED["data × column"], agreement])
        assert_step(run(*arguments), w, x, dy)


# ------------------------------------------------------------------------------------------------------------- shard
def test_shard_places_every_leaf_by_rows_and_groups():
    mesh = parallel.make_mesh(data=4, model=2)
    w = dataclasses.replace(problem(128, out=16)[0], bias=jnp.zeros(16, jnp.int32))
    placed = tx.shard(w, mesh, P("data", "model"))
    specs = {name: getattr(placed, name).sharding.spec for name in ("trits", "exponent", "corr", "step", "score", "votes", "bias")}
    split = P("data", "model")
    assert specs == {"trits": split, "exponent": split, "corr": split, "step": P(), "score": split, "votes": P(), "bias": P("data")}
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(placed), jax.tree.leaves(w), strict=True))


def stacked(layers):
    return jax.tree.map(lambda a: jnp.stack([a] * layers), problem(64, out=16)[0])


def test_shard_places_trees_stacks_compact_weights_and_dense_leaves():
    mesh = parallel.make_mesh(data=4, model=2)
    w, stack = problem(64, out=16)[0], stacked(4)
    tree = {"layers": stack, "slim": tx.compact(w), "dense": jnp.ones((4, 4)), "count": jnp.int32(0)}
    placed = tx.shard(tree, mesh, {"layers": P("data", None, "model"), "slim": P("model"), "dense": P("data"), "count": None})
    assert placed["layers"].corr.sharding.spec == P("data", None, "model")
    assert placed["layers"].step.sharding.spec == P("data")
    assert placed["slim"].trits.sharding.spec == P("model", None)
    assert placed["slim"].score is None
    assert placed["dense"].sharding.spec == P("data")
    assert placed["count"].sharding.is_fully_replicated
    assert tx.shard(stack, mesh, P("model")).trits.sharding.spec == P(None, "model", None)
    inside = jax.jit(lambda w: tx.shard(w, mesh, P("model")))(tree["slim"])
    assert inside.trits.sharding.is_equivalent_to(placed["slim"].trits.sharding, 3)


REFUSED = {
    "a group cut in two": (
        (768, 16),
        P(None, "z"),
        r"tree\['w'\]: 768 inputs in groups of 256 are 3 groups: .* 4 devices of 'z' would cut through a group; possible are 1, 3",
    ),
    "a ragged last group": ((800, 16), P(None, "z"), r"the last of its groups of 256 is cut short \(in_dim 800\)"),
    "rows": ((768, 10), P("z"), r"tree\['w'\]: 10 outputs cannot be split evenly over the 4 devices of 'z'"),
    "rows over two axes": ((768, 12), P(("z", "y")), r"12 outputs .* the 8 devices of 'z', 'y'"),
    "an unknown axis": ((768, 16), P("modle"), r"names the axis 'modle', but the mesh has \('z', 'y'\)"),
    "an axis twice": ((768, 16), P("y", "y"), r"uses the axis 'y' twice"),
    "three dimensions": ((768, 16), P("y", None, None), r"must have at most 2 entries \(out, in\), got"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_shard_says_why_a_weight_cannot_be_split(case):
    (in_dim, out), rule, message = REFUSED[case]
    tree = {"w": oracle.weight(np.random.default_rng(0), in_dim, out, group_size=256)}
    with pytest.raises(ValueError, match=message):
        tx.shard(tree, parallel.make_mesh(z=4, y=2), rule)


def test_shard_names_a_wrong_stack_and_a_wrong_rule():
    mesh = parallel.make_mesh(z=4, y=2)
    stack = stacked(3)
    with pytest.raises(ValueError, match="dimension 0 of the stack, 3 layers, cannot be split evenly over the 2 devices of 'y'"):
        tx.shard(stack, mesh, P("y", None, None))
    with pytest.raises(ValueError, match="or 3 with the 1 leading dimensions of the stack"):
        tx.shard(stack, mesh, P(None, None, None, None))
    with pytest.raises(ValueError, match=r"rule must be a PartitionSpec.* or a prefix of tree"):
        tx.shard({"a": stack}, mesh, {"b": P()})
    with pytest.raises(TypeError, match=r"rule must be a PartitionSpec.*, got 'y'"):
        tx.shard({"a": stack}, mesh, {"a": "y"})
    with pytest.raises(TypeError, match=r"tree\['a'\]\.trits must be uint8"):
        tx.shard({"a": jax.tree.map(lambda a: a * 1.0, stack)}, mesh, P())


def test_a_weight_that_was_cut_by_hand_through_a_group_is_refused():
    """Each device would read the bytes of its neighbour's group."""
    mesh, (w, x, _) = parallel.make_mesh(z=2), problem(64)
    by_hand = jax.shard_map(
        tx.linear, mesh=mesh, in_specs=(jax.tree.map(lambda a: P(None, "z") if a.ndim > 1 else P(), w), P()), out_specs=P()
    )
    with pytest.raises(ValueError, match=r"w\.trits must have shape \[out, 2, 7\].*must not be sliced"):
        by_hand(w, x)
