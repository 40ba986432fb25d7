"""HalfCheetah from a real dataset and a wrong simulator: H2O on nine settings, rivals on three.

    python scripts/reproduce/h2o.py [--plan] [--only NAME] [--shard I/N] [--minutes M]

The datasets are the locally made halfcheetah/{medium,medium-replay,medium-expert} of Gymnasium's
v5 task, which is reality; the simulators are the task on MJX (mjx-fast), a hundred copies per seed,
with gravity x2, friction x0.3 or joint noise of deviation 1. Four seeds by vmap; H2O makes 1M
updates on 1M simulated steps. On one setting per gap, H2O and its rivals make 250k of each, RLPD
with as many critic steps as the others. Evaluations are in Gymnasium's MuJoCo; afterwards the last
weights are also played on MJX. Several settings share a GPU as processes: --shard 0/3, 1/3, 2/3.

Trains what is missing, then tabulates into `results/h2o/`; see shared.py beside this file.
`--smoke` makes every run tiny and writes to `results/h2o-smoke` instead. Not run on a GPU yet: the
minutes it announces are an estimate.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from shared import reproduce

from rlssm import (
    CQLConfig,
    DARCConfig,
    EnvConfig,
    ExperienceConfig,
    H2OConfig,
    IQLConfig,
    RLPDConfig,
    RunConfig,
    SACConfig,
    SimulatorConfig,
    make,
)
from rlssm.evaluation.evaluate import evaluate_seeds
from rlssm.io.logging import read_metric
from rlssm.train.run import Run

SEEDS = 4
SMOKE = "--smoke" in sys.argv
NAME = "h2o-smoke" if SMOKE else "h2o"
LONG, SHORT = (4_000, 2_000) if SMOKE else (1_000_000, 250_000)
GAPS = {
    "gravity": SimulatorConfig(gravity=2.0),
    "friction": SimulatorConfig(friction=0.3),
    "noise": SimulatorConfig(joint_noise=1.0),
}
LEVELS = ("medium", "medium-replay", "medium-expert")
RIVALS_MEET = (("gravity", "medium"), ("friction", "medium-replay"), ("noise", "medium-expert"))
# A round is a thousand steps and a thousand updates, as in the released code.
EXPERIENCE = ExperienceConfig(num_envs=100, rollout_length=10, capacity=1_000_000)
if SMOKE:
    EXPERIENCE = replace(EXPERIENCE, batch=16, capacity=10_000)
REAL, COPY = EnvConfig("gym/HalfCheetah-v5"), "mjx/HalfCheetah-v5"
EPISODES = 1 if SMOKE else 20
# Seconds per thousand updates and simulated steps of four seeds on one H100: estimates.
SECONDS = {"h2o": 0.7, "sac": 0.3, "darc": 0.6, "rlpd": 0.7, "cql": 1.0, "iql": 0.4}

# name: agent, whether it sees the dataset, whether it acts in the simulator
LEARNERS: dict[str, tuple[Any, bool, bool]] = {
    "h2o": (H2OConfig(experience=EXPERIENCE), True, True),
    "sac-sim": (SACConfig(experience=EXPERIENCE), False, True),
    "mixture": (H2OConfig(experience=EXPERIENCE, use_ratio=False, penalty=0.0), True, True),
    "darc": (DARCConfig(experience=EXPERIENCE), True, True),
    "darc-plus": (DARCConfig(experience=EXPERIENCE, real_steps=True), True, True),
    "rlpd": (RLPDConfig(experience=replace(EXPERIENCE, warmup=5000), utd=1), True, True),
    "cql": (CQLConfig(experience=EXPERIENCE), True, False),
    "iql": (IQLConfig(experience=EXPERIENCE), True, False),
}


def config(learner: str, gap: str, level: str, steps: int) -> RunConfig:
    """Return one run."""
    agent, with_data, simulated = LEARNERS[learner]
    if SMOKE and learner == "rlpd":
        agent = replace(agent, experience=EXPERIENCE)
    return RunConfig(
        env=replace(REAL, time_limit=20) if SMOKE else REAL,
        agent=agent,
        dataset=f"halfcheetah/{level}" if with_data else None,
        sim=GAPS[gap] if simulated else SimulatorConfig(),
        steps=steps,
        seeds=SEEDS,
        eval_every=steps // 5 if SMOKE else 50_000,
        eval_episodes=1 if SMOKE else 5,
        checkpoint_every=50_000,
        final_episodes=EPISODES,
        keep=1,
    )


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name; CQL and IQL meet no simulator."""
    table = {
        f"h2o-{gap}-{level}": config("h2o", gap, level, LONG) for gap in GAPS for level in LEVELS
    }
    for gap, level in RIVALS_MEET:
        for learner in LEARNERS:
            table[f"short-{learner}-{gap}-{level}"] = config(learner, gap, level, SHORT)
    return table


def gpu_minutes(run: RunConfig) -> float:
    """Return an estimate, a minute for compilation and evaluations included."""
    return 1 + SECONDS[run.agent.name] * run.steps / 60_000


def on_mjx(run: Run) -> list[float]:
    """Return the mean return of each seed's last weights on MJX, kept beside the run."""
    file = run.path / "mjx.json"
    if not file.exists():
        env = make(replace(run.config.env, id=COPY))
        played = evaluate_seeds(
            env, run.program.policy, run.params("last"), jax.random.key(1), episodes=EPISODES
        )
        file.write_text(json.dumps(np.asarray(played.episode_return).mean(1).tolist()))
    return json.loads(file.read_text())


def compare(runs: Path, out: Path) -> str:
    """Write and return a table of real returns beside the data's own and what was judged."""
    rows = []
    for name in configs():
        if not (runs / name / "result.json").exists():
            continue
        run = Run(runs / name)
        returns, copy = run.result["last"]["eval/return"], on_mjx(run)
        data = "–" if run.dataset is None else f"{run.dataset['return_mean']:.0f}"
        log = run.path / "metrics.jsonl"
        seconds = 0.0
        steps, speed = read_metric(log, "time/steps_per_second")
        for count, per_second in zip(np.diff(steps, prepend=0), speed[:, 0], strict=True):
            seconds += SEEDS * count / per_second
        judged = "–"
        if "h2o" in name.split("-"):
            ratio, gap, right = (
                read_metric(log, x)[1][-1].mean()
                for x in ("simulator/ratio", "simulator/gap", "discriminator/step_accuracy")
            )
            judged = f"{ratio:.2f}, {gap:.2f}, {right:.2f}"
        rows.append(
            f"| {name} | {np.mean(returns):.0f} | {min(returns):.0f} to {max(returns):.0f} "
            f"| {np.mean(copy):.0f} | {data} | {judged} | {seconds / 60:.1f} |"
        )
    table = (
        "| run | real return (MuJoCo) | seeds | on MJX | the data's | w, u, accuracy | minutes |\n"
        "|---|---|---|---|---|---|---|\n"
    ) + "\n".join(rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.md").write_text(table + "\n")
    return table


if __name__ == "__main__":
    if SMOKE:
        sys.argv.remove("--smoke")
    plan = "--plan" in sys.argv
    reproduce(NAME, __doc__ or "", configs(), gpu_minutes)
    if not plan:
        print(compare(Path("runs") / NAME, Path("results") / NAME))
