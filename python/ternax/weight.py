"""The state of one layer, and the checks that keep it one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ternax import _compat, limbs, primitives, reference

Array = Any


class Layout(NamedTuple):
    """What is static in a weight: part of its pytree structure, and so of jax's messages about structures that differ."""

    in_dim: int
    group_size: int
    gain: float

    def __repr__(self) -> str:
        """The values, and what it means when jax reports two of them."""
        return (
            f"in_dim={self.in_dim}, group_size={self.group_size}, gain={self.gain} (layers of one stack, scan, cond or tree_map must have "
            "equal in_dim, group_size and gain)"
        )


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TernaryWeight:
    """A ternary matrix ``[out, in]`` with one learned scale per group of ``group_size`` inputs: a pytree of integers.

    The dense weight is ``S T`` with ``S = 2^(exponent + gain * corr / (step * group_size))``. ``score`` and ``votes`` are always zero:
    they are what gradients come out of. The gradient of ``score`` is the integer score of each group, the gradient of ``votes``
    counts the scores that were summed. All leaves may carry further leading dimensions (a stack of layers for ``lax.scan``, an ensemble for
    ``vmap``). Never cast, average or rescale the leaves.
    """

    trits: Array
    """uint8 ``[out, groups, group_bytes]``: five trits per byte in base 3, every group on a byte border."""
    exponent: Array
    """int8 ``[out, groups]``."""
    corr: Array
    """int32 ``[out, groups, 2]``: int64 correlations as two little-endian limbs."""
    step: Array
    """int32 ``[2]``: the int64 update counter as limbs; negative after a refused update."""
    score: Array | None
    """float32 ``[out, groups]``, zero; None in a compact weight."""
    votes: Array
    """float32 ``[]``, zero."""
    bias: Array | None
    """None, int32 ``[out]`` (a constant) or float ``[out]`` (trained by the dense optimizer)."""
    in_dim: int
    group_size: int
    gain: float = 4.0

    def tree_flatten(self) -> tuple[tuple[Any, ...], Layout]:
        """The leaves and the layout, for jax."""
        leaves = self.trits, self.exponent, self.corr, self.step, self.score, self.votes, self.bias
        return leaves, Layout(self.in_dim, self.group_size, self.gain)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], Layout]:
        """As :meth:`tree_flatten`, each leaf with its key."""
        leaves, layout = self.tree_flatten()
        return tuple(zip(_KEYS, leaves, strict=True)), layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, leaves: Any) -> TernaryWeight:
        """A weight of these leaves, which need not be arrays."""
        trits, exponent, corr, step, score, votes, bias = leaves
        return cls(trits, exponent, corr, step, score, votes, bias, *layout)

    def __repr__(self) -> str:
        """Sizes only: the leaves are large, and tracers or placeholders inside of transforms."""
        shapes = {f.name: getattr(getattr(self, f.name), "shape", None) for f in dataclasses.fields(self)[:7]}
        held = ", ".join(f"{name}={shape}" for name, shape in shapes.items() if shape is not None)
        return f"TernaryWeight(in_dim={self.in_dim}, group_size={self.group_size}, gain={self.gain}, {held})"

    @property
    def out_dim(self) -> int:
        """Number of outputs."""
        return int(self.trits.shape[-3])

    def corr_int64(self) -> np.ndarray:
        """The correlations on the host, int64 ``[out, groups]``."""
        return limbs.to_host(self.corr)

    def step_int64(self) -> np.ndarray:
        """The update counter on the host, int64 ``[]``."""
        return limbs.to_host(self.step)

    def scale(self, dtype: Any = jnp.float32) -> jax.Array:
        """``S``, float32 or bfloat16 ``[out, groups]``; see :func:`ternax.ops.scale`."""
        operands, dtype = (self.exponent, self.corr, self.step), np.dtype(dtype)
        s: jax.Array = primitives.bind("scale", *operands, group_size=self.group_size, gain=float(self.gain), dtype=dtype)
        return s

    def dequantize(self) -> jax.Array:
        """The dense weight ``S T``, float32 ``[out, in]``."""
        operands, dtype = (self.trits, self.scale()), np.dtype(np.float32)
        w: jax.Array = primitives.bind("dequantize", *operands, in_dim=self.in_dim, group_size=self.group_size, dtype=dtype)
        return w

    def unpack(self) -> jax.Array:
        """The trits, int8 ``[out, in]``. Bytes above 242 are an error on CPU."""
        trits: jax.Array = primitives.bind("unpack", self.trits, in_dim=self.in_dim, group_size=self.group_size)
        return trits

    def bits_per_weight(self) -> float:
        """Bits of all leaves that are held, the zero ones and the bias included, per weight."""
        bits = sum(8 * leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))
        return bits / max(1, math.prod(self.trits.shape[:-2]) * self.in_dim)


