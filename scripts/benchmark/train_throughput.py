"""PPO environment steps per second with each core, compilation timed apart.

    python scripts/benchmark/train_throughput.py [--env ID] [--preset NAME] [--num-envs N]
        [--rollout-length T] [--seeds S] [--repeats N] [--out FILE]

One update is a rollout and all its epochs. The cores are measured in turn, round by round, so
that the machine's changes of pace meet all of them; the figures are medians and their ratios.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlssm import GRUConfig, NoneConfig, S5Config, make
from rlssm.algorithms.ppo import PRESETS, PPOConfig
from rlssm.train.program import on_policy

CORES = {"s5": S5Config, "gru": GRUConfig, "none": NoneConfig}


def prepare(config: PPOConfig, env_id: str, seeds: int) -> dict[str, Any]:
    """Return a compiled chunk with its state and what it took to compile."""
    program = on_policy(config, make(env_id))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    started = time.perf_counter()
    state = jax.block_until_ready(jax.jit(jax.vmap(program.init))(keys, {}))
    ready = time.perf_counter()
    chunk = jax.jit(jax.vmap(program.chunk, (0, None, None)), donate_argnums=0)
    compiled = chunk.lower(state, None, jnp.int32(1)).compile()
    done = time.perf_counter()
    parameters = sum(x.size for x in jax.tree.leaves(state.agent.params)) // seeds
    state, _ = jax.block_until_ready(compiled(state, None, jnp.int32(1)))
    return {
        "chunk": compiled,
        "state": state,
        "parameters": parameters,
        "init_seconds": ready - started,
        "compile_seconds": done - ready,
        "seconds": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="RepeatPreviousEasy")
    parser.add_argument("--preset", default="default", choices=PRESETS)
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
    preset = replace(PRESETS[args.preset], **changes)
    configs = {
        name: preset if name == preset.core.name else replace(preset, core=CORES[name]())
        for name in args.cores
    }
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), jax {jax.__version__}, {args.env}, preset "
        f"{args.preset}, {preset.num_envs} environments x {preset.rollout_length} steps, "
        f"{preset.epochs} epochs, {preset.minibatches} minibatches, {args.seeds} seeds, "
        f"matmul precision {preset.precision}",
        flush=True,
    )
    cores = {name: prepare(config, args.env, args.seeds) for name, config in configs.items()}
    for _ in range(args.repeats):
        for core in cores.values():
            started = time.perf_counter()
            core["state"], _ = jax.block_until_ready(
                core["chunk"](core["state"], None, jnp.int32(1))
            )
            core["seconds"].append(time.perf_counter() - started)
    frames = preset.steps_per_update * args.seeds
    best = min(np.median(core["seconds"]) for core in cores.values())
    print("core   parameters  init s  compile s   steps/s  (min to max)          slower by")
    for name, core in cores.items():
        seconds = np.array(core["seconds"])
        pace, low, high = (frames / f(seconds) for f in (np.median, np.max, np.min))
        print(
            f"{name:5} {core['parameters']:11,} {core['init_seconds']:7.1f} "
            f"{core['compile_seconds']:10.1f} {pace:9,.0f}  ({low:,.0f} to {high:,.0f})"
            f"{'':4} x{np.median(seconds) / best:.2f}"
        )
    if args.out is not None:
        keep = ("parameters", "init_seconds", "compile_seconds", "seconds")
        record = {
            "device": device.device_kind,
            "jax": jax.__version__,
            "env": args.env,
            "precision": preset.precision,
            "steps_per_update": frames,
            "cores": {n: {k: core[k] for k in keep} for n, core in cores.items()},
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
