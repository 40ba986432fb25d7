"""The skills of a learner as policies: told which one to follow, or following one for good."""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
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
    told = skill_policy(config, spec)
    shape = (config.skill.size,)
    require(skill.shape == shape, "skill", skill.shape, f"{shape[0]} numbers")

    def act(params, inputs, reset, memory, key, greedy):
        chosen = jnp.broadcast_to(skill, (len(reset), *skill.shape))
        return told.follow(params, inputs, reset, memory, chosen, key, greedy)

    return Policy(told.initial_memory, act)


def _module(config: Any) -> ModuleType:
    if not isinstance(config, SkilledConfig):
        raise UserError(f"{config.name} learns no skills")
    return ALGORITHMS[config.name]
