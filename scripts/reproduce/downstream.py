"""Goals to be at: by METRA's skills, by untrained ones, and learnt from scratch.

    python scripts/reproduce/downstream.py --only plane              minutes on a CPU; also u-maze
    python scripts/reproduce/downstream.py --only halfcheetah        one GPU; call again to go on
    python scripts/reproduce/downstream.py --only ant

A task has four contenders, all with the same steps of the environment: `metra`, a policy whose
actions are METRA's skills, frozen; `untrained`, the same over skills that learnt nothing; `scratch`
with the body's own actions; and the same with as many steps more as METRA took to learn its skills.
Bodies have no `untrained` yet.
Each seed of `metra` has skills of another seed. Every run is an ordinary run directory below
`--runs`; skills of the bodies are those of `scripts/reproduce/metra.py`, below `--metra`, and
must be there before, complete. `--plan` says what is left, `--only TEXT` picks tasks by name,
`--minutes 9` stops in time, `--smoke` makes tiny runs, in folders of their own.
"""

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from shared import refuse_another

from rlssm import EnvConfig, Run, RunConfig, UserError, fit
from rlssm.algorithms import metra, ppo, sac
from rlssm.cli.report import use_compilation_cache
from rlssm.data.mixing import ExperienceConfig
from rlssm.evaluation.plots import Curve, learning_curves
from rlssm.train.hierarchy import SkillActionsConfig

SEEDS = 3
POINTS = 20  # evaluations of a run by skills
LEARNT, UNTRAINED, SCRATCH = "metra", "untrained", "scratch"
SMALL, LARGE = sac.PRESETS["small"], sac.PRESETS["skills"]


@dataclass(frozen=True)
class Task:
    """One task: whose skills, for how many steps each, and how long every contender learns."""

    world: str
    hold: int
    steps: int  # of the environment
    learnt_in: int  # steps that METRA took
    chooser: Any
    scratch: Any


# In the point worlds all have the same small networks; from scratch there are twice the updates.
CHOOSER = replace(
    SMALL, experience=ExperienceConfig(num_envs=8, rollout_length=1, warmup=64, capacity=20_000)
)
SMALL_SCRATCH = replace(
    SMALL,
    experience=ExperienceConfig(
        num_envs=8, rollout_length=5, update_ratio=0.4, warmup=400, capacity=100_000
    ),
)
# Bodies have 256 episodes at once, four and 32 times METRA's, with as many times the updates.
BODY = replace(
    sac.PRESETS["default"],
    experience=ExperienceConfig(
        num_envs=256, rollout_length=8, update_ratio=1 / 8, warmup=12_288, capacity=1_000_000
    ),
)
WIDE = replace(LARGE, experience=replace(LARGE.experience, num_envs=256, warmup=2048))
DISCRETE = replace(ppo.PRESETS["skills"], num_envs=256, minibatches=8)
WORLDS = {"plane": 50, "u-maze": 100}  # steps of an episode in which skills are learnt here
TASKS: dict[str, Task] = {
    "plane-goal": Task("plane", 5, 20_000, 16_000, CHOOSER, SMALL_SCRATCH),
    "plane-goals": Task("plane", 5, 20_000, 16_000, CHOOSER, SMALL_SCRATCH),
    "u-maze-goal": Task("u-maze", 5, 20_000, 40_000, CHOOSER, SMALL_SCRATCH),
    "halfcheetah-goal": Task("halfcheetah", 25, 2_000_000, 5_000_000, DISCRETE, BODY),
    "halfcheetah-hurdle": Task("halfcheetah", 25, 2_000_000, 5_000_000, DISCRETE, BODY),
    "ant-goal": Task("ant", 25, 2_000_000, 5_000_000, WIDE, BODY),
    "ant-goals": Task("ant", 25, 2_000_000, 5_000_000, WIDE, BODY),
}


def tiny(task: Task) -> Task:
    chooser, scratch = _short(task.chooser, 8), _short(task.scratch, 40)
    return replace(task, steps=400, learnt_in=400, chooser=chooser, scratch=scratch)


