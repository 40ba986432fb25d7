"""Trials: several episodes of one task, under one projection, within one memory.

A `Suite` is a set of tasks, those to learn from and those held out. `Trials` is a batch of
environments in which each task owns a fixed group of the batch axis: every group is one `vmap`, and
the groups are joined. (A `lax.switch` over tasks under `vmap` would run every task in every copy.)

At the end of an episode the next one of the trial begins and memory goes on: `first` is True and
`reset` is not. At the end of a trial's last episode a new projection and a new start are drawn, and
memory is dropped.

Source: "Structured State Space Models for In-Context Reinforcement Learning" (arXiv 2303.03982),
which draws the task of each trial at random. Here a trial's task is that of its group; across the
batch there are as many of each.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from rlssm.envs.base import VectorStep
from rlssm.envs.projections import Distribution
from rlssm.envs.tasks import Projection, Squash, Task, act, draw_projection, see
from rlssm.errors import UserError, require
from rlssm.types import Box, Discrete, Key, Spec


@dataclass(frozen=True)
class TrialConfig:
    """What a trial is. Fields left out are the suite's own."""

    episodes: int | None = None
    """Episodes of a trial, at least 1."""

    observations: Distribution | None = None
    """Matrices between a task's observations and the agent's: identity (padding alone),
    permutation, orthogonal or gaussian."""

    actions: Distribution | None = None
    """The same of actions. Discrete agents get a random table, and none with identity."""

    squash: Squash | None = None
    """How projected continuous actions are brought into [-1, 1]."""

    obs_size: int | None = None
    """Size of the agent's observation, at least that of the largest task's."""

    same_start: bool | None = None
    """Whether all episodes of a trial begin in the same state. Default: each task's own."""

    keep_memory: bool = True
    """Whether memory outlives an episode. False is the ablation: it is dropped at each end."""

    def __post_init__(self) -> None:
        for name in ("episodes", "obs_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"trial.{name}", value, "at least 1, or left out")

    def over(self, other: "TrialConfig") -> "TrialConfig":
        """Return this configuration with what it leaves out taken from another."""
        names = ("episodes", "observations", "actions", "squash", "obs_size", "same_start")
        left_out = {n: getattr(other, n) for n in names if getattr(self, n) is None}
        return replace(self, **left_out)


STANDARD = TrialConfig(episodes=8, observations="gaussian", actions="orthogonal", squash="clip")


@dataclass(frozen=True)
class Suite:
    """A distribution of tasks; `training` and `testing` make batches of its two parts.

    Actions are discrete if those of all tasks are, and else a vector of as many entries as the
    largest task has, discrete actions counted.

    Raises:
        UserError: if a task is in both parts, or a name stands for two of them.
    """

    name: str
    train: tuple[Task, ...]
    held_out: tuple[Task, ...] = ()
    trial: TrialConfig = field(default_factory=lambda: STANDARD)
    action: Discrete | Box | None = None  # the agent's, where tasks do not say

    def __post_init__(self) -> None:
        require(len(self.train) > 0, f"train of {self.name}", self.train, "one task or more")
        names = [task.name for task in (*self.train, *self.held_out)]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"tasks of {self.name}", twice, "each named once")
        for task in self.held_out:
            if any(task.env == other.env for other in self.train):
                raise UserError(f"suite {self.name}: {task.name} is held out and trained on")
        size, least = self.obs_size, max(t.obs_size for t in (*self.train, *self.held_out))
        require(size >= least, "trial.obs_size", size, f"at least {least}, the largest task's")

    @property
    def obs_size(self) -> int:
        """Entries of the agent's observation."""
        return self.settled.obs_size or max(t.obs_size for t in (*self.train, *self.held_out))

    @property
    def settled(self) -> TrialConfig:
        """The trial with every field filled in but `obs_size` and `same_start`."""
        return self.trial.over(STANDARD)

    @property
    def episodes(self) -> int:
        """Episodes of a trial."""
        return self.settled.episodes or 1

    @property
    def spec(self) -> Spec:
        """What an agent sees and does in any of the tasks."""
        if self.action is not None:
            return Spec(Box((self.obs_size,)), self.action)
        tasks = (*self.train, *self.held_out)
        size = max(task.action_size for task in tasks)
        discrete = all(isinstance(task.env.spec.action, Discrete) for task in tasks)
        return Spec(Box((self.obs_size,)), Discrete(size) if discrete else Box((size,)))

    def with_trial(self, trial: TrialConfig) -> "Suite":
        """Return the suite with what `trial` says of trials, and its own where that is silent."""
        return replace(self, trial=trial.over(self.trial))

    def training(self, num_envs: int) -> "Trials":
        """Return `num_envs` copies of the tasks to learn from."""
        return Trials(self, self.train, num_envs)

    def testing(self, num_envs: int) -> "Trials":
        """Return `num_envs` copies of the tasks that are held out."""
        return Trials(self, self.held_out, num_envs)


