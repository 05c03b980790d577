"""One device against eight on the same processors, and one caller against eight Python threads, in one process.

    python python/benchmarks/devices.py [--seconds S]

Every form computes the same tokens with the same layer, so that the best a form can reach is the time of one device. What it
takes beyond that is the price of the form: for ternax, of kernels that share threads, and of the collectives between shards (the exact
score reduces dW, the vote only scores); for dense XLA, which stands beside it, of its own threads and of the reduction of dW.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import os
import pathlib
from typing import Any

import measure

DEVICES = 8
SHAPE = (2048, 1024, 1024)
ROOT = pathlib.Path(__file__).resolve().parents[2]


def forms() -> dict[str, dict[str, measure.Call]]:
    """Row name to the calls that take turns: ``one device`` first."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import ternax as tx

    tokens, in_dim, out_dim = SHAPE
    keys = jax.random.split(jax.random.key(0), 3)
    w = tx.init(keys[0], in_dim, out_dim)
    dense = w.dequantize()
    x, dy = jax.random.normal(keys[1], (tokens, in_dim)), jax.random.normal(keys[2], (tokens, out_dim))
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    on_all = jax.device_put((w, dense), whole), jax.device_put((x, dy), split)
    shards = [a.reshape(DEVICES, tokens // DEVICES, -1) for a in (x, dy)]
    pool = concurrent.futures.ThreadPoolExecutor(DEVICES)

    def step(w: Any, x: Any, dy: Any, reduce: str = "exact", axis_name: str | None = None) -> Any:
        loss = lambda w, x: (tx.linear(w, x, reduce=reduce, axis_name=axis_name) * dy).sum()
        dw, dx = tx.grad(loss, argnums=(0, 1))(w, x)
        return dx, tx.update(w, dw)

    def dense_step(w: Any, x: Any, dy: Any) -> Any:
        return jax.grad(lambda w, x: ((x @ w.T) * dy).sum(), argnums=(0, 1))(w, x)

    def in_threads(f: Any, *operands: Any) -> measure.Call:
        parts = [tuple(a[k] for a in operands) for k in range(DEVICES)]
        return lambda: list(pool.map(lambda part: jax.block_until_ready(f(*part)), parts))

    forward = jax.jit(tx.linear)
    exact, vote = jax.jit(step), jax.jit(functools.partial(step, reduce="vote"))
    product, dense_exact = jax.jit(lambda w, x: x @ w.T), jax.jit(dense_step)
    mapped = jax.pmap(functools.partial(step, axis_name="data"), axis_name="data", in_axes=(None, 0, 0), out_axes=(0, None))
    (w_all, dense_all), (x_all, dy_all) = on_all
    return {
        "forward": {
            "one device": lambda: forward(w, x),
            "sharded jit": lambda: forward(w_all, x_all),
            "Python threads": in_threads(lambda x: forward(w, x), shards[0]),
        },
        "dense forward": {
            "one device": lambda: product(dense, x),
            "sharded jit": lambda: product(dense_all, x_all),
            "Python threads": in_threads(lambda x: product(dense, x), shards[0]),
        },
        "step": {
            "one device": lambda: exact(w, x, dy),
            "sharded jit": lambda: exact(w_all, x_all, dy_all),
            "sharded jit, vote": lambda: vote(w_all, x_all, dy_all),
            "pmap": lambda: mapped(w, *shards),
            "Python threads": in_threads(lambda x, dy: exact(w, x, dy), *shards),
        },
        "dense step": {
            "one device": lambda: dense_exact(dense, x, dy),
            "sharded jit": lambda: dense_exact(dense_all, x_all, dy_all),
            "Python threads": in_threads(lambda x, dy: dense_exact(dense, x, dy), *shards),
        },
    }


def main() -> None:
    """Prints the table and writes ``out/bench-devices.json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="time of each row")
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    threads = measure.pin(None)
    rows = []
    for what, calls in forms().items():
        medians = measure.interleaved(calls, seconds=arguments.seconds)
        one = medians["one device"]
        rows += [{"what": what, "form": form, "seconds": s, "of_one_device": s / one} for form, s in medians.items()]
    print(f"{SHAPE} tokens, in, out; {DEVICES} devices; {threads} threads; medians of interleaved calls\n")
    cells = [[r["what"], r["form"], measure.milliseconds(r["seconds"]), f"{r['of_one_device']:.2f}"] for r in rows]
    print(measure.table(["what", "form", "ms", "of one device"], cells))
    measure.write_json(ROOT / "out" / "bench-devices.json", rows, threads=threads, devices=DEVICES)


if __name__ == "__main__":
    main()
