"""Our learners against d3rlpy's: 100,000 updates of each, and how well the policies play.

    python scripts/reproduce/oracles_learning.py --oracle-python ~/oracle/bin/python
        --dataset halfcheetah/medium hopper/medium-replay

`oracles.py` says how the other Python is made, and compares a single update. This trains seeds of
both on the same transitions from the same first weights, `--updates` each, and plays every policy
in Gymnasium with the same NumPy code. Every policy is kept below `--runs`: run again, it goes on.
`--only rlssm` and `--only d3rlpy` train one side, on a machine of its own if need be, and leave the
table to a later call. d3rlpy makes about 100 updates a second on a CPU core: `--workers` of its
seeds train at a time, with `--threads` each. With `--device cuda:0 cuda:1` a worker has all seeds
of a dataset and algorithm, side by side in one CUDA graph.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from oracles import (
    CASES,
    Arrays,
    Case,
    layers_of,
    networks_of,
    read,
    run_other_half,
    theirs_of,
    to_theirs,
)

from rlssm.algorithms.iql import IQLConfig
from rlssm.algorithms.td3bc import TD3BCConfig
from rlssm.data.dataset import DatasetInfo, OfflineDataset, transitions
from rlssm.data.scores import normalise, references
from rlssm.envs.registry import make
from rlssm.evaluation.statistics import bootstrap_interval, mean
from rlssm.io.config import environment
from rlssm.nn import normalizers
from rlssm.train import datasets
from rlssm.train.program import Program, make_program
from rlssm.types import zeros

WITHIN = 10.0  # points of normalised score
EPISODES = 10

LEARNERS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "iql": (
        "IQL",
        lambda updates: IQLConfig(
            normalize_obs=True, actor_decay_steps=updates, precision="highest"
        ),
    ),
    "td3bc": ("TD3+BC", lambda updates: TD3BCConfig(precision="highest")),
}
"""The case of each algorithm, and our settings: the same sizes and hyper-parameters on both sides,
and float32 on both, on a GPU too. IQL's policy is Gaussian on every dataset, since d3rlpy has no
other."""


class Pair(NamedTuple):
    """One algorithm on one dataset, to be trained on both sides."""

    algorithm: str
    data: OfflineDataset
    folder: Path  # of policies

    def case(self, updates: int) -> Case:
        """Return the case of one update with the settings of a whole run."""
        title, config_of = LEARNERS[self.algorithm]
        config = config_of(updates)
        return CASES[title]._replace(config=config, options=theirs_of(config))


def compare_learning(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and play what is missing, and return what is known of every pair."""
    pairs = []
    for dataset_id in args.dataset:
        data = datasets.load(dataset_id)
        for algorithm in args.learn:
            folder = args.runs / dataset_id / f"{algorithm}-{args.updates}"
            folder.mkdir(parents=True, exist_ok=True)
            pairs.append(Pair(algorithm, data, folder))
    if args.only != "d3rlpy":
        for pair in pairs:
            train_ours(pair, args.seeds, args.updates)
    if args.only != "rlssm":
        train_theirs(pairs, args)
    return [] if args.only else [record(pair, args) for pair in pairs]


def statistics_of(data: OfflineDataset) -> normalizers.RunningStats:
    """Return mean and variance of a dataset's observations, as a run of ours takes them."""
    return normalizers.update(normalizers.init(zeros(data.info.spec.obs)), jnp.asarray(data.obs))


def policy_path(folder: Path, side: str, seed: int) -> Path:
    return folder / f"{side}-{seed}.npz"


def missing(folder: Path, side: str, seeds: int) -> list[int]:
    return [seed for seed in range(seeds) if not policy_path(folder, side, seed).exists()]


def started(pair: Pair, seeds: list[int], updates: int) -> tuple[Program, Any]:
    """Return our program and its states before the first update, a leading axis of seeds."""
    env = datasets.environment(pair.data.info)
    assert env is not None, f"dataset {pair.data.info.id} does not say what environment it is from"
    program = make_program(pair.case(updates).config, make(env), online=False)
    state = jax.jit(jax.vmap(program.init))(jax.vmap(jax.random.key)(jnp.array(seeds)), {})
    stats = statistics_of(pair.data)
    seen = jax.tree.map(lambda x: jnp.repeat(x[None], len(seeds), 0), stats)
    agent = state.agent.replace(params=state.agent.params | {"statistics": seen})
    return program, state.replace(agent=agent)


