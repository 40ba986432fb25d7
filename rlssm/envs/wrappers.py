"""Wrappers: an environment in, an environment out.

All are frozen dataclasses, so wrapped environments compare by value. `params` are those of the
wrapped environment. Only `TimeLimit` adds to the state; the others pass it on as it is.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from rlssm.envs.base import Environment, Step
from rlssm.errors import UserError, require
from rlssm.types import Box, Key, Params, Spec


class TimeLimitState(NamedTuple):
    """The state of the wrapped environment and the steps taken since its reset."""

    inner: Any
    time: Int[Array, ""]


@dataclass(frozen=True)
class TimeLimit:
    """Truncate episodes after `steps` steps; an episode that terminates there is not truncated.

    Raises:
        UserError: if the environment truncates earlier itself, because its limit would win.
    """

    env: Environment
    steps: int

    def __post_init__(self) -> None:
        own = self.env.spec.max_episode_steps
        allowed = "at least 1" if own is None else f"from 1 to {own}, the environment's own limit"
        fits = self.steps >= 1 and (own is None or self.steps <= own)
        require(fits, "time_limit", self.steps, allowed)

    @property
    def spec(self) -> Spec:
        return replace(self.env.spec, max_episode_steps=self.steps, truncates=True)

    @property
    def params(self) -> Params:
        return self.env.params

    def reset(self, key: Key, params: Params) -> tuple[TimeLimitState, Any]:
        inner, obs = self.env.reset(key, params)
        return TimeLimitState(inner, jnp.zeros((), jnp.int32)), obs

    def step(
        self, key: Key, state: TimeLimitState, action: Array, params: Params
    ) -> tuple[TimeLimitState, Step]:
        inner, step = self.env.step(key, state.inner, action, params)
        time = state.time + 1
        truncated = step.truncated | ((time >= self.steps) & ~step.terminated)
        return TimeLimitState(inner, time), step._replace(truncated=truncated)


@dataclass(frozen=True)
class HideObservation:
    """Drop the entries `indices` from a flat observation, which makes the task ask for memory.

    Raises:
        UserError: if the observation is not a flat `Box`, or an index is out of range or repeated,
            or nothing would be left to see.
    """

    env: Environment
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        size = self._size
        require(
            all(0 <= i < size for i in self.indices)
            and len(set(self.indices)) == len(self.indices) < size,
            "hide",
            self.indices,
            f"distinct indices from 0 to {size - 1} that leave something to see",
        )

    @property
    def spec(self) -> Spec:
        spec = self.env.spec
        return replace(spec, obs=replace(spec.obs, shape=self.kept.shape))

    @property
    def params(self) -> Params:
        return self.env.params

    def reset(self, key: Key, params: Params) -> tuple[Any, Array]:
        state, obs = self.env.reset(key, params)
        return state, obs[self.kept]

    def step(self, key: Key, state: Any, action: Array, params: Params) -> tuple[Any, Step]:
        state, step = self.env.step(key, state, action, params)
        return state, step._replace(obs=step.obs[self.kept])

    @property
    def _size(self) -> int:
        obs = self.env.spec.obs
        if not isinstance(obs, Box) or len(obs.shape) != 1:
            raise UserError(f"hide needs a flat Box observation, the environment's is {obs}")
        return obs.shape[0]

    @property
    def kept(self) -> np.ndarray:
        """Which entries are left."""
        return np.delete(np.arange(self._size), self.indices)


@dataclass(frozen=True)
class ObservationNoise:
    """Add Gaussian noise of deviation `sigma` to every entry of an observation.

    Raises:
        UserError: if the observation is not a `Box` of floats, or `sigma` is negative or infinite.
    """

    env: Environment
    sigma: float

    def __post_init__(self) -> None:
        obs = self.env.spec.obs
        if not isinstance(obs, Box) or not jnp.issubdtype(obs.dtype, jnp.floating):
            raise UserError(f"noise needs a Box observation of floats, the environment's is {obs}")
        require(0 <= self.sigma < math.inf, "noise", self.sigma, "finite and at least 0")

    @property
    def spec(self) -> Spec:
        return self.env.spec

    @property
    def params(self) -> Params:
        return self.env.params

    def reset(self, key: Key, params: Params) -> tuple[Any, Array]:
        env_key, noise_key = jax.random.split(key)
        state, obs = self.env.reset(env_key, params)
        return state, self._disturb(noise_key, obs)

    def step(self, key: Key, state: Any, action: Array, params: Params) -> tuple[Any, Step]:
        env_key, noise_key = jax.random.split(key)
        state, step = self.env.step(env_key, state, action, params)
        return state, step._replace(obs=self._disturb(noise_key, step.obs))

    def _disturb(self, key: Key, obs: Array) -> Array:
        return obs + self.sigma * jax.random.normal(key, obs.shape, obs.dtype)