def _short(agent: Any, warmup: int) -> Any:
    return replace(agent, experience=replace(agent.experience, warmup=warmup, batch=16))


def skill_runs(worlds: set[str], smoke: bool) -> Iterator[tuple[str, RunConfig]]:
    """Yield the runs that learn skills in point worlds; untrained ones hardly move a weight."""
    for world in sorted(worlds & set(WORLDS)):
        point = metra.PRESETS["point"]
        experience = replace(
            point.experience, rollout_length=WORLDS[world], capacity=50_000, update_ratio=1 / 8
        )
        agent = replace(point, experience=experience)
        idle = replace(agent, representation_learning_rate=0.0, learning_rate=1e-12)
        round_ = experience.steps
        steps = next(task.learnt_in for task in TASKS.values() if task.world == world)
        for kind, config, long in ((LEARNT, agent, steps), (UNTRAINED, idle, round_)):
            yield (
                f"{world}-{kind}",
                RunConfig(
                    EnvConfig(f"point/{world}"), config, steps=round_ if smoke else long,
                    seeds=SEEDS, seed=300, eval_every=steps, eval_episodes=4, final_episodes=4,
                ),
            )  # fmt: skip


def runs(name: str, task: Task, folder: Path, bodies: Path) -> Iterator[tuple[str, RunConfig]]:
    """Yield the runs of a task by name."""
    env = EnvConfig(f"downstream/{name}")
    point = task.world in WORLDS
    common: dict[str, Any] = {"eval_episodes": 64, "final_episodes": 128, "keep": 1}
    for kind in (LEARNT, UNTRAINED) if point else (LEARNT,):
        source = (folder if point else bodies) / f"{task.world}-{kind}"
        decisions = task.steps // task.hold
        for member in range(SEEDS):
            yield (
                f"{name}-{kind}-{member}",
                RunConfig(
                    env, task.chooser, steps=decisions, seed=member,
                    skills=SkillActionsConfig(str(source), member=member, hold=task.hold),
                    log_every=decisions // POINTS, eval_every=decisions // POINTS, **common,
                ),
            )  # fmt: skip
    every = task.steps // POINTS
    yield (
        f"{name}-{SCRATCH}",
        RunConfig(
            env, task.scratch, steps=task.steps + task.learnt_in, seeds=SEEDS,
            log_every=every, eval_every=every, **common,
        ),
    )  # fmt: skip


# --- What came out ----------------------------------------------------------------------------


def curves(name: str, task: Task, folder: Path, metric: str) -> dict[str, Curve]:
    """Return a metric against steps of the environment by contender, a column for each seed."""
    found = {}
    for kind in (LEARNT, UNTRAINED):
        parts = [folder / f"{name}-{kind}-{member}" for member in range(SEEDS)]
        if not all((part / "result.json").exists() for part in parts):
            continue
        each = [next(iter(Run(part).curves(metric).values())) for part in parts]
        values = np.concatenate([curve.values for curve in each], axis=1)
        found[kind] = Curve(each[0].steps * task.hold, values)
    if (folder / f"{name}-{SCRATCH}" / "result.json").exists():
        found[SCRATCH] = next(iter(Run(folder / f"{name}-{SCRATCH}").curves(metric).values()))
    return found


def record(name: str, task: Task, folder: Path) -> dict[str, Any]:
    """Return return and success of each contender after each number of steps, by seed."""
    found: dict[str, Any] = {
        "env": f"downstream/{name}", "hold": task.hold, "steps": task.steps,
        "steps_to_learn_skills": task.learnt_in, "seeds": SEEDS,
        "command": f"python scripts/reproduce/downstream.py --only {name}",
    }  # fmt: skip
    for metric in ("return", "success"):
        for kind, curve in curves(name, task, folder, f"eval/{metric}").items():
            found.setdefault(kind, {"steps": curve.steps.tolist()})[metric] = curve.values.tolist()
    some = next(folder.glob(f"{name}-*/environment.json"))
    return found | {"made_with": json.loads(some.read_text())}


