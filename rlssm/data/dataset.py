"""Offline data as flat arrays with an episode index, and the views that learners take of it.

Episodes lie one after the other. An episode of T steps has T actions and T + 1 observations, so
with N steps in E episodes

    action[i], reward[i], ...     i in [0, N)
    obs[i + e]                    the observation before step i, which belongs to episode e
    obs[i + e + 1]                its true successor

and no observation is stored twice. Everything is a pytree of arrays, passed into compiled code
and indexed there; `jax.device_put` moves it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode, field
from jaxtyping import Array, Bool, Float, Int, Shaped

from rlssm.data.scores import Reference
from rlssm.errors import UserError, require
from rlssm.kernels.returns import discounted_returns
from rlssm.types import Box, Previous, Spec, Trajectory, Transition, clear_at_start

AnyArray = Array | np.ndarray


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset beside its arrays."""

    id: str
    spec: Spec
    action_bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Lowest and highest value of every action entry in the environment's own units, which
    [-1, 1] stands for here; None for discrete actions, and where [-1, 1] is the unit."""
    env: str | None = None
    """Id of the environment the data are from."""
    reference: Reference | None = None
    """Reference returns that came with the data."""
    provenance: tuple[tuple[str, str], ...] = ()
    """Who made the data and how, as (field, text) in sorted order."""
    transforms: tuple[str, ...] = ()
    """What was done to the values since they were recorded, first to last."""
    env_arguments: str = "{}"
    """Keyword arguments that the environment was made with, as a JSON object."""

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action in the environment's units, float64, flat."""
        size = math.prod(self.spec.action.shape)
        low, high = self.action_bounds or ((-1.0,) * size, (1.0,) * size)
        return np.array(low, np.float64), np.array(high, np.float64)


class Episode(NamedTuple):
    """One episode of T steps, on the host; observations have T + 1 rows."""

    obs: Any
    action: Shaped[np.ndarray, "T *A"]
    reward: Float[np.ndarray, " T"]
    terminated: Bool[np.ndarray, " T"]
    truncated: Bool[np.ndarray, " T"]


class OfflineDataset(PyTreeNode):
    """N steps in E whole episodes.

    Leaves of `obs` are `[N + E, ...]`, those of `extras` `[N, ...]`. Continuous actions lie in
    [-1, 1]. `episode` is the episode of each step, `start` the first step of each episode.
    """

    obs: Any
    action: Shaped[AnyArray, "N *A"]
    reward: Float[AnyArray, " N"]
    terminated: Bool[AnyArray, " N"]
    truncated: Bool[AnyArray, " N"]
    episode: Int[AnyArray, " N"]
    start: Int[AnyArray, " E"]
    extras: dict[str, AnyArray]
    info: DatasetInfo = field(pytree_node=False)

    @property
    def num_steps(self) -> int:
        return self.reward.shape[0]

    @property
    def num_episodes(self) -> int:
        return self.start.shape[0]


