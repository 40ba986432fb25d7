"""Learning within memory across tasks: S5 against rivals on meta-cartpole, classic and control.

    python scripts/reproduce/meta.py [--plan] [--only NAME] [--shard I/N] [--minutes M]

Meta-PPO with S5; the same with memory dropped at every episode (`forgetful`); with a GRU of as many
parameters; and without memory, of as many parameters, seeing neither its last action nor its last
reward, in which it could write things down. Three seeds by vmap, one setting for all but the length
of rollouts in `control`, never tuned. The discount of those that remember reaches over a trial:
with a shorter one an early fall would cost nothing, and doing better late would pay by itself.
The two that cannot count episodes are paid by the episode, as in PPO. An agent trained on one task
alone, the third comparison one could ask for, is not among them.

Trains what is missing, then writes `results/meta/`: table.md per run; adaptation.md with the score
by the episode of a trial on tasks learnt from and held out, its rise from the first episode to the
last, and how S5 compares, with 95 % intervals over seeds; curves.json; a picture for each suite and
part. See shared.py beside this file. `--smoke` makes every run tiny. Not run on a GPU yet: the
minutes are estimates, most of those of `control` for the physics, and its evaluations, which a stop
waits for, take about two at a time.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matching import matched, parameters
from shared import reproduce

from rlssm import EnvConfig, GRUConfig, MLPConfig, NoneConfig, RunConfig, S5Config, TorsoConfig
from rlssm.algorithms.meta_ppo import MetaPPOConfig
from rlssm.envs.trials import TrialConfig
from rlssm.evaluation.plots import adaptation_curves
from rlssm.evaluation.statistics import bootstrap_interval, mean
from rlssm.train.run import Run

SEEDS = 3
SMOKE = "--smoke" in sys.argv
NAME = "meta" + "-smoke" * SMOKE
STEPS = {"meta-cartpole": 30_000_000, "classic": 30_000_000, "control": 10_000_000}
AGENT = MetaPPOConfig(
    core=S5Config(layers=4, state_size=256),
    torso=TorsoConfig(width=256, hidden=(128,)),
    heads=MLPConfig((128,)),
    num_envs=512,
    rollout_length=256,
    epochs=4,
    minibatches=8,
    learning_rate=3e-4,
    discount=0.9997,
    entropy_coef=0.01,
)
TINY = replace(
    AGENT,
    core=S5Config(layers=1, state_size=8),
    torso=TorsoConfig(width=16, hidden=()),
    heads=MLPConfig(()),
    num_envs=8,
    rollout_length=16,
    minibatches=2,
)
PARTS = ("train", "held_out")
# Minutes of a run: compiling, evaluating and acting, and learning, by the core.
BESIDE = {"meta-cartpole": 1.5, "classic": 3.0, "control": 12.0}
LEARNING = {"s5": 1.5, "gru": 1.5, "none": 0.5}  # of 30 million steps


def agents(suite: str) -> dict[str, MetaPPOConfig]:
    """Return the agents of a suite by name."""
    ours = TINY if SMOKE else AGENT
    if suite == "control" and not SMOKE:  # where acting is what takes the time
        ours = replace(ours, rollout_length=128)
    ours = replace(ours, anneal_steps=STEPS[suite])
    blind = replace(ours.torso, observe_action=False, observe_reward=False)
    by_episode = replace(ours, across_episodes=False, discount=0.995)
    return {
        "s5": ours,
        "forgetful": by_episode,
        "gru": matched(ours, GRUConfig()),
        "none": matched(replace(by_episode, torso=blind), NoneConfig()),
    }


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    table = {}
    for suite, steps in STEPS.items():
        for name, agent in agents(suite).items():
            kept = name != "forgetful"
            trial = TrialConfig(episodes=2 if SMOKE else None, keep_memory=kept)
            table[f"{suite}.{name}"] = RunConfig(
                env=EnvConfig(f"tasks/{suite}", trial=trial),
                agent=agent,
                steps=2 * agent.steps_per_update if SMOKE else steps,
                seeds=SEEDS,
                eval_every=steps // 2,
                eval_episodes=1 if SMOKE else 256,  # as at the end: fewer programs to compile
                final_episodes=1 if SMOKE else 256,
                keep=1,
            )
    return table


def gpu_minutes(run: RunConfig) -> float:
    """Return an estimate, compilation and evaluations included."""
    suite = run.env.id.removeprefix("tasks/")
    return BESIDE[suite] + LEARNING[run.agent.core.name] * run.steps / 30e6


# --- What came out ----------------------------------------------------------------------------


def report(runs: Path, out: Path) -> None:
    """Write scores by episode: the table, the numbers and the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    curves: dict[str, Any] = {}
    for suite in STEPS:
        found = {
            name: Run(runs / f"{suite}.{name}").result["last"]["adaptation"]
            for name in agents(suite)
            if (runs / f"{suite}.{name}" / "result.json").exists()
        }
        if not found:
            continue
        curves[suite] = found
        counts = ", ".join(f"{n} {parameters(a):,}" for n, a in agents(suite).items())
        lines += [f"{suite}; parameters, for 4 observations and 4 actions: {counts}", ""]
        for part in PARTS:
            scores = {name: np.array(parts[part]["mean"]) for name, parts in found.items()}
            lines += [*by_episode(part, scores), ""]
            picture = out / f"{suite}-{part.replace('_', '-')}.png"
            title = f"{suite}, {part.replace('_', ' ')}"
            adaptation_curves(picture, scores, title=title)
    (out / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    (out / "adaptation.md").write_text("\n".join(lines))
    print("\n".join(lines))


def by_episode(part: str, scores: dict[str, np.ndarray]) -> list[str]:
    """Return the rows of one part of a suite, from scores `[S, K]` by the agents' names."""
    last = next(iter(scores.values())).shape[1]
    shown = sorted({1, 2, 4, 8, 16, last} & set(range(1, last + 1)))
    rows = [
        f"| {part.replace('_', ' ')} | {' | '.join(f'episode {k}' for k in shown)} "
        "| rise, last less first [95 %] | mean of a trial [95 %] | S5 less this [95 %] |",
        "|---" * (len(shown) + 4) + "|",
    ]
    for name, table in scores.items():
        whole = table.mean(1)
        cells = [f"{table[:, k - 1].mean():.3f}" for k in shown]
        cells += [with_interval(table[:, -1] - table[:, 0]), with_interval(whole)]
        if name == "s5" or "s5" not in scores:
            cells.append("")
        else:
            ours = scores["s5"].mean(1)
            low, high = bootstrap_interval(lambda x, y: mean(x) - mean(y), ours, whole)
            cells.append(f"{mean(ours) - mean(whole):.3f} [{low:.3f}, {high:.3f}]")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def with_interval(values: np.ndarray) -> str:
    low, high = bootstrap_interval(mean, values)
    return f"{mean(values):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    sys.argv = [word for word in sys.argv if word != "--smoke"]
    reproduce(NAME, __doc__ or "", configs(), gpu_minutes, report)
