"""Tasks for a body that has learnt to move: places to be at, and hurdles to pass.

    downstream/plane-goal          one goal up to 17.5 away in each coordinate, 50 steps
    downstream/plane-goals         four, a new one every 25 steps, up to 7.5 away
    downstream/four-rooms-goal, u-maze-goal, large-maze-goal      one in any free cell
    downstream/plane-goal-pixels   the first of these, the body's own observation an image
    downstream/halfcheetah-goal    one up to 100 m away on the line, 200 steps
    downstream/halfcheetah-hurdle  seven bars in front of HalfCheetah, 200 steps
    downstream/ant-goal            one up to 15 m away in each coordinate, 200 steps
    downstream/ant-goals           four, a new one every 50 steps, up to 7.5 m away

The body is that of `point/...` or of `mjx-fast/...` with `roam`, and sees as `obs` what it sees
there, so that a policy that roamed can serve as it is. Beside it, as `goal`, stands how far the
goal is from it in each coordinate, over `reach`. A step that ends within `radius` of the goal pays
1. Nothing but the body's world ends an episode, and a goal that was reached stays. An episode is
solved where each of its goals was reached.

Of hurdles every one in front pays 1 when the rear foot has passed it, and takes it back when the
foot does; `goal` is where the next one is, and how far from the rear foot. An episode is solved
where all are passed.

Sources: HalfCheetahGoal, HalfCheetahHurdle and AntMultiGoals of METRA (arXiv 2310.08887), with the
radius, the goals and the hurdles' places of the contrastive successor features' code (arXiv
2412.08021). Departures: what is shown is the way to the goal rather than where it is; Ant's goals
are drawn around it anew in every episode, where that code draws them once; the size of a hurdle is
ours (`mjx_model.HURDLE`). The other tasks are ours.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs import mjx_env, point_pixels, points, roaming
from rlssm.envs.base import Step
from rlssm.envs.points import PointWorld, Roamable
from rlssm.envs.roaming import RoamingBody, RoamingState
from rlssm.errors import require
from rlssm.types import Box, DictSpace, Key, Params, Spec

OBS, GOAL = "obs", "goal"  # what the body sees, and the way to the goal


def _with_goal(spec: Spec) -> Spec:
    """Return what a world's body sees with the way to a goal beside it."""
    obs = DictSpace(((GOAL, Box((2,))), (OBS, spec.obs)))
    return replace(spec, obs=obs, located=False)


class GoalState(NamedTuple):
    """The body's state and its goal; whether this one, and all before it, were reached."""

    inner: Any
    goal: Float[Array, "2"]
    reached: Bool[Array, ""]
    before: Bool[Array, ""]
    time: Int[Array, ""]


