"""The operations of :mod:`ternax.ops` as JAX primitives that can be differentiated, batched and split over a mesh.

``linear``        x, trits, scale, tap, votes -> y                 what a layer calls
``tangent``       its linear form in (x, tap, votes); transposes to dx, score and votes
``matmul``        y = x (S T)^t, linear in x                       what the kernels compute
``matmul_transposed``  dx, linear in dy
``correlate``     score and votes, not differentiated further
the others        of integers, or of what is not differentiated

The *tap* is a zero array that takes no part in the result. Its cotangent is the score if it is shaped like the groups, or
the dense float32 dW if it is shaped like the weight (``ternax.bind``). A ``custom_vjp`` cannot replace ``linear``: under
``grad(vmap(model))`` its backward would run per example, and the signs would be taken one example at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from ternax import _backend, _compat, ops, partition, reference

F32 = jnp.float32

# Operand whose varying axes a result has, for each result; None for a result that is the same on every device.
_LIKE: dict[str, tuple[int | None, ...]] = {"correlate": (1, None), "accumulate": (0, 1)}


# ------------------------------------------------------------------------------------------------------- abstract values
def _types(op: str, *avals: Any, **params: Any) -> Any:
    """Types of the results: shapes and dtypes by :mod:`ternax.ops`, sharding (Explicit meshes) by the partitioner's plan."""
    own = {k: v for k, v in params.items() if k != "reduce"}
    found = ops.OPERATIONS[op].types(*avals, **own)
    shapes = [a.shape for a in avals]
    lay = partition.layout(op, shapes)
    specs = [_compat.explicit_spec(a, len(a.shape)) for a in avals]
    explicit = any(entry is not None for spec in specs for entry in spec)
    shards = partition.in_splits(lay, shapes, params) if explicit else 1
    chosen = partition.plan(lay, specs, avals[0].sharding.mesh.shape, shards) if explicit else {}
    if op == "correlate" and explicit:  # a cotangent of the weight lies where the weight lies
        weight = dict(zip(lay.operands[2], map(partition.axes_of, specs[2]), strict=True))
        chosen = {d: weight.get("g" if d == "i" else d, axes) for d, axes in chosen.items()}
    results = []
    for (shape, dtype), dims, like in zip(found, lay.results, _LIKE.get(op, (0,)), strict=True):
        spec = partition.spec_of(dims, chosen)
        results.append(_compat.result_aval(avals[like or 0], shape, dtype, spec, varying=like is not None))
    return tuple(results) if len(results) > 1 else results[0]


# ------------------------------------------------------------------------------------------------------------ primitives
def _partitioned(op: str) -> Primitive:
    types = functools.partial(_types, op)
    multiple = ops.OPERATIONS[op].results > 1

    def lowered(*args: jax.Array, **params: Any) -> Any:
        results = types(*map(jax.typeof, args), **params)
        return _compat.as_auto(functools.partial(partition.partitioned, op, **params), results)(*args)

    primitive = ops.define(f"ternax_{op}", types, multiple)
    mlir.register_lowering(primitive, mlir.lower_fun(lowered, multiple_results=multiple))
    _compat.allow_partitioning(primitive)
    return primitive


_PRIMITIVES = {op: _partitioned(op) for op in ops.OPERATIONS}
matmul_p, matmul_transposed_p, correlate_p = (_PRIMITIVES[n] for n in ("matmul", "matmul_transposed", "correlate"))


def bind(op: str, *args: Any, **params: Any) -> Any:
    """Operation ``op`` as a primitive that knows meshes, on the current backend unless ``backend`` is given."""
    params.setdefault("backend", _backend.current())
    return _PRIMITIVES[op].bind(*_compat.vary_alike(*args), **params)


def _linear_types(x: Any, trits: Any, scale: Any, tap: Any, votes: Any, *, group_size: int, backend: str, **_: Any) -> Any:
    y = _types("matmul", x, trits, scale, group_size=group_size, dtype=None, backend=backend)
    ensemble = trits.ndim - 3
    lead = jnp.broadcast_shapes(y.shape[:ensemble], tap.shape[:ensemble], votes.shape)
    if lead == y.shape[:ensemble]:
        return y
    # Members that differ in nothing but their tap (a batch of directions of the scores).
    return _compat.result_aval(y, (*lead, *y.shape[ensemble:]), y.dtype, _compat.explicit_spec(y, len(y.shape)))


