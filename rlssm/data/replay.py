"""A learner's own past in a ring per environment, and windows of consecutive steps drawn from it.

All storage is allocated at the start, `[B, C, ...]` for C steps of each of B environments, and
overwritten from the oldest step on. Every step keeps its own true successor, which doubles what
observations take and needs no bound on how often episodes end. Give compiled code the state as a
donated argument: without donation every `add` copies the whole ring.

Flashbax stores and adds; it is imported where used, because that takes a second.
"""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float, Int

from rlssm.errors import UserError, require
from rlssm.types import (
    Box,
    Carry,
    Key,
    Previous,
    Spec,
    Trajectory,
    Transition,
    clear_at_start,
    zeros,
)

GIB = 2**30

Kept = tuple[tuple[str, Box], ...]  # names and spaces of extras


class Stored(NamedTuple):
    """What is kept of a step."""

    obs: Any
    action: Array
    reward: Float[Array, "..."]
    next_obs: Any
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    first: Bool[Array, "..."]
    reset: Bool[Array, "..."]
    carry: Carry  # the acting policy's memory before `obs`, or None
    extras: dict[str, Array]  # what the policy asked to be kept beside


class Replay(PyTreeNode):
    """The rings: `storage.experience` is a `Stored` with leaves `[B, C, ...]`."""

    storage: Any  # flashbax's TrajectoryBufferState


def num_bytes(
    spec: Spec, num_envs: int, capacity: int, carry: Carry = None, kept: Kept = ()
) -> int:
    """Return what `init` of the same arguments allocates."""
    replay = jax.eval_shape(lambda: init(spec, num_envs, capacity, carry, kept))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(replay))


def require_fits(
    spec: Spec,
    num_envs: int,
    capacity: int,
    carry: Carry = None,
    kept: Kept = (),
    *,
    members: int = 1,
) -> None:
    """Refuse replays that the device cannot hold; for use outside compiled code.

    Args:
        spec: of the environment.
        num_envs: parallel environments of a member.
        capacity: steps that each replay holds.
        carry, kept: as `init` takes them.
        members: runs on one device, each with a replay of its own.

    Raises:
        UserError: if `members` replays take more than the device's free memory, or than the
            host's memory where the device does not tell.
    """
    needed, there = members * num_bytes(spec, num_envs, capacity, carry, kept), _memory()
    if there is not None and needed > there[0]:
        free, place = there
        largest = int(0.9 * capacity * free / needed)  # learning takes memory too
        raise UserError(
            f"capacity {capacity} with {members} member{'s' * (members > 1)} needs "
            f"{needed / GIB:.2f} GiB for stored steps, and {place} has {free / GIB:.2f} GiB; "
            f"try {largest}"
        )


def init(spec: Spec, num_envs: int, capacity: int, carry: Carry = None, kept: Kept = ()) -> Replay:
    """Return an empty replay.

    Args:
        spec: of the environment.
        num_envs: environments B whose steps come side by side.
        capacity: steps of all environments together; each gets the same whole number of them.
        carry: memory as the acting policy has it, leaves `[B, ...]`, to keep one with every
            step; None to keep none.
        kept: names and spaces of the extras to keep with every step.

    Raises:
        UserError: if an environment gets less than two steps.
    """
    from flashbax.buffers import trajectory_buffer

    length = capacity // num_envs
    require(length >= 2, "capacity", capacity, f"at least 2 * num_envs = {2 * num_envs}")
    flag = jnp.zeros((), bool)
    step = Stored(
        obs=zeros(spec.obs),
        action=zeros(spec.action),
        reward=jnp.zeros((), jnp.float32),
        next_obs=zeros(spec.obs),
        terminated=flag,
        truncated=flag,
        first=flag,
        reset=flag,
        carry=jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), carry),
        extras={name: zeros(space) for name, space in kept},
    )
    return Replay(trajectory_buffer.init(step, num_envs, length))


def add(replay: Replay, trajectory: Trajectory, carries: Carry = None) -> Replay:
    """Return the replay with the next T steps of each environment, in place of its oldest.

    What is added first must start with first steps, and each trajectory must go on where the one
    before ended: windows run across.

    Args:
        replay: to be donated.
        trajectory: leaves `[T, B, ...]`; its `mask` is not kept, and of its `extras` those that the
            replay keeps.
        carries: the memory before each step, leaves `[T, B, ...]`, where the replay keeps it.

    Raises:
        UserError: if there are more steps than the replay holds.
    """
    from flashbax.buffers import trajectory_buffer

    steps, capacity = len(trajectory.first), replay.storage.experience.reward.shape[1]
    require(steps <= capacity, "rollout_length", steps, f"at most capacity / num_envs = {capacity}")
    kept = trajectory.step._asdict()
    extras = {name: kept["extras"][name] for name in replay.storage.experience.extras}
    kept["extras"] = extras
    new = Stored(**kept, first=trajectory.first, reset=trajectory.reset, carry=carries)
    batch_major = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), new)
    return Replay(trajectory_buffer.add(replay.storage, batch_major))


def size(replay: Replay) -> Int[Array, ""]:
    """Return how many steps of each environment are stored."""
    storage = replay.storage
    capacity = storage.experience.reward.shape[1]
    return jnp.where(storage.is_full, capacity, storage.current_index)


def draw(replay: Replay, key: Key, batch: int, length: int) -> Trajectory:
    """Return windows of consecutive steps, uniform over those that the replay holds.

    A window may cross the ends of episodes. `previous` is the step before, zero at a first step;
    once the ring is full the step before its oldest is gone, so that no window starts there.
    Memory is dropped at t = 0 and where the acting policy dropped it; with stored memory, `carry`
    is that before t = 0, and is dropped only where it was in acting.

    Args:
        replay: with at least `length` steps of each environment, which compiled code cannot
            check: `size` tells.
        key: consumed.
        batch: number of windows.
        length: steps of a window.

    Returns:
        A trajectory `[length, batch]`; its extras are those that the replay keeps.

    Raises:
        UserError: unless 1 <= length < C.
    """
    storage = replay.storage
    stored = storage.experience
    num_envs, capacity = stored.reward.shape
    require(1 <= length < capacity, "length", length, f"in [1, {capacity})")
    env_key, start_key = jax.random.split(key)
    env = jax.random.randint(env_key, (batch,), 0, num_envs)
    head = storage.current_index
    earliest = storage.is_full.astype(head.dtype)
    start = jax.random.randint(start_key, (batch,), earliest, size(replay) - length + 1)
    oldest = jnp.where(storage.is_full, head, 0)
    time = (oldest + start + jnp.arange(length)[:, None]) % capacity
    before = (time[0] - 1) % capacity

    rows = jax.tree.map(lambda x: x[env, time], stored._replace(carry=None))
    reset = rows.reset
    if stored.carry is None:
        reset = reset.at[0].set(True)
    return Trajectory(
        step=Transition(
            obs=rows.obs,
            action=rows.action,
            reward=rows.reward,
            next_obs=rows.next_obs,
            terminated=rows.terminated,
            truncated=rows.truncated,
            extras=rows.extras,
        ),
        first=rows.first,
        reset=reset,
        mask=jnp.ones_like(rows.first),
        carry=jax.tree.map(lambda x: x[env, time[0]], stored.carry),
        previous=clear_at_start(
            Previous(stored.action[env, before], stored.reward[env, before]), rows.first[0]
        ),
    )


def _memory() -> tuple[int, str] | None:
    """Return the bytes that the first device has free and its name, None where nobody tells."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0), str(device)
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine"
    return None