class TrialState(NamedTuple):
    """Where one trial stands.

    Attributes:
        inner: state of the task's environment.
        projection: drawn for this trial.
        start: key of the states that its episodes begin in.
        episode: how many of its episodes are over, int32.
    """

    inner: Any
    projection: Projection
    start: Key
    episode: Int[Array, ""]


@dataclass(frozen=True)
class Trials:
    """`num_envs` trials side by side, as a batch of environments that reset themselves.

    Rewards are divided by the span of the task's reference, so that a good policy earns about 1
    more than a random one in an episode of any task. `info["trial_end"]` is True after the last
    step of a trial.

    Raises:
        UserError: if there are fewer environments than tasks.
    """

    suite: Suite
    tasks: tuple[Task, ...]
    num_envs: int

    def __post_init__(self) -> None:
        require(len(self.tasks) > 0, "tasks", self.tasks, "one or more")
        require(
            self.num_envs >= len(self.tasks), "num_envs", self.num_envs,
            f"at least {len(self.tasks)}, one for each task of {self.suite.name}",
        )  # fmt: skip

    @property
    def spec(self) -> Spec:
        return self.suite.spec

    @property
    def groups(self) -> tuple[int, ...]:
        """How many environments each task has, in order; they differ by one at most."""
        share, rest = divmod(self.num_envs, len(self.tasks))
        return tuple(share + (i < rest) for i in range(len(self.tasks)))

    @property
    def task_of(self) -> np.ndarray:
        """The number of each environment's task, `[B]`."""
        return np.repeat(np.arange(len(self.tasks)), self.groups)

    def reset(self, key: Key) -> tuple[tuple[TrialState, ...], Array]:
        """Return (state of each task's group, first observations)."""
        keys = self._cut(jax.random.split(key, self.num_envs))
        started = [
            jax.vmap(partial(self._begin, task))(group)
            for task, group in zip(self.tasks, keys, strict=True)
        ]
        return tuple(state for state, _ in started), jnp.concatenate([obs for _, obs in started])

    def step(
        self, key: Key, state: tuple[TrialState, ...], action: Array
    ) -> tuple[tuple[TrialState, ...], VectorStep]:
        """Return (next state, step)."""
        keys = self._cut(jax.random.split(key, self.num_envs))
        stepped = [
            jax.vmap(partial(self._step_one, task))(group_keys, group_state, group_action)
            for task, group_keys, group_state, group_action in zip(
                self.tasks, keys, state, self._cut(action), strict=True
            )
        ]
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(out for _, out in stepped))
        return tuple(state for state, _ in stepped), joined

    def _cut(self, x: Array) -> list[Array]:
        """Return the pieces of a batch that belong to each task."""
        ends = np.cumsum(self.groups)
        return [x[end - size : end] for size, end in zip(self.groups, ends, strict=True)]

    def _draw(self, task: Task, key: Key) -> tuple[Projection, Key]:
        """Return what a new trial of a task draws."""
        projection_key, start_key = jax.random.split(key)
        config, spec = self.suite.settled, self.spec
        assert config.observations is not None and config.actions is not None
        kinds = (config.observations, config.actions)
        projection = draw_projection(kinds, projection_key, task, self.suite.obs_size, spec.action)
        return projection, start_key

    def _begin(self, task: Task, key: Key) -> tuple[TrialState, Array]:
        projection, start = self._draw(task, key)
        none = jnp.zeros((), jnp.int32)
        inner, obs = task.env.reset(self._start_key(task, start, none), task.env.params)
        return TrialState(inner, projection, start, none), see(task, projection, obs)

    def _start_key(self, task: Task, start: Key, episode: Int[Array, ""]) -> Key:
        same = self.suite.settled.same_start
        return (
            start
            if (task.same_start if same is None else same)
            else (jax.random.fold_in(start, episode))
        )

    def _step_one(
        self, task: Task, key: Key, state: TrialState, action: Array
    ) -> tuple[TrialState, VectorStep]:
        step_key, trial_key = jax.random.split(key)
        params, config = task.env.params, self.suite.settled
        chosen = act(task, state.projection, action, config.squash or "clip")
        inner, out = task.env.step(step_key, state.inner, chosen, params)
        last = out.terminated | out.truncated
        episode = state.episode + last
        over = last & (episode >= self.suite.episodes)
        fresh = (*self._draw(task, trial_key), jnp.zeros((), jnp.int32))
        projection, start, episode = _where(over, fresh, (state.projection, state.start, episode))
        begun = task.env.reset(self._start_key(task, start, episode), params)
        inner, obs = _where(last, begun, (inner, out.obs))
        return TrialState(inner, projection, start, episode), VectorStep(
            obs=see(task, projection, obs),
            first=last,
            reset=over if config.keep_memory else last,
            reward=out.reward / task.reference.span,
            terminated=out.terminated,
            truncated=out.truncated,
            next_obs=see(task, state.projection, out.obs),
            info={"trial_end": over},
        )


def _where(mask: Array, ours: Any, theirs: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), ours, theirs)
