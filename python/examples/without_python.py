"""Writes a model and its training step as programs that ``examples/run_hlo.rs`` runs without Python: ``make xla-rs``.

usage: without_python.py FOLDER
"""

import pathlib
import sys

import jax
import jax.numpy as jnp

import ternax as tx

BATCH, SIZES = 128, (64, 256, 10)


def logits(weights: list[tx.TernaryWeight], x: jax.Array) -> jax.Array:
    for w in weights[:-1]:
        x = jax.nn.relu(tx.linear(w, x))
    return tx.linear(weights[-1], x)


def infer(weights: list[tx.TernaryWeight], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = logits(weights, x)
    return y, jnp.argmax(y, axis=-1)


def train(weights: list[tx.TernaryWeight], x: jax.Array, labels: jax.Array) -> tuple[jax.Array, list[tx.TernaryWeight]]:
    def loss_fn(weights: list[tx.TernaryWeight]) -> jax.Array:
        rows = jax.nn.log_softmax(logits(weights, x))
        return -jnp.mean(jnp.take_along_axis(rows, labels[:, None], axis=1))

    loss, grads = tx.value_and_grad(loss_fn)(weights)
    return loss, [tx.update(w, grad, votes=1) for w, grad in zip(weights, grads, strict=True)]


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    weights = [tx.init(key, n_in, n_out) for key, n_in, n_out in zip(keys, SIZES, SIZES[1:], strict=False)]
    x, labels = jax.random.normal(keys[-1], (BATCH, SIZES[0])), jnp.arange(BATCH) % SIZES[-1]
    _, weights = jax.jit(train)(weights, x, labels)  # so that the programs start from a state that is not all zeros
    tx.export.write_program(folder / "infer", infer, weights, x)
    tx.export.write_program(folder / "train", train, weights, x, labels)


if __name__ == "__main__":
    main()
