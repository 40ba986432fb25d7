"""Combination locks of horizon 5 to 50: HNPG against TRPO, RLPD, BC and Hy-Q, five seeds each.

    python scripts/reproduce/hnpg.py [--plan] [--only NAME] [--minutes M] [--slim]

Trains what is missing, then tabulates into `results/hnpg/`; see shared.py beside this file. A run
on a lock ends once it is solved as the paper says: over the last 50 updates of 1000 steps, the
acting, stochastic policies of more than half of the seeds opened more than half of the locks.
solved.md says after how many steps that was, and locks-<horizon>.png shows the curves.

Hy-Q and HNPG also meet on locks with discrete actions. Last come four seeds on hopper/medium with
one network for all steps: HNPG, TRPO and BC. areas.md has the areas under their curves.

A lock's data are the recipe's 50,000 episodes, which a fresh machine takes minutes to write and
read. Every run fits pieces of ten minutes (`--minutes 8`, to leave room for compilation), between
which the folder of runs may move; at most two checkpoints of each are there, of 10 MB at horizon
50. Those of RLPD and Hy-Q hold a replay: give each such run a piece, and `--slim`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from shared import reproduce

from rlssm import (
    BCConfig,
    EnvConfig,
    ExperienceConfig,
    HNPGConfig,
    MLPConfig,
    RLPDConfig,
    RunConfig,
    TRPOConfig,
)
from rlssm.algorithms import hnpg, hyq
from rlssm.envs import locks
from rlssm.evaluation.plots import Curve, learning_curves
from rlssm.io.logging import read_metric
from rlssm.train.run import Run

SEEDS, HOPPER_SEEDS = 5, 4
BATCH = 1000  # steps of an update
WINDOW = 50 * BATCH  # steps that success is averaged over
BUDGETS = {5: 500_000, 10: 2_000_000, 15: 4_000_000, 30: 10_000_000, 50: 30_000_000}
DISCRETE = (5, 10, 15)  # horizons
TRPO_STEPS, RLPD_STEPS, HYQ_STEPS = 3_000_000, 1_000_000, 1_000_000  # at most
HOPPER_STEPS = 1_000_000
UPDATES = 100_000  # of BC

# After the paper's table 2, without its range of log deviations, Adam's first decay of the
# temperature and the slower pace of the targets; actor and critic are shared by all steps.
RLPD = RLPDConfig(
    critic=MLPConfig((256, 256), "relu", layer_norm=True),
    utd=1,
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    temperature_learning_rate=1e-4,
    init_temperature=0.1,
    polyak=0.01,
    experience=ExperienceConfig(batch=128, num_envs=10, warmup=5000),
)


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    table = {}
    for horizon, budget in BUDGETS.items():
        ours = replace(
            hnpg.PRESETS["lock"], rollout_length=horizon, num_envs=round(BATCH / horizon)
        )
        table |= {
            f"h{horizon}-hnpg": on_lock(ours, f"lock/h{horizon}", budget),
            f"h{horizon}-trpo": on_lock(
                without_data(ours), f"lock/h{horizon}", min(budget, TRPO_STEPS)
            ),
            f"h{horizon}-rlpd": on_lock(RLPD, f"lock/h{horizon}", min(budget, RLPD_STEPS)),
            f"h{horizon}-bc": on_lock(BCConfig(policy="gaussian"), f"lock/h{horizon}", UPDATES),
        }
        if horizon in DISCRETE:
            theirs, lock = replace(hyq.PRESETS["lock"], epsilon=1 / horizon), f"h{horizon}-discrete"
            table |= {
                f"{lock}-hnpg": on_lock(ours, f"lock/{lock}", budget),
                f"{lock}-hyq": on_lock(theirs, f"lock/{lock}", min(budget, HYQ_STEPS)),
            }
    return table | hopper()


def on_lock(agent: Any, name: str, steps: int) -> RunConfig:
    """Return a run on a lock; only HNPG's are long enough to need checkpoints on the way."""
    return RunConfig(
        env=EnvConfig(name),
        agent=agent,
        dataset=None if agent.name == "trpo" else name,
        steps=steps,
        seeds=SEEDS,
        log_every=None if isinstance(agent, BCConfig) else WINDOW,
        checkpoint_every=None if isinstance(agent, HNPGConfig) else steps,
        keep=1,
    )