@dataclass(frozen=True)
class GoalTask:
    """A world to roam in with places to be at."""

    world: Roamable
    reach: float
    """What the way to the goal is shown in units of, and how far off it is where `near`."""
    radius: float
    """Within which of the goal a step pays, above 0."""
    near: bool = False
    """Whether goals are drawn around the body rather than as the world has them."""
    every: int | None = None
    """Steps after which there is another goal; None for one goal in an episode."""

    def __post_init__(self) -> None:
        for name in ("reach", "radius"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        require(self.every is None or self.every >= 1, "every", self.every, "at least 1")

    @property
    def spec(self) -> Spec:
        return _with_goal(self.world.spec)

    @property
    def params(self) -> Params:
        return self.world.params

    def reset(self, key: Key, params: Params) -> tuple[GoalState, dict[str, Any]]:
        world_key, goal_key = jax.random.split(key)
        inner, obs = self.world.reset(world_key, params)
        position = self.world.position(inner)
        goal = self._draw(goal_key, position)
        state = GoalState(inner, goal, jnp.bool_(False), jnp.bool_(True), jnp.int32(0))
        return state, self._observe(obs, position, goal)

    def step(
        self, key: Key, state: GoalState, action: Array, params: Params
    ) -> tuple[GoalState, Step]:
        world_key, goal_key = jax.random.split(key)
        inner, step = self.world.step(world_key, state.inner, action, params)
        position, time = self.world.position(inner), state.time + 1
        inside = jnp.linalg.norm(position - state.goal) <= self.radius
        reached, before, goal = state.reached | inside, state.before, state.goal
        success = reached & before
        if self.every is not None:
            other = (time % self.every == 0) & ~(step.terminated | step.truncated)
            goal = jnp.where(other, self._draw(goal_key, position), goal)
            before = jnp.where(other, success, before)
            reached &= ~other
        return GoalState(inner, goal, reached, before, time), Step(
            obs=self._observe(step.obs, position, goal),
            reward=inside.astype(jnp.float32),
            terminated=step.terminated,
            truncated=step.truncated,
            info={"success": success},
        )

    def _draw(self, key: Key, position: Float[Array, "2"]) -> Float[Array, "2"]:
        if not self.near:
            return self.world.goals(key, 1)[0]
        return position + jax.random.uniform(key, (2,), minval=-self.reach, maxval=self.reach)

    def _observe(self, obs: Any, position: Array, goal: Array) -> dict[str, Any]:
        return {GOAL: ((goal - position) / self.reach).astype(jnp.float32), OBS: obs}


class HurdleState(NamedTuple):
    """The body's state, and how many hurdles its rear foot has passed."""

    inner: RoamingState
    passed: Float[Array, ""]


@dataclass(frozen=True)
class HurdleTask:
    """HalfCheetah among hurdles, of which those behind its start pay nothing."""

    world: RoamingBody

    @property
    def spec(self) -> Spec:
        return _with_goal(self.world.spec)

    @property
    def params(self) -> Params:
        return self.world.params

    def reset(self, key: Key, params: Params) -> tuple[HurdleState, dict[str, Any]]:
        inner, obs = self.world.reset(key, params)
        foot = self._foot(inner)
        return HurdleState(inner, self._passed(foot)), self._observe(obs, foot)

    def step(
        self, key: Key, state: HurdleState, action: Array, params: Params
    ) -> tuple[HurdleState, Step]:
        inner, step = self.world.step(key, state.inner, action, params)
        foot = self._foot(inner)
        passed = self._passed(foot)
        return HurdleState(inner, passed), Step(
            obs=self._observe(step.obs, foot),
            reward=passed - state.passed,
            terminated=step.terminated,
            truncated=step.truncated,
            info={"success": passed == sum(x >= 0 for x in HURDLES)},
        )

    def _foot(self, inner: RoamingState) -> Float[Array, ""]:
        """Return where the rear foot is on the line."""
        return self.world.env.places(inner.inner)[REAR_FOOT, 0].astype(jnp.float32)

    def _passed(self, foot: Float[Array, ""]) -> Float[Array, ""]:
        in_front = np.array([x for x in HURDLES if x >= 0], np.float32)
        return jnp.sum(in_front < foot, dtype=jnp.float32)

    def _observe(self, obs: Any, foot: Float[Array, ""]) -> dict[str, Any]:
        places = jnp.asarray(HURDLES, jnp.float32)
        following = jnp.min(jnp.where(places >= foot, places, HURDLES[-1]))
        return {GOAL: jnp.stack([following, jnp.abs(following - foot)]) / SPACING, OBS: obs}


HURDLES = (-15.0, -13.0, -9.0, -5.0, -1.0, 3.0, 7.0, 11.0, 15.0, 19.0, 23.0, 27.0)  # m
SPACING = 4.0  # m, that places and distances of hurdles are shown in units of
REAR_FOOT = 4  # number of the body
FAR, NEAR = 17.5, 7.5
MAZE = 5.0
POINTS: dict[str, GoalTask] = {
    "plane-goal": GoalTask(points.WORLDS["point/plane"], FAR, 2.0, near=True),
    "plane-goals": GoalTask(PointWorld(max_steps=100), NEAR, 2.0, near=True, every=25),
    "four-rooms-goal": GoalTask(points.WORLDS["point/four-rooms"], MAZE, 1.0),
    "u-maze-goal": GoalTask(points.WORLDS["point/u-maze"], MAZE, 1.0),
    "large-maze-goal": GoalTask(points.WORLDS["point/large-maze"], MAZE, 1.0),
    "plane-goal-pixels": GoalTask(point_pixels.WORLDS["point/plane-pixels"], FAR, 2.0, near=True),
}
BODIES = {
    "halfcheetah-goal": "mjx-fast/HalfCheetah-v5",
    "halfcheetah-hurdle": "mjx-fast/HalfCheetah-v5",
    "ant-goal": "mjx-fast/Ant-v5",
    "ant-goals": "mjx-fast/Ant-v5",
}
IDS = tuple(f"downstream/{name}" for name in (*POINTS, *BODIES))


def make(env_id: str) -> GoalTask | HurdleTask:
    """Return the task with one of `IDS`.

    Raises:
        UserError: if it needs MuJoCo or MJX, and that is not installed.
    """
    name = env_id.removeprefix("downstream/")
    if name in POINTS:
        return POINTS[name]
    body = roaming.make(mjx_env.make(BODIES[name]))
    match name:
        case "ant-goals":
            return GoalTask(body, NEAR, 3.0, near=True, every=50)
        case "halfcheetah-hurdle":
            return HurdleTask(RoamingBody(replace(body.env, hurdles=HURDLES)))
        case "ant-goal":
            return GoalTask(body, 15.0, 3.0, near=True)
        case _:
            return GoalTask(body, body.body.reach, 3.0)
