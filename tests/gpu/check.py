"""Everything that can only be checked on a card, in one command: ``make gpu-check``, or this file with a Python that has ternax.

Nothing is fetched from anywhere. Logs and JSON go to one folder; a short table comes last, and the exit code is 1 where
anything in it failed. A step whose tool is missing is listed as NOT RUN.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HERE = REPOSITORY / "tests/gpu"
# What the CPU's tests hold for every platform; the others are about the CPU's own calls, files and the command.
TESTS = ("ops", "linear", "bind", "update", "norm", "weight", "limbs", "golden", "frameworks")
GRAPHS = "--xla_gpu_graph_min_graph_size=1 --xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL"


@dataclass
class Step:
    """One line of the table."""

    name: str
    command: list[str]
    limit: int
    environment: dict[str, str]
    needs: str = ""
    """A program that must be there."""


def steps(folder: pathlib.Path, platform: str, tiny: bool) -> list[Step]:
    """All steps, in order."""
    python = sys.executable
    on = {"JAX_PLATFORMS": platform if platform == "cpu" else f"{platform},cpu"}
    tests = [f"tests/python/test_{name}.py" for name in TESTS]
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    return [
        Step("instructions against the emulation", [python, str(HERE / "units.py")], 60, {}, "libcuda" if platform != "cpu" else "a GPU"),
        Step("operations, layers, transforms, parity", [python, "-m", "pytest", "--maxfail=20", *tests], 300, on),
        Step("integer state against the CPU's", [python, str(HERE / "programs.py"), "state"], 60, on),
        Step(
            "CUDA graph, replayed",
            [python, str(HERE / "programs.py"), "graph"],
            60,
            on | {"XLA_FLAGS": GRAPHS if platform != "cpu" else ""},
        ),
        Step("many tokens against exact sums", [python, str(HERE / "programs.py"), "many"], 60, on),
        Step(
            "compute-sanitizer memcheck",
            [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", python, str(HERE / "programs.py"), "small"],
            180,
            on | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            "compute-sanitizer",
        ),
        Step(
            "choice of implementations",
            [
                python,
                str(HERE / "choose.py"),
                "--out",
                str(folder / "cuda_choice.json"),
                *(["--tiny", "--seconds", "0.01"] if tiny else []),
            ],
            150,
            on,
        ),
        Step(
            "benchmark",
            [python, str(HERE / "bench.py"), "--json", str(folder / "bench.json"), *(["--tiny", "--seconds", "0.05"] if tiny else [])],
            180,
            on,
        ),
    ]


def outcome(step: Step, log: pathlib.Path) -> str:
    """Runs a step and says how it ended."""
    if step.needs == "a GPU" or (step.needs == "compute-sanitizer" and not shutil.which(step.needs)):
        return f"NOT RUN: needs {step.needs}"
    try:
        with log.open("w") as file:
            code = subprocess.run(
                step.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, "TERNAX_CUDA": "1", **step.environment},
                timeout=step.limit,
                check=False,
            ).returncode
    except subprocess.TimeoutExpired:
        return f"FAILED: more than {step.limit} s"
    return "passed" if code == 0 else f"FAILED: exit code {code}, see {log}"


def main() -> int:
    """Runs every step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "out/gpu-check")
    parser.add_argument("--platform", default="cuda", help="cpu tries the script itself, on small sizes")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = []
    for index, step in enumerate(steps(arguments.out, arguments.platform, arguments.platform == "cpu")):
        start = time.perf_counter()
        log = arguments.out / f"{index}-{step.name.split(' ')[0].strip(',')}.log"
        result = outcome(step, log)
        table.append({"step": step.name, "outcome": result, "seconds": round(time.perf_counter() - start, 1), "log": log.name})
        print(f"{step.name}: {result}", flush=True)
    (arguments.out / "check.json").write_text(json.dumps(table, indent=1) + "\n")
    bench = arguments.out / f"{len(table) - 1}-benchmark.log"
    if bench.exists():
        print("\n" + bench.read_text())
    print("make gpu-choice takes over the choice of implementations that was measured; then build again and repeat the benchmark\n")
    width = max(len(line["step"]) for line in table)
    for line in table:
        print(f"{line['step']:{width}}  {line['seconds']:6.1f} s  {line['outcome']}")
    return int(any(line["outcome"].startswith("FAILED") for line in table))


if __name__ == "__main__":
    sys.exit(main())
