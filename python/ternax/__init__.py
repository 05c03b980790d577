"""ternax: neural-network layers whose persistent state is integers only, inside ordinary JAX programs."""

from ternax import export, ops, reference
from ternax._backend import backend
from ternax.io import load, load_torch, save, save_torch
from ternax.linear import Bound, bind, linear, rms_norm
from ternax.optim import TernaryState, grad, update, value_and_grad, with_ternary
from ternax.primitives import checkpoint_policy
from ternax.shard import shard
from ternax.weight import TernaryWeight, compact, expand, from_trits, init, init_norm

__all__ = [
    "Bound",
    "TernaryState",
    "TernaryWeight",
    "backend",
    "bind",
    "checkpoint_policy",
    "compact",
    "expand",
    "export",
    "from_trits",
    "grad",
    "init",
    "init_norm",
    "linear",
    "load",
    "load_torch",
    "ops",
    "reference",
    "rms_norm",
    "save",
    "save_torch",
    "shard",
    "update",
    "value_and_grad",
    "with_ternary",
]
