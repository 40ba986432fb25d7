"""Rollouts: flags, features, and the value of the true successor."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.algorithms import ppo
from rlssm.algorithms.ppo import PPOConfig
from rlssm.envs.base import Vectorized
from rlssm.envs.probes import TerminatedStream, TruncatedStream
from rlssm.envs.stateless import StatelessPendulum
from rlssm.nn.cores import GRUConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.collect import rollout, start
from rlssm.types import Inputs, Previous, Rollout, inputs

B, T = 3, 12
CONFIG = PPOConfig(
    core=GRUConfig(), torso=TorsoConfig(width=8, hidden=()), heads=MLPConfig(()), num_envs=B,
    minibatches=1, precision="highest",
)  # fmt: skip


def play(env, length=T, runner=None):
    params = ppo.init(CONFIG, env.spec, jax.random.key(0)).params
    act = partial(ppo.act, CONFIG, env.spec, params, greedy=False)
    envs = Vectorized(env, B)
    if runner is None:
        carry = ppo.networks(CONFIG, env.spec).initial_carry(B)
        runner = start(envs, carry, jax.random.key(1))
    played = jax.jit(
        lambda runner: rollout(
            envs, act, runner, Rollout(length, runner.first.shape[0], next_value=True)
        )
    )(runner)
    return params, act, *played


def test_flags_follow_the_episodes():
    _, _, end, trajectory = play(TerminatedStream(steps=5))
    ends = np.asarray(trajectory.step.terminated | trajectory.step.truncated)
    first = np.asarray(trajectory.first)
    assert first[0].all() and ends[4].all() and ends[9].all() and ends.sum() == 2 * B
    np.testing.assert_array_equal(first[1:], ends[:-1])
    np.testing.assert_array_equal(trajectory.reset, trajectory.first)
    assert not np.asarray(end.first).any()


def test_previous_action_and_reward_are_zero_at_first_steps_and_right_elsewhere():
    _, _, _, trajectory = play(StatelessPendulum(max_steps=5))
    seen = inputs(trajectory)
    first = np.asarray(trajectory.first)
    action, reward = np.asarray(seen.previous.action), np.asarray(seen.previous.reward)
    assert (action[first] == 0).all() and (reward[first] == 0).all()
    inside = ~first[1:]
    np.testing.assert_array_equal(
        action[1:][inside], np.asarray(trajectory.step.action)[:-1][inside]
    )
    np.testing.assert_array_equal(
        reward[1:][inside], np.asarray(trajectory.step.reward)[:-1][inside]
    )
    assert (action[1:][inside] != 0).any()


def test_features_cross_the_boundary_of_two_rollouts():
    env = StatelessPendulum(max_steps=100)
    _, _, end, before = play(env)
    _, _, _, after = play(env, runner=end)
    seen = inputs(after)
    np.testing.assert_array_equal(seen.previous.action[0], before.step.action[-1])
    np.testing.assert_array_equal(seen.previous.reward[0], before.step.reward[-1])


def test_next_value_is_that_of_the_true_successor():
    """A loop over single environments and steps, with the memory kept by hand."""
    env = TruncatedStream(steps=5)
    params, act, _, trajectory = play(env)
    act = jax.jit(act)
    value, next_value = (np.asarray(trajectory.step.extras[k]) for k in ("value", "next_value"))
    carry = ppo.networks(CONFIG, env.spec).initial_carry(B)
    seen = inputs(trajectory)
    no = jnp.zeros(B, bool)
    for t in range(T):
        at_t = jax.tree.map(lambda x, t=t: x[t], seen)
        _, carry, extras = act(at_t, trajectory.reset[t], carry, jax.random.key(0))
        np.testing.assert_allclose(extras["value"], value[t], rtol=1e-5)
        step = trajectory.step
        previous = Previous(step.action[t], step.reward[t])
        successor = Inputs(step.next_obs[t], previous, no)
        expected = act(successor, no, carry, jax.random.key(0))[2]["value"]
        np.testing.assert_allclose(next_value[t], expected, rtol=1e-4, atol=1e-5)


def test_one_rollout_equals_two_in_a_row():
    env = StatelessPendulum(max_steps=7)
    _, _, _, whole = play(env)
    _, _, middle, head = play(env, T // 2)
    _, _, _, tail = play(env, T // 2, middle)
    for a, b, c in zip(*(jax.tree.leaves(x.step) for x in (whole, head, tail)), strict=True):
        np.testing.assert_allclose(a, np.concatenate([b, c]), rtol=1e-5, atol=1e-6)