def table(records: dict[str, dict[str, Any]]) -> str:
    """Return mean and range over seeds at the downstream steps, and with METRA's own counted."""
    heads = ("task", "contender", "steps", "return", "success", "mean return so far")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in records.items():
        steps, more = found["steps"], found["steps"] + found["steps_to_learn_skills"]
        for kind in (LEARNT, UNTRAINED, SCRATCH):
            for until in (steps, more) if kind == SCRATCH else (steps,):
                if kind in found:
                    rows.append(_row(name, kind, found[kind], until))
    return "\n".join(rows) + "\n"


def _row(name: str, kind: str, curve: dict[str, Any], until: int) -> str:
    """Return a row for the evaluation nearest to `until`, with its own number of steps."""
    steps = np.array(curve["steps"])
    last = int(np.abs(steps - until).argmin())
    returns, success = np.array(curve["return"]), np.array(curve["success"])
    cells = [_in_words(x) for x in (returns[last], success[last], returns[: last + 1].mean(0))]
    return f"| {name} | {kind} | {steps[last]:,} | {' | '.join(cells)} |"


def _in_words(values: np.ndarray) -> str:
    return f"{values.mean():.3g} ({values.min():.3g} to {values.max():.3g})"


def require_skills_of(task: Task, bodies: Path) -> None:
    """Stop where the skills of a body have not been learnt to the end."""
    path = bodies / f"{task.world}-{LEARNT}"
    made = Run(path) if (path / "config.json").exists() else None
    if made is None or not made.complete or made.config.steps < task.learnt_in:
        found = "none" if made is None else f"a run of {made.config.steps:,}, or one not complete"
        raise SystemExit(
            f"{path} must hold a complete run of {task.learnt_in:,} steps, found {found}; make it "
            f"with scripts/reproduce/metra.py --only {task.world}-{LEARNT}"
        )


def main() -> None:
    try:
        benchmark()
    except UserError as error:
        raise SystemExit(str(error)) from None


def benchmark() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="default runs/downstream")
    parser.add_argument("--metra", type=Path, default=Path("runs/metra"))
    parser.add_argument("--out", type=Path, help="default results/downstream")
    parser.add_argument("--only", default="", help="only tasks whose name contains this")
    parser.add_argument("--minutes", type=float, default=600, help="stop after this long")
    parser.add_argument("--plan", action="store_true", help="say what is left")
    parser.add_argument("--smoke", action="store_true", help="make tiny runs in point worlds")
    args = parser.parse_args()
    folder = "downstream-smoke" if args.smoke else "downstream"
    args.runs, args.out = args.runs or Path("runs") / folder, args.out or Path("results") / folder
    tasks = {name: task for name, task in TASKS.items() if args.only in name}
    if args.smoke:
        tasks = {name: tiny(task) for name, task in tasks.items() if task.world in WORLDS}
    if not tasks:
        raise SystemExit(f"--only {args.only} names none of {', '.join(TASKS)}")
    planned = dict(skill_runs({task.world for task in tasks.values()}, args.smoke))
    for name, task in tasks.items():
        planned |= dict(runs(name, task, args.runs, args.metra))
    for name, config in planned.items():
        refuse_another(args.runs / name, config)
    left = [name for name in planned if not (args.runs / name / "result.json").exists()]
    print(f"{len(left)} of {len(planned)} runs left: {', '.join(left)}", flush=True)
    if args.plan:
        return
    for task in tasks.values():
        if task.world not in WORLDS:
            require_skills_of(task, args.metra)
    use_compilation_cache()
    timer = threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    args.runs.mkdir(parents=True, exist_ok=True)
    for name in left:
        started = time.perf_counter()
        if not fit(planned[name], args.runs / name, progress=False).complete:
            return print("out of time; call again to go on", flush=True)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    timer.cancel()
    found = {name: record(name, task, args.runs) for name, task in tasks.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    label = args.only or "all"
    (args.out / f"{label}.md").write_text(table(found))
    (args.out / f"{label}.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, task in tasks.items():
        lines = curves(name, task, args.runs, "eval/return")
        learning_curves(args.out / f"{name}.png", lines, metric="eval/return")
    print(table(found))


if __name__ == "__main__":
    main()
