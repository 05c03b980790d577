"""Taking gradients of trees with integer leaves, and updating them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ternax import primitives, reference
from ternax.weight import TernaryWeight, check, expand, is_ternary, on_host


def _without_float0(grads: Any) -> Any:
    """None in place of the gradients of integers: such trees can be added, reduced and carried like any other."""
    return jax.tree.map(lambda g: None if getattr(g, "dtype", None) == jax.dtypes.float0 else g, grads)


def value_and_grad(fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any) -> Callable[..., Any]:
    """``jax.value_and_grad`` for trees with ternary weights, compact or not.

    In the gradient of a weight, ``score`` holds the integer scores (float32 ``[out, groups]``) and ``votes`` their number; integer
    leaves are None. ``argnums``, ``has_aux`` and ``options`` as in jax.
    """
    inner = jax.value_and_grad(fun, argnums=argnums, has_aux=has_aux, allow_int=True, **options)
    differentiated = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        full = list(args)
        for k in differentiated:
            full[k] = expand(full[k])
        value, grads = inner(*full, **kwargs)
        return value, _without_float0(grads)

    return wrapped


def grad(fun: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, **options: Any) -> Callable[..., Any]:
    """``jax.grad``, as :func:`value_and_grad`."""
    inner = value_and_grad(fun, argnums, has_aux, **options)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, grads = inner(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return wrapped


def _check_gradient(w: TernaryWeight, grad: Any) -> None:
    score, votes = getattr(grad, "score", None), getattr(grad, "votes", None)
    if score is None or votes is None:
        raise TypeError(
            f"grad must be the gradient of a TernaryWeight, with score and votes, got {type(grad).__name__}: of a compact weight take it "
            "with ternax.value_and_grad"
        )
    for name, found, like in (("score", score, w.exponent), ("votes", votes, w.votes)):
        if getattr(found, "dtype", None) != jnp.float32:
            raise TypeError(f"grad.{name} must be float32, got {getattr(found, 'dtype', type(found).__name__)}: gradients must not be cast")
        if found.shape != like.shape:
            raise ValueError(f"grad.{name} must have shape {like.shape}, got {found.shape}")


def _refuse_on_host(w: TernaryWeight, grad: Any, wanted_votes: int | None) -> None:
    """What the call would refuse, as an exception before anything runs, where the values can be seen."""
    if not all(map(on_host, (w.step, grad.score, grad.votes))):
        return
    if np.any(w.step_int64() < 0):
        raise ValueError("w.step must not be negative, as after a refused update: go back to the weight before that update")
    score, votes = np.asarray(grad.score, np.float64), np.asarray(grad.votes, np.float64)
    limit = votes[..., None, None] * w.group_size
    counted = np.all((votes == np.round(votes)) & (votes >= 0) & (votes <= reference.MAX_EXACT))
    if not (counted and np.all((score == np.round(score)) & (np.abs(score) <= limit))):
        largest = np.max(np.abs(score), initial=0)
        raise ValueError(
            f"grad.score must hold whole numbers of size at most votes * group_size (votes {votes}, group_size {w.group_size}), found up "
            f"to {largest}: was the loss scaled, or the gradient averaged over devices, clipped or cast?"
        )
    if wanted_votes is not None and np.any(votes != wanted_votes):
        raise ValueError(
            f"grad.votes must be {wanted_votes}, got {votes}: was the layer used or its gradient summed more often than meant (a psum of "
            "what jax had summed already)?"
        )


def update(w: TernaryWeight, grad: Any, *, votes: int | None = None) -> TernaryWeight:
    """``corr -= score; step += votes``, exact in int64 (SPEC 17); in place where ``w`` is donated.

    w: a weight, or a stack of them. grad: its gradient, by ``ternax.grad`` or any ``jax.grad(..., allow_int=True)``. Float biases are not
    touched: see :func:`with_ternary`.
    votes: how many scores the caller knows to be in it (1 for one exact use); any other count is refused. Only the
        caller can tell a gradient that was summed twice, since score and votes grow alike.

    A gradient that is no sum of scores (of a scaled loss, averaged, clipped or cast) is refused: eagerly with a
    ValueError; under jit on CPU with an error of the call, before anything is written; on other platforms corr stays
    and step turns negative, which makes every output of the layer NaN.
    """
    check(w, stacked=True)
    _check_gradient(w, grad)
    _refuse_on_host(w, grad, votes)
    operands = w.corr, w.step, grad.score, grad.votes
    corr, step = primitives.bind("accumulate", *operands, group_size=w.group_size, wanted_votes=votes)
    return dataclasses.replace(w, corr=corr, step=step)


class TernaryState(NamedTuple):
    """State of :func:`with_ternary`: that of the dense optimizer."""

    dense: Any


def _dense_part(tree: Any) -> Any:
    """The tree that the dense optimizer sees: of a ternary weight only its bias, if that is trained."""

    def leaf(node: Any) -> Any:
        if not is_ternary(node):
            return node
        bias = node.bias
        return bias if bias is not None and jnp.issubdtype(bias.dtype, jnp.floating) else None

    return jax.tree.map(leaf, tree, is_leaf=is_ternary)


def with_ternary(dense: Any, *, votes: int | None = None) -> Any:
    """An optax transformation for trees of dense and ternary parameters; must be the outermost one.

    Dense leaves and float biases go through ``dense``; ternary weights are updated as by :func:`update`, with the same refusals. The
    updates of ternary nodes are what ``optax.apply_updates`` must add, limb by limb, to reach the exact int64 result. Clipping,
    scaling and accumulation of dense gradients belong inside. Needs optax.
    """
    import optax

    inner = optax.with_extra_args_support(dense)

    def init(params: Any) -> TernaryState:
        return TernaryState(inner.init(_dense_part(params)))

    def step(w: TernaryWeight, g: Any, bias: Any) -> TernaryWeight:
        new = update(w, g, votes=votes)
        still = jax.tree.map(jnp.zeros_like, w)
        # int32 addition wraps: each limb reaches the new one whatever the carry.
        moved = {"corr": new.corr - w.corr, "step": new.step - w.step, "bias": still.bias if bias is None else bias}
        return dataclasses.replace(still, **moved)

    def update_fn(grads: Any, state: TernaryState, params: Any = None, **extra: Any) -> Any:
        if params is None:
            raise ValueError("with_ternary needs the params: call update(grads, state, params)")
        updates, dense_state = inner.update(_dense_part(grads), state.dense, _dense_part(params), **extra)
        # None (nothing to train) stays in place as a leaf, so that the three trees can be walked together.
        is_leaf = lambda node: node is None or is_ternary(node)
        merge = lambda w, g, u: step(w, g, u) if is_ternary(w) else u
        return jax.tree.map(merge, params, grads, updates, is_leaf=is_leaf), TernaryState(dense_state)

    return optax.GradientTransformationExtraArgs(init, update_fn)
