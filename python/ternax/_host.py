"""Calls of the native library's host functions (``cpp/host.cc``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from ternax import _library

_REFUSED, _SYSTEM = 1, 3


def call(name: str, *arguments: Any) -> str:
    """Calls a host function with ctypes values and returns its text; raises ValueError, OSError or, for a bug of ours, RuntimeError."""
    code = _library.host_function(name, ctypes.c_int32, *map(type, arguments))(*arguments)
    text = _library.host_function("text", ctypes.c_char_p)().decode(errors="replace")
    if code == 0:
        return str(text)
    if code < 0:
        raise OSError(-code, text)
    raise {_REFUSED: ValueError, _SYSTEM: OSError}.get(code, RuntimeError)(text)


def data(text: bytes) -> tuple[Any, ...]:
    """The address and the size of ``text``."""
    return ctypes.c_char_p(text), ctypes.c_size_t(len(text))


def texts(words: Sequence[bytes]) -> tuple[Any, ...]:
    """The addresses and sizes of ``words``, and their number."""
    return (ctypes.c_char_p * len(words))(*words), *_sizes([len(word) for word in words])


def buffers(arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """The addresses and sizes of contiguous ``arrays``, which the caller keeps alive, and their number."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)), *_sizes([array.nbytes for array in arrays])


def _sizes(sizes: Sequence[int]) -> tuple[Any, ...]:
    return (ctypes.c_size_t * len(sizes))(*sizes), ctypes.c_size_t(len(sizes))


def release(name: str, handle: ctypes.c_void_p) -> None:
    """Gives back what a host function handed out."""
    _library.host_function(name, None, ctypes.c_void_p)(handle)
