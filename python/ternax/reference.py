"""The operations in plain ``jax.numpy``: the oracle of the tests, and what runs where there are no native calls.

Same names, arguments and results as in :mod:`ternax.ops`; also takes float64 activations (with x64 enabled). Ensemble
dimensions ``E`` lead every operand and are ``trits.ndim - 3`` in number; each may be 1 on an operand that the members share.
Nothing here captures an array constant: the bodies are lowered through custom_partitioning, which forbids it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ternax import limbs

F32 = jnp.float32
I32 = jnp.int32
TRITS_PER_BYTE = 5
# Five base-3 digits of 2.
LARGEST_BYTE = 242
_PLACES = (1, 3, 9, 27, 81)
# Largest count that float32 carries exactly.
MAX_EXACT = 2.0**24
# Step of a layer whose update was refused: the most negative int64, as limbs.
REFUSED_STEP = (0, -(2**31))


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def group_bytes(in_dim: int, group_size: int) -> int:
    """Bytes of one group: every group starts on a byte of five trits."""
    return cdiv(min(group_size, in_dim), TRITS_PER_BYTE)


def _pad_last(a: jax.Array, count: int) -> jax.Array:
    return jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, count)])


def pack(trits: jax.Array, *, group_size: int) -> jax.Array:
    """Trits int8 ``[*, out, in]`` to bytes uint8 ``[*, out, groups, group_bytes]``; values are not checked."""
    width = min(group_size, trits.shape[-1])
    groups = cdiv(trits.shape[-1], width)
    digits = _pad_last(trits.astype(I32), groups * width - trits.shape[-1])
    digits = _pad_last(digits.reshape(*trits.shape[:-1], groups, width), -width % TRITS_PER_BYTE) + 1
    fives = digits.reshape(*digits.shape[:-1], digits.shape[-1] // TRITS_PER_BYTE, TRITS_PER_BYTE)
    values = [fives[..., i] * place for i, place in enumerate(_PLACES)]
    return functools.reduce(jnp.add, values).astype(jnp.uint8)


def unpack(trits: jax.Array, *, in_dim: int, group_size: int) -> jax.Array:
    """Bytes uint8 ``[*, out, groups, group_bytes]`` to trits int8 ``[*, out, in]``; bytes above 242 are not refused here."""
    *lead, groups, count = trits.shape
    width = min(group_size, in_dim)
    digits = jnp.stack([(trits.astype(I32) // place) % 3 for place in _PLACES], axis=-1)
    digits = digits.reshape(*lead, groups, count * TRITS_PER_BYTE)[..., :width]
    return (digits.reshape(*lead, groups * width)[..., :in_dim] - 1).astype(jnp.int8)


def _power_of_two(e: jax.Array) -> jax.Array:
    """``2^e``: exact at integers, denormals included (XLA's own exp2 is not, and flushes them), else within 1 ulp."""
    whole = jnp.clip(jnp.round(e), -300, 300)
    bits = lax.bitcast_convert_type(jnp.exp2(e - whole), I32)
    significand = (bits & 0x7FFFFF) | 0x800000
    field = (bits >> 23) + jnp.nan_to_num(whole).astype(I32)
    normal = (jnp.clip(field, 1, 255) << 23) | jnp.where(field >= 255, 0, bits & 0x7FFFFF)
    drop = jnp.clip(1 - field, 1, 25)
    half = (1 << (drop - 1)) - 1 + ((significand >> drop) & 1)
    denormal = (significand + half) >> drop
    value = lax.bitcast_convert_type(jnp.where(field >= 1, normal, denormal), F32)
    return jnp.where(jnp.isnan(e), jnp.nan, value)


def scale(exponent: jax.Array, corr: jax.Array, step: jax.Array, *, group_size: int, gain: float = 4.0, dtype: Any = F32) -> jax.Array:
    """``S = 2^(E + gain * corr / (step * group_size))`` in the reference's order of float32 operations (SPEC 11, 12).

    ``exponent`` int8 ``[*E, out, groups]``, ``corr`` int32 ``[*E, out, groups, 2]``, ``step`` int32 ``[*E, 2]``; the result is float32, or
    bfloat16 rounded from it. With step 0, ``S = 2^E``. A negative step marks a refused update and gives NaN, so that
    training stops visibly.
    """
    denominator = limbs.to_f32(limbs.times(step, group_size))[..., None, None]
    # XLA would turn a / scalar into a * (1 / scalar), which is off by one ulp every other time.
    denominator = lax.optimization_barrier(jnp.broadcast_to(jnp.maximum(denominator, 1), exponent.shape))
    started = ((step[..., 1] > 0) | ((step[..., 1] == 0) & (step[..., 0] != 0)))[..., None, None]
    mean = jnp.where(started, limbs.to_f32(corr) / denominator, 0)
    # Behind a barrier, so that no fused multiply-add skips the rounding of the product.
    learned = lax.optimization_barrier(mean * F32(gain))
    s = _power_of_two(exponent.astype(F32) + learned)
    return jnp.where((step[..., 1] < 0)[..., None, None], jnp.nan, s).astype(dtype)


def dequantize(trits: jax.Array, scale: jax.Array, *, in_dim: int, group_size: int, dtype: Any = F32) -> jax.Array:
    """``S * T``, rounded once to ``dtype``, ``[*, out, in]``."""
    width = min(group_size, in_dim)
    per_input = jnp.broadcast_to(scale.astype(F32)[..., None], (*scale.shape, width))
    per_input = per_input.reshape(*scale.shape[:-1], scale.shape[-1] * width)[..., :in_dim]
    return (per_input * unpack(trits, in_dim=in_dim, group_size=group_size).astype(F32)).astype(dtype)


def sum_dtype(dtype: Any) -> Any:
    """The dtype of sums of activations of ``dtype``: float32, or float64 for float64."""
    return jnp.promote_types(dtype, F32)


def _rows(a: jax.Array, ensemble: int) -> jax.Array:
    rows = math.prod(a.shape[ensemble:-1])
    return a.reshape(*a.shape[:ensemble], rows, a.shape[-1]).astype(sum_dtype(a.dtype))


def _dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.promote_types(a.dtype, b.dtype))


