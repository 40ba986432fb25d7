"""Meta-PPO learns to find out within a trial what it must do in it; without memory it does not."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest

from rlssm.algorithms.meta_ppo import MetaPPOConfig
from rlssm.envs.base import Step
from rlssm.envs.tasks import Task
from rlssm.envs.trials import Suite, TrialConfig
from rlssm.evaluation.trials import adaptation
from rlssm.nn.cores import GRUConfig, NoneConfig, S5Config
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, Discrete, Spec

pytestmark = pytest.mark.learning

EPISODES, UPDATES = 4, 120


@dataclass(frozen=True)
class TwoLevers:
    """One of two levers, drawn at the reset and never shown, pays 1 in an episode of one pull."""

    @property
    def spec(self):
        return Spec(Box((1,)), Discrete(2), max_episode_steps=1)

    @property
    def params(self):
        return ()

    def reset(self, key, params):
        return jax.random.bernoulli(key), jnp.ones(1)

    def step(self, key, state, action, params):
        pays = (action == 1) == state
        over = jnp.ones((), bool)
        return state, Step(jnp.ones(1), pays.astype(jnp.float32), over, ~over, {})


PLAIN = TrialConfig(EPISODES, "identity", "identity", "clip")
SUITE = Suite("levers", (Task("levers", TwoLevers(), same_start=True),), trial=PLAIN)
AGENT = MetaPPOConfig(
    core=S5Config(layers=1, state_size=16),
    torso=TorsoConfig(width=16, hidden=()),
    heads=MLPConfig((16,)),
    num_envs=32,
    rollout_length=16,
    minibatches=2,
    learning_rate=3e-3,
    entropy_coef=0.01,
)
BLIND = replace(AGENT.torso, observe_action=False, observe_reward=False)
FORGETFUL = SUITE.with_trial(TrialConfig(keep_memory=False))


def by_episode(agent, suite):
    """Return the mean scores of the episodes of a trial after learning."""
    program = make_program(agent, suite, online=True)
    state = jax.jit(program.init)(jax.random.key(0), {})
    state, _ = jax.jit(program.chunks["online"])(state, None, jnp.int32(UPDATES))
    params = jax.tree.map(lambda x: x[None], program.params(state))
    found = adaptation(suite, program.policy, params, jax.random.key(1), trials=256)
    return found.train.episode_return[0].mean(0)


@pytest.mark.parametrize("core", [AGENT.core, GRUConfig()], ids=["s5", "gru"])
def test_memory_finds_the_lever_in_the_first_episode(core):
    scores = by_episode(replace(AGENT, core=core), SUITE)
    print(scores)
    assert 0.35 < scores[0] < 0.65 and (scores[1:] > 0.95).all()


@pytest.mark.parametrize(
    ("agent", "suite"),
    [(AGENT, FORGETFUL), (replace(AGENT, core=NoneConfig(), torso=BLIND), SUITE)],
    ids=["forgetful", "none"],
)
def test_without_memory_no_episode_is_better_than_the_first(agent, suite):
    scores = by_episode(agent, suite)
    print(scores)
    assert (scores < 0.65).all()
