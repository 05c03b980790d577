"""Bad input is an error that names the argument, what came and what was wanted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
import ternax as tx


@pytest.fixture
def w(random):
    return oracle.weight(random, 64, 8)


ONES = jnp.ones((3, 64))


@pytest.mark.parametrize("layer", [tx.linear, lambda w, x: tx.bind(w)(x)], ids=["linear", "bind"])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((3, 63)), ValueError, r"x must have shape \[\.\.\., 64\] \(the layer's in_dim\), got \(3, 63\)"),
        (jnp.ones(()), ValueError, r"x must have shape \[\.\.\., 64\] \(the layer's in_dim\), got \(\)"),
        (jnp.ones((3, 64), jnp.int32), TypeError, "x must be float32, bfloat16 or float16, got int32"),
        (jnp.ones((3, 64), jnp.complex64), TypeError, "x must be float32, bfloat16 or float16, got complex64"),
    ],
)
def test_inputs_of_the_wrong_shape_or_dtype(w, layer, x, error, message):
    for run in (layer, jax.jit(layer)):
        with pytest.raises(error, match=message):
            run(w, x)


def test_float64_inputs_point_to_the_reference_backend(w):
    with jax.enable_x64(True), pytest.raises(TypeError, match=r"got float64: for float64 use the reference backend"):
        tx.linear(w, jnp.ones((3, 64), jnp.float64))


def test_the_norm_checks_its_input():
    with pytest.raises(ValueError, match=r"rms_norm: x must have shape \[\.\.\., 8\]"):
        tx.rms_norm(tx.init_norm(jax.random.key(0), 8), jnp.ones(7))


def replaced(name, change):
    return lambda w: dataclasses.replace(w, **{name: change(getattr(w, name))})


SPOILED = {
    "a state cast to bfloat16": (
        lambda w: jax.tree.map(lambda a: a.astype(jnp.bfloat16), w),
        TypeError,
        r"w\.trits must be uint8, got bfloat16: the state of a ternary layer must not be cast, averaged",
    ),
    "a score leaf cast to bfloat16": (replaced("score", lambda a: a.astype(jnp.bfloat16)), TypeError, r"w\.score must be float32"),
    "an averaged correlation": (replaced("corr", lambda a: a * 0.9), TypeError, r"w\.corr must be int32, got float32.*averaged"),
    "an averaged step": (replaced("step", lambda a: a * 0.9), TypeError, r"w\.step must be int32"),
    "sliced leaves": (lambda w: jax.tree.map(lambda a: a[:1], dataclasses.replace(w, votes=jnp.zeros(1))), ValueError, "sliced"),
    "bytes that are not trits": (
        replaced("trits", lambda a: a.at[3, 1, 2].set(250)),
        ValueError,
        r"w\.trits must hold .* 242 each, found 250",
    ),
    "sliced trits": (replaced("trits", lambda a: a[:, :1]), ValueError, r"w\.trits must have shape \[out, 2, 7\].*sliced"),
    "sliced exponents": (replaced("exponent", lambda a: a[:1]), ValueError, r"w\.exponent must have shape \(8, 2\), got \(1, 2\)"),
    "a correlation without limbs": (replaced("corr", lambda a: a[..., 0]), ValueError, r"w\.corr must have shape \(8, 2, 2\)"),
    "a stack of layers": (lambda w: jax.tree.map(lambda a: jnp.stack([a, a]), w), ValueError, "a stack of layers goes through"),
    "a score that is not zero": (replaced("score", lambda a: a.at[1, 1].set(2)), ValueError, r"w\.score must be zero"),
    "a bias of the wrong shape": (lambda w: dataclasses.replace(w, bias=jnp.zeros(7)), ValueError, r"w\.bias must have shape \(8,\)"),
    "a boolean bias": (lambda w: dataclasses.replace(w, bias=jnp.zeros(8, bool)), TypeError, r"w\.bias must be None, int32"),
    "a missing leaf": (lambda w: dataclasses.replace(w, corr=None), TypeError, r"w\.corr must be an array, got NoneType"),
    "another layer's sizes": (lambda w: dataclasses.replace(w, in_dim=100), ValueError, r"w\.trits must have shape \[out, 4, 7\]"),
    "no groups": (lambda w: dataclasses.replace(w, group_size=0), ValueError, "group_size >= 1"),
    "an array": (lambda w: w.trits, TypeError, "w must be a TernaryWeight"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_state(w, case):
    spoil, error, message = SPOILED[case]
    for use in (lambda w: tx.linear(w, ONES), tx.bind):
        with pytest.raises(error, match=message):
            use(spoil(w))


def test_a_spoiled_state_is_seen_under_jit_and_grad(w):
    cast = lambda w: tx.linear(jax.tree.map(lambda a: a.astype(jnp.bfloat16), w), ONES)
    for run in (jax.jit(cast), tx.grad(lambda w: jnp.sum(cast(w)))):
        with pytest.raises(TypeError, match="must not be cast"):
            run(w)


def test_an_update_checks_the_state(w):
    grad = tx.grad(lambda w: jnp.sum(tx.linear(w, ONES)))(w)
    for spoil in ("an averaged correlation", "a score that is not zero"):
        change, error, message = SPOILED[spoil]
        with pytest.raises(error, match=message):
            tx.update(change(w), grad)


@pytest.mark.parametrize("reduce", ["mean", None])
def test_unknown_reductions(w, reduce):
    with pytest.raises(ValueError, match="reduce must be 'exact' or 'vote'"):
        tx.linear(w, ONES, reduce=reduce)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trits": [[0, 2]]}, ValueError, r"trits must be -1, 0 or 1, found \[2\]"),
        ({"trits": [[0.0, np.nan]]}, ValueError, r"trits must be -1, 0 or 1, found \[nan\]"),
        ({"trits": [[0.5, -1.0]]}, ValueError, r"trits must be -1, 0 or 1, found \[0\.5\]"),
        ({"trits": [0, 1]}, ValueError, r"trits must have shape \[out, in\], got \(2,\)"),
        ({"trits": np.zeros((2, 0))}, ValueError, "in_dim must be a whole number of at least 1, got 0"),
        ({"group_size": 0}, ValueError, "group_size must be a whole number of at least 1, got 0"),
        ({"group_size": 2.5}, ValueError, r"group_size must be a whole number of at least 1, got 2\.5"),
        ({"step": -1}, ValueError, r"step must lie in 0\.\.9223372036854775807, found -1"),
        ({"step": [1]}, ValueError, r"step must have shape \(\), got \(1,\)"),
        ({"step": 1.0}, TypeError, "step must be integers, got float64"),
        ({"step": jnp.int32(3)}, TypeError, r"step must be host integers \(numpy int64\), got a jax array"),
        ({"corr": jnp.zeros((1, 1), jnp.int32)}, TypeError, "corr must be host integers .* jax cuts int64 to int32"),
        ({"corr": np.zeros((1, 2), int)}, ValueError, r"corr must have shape \(1, 1\), got \(1, 2\)"),
        ({"corr": np.zeros((1, 1))}, TypeError, "corr must be integers, got float64"),
        ({"corr": np.uint64([[2**63]])}, ValueError, "corr must lie in"),
        ({"exponent": [[128]]}, ValueError, r"exponent must lie in -128\.\.127, found 128"),
        ({"bias": np.zeros(2, np.float32)}, ValueError, r"bias must have shape \(1,\), got \(2,\)"),
    ],
)
def test_arguments_of_from_trits(arguments, error, message):
    with pytest.raises(error, match=message):
        tx.from_trits(**({"trits": [[0, 1]]} | arguments))


@pytest.mark.parametrize(("sizes", "name"), [((0, 4), "in_dim"), ((4, -1), "out_dim"), ((4.0, 4), "in_dim")])
def test_sizes_of_init(sizes, name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        tx.init(jax.random.key(0), *sizes)
    with pytest.raises(ValueError, match="group_size must be a whole number"):
        tx.init(jax.random.key(0), 4, 4, group_size=0)


MIXED = {
    "stacked for a scan": lambda a, b: jax.tree.map(lambda *leaves: jnp.stack(leaves), a, b),
    "carried through a scan": lambda a, b: jax.lax.scan(lambda carry, _: (b, None), a, jnp.arange(2)),
    "chosen by a step of a scan": lambda a, b: jax.lax.scan(
        lambda x, i: (tx.linear(jax.lax.cond(i > 0, lambda: a, lambda: b), x), None), ONES, jnp.arange(2)
    ),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED.keys())
@pytest.mark.parametrize("change", ["group_size", "in_dim", "gain"])
def test_layers_of_one_stack_that_differ_in_what_is_static(mix, change):
    sizes = {"in_dim": 64, "group_size": 32, "gain": 4.0}
    other = sizes | {change: {"group_size": 16, "in_dim": 60, "gain": 2.0}[change]}
    layers = [tx.init(jax.random.key(0), s["in_dim"], 64, group_size=s["group_size"], gain=s["gain"]) for s in (sizes, other)]
    wanted, found = ("in_dim={in_dim}, group_size={group_size}, gain={gain}".format(**s) for s in (sizes, other))
    cause = r" \(layers of one stack, scan, cond or tree_map must have equal in_dim, group_size and gain\)"
    with pytest.raises((TypeError, ValueError), match=f"(?s){wanted}{cause}.*{found}{cause}|{found}{cause}.*{wanted}{cause}"):
        mix(*layers)


PACKED, SCALE = np.full((8, 2, 7), 121, np.uint8), np.ones((8, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tx.ops.matmul(ONES, PACKED[:, :1], SCALE, group_size=32), ValueError, r"matmul: trits must have shape \[\*E, out, 2, 7\]"),
        (lambda: tx.ops.matmul(ONES, PACKED.astype(int), SCALE, group_size=32), TypeError, "matmul: trits must be uint8, got int32"),
        (lambda: tx.ops.matmul(ONES, PACKED, SCALE[:, :1], group_size=32), ValueError, r"matmul: scale must have shape \[\*E, 8, 2\]"),
        (lambda: tx.ops.matmul(ONES, PACKED, SCALE, group_size=0), ValueError, "matmul: group_size must be at least 1, got 0"),
        (lambda: tx.ops.matmul(ONES, PACKED, SCALE, group_size=32, dtype=np.float16), TypeError, "matmul: dtype must be float32"),
        (
            lambda: tx.ops.matmul(ONES, np.stack([PACKED] * 2), np.stack([SCALE] * 2), group_size=32),
            ValueError,
            r"ensemble dimensions must be equal, or 1 on what is shared, got x \(3,\), trits \(2,\)",
        ),
        (lambda: tx.ops.matmul_transposed(ONES, PACKED, SCALE, in_dim=64, group_size=32), ValueError, r"dy must have shape \[\.\.\., 8\]"),
        (
            lambda: tx.ops.correlate(ONES, ONES[:2, :8], PACKED, group_size=32),
            ValueError,
            r"dy must have shape \[\*E, 3, 8\], got \(2, 8\)",
        ),
        (lambda: tx.ops.correlate(ONES, ONES[:, :8].astype(jnp.bfloat16), PACKED, group_size=32), TypeError, "dy must be float32"),
        (lambda: tx.ops.correlate_dense(jnp.ones((7, 64)), PACKED, group_size=32), ValueError, r"dw must have shape \[\*E, 8, in\]"),
        (lambda: tx.ops.scale(np.zeros((8, 2)), PACKED, SCALE, group_size=32), TypeError, "scale: exponent must be int8, got float32"),
        (lambda: tx.ops.unpack(PACKED, in_dim=65, group_size=32), ValueError, r"unpack: trits must have shape \[\*E, out, 3, 7\]"),
        (lambda: tx.ops.pack(np.zeros(5, np.int8), group_size=5), ValueError, r"pack: trits must have shape \[\*, out, in\]"),
        (
            lambda: tx.ops.dequantize(PACKED, SCALE[:7], in_dim=64, group_size=32),
            ValueError,
            r"scale must have shape \(8, 2\), got \(7, 2\)",
        ),
    ],
)
def test_arguments_of_the_operations(backend, call, error, message):
    with pytest.raises(error, match=message):
        call()
