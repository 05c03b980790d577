"""The table of targets on a card: ternax against dense layers in XLA, in one process, medians of contenders that take turns.

A measured program applies its operation to weights that are separate operands, one after the other, each to the result of the one
before: nothing is copied, dropped or merged, and more weights than the L2 holds pass by. What counts is the time of its kernels
(timing.py); the wall clock per operation stands beside it.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python/benchmarks"))
import measure
import timing

import ternax as tx
from ternax import _choice

GROUP = 32
# Bytes of packed weights that an L2 does not hold, and the weights that show a product of many tokens as well as more would.
PAST_THE_L2, FEW = 150 * 2**20, 4
OPERATION = {"forward": "matmul", "dx": "matmul_transposed", "correlate": "correlate"}


@dataclass(frozen=True)
class Case:
    """One operation on square weights, and the ratios to the dense one that it must and that it should reach."""

    kind: str
    tokens: int
    width: int
    dtype: Any
    must: float = 0.0
    aim: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.width}x{self.width}, {self.tokens} tokens, {self.dtype.__name__}"

    @property
    def count(self) -> int:
        """How many weights there are."""
        return max(FEW, min(32, math.ceil(PAST_THE_L2 / (self.width**2 * 0.28)))) if self.tokens <= 64 else FEW


CASES = [
    Case("forward", 1, 8192, jnp.bfloat16, 3.0, 4.0),
    *[Case("forward", tokens, 4096, jnp.bfloat16, 1.0, 2.0 if tokens <= 16 else 1.0) for tokens in (1, 4, 16, 64)],
    *[Case(kind, tokens, 4096, jnp.bfloat16, 0.9, aim) for tokens, aim in ((1024, 1.05), (4096, 0.97)) for kind in ("forward", "dx")],
    Case("forward", 4096, 4096, jnp.float32, 1.5, 3.0),
    Case("correlate", 4096, 4096, jnp.bfloat16, 0.9, 1.0),
]


@functools.cache
def weights(width: int, count: int, dtype: Any) -> tuple[list[Any], list[Any]]:
    """``count`` packed weights with scales that keep the size of what passes through, and as many dense ones."""
    trits = jax.random.randint(jax.random.key(0), (width, width), -1, 2, jnp.int8)
    packed = tx.ops.pack(trits, group_size=GROUP)
    groups = math.ceil(width / GROUP)
    scale = jnp.full((width, groups), 2.0 ** -round(math.log2(width * 2 / 3) / 2), jnp.bfloat16 if dtype == jnp.bfloat16 else jnp.float32)
    whole = tx.ops.dequantize(packed, scale, in_dim=width, group_size=GROUP, dtype=dtype)
    return [(jnp.copy(packed), jnp.copy(scale)) for _ in range(count)], [jnp.copy(whole) for _ in range(count)]


def data(case: Case, key: int) -> jax.Array:
    """Random activations or cotangents: zeros would draw less power, and so run faster."""
    return jax.random.normal(jax.random.key(key), (case.tokens, case.width), case.dtype)


def chain(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A program that takes ``x`` through all weights."""
    return jax.jit(lambda weights, x: functools.reduce(lambda x, w: operation(w, x), weights, x))


