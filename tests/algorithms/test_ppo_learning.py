"""PPO on probe environments whose values and best actions are known, and act == unroll."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.algorithms import ppo
from rlssm.algorithms.ppo import PPOConfig
from rlssm.envs import probes
from rlssm.envs.base import Vectorized
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.stateless import StatelessPendulum
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.cores import GRUConfig, NoneConfig, S5Config
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.collect import rollout, start
from rlssm.train.program import on_policy
from rlssm.types import Box, Rollout, inputs

GAMMA = 0.9
FAST = PPOConfig(
    core=NoneConfig(),
    torso=TorsoConfig(width=16, hidden=()),
    heads=MLPConfig((16,)),
    num_envs=16,
    rollout_length=16,
    epochs=4,
    minibatches=2,
    learning_rate=1e-2,
    discount=GAMMA,
    precision="highest",
)


def config(**changes):
    return PPOConfig(**{**vars(FAST), **changes})


def train(env, config, updates, seed=0):
    """Return the program and its state after some updates."""
    program = on_policy(config, env)
    state = jax.jit(program.init)(jax.random.key(seed), {})
    state, _ = jax.jit(program.chunk)(state, None, jnp.int32(updates))
    return program, state


def values(env, config, state, length=16):
    """Return a rollout's observations and the values along it, with learned weights."""
    envs = Vectorized(env, config.num_envs)
    act = partial(ppo.act, config, env.spec, state.agent.params, greedy=True)
    carry = ppo.networks(config, env.spec).initial_carry(config.num_envs)
    runner = start(envs, carry, jax.random.key(1))
    _, trajectory = jax.jit(
        lambda runner: rollout(
            envs, act, runner, Rollout(length, runner.first.shape[0], next_value=True)
        )
    )(runner)
    return trajectory.step.obs, trajectory.step.extras["value"]


def mean_return(env, program, state):
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    return float(played.episode_return.mean())


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param(
            probes.ConstantReward(), lambda obs: np.ones_like(obs), marks=pytest.mark.slow
        ),
        pytest.param(probes.RewardFromObservation(), lambda obs: obs, marks=pytest.mark.slow),
        (probes.DelayedReward(), lambda obs: np.where(obs == 0, GAMMA, 1.0)),
        (probes.TruncatedStream(), lambda obs: np.full_like(obs, 1 / (1 - GAMMA))),
        (
            probes.TerminatedStream(),
            lambda obs: (1 - GAMMA ** (5 - np.round(obs * 5))) / (1 - GAMMA),
        ),
    ],
    ids=lambda x: type(x).__name__ if not callable(x) else "",
)
def test_values_of_probes(env, expected):
    updates = 150 if isinstance(env, probes.TruncatedStream) else 60
    _, state = train(env, FAST, updates)
    obs, value = values(env, FAST, state)
    target = expected(np.asarray(obs)[..., 0])
    assert np.abs(np.asarray(value) - target).max() < 0.1 * np.abs(target).max()


def test_taking_a_time_limit_for_a_death_is_visible():
    cut_short = config(bootstrap_truncation=False)
    _, state = train(probes.TruncatedStream(), cut_short, 150)
    _, value = values(probes.TruncatedStream(), cut_short, state)
    assert np.asarray(value).max() < 0.6 / (1 - GAMMA)


@pytest.mark.parametrize("action", [probes.Discrete(2), Box((2,))], ids=["discrete", "continuous"])
@pytest.mark.parametrize("probe", [probes.RewardFromAction, probes.RewardFromBoth])
def test_best_actions_of_probes(probe, action):
    env = probe(action)
    program, state = train(env, FAST, 60)
    assert mean_return(env, program, state) > 0.95


def test_forbidden_actions_are_never_taken():
    env = probes.ForbiddenAction()
    program, state = train(env, FAST, 60)
    envs = Vectorized(env, FAST.num_envs)
    act = partial(ppo.act, FAST, env.spec, state.agent.params, greedy=False)
    runner = start(envs, (), jax.random.key(3))
    _, trajectory = jax.jit(lambda runner: rollout(envs, act, runner, Rollout(64, FAST.num_envs)))(
        runner
    )
    allowed = np.asarray(trajectory.step.obs["action_mask"])
    chosen = np.asarray(trajectory.step.action)
    assert np.take_along_axis(allowed, chosen[..., None], -1).all()
    assert mean_return(env, program, state) > 0.95


@pytest.mark.parametrize(
    "core", [S5Config(layers=1, state_size=16), pytest.param(GRUConfig(), marks=pytest.mark.slow)]
)
def test_memory_is_used(core):
    env = MemoryChain(1)
    program, state = train(env, config(core=core), 60)
    assert mean_return(env, program, state) > 0.95


@pytest.mark.parametrize("observe_action", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_without_memory_the_cue_is_lost_unless_the_action_carries_it(observe_action):
    """The first action is free, so an agent that sees its last action can write the cue down."""
    torso = TorsoConfig(width=16, hidden=(), observe_action=observe_action)
    env = MemoryChain(1)
    program, state = train(env, config(torso=torso), 60)
    result = mean_return(env, program, state)
    assert result > 0.95 if observe_action else abs(result) < 0.4


@pytest.mark.slow
def test_memory_dropped_at_every_step_is_no_memory():
    env = MemoryChain(1)
    broken = config(core=GRUConfig(), torso=TorsoConfig(width=16, hidden=(), observe_first=False))
    program, state = train(env, broken, 60)
    policy = program.policy
    drops = policy._replace(
        act=lambda params, seen, reset, carry, key, greedy: policy.act(
            params, seen, jnp.ones_like(reset), carry, key, greedy
        )
    )
    assert mean_return(env, program, state) > 0.95
    forgetful = evaluate(env, drops, program.params(state), jax.random.key(2), episodes=64)
    assert abs(float(forgetful.episode_return.mean())) < 0.4


@pytest.mark.parametrize(
    "core",
    [
        S5Config(layers=2, state_size=16),
        pytest.param(GRUConfig(), marks=pytest.mark.slow),
        pytest.param(NoneConfig(), marks=pytest.mark.slow),
    ],
)
def test_acting_step_by_step_equals_unrolling(core):
    env, setting = StatelessPendulum(max_steps=7), config(core=core)
    program, state = train(env, setting, 2)  # a carry in the middle of episodes
    envs = Vectorized(env, setting.num_envs)
    act = partial(ppo.act, setting, env.spec, state.agent.params, greedy=False)
    end, trajectory = jax.jit(lambda runner: rollout(envs, act, runner, ppo.batch_spec(setting)))(
        state.runner
    )
    unroll = jax.jit(partial(ppo.unroll, setting, env.spec, state.agent.params))
    carry, policy, value = unroll(inputs(trajectory), trajectory.reset, trajectory.carry)
    extras = trajectory.step.extras
    np.testing.assert_allclose(value, extras["value"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        policy.log_prob(extras["sample"]), extras["log_prob"], rtol=1e-4, atol=1e-4
    )
    for ours, theirs in zip(jax.tree.leaves(carry), jax.tree.leaves(end.carry), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_update_is_reproducible_and_changes_every_parameter():
    env = StatelessPendulum(max_steps=20)
    setting = config(core=S5Config(layers=1, state_size=16))
    first, second = (train(env, setting, 1)[1] for _ in range(2))
    start_state = jax.jit(on_policy(setting, env).init)(jax.random.key(0), {})
    for before, a, b in zip(
        *(jax.tree.leaves(s.agent.params) for s in (start_state, first, second)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        assert (np.asarray(a) != np.asarray(before)).any()
