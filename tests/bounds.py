"""How far apart two correct float32 implementations of a ternary layer can be.

A float32 sum of k products, in any order and with or without fused multiply-adds, is off by at most
``gamma(k) * sum |products|`` (N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1).
Everything here is computed in float64, on numpy arrays.
"""

import numpy as np

UNIT_ROUNDOFF = 2.0**-24


def gamma(roundings: int) -> float:
    """Relative error of ``roundings`` float32 operations in a row."""
    return roundings * UNIT_ROUNDOFF / (1 - roundings * UNIT_ROUNDOFF)


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many float32 numbers ``a`` and ``b``, of one sign, are apart; infinity follows the largest number."""
    return np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32).astype(np.int64))


def product_difference(a: np.ndarray, w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
    """Bound of ``|a @ w1 - a @ w2|`` where two implementations compute one each, for ``w1`` close to ``w2``.

    Each product ``a * T`` is rounded at most once more to be scaled, hence the extra two roundings.
    """
    w1, w2 = w1.astype(np.float64), w2.astype(np.float64)
    rounding = gamma(w1.shape[0] + 2) * (np.abs(w1) + np.abs(w2))
    return np.abs(a).astype(np.float64) @ (rounding + np.abs(w1 - w2))


def undecided_signs(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where rounding may decide the sign of ``dW = dy.T @ x``: bool ``[out, in]`` for ``x [..., in]``, ``dy [..., out]``."""
    x = x.reshape(-1, x.shape[-1]).astype(np.float64)
    dy = dy.reshape(-1, dy.shape[-1]).astype(np.float64)
    return np.abs(dy.T @ x) <= gamma(x.shape[0]) * (np.abs(dy).T @ np.abs(x))


def group_sums(values: np.ndarray, group_size: int) -> np.ndarray:
    """Sums ``[out, in]`` over the groups of each row, exactly: int64 ``[out, groups]``."""
    padding = -values.shape[1] % group_size
    padded = np.pad(values.astype(np.int64), ((0, 0), (0, padding)))
    return padded.reshape(values.shape[0], -1, group_size).sum(axis=2)
