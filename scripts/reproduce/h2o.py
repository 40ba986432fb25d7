"""HalfCheetah from a real dataset and a wrong simulator: H2O on nine settings, rivals on three.

    python scripts/reproduce/h2o.py [--plan] [--only NAME] [--minutes M] [--smoke]

The datasets are the locally made halfcheetah/{medium,medium-replay,medium-expert} of Gymnasium's
v5 task, which is reality; the simulators are the task on MJX (mjx-fast), a hundred copies per seed,
with gravity x2, friction x0.3 or joint noise of deviation 1. Four seeds of every setting, and all
settings of a learner, are one compiled program (grid.py beside this file): H2O's nine make 1M
updates on 1M simulated steps each; its rivals make 250k on one setting per gap, RLPD as many critic
steps as the others. Evaluations, ten greedy episodes of each member after every 125k, are in
Gymnasium's MuJoCo and, for the same policies, in the undisturbed task on MJX; they and compilation
are timed apart. The tables are by the last weights, or by H2O's after 250k where rivals stand.

Cut, to keep within two GPU hours: H2O is not run a second time for 250k updates, which its long run
passes through; eight evaluations in place of the released code's hundred; and MJX episodes are
played with the solver that was acted with (mjx-fast), not with the file's.

Trains what is missing, then tabulates into `results/h2o/`. A call of `--minutes 7` ends within ten,
its replays (6 GB for H2O) saved below `--runs`; the next one goes on. `--smoke` makes every kind of
run tiny, from random data, below `runs/h2o-smoke`.
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

import numpy as np
from grid import Grid, Rows

from rlssm import (
    CQLConfig,
    DARCConfig,
    EnvConfig,
    ExperienceConfig,
    H2OConfig,
    IQLConfig,
    MLPConfig,
    RLPDConfig,
    RunConfig,
    SACConfig,
    SimulatorConfig,
    make,
)
from rlssm.cli.report import use_compilation_cache
from rlssm.data.dataset import DatasetInfo, Episode, OfflineDataset, from_episodes
from rlssm.evaluation.statistics import bootstrap_interval, mean
from rlssm.io.logging import read_metric
from rlssm.train import datasets

SEEDS, EPISODES = 4, 10
LONG, SHORT, EVERY = 1_000_000, 250_000, 125_000
GAPS = {
    "gravity": SimulatorConfig(gravity=2.0),
    "friction": SimulatorConfig(friction=0.3),
    "noise": SimulatorConfig(joint_noise=1.0),
}
LEVELS = ("medium", "medium-replay", "medium-expert")
RIVALS_MEET = (("gravity", "medium"), ("friction", "medium-replay"), ("noise", "medium-expert"))
REAL = EnvConfig("gym/HalfCheetah-v5")
# A round is a thousand steps and a thousand updates, as in the released code.
EXPERIENCE = ExperienceConfig(num_envs=100, rollout_length=10, capacity=1_000_000)

# name: agent, whether it sees the dataset, whether it acts in the simulator
LEARNERS: dict[str, tuple[Any, bool, bool]] = {
    "h2o": (H2OConfig(experience=EXPERIENCE), True, True),
    "sac-sim": (SACConfig(experience=EXPERIENCE), False, True),
    "mixture": (H2OConfig(experience=EXPERIENCE, use_ratio=False, penalty=0.0), True, True),
    "darc": (DARCConfig(experience=EXPERIENCE), True, True),
    "darc-plus": (DARCConfig(experience=EXPERIENCE, real_steps=True), True, True),
    "rlpd": (RLPDConfig(experience=replace(EXPERIENCE, warmup=5000), utd=1), True, True),
    "iql": (IQLConfig(experience=EXPERIENCE, actor_decay_steps=SHORT), True, False),
    "cql": (CQLConfig(experience=EXPERIENCE), True, False),
}
# Updates per second of all members together, 16 by vmap on one H100 (results/benchmark), and
# simulated steps per second; a member's evaluation takes a second, a program some minutes more.
UPDATES = {
    "h2o": 21_900, "sac": 46_100, "darc": 25_800, "rlpd": 19_400, "iql": 41_400, "cql": 4_700,
}  # fmt: skip
SIMULATED, PER_EVALUATION, PER_CALL, USEFUL = 150_000, 0.8, 2.5, 6.5
SETTLING = 90  # seconds that a learner needs before it can be told to stop


def table(smoke: bool) -> dict[str, Rows]:
    """Return the settings of every learner: rows of one dataset each."""
    found: dict[str, Rows] = {}
    for learner in LEARNERS:
        if learner == "h2o":
            found[learner] = [[config(learner, x, level, LONG) for x in GAPS] for level in LEVELS]
        else:
            found[learner] = [[config(learner, *met, SHORT)] for met in RIVALS_MEET]
    if smoke:
        return {name: [[tiny(x) for x in row] for row in rows] for name, rows in found.items()}
    return found


def config(learner: str, gap: str, level: str, steps: int) -> RunConfig:
    """Return one setting."""
    agent, with_data, simulated = LEARNERS[learner]
    return RunConfig(
        env=REAL,
        agent=agent,
        dataset=f"halfcheetah/{level}" if with_data else None,
        sim=GAPS[gap] if simulated else SimulatorConfig(),
        steps=steps,
        seeds=SEEDS,
        log_every=5_000,
        eval_every=EVERY,
        eval_episodes=EPISODES,
    )


def tiny(setting: RunConfig) -> RunConfig:
    """Return a setting of the same kind that takes seconds."""
    layers = {
        name: MLPConfig((8,), "relu", layer_norm=getattr(setting.agent, name).layer_norm)
        for name in ("actor", "critic", "discriminator")
        if hasattr(setting.agent, name)
    }
    experience = replace(EXPERIENCE, num_envs=2, rollout_length=4, batch=8, warmup=16, capacity=200)
    return replace(
        setting,
        env=replace(REAL, time_limit=5),
        agent=replace(setting.agent, experience=experience, **layers),
        steps=64, seeds=2, log_every=16, eval_every=32, eval_episodes=1,
    )  # fmt: skip


def random_data(name: str) -> OfflineDataset:
    """Return episodes of random numbers, as many as no other dataset has."""
    rng, spec = np.random.default_rng(len(name)), make(REAL).spec
    info = DatasetInfo(f"{name}-v0", spec, env="HalfCheetah-v5")
    rows, last = 20, np.arange(20) == 19
    episodes = [
        Episode(
            rng.normal(size=(rows + 1, *spec.obs.shape)).astype(np.float32),
            rng.uniform(-1, 1, (rows, *spec.action.shape)).astype(np.float32),
            rng.normal(size=rows).astype(np.float32),
            np.zeros(rows, bool),
            last,
        )
        for _ in range(len(name))
    ]
    return from_episodes(episodes, info)


def gpu_minutes(rows: Rows) -> float:
    """Return an estimate for all of a learner, calls of ten minutes included."""
    one = rows[0][0]
    members = sum(len(row) for row in rows) * one.seeds
    steps = members * one.steps
    seconds = steps / UPDATES[one.agent.name] + steps / SIMULATED * one.simulated
    seconds += members * PER_EVALUATION * one.steps / EVERY
    return seconds / 60 + PER_CALL * max(1, seconds / 60 / USEFUL)


# --- Tables -----------------------------------------------------------------------------------


def outcomes(grids: dict[str, Grid]) -> Iterator[dict[str, Any]]:
    """Yield what came of every setting of the complete grids; of H2O after 250k updates, too."""
    for learner, grid in grids.items():
        if not grid.complete:
            continue
        shown = json.loads((grid.path / "datasets.json").read_text())
        known = {x["id"].rpartition("-v")[0]: x for x in shown}
        for setting in grid.settings:
            level = (setting.dataset or "").rpartition("/")[2]
            gap = next((x for x in GAPS if GAPS[x] == setting.sim), "")
            stops = sorted({min(SHORT, setting.steps), setting.steps})
            met = [(x, y) for x, y in RIVALS_MEET if (gap in (x, "")) and (level in (y, ""))]
            for steps in stops if met else stops[-1:]:
                yield {
                    "learner": learner,
                    "gap": gap or met[0][0],
                    "data": level or met[0][1],
                    "steps": steps,
                    "data_return": known[setting.dataset]["return_mean"] if shown else None,
                    **measured(grid, setting, steps),
                }


def measured(grid: Grid, setting: RunConfig, steps: int) -> dict[str, Any]:
    """Return what was logged of a setting after some steps, by seed."""
    found: dict[str, Any] = {}
    for name, file, metric in (
        ("returns", "evaluations", "eval/return"),
        ("copy_returns", "evaluations", "eval/copy"),
        ("ratio", "metrics", "simulator/ratio"),
        ("gap_seen", "metrics", "simulator/gap"),
        ("accuracy", "metrics", "discriminator/step_accuracy"),
    ):
        path = grid.path / f"{file}.jsonl"
        if metric in path.read_text():
            at, values = read_metric(path, metric)
            found[name] = values[np.flatnonzero(at <= steps)[-1], grid.of(setting)].tolist()
    found["interval"] = bootstrap_interval(mean, np.array(found["returns"]))
    return found


def tabulate(grids: dict[str, Grid], out: Path) -> str:
    """Write all outcomes as JSON, and return and write them as a table."""
    rows = list(outcomes(grids))
    lines = [
        "| learner | gap | data | updates | real return [95 %] | seeds | on MJX | the data's "
        "| w, u, accuracy |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        judged = [f"{np.mean(row[x]):.2f}" for x in ("ratio", "gap_seen", "accuracy") if x in row]
        low, high = row["interval"]
        data = "–" if row["data_return"] is None else f"{row['data_return']:.0f}"
        lines.append(
            f"| {row['learner']} | {row['gap']} | {row['data']} | {row['steps']:,} "
            f"| {np.mean(row['returns']):.0f} [{low:.0f}, {high:.0f}] "
            f"| {', '.join(f'{x:.0f}' for x in row['returns'])} "
            f"| {np.mean(row['copy_returns']):.0f} | {data} | {', '.join(judged) or '–'} |"
        )
    times = {name: round(grid.seconds()) for name, grid in grids.items() if grid.complete}
    lines += ["", f"Seconds of training, all members of a learner together: {times}"]
    made_with = {
        name: json.loads((grid.path / "environment.json").read_text())
        for name, grid in grids.items()
        if grid.complete
    }
    record = {
        "command": "python scripts/reproduce/h2o.py",
        "seconds": times,
        "made_with": made_with,
        "outcomes": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/h2o"))
    parser.add_argument("--out", type=Path, default=Path("results/h2o"))
    parser.add_argument("--only", default="", help="train only learners whose name contains this")
    parser.add_argument("--minutes", type=float, default=600, help="stop after this long")
    parser.add_argument("--plan", action="store_true", help="say what is left and what it costs")
    parser.add_argument("--smoke", action="store_true", help="make tiny runs, for a test")
    args = parser.parse_args()
    if args.smoke:
        args.runs, args.out = Path("runs/h2o-smoke"), Path("runs/h2o-smoke/results")
    grids = {name: Grid(args.runs / name, rows) for name, rows in table(args.smoke).items()}
    left = {x: grid for x, grid in grids.items() if args.only in x and not grid.complete}
    minutes = {name: gpu_minutes(grid.rows) for name, grid in left.items()}
    for name, number in minutes.items():
        print(f"{name}: about {number:.0f} minutes of one H100 GPU")
    print(f"{len(left)} learners left, about {sum(minutes.values()):.0f} minutes", flush=True)
    if args.plan:
        return
    use_compilation_cache()
    timer = threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    until = time.perf_counter() + 60 * args.minutes
    for i, (name, grid) in enumerate(left.items()):
        started = time.perf_counter()
        late = i > 0 and started > until - SETTLING
        if late or not grid.train(random_data if args.smoke else datasets.load):
            print("out of time; call again to go on", flush=True)
            break
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    timer.cancel()
    print(tabulate(grids, args.out))


if __name__ == "__main__":
    main()
