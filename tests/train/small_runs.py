"""Runs small enough for tests."""

import json

from rlssm.algorithms.ppo import PPOConfig
from rlssm.envs.registry import EnvConfig
from rlssm.nn.cores import GRUConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.config import RunConfig

AGENT = PPOConfig(
    core=GRUConfig(),
    torso=TorsoConfig(width=8, hidden=()),
    heads=MLPConfig(()),
    num_envs=4,
    rollout_length=8,
    epochs=1,
    minibatches=2,
)
PER_UPDATE = AGENT.steps_per_update


def small(updates=8, agent=AGENT, env="MemoryChain-3", **changes):
    """Return a run of some updates that logs after each and saves after every second one."""
    settings = {
        "env": EnvConfig(env),
        "agent": agent,
        "steps": updates * PER_UPDATE,
        "log_every": PER_UPDATE,
        "eval_every": 4 * PER_UPDATE,
        "checkpoint_every": 2 * PER_UPDATE,
        "eval_episodes": 4,
        "final_episodes": 4,
    }
    return RunConfig(**{**settings, **changes})


def rows(path):
    """Return the rows of a JSON-lines file without the clock's."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in lines]
