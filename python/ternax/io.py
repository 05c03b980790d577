"""Checkpoints: safetensors files of whole pytrees, and of ternary layers as the PyTorch reference stores them.

The native library reads, checks, converts and writes (``src/checkpoint``, which the command ``ternax`` uses too); here are only the
names of the leaves and their arrays.
"""

from __future__ import annotations

import collections
import ctypes
import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ternax import _host, limbs, weight
from ternax.weight import TernaryWeight

# The safetensors names of dtypes; leaves of any other dtype are stored as bytes, their dtype in the manifest.
_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "I16": np.int16,
        "U16": np.uint16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I32": np.int32,
        "U32": np.uint32,
        "F32": np.float32,
        "C64": np.complex64,
        "F64": np.float64,
        "I64": np.int64,
        "U64": np.uint64,
    }.items()
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_KEY = "key<"
_PARTS = ("trits", "exponent", "corr", "step", "bias")
_MANIFEST_VERSION = 1
_SHOWN = 10


@dataclasses.dataclass
class _Contents:
    """What a file holds, in ternax's layout, or shall come to hold."""

    tensors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    layers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, array: np.ndarray) -> None:
        if name in self.tensors:
            raise ValueError(f"two leaves of the tree have the path {name!r}: rename one of them")
        self.tensors[name] = array

    def take(self, layer: str, part: str) -> np.ndarray:
        return self.tensors.pop(_join(layer, part))


