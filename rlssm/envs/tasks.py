"""Tasks of any shape and scale behind one interface: flat observations, one action space.

A task's observations are flattened and standardised, its actions are read off an agent's, and its
rewards are divided by how much a good policy earns more than a random one in an episode. What is
known of a task for that, its `Reference`, is measured.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlssm.envs.base import Environment
from rlssm.envs.projections import (
    Distribution,
    action_matrix,
    action_table,
    observation_matrix,
)
from rlssm.errors import UserError, require
from rlssm.types import Box, DictSpace, Discrete, Key, Space

Squash = Literal["clip", "tanh"]


@dataclass(frozen=True)
class Reference:
    """What was measured of a task: returns per episode, and its flat observations.

    `low` is the mean return of uniformly random actions and `high` that of a good policy, which
    are the scores 0 and 1. `obs_mean` and `obs_std` are those of the entries of observations under
    random actions; None where observations are left as they are.
    """

    low: float = 0.0
    high: float = 1.0
    obs_mean: tuple[float, ...] | None = None
    obs_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        ordered = math.isfinite(self.low) and self.low < self.high < math.inf
        require(ordered, "high", self.high, f"finite and above low = {self.low:g}")

    @property
    def span(self) -> float:
        """What rewards are divided by."""
        return self.high - self.low


@dataclass(frozen=True)
class Task:
    """One environment of a task distribution.

    With `same_start` all episodes of a trial begin with the same state, hidden parts included:
    where a goal or a bandit's arms are drawn at the reset, they are what a trial is about.

    Raises:
        UserError: if the environment's observations cannot be flattened.
    """

    name: str
    env: Environment
    reference: Reference = field(default_factory=Reference)
    same_start: bool = False

    def __post_init__(self) -> None:
        flat_size(self.env.spec.obs, self.name)

    @property
    def obs_size(self) -> int:
        """Entries of a flat observation."""
        return flat_size(self.env.spec.obs, self.name)

    @property
    def action_size(self) -> int:
        """Entries of a continuous action, or how many discrete ones there are."""
        action = self.env.spec.action
        return action.n if isinstance(action, Discrete) else math.prod(action.shape)


class Projection(NamedTuple):
    """How one trial shows its task: the matrix of observations, and the matrix or table of actions.

    The table of actions, where the agent's are discrete, is int32 `[agent]`; the matrix
    `[task, agent]`.
    """

    obs: Float[Array, "agent task"]
    action: Array


def draw_projection(
    kinds: tuple[Distribution, Distribution], key: Key, task: Task, obs_size: int, action: Space
) -> Projection:
    """Return a projection for a task, for an agent of this size of observation and these actions.

    Args:
        kinds: distributions of the matrix of observations and of that of actions.
    """
    obs_key, action_key = jax.random.split(key)
    if isinstance(action, Discrete):
        actions = action_table(kinds[1], action_key, task.action_size, action.n)
    else:
        assert isinstance(action, Box)
        actions = action_matrix(kinds[1], action_key, task.action_size, action.shape[0])
    return Projection(observation_matrix(kinds[0], obs_key, obs_size, task.obs_size), actions)


def see(task: Task, projection: Projection, obs: Any) -> Float[Array, " agent"]:
    """Return what an agent sees of a task's observation."""
    flat = flatten(task.env.spec.obs, obs)
    known = task.reference
    if known.obs_mean is not None and known.obs_std is not None:
        flat = (flat - jnp.asarray(known.obs_mean)) / jnp.asarray(known.obs_std)
    return jnp.matmul(projection.obs, flat, precision="highest")


def act(task: Task, projection: Projection, action: Array, squash: Squash) -> Array:
    """Return the task's action that an agent's stands for.

    A matrix takes it to the task's continuous action, clipped or squashed into [-1, 1], or to a
    number for each of its discrete actions, of which the greatest is taken.
    """
    space = task.env.spec.action
    if jnp.issubdtype(action.dtype, jnp.integer):
        return projection.action[action]
    vector = jnp.matmul(projection.action, action, precision="highest")
    if isinstance(space, Discrete):
        return jnp.argmax(vector).astype(jnp.int32)
    vector = jnp.tanh(vector) if squash == "tanh" else jnp.clip(vector, -1.0, 1.0)
    return vector.reshape(space.shape)


# --- Flat observations ------------------------------------------------------------------------


def flat_size(space: Space, name: str) -> int:
    """Return the entries of a flat observation of the environment `name`."""
    match space:
        case Discrete(n):
            return n
        case Box(shape):
            return math.prod(shape)
        case DictSpace(spaces):
            if any(key == "action_mask" for key, _ in spaces):
                raise UserError(f"task {name} has an action mask, which projections cannot keep")
            return sum(flat_size(inner, name) for _, inner in spaces)


def flatten(space: Space, obs: Any) -> Float[Array, " D"]:
    """Return an observation as one vector; discrete values become one-hot."""
    match space:
        case Discrete(n):
            return jax.nn.one_hot(obs, n, dtype=jnp.float32)
        case Box(_, dtype):
            scale = 255 if dtype == "uint8" else 1
            return jnp.ravel(obs).astype(jnp.float32) / scale
        case DictSpace(spaces):
            parts = [flatten(inner, obs[name]) for name, inner in spaces]
            return jnp.concatenate(parts)


# --- Measuring --------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Returns of episodes of random actions, and the moments of flat observations in them."""

    returns: np.ndarray
    obs_mean: np.ndarray
    obs_std: np.ndarray


LEAST_STD = 1e-3  # of an entry of observations; one that never moves is only centred


def measure(env: Environment, key: Key, *, episodes: int = 64, max_steps: int = 1000) -> Measured:
    """Play episodes of uniformly random actions, each to its end or to `max_steps`."""
    spec = env.spec
    limit = min(spec.max_episode_steps or max_steps, max_steps)

    def one(key: Key) -> tuple[Array, Array, Array, Array]:
        reset_key, steps_key = jax.random.split(key)
        state, obs = env.reset(reset_key, env.params)

        def step(loop: Any, key: Key) -> tuple[Any, tuple[Array, Array]]:
            state, obs, going, total = loop
            act_key, env_key = jax.random.split(key)
            action = random_action(spec.action, act_key)
            state, out = env.step(env_key, state, action, env.params)
            total = total + jnp.where(going, out.reward, 0)
            later = going & ~(out.terminated | out.truncated)
            return (state, out.obs, later, total), (flatten(spec.obs, obs), going)

        start = (state, obs, jnp.bool_(True), jnp.float32(0))
        (_, _, _, total), (seen, valid) = jax.lax.scan(
            step, start, jax.random.split(steps_key, limit)
        )
        seen = jnp.where(valid[:, None], seen, 0)
        return total, seen.sum(0), jnp.square(seen).sum(0), valid.sum()

    sums = jax.jit(jax.vmap(one))(jax.random.split(key, episodes))
    returns, first, second, count = (np.asarray(x, np.float64) for x in sums)
    mean = first.sum(0) / count.sum()
    variance = np.maximum(second.sum(0) / count.sum() - mean**2, 0)
    std = np.sqrt(variance)
    return Measured(returns, mean, np.where(std < LEAST_STD, 1.0, std))


def random_action(space: Space, key: Key) -> Array:
    """Return a uniformly random action."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n, jnp.int32)
    assert isinstance(space, Box)
    return jax.random.uniform(key, space.shape, minval=-1.0)
