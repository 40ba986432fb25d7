"""The policies that the MuJoCo dataset recipes roll out: SAC in Gymnasium's own environments.

    python scripts/reproduce/mujoco_policies.py train --env HalfCheetah [--steps N] [--seconds S]
    python scripts/reproduce/mujoco_policies.py select --env HalfCheetah

`train` takes about 6 GPU minutes for a million steps of two seeds alone on the card, and stops by
itself after `--seconds`; run again, it goes on where it stopped. It keeps the actor's weights every
25,600 steps, rounded to float16. `select` (on a CPU, minutes) plays those weights greedily and
writes the package's policy file: `expert` is the seed and the step with the highest return,
`medium` the one nearest the normalised score that D4RL's medium data have, and `ckpt_00`, ... are
up to ten weaker ones, evenly spread over what every seed had been by then.
"""

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.algorithms.sac import SACConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.data.scores import d4rl_reference, normalise
from rlssm.envs.registry import make
from rlssm.envs.statistics import with_means
from rlssm.io.checkpoint import Checkpoints
from rlssm.io.config import environment
from rlssm.train import policy_file
from rlssm.train.policy_file import Policy
from rlssm.train.program import make_program

ENVS = {"HalfCheetah": 42.0, "Hopper": 44.0, "Walker2d": 62.0}  # with the score of `medium`
AGENT = SACConfig(experience=ExperienceConfig(num_envs=16, warmup=10_000, capacity=1_000_000))
PER_ROUND = AGENT.experience.steps
SNAPSHOT = 25_600  # steps between kept weights
BEFORE_MEDIUM = 10  # policies of medium-replay, `medium` not counted


