"""Trains an all-ternary network to read handwritten digits, next to the same network in float32.

    python python/examples/digits.py [--steps N] [--seeds N] [--out FOLDER]

The data are scikit-learn's 1797 scans of 8x8 pixels. The network has three layers without biases, 64-512-512-10, with a ReLU and
an RMS norm without weights after each hidden layer. Once all three matrices are ternary, trained by ``ternax``: the trits
stay as they are drawn, an integer per group of 32 weights learns its scale, and no float outlives a step. Once they are
float32, trained by AdamW.

Prints a table, also as markdown, and leaves in the output folder the learning curves (``digits.png``) and the
trained ternary network (``digits.safetensors``), which is loaded back and compared.
"""

import argparse
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits
from tqdm import tqdm

import ternax as tx

matplotlib.use("agg")
import matplotlib.pyplot as plt

SIZES = (64, 512, 512, 10)
BATCH = 256
TRAINING_IMAGES = 1437
# Steps that run as one compiled loop; the accuracy is measured in between.
STEPS_PER_CALL = 10
LEARNING_RATE = 2e-3

Params = list[Any]
Images = jax.Array
Labels = jax.Array


def digits() -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """Training and test images ``[n, 64]``, centred, and their labels ``[n]``; the same split at every call."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images, labels = data.data[order].astype(np.float32) / 16, data.target[order].astype(np.int32)
    images -= images[:TRAINING_IMAGES].mean(axis=0)
    train, test = slice(TRAINING_IMAGES), slice(TRAINING_IMAGES, None)
    return (jnp.asarray(images[train]), jnp.asarray(labels[train])), (jnp.asarray(images[test]), jnp.asarray(labels[test]))


def ternary_network(key: jax.Array) -> Params:
    """Three ternary layers. ``compact`` leaves out the zeros that gradients come out of: ``tx.value_and_grad`` makes them."""
    keys = jax.random.split(key, len(SIZES) - 1)
    return [tx.compact(tx.init(k, n_in, n_out)) for k, n_in, n_out in zip(keys, SIZES[:-1], SIZES[1:], strict=True)]


def dense_network(key: jax.Array) -> Params:
    """Three float32 matrices ``[out, in]`` with He's initialisation."""
    keys = jax.random.split(key, len(SIZES) - 1)
    init = jax.nn.initializers.he_normal(in_axis=1, out_axis=0)
    return [init(k, (n_out, n_in)) for k, n_in, n_out in zip(keys, SIZES[:-1], SIZES[1:], strict=True)]


def layer(weight: Any, x: jax.Array) -> jax.Array:
    """A ternary or a dense linear layer."""
    return tx.linear(weight, x) if isinstance(weight, tx.TernaryWeight) else x @ weight.T


def rms_norm(x: jax.Array) -> jax.Array:
    """Scales each row to a root mean square of 1."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def network(params: Params, images: Images) -> jax.Array:
    """Logits ``[n, 10]``."""
    x = images
    for weight in params[:-1]:
        x = rms_norm(jax.nn.relu(layer(weight, x)))
    return layer(params[-1], x)


def loss_function(params: Params, images: Images, labels: Labels) -> jax.Array:
    """Mean cross entropy, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(network(params, images), labels).mean()


@jax.jit
def accuracy(params: Params, images: Images, labels: Labels) -> jax.Array:
    """Share of the images that are read correctly."""
    return jnp.mean(jnp.argmax(network(tx.expand(params), images), axis=-1) == labels)


@dataclasses.dataclass(frozen=True)
class Method:
    """A kind of network and its optimizer."""

    name: str
    network: Callable[[jax.Array], Params]
    optimizer: Callable[[int], optax.GradientTransformation]


