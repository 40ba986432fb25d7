"""Natural-gradient steps: against dense solves, closed forms, and their own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.nn.distributions import Categorical, Gaussian, TanhGaussian, masked_categorical
from rlssm.nn.natural_gradient import Trust, conjugate_gradient, natural_step

N = 12


def problem(seed=0):
    """Return a symmetric positive definite matrix and a vector, float64."""
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(N, N))
    return half @ half.T + np.eye(N), rng.normal(size=N)


def test_conjugate_gradient_is_the_dense_solve():
    matrix, b = problem()
    with jax.enable_x64(True):
        x = conjugate_gradient(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(b), 2 * N)
        np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-6, atol=1e-8)
        short = conjugate_gradient(lambda v: jnp.asarray(matrix) @ v, jnp.asarray(b), 3)
    assert np.linalg.norm(matrix @ short - b) > 1e-3, "three of twelve directions are not enough"


def test_conjugate_gradient_of_nothing_is_zero():
    assert not conjugate_gradient(lambda v: v, jnp.zeros(3), 10).any()


TRUST = Trust(max_kl=0.01, damping=0.1, iterations=30, halvings=10)


@pytest.mark.parametrize("halvings", [0, 10])
def test_a_step_on_a_quadratic_is_the_closed_form(halvings):
    """The objective is linear and the divergence quadratic, so that no model is off."""
    matrix, b = problem()
    with jax.enable_x64(True):
        matrix, b = jnp.asarray(matrix), jnp.asarray(b)
        start = {"a": jnp.ones(5), "b": jnp.zeros((7, 1))}

        def moved(params):
            return jnp.concatenate([params["a"] - 1, params["b"].ravel()])

        new, metrics = natural_step(
            lambda p: moved(p) @ b,
            lambda p: 0.5 * moved(p) @ matrix @ moved(p),
            start,
            TRUST._replace(halvings=halvings),
        )
        damped = matrix + 0.1 * jnp.eye(N)
        x = jnp.linalg.solve(damped, b)
        expected = jnp.sqrt(2 * 0.01 / (x @ damped @ x)) * x
        np.testing.assert_allclose(moved(new), expected, rtol=1e-6)
        assert metrics["improvement"] == pytest.approx(float(expected @ b), rel=1e-6)
        assert metrics["kl"] == pytest.approx(float(0.5 * expected @ matrix @ expected), rel=1e-6)
        assert metrics["grad_norm"] == pytest.approx(float(jnp.linalg.norm(b)))
        assert metrics["accepted"] == 1


def test_the_line_search_halves_until_both_promises_hold():
    """The divergence grows faster than its curvature says: the whole step would break the bound."""
    start = jnp.zeros(2)
    objective = lambda x: x[0]  # noqa: E731
    steep = lambda x: x @ x / 2 + 1e4 * jnp.sum(x**4)  # noqa: E731
    new, metrics = natural_step(objective, steep, start, TRUST)
    whole = np.sqrt(2 * 0.01 * 1.1) / 1.1  # of (1, 0): x = 1 / 1.1, x^T F x = 1 / 1.1
    halved = next(whole / 2**i for i in range(10) if steep(np.array([whole / 2**i, 0])) <= 0.01)
    assert halved < whole
    np.testing.assert_allclose(new, [halved, 0], rtol=1e-5)
    assert metrics["kl"] <= 0.01 and metrics["accepted"] == 1
    unseen, metrics = natural_step(objective, steep, start, TRUST._replace(halvings=0))
    np.testing.assert_allclose(unseen, [whole, 0], rtol=1e-5)
    assert metrics["kl"] > 0.01


def test_a_step_that_improves_nothing_is_not_taken():
    start = jnp.ones(2)
    worse = lambda x: jnp.sum(x) - 1e6 * jnp.sum((x - 1) ** 2)  # noqa: E731
    new, metrics = natural_step(worse, lambda x: jnp.sum((x - 1) ** 2), start, TRUST)
    np.testing.assert_array_equal(new, start)
    assert metrics["accepted"] == 0 and metrics["improvement"] == 0 and metrics["kl"] == 0
    new, metrics = natural_step(lambda x: 0 * x[0], lambda x: jnp.sum((x - 1) ** 2), start, TRUST)
    np.testing.assert_array_equal(new, start)


# --- Divergences ------------------------------------------------------------------------------


def test_divergences_are_those_of_their_integrals():
    rng = np.random.default_rng(0)
    p, q = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(2))
    a, b = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (np.asarray(p), np.asarray(q)))
    expected = (a * np.log(a / b)).sum(-1)
    np.testing.assert_allclose(Categorical(p).kl(Categorical(q)), expected, rtol=1e-4)

    one, other = Gaussian(p, q / 2), Gaussian(q, p / 2)
    draws, log_p = jax.vmap(one.sample_and_log_prob)(jax.random.split(jax.random.key(0), 40_000))
    terms = np.asarray(log_p - other.log_prob(draws))
    spread = 5 * terms.std(0) / np.sqrt(len(terms))
    assert (np.abs(one.kl(other) - terms.mean(0)) < spread).all()
    squashed = TanhGaussian(p, q / 2).kl(TanhGaussian(q, p / 2))
    np.testing.assert_array_equal(squashed, one.kl(other))
    assert not np.asarray(one.kl(one)).any()


def test_divergence_under_a_mask_and_its_gradient_are_finite():
    mask = jnp.array([True, False, True])
    p, q = jnp.array([1.0, 5.0, 0.0]), jnp.array([0.0, -3.0, 1.0])

    def divergence(q):
        return masked_categorical(p, mask).kl(masked_categorical(q, mask))

    expected = Categorical(p[::2]).kl(Categorical(q[::2]))
    assert divergence(q) == pytest.approx(float(expected), rel=1e-6)
    gradient = jax.grad(divergence)(q)
    assert np.isfinite(gradient).all() and gradient[1] == 0
    assert np.isfinite(jax.hessian(divergence)(q)).all()
