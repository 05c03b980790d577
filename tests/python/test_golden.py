"""Replays what the PyTorch reference computed (``tests/golden``) through ternax, without PyTorch."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bounds import gamma, group_sums, product_difference, ulps, undecided_signs
from safetensors import safe_open

import ternax as tx

GOLDEN = Path(__file__).parents[1] / "golden" / "golden.safetensors"
# Where ternax computes something else on purpose; each has a test of its own.
DIFFERENT = {"int16_wrap", "denormals"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded case: its tensors, the trits ``[out, in]``, and what the metadata says about it."""

    tensors: dict[str, np.ndarray]
    about: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.tensors[name] if name in self.tensors else self.about[name]
        except KeyError as error:
            raise AttributeError(name) from error

    @property
    def trits(self) -> np.ndarray:
        """Five base-3 digits per byte across the whole matrix, least significant first."""
        digits = self.T_packed[:, None] // 3 ** np.arange(5) % 3
        return (digits.reshape(-1)[: self.out_dim * self.in_dim].reshape(self.out_dim, self.in_dim) - 1).astype(np.int8)

    def weight(self, corr: np.ndarray, step: Any) -> tx.TernaryWeight:
        grid = (self.out_dim, -1)
        state = {"exponent": self.E.reshape(grid), "corr": corr.reshape(grid), "step": int(np.asarray(step).item())}
        return tx.from_trits(self.trits, group_size=self.group_size, bias=self.tensors.get("bias"), **state)


@functools.cache
def recorded() -> dict[str, Case]:
    with safe_open(GOLDEN, "numpy") as file:
        metadata = json.loads(file.metadata()["cases"])
        cases: dict[str, dict[str, np.ndarray]] = {name: {} for name in metadata}
        for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            name, tensor = key.split("/")
            cases[name][tensor] = file.get_tensor(key)
    return {name: Case(cases[name], metadata[name]) for name in metadata}


def names(kind: str, **flags: bool) -> list[str]:
    chosen = [name for name, case in recorded().items() if case.kind == kind]
    return [name for name in chosen if all(recorded()[name].about[flag] == value for flag, value in flags.items())]


EXACT = [name for name in names("layer", exact_state=True) if name not in DIFFERENT]
ROUNDED = names("layer", exact_state=False)


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with tx.backend(request.param):
        yield request.param


