"""Measures the table of choices, python/ternax/cuda_choice.json, on the card at hand: every operation by its own kernel and composed.

Only the rows of the card's architecture change; the file that is written replaces the committed one (``make gpu-choice``).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

import bench
import jax
import jax.numpy as jnp
import measure

from ternax import _choice, _cuda

WIDTH = 4096
TOKENS = (32, 128, 512, 2048)
COMPOSED = {"matmul": "dense", "matmul_transposed": "dense", "correlate": "blocked"}
# Where a composition is possible at all: dense weights in float16 would be less exact than the kernels' own.
CASES = [
    (operation, dtype)
    for operation in COMPOSED
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16)
    if operation == "correlate" or dtype != jnp.float16
]


def thresholds(faster: list[tuple[int, str]]) -> list[list[Any]]:
    """The least tokens of every run of one implementation, from the faster one at each number of tokens."""
    found: list[list[Any]] = []
    for tokens, name in faster:
        if not found or found[-1][1] != name:
            found.append([tokens if found else 1, name])
    return found


def measured(operation: str, dtype: Any, width: int, seconds: float) -> tuple[list[list[Any]], list[dict[str, Any]]]:
    """Thresholds of one operation and dtype, and the seconds that they come from."""
    faster, rows = [], []
    kind = {"matmul": "forward", "matmul_transposed": "dx", "correlate": "correlate"}[operation]
    for tokens in TOKENS:
        programs, count = {}, 0
        for name in ("fused", COMPOSED[operation]):
            program, data, count = bench.own(tokens, width, width, dtype, kind)
            with _choice.forced(name):
                jax.block_until_ready(program(*data))
            programs[name] = lambda program=program, data=data: program(*data)
        times = {name: time / count for name, time in measure.interleaved(programs, seconds=seconds).items()}
        best = min(times, key=lambda name: times[name])
        faster.append((tokens, best))
        rows.append({"operation": operation, "dtype": dtype.__name__, "tokens": tokens, **times})
        text = ", ".join(f"{name} {time * 1e6:.1f} us" for name, time in times.items())
        print(f"{operation:18} {dtype.__name__:8} {tokens:5} tokens: {text}", flush=True)
    return thresholds(faster), rows


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
    parser.add_argument("--seconds", type=float, default=0.3, help="for each number of tokens")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the program itself")
    arguments = parser.parse_args()
    major, minor = min(_cuda._capabilities(), default=_choice.DEFAULT)
    table = dict(_choice.table())
    row: dict[str, Any] = {"measured": None if arguments.tiny else str(jax.devices()[0].device_kind)}
    row["note"] = (
        "estimates, not measured on a card" if arguments.tiny else f"{WIDTH}x{WIDTH}, by tests/gpu/choose.py with jax {jax.__version__}"
    )
    for operation in COMPOSED:
        row[operation] = {dtype: [[1, "fused"]] for dtype in ("float32", "bfloat16", "float16")}
    rows = []
    for operation, dtype in CASES:
        row[operation][dtype.__name__], found = measured(operation, dtype, 128 if arguments.tiny else WIDTH, arguments.seconds)
        rows += found
    table[f"sm_{major}{minor}"] = row
    arguments.out.write_text(text_of(dict(sorted(table.items(), key=lambda item: int(item[0].removeprefix("sm_"))))))
    measure.write_json(arguments.out.with_suffix(".times.json"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
