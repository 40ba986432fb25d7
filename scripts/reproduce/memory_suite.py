"""The memory suite, 39 tasks: S5 against a GRU and an LSTM of as many parameters, and no memory.

    python scripts/reproduce/memory_suite.py [--plan] [--only NAME] [--shard I/N] [--minutes M]
    python scripts/reproduce/memory_suite.py --published [...]     popjaxrl's own setting, two tasks

The fast preset: 128 environments x 256 steps, 4 epochs, 5 million steps, three seeds by vmap; one
setting for all tasks and cores, never tuned. All agents see the first-step flag and are as wide as
brings their parameters nearest to those of S5; those with memory see their last action too. One
without memory could write a cue down in it, so it does not.
The easy tasks come first, then the medium ones, then the hard ones. What was cut: the published
runs have 15 million steps, 30 epochs and 1,024 steps a rollout, which `--published` keeps for S5
and the GRU (of popjaxrl's size, not matched) on two tasks.

Trains what is missing, then writes `results/memory-suite/`: table.md per run; suite.md with MMER
(the greatest mean episode return at any log point of training, per seed) and the return of the
greedy last weights by task, the means over tasks with 95 % intervals, and what S5 won and lost. See
shared.py beside this file. `--smoke` makes every run tiny. Not run on a GPU yet: the minutes are
estimates, for four shards side by side.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from matching import matched, parameters
from shared import reproduce

from rlssm import (
    EnvConfig,
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    NoneConfig,
    PPOConfig,
    RunConfig,
    S5Config,
    TorsoConfig,
)
from rlssm.algorithms.ppo import PRESETS
from rlssm.envs.memory_suite import LEVELS, PUBLISHED
from rlssm.evaluation.statistics import bootstrap_interval, mean, probability_of_improvement
from rlssm.io.logging import read_metric
from rlssm.train.run import Run

SEEDS = 3
SMOKE, AS_PUBLISHED = "--smoke" in sys.argv, "--published" in sys.argv
NAME = "memory-suite" + "-published" * AS_PUBLISHED + "-smoke" * SMOKE
STEPS = 15_000_000 if AS_PUBLISHED else 5_000_000
TWO = ("RepeatPreviousMedium", "StatelessCartPoleHard")  # in the published setting
RIVALS = ("gru", "lstm", "none")

FAST = PPOConfig(
    core=S5Config(layers=4, state_size=256),
    torso=TorsoConfig(width=256, hidden=(128,), observe_reward=False),
    heads=MLPConfig((128, 128)),
    num_envs=128,
    rollout_length=256,
    epochs=4,
    minibatches=8,
    learning_rate=3e-4,
    anneal_steps=STEPS,
    entropy_coef=0.01,
)
TINY = replace(
    FAST,
    core=S5Config(layers=1, state_size=8),
    torso=replace(FAST.torso, width=16, hidden=()),
    heads=MLPConfig(()),
    num_envs=8,
    rollout_length=32,
    minibatches=2,
)
MINUTES = {"s5": 0.7, "gru": 0.8, "lstm": 0.8, "none": 0.35}
MINUTES_PUBLISHED = {"s5": 12.0, "gru": 40.0}


def agents() -> dict[str, PPOConfig]:
    """Return the agents by the name of their core."""
    if AS_PUBLISHED:
        theirs = PRESETS["popjaxrl"]
        if SMOKE:
            small = {"num_envs": 8, "rollout_length": 32, "epochs": 1, "minibatches": 2}
            theirs = replace(theirs, core=TINY.core, torso=TINY.torso, **small)
        return {"s5": theirs, "gru": replace(theirs, core=GRUConfig())}
    ours = TINY if SMOKE else FAST
    blind = replace(ours.torso, observe_action=False)
    return {
        "s5": ours,
        "gru": matched(ours, GRUConfig()),
        "lstm": matched(ours, LSTMConfig()),
        "none": matched(replace(ours, torso=blind), NoneConfig()),
    }


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    by_level = [task for level in LEVELS for task in PUBLISHED if task.endswith(level)]
    tasks, names = TWO if AS_PUBLISHED else by_level, list(agents())
    every = [
        (task, names[(i + j) % len(names)])  # so that no shard has one core's runs alone
        for i, task in enumerate(tasks)
        for j in range(len(names))
    ]
    return {
        f"{task}-{name}": RunConfig(
            env=EnvConfig(task),
            agent=agents()[name],
            steps=2 * agents()[name].steps_per_update if SMOKE else STEPS,
            seeds=SEEDS,
            eval_every=STEPS,
            eval_episodes=2 if SMOKE else 128,  # as at the end: one program fewer to compile
            final_episodes=2 if SMOKE else 128,
            keep=1,
        )
        for task, name in every
    }


def gpu_minutes(run: RunConfig) -> float:
    """Return an estimate, compilation and evaluations included."""
    return (MINUTES_PUBLISHED if AS_PUBLISHED else MINUTES)[run.agent.core.name]


# --- What came out ----------------------------------------------------------------------------


def scores_of(run: Run) -> dict[str, np.ndarray]:
    """Return MMER, NaN where no episode ended, and the last weights' return, `[S]` each."""
    _, values = read_metric(run.path / "metrics.jsonl", "episode/return")
    ended = np.isfinite(values).any(0)
    return {
        "MMER": np.where(ended, np.where(np.isfinite(values), values, -np.inf).max(0), np.nan),
        "last": np.array(run.result["last"]["eval/return"]),
    }


