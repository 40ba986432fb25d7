"""Updates per second of every learner from stored experience, beside a bare SAC loop.

    python scripts/benchmark/offline.py [--algorithms sac iql ...] [--seeds 1 16] [--seconds S]
        [--steps N] [--repeats N] [--env ID] [--out FILE]

Takes about 4 GPU minutes with all algorithms. Programs are compiled side by side, one thread each,
so their compile times are those of a busy machine where cores are few. Each draws its batches from
a dataset of a million random steps the size of HalfCheetah's (17 observations, 6 actions), with its
default networks and no memory; "s5" adds SAC with an S5 memory. The bare loop is a textbook SAC
update (batch 256, two layers of 256) written with nothing but jax and optax, in one loop. Each
measurement makes as many updates as take `--seconds`; each learner's are taken in turn with the
bare loop's, so that the machine's changes of pace meet both; figures are medians, printed and saved
learner by learner. With --env learners act, too: each takes steps of an environment of the library,
ten at a time, at one update of the actor a step, with a random dataset of its size beside it;
figures are steps per second, beside SAC's. MJX has a script of its own: mjx.py.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlssm.algorithms import ALGORITHMS
from rlssm.data.dataset import DatasetInfo, OfflineDataset, index_episodes, with_returns
from rlssm.envs import make
from rlssm.envs.base import Environment
from rlssm.envs.probes import ConstantReward
from rlssm.nn.s5 import S5Config
from rlssm.train.program import make_program, wish_of
from rlssm.types import Box, Spec, Windows

OBS, ACTION, HORIZON = 17, 6, 1000
SPEC = Spec(Box((OBS,)), Box((ACTION,)), max_episode_steps=HORIZON)


class Task(ConstantReward):
    """An environment of the right size; nothing is ever played in it."""

    @property
    def spec(self) -> Spec:
        return SPEC


def random_dataset(steps: int, spec: Spec = SPEC) -> OfflineDataset:
    """Return a dataset of random steps in episodes of `HORIZON`."""
    obs, action = spec.obs, spec.action
    assert isinstance(obs, Box) and isinstance(action, Box)
    (obs_size,), (action_size,) = obs.shape, action.shape
    keys = jax.random.split(jax.random.key(0), 3)
    lengths = [HORIZON] * (steps // HORIZON)
    episode, start = index_episodes(lengths)
    last = jnp.arange(steps) % HORIZON == HORIZON - 1
    return OfflineDataset(
        obs=jax.random.normal(keys[0], (steps + len(lengths), obs_size)),
        action=jnp.tanh(jax.random.normal(keys[1], (steps, action_size))),
        reward=jax.random.normal(keys[2], (steps,)),
        terminated=jnp.zeros(steps, bool),
        truncated=last,
        episode=jnp.asarray(episode),
        start=jnp.asarray(start),
        extras={},
        info=DatasetInfo("benchmark/random-v0", spec),
    )


# --- The bare loop ----------------------------------------------------------------------------


def _layers(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    return [
        (jax.random.normal(k, shape) / shape[0] ** 0.5, jnp.zeros(shape[1]))
        for k, shape in zip(keys, shapes, strict=True)
    ]


def _dense(layers: Any, x: jax.Array) -> jax.Array:
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def bare_sac(data: OfflineDataset) -> tuple[Callable[[jax.Array], Any], Callable[..., Any]]:
    """Return `init(key)` and `run(state, arrays, count)` of the bare loop, and its arrays."""
    adam = optax.adam(3e-4)

    def init(key: jax.Array) -> dict[str, Any]:
        a, b, key = jax.random.split(key, 3)
        actor = _layers(a, (OBS, 256, 256, 2 * ACTION))
        critic = jax.vmap(lambda k: _layers(k, (OBS + ACTION, 256, 256, 1)))(jax.random.split(b, 2))
        log_alpha = jnp.zeros(())
        moments = (adam.init(actor), adam.init(critic), adam.init(log_alpha))
        target = jax.tree.map(jnp.copy, critic)
        return {"actor": actor, "critic": critic, "target": target, "log_alpha": log_alpha,
                "moments": moments, "key": key}  # fmt: skip

    def policy(actor: Any, obs: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, log_std = jnp.split(_dense(actor, obs), 2, -1)
        log_std = jnp.clip(log_std, -5, 2)
        noise = jax.random.normal(key, mean.shape)
        u = mean + jnp.exp(log_std) * noise
        squash = 2 * (jnp.log(2.0) - u - jax.nn.softplus(-2 * u))
        return jnp.tanh(u), (-0.5 * noise**2 - log_std - squash).sum(-1)

    def values(critic: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
        both = jnp.concatenate([obs, action], -1)
        return jax.vmap(_dense, (0, None))(critic, both)[..., 0]

    def one(state: dict[str, Any], arrays: Any) -> dict[str, Any]:
        key, draw, k1, k2 = jax.random.split(state["key"], 4)
        chosen = jax.random.randint(draw, (256,), 0, len(arrays[2]))
        obs, action, reward, next_obs, done = (x[chosen] for x in arrays)
        alpha = jnp.exp(state["log_alpha"])
        next_action, next_log_prob = policy(state["actor"], next_obs, k1)
        next_value = values(state["target"], next_obs, next_action).min(0) - alpha * next_log_prob
        target = reward + 0.99 * (1 - done) * next_value
        grad = jax.grad(lambda q: jnp.square(values(q, obs, action) - target).mean(1).sum())(
            state["critic"]
        )
        change, critic_opt = adam.update(grad, state["moments"][1])
        critic = optax.apply_updates(state["critic"], change)

        def actor_loss(actor: Any) -> tuple[jax.Array, jax.Array]:
            new, log_prob = policy(actor, obs, k2)
            return (alpha * log_prob - values(critic, obs, new).min(0)).mean(), log_prob

        grad, log_prob = jax.grad(actor_loss, has_aux=True)(state["actor"])
        change, actor_opt = adam.update(grad, state["moments"][0])
        actor = optax.apply_updates(state["actor"], change)
        grad = -(log_prob - ACTION).mean()
        change, alpha_opt = adam.update(grad, state["moments"][2])
        return {
            "actor": actor, "critic": critic,
            "target": optax.incremental_update(critic, state["target"], 0.005),
            "log_alpha": state["log_alpha"] + change,
            "moments": (actor_opt, critic_opt, alpha_opt), "key": key,
        }  # fmt: skip

    def run(state: Any, arrays: Any, count: jax.Array) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, s: one(s, arrays), state), {}

    return init, run


# --- Measuring --------------------------------------------------------------------------------


def prepare(
    name: str, data: OfflineDataset, seeds: int, env: Environment | None = None
) -> dict[str, Any]:
    """Return a compiled chunk with its state, its data and the time it took to compile.

    With an environment the chunk takes steps in it, and `per_round` counts those.
    """
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    per_round = 1
    if name == "bare":
        init, run = bare_sac(data)
        state = jax.jit(jax.vmap(init))(keys)
        rows = jnp.arange(data.num_steps)
        final = data.terminated.astype(jnp.float32)
        given: Any = (
            data.obs[rows + data.episode], data.action, data.reward,
            data.obs[rows + data.episode + 1], final,
        )  # fmt: skip
    else:
        config = ALGORITHMS["sac" if name == "s5" else name].PRESETS["default"]
        if name == "s5":
            config = replace(config, core=S5Config())
        if env is not None and name == "rlpd":
            config = replace(config, utd=1)
        if env is not None:  # as many steps a round for all
            config = replace(config, experience=replace(config.experience, rollout_length=10))
        elif name in ("darc", "h2o"):  # theirs of a thousand updates would be a measurement's unit
            short = replace(config.experience, num_envs=10, rollout_length=1)
            config = replace(config, experience=short)
        wish = wish_of(config)
        assert isinstance(wish, Windows)
        program = make_program(config, env or Task(), online=env is not None)
        state = jax.jit(jax.vmap(program.init))(keys, {})
        given = data if wish.returns is None else with_returns(data, wish.returns)
        run = program.chunks["offline"]
        per_round = wish.updates * (wish.stack or 1 if name in ("rlpd", "moorl") else 1)
        if env is not None:
            per_round, run = wish.collect.steps, program.chunk
            fill = jax.jit(jax.vmap(program.chunks["random"], (0, None, None)))
            state, _ = fill(state, given, jnp.int32(2_000 // per_round))
    jitted = jax.jit(jax.vmap(run, (0, None, None)), donate_argnums=0)
    started = time.perf_counter()
    chunk = jitted.lower(state, given, jnp.int32(1)).compile()
    seconds = time.perf_counter() - started
    entry = {
        "chunk": chunk, "state": state, "data": given, "compile_seconds": seconds,
        "per_round": per_round, "seeds": seeds,
    }  # fmt: skip
    print(f"  {name} compiled in {seconds:.1f} s", flush=True)
    return entry


def measure(entry: dict[str, Any], rounds: int) -> float:
    """Make some rounds of updates and return the seconds they took."""
    started = time.perf_counter()
    entry["state"], _ = jax.block_until_ready(
        entry["chunk"](entry["state"], entry["data"], jnp.int32(rounds))
    )
    return time.perf_counter() - started


def rounds_for(entry: dict[str, Any], seconds: float) -> int:
    """Return how many rounds take about that long; the first ones, not counted, warm up."""
    rounds = 1
    while (took := measure(entry, rounds)) < seconds / 10:
        rounds *= 4
    return max(1, round(rounds * seconds / took))


def compare(
    entry: dict[str, Any], beside: dict[str, Any] | None, repeats: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Return updates per second, all seeds together, of an entry and of the one beside it."""
    sides = [entry] if beside is None else [entry, beside]
    rounds = [rounds_for(side, seconds) for side in sides]
    paces: list[list[float]] = [[], []]
    for _ in range(repeats):
        for side, count, pace in zip(sides, rounds, paces, strict=False):
            updates = count * side["per_round"] * side["seeds"]
            pace.append(updates / measure(side, count))
    return paces[0], paces[1]


