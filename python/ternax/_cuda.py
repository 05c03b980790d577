"""What lowering for NVIDIA GPUs must know: whether the native calls can run there, and the scratch that they need.

Nothing here is asked before something is lowered for CUDA, and nothing here touches a GPU: a program can be lowered and
exported for one on a machine that has none.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import warnings
from collections.abc import Sequence
from typing import Any

import jax

from ternax import _host

# Lowest compute capability of the kernels: bfloat16 on the tensor cores, asynchronous copies.
LOWEST = (8, 0)
# The kernels have run under emulation only: until they have passed `make gpu-check` on a card, a user must ask for them.
WANTED = "TERNAX_CUDA"


def _capabilities() -> list[tuple[int, int]]:
    """Compute capabilities of this process's GPUs; none where jax sees none."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return []
    return [(int(major), int(minor)) for d in devices for major, minor in [str(d.compute_capability).split(".")[:2]]]


def _compiler_problem() -> str:
    """Why CUDA's compiler cannot be used; empty where it can."""
    spec = importlib.util.find_spec("nvidia")
    folders = [os.fsencode(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    return _host.call("gpu_compiler", *_host.texts(folders))


@functools.cache
def problem() -> str:
    """Why the native calls cannot run on this process's GPUs, else empty; warns the first time.

    Without any GPU the answer is empty: what is lowered then runs elsewhere.
    """
    capabilities = _capabilities()
    if not capabilities:
        return ""
    lowest = min(capabilities)
    if os.environ.get(WANTED) != "1":
        found = f"they have not been proven on a card yet; {WANTED}=1 turns them on"
    elif lowest < LOWEST:
        found = f"compute capability {lowest[0]}.{lowest[1]} is below {LOWEST[0]}.{LOWEST[1]}"
    else:
        found = _compiler_problem()
    if found:
        warnings.warn(f"ternax: the CUDA kernels do not run here ({found}): plain jax.numpy runs in their place", stacklevel=2)
    return found


# Operations whose calls never need scratch, and operands and results that have a row for each token.
WITHOUT_SCRATCH = ("correlate_dense", "scale", "pack", "unpack", "dequantize")
TOKENS = {"matmul": ((0,), (0,)), "matmul_transposed": ((0,), (0,)), "correlate": ((0, 1), ())}


def known(*avals: Any) -> bool:
    """Whether all sizes are numbers, none a symbolic dimension of ``jax.export``."""
    return all(isinstance(n, int) for a in avals for n in a.shape)


def _tensors(avals: Sequence[Any], with_tokens: Sequence[int], ensemble: int) -> list[dict[str, Any]]:
    """Shapes and dtypes; where tokens are symbolic, with one dimension for all that count them."""
    shapes = [(*a.shape[:ensemble], 1, a.shape[-1]) if k in with_tokens else a.shape for k, a in enumerate(avals)]
    return [{"dtype": a.dtype.name, "shape": list(shape)} for a, shape in zip(avals, shapes, strict=True)]


def _request(operation: str, operands: Sequence[Any], results: Sequence[Any]) -> dict[str, Any]:
    any_tokens = not known(*operands, *results) and operation in TOKENS
    rows = TOKENS[operation] if any_tokens else ((), ())
    ensemble = operands[2 if operation == "correlate" else 1].ndim - 3 if any_tokens else 0
    described = [_tensors(avals, own, ensemble) for avals, own in zip((operands, results), rows, strict=True)]
    return {"operation": operation, "operands": described[0], "results": described[1], "any_tokens": any_tokens}


def serves(operation: str, operands: Sequence[Any], results: Sequence[Any]) -> bool:
    """Whether the scratch of a call has a known bound: that of a product or its scores if only its tokens are symbolic."""
    if operation in WITHOUT_SCRATCH:
        return True
    request = _request(operation, operands, results)
    return all(isinstance(n, int) for tensor in request["operands"] + request["results"] for n in tensor["shape"])


def scratch(operation: str, operands: Sequence[Any], results: Sequence[Any], attributes: dict[str, Any]) -> int:
    """The float32 elements of scratch that a call needs as a further result, 0 for none, from abstract operands and results.

    Where the number of tokens is symbolic, as many as any number of them needs.
    """
    if operation in WITHOUT_SCRATCH:
        return 0
    request = _request(operation, operands, results)
    request["attributes"] = {name: value.item() for name, value in attributes.items()}
    return int(_host.call("gpu_scratch", *_host.data(json.dumps(request).encode())))
