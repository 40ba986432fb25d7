"""Learn Crafter from one life and evaluate what was learned, once for each life; then summarise.

A life is at most 2,000 steps without reward or language model; laws are synthesised from it alone
and evaluated in all 38 scenarios by ten trials, in the default reading and, refitted to the same
life by the published schedule, in the published one, against PoE-World on the same laws with
weights fitted to what it sees. Laws and figures are kept in the folder as they come, so that a
stopped run goes on where it stopped, and lives can be run side by side before they are summarised.

    python scripts/reproduce/onelife.py --lives 0 1 2 3 4 --workers 2 --out results/onelife
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlssm.evaluation.statistics import bootstrap_interval, mean
from rlssm.world_models import contenders, mutators
from rlssm.world_models.contenders import Contender
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.evidence import Evidence
from rlssm.world_models.explorer import live
from rlssm.world_models.fitting import fit
from rlssm.world_models.law_json import load_model, save_model
from rlssm.world_models.likelihood import Model
from rlssm.world_models.oracle_laws import oracle_laws
from rlssm.world_models.ranking import METRICS, Row, evaluate, overall, wins
from rlssm.world_models.record import Record
from rlssm.world_models.recovery import recovered
from rlssm.world_models.scenarios import chosen
from rlssm.world_models.synthesis import synthesise

CONTENDERS = 7
SETS = {"failure": ("failure", "only"), "success": ("success", "only")}
MUTATORS = {"seven": mutators.PUBLISHED, "eight": tuple(mutators.MUTATORS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes that evaluate")
    parser.add_argument("--out", type=Path, default=Path("results/onelife"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lives = []
    for seed in args.lives:
        lives.append(one_life(seed, args.steps, args.trials, args.out, args.workers))
        print(line(lives[-1]), flush=True)
    summary = summarise(lives)
    (args.out / "learned.json").write_text(json.dumps(summary, indent=1) + "\n")
    for name, figures in summary["contenders"].items():
        for which in ("full", "failure"):
            shown = "   ".join(spoken(m, figures[f"seven {which}"][m]) for m in METRICS[:4])
            print(f"{name:20} {which:8} {shown}")


def one_life(seed: int, steps: int, trials: int, folder: Path, workers: int = 1) -> dict[str, Any]:
    """Return all figures of one life; what is in the folder already is not made again."""
    path, laws = folder / f"life-{seed}.json", folder / f"laws-{seed}.json"

    def save(found: dict[str, Any]) -> None:
        path.write_text(json.dumps(found, indent=1) + "\n")

    if not path.exists():
        save(learn(seed, steps, laws))
    found = json.loads(path.read_text())
    left = [
        many
        for many in MUTATORS
        if sum(f"{many} full" in f for f in found["contenders"].values()) < CONTENDERS
    ]
    if left:
        life = list(live(seed, steps))
        competing = field(load_model(laws, CrafterView()), life)
        rows = evaluate_all(competing, left, trials, workers)
        for many in left:
            note(found["contenders"], rows[many], many)
        save(found)
    return found


def learn(seed: int, steps: int, path: Path) -> dict[str, Any]:
    """Live a life and learn from it; write the laws to `path` and return what it took."""
    clock = Clock()
    life = list(live(seed, steps))
    lived = clock()
    record = Record(CrafterView(), life)
    model = synthesise(record, lambda text: print(f"  life {seed}: {text}", flush=True)).model
    learned = clock()
    fit(record, model.laws)
    refitted = clock()
    save_model(model, path)
    after = life[-1][2].player
    return {
        "seed": seed,
        "steps": len(life),
        "achievements": sorted(k for k, count in after.achievements.items() if count),
        "laws": len(model.laws),
        "load": os.getloadavg()[0],
        "seconds": {"living": lived, "learning": learned, "one fit": refitted},
        "oracle laws recovered": {
            law.name: has for law, has in recovered(model, oracle_laws(), record)
        },
        "contenders": {},
    }


class Clock:
    """Wall and processor seconds since it was read last."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()

    def __call__(self) -> dict[str, float]:
        before, self._last = self._last, (time.perf_counter(), time.process_time())
        return {
            "wall": round(self._last[0] - before[0], 2),
            "processor": round(self._last[1] - before[1], 2),
        }


