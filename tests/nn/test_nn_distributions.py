import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from rlssm.nn.distributions import (
    BOUND,
    Categorical,
    Gaussian,
    TanhGaussian,
    masked_categorical,
)

LOGITS = np.array([[1.0, -2.0, 0.5], [3.0, 3.0, -1.0]])
MASK = np.array([[True, False, True], [False, True, False]])
MEAN = np.array([[0.3, -1.0], [0.0, 2.0]])
LOG_STD = np.array([[-0.5, 0.2], [-2.0, 0.5]])


def float32(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


# --- Categorical ------------------------------------------------------------------------------


def test_categorical_is_the_softmax():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    policy = Categorical(*float32(LOGITS))
    np.testing.assert_allclose(policy.log_prob(jnp.array([2, 1])), np.log(p[[0, 1], [2, 1]]), 1e-6)
    np.testing.assert_allclose(policy.entropy(), -(p * np.log(p)).sum(-1), 1e-6)
    np.testing.assert_array_equal(policy.mode(), [0, 0])


def test_mask_equals_the_categorical_over_the_allowed_actions():
    logits, mask = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(MASK)
    policy = masked_categorical(logits, mask)
    allowed = Categorical(logits[:1, ::2])
    np.testing.assert_allclose(policy.entropy(), [allowed.entropy()[0], 0], atol=1e-6)
    np.testing.assert_allclose(
        policy.log_prob(jnp.array([2, 1])), [allowed.log_prob(jnp.array([1]))[0], 0], atol=1e-6
    )
    actions = jax.vmap(policy.sample)(jax.random.split(jax.random.key(0), 200))
    assert MASK[np.arange(2), np.asarray(actions)].all()
    assert set(np.asarray(actions)[:, 0]) == {0, 2}


def test_no_mask_leaves_the_logits():
    logits = jnp.asarray(LOGITS)
    assert masked_categorical(logits, None).logits is logits


def test_gradients_through_a_mask_are_finite_and_zero_where_forbidden():
    mask = jnp.asarray(MASK)

    def loss(logits):
        policy = masked_categorical(logits, mask)
        return (policy.entropy() + policy.log_prob(jnp.array([0, 1]))).sum()

    logits = jnp.asarray(LOGITS, jnp.float32).at[0, 1].set(jnp.nan)
    gradient = jax.grad(loss)(logits)
    p = 1 / (1 + np.exp(0.5))  # of action 2, against action 0
    step = 1e-4
    entropy = lambda q: -(q * np.log(q) + (1 - q) * np.log(1 - q))  # noqa: E731
    shifted = 1 / (1 + np.exp(0.5 - step))
    expected = (entropy(shifted) - entropy(p)) / step - p
    np.testing.assert_allclose(gradient[0], [-expected, 0, expected], atol=1e-4)
    np.testing.assert_array_equal(gradient[1], 0)


def test_a_row_with_nothing_allowed_is_uniform():
    policy = masked_categorical(jnp.asarray(LOGITS, jnp.float32), jnp.zeros((2, 3), bool))
    np.testing.assert_allclose(policy.entropy(), np.log(3), rtol=1e-6)
    np.testing.assert_allclose(policy.log_prob(jnp.array([0, 2])), -np.log(3), rtol=1e-6)


# --- Gaussians --------------------------------------------------------------------------------


def test_gaussian_matches_scipy():
    policy = Gaussian(*float32(MEAN, LOG_STD))
    action = np.array([[0.0, 5.0], [-0.1, 1.0]])
    expected = stats.norm.logpdf(action, MEAN, np.exp(LOG_STD)).sum(-1)
    np.testing.assert_allclose(policy.log_prob(jnp.asarray(action, jnp.float32)), expected, 1e-5)
    entropy = stats.norm.entropy(MEAN, np.exp(LOG_STD)).sum(-1)
    np.testing.assert_allclose(policy.entropy(), entropy, 1e-5)
    np.testing.assert_array_equal(policy.mode(), policy.mean)


def squashed_log_density(action):
    u = np.arctanh(np.asarray(action, np.float64))
    density = stats.norm.logpdf(u, MEAN, np.exp(LOG_STD)) - np.log1p(-(np.tanh(u) ** 2))
    return density.sum(-1)


@pytest.mark.parametrize("action", [0.0, 0.5, -0.99, 0.99999, -1.0, 1.0])
def test_tanh_gaussian_density_is_right_up_to_the_bounds(action):
    action = jnp.full((2, 2), action, jnp.float32)
    inside = np.clip(action, -np.float32(BOUND), np.float32(BOUND))
    policy = TanhGaussian(*float32(MEAN, LOG_STD))
    np.testing.assert_allclose(policy.log_prob(action), squashed_log_density(inside), rtol=1e-5)


@pytest.mark.parametrize("action", [0.5, 1.0, -1.0])
def test_tanh_gaussian_gradients_are_right_at_the_bounds(action):
    mean, log_std = float32(MEAN, LOG_STD)
    action = jnp.full((2, 2), action, jnp.float32)
    gradients = jax.grad(lambda m, s: TanhGaussian(m, s).log_prob(action).sum(), (0, 1))
    u = np.arctanh(np.clip(np.asarray(action, np.float64), -np.float32(BOUND), np.float32(BOUND)))
    z = (u - MEAN) / np.exp(LOG_STD)
    expected = z / np.exp(LOG_STD), z**2 - 1
    for found, wanted in zip(gradients(mean, log_std), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    in_action = jax.grad(lambda a: TanhGaussian(mean, log_std).log_prob(a).sum())(action)
    assert np.isfinite(in_action).all()


def test_tanh_gaussian_density_integrates_to_one():
    policy = TanhGaussian(jnp.array([0.4]), jnp.array([-0.3]))
    grid = np.linspace(-0.99999, 0.99999, 20001)
    density = np.exp(policy.log_prob(jnp.asarray(grid[:, None], jnp.float32)))
    np.testing.assert_allclose(integrate.trapezoid(density, grid), 1, atol=2e-4)


@pytest.mark.parametrize("mean", [0.0, -0.7, 3.0])
@pytest.mark.parametrize("std", [0.05, 0.6, 2.0])
def test_tanh_gaussian_entropy_matches_adaptive_quadrature(mean, std):
    def integrand(u):
        log_slope = 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))
        return stats.norm.pdf(u, mean, std) * log_slope

    limits = mean - 12 * std, mean + 12 * std
    expected = stats.norm.entropy(mean, std) + integrate.quad(integrand, *limits, limit=200)[0]
    found = TanhGaussian(jnp.array([mean]), jnp.log(jnp.array([std]))).entropy()
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_tanh_gaussian_scores_saturated_samples_before_the_tanh():
    policy = TanhGaussian(jnp.array([12.0]), jnp.array([-1.0]))
    action, log_prob = policy.sample_and_log_prob(jax.random.key(0))
    assert action == 1.0
    u = Gaussian(policy.mean, policy.log_std).sample(jax.random.key(0))
    expected = stats.norm.logpdf(u, 12, np.exp(-1)) + 2 * (u - np.log(2))
    np.testing.assert_allclose(log_prob, expected.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "policy",
    [
        masked_categorical(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(MASK)),
        Gaussian(*float32(MEAN, LOG_STD)),
        TanhGaussian(*float32(MEAN, LOG_STD)),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_samples_agree_with_their_log_probabilities_and_the_mode(policy):
    key = jax.random.key(1)
    action, log_prob = policy.sample_and_log_prob(key)
    np.testing.assert_array_equal(action, policy.sample(key))
    np.testing.assert_allclose(log_prob, policy.log_prob(action), rtol=1e-4, atol=1e-5)
    assert log_prob.shape == policy.entropy().shape == (2,)
    assert policy.mode().shape == action.shape
    samples = jax.vmap(policy.sample)(jax.random.split(key, 4000))
    many = jax.vmap(policy.log_prob)(samples)
    np.testing.assert_allclose(-many.mean(0), policy.entropy(), atol=0.08)
