"""Train PPO with an S5 memory inside worlds made of laws, and test it in the true world.

The errand of `rlssm.world_models.errand`: wood, water and a sapling. Each policy is trained in one
world alone and tested with the true rules, in gardens that no training has seen, beside a policy
that acts at random. The worlds: the true rules; the hand-written laws; laws learned from one life;
your own by module:factory. Of laws there are two unfitted forms: "unfitted" has the weights that
fitting starts from and keeps how likely each outcome of a law is, "plain" has neither, as the
published unfitted laws: what a law names is all alike.

Training starts in many gardens, has an entropy bonus and goes on until returns in the world trained
in stand still, so that what is compared is the worlds, not how soon or how narrowly PPO learns;
returns in the training world are reported beside, and the share of each thing fetched.

    python scripts/reproduce/onelife_policy.py --laws results/onelife/laws-0.json \
        --only learned learned-unfitted learned-plain --out results/onelife/policy.json
    python scripts/reproduce/onelife_policy.py --only my_world:learned
"""

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from rlssm import EnvConfig, PPOConfig, RunConfig, S5Config, fit
from rlssm.envs.base import Step
from rlssm.evaluation.evaluate import Episodes, evaluate, evaluate_seeds
from rlssm.evaluation.statistics import bootstrap_interval, mean
from rlssm.train.run import Run
from rlssm.types import Key, Policy
from rlssm.world_models.contenders import UNFITTED_WEIGHT
from rlssm.world_models.errand import (
    HELD_OUT,
    WANTED,
    Errand,
    ErrandParams,
    ErrandState,
    held_out,
    in_model_file,
    in_oracle_laws,
    in_unfitted_laws,
    true_world,
)
from rlssm.world_models.schema import ACTIONS

