"""Learn Crafter from one life and evaluate what was learned, once for each life; then summarise.

A life is at most 2,000 steps without reward or language model; laws are synthesised from it alone
and evaluated in all 38 scenarios by ten trials, in the default reading and, refitted to the same
life by the published schedule, in the published one, against PoE-World on the same laws with
weights fitted to what it sees. Laws and figures are kept in the folder as they come, so that a
stopped run goes on where it stopped. `--workers` processes learn from as many lives at a time, and
then evaluate scenario by scenario.

    python scripts/reproduce/onelife.py --lives 0 1 2 3 4 --workers 2 --out results/onelife
"""

import argparse
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

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

SETS = {"failure": ("failure", "only"), "success": ("success", "only")}
MUTATORS = {"seven": mutators.PUBLISHED, "eight": tuple(mutators.MUTATORS)}
SCENARIOS = chosen("all")
# The eighth mutator needs an action that places something: elsewhere it changes nothing.
EIGHTH = [number for number, s in enumerate(SCENARIOS) if s.name.startswith("place_")]
LONGEST_FIRST = sorted(range(len(SCENARIOS)), key=lambda number: -SCENARIOS[number].steps)

Job = TypeVar("Job")
Done = TypeVar("Done")
Found: TypeAlias = dict[str, Any]  # the figures of a life
Rows: TypeAlias = dict[str, dict[str, list[Row]]]  # by choice of mutators and contender


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes that learn and evaluate")
    parser.add_argument("--out", type=Path, default=Path("results/onelife"))
    parser.add_argument("--summary", default="learned.json", help="file of the means over lives")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lives = all_lives(args.lives, args.steps, args.trials, args.out, args.workers)
    for life in lives:
        print(line(life))
    summary = summarise(lives)
    (args.out / args.summary).write_text(json.dumps(summary, indent=1) + "\n")
    for name, figures in summary["contenders"].items():
        for which in ("full", "failure"):
            shown = "   ".join(spoken(m, figures[f"seven {which}"][m]) for m in METRICS[:4])
            print(f"{name:20} {which:8} {shown}")


def all_lives(
    seeds: Sequence[int], steps: int, trials: int, folder: Path, workers: int
) -> list[Found]:
    """Return the figures of all lives; what is in the folder already is not made again."""
    new = [seed for seed in seeds if not life_file(folder, seed).exists()]
    learning = [(seed, steps, folder) for seed in new]
    for seed, found in in_processes(learn, learning, workers):
        life_file(folder, seed).write_text(json.dumps(found, indent=1) + "\n")
    lives = {seed: json.loads(life_file(folder, seed).read_text()) for seed in seeds}
    for seed, found in lives.items():
        for name, asked in (("at most", steps), ("trials", trials)):
            if found.setdefault(name, asked) != asked:
                raise SystemExit(
                    f"{life_file(folder, seed)} was made with {name} {found[name]}, asked for are "
                    f"{asked}; name another folder with --out"
                )
    left = [seed for seed, found in lives.items() if not found["contenders"]]
    fitting = [(seed, steps, folder) for seed in left]
    models = dict(in_processes(fitted_models, fitting, workers))
    for seed, rows in evaluate_all(models, trials, workers):
        for many in MUTATORS:
            note(lives[seed]["contenders"], rows[many], many)
        life_file(folder, seed).write_text(json.dumps(lives[seed], indent=1) + "\n")
        print(f"life {seed}: evaluated", flush=True)
    return list(lives.values())


def life_file(folder: Path, seed: int) -> Path:
    return folder / f"life-{seed}.json"


