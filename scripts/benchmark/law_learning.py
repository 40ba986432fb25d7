"""Learn laws from one life of Crafter each and say how well they predict other lives.

    python scripts/benchmark/law_learning.py --lives 9 23 --out results/onelife/learning.json

Held-out transitions are the first 400 of a life in another world. The null model has no laws: all
persists, with rates fitted to the same life.
"""

import argparse
import json
import platform
import time
from pathlib import Path

from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.explorer import live
from rlssm.world_models.fitting import fit, log_probs
from rlssm.world_models.law_json import save_model
from rlssm.world_models.record import Record
from rlssm.world_models.synthesis import synthesise

HELD_OUT = 400
OTHER_WORLD = 1000  # added to the seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, nargs="+", default=[9, 23])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.lives:
        rows.append(learn(seed, options.steps, options.out.parent))
        report = {"machine": platform.processor() or platform.machine(), "lives": rows}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(rows[-1]))


def learn(seed: int, steps: int, folder: Path) -> dict[str, float]:
    world = CrafterView()
    begun = time.perf_counter(), time.process_time()
    record = Record(world, live(seed, steps))
    lived = time.perf_counter(), time.process_time()
    model = synthesise(record, print).model
    learned = time.perf_counter(), time.process_time()
    fit(record, model.laws)
    fitted = time.perf_counter(), time.process_time()
    save_model(model, folder / f"laws-{seed}.json")
    held_out = Record(world, live(seed + OTHER_WORLD, HELD_OUT))
    null = fit(record, ()).model
    return {
        "seed": seed,
        "steps": len(record),
        "laws": len(model.laws),
        "train_log_prob": float(log_probs(model, record).mean()),
        "held_out_steps": len(held_out),
        "held_out_log_prob": float(log_probs(model, held_out).mean()),
        "held_out_log_prob_null": float(log_probs(null, held_out).mean()),
        "seconds_living": lived[0] - begun[0],
        "seconds_learning": learned[0] - lived[0],
        "seconds_one_fit": fitted[0] - learned[0],
        "cpu_seconds_living": lived[1] - begun[1],
        "cpu_seconds_learning": learned[1] - lived[1],
        "cpu_seconds_one_fit": fitted[1] - learned[1],
    }


if __name__ == "__main__":
    main()