def train(env_id: str, steps: int, seeds: int, seconds: float, folder: Path, interval: int) -> None:
    """Train until `steps`, or until `seconds` are over, keeping weights on the way."""
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    program = make_program(AGENT, make(f"gym/{env_id}-v5"))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    checkpoints = Checkpoints(folder, keep=1)
    if checkpoints.latest() is None:
        state = jax.jit(jax.vmap(program.init))(keys, {})
    else:
        template = jax.eval_shape(jax.vmap(program.init), keys, {})
        state = jax.device_put(checkpoints.restore("last", template))
    chunks = {
        phase: jax.jit(jax.vmap(program.chunks[phase], (0, None, None)), donate_argnums=0)
        for phase in ("random", "online")
    }
    warmup = math.ceil(AGENT.experience.warmup / PER_ROUND)
    done = int(state.rounds[0])
    while done * PER_ROUND < steps and time.perf_counter() - began < seconds:
        random = done < warmup
        every = interval // PER_ROUND
        until = warmup if random else (done // every + 1) * every
        phase = "random" if random else "online"
        state, metrics = jax.block_until_ready(chunks[phase](state, None, jnp.int32(until - done)))
        done = until
        row = {k: np.ma.asarray(v).tolist() for k, v in with_means(jax.device_get(metrics)).items()}
        row |= {"step": done * PER_ROUND, "seconds": time.perf_counter() - began}
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(env_id, row["step"], row.get("episode/return"), f"{row['seconds']:.0f} s", flush=True)
        if not random:
            _keep(folder, done * PER_ROUND, jax.device_get(state.agent.params["actor"]), seeds)
    (folder / "environment.json").write_text(json.dumps(environment()) + "\n")
    checkpoints.save(done * PER_ROUND, state)


def _keep(folder: Path, step: int, actor: Any, seeds: int) -> None:
    """Write each seed's weights, as layers of (kernel, bias), float16."""
    network = actor["params"]["head"]["mean_std"]
    layers = [network[name] for name in sorted(network, key=lambda n: (n == "out", n))]
    for seed in range(seeds):
        arrays = {f"{k}_{i}": layer[k][seed].astype(np.float16)
                  for i, layer in enumerate(layers) for k in ("kernel", "bias")}  # fmt: skip
        (folder / f"seed{seed}").mkdir(exist_ok=True)
        np.savez_compressed(folder / f"seed{seed}" / f"{step:08d}.npz", **arrays)


# --- Selecting --------------------------------------------------------------------------------


def _read(path: Path) -> Policy:
    with np.load(path, allow_pickle=False) as file:
        count = len(file.files) // 2
        layers = tuple((file[f"kernel_{i}"], file[f"bias_{i}"]) for i in range(count))
    return Policy(layers, int(path.stem), math.nan)


def mean_return(env_id: str, policy: Policy, episodes: int, seed: int) -> float:
    """Return the mean return of a policy's best actions over whole episodes, in Gymnasium."""
    import gymnasium

    envs = [gymnasium.make(f"{env_id}-v5") for _ in range(episodes)]
    obs = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
    actor, total, going = policy_file.Actor(policy), np.zeros(episodes), np.ones(episodes, bool)
    while going.any():
        rows = np.flatnonzero(going)
        for row, action in zip(rows, actor(obs[rows]), strict=True):
            obs[row], reward, terminated, truncated, _ = envs[row].step(action)
            total[row] += reward
            going[row] = not (terminated or truncated)
    return float(total.mean())


def select(env_id: str, folder: Path, out: Path, episodes: int, workers: int) -> None:
    """Measure every kept policy and write the package's file."""
    reference = d4rl_reference(env_id.lower())
    assert reference is not None
    paths = sorted(folder.glob("seed*/*.npz"))
    policies = [_read(path) for path in paths]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        measure = partial(mean_return, env_id, episodes=episodes, seed=1_000)
        returns = np.array(list(pool.map(measure, policies)))
    scores = normalise(returns, reference)
    seeds = np.array([path.parent.name for path in paths])
    best = np.argsort(returns)[::-1][:4]  # measured again: the best of many is partly lucky
    again = [mean_return(env_id, policies[i], 50, 50_000) for i in best]
    expert = int(best[int(np.argmax(again))])
    near = np.argsort(np.abs(scores - ENVS[env_id]))[:8]
    measured = [mean_return(env_id, policies[i], 50, 50_000) for i in near]
    off = np.abs(normalise(np.array(measured), reference) - ENVS[env_id])
    medium = int(near[int(np.argmin(off))])
    steps = np.array([policy.step for policy in policies])
    earlier = np.flatnonzero(steps <= steps[medium])  # of every seed
    earlier = earlier[(earlier != medium) & (scores[earlier] <= scores[medium])]
    earlier = earlier[np.argsort(steps[earlier], kind="stable")]
    spread = np.unique(np.linspace(0, len(earlier) - 1, BEFORE_MEDIUM).round().astype(int))
    levels = {f"ckpt_{k:02d}": int(earlier[i]) for k, i in enumerate(spread)}
    levels |= {"medium": medium, "expert": expert}
    chosen = {
        name: policies[i]._replace(mean_return=mean_return(env_id, policies[i], 50, 100_000))
        for name, i in levels.items()
    }
    for name, policy in chosen.items():
        score = normalise(policy.mean_return, reference)
        print(
            f"{env_id} {name}: step {policy.step:,}, return {policy.mean_return:.1f}, {score:.1f}"
        )
    made = json.loads((folder / "environment.json").read_text())
    metadata = {
        "algorithm": "rlssm SAC, 16 environments, one update a step, batch 256, 256-256",
        "environment": f"{env_id}-v5",
        "seeds": {"expert": str(seeds[expert]), "medium": str(seeds[medium])},
        "returns": "greedy, 50 episodes, float16 weights",
        "command": f"python scripts/reproduce/mujoco_policies.py train --env {env_id}",
        "made_with": {k: made[k] for k in ("python", "packages", "device_kind", "git_revision")},
    }
    policy_file.save_policies(out, chosen, metadata)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("train", "select"))
    parser.add_argument("--env", required=True, choices=ENVS)
    parser.add_argument("--steps", type=int, default=3_000_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--interval", type=int, default=SNAPSHOT, help="steps between kept weights")
    parser.add_argument("--folder", type=Path, help="default runs/policies/ENV")
    parser.add_argument("--out", type=Path, help="policy file; default the package's")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    folder = args.folder or Path("runs/policies") / args.env
    if args.command == "train":
        train(args.env, args.steps, args.seeds, args.seconds, folder, args.interval)
    else:
        out = args.out or policy_file.path_of(args.env.lower())
        select(args.env, folder, out, args.episodes, args.workers)


if __name__ == "__main__":
    main()
