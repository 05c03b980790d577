"""Every transform in every parallel form gives what the same function gives eagerly on one device, bit for bit.

The wrong answers that this guards against: signs taken per example or per shard instead of over the whole batch; scores summed
once per device; votes that grow with the devices; a layer of a scan, or a member of an ensemble, that gets another's score; limbs
of the state that part. The inputs are such that every sum is exact, in whatever order the devices add.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import oracle
import parallel
import ternax as tx

TOKENS, IN, OUT = 32, 128, 16


def loss(form, w, x, dy):
    return jnp.sum(tx.linear(w, x, **form.options) * dy)


def forward(form, w, x, dy):
    return None, tx.linear(w, x)


def jvp_and_linearize(form, w, x, dy):
    layer = functools.partial(tx.linear, w)
    return None, (jax.jvp(layer, (x,), (jnp.abs(x),)), jax.linearize(layer, x)[1](jnp.abs(x)))


def grad(form, w, x, dy):
    return tx.grad(functools.partial(loss, form), argnums=(0, 1))(w, x, dy)


def grad_of_a_compact_weight(form, w, x, dy):
    return grad(form, tx.compact(w), x, dy)


def hessian_vector_product(form, w, x, dy):
    curved = lambda x: jnp.sum(tx.linear(w, x) ** 2 * dy)
    return None, jax.jvp(jax.grad(curved), (x,), (jnp.abs(x),))


def grad_of_vmap(form, w, x, dy):
    return tx.grad(lambda w: jnp.sum(jax.vmap(lambda a: tx.linear(w, a, **form.options))(x) * dy))(w), None


def vmap_of_grad(form, w, x, dy):
    alone = lambda w, x, dy: jnp.sum(tx.linear(w, x) * dy)
    return None, jax.vmap(tx.grad(alone), (None, 0, 0))(form.own(w), x, dy)


def ensemble(form, ws, x, dy):
    return jax.vmap(tx.grad(functools.partial(loss, form)), (0, None, None))(ws, x, dy), None


def through_layers(form, ws, x, dy, wrap):
    def total(ws, x):
        layer = wrap(lambda h, w: (form.alike(tx.linear(w, h, **form.options), h), None))
        y = lax.scan(layer, x, ws)[0]
        return jnp.sum(y * form.alike(dy, y))

    return tx.grad(total, argnums=(0, 1))(ws, x)


def scan_over_layers(form, ws, x, dy):
    return through_layers(form, ws, x, dy, lambda layer: layer)


def remat(form, ws, x, dy):
    return through_layers(form, ws, x, dy, jax.checkpoint)


def bind(form, w, x, dy):
    def twice(w):
        h = tx.bind(w, **form.options)
        return jnp.sum(h(x) * dy) + jnp.sum(h(jnp.abs(x)) * dy)

    return tx.grad(twice)(w), None


def over_time(form, w, xs, dys, layer):
    def total(w, xs):
        h = layer(w)
        return jnp.sum(lax.scan(lambda _, part: (None, h(part[0]) * part[1]), None, (xs, dys))[1])

    return tx.grad(total, argnums=(0, 1))(w, xs)


def bind_in_scan(form, w, xs, dys):
    return over_time(form, w, xs, dys, lambda w: tx.bind(w, **form.options))


def reuse_in_scan(form, w, xs, dys):
    return over_time(form, w, xs, dys, lambda w: functools.partial(tx.linear, w, **form.options))


def microbatches(form, w, xs, dys):
    each = [tx.grad(functools.partial(loss, form))(w, x, dy) for x, dy in zip(xs, dys, strict=True)]
    return jax.tree.map(jnp.add, *each), None


def three_updates(form, w, x, dy):
    def step(w, _):
        return tx.update(w, tx.value_and_grad(functools.partial(loss, form))(w, x, dy)[1], votes=1), None

    return lax.scan(step, w, length=3)[0], None


# What runs, whether on a stack of layers, and whether the tokens are cut into times first.
TRANSFORMS = {
    "forward": (forward, False, False),
    "jvp, linearize": (jvp_and_linearize, False, False),
    "grad": (grad, False, False),
    "compact": (grad_of_a_compact_weight, False, False),
    "HVP in x": (hessian_vector_product, False, False),
    "grad of vmap": (grad_of_vmap, False, False),
    "vmap of grad": (vmap_of_grad, False, False),
    "ensemble": (ensemble, True, False),
    "scan of layers": (scan_over_layers, True, False),
    "remat": (remat, True, False),
    "bind": (bind, False, False),
    "bind in scan": (bind_in_scan, False, True),
    "reuse": (reuse_in_scan, False, True),
    "microbatches": (microbatches, False, True),
    "update": (three_updates, False, False),
}


@functools.cache
def problem(transform, sequences):
    """A weight, or three square ones in a stack, and data whose every sum is exact; the tokens may be sequences of two."""
    _, stacked, timed = TRANSFORMS[transform]
    random = np.random.default_rng(5)
    if stacked:
        square = [tx.from_trits(oracle.trits(random, 64, 64), exponent=np.zeros((64, 2), int)) for _ in range(3)]
        w = jax.tree.map(lambda *a: jnp.stack(a), *square)
        x, dy = (random.integers(-2, 3, (TOKENS, 64)).astype(np.float32) for _ in range(2))
    else:
        w = oracle.weight(random, IN, OUT)
        x, dy = oracle.dyadic(random, (TOKENS, IN)), oracle.dyadic(random, (TOKENS, OUT))
    shape = (*((2,) if timed else ()), -1, *((2,) if sequences else ()))
    return w, *(jnp.asarray(a.reshape(*shape, a.shape[-1])) for a in (x, dy))


@functools.cache
def expected(transform, sequences):
    """What the transform gives eagerly on one device."""
    return jax.tree.map(np.asarray, TRANSFORMS[transform][0](parallel.FORMS["one device"], *problem(transform, sequences)))


CELLS = [
    pytest.param(name, transform, marks=pytest.mark.cell(transform, name), id=f"{name}-{transform}")
    for name in parallel.FORMS
    for transform in TRANSFORMS
]


@pytest.mark.parametrize(("name", "transform"), CELLS)
def test_the_form_changes_nothing(name, transform):
    form, (function, _, timed) = parallel.FORMS[name], TRANSFORMS[transform]
    found = form.run(function, *problem(transform, bool(form.sequence)), lead=int(timed))
    want = expected(transform, bool(form.sequence))
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert np.array_equal(a, b)
