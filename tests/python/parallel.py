"""The parallel forms: ways to spread one function of a layer over eight devices, none of which may change its results."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ternax as tx

Axes = str | tuple[str, ...] | None


def make_mesh(explicit: bool = False, **shape: int) -> jax.sharding.Mesh:
    """A mesh over the first devices, ``make_mesh(data=4, model=2)``."""
    kinds = (AxisType.Explicit if explicit else AxisType.Auto,) * len(shape)
    return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=kinds, devices=jax.devices()[: math.prod(shape.values())])


def put(mesh: jax.sharding.Mesh, a: Any, *spec: Axes) -> jax.Array:
    return jax.device_put(a, NamedSharding(mesh, P(*spec)))


@dataclasses.dataclass(frozen=True)
class Jit:
    """jit over a mesh; ``batch``, ``sequence``, ``out`` and ``inputs`` are the axes that split those dimensions."""

    mesh: dict[str, int] = dataclasses.field(default_factory=dict)
    batch: Axes = None
    sequence: Axes = None
    out: Axes = None
    inputs: Axes = None
    explicit: bool = False

    options = types.MappingProxyType({})

    def own(self, w: Any) -> Any:
        return w

    def alike(self, a: Any, like: Any) -> Any:
        """``a``, placed as ``like``: under Explicit axes, types that must agree are made to by the user."""
        return jax.sharding.reshard(a, jax.typeof(like).sharding) if self.explicit else a

    def place(self, w: Any, x: Any, dy: Any, lead: int) -> tuple[Any, Any, Any]:
        """The weight and its data on the mesh."""
        mesh = make_mesh(self.explicit, **self.mesh)
        dims = (None,) * lead + ((self.batch, self.sequence) if self.sequence else (self.batch,))
        out = None if self.out == self.batch else self.out
        return tx.shard(w, mesh, P(self.out, self.inputs)), put(mesh, x, *dims, self.inputs), put(mesh, dy, *dims, out)

    def run(self, function: Any, w: Any, x: Any, dy: Any, lead: int = 0) -> Any:
        """``function(form, w, x, dy)``; the tokens are dimension ``lead`` of the data."""
        context: Any = contextlib.nullcontext()
        if self.mesh:
            w, x, dy = self.place(w, x, dy, lead)
            if self.explicit:
                context = jax.set_mesh(make_mesh(True, **self.mesh))
        with context:
            return jax.jit(lambda *args: function(self, *args))(w, x, dy)


class _Manual:
    sequence = None

    def alike(self, a: Any, like: Any) -> Any:
        return a

    def own(self, w: Any) -> Any:
        return w


@dataclasses.dataclass(frozen=True)
class ShardMap(_Manual):
    """shard_map over the batch; with ``out``, the axis ``model`` stays automatic and splits the outputs."""

    check: bool = True
    out: Axes = None

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.check else {"axis_name": "data"}

    def own(self, w: Any) -> Any:
        """The weight as each device's own, so that its gradient is not summed over the devices."""
        return jax.tree.map(lambda a: lax.pcast(a, ("data",), to="varying"), w) if self.check else w

    def run(self, function: Any, w: Any, x: Any, dy: Any, lead: int = 0) -> Any:
        mesh = make_mesh(data=4, model=2)
        data = P(*(None,) * lead, "data")
        settings = {"check_vma": self.check} | ({"axis_names": {"data"}} if self.out else {})
        spread = jax.shard_map(lambda *a: function(self, *a), mesh=mesh, in_specs=(P(), data, data), out_specs=(P(), data), **settings)
        return jax.jit(spread)(tx.shard(w, mesh, P(self.out)), x, dy)


@dataclasses.dataclass(frozen=True)
class Pmap(_Manual):
    """pmap over the batch, the weight on every device."""

    options = types.MappingProxyType({"axis_name": "data"})

    def run(self, function: Any, w: Any, x: Any, dy: Any, lead: int = 0) -> Any:
        split = lambda a: a.reshape(*a.shape[:lead], 8, a.shape[lead] // 8, *a.shape[lead + 1 :])
        spread = jax.pmap(lambda *a: function(self, *a), axis_name="data", in_axes=(None, lead, lead), out_axes=(0, lead))
        copies, data = spread(w, split(x), split(dy))
        for leaf in jax.tree.leaves(copies):
            assert np.all(np.asarray(leaf) == np.asarray(leaf[:1])), "the devices disagree"
        join = lambda a: a.reshape(*a.shape[:lead], -1, *a.shape[lead + 2 :])
        return jax.tree.map(lambda a: a[0], copies), jax.tree.map(join, data)


_BOTH = {"data": 4, "model": 2}
FORMS: dict[str, Jit | ShardMap | Pmap] = {
    "one device": Jit(),
    "data": Jit({"data": 8}, batch="data"),
    "data over two axes": Jit(_BOTH, batch=("data", "model")),
    "batch × sequence": Jit(_BOTH, batch="data", sequence="model"),
    "column": Jit({"model": 2}, out="model"),
    "row": Jit({"model": 2}, inputs="model"),
    "data × column": Jit(_BOTH, batch="data", out="model"),
    "data × row": Jit(_BOTH, batch="data", inputs="model"),
    "FSDP": Jit({"data": 8}, batch="data", out="data"),
    "Explicit: data": Jit({"data": 8}, batch="data", explicit=True),
    "Explicit: data × column": Jit(_BOTH, batch="data", out="model", explicit=True),
    "Explicit: data × row": Jit(_BOTH, batch="data", inputs="model", explicit=True),
    "shard_map": ShardMap(),
    "shard_map, unchecked": ShardMap(check=False),
    "shard_map × auto column": ShardMap(out="model"),
    "pmap": Pmap(),
}
