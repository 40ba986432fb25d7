"""Skills: what they are, how they are drawn, and how an agent is shown the one it follows."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.nn.mlp import require_choices
from rlssm.types import Box, Carry, DictSpace, Inputs, Key, Previous, Spec

SKILL = "skill"  # its name among the extras of a step and in what an agent is shown


@dataclass(frozen=True)
class SkillConfig:
    """The skills that are learnt, and how long one is followed."""

    kind: Literal["sphere", "gaussian", "discrete"] = "sphere"
    """Directions of unit length, points drawn from a standard normal, or one of `size` choices,
    shown one-hot."""
    size: int = 2
    """Dimensions K of a skill, at least 1; of the discrete ones their number, at least 2."""
    resample: float = 0.0
    """Chance per step that a new skill takes over within an episode, in [0, 1). 0: one skill per
    episode, as in METRA; 0.04 is a new one every 25 steps."""

    def __post_init__(self) -> None:
        require_choices(self, "skill.")
        least = 2 if self.kind == "discrete" else 1
        require(self.size >= least, "skill.size", self.size, f"at least {least}")
        require(0 <= self.resample < 1, "skill.resample", self.resample, "in [0, 1)")


class Skilled(NamedTuple):
    """What an agent carries from step to step: its memory, and the skill that it follows."""

    memory: Carry
    skill: Float[Array, "B K"]


def draw(config: SkillConfig, key: Key, batch: Any) -> Float[Array, "B K"]:
    """Return skills from the prior; `batch` is a number, symbolic where a policy is exported."""
    if config.kind == "discrete":
        chosen = jax.random.randint(key, (batch,), 0, config.size)
        return jax.nn.one_hot(chosen, config.size)
    normal = jax.random.normal(key, (batch, config.size))
    return normal if config.kind == "gaussian" else unit(normal)


def even(config: SkillConfig, key: Key, batch: int) -> Float[Array, "B K"]:
    """Return skills to judge by: fresh ones, or of the discrete ones each equally often.

    Where `batch` is no multiple of their number the first ones get one more.
    """
    if config.kind == "discrete":
        return jax.nn.one_hot(jnp.arange(batch) % config.size, config.size)
    return draw(config, key, batch)


def keep_or_draw(
    config: SkillConfig, key: Key, skill: Float[Array, "B K"], first: Bool[Array, " B"]
) -> Float[Array, "B K"]:
    """Return the skills of the next step: new ones where an episode starts, and now and then."""
    draw_key, switch_key = jax.random.split(key)
    anew = first
    if config.resample > 0:
        anew |= jax.random.bernoulli(switch_key, config.resample, first.shape)
    return jnp.where(anew[:, None], draw(config, draw_key, first.shape[0]), skill)


def direction(config: SkillConfig, skill: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """Return the direction in which a skill is to move a representation.

    A discrete skill is centred, 1 for the chosen one and -1 / (K - 1) for each other, so that the
    mean over skills is 0.
    """
    if config.kind != "discrete":
        return skill
    size = config.size
    return (skill - 1 / size) * (size / (size - 1))


def towards(config: SkillConfig, wanted: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """Return the skill that moves a representation most nearly along `wanted`.

    Of a standard normal it is the one in that direction whose length is the usual one, sqrt(K).
    """
    match config.kind:
        case "discrete":
            return jax.nn.one_hot(jnp.argmax(wanted, axis=-1), config.size)
        case "gaussian":
            return math.sqrt(config.size) * unit(wanted)
        case _:
            return unit(wanted)


def unit(x: Float[Array, "*batch K"]) -> Float[Array, "*batch K"]:
    """Return vectors scaled to length 1."""
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(length, jnp.finfo(x.dtype).tiny)


# --- What the agent is shown ------------------------------------------------------------------


def shown_spec(config: SkillConfig, spec: Spec) -> Spec:
    """Return the spec of an environment whose observations have the skill beside them."""
    return replace(spec, obs=DictSpace((("obs", spec.obs), (SKILL, Box((config.size,))))))


def shown(obs: Any, skill: Float[Array, "*batch K"]) -> dict[str, Any]:
    """Return an observation with the skill beside it."""
    return {"obs": obs, SKILL: skill}


def shown_inputs(seen: Inputs, skill: Float[Array, "*batch K"]) -> Inputs:
    """Return inputs with the skill beside the observation, and no reward of the environment."""
    previous = Previous(seen.previous.action, jnp.zeros_like(seen.previous.reward))
    return seen._replace(obs=shown(seen.obs, skill), previous=previous)
