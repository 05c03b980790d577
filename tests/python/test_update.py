import jax
import jax.numpy as jnp
import numpy as np

import ternax as tx


def test_an_update_subtracts_the_scores_and_counts_one_step():
    w = tx.init(jax.random.key(0), 40, 6)
    x, dy = jax.random.normal(jax.random.key(1), (5, 40)), jax.random.normal(jax.random.key(2), (5, 6))
    _, grad = tx.value_and_grad(lambda w: jnp.sum(tx.linear(w, x) * dy))(w)
    new = tx.update(w, grad)
    signs = np.sign(np.asarray(dy, np.float64).T @ np.asarray(x, np.float64)) * np.asarray(w.unpack())
    score = np.stack([signs[:, :32].sum(1), signs[:, 32:].sum(1)], axis=1)
    assert np.array_equal(new.corr_int64(), -score)
    assert new.step_int64() == 1
