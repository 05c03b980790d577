"""The table of targets on a card: ternax against dense layers in XLA, in one process, medians of interleaved runs.

Every measured program runs its operation many times over, on weights that rotate, so that neither launches nor the L2 decide.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import ternax as tx

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "python/benchmarks"))
import measure

GROUP = 32


def repeated(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A program that applies ``operation(weight, data)`` to stacked weights in turn, each depending on the one before."""

    def run(weights: Any, data: Any) -> Any:
        def body(carry: Any, weight: Any) -> Any:
            # Behind barriers, so that XLA neither drops nor merges what it could do once.
            weight, data_now, carry = jax.lax.optimization_barrier((weight, data, carry))
            result = jax.lax.optimization_barrier(operation(weight, data_now))
            return carry + result.ravel()[0].astype(jnp.float32), None

        return jax.lax.scan(body, jnp.float32(0), weights)[0]

    return jax.jit(run)


def members(in_dim: int, out: int) -> int:
    """So many weights that their dense form is 1 GiB, within reason."""
    return max(2, min(32, 2**30 // (in_dim * out * 2)))


def stacked(count: int, in_dim: int, out: int, dtype: Any) -> tuple[Any, Any]:
    """``count`` ternary weights, as trits and scales, and dense ones."""
    w = tx.init(jax.random.key(0), in_dim, out)
    scale = w.scale(jnp.bfloat16 if dtype == jnp.bfloat16 else jnp.float32)
    repeat = lambda a: jnp.repeat(a[None], count, axis=0)
    return (repeat(w.trits), repeat(scale)), repeat(jnp.asarray(w.dequantize(), dtype))


def own(tokens: int, in_dim: int, out: int, dtype: Any, kind: str) -> tuple[Callable[..., Any], tuple[Any, Any], int]:
    """A program of one ternary operation on weights in turn, what to call it with, and how many weights there are."""
    count = members(in_dim, out)
    x, dy = jnp.ones((tokens, in_dim), dtype), jnp.ones((tokens, out), dtype)
    weights, _ = stacked(count, in_dim, out, dtype)
    if kind == "forward":
        return repeated(lambda w, x: tx.ops.matmul(x, *w, group_size=GROUP)), (weights, x), count
    if kind == "dx":
        return repeated(lambda w, dy: tx.ops.matmul_transposed(dy, *w, in_dim=in_dim, group_size=GROUP)), (weights, dy), count
    return repeated(lambda w, x: tx.ops.correlate(x, dy, w[0], group_size=GROUP)[0]), (weights, x), count


def dense(tokens: int, in_dim: int, out: int, dtype: Any, kind: str) -> tuple[Callable[..., Any], tuple[Any, Any], int]:
    """The same of one dense operation."""
    count = members(in_dim, out)
    x, dy = jnp.ones((tokens, in_dim), dtype), jnp.ones((tokens, out), dtype)
    _, weights = stacked(count, in_dim, out, dtype)
    # float32 against float32, never against TF32.
    dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None)
    if kind == "forward":
        return repeated(lambda w, x: dot("mi,oi->mo", x, w)), (weights, x), count
    if kind == "dx":
        return repeated(lambda w, dy: dot("mo,oi->mi", dy, w)), (weights, dy), count
    return repeated(lambda w, x: dot("mo,mi->oi", dy, x)), (weights, x), count


def contest(tokens: int, in_dim: int, out: int, dtype: Any, kind: str, seconds: float) -> dict[str, Any]:
    """Median seconds of one ternary and one dense operation."""
    (ternary, ternary_data, count), (plain, plain_data, _) = own(tokens, in_dim, out, dtype, kind), dense(tokens, in_dim, out, dtype, kind)
    times = measure.interleaved({"ternax": lambda: ternary(*ternary_data), "dense": lambda: plain(*plain_data)}, seconds=seconds)
    each = {name: time / count for name, time in times.items()}
    return {"kernel": f"{kind} {out}x{in_dim}, {tokens} tokens, {dtype.__name__}", **each, "ratio": each["dense"] / each["ternax"]}


CONTESTS = [
    (1, 8192, 8192, jnp.bfloat16, "forward", 3.0),
    *[(tokens, 4096, 4096, jnp.bfloat16, "forward", 1.0) for tokens in (1, 4, 16, 64)],
    *[(tokens, 4096, 4096, jnp.bfloat16, kind, 0.9) for tokens in (1024, 4096) for kind in ("forward", "dx")],
    (4096, 4096, 4096, jnp.float32, "forward", 1.5),
    (4096, 4096, 4096, jnp.bfloat16, "correlate", 0.9),
]


def training(tokens: int, width: int, depth: int, seconds: float) -> dict[str, Any]:
    """One training step of a multi-layer perceptron in bfloat16 activations: ternary layers against float32 weights with AdamW."""
    keys = jax.random.split(jax.random.key(0), depth)
    x = jax.random.normal(jax.random.key(1), (tokens, width), jnp.bfloat16)
    dense = [jax.random.normal(key, (width, width)) / width**0.5 for key in keys]
    ternary = [tx.init(key, width, width) for key in keys]
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

    states: dict[str, Any] = {"dense": (dense, optimizer.init(dense)), "ternax": (ternary,)}
    size = {name: sum(leaf.nbytes for leaf in jax.tree.leaves(state)) for name, state in states.items()}

    def step(name: str, run: Callable[..., Any]) -> Any:
        result = run(*states[name])
        states[name] = result if name == "dense" else (result,)
        return result

    calls = {"ternax": lambda: step("ternax", ternary_step), "dense": lambda: step("dense", dense_step)}
    times = measure.interleaved(calls, seconds=seconds)
    name = f"training step {depth} x {width}, {tokens} tokens"
    return {"kernel": name, **times, "ratio": times["dense"] / times["ternax"], "memory": size["dense"] / size["ternax"]}


def first_call(cache: str) -> float:
    """Seconds of the first call in a fresh process, less those of the second one, with compiled kernels in ``cache``."""
    code = (
        "import time, jax, ternax as tx; w = tx.init(jax.random.key(0), 4096, 4096); x = jax.numpy.ones((4096, 4096), 'bfloat16'); "
        "f = jax.jit(tx.linear); a = time.perf_counter(); jax.block_until_ready(f(w, x)); b = time.perf_counter(); "
        "jax.block_until_ready(f(w, x)); print(2 * b - a - time.perf_counter())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    return float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    """Prints the table and writes it; the exit code does not depend on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the program itself")
    arguments = parser.parse_args()
    rows = []
    for tokens, in_dim, out, dtype, kind, target in CONTESTS:
        sizes = (min(tokens, 20), 128, 128) if arguments.tiny else (tokens, in_dim, out)
        row = contest(*sizes, dtype, kind, arguments.seconds) | {"must": target}
        rows.append(row)
        print(f"{row['kernel']:48} {row['ternax'] * 1e6:9.1f} us, dense {row['dense'] * 1e6:9.1f} us: {row['ratio']:5.2f} x, must {target}")
    row = training(*((20, 128, 2) if arguments.tiny else (4096, 4096, 8)), arguments.seconds) | {"must": 1.0}
    rows.append(row)
    print(f"{row['kernel']:48} {row['ratio']:5.2f} x the speed, must {row['must']}; 1/{row['memory']:.1f} of the memory, must 1/5")
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = first_call(cache), first_call(cache)
    rows.append({"kernel": "first call", "cold": cold, "warm": warm})
    print(f"first call: {cold:.2f} s with a cold cache, must 5; {warm:.2f} s with a warm one, must 0.3 (XLA's own compilation included)")
    measure.write_json(arguments.json, rows, device=str(jax.devices()[0].device_kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