def pullback(w: tx.TernaryWeight, x: Any, dy: Any) -> tuple[Any, Any, tx.TernaryWeight]:
    """y, dx, and the gradient of the weight for the gradient ``dy`` of y."""

    def loss(w: tx.TernaryWeight, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = tx.linear(w, x)
        return jnp.sum(y * dy), y

    (_, y), (gradient, dx) = tx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(w, jnp.asarray(x))
    return y, dx, gradient


@jax.jit
def train_step(w: tx.TernaryWeight, x: Any, dy: Any) -> tuple[Any, Any, Any, tx.TernaryWeight]:
    """y, dx, the scores, and the weight after one update."""
    y, dx, gradient = pullback(w, x, dy)
    return y, dx, gradient.score, tx.update(w, gradient)


def corr_before(case: Case) -> Iterator[tuple[np.ndarray, int]]:
    """The recorded corr and step that each recorded step started from."""
    yield case.corr_in, int(case.step_in[0])
    yield from zip(case.corr_out[:-1], case.step_out[:-1].tolist(), strict=True)


@pytest.mark.parametrize("name", EXACT)
def test_integer_state_is_that_of_the_reference_bit_for_bit_over_all_steps(name: str) -> None:
    case = recorded()[name]
    w = case.weight(case.corr_in, case.step_in)
    for t, (corr, _) in enumerate(corr_before(case)):
        _, _, score, w = train_step(w, case.xs[t], case.dys[t])
        np.testing.assert_array_equal(np.asarray(score).ravel(), corr - case.corr_out[t], err_msg=f"score of step {t}")
        np.testing.assert_array_equal(w.corr_int64().ravel(), case.corr_out[t], err_msg=f"corr after step {t}")
        assert w.step_int64() == case.step_out[t]


@pytest.mark.parametrize("name", EXACT)
def test_outputs_and_input_gradients_are_equal_where_every_exponent_is_an_integer(name: str) -> None:
    case = recorded()[name]
    for t, (corr, step) in enumerate(corr_before(case)):
        if case.exact_y[t]:
            y, dx, *_ = train_step(case.weight(corr, step), case.xs[t], case.dys[t])
            np.testing.assert_array_equal(y, case.ys[t], err_msg=f"y of step {t}")
            np.testing.assert_array_equal(dx, case.dxs[t], err_msg=f"dx of step {t}")


def test_every_kind_of_step_is_recorded() -> None:
    exact = [flag for name in EXACT for flag in recorded()[name].exact_y]
    assert sum(exact) >= 20 and len(exact) - sum(exact) >= 20
    assert len(ROUNDED) >= 2 and len(names("rms_norm")) >= 2


@pytest.mark.parametrize("name", EXACT + ROUNDED)
def test_outputs_and_input_gradients_differ_by_rounding_only(name: str) -> None:
    case = recorded()[name]
    finite = [t for t in range(len(case.xs)) if np.isfinite(case.dys[t]).all()]
    before = list(corr_before(case))
    for t in finite:
        w = case.weight(*before[t])
        y, dx, *_ = train_step(w, case.xs[t], case.dys[t])
        ours = np.asarray(w.dequantize())
        theirs = np.repeat(case.scales[t].reshape(case.out_dim, -1), case.group_size, axis=1)[:, : case.in_dim] * case.trits
        y_bound = product_difference(case.xs[t], ours.T, theirs.T)
        if "bias" in case.tensors:
            y_bound += gamma(1) * (np.abs(case.ys[t]) + np.abs(np.asarray(y)))
        assert np.all(np.abs(np.asarray(y, np.float64) - case.ys[t]) <= y_bound), f"y of step {t}"
        assert np.all(np.abs(np.asarray(dx, np.float64) - case.dxs[t]) <= product_difference(case.dys[t], ours, theirs)), f"dx of step {t}"


@pytest.mark.parametrize("name", EXACT + ROUNDED)
def test_scale_is_exact_at_integer_exponents_and_within_one_ulp_elsewhere(name: str) -> None:
    case = recorded()[name]
    for t, (corr, step) in enumerate(corr_before(case)):
        ours, theirs = np.asarray(case.weight(corr, step).scale()).ravel(), case.scales[t]
        integer = np.log2(theirs) % 1 == 0
        np.testing.assert_array_equal(ours[integer], theirs[integer])
        assert np.all(ulps(ours, theirs) <= 1), f"scale of step {t}"


@pytest.mark.parametrize("name", ROUNDED)
def test_scores_of_normal_numbers_differ_only_where_rounding_decides_a_sign(name: str) -> None:
    case = recorded()[name]
    for t, (corr, step) in enumerate(corr_before(case)):
        *_, score, w = train_step(case.weight(corr, step), case.xs[t], case.dys[t])
        allowed = 2 * group_sums(undecided_signs(case.xs[t], case.dys[t]), case.group_size)
        assert np.mean(allowed > 0) < 0.01, "a bound that allows everything tests nothing"
        difference = (corr - case.corr_out[t]).reshape(score.shape) - np.asarray(score).astype(np.int64)
        assert np.all(np.abs(difference) <= allowed), f"score of step {t}"
        assert w.step_int64() == case.step_out[t]


@pytest.mark.parametrize("name", names("rms_norm"))
def test_rms_norm_differs_by_rounding_only(name: str) -> None:
    case = recorded()[name]
    digits = (case.T_packed[:, None] // 3 ** np.arange(5) % 3).reshape(1, -1)[:, : case.dim]
    state = {"exponent": case.E[None], "corr": case.corr_in[None], "step": int(case.step_in[0])}
    n = tx.from_trits(digits.astype(np.int8) - 1, group_size=case.group_size, **state)

    y, vjp = jax.vjp(functools.partial(tx.rms_norm, n), jnp.asarray(case.x))
    (dx,) = vjp(jnp.asarray(case.dy))

    # y takes a mean of squares, a root, a division and a product, in each of the two implementations; the root halves the error
    # of the mean.
    y_bound = 2 * gamma(case.dim // 2 + 6) * np.abs(case.y)
    assert np.all(np.abs(np.asarray(y, np.float64) - case.y) <= y_bound)
    # dx = r * (g - x * r^2 * mean(g * x)) with g = dy * S * T and r = 1 / sqrt(mean(x^2) + eps)
    x, g = case.x.astype(np.float64), np.abs(case.dy * np.asarray(n.dequantize(), np.float64))
    r = 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + np.finfo(np.float32).eps)
    magnitude = r * (g + np.abs(x) * r**2 * np.mean(g * np.abs(x), axis=1, keepdims=True))
    assert np.all(np.abs(np.asarray(dx, np.float64) - case.dx) <= 2 * gamma(3 * case.dim + 12) * magnitude)


def test_scores_do_not_wrap_where_the_reference_sums_in_int16() -> None:
    case = recorded()["int16_wrap"]
    *_, score, w = train_step(case.weight(case.corr_in, case.step_in), case.xs[0], case.dys[0])
    assert case.corr_out[0] == [2**15]
    assert np.asarray(score).item() == 2**15 and w.corr_int64().item() == -(2**15)


@jax.jit
def sign_of_product(x: Any, dy: Any) -> Any:
    """The signs of dW for inputs that are all 1, one for each row, as XLA's own product has them on this platform."""
    return jnp.sign(jnp.einsum("mo,mi->oi", dy, x, precision="highest"))[:, :1]


def test_denormal_gradients_keep_their_sign_in_custom_calls_and_count_as_zero_where_xla_flushes_them(backend: str) -> None:
    case = recorded()["denormals"]
    scores_of_ones = group_sums(case.trits, case.group_size)
    for t, (corr, step) in enumerate(corr_before(case)):
        *_, score, _ = train_step(case.weight(corr, step), case.xs[t], case.dys[t])
        sign = np.sign(case.dys[t][0])[:, None]
        np.testing.assert_array_equal((corr - case.corr_out[t]).reshape(score.shape), sign * scores_of_ones)
        seen = sign if backend == "native" else sign_of_product(case.xs[t], case.dys[t])
        np.testing.assert_array_equal(score, seen * scores_of_ones)
        if backend == "reference" and jax.default_backend() == "cpu":
            normal = np.abs(case.dys[t][0])[:, None] >= np.finfo(np.float32).tiny
            np.testing.assert_array_equal(seen, np.where(normal, sign, 0), err_msg="XLA on CPU flushes")


def two_uses(name: str) -> tuple[Case, np.ndarray, np.ndarray]:
    """The case and the dense weight gradients of its two uses, which are exact."""
    case = recorded()[name]
    return case, case.dy1.T @ case.x1, case.dy2.T @ case.x2


def scores_of(case: Case, gradient: np.ndarray) -> np.ndarray:
    return group_sums(np.sign(gradient) * case.trits, case.group_size)


def test_a_bound_layer_used_twice_learns_from_the_summed_gradient_where_the_reference_takes_the_first() -> None:
    case, first, second = two_uses("shared_use")
    w = case.weight(case.corr_in, case.step_in)

    def loss(w: tx.TernaryWeight) -> jax.Array:
        layer = tx.bind(w)
        return jnp.sum(layer(jnp.asarray(case.x1)) * case.dy1) + jnp.sum(layer(jnp.asarray(case.x2)) * case.dy2)

    _, gradient = tx.value_and_grad(loss)(w)
    w = tx.update(w, gradient)
    np.testing.assert_array_equal(-case.corr_out, scores_of(case, first).ravel())
    np.testing.assert_array_equal(-w.corr_int64(), scores_of(case, first + second))
    assert w.step_int64() == case.step_out == 1


def test_two_backward_passes_are_two_votes_where_the_reference_takes_the_last() -> None:
    case, first, second = two_uses("two_backwards")
    w = case.weight(case.corr_in, case.step_in)
    gradients = [pullback(w, x, dy)[2] for x, dy in ((case.x1, case.dy1), (case.x2, case.dy2))]
    w = tx.update(w, jax.tree.map(jnp.add, *gradients))
    np.testing.assert_array_equal(-case.corr_out, scores_of(case, second).ravel())
    np.testing.assert_array_equal(-w.corr_int64(), scores_of(case, first) + scores_of(case, second))
    assert w.step_int64() == 2 and case.step_out == 1