def hopper() -> dict[str, RunConfig]:
    """Return the runs with one network for all steps, on MJX."""
    ours = HNPGConfig(
        num_envs=64, rollout_length=64, critic_learning_rate=3e-3, gae_lambda=0.95, max_kl=0.02
    )
    table = {}
    for agent, dataset, steps in (
        (ours, "hopper/medium", HOPPER_STEPS),
        (without_data(ours), None, HOPPER_STEPS),
        (BCConfig(policy="gaussian"), "hopper/medium", UPDATES),
    ):
        table[f"hopper-{agent.name}"] = RunConfig(
            env=EnvConfig("mjx-fast/Hopper-v5"), agent=agent, dataset=dataset, steps=steps,
            seeds=HOPPER_SEEDS, eval_episodes=16, keep=1,
        )  # fmt: skip
    return table


def without_data(config: HNPGConfig) -> TRPOConfig:
    """Return the same settings for TRPO."""
    fields = set(TRPOConfig.__dataclass_fields__) - {"name"}
    settings: dict[str, Any] = {field: getattr(config, field) for field in fields}
    return TRPOConfig(**settings)


def solved(run: Run) -> bool:
    """Return whether a run on a lock has come to its end before its budget's."""
    on_a_lock = run.config.env.id.startswith("lock/") and run.config.online
    return on_a_lock and solved_at(successes(run.path, run.config.agent.name)) is not None


def successes(path: Path, agent: str) -> Curve:
    """Return the shares of locks opened: by the acting policy, of Hy-Q by the greedy one.

    Hy-Q acts at random once in as many steps as a lock has, which opens it 0.4 of the time at best.
    """
    file, kind = ("evaluations", "eval") if agent == "hyq" else ("metrics", "episode")
    return Curve(*read_metric(path / f"{file}.jsonl", f"{kind}/success"))


def solved_at(curve: Curve) -> int | None:
    """Return the first steps at which more than half of the seeds open more than half."""
    good = (np.nan_to_num(np.asarray(curve.values)) > 0.5).mean(1) > 0.5
    return int(np.asarray(curve.steps)[good][0]) if good.any() else None


def minutes(config: RunConfig) -> float:
    """Return an estimate for one H100, compilation included; only HNPG's old pace was measured."""
    if config.agent.name == "bc":
        return 2
    if config.env.id.startswith("mjx"):
        return 8
    if config.agent.name in ("rlpd", "hyq"):
        return 1 + config.steps / (2500 if config.agent.name == "rlpd" else 5000) / 60
    horizon = locks.make(config.env.id).horizon
    own = 0.6 if config.agent.name == "trpo" else 1.0
    return 1 + own * config.steps / BATCH * 0.002 * horizon / 60


def report(runs: Path, out: Path) -> None:
    """Write when each run solved its lock, the curves, and the areas under hopper's."""
    rows = ["| run | budget | ended after | solved after |", "|---|---|---|---|"]
    curves: dict[str, dict[str, Curve]] = {}
    for name, config in configs().items():
        if not (runs / name / "result.json").exists() or not config.online:
            continue
        if not config.env.id.startswith("lock/"):
            continue
        lock, _, agent = name.rpartition("-")
        curve = successes(runs / name, agent)
        curves.setdefault(lock, {})[agent] = curve
        after = solved_at(curve)
        rows.append(
            f"| {name} | {config.steps:,} | {curve.steps[-1]:,} "
            f"| {f'not in {curve.steps[-1]:,}' if after is None else f'{after:,}'} |"
        )
    (out / "solved.md").write_text("\n".join(rows) + "\n")
    for lock, lines in curves.items():
        title = f"lock/{lock}"
        learning_curves(out / f"locks-{lock[1:]}.png", lines, metric="success", title=title)
    (out / "areas.md").write_text(areas(runs))


def areas(runs: Path) -> str:
    """Return the mean evaluation return over training of each complete run on hopper.

    BC takes no steps; what it ends with counts at all of them.
    """
    rows = ["| run | mean return over training, by seed | mean | last |", "|---|---|---|---|"]
    for name, config in hopper().items():
        if not (runs / name / "result.json").exists():
            continue
        values = read_metric(runs / name / "evaluations.jsonl", "eval/return")[1]
        area = values[-1] if not config.online else values.mean(0)
        each = ", ".join(f"{x:.0f}" for x in area)
        rows.append(f"| {name} | {each} | {area.mean():.0f} | {values[-1].mean():.0f} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    reproduce("hnpg", __doc__ or "", configs(), minutes, report, solved)
