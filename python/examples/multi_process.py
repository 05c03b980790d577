"""Trains one ternary network in several processes, which JAX's own runtime joins into one program over one mesh.

By hand, one process per machine, here two (the first is the coordinator, which all must reach):

    python multi_process.py --coordinator host0:12345 --processes 2 --process 0     # on host0
    python multi_process.py --coordinator host0:12345 --processes 2 --process 1     # on host1

Under SLURM, where JAX finds all of this by itself:

    srun --nodes 2 --ntasks-per-node 1 python multi_process.py

Without any of it, the same program runs in one process. ``--model N`` splits every layer over N devices, so that the mesh is
data x model; ``--cpu-devices N`` gives each process N devices on machines without a GPU. Each process makes only its own part of
every batch. The digest that the first process prints is that of the integer state: it is the same however the devices are spread
over processes, but for signs of gradients so near to zero that they turn on the order of a float32 sum.
"""

import argparse
import hashlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import ternax as tx

INPUTS, HIDDEN, CLASSES, BATCH = 16, 256, 4, 128


def start(options: argparse.Namespace) -> None:
    """Joins the other processes; must come before the first use of a device."""
    if options.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if options.coordinator:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    elif "SLURM_JOB_ID" in os.environ:
        jax.distributed.initialize()


def batches(sharding: NamedSharding, steps: int) -> Any:
    """Whole batches of a teacher's data, of which each process draws and hands over only what its devices hold."""
    teacher = np.random.default_rng(0).standard_normal((INPUTS, CLASSES))

    def rows(index: tuple[slice, ...], step: int) -> np.ndarray:
        first, last, _ = index[0].indices(BATCH)
        return np.stack([np.random.default_rng((step, row)).integers(-4, 5, INPUTS) for row in range(first, last)]) / np.float32(4)

    for step in range(steps):
        x = jax.make_array_from_callback((BATCH, INPUTS), sharding, lambda index, step=step: rows(index, step))
        yield x, jax.make_array_from_callback((BATCH,), sharding, lambda index, step=step: (rows(index, step) @ teacher).argmax(1))


def train(options: argparse.Namespace) -> None:
    """A two-layer network, the first layer split by outputs and the second by inputs."""
    devices = np.array(jax.devices()).reshape(-1, options.model)
    mesh = jax.sharding.Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    keys = jax.random.split(jax.random.key(0))
    params = {"up": tx.init(keys[0], INPUTS, HIDDEN), "down": tx.init(keys[1], HIDDEN, CLASSES), "bias": jnp.zeros(CLASSES)}
    rules = {"up": PartitionSpec("model"), "down": PartitionSpec(None, "model"), "bias": None}
    params = tx.shard(jax.tree.map(np.asarray, params), mesh, rules)  # every process made the same ones

    def loss_fn(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        logits = tx.linear(params["down"], jax.nn.relu(tx.linear(params["up"], x))) + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer = tx.with_ternary(optax.sgd(0.1), votes=1)
    state = optimizer.init(params)

    @jax.jit
    def train_step(params: Any, state: Any, x: jax.Array, labels: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, grads = tx.value_and_grad(loss_fn)(params, x, labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    for x, labels in batches(NamedSharding(mesh, PartitionSpec("data")), options.steps):
        params, state, loss = train_step(params, state, x, labels)
    report(params, float(loss), options.steps)


def report(params: Any, loss: float, steps: int) -> None:
    """Collects the integers of all devices and prints their digest; every process must take part."""
    weights = [params["up"], params["down"]]
    integers = multihost_utils.process_allgather([(w.trits, w.exponent, w.corr, w.step) for w in weights], tiled=True)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(integers))).hexdigest()
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices, {steps} steps: loss {loss:.4f}, integers {digest}")


def main() -> None:
    """Reads the command line, joins the other processes and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coordinator", help="address of process 0, as host:port")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int, help="number of this process, from 0")
    parser.add_argument("--model", type=int, default=1, help="devices that each layer is split over")
    parser.add_argument("--cpu-devices", type=int, help="devices per process, on the CPU")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    start(options)
    train(options)


if __name__ == "__main__":
    main()