_KEYS = tuple(jax.tree_util.GetAttrKey(f.name) for f in dataclasses.fields(TernaryWeight)[:7])


def is_ternary(node: Any) -> bool:
    """Whether ``node`` is a :class:`TernaryWeight`."""
    return isinstance(node, TernaryWeight)


def on_host(a: Any) -> bool:
    """Whether the values of ``a`` can be looked at now."""
    return not isinstance(a, jax.core.Tracer) and getattr(a, "is_fully_addressable", True)


def check(w: Any, argument: str = "w", *, stacked: bool = False) -> None:
    """Raises if ``w`` is no sound TernaryWeight: cast, averaged, sliced, of the wrong shape, or with a score leaf that is not zero."""
    if not isinstance(w, TernaryWeight):
        raise TypeError(f"{argument} must be a TernaryWeight (of ternax.init or ternax.from_trits), got {type(w).__name__}")
    if w.group_size < 1 or w.in_dim < 1:
        raise ValueError(f"{argument} must have group_size >= 1 and in_dim >= 1, got {w.group_size} and {w.in_dim}")
    for name in ("trits", "exponent", "corr", "step", "votes"):
        if not hasattr(getattr(w, name), "dtype"):
            raise TypeError(f"{argument}.{name} must be an array, got {type(getattr(w, name)).__name__}")
    groups, count = reference.cdiv(w.in_dim, w.group_size), reference.group_bytes(w.in_dim, w.group_size)
    if w.trits.ndim < 3 or w.trits.shape[-2:] != (groups, count):
        raise ValueError(
            f"{argument}.trits must have shape [out, {groups}, {count}] (in_dim {w.in_dim} in groups of {w.group_size}, 5 trits per "
            f"byte), got {w.trits.shape}: a weight must not be sliced or reshaped"
        )
    lead, out = w.trits.shape[:-3], w.out_dim
    if lead and not stacked:
        raise ValueError(
            f"{argument}.trits must have shape [out, {groups}, {count}], got {w.trits.shape}: a stack of layers goes through "
            "jax.lax.scan or jax.vmap"
        )
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "trits": (np.uint8, (out, groups, count)),
        "exponent": (np.int8, (out, groups)),
        "corr": (np.int32, (out, groups, 2)),
        "step": (np.int32, (2,)),
        "votes": (np.float32, ()),
    }
    if w.score is not None:
        wanted["score"] = (np.float32, (out, groups))
    for name, (dtype, shape) in wanted.items():
        leaf = getattr(w, name)
        if leaf.dtype != dtype:
            raise TypeError(
                f"{argument}.{name} must be {np.dtype(dtype)}, got {leaf.dtype}: the state of a ternary layer must not be cast, "
                "averaged or rescaled; leave TernaryWeight nodes out of such a tree_map"
            )
        if leaf.shape != (*lead, *shape):
            raise ValueError(
                f"{argument}.{name} must have shape {(*lead, *shape)}, got {leaf.shape}: a weight must not be sliced or reshaped"
            )
    _check_bias(w.bias, (*lead, out), argument)
    if on_host(w.trits) and (largest := int(np.max(np.asarray(w.trits), initial=0))) > reference.LARGEST_BYTE:
        raise ValueError(f"{argument}.trits must hold packed trits, at most {reference.LARGEST_BYTE} each, found {largest}")
    if w.score is not None and on_host(w.score) and np.any(np.asarray(w.score)):
        raise ValueError(
            f"{argument}.score must be zero: it only carries gradients; it was changed by an optimizer that is not inside "
            "ternax.with_ternary, or is a gradient itself"
        )


