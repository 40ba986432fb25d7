"""What an update of HNPG on combination locks takes, by part, and the pace that it gives.

    python scripts/benchmark/hnpg.py [--horizons 50] [--seeds 5] [--unroll 10] [--out FILE]

Per horizon four programs are compiled ahead of time, members side by side by vmap:

    rollout      steps of the policy in the environments
    critic fit   the critics, from a rollout and offline steps that are at hand
    update       the same and the policy's step
    round        all of it and the drawing of offline steps, as the training loop runs it

The policy's step is the update less the critic fit. Times are medians over repeats, in each of
which every program in turn runs as often as fits half a second; compile times are apart. The data
are episodes of the recipe's expert, made on the spot.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.algorithms import hnpg, natural_update, trpo
from rlssm.algorithms.hnpg import HNPGConfig
from rlssm.data import mixing
from rlssm.envs.base import Vectorized
from rlssm.envs.locks import ContinuousLock
from rlssm.train import recipes_lock
from rlssm.train.collect import rollout
from rlssm.train.program import LoopState, on_policy
from rlssm.types import Hybrid

BATCH = 1000  # steps of an update
EPISODES = 2000  # of the data
PATIENCE = 0.5  # seconds of one measurement


def setting(horizon: int) -> HNPGConfig:
    """Return the paper's setting for a horizon."""
    num_envs = round(BATCH / horizon)
    return replace(hnpg.PRESETS["lock"], rollout_length=horizon, num_envs=num_envs)


def programs(config: HNPGConfig, data: Any) -> tuple[Callable, dict[str, tuple[Callable, tuple]]]:
    """Return what makes a state, and by name each program with its arguments after the state."""
    lock = ContinuousLock(config.rollout_length)
    program, wish = on_policy(config, lock), hnpg.batch_spec(config)
    envs, spec = Vectorized(lock, config.num_envs), lock.spec

    def play(state: LoopState) -> Any:
        act: Any = partial(trpo.act, config, spec, state.agent.params, greedy=False)
        return rollout(envs, act, state.runner, wish)[1]

    def draw(state: LoopState, data: Any) -> Hybrid:
        return Hybrid(play(state), mixing.beside(wish, state.key, data))

    def fit(state: LoopState, batch: Hybrid) -> Any:  # the policy's step is dead code here
        return hnpg.update(config, spec, state.agent, batch)[0].params["critic"]

    def update(state: LoopState, batch: Hybrid) -> Any:
        return hnpg.update(config, spec, state.agent, batch)[0].params

    def one_round(state: LoopState, data: Any) -> LoopState:
        return program.chunk(state, data, jnp.int32(1))[0]

    return program.init, {
        "draw": (draw, (data,)),
        "rollout": (play, ()),
        "critic fit": (fit, ("batch",)),
        "update": (update, ("batch",)),
        "round": (one_round, (data,)),
    }


def compiled(function: Callable, state: Any, *rest: Any) -> tuple[Callable, float]:
    """Return a program over members, compiled ahead of time, and the seconds that took.

    A batch has a value per member; a dataset is the same for all.
    """
    axes = (0, *(0 if isinstance(x, Hybrid) else None for x in rest))
    started = time.perf_counter()
    program = jax.jit(jax.vmap(function, axes)).lower(state, *rest).compile()
    return program, time.perf_counter() - started


def timed(program: Callable, arguments: tuple, count: int) -> float:
    """Return the milliseconds of one of `count` runs of a program."""
    started = time.perf_counter()
    for _ in range(count):
        out = program(*arguments)
    jax.block_until_ready(out)
    return 1000 * (time.perf_counter() - started) / count


def measure(horizon: int, seeds: int, repeats: int) -> dict[str, Any]:
    """Return what the programs of a horizon take, compiled and run."""
    config = setting(horizon)
    data = jax.device_put(recipes_lock.build(f"lock/h{horizon}", EPISODES * horizon, 0, False))
    init, parts = programs(config, data)
    state = jax.jit(jax.vmap(init, (0, None)))(jax.vmap(jax.random.key)(jnp.arange(seeds)), {})
    batch, seconds, ready = None, {}, {}
    for name, (function, rest) in parts.items():
        arguments = (state, *(batch if x == "batch" else x for x in rest))
        program, seconds[name] = compiled(function, *arguments)
        if name == "draw":
            batch = program(*arguments)
            continue
        timed(program, arguments, 1)
        count = max(1, round(1000 * PATIENCE / timed(program, arguments, 1)))
        ready[name] = program, arguments, count
    taken: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(repeats):
        for name, what in ready.items():
            taken[name].append(timed(*what))
    return {"steps": config.num_envs * horizon, "milliseconds": taken, "compile_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--horizons", type=int, nargs="+", default=[50])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--unroll", type=int, help="of the critic's steps, on a GPU")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    natural_update.UNROLL = args.unroll or natural_update.UNROLL
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}, {args.seeds} seeds")
    print("horizon  rollout  critic fit  policy step  round (min to max) ms   steps/s  compile s")
    record = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "seeds": args.seeds,
        "unroll": natural_update.UNROLL,
    }
    found: dict[int, Any] = {}
    for horizon in args.horizons:
        found[horizon] = row = measure(horizon, args.seeds, args.repeats)
        each = {name: float(np.median(x)) for name, x in row["milliseconds"].items()}
        low, high = min(row["milliseconds"]["round"]), max(row["milliseconds"]["round"])
        pace = 1000 * args.seeds * row["steps"] / each["round"]
        print(
            f"{horizon:7} {each['rollout']:8.2f} {each['critic fit']:11.2f} "
            f"{each['update'] - each['critic fit']:12.2f} {each['round']:7.2f} "
            f"({low:.2f} to {high:.2f}) {pace:13,.0f} {sum(row['compile_seconds'].values()):10.1f}",
            flush=True,
        )
        if args.out is not None:  # after each horizon: what is cut off keeps what it has
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({**record, "horizons": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
