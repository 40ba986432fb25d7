"""Time Crafter's compiled rules and compiled laws: steps per second of many copies side by side.

Each line is one program: copies play random actions for some steps within one compiled scan, and a
copy whose life ends starts again where it began. Reported are the seconds to compile, the median
of some rounds, and how often a birth found no room (which should be never).

    python scripts/benchmark/world.py                       the true world, 64 x 64, 512 copies
    python scripts/benchmark/world.py --only laws-9         laws on the tiles of the scenarios
    python scripts/benchmark/world.py --only world laws laws-9 craftax --out world.json
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlssm.world_models import crafter_jax
from rlssm.world_models.crafter import initial_state
from rlssm.world_models.crafter_slots import CAPACITY, CrafterArrays, stack, to_arrays
from rlssm.world_models.laws_jax import compile_laws
from rlssm.world_models.oracle_laws import oracle_model
from rlssm.world_models.scenarios import chosen
from rlssm.world_models.schema import ACTIONS

WORLDS = 8  # different ones, shared by the copies
SMALL_CAPACITY = 16

Step = Callable[[Any, Any, Any], Any]  # key, states, actions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=["world"])
    parser.add_argument("--copies", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50, help="steps of every copy in a round")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    args = parser.parse_args()

    device = jax.devices()[0]
    load = os.getloadavg()[0]
    print(f"device {device.device_kind} ({device.platform}), jax {jax.__version__}")
    print(f"{os.cpu_count()} cores, load {load:.1f}")
    results = {}
    for name in args.only:
        results[name] = measure(*PROGRAMS[name](args.copies), args.copies, args.steps, args.rounds)
        found = results[name]
        print(
            f"{name:8} {found['steps_per_s']:12,.0f} steps/s at {args.copies} copies, compiled in "
            f"{found['compile_s']:.1f} s, {found['lost']} births without room",
            flush=True,
        )
        if args.out:  # after every line, so that a run cut short leaves what it measured
            args.out.parent.mkdir(parents=True, exist_ok=True)
            about = {"device": device.device_kind, "platform": device.platform}
            about |= {"jax": jax.__version__, "cores": os.cpu_count(), "load": load}
            about |= {"copies": args.copies, "steps": args.steps}
            args.out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


def measure(
    start: Any, step: Step, over: Callable[[Any], Any], copies: int, steps: int, rounds: int
) -> dict[str, Any]:
    def play(key: Any, states: Any) -> Any:
        def one(states: Any, key: Any) -> tuple[Any, None]:
            act, move = jax.random.split(key)
            actions = jax.random.randint(act, (copies,), 0, len(ACTIONS))
            after, ended = (moved := step(move, states, actions)), over(moved)
            return jax.tree.map(lambda x, y: select(ended, x, y), start, after), None

        return lax.scan(one, states, jax.random.split(key, steps))[0]

    began = time.perf_counter()
    compiled = jax.jit(play).lower(jax.random.key(0), start).compile()
    compile_s = time.perf_counter() - began
    states, seconds = start, []
    for turn in range(rounds + 1):  # the first warms up, and lets creatures gather
        began = time.perf_counter()
        states = jax.block_until_ready(compiled(jax.random.key(turn), states))
        seconds.append(time.perf_counter() - began)
    median = float(np.median(seconds[1:]))
    lost = int(states.lost.sum()) if isinstance(states, CrafterArrays) else 0
    return {"steps_per_s": copies * steps / median, "compile_s": compile_s, "lost": lost}


def select(ended: Any, fresh: Any, current: Any) -> Any:
    return jnp.where(ended.reshape(ended.shape + (1,) * (current.ndim - 1)), fresh, current)


# --- Programs ---------------------------------------------------------------------------------


def true_world(copies: int) -> tuple[Any, Step, Any]:
    return large(copies), lambda key, s, a: crafter_jax.step(key, s, a)[0], crafter_jax.is_over


def laws(copies: int) -> tuple[Any, Step, Any]:
    return large(copies), law_step(), crafter_jax.is_over


def laws_small(copies: int) -> tuple[Any, Step, Any]:
    states = [to_arrays(scenario.start(), SMALL_CAPACITY) for scenario in chosen("success")]
    return repeated(states, copies), law_step(), crafter_jax.is_over


def craftax(copies: int) -> tuple[Any, Step, Any]:
    from rlssm.world_models.craftax_state import load_craftax

    world = load_craftax()
    states = repeated([world.reset(jax.random.key(seed)) for seed in range(WORLDS)], copies)

    def step(key: Any, states: Any, actions: Any) -> Any:
        return jax.vmap(world.step)(jax.random.split(key, copies), states, actions)[0]

    return states, step, lambda states: states.player_health <= 0


def large(copies: int) -> CrafterArrays:
    states = [to_arrays(initial_state(seed=seed), CAPACITY) for seed in range(WORLDS)]
    return repeated(states, copies)


def repeated(states: list[Any], copies: int) -> Any:
    return jax.tree.map(lambda x: x[np.arange(copies) % len(states)], stack(states))


def law_step() -> Step:
    model = oracle_model()
    draw, weights = compile_laws(model.laws), jnp.array(model.weights)
    return lambda key, states, actions: draw(weights, key, states, actions)


PROGRAMS = {"world": true_world, "laws": laws, "laws-9": laws_small, "craftax": craftax}

if __name__ == "__main__":
    main()
