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


def _tensor(aval: Any) -> dict[str, Any]:
    return {"dtype": aval.dtype.name, "shape": list(aval.shape)}


def scratch(operation: str, operands: Sequence[Any], results: Sequence[Any], attributes: dict[str, Any]) -> int:
    """The float32 elements of scratch that a call needs as a further result, 0 for none, from abstract operands and results."""
    request = {
        "operation": operation,
        "operands": [_tensor(a) for a in operands],
        "results": [_tensor(a) for a in results],
        "attributes": {name: value.item() for name, value in attributes.items()},
    }
    return int(_host.call("gpu_scratch", *_host.data(json.dumps(request).encode())))
