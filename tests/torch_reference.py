"""Ternary layers trained by integer correlations, in PyTorch: the algorithm that ternax implements, in its plainest form.

The algorithm:

* The weight is a fixed matrix of trits ``T [out, in]`` in {-1, 0, 1}, times one scale per group of ``group_size``
  consecutive inputs of a row. The last group of a row may be shorter.
* ``S = 2 ** (E + 4 * corr / (step * group_size))`` is the scale of a group, ``S = 2 ** E`` before the first update.
  ``E`` never changes. A shorter last group divides by ``group_size`` all the same, and so do groups with zero trits.
* ``score = sum over the group of sign(dW) * T``, with ``dW`` the gradient of the loss by ``S * T``, summed over all leading
  dimensions of the input. An update is ``corr -= score; step += 1``: a gradient along T shrinks the scale.

All persistent state is integers, in buffers whose names and layouts are the file format that ``ternax.load_torch`` reads.

Limits of this implementation, on which files and recorded results depend, and which ternax does not share:

* Trits are packed across row ends, and the padding of the last byte decodes to -1.
* Scores are summed in int16: from ``group_size`` 32768 on they can wrap.
* One gradient is kept per layer. Of two backward passes before an update the last one counts; of two uses in one forward pass
  the first one counts, because autograd visits it last.
* Activations are float32 only.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

TRITS_PER_BYTE = 5
GAIN = 4.0
SMALLEST_EXPONENT = -8


def pack(trits: Tensor) -> Tensor:
    """Packs the signs of ``trits``, of any shape, into bytes, five to a byte: uint8 ``[ceil(numel / 5)]`` on the CPU.

    Digit ``d = sign(t) + 1``, byte ``d0 + 3 d1 + 9 d2 + 27 d3 + 81 d4``, in row-major order. Missing digits of the last byte
    are 0. Raises ValueError for NaN, which has no sign.
    """
    if torch.isnan(trits).any():
        raise ValueError("trits must be numbers, found NaN")
    digits = (trits.flatten().sign() + 1).to(torch.uint8)
    digits = functional.pad(digits, (0, -digits.numel() % TRITS_PER_BYTE)).view(-1, TRITS_PER_BYTE)
    powers = 3 ** torch.arange(TRITS_PER_BYTE, dtype=torch.uint8, device=digits.device)
    return (digits * powers).sum(dim=1).to(torch.uint8).cpu()


def unpack(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The trits of :func:`pack`, int8 of ``shape``. Bytes over 242 decode modulo 243."""
    powers = 3 ** torch.arange(TRITS_PER_BYTE, dtype=torch.int16, device=packed.device)
    digits = packed.to(torch.int16)[:, None] // powers % 3
    return (digits.flatten()[: math.prod(shape)].view(shape) - 1).to(torch.int8)


def initial_exponent(in_dim: int) -> int:
    """``log2(0.5 / sqrt(in_dim))`` rounded half to even, within [-8, 0]."""
    wanted = max(0.5 * in_dim**-0.5, 2.0**SMALLEST_EXPONENT)
    return max(SMALLEST_EXPONENT, min(0, round(math.log2(wanted))))


