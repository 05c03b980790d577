"""Programs that are compiled or run elsewhere: ``jax.export`` with ternax's custom calls, and programs for runners without Python.

A process that runs an exported program must ``import ternax`` first: that registers the custom calls, and the trees that such
programs take (:class:`ternax.TernaryWeight`, the state of :func:`ternax.with_ternary`) with jax.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export

from ternax import _library, io
from ternax.optim import TernaryState
from ternax.weight import TernaryWeight

PROGRAM, VALUES = "program.hlo.pb", "values.safetensors"

jax.export.register_pytree_node_serialization(
    TernaryWeight,
    serialized_name="ternax.TernaryWeight",
    serialize_auxdata=lambda fields: json.dumps(fields).encode(),
    deserialize_auxdata=lambda data: tuple(json.loads(data)),
)
jax.export.register_namedtuple_serialization(TernaryState, serialized_name="ternax.TernaryState")


def allowed_calls() -> list[jax.export.DisabledSafetyCheck]:
    """What ``jax.export.export(..., disabled_checks=)`` must be given: jax refuses custom calls that it does not know."""
    names = sorted({name for platform, name in _library.functions() if platform != "host"})
    return [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]


def export(fun: Callable[..., Any], *, platforms: Sequence[str] | None = None) -> Callable[..., jax.export.Exported]:
    """``jax.export.export`` for functions with ternary layers, jitted or not.

    Call the result with arrays or ``jax.ShapeDtypeStruct``; a batch of any size is a symbolic dimension, as in
    ``export(f)(weights, jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, 64"), jnp.float32))``. ``Exported.serialize`` and
    ``jax.export.deserialize``, which need the package flatbuffers, keep ternary weights as what they are. ``platforms`` (default: the
    current one) need not be at hand; on one that the library has no custom calls for, the program holds the ``jax.numpy`` twins. So it
    does for CUDA where other sizes of a product than that of the batch are symbolic.

    Several devices need ``jax.shard_map``: a jit over sharded operands raises NotImplementedError, since jax cannot store the callbacks
    of custom_partitioning. A program exported for 8 devices runs on 8 devices.
    """
    jitted: Any = fun if hasattr(fun, "lower") else jax.jit(fun)
    exporter = jax.export.export(jitted, platforms=platforms, disabled_checks=allowed_calls())

    def traced(*args: Any, **kwargs: Any) -> jax.export.Exported:
        try:
            return exporter(*args, **kwargs)
        except NotImplementedError as error:
            if "host_callbacks" not in str(error):
                raise
            raise NotImplementedError(
                "ternax: jax cannot export a jit whose ternary layers are split over devices by its partitioner: export a "
                "jax.shard_map, or give the arguments as ShapeDtypeStruct without a sharding"
            ) from error

    return traced


def write_program(folder: str | os.PathLike[str], fun: Callable[..., Any], *args: Any) -> Any:
    """Writes ``fun(*args)`` for a runner without Python, as ``examples/run_hlo.rs``; returns its results.

    The folder gets ``program.hlo.pb``, a serialized ``HloModuleProto`` for one CPU with the shapes of ``args``, and
    ``values.safetensors``: the leaves of ``args`` as ``operand.0``, ``operand.1``, ... in the order of the program's parameters, those
    of the results as ``result.0``, ... in the order of its result tuple. Raises TypeError for arguments that are no arrays.
    """
    folder = pathlib.Path(folder)
    args = jax.device_put(args, jax.local_devices(backend="cpu")[0])
    # jit would drop operands that take no part in the results, and change the numbers of the others.
    lowered = jax.jit(fun, keep_unused=True).lower(*args)
    results = lowered.compile()(*args)
    program: Any = lowered.compiler_ir("hlo")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(program.as_serialized_hlo_module_proto())
    io.save(folder / VALUES, {"operand": jax.tree.leaves(args), "result": jax.tree.leaves(results)})
    return results