LAWS = "RLSSM_LEARNED_LAWS"  # environment variable: the file of learned laws
GARDENS = 1024  # to start in, in training and, others, in the test
EPISODES = 2048
ENTROPY = 0.01  # the usual bonus for discrete actions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=None, help="worlds to train in")
    parser.add_argument("--laws", default="results/onelife/laws-0.json", help="learned laws")
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--runs", type=Path, default=Path("runs/onelife"))
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    os.environ[LAWS] = args.laws
    results: dict[str, Any] = {"random": {"true world": summary(random_returns())}}
    print(line("random", results["random"]), flush=True)
    for world in args.only or WORLDS:
        config = RunConfig(
            env=EnvConfig(f"{__name__}:{WORLDS[world].__name__}" if world in WORLDS else world),
            agent=PPOConfig(core=S5Config(layers=1), num_envs=args.envs, entropy_coef=ENTROPY),
            steps=args.steps,
            seeds=args.seeds,
        )
        name = world.replace(":", "-")
        name += f"-{Path(args.laws).stem}" if world.startswith("learned") else ""
        run = fit(config, args.runs / f"{name}-{args.steps}-{args.seeds}")
        results[world] = tested(run, WORLDS[world]() if world in WORLDS else None)
        print(line(world, results[world]), flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        device = jax.devices()[0].device_kind
        about = {"device": device, "steps": args.steps, "seeds": args.seeds, "episodes": EPISODES}
        about |= {"gardens": GARDENS, "entropy_coef": ENTROPY, "laws": args.laws}
        args.out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


# --- Worlds -----------------------------------------------------------------------------------


def in_truth() -> Errand:
    """Return the errand in the true world."""
    return replace(true_world(), worlds=GARDENS)


def in_hand_written_laws() -> Errand:
    """Return the errand inside the hand-written laws."""
    return replace(in_oracle_laws(), worlds=GARDENS)


def in_unfitted_hand_written_laws() -> Errand:
    """Return the errand inside the hand-written laws with the weights that fitting starts from."""
    return replace(in_unfitted_laws(), worlds=GARDENS)


def in_learned_laws() -> Errand:
    """Return the errand inside the laws learned from one life."""
    return replace(in_model_file(os.environ[LAWS]), worlds=GARDENS)


def in_unfitted_learned_laws() -> Errand:
    """Return the errand inside the same laws with the weights that fitting starts from."""
    errand = in_learned_laws()
    return replace(errand, weights=(UNFITTED_WEIGHT,) * len(errand.weights))


def in_plain_learned_laws() -> Errand:
    """Return the errand inside the same laws unfitted, all outcomes of a law alike."""
    errand = in_unfitted_learned_laws()
    laws = errand.laws or ()
    return replace(
        errand,
        laws=tuple(
            replace(law, outcomes=tuple(replace(one, logit=0.0) for one in law.outcomes))
            for law in laws
        ),
    )


WORLDS = {
    "true": in_truth,
    "oracle": in_hand_written_laws,
    "unfitted": in_unfitted_hand_written_laws,
    "learned": in_learned_laws,
    "learned-unfitted": in_unfitted_learned_laws,
    "learned-plain": in_plain_learned_laws,
}


@dataclass(frozen=True)
class Fetching(Errand):
    """The errand whose success is to have fetched one of the things wanted, by index."""

    item: int = 0

    def step(
        self, key: Key, state: ErrandState, action: Int[Array, ""], params: ErrandParams
    ) -> tuple[ErrandState, Step]:
        after, step = super().step(key, state, action, params)
        return after, step._replace(info={"success": after.fetched[self.item]})


# --- Tests ------------------------------------------------------------------------------------


def tested(run: Run, trained_in: Errand | None) -> dict[str, Any]:
    """Return what each seed's policy returns in the true world, in gardens held out.

    Beside that the share of episodes in which it fetched each thing, and its return in the world
    that it was trained in.
    """

    def play(env: Errand) -> Episodes:
        return evaluate_seeds(
            env, run.program.policy, run.params("last"), jax.random.key(1), episodes=EPISODES,
            greedy=False,
        )  # fmt: skip

    played = {
        item: play(Fetching(worlds=GARDENS, seed=HELD_OUT, item=index))
        for index, item in enumerate(WANTED)
    }
    returns = played[WANTED[0]].episode_return
    found: dict[str, Any] = {"true world": summary(np.asarray(returns).mean(1))}
    found["fetched"] = {
        item: np.asarray(episodes.success).mean(1).tolist() for item, episodes in played.items()
    }
    if trained_in is not None:
        found["training world"] = summary(np.asarray(play(trained_in).episode_return).mean(1))
    return found


def random_returns() -> np.ndarray:
    """Return the mean returns of a policy that draws actions uniformly, for three keys."""

    def act(params: Any, inputs: Any, reset: Any, carry: Any, key: Any, greedy: bool) -> Any:
        return jax.random.randint(key, reset.shape, 0, len(ACTIONS)), carry

    policy, env = Policy(lambda batch: (), act), replace(held_out(), worlds=GARDENS)
    return np.array(
        [
            evaluate(env, policy, (), jax.random.key(seed), episodes=EPISODES, greedy=False)
            .episode_return.mean()
            for seed in range(3)
        ]
    )  # fmt: skip


def summary(returns: np.ndarray) -> dict[str, Any]:
    # One value has no spread to speak of.
    interval = list(bootstrap_interval(mean, returns)) if len(returns) > 1 else None
    return {"returns": returns.tolist(), "mean": mean(returns), "interval": interval}


def line(name: str, result: dict[str, Any]) -> str:
    shown = [f"{name:18}"]
    for world in ("true world", "training world"):
        if world in result:
            found = result[world]
            low, high = found["interval"] or (found["mean"],) * 2
            shown.append(f"{world} {found['mean']:.3f} [{low:.3f}, {high:.3f}] of 3")
    fetched = result.get("fetched", {})
    shown += [f"{item} {np.mean(share):.2f}" for item, share in fetched.items()]
    return "   ".join(shown)


if __name__ == "__main__":
    main()