def index_episodes(lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return `episode` and `start` for episodes of these lengths, int32."""
    stop = np.cumsum(lengths, dtype=np.int64)
    if len(stop) and stop[-1] + len(stop) >= 2**31:
        raise UserError(f"a dataset must have fewer than 2^31 observations, got {stop[-1]} steps")
    start = np.concatenate([[0], stop[:-1]]).astype(np.int32)
    return np.repeat(np.arange(len(stop), dtype=np.int32), lengths), start


def from_episodes(episodes: Sequence[Episode], info: DatasetInfo) -> OfflineDataset:
    """Return episodes as one dataset, on the host; `check` says whether it is a sound one.

    Raises:
        UserError: if there is no episode, or one whose arrays differ in length.
    """
    require(len(episodes) > 0, "episodes", episodes, "one or more")
    for e, one in enumerate(episodes):
        rows = {len(x) for x in one[1:]} | {len(x) - 1 for x in jax.tree.leaves(one.obs)}
        if len(rows) > 1:
            found = {name: jax.tree.map(len, value) for name, value in one._asdict().items()}
            raise UserError(
                f"dataset {info.id}, episode {e}: T steps need T + 1 rows of observations and T of "
                f"everything else, got {found}"
            )
    episode, start = index_episodes([len(e.reward) for e in episodes])
    flat = Episode(*jax.tree.map(lambda *parts: np.concatenate(parts), *episodes))
    return OfflineDataset(
        obs=flat.obs,
        action=flat.action,
        reward=flat.reward,
        terminated=flat.terminated,
        truncated=flat.truncated,
        episode=episode,
        start=start,
        extras={},
        info=info,
    )


def to_episodes(dataset: OfflineDataset) -> Iterator[Episode]:
    """Yield the episodes of a dataset, on the host, without `extras`."""
    data = jax.device_get(dataset)
    bounds = [*data.start.tolist(), data.num_steps]
    for e, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        yield Episode(
            jax.tree.map(lambda x, rows=slice(start + e, stop + e + 1): x[rows], data.obs),
            data.action[start:stop],
            data.reward[start:stop],
            data.terminated[start:stop],
            data.truncated[start:stop],
        )


# --- Views ------------------------------------------------------------------------------------


def transitions(dataset: OfflineDataset, step: Int[AnyArray, "*B"]) -> Transition:
    """Return steps by their number in [0, N), leaves `[*B, ...]`.

    `next_obs` is the true successor, an episode's final observation at its last step.
    """
    row = step + dataset.episode[step]
    return Transition(
        obs=jax.tree.map(lambda x: x[row], dataset.obs),
        action=dataset.action[step],
        reward=dataset.reward[step],
        next_obs=jax.tree.map(lambda x: x[row + 1], dataset.obs),
        terminated=dataset.terminated[step],
        truncated=dataset.truncated[step],
        extras={name: values[step] for name, values in dataset.extras.items()},
    )


def windows(
    dataset: OfflineDataset, start: Int[AnyArray, " B"], length: int, burn_in: int = 0
) -> Trajectory:
    """Return windows of consecutive steps, time-major: leaves `[length, B, ...]`.

    A window may cross the ends of episodes, and after the last episode comes the first: with
    `start` uniform over [0, N), every step is learnt from equally often. Memory is dropped at
    t = 0 and at each first step, so `first` and `reset` differ only at t = 0 of a window cut from
    the middle of an episode, where `previous` holds the action and reward of the step before.

    Args:
        start: number of each window's first step, in [0, N).
        length: steps of a window, burn-in included.
        burn_in: steps at the start of a window that only warm the memory up: `mask` is False.

    The observation after the last step is that step's `next_obs`; no window has padding. `carry`
    is None: give the core its initial memory.

    Raises:
        UserError: unless 0 <= burn_in < length.
    """
    require(length >= 1, "length", length, "at least 1")
    require(0 <= burn_in < length, "burn_in", burn_in, f"in [0, {length})")
    time = jnp.arange(length, dtype=start.dtype)[:, None]
    step = (start + time) % dataset.num_steps
    first = step == dataset.start[dataset.episode[step]]
    before = (start - 1) % dataset.num_steps
    previous = Previous(dataset.action[before], dataset.reward[before])
    return Trajectory(
        step=transitions(dataset, step),
        first=first,
        reset=first | (time == 0),
        mask=jnp.broadcast_to(time >= burn_in, step.shape),
        carry=None,
        previous=clear_at_start(previous, first[0]),
    )


# --- Transforms, each recorded in `info.transforms` -------------------------------------------


def with_returns(dataset: OfflineDataset, discount: float) -> OfflineDataset:
    """Return the dataset with each step's Monte-Carlo return in `extras["mc_return"]`.

        G_i = r_i + discount G_{i+1} within an episode, G = r_i at its last step

    Nothing is bootstrapped: a truncated episode counts what it earned.

    Raises:
        UserError: unless 0 <= discount <= 1.
    """
    require(0 <= discount <= 1, "discount", discount, "in [0, 1]")
    column = (
        jnp.asarray(x)[:, None] for x in (dataset.reward, dataset.terminated, dataset.truncated)
    )
    returns = discounted_returns(*column, discount)[:, 0]
    extras = {**dataset.extras, "mc_return": returns}
    return _recorded(dataset.replace(extras=extras), f"mc_return with discount {discount:g}")


def with_rewards(dataset: OfflineDataset, scale: float = 1.0, shift: float = 0.0) -> OfflineDataset:
    """Return the dataset with rewards `scale * reward + shift`; take returns after it, not before.

    Raises:
        UserError: if the dataset already holds returns of the rewards as they were.
    """
    if "mc_return" in dataset.extras:
        raise UserError("rewards must be scaled before mc_return is computed from them")
    reward = (dataset.reward * scale + shift).astype(dataset.reward.dtype)
    return _recorded(dataset.replace(reward=reward), f"reward * {scale:g} + {shift:g}")


def with_hidden(dataset: OfflineDataset, hide: tuple[int, ...]) -> OfflineDataset:
    """Return the dataset without some entries of its flat observations, counted from 0.

    Raises:
        UserError: if the observations are not flat, an entry does not exist, or none is left.
    """
    space = dataset.info.spec.obs
    if not (isinstance(space, Box) and len(space.shape) == 1):
        raise UserError(f"hide needs flat observations, those of {dataset.info.id} are {space}")
    (size,) = space.shape
    shown = [i for i in range(size) if i not in hide]
    require(set(hide) < set(range(size)), "hide", hide, f"some but not all of 0 to {size - 1}")
    spec = replace(dataset.info.spec, obs=Box((len(shown),), space.dtype))
    info = replace(dataset.info, spec=spec)
    hidden = dataset.replace(obs=dataset.obs[:, np.array(shown)], info=info)
    return _recorded(hidden, f"observation entries {list(hide)} hidden")


def _recorded(dataset: OfflineDataset, what: str) -> OfflineDataset:
    info = replace(dataset.info, transforms=(*dataset.info.transforms, what))
    return dataset.replace(info=info)