def _linear_lowered(x: Any, trits: Any, scale: Any, tap: Any, votes: Any, *, group_size: int, backend: str, **_: Any) -> jax.Array:
    shape = _linear_types(*map(jax.typeof, (x, trits, scale, tap, votes)), group_size=group_size, backend=backend).shape
    y: jax.Array = matmul_p.bind(x, trits, scale, group_size=group_size, dtype=None, backend=backend)
    return y if y.shape == shape else jnp.broadcast_to(y, shape)


def _tangent_types(dx: Any, dtap: Any, dvotes: Any, x: Any, trits: Any, scale: Any, **params: Any) -> Any:
    return _linear_types(dx, trits, scale, dtap, dvotes, **params)


def _tangent_lowered(dx: Any, dtap: Any, dvotes: Any, x: Any, trits: Any, scale: Any, **params: Any) -> jax.Array:
    return _linear_lowered(dx, trits, scale, dtap, dvotes, **params)


linear_p = ops.define("ternax_linear", _linear_types, False)
tangent_p = ops.define("ternax_tangent", _tangent_types, False)
for _primitive, _lowered in ((linear_p, _linear_lowered), (tangent_p, _tangent_lowered)):
    mlir.register_lowering(_primitive, mlir.lower_fun(_lowered, multiple_results=False))
    _compat.allow_partitioning(_primitive)


def checkpoint_policy(prim: Any, *_: Any, **__: Any) -> bool:
    """Rematerialization policy that saves the results of ternary layers and their scales, and recomputes the rest.

    For ``jax.checkpoint(f, policy=ternax.checkpoint_policy)``; join it with others by ``jax.checkpoint_policies.save_from_both_policies``.
    """
    return prim is linear_p or prim is _PRIMITIVES["scale"]


# ----------------------------------------------------------------------------------------------------------- derivatives
def _is_zero(t: Any) -> bool:
    return type(t) is ad.Zero


def _no_scale_tangent(t: Any) -> None:
    if not _is_zero(t):
        raise NotImplementedError("ternax: the scale is made of integers and has no derivative; use lax.stop_gradient on it")


COMPACT_ERROR = (
    "this TernaryWeight is compact (it has no score leaf), so that jax.grad has nowhere to put its scores: take the gradient with "
    "ternax.value_and_grad or ternax.grad, or give the weight its score leaf back with ternax.expand"
)


def _linear_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    x, trits, scale, _, _ = primals
    dx, _, dscale, dtap, dvotes = tangents
    _no_scale_tangent(dscale)
    if params["compact"] and not _is_zero(dvotes):
        raise TypeError(COMPACT_ERROR)
    y = linear_p.bind(*primals, **params)
    if all(map(_is_zero, (dx, dtap, dvotes))):
        return y, _compat.zero_tangent(y)
    return y, tangent_p.bind(*map(ad.instantiate_zeros, (dx, dtap, dvotes)), x, trits, scale, **params)


def _tangent_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    y = tangent_p.bind(*primals, **params)
    if all(map(_is_zero, tangents[:3])):
        return y, _compat.zero_tangent(y)
    return y, tangent_p.bind(*map(ad.instantiate_zeros, tangents[:3]), *primals[3:], **params)


def _sum_members(ct: jax.Array, like: Any, ensemble: int) -> jax.Array:
    """Sums a cotangent over the ensemble dimensions in which the members share the operand."""
    dims = tuple(j for j in range(ensemble) if like.shape[j] != ct.shape[j])
    return ct.astype(reference.sum_dtype(ct.dtype)).sum(dims, keepdims=True).astype(ct.dtype) if dims else ct


def _tangent_transpose(ct: Any, dx: Any, dtap: Any, dvotes: Any, x: Any, trits: Any, scale: Any, **params: Any) -> list[Any]:
    linear_in = (dx, dtap, dvotes)
    wanted = [ad.is_undefined_primal(a) for a in linear_in]
    if _is_zero(ct):  # the layer was not used: no score and no vote
        return [ad.Zero(a.aval) if w else None for a, w in zip(linear_in, wanted, strict=True)] + [None] * 3
    group_size, backend, reduce = params["group_size"], params["backend"], params["reduce"]
    ensemble = trits.ndim - 3
    out: list[Any] = [None] * 6
    if wanted[0]:
        back = matmul_transposed_p.bind(ct, trits, scale, in_dim=x.shape[-1], group_size=group_size, dtype=None, backend=backend)
        out[0] = _sum_members(back, dx.aval, ensemble)
    if reduce == "dense":
        out[1] = _dense_gradient(x, ct, trits, dtap.aval) if wanted[1] else None
        out[2] = ad.Zero(dvotes.aval) if wanted[2] else None
    elif wanted[1] or wanted[2]:
        weight_axes = _compat.varying_axes(dtap.aval if wanted[1] else trits)
        score, votes = _score(x, ct, trits, weight_axes, reduce, params["axis_name"], group_size=group_size, backend=backend)
        if wanted[1]:
            out[1] = _sum_members(score, dtap.aval, ensemble)
        if wanted[2]:
            out[2] = _compat.vary(_sum_members(votes, dvotes.aval, ensemble), _compat.varying_axes(dvotes.aval))
    return out


