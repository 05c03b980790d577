"""How the operations split over a device mesh: one table of layouts, one plan, custom_partitioning bodies made from both.

A layout names the dimensions of an operand: ``E`` ensemble dimensions, ``L`` leading (batch) dimensions, ``o`` outputs, the inputs as
single inputs ``i`` or groups ``g``, and what is never split: ``b`` bytes of a group, ``c`` the two limbs of an int64.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ternax import _compat, ops, reference
from ternax._compat import ArrayMapping, CompoundFactor, SdyShardingRule, custom_partitioning

Axes = tuple[str, ...]
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Dimension names of the operands and results of one call."""

    operands: tuple[tuple[str, ...], ...]
    results: tuple[tuple[str, ...], ...]
    rows: int
    """The operand whose split of the outputs is followed: that of the weight."""
    agree: bool
    """Whether inputs are split only where all operands say so: else each call would add a sum over devices."""


# Layouts of operands and results, and the operand that owns the rows.
_LAYOUTS = {
    "matmul": ("ELi,Eogb,Eog", "ELo", 1),
    "matmul_transposed": ("ELo,Eogb,Eog", "ELi", 1),
    "correlate": ("ELi,ELo,Eogb", "Eog,E", 2),
    "correlate_dense": ("Eoi,Eogb", "Eog", 1),
    "scale": ("Eog,Eogc,Ec", "Eog", 1),
    "accumulate": ("Eogc,Ec,Eog,E", "Eogc,Ec", 0),
    "pack": ("Eoi", "Eogb", 0),
    "unpack": ("Eogb", "Eoi", 0),
    "dequantize": ("Eogb,Eog", "Eoi", 0),
}


@functools.cache
def _layout(op: str, leading: int, members: tuple[tuple[bool, ...], ...]) -> Layout:
    """``members[k][j]``: whether operand k has ensemble dimension j, and not a 1 that stands for a shared operand."""

    def expand(dims: str, own: Sequence[bool] | None) -> tuple[str, ...]:
        names: list[str] = []
        for d in dims:
            if d == "E":
                names += [f"E{j}" if own is None or own[j] else f"shared{j}" for j in range(len(members[0]))]
            elif d == "L":
                names += [f"L{j}" for j in range(leading)]
            else:
                names.append(d)
        return tuple(names)

    operands, results, rows = _LAYOUTS[op]
    split = operands.split(",")
    return Layout(
        tuple(expand(dims, own) for dims, own in zip(split, members, strict=True)),
        tuple(expand(dims, None) for dims in results.split(",")),
        rows,
        "L" in split[0],
    )


def layout(op: str, shapes: Sequence[Sequence[Any]]) -> Layout:
    """The layout of ``op`` for operands of these shapes, with ``E`` and ``L`` written out, as in ``('E0', 'L0', 'L1', 'o')``."""
    operands, _, rows = _LAYOUTS[op]
    dims = operands.split(",")
    ensemble = len(shapes[rows]) - (len(dims[rows]) - 1)
    leading = len(shapes[0]) - ensemble - 1 if "L" in dims[0] else 0
    largest = [max((s[j] for s in shapes), key=lambda n: n != 1) for j in range(ensemble)]
    members = tuple(tuple(s[j] == largest[j] for j in range(ensemble)) for s in shapes)
    return _layout(op, leading, members)


