"""MOORL and its rivals on twelve pairs of dataset and task, and a sweep of MOORL's own settings.

    python scripts/reproduce/moorl.py [--plan] [--only NAME] [--shard I/N] [--minutes M]
    python scripts/reproduce/moorl.py --sweep [...]         K, meta rate and source probability

Everybody takes 100,000 steps of the environment at one update each, four seeds by vmap. MOORL and
the alternation without a meta-step, RLPD, SAC on the union of both buffers and SAC from scratch
start there; Cal-QL, CQL and IQL first make 100,000 updates on the dataset alone, as published, and
so do MOORL and its ablation in the rows called `-pre`, for equal gradient steps. RLPD also makes 20
updates a step on two pairs. The sweep is on two pairs, for each K all meta rates and probabilities
in one program.

Trains what is missing, then writes `results/moorl/`: table.md per run; comparison.md with the IQM
of normalised scores over pairs, 95 % intervals, area under the curve and how likely MOORL beats a
rival; curves; with --sweep sweep.md, which ends in the best setting, and sweep.png. See shared.py
beside this file. `--smoke` makes every run tiny. Not run on a GPU yet: the minutes are estimates.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from shared import reproduce

from rlssm import (
    CalQLConfig,
    CQLConfig,
    EnvConfig,
    ExperienceConfig,
    IQLConfig,
    MOORLConfig,
    RLPDConfig,
    RunConfig,
    SACConfig,
)
from rlssm.evaluation.plots import Curve, learning_curves
from rlssm.evaluation.statistics import (
    area_under_curve,
    bootstrap_interval,
    iqm,
    probability_of_improvement,
)
from rlssm.io.logging import read_metric
from rlssm.train.run import Run

SEEDS = 4
SMOKE, SWEEP = "--smoke" in sys.argv, "--sweep" in sys.argv
STEPS = 2_000 if SMOKE else 100_000
PRIOR = STEPS // 2 if SMOKE else STEPS  # updates on the dataset alone, where there are any
NAME = "moorl" + "-sweep" * SWEEP + "-smoke" * SMOKE
PAIRS = (
    *(f"{env}/{level}" for env in ("halfcheetah", "hopper", "walker2d")
      for level in ("random", "medium", "medium-replay")),
    "pointmaze/umaze", "pointmaze/medium", "pointmaze/large",
)  # fmt: skip
HARD_PRESSED = ("hopper/medium", "pointmaze/medium")  # where RLPD makes 20 updates a step
SWEPT_ON = ("hopper/medium", "pointmaze/medium")
INNER_STEPS, RATES, PROBABILITIES = (1, 5, 10, 20), (0.1, 0.5, 0.8, 1.0), (0.25, 0.5, 0.75)
EXPERIENCE = ExperienceConfig(warmup=1000, capacity=STEPS)
# Seconds per thousand updates of four seeds on one H100, stepping included: estimates.
SECONDS = {"moorl": 0.7, "sac": 0.7, "rlpd": 0.9, "cql": 1.3, "calql": 1.3, "iql": 0.7}
SECONDS_RLPD_20 = 4.0  # per thousand environment steps


def learners(pair: str) -> dict[str, tuple[Any, bool, int]]:
    """Return by name: agent, whether it sees the dataset, updates on the dataset alone."""
    sparse = pair.startswith("pointmaze")
    experience = replace(EXPERIENCE, reward_shift=-1.0 if sparse else 0.0)
    own = replace(experience, rollout_length=10)
    moorl = MOORLConfig(experience=own)
    alternating = replace(moorl, meta_rate=1.0)
    cql: dict[str, Any] = {"experience": experience}
    iql = IQLConfig(
        experience=experience,
        actor_decay_steps=None,
        expectile=0.9 if sparse else 0.7,
        beta=10.0 if sparse else 3.0,
    )
    return {
        "moorl": (moorl, True, 0),
        "moorl-pre": (moorl, True, PRIOR),
        "alternating": (alternating, True, 0),
        "alternating-pre": (alternating, True, PRIOR),
        "rlpd": (RLPDConfig(experience=experience, utd=1), True, 0),
        "sac-union": (SACConfig(experience=replace(experience, union=True)), True, 0),
        "sac": (SACConfig(experience=experience), False, 0),
        "calql": (CalQLConfig(**cql), True, PRIOR),
        "cql": (CQLConfig(**cql), True, PRIOR),
        "iql": (iql, True, PRIOR),
    }


def run_config(pair: str, agent: Any, sees: bool, prior: int, **changes: Any) -> RunConfig:
    """Return one run: `prior` updates, then `STEPS` steps of the environment."""
    envs = {"halfcheetah": "HalfCheetah", "hopper": "Hopper", "walker2d": "Walker2d"}
    task = pair.split("/")[0]
    env = f"gym/{envs[task]}-v5" if task in envs else pair
    return RunConfig(
        env=EnvConfig(env),
        agent=agent,
        dataset=pair if sees else None,
        steps=prior + STEPS,
        offline_steps=prior if sees else None,
        seeds=SEEDS,
        eval_every=STEPS // 4 if SMOKE else 10_000,
        checkpoint_every=STEPS // 4 if SMOKE else 10_000,
        eval_episodes=2 if SMOKE else 10,
        final_episodes=2 if SMOKE else 20,
        keep=1,
        **changes,
    )


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    table = {}
    for pair in SWEPT_ON if SWEEP else PAIRS:
        short = pair.replace("/", "-")
        if SWEEP:
            agent = learners(pair)["moorl"][0]
            for steps in INNER_STEPS:
                own = replace(agent.experience, rollout_length=steps)
                one = replace(agent, inner_steps=steps, experience=own)
                sweep = {"meta_rate": RATES, "offline_probability": PROBABILITIES}
                changes: dict[str, Any] = {"sweep": sweep}
                table[f"{short}-K{steps}"] = run_config(pair, one, True, 0, **changes)
            continue
        for name, (agent, sees, prior) in learners(pair).items():
            table[f"{short}.{name}"] = run_config(pair, agent, sees, prior)
        if pair in HARD_PRESSED:
            rlpd = replace(learners(pair)["rlpd"][0], utd=20)
            table[f"{short}.rlpd-20"] = run_config(pair, rlpd, True, 0)
    return table


def gpu_minutes(run: RunConfig) -> float:
    """Return an estimate, a minute for compilation and evaluations included."""
    pace = SECONDS[run.agent.name]
    if getattr(run.agent, "utd", 1) > 1:
        pace = SECONDS_RLPD_20
    members = len(run.members) / SEEDS
    return 1 + pace * run.steps / 60_000 * (1 + 0.3 * (members - 1))


def scores_of(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised scores of the last weights and mean heights of the online curves, `[S]`.

    A run without a dataset is judged by the reference of the one its rivals learn from.
    """
    reference = _references(run.path.parent)[run.config.env.id]
    low, high = reference["low"], reference["high"]

    def scale(x: Any) -> np.ndarray:
        return 100 * (np.asarray(x, np.float64) - low) / (high - low)

    steps, values = read_metric(run.path / "evaluations.jsonl", "eval/return")
    online = steps >= (run.config.offline_steps or 0)
    area = area_under_curve(steps[online], scale(values[online]))
    return scale(run.result["last"]["eval/return"]), area