def each(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A program that gives every weight activations and cotangents of its own: XLA would merge products that share one."""
    return jax.jit(lambda weights, pairs: [operation(w, *pair) for w, pair in zip(weights, pairs, strict=True)])


def ternary(case: Case) -> timing.Call:
    """The program of one ternary operation."""
    packed, _ = weights(case.width, case.count, case.dtype)
    if case.kind == "correlate":
        program = each(lambda w, x, dy: tx.ops.correlate(x, dy, w[0], group_size=GROUP)[0])
        pairs = [(data(case, 2 * k), data(case, 2 * k + 1)) for k in range(case.count)]
        return lambda: program(packed, pairs)
    if case.kind == "forward":
        program = chain(lambda w, x: tx.ops.matmul(x, *w, group_size=GROUP))
    else:
        program = chain(lambda w, dy: tx.ops.matmul_transposed(dy, *w, in_dim=case.width, group_size=GROUP))
    x = data(case, 1)
    return lambda: program(packed, x)


def dense(case: Case) -> timing.Call:
    """The same of one dense operation."""
    _, whole = weights(case.width, case.count, case.dtype)
    # float32 against float32, never against TF32.
    dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST if case.dtype == jnp.float32 else None)
    if case.kind == "correlate":
        program = each(lambda _, x, dy: dot("mo,mi->oi", dy, x))
        pairs = [(data(case, 2 * k), data(case, 2 * k + 1)) for k in range(case.count)]
        return lambda: program(whole, pairs)
    program = chain(lambda w, x: dot("mi,oi->mo" if case.kind == "forward" else "mo,oi->mi", x, w))
    x = data(case, 1)
    return lambda: program(whole, x)


def judged(met: bool) -> str:
    """What is said of a target, which is one of cards."""
    if jax.default_backend() == "cpu":
        return "NOT JUDGED"
    return "met" if met else "MISSED"


def row(name: str, times: dict[str, timing.Timing], count: int, must: float, aim: float) -> dict[str, Any]:
    """A line of the table, per operation."""
    names = times["ternax"].names
    if names and not any("ternax" in name for name in names):
        raise RuntimeError(f"no kernel of ternax ran, but {', '.join(names)}")
    ratio = times["dense"].seconds / times["ternax"].seconds
    found: dict[str, Any] = {"kernel": name, "ratio": ratio, "must": must, "aim": aim, "verdict": judged(ratio >= must)}
    for contender, time_ in times.items():
        found[contender] = {
            "kernels": None if time_.kernels is None else time_.kernels / count,
            "wall": time_.wall / count,
            "names": time_.names,
        }
    return found


def text(found: dict[str, Any]) -> str:
    """That line for a reader."""

    def microseconds(contender: str) -> str:
        kernels, wall = (found[contender][what] for what in ("kernels", "wall"))
        return f"{'   no kernels' if kernels is None else f'{kernels * 1e6:10.1f} us'} ({wall * 1e6:.1f})"

    extra = f"  {found['extra']}" if "extra" in found else ""
    return (
        f"{found['kernel']:44} {microseconds('ternax'):>24}  dense {microseconds('dense'):>24}  {found['ratio']:5.2f} x"
        f"  must {found['must']:<4} aim {found['aim']:<4} {found['verdict']}{extra}"
    )


def training(tokens: int, width: int, depth: int, seconds: float) -> dict[str, Any]:
    """One training step of a multi-layer perceptron in bfloat16 activations: ternary layers against float32 weights with AdamW."""
    import optax

    keys = jax.random.split(jax.random.key(0), depth)
    x = jax.random.normal(jax.random.key(1), (tokens, width), jnp.bfloat16)
    whole = [jax.random.normal(key, (width, width)) / width**0.5 for key in keys]
    packed = [tx.init(key, width, width) for key in keys]
    optimizer = optax.adamw(1e-3)

    def loss(layers: Any, apply: Callable[..., Any]) -> Any:
        y = x
        for layer in layers:
            y = jax.nn.relu(apply(layer, y))
        return jnp.mean(y.astype(jnp.float32) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def dense_step(layers: Any, state: Any) -> Any:
        gradients = jax.grad(loss)(layers, lambda w, y: y @ w.astype(y.dtype))
        updates, state = optimizer.update(gradients, state, layers)
        return optax.apply_updates(layers, updates), state

    @functools.partial(jax.jit, donate_argnums=0)
    def ternary_step(layers: Any) -> Any:
        gradients = tx.grad(lambda layers: loss(layers, tx.linear))(layers)
        return [tx.update(w, gradient) for w, gradient in zip(layers, gradients, strict=True)]

    states: dict[str, Any] = {"dense": (whole, optimizer.init(whole)), "ternax": (packed,)}
    size = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(state)) for name, state in states.items()}

    def step(name: str, run: Callable[..., Any]) -> Any:
        result = run(*states[name])
        states[name] = result if name == "dense" else (result,)
        return result

    calls = {"ternax": lambda: step("ternax", ternary_step), "dense": lambda: step("dense", dense_step)}
    found = row(f"training step {depth} x {width}, {tokens} tokens", timing.contest(calls, seconds), 1, 1.0, 1.15)
    memory = size["dense"] / size["ternax"]
    return found | {"memory": memory, "extra": f"1/{memory:.1f} of the memory, must 1/5: {'met' if memory >= 5 else 'MISSED'}"}


def step_of_two_layers(tokens: int, width: int) -> None:
    """Prints the seconds that the first run of a compiled training step takes beyond a second one, every operation by its own kernel."""
    layers = [tx.init(key, width, width) for key in jax.random.split(jax.random.key(0))]
    x = jnp.ones((tokens, width), jnp.bfloat16)

    def step(layers: Any, x: Any) -> Any:
        loss = lambda layers: jnp.mean(tx.linear(layers[1], tx.linear(layers[0], x)).astype(jnp.float32) ** 2)
        return [tx.update(w, gradient) for w, gradient in zip(layers, tx.grad(loss)(layers), strict=True)]

    with _choice.forced("fused"):
        compiled = jax.jit(step).lower(layers, x).compile()
    jax.block_until_ready((layers, x))
    times = [time.perf_counter()]
    for _ in range(2):
        jax.block_until_ready(compiled(layers, x))
        times.append(time.perf_counter())
    print(2 * times[1] - times[0] - times[2])


def first_call(tokens: int, width: int) -> dict[str, Any]:
    """The same in fresh processes, with compiled kernels in an empty folder, then in the full one; XLA's compilation is not in it."""
    command = [sys.executable, __file__, "--first-call", str(tokens), str(width)]
    with tempfile.TemporaryDirectory() as cache:
        # This process holds most of the card's memory.
        environment = os.environ | {"XDG_CACHE_HOME": cache, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        runs = [subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True) for _ in range(2)]
    cold, warm = (float(run.stdout.split()[-1]) for run in runs)
    verdict = judged(cold <= 5 and warm <= 0.3)
    return {"kernel": f"first training step, {tokens} tokens, {width}x{width}", "cold": cold, "warm": warm, "verdict": verdict}


def text_of_first_call(found: dict[str, Any]) -> str:
    """The line of the first call."""
    times = f"{found['cold']:.2f} s with a cold cache, must 5; {found['warm']:.2f} s with a warm one, must 0.3"
    return f"{found['kernel']:44} {times}  {found['verdict']}"


def main() -> int:
    """Prints the table and writes it; the exit code is 1 where a line could not be measured, and does not depend on what is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=0.5, help="of the wall clock for each line")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no line is begun")
    parser.add_argument("--choice", type=pathlib.Path, help="a table of implementations in place of the package's")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the program itself")
    parser.add_argument("--first-call", type=int, nargs=2, metavar=("TOKENS", "WIDTH"), help="only that, in this process")
    arguments = parser.parse_args()
    if arguments.first_call:
        step_of_two_layers(*arguments.first_call)
        return 0
    if arguments.choice and arguments.choice.exists():
        _choice.FILE = arguments.choice
    tiny, end = arguments.tiny, time.perf_counter() + arguments.limit
    print(f"per operation: time of the kernels (wall clock); {_choice.FILE.name} of {_choice.FILE.parent} chooses the implementations\n")
    rows: list[dict[str, Any]] = []

    def line(name: str, measured: Callable[[], dict[str, Any]], shown: Callable[[dict[str, Any]], str]) -> None:
        try:
            if time.perf_counter() > end:
                raise TimeoutError("out of time")
            rows.append(measured())
            print(shown(rows[-1]), flush=True)
        except Exception as error:  # one line that fails must not hide the others
            verdict = "NOT RUN" if isinstance(error, TimeoutError | ImportError) else "FAILED"
            rows.append({"kernel": name, "verdict": verdict, "reason": str(error)})
            print(f"{name:44} {verdict}: {error}", flush=True)

    def operation(case: Case) -> dict[str, Any]:
        times = timing.contest({"ternax": ternary(case), "dense": dense(case)}, arguments.seconds)
        return row(str(case), times, case.count, case.must, case.aim) | {
            "extra": _choice.named(OPERATION[case.kind], jnp.dtype(case.dtype), case.tokens)
        }

    sizes = (20, 128) if tiny else (4096, 4096)
    for case in [Case(case.kind, min(case.tokens, 20), 128, case.dtype, case.must, case.aim) for case in CASES] if tiny else CASES:
        line(str(case), functools.partial(operation, case), text)
        weights.cache_clear()
    line("training step", lambda: training(*sizes, 2 if tiny else 8, arguments.seconds), text)
    line("first call", lambda: first_call(*sizes), text_of_first_call)
    count = {verdict: sum(found["verdict"] == verdict for found in rows) for verdict in ("met", "MISSED", "NOT RUN", "FAILED")}
    print("\n" + ", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    if jax.default_backend() == "cpu":
        print("NOT RUN: kernel times and targets need a GPU; these figures only try the program")
    if arguments.json:
        measure.write_json(arguments.json, rows, device=str(jax.devices()[0].device_kind))
    return int(count["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
