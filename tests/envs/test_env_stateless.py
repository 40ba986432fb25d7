"""The control tasks against Gymnasium's own CartPole and Pendulum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import play, quick_jit, random_discrete
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

from rlssm.envs.registry import MEMORY_TASKS
from rlssm.envs.stateless import (
    CartPoleState,
    PendulumState,
    StatelessCartPole,
    StatelessPendulum,
)
from rlssm.errors import UserError


def test_cartpole_moves_like_gymnasium():
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (50, 4)) * [2.5, 3.0, 0.25, 3.0]
    actions = rng.integers(0, 2, 50)
    oracle = CartPoleEnv()
    oracle.reset(seed=0)
    with jax.enable_x64(True):
        env = StatelessCartPole()
        step = quick_jit(env.step)
        for start, action in zip(states, actions, strict=True):
            oracle.state, oracle.steps_beyond_terminated = start.copy(), None
            _, _, fallen, _, _ = oracle.step(int(action))
            state = CartPoleState(*jnp.asarray(start), time=jnp.int32(3))
            after, out = step(jax.random.key(0), state, jnp.int32(action), env.params)
            np.testing.assert_allclose(after[:4], oracle.state, rtol=1e-12, atol=1e-14)
            assert bool(out.terminated) == fallen and not out.truncated
            np.testing.assert_allclose(out.obs, np.asarray(oracle.state)[[0, 2]], rtol=1e-6)


def test_pendulum_moves_and_pays_like_gymnasium():
    rng = np.random.default_rng(1)
    states = rng.uniform(-1, 1, (50, 2)) * [10.0, 8.0]
    actions = rng.uniform(-1.5, 1.5, 50)
    oracle = PendulumEnv()
    oracle.reset(seed=0)
    with jax.enable_x64(True):
        env = StatelessPendulum(max_steps=150)
        step = quick_jit(env.step)
        for start, action in zip(states, actions, strict=True):
            oracle.state = start.copy()
            _, reward, _, _, _ = oracle.step(np.array([2 * action]))
            state = PendulumState(*jnp.asarray(start), time=jnp.int32(3))
            after, out = step(jax.random.key(0), state, jnp.asarray([action]), env.params)
            np.testing.assert_allclose(after[:2], oracle.state, rtol=1e-11, atol=1e-12)
            np.testing.assert_allclose(out.reward, (reward + 8.1368) / 8.1368 / 150, atol=1e-6)
            angle = oracle.state[0]
            np.testing.assert_allclose(out.obs, [np.cos(angle), np.sin(angle)], atol=1e-6)


def test_pendulum_return_lies_in_minus_one_to_one():
    env = StatelessPendulum(max_steps=200)
    zero = jnp.zeros((), jnp.int32)
    best = PendulumState(jnp.zeros(()), jnp.zeros(()), zero)
    worst = PendulumState(jnp.asarray(-jnp.pi), jnp.asarray(8.0), zero)
    for state, torque, reward in ((best, 0.0, 1 / 200), (worst, 1.0, -1 / 200)):
        _, out = env.step(jax.random.key(0), state, jnp.asarray([torque]), env.params)
        np.testing.assert_allclose(out.reward, reward, rtol=1e-6)


def test_starts_are_those_of_gymnasium():
    keys = jax.random.split(jax.random.key(0), 500)
    reset = quick_jit(jax.vmap(StatelessCartPole().reset, (0, None)))
    for values in reset(keys, StatelessCartPole().params)[0][:4]:
        assert -0.05 <= values.min() < -0.045 and 0.045 < values.max() <= 0.05
    reset = quick_jit(jax.vmap(StatelessPendulum().reset, (0, None)))
    theta, theta_dot, time = map(np.asarray, reset(keys, StatelessPendulum().params)[0])
    assert 3.0 < np.abs(theta).max() <= np.float32(np.pi) and not time.any()
    assert 0.95 < np.abs(theta_dot).max() <= 1.0


def balance(lane, key, state, obs):
    return (state.theta + state.theta_dot + 0.1 * state.x + 0.2 * state.x_dot > 0).astype(jnp.int32)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("StatelessCartPoleEasy", 200),
        ("StatelessCartPoleHard", 600),
    ],
)
def test_balancing_to_the_limit_returns_one_and_truncates(name, limit):
    env = MEMORY_TASKS[name]
    assert env.spec.max_episode_steps == limit
    _, _, step = play(env, balance, limit, batch=2)
    assert not step.terminated.any() and not step.truncated[:, :-1].any()
    assert step.truncated[:, -1].all()
    assert (step.reward == np.float32(1 / limit)).all()
    np.testing.assert_array_equal(step.info["success"], step.truncated)


def test_falling_terminates_without_success():
    _, _, step = play(StatelessCartPole(), random_discrete(2), 200, batch=16)
    assert step.terminated.any(1).all() and not (step.terminated & step.truncated).any()
    assert not step.info["success"][step.terminated].any()


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("StatelessPendulumEasy", 200),
        ("StatelessPendulumMedium", 150),
        ("StatelessPendulumHard", 100),
    ],
)
def test_pendulum_is_truncated_at_its_limit(name, limit):
    env = MEMORY_TASKS[name]
    assert env.spec.max_episode_steps == limit
    _, _, step = play(env, lambda lane, key, state, obs: jnp.zeros(1), limit, batch=1)
    assert not step.terminated.any()
    assert np.flatnonzero(step.truncated[0]).tolist() == [limit - 1]


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("NoisyStatelessCartPoleEasy", 0.1),
        ("NoisyStatelessCartPoleMedium", 0.2),
        ("NoisyStatelessCartPoleHard", 0.3),
    ],
)
def test_noise_has_its_deviation_and_is_clipped(name, sigma):
    env = MEMORY_TASKS[name]
    assert env.spec.max_episode_steps == 200
    state = CartPoleState(*jnp.zeros(4), time=jnp.zeros((), jnp.int32))

    def observe(key):
        first = env.reset(key, env.params)[1]
        return first, env.step(key, state, jnp.int32(1), env.params)[1].obs

    draws = quick_jit(jax.vmap(observe))(jax.random.split(jax.random.key(0), 4000))
    for obs in map(np.asarray, draws):
        assert abs(obs[:, 0].std() / sigma - 1) < 0.05
        assert abs(obs[:, 0].mean()) < 4 * sigma / 4000**0.5
        assert np.abs(obs[:, 1]).max() <= 2 * np.radians(12) + 1e-6


def test_observation_hides_the_velocities():
    env = StatelessCartPole()
    state = CartPoleState(*jnp.asarray([0.1, 9.0, 0.02, -9.0]), time=jnp.zeros((), jnp.int32))
    obs = env._observe(jax.random.key(0), state)
    np.testing.assert_allclose(obs, [0.1, 0.02], rtol=1e-6)


def test_params_may_be_perturbed():
    env = StatelessPendulum()
    state = PendulumState(jnp.asarray(1.0), jnp.zeros(()), jnp.zeros((), jnp.int32))
    heavy = env.params._replace(gravity=jnp.asarray(20.0))
    speeds = [
        env.step(jax.random.key(0), state, jnp.zeros(1), params)[0].theta_dot
        for params in (env.params, heavy)
    ]
    np.testing.assert_allclose(speeds[1], 2 * speeds[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StatelessCartPole(max_steps=0), "max_steps must be at least 1, got 0"),
        (lambda: StatelessPendulum(max_steps=-1), "max_steps must be at least 1, got -1"),
        (
            lambda: StatelessCartPole(noise=float("nan")),
            "noise must be finite and at least 0, got nan",
        ),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message
