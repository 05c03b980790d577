"""Which implementation an operation gets on a GPU: its own kernel, or a composition of an unpacking kernel and XLA's dot.

The choice is a table in ``cuda_choice.json``: architecture, operation, dtype, and the least tokens from which an implementation
is the faster one. ``tests/gpu/choose.py`` measures it on a card and writes the same file; an architecture without the field
``measured`` holds estimates.

``fused``    the operation's own custom call
``dense``    the products: the dense weight from the packed one, then XLA's dot
``blocked``  the scores: a block of rows of dW by XLA's dot after the other, and the signs of each before the next
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ternax import _cuda

F32, BF16 = np.dtype(np.float32), np.dtype(jnp.bfloat16)
FILE = pathlib.Path(__file__).with_name("cuda_choice.json")
# The architecture that a program is made for where no card is at hand.
DEFAULT = (9, 0)
# Float32 elements of a block of dW: 16 MiB, which stay in the L2 until their signs are read.
BLOCK_ELEMENTS = 2**22
# Rows of a block are a multiple of a tile of XLA's dot.
BLOCK_ROWS = 128

Table = dict[str, dict[str, Any]]
_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("forced", default=None)


@functools.cache
def table() -> Table:
    """The committed table, by architecture, as in ``sm_90``."""
    found: Table = json.loads(FILE.read_text())
    return found


@contextlib.contextmanager
def forced(name: str) -> Iterator[None]:
    """In the body every operation that has it is lowered to implementation ``name``, whatever the table says. For measurements."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def row(capability: tuple[int, int]) -> dict[str, Any]:
    """The table of a compute capability: that of the newest architecture in it that is no newer, else of the oldest."""
    by_capability = {divmod(int(name.removeprefix("sm_")), 10): name for name in table()}
    older = [known for known in by_capability if known <= capability]
    return table()[by_capability[max(older) if older else min(by_capability)]]


def named(operation: str, dtype: np.dtype, tokens: int) -> str:
    """What the table says for this process's cards, the oldest of them if they differ."""
    thresholds = row(min(_cuda._capabilities(), default=DEFAULT)).get(operation, {}).get(dtype.name, [])
    best = max((least for least, _ in thresholds if least <= tokens), default=None)
    return next((name for least, name in thresholds if least == best), "fused")


def kernel(operation: str, avals: Sequence[Any]) -> Callable[..., Any] | None:
    """The composition to lower an operation to, called as ``f(bind, *operands, **params)``; None for its own custom call."""
    if operation in ("matmul", "matmul_transposed"):
        data, trits, scale = avals
        ensemble = trits.ndim - 3
        # Where rounding the weight to the activations' dtype would lose anything, the fused kernels are the more exact ones.
        exact = data.dtype == F32 or (data.dtype == BF16 and scale.dtype == BF16)
        possible = exact and trits.shape[:ensemble] == scale.shape[:ensemble]
        composed: dict[str, Callable[..., Any]] = {"dense": _dense_matmul if operation == "matmul" else _dense_matmul_transposed}
    elif operation == "correlate":
        data, _, trits = avals
        ensemble = trits.ndim - 3
        possible, composed = ensemble == 0 and trits.shape[0] > 0, {"blocked": _blocked_correlate}
    else:
        return None
    if not possible:
        return None
    tokens = math.prod(data.shape[ensemble:-1])
    return composed.get(_forced.get() or named(operation, data.dtype, tokens))


def _dot(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    # Never TF32: float32 is multiplied as float32.
    precision = lax.Precision.HIGHEST if a.dtype == F32 else lax.Precision.DEFAULT
    return jnp.einsum(spec, a, b, precision=precision, preferred_element_type=F32)


def _rows(a: jax.Array, ensemble: int) -> jax.Array:
    return a.reshape(*a.shape[:ensemble], math.prod(a.shape[ensemble:-1]), a.shape[-1])


def _dense_matmul(
    bind: Callable[..., Any], x: jax.Array, trits: jax.Array, scale: jax.Array, *, group_size: int, dtype: Any, backend: str
) -> jax.Array:
    ensemble = trits.ndim - 3
    w = bind("dequantize", trits, scale, in_dim=x.shape[-1], group_size=group_size, dtype=x.dtype, backend=backend)
    y = _dot("...mi,...oi->...mo", _rows(x, ensemble), w).astype(dtype or x.dtype)
    return y.reshape(*y.shape[:-2], *x.shape[ensemble:-1], y.shape[-1])


def _dense_matmul_transposed(
    bind: Callable[..., Any], dy: jax.Array, trits: jax.Array, scale: jax.Array, *, in_dim: int, group_size: int, dtype: Any, backend: str
) -> jax.Array:
    ensemble = trits.ndim - 3
    # Or XLA would take the dense weight of the forward pass, and keep that of every layer until then.
    dy, trits, scale = lax.optimization_barrier((dy, trits, scale))
    w = bind("dequantize", trits, scale, in_dim=in_dim, group_size=group_size, dtype=dy.dtype, backend=backend)
    dx = _dot("...mo,...oi->...mi", _rows(dy, ensemble), w).astype(dtype or dy.dtype)
    return dx.reshape(*dx.shape[:-2], *dy.shape[ensemble:-1], in_dim)


def _blocked_correlate(
    bind: Callable[..., Any], x: jax.Array, dy: jax.Array, trits: jax.Array, *, group_size: int, backend: str
) -> tuple[jax.Array, jax.Array]:
    x, dy = _rows(x, 0), _rows(dy, 0)
    out = trits.shape[0]
    block = min(out, max(BLOCK_ELEMENTS // x.shape[1] // BLOCK_ROWS, 1) * BLOCK_ROWS)

    def scores(first: Any, rows: int) -> jax.Array:
        dw = _dot("mo,mi->oi", lax.dynamic_slice_in_dim(dy, first, rows, axis=1), x)
        own = lax.dynamic_slice_in_dim(trits, first, rows, axis=0)
        score: jax.Array = bind("correlate_dense", dw, own, group_size=group_size, backend=backend)
        return score

    whole, rest = divmod(out, block)
    parts = [lax.map(lambda index: scores(index * block, block), jnp.arange(whole)).reshape(whole * block, -1)]
    if rest:
        parts.append(scores(whole * block, rest))
    return jnp.concatenate(parts), jnp.ones((), F32)
