"""The custom calls, one function each: checked shapes in, one call per device out. They know nothing of derivatives or meshes.

Every operand may carry leading ensemble dimensions ``E`` (their number is the trits' beyond ``[out, groups, bytes]``). Where an
operand is shared by the members, its dimension is 1 and nothing is copied. ``vmap`` makes such dimensions, never a loop.

Where the native library has a call for the platform, that runs; elsewhere, and under ``backend("reference")``, the function
of the same name in :mod:`ternax.reference`. Arguments of a wrong dtype raise TypeError, of a wrong shape ValueError; what
only the values can tell is an error of the call itself (a ``JaxRuntimeError`` under jit, on CPU).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from ternax import _backend, _choice, _compat, _cuda, _library, reference

F32, BF16, F16 = (np.dtype(t) for t in (jnp.float32, jnp.bfloat16, jnp.float16))
F64, I8, U8, I32 = (np.dtype(t) for t in (np.float64, np.int8, np.uint8, np.int32))
ACTIVATIONS = (F32, BF16, F16)

Shape = tuple[Any, ...]
Types = list[tuple[Shape, np.dtype]]


@dataclass(frozen=True)
class Operation:
    """What jax must know of one custom call."""

    name: str
    operands: tuple[str, ...]
    types: Callable[..., Types]
    """Shapes and dtypes of the results from the abstract operands and the parameters; raises for wrong ones."""
    whole: Callable[..., Any]
    """The jax.numpy twin."""
    results: int = 1
    data: tuple[int, ...] = ()
    """Operands with leading dimensions ``L``: a batch over these alone becomes one more of them."""
    own: tuple[int, ...] = ()
    """Operands whose ensemble dimensions may not be 1 where the result's are larger."""
    aliases: tuple[tuple[int, int], ...] = ()
    """Results that are written into an operand's buffer."""


# ------------------------------------------------------------------------------------------------- shapes and dtypes
def _wrong_dtype(op: str, argument: str, wanted: str, found: Any, hint: str = "") -> TypeError:
    return TypeError(f"{op}: {argument} must be {wanted}, got {found}{hint}")


def _expect(op: str, argument: str, a: Any, dtypes: Sequence[np.dtype], shape: Sequence[Any], what: str) -> None:
    """Checks dtype and shape; None in ``shape`` stands for any size, and a leading Ellipsis for any dimensions."""
    if a.dtype not in dtypes:
        raise _wrong_dtype(op, argument, " or ".join(d.name for d in dtypes), a.dtype)
    shape, found = tuple(shape), tuple(a.shape)
    if shape and shape[0] is Ellipsis:
        shape = shape[1:]
        found = found[max(0, len(found) - len(shape)) :]
    if len(found) != len(shape) or any(want is not None and want != size for want, size in zip(shape, found, strict=True)):
        raise ValueError(f"{op}: {argument} must have shape {what}, got {tuple(a.shape)}")


def expect_activation(op: str, argument: str, a: Any, backend: str) -> None:
    """Refuses what is no float32, bfloat16 or float16 (nor, under the reference backend, float64)."""
    allowed = (*ACTIVATIONS, F64) if backend == "reference" else ACTIVATIONS
    if a.dtype not in allowed:
        hint = ": for float64 use the reference backend, `with ternax.backend('reference')`" if a.dtype == F64 else ""
        raise _wrong_dtype(op, argument, "float32, bfloat16 or float16", a.dtype, hint)


def _layout(op: str, in_dim: int, group_size: int) -> tuple[int, int]:
    """Groups of a row, and bytes of a group."""
    if group_size < 1:
        raise ValueError(f"{op}: group_size must be at least 1, got {group_size}")
    if in_dim < 1:
        raise ValueError(f"{op}: the inputs must be at least 1, got {in_dim}")
    return reference.cdiv(in_dim, group_size), reference.group_bytes(in_dim, group_size)


