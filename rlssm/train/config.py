"""Everything that defines a run, in one value that round-trips through JSON."""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from rlssm.algorithms import AgentConfig
from rlssm.algorithms.ppo import PPOConfig
from rlssm.envs.registry import EnvConfig
from rlssm.errors import UserError, require, unknown_name

MAX_STEPS = 2_000_000_000  # steps are counted in 32 bits


@dataclass(frozen=True)
class RunConfig:
    """What to train, on what, for how long, and how often to look at it.

    Cadences are in environment steps summed over the environments of one member. Evaluations
    and checkpoints happen at log points: theirs are rounded up to multiples of `log_every`.
    """

    env: EnvConfig
    """The environment."""
    agent: Annotated[AgentConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    """The algorithm and its hyper-parameters."""
    steps: int = 1_000_000
    """Environment steps to train for, per member; rounded up to whole updates."""
    seed: int = 0
    """First seed; member i of a sweep setting uses seed + i."""
    seeds: int = 1
    """Independent seeds trained at once, by vmap."""
    sweep: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Scalar hyper-parameters to sweep, name to values: every combination is trained with every
    seed, all at once, by vmap."""
    init_from: str | None = None
    """Run directory whose last weights to start from; optimiser and counters start afresh."""
    log_every: int | None = None
    """Environment steps between log points; default a hundredth of `steps`."""
    eval_every: int | None = None
    """Environment steps between evaluations; default a tenth of `steps`."""
    eval_episodes: int = 32
    """Whole episodes per evaluation and member."""
    final_episodes: int = 128
    """Whole episodes per member in the evaluation at the end."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints; default a tenth of `steps`."""
    keep: int = 2
    """How many of the newest checkpoints to keep, at least 1; the best one is kept beside."""
    devices: int | None = None
    """Devices to spread the environments over; default all there are."""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "eval_episodes", "final_episodes", "keep"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("log_every", "eval_every", "checkpoint_every", "devices"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1, or left out")
        require(self.steps <= MAX_STEPS, "steps", self.steps, f"at most {MAX_STEPS}")
        seeds = range(2**31)
        require(self.seed in seeds, "seed", self.seed, "from 0 to 2147483647")
        last = self.seed + self.seeds - 1
        require(last in seeds, "seed + seeds - 1", last, "at most 2147483647")
        for name, values in self.sweep.items():
            if name not in self.agent.swept:
                raise unknown_name("swept hyper-parameter", name, self.agent.swept)
            require(len(values) > 0, f"sweep.{name}", values, "one value or more")
            for value in values:
                _check_swept(self.agent, name, value)

    @property
    def settings(self) -> list[dict[str, float]]:
        """Every combination of the swept values, one without a sweep."""
        names = list(self.sweep)
        return [
            dict(zip(names, row, strict=True)) for row in itertools.product(*self.sweep.values())
        ]

    @property
    def members(self) -> list[dict[str, float]]:
        """What sets each member of the leading axis apart: its setting and its seed."""
        return [
            {**setting, "seed": self.seed + i}
            for setting in self.settings
            for i in range(self.seeds)
        ]

    @property
    def cadence(self) -> "Cadence":
        """The same cadences counted in updates."""
        per_update = self.agent.steps_per_update
        total = math.ceil(self.steps / per_update)

        def updates(every: int | None, share: int) -> int:
            wanted = self.steps / share if every is None else every
            return max(1, round(wanted / per_update))

        log = min(updates(self.log_every, 100), total)
        return Cadence(
            total=total,
            log=log,
            evaluate=log * math.ceil(updates(self.eval_every, 10) / log),
            checkpoint=log * math.ceil(updates(self.checkpoint_every, 10) / log),
        )


@dataclass(frozen=True)
class Cadence:
    """Counts of updates: in all, between log points, between evaluations, between checkpoints."""

    total: int
    log: int
    evaluate: int
    checkpoint: int

    def due(self, every: int, update: int) -> bool:
        """Return whether something done every `every` updates is due after `update` of them."""
        return update % every == 0 or update >= self.total


def _check_swept(agent: AgentConfig, name: str, value: float) -> None:
    """Raise a `UserError` unless `value` is one the algorithm would accept for `name`."""
    try:
        replace(agent, **{name: value})
    except UserError as error:
        raise UserError(f"sweep: {error}") from None
