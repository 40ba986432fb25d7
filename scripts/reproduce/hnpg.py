"""Combination locks of horizon 5 to 50: HNPG against TRPO, RLPD and BC, five seeds each.

    python scripts/reproduce/hnpg.py [--plan] [--only NAME] [--shard I/N] [--minutes M]

Trains what is missing, then tabulates into `results/hnpg/`; see shared.py beside this file. Beside
the scores of the greedy policies, solved.md says after how many environment steps the acting,
stochastic policies of more than half of the seeds opened more than half of the locks at a log
point (a hundredth of the budget), and locks-<horizon>.png shows the curves. The paper's Hy-Q is not
among the rivals: it is not implemented.
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
    MLPConfig,
    RLPDConfig,
    RunConfig,
    TRPOConfig,
)
from rlssm.algorithms import hnpg
from rlssm.evaluation.plots import Curve, learning_curves
from rlssm.io.logging import read_metric

SEEDS = 5
GPU_MINUTES = 15  # an estimate: not run on a GPU yet
BATCH = 1000  # steps of an update
BUDGETS = {5: 500_000, 10: 2_000_000, 15: 4_000_000, 30: 10_000_000, 50: 30_000_000}
RIVALS = 3_000_000  # steps, where the budget is not smaller
UPDATES = 100_000  # of BC

# The paper's table 2; its actor and critic are shared by all steps.
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
        name, rivals = f"lock/h{horizon}", min(budget, RIVALS)
        ours = replace(
            hnpg.PRESETS["lock"], rollout_length=horizon, num_envs=round(BATCH / horizon)
        )
        fields = set(TRPOConfig.__dataclass_fields__) - {"name"}
        shared_with_trpo: dict[str, Any] = {field: getattr(ours, field) for field in fields}
        trpo = TRPOConfig(**shared_with_trpo)
        for agent, dataset, steps in (
            (ours, name, budget),
            (trpo, None, rivals),
            (RLPD, name, rivals),
            (BCConfig(policy="gaussian"), name, UPDATES),
        ):
            table[f"h{horizon}-{agent.name}"] = RunConfig(
                env=EnvConfig(name), agent=agent, dataset=dataset, steps=steps, seeds=SEEDS
            )
    return table


def solved_at(curve: Curve) -> int | None:
    """Return the first steps at which more than half of the seeds open more than half."""
    good = (np.nan_to_num(np.asarray(curve.values)) > 0.5).mean(1) > 0.5
    return int(np.asarray(curve.steps)[good][0]) if good.any() else None


def report(runs: Path, out: Path) -> None:
    """Write when each run solved its lock, and the curves."""
    rows = ["| run | budget | solved after |", "|---|---|---|"]
    curves: dict[str, dict[str, Curve]] = {}
    for name, config in configs().items():
        file = runs / name / "metrics.jsonl"
        if not (runs / name / "result.json").exists() or not config.online:
            continue
        horizon, _, agent = name.partition("-")
        curve = Curve(*read_metric(file, "episode/success"))
        curves.setdefault(horizon, {})[agent] = curve
        after = solved_at(curve)
        rows.append(f"| {name} | {config.steps:,} | {'not' if after is None else f'{after:,}'} |")
    (out / "solved.md").write_text("\n".join(rows) + "\n")
    for horizon, lines in curves.items():
        title = f"lock of horizon {horizon[1:]}"
        learning_curves(out / f"locks-{horizon[1:]}.png", lines, metric="success", title=title)


if __name__ == "__main__":
    reproduce("hnpg", __doc__ or "", configs(), GPU_MINUTES, report)