def _ensemble(op: str, operands: Sequence[tuple[str, Shape]]) -> Shape:
    """The ensemble dimensions of the result: each operand has them, or 1s."""
    try:
        return tuple(np.broadcast_shapes(*(shape for _, shape in operands)))
    except ValueError:
        found = ", ".join(f"{name} {shape}" for name, shape in operands)
        raise ValueError(f"{op}: ensemble dimensions must be equal, or 1 on what is shared, got {found}") from None


def _check_trits(op: str, trits: Any, in_dim: int, group_size: int) -> tuple[int, int]:
    """Checks trits ``[*E, out, groups, bytes]`` and returns the outputs and the groups."""
    groups, count = _layout(op, in_dim, group_size)
    what = f"[*E, out, {groups}, {count}] (rows of {in_dim} inputs in groups of {group_size}, 5 trits per byte)"
    _expect(op, "trits", trits, (U8,), (..., None, groups, count), what)
    if trits.ndim < 3:
        raise ValueError(f"{op}: trits must have shape {what}, got {tuple(trits.shape)}")
    return trits.shape[-3], groups


def _result_dtype(op: str, dtype: Any, own: np.dtype) -> np.dtype:
    result = own if dtype is None else np.dtype(dtype)
    if result not in (own, reference.sum_dtype(own)):
        raise _wrong_dtype(op, "dtype", f"{own.name} or float32", result)
    return result


def _check_data(op: str, argument: str, data: Any, ensemble: int, backend: str) -> None:
    expect_activation(op, argument, data, backend)
    if data.ndim < ensemble + 1:
        raise ValueError(f"{op}: {argument} must have shape [*E, *L, dim] with {ensemble} ensemble dimensions E, got {tuple(data.shape)}")


def _product(op: str, argument: str, to_out: bool, data: Any, trits: Any, scale: Any, params: dict[str, Any]) -> Types:
    ensemble = trits.ndim - 3
    _check_data(op, argument, data, ensemble, params["backend"])
    in_dim = data.shape[-1] if to_out else params["in_dim"]
    out, groups = _check_trits(op, trits, in_dim, params["group_size"])
    _expect(op, "scale", scale, (F32, BF16), (*(None,) * ensemble, out, groups), f"[*E, {out}, {groups}]")
    if not to_out and data.shape[-1] != out:
        raise ValueError(f"{op}: {argument} must have shape [..., {out}] (the trits' rows), got {tuple(data.shape)}")
    lead = _ensemble(op, [(n, a.shape[:ensemble]) for n, a in ((argument, data), ("trits", trits), ("scale", scale))])
    shape = (*lead, *data.shape[ensemble:-1], out if to_out else in_dim)
    return [(shape, _result_dtype(op, params["dtype"], data.dtype))]


def _matmul_types(x: Any, trits: Any, scale: Any, **params: Any) -> Types:
    return _product("matmul", "x", True, x, trits, scale, params)


def _matmul_transposed_types(dy: Any, trits: Any, scale: Any, **params: Any) -> Types:
    return _product("matmul_transposed", "dy", False, dy, trits, scale, params)


def _correlate_types(x: Any, dy: Any, trits: Any, *, group_size: int, backend: str) -> Types:
    op, ensemble = "correlate", trits.ndim - 3
    _check_data(op, "x", x, ensemble, backend)
    out, groups = _check_trits(op, trits, x.shape[-1], group_size)
    if dy.dtype != x.dtype:
        raise _wrong_dtype(op, "dy", f"{x.dtype}, the dtype of x", dy.dtype)
    if dy.ndim != x.ndim or tuple(dy.shape[ensemble:]) != (*x.shape[ensemble:-1], out):
        wanted = ["*E", *map(str, x.shape[ensemble:-1]), str(out)]
        raise ValueError(f"{op}: dy must have shape [{', '.join(wanted)}], got {tuple(dy.shape)}")
    lead = _ensemble(op, [(n, a.shape[:ensemble]) for n, a in (("x", x), ("dy", dy), ("trits", trits))])
    return [((*lead, out, groups), F32), (lead, F32)]