def _check_bias(bias: Any, shape: tuple[int, ...], argument: str) -> None:
    if bias is None:
        return
    if bias.dtype != np.int32 and not jnp.issubdtype(bias.dtype, jnp.floating):
        raise TypeError(f"{argument}.bias must be None, int32 (constant) or float (trained), got {bias.dtype}")
    if bias.shape != shape:
        raise ValueError(f"{argument}.bias must have shape {shape}, got {bias.shape}")


# ------------------------------------------------------------------------------------------------------------- making
def default_exponent(in_dim: int) -> int:
    """The first exponent of the reference: log2 of ``0.5 / sqrt(in)``, rounded half to even, within [-8, 0] (SPEC 8)."""
    return max(-8, min(0, round(math.log2(max(0.5 * in_dim**-0.5, 2.0**-8)))))


def _assemble(trits: jax.Array, in_dim: int, group_size: int, gain: float, **leaves: Any) -> TernaryWeight:
    packed = primitives.bind("pack", trits, group_size=group_size)
    out, groups = packed.shape[:2]
    fresh: dict[str, Any] = {
        "exponent": jnp.full((out, groups), default_exponent(in_dim), jnp.int8),
        "corr": jnp.zeros((out, groups, 2), jnp.int32),
        "step": jnp.zeros(2, jnp.int32),
        "score": jnp.zeros((out, groups), jnp.float32),
        "votes": jnp.zeros((), jnp.float32),
        "bias": None,
    }
    return TernaryWeight(trits=packed, in_dim=in_dim, group_size=group_size, gain=float(gain), **(fresh | leaves))


