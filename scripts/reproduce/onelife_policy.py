"""Train PPO with an S5 memory inside worlds made of laws, and test it in the true world.

The errand of `rlssm.world_models.errand`: wood, water and a sapling. Each policy is trained in one
world alone (the true rules, the hand-written laws, laws learned from one life, either with the
weights that fitting starts from, or your own by module:factory) and tested with the true rules, in
worlds that no training has seen, beside a policy that acts at random.

    python scripts/reproduce/onelife_policy.py --laws results/onelife/laws-0.json \
        --only learned learned-unfitted --out results/onelife/policy.json
    python scripts/reproduce/onelife_policy.py --only my_world:learned
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlssm import EnvConfig, PPOConfig, RunConfig, S5Config, fit
from rlssm.evaluation.evaluate import evaluate, evaluate_seeds
from rlssm.evaluation.statistics import bootstrap_interval, mean
from rlssm.train.run import Run
from rlssm.types import Policy
from rlssm.world_models.contenders import UNFITTED_WEIGHT
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.errand import Errand, held_out, in_model, in_model_file
from rlssm.world_models.law_json import load_model
from rlssm.world_models.schema import ACTIONS

ERRANDS = "rlssm.world_models.errand"
WORLDS = {
    "true": f"{ERRANDS}:true_world",
    "oracle": f"{ERRANDS}:in_oracle_laws",
    "unfitted": f"{ERRANDS}:in_unfitted_laws",
    "learned": f"{__name__}:in_learned_laws",
    "learned-unfitted": f"{__name__}:in_unfitted_learned_laws",
}
LAWS = "RLSSM_LEARNED_LAWS"  # environment variable: the file of learned laws
EPISODES = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(WORLDS), help="worlds to train in")
    parser.add_argument("--laws", default="results/onelife/laws-0.json", help="learned laws")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--runs", type=Path, default=Path("runs/onelife"))
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    os.environ[LAWS] = args.laws
    results = {"random": summary(np.asarray(random_returns()))}
    print(line("random", results["random"]), flush=True)
    for world in args.only:
        config = RunConfig(
            env=EnvConfig(WORLDS.get(world, world)),
            agent=PPOConfig(core=S5Config(layers=1), num_envs=args.envs),
            steps=args.steps,
            seeds=args.seeds,
        )
        name = world.replace(":", "-")
        name += f"-{Path(args.laws).stem}" if world.startswith("learned") else ""
        run = fit(config, args.runs / f"{name}-{args.steps}-{args.seeds}")
        results[world] = summary(tested(run))
        print(line(world, results[world]), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        device = jax.devices()[0].device_kind
        about = {"device": device, "steps": args.steps, "seeds": args.seeds, "episodes": EPISODES}
        about["laws"] = args.laws
        args.out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


def in_learned_laws() -> Errand:
    """Return the errand inside the laws learned from one life."""
    return in_model_file(os.environ[LAWS])


def in_unfitted_learned_laws() -> Errand:
    """Return the errand inside the same laws with the weights that fitting starts from."""
    model = load_model(os.environ[LAWS], CrafterView())
    return in_model(replace(model, weights=(UNFITTED_WEIGHT,) * len(model.laws)))


def tested(run: Run) -> np.ndarray:
    """Return the mean return of each seed's policy in the true world, worlds held out."""
    played = evaluate_seeds(
        held_out(), run.program.policy, run.params("last"), jax.random.key(1), episodes=EPISODES,
        greedy=False,
    )  # fmt: skip
    return np.asarray(played.episode_return).mean(1)


def random_returns() -> np.ndarray:
    """Return the mean returns of a policy that draws actions uniformly, for three keys."""

    def act(params: Any, inputs: Any, reset: Any, carry: Any, key: Any, greedy: bool) -> Any:
        return jax.random.randint(key, reset.shape, 0, len(ACTIONS)), carry

    policy = Policy(lambda batch: (), act)
    return np.array(
        [
            evaluate(held_out(), policy, (), jax.random.key(seed), episodes=EPISODES, greedy=False)
            .episode_return.mean()
            for seed in range(3)
        ]
    )  # fmt: skip


def summary(returns: np.ndarray) -> dict[str, Any]:
    # One value has no spread to speak of.
    interval = list(bootstrap_interval(mean, returns)) if len(returns) > 1 else None
    return {"returns": returns.tolist(), "mean": mean(returns), "interval": interval}


def line(name: str, result: dict[str, Any]) -> str:
    spread = result["interval"]
    shown = "" if spread is None else f" [{spread[0]:.3f}, {spread[1]:.3f}]"
    return f"{name:12} return in the true world {result['mean']:.3f}{shown} of 3"


if __name__ == "__main__":
    main()
