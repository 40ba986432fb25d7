"""What the tests of learners of skills share: small configurations, and steps of their policies."""

from dataclasses import replace
from functools import partial

import jax

from rlssm.algorithms import ALGORITHMS
from rlssm.algorithms.csf import CSFConfig
from rlssm.algorithms.diayn import DIAYNConfig
from rlssm.algorithms.lsd import LSDConfig
from rlssm.algorithms.metra import METRAConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs.base import Vectorized
from rlssm.envs.points import PointWorld
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.s5 import S5Config
from rlssm.nn.skills import SkillConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.collect import rollout, start
from rlssm.types import Rollout

HIDDEN = MLPConfig((8,), "relu")
ENV = PointWorld(max_steps=6)
COMMON = {
    "actor": HIDDEN,
    "critic": HIDDEN,
    "representation": HIDDEN,
    "experience": ExperienceConfig(
        batch=16, num_envs=4, rollout_length=6, update_ratio=1 / 12, warmup=0, capacity=200
    ),
    "precision": "highest",
}
SMALL = METRAConfig(**COMMON, skill=SkillConfig("discrete", 3), init_multiplier=0.5, slack=0.1)
CHOOSING = DIAYNConfig(**COMMON, skill=SkillConfig("discrete", 3))
GUESSING = DIAYNConfig(**COMMON)
SPECTRAL = LSDConfig(**COMMON, skill=SkillConfig("discrete", 3))
CONTRASTIVE = CSFConfig(**COMMON, others=5)
ALL = {config.name: config for config in (SMALL, CHOOSING, SPECTRAL, CONTRASTIVE)}


def with_memory(config):
    """Return a configuration with a small memory, whose skills change within an episode."""
    return replace(
        config,
        core=S5Config(layers=1, state_size=8),
        torso=TorsoConfig(width=8, hidden=()),
        skill=replace(config.skill, resample=0.3),
        experience=replace(config.experience, length=6, burn_in=2),
    )


def played(config, steps=13, seed=0, env=ENV):
    """Return a state and a rollout of its own policy, as the loop makes them."""
    algorithm = ALGORITHMS[config.name]
    state = jax.jit(partial(algorithm.init, config, env.spec))(jax.random.key(seed))
    envs = Vectorized(env, 4)
    act = partial(algorithm.act, config, env.spec, state.params, greedy=True)
    carry = algorithm.networks(config, env.spec).initial_carry(4)
    runner = start(envs, carry, jax.random.key(seed + 1))
    return state, jax.jit(lambda r: rollout(envs, act, r, Rollout(steps, 4)))(runner)[1]
