"""`halfcheetah|hopper|walker2d/...`: shipped policies played in Gymnasium's own MuJoCo tasks.

The levels are those of D4RL (arXiv 2004.07219), on today's v5 tasks, whose dynamics and returns
differ: `medium` and `expert` sample the actions of one policy, `random` draws them uniformly,
`medium-expert` is both halves, and `medium-replay` is synthetic: not what one training run stored
on its way, but equal shares of policies saved on the way to `medium`.

The work is cut into jobs of some 50,000 steps with seeds of their own, which processes take in
turn; so the data do not depend on how many there are.
"""

import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import zlib
from collections import deque
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from rlssm.data.dataset import DatasetInfo, OfflineDataset, index_episodes
from rlssm.data.scores import Reference
from rlssm.errors import UserError
from rlssm.train.mujoco_worker import DOT, Job, Played
from rlssm.train.policy_file import PolicyFile, load_policies, path_of
from rlssm.types import Box, Spec

ENVS = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}
LEVELS = ("random", "medium", "medium-replay", "medium-expert", "expert")
TEXTS = {
    "random": "uniformly random actions",
    "medium": "one policy of middling return, actions sampled",
    "medium-replay": "synthetic: equal shares of policies on the way to medium",
    "medium-expert": "half medium, half expert",
    "expert": "the best policy, actions sampled",
}
MAX_EPISODE_STEPS = 1000
JOB_STEPS = 50_000
REFERENCE_EPISODES = 100
REFERENCE_JOBS = 4
REFERENCE_SEED = 0  # of the references, which are the same whatever the seed of the data
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Share(NamedTuple):
    """What one policy plays of a dataset."""

    level: str
    steps: int
    jobs: slice  # where its jobs are among all


def available(name: str) -> bool:
    """Return whether the policies that a recipe such as `hopper/medium` needs are there."""
    env, level = name.split("/")
    return level == "random" or path_of(env).is_file()


def build(name: str, steps: int, seed: int, progress: bool) -> OfflineDataset:
    """Return the data of a recipe such as `hopper/medium`: whole episodes, `steps` or more.

    Raises:
        UserError: if policies are missing, or a process failed.
    """
    env, level = name.split("/")
    if not available(name):
        raise UserError(
            f"recipe {name} needs trained policies for {env}, and none ship with this version; "
            f"{env}/random needs none"
        )
    policies = load_policies(path_of(env)) if path_of(env).is_file() else None
    with tempfile.TemporaryDirectory(prefix="rlssm-") as folder:
        plan = _Plan(ENVS[env], str(path_of(env)), Path(folder))
        levels = _levels(level, policies)
        shares = [plan.add(one, math.ceil(steps / len(levels)), seed) for one in levels]
        references = [plan.refer(one) for one in ("random", "expert") if policies is not None]
        run(plan.jobs, progress, name)
        played = [_trim(_read(plan.jobs[share.jobs]), share.steps) for share in shares]
        returns = [float(_returns(_read(plan.jobs[found])).mean()) for found in references]
    reference = Reference(*returns, _source(ENVS[env])) if returns else None
    if reference is not None and reference.low >= reference.high:
        raise UserError(
            f"recipe {name}: the expert in {path_of(env)} earns {reference.high:.1f}, no more than "
            f"random actions ({reference.low:.1f}), so scores have no scale; train it again"
        )
    info = _info(name, levels, policies, reference, played, steps, seed)
    return _as_dataset(_concatenate(played), info)


def _levels(level: str, policies: PolicyFile | None) -> list[str]:
    """Return the policies that take equal shares of a level."""
    if level == "medium-expert":
        return ["medium", "expert"]
    if level != "medium-replay" or policies is None:
        return [level]
    found = policies.policies
    upto = [name for name in found if found[name].step <= found["medium"].step]
    return sorted(upto, key=lambda name: found[name].step)


class _Plan:
    """The jobs of a recipe, and the files they write."""

    def __init__(self, env: str, policies: str, folder: Path) -> None:
        self.env, self.policies, self.folder = env, policies, folder
        self.jobs: list[Job] = []

    def add(self, level: str, steps: int, seed: int) -> Share:
        """Add the jobs that make `steps` steps of a policy."""
        count = math.ceil(steps / JOB_STEPS)
        start = len(self.jobs)
        for i in range(count):
            self._append(level, math.ceil(steps / count), 0, [seed, zlib.crc32(level.encode()), i])
        return Share(level, steps, slice(start, start + count))

    def refer(self, level: str) -> slice:
        """Add the jobs that measure a reference return: random actions, or an expert's best."""
        start = len(self.jobs)
        for i in range(REFERENCE_JOBS):
            episodes = REFERENCE_EPISODES // REFERENCE_JOBS
            self._append(level, 0, episodes, [REFERENCE_SEED, i], greedy=True)
        return slice(start, len(self.jobs))

    def _append(
        self, level: str, steps: int, episodes: int, seed: list[int], greedy: bool = False
    ) -> None:
        policies = None if level == "random" else self.policies
        out = str(self.folder / f"{len(self.jobs)}.npz")
        self.jobs.append(Job(self.env, policies, level, greedy, steps, episodes, seed, out))


# --- Processes --------------------------------------------------------------------------------


