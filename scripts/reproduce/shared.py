"""What the reproduction scripts share: train what is missing, in pieces, then tabulate.

Every run is an ordinary run directory below `--runs`; `rlssm resume`, `evaluate` and `plot` work
on each. `--plan` says what is left and what it costs, `--shard 0/3` takes one of three processes
side by side, `--minutes 9` stops in time (the next call goes on, be it on another machine that the
folder of runs was moved to), `--only TEXT` picks runs by name, `--slim` keeps of a complete run all
but its last checkpoint, which may hold a replay of gigabytes.
"""

import argparse
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlssm import RunConfig, fit
from rlssm.evaluation.statistics import bootstrap_interval, iqm, mean
from rlssm.train.run import Run

SETTLING = 60  # seconds that a run needs before it can be told to stop


def tabulate(script: str, configs: Mapping[str, RunConfig], runs: Path, out: Path) -> str:
    """Write and return the table of all complete runs."""
    rows: list[str] = []
    records: dict[str, Any] = {}
    for name, config in configs.items():
        if not (runs / name / "result.json").exists():
            continue
        result = Run(runs / name).result
        made_with = json.loads((runs / name / "environment.json").read_text())
        record: dict[str, Any] = {
            "command": f"python scripts/reproduce/{script}.py --only {name}",
            "device": made_with["device_kind"],
            "jax": made_with["packages"]["jax"],
            "revision": made_with["git_revision"],
            "steps": config.steps,
            "stopped_after": max(result["last"]["steps"]),
            "seeds": list(range(config.seeds)),
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
        steps = f"{config.steps / 1e6:g}M"
        if record["stopped_after"] < config.steps:
            steps = f"{record['stopped_after'] / 1e6:g}M of {steps}"
        success = f"{100 * np.mean(last['success']):.1f} %" if last["success"] else "–"
        rows.append(
            f"| {name} | {config.agent.core.name} | {steps} "
            f"| {last['mean']:.3f} [{last['interval'][0]:.3f}, {last['interval'][1]:.3f}] "
            f"| {min(last['returns']):.3f} | {last['iqm']:.3f} | {success} "
            f"| {best['mean']:.3f} |"
        )
    header = (
        "| run | core | steps | last: mean [95 %] | worst seed | IQM | success | best: mean |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    table = header + "\n".join(rows) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(table)
    (out / "results.json").write_text(json.dumps(records, indent=1) + "\n")
    return table


def refuse_another(path: Path, config: RunConfig) -> None:
    """Stop where a complete run was made with other settings than it would be tabulated under."""
    if not (path / "result.json").exists():
        return
    made = Run(path).config
    for field in ("agent", "sim", "seed", "seeds", "steps"):
        if getattr(made, field) != getattr(config, field):
            raise SystemExit(f"{path} holds a complete run of another {field}; move it away")


def reproduce(
    script: str,
    description: str,
    configs: Mapping[str, RunConfig],
    gpu_minutes: float | Callable[[RunConfig], float],
    report: Callable[[Path, Path], None] | None = None,
    enough: Callable[[Run], bool] | None = None,
) -> None:
    """Train and tabulate, as the command line asks.

    Args:
        script: its name, which the folders of runs and results have too.
        description: its docstring.
        configs: the configuration of every run by its name.
        gpu_minutes: of one GPU per run, compilation included, or a function that tells.
        report: called at the end with the folders of runs and of results, to write more of them.
        enough: says of a run at its log points whether it may end there.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs") / script)
    parser.add_argument("--out", type=Path, default=Path("results") / script)
    parser.add_argument("--only", default="", help="train only runs whose name contains this")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run from the i-th on")
    parser.add_argument("--minutes", type=float, default=60, help="stop after this long")
    parser.add_argument("--slim", action="store_true", help="remove what complete runs need not")
    parser.add_argument("--plan", action="store_true", help="say what is left and what it costs")
    args = parser.parse_args()
    index, count = map(int, args.shard.split("/"))
    for name, config in configs.items():
        refuse_another(args.runs / name, config)
    todo = [
        (name, config)
        for i, (name, config) in enumerate(configs.items())
        if args.only in name
        and i % count == index
        and not (args.runs / name / "result.json").exists()
    ]
    if isinstance(gpu_minutes, (int, float)):
        minutes = gpu_minutes * len(todo)
    else:
        minutes = sum(gpu_minutes(config) for _, config in todo)
    print(f"{len(todo)} runs left, about {minutes:.0f} minutes of one H100 GPU", flush=True)
    if args.plan:
        return
    timer = threading.Timer(60 * args.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    until = time.perf_counter() + 60 * args.minutes
    for i, (name, config) in enumerate(todo):
        started = time.perf_counter()
        if i and started > until - SETTLING:
            print("out of time; call again to go on", flush=True)
            break
        run = fit(config, args.runs / name, progress=False, enough=enough)
        seconds = time.perf_counter() - started
        if not run.complete:
            print("out of time; call again to go on", flush=True)
            break
        if args.slim:
            shutil.rmtree(run.checkpoints.folder / str(run.checkpoints.latest()))
        last = np.array(run.result["last"]["eval/return"]).round(3)
        print(f"{name}: {seconds:.0f} s, last {last.tolist()}", flush=True)
    timer.cancel()
    print(tabulate(script, configs, args.runs, args.out))
    if report is not None:
        report(args.runs, args.out)
