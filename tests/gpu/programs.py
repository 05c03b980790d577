"""Programs on the card: the integer state against the CPU's, CUDA graphs, many tokens, and a small set for compute-sanitizer.

usage: programs.py state | graph | many | small
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ternax as tx
from ternax import _choice

WIDTHS, TOKENS, STEPS = (512, 1024, 512), 256, 20
REPLAYS = 5
# Tokens, inputs, outputs and group size.
MANY = ((256, 512, 256, 32), (300, 352, 330, 32), (1030, 704, 265, 32), (257, 4096, 136, 32), (520, 300, 77, 300))


def dyadic(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of 1/4 up to 1: every sum of a gradient is exact in float32."""
    return (random.integers(-4, 5, shape) / 4).astype(np.float32)


def step(layers: list[Any], inputs: list[Any], cotangents: list[Any]) -> list[Any]:
    """One update of every layer by activations and cotangents that are given: an open loop, in which the integers must be the
    same on every platform, bit for bit."""
    learned = []
    for w, x, dy in zip(layers, inputs, cotangents, strict=True):
        gradient = tx.grad(lambda w, x=x, dy=dy: (tx.linear(w, x) * dy).sum())(w)
        learned.append(tx.update(w, gradient))
    return learned


def trained(platform: str, steps: int) -> list[Any]:
    """The layers, on the host, after some steps on one platform."""
    random = np.random.default_rng(1)
    device = jax.devices(platform)[0]
    with jax.default_device(device):
        keys = jax.random.split(jax.random.key(0), len(WIDTHS) - 1)
        layers = [tx.init(key, a, b) for key, a, b in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)]
        run = jax.jit(step, donate_argnums=0)
        for _ in range(steps):
            inputs = [dyadic(random, TOKENS, width) for width in WIDTHS[:-1]]
            cotangents = [dyadic(random, TOKENS, width) for width in WIDTHS[1:]]
            layers = run(layers, *jax.device_put((inputs, cotangents), device))
        return jax.device_get(layers)


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether the integer leaves of two lists of layers are equal."""
    integers = lambda layers: [leaf for leaf in jax.tree.leaves(layers) if np.issubdtype(leaf.dtype, np.integer)]
    return all(np.array_equal(a, b) for a, b in zip(integers(one), integers(other), strict=True))


def state(platform: str) -> int:
    """Trains on the card and on the CPU."""
    equal = same(trained(platform, STEPS), trained("cpu", STEPS))
    print(f"{STEPS} steps: the integer state on {platform} and on the CPU is {'equal' if equal else 'NOT EQUAL'}")
    return int(not equal)


def graph(platform: str) -> int:
    """Replays one step that XLA was asked to make a CUDA graph of, and looks for that graph in the compiled program.

    ``XLA_FLAGS`` must ask for graphs of one operation on: ``--xla_gpu_graph_min_graph_size=1``, with custom calls among them.
    """
    random = np.random.default_rng(2)
    layers = [tx.init(jax.random.key(0), 512, 512)]
    operands = jax.device_put(([dyadic(random, TOKENS, 512)], [dyadic(random, TOKENS, 512)]), jax.devices(platform)[0])
    compiled = jax.jit(step).lower(layers, *operands).compile()
    results = [jax.device_get(compiled(layers, *operands)) for _ in range(REPLAYS)]
    text = compiled.as_text()
    recorded = [part for part in text.split("\n\n") if "command_buffer" in part.split("{", 1)[0]]
    inside = sum(part.count("ternax_") for part in recorded)
    equal = all(same(results[0], other) for other in results[1:])
    print(f"{REPLAYS} runs {'equal' if equal else 'DIFFER'}; {inside} custom calls of ternax lie in {len(recorded)} command buffers")
    return int(not equal or (platform != "cpu" and inside == 0))


def many(platform: str) -> int:
    """Products and scores of many tokens on numbers whose sums are exact: what a card with warpgroups computes on these must not differ
    by a bit, at tiles that are full and ragged, rows that are aligned and not, contractions that are split and not."""
    random, differ = np.random.default_rng(4), 0
    for tokens, in_dim, out, group in MANY:
        trits = random.integers(-1, 2, (out, in_dim)).astype(np.int8)
        groups = -(-in_dim // group)
        scale = 2.0 ** random.integers(-3, 2, (out, groups))
        weight = np.repeat(scale, group, axis=1)[:, :in_dim] * trits
        packed = tx.ops.pack(trits, group_size=group)
        for dtype, scales in ((jnp.bfloat16, jnp.bfloat16), (jnp.float16, jnp.float32)):
            x, dy = dyadic(random, tokens, in_dim), dyadic(random, tokens, out)
            operands = (packed, jnp.asarray(scale, scales))
            with _choice.forced("fused"):
                y = tx.ops.matmul(jnp.asarray(x, dtype), *operands, group_size=group, dtype=jnp.float32)
                dx = tx.ops.matmul_transposed(jnp.asarray(dy, dtype), *operands, in_dim=in_dim, group_size=group, dtype=jnp.float32)
                score, _ = tx.ops.correlate(jnp.asarray(x, dtype), jnp.asarray(dy, dtype), packed, group_size=group)
            agreement = np.sign(dy.astype(np.float64).T @ x) * trits
            wanted = np.add.reduceat(agreement, np.arange(groups) * group, axis=1)
            for name, found, exact in (("y", y, x @ weight.T), ("dx", dx, dy @ weight), ("score", score, wanted)):
                wrong = int((np.asarray(found) != exact).sum())
                differ += wrong > 0
                if wrong:
                    call = f"{name} of {tokens} tokens, {out}x{in_dim} in groups of {group}, {np.dtype(dtype).name}"
                    print(f"{call}: {wrong} of {exact.size} differ")
    print(f"many tokens on {platform}: {'exact' if not differ else 'NOT EXACT'}")
    return int(differ > 0)


def small(platform: str) -> int:
    """One call of every operation, on shapes with ragged edges."""
    random = np.random.default_rng(3)
    for tokens, in_dim, out, group in ((1, 96, 33, 32), (9, 70, 20, 7), (40, 200, 136, 40), (130, 264, 40, 264)):
        w = tx.init(jax.random.key(tokens), in_dim, out, group_size=group)
        for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
            x, dy = (jnp.asarray(dyadic(random, tokens, width), dtype) for width in (in_dim, out))
            y, pullback = jax.vjp(lambda x, w=w: tx.linear(w, x), x)
            jax.block_until_ready((y, pullback(dy)))
            jax.block_until_ready(tx.ops.correlate(x, dy, w.trits, group_size=group))
        jax.block_until_ready(step([w], [dyadic(random, tokens, in_dim)], [dyadic(random, tokens, out)]))
        unpacked = tx.ops.unpack(w.trits, in_dim=in_dim, group_size=group)
        jax.block_until_ready((tx.ops.pack(unpacked, group_size=group), tx.ops.correlate_dense(w.dequantize(), w.trits, group_size=group)))
    print(f"every operation ran on {platform}")
    return 0


if __name__ == "__main__":
    platform = jax.default_backend()
    sys.exit({"state": state, "graph": graph, "many": many, "small": small}[sys.argv[1]](platform))