def run(jobs: Sequence[Job], progress: bool, name: str) -> None:
    """Run jobs, as many at a time as there are processors.

    Raises:
        UserError: if one fails, with the last line it wrote.
    """
    from tqdm import tqdm

    waiting = deque(jobs)
    left = {job.out: _expected(job) for job in jobs}  # steps not yet shown

    def advance(job: Job, steps: int) -> None:
        steps = min(steps, left[job.out])
        left[job.out] -= steps
        bar.update(steps)

    with (
        tqdm(
            total=sum(left.values()), desc=name, unit=" steps", unit_scale=True, mininterval=0.5,
            disable=not progress,
        ) as bar,
        selectors.DefaultSelector() as selector,
    ):  # fmt: skip
        try:
            while waiting or selector.get_map():
                while waiting and len(selector.get_map()) < (os.cpu_count() or 1):
                    job = waiting.popleft()
                    process, dots = _start(job)
                    selector.register(dots, selectors.EVENT_READ, (job, process))
                for key, _ in selector.select():
                    job, process = key.data
                    written = os.read(key.fd, 4096)
                    advance(job, DOT * len(written))
                    if not written:
                        selector.unregister(key.fileobj)
                        _finish(job, process)
                        advance(job, left[job.out])
        finally:
            for key in selector.get_map().values():
                _, process = key.data
                process.kill()
                process.communicate()


def _start(job: Job) -> tuple[subprocess.Popen, IO[bytes]]:
    """Return the process that plays a job, and what it writes."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    folder = Path(job.out).parent  # where MuJoCo leaves its log, if it has any
    with open(f"{job.out}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlssm.train.mujoco_worker", json.dumps(job._asdict())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": path},
            start_new_session=True,
        )
    assert process.stdout is not None  # asked for
    return process, process.stdout


def _finish(job: Job, process: subprocess.Popen) -> None:
    process.communicate()
    if process.returncode == 0:
        return
    said = Path(f"{job.out}.log").read_text(errors="replace").split("\n")
    reason = next((line.strip() for line in reversed(said) if line.strip()), "no reason given")
    raise UserError(
        f"playing {job.level} in {job.env} failed with exit code {process.returncode} "
        f"({reason[:200]})"
    )


def _expected(job: Job) -> int:
    return max(job.steps, job.episodes * MAX_EPISODE_STEPS)


# --- What was played --------------------------------------------------------------------------


def _read(jobs: Sequence[Job]) -> Played:
    parts = []
    for job in jobs:
        with np.load(job.out, allow_pickle=False) as file:
            parts.append(Played(**file))
    return _concatenate(parts)


def _concatenate(parts: Sequence[Played]) -> Played:
    return Played(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _trim(played: Played, steps: int) -> Played:
    """Return the first whole episodes that make `steps` steps or more."""
    stops = np.cumsum(played.length)
    episodes = int(np.searchsorted(stops, steps)) + 1
    rows = int(stops[episodes - 1])
    return Played(
        obs=played.obs[: rows + episodes],
        action=played.action[:rows],
        reward=played.reward[:rows],
        terminated=played.terminated[:episodes],
        length=played.length[:episodes],
    )


def _returns(played: Played) -> np.ndarray:
    starts = np.cumsum(played.length) - played.length
    return np.add.reduceat(played.reward.astype(np.float64), starts)


def _as_dataset(played: Played, info: DatasetInfo) -> OfflineDataset:
    episode, start = index_episodes(played.length.tolist())
    last = np.cumsum(played.length) - 1
    terminated, truncated = np.zeros((2, len(played.reward)), bool)
    terminated[last] = played.terminated
    truncated[last] = ~played.terminated
    return OfflineDataset(
        obs=played.obs,
        action=played.action,
        reward=played.reward,
        terminated=terminated,
        truncated=truncated,
        episode=episode,
        start=start,
        extras={},
        info=info,
    )


def _source(env: str) -> str:
    return (
        f"mean returns on {env} of random actions and of the shipped expert's best ones, "
        f"{REFERENCE_EPISODES} episodes each"
    )


def _info(
    name: str,
    levels: Sequence[str],
    policies: PolicyFile | None,
    reference: Reference | None,
    played: Sequence[Played],
    steps: int,
    seed: int,
) -> DatasetInfo:
    env, level = name.split("/")
    shares = [
        f"{one}{_trained(one, policies)}: {len(part.reward)} steps, "
        f"return {_returns(part).mean():.1f}"
        for one, part in zip(levels, played, strict=True)
    ]
    provenance = {
        "algorithm_name": "uniformly random actions" if level == "random" else "SAC policies",
        "author": "rlssm",
        "description": f"{ENVS[env]}, {TEXTS[level]}; {'; '.join(shares)}",
        "recipe": f"rlssm data make {name} --steps {steps} --seed {seed}",
        "versions": ", ".join(
            f"{package} {version(package)}" for package in ("gymnasium", "mujoco")
        ),
    }
    if policies is not None and level != "random":
        provenance["policies"] = json.dumps(policies.metadata, sort_keys=True)
    actions = played[0].action.shape[1]
    return DatasetInfo(
        id=f"{name}-v0",
        spec=Spec(Box(played[0].obs.shape[1:]), Box((actions,)), MAX_EPISODE_STEPS),
        action_bounds=((-1.0,) * actions, (1.0,) * actions),
        env=ENVS[env],
        reference=reference,
        provenance=tuple(sorted(provenance.items())),
    )


def _trained(level: str, policies: PolicyFile | None) -> str:
    if level == "random" or policies is None:
        return ""
    return f" (trained for {policies.policies[level].step} steps)"
