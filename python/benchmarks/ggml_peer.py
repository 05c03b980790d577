"""ggml's ternary matrix-vector product as a peer, where a PyPI package that carries ggml is installed (pywhispercpp).

TQ1_0 packs five trits per byte as ternax does, TQ2_0 takes two bits per trit; both quantise the activations to int8, so that
their results are approximate where ours are float32.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import pathlib
from collections.abc import Callable

import numpy as np

F32, TQ1_0, TQ2_0 = 0, 34, 35


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL] | None:
    """ggml's base and CPU libraries, loaded after the OpenMP runtime that they need."""
    try:
        files = [f.locate() for f in importlib.metadata.files("pywhispercpp") or []]
    except importlib.metadata.PackageNotFoundError:
        return None
    loaded = []
    for name in ("libgomp-", "libggml-base-", "libggml-cpu-"):
        path = next((f for f in files if pathlib.Path(str(f)).name.startswith(name)), None)
        if path is None:
            return None
        loaded.append(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL))
    return loaded[1], loaded[2]


def matmul(weights: np.ndarray, x: np.ndarray, kind: int, threads: int) -> Callable[[], np.ndarray] | None:
    """A call that computes ``x @ weights.T`` in ggml with the weights stored as ``kind``; None where there is no ggml.

    weights: float32 ``[out, in]`` in {-s, 0, s}, in a multiple of 256. x: float32 ``[tokens, in]``.
    """
    libraries = _libraries()
    if libraries is None:
        return None
    base, cpu = libraries
    pointer = ctypes.c_void_p
    for library, name, result in (
        (base, "ggml_init", pointer),
        (base, "ggml_new_tensor_2d", pointer),
        (base, "ggml_mul_mat", pointer),
        (base, "ggml_new_graph", pointer),
        (base, "ggml_get_data", pointer),
        (base, "ggml_quantize_chunk", ctypes.c_size_t),
        (cpu, "ggml_graph_compute_with_ctx", ctypes.c_int),
    ):
        getattr(library, name).restype = result
    (out, in_dim), tokens = weights.shape, x.shape[0]
    context = pointer(base.ggml_init(_InitParams(64 * 2**20 + 4 * (weights.size + 2 * x.size + 2 * tokens * out), None, False)))
    size = ctypes.c_int64
    w = pointer(base.ggml_new_tensor_2d(context, kind, size(in_dim), size(out)))
    a = pointer(base.ggml_new_tensor_2d(context, F32, size(in_dim), size(tokens)))
    source = np.ascontiguousarray(weights, np.float32)
    data = pointer(base.ggml_get_data(w))
    base.ggml_quantize_chunk(kind, source.ctypes.data_as(pointer), data, size(0), size(out), size(in_dim), None)
    activations = np.ascontiguousarray(x, np.float32)
    ctypes.memmove(base.ggml_get_data(a), activations.ctypes.data, activations.nbytes)
    product = pointer(base.ggml_mul_mat(context, w, a))
    graph = pointer(base.ggml_new_graph(context))
    base.ggml_build_forward_expand(graph, product)
    result = np.ctypeslib.as_array(ctypes.cast(base.ggml_get_data(product), ctypes.POINTER(ctypes.c_float)), (tokens, out))

    def call() -> np.ndarray:
        cpu.ggml_graph_compute_with_ctx(context, graph, threads)
        return result

    return call
