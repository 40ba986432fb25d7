"""DIAYN: skills that can be told from the states they lead to.

Source: Eysenbach et al. 2019, "Diversity is All You Need" (arXiv 1802.06070), as a rival in the
released code of METRA. Parent: `rlssm.algorithms.sac`; what is shared with its rivals is in
`rlssm.algorithms.skilled`.

Equations, with a skill z per episode and a discriminator q:

    q(z|s)  = softmax(φ(s))[z] of discrete skills, Normal(z; φ(s), exp(ς(s))²) of Gaussian ones
    L_q     = -mean log q(z|s')
    r       = log q(z|s') - log p(z),       from the new q, no gradient

and SAC from r, as in METRA: α is tuned, and the discriminator has its networks. A goal is reached
for by the skill that q finds most likely there, whatever the present state.

Departure from the released code: -log p(z), which the paper has and the code leaves out. φ and ς
are networks of their own, as there.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlssm.algorithms import skilled
from rlssm.algorithms.sac import masked_mean
from rlssm.algorithms.skilled import (
    SWEPT,
    SkilledConfig,
    SkilledState,
    act,
    batch_spec,
    descend,
    follow,
    networks,
    presets,
    representation_of,
    small,
    step_policy,
)
from rlssm.errors import require
from rlssm.nn.actor_critic import apply
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.skills import SKILL, SkillConfig
from rlssm.types import Key, Metrics, Params, Spec, Trajectory, zeros

__all__ = [
    "PRESETS", "SWEPT", "DIAYNConfig", "act", "batch_spec", "embed", "follow", "init", "networks",
    "skill_towards", "update",
]  # fmt: skip

LOG_STD = (math.log(1e-6), 2.0)  # limits of ς


@dataclass(frozen=True)
class DIAYNConfig(SkilledConfig):
    """Hyper-parameters of DIAYN, all of them those of every learner of skills."""

    name: Literal["diayn"] = "diayn"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""
    skill: SkillConfig = field(default_factory=lambda: SkillConfig("gaussian"))
    """The skills that are learnt: discrete or Gaussian."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.skill.kind
        require(kind != "sphere", "skill.kind", kind, "discrete or gaussian for diayn")


def init(config: DIAYNConfig, spec: Spec, key: Key) -> SkilledState:
    """Return the state before the first update."""
    mean_key, spread_key = jax.random.split(key)
    state = skilled.init(config, spec, mean_key)
    weights = {"mean": state.params["representation"]}
    if config.skill.kind == "gaussian":
        network = representation_of(config, spec)
        weights["spread"] = network.init(spread_key, zeros(spec.obs, (1,)))
    opt = make_optimizer(state.hyper["representation_learning_rate"]).init(weights)
    params = state.params | {"representation": weights}
    return state.replace(params=params, representation_opt=opt)


def embed(config: DIAYNConfig, spec: Spec, weights: Params, obs: Any) -> Float[Array, "*batch K"]:
    """Return φ of observations `[*batch, ...]`: logits of discrete skills, else their mean."""
    return apply(representation_of(config, spec), weights["mean"], obs)


def skill_towards(
    config: DIAYNConfig, spec: Spec, params: Params, obs: Any, goal: Any
) -> Float[Array, "*batch K"]:
    """Return the skill that a goal tells of most likely, wherever one is."""
    found = embed(config, spec, params["representation"], goal)
    if config.skill.kind == "gaussian":
        return found
    return jax.nn.one_hot(jnp.argmax(found, axis=-1), config.skill.size)


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: DIAYNConfig, spec: Spec, state: SkilledState, batch: Trajectory
) -> tuple[SkilledState, Metrics]:
    """Make one step of the discriminator, then of SAC, on windows `[T, B, ...]`."""
    skill, next_obs = batch.step.extras[SKILL], batch.step.next_obs

    def loss(weights: Params) -> tuple[Array, Metrics]:
        found = log_posterior(config, spec, weights, next_obs, skill)
        return -masked_mean(found, batch.mask), {}

    weights, representation_opt, metrics = descend(state, state.params["representation"], loss)
    state = state.replace(
        params=state.params | {"representation": weights}, representation_opt=representation_opt
    )
    paid = log_posterior(config, spec, weights, next_obs, skill) - log_prior(config, skill)
    state, of_policy = step_policy(config, spec, state, batch, paid)
    return state, metrics | of_policy | {"skill/reward": masked_mean(paid, batch.mask)}


def log_posterior(
    config: DIAYNConfig, spec: Spec, weights: Params, obs: Any, skill: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Return log q(z|s)."""
    mean = embed(config, spec, weights, obs)
    if config.skill.kind == "discrete":
        return (jax.nn.log_softmax(mean) * skill).sum(-1)
    log_std = apply(representation_of(config, spec), weights["spread"], obs)
    log_std = jnp.clip(log_std, *LOG_STD)
    return _log_normal((skill - mean) / jnp.exp(log_std)) - log_std.sum(-1)


def log_prior(config: DIAYNConfig, skill: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """Return log p(z)."""
    if config.skill.kind == "discrete":
        return jnp.full(skill.shape[:-1], -math.log(config.skill.size))
    return _log_normal(skill)


def _log_normal(x: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    return -0.5 * (jnp.square(x) + math.log(2 * math.pi)).sum(-1)


PRESETS: dict[str, DIAYNConfig] = presets(DIAYNConfig()) | {
    "point-discrete": small(DIAYNConfig(skill=SkillConfig("discrete", 16)))
}
