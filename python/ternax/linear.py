"""Layers as functions: ``linear``, ``bind`` and ``rms_norm``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ternax import _backend, _compat, ops, primitives, reference
from ternax.weight import TernaryWeight, check, zero_score

AxisName = str | Sequence[str] | None
F32 = jnp.float32


def _input(op: str, x: Any, in_dim: int) -> jax.Array:
    x = jnp.asarray(x)
    ops.expect_activation(op, "x", x, _backend.current())
    if x.ndim < 1 or x.shape[-1] != in_dim:
        raise ValueError(f"{op}: x must have shape [..., {in_dim}] (the layer's in_dim), got {x.shape}")
    return x


def _names(axis_name: AxisName) -> tuple[str, ...]:
    return () if axis_name is None else (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)


def _scale_dtype(x: jax.Array) -> Any:
    """bfloat16 scales for bfloat16 activations: on every backend the weight is ``bf16(S T) = bf16(S) T``, as tensor cores need it."""
    return jnp.bfloat16 if x.dtype == jnp.bfloat16 else F32


def _apply(x: jax.Array, trits: Any, scale: Any, tap: Any, votes: Any, bias: Any, **params: Any) -> jax.Array:
    x = _compat.vary(x, _compat.varying_axes(trits))  # a weight split by hand: the cotangent of x is summed over its shards
    if params["reduce"] == "vote":
        tap, votes = (_compat.vary(a, _compat.varying_axes(x)) for a in (tap, votes))
    y: jax.Array = primitives.linear_p.bind(x, trits, scale, tap, votes, backend=_backend.current(), **params)
    if bias is None:
        return y
    wide = reference.sum_dtype(y.dtype)
    return (y.astype(wide) + bias.astype(wide)).astype(y.dtype)


def linear(w: TernaryWeight, x: Any, *, reduce: str = "exact", axis_name: AxisName = None) -> jax.Array:
    """``y[..., o] = sum_i x[..., i] S[o, i / group_size] T[o, i] + bias[o]``, summed in float32.

    x: ``[..., in_dim]`` float32, bfloat16 or float16; y ``[..., out_dim]`` has its dtype. float64 needs the reference backend.
    reduce: what the score of a batch that is spread over devices is. ``"exact"``: the sign of the whole batch's gradient.
        ``"vote"``: the sum of the shards' scores, with as many votes; ``group_size`` times less traffic. Under a sharded jit the
        shards are those that XLA chose.
    axis_name: the mapped axes to reduce over inside ``pmap`` and ``shard_map(check_vma=False)``, where jax does not say
        what varies. Where it does, this is ignored. Take the gradient inside such a map: around it, jax sums the
        scores of all devices once more, and the votes alike; ``update(..., votes=)`` refuses that.

    The gradient of ``w.score`` is the integer score of each group (SPEC 17), that of ``w.votes`` the number of scores in it: 1 for
    one exact use. A layer that is used twice sums the scores of its uses; :func:`bind` takes the sign of the summed gradient instead.
    Raises TypeError or ValueError for a wrong state or input.
    """
    check(w)
    x = _input("linear", x, w.in_dim)
    if reduce not in ("exact", "vote"):
        raise ValueError(f"reduce must be 'exact' or 'vote', got {reduce!r}")
    scale = w.scale(_scale_dtype(x))
    params = {"group_size": w.group_size, "reduce": reduce, "axis_name": _names(axis_name), "compact": w.score is None}
    return _apply(x, w.trits, scale, zero_score(w), w.votes, w.bias, **params)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["trits", "scale", "tap", "bias"], meta_fields=["in_dim", "group_size"])
@dataclasses.dataclass(frozen=True)
class Bound:
    """A layer that is used several times in one step; call it like a function. Made by :func:`bind`."""

    trits: Any
    scale: Any
    """float32 ``[out, groups]``."""
    tap: Any
    """float32 ``[out, in]``, zero; its cotangent is the summed dW."""
    bias: Any
    in_dim: int
    group_size: int

    def __call__(self, x: Any) -> jax.Array:
        """As :func:`linear`."""
        x = _input("bind", x, self.in_dim)
        scale = lax.stop_gradient(self.scale).astype(_scale_dtype(x))
        no_votes = jnp.zeros(self.trits.shape[:-3], F32)
        params: dict[str, Any] = {"group_size": self.group_size, "reduce": "dense", "axis_name": (), "compact": False}
        return _apply(x, self.trits, scale, self.tap, no_votes, self.bias, **params)


def bind(w: TernaryWeight, *, axis_name: AxisName = None) -> Bound:
    """Prepares ``w`` for several uses in one step: the score is the sign of the *summed* gradient, and counts as one vote (SPEC 22).

    Bind inside the function that is differentiated, outside the loop that uses the layer. Costs one dense float32 dW ``[out, in]``
    while the backward pass runs. ``axis_name`` as in :func:`linear`.
    """
    check(w)
    static = _Static(w.in_dim, w.group_size, _names(axis_name), _backend.current(), w.score is None)
    return Bound(w.trits, w.scale(), _dense_tap(static, w.trits, zero_score(w), w.votes), w.bias, w.in_dim, w.group_size)


@dataclasses.dataclass(frozen=True)
class _Static:
    in_dim: int
    group_size: int
    axes: tuple[str, ...]
    backend: str
    compact: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense_tap(static: _Static, trits: Any, score: Any, votes: Any) -> jax.Array:
    """Zeros of the weight's shape whose cotangent, the summed dW, becomes one score and one vote."""
    return _compat.vary(jnp.zeros((*trits.shape[:-2], static.in_dim), F32), _compat.varying_axes(score))


def _dense_tap_fwd(static: _Static, trits: Any, score: Any, votes: Any) -> Any:
    if static.compact and votes.perturbed:
        raise TypeError(primitives.COMPACT_ERROR)
    return _dense_tap(static, trits.value, score.value, votes.value), trits.value


def _dense_tap_bwd(static: _Static, trits: Any, dw: Any) -> Any:
    if isinstance(dw, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    params = {"group_size": static.group_size, "backend": static.backend}
    if static.axes:
        score, one = primitives.reduced_score(dw, trits, static.axes, False, **params)
    else:
        score = primitives.bind("correlate_dense", dw, trits, **params)
        one = _compat.vary(jnp.ones(trits.shape[:-3], F32), _compat.varying_axes(dw))
    return None, score, one


_dense_tap.defvjp(_dense_tap_fwd, _dense_tap_bwd, symbolic_zeros=True)


def rms_norm(n: TernaryWeight, x: Any) -> jax.Array:
    """``y = x / sqrt(mean(x^2) + eps) * S T`` over the last dimension with ``eps = 2^-23``; float32 ``[..., dim]`` whatever the dtype of x.

    ``n`` is of :func:`ternax.init_norm`. It never trains, as in the reference: it collects neither scores nor votes.
    """
    check(n, "n")
    if n.out_dim != 1:
        raise ValueError(f"n must have one row (of ternax.init_norm), got {n.out_dim}")
    x = _input("rms_norm", x, n.in_dim)
    x = x.astype(reference.sum_dtype(x.dtype))
    scale = reference.scale(n.exponent, n.corr, n.step, group_size=n.group_size, gain=n.gain)
    gains = reference.dequantize(n.trits, scale, in_dim=n.in_dim, group_size=n.group_size)[0]
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + np.finfo(np.float32).eps) * gains
