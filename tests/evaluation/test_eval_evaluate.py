"""Evaluation against a plain Python loop over one environment at a time."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.envs.base import Step
from rlssm.envs.wrappers import TimeLimit
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import UNLIMITED, evaluate, evaluate_seeds, record
from rlssm.types import Box, Discrete, Policy, Spec


class State(NamedTuple):
    length: jax.Array
    time: jax.Array


@dataclass(frozen=True)
class Countdown:
    """Ends after a length drawn at reset; pays 2^t, and NaN when stepped after its end.

    Episodes of odd length are solved, which is said at the step before the last.
    """

    longest: int = 6
    says_success: bool = True

    @property
    def spec(self):
        return Spec(Box((2,)), Discrete(3))

    @property
    def params(self):
        return ()

    def reset(self, key, params):
        length = jax.random.randint(key, (), 2, self.longest + 1)
        return State(length, jnp.int32(0)), jnp.stack([length, 0]).astype(jnp.float32)

    def step(self, key, state, action, params):
        time = state.time + 1
        over = time > state.length
        odd = state.length % 2 == 1
        info = {"success": jnp.where(time == state.length, odd, ~odd)}  # only the last step counts
        return State(state.length, time), Step(
            obs=jnp.stack([state.length, time]).astype(jnp.float32),
            reward=jnp.where(over, jnp.nan, 2.0**state.time),
            terminated=(time == state.length) & (state.length % 3 != 0),
            truncated=(time == state.length) & (state.length % 3 == 0),
            info=info if self.says_success else {},
        )


def nothing(params, inputs, reset, carry, key, greedy):
    return jnp.zeros(inputs.first.shape, jnp.int32), carry


IDLE = Policy(lambda b: jnp.zeros(b), nothing)


@pytest.mark.parametrize("says_success", [True, False])
def test_every_episode_is_counted_once_and_whole(says_success):
    env = Countdown(says_success=says_success)
    outcome = evaluate(env, IDLE, (), jax.random.key(0), episodes=64)
    length = np.asarray(outcome.length)
    assert set(length) == {2, 3, 4, 5, 6}
    np.testing.assert_array_equal(outcome.episode_return, 2.0**length - 1)
    assert outcome.finished.all()
    success = length % 2 == 1 if says_success else np.full(64, np.nan)
    np.testing.assert_array_equal(outcome.success, success)


def test_episodes_given_up_are_reported():
    outcome = evaluate(Countdown(), IDLE, (), jax.random.key(0), episodes=64, max_steps=4)
    whole = evaluate(Countdown(), IDLE, (), jax.random.key(0), episodes=64)
    length = np.minimum(whole.length, 4)
    np.testing.assert_array_equal(outcome.length, length)
    np.testing.assert_array_equal(outcome.episode_return, 2.0**length - 1)
    np.testing.assert_array_equal(outcome.finished, whole.length <= 4)


def test_endless_environments_end(monkeypatch):
    @dataclass(frozen=True)
    class Endless(Countdown):
        def step(self, key, state, action, params):
            state, step = super().step(key, state, action, params)
            never = jnp.zeros((), bool)
            return state, step._replace(reward=jnp.ones(()), terminated=never, truncated=never)

    outcome = evaluate(Endless(), IDLE, (), jax.random.key(0), episodes=2)
    assert outcome.length.tolist() == [UNLIMITED, UNLIMITED] and not outcome.finished.any()
    limited = evaluate(TimeLimit(Endless(), 9), IDLE, (), jax.random.key(0), episodes=2)
    assert limited.length.tolist() == [9, 9] and limited.finished.all()


# --- What the policy sees ---------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """Position moved by the action and by noise; pays the action times the position."""

    steps: int = 7

    @property
    def spec(self):
        return Spec(Box((1,)), Box((1,)), max_episode_steps=self.steps)

    @property
    def params(self):
        return jnp.float32(0.5)

    def reset(self, key, params):
        x = jax.random.normal(key, (1,))
        return (x, jnp.int32(0)), x

    def step(self, key, state, action, params):
        x, t = state
        moved = x + params * action + 0.1 * jax.random.normal(key, (1,))
        over = t + 1 >= self.steps
        return (moved, t + 1), Step(moved, (x * action)[0], jnp.bool_(False), over, {})


def recur(params, inputs, reset, carry, key, greedy):
    """Wrong wherever inputs, reset, carry or key are."""
    h = jnp.where(reset[:, None], 0, carry)
    seen = [inputs.obs, inputs.previous.action, inputs.previous.reward[:, None]]
    h = jnp.tanh(h + jnp.concatenate([*seen, inputs.first[:, None]], -1) @ params)
    noise = 0 if greedy else jax.random.normal(key, (len(h), 1))
    return jnp.tanh(h.sum(-1, keepdims=True) + noise), h


RECURRENT = Policy(lambda b: jnp.full((b, 3), jnp.nan), recur)  # reset must clear the NaN
PARAMS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), jnp.float32)


@pytest.mark.parametrize("greedy", [True, False])
def test_policy_sees_what_it_should(greedy):
    """The return is that of a loop in Python that follows the meaning of every field."""
    env, params, key = Walk(), np.float64(PARAMS[0]), jax.random.key(3)
    outcome = evaluate(env, RECURRENT, PARAMS[0], key, episodes=4, greedy=greedy)
    reset_key, steps_key = jax.random.split(key)
    x = np.float64([env.reset(k, 0.0)[1] for k in jax.random.split(reset_key, 4)])
    h, action, reward, total = np.zeros((4, 3)), np.zeros((4, 1)), np.zeros((4, 1)), 0.0
    for t in range(env.steps):
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, t))
        first = np.full((4, 1), float(t == 0))
        h = np.tanh(h + np.concatenate([x, action, reward, first], -1) @ params)
        noise = 0 if greedy else np.float64(jax.random.normal(act_key, (4, 1)))
        action = np.tanh(h.sum(-1, keepdims=True) + noise)
        reward = x * action
        total += reward[:, 0]
        keys = jax.random.split(env_key, 4)
        x = x + 0.5 * action + 0.1 * np.float64([jax.random.normal(k, (1,)) for k in keys])
    np.testing.assert_allclose(outcome.episode_return, total, rtol=1e-5, atol=1e-5)


def test_members_are_evaluated_side_by_side():
    key = jax.random.key(1)
    shared = evaluate_seeds(Walk(), RECURRENT, PARAMS, key, episodes=3)
    keys = jax.random.split(key)
    apart = evaluate_seeds(Walk(), RECURRENT, PARAMS, keys, episodes=3)
    for member in range(2):
        for outcome, its_key in ((shared, key), (apart, keys[member])):
            alone = evaluate(Walk(), RECURRENT, PARAMS[member], its_key, episodes=3)
            for found, expected in zip(outcome, alone, strict=True):
                assert found.shape == (2, 3)
                np.testing.assert_allclose(found[member], expected, rtol=1e-5, atol=1e-5)


def test_compiled_once_for_equal_environments():
    traces = []

    def counting(*args):
        traces.append(None)
        return recur(*args)

    policy = Policy(RECURRENT.initial_carry, counting)
    for seed in range(3):
        evaluate(Walk(), policy, PARAMS[0] + seed, jax.random.key(seed), episodes=2)
        if seed == 0:
            count = len(traces)
    assert len(traces) == count
    evaluate(Walk(steps=5), policy, PARAMS[0], jax.random.key(0), episodes=2)
    assert len(traces) > count


def test_follows_float64():
    with jax.enable_x64(True):
        params = jnp.asarray(PARAMS[0], jnp.float64)
        policy = Policy(lambda b: jnp.zeros((b, 3), jnp.float64), recur)
        outcome = evaluate(Walk(), policy, params, jax.random.key(0), episodes=2)
        chosen = evaluate(Countdown(), IDLE, (), jax.random.key(0), episodes=2)
    assert outcome.episode_return.dtype == jnp.float64
    assert chosen.length.dtype == jnp.int32


# --- Recording --------------------------------------------------------------------------------


def test_recording_is_the_episode_that_evaluation_counts():
    key = jax.random.key(5)
    recording = record(Walk(), RECURRENT, PARAMS[0], key)
    outcome = evaluate(Walk(), RECURRENT, PARAMS[0], key, episodes=1)
    x, time = recording.states
    assert recording.action.shape == (7, 1) and recording.reward.shape == (7,)
    np.testing.assert_array_equal(time, np.arange(8))
    np.testing.assert_array_equal(recording.obs, x)
    np.testing.assert_allclose(recording.reward, (x[:-1] * recording.action)[:, 0], rtol=1e-6)
    np.testing.assert_allclose(recording.reward.sum(), outcome.episode_return[0], rtol=1e-5)
    assert len(record(Walk(), RECURRENT, PARAMS[0], key, max_steps=3).reward) == 3
    ended = record(Countdown(), IDLE, (), key)
    assert len(ended.reward) == evaluate(Countdown(), IDLE, (), key, episodes=1).length[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"episodes": 1, "max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_impossible_requests(options, message):
    for run in (evaluate, evaluate_seeds):
        with pytest.raises(UserError, match=message):
            run(Countdown(), IDLE, (), jax.random.key(0), **options)
