"""Finding the native library, and refusing one that cannot run."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from ternax import _library


def test_the_library_s_ffi_version_is_at_most_the_runtime_s():
    import ctypes

    built = _library.host_function("ffi_version", ctypes.c_int32)()
    assert built == 2  # XLA FFI 0.2: jaxlib 0.8.3, the oldest supported
    assert built <= _library._runtime_version()


def test_a_jaxlib_too_old_for_the_library_is_named_with_both_versions():
    with pytest.raises(ImportError, match=r"built against XLA FFI 0\.9, but the installed jaxlib .* has 0\.2: upgrade jaxlib, or rebuild"):
        _library._check_version(9, 2)
    _library._check_version(2, 2)
    _library._check_version(2, 1003)


def test_a_header_of_unknown_form_is_an_error(tmp_path, monkeypatch):
    header = tmp_path / _library._HEADER
    header.parent.mkdir(parents=True)
    header.write_text("#define XLA_FFI_API_MAJOR 0\n")
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    with pytest.raises(ImportError, match=r"c_api\.h has changed its form"):
        _library._runtime_version()


def test_every_operation_has_a_cpu_call():
    from ternax import ops

    assert {("cpu", f"ternax_{name}") for name in ops.OPERATIONS} <= set(_library.functions())


def imported(library):
    code = "import ternax"
    environment = {**os.environ, "TERNAX_LIBRARY": str(library)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_a_library_that_is_missing_or_cannot_be_loaded_is_an_import_error(tmp_path):
    missing, text, other = tmp_path / "missing.so", tmp_path / "text.so", pathlib.Path(jax.ffi.include_dir())
    text.write_text("not a library")
    for path in (missing, text, other):
        result = imported(path)
        assert result.returncode == 1
        assert f"ImportError: ternax: the native library {path} cannot be loaded" in result.stderr


def test_a_library_that_is_not_ours_is_an_import_error():
    import _ctypes

    if not getattr(_ctypes, "__file__", None):
        pytest.skip("this Python has _ctypes built in: no other library is at hand")
    result = imported(_ctypes.__file__)
    assert result.returncode == 1
    assert "cannot be loaded" in result.stderr
    assert "ternax_table" in result.stderr


def test_without_a_built_library_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.delenv("TERNAX_LIBRARY", raising=False)
    monkeypatch.setattr(_library, "__file__", str(tmp_path / "_library.py"))
    with pytest.raises(ImportError, match=r"no native library in .*_native: the package was not built; reinstall it"):
        _library._path()


def test_the_library_beside_the_package_is_found_and_the_environment_overrides_it(monkeypatch, tmp_path):
    folder = tmp_path / "_native"
    folder.mkdir()
    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    (folder / f"_native__lib.{suffix}").touch()
    monkeypatch.setattr(_library, "__file__", str(tmp_path / "_library.py"))
    monkeypatch.delenv("TERNAX_LIBRARY", raising=False)
    assert _library._path() == folder / f"_native__lib.{suffix}"
    monkeypatch.setenv("TERNAX_LIBRARY", "/elsewhere/lib.so")
    assert _library._path() == pathlib.Path("/elsewhere/lib.so")
