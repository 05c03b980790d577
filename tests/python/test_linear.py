"""A layer under every transform on one device: values, input gradients, scores and votes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import oracle
import ternax as tx

OUT, IN, TOKENS = 24, 320, 16


@pytest.fixture
def w(random):
    return oracle.weight(random, IN, OUT)


@pytest.fixture
def stack(random):
    return jax.tree.map(lambda *a: jnp.stack(a), *(oracle.weight(random, IN, OUT) for _ in range(3)))


@pytest.fixture
def x(random):
    return jnp.asarray(oracle.dyadic(random, (TOKENS, IN)))


@pytest.fixture
def dy(random):
    return jnp.asarray(oracle.dyadic(random, (TOKENS, OUT)))


def loss(w, x, dy, **options):
    return jnp.sum(tx.linear(w, x, **options) * dy)


def scores(w, x, dy):
    return oracle.score(x, dy, w.unpack(), w.group_size)


def member(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def assert_scores(grad, score, votes=1):
    assert np.array_equal(grad.score, score)
    assert np.array_equal(grad.votes, np.broadcast_to(votes, np.shape(grad.votes)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda d: d.__name__)
def test_the_layer_and_its_gradients_are_those_of_the_dense_weight(backend, w, x, dy, dtype):
    x, dy = x.astype(dtype), dy.astype(dtype)
    y, pullback = jax.vjp(tx.linear, w, x)
    grad, dx = pullback(dy)
    assert y.dtype == dx.dtype == dtype
    assert np.array_equal(y, np.asarray(np.asarray(x, np.float64) @ oracle.dense(w).T, np.float32).astype(dtype))
    assert np.array_equal(dx, np.asarray(np.asarray(dy, np.float64) @ oracle.dense(w), np.float32).astype(dtype))
    assert_scores(grad, scores(w, x, dy))


def test_gradients_of_integers_are_none(w, x, dy):
    value, grad = tx.value_and_grad(loss)(w, x, dy)
    assert value == loss(w, x, dy)
    assert grad.trits is grad.exponent is grad.corr is grad.step is None
    assert_scores(grad, scores(w, x, dy))


def test_grad_takes_argnums_and_aux_as_jax_does(w, x, dy):
    (grad, dx), aux = tx.grad(lambda x, w: (loss(w, x, dy), "aux"), argnums=(1, 0), has_aux=True)(x, w)
    assert aux == "aux"
    assert np.array_equal(dx, dy @ oracle.dense(w))
    assert_scores(grad, scores(w, x, dy))


def test_leading_dimensions_of_every_number_are_one_batch(backend, w, x, dy):
    assert_scores(tx.grad(loss)(w, x.reshape(2, 4, 2, IN), dy.reshape(2, 4, 2, OUT)), scores(w, x, dy))
    assert tx.linear(w, x[0]).shape == (OUT,)
    assert_scores(tx.grad(loss)(w, x[0], dy[0]), scores(w, x[:1], dy[:1]))


def test_an_empty_batch_scores_zero_and_votes_once(backend, w, x, dy):
    assert_scores(tx.grad(loss)(w, x[:0], dy[:0]), np.zeros((OUT, IN // 32)))


def test_a_layer_without_outputs_and_a_layer_of_one_weight_work(backend, random):
    empty, single = oracle.weight(random, 64, 0), tx.from_trits([[1]], exponent=[[0]])
    assert tx.linear(empty, jnp.ones((3, 64))).shape == (3, 0)
    assert np.array_equal(tx.grad(loss)(empty, jnp.ones((3, 64)), jnp.ones((3, 0))).score, np.zeros((0, 2)))
    assert np.array_equal(tx.linear(single, jnp.float32([[3]])), [[3]])
    assert tx.grad(loss)(single, jnp.float32([[3]]), jnp.float32([[-1]])).score == -1


def test_an_integer_bias_is_added_and_a_float_bias_is_trained(backend, w, x, dy):
    constant = dataclasses.replace(w, bias=jnp.arange(OUT, dtype=jnp.int32))
    trained = dataclasses.replace(w, bias=jnp.arange(OUT, dtype=jnp.float32))
    assert np.array_equal(tx.linear(constant, x), tx.linear(w, x) + np.arange(OUT))
    assert tx.grad(loss)(constant, x, dy).bias is None
    assert np.array_equal(tx.grad(loss)(trained, x, dy).bias, dy.sum(0))


# ------------------------------------------------------------------------------------------------------------ vmap
def test_grad_of_vmap_takes_the_sign_of_the_whole_batch(backend, w, x, dy):
    """A custom_vjp would sum the signs of each example instead."""
    whole = lambda w: jnp.sum(jax.vmap(lambda a: tx.linear(w, a))(x) * dy)
    nested = lambda w: jnp.sum(jax.vmap(jax.vmap(lambda a: tx.linear(w, a)))(x.reshape(4, 4, IN)).reshape(TOKENS, OUT) * dy)
    assert_scores(jax.jit(tx.grad(whole))(w), scores(w, x, dy))
    assert_scores(jax.jit(tx.grad(nested))(w), scores(w, x, dy))


def test_vmap_of_grad_gives_the_scores_of_each_example(backend, w, x, dy):
    grad = jax.jit(jax.vmap(tx.grad(loss), (None, 0, 0)))(w, x, dy)
    assert_scores(grad, np.stack([scores(w, x[i : i + 1], dy[i : i + 1]) for i in range(TOKENS)]))


def test_an_ensemble_scores_each_member_by_itself_in_both_orders(backend, stack, x, dy):
    want = np.stack([scores(member(stack, k), x, dy) for k in range(3)])
    assert_scores(jax.jit(jax.vmap(tx.grad(loss), (0, None, None)))(stack, x, dy), want)
    grad_of_vmap = lambda ws: jnp.sum(jax.vmap(lambda w: loss(w, x, dy))(ws))
    assert_scores(jax.jit(tx.grad(grad_of_vmap))(stack), want)


def test_an_ensemble_with_own_data_scores_each_member_on_its_data(backend, stack, random):
    x, dy = (jnp.asarray(oracle.dyadic(random, (3, TOKENS, n))) for n in (IN, OUT))
    want = np.stack([scores(member(stack, k), x[k], dy[k]) for k in range(3)])
    assert_scores(jax.jit(jax.vmap(tx.grad(loss)))(stack, x, dy), want)


def test_vmap_over_weights_and_examples_folds_in_both_orders(backend, stack, x, dy):
    want = np.stack([scores(member(stack, k), x, dy) for k in range(3)])
    inner = lambda ws: jnp.sum(jax.vmap(lambda w: jax.vmap(lambda a: tx.linear(w, a))(x))(ws) * dy)
    outer = lambda ws: jnp.sum(jax.vmap(lambda a, b: jnp.sum(jax.vmap(lambda w: tx.linear(w, a))(ws) * b))(x, dy))
    assert_scores(jax.jit(tx.grad(inner))(stack), want)
    assert_scores(jax.jit(tx.grad(outer))(stack), want)


def test_the_input_gradient_of_a_shared_input_sums_over_the_ensemble(backend, stack, x, dy):
    dx = jax.jit(jax.grad(lambda x: jnp.sum(jax.vmap(lambda w: loss(w, x, dy))(stack))))(x)
    assert np.array_equal(dx, sum(dy @ oracle.dense(member(stack, k)) for k in range(3)))


def calls(f, *args):
    """How many custom calls of each name the program holds."""
    text = jax.jit(f).lower(*args).as_text()
    return {
        name: n for name in ("matmul", "matmul_transposed", "correlate", "scale", "accumulate") if (n := text.count(f"@ternax_{name}("))
    }


def test_an_ensemble_and_a_fold_are_single_calls(w, stack, x, dy):
    both = lambda w, x, dy: jax.vjp(tx.linear, w, x)[1](dy)
    one = {"matmul_transposed": 1, "correlate": 1, "scale": 1}
    assert calls(both, w, x, dy) == one
    assert calls(jax.vmap(both, (0, None, None)), stack, x, dy) == one
    assert calls(jax.vmap(both, (None, 0, 0)), w, x, dy) == one


def test_the_scale_of_a_step_is_computed_once(w, x, dy):
    step = lambda w, x, dy: jax.value_and_grad(lambda x: jnp.sum(jnp.tanh(tx.linear(w, x)) * dy))(x)
    assert calls(step, w, x, dy) == {"matmul": 1, "matmul_transposed": 1, "scale": 1}


def test_what_is_not_asked_for_is_not_computed(w, x, dy):
    assert calls(tx.grad(loss), w, x, dy) == {"correlate": 1}
    assert calls(jax.grad(loss, argnums=1), w, x, dy) == {"matmul_transposed": 1, "scale": 1}


# ---------------------------------------------------------------------------------------------------- control flow
def test_scan_over_layers_scores_each_layer(backend, stack, x, dy):
    def total(ws, body):
        return lax.scan(lambda c, w: (c + body(w), None), 0.0, ws)[0]

    want = np.stack([scores(member(stack, k), x, dy) for k in range(3)])
    plain = lambda w: loss(w, x, dy)
    for body in (plain, jax.checkpoint(plain), jax.checkpoint(plain, policy=tx.checkpoint_policy)):
        assert_scores(jax.jit(tx.grad(functools.partial(total, body=body)))(stack), want)


def test_scan_over_time_sums_the_scores_of_the_uses_and_counts_them(backend, w, x, dy):
    parts = x.reshape(4, 4, IN), dy.reshape(4, 4, OUT)
    over_time = lambda w: lax.scan(lambda c, p: (c + loss(w, *p), None), 0.0, parts)[0]
    assert_scores(jax.jit(tx.grad(over_time))(w), sum(scores(w, a, b) for a, b in zip(*parts, strict=True)), votes=4)


def test_the_checkpoint_policy_saves_the_layer_and_its_scale(w, x):
    deep = lambda w, x: jnp.sum(jnp.tanh(tx.linear(w, x)) ** 2)
    count = lambda f: calls(jax.value_and_grad(f, argnums=1), w, x)
    assert count(jax.checkpoint(deep, policy=tx.checkpoint_policy)) == {"matmul": 1, "matmul_transposed": 1, "scale": 1}
    assert count(jax.checkpoint(deep))["matmul"] == 2


def test_a_branch_that_is_not_taken_neither_scores_nor_votes(backend, w, x, dy):
    branch = jax.jit(tx.grad(lambda w, p: lax.cond(p, lambda: loss(w, x, dy), lambda: 0.0)))
    assert_scores(branch(w, True), scores(w, x, dy))
    assert_scores(branch(w, False), np.zeros((OUT, IN // 32)), votes=0)


def test_a_layer_that_is_not_used_neither_scores_nor_votes(w, x):
    assert_scores(tx.grad(lambda w: jnp.sum(x))(w), np.zeros((OUT, IN // 32)), votes=0)


def test_gradients_of_microbatches_add_up_to_a_vote(backend, w, x, dy):
    halves = [tx.grad(loss)(w, x[i : i + 8], dy[i : i + 8]) for i in (0, 8)]
    total = jax.tree.map(jnp.add, *halves)
    assert_scores(total, scores(w, x[:8], dy[:8]) + scores(w, x[8:], dy[8:]), votes=2)


# ----------------------------------------------------------------------------------------------- higher derivatives
def test_forward_mode_and_second_derivatives_in_x_are_those_of_the_dense_layer(backend, w, x):
    dense = jnp.asarray(oracle.dense(w), jnp.float32)
    ours, theirs = (lambda a, f=f: jnp.sum(jnp.tanh(f(a))) for f in (lambda a: tx.linear(w, a), lambda a: a @ dense.T))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    tangents = jax.jvp(functools.partial(tx.linear, w), (x,), (x,))
    assert np.array_equal(tangents[0], tangents[1])
    close(jax.jit(lambda x: jax.jvp(jax.grad(ours), (x,), (x,))[1])(x), jax.jvp(jax.grad(theirs), (x,), (x,))[1])
    norm = lambda f: jax.jit(jax.grad(lambda a: jnp.sum(jax.grad(f)(a) ** 2)))
    close(norm(ours)(x), norm(theirs)(x))
    close(jax.hessian(ours)(x[0]), jax.hessian(theirs)(x[0]))


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit])
def test_scores_are_step_functions_whose_derivative_in_x_is_zero(backend, w, x, dy, jit):
    found, tangent = jit(lambda x: jax.jvp(lambda x: tx.grad(loss)(w, x, dy).score, (x,), (x,)))(x)
    assert np.array_equal(found, scores(w, x, dy))
    assert tangent.shape == found.shape
    assert not np.any(tangent)


def test_linearize_and_linear_transpose_give_the_scores(backend, w, x, dy):
    by_score = lambda score: tx.linear(dataclasses.replace(w, score=score), x)
    y, linear = jax.linearize(by_score, w.score)
    assert np.array_equal(y, tx.linear(w, x))
    assert np.array_equal(jax.linear_transpose(linear, w.score)(dy)[0], scores(w, x, dy))


def test_a_batch_of_directions_of_the_scores_moves_nothing(backend, w, x):
    by_score = lambda score: tx.linear(dataclasses.replace(w, score=score), x[0])
    assert not np.any(jax.jacfwd(by_score)(w.score))
    rows = jax.jacrev(by_score)(w.score)
    assert np.array_equal(rows[3], scores(w, x[:1], np.eye(OUT)[3:4]))


# ----------------------------------------------------------------------------------------------------------- compact
def test_a_compact_tree_is_smaller_and_gives_the_same_gradients(backend, w, x, dy):
    slim = tx.compact({"layer": w})
    assert slim["layer"].score is None
    assert w.bits_per_weight() - slim["layer"].bits_per_weight() == 1.0
    by_tree = lambda t: loss(t["layer"], x, dy)
    assert_scores(jax.jit(tx.grad(by_tree))(slim)["layer"], scores(w, x, dy))
    assert np.array_equal(tx.linear(slim["layer"], x), tx.linear(w, x))
    full = tx.expand(slim)["layer"]
    assert np.array_equal(full.score, w.score)
    new = jax.jit(lambda w: tx.update(w, tx.grad(loss)(w, x, dy)))(slim["layer"])
    assert new.score is None
    assert np.array_equal(new.corr_int64(), -scores(w, x, dy))


@pytest.mark.parametrize("layer", [tx.linear, lambda w, x: tx.bind(w)(x)], ids=["linear", "bind"])
def test_a_plain_grad_over_a_compact_weight_is_an_error_that_says_so(w, x, dy, layer):
    slim, f = tx.compact(w), lambda w: jnp.sum(layer(w, x) * dy)
    for grad in (jax.grad(f, allow_int=True), jax.jit(jax.grad(f, allow_int=True))):
        with pytest.raises(TypeError, match=r"compact.*ternax\.value_and_grad"):
            grad(slim)


def test_the_zeros_of_a_compact_gradient_are_never_stored(w, x, dy):
    step = jax.jit(lambda w, x, dy: tx.update(w, tx.grad(loss)(w, x, dy)), donate_argnums=0)
    temporary = lambda w: step.lower(w, x, dy).compile().memory_analysis().temp_size_in_bytes
    assert temporary(tx.compact(w)) == temporary(w)
