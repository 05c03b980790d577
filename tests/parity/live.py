"""Runs the PyTorch reference and ternax side by side and prints how far apart they are: ``python tests/parity/live.py``.

Every case is an open loop: both sides see the same random inputs and the same gradients of the outputs, for 100 steps of
forward, backward and update.

* dyadic inputs: every sum of dW is exact, so corr and step must be equal bit for bit after every step.
* normal inputs: a score may differ where rounding decides the sign of an entry of dW, which happens to about 4 in 10^8 of them.

y and dx must agree within the rounding errors of their sums (``tests/bounds.py``), and S within an ulp where corr is equal.
Exits with status 1 if any of this fails.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import ternax as tx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bounds import product_difference, ulps
from torch_reference import TernaryLinear

# Share of the signs of dW that may differ between two float32 implementations: 4e-8 was measured on CPU. Matrix units
# of GPUs truncate, where CPUs round.
SIGN_RATE = {"cpu": 2e-7, "gpu": 2e-6}
HUGE_STEP = 2**33 + 12345


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    out_dim: int
    in_dim: int
    group_size: int
    batch: tuple[int, ...]
    normal: bool = False
    huge: bool = False

    @property
    def groups(self) -> int:
        return math.ceil(self.in_dim / self.group_size)

    @property
    def shape(self) -> str:
        return f"{'x'.join(map(str, self.batch))} {self.in_dim}>{self.out_dim} /{self.group_size}"


CASES = (
    Case("aligned", 64, 160, 32, (16,)),
    Case("misaligned rows", 48, 77, 11, (16,)),
    Case("ragged last group", 40, 100, 32, (16,)),
    Case("group of one", 24, 33, 1, (8,)),
    Case("group larger than the row", 24, 50, 128, (8,)),
    Case("3-D batch", 32, 96, 32, (4, 6)),
    Case("no batch dimension", 32, 96, 32, ()),
    Case("one token", 32, 96, 32, (1,)),
    Case("one by one", 1, 1, 32, (4,)),
    Case("huge corr and step", 48, 96, 32, (16,), huge=True),
    Case("wide", 512, 1024, 32, (32,)),
    Case("aligned", 64, 160, 32, (64,), normal=True),
    Case("ragged last group", 40, 101, 32, (64,), normal=True),
    Case("huge corr and step", 48, 96, 32, (16,), normal=True, huge=True),
    Case("square", 1024, 1024, 32, (32,), normal=True),
)


@dataclasses.dataclass
class Differences:
    """What the steps of one case add up to."""

    scores: int = 0
    corr: int = 0
    step: int = 0
    scale_ulps: int = 0
    y: float = 0.0  # largest share of its bound
    dx: float = 0.0


@jax.jit
def train_step(w: tx.TernaryWeight, x: Any, dy: Any) -> tuple[Any, Any, tx.TernaryWeight]:
    """y, dx, and the weight after one update."""

    def loss(w: tx.TernaryWeight, x: Any) -> tuple[Any, Any]:
        y = tx.linear(w, x)
        return jnp.sum(y * dy), y

    (_, y), (gradient, dx) = tx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(w, x)
    return y, dx, tx.update(w, gradient)


def torch_step(layer: TernaryLinear, x_host: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y and dx; the layer is updated."""
    x = torch.from_numpy(x_host).requires_grad_()
    y = layer(x)
    y.backward(torch.from_numpy(dy))
    layer.update_corr()
    return y.detach().numpy(), x.grad.numpy()


def share(difference: np.ndarray, bound: np.ndarray) -> float:
    """The largest difference, as a share of its bound; zero where both are zero."""
    shares = np.divide(difference, bound, out=np.where(difference > 0, np.inf, 0.0), where=bound > 0)
    return float(shares.max(initial=0.0))


def layers(case: Case, random: np.random.Generator) -> tuple[TernaryLinear, tx.TernaryWeight]:
    """The same layer on both sides."""
    layer = TernaryLinear(case.in_dim, case.out_dim, group_size=case.group_size)
    if case.huge:
        largest = HUGE_STEP * case.group_size
        layer.corr_accum.copy_(torch.from_numpy(random.integers(-largest, largest, layer.corr_accum.shape)))
        layer.step_counter.fill_(HUGE_STEP)
    grid = (case.out_dim, case.groups)
    exponent, corr = layer.E.numpy().reshape(grid), layer.corr_accum.numpy().reshape(grid)
    step = layer.step_counter.item()
    return layer, tx.from_trits(layer.trits().numpy(), group_size=case.group_size, exponent=exponent, corr=corr, step=step)


