"""Skills without reward: METRA and its rivals on the point mass, HalfCheetah and Ant.

    python scripts/reproduce/metra.py --only point           a few minutes on a CPU
    python scripts/reproduce/metra.py --only half --minutes 9     on one GPU; call again to go on
    python scripts/reproduce/metra.py --only ant --minutes 9

Every run is an ordinary run directory below `--runs`, trained in pieces; after each piece the
skills of every seed are judged, so that coverage is known against steps. `--plan` says what is
left, `--only TEXT` picks runs by name, `--minutes 9` stops in time, `--smoke` makes tiny runs.

Bodies stop MuJoCo's solver early (mjx-fast). An epoch has 64 episodes on HalfCheetah and 128 on
Ant in place of METRA's 8, with as many times the updates, so that there is one per 32 steps.
"""

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlssm import EnvConfig, Run, RunConfig, fit, make
from rlssm.algorithms import csf, diayn, lsd, metra
from rlssm.cli.report import use_compilation_cache
from rlssm.evaluation.plots import Curve, learning_curves
from rlssm.evaluation.skill_plots import trajectories
from rlssm.evaluation.skills import Judged, Roamed, SkillPolicy, judge
from rlssm.io.config import environment
from rlssm.io.logging import read_metric
from rlssm.train.skills import skill_policy

POINT = EnvConfig("point/plane")
BODIES = {
    "halfcheetah": EnvConfig("mjx-fast/HalfCheetah-v5", roam=True),
    "ant": EnvConfig("mjx-fast/Ant-v5", roam=True),
}
EPISODES = {"halfcheetah": 64, "ant": 128}  # side by side, of each seed
STEPS, PIECES = 5_000_000, 5
MINUTES = {"point": 1, "halfcheetah": 14, "ant": 24}  # for all steps of a row; the first on a CPU
KEY = 7  # of skills, goals and start states
SHOWN = {
    "coverage": "coverage", "displacement": "displacement", "explained": "R²",
    "squared_step": "squared step", "hit_1": "hit 1", "hit_3": "hit 3", "stay_3": "stay 3",
    "distance": "goal distance", "near_distance": "of those near",
}  # fmt: skip


def configs(smoke: bool) -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    rivals = {"metra": metra, "diayn": diayn, "lsd": lsd, "csf": csf}
    agents = {f"point-{name}": module.PRESETS["point"] for name, module in rivals.items()}
    agents["point-diayn-discrete"] = diayn.PRESETS["point-discrete"]
    found = {
        name: RunConfig(
            POINT, agent, steps=800 if smoke else 16_000, seeds=2 if smoke else 5, seed=200,
            eval_episodes=8, final_episodes=8, eval_every=16_000, checkpoint_every=16_000,
        )
        for name, agent in agents.items()
    }  # fmt: skip
    for body, env in BODIES.items():
        for name in ("metra", "diayn", "lsd"):
            agent: Any = rivals[name].PRESETS[body]
            experience = replace(agent.experience, num_envs=EPISODES[body])
            if smoke:
                small = metra.PRESETS["point"]
                agent = replace(agent, **{x: getattr(small, x) for x in LAYERS})
                experience = replace(
                    experience, num_envs=2, rollout_length=16, warmup=0, capacity=1000
                )
            found[f"{body}-{name}"] = RunConfig(
                replace(env, time_limit=16) if smoke else env,
                replace(agent, experience=experience),
                steps=64 if smoke else STEPS, seeds=2 if smoke else 3,
                log_every=32 if smoke else 100_000, eval_every=STEPS, checkpoint_every=500_000,
                eval_episodes=8, final_episodes=8, keep=1,
            )  # fmt: skip
    return found


LAYERS = ("actor", "critic", "representation")


# --- One run ----------------------------------------------------------------------------------


