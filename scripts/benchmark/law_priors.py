"""Say how the price of weight and what deeds need bear on prediction in other worlds, and on ranks.

Laws learned from a life are fitted to it again with several prices of a unit of weight, and once
with guards that ask for what their deeds need. Judged by lives in two other worlds, seeds plus
1,000 and 2,000, 400 steps at most each: mean log probability of a transition, and how often the
true next state is at least as probable as the model's own draw, which is what R@1 comes down to
where no distractor is likelier than the truth. No scenario is looked at.

    python scripts/benchmark/law_priors.py --lives 0 2 3 4 --out results/onelife/priors.json
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlssm.world_models.analogies import SOURCE
from rlssm.world_models.contenders import of_model
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.deeds import needing
from rlssm.world_models.explorer import LIFE, live
from rlssm.world_models.fidelity import same
from rlssm.world_models.fitting import fit, log_probs
from rlssm.world_models.law_json import load_model
from rlssm.world_models.laws import Law
from rlssm.world_models.likelihood import Model
from rlssm.world_models.record import Record

PRICES = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0)
OTHER_WORLDS = (1000, 2000)  # added to the seed
HELD_OUT = 400
DRAWS = 150  # transitions of each held-out life of which next states are drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, nargs="+", default=[0, 2, 3, 4])
    parser.add_argument("--laws", type=Path, default=Path("results/onelife"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [row for seed in options.lives for row in judged(seed, options.laws)]
    named = {
        name: [row for row in rows if row["fit"] == name]
        for name in dict.fromkeys(row["fit"] for row in rows)
    }
    means = {
        name: {key: float(np.mean([row[key] for row in some])) for key in ("held_out", "first")}
        for name, some in named.items()
    }
    options.out.write_text(json.dumps({"means": means, "lives": rows}, indent=1) + "\n")


def judged(seed: int, folder: Path) -> list[dict]:
    """Return how well each fit of a life's laws predicts in other worlds."""
    world = CrafterView()
    model = load_model(folder / f"laws-{seed}.json", world)
    record = Record(world, live(seed, LIFE))
    others = [Record(world, live(seed + further, HELD_OUT)) for further in OTHER_WORLDS]
    fits = {f"price {price:g}": (model.laws, price) for price in PRICES}
    fits["price 5, needs"] = tuple(needing(record, model.laws)), 5.0
    rows = []
    for name, (laws, price) in fits.items():
        fitted = refitted(record, model, laws, price)
        row = {
            "life": seed,
            "fit": name,
            "train": float(log_probs(fitted, record).mean()),
            "held_out": float(np.concatenate([log_probs(fitted, o) for o in others]).mean()),
            "first": float(np.mean([truth_first(fitted, other) for other in others])),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def refitted(record: Record, model: Model, laws: Sequence[Law], price: float) -> Model:
    """Return laws fitted anew; those by analogy, of which the record says nothing, stay."""
    fitted = fit(record, laws, l1=price, start=model.weights).model
    pairs = zip(laws, fitted.weights, model.weights, strict=True)
    weights = tuple(old if law.source == SOURCE else new for law, new, old in pairs)
    return replace(fitted, weights=weights)


def truth_first(model: Model, record: Record) -> float:
    """Return how often the true next state is drawn, or likelier than what is; ties half."""
    contender = of_model(model)
    rng = np.random.default_rng(0)
    size = min(DRAWS, len(record))
    found = []
    for index in rng.choice(len(record), size, replace=False):
        state, action, after = record.transitions[index]
        drawn = contender.sample(state, action, rng)
        truth, other = contender.scores(state, action, [after, drawn])
        found.append(1.0 if same(after, drawn) else (truth > other) + 0.5 * (truth == other))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
