"""Everything that can only be checked on a card, in one command: ``make gpu-check``, or this file with a Python that has ternax.

Nothing is fetched from anywhere. Logs and JSON go to one folder; a short table comes last, and the exit code is 1 where anything in it
failed. What cannot run is listed as NOT RUN, with the reason. One deadline holds for all of it: the checks run beside each other and
leave time for the measurements, which run alone after them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HERE = REPOSITORY / "tests/gpu"
# Seconds for everything, and how many of them the two measurements keep.
DEADLINE, CHOICE, BENCHMARK = 460, 80, 150
# After this many seconds more a step that does not end by itself is ended.
GRACE = 15

# The tests of tests/python that hold on every platform, the longest first; one_card.py leaves out what needs several devices.
TESTS = (
    *("golden", "transforms", "ops", "linear", "ensembles", "frameworks", "export", "update", "in_place", "bind", "reuse"),
    *("weight", "limbs", "norm", "bad_input", "io"),
)
WITHOUT = {
    "exact_and_vote, sharded_jit, shard_map, pmap, multi_process": "need several devices",
    "backend, compat, library, cli, readme, cuda, gpu_check": "hold without a GPU and run in `make test`",
}

# What everything else needs: a device, and calls that do not fall back to plain jax.numpy there.
START = """
import sys, jax, ternax
from ternax import _cuda
print(f"jax {jax.__version__}, {ternax.__file__}, {jax.devices(sys.argv[1])}")
sys.exit(_cuda.problem() or 0)
"""
# Graphs of one operation on, and the dump that shows what is in them.
GRAPHS = (
    "--xla_gpu_graph_min_graph_size=1 --xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL"
    " --xla_dump_hlo_module_re=jit_step --xla_dump_to="
)
# One allocation for each buffer, or an overrun lands in a neighbour; nothing of XLA's that tries kernels out or records them.
SANITIZED = {
    "XLA_PYTHON_CLIENT_ALLOCATOR": "platform",
    "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_command_buffer=",
}


@dataclass
class Step:
    """One line of the table."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    without: str = ""
    """Why it cannot run here."""


def tests() -> list[str]:
    """The command of the Python tests, in several processes where pytest can."""
    several = ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))] if importlib.util.find_spec("xdist") else []
    return ["-m", "pytest", "-p", "one_card", "--maxfail=40", *several, *(f"tests/python/test_{name}.py" for name in TESTS)]


def checks(folder: pathlib.Path, platform: str) -> list[Step]:
    """What is right or wrong, the longest first."""
    python, gpu = sys.executable, platform != "cpu"
    program = lambda name: [python, str(HERE / "programs.py"), name]
    sanitizer = shutil.which("compute-sanitizer")
    without = "needs a GPU" if not gpu else "" if sanitizer else "needs compute-sanitizer"
    # Only ternax's kernels; and no calls of the driver that fail as jax looks for what this driver has.
    options = ["--report-api-errors", "no", "--kernel-regex", "kns=ternax_kernel", "--error-exitcode", "9"]
    sanitize = lambda tool: [str(sanitizer), "--tool", tool, *options, *program("small")]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return [
        # Many programs are compiled, and none is timed.
        Step("operations, layers, transforms", [python, *tests()], {"PYTHONPATH": path, "XLA_FLAGS": "--xla_gpu_autotune_level=0"}),
        Step("compute-sanitizer memcheck", sanitize("memcheck"), SANITIZED, without),
        Step("compute-sanitizer racecheck", sanitize("racecheck"), SANITIZED, without),
        Step("compute-sanitizer synccheck", sanitize("synccheck"), SANITIZED, without),
        Step("integer state against the CPU's", program("state")),
        Step("CUDA graph, replayed", program("graph"), {"XLA_FLAGS": f"{GRAPHS}{folder / 'dump'}"}),
        Step("training with a loss as on the CPU", program("loss")),
        Step("many tokens against exact sums", program("many")),
        Step("instructions against the emulation", [python, str(HERE / "units.py"), *([] if gpu else ["--compile-only", "sm_90a"])]),
    ]


def measurements(folder: pathlib.Path, tiny: bool) -> list[tuple[Step, int]]:
    """What is measured, with the seconds that it may take; the benchmark uses the choice that was measured before it."""
    python, choice = sys.executable, folder / "cuda_choice.json"
    size = ["--tiny", "--seconds", "0.01"] if tiny else []
    choose = [python, str(HERE / "choose.py"), "--out", str(choice), "--limit", str(CHOICE - GRACE), *size]
    bench = [python, str(HERE / "bench.py"), "--json", str(folder / "bench.json"), "--choice", str(choice), *size]
    return [
        (Step("choice of implementations", choose), CHOICE),
        (Step("benchmark", [*bench, "--limit", str(BENCHMARK - 2 * GRACE)]), BENCHMARK),
    ]


