"""Which implementation runs: the native custom calls, or the plain ``jax.numpy`` twins of ``ternax.reference``.

The choice is part of jit's cache key and a parameter of every primitive: a function that was traced under one backend is
traced again under the other, and a pullback runs on the backend of its forward pass.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import jax

from ternax import _library

NAMES = ("native", "reference")


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source} must be 'native' or 'reference', got {name!r}")
    if name == "native":
        _library.register()
    return name


_context = jax.make_user_context(_checked(os.environ.get("TERNAX_BACKEND") or "native", "TERNAX_BACKEND"))


def current() -> str:
    """The backend of what is traced now."""
    name: str = _context.value
    return name


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs the body with the ``"native"`` or the ``"reference"`` backend; the default is ``TERNAX_BACKEND``, else native.

    Native custom calls exist for the platforms that the library was built for; elsewhere native means reference too.
    Raises ValueError for another name, ImportError where the native library is missing.
    """
    with _context(_checked(name, "backend")):
        yield