def report(runs: Path, out: Path) -> None:
    """Write suite.md, over the tasks that all agents have finished."""
    names = list(agents())
    tasks = {name.rpartition("-")[0]: None for name in configs()}
    found = {
        task: {name: scores_of(Run(runs / f"{task}-{name}")) for name in names}
        for task in tasks
        if all((runs / f"{task}-{name}" / "result.json").exists() for name in names)
    }
    if not found:
        return
    counts = ", ".join(f"{name} {parameters(agent):,}" for name, agent in agents().items())
    lines = [f"Parameters, for 4 observations and 4 actions: {counts}.", ""]
    for metric in ("MMER", "last"):
        scored = [t for t in found if all(np.isfinite(found[t][n][metric]).all() for n in names)]
        left_out = [task for task in found if task not in scored]
        if left_out:
            lines += [f"No episode of some agent ended in training: {', '.join(left_out)}.", ""]
        if scored:
            table = {n: np.stack([found[task][n][metric] for task in scored], 1) for n in names}
            lines += [*means(metric, table), "", *by_task(metric, scored, table), ""]
    (out / "suite.md").write_text("\n".join(lines))
    print("\n".join(lines))


def means(metric: str, table: dict[str, np.ndarray]) -> list[str]:
    """Return the rows of the means over tasks, and of how S5 compares."""
    tasks = table["s5"].shape[1]
    rows = [
        f"| {metric}, {tasks} tasks | mean [95 %] | S5 less this [95 %] | P(S5 better) [95 %] |",
        "|---|---|---|---|",
    ]
    for name, scores in table.items():
        low, high = bootstrap_interval(mean, scores)
        cells = [f"{mean(scores):.3f} [{low:.3f}, {high:.3f}]", "", ""]
        if name != "s5":
            for i, compare in ((1, less), (2, probability_of_improvement)):
                low, high = bootstrap_interval(compare, table["s5"], scores)
                cells[i] = f"{compare(table['s5'], scores):.3f} [{low:.3f}, {high:.3f}]"
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def by_task(metric: str, tasks: list[str], table: dict[str, np.ndarray]) -> list[str]:
    """Return a row for each task, and how many of them S5 won and lost against each rival.

    A task is won or lost where the 95 % interval of the difference leaves 0 out; of three seeds
    such intervals are too narrow (`bootstrap_interval`).
    """
    rows = [f"| {metric} | {' | '.join(table)} |", "|---" * (len(table) + 1) + "|"]
    for i, task in enumerate(tasks):
        columns = (scores[:, i] for scores in table.values())
        cells = [f"{x.mean():.3f} ± {x.std():.3f}" for x in columns]
        rows.append(f"| {task} | {' | '.join(cells)} |")
    rows += ["", f"Won and lost by intervals over {SEEDS} seeds, which are too narrow:", ""]
    for name in (rival for rival in RIVALS if rival in table):
        won, lost = [], []
        for i, task in enumerate(tasks):
            low, high = bootstrap_interval(less, table["s5"][:, i], table[name][:, i])
            if low > 0:
                won.append(task)
            if high < 0:
                lost.append(task)
        even = len(tasks) - len(won) - len(lost)
        rows.append(f"S5 against {name}: won {len(won)}, even {even}, lost {len(lost)}: {lost}.")
    return rows


def less(x: np.ndarray, y: np.ndarray) -> float:
    """Return by how much the mean of the first exceeds that of the second."""
    return mean(x) - mean(y)


if __name__ == "__main__":
    sys.argv = [word for word in sys.argv if word not in ("--smoke", "--published")]
    reproduce(NAME, __doc__ or "", configs(), gpu_minutes, report)