class _ScaledTrits(nn.Module):
    """Integer state of a ternary matrix ``[out, in]``, and the float32 matrix that it stands for.

    Buffers: ``T_packed`` uint8 ``[ceil(out * in / 5)]``, ``_T_shape`` int64 ``[2]``, ``_T_pad`` int64 ``[]``, ``E`` int8
    ``[out * groups]``, ``corr_accum`` int64 ``[out * groups]``, ``step_counter`` int64 ``[1]``.
    """

    def __init__(self, weight: Tensor, threshold: float, exponent: int, group_size: int):
        super().__init__()
        rows, columns = weight.shape
        self.group_size = group_size
        self.groups_per_row = math.ceil(columns / group_size)
        groups = rows * self.groups_per_row
        trits = weight.sign() * (weight.abs() > threshold)
        self.register_buffer("T_packed", pack(trits))
        self.register_buffer("_T_shape", torch.tensor([rows, columns]))
        self.register_buffer("_T_pad", torch.tensor(-trits.numel() % TRITS_PER_BYTE))
        self.register_buffer("E", torch.full((groups,), exponent, dtype=torch.int8))
        self.register_buffer("corr_accum", torch.zeros(groups, dtype=torch.int64))
        self.register_buffer("step_counter", torch.zeros(1, dtype=torch.int64))

    def trits(self) -> Tensor:
        """``T``, int8 ``[out, in]``."""
        return unpack(self.T_packed, tuple(self._T_shape.tolist()))

    def scale(self) -> Tensor:
        """``S``, float32 ``[out * groups]``.

        The order of operations is part of the definition: corr rounds to float32 once, and is divided by the exact integer
        ``step * group_size`` rounded to float32.
        """
        exponent = self.E.float()
        step = self.step_counter.item()
        if step > 0:
            exponent = exponent + self.corr_accum.float() / (step * self.group_size) * GAIN
        return torch.exp2(exponent)

    def dequantize(self) -> Tensor:
        """``S * T``, float32 ``[out, in]``."""
        trits = self.trits()
        scale = self.scale().view(-1, self.groups_per_row).repeat_interleave(self.group_size, dim=1)
        return scale[:, : trits.shape[1]] * trits.float()


class TernaryLinear(_ScaledTrits):
    """``y = x @ (S * T).T + bias`` for float32 ``x [..., in]``; only ``corr_accum`` and ``step_counter`` learn.

    ``T`` is the sign of normal numbers that exceed ``threshold``. Their standard deviation is 0.1, which leaves 38 % zeros, but
    0.02 with a bias, which leaves 98.8 %. The bias is int32, starts at zero and is never trained.
    """

    def __init__(self, in_dim: int, out_dim: int, threshold: float = 0.05, group_size: int = 32, bias: bool = False):
        weight = torch.randn(out_dim, in_dim) * (0.02 if bias else 0.1)
        super().__init__(weight, threshold, initial_exponent(in_dim), group_size)
        self.register_buffer("bias", torch.zeros(out_dim, dtype=torch.int32) if bias else None)
        self._gradient_sign: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``y [..., out]``; the backward pass through it captures ``sign(dW)`` for :meth:`update_corr`."""
        weight = self.dequantize().requires_grad_()
        weight.register_hook(self._capture)
        y = functional.linear(x, weight)
        return y if self.bias is None else y + self.bias.float()

    def _capture(self, gradient: Tensor) -> None:
        self._gradient_sign = gradient.sign().to(torch.int8)

    @torch.no_grad()
    def update_corr(self) -> None:
        """``corr -= score; step += 1`` from the gradient captured last, which is used up. Without one, nothing changes."""
        if self._gradient_sign is None:
            return
        agreement = self._gradient_sign * self.trits().to(self._gradient_sign.device)
        padding = self.groups_per_row * self.group_size - agreement.shape[1]
        groups = functional.pad(agreement, (0, padding)).view(-1, self.group_size)
        self.corr_accum -= groups.sum(dim=1, dtype=torch.int16).to(torch.int64)
        self.step_counter += 1
        self._gradient_sign = None


class TernaryRMSNorm(_ScaledTrits):
    """``y = x / sqrt(mean(x ** 2) + eps) * (S * T)`` over the last dimension, float32 whatever the input.

    ``eps`` is that of float32, 2 ** -23. ``T [1, dim]`` is the sign of normal numbers of standard deviation 0.02 that exceed 0.01,
    which leaves 38 % of the channels zero. Nothing in it is trained, but a loaded correlation is honoured.
    """

    def __init__(self, dim: int, group_size: int = 32):
        super().__init__(torch.randn(1, dim) * 0.02, 0.01, -4, group_size)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """``y [..., dim]``."""
        return functional.rms_norm(x.float(), (self.dim,)) * self.dequantize().flatten()

    def update_corr(self) -> None:
        """Does nothing: a norm captures no gradient."""
