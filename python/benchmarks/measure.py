"""Timing that survives a noisy machine: all contenders take turns in one process, and medians are compared."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]


def pin(threads: int | None) -> int:
    """Confines this process to its first ``threads`` processors, before jax starts any thread; returns how many it has."""
    processors = sorted(os.sched_getaffinity(0))
    if threads is not None:
        if not 1 <= threads <= len(processors):
            raise SystemExit(f"--threads must be from 1 to {len(processors)}, got {threads}")
        processors = processors[:threads]
        os.sched_setaffinity(0, processors)
    os.environ["TERNAX_NUM_THREADS"] = str(len(processors))
    return len(processors)


def interleaved(calls: Mapping[str, Call], *, seconds: float, at_least: int = 5) -> dict[str, float]:
    """Median seconds of every call; they take turns for about ``seconds``, each ``at_least`` times, after one warm-up."""
    import jax

    for call in calls.values():
        jax.block_until_ready(call())
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, samples.values())) < at_least:
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def processor() -> str:
    """Name of the processor, as the operating system gives it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_json(path: pathlib.Path, rows: list[dict[str, Any]], **about: Any) -> None:
    """Writes the rows with what they were measured on."""
    import jax

    path.parent.mkdir(parents=True, exist_ok=True)
    about |= {"processor": processor(), "jax": jax.__version__, "rows": rows}
    path.write_text(json.dumps(about, indent=1) + "\n")
    print(f"\nwritten: {path}")


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds with three digits that matter."""
    return f"{1e3 * seconds:.3g}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    line = lambda row: "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
    return "\n".join([line(header), "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *map(line, rows)])
