"""The skills of a learner as policies: told which one to follow, or following one for good."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlssm.algorithms import ALGORITHMS
from rlssm.algorithms.skilled import SkilledConfig
from rlssm.errors import UserError, require
from rlssm.evaluation.skills import SkillPolicy
from rlssm.nn import skills
from rlssm.types import Policy, Spec


def skill_policy(config: Any, spec: Spec) -> SkillPolicy:
    """Return the policy of a learner of skills that is told which skill to follow.

    Raises:
        UserError: if the algorithm learns no skills.
    """
    algorithm = _module(config)
    networks = algorithm.networks(config, spec)

    def follow(params, inputs, reset, memory, skill, key, greedy):
        return algorithm.follow(
            config, spec, params, inputs, reset, memory, skill, key, greedy=greedy
        )

    return SkillPolicy(
        initial_memory=lambda batch: networks.initial_carry(batch).memory,
        follow=follow,
        embed=lambda params, obs: algorithm.embed(config, spec, params["representation"], obs),
        towards=lambda params, obs, goal: algorithm.skill_towards(config, spec, params, obs, goal),
        draw=lambda key, count: skills.even(config.skill, key, count),
    )


def with_skill(config: Any, spec: Spec, skill: Float[Array, " K"]) -> Policy:
    """Return an ordinary policy that follows one skill for good.

    Raises:
        UserError: if the algorithm learns no skills, or they have another size.
    """
    told = skill_as_weight(config, spec)
    shape = (config.skill.size,)
    require(skill.shape == shape, "skill", skill.shape, f"{shape[0]} numbers")

    def act(params, inputs, reset, memory, key, greedy):
        return told.act((params, skill), inputs, reset, memory, key, greedy)

    return Policy(told.initial_carry, act)


def skill_as_weight(config: Any, spec: Spec) -> Policy:
    """Return an ordinary policy whose parameters are (weights, a skill `[K]`).

    One such policy follows any skill without being compiled again.

    Raises:
        UserError: if the algorithm learns no skills.
    """
    told = skill_policy(config, spec)

    def act(params, inputs, reset, memory, key, greedy):
        weights, skill = params
        chosen = jnp.broadcast_to(skill, (reset.shape[0], *skill.shape))
        return told.follow(weights, inputs, reset, memory, chosen, key, greedy)

    return Policy(told.initial_memory, act)


def read_skill(config: Any, text: str) -> Float[Array, " K"]:
    """Return the skill that a user names: the number of a discrete one, or its K numbers.

    On the sphere the numbers say a direction alone.

    Raises:
        UserError: if the algorithm learns no skills, or the words name none of them.
    """
    _module(config)
    kind, size = config.skill.kind, config.skill.size
    try:
        numbers = np.array([float(x) for x in text.split(",")], np.float32)
    except ValueError:
        numbers = np.array([np.nan])
    if kind == "discrete":
        good = numbers.shape == (1,) and numbers[0] in range(size)
        require(good, "skill", text, f"a whole number from 0 to {size - 1}")
        return jax.nn.one_hot(int(numbers[0]), size)
    good = numbers.shape == (size,) and bool(np.isfinite(numbers).all())
    require(good, "skill", text, f"{size} numbers between commas")
    require(kind != "sphere" or bool(numbers.any()), "skill", text, "a direction, not 0 alone")
    return skills.unit(jnp.asarray(numbers)) if kind == "sphere" else jnp.asarray(numbers)


def require_skills(config: Any) -> None:
    """Raise a `UserError` where an algorithm learns no skills."""
    if not isinstance(config, SkilledConfig):
        raise UserError(f"{config.name} learns no skills")


def _module(config: Any) -> ModuleType:
    require_skills(config)
    return ALGORITHMS[config.name]
