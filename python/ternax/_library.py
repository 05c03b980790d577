"""The native library: found, checked against the running jaxlib, and its custom calls registered with XLA."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import re
import sys
from typing import Any

import jax
import jaxlib.version

_HEADER = pathlib.Path("xla", "ffi", "api", "c_api.h")


class _Entry(ctypes.Structure):
    """One exported function, as ``Entry`` in ``src/xla/bridge.rs``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("platform", ctypes.c_char_p),
        ("execute", ctypes.c_void_p),
        ("initialize", ctypes.c_void_p),
    )


def _path() -> pathlib.Path:
    """The library's file: ``TERNAX_LIBRARY``, else the one installed beside this module."""
    if override := os.environ.get("TERNAX_LIBRARY"):
        return pathlib.Path(override)
    folder = pathlib.Path(__file__).parent / "_native"
    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    found = sorted(folder.glob(f"*.{suffix}"))
    if not found:
        raise ImportError(
            f"ternax: no native library in {folder}: the package was not built; reinstall it with 'pip install .', "
            "or point TERNAX_LIBRARY at a built library"
        )
    return found[0]


def _runtime_version() -> int:
    """XLA FFI version of the running jaxlib, as major * 1000 + minor, read from the header that it ships."""
    text = pathlib.Path(jax.ffi.include_dir(), _HEADER).read_text()
    parts = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    if None in parts:
        raise ImportError("ternax: the XLA FFI version of this jaxlib is unknown: its header c_api.h has changed its form")
    major, minor = (int(p.group(1)) for p in parts if p)
    return major * 1000 + minor


def _check_version(built: int, running: int) -> None:
    """A handler runs where its FFI version is at most the runtime's; a newer one would break jax's whole CPU backend."""
    if built > running:
        name = "{0[0]}.{0[1]}".format
        raise ImportError(
            f"ternax was built against XLA FFI {name(divmod(built, 1000))}, but the installed jaxlib {jaxlib.version.__version__} has "
            f"{name(divmod(running, 1000))}: "
            "upgrade jaxlib, or rebuild ternax with this jaxlib's headers (XLA_FFI_INCLUDE_DIR)"
        )


@functools.cache
def functions() -> dict[tuple[str, str], dict[str, int]]:
    """Addresses of the exported functions by (platform, name): that of each stage which a custom call has, or ``execute`` alone."""
    path = _path()
    try:
        library = ctypes.CDLL(os.fspath(path))
        table = library.ternax_table
    except (OSError, AttributeError) as error:
        raise ImportError(f"ternax: the native library {path} cannot be loaded: {error}") from error
    table.restype = ctypes.POINTER(_Entry)
    count = ctypes.c_size_t()
    entries: Any = table(ctypes.byref(count))
    stages = ("initialize", "execute")
    return {
        (e.platform.decode(), e.name.decode()): {stage: address for stage in stages if (address := getattr(e, stage))}
        for e in entries[: count.value]
    }


def host_function(name: str, result: Any, *arguments: Any) -> Any:
    """The host function ``name`` as a ctypes callable of these types."""
    return ctypes.CFUNCTYPE(result, *arguments)(functions()["host", name]["execute"])


@functools.cache
def register() -> None:
    """Registers every custom call with XLA, once; raises ImportError where this jaxlib cannot run them."""
    _check_version(host_function("ffi_version", ctypes.c_int32)(), _runtime_version())
    for (platform, name), stages in functions().items():
        if platform != "host":
            handlers = {stage: jax.ffi.pycapsule(ctypes.CFUNCTYPE(None)(address)) for stage, address in stages.items()}
            jax.ffi.register_ffi_target(name, handlers, platform=platform)
