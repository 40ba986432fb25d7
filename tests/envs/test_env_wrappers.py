"""Time limit, hidden entries, observation noise: alone and stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import play, quick_jit

from rlssm.envs.base import Vectorized
from rlssm.envs.cards import RepeatFirst
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.probes import ForbiddenAction, TerminatedStream, TruncatedStream
from rlssm.envs.registry import make
from rlssm.envs.user import check
from rlssm.envs.wrappers import HideObservation, ObservationNoise, TimeLimit
from rlssm.errors import UserError
from rlssm.types import Box


def idle(lane, key, state, obs):
    return jnp.int32(0)


@pytest.mark.parametrize(
    ("env", "steps", "terminated", "truncated"),
    [
        (TerminatedStream(steps=6), 4, [0, 0, 0, 0], [0, 0, 0, 1]),
        (TerminatedStream(steps=4), 4, [0, 0, 0, 1], [0, 0, 0, 0]),  # both at once: terminated
        (TruncatedStream(steps=4), 4, [0, 0, 0, 0], [0, 0, 0, 1]),
        (TerminatedStream(steps=6), 1, [0, 0, 0, 0], [1, 1, 1, 1]),
    ],
)
def test_time_limit_truncates(env, steps, terminated, truncated):
    limited = TimeLimit(env, steps)
    assert limited.spec.max_episode_steps == steps
    assert (limited.spec.obs, limited.spec.action) == (env.spec.obs, env.spec.action)
    _, _, step = play(limited, idle, 4, batch=1)
    np.testing.assert_array_equal(step.terminated[0], terminated)
    np.testing.assert_array_equal(step.truncated[0], truncated)


def test_time_limit_starts_anew_with_every_episode():
    env = Vectorized(TimeLimit(TerminatedStream(steps=100), 3), 2)
    state, _ = env.reset(jax.random.key(0))

    def body(state, key):
        return env.step(key, state, jnp.zeros(2, jnp.int32))

    _, out = quick_jit(lambda s: jax.lax.scan(body, s, jax.random.split(jax.random.key(1), 7)))(
        state
    )
    np.testing.assert_array_equal(out.truncated[:, 0], [0, 0, 1, 0, 0, 1, 0])
    np.testing.assert_allclose(out.next_obs[:, 0, 0] * 100, [1, 2, 3, 1, 2, 3, 1], rtol=1e-6)
    np.testing.assert_allclose(out.obs[:, 0, 0] * 100, [1, 2, 0, 1, 2, 0, 1], rtol=1e-6)


def test_hidden_entries_are_left_out():
    bare, hidden = make("CartPole-v1"), HideObservation(make("CartPole-v1"), (1, 3))
    assert hidden.spec.obs == Box((2,))
    key = jax.random.key(0)
    state, obs = bare.reset(key, bare.params)
    state_too, obs_too = hidden.reset(key, hidden.params)
    np.testing.assert_array_equal(obs_too, obs[jnp.array([0, 2])])
    _, step = bare.step(key, state, jnp.int32(1), bare.params)
    _, step_too = hidden.step(key, state_too, jnp.int32(1), hidden.params)
    np.testing.assert_array_equal(step_too.obs, step.obs[jnp.array([0, 2])])
    assert step_too.reward == step.reward
    check(hidden, "hidden")


def test_noise_has_its_deviation_and_changes_nothing_else():
    env = ObservationNoise(TerminatedStream(steps=4), 0.3)
    shown, _, step = play(env, idle, 4, batch=3000)
    errors = np.concatenate([shown - np.arange(4)[:, None] / 4, step.obs[:, -1:] - 1], axis=1)
    assert abs(errors.std() / 0.3 - 1) < 0.05 and abs(errors.mean()) < 0.02
    correlation = np.corrcoef(errors[:, :, 0].T) - np.eye(5)
    assert np.abs(correlation).max() < 0.08
    assert (step.reward == 1).all() and step.terminated[:, -1].all()
    np.testing.assert_array_equal(shown[:, 1:], step.obs[:, :-1])


def test_wrapped_environments_compare_by_value():
    def build():
        return TimeLimit(ObservationNoise(HideObservation(make("CartPole-v1"), (1,)), 0.1), 50)

    assert build() == build() and hash(build()) == hash(build())
    assert build() != TimeLimit(make("CartPole-v1"), 50)
    check(build(), "stack")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TimeLimit(MemoryChain(3), 0), "time_limit must be at least 1, got 0"),
        (
            lambda: TimeLimit(TruncatedStream(steps=5), 6),
            "time_limit must be from 1 to 5, the environment's own limit, got 6",
        ),
        (
            lambda: HideObservation(RepeatFirst(), (4,)),
            "hide must be distinct indices from 0 to 3 that leave something to see, got (4,)",
        ),
        (
            lambda: HideObservation(RepeatFirst(), (1, 1)),
            "hide must be distinct indices from 0 to 3 that leave something to see, got (1, 1)",
        ),
        (
            lambda: HideObservation(RepeatFirst(), (0, 1, 2, 3)),
            "hide must be distinct indices from 0 to 3 that leave something to see, "
            "got (0, 1, 2, 3)",
        ),
        (
            lambda: HideObservation(make("FrozenLake-misc"), (0,)),
            "hide needs a flat Box observation, the environment's is Discrete(n=16)",
        ),
        (
            lambda: ObservationNoise(make("FrozenLake-misc"), 0.1),
            "noise needs a Box observation of floats, the environment's is Discrete(n=16)",
        ),
        (
            lambda: ObservationNoise(ForbiddenAction(), 0.1),
            "noise needs a Box observation of floats, the environment's is "
            f"{ForbiddenAction().spec.obs}",
        ),
        (
            lambda: ObservationNoise(MemoryChain(3), -1.0),
            "noise must be finite and at least 0, got -1.0",
        ),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message
