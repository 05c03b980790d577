"""Making weights, and looking at them from the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
import ternax as tx


def test_init_ternarises_normal_numbers_and_starts_with_no_correlation():
    w = tx.init(jax.random.key(0), 1000, 300)
    trits = np.asarray(w.unpack())
    assert trits.shape == (300, 1000)
    assert abs((trits != 0).mean() - 0.617) < 0.005
    assert abs(trits.mean()) < 0.005
    assert not w.corr_int64().any()
    assert w.step_int64() == 0
    assert w.bias is None
    assert np.array_equal(w.scale(), np.full((300, 32), 2.0**-6))


@pytest.mark.parametrize(
    ("in_dim", "exponent"), [(1, -1), (2, -2), (8, -2), (9, -3), (32, -4), (129, -5), (2048, -6), (2049, -7), (8192, -8), (99999, -8)]
)
def test_the_first_exponent_is_the_reference_s(in_dim, exponent):
    assert np.all(tx.init(jax.random.key(0), in_dim, 1).exponent == exponent)


def test_init_can_be_traced_and_mapped_over_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    stack = jax.jit(jax.vmap(lambda key: tx.init(key, 64, 8)))(keys)
    assert stack.trits.shape == (3, 8, 2, 7)
    assert np.array_equal(stack.trits[1], tx.init(keys[1], 64, 8).trits)
    y = jax.lax.scan(lambda c, w: (c, tx.linear(w, jnp.ones(64))), 0, stack)[1]
    assert np.array_equal(y[2], tx.linear(tx.init(keys[2], 64, 8), jnp.ones(64)))


def test_init_makes_the_reference_s_bias_but_not_its_nearly_dead_layer():
    w = tx.init(jax.random.key(0), 64, 80, bias=True)
    assert w.bias.dtype == jnp.int32
    assert not w.bias.any()
    assert np.array_equal(w.trits, tx.init(jax.random.key(0), 64, 80).trits)


def test_init_norm_leaves_a_third_of_the_channels_zero():
    trits = np.asarray(tx.init_norm(jax.random.key(0), 20000).unpack())
    assert abs((trits == 0).mean() - 0.383) < 0.01


def test_from_trits_keeps_every_integer(random):
    trits, exponent = oracle.trits(random, 5, 70), random.integers(-128, 128, (5, 3))
    corr = random.integers(-(2**63), 2**63 - 1, (5, 3))
    w = tx.from_trits(trits, exponent=exponent, corr=corr, step=2**40 + 3, bias=np.arange(5, dtype=np.int32))
    assert np.array_equal(w.unpack(), trits)
    assert np.array_equal(w.exponent, exponent)
    assert np.array_equal(w.corr_int64(), corr)
    assert w.step_int64() == 2**40 + 3
    assert np.array_equal(w.bias, np.arange(5))


def test_from_trits_takes_any_numbers_that_are_trits():
    for dtype in (np.int64, np.float32, np.float64):
        assert np.array_equal(tx.from_trits(np.array([[-1, 0, 1]], dtype)).unpack(), [[-1, 0, 1]])


def test_dequantize_is_scale_times_trits(backend, random):
    w = oracle.weight(random, 70, 5, corr=random.integers(-200, 200, (5, 3)), step=9)
    scale = np.repeat(w.scale(), 32, axis=1)[:, :70]
    assert np.array_equal(w.dequantize(), scale * np.asarray(w.unpack()))


@pytest.mark.parametrize(("group_size", "bits"), [(32, 56 / 32 + 8 / 32 + 64 / 32), (40, 3.4), (80, 2.5), (160, 2.05)])
def test_bits_per_weight_count_every_leaf_that_is_held(group_size, bits):
    w = tx.compact(tx.init(jax.random.key(0), 1600, 50, group_size=group_size))
    constant = 8 * (2 * 4 + 4) / (1600 * 50)  # step and votes
    assert w.bits_per_weight() == pytest.approx(bits + constant)
    assert tx.expand(w).bits_per_weight() == pytest.approx(bits + 32 / group_size + constant)
    stack = jax.tree.map(lambda a: jnp.stack([a, a]), w)
    assert stack.bits_per_weight() == w.bits_per_weight()


def test_a_weight_prints_its_sizes_not_its_numbers():
    assert repr(tx.init(jax.random.key(0), 64, 8)).startswith("TernaryWeight(in_dim=64, group_size=32, gain=4.0, trits=(8, 2, 7)")
