"""Skills as actions: what a policy chooses is which learnt skill a frozen one follows, and for how
many steps is fixed.

    rlssm train sac --env downstream/plane-goal --skills.run RUN --skills.hold 5

Any algorithm that acts can choose: continuous skills ask for a vector in [-1, 1], of which the
direction counts, discrete ones for a number. A step of `SkillActions` is `hold` steps of the task,
of deterministic actions, and pays the sum of what they pay. Skills are copied into the run that
uses them, so that it can go on without the run that learnt them.

Source: METRA (arXiv 2310.08887), section 5.3; the released code of the contrastive successor
features (arXiv 2412.08021), where `hold` is 25 and an episode has 8 decisions.
"""

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlssm.algorithms import ALGORITHMS, AgentConfig
from rlssm.envs.base import Environment, Step
from rlssm.envs.registry import EnvConfig, make
from rlssm.errors import UserError, require
from rlssm.evaluation.skills import SkillPolicy
from rlssm.io import config as config_io
from rlssm.io.checkpoint import Checkpoints
from rlssm.nn import skills
from rlssm.train.skills import skill_policy
from rlssm.types import (
    Box,
    Carry,
    DictSpace,
    Discrete,
    Inputs,
    Key,
    Params,
    Previous,
    Space,
    Spec,
    zeros,
)

HOLD = 25  # steps; METRA's
BODY = "obs"  # the entry of a task's observation that the body sees, where it is a dict


@dataclass(frozen=True)
class SkillActionsConfig:
    """Skills of another run to act by; by default actions are the environment's own."""

    run: str | None = None
    """Run directory whose skills are the actions. Default: none are."""
    checkpoint: int | None = None
    """Steps of its checkpoint; default the newest."""
    member: int = 0
    """Which of its members, counted from 0."""
    hold: int = HOLD
    """Steps of the environment that a skill is followed for, at least 1. METRA: 25."""

    def __post_init__(self) -> None:
        require(self.hold >= 1, "skills.hold", self.hold, "at least 1")
        require(self.member >= 0, "skills.member", self.member, "at least 0")
        given = (self.checkpoint, self.member, self.hold) != (None, 0, HOLD)
        if self.run is None and given:
            raise UserError("skills.run is missing; name the run whose skills are to be followed")