def axes_of(entry: Any) -> Axes:
    """The mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else tuple(entry) if isinstance(entry, tuple | list) else (entry,)


def in_splits(lay: Layout, shapes: Sequence[Sequence[Any]], params: Params) -> int:
    """Into how many equal shards the inputs can be cut: each must hold whole groups."""
    if "i" not in {d for dims in lay.operands + lay.results for d in dims}:
        return int(next(s[dims.index("g")] for s, dims in zip(shapes, lay.operands, strict=True) if "g" in dims))
    in_dim = params.get("in_dim")
    if in_dim is None:
        in_dim = next(s[dims.index("i")] for s, dims in zip(shapes, lay.operands, strict=True) if "i" in dims)
    group_size = params["group_size"]
    return int(in_dim) // group_size if in_dim % group_size == 0 else 1


def plan(lay: Layout, specs: Sequence[Sequence[Any]], mesh_shape: Mapping[str, int], shards: int) -> dict[str, Axes]:
    """Chooses the mesh axes of every dimension name from the shardings that the operands have.

    A mesh axis serves one dimension: ensembles before the batch, the batch before outputs, outputs before inputs. Inputs are cut
    into a divisor of ``shards`` only; whatever is not chosen is gathered.
    """
    found: dict[str, list[Axes]] = {}
    for k, (dims, spec) in enumerate(zip(lay.operands, specs, strict=True)):
        for d, entry in zip(dims, spec, strict=True):
            name = "i" if d in "ig" else d
            if k == lay.rows:
                found.setdefault(name, []).insert(0, axes_of(entry))
            else:
                found.setdefault(name, []).append(axes_of(entry))
    chosen: dict[str, Axes] = {}
    used: set[str] = set()
    for d in sorted((d for d in found if d[0] in "ELoi"), key=lambda d: "ELoi".index(d[0])):
        options = found[d]
        if d == "i":
            size = math.prod(mesh_shape[a] for a in options[0])
            agreed = len(set(options)) == 1 or not lay.agree
            axes = options[0] if agreed and not used & set(options[0]) and shards % size == 0 else ()
        else:
            pick = options[0] if d == "o" else next((a for a in options if a), ())
            axes = tuple(a for a in pick if a not in used)
        chosen[d] = axes
        used |= set(axes)
    return chosen


def spec_of(dims: Sequence[str], chosen: Mapping[str, Axes]) -> tuple[Axes | None, ...]:
    """PartitionSpec entries of an array with these dimension names."""
    return tuple(chosen.get("i" if d in "ig" else d) or None for d in dims)


# ---------------------------------------------------------------------------------------------------- per-shard bodies
def _partial_sums(op: str, axes: Axes, params: Params) -> Callable[..., jax.Array]:
    """A product on one shard; partial sums over what is split are added in float32."""

    def body(data: jax.Array, trits: jax.Array, scale: jax.Array) -> jax.Array:
        if not axes:
            whole: jax.Array = ops.bind(op, data, trits, scale, **params)
            return whole
        part = ops.bind(op, data, trits, scale, **{**params, "dtype": reference.sum_dtype(data.dtype)})
        return lax.psum(part, axes).astype(params["dtype"] or data.dtype)

    return body


def _correlate(batch: Axes, scatter: bool, reduce: str, params: Params) -> Callable[..., Any]:
    """Score and votes of one shard.

    exact: the dense gradient is reduced before its sign is taken (with ``scatter`` each device keeps a block of rows).
    vote: every shard takes its own signs; the scores and the votes are summed.
    """

    def body(x: jax.Array, dy: jax.Array, trits: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not batch:
            return correlate_whole(x, dy, trits, **params)
        if reduce == "vote":
            return lax.psum(correlate_whole(x, dy, trits, **params), batch)
        ensemble = trits.ndim - 3
        dw = dense_gradient(x, dy, trits)
        dw = lax.psum_scatter(dw, batch, scatter_dimension=ensemble, tiled=True) if scatter else lax.psum(dw, batch)
        return ops.bind("correlate_dense", dw, trits, **params), jnp.ones(dw.shape[:ensemble], jnp.float32)

    return body


def _accumulate(weight_axes: Axes, params: Params) -> Callable[..., Any]:
    """The update of one shard. The shards share the step, so one that refuses its scores refuses for all."""

    def agree(step: jax.Array) -> jax.Array:
        refused = lax.pmin(step[..., 1:], weight_axes) < 0
        marker = jnp.stack([jnp.full_like(step[..., 0], part) for part in reference.REFUSED_STEP], axis=-1)
        return jnp.where(refused, marker, step)

    def body(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
        corr, step = ops.bind("accumulate", *operands, **params)
        if not weight_axes:
            return corr, step
        if params["backend"] == "reference":
            return corr, agree(step)
        # On CPU a refusal is an error, which needs no agreement.
        return corr, lax.platform_dependent(step, cpu=lambda step: step, default=agree)

    return body


def correlate_whole(x: jax.Array, dy: jax.Array, trits: jax.Array, **params: Any) -> tuple[jax.Array, jax.Array]:
    """The fused call on what one device holds."""
    score, votes = ops.bind("correlate", x, dy, trits, **params)
    return score, votes


def dense_gradient(x: jax.Array, dy: jax.Array, trits: jax.Array) -> jax.Array:
    """``dW`` with all ensemble dimensions of the operands."""
    ensemble = trits.ndim - 3
    dw = reference.weight_gradient(x, dy, ensemble)
    lead = jnp.broadcast_shapes(dw.shape[:ensemble], trits.shape[:ensemble])
    return jnp.broadcast_to(dw, (*lead, *dw.shape[ensemble:]))


# ------------------------------------------------------------------------------------------------ custom_partitioning
def partitioned(op: str, *args: jax.Array, **params: Any) -> Any:
    """Runs ``op`` so that the partitioner splits it according to :func:`plan`."""
    lay = layout(op, [a.shape for a in args])
    if not _compat.CAN_PARTITION:
        return _whole(op, dict(params))(*args)
    return _partitioned(op, lay, in_splits(lay, [a.shape for a in args], params), tuple(sorted(params.items())))(*args)


def _whole(op: str, params: dict[str, Any]) -> Callable[..., Any]:
    params.pop("reduce", None)
    return functools.partial(ops.bind, op, **params)


@functools.cache
def _partitioned(op: str, lay: Layout, shards: int, items: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    params = dict(items)
    reduce = params.pop("reduce", "exact")
    whole = _whole(op, params)

    def unsplit(*args: jax.Array) -> Any:
        return whole(*args)

    def partition(mesh: Mesh, args: Any, results: Any) -> Any:
        chosen = plan(lay, [_entries(a) for a in args], mesh.shape, shards)

        def count(axes: Axes) -> int:
            return math.prod(mesh.shape[a] for a in axes)

        def named(dims: Sequence[str], axes: Mapping[str, Axes]) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec(*spec_of(dims, axes)))

        local = dict(params)
        if "in_dim" in local:
            local["in_dim"] //= count(chosen["i"])
        weight = chosen
        if op == "matmul":
            body: Callable[..., Any] = _partial_sums(op, chosen["i"], local)
        elif op == "matmul_transposed":
            body = _partial_sums(op, chosen["o"], local)
        elif op == "correlate":
            batch = tuple(a for d in lay.operands[0] if d[0] == "L" for a in chosen[d])
            rows = args[lay.rows].shape[-3] // count(chosen["o"])
            scatter = bool(batch) and reduce == "exact" and rows % count(batch) == 0
            if scatter:  # the scores come out split by rows too: XLA gathers them only if the weight is not split that way
                weight = chosen | {"o": chosen["o"] + batch}
            body = _correlate(batch, scatter, reduce, local)
        elif op == "accumulate":
            body = _accumulate(chosen["o"] + chosen["i"], local)
        else:
            body = _whole(op, local)
        split = [named(d, weight if "g" in d else chosen) for d in lay.operands]
        out = [named(d, weight) for d in lay.results]

        def per_shard(*arrays: jax.Array) -> Any:
            with _compat.without_mesh():
                return body(*arrays)

        return mesh, per_shard, tuple(out) if len(out) > 1 else out[0], tuple(split)

    call = custom_partitioning(unsplit)
    call.def_partition(partition=partition, sharding_rule=lambda mesh, *_: sharding_rule(lay, shards, params["group_size"], mesh))

    # What the callbacks were made from is nowhere else in the program: without it, jax's compile cache would take an exact and a
    # vote reduction for one program where the address of the callbacks is left out of its key (jax issue 21159).
    return _compat.labelled(call, ternax=hashlib.sha256(repr((lay, shards, items)).encode()).hexdigest())


def _entries(a: Any) -> tuple[Any, ...]:
    """The PartitionSpec of an operand, one entry per dimension; none where jax knows no named sharding."""
    return (tuple(getattr(a.sharding, "spec", None) or ()) + (None,) * len(a.shape))[: len(a.shape)]


def sharding_rule(lay: Layout, shards: int, group_size: int, mesh: Any) -> Any:
    """What Shardy may propagate through the operation.

    Inputs and groups share a factor where every mesh axis cuts it evenly or not at all; else they are apart, because half an
    axis on a factor is a sharding that jax cannot express: it fails instead of gathering.
    """
    names = lay.operands + lay.results
    units = any("i" in dims for dims in names)
    linked = shards > 1 and all(shards % n == 0 or math.gcd(shards, n) == 1 for n in mesh.shape.values())
    sizes: dict[str, int] = {}

    def factor(position: int, d: str) -> Any:
        if d not in "ig":
            return f"{d}_{position}" if d.startswith("shared") else d
        if not units:
            return "g"
        if not linked:
            return f"{d}_{position}"
        if d == "g" or group_size == 1:
            return "g"
        sizes["inner"] = group_size
        return CompoundFactor("g", "inner")

    arrays = [ArrayMapping(*(factor(k, d) for d in dims)) for k, dims in enumerate(names)]
    n = len(lay.operands)
    return SdyShardingRule(tuple(arrays[:n]), tuple(arrays[n:]), **sizes)