METHODS = (
    # Nothing in this network is dense, so the optimizer inside has nothing to do.
    Method("ternary, integers only", ternary_network, lambda steps: tx.with_ternary(optax.identity())),
    Method("float32, AdamW", dense_network, lambda steps: optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps))),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training run gave."""

    params: Params
    curve: list[float]  # test accuracy after each call
    losses: list[float]  # mean training loss of each call
    steps_per_second: float
    state_bytes: int  # of weights and optimizer


def resident_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def train(method: Method, seed: int, steps: int, data: tuple[tuple[Images, Labels], tuple[Images, Labels]], bar: tqdm) -> Run:
    """Trains one network; ``bar`` advances with the steps."""
    (images, labels), test = data
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    params = method.network(init_key)
    optimizer = method.optimizer(steps)
    opt_state = optimizer.init(params)

    def step(state: tuple[Params, Any], key: jax.Array) -> tuple[tuple[Params, Any], jax.Array]:
        params, opt_state = state
        chosen = jax.random.choice(key, len(images), (BATCH,), replace=False)
        loss, gradients = tx.value_and_grad(loss_function)(params, images[chosen], labels[chosen])
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    train_some = jax.jit(functools.partial(jax.lax.scan, step), donate_argnums=0)
    calls = jax.random.split(batch_key, (steps // STEPS_PER_CALL, STEPS_PER_CALL))
    # Compiled before the clock starts.
    train_some = train_some.lower((params, opt_state), calls[0]).compile()
    curve, losses, seconds = [float(accuracy(params, *test))], [], 0.0
    for keys in calls:
        start = time.perf_counter()
        (params, opt_state), loss = train_some((params, opt_state), keys)
        losses.append(float(loss.mean()))
        seconds += time.perf_counter() - start
        curve.append(float(accuracy(params, *test)))
        bar.set_postfix(loss=f"{losses[-1]:.3f}", test=f"{curve[-1]:.1%}")
        bar.update(STEPS_PER_CALL)
    return Run(params, curve, losses, calls.size / seconds, resident_bytes((params, opt_state)))


def check_checkpoint(params: Params, path: Path) -> None:
    """Saves the network, loads it back, and compares every leaf bit for bit."""
    tx.save(path, params)
    loaded = tx.load(path, params)
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), params, loaded)
    if not all(jax.tree.leaves(same)):
        raise SystemExit(f"{path}: what was loaded differs from what was saved")
    print(f"checkpoint: {path} ({path.stat().st_size:,} bytes) loads back equal, bit for bit")


def plot(results: dict[str, list[Run]], path: Path) -> None:
    """Learning curves of all runs: training loss and test accuracy against steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for color, (name, runs) in zip(("tab:orange", "tab:blue"), results.items(), strict=True):
        for axes, values, first in ((left, [run.losses for run in runs], 1), (right, [run.curve for run in runs], 0)):
            curves = np.array(values) * (100 if axes is right else 1)
            steps = STEPS_PER_CALL * np.arange(first, first + curves.shape[1])
            axes.plot(steps, curves.mean(axis=0), color=color, label=name)
            axes.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2, linewidth=0)
    left.set(title="Training loss", xlabel="step", ylabel="cross entropy (nats)", yscale="log")
    right.set(title="Accuracy on test images", xlabel="step", ylabel="images read correctly (%)", ylim=(0, 101))
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    seeds = len(next(iter(results.values())))
    figure.suptitle(f"Handwritten digits, network {'-'.join(map(str, SIZES))}: mean and range over {seeds} seed{'s' * (seeds > 1)}")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"learning curves: {path}")


def rows(results: dict[str, list[Run]]) -> list[tuple[str, ...]]:
    """The final table, header first."""
    weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(SIZES))
    table: list[tuple[str, ...]] = [("network", "test accuracy", "steps per second", "bytes of weights and optimizer", "bits per weight")]
    for name, runs in results.items():
        final = 100 * np.array([run.curve[-1] for run in runs])
        held = runs[0].state_bytes
        speed = np.median([run.steps_per_second for run in runs])
        table.append((name, f"{final.mean():.1f} ± {final.std():.1f} %", f"{speed:.0f}", f"{held:,}", f"{8 * held / weights:.2f}"))
    return table


def print_tables(table: list[tuple[str, ...]]) -> None:
    """The table for the terminal, then as markdown."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    print("\nas markdown:\n")
    for number, row in enumerate(table):
        print("| " + " | ".join(row) + " |")
        if number == 0:
            print("|" + "---|" * len(row))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains both networks and reports."""
    parser = argparse.ArgumentParser(description="Trains a ternary network on handwritten digits, next to a float32 one.")
    parser.add_argument("--steps", type=int, default=400, help=f"steps per run, a multiple of {STEPS_PER_CALL} (default: 400)")
    parser.add_argument("--seeds", type=int, default=3, help="runs per network (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture and the checkpoint (default: out)")
    options = parser.parse_args(arguments)
    if options.steps < STEPS_PER_CALL or options.steps % STEPS_PER_CALL or options.seeds < 1:
        parser.error(f"--steps must be a positive multiple of {STEPS_PER_CALL}, and --seeds at least 1")
    options.out.mkdir(parents=True, exist_ok=True)

    data = digits()
    print(f"{TRAINING_IMAGES} training images, {len(data[1][1])} test images, on {jax.devices()[0].device_kind} ({jax.default_backend()})")
    results: dict[str, list[Run]] = {}
    for method in METHODS:
        with tqdm(total=options.steps * options.seeds, desc=method.name, unit="step") as bar:
            results[method.name] = [train(method, seed, options.steps, data, bar) for seed in range(options.seeds)]

    print(f"\n{options.steps} steps of {BATCH} images, {options.seeds} seed(s), mean ± standard deviation:\n")
    print_tables(rows(results))
    print()
    check_checkpoint(results[METHODS[0].name][0].params, options.out / "digits.safetensors")
    plot(results, options.out / "digits.png")


if __name__ == "__main__":
    main()
