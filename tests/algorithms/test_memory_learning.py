"""S5 remembers what PPO without memory cannot: a chain of 20 steps, and cards that were dealt."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from rlssm.algorithms.ppo import PPOConfig
from rlssm.envs.counting import CountRecall
from rlssm.envs.memory_chain import MemoryChain
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.cores import (
    FFMConfig,
    LinearAttentionConfig,
    MambaConfig,
    NoneConfig,
    S4DConfig,
    S5AttentionConfig,
    S5Config,
    TransformerConfig,
)
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import on_policy

pytestmark = pytest.mark.learning

AGENT = PPOConfig(
    core=S5Config(layers=1, state_size=32),
    torso=TorsoConfig(width=32, hidden=(), observe_action=False, observe_reward=False),
    heads=MLPConfig((32,)),
    num_envs=32,
    rollout_length=64,
    minibatches=4,
    learning_rate=1e-3,
    entropy_coef=0.01,
)


def learnt(env, updates, core):
    """Return the mean return of the greedy policy after so many updates."""
    program = on_policy(replace(AGENT, core=core), env)
    state = jax.jit(program.init)(jax.random.key(0), {})
    state, _ = jax.jit(program.chunk)(state, None, jnp.int32(updates))
    play = partial(evaluate, env, program.policy, episodes=128)
    mean = float(play(program.params(state), jax.random.key(1)).episode_return.mean())
    print(type(core).__name__, mean)
    return mean


CORES = [
    AGENT.core,
    S4DConfig(layers=1),
    LinearAttentionConfig(layers=1),
    MambaConfig(layers=1),
    FFMConfig(),
    S5AttentionConfig(layers=1, state_size=32, context=8),
    TransformerConfig(layers=1, heads=2, head_size=16, context=20),
]


@pytest.mark.parametrize("core", CORES, ids=lambda core: core.name)
def test_a_chain_of_twenty_steps_is_remembered(core):
    assert learnt(MemoryChain(20), 100, core) > 0.95


def test_a_context_shorter_than_the_chain_leaves_a_guess():
    core = TransformerConfig(layers=1, heads=2, head_size=16, context=19)
    assert abs(learnt(MemoryChain(20), 100, core)) < 0.35


def test_without_memory_the_chain_is_a_guess():
    assert abs(learnt(MemoryChain(20), 100, NoneConfig())) < 0.35


def test_cards_are_counted_better_with_memory():
    env = CountRecall(decks=1, kinds=2)
    assert learnt(env, 150, AGENT.core) > learnt(env, 150, NoneConfig()) + 0.15
