"""One layer, forward and full training step, against dense XLA, the jnp port and, where installed, the PyTorch reference.

    python python/benchmarks/layer.py [--threads N] [--seconds S]

A step is y, dx, the scores and the update, in place as in a training loop that donates its state; the dense step is y, dx and dW,
without its optimizer. Every peer gets the same processors. Ratios are peer / ternax: above 1, ternax is faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
from typing import Any

import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPES = [
    (1, 4096, 4096),
    (16, 4096, 4096),
    (512, 1024, 1024),
    (512, 4096, 4096),
    (2048, 1024, 4096),
    (333, 1000, 777),
    (8, 64, 64),
]
MEMORY_SHAPE = (512, 4096, 4096)


def problem(tokens: int, in_dim: int, out_dim: int) -> tuple[Any, Any, Any, Any]:
    """A layer, its dense twin, x and dy."""
    import jax

    import ternax as tx

    keys = jax.random.split(jax.random.key(0), 3)
    w = tx.init(keys[0], in_dim, out_dim)
    return w, w.dequantize(), jax.random.normal(keys[1], (tokens, in_dim)), jax.random.normal(keys[2], (tokens, out_dim))


def ternary_step(w: Any, x: Any, dy: Any) -> Any:
    """y, dx and the updated layer."""
    import jax

    import ternax as tx

    y, pullback = jax.vjp(lambda score, votes, x: tx.linear(_with_taps(w, score, votes), x), w.score, w.votes, x)
    y, dy = after(y, dy)
    score, votes, dx = pullback(dy)
    return y, dx, tx.update(w, _with_taps(w, score, votes))


def dense_step(w: Any, x: Any, dy: Any) -> Any:
    """y, dW and dx of a dense layer with weights ``[out, in]``."""
    import jax

    y, pullback = jax.vjp(lambda w, x: x @ w.T, w, x)
    y, dy = after(y, dy)
    return y, pullback(dy)


def after(y: Any, dy: Any) -> Any:
    """Both as they are, dy after y: in a training loop it comes from there, and XLA copies state that may be read after its update."""
    import jax

    return jax.lax.optimization_barrier((y, dy))


def in_place(step: Any, w: Any) -> Any:
    """`step(w, x, dy)` as a function of x and dy that keeps the layer, whose memory every call gives to the next one."""
    import jax

    kept = jax.tree.map(lambda leaf: leaf.copy(), w)

    def call(x: Any, dy: Any) -> Any:
        nonlocal kept
        y, dx, kept = step(kept, x, dy)
        return y, dx, kept.step

    return call


def _with_taps(w: Any, score: Any, votes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(w, score=score, votes=votes)


def torch_calls(w: Any, x: Any, dy: Any, threads: int) -> dict[str, measure.Call]:
    """The PyTorch reference's forward and step, or nothing where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import sys

    import numpy as np
    import torch

    sys.path.insert(0, str(ROOT / "tests"))
    import torch_reference

    torch.set_num_threads(threads)
    layer = torch_reference.TernaryLinear(w.in_dim, w.out_dim, group_size=w.group_size)
    layer.T_packed.copy_(torch_reference.pack(torch.from_numpy(np.array(w.unpack()))))
    x_torch = torch.from_numpy(np.array(x)).requires_grad_(True)
    dy_torch = torch.from_numpy(np.array(dy))

    def step() -> None:
        layer(x_torch).backward(dy_torch)
        layer.update_corr()

    def forward() -> None:
        with torch.no_grad():
            layer(x_torch)

    return {"torch forward": forward, "torch step": step}


def calls(tokens: int, in_dim: int, out_dim: int, threads: int) -> dict[str, measure.Call]:
    """Every contender on one shape."""
    import jax

    import ternax as tx

    w, dense, x, dy = problem(tokens, in_dim, out_dim)
    forward = jax.jit(tx.linear)
    step = in_place(jax.jit(ternary_step, donate_argnums=0), w)
    dense_forward = jax.jit(lambda w, x: x @ w.T)
    dense_full = jax.jit(dense_step)
    with tx.backend("reference"):
        port_forward = jax.jit(tx.linear).lower(w, x).compile()
        port_step = in_place(jax.jit(ternary_step, donate_argnums=0).lower(w, x, dy).compile(), w)
    return {
        "ternax forward": lambda: forward(w, x),
        "XLA dense forward": lambda: dense_forward(dense, x),
        "jnp port forward": lambda: port_forward(w, x),
        "ternax step": lambda: step(x, dy),
        "XLA dense step": lambda: dense_full(dense, x, dy),
        "jnp port step": lambda: port_step(x, dy),
    } | torch_calls(w, x, dy, threads)


def temporary_memory() -> tuple[int, int]:
    """Bytes that XLA sets aside for one jitted step beyond its arguments and results, and bytes of y + dx + scores."""
    import jax

    tokens, in_dim, out_dim = MEMORY_SHAPE
    w, _, x, dy = problem(tokens, in_dim, out_dim)
    analysis = jax.jit(ternary_step, donate_argnums=0).lower(w, x, dy).compile().memory_analysis()
    return analysis.temp_size_in_bytes, 4 * (tokens * (in_dim + out_dim) + w.exponent.size)


def main() -> None:
    """Prints the table and writes out/bench-layer.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="processors for every contender (all of them)")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each shape")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out" / "bench-layer.json")
    options = parser.parse_args()
    threads = measure.pin(options.threads)
    rows, lines = [], []
    for tokens, in_dim, out_dim in SHAPES:
        medians = measure.interleaved(calls(tokens, in_dim, out_dim, threads), seconds=options.seconds)
        rows.append({"tokens": tokens, "in": in_dim, "out": out_dim, "seconds": medians})
        for kind in ("forward", "step"):
            own = medians[f"ternax {kind}"]
            peers = [medians.get(f"{peer} {kind}") for peer in ("XLA dense", "jnp port", "torch")]
            ratios = ["-" if peer is None else f"{peer / own:.2f}" for peer in peers]
            lines.append([f"({tokens}, {in_dim}, {out_dim})", kind, measure.milliseconds(own), *ratios])
        print(f"measured ({tokens}, {in_dim}, {out_dim})", flush=True)
    print(f"\nratios peer / ternax, float32, medians, {threads} threads, {measure.processor()}\n")
    print(measure.table(["tokens, in, out", "what", "ternax ms", "XLA dense", "jnp port", "PyTorch reference"], lines))
    temporary, results = temporary_memory()
    print(f"\ntemporary memory of one jitted step at {MEMORY_SHAPE}: XLA sets aside {temporary / 2**20:.1f} MiB;")
    print(f"y + dx + scores are {results / 2**20:.1f} MiB")
    measure.write_json(options.out, rows, threads=threads, temporary_bytes=temporary, result_bytes=results)


if __name__ == "__main__":
    main()