@dataclass(frozen=True)
class LearntSkills:
    """What a learner of skills has learnt, on the host; compared by what its weights are."""

    agent: Any
    env: EnvConfig
    weights: Params = field(compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        found = hashlib.sha256()
        for x in jax.tree.leaves(self.weights):
            found.update(np.ascontiguousarray(x).tobytes())
        object.__setattr__(self, "digest", found.hexdigest())

    @property
    def spec(self) -> Spec:
        """What the body sees, and its actions."""
        return make(self.env).spec

    def save(self, folder: Path) -> None:
        """Write them into a folder of their own."""
        config_io.make_directory(folder)
        Checkpoints(folder, keep=1).save(0, self.weights)
        config_io.save(folder / "config.json", _Origin(self.agent, self.env))

    @classmethod
    def load(cls, folder: Path) -> "LearntSkills":
        """Return what `save` wrote.

        Raises:
            UserError: if it is not there, or damaged.
        """
        origin = config_io.load(folder / "config.json", _Origin)
        algorithm, spec = ALGORITHMS[origin.agent.name], make(origin.env).spec

        def start(key: Key) -> Params:
            return algorithm.init(origin.agent, spec, key).params

        template = jax.eval_shape(start, jax.random.key(0))
        weights = Checkpoints(folder).restore(0, template)
        return cls(origin.agent, origin.env, jax.device_get(weights))


@dataclass(frozen=True)
class _Origin:
    """How skills were learnt."""

    agent: AgentConfig
    env: EnvConfig


class SkillParams(NamedTuple):
    """Parameters of the task, and the weights of the skills."""

    task: Params
    weights: Params


class SkillState(NamedTuple):
    """The state of the task, what the body sees next, and its memory; leaves of both `[1, ...]`."""

    inner: Any
    seen: Inputs
    memory: Carry


@dataclass(frozen=True)
class SkillActions:
    """A task whose actions are skills, each followed for `hold` steps or to the episode's end.

    Raises:
        UserError: if observations or actions of the task's body have another shape or type than
            those of the one that learnt the skills; bodies alike in that are not told apart.
    """

    task: Environment
    skills: LearntSkills
    hold: int

    def __post_init__(self) -> None:
        skill_policy(self.skills.agent, self.skills.spec)
        known, spec = self.skills.spec, self.task.spec
        for name, ours, theirs in (
            ("observations", self._body_space, known.obs),
            ("actions", spec.action, known.action),
        ):
            if ours != theirs:
                raise UserError(
                    f"skills.run learnt in {self.skills.env.id}, where {name} are {theirs}; here "
                    f"they are {ours}; use a task with the same body"
                )

    @property
    def spec(self) -> Spec:
        task, config = self.task.spec, self.skills.agent.skill
        action = Discrete(config.size) if config.kind == "discrete" else Box((config.size,))
        limit = task.max_episode_steps
        decisions = None if limit is None else math.ceil(limit / self.hold)
        return replace(task, action=action, max_episode_steps=decisions, located=False)

    @property
    def params(self) -> SkillParams:
        return SkillParams(self.task.params, self.skills.weights)

    def reset(self, key: Key, params: SkillParams) -> tuple[SkillState, Any]:
        inner, obs = self.task.reset(key, params.task)
        nothing = Previous(zeros(self.task.spec.action, (1,)), jnp.zeros(1))
        memory = self._policy().initial_memory(1)
        return SkillState(inner, self._see(obs, nothing, first=True), memory), obs

    def step(
        self, key: Key, state: SkillState, action: Array, params: SkillParams
    ) -> tuple[SkillState, Step]:
        skill, policy = self._chosen(action)[None], self._policy()

        def once(loop: tuple[SkillState, Step], key: Key) -> tuple[tuple[SkillState, Step], None]:
            state, so_far = loop
            seen = state.seen
            act_key, task_key = jax.random.split(key)
            motion, memory = policy.follow(
                params.weights, seen, seen.first, state.memory, skill, act_key, True
            )
            inner, step = self.task.step(task_key, state.inner, motion[0], params.task)
            seen = self._see(step.obs, Previous(motion, step.reward[None]), first=False)
            step = step._replace(reward=so_far.reward + step.reward)
            over = so_far.terminated | so_far.truncated
            after = SkillState(inner, seen, memory), step
            return jax.tree.map(lambda old, new: jnp.where(over, old, new), loop, after), None

        shapes = jax.eval_shape(
            self.task.step, key, state.inner, zeros(self.task.spec.action), params.task
        )[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(once, (state, nothing), jax.random.split(key, self.hold))[0]

    @property
    def _body_space(self) -> Space:
        obs = self.task.spec.obs
        return dict(obs.spaces)[BODY] if _has_body(obs) else obs

    def _see(self, obs: Any, previous: Previous, *, first: bool) -> Inputs:
        """Return what the body sees, as a batch of one."""
        seen = obs[BODY] if _has_body(self.task.spec.obs) else obs
        return Inputs(jax.tree.map(lambda x: x[None], seen), previous, jnp.full(1, first))

    def _chosen(self, action: Array) -> Float[Array, " K"]:
        """Return the skill that an action stands for."""
        config = self.skills.agent.skill
        if config.kind == "discrete":
            return jax.nn.one_hot(action, config.size)
        return skills.towards(config, action)

    def _policy(self) -> SkillPolicy:
        return skill_policy(self.skills.agent, self.skills.spec)


def _has_body(obs: Space) -> TypeGuard[DictSpace]:
    return isinstance(obs, DictSpace) and BODY in dict(obs.spaces)


def over(env: Any, learnt: LearntSkills | None, hold: int) -> Any:
    """Return an environment, or the same one with skills as its actions where some are given."""
    return env if learnt is None else SkillActions(env, learnt, hold)
