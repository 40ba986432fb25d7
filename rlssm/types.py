"""The data that flows through the library, and what its fields mean.

Axis letters used everywhere: `T` time, `B` batch (environments or sequences), `S` seeds,
`E` ensemble, `D` observation, `A` action, `P` state-space state, `H` features, `K` skill.
Sequence code is time-major, `[T, B, ...]`.

Two flags, never a bare "done":

- `first[t]`: `obs[t]` starts an episode.
- `reset[t]`: memory is dropped *before* `obs[t]` is consumed. Only the sequence core applies it.

They are equal except in trials (memory lives across the episodes of one trial) and in windows
cut from the middle of an episode (a reset without a first step). Both start True. Where both hold,
the previous action and reward fed beside `obs[t]` are zero; at the later episodes of a trial they
are those that ended the episode before, the only news of its last reward.

`terminated` cuts the bootstrap; `truncated` ends the episode and bootstraps from the true
`next_obs`. An episode ends where either is True; both at once count as a termination.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Carry = Any  # a pytree whose leaves lead with [B]; complex state is a pair of real arrays (re, im)
Params = Any  # a pytree of arrays
Metrics = dict[str, Array]
Key = Array  # a typed key, `jax.random.key(...)`


# --- Spaces -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discrete:
    """Integers `0 .. n - 1`, int32."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class Box:
    """Arrays of a fixed shape. Actions of this kind lie in [-1, 1]; environments rescale."""

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class DictSpace:
    """Named spaces, in sorted order of name.

    An observation entry called `action_mask` (bool `[n]`, True where the action is allowed) is
    not encoded; it restricts a discrete policy.
    """

    spaces: tuple[tuple[str, "Space"], ...]


Space = Discrete | Box | DictSpace


@dataclass(frozen=True)
class Spec:
    """What an environment shows and accepts.

    `max_episode_steps` is the length at which an episode is truncated, None where there is no such
    length. `truncates` is False only where an episode never ends in a truncation, which spares
    learners the value of its final observation. `located` is True where `info["position"]`, two
    coordinates, says where on a plane a step ended; the cells visited are then counted.
    """

    obs: Space
    action: Discrete | Box
    max_episode_steps: int | None = None
    truncates: bool = True
    located: bool = False


def zeros(space: Space, batch: tuple[int, ...] = ()) -> Any:
    """Return an all-zero element of a space with leading axes `batch`."""
    match space:
        case Discrete():
            return jnp.zeros(batch, jnp.int32)
        case Box(shape, dtype):
            return jnp.zeros((*batch, *shape), dtype)
        case DictSpace(spaces):
            return {name: zeros(inner, batch) for name, inner in spaces}


# --- Steps and sequences ----------------------------------------------------------------------


class Transition(NamedTuple):
    """One environment step; every leaf leads with the same axes."""

    obs: Any
    action: Array
    reward: Float[Array, "..."]
    next_obs: Any  # the true successor, also where the environment reset itself
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    extras: dict[str, Array]  # log_prob, value, next_value, source, ...


class Previous(NamedTuple):
    """The action and reward of the step before, zero where an episode starts without memory."""

    action: Array
    reward: Float[Array, "..."]


class Inputs(NamedTuple):
    """Everything an agent may look at in one step, beside its memory."""

    obs: Any
    previous: Previous
    first: Bool[Array, "..."]


class Trajectory(NamedTuple):
    """A piece of experience, leaves `[T, B, ...]` unless said otherwise."""

    step: Transition
    first: Bool[Array, "T B"]
    reset: Bool[Array, "T B"]
    mask: Bool[Array, "T B"]  # False for padding and burn-in
    carry: Carry  # core state before t = 0, leaves [B, ...]
    previous: Previous  # what came before t = 0, leaves [B, ...]


def last(step: Transition) -> Bool[Array, "..."]:
    """Return where an episode ends."""
    return step.terminated | step.truncated


def clear_at_start(previous: Previous, start: Bool[Array, "..."]) -> Previous:
    """Return `previous` with zeros where an episode starts without memory: first and reset."""
    return jax.tree.map(
        lambda x: jnp.where(jnp.reshape(start, start.shape + (1,) * (x.ndim - start.ndim)), 0, x),
        previous,
    )


def inputs(trajectory: Trajectory) -> Inputs:
    """Return what the agent saw at each step of a trajectory, leaves `[T, B, ...]`."""
    step = trajectory.step
    shifted = jax.tree.map(
        lambda before, x: jnp.concatenate([before[None], x[:-1]]),
        trajectory.previous,
        Previous(step.action, step.reward),
    )
    start = trajectory.first & trajectory.reset
    return Inputs(step.obs, clear_at_start(shifted, start), trajectory.first)


