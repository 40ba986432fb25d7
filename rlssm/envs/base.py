"""The environment contract, and how one environment becomes a batch that resets itself."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlssm.types import Key, Params, Spec


class Step(NamedTuple):
    """What one environment returns for one action; no axis of its own.

    `obs` is the true successor, never that of a new episode. `info` holds arrays only; a bool
    `info["success"]`, where present, says at the last step whether the episode counts as solved.
    """

    obs: Any
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    info: dict[str, Array]


class Environment(Protocol):
    """One environment as pure functions; it never resets itself.

    `params` are its default parameters, a pytree of arrays that may be replaced or vmapped.
    Instances are hashable and compare by value, so that compiled code is found again.
    Discrete actions are int32 scalars; continuous ones lie in [-1, 1].
    """

    @property
    def spec(self) -> Spec: ...

    @property
    def params(self) -> Params: ...

    def reset(self, key: Key, params: Params) -> tuple[Any, Any]:
        """Return (state, first observation)."""
        ...

    def step(self, key: Key, state: Any, action: Array, params: Params) -> tuple[Any, Step]:
        """Return (next state, step)."""
        ...


class VectorStep(NamedTuple):
    """What a batch of environments returns for a batch of actions; leaves `[B, ...]`.

    `obs`, `first` and `reset` belong to the next time step: after an episode's end `obs` is the
    first observation of the next one. Everything else belongs to the action just taken, and
    `next_obs` is its true successor.
    """

    obs: Any
    first: Bool[Array, " B"]
    reset: Bool[Array, " B"]
    reward: Float[Array, " B"]
    terminated: Bool[Array, " B"]
    truncated: Bool[Array, " B"]
    next_obs: Any
    info: dict[str, Array]


class VectorEnvironment(Protocol):
    """A batch of environments that start a new episode by themselves.

    After `reset` every environment is at the first step of an episode with memory to be
    dropped: `first` and `reset` are all True.
    """

    @property
    def spec(self) -> Spec: ...

    @property
    def num_envs(self) -> int: ...

    def reset(self, key: Key) -> tuple[Any, Any]:
        """Return (state, first observations)."""
        ...

    def step(self, key: Key, state: Any, action: Array) -> tuple[Any, VectorStep]:
        """Return (next state, step)."""
        ...


@dataclass(frozen=True)
class Vectorized:
    """`num_envs` copies of one environment, each reset as soon as its episode ends."""

    env: Environment
    num_envs: int

    @property
    def spec(self) -> Spec:
        return self.env.spec

    def reset(self, key: Key) -> tuple[Any, Any]:
        keys = jax.random.split(key, self.num_envs)
        return jax.vmap(self.env.reset, (0, None))(keys, self.env.params)

    def step(self, key: Key, state: Any, action: Array) -> tuple[Any, VectorStep]:
        keys = jax.random.split(key, self.num_envs)
        return jax.vmap(self._step_one)(keys, state, action)

    def _step_one(self, key: Key, state: Any, action: Array) -> tuple[Any, VectorStep]:
        step_key, reset_key = jax.random.split(key)
        params = self.env.params
        next_state, step = self.env.step(step_key, state, action, params)
        last = step.terminated | step.truncated
        # One key for all the resets that nobody needs: an environment on the host remembers it.
        reset_key = jnp.where(last, reset_key, jax.random.key(0))
        fresh_state, fresh_obs = self.env.reset(reset_key, params)
        state, obs = jax.tree.map(
            lambda fresh, current: jnp.where(last, fresh, current),
            (fresh_state, fresh_obs),
            (next_state, step.obs),
        )
        return state, VectorStep(
            obs=obs,
            first=last,
            reset=last,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_obs=step.obs,
            info=step.info,
        )


def action_bounds(env: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what -1 and 1 stand for in an environment's own units, flat, float64.

    None for discrete actions, and where an environment does not say.
    """
    while not hasattr(env, "bounds") and hasattr(env, "env"):  # wrappers do not change them
        env = env.env
    bounds = getattr(env, "bounds", None)
    if bounds is None:
        return None
    low, high = (np.ravel(x).astype(np.float64) for x in bounds)
    return low, high
