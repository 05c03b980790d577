"""The integer trajectory inside optax, equinox and flax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
import ternax as tx

# `make test` installs all frameworks; a machine with a GPU, on which `make gpu-check` runs this, may reach no registry.
NEEDED = "not installed here: `make test` installs it, `make gpu-check` takes the Python as it is"
optax = pytest.importorskip("optax", reason=f"optax is {NEEDED}")

OUT, IN = 8, 64


@pytest.fixture
def x(random):
    return jnp.asarray(oracle.dyadic(random, (16, IN)))


@pytest.fixture
def dy(random):
    return jnp.asarray(oracle.dyadic(random, (16, OUT)))


def test_optax_updates_dense_and_ternary_leaves_together(x, dy, random):
    biased = dataclasses.replace(oracle.weight(random, IN, OUT, corr=np.full((OUT, 2), -(2**40) - 3), step=2**40), bias=jnp.zeros(OUT))
    stack = jax.tree.map(lambda *a: jnp.stack(a), *(oracle.weight(random, IN, OUT) for _ in range(2)))
    params = {"dense": jnp.full((IN, IN), 0.1), "one": biased, "stack": stack, "norm": tx.init_norm(jax.random.key(0), OUT)}
    optimizer = tx.with_ternary(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)))

    def loss(p):
        y = tx.rms_norm(p["norm"], tx.linear(p["one"], x @ p["dense"]))
        return jnp.sum(y * dy) + jax.lax.scan(lambda c, w: (c + jnp.sum(tx.linear(w, x) * dy), None), 0.0, p["stack"])[0]

    @jax.jit
    def step(p, state):
        grads = tx.grad(loss)(p)
        updates, state = optimizer.update(grads, state, p)
        return optax.apply_updates(p, updates), state, grads

    new, _, grads = step(params, optimizer.init(params))
    assert np.array_equal(new["one"].corr_int64(), -(2**40) - 3 - np.asarray(grads["one"].score, np.int64))
    assert new["one"].step_int64() == 2**40 + 1
    assert np.array_equal(new["stack"].corr_int64(), -np.asarray(grads["stack"].score, np.int64))
    assert np.array_equal(new["stack"].step_int64(), [1, 1])
    assert new["norm"].step_int64() == 0
    assert not np.array_equal(new["one"].bias, biased.bias)
    assert not np.array_equal(new["dense"], params["dense"])
    assert np.array_equal(new["one"].trits, biased.trits)


def test_optax_takes_float0_and_none_gradients_and_compact_weights(x, dy, random):
    optimizer, w = tx.with_ternary(optax.sgd(1.0)), oracle.weight(random, IN, OUT)
    loss = lambda w: jnp.sum(tx.linear(w, x) * dy)
    for state, grad in ((w, jax.grad(loss, allow_int=True)(w)), (w, tx.grad(loss)(w)), (tx.compact(w), tx.grad(loss)(tx.compact(w)))):
        updates, _ = optimizer.update(grad, optimizer.init(state), state)
        assert np.array_equal(optax.apply_updates(state, updates).corr_int64(), -oracle.score(x, dy, w.unpack(), 32))


def test_optax_refuses_dishonest_scores_and_other_votes(x, dy, random):
    w = oracle.weight(random, IN, OUT)
    grad = tx.grad(lambda w: jnp.sum(tx.linear(w, x) * dy))(w)
    optimizer = tx.with_ternary(optax.sgd(1.0), votes=1)
    with pytest.raises(ValueError, match="was the loss scaled"):
        optimizer.update(jax.tree.map(lambda a: a / 3, grad), optimizer.init(w), w)
    with pytest.raises(ValueError, match=r"grad\.votes must be 1"):
        optimizer.update(jax.tree.map(lambda a: a * 2, grad), optimizer.init(w), w)
    with pytest.raises(ValueError, match="needs the params"):
        optimizer.update(grad, optimizer.init(w))


def test_a_plain_optimizer_cannot_reach_the_state(x, dy, random):
    """It fails inside optax with a message of its own: the library is never called."""
    w = oracle.weight(random, IN, OUT)
    for grad in (tx.grad, lambda f: jax.grad(f, allow_int=True)):
        optimizer = optax.adamw(1e-3)
        with pytest.raises((ValueError, TypeError)):
            optax.apply_updates(w, optimizer.update(grad(lambda w: jnp.sum(tx.linear(w, x) * dy))(w), optimizer.init(w), w)[0])


def test_norms_of_gradient_trees_work(x, dy, random):
    grad = tx.grad(lambda w: jnp.sum(tx.linear(w, x) * dy))(oracle.weight(random, IN, OUT))
    assert optax.global_norm(grad) > 1


def test_equinox_vmaps_the_model_and_scores_the_whole_batch(x, dy, random):
    eqx = pytest.importorskip("equinox", reason=f"equinox is {NEEDED}")

    class Model(eqx.Module):
        layer: tx.TernaryWeight
        scale: jax.Array

        def __call__(self, x):
            return tx.linear(self.layer, x) * self.scale

    model = Model(oracle.weight(random, IN, OUT), jnp.ones(()))
    optimizer = tx.with_ternary(optax.sgd(1e-3))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(lambda m: jnp.sum(jax.vmap(m)(x) * dy))(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state

    new, _ = step(model, optimizer.init(eqx.filter(model, eqx.is_array)))
    assert np.array_equal(new.layer.corr_int64(), -oracle.score(x, dy, model.layer.unpack(), 32))
    assert new.layer.step_int64() == 1
    assert new.scale != 1


def test_flax_linen_holds_a_weight_as_one_parameter(x, dy):
    nn = pytest.importorskip("flax.linen", reason=f"flax is {NEEDED}")
    TrainState = pytest.importorskip("flax.training.train_state", reason=f"flax is {NEEDED}").TrainState

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("ternary", lambda key: tx.init(key, IN, OUT))
            return nn.Dense(OUT)(tx.linear(w, x))

    model = Model()
    params = model.init(jax.random.key(0), x)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx.with_ternary(optax.adam(1e-3)))
    loss = lambda p: jnp.sum(model.apply({"params": p}, x) * dy)
    step = jax.jit(lambda s: s.apply_gradients(grads=tx.grad(loss)(s.params)))
    new = step(step(state))
    assert new.params["ternary"].step_int64() == 2
    assert np.any(new.params["ternary"].corr_int64())
    assert not np.array_equal(new.params["Dense_0"]["kernel"], params["Dense_0"]["kernel"])


def test_flax_nnx_trains_a_weight_next_to_dense_parameters(x, dy):
    nnx = pytest.importorskip("flax.nnx", reason=f"flax is {NEEDED}")

    class Ternary(nnx.Variable):
        """A whole TernaryWeight."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.ternary = Ternary(tx.init(rngs.params(), IN, OUT))
            self.dense = nnx.Linear(OUT, OUT, rngs=rngs)

        def __call__(self, x):
            return self.dense(tx.linear(self.ternary.get_value(), x))

    model = Model(nnx.Rngs(0))
    graph, weights, params = nnx.split(model, Ternary, nnx.Param)
    optimizer = tx.with_ternary(optax.adam(1e-3))
    trained = nnx.to_pure_dict(weights), nnx.to_pure_dict(params)

    def loss(trained):
        weights_, params_ = nnx.clone(weights), nnx.clone(params)
        nnx.replace_by_pure_dict(weights_, trained[0])
        nnx.replace_by_pure_dict(params_, trained[1])
        return jnp.sum(nnx.merge(graph, weights_, params_)(x) * dy)

    updates, _ = optimizer.update(tx.grad(loss)(trained), optimizer.init(trained), trained)
    new = optax.apply_updates(trained, updates)
    assert new[0]["ternary"].step_int64() == 1
    assert np.any(new[0]["ternary"].corr_int64())
    assert not np.array_equal(new[1]["dense"]["kernel"], trained[1]["dense"]["kernel"])