def in_processes(do: Callable[[Job], Done], jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    """Yield what a function makes of each job, as they are done; processes are copies of this."""
    if min(workers, len(jobs)) <= 1:
        yield from map(do, jobs)
    else:
        with multiprocessing.get_context("fork").Pool(min(workers, len(jobs))) as pool:
            yield from pool.imap_unordered(do, jobs)


def learn(job: tuple[int, int, Path]) -> tuple[int, Found]:
    """Live a life and learn from it; keep the laws, and return what it took, with the seed."""
    seed, steps, folder = job
    clock = Clock()
    life = list(live(seed, steps))
    lived = clock()
    record = Record(CrafterView(), life)
    model = synthesise(record, lambda text: print(f"  life {seed}: {text}", flush=True)).model
    learned = clock()
    fit(record, model.laws)
    refitted = clock()
    save_model(model, folder / f"laws-{seed}.json")
    after = life[-1][2].player
    return seed, {
        "seed": seed,
        "steps": len(life),
        "at most": steps,
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


def fitted_models(job: tuple[int, int, Path]) -> tuple[int, tuple[Model, Model, Model]]:
    """Return the laws of a life as learned, as published, and as PoE-World weighs them."""
    seed, steps, folder = job
    model = load_model(folder / f"laws-{seed}.json", CrafterView())
    seen = Record(CrafterView(reference=True), live(seed, steps))
    reference = fit(seen, model.laws, "published").model
    votes = {key: v for key, v in seen.votes(model.laws).items() if contenders.seen_by_poe(key[1])}
    as_poe = fit(seen, model.laws, evidence=Evidence(seen, model.laws, votes)).model
    return seed, (model, reference, as_poe)


def field(model: Model, reference: Model, as_poe: Model) -> list[Contender]:
    """Return the model and what it is compared with."""
    plain = contenders.unfitted(replace(model, world=reference.world))
    return [
        contenders.of_model(model, "default"),
        contenders.unfitted(model),
        contenders.of_model(reference, "reference"),
        plain._replace(name="reference unfitted"),
        contenders.poe_world(as_poe),
    ]


# What a worker finds in its copy of this process: contenders by life, and those that have none.
_competing: dict[int | None, list[Contender]] = {None: [contenders.null(), contenders.random()]}


def evaluate_all(
    models: Mapping[int, tuple[Model, Model, Model]], trials: int, workers: int
) -> Iterator[tuple[int, Rows]]:
    """Yield the rows of every contender under each choice of mutators, life by life."""
    _competing.update({seed: field(*fitted) for seed, fitted in models.items()})
    tasks = [
        Task(seed, number, scenario, many, trials)
        for seed in ([None, *models] if models else [])
        for many, scenarios in (("seven", LONGEST_FIRST), ("eight", EIGHTH))
        for scenario in scenarios
        for number in range(len(_competing[seed]))
    ]
    left = Counter(task.life for task in tasks)
    values: dict[Task, tuple] = {}
    for task, value in in_processes(one_row, tasks, workers):
        values[task] = value
        left[task.life] -= 1
        if not left[None] and not left[task.life]:
            for seed in [seed for seed in left if seed is not None and not left[seed]]:
                yield seed, rows_of(seed, trials, values)
                del left[seed]


class Task(NamedTuple):
    """What a process does at a time; life None stands for what does not depend on it."""

    life: int | None
    contender: int
    scenario: int
    many: str
    trials: int


def one_row(task: Task) -> tuple[Task, tuple]:
    """Return what a contender reaches; the scenario itself, a function, does not travel."""
    scenario = SCENARIOS[task.scenario]
    contender = _competing[task.life][task.contender]
    (row,) = evaluate(contender, [scenario], task.trials, 0, MUTATORS[task.many])
    return task, tuple(row)[1:]


def rows_of(seed: int, trials: int, values: Mapping[Task, tuple]) -> Rows:
    """Return the rows of a life, with those of who competes in all of them."""

    def row(life: int | None, contender: int, number: int, many: str) -> Row:
        asked = many if number in EIGHTH else "seven"
        return Row(SCENARIOS[number], *values[Task(life, contender, number, asked, trials)])

    return {
        many: {
            contender.name: [row(life, index, n, many) for n in range(len(SCENARIOS))]
            for life in (seed, None)
            for index, contender in enumerate(_competing[life])
        }
        for many in MUTATORS
    }


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