def _references(runs: Path) -> dict[str, dict[str, float]]:
    found = {}
    for file in runs.glob("*/dataset.json"):
        reference = json.loads(file.read_text())["reference"]
        config = json.loads((file.parent / "config.json").read_text())
        if reference is not None:
            found[config["env"]["id"]] = reference
    return found


def compare(runs: Path, out: Path) -> None:
    """Write the comparison over pairs that every learner of a row has finished, and the curves."""
    last: dict[str, dict[str, np.ndarray]] = {}
    area: dict[str, dict[str, np.ndarray]] = {}
    curves: dict[str, dict[str, Curve]] = {}
    for name in configs():
        if not (runs / name / "result.json").exists():
            continue
        pair, _, learner = name.partition(".")
        run = Run(runs / name)
        if run.config.env.id not in _references(runs):
            continue  # random data have no reference unless a better set was made
        score, height = scores_of(run)
        last.setdefault(learner, {})[pair] = score
        area.setdefault(learner, {})[pair] = height
        steps, values = read_metric(run.path / "evaluations.jsonl", "eval/return")
        kept = steps - (run.config.offline_steps or 0)
        curves.setdefault(pair, {})[learner] = Curve(kept[kept >= 0], values[kept >= 0])
    rows = [
        "| learner | pairs | IQM of last scores [95 %] | IQM of areas [95 %] "
        "| P(MOORL better) [95 %] |",
        "|---|---|---|---|---|",
    ]
    for learner, found in last.items():
        common = sorted(set(found) & set(last.get("moorl", {})))
        if not common:
            continue
        ours, theirs, heights = (
            np.stack([table[pair] for pair in common], axis=1)
            for table in (last["moorl"], found, area[learner])
        )
        cells = []
        for scores in (theirs, heights):
            low, high = bootstrap_interval(iqm, scores)
            cells.append(f"{iqm(scores):.1f} [{low:.1f}, {high:.1f}]")
        low, high = bootstrap_interval(probability_of_improvement, ours, theirs)
        better = f"{probability_of_improvement(ours, theirs):.2f} [{low:.2f}, {high:.2f}]"
        rows.append(f"| {learner} | {len(common)} | {' | '.join(cells)} | {better} |")
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))
    for pair, lines in curves.items():
        shown = {name: curve for name, curve in lines.items() if not name.endswith("-pre")}
        learning_curves(out / f"{pair}.png", shown, metric="return", title=pair)


