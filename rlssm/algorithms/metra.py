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
of the policy starts uniform rather than normal, at the same gain of 0.1; the critic's loss is twice
as large, which Adam undoes. Measured: docs/metra.md.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

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
    change,
    descend,
    embed,
    follow,
    networks,
    presets,
    reward,
    skill_towards,
    step_policy,
)
from rlssm.errors import require
from rlssm.nn import skills
from rlssm.nn.mlp import require_choices
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.skills import SKILL
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

    def loss(weights: Params) -> tuple[Array, Metrics]:
        delta = change(config, spec, weights, batch)
        gain = reward(delta, direction)
        slack = jnp.minimum(config.slack, 1 - squared_length(config, delta))
        return -masked_mean(gain + multiplier * slack, batch.mask), {
            "representation/gain": masked_mean(gain, batch.mask),
            "representation/slack": masked_mean(slack, batch.mask),
            "representation/squared_step": masked_mean(jnp.square(delta).sum(-1), batch.mask),
        }

    weights, representation_opt, metrics = descend(state, state.params["representation"], loss)
    optimizer = make_optimizer(state.hyper["multiplier_learning_rate"])
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
        "representation/multiplier": multiplier,
        "skill/reward": masked_mean(paid, batch.mask),
    }


def squared_length(config: METRAConfig, delta: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """Return |Δ|² as the constraint has it."""
    square = jnp.square(delta)
    return square.sum(-1) if config.constraint == "sum" else square.mean(-1)


_DEFAULT = METRAConfig()

# "default" is METRA's for Ant, "halfcheetah" has its 16 discrete skills there, and "released" the
# two faults of the code; "wide" has eight times the episodes, and the updates, of an epoch.
# "point" is ours, for tasks the size of the point mass.
PRESETS: dict[str, METRAConfig] = presets(_DEFAULT) | {
    "released": replace(_DEFAULT, constraint="mean", terminal_on_timeout=True),
    "wide": replace(_DEFAULT, experience=replace(_DEFAULT.experience, num_envs=64)),
}
