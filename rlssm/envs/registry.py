"""Which environments there are, and how a name becomes one."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from rlssm.envs import (
    brax_env,
    downstream,
    gymnasium_env,
    gymnax_env,
    locks,
    mjx_env,
    point_maze,
    point_pixels,
    points,
    roaming,
    suites,
    user,
)
from rlssm.envs.base import Environment
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.memory_suite import MEMORY_TASKS
from rlssm.envs.perturbed import DynamicsConfig, Perturbed
from rlssm.envs.trials import TrialConfig
from rlssm.envs.wrappers import HideObservation, ObservationNoise, TimeLimit
from rlssm.errors import UserError, require, unknown_name

MEMORY_CHAIN = "MemoryChain-"  # followed by any length
FROM_DATASET = "dataset"  # in a configuration, until the dataset was looked at


class Family(NamedTuple):
    """Environments of one kind: their ids, and how one is made from its id.

    `others(id)` says whether an id exists beside the listed ones.
    """

    ids: tuple[str, ...]
    make: Callable[[str], Any]
    others: Callable[[str], bool] = lambda _: False


def _under(
    prefix: str,
    ids: tuple[str, ...],
    make: Callable[[str], Environment],
    others: Callable[[str], bool],
) -> Family:
    """Return the family of the ids `prefix/id`, from functions of the id alone."""
    return Family(
        ids=tuple(f"{prefix}/{env_id}" for env_id in ids),
        make=lambda name: make(name.removeprefix(f"{prefix}/")),
        others=lambda name: (
            name.startswith(f"{prefix}/") and others(name.removeprefix(f"{prefix}/"))
        ),
    )


def _mjx(family: str) -> Family:
    ids = tuple(env_id for env_id in mjx_env.IDS if env_id.startswith(f"{family}/"))
    return Family(ids, mjx_env.make)


FAMILIES: dict[str, Family] = {
    "memory": Family(tuple(MEMORY_TASKS), MEMORY_TASKS.__getitem__),
    "point": Family(
        points.IDS + point_pixels.IDS, (points.WORLDS | point_pixels.WORLDS).__getitem__
    ),
    "downstream": Family(downstream.IDS, downstream.make),
    "lock": Family(locks.IDS, locks.make, locks.exists),
    "pointmaze": Family(point_maze.IDS, point_maze.make),
    "gymnax": Family(gymnax_env.IDS, gymnax_env.make),
    "gymnasium": _under("gym", gymnasium_env.IDS, gymnasium_env.make, gymnasium_env.exists),
    "mjx": _mjx("mjx"),
    "mjx-fast": _mjx("mjx-fast"),
    "tasks": Family(suites.IDS, suites.make),
    "brax": _under("brax", brax_env.IDS, brax_env.make, brax_env.exists),
}


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and what to change about it."""

    id: str
    """Name from `rlssm list envs`, MemoryChain-<length>, module:factory for your own, or, in a run
    with a dataset, `dataset` for the environment that it is from."""

    time_limit: int | None = None
    """Steps after which an episode is truncated, at most the environment's own limit."""

    roam: bool = False
    """Whether a body, mjx/HalfCheetah-v5, Ant-v5, Hopper-v5 or Walker2d-v5, sees where it is and
    goes on when it falls, 200 steps long, as learners of skills need it; observations are then all
    positions and velocities, standardised."""

    hide: tuple[int, ...] = ()
    """Entries of a flat observation to leave out, counted from 0."""

    noise: float = 0.0
    """Standard deviation of Gaussian noise added to every observation, at least 0."""

    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """What to change about how the environment moves, below everything else."""

    trial: TrialConfig = field(default_factory=TrialConfig)
    """What a trial is, on a suite of tasks, where it is not as the suite says."""

    def __post_init__(self) -> None:
        if is_suite(self.id):
            return self._check_suite()
        if not _is_own(self.id) and self.id != FROM_DATASET:
            _family(self.id)
        none = TrialConfig()
        require(self.trial == none, "trial", self.trial, "left out where there is a single task")
        limit = self.time_limit
        require(limit is None or limit >= 1, "time_limit", limit, "at least 1")
        require(all(i >= 0 for i in self.hide), "hide", self.hide, "indices from 0 on")
        require(0 <= self.noise < math.inf, "noise", self.noise, "finite and at least 0")

    def _check_suite(self) -> None:
        suites.make(self.id).with_trial(self.trial)
        single = EnvConfig("MemoryChain-1")
        for name in ("time_limit", "roam", "hide", "noise", "dynamics"):
            value, plain = getattr(self, name), getattr(single, name)
            require(value == plain, name, value, "left out with a suite of tasks")


