"""S5, GRU and memoryless PPO on the memory tasks and on classic control: four seeds each.

    python scripts/reproduce/foundation.py                  trains what is missing, then tabulates
    python scripts/reproduce/foundation.py --plan           says what it will cost
    python scripts/reproduce/foundation.py --shard 0/3      one of three processes side by side
    python scripts/reproduce/foundation.py --minutes 9      stops in time; the next call goes on

Every run is an ordinary run directory below `--runs`; `rlssm resume`, `evaluate` and `plot` work
on each. The table goes to `results/foundation/`.

The memoryless agent sees neither its last action nor its last reward here: an agent that does can
write a cue down in its own actions, which solves RepeatFirst and MemoryChain without memory.
"""

import argparse
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlssm import EnvConfig, GRUConfig, NoneConfig, PPOConfig, RunConfig, S5Config, TorsoConfig, fit
from rlssm.evaluation.statistics import bootstrap_interval, iqm, mean
from rlssm.train.run import Run

SEEDS = 4
GPU_MINUTES = 0.75  # of one H100 per run, compilation included, with four shards side by side

AGENT = PPOConfig(num_envs=64, rollout_length=128, epochs=4, minibatches=8, precision="highest")
CORES = {"s5": S5Config(), "gru": GRUConfig(), "none": NoneConfig()}
MEMORYLESS = TorsoConfig(observe_action=False, observe_reward=False)


class Task(NamedTuple):
    """An environment, the cores to train on it, steps per seed, and what differs from `AGENT`."""

    env: str
    cores: tuple[str, ...]
    steps: int
    changes: dict[str, Any]


ALL = ("s5", "gru", "none")
EXPLORE = {"entropy_coef": 0.01}
TASKS = [
    Task("RepeatFirstEasy", ALL, 3_000_000, EXPLORE),
    Task("StatelessCartPoleEasy", ALL, 3_000_000, EXPLORE),
    Task("StatelessPendulumEasy", ALL, 8_000_000, {}),
    Task("MemoryChain-10", ALL, 1_000_000, EXPLORE),
    Task("MemoryChain-30", ALL, 2_000_000, EXPLORE),
    Task("MemoryChain-100", ALL, 3_000_000, EXPLORE),
    Task("CartPole-v1", ("none",), 2_000_000, EXPLORE),
    Task("Pendulum-v1", ("none",), 3_000_000, {"discount": 0.95, "reward_scale": 0.1}),
]


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    table = {}
    for task in TASKS:
        for core in task.cores:
            agent = replace(AGENT, core=CORES[core], anneal_steps=task.steps, **task.changes)
            if core == "none":
                agent = replace(agent, torso=MEMORYLESS)
            table[f"{task.env}-{core}"] = RunConfig(
                env=EnvConfig(task.env),
                agent=agent,
                steps=task.steps,
                seeds=SEEDS,
                eval_episodes=64,
                final_episodes=256,
            )
    return table


def tabulate(runs: Path, out: Path) -> str:
    """Write and return the table of all complete runs."""
    rows: list[str] = []
    records: dict[str, Any] = {}
    for name, config in configs().items():
        if not (runs / name / "result.json").exists():
            continue
        result = Run(runs / name).result
        made_with = json.loads((runs / name / "environment.json").read_text())
        record: dict[str, Any] = {
            "command": f"python scripts/reproduce/foundation.py --only {name}",
            "device": made_with["device_kind"],
            "jax": made_with["packages"]["jax"],
            "revision": made_with["git_revision"],
            "steps": config.steps,
            "seeds": list(range(SEEDS)),
        }
        for which in ("last", "best"):
            returns = np.array(result[which]["eval/return"])
            low, high = bootstrap_interval(mean, returns)
            record[which] = {
                "returns": returns.tolist(),
                "mean": mean(returns),
                "interval": [low, high],
                "iqm": iqm(returns),
                "success": result[which].get("eval/success"),
            }
        records[name] = record
        last, best = record["last"], record["best"]
        success = f"{100 * np.mean(last['success']):.1f} %" if last["success"] else "–"
        rows.append(
            f"| {config.env.id} | {config.agent.core.name} | {config.steps / 1e6:g}M "
            f"| {last['mean']:.3f} [{last['interval'][0]:.3f}, {last['interval'][1]:.3f}] "
            f"| {min(last['returns']):.3f} | {last['iqm']:.3f} | {success} "
            f"| {best['mean']:.3f} |"
        )
    header = (
        "| task | core | steps | last: mean [95 %] | worst seed | IQM | success | best: mean |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    table = header + "\n".join(rows) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(table)
    (out / "results.json").write_text(json.dumps(records, indent=1) + "\n")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/foundation"))
    parser.add_argument("--out", type=Path, default=Path("results/foundation"))
    parser.add_argument("--only", default="", help="train only runs whose name contains this")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run from the i-th on")
    parser.add_argument("--minutes", type=float, default=60, help="stop after this long")
    parser.add_argument("--plan", action="store_true", help="say what is left and what it costs")
    args = parser.parse_args()
    index, count = map(int, args.shard.split("/"))
    todo = [
        (name, config)
        for i, (name, config) in enumerate(configs().items())
        if args.only in name
        and i % count == index
        and not (args.runs / name / "result.json").exists()
    ]
    print(
        f"{len(todo)} runs of {SEEDS} seeds left, about {GPU_MINUTES * len(todo):.0f} minutes of "
        "one H100 GPU",
        flush=True,
    )
    if args.plan:
        return
    timer = threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    for name, config in todo:
        started = time.perf_counter()
        run = fit(config, args.runs / name, progress=False)
        seconds = time.perf_counter() - started
        if not run.complete:
            print("out of time; call again to go on", flush=True)
            return
        last = np.array(run.result["last"]["eval/return"]).round(3)
        print(f"{name}: {seconds:.0f} s, last {last.tolist()}", flush=True)
    timer.cancel()
    print(tabulate(args.runs, args.out))


if __name__ == "__main__":
    main()
