"""gymnax environments behind this library's contract.

Only `reset_env` and `step_env` of a gymnax environment are used: gymnax's own `step` resets
inside and hides the true final observation. The step limit is asked for apart, so that
termination and truncation stay apart: a step that does both counts as a termination.
Source: gymnax 1.0 (Lange 2022).
"""

import functools
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rlssm.envs.base import Step
from rlssm.errors import UserError
from rlssm.types import Box, DictSpace, Discrete, Key, Params, Space, Spec

# Written out so that the command line can list and check them without importing gymnax (3.6 s).
IDS = (
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "MemoryChain-bsuite",
    "UmbrellaChain-bsuite",
    "DiscountingChain-bsuite",
    "MNISTBandit-bsuite",
    "SimpleBandit-bsuite",
    "FourRooms-misc",
    "MetaMaze-misc",
    "PointRobot-misc",
    "BernoulliBandit-misc",
    "GaussianBandit-misc",
    "Reacher-misc",
    "Swimmer-misc",
    "Pong-misc",
    "FrozenLake-misc",
)


@dataclass(frozen=True)
class GymnaxEnvironment:
    """One gymnax environment with its default parameters; build it with `make` or `adapt`.

    Two are equal if they hold the same gymnax object and equal parameters. Actions in [-1, 1] are
    clipped and rescaled to the bounds of the action space; rewards are float32; observations have
    the dtype that `spec` says.
    """

    name: str
    env: Any = field(repr=False)
    defaults: Params = field(repr=False, compare=False)
    spec: Spec
    fingerprint: Hashable = field(repr=False)  # of `defaults`, whose arrays do not hash
    bounds: tuple[np.ndarray, np.ndarray] | None = field(repr=False, compare=False)

    @property
    def params(self) -> Params:
        return jax.tree.map(jnp.asarray, self.defaults)

    def reset(self, key: Key, params: Params) -> tuple[Any, Any]:
        obs, state = self.env.reset_env(key, params)
        return _as_arrays(state), _cast(self.spec.obs, obs)

    def step(self, key: Key, state: Any, action: Array, params: Params) -> tuple[Any, Step]:
        action = self._rescale(action)
        obs, next_state, reward, terminated, info = self.env.step_env(key, state, action, params)
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(self.env.is_truncated(next_state, params), bool)
        return _in_widths_of(state, next_state), Step(
            obs=_cast(self.spec.obs, obs),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=terminated,
            truncated=truncated & ~terminated,
            info=jax.tree.map(jnp.asarray, info),
        )

    def _rescale(self, action: Array) -> Array:
        if self.bounds is None:
            return action
        low, high = self.bounds
        return low + (jnp.clip(action, -1.0, 1.0) + 1) / 2 * (high - low)


def make(env_id: str) -> GymnaxEnvironment:
    """Return a registered gymnax environment with its default parameters.

    Raises:
        UserError: if its data must be downloaded and cannot be.
    """
    return adapt(*_registered(env_id), name=env_id)


def adapt(env: Any, params: Params = None, name: str = "") -> GymnaxEnvironment:
    """Return a gymnax environment behind our contract; `params` default to its own.

    Raises:
        UserError: if its spaces have no counterpart here.
    """
    params = env.default_params if params is None else params
    name = name or env.name
    actions = env.action_space(params)
    spec = Spec(
        obs=_observation(env.observation_space(params), name),
        action=_action(actions, name),
        max_episode_steps=int(params.max_steps_in_episode),
    )
    bounds = None
    if isinstance(spec.action, Box):
        bounds = np.asarray(actions.low, np.float32), np.asarray(actions.high, np.float32)
    return GymnaxEnvironment(name, env, params, spec, _fingerprint(params), bounds)


@functools.cache  # one object per id, so that two environments made from one id are equal
def _registered(env_id: str) -> tuple[Any, Params]:
    import gymnax

    try:
        return gymnax.make(env_id)
    except (OSError, EOFError) as error:
        raise UserError(
            f"env {env_id} must download its data the first time, and that failed ({error}); "
            "connect to the network and try again, or choose another environment"
        ) from error


# --- Spaces -----------------------------------------------------------------------------------


def _observation(space: Any, name: str) -> Space:
    from gymnax.environments import spaces

    match space:
        case spaces.Discrete():
            return Discrete(int(space.n))
        case spaces.Box():
            dtype = jnp.dtype(space.dtype).name
            return Box(tuple(space.shape), dtype if dtype in ("bool", "uint8") else "float32")
        case spaces.Dict():
            return DictSpace(
                tuple((key, _observation(space.spaces[key], name)) for key in sorted(space.spaces))
            )
    raise UserError(
        f"env {name} has observations {space}, which cannot be served; use Box, Discrete or Dict"
    )


def _action(space: Any, name: str) -> Discrete | Box:
    from gymnax.environments import spaces

    match space:
        case spaces.Discrete():
            return Discrete(int(space.n))
        case spaces.Box() if np.isfinite(space.low).all() and np.isfinite(space.high).all():
            return Box(tuple(space.shape))
    raise UserError(
        f"env {name} has actions {space}, which cannot be served; use Discrete or a bounded Box"
    )


def _cast(space: Space, obs: Any) -> Any:
    """Return the observation in the dtypes of its space; some gymnax spaces state others."""
    match space:
        case Discrete():
            return jnp.asarray(obs, jnp.int32)
        case Box():
            return jnp.asarray(obs, space.dtype)
        case DictSpace():
            return {name: _cast(inner, obs[name]) for name, inner in space.spaces}


# --- States and parameters --------------------------------------------------------------------


def _as_arrays(state: Any) -> Any:
    # gymnax states mix Python numbers and weakly typed arrays, which a scan's carry must not.
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)


def _in_widths_of(before: Any, state: Any) -> Any:
    # Under x64 gymnax states change width from step to step. A change of kind, such as a speed
    # that starts as the integer 0, is left as it is: a cast would hide it by rounding.
    def convert(old: Array, x: Any) -> Array:
        dtype = jnp.result_type(x)
        kinds = (jnp.integer, jnp.floating)
        alike = any(jnp.issubdtype(old.dtype, k) and jnp.issubdtype(dtype, k) for k in kinds)
        return jnp.asarray(x, old.dtype if alike else dtype)

    return jax.tree.map(convert, before, state)


def _fingerprint(params: Params) -> Hashable:
    leaves, structure = jax.tree.flatten(params)
    arrays = [np.asarray(leaf) for leaf in leaves]
    return structure, tuple((a.shape, a.dtype.name, a.tobytes()) for a in arrays)