# -------------------------------------------------------------------------------------------------------------- public
def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a pytree to a safetensors file.

    Leaves are ternary weights, arrays of any jax or numpy dtype, PRNG keys and Python numbers; they are stored under their tree
    paths, as in ``"layers.0.weight"``. The ``score`` and ``votes`` of ternary weights are zeros and not stored; ``corr`` and ``step``
    are stored as int64. The file is written beside its place, flushed to the disk and renamed: a crash leaves the old one whole.

    Raises TypeError for a leaf that is no array, ValueError for a state that no layer can have, OSError where the system refuses.
    """
    _write(path, _of_tree(tree), torch=False)


def load(path: str | os.PathLike[str], like: Any) -> Any:
    """The pytree that :func:`save` wrote, in the structure of ``like``.

    ``like`` gives the tree's structure, dtypes and shapes, as arrays or as ``jax.ShapeDtypeStruct`` (``jax.eval_shape`` makes such a
    tree without memory); leaves come back as what they are in it, jax arrays with its sharding where it has one. ``score`` and
    ``votes`` come back as zeros, or None for a compact weight.

    Raises ValueError that names every path that is missing, extra, or of another dtype, shape, group size or gain.
    """
    contents = _read(path, None)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like, is_leaf=weight.is_ternary)
    named = [(_name(keys), leaf) for keys, leaf in leaves]
    problems = _differences(contents, named)
    if problems:
        shown = problems[:_SHOWN] + ([f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])
        raise ValueError(f"{os.fspath(path)} does not hold a tree like `like`:\n  " + "\n  ".join(shown))
    return jax.tree.unflatten(structure, [_restored(contents, name, leaf) for name, leaf in named])


def save_torch(path: str | os.PathLike[str], weights: Any) -> None:
    """Writes ternary weights as a ``state_dict`` of the PyTorch reference (SPEC, "state_dict"), every tensor byte for byte.

    ``weights`` is one weight, whose tensors have no prefix, or a pytree of weights and dense arrays, as a dict of module names. The
    group size goes to the metadata, since the state_dict has no place for it. Raises as :func:`save`; also ValueError for what the
    reference does not have: stacks of layers, another gain than 4, a float bias.
    """
    _write(path, _of_tree(weights), torch=True)


def load_torch(path: str | os.PathLike[str], *, group_size: int | None = None) -> TernaryWeight | dict[str, TernaryWeight | np.ndarray]:
    """The ternary weights of a ``state_dict`` of the PyTorch reference that was saved as safetensors.

    Returns one weight for a file of one layer without a prefix, and else a dict by module name, in which tensors that belong to no ternary
    layer are numpy arrays under their own names. ``group_size`` is wanted where the file's metadata has none (``group_size``, or
    ``NAME.group_size`` for one layer). Raises ValueError that names file, tensor, what was found and what was wanted.
    """
    if group_size is not None and (not isinstance(group_size, int | np.integer) or group_size < 1):
        raise ValueError(f"group_size must be a whole number of at least 1, got {group_size!r}")
    contents = _read(path, group_size)
    weights = {name: _weight(contents, name) for name in contents.layers}
    if list(weights) == [""] and not contents.tensors:
        return weights[""]
    return weights | contents.tensors


# --------------------------------------------------------------------------------------------------------- tree to file
def _name(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def _join(layer: str, part: str) -> str:
    return f"{layer}.{part}" if layer else part


def _of_tree(tree: Any) -> _Contents:
    contents = _Contents()
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=weight.is_ternary)[0]:
        name = _name(keys)
        if weight.is_ternary(leaf):
            _add_weight(contents, name, leaf)
        else:
            label, array = _stored(name, leaf)
            contents.add(name, array)
            if label:
                contents.dtypes[name] = label
    return contents


def _add_weight(contents: _Contents, name: str, w: TernaryWeight) -> None:
    weight.check(w, name or "the weight", stacked=True)
    contents.layers[name] = {"in_dim": w.in_dim, "group_size": w.group_size, "gain": float(w.gain), "bias": w.bias is not None}
    parts = {"trits": w.trits, "exponent": w.exponent, "corr": w.corr_int64(), "step": w.step_int64(), "bias": w.bias}
    for part, values in parts.items():
        if values is not None:
            contents.add(_join(name, part), _contiguous(np.asarray(values)))


def _stored(name: str, leaf: Any) -> tuple[str | None, np.ndarray]:
    """The array to store for a dense leaf, and its dtype where safetensors has no name for it."""
    if _is_key(leaf):
        return str(leaf.dtype), np.asarray(jax.random.key_data(leaf))
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
        raise TypeError(
            f"{name!r}: a leaf must be a ternary weight, an array or a number, got {type(leaf).__name__}: leave it out of the tree"
        )
    array = _contiguous(np.asarray(leaf))
    if array.dtype in _NAMES:
        return None, array
    if not _has_name(array.dtype):
        raise TypeError(f"{name!r}: arrays of dtype {array.dtype} cannot be stored")
    as_bytes = np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.itemsize)
    return array.dtype.name, as_bytes


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _has_name(dtype: np.dtype[Any]) -> bool:
    return dtype == np.complex128 or hasattr(ml_dtypes, dtype.name)


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


# --------------------------------------------------------------------------------------------------------- file to tree
def _differences(contents: _Contents, named: list[tuple[str, Any]]) -> list[str]:
    """What keeps a file from being read into leaves of these names."""
    problems = []
    wanted: set[str] = set()
    for name, leaf in named:
        if not weight.is_ternary(leaf):
            wanted.add(name)
            problems += _difference(contents, name, leaf)
            continue
        parts = [part for part in _PARTS if getattr(leaf, part) is not None]
        wanted |= {_join(name, part) for part in parts}
        if name not in contents.layers:
            problems.append(f"{name or 'the weight'}: missing, wanted a ternary weight")
            continue
        found = contents.layers[name]
        fields = {"in_dim": leaf.in_dim, "group_size": leaf.group_size, "gain": float(np.float32(leaf.gain)), "bias": leaf.bias is not None}
        problems += [
            f"{_join(name, field)}: found {found[field]}, wanted {value}" for field, value in fields.items() if found[field] != value
        ]
        for part in parts:
            like = getattr(leaf, part)
            if part in ("corr", "step"):
                like = jax.ShapeDtypeStruct(like.shape[:-1], np.int64)
            if part != "bias" or found["bias"]:
                problems += _difference(contents, _join(name, part), like)
    layers = {name for name, leaf in named if weight.is_ternary(leaf)}
    extra_layers = [name for name in contents.layers if name not in layers]
    problems += [f"{name or 'the weight'}: extra, a ternary weight that `like` has not" for name in extra_layers]
    of_extra_layers = {_join(name, part) for name in extra_layers for part in _PARTS}
    problems += [f"{name}: extra, `like` has no such leaf" for name in contents.tensors if name not in wanted | of_extra_layers]
    repeated = collections.Counter(name for name, _ in named)
    problems += [f"{name}: {count} leaves of `like` have this path" for name, count in repeated.items() if count > 1]
    return problems


def _difference(contents: _Contents, name: str, like: Any) -> list[str]:
    if _is_key(like):
        wanted = str(like.dtype), jax.eval_shape(jax.random.key_data, like).shape
    else:
        leaf = like if hasattr(like, "dtype") else np.asarray(like)
        wanted = np.dtype(leaf.dtype).name, leaf.shape
    if name not in contents.tensors:
        return [f"{name}: missing, wanted {wanted[0]} {list(wanted[1])}"]
    array = contents.tensors[name]
    found = contents.dtypes.get(name, array.dtype.name), array.shape
    return [] if found == wanted else [f"{name}: found {found[0]} {list(found[1])}, wanted {wanted[0]} {list(wanted[1])}"]


def _restored(contents: _Contents, name: str, like: Any) -> Any:
    if weight.is_ternary(like):
        return _weight(contents, name, like)
    return _placed(contents.tensors[name], like)


def _weight(contents: _Contents, name: str, like: TernaryWeight | None = None) -> TernaryWeight:
    """The weight ``name``, placed and with score leaves as in ``like``; else on the default device with zero scores."""
    fields = contents.layers[name]
    state: dict[str, Any] = {part: contents.take(name, part) for part in ("trits", "exponent")}
    state |= {part: limbs.from_host(contents.take(name, part)) for part in ("corr", "step")}
    state |= {"bias": contents.take(name, "bias") if fields["bias"] else None}
    state |= {"score": np.zeros(state["exponent"].shape, np.float32), "votes": np.zeros(state["step"].shape[:-1], np.float32)}
    if like is not None and like.score is None:
        state["score"] = None
    placed = {part: None if values is None else _placed(values, getattr(like, part, None)) for part, values in state.items()}
    return TernaryWeight(**placed, in_dim=fields["in_dim"], group_size=fields["group_size"], gain=fields["gain"])


def _placed(array: np.ndarray, like: Any) -> Any:
    """``array`` as what ``like`` is: a jax array with its sharding, a numpy array or a number."""
    if isinstance(like, bool | int | float | complex) and not isinstance(like, np.generic):
        return array.item()
    if isinstance(like, np.ndarray | np.generic):
        return array if isinstance(like, np.ndarray) else array[()]
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(jnp.empty(0, like.dtype)))
    sharding = like.sharding if isinstance(like, jax.ShapeDtypeStruct) or getattr(like, "committed", False) else None
    placed = jnp.asarray(array) if sharding is None else jax.device_put(array, sharding)
    if placed.dtype != array.dtype:
        raise ValueError(
            f"`like` has leaves of {array.dtype}, which jax cuts to {placed.dtype} while x64 is off: give them as numpy arrays"
        )
    return placed


# ------------------------------------------------------------------------------------------------------ native library
def _read(path: str | os.PathLike[str], group_size: int | None) -> _Contents:
    reader = (ctypes.c_void_p * 1)()
    text = _host.call("checkpoint_open", *_host.data(os.fsencode(path)), ctypes.c_int64(group_size or 0), reader)
    handle = ctypes.c_void_p(reader[0])
    try:
        described = json.loads(text)
        arrays = {tensor["name"]: np.empty(tensor["shape"], _dtype(path, tensor)) for tensor in described["tensors"]}
        _host.call("checkpoint_read", handle, *_host.buffers(list(arrays.values())))
    finally:
        _host.release("checkpoint_close", handle)
    contents = _Contents(arrays, described["manifest"]["layers"], described["manifest"]["dtypes"])
    for name, dtype in contents.dtypes.items():
        if not dtype.startswith(_KEY):
            arrays[name] = _of_bytes(path, name, arrays[name], dtype)
    return contents


def _of_bytes(path: str | os.PathLike[str], name: str, stored: np.ndarray, dtype_name: str) -> np.ndarray:
    """The array of a dtype without a safetensors name that :func:`_stored` stored as bytes."""
    found = getattr(ml_dtypes, dtype_name, None)
    dtype = np.dtype(found if isinstance(found, type) else np.complex128)
    if not _has_name(dtype) or dtype.name != dtype_name or stored.dtype != np.uint8 or stored.shape[-1:] != (dtype.itemsize,):
        raise ValueError(f"{os.fspath(path)}: tensor {name!r} must hold the bytes of {dtype_name}, found {stored.dtype} {stored.shape}")
    return np.frombuffer(stored.tobytes(), dtype).reshape(stored.shape[:-1])


def _dtype(path: str | os.PathLike[str], tensor: Mapping[str, Any]) -> np.dtype[Any]:
    if tensor["dtype"] not in _DTYPES:
        raise ValueError(f"{os.fspath(path)}: tensor {tensor['name']!r} is {tensor['dtype']}, for which numpy has no dtype")
    return _DTYPES[tensor["dtype"]]


def _write(path: str | os.PathLike[str], contents: _Contents, *, torch: bool) -> None:
    manifest = {"version": _MANIFEST_VERSION, "layers": contents.layers, "dtypes": contents.dtypes}
    tensors = [{"name": name, "dtype": _NAMES[array.dtype], "shape": array.shape} for name, array in contents.tensors.items()]
    description = json.dumps({"manifest": manifest, "tensors": tensors}).encode()
    arrays = list(contents.tensors.values())
    _host.call("checkpoint_write", *_host.data(os.fsencode(path)), ctypes.c_int32(torch), *_host.data(description), *_host.buffers(arrays))
