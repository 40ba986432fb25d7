"""Returns against loops over single episodes, written from the equations in float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlssm.errors import UserError
from rlssm.kernels.returns import discounted_returns, gae, lambda_returns, n_step_returns

T, B = 11, 2


class Experience(NamedTuple):
    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def experience(terminated: Any, truncated: Any, seed: int = 0) -> Experience:
    """Random rewards and values; next_value agrees with value wherever an episode goes on."""
    rng = np.random.default_rng(seed)
    terminated, truncated = (np.reshape(np.array(v), (T, B)) for v in (terminated, truncated))
    reward, value, final = rng.normal(size=(3, T, B))
    following = np.concatenate([value[1:], rng.normal(size=(1, B))])
    return Experience(
        reward, value, np.where(terminated | truncated, final, following), terminated, truncated
    )


def n_step(e: Experience, t: int, b: int, discount: float, n: int) -> float:
    """Sum n rewards and bootstrap, or stop where the episode or the arrays end."""
    total, weight = 0.0, 1.0
    for s in range(t, min(t + n, T)):
        total += weight * e.reward[s, b]
        weight *= discount
        if e.terminated[s, b]:
            return total
        if e.truncated[s, b]:
            break
    return total + weight * e.next_value[s, b]


def steps_left(e: Experience, t: int, b: int) -> int:
    last = e.terminated[t:, b] | e.truncated[t:, b]
    return int(np.argmax(last)) + 1 if last.any() else T - t


def table(function: Any) -> np.ndarray:
    return np.array([[function(t, b) for b in range(B)] for t in range(T)])


def lambda_return(e: Experience, t: int, b: int, discount: float, lam: float) -> float:
    """Mix the n-step returns: (1 - lam) sum_n lam^(n-1) G^(n), the rest on the longest."""
    longest = steps_left(e, t, b)
    total = lam ** (longest - 1) * n_step(e, t, b, discount, longest)
    for n in range(1, longest):
        total += (1 - lam) * lam ** (n - 1) * n_step(e, t, b, discount, n)
    return total


def float32(e: Experience) -> Experience:
    return Experience(*(jnp.asarray(v, v.dtype if v.dtype == bool else jnp.float32) for v in e))


flags = st.lists(st.booleans(), min_size=T * B, max_size=T * B)
run_gae = jax.jit(gae)
run_lambda = jax.jit(lambda_returns)
run_n_step = jax.jit(n_step_returns, static_argnames="n")
run_discounted = jax.jit(discounted_returns)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(terminated=flags, truncated=flags, lam=st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_lambda_returns_and_advantages_mix_n_step_returns(
    terminated: list[bool], truncated: list[bool], lam: float
) -> None:
    e = experience(terminated, truncated)
    expected = table(lambda t, b: lambda_return(e, t, b, 0.9, lam))
    f = float32(e)
    found = run_lambda(f.reward, f.next_value, f.terminated, f.truncated, 0.9, lam)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    advantage = run_gae(*f, 0.9, lam)
    np.testing.assert_allclose(advantage, expected - e.value, atol=2e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(terminated=flags, truncated=flags, n=st.sampled_from([1, 2, 5, T + 3]))
def test_n_step_returns(terminated: list[bool], truncated: list[bool], n: int) -> None:
    e = experience(terminated, truncated)
    f = float32(e)
    found = run_n_step(f.reward, f.next_value, f.terminated, f.truncated, 0.9, n=n)
    np.testing.assert_allclose(found, table(lambda t, b: n_step(e, t, b, 0.9, n)), atol=2e-6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(terminated=flags, truncated=flags)
def test_discounted_returns(terminated: list[bool], truncated: list[bool]) -> None:
    e = experience(terminated, truncated)
    f = float32(e)

    def expected(t: int, b: int) -> float:
        return sum(0.9**k * e.reward[t + k, b] for k in range(steps_left(e, t, b)))

    found = run_discounted(f.reward, f.terminated, f.truncated, 0.9)
    np.testing.assert_allclose(found, table(expected), atol=2e-6)


def test_gae_follows_its_recursion_for_values_that_disagree() -> None:
    """Values of two networks, or of two times, need not agree: only the recursion is promised."""
    rng = np.random.default_rng(1)
    reward, value, next_value = rng.normal(size=(3, T, B))
    terminated, truncated = rng.random((2, T, B)) < 0.2
    expected, ahead = np.zeros((T, B)), np.zeros(B)
    for t in reversed(range(T)):
        delta = reward[t] + 0.9 * (1 - terminated[t]) * next_value[t] - value[t]
        ahead = delta + 0.9 * 0.8 * (1 - (terminated[t] | truncated[t])) * ahead
        expected[t] = ahead
    with jax.enable_x64(True):
        arrays = (jnp.asarray(v) for v in (reward, value, next_value, terminated, truncated))
        np.testing.assert_allclose(gae(*arrays, 0.9, 0.8), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_termination_cuts_the_bootstrap_and_truncation_keeps_it(lam: float) -> None:
    """One reward of 1 a step and a value of 10 beyond: 1 if terminated, 1 + 0.5 * 10 if not."""
    one, ten = jnp.ones((3, 1)), jnp.full((3, 1), 10.0)
    middle = jnp.array([[False], [True], [False]])
    never = jnp.zeros((3, 1), bool)
    ended = lambda_returns(one, ten, middle, never, 0.5, lam)
    cut = lambda_returns(one, ten, never, middle, 0.5, lam)
    both = lambda_returns(one, ten, middle, middle, 0.5, lam)
    assert ended[1, 0] == 1
    assert cut[1, 0] == 6
    assert both[1, 0] == 1
    assert ended[2, 0] == cut[2, 0] == 6


def test_values_after_a_termination_are_never_read() -> None:
    nothing = jnp.zeros((T, B), bool)
    last = nothing.at[4].set(True)
    e = float32(experience(last, nothing))
    spoilt = e._replace(next_value=e.next_value.at[4].set(jnp.nan))

    def total(value: Any, next_value: Any, f: Experience) -> Any:
        return jnp.sum(gae(*f._replace(value=value, next_value=next_value), 0.9, 0.95) ** 2)

    for f in (e, spoilt):
        assert np.isfinite(gae(*f, 0.9, 0.95)).all()
        rest = f.reward, f.next_value, f.terminated, f.truncated, 0.9
        assert np.isfinite(lambda_returns(*rest, 0.95)).all()
        assert np.isfinite(n_step_returns(*rest, 3)).all()
    gradients = [jax.grad(total, (0, 1))(f.value, f.next_value, f) for f in (e, spoilt)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


def test_scalars_may_be_swept() -> None:
    rng = np.random.default_rng(2)
    e = float32(experience(rng.random((T, B)) < 0.2, rng.random((T, B)) < 0.2))
    discounts, lams = jnp.array([0.5, 0.99]), jnp.array([0.9, 0.0])
    swept = jax.vmap(lambda discount, lam: gae(*e, discount, lam))(discounts, lams)
    for row, discount, lam in zip(swept, discounts, lams, strict=True):
        np.testing.assert_allclose(row, gae(*e, discount, lam), atol=1e-6)


def test_no_steps_is_a_mistake() -> None:
    zeros, nothing = jnp.zeros((T, B)), jnp.zeros((T, B), bool)
    with pytest.raises(UserError, match=r"^n must be at least 1, got 0$"):
        n_step_returns(zeros, zeros, nothing, nothing, 0.9, 0)