@dataclass(frozen=True)
class SimulatorConfig(DynamicsConfig):
    """A simulator to act in, in place of the environment; by default there is none."""

    env: str | None = None
    """Environment that simulates. Default, where the dynamics are to differ: `mjx-fast/X` for
    `gym/X`, where that exists, or else the same one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.env is not None:
            EnvConfig(self.env)

    def of(self, env: EnvConfig) -> EnvConfig:
        """Return the simulator of an environment: these dynamics, and all else as there."""
        dynamics = {name: x for name, x in asdict(self).items() if name != "env"}
        name = self.env or on_device(env.id)
        return replace(env, id=name, dynamics=DynamicsConfig(**dynamics))


def on_device(env_id: str) -> str:
    """Return the id of the same task on the device, where MJX has it, or else `env_id` itself."""
    name = f"mjx-fast/{env_id.removeprefix('gym/')}"
    return name if env_id.startswith("gym/") and name in mjx_env.IDS else env_id


def is_suite(env_id: str) -> bool:
    """Return whether an id stands for a suite of tasks."""
    return env_id.startswith(suites.PREFIX)


def make(config: EnvConfig | str) -> Any:
    """Return the environment a config, or an id alone, asks for; a `Suite` for `tasks/<name>`.

    Raises:
        UserError: if the id names nothing, or an option does not fit the environment.
    """
    config = EnvConfig(config) if isinstance(config, str) else config
    if is_suite(config.id):
        return suites.make(config.id).with_trial(config.trial)
    env = user.load(config.id) if _is_own(config.id) else _family(config.id).make(config.id)
    if config.roam:
        env = roaming.make(env)
    if config.dynamics != DynamicsConfig():
        env = Perturbed(env, config.dynamics)
    if config.hide:
        env = HideObservation(env, config.hide)
    if config.noise > 0:
        env = ObservationNoise(env, config.noise)
    if config.time_limit is not None:
        env = TimeLimit(env, config.time_limit)
    return env


def names() -> dict[str, list[str]]:
    """Return the ids of every family.

    Besides these there are any MemoryChain-<length>, locks of any horizon (`locks.make`), any
    gym/<id> that Gymnasium knows, and brax/<name>:<backend>.
    """
    return {name: list(family.ids) for name, family in FAMILIES.items()}


def _is_own(env_id: str) -> bool:
    """Return whether an id names a user's own environment, as module:factory."""
    return ":" in env_id and not env_id.startswith(("gym/", "brax/"))


def _family(env_id: str) -> Family:
    for family in FAMILIES.values():
        if env_id in family.ids:
            return family
    if env_id.startswith(MEMORY_CHAIN):
        chain = MemoryChain(_length(env_id))
        return Family((env_id,), lambda _: chain)
    for family in FAMILIES.values():
        if family.others(env_id):
            return family
    known = [name for family in FAMILIES.values() for name in family.ids]
    if env_id.startswith("gym/"):
        known += [f"gym/{name}" for name in gymnasium_env.all_ids() if f"gym/{name}" not in known]
    raise unknown_name("environment", env_id, known)


def _length(env_id: str) -> int:
    length = env_id.removeprefix(MEMORY_CHAIN)
    if not (length.isascii() and length.isdigit() and int(length) > 0):
        raise UserError(
            f"MemoryChain-<length> needs a whole number of steps, at least 1, got {length!r}; "
            "write for example MemoryChain-100"
        )
    return int(length)
