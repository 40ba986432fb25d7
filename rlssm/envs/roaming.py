"""Bodies to roam with, and what roaming asks of any environment, wrapped or not.

`RoamingBody` makes of a task on MJX a world as `rlssm.envs.points` describes: the body sees where
it is, all of MuJoCo's positions and velocities, and falling over ends nothing. Observations are
standardised by fixed means and deviations, those of 2,000 episodes of 50 uniformly random actions
(`scripts/reproduce/roaming_scales.py`), because running ones would make a representation drift.
Episodes have 200 steps. `reward` is how much farther from its start the body is than before.

Sources: METRA (arXiv 2310.08887) and its released code, for Ant and HalfCheetah; goals as in the
code of the contrastive successor features (arXiv 2412.08021). Hopper and Walker2d are ours.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlssm.envs.base import Environment, Step
from rlssm.envs.mjx_env import MjxEnvironment, MjxParams, MjxState
from rlssm.envs.perturbed import Perturbed, Scales
from rlssm.envs.wrappers import HideObservation, ObservationNoise, TimeLimit
from rlssm.errors import UserError, require
from rlssm.types import Box, Key, Params, Spec

SCALES = Path(__file__).parent / "roaming_scales.json"


class Body(NamedTuple):
    """How many of the first positions say where a body is, and how far off goals lie, in m."""

    axes: int
    reach: float


BODIES: dict[str, Body] = {
    "HalfCheetah-v5": Body(1, 100.0),
    "Ant-v5": Body(2, 50.0),
    "Hopper-v5": Body(1, 20.0),
    "Walker2d-v5": Body(1, 20.0),
}


class RoamingState(NamedTuple):
    """The body's state, and where it began."""

    inner: MjxState
    start: Float[Array, "2"]


@dataclass(frozen=True)
class RoamingBody:
    """One of `BODIES` on MJX, that sees where it is and never ends by falling over.

    The one thing that terminates an episode is a simulation that diverges.
    """

    env: MjxEnvironment
    max_steps: int = 200

    @property
    def body(self) -> Body:
        return BODIES[self.env.name]

    @property
    def spec(self) -> Spec:
        size = len(scales(self.env.name)[0])
        action = Box((self.env.task.action_size,))
        return Spec(Box((size,)), action, self.max_steps, located=True)

    @property
    def params(self) -> MjxParams:
        return self.env.params

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.env.bounds

    def scaled(self, params: MjxParams, scales: Scales) -> MjxParams:
        return self.env.scaled(params, scales)

    def reset(self, key: Key, params: MjxParams) -> tuple[RoamingState, Array]:
        inner, _ = self.env.reset(key, params)
        return RoamingState(inner, self._place(inner.qpos)), self._observe(inner.qpos, inner.qvel)

    def step(
        self, key: Key, state: RoamingState, action: Array, params: MjxParams
    ) -> tuple[RoamingState, Step]:
        inner, outcome = self.env.advance(state.inner, action, params)
        before, after = self.position(state), self._place(inner.qpos)
        farther = jnp.linalg.norm(after - state.start) - jnp.linalg.norm(before - state.start)
        terminated = ~outcome.sane
        return RoamingState(inner, state.start), Step(
            obs=self._observe(inner.qpos, inner.qvel),
            reward=farther,
            terminated=terminated,
            truncated=(inner.time >= self.max_steps) & ~terminated,
            info={"position": after},
        )

    def position(self, state: RoamingState) -> Float[Array, "2"]:
        return self._place(state.inner.qpos)

    def at(self, key: Key, place: Float[Array, "2"], params: MjxParams) -> Array:
        """Return what a body sees at the start of an episode, but elsewhere."""
        inner, _ = self.env.reset(key, params)
        qpos = inner.qpos.at[: self.body.axes].set(place[: self.body.axes])
        return self._observe(qpos, inner.qvel)

    def goals(self, key: Key, count: int) -> Float[Array, "N 2"]:
        """Return places uniform on the line, or in the square, of +-100 m (HalfCheetah) or +-50."""
        axes, reach = self.body
        places = jax.random.uniform(key, (count, axes), minval=-reach, maxval=reach)
        return jnp.pad(places, ((0, 0), (0, 2 - axes)))

    def _place(self, qpos: Array) -> Float[Array, "2"]:
        axes = self.body.axes
        return jnp.pad(qpos[:axes], (0, 2 - axes)).astype(jnp.float32)

    def _observe(self, qpos: Array, qvel: Array) -> Float[Array, " D"]:
        mean, std = scales(self.env.name)
        return ((jnp.concatenate([qpos, qvel]) - mean) / std).astype(jnp.float32)


@cache
def scales(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of a body's positions and velocities under random actions."""
    found = json.loads(SCALES.read_text())["bodies"][name]
    return np.array(found["mean"], np.float32), np.array(found["std"], np.float32)


def make(env: Any) -> RoamingBody:
    """Return an environment as one to roam with.

    Raises:
        UserError: if it is none of `BODIES` on MJX.
    """
    known = isinstance(env, MjxEnvironment) and env.name in BODIES
    ids = ", ".join(f"mjx/{name}" for name in BODIES)
    require(known, "roam", True, f"left out: it is for {ids} and their like in mjx-fast/")
    return RoamingBody(env)


# --- Through wrappers -------------------------------------------------------------------------


def position(env: Any, state: Any) -> Float[Array, "2"]:
    """Return where one is in a state of a world to roam in, wrapped or not."""
    match env:
        case TimeLimit() | Perturbed():
            return position(env.env, state.inner)
        case HideObservation() | ObservationNoise():
            return position(env.env, state)
        case _:
            return env.position(state)


def at(env: Any, key: Key, place: Float[Array, "2"], params: Params) -> Any:
    """Return the observation at a place in a world to roam in, wrapped or not.

    Noise is left out of it: a goal is shown as it is.
    """
    match env:
        case TimeLimit() | ObservationNoise():
            return at(env.env, key, place, params)
        case Perturbed():
            return at(env.env, key, place, env.inner_params(params))
        case HideObservation():
            return at(env.env, key, place, params)[env.kept]
        case _:
            return env.at(key, place, params)


def world(env: Environment) -> Any:
    """Return the world to roam in that an environment wraps.

    Raises:
        UserError: if nobody says where one is in it.
    """
    if not env.spec.located:
        raise UserError(
            "skills are judged by where they go, and this environment does not say where one is; "
            "use point/..., or mjx/... with --env.roam"
        )
    while isinstance(env, TimeLimit | Perturbed | HideObservation | ObservationNoise):
        env = env.env
    return env
