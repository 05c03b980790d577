"""Every custom call and its jax.numpy twin against the oracle, over the shared table of shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
import ternax as tx
from shapes import SHAPES
from ternax import limbs, ops

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a call on a GPU cannot refuse what only the values can tell")


def operands(random, shape, dtype=np.float32):
    """Trits, packed trits, whole-number scales, and dyadic x and dy."""
    tokens, in_dim, out, group_size = shape
    trits = oracle.trits(random, out, in_dim)
    scale = np.exp2(random.integers(-3, 1, (out, -(-in_dim // group_size)))).astype(np.float32)
    x, dy = (jnp.asarray(oracle.dyadic(random, (tokens, n)), dtype) for n in (in_dim, out))
    return trits, oracle.pack(trits, group_size), scale, x, dy


def dense(trits, scale, group_size):
    return trits * np.repeat(scale, group_size, axis=-1)[:, : trits.shape[1]].astype(np.float64)


@shapes
def test_trits_pack_to_the_documented_bytes_and_back(backend, random, shape):
    trits, packed, *_ = operands(random, shape)
    assert np.array_equal(ops.pack(trits, group_size=shape[3]), packed)
    assert np.array_equal(ops.unpack(packed, in_dim=shape[1], group_size=shape[3]), trits)


@shapes
@dtypes
def test_matmul_multiplies_by_the_dense_weight(backend, random, shape, dtype):
    trits, packed, scale, x, _ = operands(random, shape, dtype)
    y = ops.matmul(x, packed, scale, group_size=shape[3])
    exact = np.asarray(x, np.float64) @ dense(trits, scale, shape[3]).T
    assert y.dtype == dtype
    assert np.array_equal(y, np.asarray(exact, np.float32).astype(dtype))
    wide = ops.matmul(x, packed, scale, group_size=shape[3], dtype=np.float32)
    assert wide.dtype == np.float32
    assert np.array_equal(wide, exact)


@shapes
@dtypes
def test_matmul_transposed_multiplies_by_the_dense_weight(backend, random, shape, dtype):
    trits, packed, scale, _, dy = operands(random, shape, dtype)
    dx = ops.matmul_transposed(dy, packed, scale, in_dim=shape[1], group_size=shape[3])
    exact = np.asarray(dy, np.float64) @ dense(trits, scale, shape[3])
    assert np.array_equal(dx, np.asarray(exact, np.float32).astype(dtype))


@shapes
@dtypes
def test_products_of_normal_numbers_stay_within_the_bound_of_their_sums(backend, random, shape, dtype):
    tokens, in_dim, out, group_size = shape
    trits, packed, *_ = operands(random, shape)
    scale = np.exp2(random.normal(0, 1, (out, -(-in_dim // group_size)))).astype(np.float32)
    x = jnp.asarray(random.normal(0, 1, (tokens, in_dim)), dtype)
    w = dense(trits, scale, group_size)
    exact, size = np.asarray(x, np.float64) @ w.T, np.abs(np.asarray(x, np.float64)) @ np.abs(w).T
    bound = size * (in_dim + 1) * np.finfo(np.float32).eps + np.abs(exact) * float(jnp.finfo(dtype).eps)
    error = np.abs(np.asarray(ops.matmul(x, packed, scale, group_size=group_size), np.float64) - exact)
    assert np.all(error <= bound)


@shapes
@dtypes
def test_scores_are_group_sums_of_signs_and_come_with_one_vote(backend, random, shape, dtype):
    trits, packed, _, x, dy = operands(random, shape, dtype)
    score, votes = ops.correlate(x, dy, packed, group_size=shape[3])
    assert score.dtype == votes.dtype == np.float32
    assert np.array_equal(score, oracle.score(x, dy, trits, shape[3]))
    assert np.array_equal(votes, 1)


@shapes
def test_scores_of_a_dense_gradient_count_every_sign_but_zero_and_nan(backend, random, shape):
    trits, packed, *_ = operands(random, shape)
    special = np.float32([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 2, -3])
    dw = random.choice(special, trits.shape)
    sign = (dw > 0).astype(int) - (dw < 0).astype(int)
    agree = sign * trits
    want = np.stack([agree[:, g : g + shape[3]].sum(1) for g in range(0, shape[1], shape[3])], axis=1)
    assert np.array_equal(ops.correlate_dense(dw, packed, group_size=shape[3]), want)


@shapes
def test_dequantized_weights_are_scales_times_trits(backend, random, shape):
    trits, packed, scale, *_ = operands(random, shape)
    found = ops.dequantize(packed, scale, in_dim=shape[1], group_size=shape[3])
    assert np.array_equal(found, dense(trits, scale, shape[3]))
    for dtype in (jnp.bfloat16, jnp.float16):
        rounded = ops.dequantize(packed, scale, in_dim=shape[1], group_size=shape[3], dtype=dtype)
        assert rounded.dtype == dtype
        assert np.array_equal(rounded, dense(trits, scale, shape[3]).astype(dtype)), "rounded once"


def ulps(a, b):
    return np.abs(np.asarray(a).view(np.int32).astype(np.int64) - np.asarray(b).view(np.int32))


def test_scales_are_within_one_ulp_and_exact_at_whole_exponents(backend, random):
    exponent = random.integers(-128, 128, (40, 50)).astype(np.int8)
    for step, group_size, gain in [(0, 32, 4.0), (7, 32, 4.0), (2**40 + 1, 7, 4.0), (3, 1, 1.7), (1, 40000, 0.3)]:
        corr = (random.uniform(-1, 1, exponent.shape) * step * group_size).astype(np.int64)
        for values in (corr, step * group_size * random.integers(-1, 2, exponent.shape)):
            call = jax.jit(lambda e, c, s, gs=group_size, gain=gain: ops.scale(e, c, s, group_size=gs, gain=gain))
            found = call(exponent, limbs.from_host(values), limbs.from_host(step))
            want = oracle.scale(exponent, values, step, group_size, gain)
            assert np.max(ulps(found, want)) <= 1
            if gain == 4.0 and values is not corr:
                assert np.array_equal(found, want)


def test_the_scale_of_a_loaded_state_may_overflow_and_that_of_a_refused_update_is_nan(backend):
    exponent, corr = np.zeros((1, 1), np.int8), limbs.from_host([[5000]])
    assert ops.scale(exponent, corr, limbs.from_host(1), group_size=1) == np.inf
    assert np.isnan(ops.scale(exponent, corr, limbs.from_host(-1), group_size=1))


def test_bfloat16_scales_are_the_rounded_float32_scales(backend, random):
    exponent, corr = np.zeros((6, 9), np.int8), limbs.from_host(random.integers(-90, 90, (6, 9)))
    call = lambda dtype: ops.scale(exponent, corr, limbs.from_host(3), group_size=32, dtype=dtype)
    assert np.array_equal(call(jnp.bfloat16), call(np.float32).astype(jnp.bfloat16))


def test_accumulation_is_exact_in_int64(backend, random):
    corr = random.integers(-(2**62), 2**62, (5, 7))
    score = random.integers(-96, 97, (5, 7)).astype(np.float32)
    new, step = ops.accumulate(limbs.from_host(corr), limbs.from_host(2**32 - 1), score, np.float32(3), group_size=32)
    assert np.array_equal(limbs.to_host(new), corr - score.astype(np.int64))
    assert limbs.to_host(step) == 2**32 + 2


@pytest.mark.parametrize(
    ("score", "votes", "wanted"),
    [(0.5, 1, None), (np.nan, 1, None), (np.inf, 1, None), (33, 1, None), (1, 0, None), (1, 0.5, None), (1, -1, None), (1, 2, 1)],
)
def test_dishonest_scores_are_refused_and_nothing_is_written(backend, score, votes, wanted):
    corr, step = limbs.from_host([[7, 8]]), limbs.from_host(3)
    call = lambda: ops.accumulate(corr, step, np.float32([[0, score]]), np.float32(votes), group_size=32, wanted_votes=wanted)
    if oracle.refuses(backend):
        with pytest.raises(jax.errors.JaxRuntimeError, match="grad"):
            jax.block_until_ready(call())
    else:
        new, marked = call()
        assert np.array_equal(new, corr)
        assert limbs.to_host(marked) == -(2**63)
        assert limbs.to_host(ops.accumulate(new, marked, np.zeros((1, 2), np.float32), np.float32(1), group_size=32)[1]) < 0


@on_cpu
def test_bytes_that_are_no_trits_are_refused():
    with pytest.raises(jax.errors.JaxRuntimeError, match="243"):
        jax.block_until_ready(ops.unpack(np.full((1, 1, 1), 243, np.uint8), in_dim=5, group_size=5))


@on_cpu
def test_trits_other_than_minus_one_zero_one_are_refused():
    with pytest.raises(jax.errors.JaxRuntimeError, match="element 1 is 2"):
        jax.block_until_ready(ops.pack(np.int8([[0, 2]]), group_size=5))


@pytest.mark.parametrize("shared", ["x", "trits", "scale"])
def test_an_ensemble_shares_operands_whose_dimension_is_one(backend, random, shared):
    x, trits = oracle.dyadic(random, (3, 4, 64)), np.stack([oracle.trits(random, 6, 64) for _ in range(3)])
    scale = np.exp2(random.integers(-3, 1, (3, 6, 2))).astype(np.float32)
    members = {"x": x, "trits": trits, "scale": scale}
    members[shared] = members[shared][:1]
    packed = np.stack([oracle.pack(t, 32) for t in members["trits"]])
    y = ops.matmul(members["x"], packed, members["scale"], group_size=32)
    pick = lambda name, k: members[name][0 if name == shared else k]
    for k in range(3):
        assert np.array_equal(y[k], pick("x", k) @ dense(pick("trits", k), pick("scale", k), 32).T)


def test_vmap_over_a_weight_keeps_one_call(random):
    packed = jnp.asarray(np.stack([oracle.pack(oracle.trits(random, 6, 64), 32) for _ in range(3)]))
    scale, x = jnp.ones((3, 6, 2)), jnp.asarray(oracle.dyadic(random, (5, 64)))
    f = jax.vmap(lambda t, s: ops.matmul(x, t, s, group_size=32))
    assert jax.jit(f).lower(packed, scale).as_text().count("@ternax_matmul") == 1
    assert np.array_equal(f(packed, scale)[1], ops.matmul(x, packed[1], scale[1], group_size=32))


def test_ops_inside_shard_map_keep_their_varying_axes(random):
    mesh = jax.sharding.Mesh(jax.devices(), ("d",))
    trits, packed, scale, x, _ = operands(random, (16, 64, 8, 32))
    spec = jax.sharding.PartitionSpec
    f = jax.shard_map(lambda a: ops.matmul(a, packed, scale, group_size=32), mesh=mesh, in_specs=spec("d"), out_specs=spec("d"))
    assert np.array_equal(f(x), x @ dense(trits, scale, 32).T)
    with pytest.raises(ValueError, match=r"out_specs|replicat"):
        jax.shard_map(lambda a: ops.matmul(a, packed, scale, group_size=32), mesh=mesh, in_specs=spec("d"), out_specs=spec())(x)


def test_float64_runs_on_the_reference_backend(random):
    trits, packed, scale, x, _ = operands(random, (3, 64, 8, 32))
    with jax.enable_x64(True), tx.backend("reference"):
        y = ops.matmul(jnp.asarray(np.asarray(x, np.float64) / 3), packed, scale, group_size=32)
    assert y.dtype == np.float64
    assert np.allclose(y, np.asarray(x, np.float64) / 3 @ dense(trits, scale, 32).T, rtol=1e-14, atol=1e-14)