def _correlate_dense_types(dw: Any, trits: Any, *, group_size: int, backend: str) -> Types:
    op, ensemble = "correlate_dense", trits.ndim - 3
    out, groups = _check_trits(op, trits, dw.shape[-1] if dw.ndim else 0, group_size)
    dtypes = (F32, F64) if backend == "reference" else (F32,)
    _expect(op, "dw", dw, dtypes, (*(None,) * ensemble, out, None), f"[*E, {out}, in]")
    lead = _ensemble(op, [(n, a.shape[:ensemble]) for n, a in (("dw", dw), ("trits", trits))])
    if lead != tuple(dw.shape[:ensemble]):
        raise ValueError(f"{op}: dw must have the ensemble dimensions {lead}, got {tuple(dw.shape)}")
    return [((*lead, out, groups), F32)]


def _scale_types(exponent: Any, corr: Any, step: Any, *, group_size: int, gain: float, dtype: Any, backend: str) -> Types:
    op = "scale"
    _layout(op, 1, group_size)
    _expect(op, "exponent", exponent, (I8,), (..., None, None), "[*E, out, groups]")
    if exponent.ndim < 2:
        raise ValueError(f"{op}: exponent must have shape [*E, out, groups], got {tuple(exponent.shape)}")
    wanted = (*exponent.shape, 2)
    _expect(op, "corr", corr, (I32,), wanted, f"{wanted} (int64 as two int32 limbs)")
    wanted = (*exponent.shape[:-2], 2)
    _expect(op, "step", step, (I32,), wanted, f"{wanted} (int64 as two int32 limbs)")
    if dtype not in (F32, BF16):
        raise _wrong_dtype(op, "dtype", "float32 or bfloat16", dtype)
    return [(tuple(exponent.shape), dtype)]


def _accumulate_types(corr: Any, step: Any, score: Any, votes: Any, *, group_size: int, wanted_votes: int | None, backend: str) -> Types:
    op = "accumulate"
    _layout(op, 1, group_size)
    if corr.ndim < 3:
        raise ValueError(f"{op}: corr must have shape [*E, out, groups, 2], got {tuple(corr.shape)}")
    groups, lead = tuple(corr.shape[:-1]), tuple(corr.shape[:-3])
    _expect(op, "corr", corr, (I32,), (*groups, 2), "[*E, out, groups, 2]")
    _expect(op, "step", step, (I32,), (*lead, 2), f"{(*lead, 2)}")
    _expect(op, "score", score, (F32,), groups, f"{groups}")
    _expect(op, "votes", votes, (F32,), lead, f"{lead}")
    return [(tuple(corr.shape), I32), (tuple(step.shape), I32)]


def _pack_types(trits: Any, *, group_size: int, backend: str) -> Types:
    _expect("pack", "trits", trits, (I8,), (..., None, None), "[*, out, in]")
    if trits.ndim < 2:
        raise ValueError(f"pack: trits must have shape [*, out, in], got {tuple(trits.shape)}")
    return [((*trits.shape[:-1], *_layout("pack", trits.shape[-1], group_size)), U8)]


def _unpack_types(trits: Any, *, in_dim: int, group_size: int, backend: str) -> Types:
    _check_trits("unpack", trits, in_dim, group_size)
    return [((*trits.shape[:-2], in_dim), I8)]


def _dequantize_types(trits: Any, scale: Any, *, in_dim: int, group_size: int, dtype: Any, backend: str) -> Types:
    _check_trits("dequantize", trits, in_dim, group_size)
    _expect("dequantize", "scale", scale, (F32, BF16), trits.shape[:-1], f"{tuple(trits.shape[:-1])}")
    if dtype not in ACTIVATIONS:
        raise _wrong_dtype("dequantize", "dtype", "float32, bfloat16 or float16", dtype)
    return [((*trits.shape[:-2], in_dim), dtype)]


