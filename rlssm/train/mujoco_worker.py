"""One share of a MuJoCo recipe, as a process of its own: `python -m rlssm.train.mujoco_worker JOB`.

A process started like this needs nothing of the one that started it: no guard around the caller's
script, no jax, and an interrupt from the keyboard does not reach it. It writes a dot for every
`DOT` steps, and when nobody reads them any more it ends.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlssm.train.policy_file import Actor, load_policies

DOT = 500  # steps
COPIES = 8  # environments stepped in turn: one pass through the network serves them all
EXPECTED_LENGTH = 1000  # of an episode at most, in the tasks there are recipes for


class Job(NamedTuple):
    """What to play: whole episodes, the first that make `steps` and are `episodes` in number."""

    env: str  # Gymnasium id
    policies: str | None  # a file, or None for uniformly random actions
    level: str
    greedy: bool
    steps: int
    episodes: int
    seed: list[int]
    out: str  # file to write


class Played(NamedTuple):
    """Episodes one after the other, N steps in E episodes."""

    obs: NDArray[np.float32]  # [N + E, D]
    action: NDArray[np.float32]  # [N, A]
    reward: NDArray[np.float32]  # [N]
    terminated: NDArray[np.bool_]  # [E]
    length: NDArray[np.int64]  # [E]


def play(job: Job, tell: Callable[[int], None]) -> Played:
    """Play a job in several copies of its environment, and call `tell` with steps taken."""
    import gymnasium

    copies = max(1, min(COPIES, max(job.episodes, job.steps // EXPECTED_LENGTH)))
    envs = [gymnasium.make(job.env, disable_env_checker=True) for _ in range(copies)]
    rng = np.random.default_rng(job.seed)
    act = _act(job, envs[0].action_space, rng)
    seeds = rng.integers(2**31, size=copies).tolist()
    episodes: list[_Episode] = []
    live = {}
    for i, env in enumerate(envs):
        live[i] = _Episode(env.reset(seed=seeds[i])[0])
        episodes.append(live[i])
    while live:
        actions = act(np.stack([episode.obs[-1] for episode in live.values()]))
        tell(len(live))
        for (i, episode), action in zip(list(live.items()), actions, strict=True):
            episode.add(action, *envs[i].step(action)[:4])
            if not episode.over:
                continue
            # What has begun is played to its end, or short episodes would be counted too often.
            begun = sum(len(x.reward) for x in episodes)
            if begun >= job.steps and len(episodes) >= job.episodes:
                del live[i]
            else:
                live[i] = _Episode(envs[i].reset()[0])
                episodes.append(live[i])
    return _join(_first(episodes, job))


class _Episode:
    def __init__(self, obs: NDArray) -> None:
        self.obs, self.action, self.reward = [obs.astype(np.float32)], [], []
        self.over = self.terminated = False

    def add(self, action: NDArray, obs: NDArray, reward: Any, terminated: bool, cut: bool) -> None:
        self.obs.append(obs.astype(np.float32))
        self.action.append(action)
        self.reward.append(reward)
        self.terminated, self.over = bool(terminated), bool(terminated or cut)


def _act(job: Job, space: Any, rng: np.random.Generator) -> Callable[[NDArray], NDArray]:
    if job.policies is None:
        size = space.shape[0]
        return lambda obs: rng.uniform(-1, 1, (len(obs), size)).astype(np.float32)
    actor = Actor(load_policies(Path(job.policies)).policies[job.level])
    return lambda obs: actor(obs, None if job.greedy else rng)


def _first(episodes: list[_Episode], job: Job) -> list[_Episode]:
    steps = np.cumsum([len(episode.reward) for episode in episodes])
    return episodes[: max(int(np.searchsorted(steps, job.steps)) + 1, job.episodes)]


def _join(episodes: list[_Episode]) -> Played:
    return Played(
        obs=np.concatenate([np.stack(x.obs) for x in episodes]),
        action=np.concatenate([np.stack(x.action) for x in episodes]),
        reward=np.concatenate([np.array(x.reward, np.float32) for x in episodes]),
        terminated=np.array([x.terminated for x in episodes]),
        length=np.array([len(x.reward) for x in episodes]),
    )


class _Dots:
    """Counts steps, and writes a dot for every `DOT` of them."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, steps: int) -> None:
        before, self.steps = self.steps, self.steps + steps
        dots = self.steps // DOT - before // DOT
        if dots:
            sys.stdout.write("." * dots)
            sys.stdout.flush()


if __name__ == "__main__":
    job = Job(**json.loads(sys.argv[1]))
    try:
        played = play(job, _Dots())
    except BrokenPipeError:
        sys.exit(1)
    with open(job.out, "wb") as file:
        np.savez(file, **played._asdict())