def _check_sizes(in_dim: Any, out_dim: Any, group_size: Any) -> None:
    for name, value, least in (("in_dim", in_dim, 1), ("out_dim", out_dim, 0), ("group_size", group_size, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _host_integers(name: str, values: Any, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    if isinstance(values, jax.Array):
        raise TypeError(f"{name} must be host integers (numpy int64), got a jax array: jax cuts int64 to int32 while x64 is off")
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {values.shape}")
    if values.size and not low <= int(values.min()) <= int(values.max()) <= high:
        raise ValueError(f"{name} must lie in {low}..{high}, found {values.min()}..{values.max()}")
    return values


def from_trits(
    trits: Any, *, group_size: int = 32, exponent: Any = None, corr: Any = None, step: Any = 0, bias: Any = None, gain: float = 4.0
) -> TernaryWeight:
    """A layer from host arrays.

    ``trits [out, in]`` of -1, 0, 1 (any numeric dtype); ``exponent`` int8 and ``corr`` int64 ``[out, groups]``, ``step`` an int64: host
    integers, since jax cuts int64 to int32 while x64 is off. Any int64 ``corr`` is taken, as the reference takes it (SPEC 13).
    ``exponent`` defaults to :func:`ternax.init`'s. Raises TypeError or ValueError that name the argument, what came and what was wanted.
    """
    host = np.asarray(trits)
    if host.ndim != 2:
        raise ValueError(f"trits must have shape [out, in], got {host.shape}")
    _check_sizes(host.shape[1], host.shape[0], group_size)
    sound = np.isin(host, (-1, 0, 1))  # NaN is in no set
    if not sound.all():
        raise ValueError(f"trits must be -1, 0 or 1, found {[v.item() for v in np.unique(host[~sound])[:4]]}")
    group_size = int(group_size)
    shape = (host.shape[0], reference.cdiv(host.shape[1], group_size))
    limit = np.iinfo(np.int64)
    leaves: dict[str, Any] = {"step": jnp.asarray(limbs.from_host(_host_integers("step", step, (), 0, limit.max)))}
    if exponent is not None:
        leaves["exponent"] = jnp.asarray(_host_integers("exponent", exponent, shape, -128, 127).astype(np.int8))
    if corr is not None:
        leaves["corr"] = jnp.asarray(limbs.from_host(_host_integers("corr", corr, shape, limit.min, limit.max)))
    if bias is not None:
        leaves["bias"] = jnp.asarray(bias)
        _check_bias(leaves["bias"], (host.shape[0],), "from_trits")
    return _assemble(jnp.asarray(host.astype(np.int8)), host.shape[1], group_size, gain, **leaves)


def init(
    key: jax.Array,
    in_dim: int,
    out_dim: int,
    *,
    group_size: int = 32,
    gain: float = 4.0,
    threshold: float = 0.05,
    init_std: float = 0.1,
    bias: bool = False,
) -> TernaryWeight:
    """A new layer: ``T = sign(v)`` where ``|v| > threshold``, else 0, for ``v ~ N(0, init_std^2)``: 61.7 % are not zero (SPEC 7).

    ``bias=True`` adds the reference's bias, int32 zeros that are never trained; replace it by a float array to train it. (The
    reference also lowers the deviation to 0.02 then, which leaves 1.25 % of the trits: pass ``init_std=0.02`` for that.)
    The exponent starts at log2 of ``0.5 / sqrt(in)``, rounded (SPEC 8). Traceable: ``vmap`` over keys gives a stack of layers.
    """
    _check_sizes(in_dim, out_dim, group_size)
    normal = init_std * jax.random.normal(key, (out_dim, in_dim), jnp.float32)
    trits = (normal > threshold).astype(jnp.int8) - (normal < -threshold).astype(jnp.int8)
    leaves = {"bias": jnp.zeros(out_dim, jnp.int32)} if bias else {}
    return _assemble(trits, int(in_dim), int(group_size), gain, **leaves)


def init_norm(key: jax.Array, dim: int, *, group_size: int = 32) -> TernaryWeight:
    """The weight of :func:`ternax.rms_norm`: one row with 38.3 % zero trits and exponent -4, as in the reference."""
    w = init(key, dim, 1, group_size=group_size, threshold=0.01, init_std=0.02)
    return dataclasses.replace(w, exponent=jnp.full_like(w.exponent, -4))


# ------------------------------------------------------------------------------------------------------ score leaves
def _no_score(w: TernaryWeight) -> TernaryWeight:
    check(w, stacked=True)
    return dataclasses.replace(w, score=None)


def zero_score(w: TernaryWeight) -> jax.Array:
    """The score leaf of ``w``, or the zeros that it would be."""
    if w.score is not None:
        return w.score
    zeros = jnp.zeros_like(w.exponent, dtype=jnp.float32)  # on an Explicit mesh, split as the weight is
    return _compat.vary(zeros, _compat.varying_axes(w.exponent))


def compact(tree: Any) -> Any:
    """``tree`` without the score leaves of its ternary weights, which cost 32 / group_size bits per weight while they are held.

    Gradients of such a tree are taken with :func:`ternax.value_and_grad`, which makes the zeros inside the trace; a plain
    ``jax.grad`` over a compact weight is a TypeError.
    """
    return jax.tree.map(lambda w: _no_score(w) if is_ternary(w) else w, tree, is_leaf=is_ternary)


def expand(tree: Any) -> Any:
    """``tree`` with the score leaves that :func:`compact` dropped."""
    return jax.tree.map(lambda w: dataclasses.replace(w, score=zero_score(w)) if is_ternary(w) else w, tree, is_leaf=is_ternary)
