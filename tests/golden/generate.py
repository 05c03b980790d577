"""Records what the PyTorch reference computes, for tests that run without PyTorch: ``python tests/golden/generate.py``.

Writes ``golden.safetensors`` beside this file, from fixed numpy seeds. The metadata entry ``cases`` is JSON, an object per case;
a case NAME of kind ``layer`` runs one layer for N steps of forward, backward and update, and has the tensors

    NAME/T_packed u8, NAME/E i8 [G], NAME/bias i32 [out] (where used)   the layer, as in its state_dict
    NAME/corr_in i64 [G], NAME/step_in i64 [1]                          its state before the first step
    NAME/xs f32 [N, ..., in], NAME/dys f32 [N, ..., out]                what goes in: inputs, and gradients of the outputs
    NAME/ys f32 [N, ..., out], NAME/dxs f32 [N, ..., in]                what comes out: outputs, and gradients of the inputs
    NAME/scales f32 [N, G]                                              the scale that each step used
    NAME/corr_out i64 [N, G], NAME/step_out i64 [N]                     the state after each step

with ``G = out * ceil(in / group_size)``. Its metadata holds ``in_dim``, ``out_dim``, ``group_size``, a ``note``, and

    exact_state   every partial sum of dW is exact in float32 in any order, so corr and step must match bit for bit
    exact_y       per step: all exponents are integers too, and every sum exact, so y and dx must match bit for bit

Kinds ``shared_use`` and ``two_backwards`` run one layer on two inputs (x1, dy1, x2, dy2), and kind ``rms_norm`` a norm
forward and backward (x, dy, y, dx).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from torch_reference import TernaryLinear, TernaryRMSNorm, pack  # noqa: E402

Tensors = dict[str, np.ndarray]
Case = tuple[str, Tensors, dict[str, Any]]
LARGEST_FILE = 1_000_000


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def load(module: torch.nn.Module, **buffers: np.ndarray | None) -> None:
    for name, value in buffers.items():
        if value is not None:
            getattr(module, name).copy_(tensor(value))


def state(module: torch.nn.Module) -> Tensors:
    layer = {"T_packed": module.T_packed, "E": module.E, "corr_in": module.corr_accum, "step_in": module.step_counter}
    return {name: buffer.numpy().copy() for name, buffer in layer.items()}


def run(layer: TernaryLinear, xs: np.ndarray, dys: np.ndarray) -> Tensors:
    """Forward, backward and update for each step of ``xs`` and ``dys``."""
    steps: dict[str, list[np.ndarray]] = {name: [] for name in ("ys", "dxs", "scales", "corr_out", "step_out")}
    for x_host, dy in zip(xs, dys, strict=True):
        x = tensor(x_host).requires_grad_()
        steps["scales"].append(layer.scale().numpy())
        y = layer(x)
        y.backward(tensor(dy))
        layer.update_corr()
        steps["ys"].append(y.detach().numpy())
        steps["dxs"].append(x.grad.numpy())
        steps["corr_out"].append(layer.corr_accum.numpy().copy())
        steps["step_out"].append(layer.step_counter.numpy()[0])
    return {name: np.stack(values) for name, values in steps.items()}


def integer_exponents(scales: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(scales)) and np.all(np.log2(scales) % 1 == 0))


class Maker:
    """Makes cases with random inputs out of one stream of numbers."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def trits(self, *shape: int) -> np.ndarray:
        return self.random.choice([-1, 0, 1], shape, p=[0.31, 0.38, 0.31])

    def signs(self, *shape: int) -> np.ndarray:
        return self.random.choice([-1, 1], shape)

    def dyadic(self, *shape: int) -> np.ndarray:
        """Quarters in [-2, 2]: thousands of their products sum without rounding."""
        return (self.random.integers(-8, 9, shape) / 4).astype(np.float32)

    def normal(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype(np.float32)

    def layer(
        self,
        name: str,
        out_dim: int,
        in_dim: int,
        group_size: int,
        *,
        steps: int = 3,
        batch: tuple[int, ...] = (3,),
        note: str = "",
        exact: bool = True,
        trits: np.ndarray | None = None,
        xs: np.ndarray | None = None,
        dys: np.ndarray | None = None,
        exponent: np.ndarray | None = None,
        corr: np.ndarray | None = None,
        step: int = 0,
        bias: np.ndarray | None = None,
    ) -> Case:
        numbers = self.dyadic if exact else self.normal
        trits = self.trits(out_dim, in_dim) if trits is None else trits
        xs = numbers(steps, *batch, in_dim) if xs is None else xs
        dys = numbers(steps, *batch, out_dim) if dys is None else dys
        layer = TernaryLinear(in_dim, out_dim, group_size=group_size, bias=bias is not None)
        load(layer, T_packed=pack(tensor(trits)).numpy(), E=exponent, corr_accum=corr, step_counter=np.array([step]), bias=bias)
        tensors = state(layer) | {"xs": xs, "dys": dys} | ({} if bias is None else {"bias": bias})
        results = run(layer, xs, dys)
        exact_y = [exact and bool(np.all(np.isfinite(x))) and integer_exponents(s) for x, s in zip(xs, results["scales"], strict=True)]
        dims = {"in_dim": in_dim, "out_dim": out_dim, "group_size": group_size}
        return name, tensors | results, {"kind": "layer", **dims, "exact_state": exact, "exact_y": exact_y, "note": note}

    def two_uses(self, kind: str, note: str) -> Case:
        """One layer on two inputs before one update."""
        layer = TernaryLinear(10, 4, group_size=5)
        load(layer, T_packed=pack(tensor(self.trits(4, 10))).numpy())
        tensors = state(layer)
        tensors |= {"x1": self.dyadic(3, 10), "x2": self.dyadic(3, 10), "dy1": self.dyadic(3, 4), "dy2": self.dyadic(3, 4)}
        x1, x2, dy1, dy2 = (tensor(tensors[name]) for name in ("x1", "x2", "dy1", "dy2"))
        if kind == "shared_use":
            torch.autograd.backward([layer(x1), layer(x2)], [dy1, dy2])
        else:
            layer(x1).backward(dy1)
            layer(x2).backward(dy2)
        layer.update_corr()
        tensors |= {"corr_out": layer.corr_accum.numpy(), "step_out": layer.step_counter.numpy()}
        return kind, tensors, {"kind": kind, "in_dim": 10, "out_dim": 4, "group_size": 5, "note": note}

    def norm(self, name: str, dim: int, group_size: int, note: str, *, step: int = 0) -> Case:
        norm = TernaryRMSNorm(dim, group_size=group_size)
        corr = self.random.integers(-4, 5, norm.groups_per_row) if step else None
        load(norm, T_packed=pack(tensor(self.trits(1, dim))).numpy(), corr_accum=corr, step_counter=np.array([step]))
        rows = [self.normal(6, dim), np.zeros((1, dim), np.float32), np.full((1, dim), 1e-4, np.float32)]
        tensors = state(norm) | {"x": np.concatenate(rows), "dy": self.normal(8, dim)}
        x = tensor(tensors["x"]).requires_grad_()
        y = norm(x)
        y.backward(tensor(tensors["dy"]))
        tensors |= {"y": y.detach().numpy(), "dx": x.grad.numpy()}
        return name, tensors, {"kind": "rms_norm", "dim": dim, "group_size": group_size, "note": note}


def exact_cases(make: Maker) -> Iterator[Case]:
    yield make.layer("aligned", 8, 40, 8, steps=6, batch=(5,), note="rows end on bytes and on groups")
    yield make.layer("misaligned_ragged", 3, 7, 4, steps=6, batch=(5,), note="rows end within bytes; last group 3 of 4, divided by 4")
    x_sign, dy_sign = make.signs(12), make.signs(6)
    yield make.layer(
        "integer_exponents",
        6,
        12,
        4,
        trits=make.signs(6, 12),
        xs=(make.random.integers(1, 9, (8, 1, 12)) * x_sign / 4).astype(np.float32),
        dys=(make.random.integers(1, 9, (8, 1, 6)) * dy_sign / 4).astype(np.float32),
        note="group size 4 and constant scores: all exponents are integers at all steps",
    )
    yield make.layer("mixed_exponents", 5, 14, 5, exponent=make.random.integers(-6, 2, 15).astype(np.int8), note="an E per group")
    yield make.layer("group_larger_than_row", 5, 9, 100, steps=4, note="one group per row, divided by 100")
    yield make.layer("group_of_one", 4, 6, 1, steps=5)
    yield make.layer("one_by_one", 1, 1, 32, batch=(2,), trits=np.array([[-1]]))
    yield make.layer("one_row", 1, 33, 32, batch=(4,))
    bias = np.array([0, 1, -2, 3, 100, -1000], np.int32)
    yield make.layer("bias", 6, 10, 5, steps=4, bias=bias, note="int32, added in float32, never trained")
    yield make.layer("three_dimensional_batch", 6, 10, 5, steps=4, batch=(2, 3), note="leading dimensions are summed in dW")
    yield make.layer("vector", 4, 9, 4, steps=4, batch=(), note="x has no leading dimension")
    yield make.layer("empty_batch", 4, 10, 5, steps=2, batch=(0,), note="scores 0, and still a step")
    corr = np.array([2**24 + 1, -(2**24 + 3), 2**31 + 127, 5, 0, -7, 2**25 + 2**24 + 1, 123456789])
    yield make.layer("large_corr_and_step", 4, 8, 4, corr=corr, step=2**28, note="corr over 2^24 rounds to float32 before the division")
    yield make.layer("zero_gradient", 4, 8, 4, dys=np.zeros((3, 3, 4), np.float32), note="scores 0, and still a step")
    dys = np.array([[[np.nan, np.inf, -np.inf]], [[1, -1, -0.0]], [[1, np.nan, -1]]], np.float32)
    ones = np.ones((3, 1, 8), np.float32)
    yield make.layer("nan_and_infinity", 3, 8, 4, trits=make.signs(3, 8), xs=ones, dys=dys, note="sign(NaN) = 0, sign(inf) = 1")
    dys = np.array([[[1e-40, -1e-40, 1]], [[1e-45, 2, -1e-39]]], np.float32)
    yield make.layer("denormals", 3, 8, 4, trits=make.signs(3, 8), xs=ones[:2], dys=dys, note="PyTorch keeps the sign of denormals")
    row = np.ones((1, 2**15))
    xs, dys = row[None].astype(np.float32), np.ones((1, 1, 1), np.float32)
    yield make.layer("int16_wrap", 1, 2**15, 2**15, trits=row, xs=xs, dys=dys, note="the score 32768 wraps to -32768")
    yield make.layer("many_tokens", 48, 80, 16, steps=8, batch=(24,))


def cases() -> Iterator[Case]:
    yield from exact_cases(Maker(1))
    make = Maker(2)
    yield make.layer("normal_small", 40, 64, 32, steps=10, batch=(12,), exact=False)
    yield make.layer("normal_ragged", 96, 101, 32, batch=(48,), exact=False)
    make = Maker(3)
    yield make.two_uses("shared_use", "two uses in one forward pass: the first one counts")
    yield make.two_uses("two_backwards", "two backward passes before one update: the last one counts")
    yield make.norm("rms_norm", 12, 4, "as initialised; rows of zeros and of tiny numbers")
    yield make.norm("rms_norm_loaded", 13, 4, "ragged, with a loaded correlation", step=3)


def main() -> None:
    torch.set_num_threads(1)
    tensors: Tensors = {}
    metadata = {}
    for name, case, about in cases():
        tensors |= {f"{name}/{key}": np.ascontiguousarray(value) for key, value in case.items()}
        metadata[name] = about
    path = HERE / "golden.safetensors"
    save_file(tensors, path, metadata={"cases": json.dumps(metadata)})
    size = path.stat().st_size
    print(f"{path.name}: {len(metadata)} cases, {len(tensors)} tensors, {size:,} bytes")
    if size > LARGEST_FILE:
        raise SystemExit(f"the file may have at most {LARGEST_FILE:,} bytes")


if __name__ == "__main__":
    main()
