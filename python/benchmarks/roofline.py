"""Draws what the kernels reach beside what the processor can, from the JSON that the Rust bench ``targets`` writes.

python python/benchmarks/roofline.py [out/bench-kernels.json] [--out FILE.png]
"""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = {"forward": "tab:blue", "dx": "tab:orange", "correlation": "tab:green"}


def draw(measured: dict, path: pathlib.Path) -> None:
    """One curve per kernel: GFLOP/s of one thread over the number of tokens, with the FMA peak as a line."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for kernel, colour in KERNELS.items():
        rows = sorted((row["tokens"], row["gflops"]) for row in measured["sweep"] if row["kernel"] == kernel)
        axes.plot(*zip(*rows, strict=True), marker="o", markersize=3, color=colour, label=f"ternax {kernel}")
    axes.axhline(measured["peak_gflops"], color="black", linestyle="--", label="FMA peak of one core, measured in the same run")
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens")
    axes.set_ylabel("GFLOP/s (2 per weight and token)")
    axes.set_title("A 4096 x 4096 ternary layer in float32, one thread")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"written: {path}")


def main() -> None:
    """Reads the JSON and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", nargs="?", type=pathlib.Path, default=ROOT / "out" / "bench-kernels.json")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches" / "roofline.png")
    options = parser.parse_args()
    draw(json.loads(options.json.read_text()), options.out)


if __name__ == "__main__":
    main()
