"""Measures the table of choices, python/ternax/cuda_choice.json, on the card at hand: every operation by its own kernel and composed.

Only the rows of the card's architecture change, and in them only what there was time to measure; the file that is written replaces the
committed one (``make gpu-choice``).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import pathlib
import sys
import time
from typing import Any

import bench
import jax
import jax.numpy as jnp
import measure
import timing

from ternax import _choice, _cuda

WIDTH = 4096
KIND = {operation: kind for kind, operation in bench.OPERATION.items()}
COMPOSED = {"matmul": "dense", "matmul_transposed": "dense", "correlate": "blocked"}
MANY, SOME = (32, 128, 512, 1024, 2048, 4096), (128, 1024, 4096)
# What is composed at all, the most used first: dense weights in float16 would be less exact than the kernels' own.
CASES = [
    *[(operation, jnp.bfloat16, MANY) for operation in COMPOSED],
    ("correlate", jnp.float16, SOME),
    *[(operation, jnp.float32, SOME) for operation in COMPOSED],
]


def thresholds(faster: list[tuple[int, str]]) -> list[list[Any]]:
    """The least tokens of every run of one implementation, from the faster one at each number of tokens; below them, the kernel."""
    found: list[list[Any]] = [[1, "fused"]]
    for tokens, name in faster:
        if found[-1][1] != name:
            found.append([tokens, name])
    return found


def measured(operation: str, case: bench.Case, seconds: float) -> dict[str, float]:
    """Seconds of one operation by each implementation."""
    programs = {}
    for name in ("fused", COMPOSED[operation]):
        programs[name] = bench.ternary(case)
        with _choice.forced(name):
            jax.block_until_ready(programs[name]())
    return {name: found.seconds / case.count for name, found in timing.contest(programs, seconds).items()}


def text_of(table: dict[str, Any]) -> str:
    """The table as it is committed: one line for each dtype."""
    parts = []
    for architecture, row in table.items():
        fields = []
        for name, value in row.items():
            lines = [f'   "{dtype}": {json.dumps(found)}' for dtype, found in value.items()] if isinstance(value, dict) else []
            fields.append(f'  "{name}": ' + ("{\n" + ",\n".join(lines) + "\n  }" if lines else json.dumps(value)))
        parts.append(f' "{architecture}": {{\n' + ",\n".join(fields) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=0.05, help="of the wall clock for each number of tokens")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which nothing more is measured")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the program itself")
    arguments = parser.parse_args()
    end = time.perf_counter() + arguments.limit
    major, minor = min(_cuda._capabilities(), default=_choice.DEFAULT)
    table = dict(_choice.table())
    old = copy.deepcopy(_choice.row((major, minor)))
    found: dict[str, dict[str, list[list[Any]]]] = {operation: old[operation] for operation in COMPOSED}
    rows: list[dict[str, Any]] = []
    left: list[str] = []
    for operation, dtype, sizes in CASES:
        faster = []
        for tokens in (2, 20) if arguments.tiny else sizes:
            case = bench.Case(KIND[operation], tokens, 128 if arguments.tiny else WIDTH, dtype)
            if time.perf_counter() > end:
                break
            times = measured(operation, case, arguments.seconds)
            faster.append((tokens, min(times, key=lambda name: times[name])))
            rows.append({"operation": operation, "dtype": dtype.__name__, "tokens": tokens, **times})
            text = ", ".join(f"{name} {time_ * 1e6:.1f} us" for name, time_ in times.items())
            print(f"{operation:18} {dtype.__name__:8} {tokens:5} tokens: {text}", flush=True)
        else:
            found[operation][dtype.__name__] = thresholds(faster)
            continue
        left.append(f"{operation} in {dtype.__name__}")
    note = "estimates, not measured on a card"
    if not arguments.tiny:
        note = f"{WIDTH}x{WIDTH}, by tests/gpu/choose.py with jax {jax.__version__}" + (f"; as before: {', '.join(left)}" if left else "")
    device = None if arguments.tiny else str(jax.devices()[0].device_kind)
    table[f"sm_{major}{minor}"] = {"measured": device, "note": note, **found}
    if left:
        print(f"NOT RUN, out of time: {', '.join(left)}")
    arguments.out.write_text(text_of(dict(sorted(table.items(), key=lambda item: int(item[0].removeprefix("sm_"))))))
    measure.write_json(arguments.out.with_suffix(".times.json"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
