import jax
import numpy as np
import pytest

from ternax import limbs


@pytest.fixture
def values(random):
    values = random.integers(-(2**63), 2**63 - 1, 20000, dtype=np.int64)
    values[:9] = [0, 1, -1, 2**63 - 1, -(2**63), 2**24 + 1, -(2**24 + 3), 2**32, -(2**32) - 1]
    values[100:10000] >>= random.integers(0, 63, 9900)
    return values


def test_limbs_on_the_host_are_the_int64_itself(values):
    assert np.array_equal(limbs.to_host(limbs.from_host(values)), values)
    assert limbs.from_host(5).shape == (2,)


def test_sums_and_differences_carry_across_the_limbs(values):
    other = limbs.from_host(values[::-1])
    with np.errstate(over="ignore"):
        assert np.array_equal(limbs.to_host(jax.jit(limbs.add)(limbs.from_host(values), other)), values + values[::-1])
        assert np.array_equal(limbs.to_host(jax.jit(limbs.subtract)(limbs.from_host(values), other)), values - values[::-1])


@pytest.mark.parametrize("factor", [1, 32, 128, 65537, 2**31 - 1, 2**32 - 1])
def test_products_are_exact_modulo_2_to_64(values, factor):
    found = limbs.to_host(jax.jit(limbs.times, static_argnums=1)(limbs.from_host(values), factor))
    with np.errstate(over="ignore"):
        assert np.array_equal(found, values * np.int64(factor))


def test_conversion_to_float32_rounds_once_and_to_even(values):
    assert np.array_equal(jax.jit(limbs.to_f32)(limbs.from_host(values)), values.astype(np.float32))


def test_whole_floats_become_their_int64():
    floats = np.float32([0, -0.0, 1, -1, 2**24, -(2**24), 2**31, 2**32, 3 * 2**40, -(2**62)])
    assert np.array_equal(limbs.to_host(jax.jit(limbs.from_f32)(floats)), floats.astype(np.int64))
