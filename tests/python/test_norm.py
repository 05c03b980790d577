import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ternax as tx


@pytest.fixture
def norm():
    return tx.init_norm(jax.random.key(0), 100)


def test_the_norm_divides_by_the_root_mean_square_and_multiplies_by_its_gains(backend, norm, random):
    x = random.normal(0, 3, (4, 5, 100)).astype(np.float32)
    root = np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + np.finfo(np.float32).eps)
    np.testing.assert_allclose(tx.rms_norm(norm, x), x / root * np.asarray(norm.dequantize())[0], rtol=1e-6)
    assert set(np.abs(np.unique(norm.dequantize()))) <= {0, 2.0**-4}


def test_the_norm_is_float32_for_every_input(norm):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        assert tx.rms_norm(norm, jnp.ones((2, 100), dtype)).dtype == jnp.float32


def test_the_norm_passes_gradients_and_never_trains(norm):
    grad, dx = tx.grad(lambda n, x: jnp.sum(tx.rms_norm(n, x) ** 2), argnums=(0, 1))(norm, jnp.arange(100.0))
    assert np.any(dx)
    assert not np.any(grad.score)
    assert grad.votes == 0
    assert tx.update(norm, grad).step_int64() == 0


def test_the_norm_is_no_matrix(norm):
    with pytest.raises(ValueError, match="n must have one row"):
        tx.rms_norm(tx.init(jax.random.key(0), 100, 2), jnp.ones(100))
