"""int64 as two little-endian int32 limbs, exact without x64.

A true int64 jax array is cut to int32 by most operations while x64 is off; a pair of int32 passes through all of them.
On the host the pair *is* the int64: same bytes, another view.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

U32 = jnp.uint32


def from_host(values: Any) -> np.ndarray:
    """Host integers ``[...]`` to int32 limbs ``[..., 2]``."""
    values = np.asarray(values, dtype=np.int64)
    return np.ascontiguousarray(values).reshape(-1).view(np.int32).reshape(*values.shape, 2)


def to_host(limbs: Any) -> np.ndarray:
    """int32 limbs ``[..., 2]`` to host int64 ``[...]``."""
    return np.ascontiguousarray(np.asarray(limbs)).view(np.int64)[..., 0]


def split(limbs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The low and the high limb, uint32."""
    return limbs[..., 0].astype(U32), limbs[..., 1].astype(U32)


def join(low: jax.Array, high: jax.Array) -> jax.Array:
    """int32 limbs ``[..., 2]`` of a low and a high limb."""
    return jnp.stack([low.astype(jnp.int32), high.astype(jnp.int32)], axis=-1)


def add(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a + b`` modulo 2^64."""
    (a_low, a_high), (b_low, b_high) = split(a), split(b)
    low = a_low + b_low
    return join(low, a_high + b_high + (low < a_low).astype(U32))


def subtract(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a - b`` modulo 2^64."""
    (a_low, a_high), (b_low, b_high) = split(a), split(b)
    return join(a_low - b_low, a_high - b_high - (a_low < b_low).astype(U32))


def times(limbs: jax.Array, factor: int) -> jax.Array:
    """``limbs * factor`` modulo 2^64, for ``0 <= factor < 2^32``."""
    low, high = split(limbs)
    low0, low1 = low & 0xFFFF, low >> 16
    factor0, factor1 = U32(factor & 0xFFFF), U32(factor >> 16)
    # Below 2^32: (2^16 - 1)^2 + 2^16.
    middle = low1 * factor0 + ((low0 * factor0) >> 16)
    sum_middle = middle + low0 * factor1
    carry = (sum_middle < middle).astype(U32) << 16
    product_low = (sum_middle << 16) | ((low0 * factor0) & 0xFFFF)
    return join(product_low, high * U32(factor) + low1 * factor1 + (sum_middle >> 16) + carry)


def from_f32(values: jax.Array) -> jax.Array:
    """Limbs of whole float32 numbers below 2^63 in size."""
    size = jnp.abs(values)
    high = jnp.floor(size * jnp.float32(2.0**-32))
    low = size - high * jnp.float32(2.0**32)
    magnitude = join(low.astype(U32), high.astype(U32))
    return jnp.where((values < 0)[..., None], subtract(jnp.zeros_like(magnitude), magnitude), magnitude)


def to_f32(limbs: jax.Array) -> jax.Array:
    """The nearest float32, ties to even, as one conversion of the int64 would give."""
    low, high = split(limbs)
    negative = (high >> 31) == 1
    low, high = jnp.where(negative, ~low + 1, low), jnp.where(negative, ~high + (low == 0).astype(U32), high)
    # Keep the top 32 bits and fold what falls off into the last one: it lies below the rounding position of a float32.
    shift = U32(32) - lax.clz(high)
    inner = jnp.clip(shift, 1, 31)  # shifts by 0 and 32 are handled apart
    lost = (low & ((U32(1) << inner) - 1)) != 0
    kept = (high << (U32(32) - inner)) | (low >> inner) | lost.astype(U32)
    top = jnp.where(shift == 0, low, jnp.where(shift == 32, high | (low != 0).astype(U32), kept))
    power = lax.bitcast_convert_type((shift.astype(jnp.int32) + 127) << 23, jnp.float32)
    magnitude = top.astype(jnp.float32) * power
    return jnp.where(negative, -magnitude, magnitude)