def unrolled(trajectory: Trajectory) -> tuple[Inputs, Bool[Array, "T1 B"]]:
    """Return inputs and resets of T + 1 rows, from a trajectory as `Windows` describes it.

    Row t is what the agent saw at t, and row t + 1 what it saw after the step at t: the features
    of a step's true successor are those of the next row.
    """
    step, seen = trajectory.step, inputs(trajectory)
    nowhere = jnp.zeros_like(trajectory.first[:1])
    final = Inputs(
        jax.tree.map(lambda x: x[-1:], step.next_obs),
        Previous(step.action[-1:], step.reward[-1:]),
        nowhere,
    )
    rows = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), seen, final)
    return rows, jnp.concatenate([trajectory.reset, nowhere])


def example_inputs(spec: Spec) -> tuple[Inputs, Bool[Array, "1 1"]]:
    """Return inputs and resets of one step of one environment, to make parameters with."""
    previous = Previous(zeros(spec.action, (1, 1)), jnp.zeros((1, 1)))
    flags = jnp.ones((1, 1), bool)
    return Inputs(zeros(spec.obs, (1, 1)), previous, flags), flags


def time_major(tree: Any) -> Any:
    """Swap the two leading axes of every leaf: `[B, T, ...]` to `[T, B, ...]` and back."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


# --- Acting -----------------------------------------------------------------------------------


class Policy(NamedTuple):
    """A way to act, without its parameters: two pure functions.

    `initial_carry(batch)` gives the memory before the first step.
    `act(params, inputs, reset, carry, key, greedy)` takes leaves `[B, ...]` and returns the
    action `[B, ...]` and the next carry; `greedy` is a Python bool.
    """

    initial_carry: Callable[[int], Carry]
    act: Callable[[Params, Inputs, Bool[Array, " B"], Carry, Key, bool], tuple[Array, Carry]]


@dataclass(frozen=True)
class Rollout:
    """A learner's wish for data: a fresh trajectory of its own policy, `[length, num_envs]`.

    With `next_value` the policy's `extras["value"]` is also wanted for every true successor. With
    `trials` it is wanted for what the memory sees next, the first step of the next episode
    included, and `extras["trial_end"]` says after which steps that memory is dropped. With
    `offline` the learner is handed a `Hybrid`, with as many steps of a dataset beside its own: in
    windows from any step on, or in whole episodes, which must have `length` steps.
    """

    length: int
    num_envs: int
    next_value: bool = False
    trials: bool = False
    offline: Literal["windows", "episodes"] | None = None

    @property
    def steps(self) -> int:
        """Steps of all environments together."""
        return self.length * self.num_envs


class Hybrid(NamedTuple):
    """Fresh experience and steps of a dataset, `[T, B]` each; the latter have no carry.

    Windows of a dataset have a row for the end of each truncated episode, as `Windows` says.
    """

    own: Trajectory
    offline: Trajectory


@dataclass(frozen=True)
class Windows:
    """A learner's wish for data: windows of stored steps, from a dataset, its own past, or both.

    One round takes `collect.steps` steps and makes `updates` calls of the learner's `update`. A
    call is handed a trajectory `[length, batch]`, or `[stack, length, batch]` with `stack`, in
    which `next_obs[t]` is `obs[t + 1]` wherever `mask[t]`, the step does not terminate and
    t < length - 1: after a truncation inside a window stands a row that shows the final observation
    and is masked. See `unrolled`.

    Of each batch `round(prior * batch)` windows come first and from the dataset; all of them while
    there is nothing else, none where there is no dataset. `extras["source"]` is 0 for the dataset
    and 1 for the learner's own steps. With `returns`, a discount, `extras["mc_return"]` is the
    Monte-Carlo return of dataset steps, and the lowest float where it is not known.

    With `both` every batch has windows of either kind: there is a dataset, and no learning before
    there are steps beside it.

    `sources` says otherwise how the two share: "union" draws every stored step as often as any
    other; "apart" hands over a whole batch of each, the dataset's first, on an axis of their own
    before all others, `[2, stack, length, batch]`. While there is only one source, or not yet a
    batch of the learner's own steps, the other's windows stand in the place of both.

    `kept` are entries of `act`'s extras that are stored with every step and handed back, by name,
    with the space of each; a dataset has none of them. Without `random_warmup` the policy itself
    takes the first steps.
    """

    collect: Rollout
    updates: int
    batch: int
    length: int
    burn_in: int
    prior: float
    capacity: int  # steps that the replay holds
    warmup: int  # steps before the first update from them, with uniformly random actions
    offline_first: bool  # whether a run learns from its dataset alone unless it is told otherwise
    stack: int | None = None
    returns: float | None = None
    reward_scale: float = 1.0  # those returns are of reward_scale * reward + reward_shift
    reward_shift: float = 0.0
    store_carry: bool = False  # whether windows start from the acting policy's own memory
    both: bool = False
    sources: Literal["share", "union", "apart"] = "share"
    kept: tuple[tuple[str, Box], ...] = ()
    random_warmup: bool = True

    @property
    def offline(self) -> int:
        """Windows of a mixed batch that come from the dataset."""
        return round(self.prior * self.batch)
