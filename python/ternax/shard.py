"""Placing weights on a device mesh, and saying why one cannot be split."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ternax.partition import axes_of
from ternax.weight import TernaryWeight, check, is_ternary

# Leaves of a weight, with how many of (out, groups) they have.
_DIMENSIONS = {"trits": 2, "exponent": 2, "corr": 2, "step": 0, "score": 2, "votes": 0, "bias": 1}


def shard(tree: Any, mesh: Mesh, rule: Any) -> Any:
    """Places the ternary weights of ``tree`` on ``mesh``: each leaf is split by whole rows and whole groups.

    tree: a weight, or a tree of weights and dense leaves.
    rule: ``PartitionSpec(out, in)`` in mesh axes, or a prefix of ``tree`` with such leaves. ``P("model")`` is column parallel,
        ``P(None, "model")`` row parallel, ``P("data")`` FSDP-like, ``P()`` a copy on every device. For a stack of layers the
        spec may name the leading dimensions too: ``P("stage", "model", None)``. Dense leaves are placed as by ``jax.device_put``.

    ``step`` and ``votes`` are on every device; a bias goes with the outputs. Works on Auto and Explicit meshes, and inside jit.
    Raises ValueError that names the weight, where an axis is unknown or used twice, or where outputs do not divide by the devices or a
    cut would go through a group.
    """
    try:
        rules = jax.tree.broadcast(rule, jax.tree.map(lambda _: 0, tree, is_leaf=is_ternary), is_leaf=_is_rule)
    except ValueError as error:
        raise ValueError(f"shard: rule must be a PartitionSpec(out, in), or a prefix of tree with such leaves: {error}") from error

    def place(path: Any, node: Any, spec: Any) -> Any:
        if not _is_rule(spec):
            raise TypeError(f"shard: rule must be a PartitionSpec(out, in), or a prefix of tree with such leaves, got {spec!r}")
        spec = spec or PartitionSpec()
        if not is_ternary(node):
            return _put(node, NamedSharding(mesh, spec))
        specs = weight_specs(node, mesh, spec, f"tree{jax.tree_util.keystr(path)}")
        return jax.tree.map(lambda leaf, s: _put(leaf, NamedSharding(mesh, s)), node, specs)

    return jax.tree_util.tree_map_with_path(place, tree, rules, is_leaf=is_ternary)


def _is_rule(node: Any) -> bool:
    return node is None or isinstance(node, PartitionSpec)


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    if not isinstance(leaf, jax.core.Tracer):
        return jax.device_put(leaf, sharding)
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    return jax.sharding.reshard(leaf, sharding) if explicit else lax.with_sharding_constraint(leaf, sharding)


def weight_specs(w: TernaryWeight, mesh: Mesh, spec: PartitionSpec, name: str = "w") -> TernaryWeight:
    """The PartitionSpec of every leaf of ``w`` for :func:`shard`; raises ValueError for a split that is impossible."""
    check(w, name, stacked=True)
    *lead, out, inputs = _checked(w, mesh, spec, name)

    def leaf(field: str, value: Any) -> Any:
        return value if value is None else PartitionSpec(*lead, *(out, inputs)[: _DIMENSIONS[field]])

    return dataclasses.replace(w, **{field: leaf(field, getattr(w, field)) for field in _DIMENSIONS})


def _checked(w: TernaryWeight, mesh: Mesh, spec: PartitionSpec, name: str) -> list[Any]:
    """The entries of ``spec`` for the leading dimensions, the outputs and the inputs."""
    entries, shape = list(spec), w.exponent.shape
    stacked = len(shape) - 2
    if len(entries) <= 2:
        entries = [None] * stacked + entries + [None] * (2 - len(entries))
    if len(entries) != len(shape):
        leading = f", or {len(shape)} with the {stacked} leading dimensions of the stack" if stacked else ""
        raise ValueError(f"shard: the rule of {name} must have at most 2 entries (out, in){leading}, got {spec}")
    used = [a for entry in entries for a in axes_of(entry)]
    for axis in used:
        if axis not in mesh.shape:
            raise ValueError(f"shard: the rule of {name} names the axis {axis!r}, but the mesh has {tuple(mesh.shape)}")
        if used.count(axis) > 1:
            raise ValueError(f"shard: the rule of {name} uses the axis {axis!r} twice, got {spec}")
    for position, (entry, size) in enumerate(zip(entries, shape, strict=True)):
        parts = math.prod(mesh.shape[a] for a in axes_of(entry))
        what = f"the {parts} devices of {', '.join(map(repr, axes_of(entry)))}"
        if position == len(shape) - 1:
            _check_groups(w, name, parts, what)
        elif size % parts:
            kind = f"{size} outputs" if position == stacked else f"dimension {position} of the stack, {size} layers,"
            raise ValueError(f"shard: {name}: {kind} cannot be split evenly over {what}")
    return entries


def _check_groups(w: TernaryWeight, name: str, parts: int, what: str) -> None:
    groups = w.exponent.shape[-1]
    if parts > 1 and w.in_dim % w.group_size:
        raise ValueError(
            f"shard: {name}: the inputs cannot be split over {what}: the last of its groups of {w.group_size} is cut short "
            f"(in_dim {w.in_dim}), so that equal parts of the inputs would not hold whole groups"
        )
    if groups % parts:
        possible = [n for n in range(1, groups + 1) if groups % n == 0]
        raise ValueError(
            f"shard: {name}: {w.in_dim} inputs in groups of {w.group_size} are {groups} groups: a split over {what} would cut through a "
            f"group; possible are {', '.join(map(str, possible))}"
        )
