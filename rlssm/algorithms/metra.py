"""METRA: skills that move a representation of distance in time, found without any reward.

Source: Park, Rybkin and Levine 2024, "METRA: Scalable Unsupervised RL with Metric-Aware
Abstraction" (arXiv 2310.08887), and the released code, which the constants are from.
Parent: `rlssm.algorithms.sac`; what is shared with its rivals is in `rlssm.algorithms.skilled`.

Equations, with a skill z per episode, z̃ its direction (z itself, or of a discrete one the centred
one-hot vector), Δ = φ(s') - φ(s) and λ = exp(l):

    slack   = min(ε, 1 - |Δ|²)
    L_φ     = -mean (Δ·z̃ + λ slack),              gradients through φ(s) and φ(s'), none into λ
    L_λ     = l mean slack,                        with the slack before that step
    r       = Δ·z̃,                                 from the new φ, no gradient

and SAC from r, its actor and critics shown s and z; its target entropy is -dim(a) / 2. One update
steps φ, then λ, then computes r, then steps critics, actor, temperature and targets. Consecutive
states are one step apart, so |Δ| <= 1 makes φ a lower bound of the distance in time between any two
states; the skills stretch it. What steps paid is never stored: it drifts as φ learns.

Fields for the released code, where it differs from the paper: `constraint` "mean" has the mean of
the components of Δ² in place of their sum, `terminal_on_timeout` takes time limits for ends. The
preset "released" has both. Departures from it: one step of Adam on l in both (the paper's loss is
λ mean slack, whose sign is the same); no term 1e-6 in log π, which here is exact; the last layer
of the policy starts near 0 (gain 0.01, and uniform rather than normal); the critic's loss is twice
as large, which Adam undoes. Measured: docs/metra.md.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rlssm.algorithms import skilled
from rlssm.algorithms.sac import masked_mean
from rlssm.algorithms.skilled import (
    SkilledConfig,
    SkilledState,
    act,
    batch_spec,
    embed,
    follow,
    layers,
    networks,
    step_policy,
)
from rlssm.data.mixing import ExperienceConfig
from rlssm.errors import require
from rlssm.nn import skills
from rlssm.nn.mlp import require_choices
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.s5 import S5Config
from rlssm.nn.skills import SKILL, SkillConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.types import Key, Metrics, Params, Spec, Trajectory

__all__ = [
    "PRESETS", "SWEPT", "METRAConfig", "METRAState", "act", "batch_spec", "embed", "follow", "init",
    "networks", "skill_towards", "update",
]  # fmt: skip

SWEPT = (*skilled.SWEPT, "multiplier_learning_rate")


@dataclass(frozen=True)
class METRAConfig(SkilledConfig):
    """Hyper-parameters of METRA; docs/metra.md explains each at length."""

    name: Literal["metra"] = "metra"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""
    constraint: Literal["sum", "mean"] = "sum"
    """Whether |Δ|² is the sum of the squared components, as in the paper, or their mean, as in the
    released code."""
    slack: float = 1e-3
    """Slack ε that the constraint is given credit for at most, above 0."""
    init_multiplier: float = 30.0
    """First value of the multiplier λ, above 0."""
    multiplier_learning_rate: float = 1e-4
    """Adam step size of the log multiplier, at least 0; 0 keeps it."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choices(self)
        for name in ("slack", "init_multiplier"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        rate = self.multiplier_learning_rate
        require(0 <= rate < math.inf, "multiplier_learning_rate", rate, "at least 0")


class METRAState(SkilledState):
    """Everything METRA learns; `params` is what acting and reaching goals need."""

    log_multiplier: Float[Array, ""]
    multiplier_opt: Any


def init(config: METRAConfig, spec: Spec, key: Key) -> METRAState:
    """Return the state before the first update."""
    state = skilled.init(config, spec, key)
    log_multiplier = jnp.log(jnp.float32(config.init_multiplier))
    opt = make_optimizer(state.hyper["multiplier_learning_rate"]).init(log_multiplier)
    return METRAState(**vars(state), log_multiplier=log_multiplier, multiplier_opt=opt)


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: METRAConfig, spec: Spec, state: METRAState, batch: Trajectory
) -> tuple[METRAState, Metrics]:
    """Make one step of representation and multiplier, then of SAC, on windows `[T, B, ...]`."""
    direction = skills.direction(config.skill, batch.step.extras[SKILL])
    multiplier = jnp.exp(state.log_multiplier)

    def representation_loss(weights: Params) -> tuple[Array, Metrics]:
        delta = change(config, spec, weights, batch)
        gain = reward(delta, direction)
        slack = jnp.minimum(config.slack, 1 - squared_length(config, delta))
        loss = -masked_mean(gain + multiplier * slack, batch.mask)
        return loss, {
            "representation/gain": masked_mean(gain, batch.mask),
            "representation/slack": masked_mean(slack, batch.mask),
            "representation/squared_step": masked_mean(jnp.square(delta).sum(-1), batch.mask),
        }

    weights = state.params["representation"]
    (loss, metrics), grad = jax.value_and_grad(representation_loss, has_aux=True)(weights)
    hyper = state.hyper
    optimizer = make_optimizer(hyper["representation_learning_rate"])
    move, representation_opt = optimizer.update(grad, state.representation_opt, weights)
    weights = optax.apply_updates(weights, move)

    optimizer = make_optimizer(hyper["multiplier_learning_rate"])
    slack = metrics["representation/slack"]  # the gradient of l mean slack in l
    move, multiplier_opt = optimizer.update(slack, state.multiplier_opt)
    state = state.replace(
        params=state.params | {"representation": weights},
        representation_opt=representation_opt,
        log_multiplier=optax.apply_updates(state.log_multiplier, move),
        multiplier_opt=multiplier_opt,
    )
    paid = reward(change(config, spec, weights, batch), direction)
    state, of_policy = step_policy(config, spec, state, batch, paid)
    return state, metrics | of_policy | {
        "representation/loss": loss,
        "representation/multiplier": multiplier,
        "skill/reward": masked_mean(paid, batch.mask),
    }


