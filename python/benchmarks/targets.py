"""The CPU targets, measured at the level of jax programs: every row with what it had to reach beside it.

    python python/benchmarks/targets.py [--threads N] [--seconds S]

Ratios are peer / ternax, so that more is better; peers take turns with ternax in one process on the same processors. What only
the kernels can show (shares of the FMA peak, scaling over threads) is in the Rust bench ``targets``.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # else OpenBLAS picks its AVX2 kernels on AMD
# OpenBLAS makes its threads when numpy is imported, before this process is confined to some processors.
os.environ["OPENBLAS_NUM_THREADS"] = str(sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else 1)

import ggml_peer
import layer
import measure

SIZE = 4096
# Those that this process may use before it confines itself to some.
PROCESSORS = os.sched_getaffinity(0)


@dataclass(frozen=True)
class Target:
    """One row: a measured ratio, what it must reach and what it aims at."""

    what: str
    peer: str
    ratio: float | None
    """None where the peer is not there."""
    must: float | None
    aim: float | None

    def cells(self) -> list[str]:
        """The row as text."""
        show = lambda v: "-" if v is None else f"{v:g}"
        if self.ratio is None:
            return [self.what, self.peer, "-", show(self.must), show(self.aim), "NOT MEASURED"]
        verdict = "-" if self.must is None else "met" if self.ratio >= self.must else "MISSED"
        return [self.what, self.peer, f"{self.ratio:.2f}", show(self.must), show(self.aim), verdict]


def forward(tokens: int, threads: int, seconds: float) -> list[Target]:
    """y of one 4096 x 4096 layer whose scales are at hand; the dense peer in both layouts of its weight."""
    import jax
    import numpy as np

    import ternax as tx

    w, dense, x, _ = layer.problem(tokens, SIZE, SIZE)
    ours = jax.jit(lambda x, trits, scale: tx.ops.matmul(x, trits, scale, group_size=w.group_size))
    theirs, theirs_transposed = jax.jit(lambda w, x: x @ w.T), jax.jit(lambda w, x: x @ w)
    scale, transposed = w.scale(), dense.T.copy()
    dense_numpy, x_numpy = np.asarray(dense), np.asarray(x)
    calls: dict[str, measure.Call] = {
        "ternax": lambda: ours(x, w.trits, scale),
        "XLA dense [out, in]": lambda: theirs(dense, x),
        "XLA dense": lambda: theirs_transposed(transposed, x),
    }
    absent: list[str] = []
    if tokens >= 128:
        calls["OpenBLAS"] = lambda: x_numpy @ dense_numpy.T
    if tokens == 1:
        for name, kind in (("ggml TQ1_0 (int8 activations)", ggml_peer.TQ1_0), ("ggml TQ2_0 (int8 activations)", ggml_peer.TQ2_0)):
            if call := ggml_peer.matmul(dense_numpy, x_numpy, kind, threads):
                calls[name] = call
            else:
                absent.append(name)
    medians = measure.interleaved(calls, seconds=seconds)
    own = medians.pop("ternax")
    medians["XLA dense"] = min(medians["XLA dense"], medians.pop("XLA dense [out, in]"))
    goals = {
        "XLA dense": {1: (8, 12), 16: (3, 5)}.get(tokens, (1.75, 2.2)),
        "OpenBLAS": (1.75, 2.2),
        "ggml TQ1_0 (int8 activations)": (1.5, None),
        "ggml TQ2_0 (int8 activations)": (None, 1.0),
    }
    rows = [Target(f"forward, {tokens} tokens", peer, taken / own, *goals[peer]) for peer, taken in medians.items()]
    return rows + [Target(f"forward, {tokens} tokens", peer, None, *goals[peer]) for peer in absent]


def step(tokens: int, in_dim: int, out_dim: int, must: float, aim: float, seconds: float) -> Target:
    """y, dx, scores and update against dense y, dx and dW."""
    import jax

    w, dense, x, dy = layer.problem(tokens, in_dim, out_dim)
    ours = layer.in_place(jax.jit(layer.ternary_step, donate_argnums=0), w)
    theirs = jax.jit(layer.dense_step)
    medians = measure.interleaved({"ternax": lambda: ours(x, dy), "dense": lambda: theirs(dense, x, dy)}, seconds=seconds)
    return Target(f"full step, ({tokens}, {in_dim}, {out_dim})", "XLA dense y, dx, dW", medians["dense"] / medians["ternax"], must, aim)


def small_forward(tokens: int, in_dim: int, out_dim: int, seconds: float) -> Target:
    """y of a small layer, call overhead included."""
    import jax

    import ternax as tx

    w, dense, x, _ = layer.problem(tokens, in_dim, out_dim)
    ours, theirs = jax.jit(tx.linear), jax.jit(lambda w, x: x @ w.T)
    medians = measure.interleaved({"ternax": lambda: ours(w, x), "dense": lambda: theirs(dense, x)}, seconds=seconds)
    return Target(f"forward, ({tokens}, {in_dim}, {out_dim})", "XLA dense", medians["dense"] / medians["ternax"], 1.0, 1.5)


def bfloat16(tokens: int, seconds: float) -> list[Target]:
    """bfloat16 activations against float32 ones: forward, and dx with the scores."""
    import jax
    import jax.numpy as jnp

    import ternax as tx

    w, _, x, dy = layer.problem(tokens, SIZE, SIZE)
    half_x, half_dy = x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)
    forward, group_size = jax.jit(tx.linear), w.group_size
    scale = w.scale()
    transposed = jax.jit(lambda dy: tx.ops.matmul_transposed(dy, w.trits, scale, in_dim=SIZE, group_size=group_size))
    correlate = jax.jit(lambda x, dy: tx.ops.correlate(x, dy, w.trits, group_size=group_size))
    calls = {
        "forward": (lambda: forward(w, x), lambda: forward(w, half_x), 1.0, None),
        "dx": (lambda: transposed(dy), lambda: transposed(half_dy), 1.6, 1.9),
        "correlation": (lambda: correlate(x, dy), lambda: correlate(half_x, half_dy), 1.6, 1.9),
    }
    rows = []
    for name, (single, half, must, aim) in calls.items():
        medians = measure.interleaved({"float32": single, "bfloat16": half}, seconds=seconds)
        ratio = medians["float32"] / medians["bfloat16"]
        rows.append(Target(f"{name} in bfloat16, {tokens} tokens", "ternax float32", ratio, must, aim))
    return rows


def peak_memory() -> tuple[int, int]:
    """Bytes that this process grew by at the worst during one first step at (512, 4096, 4096), and those of y, dx and scores.

    Runs in a process of its own: ``python targets.py --memory``.
    """
    import jax

    tokens, in_dim, out_dim = layer.MEMORY_SHAPE
    w, dense, x, dy = layer.problem(tokens, in_dim, out_dim)
    del dense
    small = jax.block_until_ready(jax.jit(layer.ternary_step)(*_small_problem()))
    del small
    compiled = jax.jit(layer.ternary_step, donate_argnums=0).lower(w, x, dy).compile()

    def status(key: str) -> int:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = status("VmRSS")
    results = jax.block_until_ready(compiled(w, x, dy))
    grown = status("VmHWM") - before
    y, dx, updated = results
    return grown, y.nbytes + dx.nbytes + 4 * updated.exponent.size


def memory_of_step(threads: int) -> tuple[Target, str]:
    """What a step may add to this process over what it adds, and both in words."""
    command = [sys.executable, __file__, "--memory", "--threads", str(threads)]
    os.sched_setaffinity(0, PROCESSORS)  # the other process confines itself
    grown, kept = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    allowed = kept + threads * 4 * 2**20
    text = f"{threads} threads: a step at {layer.MEMORY_SHAPE} added {grown / 2**20:.1f} MiB at the worst, of {allowed / 2**20:.1f} MiB"
    row = Target(f"memory of a step, {threads} threads", "y + dx + scores + 4 MiB each", allowed / grown, 1.0, None)
    return row, text


def _small_problem() -> tuple[Any, Any, Any]:
    w, _, x, dy = layer.problem(8, 64, 64)
    return w, x, dy


def main() -> None:
    """Prints the table and writes out/bench-targets-N.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="processors for every contender")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row")
    parser.add_argument("--memory", action="store_true", help="only print the growth of this process during one step")
    options = parser.parse_args()
    threads = measure.pin(options.threads)
    if options.memory:
        print(*peak_memory())
        return
    rows = [row for tokens in (1, 16, 128, 512, 2048) for row in forward(tokens, threads, options.seconds)]
    rows += [step(1, SIZE, SIZE, 20, 30, options.seconds), step(512, SIZE, SIZE, 1.3, 1.5, options.seconds)]
    for shape in ((8, 64, 64), (32, 256, 256)):
        rows += [small_forward(*shape, options.seconds), step(*shape, 1.0, 1.5, options.seconds)]
    rows += bfloat16(512, options.seconds)
    memory = [memory_of_step(count) for count in sorted({threads, *range(1, 1 + min(2, len(PROCESSORS)))})]
    rows += [row for row, _ in memory]
    print(f"\nratios peer / ternax, float32 unless said, medians, {threads} threads unless said, {measure.processor()}\n")
    print(measure.table(["what", "peer", "ratio", "must", "aim", ""], [row.cells() for row in rows]))
    for _, text in memory:
        print(text)
    path = layer.ROOT / "out" / f"bench-targets-{threads}.json"
    measure.write_json(path, [vars(row) for row in rows], threads=threads, memory=[text for _, text in memory])


if __name__ == "__main__":
    main()