def train(config: RunConfig, path: Path, pieces: int) -> bool:
    """Go on with a run piece by piece, judging after each; return whether it came to its end."""
    for piece in range(1, pieces + 1):
        steps = config.steps * piece // pieces
        started = path.exists()
        run = Run(path) if started else Run.create(path, replace(config, steps=steps))
        if run.config.steps < steps:
            run = run.extend(steps)
        if not run.complete:
            run = fit(run.config, path, progress=False)
        if not run.complete:
            return False
        if run.config.steps > steps:  # its weights are of later
            continue
        if not any(row["steps"] == steps for row in judgements(path)):
            row = {"steps": steps, "members": judged(run).measures, "coverage": training(run)}
            with (path / "skills.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
    return True


def judged(run: Run) -> Judged:
    policy = skill_policy(run.config.agent, run.env.spec)
    return judge(make(run.config.env), policy, run.params("last"), jax.random.key(KEY))


def judgements(path: Path) -> list[dict[str, Any]]:
    """Return what was written after each piece, in order."""
    file = path / "skills.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def training(run: Run) -> dict[str, list[float]]:
    """Return the cells visited in training, by seed: ever, lately, and steps beyond the map."""
    names = ("total", "queue", "outside")
    file = run.path / "metrics.jsonl"
    return {name: read_metric(file, f"coverage/{name}")[1][-1].tolist() for name in names}


def random_policy(env: Any) -> SkillPolicy:
    """Return the policy of uniformly random actions, whose weights are the seed."""
    size = env.spec.action.shape[0]

    def follow(seed, inputs, reset, memory, skill, key, greedy):
        key = jax.random.fold_in(key, seed)
        return jax.random.uniform(key, (len(reset), size), minval=-1, maxval=1), memory

    return SkillPolicy(
        initial_memory=lambda batch: (),
        follow=follow,
        embed=lambda seed, obs: jnp.zeros((*obs.shape[:-1], 2)),
        towards=lambda seed, obs, goal: jnp.zeros((len(obs), 2)),
        draw=lambda key, count: jnp.ones((count, 2)),
    )


# --- Tables and pictures ----------------------------------------------------------------------


def records(names: dict[str, RunConfig], runs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, config in names.items():
        rows = judgements(runs / name)
        if rows:
            yield (
                name,
                {
                    "command": f"python scripts/reproduce/metra.py --only {name}",
                    "env": config.env.id,
                    "seeds": [int(member["seed"]) for member in config.members],
                    "made_with": json.loads((runs / name / "environment.json").read_text()),
                    "pieces": rows,
                },
            )


def random_record(env: EnvConfig, seeds: int) -> dict[str, Any]:
    world = make(env)
    policy, seed = random_policy(world), jnp.arange(seeds)
    members = judge(world, policy, seed, jax.random.key(KEY)).measures
    many = judge(world, policy, seed, jax.random.key(KEY + 1), count=500, goals=1).measures
    queue = [row["coverage"] for row in many]  # 500 episodes, 100,000 steps of a body's 200
    made_with = environment()
    piece = {"steps": 0, "members": members, "coverage": {"queue": queue}}
    return {"env": env.id, "seeds": list(range(seeds)), "made_with": made_with, "pieces": [piece]}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return a table of the last piece of every run, mean and range over seeds."""
    header = f"| run | steps | queue | {' | '.join(SHOWN.values())} |\n"
    header += "|---" * (3 + len(SHOWN)) + "|\n"
    rows = []
    for name, record in found.items():
        last = record["pieces"][-1]
        cells = [in_words(last["coverage"]["queue"])]
        cells += [in_words([member[x] for member in last["members"]]) for x in SHOWN]
        rows.append(f"| {name} | {last['steps']:,} | {' | '.join(cells)} |")
    return header + "\n".join(rows) + "\n"


def in_words(values: list[float]) -> str:
    mean, low, high = (
        f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"
        for x in (np.mean(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def draw(found: dict[str, dict[str, Any]], runs: Path, out: Path) -> None:
    """Draw coverage against steps for each body, and where the skills of seed 0 lead."""
    for body in BODIES:
        curves, lines = {}, {}
        for name, record in found.items():
            if not name.startswith(f"{body}-"):
                continue
            covered = [[m["coverage"] for m in piece["members"]] for piece in record["pieces"]]
            if name.endswith("random"):
                lines["random"] = float(np.mean(covered))
                continue
            steps = np.array([piece["steps"] for piece in record["pieces"]])
            curves[name] = Curve(steps, np.array(covered, float))
            one = judged(Run(runs / name))
            roamed = Roamed(*(x[0] for x in one.roamed))
            trajectories(out / f"{name}.png", roamed, one.skill, title=name)
        if curves:
            learning_curves(out / f"{body}.png", curves, metric="cells covered", lines=lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/metra"))
    parser.add_argument("--out", type=Path, default=Path("results/metra"))
    parser.add_argument("--only", default="", help="train only runs whose name contains this")
    parser.add_argument("--minutes", type=float, default=600, help="stop after this long")
    parser.add_argument("--plan", action="store_true", help="say what is left and what it costs")
    parser.add_argument("--smoke", action="store_true", help="make tiny runs, for a test")
    args = parser.parse_args()
    chosen = {name: x for name, x in configs(args.smoke).items() if args.only in name}
    pieces = {name: 2 if args.smoke else 1 if "point" in name else PIECES for name in chosen}
    left = {name: pieces[name] - len(judgements(args.runs / name)) for name in chosen}
    for name, count in left.items():
        minutes = MINUTES[name.partition("-")[0]] * count / pieces[name]
        print(f"{name}: {count} of {pieces[name]} pieces left, about {minutes:.0f} minutes")
    if args.plan:
        return
    use_compilation_cache()
    timer = threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    for name, config in chosen.items():
        started = time.perf_counter()
        args.runs.mkdir(parents=True, exist_ok=True)
        if not train(config, args.runs / name, pieces[name]):
            print("out of time; call again to go on", flush=True)
            return
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    timer.cancel()
    found = dict(records(chosen, args.runs))
    envs = {"point": POINT} if args.smoke else {"point": POINT, **BODIES}
    for name, env in envs.items():
        if any(run.startswith(f"{name}-") for run in found):
            found[f"{name}-random"] = random_record(env, 2 if args.smoke else 3)
    args.out.mkdir(parents=True, exist_ok=True)
    label = args.only or "all"
    (args.out / f"{label}-runs.md").write_text(table(found))
    (args.out / f"{label}-runs.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, args.runs, args.out)
    print(table(found))


if __name__ == "__main__":
    main()
