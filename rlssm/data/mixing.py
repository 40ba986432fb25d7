"""How stored experience becomes batches: from a dataset, from a learner's own past, or both."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rlssm.data import replay as replays
from rlssm.data.dataset import OfflineDataset
from rlssm.data.dataset import windows as dataset_windows
from rlssm.data.replay import Replay
from rlssm.errors import UserError, require
from rlssm.types import Box, Carry, Key, Rollout, Trajectory, Transition, Windows

MEMORY_LENGTH, MEMORY_BURN_IN = 40, 8  # of a window, where an agent has a memory
CAPACITY = 1_000_000


@dataclass(frozen=True)
class ExperienceConfig:
    """How experience is collected, kept and drawn."""

    batch: int = 256
    """Steps that one update learns from: batch / (length - burn_in) windows."""
    length: int | None = None
    """Steps of a window, burn-in included; default 40 with a memory, 1 without."""
    burn_in: int | None = None
    """Steps at a window's start that only warm the memory up; default 8 with a memory, else 0."""
    prior: float = 0.5
    """Share of each batch that comes from the dataset, in a run that has one, once there are steps
    of the environment beside it."""
    union: bool = False
    """Whether every stored step, of the dataset and of the agent's own, is drawn as often as any
    other, in place of the fixed share `prior`."""
    num_envs: int = 1
    """Parallel environments, at least 1."""
    rollout_length: int = 1
    """Steps of each environment between two rounds of updates, at least 1."""
    update_ratio: float = 1.0
    """Updates per environment step, above 0."""
    capacity: int = CAPACITY
    """Environment steps that the replay holds; the oldest make room for the newest."""
    warmup: int = 1000
    """Environment steps with uniformly random actions before the first update from them."""
    store_carry: bool = False
    """Whether a window of the agent's own steps starts from the memory it then acted with (which
    goes stale as it learns) in place of an empty one."""
    reward_scale: float = 1.0
    """Learners see reward_scale * reward + reward_shift, of both sources; reported returns are
    never changed. Above 0."""
    reward_shift: float = 0.0
    """See reward_scale; -1 is usual for antmaze."""

    def __post_init__(self) -> None:
        for name in ("batch", "num_envs", "rollout_length", "capacity"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.length is None or self.length >= 1, "length", self.length, "at least 1")
        require(self.burn_in is None or self.burn_in >= 0, "burn_in", self.burn_in, "at least 0")
        require(self.warmup >= 0, "warmup", self.warmup, "at least 0")
        require(0 <= self.prior <= 1, "prior", self.prior, "in [0, 1]")
        if self.union:
            require(self.prior == 0.5, "prior", self.prior, "left out: union takes its place")
        for name in ("update_ratio", "reward_scale"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        require(math.isfinite(self.reward_shift), "reward_shift", self.reward_shift, "finite")

    @property
    def steps(self) -> int:
        """Environment steps of one round."""
        return self.num_envs * self.rollout_length

    def reward(self, reward: Array) -> Array:
        """Return rewards as a learner sees them."""
        return self.reward_scale * reward + self.reward_shift


def wish(
    config: ExperienceConfig,
    *,
    memory: bool,
    offline_first: bool = False,
    stack: int | None = None,
    returns: float | None = None,
    both: bool = False,
    apart: bool = False,
    kept: tuple[tuple[str, Box], ...] = (),
    random_warmup: bool = True,
) -> Windows:
    """Return the data that a learner wants, with every default filled in.

    Args:
        config: the user's choices.
        memory: whether the agent has any; without one a window is a single step.
        offline_first: whether a run learns from its dataset alone unless it is told otherwise.
        stack: gradient steps' worth of windows that one call of `update` is handed.
        returns: discount of the Monte-Carlo returns wanted.
        both: whether the learner is of no use without a dataset and steps beside it.
        apart: whether it wants a whole batch of each source, to choose from.
        kept: extras of its own policy that the learner wants back, with their spaces.
        random_warmup: whether the first steps take uniformly random actions.

    Raises:
        UserError: if the choices do not fit together.
    """
    length = config.length if config.length is not None else (MEMORY_LENGTH if memory else 1)
    burn_in = config.burn_in
    if burn_in is None:
        burn_in = min(MEMORY_BURN_IN, length - 1) if memory else 0
    require(burn_in < length, "burn_in", burn_in, f"below length = {length}")
    require(memory or not config.store_carry, "store_carry", True, "False without a memory")
    require(not (config.union and (both or apart)), "union", True, "False for this algorithm")
    learnt = length - burn_in
    if config.batch % learnt:
        raise UserError(
            f"batch must be a multiple of the {learnt} steps that a window of length {length} with "
            f"burn_in {burn_in} is learnt from, got {config.batch}"
        )
    updates = config.update_ratio * config.steps / (stack or 1)
    if round(updates) < 1 or not math.isclose(updates, round(updates)):
        raise UserError(
            f"update_ratio * num_envs * rollout_length must be a multiple of {stack or 1}, got "
            f"{config.update_ratio:g} * {config.num_envs} * {config.rollout_length}"
        )
    if config.warmup < length * config.num_envs and config.rollout_length < length:
        raise UserError(
            f"warmup must be at least length * num_envs = {length * config.num_envs}, to have a "
            f"window to draw, got {config.warmup}"
        )
    if config.rollout_length > config.capacity // config.num_envs:
        raise UserError(
            "rollout_length must be at most capacity / num_envs = "
            f"{config.capacity // config.num_envs}, got {config.rollout_length}"
        )
    if config.capacity < 2 * length * config.num_envs:
        raise UserError(
            "capacity must be at least 2 * length * num_envs = "
            f"{2 * length * config.num_envs}, got {config.capacity}"
        )
    return Windows(
        collect=Rollout(config.rollout_length, config.num_envs),
        updates=round(updates),
        batch=config.batch // learnt,
        length=length,
        burn_in=burn_in,
        prior=config.prior,
        capacity=config.capacity,
        warmup=config.warmup,
        offline_first=offline_first,
        stack=stack,
        returns=returns,
        reward_scale=config.reward_scale,
        reward_shift=config.reward_shift,
        store_carry=config.store_carry,
        both=both,
        sources="apart" if apart else "union" if config.union else "share",
        kept=kept,
        random_warmup=random_warmup,
    )


# --- Batches ----------------------------------------------------------------------------------


def batch(
    windows: Windows,
    key: Key,
    dataset: OfflineDataset | None,
    replay: Replay | None,
    carry: Carry = None,
) -> Trajectory:
    """Return what one call of a learner's `update` is handed, as `Windows` describes it.

    Args:
        windows: the learner's wish.
        key: consumed.
        dataset: see `with_returns` where returns are wished for; None if there is none.
        replay: with at least a window of steps; None if there is none, or not yet.
        carry: memory for windows without a stored one, leaves `[batch, ...]`; needed where the
            replay stores memory. None to leave the trajectory without.

    Returns:
        A trajectory `[length, batch]`, or `[stack, length, batch]`, or with sources apart
        `[2, stack, length, batch]`.

    Raises:
        UserError: if returns are wished for and the dataset has none.
        ValueError: if there is neither a dataset nor a replay.
    """
    if windows.stack is None:
        return _one_batch(windows, key, dataset, replay, carry)
    keys = jax.random.split(key, windows.stack)
    axis = 1 if windows.sources == "apart" else 0
    return jax.vmap(lambda key: _one_batch(windows, key, dataset, replay, carry), out_axes=axis)(
        keys
    )


def _one_batch(
    windows: Windows,
    key: Key,
    dataset: OfflineDataset | None,
    replay: Replay | None,
    carry: Carry,
) -> Trajectory:
    size, share = windows.batch, windows.offline
    if dataset is None or replay is None:
        share = 0 if dataset is None else size
    elif windows.sources != "share":
        return _of_each(windows, key, dataset, replay, carry)
    offline_key, online_key = jax.random.split(key)
    offline = online = None
    if dataset is not None and share > 0:
        first = jax.tree.map(lambda x: x[:share], carry)
        offline = _offline(windows, offline_key, dataset, share, first)
    if replay is not None and share < size:
        rest = jax.tree.map(lambda x: x[share:size], carry)
        online = _online(windows, online_key, replay, size - share, rest)
    batch = join(offline, online)
    return _stacked(batch, batch) if windows.sources == "apart" else batch


def _of_each(
    windows: Windows, key: Key, dataset: OfflineDataset, replay: Replay, carry: Carry
) -> Trajectory:
    """Return windows of both sources: as often as they have steps, or a batch of each."""
    size, keys = windows.batch, jax.random.split(key, 3)
    offline = _offline(windows, keys[0], dataset, size, carry)
    online = _online(windows, keys[1], replay, size, carry)
    labelled = join(offline, online)
    offline, online = columns(labelled, slice(size)), columns(labelled, slice(size, None))
    stored = replays.size(replay) * replay.storage.experience.reward.shape[0]
    if windows.sources == "union":
        mine = jax.random.uniform(keys[2], (size,)) < stored / (stored + dataset.num_steps)
        return _choose(mine, online, offline)
    ready = stored >= size * (windows.length - windows.burn_in)
    return _stacked(offline, _choose(jnp.broadcast_to(ready, (size,)), online, offline))


def _choose(which: Array, yes: Trajectory, no: Trajectory) -> Trajectory:
    """Return windows `[T, B, ...]`, each column taken from `yes` where `which` says so, `[B]`."""

    def pick(axis: int) -> Any:
        def one(a: Array, b: Array) -> Array:
            shape = (1,) * axis + which.shape + (1,) * (a.ndim - axis - 1)
            return jnp.where(which.reshape(shape), a, b)

        return one

    rows = jax.tree.map(pick(1), yes[:4], no[:4])
    before = jax.tree.map(pick(0), yes[4:], no[4:])
    return Trajectory(*rows, *before)  # carry and previous have no time axis


def _stacked(*parts: Trajectory) -> Trajectory:
    return jax.tree.map(lambda *x: jnp.stack(x), *parts)


def _offline(
    windows: Windows, key: Key, dataset: OfflineDataset, size: int, carry: Carry
) -> Trajectory:
    if windows.returns is None:
        dataset = dataset.replace(extras={})
    elif "mc_return" not in dataset.extras:
        raise UserError(f"dataset {dataset.info.id} needs mc_return; give it with_returns")
    return _prepared(windows, from_dataset(dataset, key, size, windows.length), carry)


def _online(windows: Windows, key: Key, replay: Replay, size: int, carry: Carry) -> Trajectory:
    part = _prepared(windows, replays.draw(replay, key, size, windows.length), carry)
    return part if windows.returns is None else _with_unknown_returns(part)


def _prepared(windows: Windows, part: Trajectory, carry: Carry) -> Trajectory:
    """Return windows with burn-in, bootstrap rows, and the memory given unless they have one."""
    time = jnp.arange(windows.length)[:, None]
    part = bootstrap_rows(part._replace(mask=part.mask & (time >= windows.burn_in)))
    if part.carry is None:
        return part._replace(carry=carry)
    return part


def from_dataset(dataset: OfflineDataset, key: Key, batch: int, length: int) -> Trajectory:
    """Return windows of a dataset, `[length, batch]`, their starts uniform over all its steps.

    Of the dataset's extras `mc_return` alone is kept.
    """
    start = jax.random.randint(key, (batch,), 0, dataset.num_steps)
    kept = {name: x for name, x in dataset.extras.items() if name == "mc_return"}
    return dataset_windows(dataset.replace(extras=kept), start, length)


def beside(wish: Rollout, key: Key, dataset: OfflineDataset | None) -> Trajectory:
    """Return the steps of a dataset that a `Rollout` wishes for, `[length, num_envs]`, no extras.

    Raises:
        UserError: if there is no dataset, or whole episodes are wished for and the dataset's have
            another length.
    """
    if dataset is None:
        raise UserError("an algorithm that learns from a dataset as it plays needs a dataset")
    dataset = dataset.replace(extras={})
    if wish.offline == "windows":
        return bootstrap_rows(from_dataset(dataset, key, wish.num_envs, wish.length))
    if dataset.num_steps != dataset.num_episodes * wish.length:
        raise UserError(
            f"every episode of dataset {dataset.info.id} must have rollout_length = {wish.length} "
            f"steps, got {dataset.num_steps} steps in {dataset.num_episodes} episodes"
        )
    chosen = jax.random.randint(key, (wish.num_envs,), 0, dataset.num_episodes)
    return dataset_windows(dataset, jnp.asarray(dataset.start)[chosen], wish.length)


def bootstrap_rows(trajectory: Trajectory) -> Trajectory:
    """Return windows in which the row after a truncated step shows what that step led to.

    After every step that is truncated and not terminated stands one more row, whose `obs` is the
    step's `next_obs`, so that a core which has seen the whole episode sees how it ended. The row
    is masked and takes no action; its extras are the step's. Windows keep their length L: what no
    longer fits is cut off. Afterwards `next_obs[t]` is `obs[t + 1]` wherever `mask[t]` and the
    step at t did not terminate, for t < L - 1.

    Args:
        trajectory: windows of consecutive steps, leaves `[L, B, ...]`.
    """
    step = trajectory.step
    length, batch = trajectory.first.shape
    if length == 1:
        return trajectory
    cut = step.truncated & ~step.terminated
    extra = jnp.cumsum(cut, axis=0, dtype=jnp.int32) - cut  # rows inserted before each step
    place = jnp.arange(length)[:, None] + extra
    column = jnp.arange(batch)
    is_step = jnp.zeros((length, batch), bool).at[place, column].set(True, mode="drop")
    source = jnp.cumsum(is_step, axis=0, dtype=jnp.int32) - 1  # the step shown, or shown before

    next_obs = jax.tree.map(lambda x: x[source, column], step.next_obs)

    def show(x: Array, inserted: Array) -> Array:
        keep = is_step.reshape(length, batch, *(1,) * (x.ndim - 2))
        return jnp.where(keep, x[source, column], inserted)

    def blank(tree: Any) -> Any:
        return jax.tree.map(lambda x: show(x, jnp.zeros((), x.dtype)), tree)

    rows = Transition(
        obs=jax.tree.map(show, step.obs, next_obs),
        action=blank(step.action),
        reward=blank(step.reward),
        next_obs=next_obs,
        terminated=blank(step.terminated),
        truncated=blank(step.truncated),
        extras=jax.tree.map(lambda x: x[source, column], step.extras),
    )
    return trajectory._replace(
        step=rows,
        first=blank(trajectory.first),
        reset=blank(trajectory.reset),
        mask=blank(trajectory.mask),
    )


def join(offline: Trajectory | None, online: Trajectory | None) -> Trajectory:
    """Return windows of a dataset and of a learner's own steps side by side, in this order.

    `extras["source"]` is 0 for the former and 1 for the latter, int8 `[T, B]`. Where the former
    know their `mc_return`, it is the lowest float for the latter.

    Raises:
        ValueError: if there is nothing to join.
    """
    if online is not None and offline is not None and "mc_return" in offline.step.extras:
        online = _with_unknown_returns(online)
    parts = [
        _with_extra(part, "source", jnp.full(part.first.shape, source, jnp.int8))
        for source, part in enumerate((offline, online))
        if part is not None
    ]
    if not parts:
        raise ValueError("a batch needs a dataset or a replay")
    rows = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *(part[:4] for part in parts))
    before = jax.tree.map(lambda *x: jnp.concatenate(x), *(part[4:] for part in parts))
    return Trajectory(*rows, *before)  # carry and previous have no time axis


def columns(batch: Trajectory, chosen: slice) -> Trajectory:
    """Return some of the windows of a batch `[T, B, ...]`."""
    rows = jax.tree.map(lambda x: x[:, chosen], batch[:4])
    before = jax.tree.map(lambda x: x[chosen], batch[4:])
    return Trajectory(*rows, *before)  # carry and previous have no time axis


def side_by_side(batches: Trajectory) -> Trajectory:
    """Return stacked batches `[K, T, B, ...]` as one, `[T, K B, ...]`."""

    def beside(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])

    rows = jax.tree.map(beside, batches[:4])
    before = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches[4:])
    return Trajectory(*rows, *before)  # carry and previous have no time axis


def _with_unknown_returns(part: Trajectory) -> Trajectory:
    reward = part.step.reward
    return _with_extra(part, "mc_return", jnp.full_like(reward, jnp.finfo(reward.dtype).min))


def _with_extra(part: Trajectory, name: str, values: Array) -> Trajectory:
    return part._replace(step=part.step._replace(extras={**part.step.extras, name: values}))