def train_ours(pair: Pair, seeds: int, updates: int) -> None:
    """Train the seeds that are missing, all in one compiled program, and keep their policies."""
    todo = missing(pair.folder, "rlssm", seeds)
    if not todo:
        return
    program, state = started(pair, todo, updates)
    chunk = jax.jit(jax.vmap(program.chunks["offline"], (0, None, None)))
    on_device = jax.device_put(pair.data)
    jax.block_until_ready(chunk(state, on_device, jnp.int32(1)))  # compiles
    began = time.perf_counter()
    state, _ = jax.block_until_ready(chunk(state, on_device, jnp.int32(updates)))
    seconds = time.perf_counter() - began
    head = jax.device_get(state.agent.params["actor"])["params"]["head"]
    network = next(x for x in head.values() if isinstance(x, dict))
    for member, seed in enumerate(todo):
        layers = layers_of(jax.tree.map(lambda x, member=member: x[member], network))
        arrays: Arrays = {f"kernel_{i}": kernel for i, (kernel, _) in enumerate(layers)}
        arrays |= {f"bias_{i}": bias for i, (_, bias) in enumerate(layers)}
        arrays |= {"seconds": np.array(seconds), "versions": np.array(json.dumps(environment()))}
        unfinished = pair.folder / f"rlssm-{seed}.partial.npz"
        np.savez(unfinished, **arrays)
        unfinished.replace(policy_path(pair.folder, "rlssm", seed))
    rate = updates / seconds
    print(
        f"{pair.folder}: ours, {len(todo)} seeds together, {rate:.0f} updates/s of each",
        flush=True,
    )


def train_theirs(pairs: list[Pair], args: argparse.Namespace) -> None:
    """Train the seeds that are missing, `args.workers` processes at a time.

    A process has one seed on a CPU; on a GPU all those of a pair, side by side.
    """
    jobs: list[tuple[Pair, list[int]]] = []
    for pair in pairs:
        todo = missing(pair.folder, "d3rlpy", args.seeds)
        together = len(todo) if args.device[0].startswith("cuda") else 1
        jobs += [(pair, todo[i : i + together]) for i in range(0, len(todo), together or 1)]
    with tempfile.TemporaryDirectory() as temporary:
        given = {
            pair.folder: Path(temporary) / f"{number}.npz"
            for number, pair in enumerate(pair for pair, _ in jobs)
        }
        for pair in {pair.folder: pair for pair, _ in jobs}.values():
            np.savez(given[pair.folder], **given_to_learn(pair, args.seeds, args.updates))

        def train(number: int) -> None:
            pair, seeds = jobs[number]
            run_other_half(
                args.oracle_python, "learn", given[pair.folder], pair.folder,
                "--seeds", *seeds, "--updates", args.updates,
                "--threads", args.threads, "--device", args.device[number % len(args.device)],
            )  # fmt: skip
            print(f"{pair.folder}: theirs, seeds {seeds}", flush=True)

        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(train, range(len(jobs))))


def given_to_learn(pair: Pair, seeds: int, updates: int) -> Arrays:
    """Return what the other half learns from: settings, transitions and our first weights."""
    case, stats = pair.case(updates), statistics_of(pair.data)
    config = case.config
    rows = jax.tree.map(np.asarray, transitions(pair.data, np.arange(pair.data.num_steps)))
    settings = {
        "learner": case.theirs,
        "hidden": config.actor.hidden,
        "options": case.options,
        "batch": config.experience.batch,
        "decay": getattr(config, "actor_decay_steps", None),
    }
    _, state = started(pair, list(range(seeds)), updates)
    given = {
        "settings": np.array(json.dumps(settings)),
        "obs": np.asarray(normalizers.standardize(stats, rows.obs)),
        "next_obs": np.asarray(normalizers.standardize(stats, rows.next_obs)),
        "action": rows.action,
        "reward": rows.reward,
        "terminated": rows.terminated,
    }
    for seed in range(seeds):
        agent = jax.tree.map(lambda x, seed=seed: x[seed], state.agent)
        named = to_theirs(case, networks_of(agent))
        given |= {f"weight/{seed}/{name}": np.asarray(x) for name, x in named.items()}
    return given