def main() -> None:
    wishes = {name: wish_of(module.PRESETS["default"]) for name, module in ALGORITHMS.items()}
    learners = [  # of continuous actions, from steps that anybody took
        name
        for name, wish in wishes.items()
        if isinstance(wish, Windows) and not wish.kept and name != "hyq"
    ]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ["bare", *learners, "s5"]
    parser.add_argument("--algorithms", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the dataset")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--env", help="environment of the library to act in; no bare loop then")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    env = None if args.env is None else make(args.env)
    if env is not None:
        args.algorithms = [name for name in args.algorithms if name != "bare"]
    yardstick = "bare" if env is None else "sac"
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}", flush=True)
    data = random_dataset(args.steps, SPEC if env is None else env.spec)
    record: dict[str, Any] = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "env": args.env,
        "results": [],
    }
    for seeds in args.seeds:
        unit = "updates" if env is None else "steps"
        print(f"{seeds} seed{'s' * (seeds > 1)}: {unit}/s in all, median (min to max)")
        with ThreadPoolExecutor() as pool:
            made = pool.map(lambda name, n=seeds: prepare(name, data, n, env), args.algorithms)
            entries = dict(zip(args.algorithms, made, strict=True))
        bare, everything = entries.get(yardstick), []
        for name, entry in entries.items():
            if entry is bare:
                continue
            pace, beside = compare(entry, bare, args.repeats, args.seconds)
            ratio = f"  {np.median(pace) / np.median(beside):.2f} of {yardstick}" if beside else ""
            spread = f"({min(pace):,.0f} to {max(pace):,.0f})"
            print(f"  {name:8} {np.median(pace):10,.0f}  {spread}{ratio}", flush=True)
            everything += beside
            record["results"].append(
                {"name": name, "seeds": seeds, "pace": pace, "bare_beside": beside,
                 "compile_seconds": entry["compile_seconds"]}
            )  # fmt: skip
            if args.out is not None:
                args.out.write_text(json.dumps(record, indent=1) + "\n")
        if everything:
            print(f"  {yardstick:8} {np.median(everything):10,.0f}  beside all of them")


if __name__ == "__main__":
    main()