def field(model: Model, life: Sequence[Any]) -> list[Contender]:
    """Return the model and what it is compared with."""
    seen = Record(CrafterView(reference=True), life)
    reference = fit(seen, model.laws, "published").model
    votes = {key: v for key, v in seen.votes(model.laws).items() if contenders.seen_by_poe(key[1])}
    as_poe = fit(seen, model.laws, evidence=Evidence(seen, model.laws, votes)).model
    return [
        contenders.of_model(model, "default"),
        contenders.unfitted(model),
        contenders.of_model(reference, "reference"),
        contenders.unfitted(replace(model, world=seen.world))._replace(name="reference unfitted"),
        contenders.poe_world(as_poe),
        contenders.null(),
        contenders.random(),
    ]


_competing: list[Contender] = []  # what a worker finds in its copy of this process


def evaluate_all(
    competing: Sequence[Contender], mutators: Sequence[str], trials: int, workers: int
) -> dict[str, dict[str, list[Row]]]:
    """Return the rows of every contender under each choice of mutators."""
    _competing[:] = competing
    jobs = [(i, many, trials) for many in mutators for i in range(len(competing))]
    if workers == 1:
        rows = [one_contender(*job) for job in jobs]
    else:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            rows = pool.starmap(one_contender, jobs, chunksize=1)
    found: dict[str, dict[str, list[Row]]] = {many: {} for many in mutators}
    for (i, many, _), values in zip(jobs, rows, strict=True):
        pairs = zip(chosen("all"), values, strict=True)
        found[many][competing[i].name] = [Row(scenario, *value) for scenario, value in pairs]
    return found


def one_contender(index: int, many: str, trials: int) -> list[tuple]:
    rows = evaluate(_competing[index], chosen("all"), trials, 0, MUTATORS[many])
    return [tuple(row)[1:] for row in rows]  # scenarios are functions, which do not travel


def note(found: dict[str, Any], rows: dict[str, list[Row]], many: str) -> None:
    """Add the figures of every contender under some mutators, by set of scenarios, and who won."""
    for name, each in rows.items():
        mine = found.setdefault(name, {})
        for which, part in subsets(each).items():
            figures: dict[str, Any] = {m: overall(part, m)._asdict() for m in METRICS}
            poe = subsets(rows["PoE-World"])[which]
            figures["scenarios won against PoE-World"] = wins(part, poe)
            mine[f"{many} {which}"] = figures
        if many == "seven":
            mine["scenarios"] = {
                row.scenario.id: {m: row.metric(m).mean for m in METRICS} for row in each
            }


def subsets(rows: Sequence[Row]) -> dict[str, list[Row]]:
    parts = {k: [r for r in rows if r.scenario.variant in v] for k, v in SETS.items()}
    return {"full": list(rows), **parts}


def summarise(lives: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over lives with 95 % intervals that resample lives."""

    def over(read: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
        values = np.array([read(life) for life in lives])
        interval = list(bootstrap_interval(mean, values)) if len(values) > 1 else None
        return {"mean": float(values.mean()), "interval": interval, "lives": values.tolist()}

    found: dict[str, Any] = {}
    for name, sets in lives[0]["contenders"].items():
        found[name] = {
            which: {
                **{
                    m: over(lambda life, n=name, w=which, m=m: life["contenders"][n][w][m]["mean"])
                    for m in METRICS
                },
                "scenarios won against PoE-World": over(
                    lambda life, n=name, w=which: life["contenders"][n][w][
                        "scenarios won against PoE-World"
                    ]
                ),
            }
            for which in sets
            if which != "scenarios"
        }
    return {
        "lives": [life["seed"] for life in lives],
        "steps": over(lambda life: life["steps"]),
        "laws": over(lambda life: life["laws"]),
        "oracle laws recovered, of those that were active in the life": over(share),
        "oracle laws recovered, of all": over(
            lambda life: sum(life["oracle laws recovered"].values()) / len(oracle_laws())
        ),
        "contenders": found,
    }


def share(life: dict[str, Any]) -> float:
    return float(np.mean(list(life["oracle laws recovered"].values())))


def spoken(metric: str, figure: dict[str, Any]) -> str:
    interval = figure["interval"]
    spread = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return f"{metric} {figure['mean']:.3f}{spread}"


def line(life: dict[str, Any]) -> str:
    found = life["contenders"]["default"]["seven full"]
    seconds = sum(part["processor"] for part in life["seconds"].values())
    return (
        f"life {life['seed']}: {life['steps']} steps, {life['laws']} laws, MRR "
        f"{found['mrr']['mean']:.3f}, R@1 {found['r_at_1']['mean']:.3f}, edits "
        f"{found['edits']['mean']:.2f}, recovered {share(life):.2f}, {seconds:.0f} s of CPU time"
    )


if __name__ == "__main__":
    main()
