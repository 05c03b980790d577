"""Every difference between jax versions, and every private name, in one place.

Supported: jax 0.8.3 and newer, no upper bound. Each helper says which version it exists for and why, so that it can go one
day. Where something private is gone, a newer jax gets what can be had without it, and one warning.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jax.sharding import AbstractMesh, AxisType, PartitionSpec


def _warn(missing: str, consequence: str) -> None:
    warnings.warn(f"ternax: jax {jax.__version__} has no {missing}: {consequence}; please report this version", stacklevel=2)


# A lowering that contains custom_partitioning needs the devices of the enclosing jit, which jax (0.8.3 ... 0.12) hands only to
# the members of a private set; there is no public form. custom_partitioning itself is experimental in all these versions.
_RULES = ("ArrayMapping", "CompoundFactor", "SdyShardingRule", "custom_partitioning")
ArrayMapping: Any
CompoundFactor: Any
SdyShardingRule: Any
custom_partitioning: Any
try:
    from jax._src.dispatch import prim_requires_devices_during_lowering as _needs_devices

    _rules = importlib.import_module("jax.experimental.custom_partitioning")
    ArrayMapping, CompoundFactor, SdyShardingRule, custom_partitioning = (getattr(_rules, name) for name in _RULES)
    CAN_PARTITION = True
except (ImportError, AttributeError) as _error:
    ArrayMapping = CompoundFactor = SdyShardingRule = custom_partitioning = None
    CAN_PARTITION = False
    _warn(f"partitioning as ternax knows it ({_error})", "results stay right, but sharded operands are gathered before each ternary layer")

# Where the type of an array keeps the manual axes it varies over: ``mat`` from jax 0.10 on, ``vma`` before.
_VARYING = next((name for name in ("mat", "vma") if hasattr(jax.core.ShapedArray((), jnp.float32), name)), None)
if _VARYING is None:
    _warn("ShapedArray.mat", "inside shard_map, use check_vma=False and give axis_name to ternax.linear and ternax.bind")

# The only way to put an attribute on an operation; experimental in jax 0.8.3 ... 0.12.
try:
    from jax.experimental.xla_metadata import set_xla_metadata as _attributes
except ImportError:
    _attributes = None  # type: ignore[assignment]

Axes = tuple[str, ...]


def allow_partitioning(primitive: Any) -> None:
    """Lets the lowering of ``primitive`` contain custom_partitioning."""
    if CAN_PARTITION:
        _needs_devices.add(primitive)


def varying_axes(x: Any) -> frozenset[str]:
    """Manual mesh axes over which ``x`` (array, tracer or aval) varies; empty where jax does not track them."""
    aval = x if isinstance(x, jax.core.ShapedArray) else jax.typeof(x)
    kept = getattr(aval, _VARYING, None) if _VARYING else None
    return frozenset() if kept is None else frozenset(kept.varying if _VARYING == "mat" else kept)


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Marks ``x`` as varying over ``axes`` too. The transpose is a psum over them."""
    missing = tuple(sorted(axes - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def vary_alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, each varying over every axis that one of them varies over."""
    axes = frozenset().union(*map(varying_axes, arrays))
    return tuple(vary(a, axes) for a in arrays)


def all_gather_rows(x: jax.Array, axes: Axes, axis: int, checked: bool) -> jax.Array:
    """Concatenates the shards of ``x``; the result counts as equal on all devices where jax checks such things."""
    if not checked:
        return lax.all_gather(x, axes, axis=axis, tiled=True)
    try:  # jax >= 0.10
        return lax.all_gather(x, axes, axis=axis, tiled=True, to="invarying")
    except (ValueError, AssertionError, TypeError, NotImplementedError):
        parallel = importlib.import_module("jax._src.lax.parallel")  # jax 0.8, 0.9: no public form
        gathered: jax.Array = parallel.all_gather_invariant(x, axes, axis=axis, tiled=True)
        return gathered


def zero_tangent(x: Any) -> Any:
    """The symbolic zero in the tangent space of ``x``. ``Zero.from_primal_value`` said the same up to jax 0.11."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def explicit_spec(aval: Any, ndim: int) -> tuple[Any, ...]:
    """The axes in ``aval``'s type (Explicit mesh axes), one entry per dimension."""
    spec = getattr(getattr(aval, "sharding", None), "spec", None) or ()
    return (tuple(spec) + (None,) * ndim)[:ndim]


def result_aval(like: Any, shape: Sequence[Any], dtype: Any, spec: Sequence[Any], *, varying: bool = True) -> Any:
    """An abstract value on ``like``'s mesh; with ``varying``, also with its varying axes."""
    sharding = like.sharding.update(spec=PartitionSpec(*spec))
    if not varying:
        return jax.core.ShapedArray(tuple(shape), jnp.dtype(dtype), sharding=sharding)
    # The varying axes are spelt differently from version to version; ``update`` keeps what is not named, in all of them.
    return like.update(shape=tuple(shape), dtype=jnp.dtype(dtype), weak_type=False, sharding=sharding)


def as_auto(fun: Callable[..., Any], results: Any) -> Callable[..., Any]:
    """``fun`` under Auto mesh axes, its results placed as the abstract values ``results`` say."""

    def wrapped(*args: jax.Array) -> Any:
        meshes = [jax.typeof(a).sharding.mesh for a in args]
        if not any(AxisType.Explicit in m.axis_types for m in meshes if not m.empty):
            return fun(*args)
        return jax.sharding.auto_axes(fun, out_sharding=jax.tree.map(lambda r: r.sharding, results))(*args)

    return wrapped


def without_mesh() -> contextlib.AbstractContextManager[Any]:
    """Per-shard bodies are traced without the user's mesh: an Explicit one would add sharding ops that have no meaning there."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def labelled(fun: Callable[..., Any], **labels: str) -> Callable[..., Any]:
    """``fun``, whose operations carry these attributes in the program, where jax can put them there."""

    def wrapped(*args: jax.Array) -> Any:
        with contextlib.nullcontext() if _attributes is None else _attributes(**labels):
            return fun(*args)

    return wrapped