# --------------------------------------------------------------------------------------------------------- the table
OPERATIONS = {
    op.name: op
    for op in (
        Operation("matmul", ("x", "trits", "scale"), _matmul_types, reference.matmul, data=(0,)),
        Operation("matmul_transposed", ("dy", "trits", "scale"), _matmul_transposed_types, reference.matmul_transposed, data=(0,)),
        Operation("correlate", ("x", "dy", "trits"), _correlate_types, reference.correlate, results=2),
        Operation("correlate_dense", ("dw", "trits"), _correlate_dense_types, reference.correlate_dense, own=(0,)),
        Operation("scale", ("exponent", "corr", "step"), _scale_types, reference.scale, own=(0, 1, 2)),
        Operation(
            "accumulate",
            ("corr", "step", "score", "votes"),
            _accumulate_types,
            reference.accumulate,
            results=2,
            own=(0, 1, 2, 3),
            aliases=((0, 0), (1, 1)),
        ),
        Operation("pack", ("trits",), _pack_types, reference.pack),
        Operation("unpack", ("trits",), _unpack_types, reference.unpack),
        Operation("dequantize", ("trits", "scale"), _dequantize_types, reference.dequantize, own=(0, 1)),
    )
}
# Dimensions of each operand after its ensemble dimensions and leading dimensions.
_RANKS = {"trits": 3, "scale": 2, "exponent": 2, "corr": 3, "step": 1, "score": 2, "votes": 0, "dw": 2}


# -------------------------------------------------------------------------------------------------------- primitives
def batcher(primitive: Primitive, weight: int, rank: int, data: tuple[int, ...], own: tuple[int, ...]) -> None:
    """Batches over data operands only become leading dimensions of the data; any other batch becomes an ensemble dimension.

    ``weight`` is the operand that tells the number of ensemble dimensions, ``rank`` its number of others. Operands without the
    batch get an ensemble dimension of 1, but for those in ``own``, which are repeated.
    """

    def rule(args: Sequence[Any], dims: Sequence[Any], **params: Any) -> Any:
        size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        ensemble = args[weight].ndim - (dims[weight] is not None) - rank
        fold = bool(data) and all(d is None for k, d in enumerate(dims) if k not in data)
        at = ensemble if fold else 0

        def place(k: int, a: Any, d: Any) -> Any:
            if d is not None:
                return jnp.moveaxis(a, d, at)
            if fold and k not in data:
                return a
            repeat = size if fold or k in own else 1
            return jnp.broadcast_to(jnp.expand_dims(a, at), (*a.shape[:at], repeat, *a.shape[at:]))

        out = primitive.bind(*(place(k, a, d) for k, (a, d) in enumerate(zip(args, dims, strict=True))), **params)
        return (out, [at] * len(out)) if primitive.multiple_results else (out, at)

    batching.primitive_batchers[primitive] = rule


def batch(primitive: Primitive, op: Operation) -> None:
    """Gives a primitive with the operands of ``op`` its batching rule."""
    weight = next(k for k, name in enumerate(op.operands) if name in _RANKS)
    batcher(primitive, weight, 2 if op.name == "pack" else _RANKS[op.operands[weight]], op.data, op.own)


def define(name: str, abstract: Callable[..., Any], multiple_results: bool) -> Primitive:
    """A primitive that runs compiled when called eagerly."""
    primitive = Primitive(name)
    primitive.multiple_results = multiple_results
    primitive.def_abstract_eval(abstract)

    @functools.cache
    def compiled(items: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **dict(items)))

    primitive.def_impl(lambda *args, **params: compiled(tuple(sorted(params.items())))(*args))
    return primitive