def run(step: Step, log: pathlib.Path, environment: dict[str, str], seconds: float) -> dict[str, object]:
    """Runs a step and says how it ended."""
    start = time.perf_counter()
    line = {"step": step.name, "log": log.name}
    if step.without or seconds <= 0:
        return line | {"outcome": f"NOT RUN: {step.without or 'out of time'}", "seconds": 0.0}
    with log.open("w") as file:
        process = subprocess.Popen(
            step.command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env={**os.environ, "TERNAX_CUDA": "1", **environment, **step.environment},
            start_new_session=True,
        )
        late = False
        for ending in (signal.SIGINT, signal.SIGKILL):  # the first lets pytest say how far it came
            try:
                process.wait(seconds if not late else GRACE)
                break
            except subprocess.TimeoutExpired:
                late = True
                os.killpg(process.pid, ending)
        code = process.wait()
    said = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
    missing = [text for text in said if text.startswith("NOT RUN")]
    if late:
        outcome = f"FAILED: not done after {seconds:.0f} s"
    elif code:
        outcome = f"FAILED: exit code {code}"
    else:
        outcome = "passed" + "".join(f"; {text}" for text in missing)
    print(f"{step.name}: {outcome}", flush=True)
    return line | {"outcome": outcome, "seconds": round(time.perf_counter() - start, 1), "last": said[-1].strip("= ") if said else ""}


def card() -> str:
    """The GPU and its driver, as the driver's own tool names them."""
    tool = shutil.which("nvidia-smi")
    command = [str(tool), "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip() if tool else "no nvidia-smi"


def main() -> int:
    """Runs every step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "out/gpu-check")
    parser.add_argument("--platform", default="cuda", help="cpu tries the script itself, on small sizes")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds for everything")
    arguments = parser.parse_args()
    start = time.perf_counter()
    cpu = arguments.platform == "cpu"
    folder = arguments.out.resolve()
    shutil.rmtree(folder / "dump", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cuda_choice.json", "bench.json", "benchmark.log", "check.json"):
        (folder / name).unlink(missing_ok=True)
    environment = {"JAX_PLATFORMS": "cpu" if cpu else f"{arguments.platform},cpu"}
    print(f"{card()}; at most {arguments.deadline:.0f} s, of which the measurements keep {CHOICE + BENCHMARK}", flush=True)

    first = Step("devices", [sys.executable, "-c", START, arguments.platform])
    table = [run(first, folder / "devices.log", environment, 60)]
    if table[0]["outcome"] != "passed":
        print(f"{(folder / 'devices.log').read_text()}\nevery other step NOT RUN: jax has no such device, or ternax cannot run on it")
        return 1

    def check(step: Step) -> dict[str, object]:
        left = start + arguments.deadline - CHOICE - BENCHMARK - GRACE - time.perf_counter()
        log = folder / f"{step.name.replace(',', '').replace(' ', '-')}.log"
        return run(step, log, environment | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, left)

    beside = max(1, min(4, (os.cpu_count() or 1) // 4))
    with ThreadPoolExecutor(beside) as pool:
        table += pool.map(check, checks(folder, arguments.platform))
    for step, most in measurements(folder, cpu):
        left = start + arguments.deadline - time.perf_counter()
        table.append(run(step, folder / f"{step.name.replace(' ', '-')}.log", environment, min(left, most)))
    if (folder / "benchmark.log").exists():
        print("\n" + (folder / "benchmark.log").read_text())
    total = time.perf_counter() - start
    (folder / "check.json").write_text(json.dumps({"card": card(), "seconds": round(total, 1), "steps": table}, indent=1) + "\n")
    print("make gpu-choice takes over the choice of implementations that was measured here, and that the benchmark used")
    for names, reason in WITHOUT.items():
        print(f"NOT RUN, tests/python: {names} {reason}")
    width = max(len(str(line["step"])) for line in table)
    print()
    for line in table:
        last = str(line.get("last", ""))
        shown = f"  [{last[:90]}]" if last and last not in str(line["outcome"]) else ""
        print(f"{line['step']:{width}}  {line['seconds']:6.1f} s  {line['outcome']}{shown}")
    failed = sum(str(line["outcome"]).startswith("FAILED") for line in table)
    print(f"\n{total:.0f} s of {arguments.deadline:.0f}; {failed} of {len(table)} steps failed; logs in {arguments.out}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
