"""Hybrid natural policy gradient: offline data inside an on-policy update.

Source: Zhou et al. 2023, "Offline Data Enhanced On-Policy Policy Gradient with Provable
Guarantees" (arXiv 2311.08384), algorithms 4 and 5 and table 1, with the released program. Parent:
`rlssm.algorithms.trpo`, which has the on-policy half of the equations and the code of both forms.
Each update also draws as many steps (s, a, r, s') of a dataset as it plays, and with w the weight
`offline_weight` and V(s) = E_{a~μ} Q(s, a) under the old policy μ

    Q  minimises  mean_on (Q(s, a) - G)² + w mean_off (Q(s, a) - y)²,   y = r + γ (1 - term) V(s')
    A  =  the generalised estimate on-policy;  Q(s, a') - V(s) offline, with a' ~ μ(.|s) anew
    π  climbs  (sum_on A ratio + w sum_off A ratio) / (n_on + w n_off), within a mean KL over the
       same weighted histories

so that the policy also improves where the data have been, although it does not go there yet.

With `per_step` (the paper's practical form) the horizon is finite, V(s') is that of the critic
fitted just before, for step h + 1, and nothing follows the last step. Otherwise (the paper's
policy evaluation, its first form) one critic serves all steps, `sweeps` times fitted to targets of
the one before, and the data come in windows for any core.

The paper's weight is that of the on-policy term: its λ is 1 / w, up to a common factor. With w = 0
this is TRPO. Discrete actions take the categorical policy, the paper's hybrid actor-critic with
networks in place of a table. Departures from the program: V(s') is the mean over `value_samples`
actions rather than of one; the data are drawn in whole episodes rather than by step; the line
search keeps the KL's bound, as the paper says; float32. Without `clip_actions` actions are as they
are drawn, as there: locks need that. Measured: docs/hnpg.md.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp

from rlssm.algorithms import trpo
from rlssm.algorithms.trpo import Part, TRPOConfig, TRPOState, act, init, networks
from rlssm.errors import UserError, require
from rlssm.nn.actor_critic import has_memory
from rlssm.nn.mlp import MLPConfig
from rlssm.types import Hybrid, Metrics, Rollout, Spec

__all__ = [
    "PRESETS", "SWEPT", "HNPGConfig", "HNPGState", "act", "batch_spec", "init", "networks",
    "update",
]  # fmt: skip

SWEPT = (*trpo.SWEPT, "offline_weight")

HNPGState = TRPOState


@dataclass(frozen=True)
class HNPGConfig(TRPOConfig):
    """Hyper-parameters of HNPG, those of TRPO and its own; docs/hnpg.md explains each."""

    name: Literal["hnpg"] = "hnpg"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""
    offline_weight: float = 1.0
    """Weight of the dataset's steps over that of the agent's own, at least 0; 0 is TRPO."""
    sweeps: int = 3
    """How often per update, without `per_step`, the offline targets are computed anew; the critic
    takes `critic_steps / sweeps` steps after each."""
    burn_in: int = 8
    """Steps at a window's start that only warm a memory up; without one there are none."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = self.offline_weight
        require(0 <= weight < math.inf, "offline_weight", weight, "at least 0")
        require(self.sweeps >= 1, "sweeps", self.sweeps, "at least 1")
        if self.critic_steps % self.sweeps and not self.per_step:
            raise UserError(
                f"critic_steps must be a multiple of sweeps = {self.sweeps}, got "
                f"{self.critic_steps}"
            )
        limit = self.rollout_length
        good = 0 <= self.burn_in < limit or not has_memory(self.core)
        require(good, "burn_in", self.burn_in, f"from 0 to {limit - 1}")


def update(
    config: HNPGConfig, spec: Spec, state: HNPGState, batch: Hybrid
) -> tuple[HNPGState, Metrics]:
    """Make one update from a rollout and as many steps of a dataset, `[T, B]` each."""
    own, offline = trpo.own_part(config, spec, batch.own), batch.offline
    mask = offline.mask
    if has_memory(config.core):
        mask = mask & (jnp.arange(len(mask))[:, None] >= config.burn_in)
    carry = networks(config, spec).initial_carry(mask.shape[1])
    steps = offline._replace(mask=mask, carry=carry)
    data = Part(steps, None, state.hyper["offline_weight"])
    return trpo.learn(config, spec, state, [own, data], config.sweeps)


def batch_spec(config: HNPGConfig) -> Rollout:
    """Return what the loop must supply: a fresh rollout, and as many steps of the dataset."""
    return replace(trpo.batch_spec(config), offline="episodes" if config.per_step else "windows")


# The paper's setting for locks; give rollout_length the horizon, and num_envs 1000 over it. Kernels
# have the deviation of the program's, which leaves tanh unsaturated before a lock's observations.
_LOCK = HNPGConfig(
    per_step=True,
    actor=MLPConfig((16, 16), "tanh", kernel_scale=3**-0.5),
    critic=MLPConfig((64, 64), "tanh", kernel_scale=3**-0.5),
    clip_actions=False,
    num_envs=100,
    rollout_length=10,
    critic_learning_rate=3e-4,
    discount=1.0,
)
_SMALL = HNPGConfig(  # those of TRPO's
    actor=MLPConfig((32, 32), "tanh"),
    critic=MLPConfig((32, 32), "tanh"),
    num_envs=8,
    rollout_length=64,
    critic_learning_rate=1e-2,
    discount=0.9,
    gae_lambda=0.95,
)
PRESETS: dict[str, HNPGConfig] = {"default": HNPGConfig(), "lock": _LOCK, "small": _SMALL}
