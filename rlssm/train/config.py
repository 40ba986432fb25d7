"""Everything that defines a run, in one value that round-trips through JSON."""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from rlssm.algorithms import AgentConfig
from rlssm.algorithms.ppo import PPOConfig
from rlssm.envs.registry import EnvConfig, SimulatorConfig
from rlssm.errors import UserError, require, unknown_name
from rlssm.train.hierarchy import SkillActionsConfig
from rlssm.train.program import PhaseName, collected, wish_of
from rlssm.types import Rollout, Windows

MAX_STEPS = 2_000_000_000  # steps are counted in 32 bits


@dataclass(frozen=True)
class RunConfig:
    """What to train, on what, for how long, and how often to look at it.

    Cadences are in steps summed over the environments of one member. Evaluations and checkpoints
    happen at log points: theirs are rounded up to multiples of `log_every`.
    """

    env: EnvConfig
    """The environment that is evaluated in, and acted in unless there is a simulator."""
    agent: Annotated[AgentConfig, tyro.conf.arg(name="")] = field(default_factory=PPOConfig)
    """The algorithm and its hyper-parameters."""
    dataset: str | None = None
    """Offline dataset to learn from; made or downloaded if it is not there."""
    sim: SimulatorConfig = field(default_factory=SimulatorConfig)
    """An imperfect simulator to act in, while evaluations stay in `env`. As it is: none."""
    skills: SkillActionsConfig = field(default_factory=SkillActionsConfig)
    """Skills of another run to act by, each for some steps. As it is: none."""
    steps: int = 1_000_000
    """Steps to train for, per member, rounded up to whole rounds: environment steps, or, while
    only a dataset is learnt from, the updates that as many environment steps would bring."""
    offline_steps: int | None = None
    """How many of the steps, the first ones, learn from the dataset alone. Default: all for
    offline algorithms, none for the others."""
    seed: int = 0
    """First seed; member i of a sweep setting uses seed + i."""
    seeds: int = 1
    """Independent seeds trained at once, by vmap."""
    sweep: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Scalar hyper-parameters to sweep, name to values: every combination is trained with every
    seed, all at once, by vmap."""
    init_from: str | None = None
    """Run directory whose last weights to start from: of the same algorithm every network, of
    another one those that act. Optimiser and counters start afresh."""
    log_every: int | None = None
    """Steps between log points; default a hundredth of `steps`."""
    eval_every: int | None = None
    """Steps between evaluations; default a tenth of `steps`."""
    eval_episodes: int = 32
    """Whole episodes per evaluation and member."""
    final_episodes: int = 128
    """Whole episodes per member in the evaluation at the end."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; default a tenth of `steps`."""
    keep: int = 2
    """How many of the newest checkpoints to keep, at least 1; the best one is kept beside."""
    devices: int | None = None
    """Devices to spread the environments over; default all there are, or as many of them as divide
    the environments."""

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
        self._check_sources()
        for name, values in self.sweep.items():
            if name not in self.agent.swept:
                raise unknown_name("swept hyper-parameter", name, self.agent.swept)
            require(len(values) > 0, f"sweep.{name}", values, "one value or more")
            for value in values:
                _check_swept(self.agent, name, value)

    def _check_sources(self) -> None:
        """Raise a `UserError` where the algorithm cannot learn from what it is given."""
        name, wish, offline = self.agent.name, wish_of(self.agent), self.offline_steps
        if self.skills.run is not None:
            require(self.dataset is None, "dataset", self.dataset, "left out: its actions are none "
                    "of the skills")  # fmt: skip
        if isinstance(wish, Rollout) and wish.offline is None:
            require(self.dataset is None, "dataset", self.dataset, f"left out: {name} takes none")
        elif isinstance(wish, Rollout):
            if self.dataset is None:
                raise UserError(f"{name} learns from a dataset as it plays; name one with dataset")
            require(not offline, "offline_steps", offline, f"left out: {name} always plays")
        elif wish.kept and self.dataset is not None:
            raise UserError(f"{name} learns from steps of its own alone; leave dataset out")
        elif wish.offline_first and self.dataset is None:
            raise UserError(f"{name} learns from a dataset; name one with dataset")
        elif wish.both:
            if self.dataset is None:
                raise UserError(
                    f"{name} learns from a dataset and a simulator; name the former with dataset"
                )
            require(not offline, "offline_steps", offline, f"left out: {name} always needs both")
        if offline is not None:
            require(0 <= offline <= self.steps, "offline_steps", offline, f"from 0 to {self.steps}")
            require(
                self.dataset is not None or offline == 0, "offline_steps", offline,
                "left out where there is no dataset",
            )  # fmt: skip
        if isinstance(wish, Windows) and self.dataset is not None and self.online:
            mixed = 0 < wish.prior < 1
            if mixed and not 0 < wish.offline < wish.batch:
                raise UserError(
                    f"prior must be 0, 1 or leave each source at least one of the {wish.batch} "
                    f"windows of a batch, got {wish.prior:g}"
                )
        if offline is not None and offline < self.steps and not self.online:
            raise UserError(
                f"offline_steps must leave room for a round of {collected(self.agent).steps} "
                f"environment steps before steps = {self.steps}, or equal it, got {offline}"
            )
        last = self.schedule[-1][0]
        if isinstance(wish, Windows) and last in ("random", "fill"):
            raise UserError(
                f"steps must be above {(offline or 0) + wish.warmup}, those before the first "
                f"update in the environment (offline_steps + warmup), got {self.steps}"
            )
        if self.simulated and not self.online:
            raise UserError(
                f"sim has no use where {name} learns from the dataset alone; leave it out, or set "
                "offline_steps below steps"
            )
        if getattr(self.agent, "normalize_obs", False) and isinstance(wish, Windows):
            require(self.dataset is not None, "normalize_obs", True, "False without a dataset")

    @property
    def simulated(self) -> bool:
        """Whether a simulator is acted in."""
        return self.sim != SimulatorConfig()

    @property
    def acting(self) -> EnvConfig:
        """The environment that is acted in."""
        return self.sim.of(self.env) if self.simulated else self.env

    @property
    def headline(self) -> str:
        """The metric that says how good the agent is: of training where that is in `env` alone."""
        plain = self.dataset is None and not self.simulated
        return "episode/return" if plain else "eval/return"

    @property
    def schedule(self) -> tuple[tuple[PhaseName, int], ...]:
        """The phases in order, each with the round that it ends before."""
        wish, total = wish_of(self.agent), self.cadence.total
        if isinstance(wish, Rollout):
            return (("online", total),)
        offline_steps = self.offline_steps
        if offline_steps is None:
            offline_steps = self.steps if wish.offline_first else 0
        offline = min(total, math.ceil(offline_steps / wish.collect.steps))
        if offline == total:
            return (("offline", total),)
        filled = min(total, offline + math.ceil(wish.warmup / wish.collect.steps))
        collecting: PhaseName = "fill" if offline or not wish.random_warmup else "random"
        phases: tuple[tuple[PhaseName, int], ...] = (
            ("offline", offline), (collecting, filled), ("online", total),
        )  # fmt: skip
        return tuple(
            (name, until)
            for (name, until), start in zip(phases, (0, offline, filled), strict=True)
            if until > start
        )

    @property
    def online(self) -> bool:
        """Whether any step is taken in the environment."""
        return self.schedule[-1][0] != "offline"

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
        """The same cadences counted in rounds."""
        per_round = collected(self.agent).steps
        total = math.ceil(self.steps / per_round)

        def rounds(every: int | None, share: int) -> int:
            wanted = self.steps / share if every is None else every
            return max(1, round(wanted / per_round))

        log = min(rounds(self.log_every, 100), total)
        return Cadence(
            total=total,
            log=log,
            evaluate=log * math.ceil(rounds(self.eval_every, 10) / log),
            checkpoint=log * math.ceil(rounds(self.checkpoint_every, 10) / log),
        )


@dataclass(frozen=True)
class Cadence:
    """Counts of rounds: in all, between log points, between evaluations, between checkpoints."""

    total: int
    log: int
    evaluate: int
    checkpoint: int

    def due(self, every: int, rounds: int) -> bool:
        """Return whether something done every `every` rounds is due after `rounds` of them."""
        return rounds % every == 0 or rounds >= self.total


def _check_swept(agent: AgentConfig, name: str, value: float) -> None:
    """Raise a `UserError` unless `value` is one the algorithm would accept for `name`."""
    try:
        replace(agent, **{name: value})
    except UserError as error:
        raise UserError(f"sweep: {error}") from None