def _attributes(params: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a custom call; what else is a parameter shows in the shapes of the results."""
    found: dict[str, Any] = {"group_size": np.int64(params["group_size"])}
    if "gain" in params:
        found["gain"] = np.float32(params["gain"])
    if "wanted_votes" in params:
        wanted = params["wanted_votes"]
        found["wanted_votes"] = np.int64(-1 if wanted is None else wanted)
    return found


def _custom_call(op: Operation) -> Primitive:
    def abstract(*avals: Any, **params: Any) -> Any:
        like = max(avals, key=lambda a: len(_compat.varying_axes(a)))
        types = op.types(*avals, **params)
        found = tuple(_compat.result_aval(like, shape, dtype, (None,) * len(shape)) for shape, dtype in types)
        return found if op.results > 1 else found[0]

    def whole(*args: jax.Array, backend: str, **params: Any) -> Any:
        return op.whole(*args, **params)

    target = f"ternax_{op.name}"
    primitive = define(f"ternax_call_{op.name}", abstract, op.results > 1)
    plain = mlir.lower_fun(whole, multiple_results=op.results > 1)
    native = jax.ffi.ffi_lowering(target, operand_output_aliases=dict(op.aliases))

    def on_cpu(ctx: Any, *operands: Any, **params: Any) -> Any:
        if op.name == "dequantize" and params["dtype"] != F32:
            rounded = lambda *args, dtype, **params: primitive.bind(*args, dtype=F32, **params).astype(dtype)
            return mlir.lower_fun(rounded, multiple_results=False)(ctx, *operands, **params)
        return native(ctx, *operands, **_attributes(params))

    def on_cuda(ctx: Any, *operands: Any, **params: Any) -> Any:
        if _cuda.problem() or not _cuda.serves(op.name, ctx.avals_in, ctx.avals_out):
            return plain(ctx, *operands, **params)
        # Of an unknown number of tokens none knows which composition is the faster.
        kernel = _choice.kernel(op.name, ctx.avals_in) if _cuda.known(*ctx.avals_in) else None
        if kernel:
            composed = functools.partial(kernel, bind)
            return mlir.lower_fun(composed, multiple_results=op.results > 1)(ctx, *operands, **params)
        if op.name in ("matmul", "matmul_transposed") and ctx.avals_in[2].dtype == BF16 and ctx.avals_in[0].dtype != BF16:
            # Only bfloat16 activations have kernels that take bfloat16 scales.
            widened = lambda data, trits, scale, **params: primitive.bind(data, trits, scale.astype(F32), **params)
            return mlir.lower_fun(widened, multiple_results=False)(ctx, *operands, **params)
        attributes = _attributes(params)
        scratch = _cuda.scratch(op.name, ctx.avals_in, ctx.avals_out, attributes)
        if not scratch:
            return native(ctx, *operands, **attributes)
        with_scratch = ctx.replace(avals_out=[*ctx.avals_out, jax.core.ShapedArray((scratch,), F32)])
        return native(with_scratch, *operands, **attributes)[: op.results]

    def lowering(platform: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
            if params["backend"] == "native" and (platform, target) in _library.functions():
                return call(ctx, *operands, **params)
            return plain(ctx, *operands, **params)

        return rule

    mlir.register_lowering(primitive, plain)
    # Platforms of jax, and their names in XLA's registry of custom calls.
    mlir.register_lowering(primitive, lowering("cpu", on_cpu), platform="cpu")
    mlir.register_lowering(primitive, lowering("CUDA", on_cuda), platform="cuda")
    batch(primitive, op)
    return primitive


_PRIMITIVES = {name: _custom_call(op) for name, op in OPERATIONS.items()}


def bind(name: str, *args: Any, **params: Any) -> Any:
    """Calls operation ``name`` with these operands and parameters, on the current backend unless ``backend`` is given."""
    params.setdefault("backend", _backend.current())
    out = _PRIMITIVES[name].bind(*_compat.vary_alike(*map(jnp.asarray, args)), **params)
    return tuple(out) if OPERATIONS[name].results > 1 else out


# -------------------------------------------------------------------------------------------------- public functions
def matmul(x: Any, trits: Any, scale: Any, *, group_size: int, dtype: Any = None) -> jax.Array:
    """``y[m, o] = sum_i x[m, i] S[o, i / group_size] T[o, i]``, summed in float32.

    ``x [*E, *L, in]`` float32, bfloat16 or float16; ``trits`` uint8 ``[*E, out, groups, bytes]``; ``scale [*E, out, groups]`` float32
    or bfloat16. Returns ``y [*E, *L, out]`` in x's dtype, or float32 with ``dtype=float32``.
    """
    y: jax.Array = bind("matmul", x, trits, scale, group_size=group_size, dtype=dtype and np.dtype(dtype))
    return y


def matmul_transposed(dy: Any, trits: Any, scale: Any, *, in_dim: int, group_size: int, dtype: Any = None) -> jax.Array:
    """``dx[m, i] = sum_o dy[m, o] S[o, i / group_size] T[o, i]``, summed in float32: ``dy [*E, *L, out]`` to ``dx [*E, *L, in]``."""
    dtype = dtype and np.dtype(dtype)
    dx: jax.Array = bind("matmul_transposed", dy, trits, scale, in_dim=in_dim, group_size=group_size, dtype=dtype)
    return dx


def correlate(x: Any, dy: Any, trits: Any, *, group_size: int) -> tuple[jax.Array, jax.Array]:
    """``score[o, g] = sum_{i in g} sign(dW[o, i]) T[o, i]`` with ``dW = dy^t x`` over all leading dimensions, never stored (SPEC 17).

    ``x [*E, *L, in]`` and ``dy [*E, *L, out]`` of one float dtype. Returns the scores, float32 ``[*E, out, groups]``, and votes, float32
    ``[*E]``, 1 each. sign(0) and sign(NaN) are 0 (SPEC 20).
    """
    score, votes = bind("correlate", x, dy, trits, group_size=group_size)
    return score, votes


def correlate_dense(dw: Any, trits: Any, *, group_size: int) -> jax.Array:
    """The scores of a dense gradient ``dw`` float32 ``[*E, out, in]`` that had to be reduced first: float32 ``[*E, out, groups]``."""
    score: jax.Array = bind("correlate_dense", dw, trits, group_size=group_size)
    return score


def scale(exponent: Any, corr: Any, step: Any, *, group_size: int, gain: float = 4.0, dtype: Any = jnp.float32) -> jax.Array:
    """``S = 2^(E + gain * corr / (step * group_size))``, float32 or bfloat16 ``[*E, out, groups]`` (SPEC 11-15).

    ``exponent`` int8 ``[*E, out, groups]``; ``corr`` int32 ``[*E, out, groups, 2]`` and ``step`` int32 ``[*E, 2]`` are int64 as limbs.
    Exact where the exponent is whole, else within 1 ulp; ``2^E`` at step 0, NaN where the step is negative (a refused update).
    """
    dtype = np.dtype(dtype)
    s: jax.Array = bind("scale", exponent, corr, step, group_size=group_size, gain=float(gain), dtype=dtype)
    return s


def accumulate(
    corr: Any, step: Any, score: Any, votes: Any, *, group_size: int, wanted_votes: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """``corr - score`` and ``step + votes`` on limbs, exact in int64; in place where the state is donated.

    ``score`` float32 ``[*E, out, groups]`` must hold whole numbers of size at most ``votes * group_size``, ``votes`` float32 ``[*E]``
    whole numbers up to 2^24, and ``wanted_votes`` where that is given. Else the call is an error on CPU, and nothing is written; the
    reference backend leaves corr and makes the step negative.
    """
    new_corr, new_step = bind("accumulate", corr, step, score, votes, group_size=group_size, wanted_votes=wanted_votes)
    return new_corr, new_step


def pack(trits: Any, *, group_size: int) -> jax.Array:
    """Trits int8 ``[*, out, in]`` to bytes uint8 ``[*, out, groups, group_bytes]``, five per byte, every group on a byte border.

    A byte is ``d0 + 3 d1 + 9 d2 + 27 d3 + 81 d4`` with ``d = trit + 1``; padding holds trit 0. The native call refuses other values than
    -1, 0, 1.
    """
    packed: jax.Array = bind("pack", trits, group_size=group_size)
    return packed


def unpack(trits: Any, *, in_dim: int, group_size: int) -> jax.Array:
    """Bytes uint8 ``[*, out, groups, group_bytes]`` to trits int8 ``[*, out, in]``. The native call refuses bytes above 242."""
    unpacked: jax.Array = bind("unpack", trits, in_dim=in_dim, group_size=group_size)
    return unpacked


def dequantize(trits: Any, scale: Any, *, in_dim: int, group_size: int, dtype: Any = jnp.float32) -> jax.Array:
    """The dense weights ``S T``, rounded once to float32, bfloat16 or float16, ``[*, out, in]``."""
    weights: jax.Array = bind("dequantize", trits, scale, in_dim=in_dim, group_size=group_size, dtype=np.dtype(dtype))
    return weights
