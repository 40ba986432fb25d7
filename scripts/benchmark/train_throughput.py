"""PPO environment steps per second with each core; compilation and acting are timed apart.

    python scripts/benchmark/train_throughput.py [--env ID] [--preset NAME] [--num-envs N]
        [--rollout-length T] [--seeds S] [--repeats N] [--out FILE]
    python scripts/benchmark/train_throughput.py --settings wide long --cores s5

One update is a rollout and all its epochs; acting is the rollout alone, compiled for itself. The
cores are measured in turn, round by round, so that the machine's changes of pace meet all of them;
the figures are medians and their ratios. A setting is popjaxrl's agent (4 layers, width 256) at a
published size of rollout: "wide" 1,024 environments x 128 steps, 4 epochs, "long" 64 environments
x 1,024 steps, 30 epochs, both with 8 minibatches.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlssm import GRUConfig, NoneConfig, S5Config, make
from rlssm.algorithms import ppo
from rlssm.algorithms.ppo import PRESETS, PPOConfig
from rlssm.envs.base import Vectorized
from rlssm.train.collect import rollout
from rlssm.train.program import LoopState, on_policy

CORES = {"s5": S5Config, "gru": GRUConfig, "none": NoneConfig}

SETTINGS = {
    name: replace(
        PRESETS["popjaxrl"],
        num_envs=num_envs,
        rollout_length=length,
        epochs=epochs,
        minibatches=8,
    )
    for name, num_envs, length, epochs in (("wide", 1024, 128, 4), ("long", 64, 1024, 30))
}


def prepare(config: PPOConfig, env_id: str, seeds: int) -> dict[str, Any]:
    """Return a compiled chunk and a compiled rollout, a state, and what it took to compile."""
    env = make(env_id)
    program = on_policy(config, env)
    envs, wish = Vectorized(env, config.num_envs), ppo.batch_spec(config)

    def act(state: LoopState) -> Any:
        policy: Any = partial(ppo.act, config, env.spec, state.agent.params, greedy=False)
        return rollout(envs, policy, state.runner, wish)

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    started = time.perf_counter()
    state = jax.block_until_ready(jax.jit(jax.vmap(program.init))(keys, {}))
    ready = time.perf_counter()
    chunk = jax.jit(jax.vmap(program.chunk, (0, None, None)), donate_argnums=0)
    compiled = chunk.lower(state, None, jnp.int32(1)).compile()
    done = time.perf_counter()
    acting = jax.jit(jax.vmap(act)).lower(state).compile()
    parameters = sum(x.size for x in jax.tree.leaves(state.agent.params)) // seeds
    jax.block_until_ready(acting(state))
    state, _ = jax.block_until_ready(compiled(state, None, jnp.int32(1)))
    return {
        "chunk": compiled,
        "acting": acting,
        "state": state,
        "parameters": parameters,
        "init_seconds": ready - started,
        "compile_seconds": done - ready,
        "seconds": [],
        "acting_seconds": [],
    }


def measure(core: dict[str, Any]) -> None:
    """Time one rollout, then one update."""
    started = time.perf_counter()
    jax.block_until_ready(core["acting"](core["state"]))
    acted = time.perf_counter()
    core["state"], _ = jax.block_until_ready(core["chunk"](core["state"], None, jnp.int32(1)))
    core["seconds"].append(time.perf_counter() - acted)
    core["acting_seconds"].append(acted - started)


def compare(preset: PPOConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Measure every core in the preset, print a table, and return what was measured."""
    configs = {
        name: preset if name == preset.core.name else replace(preset, core=CORES[name]())
        for name in args.cores
    }
    print(
        f"\n{preset.num_envs} environments x {preset.rollout_length} steps, "
        f"{preset.epochs} epochs, {preset.minibatches} minibatches, {args.seeds} seeds, "
        f"matmul precision {preset.precision} ({precision_in_words(preset.precision)})",
        flush=True,
    )
    cores = {name: prepare(config, args.env, args.seeds) for name, config in configs.items()}
    for _ in range(args.repeats):
        for core in cores.values():
            measure(core)
    frames = preset.steps_per_update * args.seeds
    best = min(np.median(core["seconds"]) for core in cores.values())
    print(
        "core   parameters  init s  compile s    steps/s  (min to max)             slower by"
        "  acting steps/s  share"
    )
    for name, core in cores.items():
        seconds, acting = np.array(core["seconds"]), np.median(core["acting_seconds"])
        pace, low, high = (frames / f(seconds) for f in (np.median, np.max, np.min))
        spread = f"({low:,.0f} to {high:,.0f})"
        print(
            f"{name:5} {core['parameters']:11,} {core['init_seconds']:7.1f} "
            f"{core['compile_seconds']:10.1f} {pace:10,.0f}  {spread:24} "
            f"x{np.median(seconds) / best:<8.2f} {frames / acting:14,.0f}  "
            f"{acting / np.median(seconds):5.0%}",
            flush=True,
        )
    keep = ("parameters", "init_seconds", "compile_seconds", "seconds", "acting_seconds")
    return {
        "num_envs": preset.num_envs,
        "rollout_length": preset.rollout_length,
        "epochs": preset.epochs,
        "minibatches": preset.minibatches,
        "precision": preset.precision,
        "steps_per_update": frames,
        "cores": {n: {k: core[k] for k in keep} for n, core in cores.items()},
    }


def precision_in_words(precision: str) -> str:
    if jax.default_backend() != "gpu":
        return "float32"
    return {"default": "TF32", "high": "3 x TF32", "highest": "float32"}[precision]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="RepeatPreviousEasy")
    parser.add_argument("--preset", default="default", choices=PRESETS)
    parser.add_argument("--settings", nargs="+", default=[], choices=SETTINGS)
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=CORES)
    parser.add_argument("--num-envs", type=int)
    parser.add_argument("--rollout-length", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--minibatches", type=int)
    parser.add_argument("--precision", choices=("default", "high", "highest"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="timed updates per core")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    names = ("num_envs", "rollout_length", "epochs", "minibatches", "precision")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    presets = {name: SETTINGS[name] for name in args.settings} or {
        args.preset: PRESETS[args.preset]
    }
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}, {args.env}")
    record = {"device": device.device_kind, "jax": jax.__version__, "env": args.env}
    results = {}
    for name, preset in presets.items():
        results[name] = compare(replace(preset, **changes), args)
        if args.out is not None:  # after each setting: a run that is cut off keeps what it has
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({**record, "settings": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