def change(
    config: SkilledConfig, spec: Spec, weights: Params, batch: Trajectory
) -> Float[Array, "T B K"]:
    """Return Δ, how far each step moved the representation."""
    step = batch.step
    return embed(config, spec, weights, step.next_obs) - embed(config, spec, weights, step.obs)


def reward(
    delta: Float[Array, "*batch K"], direction: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Return Δ·z̃, which is what a skill is paid."""
    return (delta * direction).sum(-1)


def squared_length(config: METRAConfig, delta: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """Return |Δ|² as the constraint has it."""
    square = jnp.square(delta)
    return square.sum(-1) if config.constraint == "sum" else square.mean(-1)


# --- Reaching goals ---------------------------------------------------------------------------


def skill_towards(
    config: SkilledConfig, spec: Spec, params: Params, obs: Any, goal: Any
) -> Float[Array, "*batch K"]:
    """Return the skill that leads from an observation to a goal, along φ(g) - φ(s).

    Discrete skills: the one of the largest component.
    """
    weights = params["representation"]
    wanted = embed(config, spec, weights, goal) - embed(config, spec, weights, obs)
    return skills.towards(config.skill, wanted)


_POINT = METRAConfig(
    actor=layers((64, 64)),
    critic=layers((64, 64)),
    representation=layers((64, 64)),
    experience=ExperienceConfig(
        num_envs=8, rollout_length=50, update_ratio=1 / 8, warmup=0, capacity=20_000
    ),
    learning_rate=3e-4,
    critic_learning_rate=3e-4,
    temperature_learning_rate=3e-4,
    representation_learning_rate=3e-4,
    multiplier_learning_rate=3e-4,
)
_DEFAULT = METRAConfig()

# "default" is METRA's for Ant, "half-cheetah" has its 16 discrete skills there, and "released" the
# two faults of the code; "wide" has eight times the episodes, and the updates, of an epoch.
# "point" is ours, for tasks the size of the point mass.
PRESETS: dict[str, METRAConfig] = {
    "default": _DEFAULT,
    "half-cheetah": replace(_DEFAULT, skill=SkillConfig("discrete", 16)),
    "released": replace(_DEFAULT, constraint="mean", terminal_on_timeout=True),
    "wide": replace(_DEFAULT, experience=replace(_DEFAULT.experience, num_envs=64)),
    "point": _POINT,
    "point-s5": replace(
        _POINT,
        core=S5Config(layers=1, state_size=32),
        torso=TorsoConfig(width=64, hidden=()),
        skill=replace(_POINT.skill, resample=0.04),
        experience=replace(_POINT.experience, length=50, burn_in=0, batch=800),
    ),
}