def matmul(x: jax.Array, trits: jax.Array, scale: jax.Array, *, group_size: int, dtype: Any = None) -> jax.Array:
    """``y = x (S T)^t``: x ``[*E, *L, in]`` to ``[*E, *L, out]``; sums in float32, result in x's dtype or ``dtype``."""
    ensemble = trits.ndim - 3
    w = dequantize(trits, scale, in_dim=x.shape[-1], group_size=group_size)
    y = _dot("...mi,...oi->...mo", _rows(x, ensemble), w)
    return y.reshape(*y.shape[:-2], *x.shape[ensemble:-1], w.shape[-2]).astype(dtype or x.dtype)


def matmul_transposed(dy: jax.Array, trits: jax.Array, scale: jax.Array, *, in_dim: int, group_size: int, dtype: Any = None) -> jax.Array:
    """``dx = dy (S T)``: dy ``[*E, *L, out]`` to ``[*E, *L, in]``; sums in float32, result in dy's dtype or ``dtype``."""
    ensemble = trits.ndim - 3
    w = dequantize(trits, scale, in_dim=in_dim, group_size=group_size)
    dx = _dot("...mo,...oi->...mi", _rows(dy, ensemble), w)
    return dx.reshape(*dx.shape[:-2], *dy.shape[ensemble:-1], in_dim).astype(dtype or dy.dtype)


def weight_gradient(x: jax.Array, dy: jax.Array, ensemble: int = 0) -> jax.Array:
    """The dense ``dW = dy^t x``, float32 ``[*E, out, in]``, summed over all leading dimensions."""
    return _dot("...mo,...mi->...oi", _rows(dy, ensemble), _rows(x, ensemble))


def _sign(gradient: jax.Array) -> jax.Array:
    """0 for 0, -0 and NaN, +-1 for all else, denormals included: XLA compares those as zeros (SPEC 20), their bits not."""
    if gradient.dtype != F32:
        return (gradient > 0).astype(I32) - (gradient < 0).astype(I32)
    bits = lax.bitcast_convert_type(gradient, I32)
    size = bits & 0x7FFFFFFF
    return jnp.where((size == 0) | (size > 0x7F800000), 0, jnp.where(bits < 0, -1, 1))


def correlate_dense(dw: jax.Array, trits: jax.Array, *, group_size: int) -> jax.Array:
    """``score[o, g] = sum over the group of sign(dW) T``, float32 ``[*E, out, groups]``, of a dense ``dw [*E, out, in]`` (SPEC 17)."""
    in_dim = dw.shape[-1]
    width = min(group_size, in_dim)
    agree = _sign(dw) * unpack(trits, in_dim=in_dim, group_size=group_size).astype(I32)
    agree = _pad_last(agree, -in_dim % width)
    return agree.reshape(*agree.shape[:-1], agree.shape[-1] // width, width).sum(axis=-1, dtype=I32).astype(F32)


def correlate(x: jax.Array, dy: jax.Array, trits: jax.Array, *, group_size: int) -> tuple[jax.Array, jax.Array]:
    """Scores float32 ``[*E, out, groups]`` of the whole batch, and votes float32 ``[*E]``, one each."""
    ensemble = trits.ndim - 3
    score = correlate_dense(weight_gradient(x, dy, ensemble), trits, group_size=group_size)
    return score, jnp.ones(score.shape[:ensemble], F32)


def sound(score: jax.Array, votes: jax.Array, *, group_size: int, wanted_votes: int | None = None) -> jax.Array:
    """Whether scores can be a sum of ``votes`` honest scores, one bool per member: whole, and at most ``votes * group_size``."""
    good = (score == jnp.round(score)) & (jnp.abs(score) <= votes[..., None, None] * group_size)
    counted = (votes == jnp.round(votes)) & (votes >= 0) & (votes <= MAX_EXACT)
    if wanted_votes is not None:
        counted &= votes == wanted_votes
    return jnp.all(good, axis=(-2, -1)) & counted


def accumulate(
    corr: jax.Array, step: jax.Array, score: jax.Array, votes: jax.Array, *, group_size: int, wanted_votes: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """``corr - score`` and ``step + votes`` on limbs, exact. Where the scores are not :func:`sound`, corr stays and step turns
    negative, which makes the scale NaN; a negative step stays."""
    honest = sound(score, votes, group_size=group_size, wanted_votes=wanted_votes)
    new_corr = limbs.subtract(corr, limbs.from_f32(score))
    new_step = limbs.add(step, limbs.from_f32(votes))
    refused = jnp.stack([jnp.full_like(step[..., 0], part) for part in REFUSED_STEP], axis=-1)
    new_step = jnp.where(step[..., 1:] < 0, step, jnp.where(honest[..., None], new_step, refused))
    return jnp.where(honest[..., None, None, None], new_corr, corr), new_step
