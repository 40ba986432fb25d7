"""PPO over trials: one recurrent agent that learns within its memory, across tasks.

Sources: "RL^2" (Duan et al. 2016, arXiv 1611.02779), section 2.2, for the objective, the return of
a whole trial; "Structured State Space Models for In-Context Reinforcement Learning" (arXiv
2303.03982) for random projections and the memory. The learner is PPO, the parent of this file
(`ppo.py`), on the experience of trials (`envs/trials.py`):

    A_t = δ_t + γ λ (1 - end_t) A_{t+1},    δ_t = reward_t + γ (1 - end_t) V(s_{t+1}) - V(s_t)

with `end_t` at the end of a trial alone, where memory is dropped. s_{t+1} is what the memory sees
next, at the end of an inner episode the first step of the next one: what is found out in one
episode is worth what it earns in those to come. A trial's end is an end, whether its last episode
terminated or was cut by its time limit, since memory can count how much of a trial is left.

With `across_episodes` off each episode is worth only itself, as in PPO: its end cuts the return,
though memory goes on. What was measured: docs/meta-ppo.md.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from rlssm.algorithms import ppo
from rlssm.algorithms.ppo import PPOConfig, PPOState, act, init, networks
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.s5 import S5Config
from rlssm.nn.torso import TorsoConfig
from rlssm.types import Metrics, Rollout, Spec, Trajectory

__all__ = [
    "MetaPPOConfig", "MetaPPOState", "PRESETS", "act", "batch_spec", "init", "networks", "update",
]  # fmt: skip

MetaPPOState = PPOState


@dataclass(frozen=True)
class MetaPPOConfig(PPOConfig):
    """Hyper-parameters of PPO over trials; docs/meta-ppo.md explains those that PPO has not."""

    name: Literal["meta-ppo"] = "meta-ppo"  # ty: ignore[incompatible-attribute-override]
    across_episodes: bool = True
    """Whether the value of a step counts the later episodes of its trial."""


def update(
    config: MetaPPOConfig, spec: Spec, state: PPOState, batch: Trajectory
) -> tuple[PPOState, Metrics]:
    """Make `epochs` passes over one rollout `[T, B, ...]` of trials."""
    if config.across_episodes:
        batch = as_one_episode(batch)
    return ppo.update(config, spec, state, batch)


def as_one_episode(batch: Trajectory) -> Trajectory:
    """Return the experience with a trial for an episode: it ends where memory does, and only there.

    What the agent saw, first-step flags included, stays as it was.
    """
    end = batch.step.extras["trial_end"]
    return batch._replace(step=batch.step._replace(terminated=end, truncated=jnp.zeros_like(end)))


def batch_spec(config: MetaPPOConfig) -> Rollout:
    """Return what the loop must supply: a fresh rollout of trials."""
    return Rollout(
        config.rollout_length, config.num_envs, next_value=True, trials=config.across_episodes
    )


# Not tuned. "small" is for two CPU cores.
PRESETS: dict[str, MetaPPOConfig] = {
    "default": MetaPPOConfig(
        num_envs=128,
        rollout_length=256,
        minibatches=8,
        discount=0.995,
        entropy_coef=0.01,
    ),
    "small": MetaPPOConfig(
        core=S5Config(layers=1, state_size=32),
        torso=TorsoConfig(width=32, hidden=(32,)),
        heads=MLPConfig((32,)),
        num_envs=32,
        rollout_length=128,
        learning_rate=1e-3,
        entropy_coef=0.01,
    ),
}