def record(pair: Pair, args: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of both sides, their difference and its interval."""
    algorithm, data, folder = pair
    stats = statistics_of(data)
    reference = references(data.info.id, data.info.env, data.info.reference)[0]
    found: dict[str, Any] = {
        "algorithm": algorithm,
        "dataset": data.info.id,
        "updates": args.updates,
        "episodes": EPISODES,
        "reference": reference._asdict(),
    }
    scores = {}
    for side in ("rlssm", "d3rlpy"):
        policies = [read(policy_path(folder, side, seed)) for seed in range(args.seeds)]
        returns = [mean_return(policy, stats, data.info) for policy in policies]
        scores[side] = [float(normalise(value, reference)) for value in returns]
        found[side] = {
            "returns": returns,
            "scores": scores[side],
            "seconds": [float(policy["seconds"]) for policy in policies],
            "versions": json.loads(str(policies[0]["versions"])),
        }
    both = scores["rlssm"], scores["d3rlpy"]
    found["difference"] = difference_of_means(*both)
    found["interval"] = bootstrap_interval(difference_of_means, *both)
    found["within"] = abs(found["difference"]) <= WITHIN
    return found


def difference_of_means(ours: Any, theirs: Any) -> float:
    return mean(ours) - mean(theirs)


def mean_return(policy: Arrays, stats: normalizers.RunningStats, info: DatasetInfo) -> float:
    """Return the mean return of the policy tanh(f(obs)) over whole episodes, in Gymnasium."""
    import gymnasium

    count = sum(name.startswith("kernel_") for name in policy)
    layers = [(policy[f"kernel_{i}"], policy[f"bias_{i}"]) for i in range(count)]
    center, spread = np.asarray(stats.mean), np.sqrt(normalizers.variance(stats)) + 1e-3
    low, high = info.bounds
    assert info.env is not None
    envs = [gymnasium.make(info.env) for _ in range(EPISODES)]
    obs = np.stack([env.reset(seed=1_000 + i)[0] for i, env in enumerate(envs)])
    total, going = np.zeros(EPISODES), np.ones(EPISODES, bool)
    while going.any():
        rows = np.flatnonzero(going)
        x = (obs[rows] - center) / spread
        for kernel, bias in layers[:-1]:
            x = np.maximum(x @ kernel + bias, 0)
        action = np.tanh(x @ layers[-1][0] + layers[-1][1])
        action = (low + (action + 1) / 2 * (high - low)).astype(np.float32)
        for row, one in zip(rows, action, strict=True):
            obs[row], reward, terminated, truncated, _ = envs[row].step(one)
            total[row] += float(reward)
            going[row] = not (terminated or truncated)
    for env in envs:
        env.close()
    return float(total.mean())


def learning_table(records: list[dict[str, Any]]) -> str:
    """Return the scores as Markdown."""
    lines = [
        "| dataset | algorithm | updates | ours: mean (seeds) | d3rlpy: mean (seeds) "
        f"| difference [95 %] | within {WITHIN:g} |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in records:
        sides = []
        for side in ("rlssm", "d3rlpy"):
            scores = row[side]["scores"]
            sides.append(f"{mean(scores):.1f} ({', '.join(f'{x:.1f}' for x in scores)})")
        low, high = row["interval"]
        lines.append(
            f"| {row['dataset']} | {row['algorithm']} | {row['updates']:,} | {sides[0]} "
            f"| {sides[1]} | {row['difference']:.1f} [{low:.1f}, {high:.1f}] "
            f"| {'yes' if row['within'] else '**no**'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--oracle-python", default="", help="Python that has the other packages")
    parser.add_argument("--out", type=Path, default=Path("results/oracles"))
    parser.add_argument("--learn", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--dataset", nargs="+", default=["halfcheetah/medium"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1, help="processes of theirs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each of their processes")
    parser.add_argument("--device", nargs="+", default=["cpu:0"], help="theirs: cpu:0, cuda:0, ...")
    parser.add_argument("--only", choices=("rlssm", "d3rlpy"), help="train one side, no table")
    parser.add_argument("--runs", type=Path, default=Path("runs/oracles"))
    args = parser.parse_args()
    if not args.oracle_python and args.only != "rlssm":
        parser.error("--oracle-python is needed")
    records = compare_learning(args)
    if args.only:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "learning.json").write_text(json.dumps(records, indent=1) + "\n")
    table = learning_table(records)
    (args.out / "learning.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