def sweep_report(runs: Path, out: Path) -> None:
    """Write the mean area of every setting, the best of all, and the curves of each K at its best.

    Areas are of returns normalised by the dataset's reference, averaged over pairs.
    """
    areas: dict[tuple[float, ...], list[float]] = {}
    curves: dict[tuple[float, ...], Curve] = {}
    for name, config in configs().items():
        if not (runs / name / "result.json").exists():
            continue
        run = Run(runs / name)
        _, area = scores_of(run)
        steps, values = read_metric(run.path / "evaluations.jsonl", "eval/return")
        inner = int(name.rpartition("-K")[2])
        for i, setting in enumerate(config.settings):
            members = slice(i * SEEDS, (i + 1) * SEEDS)
            key: tuple[float, ...] = (inner, *setting.values())
            areas.setdefault(key, []).append(float(area[members].mean()))
            if name.startswith(SWEPT_ON[0].replace("/", "-")):
                curves[key] = Curve(steps, values[:, members])
    if not areas:
        return
    rows = ["| K | meta rate | offline probability | pairs | mean area |", "|---|---|---|---|---|"]
    ranked = sorted(areas, key=lambda key: -np.mean(areas[key]))
    for key in ranked:
        shown = " | ".join(f"{x:g}" for x in key)
        rows.append(f"| {shown} | {len(areas[key])} | {np.mean(areas[key]):.1f} |")
    names = ("inner_steps", "meta_rate", "offline_probability")
    best = ", ".join(f"{n} {x:g}" for n, x in zip(names, ranked[0], strict=True))
    rows += ["", f"Recommended by these runs: {best}."]
    out.mkdir(parents=True, exist_ok=True)
    (out / "sweep.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))
    lines = {}
    for steps in INNER_STEPS:
        found = [key for key in ranked if key[0] == steps and key in curves]
        if found:
            name = f"K {steps}, rate {found[0][1]:g}, p {found[0][2]:g}"
            lines[name] = curves[found[0]]
    if lines:
        learning_curves(out / "sweep.png", lines, metric="return", title=SWEPT_ON[0])


if __name__ == "__main__":
    sys.argv = [word for word in sys.argv if word not in ("--smoke", "--sweep")]
    reproduce(NAME, __doc__ or "", configs(), gpu_minutes, sweep_report if SWEEP else compare)
