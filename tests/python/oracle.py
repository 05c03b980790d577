"""What the operations must compute, in plain numpy: float64 sums, Python integers, no packing tricks."""

import math

import jax
import numpy as np

import ternax as tx


def refuses(backend):
    """Whether a call can raise an error: a GPU's cannot look at values without a synchronisation, nor can plain jax.numpy."""
    return backend == "native" and jax.default_backend() == "cpu"


def pack(trits, group_size):
    """Trits ``[out, in]`` to bytes, group by group."""
    out, in_dim = trits.shape
    width = min(group_size, in_dim)
    packed = np.zeros((out, -(-in_dim // width), -(-width // 5)), np.uint8)
    for row in range(out):
        for column in range(packed.shape[1] * width):
            group, position = divmod(column, width)
            trit = int(trits[row, column]) if column < in_dim else 0
            packed[row, group, position // 5] += (trit + 1) * 3 ** (position % 5)
        for position in range(width, packed.shape[2] * 5):
            packed[row, :, position // 5] += 3 ** (position % 5)
    return packed


def scale(exponent, corr, step, group_size, gain):
    """``S`` by the order of float32 operations of SPEC 12, with an exp2 in float64."""
    exponent = np.asarray(exponent, np.float32)
    if step <= 0:
        return np.exp2(exponent.astype(np.float64)).astype(np.float32)
    quotient = np.asarray(corr, np.int64).astype(np.float32) / np.float32(step * group_size)
    with np.errstate(over="ignore"):
        return np.exp2((exponent + quotient * np.float32(gain)).astype(np.float64)).astype(np.float32)


def dense(w):
    """``S T`` of a weight, float64."""
    trits, scale = np.asarray(w.unpack(), np.float64), np.asarray(w.scale(), np.float64)
    return trits * np.repeat(scale, w.group_size, axis=-1)[..., : w.in_dim]


def score(x, dy, trits, group_size):
    """Group sums of ``sign(dy^t x) T`` over all leading dimensions."""
    trits = np.asarray(trits, np.int64)
    out, in_dim = trits.shape
    tokens = math.prod(x.shape[:-1])
    dw = np.asarray(dy, np.float64).reshape(tokens, out).T @ np.asarray(x, np.float64).reshape(tokens, in_dim)
    agree = np.sign(dw) * trits
    return np.stack([agree[:, g : g + group_size].sum(1) for g in range(0, in_dim, group_size)], axis=1)


def dyadic(random, shape, dtype=np.float32):
    """Small multiples of 1/4: every partial sum of their products is exact in float32, in any order."""
    return (random.integers(-8, 9, shape) / 4).astype(dtype)


def trits(random, out, in_dim):
    return random.integers(-1, 2, (out, in_dim)).astype(np.int8)


def weight(random, in_dim, out_dim, group_size=32, **leaves):
    """A weight of random trits with whole exponents -3 ... 0: its products with dyadic numbers are exact."""
    groups = math.ceil(in_dim / group_size)
    exponent = random.integers(-3, 1, (out_dim, groups))
    return tx.from_trits(trits(random, out_dim, in_dim), group_size=group_size, exponent=exponent, **leaves)
