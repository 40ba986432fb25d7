"""The task distributions there are, by name.

meta-cartpole   cart-poles without velocities behind a projection; other physics held out
classic         gymnax's classic control, discrete and continuous; other physics and MountainCar-v0
                held out
control         gymnax's continuous control and bodies on MJX, 200 steps an episode; Swimmer and
                other physics held out
bandits         Bernoulli and Gaussian bandits and that of the memory suite; other numbers of arms
                held out

References were measured by `scripts/benchmark/task_references.py`, which says how.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rlssm.envs import gymnax_env, mjx_env
from rlssm.envs.bandits import BernoulliBandit, GaussianBandit, MultiArmedBandit
from rlssm.envs.base import Environment
from rlssm.envs.locomotion import TASKS
from rlssm.envs.perturbed import DynamicsConfig, Perturbed
from rlssm.envs.stateless import StatelessCartPole
from rlssm.envs.tasks import Reference, Task
from rlssm.envs.trials import STANDARD, Suite, TrialConfig
from rlssm.envs.wrappers import TimeLimit
from rlssm.errors import unknown_name

PREFIX = "tasks/"
REFERENCES = Path(__file__).with_name("task_references.json")

# The setting of popjaxrl's meta cart-pole: 16 episodes of a trial from one start, observations
# through an orthogonal matrix, actions as they are.
META_CARTPOLE = TrialConfig(
    episodes=16, observations="orthogonal", actions="identity", squash="clip", obs_size=4
)


def make(name: str) -> Suite:
    """Return the suite `tasks/<name>`.

    Raises:
        UserError: if there is none of that name.
    """
    short = name.removeprefix(PREFIX)
    if short not in SUITES:
        raise unknown_name("suite of tasks", short, SUITES)
    return SUITES[short]()


@cache
def references() -> dict[str, Reference]:
    """Return what was measured of each task."""
    stored = json.loads(REFERENCES.read_text())
    return {
        name: Reference(task["low"], task["high"], tuple(task["obs_mean"]), tuple(task["obs_std"]))
        for name, task in stored.items()
    }


class Member(NamedTuple):
    """A measured task: an environment, what of its physics is multiplied, and where it is cut."""

    name: str
    quantity: str | None = None
    scale: float = 1.0
    steps: int | None = None

    @property
    def env_id(self) -> str:
        """The id that the environment has alone."""
        return f"mjx-fast/{self.name}" if self.name in TASKS else self.name

    @property
    def label(self) -> str:
        """The task's name."""
        scaled = "" if self.quantity is None else f", {self.quantity} {self.scale:g}"
        return self.name + scaled + ("" if self.steps is None else f", {self.steps} steps")

    def task(self) -> Task:
        """Return the task with its reference."""
        env: Environment = (mjx_env if self.name in TASKS else gymnax_env).make(self.env_id)
        if self.quantity is not None:
            env = _scaled(env, self.quantity, self.scale)
        if self.steps is not None:
            env = TimeLimit(env, self.steps)
        return Task(self.label, env, references()[self.label])


def _suite(name: str, train: tuple[Member, ...], held_out: tuple[Member, ...]) -> Suite:
    parts = (tuple(member.task() for member in part) for part in (train, held_out))
    return Suite(name, *parts, trial=STANDARD)


def meta_cartpole() -> Suite:
    """Reference: +1/200 a step, so that returns are scores already, and nothing is standardised."""
    env = StatelessCartPole(max_steps=200)

    def task(name: str, env: Environment) -> Task:
        return Task(name, env, Reference(0.0, 1.0), same_start=True)

    return Suite(
        "meta-cartpole",
        train=(task("StatelessCartPoleEasy", env),),
        held_out=tuple(
            task(f"StatelessCartPoleEasy, {name} {scale:g}", _scaled(env, name, scale))
            for name, scale in (("gravity", 2), ("mass", 2), ("actuator", 0.5))
        ),
        trial=META_CARTPOLE,
    )


CLASSIC = tuple(
    map(Member, ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0"))
)
CLASSIC_HELD_OUT = (
    Member("CartPole-v1", "mass", 2.0),
    Member("Acrobot-v1", "mass", 1.5),
    Member("Pendulum-v1", "mass", 1.25),
    Member("MountainCar-v0"),
)


def classic() -> Suite:
    return _suite("classic", CLASSIC, CLASSIC_HELD_OUT)


SHORT = 200  # steps of an episode, so that a trial is not as long as 8 of MuJoCo's
CONTROL = (
    Member("Pendulum-v1"),
    Member("MountainCarContinuous-v0", steps=SHORT),
    Member("InvertedPendulum-v5", steps=SHORT),
    Member("InvertedDoublePendulum-v5", steps=SHORT),
    Member("Reacher-v5"),
    Member("Hopper-v5", steps=SHORT),
    Member("HalfCheetah-v5", steps=SHORT),
)
CONTROL_HELD_OUT = (
    Member("Pendulum-v1", "mass", 1.25),
    Member("InvertedPendulum-v5", "mass", 2.0, SHORT),
    Member("Reacher-v5", "actuator", 0.5),
    Member("Swimmer-v5", steps=SHORT),
)


def control() -> Suite:
    return _suite("control", CONTROL, CONTROL_HELD_OUT)


MEASURED = {"classic": CLASSIC + CLASSIC_HELD_OUT, "control": CONTROL + CONTROL_HELD_OUT}


ARMS, ARMS_HELD_OUT = (2, 5, 10), (7,)
PULLS = 20  # of an episode

# The mean of the greatest of n standard normal numbers.
GREATEST_NORMAL = {2: 0.564190, 5: 1.162964, 7: 1.352178, 10: 1.538753}


def bandits() -> Suite:
    """The score 1 is that of a player who knows the arms, which has a closed form."""

    def tasks(numbers: tuple[int, ...]) -> tuple[Task, ...]:
        return tuple(task for arms in numbers for task in _bandits_of(arms))

    return Suite("bandits", tasks(ARMS), tasks(ARMS_HELD_OUT), STANDARD)


def _bandits_of(arms: int) -> tuple[Task, ...]:
    """Return the three bandits of so many arms; the greatest of n uniform numbers is n/(n + 1)."""
    best = arms / (arms + 1)
    made = (
        ("bernoulli", BernoulliBandit(arms, PULLS), PULLS / 2, PULLS * best),
        ("gaussian", GaussianBandit(arms, PULLS), 0.0, PULLS * GREATEST_NORMAL[arms]),
        ("memory-suite", MultiArmedBandit(arms, PULLS), 0.0, 2 * best - 1),
    )
    return tuple(
        Task(f"{name}-{arms}", env, Reference(low, high), same_start=True)
        for name, env, low, high in made
    )


def _scaled(env: Environment, quantity: str, scale: float) -> Environment:
    return Perturbed(env, replace(DynamicsConfig(), **{quantity: scale}))


SUITES: dict[str, Callable[[], Suite]] = {
    "meta-cartpole": meta_cartpole,
    "classic": classic,
    "control": control,
    "bandits": bandits,
}
IDS = tuple(f"{PREFIX}{name}" for name in SUITES)
