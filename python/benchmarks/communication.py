"""Bytes and collectives of one data-parallel training step, exact and vote, as the compiled HLO says them.

    python python/benchmarks/communication.py [--devices N] [--out N] [--in N] [--tokens N]

Bytes are what one device sends in a ring: ``(n - 1) / n`` of the array for a reduce-scatter or an all-gather, twice that for an
all-reduce. Runs on forced host devices; XLA chooses the same collectives for a GPU, where it may join several into one.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from dataclasses import dataclass

_KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute", "collective-broadcast")
_CALL = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(?:-start)?\((.*)")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)?\w*\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One collective of a program: its kind, the shapes that come out of it on one device, and how many devices take part."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes_out: int
    devices: int

    @property
    def bytes_sent(self) -> int:
        """Bytes that one device sends."""
        if self.kind == "collective-permute":
            return self.bytes_out
        times = {"all-reduce": 2, "reduce-scatter": self.devices}.get(self.kind, 1)
        return round(self.bytes_out * times * (self.devices - 1) / self.devices)


def collectives(hlo: str) -> list[Collective]:
    """The collectives in the text of a compiled program."""
    found = []
    for line in hlo.splitlines():
        if match := _CALL.search(line):
            arrays = [(int(bits or 8), tuple(map(int, dims.split(","))) if dims else ()) for _, bits, dims in _ARRAY.findall(match[1])]
            size = sum(math.prod(dims) * bits // 8 for bits, dims in arrays)
            found.append(Collective(match[2], tuple(dims for _, dims in arrays), size, _group_size(match[3])))
    return found


def _group_size(attributes: str) -> int:
    """Devices of one replica group: jax has printed the groups as a list, as an iota and, from 0.12 on, as mesh axes."""
    groups = attributes.split("replica_groups=", 1)[-1]
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        return pairs[1].count("{")
    if iota := re.match(r"\[\d+,(\d+)\]", groups):
        return int(iota[1])
    if listed := re.match(r"\{\{([\d,]*)\}", groups):
        return listed[1].count(",") + 1
    if by_axes := re.match(r"mesh\[(.*?)\] \{(.*?)\}", groups):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", by_axes[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", by_axes[2]))
    raise ValueError(f"replica groups of an unknown form: {groups[:80]}")


def main() -> None:
    """Prints one line per collective and one sum per reduction."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("devices", 8), ("out", 4096), ("in", 4096), ("tokens", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default, dest=name + "_")
    sizes = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={sizes.devices_}"
    os.environ["JAX_PLATFORMS"] = "cpu"

    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    import ternax as tx

    mesh = jax.make_mesh((sizes.devices_,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    w = tx.shard(tx.init(jax.random.key(0), sizes.in_, sizes.out_), mesh, PartitionSpec())
    x, target = (jax.ShapeDtypeStruct((sizes.tokens_, n), jnp.float32, sharding=split) for n in (sizes.in_, sizes.out_))

    def step(w: tx.TernaryWeight, x: jax.Array, target: jax.Array, reduce: str) -> tuple[tx.TernaryWeight, jax.Array]:
        def loss(w: tx.TernaryWeight) -> jax.Array:
            error = tx.linear(w, x, reduce=reduce) - target
            return jnp.mean(error * error)

        value, grad = tx.value_and_grad(loss)(w)
        return tx.update(w, grad), value

    weights = sizes.out_ * sizes.in_
    print(f"one layer {sizes.in_} -> {sizes.out_}, {sizes.tokens_} tokens over {sizes.devices_} devices, groups of {w.group_size}")
    for reduce in ("exact", "vote"):
        program = jax.jit(step, static_argnums=3, donate_argnums=0, out_shardings=everywhere)
        found = collectives(program.lower(w, x, target, reduce).compile().as_text())
        total = sum(c.bytes_sent for c in found)
        print(f"{reduce}: {len(found)} collectives, {total} bytes sent per device and step ({total / weights:.4f} per weight)")
        for c in found:
            print(f"    {c.kind:15} {' '.join(map(str, c.shapes))} over {c.devices} devices: {c.bytes_sent} bytes")
    dense = round(2 * 4 * weights * (sizes.devices_ - 1) / sizes.devices_)
    print(f"for comparison, the all-reduce of a dense float32 gradient: {dense} bytes ({dense / weights:.4f} per weight)")


if __name__ == "__main__":
    main()