def compare(case: Case, steps: int, random: np.random.Generator) -> Differences:
    """Runs both sides for ``steps`` steps."""
    layer, w = layers(case, random)
    found = Differences()

    def numbers(size: int) -> np.ndarray:
        values = random.standard_normal((*case.batch, size)) if case.normal else random.integers(-8, 9, (*case.batch, size)) / 4
        return values.astype(np.float32)

    for _ in range(steps):
        x, dy = numbers(case.in_dim), numbers(case.out_dim)
        corr = layer.corr_accum.numpy().copy(), w.corr_int64().ravel()
        theirs, ours = layer.dequantize().numpy(), np.asarray(w.dequantize())
        same = corr[0] == corr[1]
        scale_ulps = ulps(layer.scale().numpy(), np.asarray(w.scale()).ravel())
        found.scale_ulps = max(found.scale_ulps, int(scale_ulps[same].max(initial=0)))
        y_theirs, dx_theirs = torch_step(layer, x, dy)
        y, dx, w = train_step(w, x, dy)
        found.y = max(found.y, share(np.abs(y_theirs - np.asarray(y, np.float64)), product_difference(x, theirs.T, ours.T)))
        found.dx = max(found.dx, share(np.abs(dx_theirs - np.asarray(dx, np.float64)), product_difference(dy, theirs, ours)))
        after = layer.corr_accum.numpy(), w.corr_int64().ravel()
        found.scores += int(np.sum(after[0] - corr[0] != after[1] - corr[1]))
        found.corr += int(np.sum(after[0] != after[1]))
        found.step += int(layer.step_counter.item() != w.step_int64())
    return found


def allowed_scores(case: Case, steps: int, platform: str) -> int:
    """How many scores may differ: none on dyadic inputs; never fewer than 1 on normal ones, which are random."""
    signs = case.out_dim * case.in_dim * steps
    return max(1, math.ceil(SIGN_RATE[platform] * signs)) if case.normal else 0


def sound(case: Case, found: Differences, allowed: int) -> bool:
    """Whether the differences are within what they may be."""
    exact = found.scores <= allowed and found.step == 0 and (case.normal or found.corr == 0)
    return exact and found.scale_ulps <= 1 and found.y <= 1 and found.dx <= 1


COLUMNS: tuple[tuple[str, Callable[..., str]], ...] = (
    ("case", lambda case, found, allowed: f"{case.name:<26}"),
    ("tokens in>out /group", lambda case, found, allowed: f"{case.shape:<21}"),
    ("inputs", lambda case, found, allowed: "normal" if case.normal else "dyadic"),
    ("scores differing", lambda case, found, allowed: f"{found.scores:>6} of {allowed:>2} allowed"),
    ("corr", lambda case, found, allowed: f"{found.corr:>4}" if found.corr else "same"),
    ("step", lambda case, found, allowed: f"{found.step:>4}" if found.step else "same"),
    ("S, ulp", lambda case, found, allowed: f"{found.scale_ulps:>6}"),
    ("y, of bound", lambda case, found, allowed: f"{found.y:>11.1%}"),
    ("dx, of bound", lambda case, found, allowed: f"{found.dx:>12.1%}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares ternax with the PyTorch reference.")
    parser.add_argument("--steps", type=int, default=100, help="steps per case (default: 100)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    platform = jax.default_backend()
    print(f"PyTorch {torch.__version__} (CPU) and ternax on jax {jax.__version__} ({platform}), {options.steps} steps per case")
    failed = 0
    for backend in ("native", "reference"):
        print(f"\nbackend {backend}")
        random = np.random.default_rng(0)
        torch.manual_seed(0)
        with tx.backend(backend):
            for number, case in enumerate(CASES):
                found, allowed = compare(case, options.steps, random), allowed_scores(case, options.steps, platform)
                row = [show(case, found, allowed) for _, show in COLUMNS]
                if number == 0:
                    print("  ".join(title.ljust(len(cell)) for (title, _), cell in zip(COLUMNS, row, strict=True)))
                verdict = sound(case, found, allowed)
                failed += not verdict
                cells = [cell.ljust(len(title)) for (title, _), cell in zip(COLUMNS, row, strict=True)]
                print("  ".join(cells), "ok" if verdict else "FAILED")
    print(f"\n{failed} of {2 * len(CASES)} cases failed" if failed else f"\nall {2 * len(CASES)} cases agree")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