def _dense_gradient(x: jax.Array, dy: jax.Array, trits: jax.Array, like: Any) -> jax.Array:
    ensemble = trits.ndim - 3
    dense = lambda x, dy: _sum_members(reference.weight_gradient(x, dy, ensemble), like, ensemble)
    dw: jax.Array = _compat.as_auto(dense, like)(x, dy).astype(F32)
    axes = tuple(sorted(_compat.varying_axes(dy) - _compat.varying_axes(like)))
    return lax.psum(dw, axes) if axes else dw


def _score(
    x: jax.Array, dy: jax.Array, trits: jax.Array, weight_axes: frozenset[str], reduce: str, axis_name: Any, **params: Any
) -> tuple[jax.Array, jax.Array]:
    """Score and votes, reduced over the manual axes that the data varies over and the weight does not."""
    checked = _compat.varying_axes(dy)
    axes = tuple(sorted(checked - weight_axes)) if checked else tuple(axis_name or ())
    if not axes or reduce == "vote":
        score, votes = correlate_p.bind(x, dy, trits, reduce=reduce, **params)
        if axes:
            score, votes = lax.psum((score, votes), axes)
        return score, votes
    return reduced_score(partition.dense_gradient(x, dy, trits), trits, axes, bool(checked), **params)


def reduced_score(dw: jax.Array, trits: jax.Array, axes: tuple[str, ...], checked: bool, **params: Any) -> tuple[jax.Array, jax.Array]:
    """Exact score of a dense gradient whose parts lie on the devices of ``axes``: reduce-scatter, sign, all-gather.

    Where the rows do not divide by the devices, an all-reduce.
    """
    ensemble, rows, devices = dw.ndim - 2, dw.shape[-2], lax.psum(1, axes)
    votes = jnp.ones(dw.shape[:ensemble], F32)
    if rows % devices:
        return bind("correlate_dense", lax.psum(dw, axes), trits, **params), votes
    part = lax.psum_scatter(dw, axes, scatter_dimension=ensemble, tiled=True)
    own = lax.dynamic_slice_in_dim(trits, lax.axis_index(axes) * (rows // devices), rows // devices, axis=ensemble)
    score = bind("correlate_dense", part, own, **params)
    return _compat.all_gather_rows(score, axes, ensemble, checked), votes


def _linear_in_first(primitive: Primitive, transposed: Any) -> None:
    def jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        _no_scale_tangent(tangents[2])
        y = primitive.bind(*primals, **params)
        t = tangents[0]
        return y, _compat.zero_tangent(y) if _is_zero(t) else primitive.bind(t, *primals[1:], **params)

    def transpose(ct: Any, data: Any, trits: Any, scale: Any, **params: Any) -> list[Any]:
        if _is_zero(ct):
            return [ad.Zero(data.aval), None, None]
        back = transposed(ct, data.aval, trits, scale, **params).astype(data.aval.dtype)
        return [_sum_members(back, data.aval, trits.ndim - 3), None, None]

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


def _correlate_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    out = correlate_p.bind(*primals, **params)
    return out, [_compat.zero_tangent(o) for o in out]


ad.primitive_jvps[linear_p] = _linear_jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_jvps[correlate_p] = _correlate_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
_linear_in_first(
    matmul_p,
    lambda ct, x, trits, scale, *, group_size, dtype, backend: matmul_transposed_p.bind(
        ct, trits, scale, in_dim=x.shape[-1], group_size=group_size, dtype=None, backend=backend
    ),
)
_linear_in_first(
    matmul_transposed_p,
    lambda ct, dy, trits, scale, *, in_dim, group_size, dtype, backend: matmul_p.bind(
        ct, trits, scale, group_size=group_size, dtype=None, backend=backend
    ),
)


# -------------------------------------------------------------------------------------------------------------- batching
for _op in ops.OPERATIONS.values():
    ops.batch(_PRIMITIVES[_op.name], _op)
ops.batcher(linear_p, weight=1, rank=3, data=(0,), own=())
ops.batcher(tangent_p, weight=4, rank=3, data=(0, 3), own=())
