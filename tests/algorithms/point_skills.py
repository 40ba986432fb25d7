"""METRA on the point mass: training of several seeds at once, and what its skills are worth.

`python tests/algorithms/point_skills.py` measures ten seeds, five fresh ones and these under every
variant that is broken on purpose, and writes `results/metra/point.json`. With `variants` behind it
trains twenty seeds under each of `VARIANTS`, changes that may keep skills apart, and writes
`results/metra/point-variants.json`: how many seeds met every bound, and how far apart the final
directions of neighbouring skills are at most.
"""

import json
import os
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.algorithms import metra
from rlssm.envs.point_pixels import PixelWorld
from rlssm.envs.points import PointWorld
from rlssm.evaluation.skills import judge as judge_skills
from rlssm.nn import skills
from rlssm.train.program import make_program
from rlssm.train.skills import skill_policy

FILE = Path(__file__).parents[2] / "results" / "metra" / "point.json"
ROUNDS = 40  # of 400 steps and 50 updates
FITTED, FRESH = range(10), range(200, 205)
ENV = PointWorld()
CONFIG = metra.PRESETS["point"]
PIXELS, PIXELS_CONFIG = PixelWorld(ENV), metra.PRESETS["point-pixels"]
PIXELS_ROUNDS = 40

# Those of another program, from two seeds, but for the queue: of twenty seeds from 0 on, eighteen,
# whose skills spread, visited 985 cells lately or more, and two, whose skills merged, 495 at most.
BOUNDS = {
    "coverage": (550, None),
    "queue": (900, None),
    "displacement": (23, None),
    "squared_step": (0.75, 1.05),
    "long_steps": (None, 0.05),
    "explained": (0.95, None),
    "hit_1": (0.95, None),
    "distance": (None, 0.6),
    "multiplier": (14, 20),
}


def train(config=CONFIG, seeds=FRESH, rounds=ROUNDS, env=ENV, phase="online"):
    """Return the states of some seeds after training, and the last metrics."""
    program = make_program(config, env)
    keys = jax.vmap(jax.random.key)(jnp.array(list(seeds)))
    state = jax.jit(jax.vmap(lambda key: program.init(key, {})))(keys)
    chunk = jax.jit(jax.vmap(program.chunks[phase], (0, None, None)), donate_argnums=0)
    return chunk(state, None, jnp.int32(rounds))


def judge(state, metrics, config=CONFIG, env=ENV):
    """Return what the skills of each seed are worth, a dict per seed."""
    policy = skill_policy(config, env.spec)
    judged = judge_skills(env, policy, state.agent.params, jax.random.key(7))
    rows = judged.measures
    for seed, row in enumerate(rows):
        row["gap"] = gap(judged.roamed.position[seed])
        row["queue"] = int(metrics["coverage/queue"][seed])
        if hasattr(state.agent, "log_multiplier"):
            row["multiplier"] = float(jnp.exp(state.agent.log_multiplier[seed]))
    return rows


def gap(position):
    """Return the largest angle between neighbouring ways `[T + 1, N, 2]` at their end, degrees."""
    x, y = (position[-1] - position[0]).T
    angle = np.sort(np.arctan2(y, x))
    return float(np.degrees(np.diff(angle, append=angle[0] + 2 * np.pi).max()))


def missed(row, bounds):
    """Return the names of the bounds that a seed misses; a measure it lacks is missed."""
    return [
        name
        for name, (low, high) in bounds.items()
        if not (low if low is not None else -np.inf)
        <= row.get(name, np.nan)
        <= (high if high is not None else np.inf)
    ]


# --- Broken on purpose ------------------------------------------------------------------------


def _per_step(true, *args):
    """Redraw every skill that an update sees."""
    config, spec, state, batch = args
    step, key = batch.step, jax.random.fold_in(state.key, 1)
    shape = step.extras["skill"].shape
    fresh = skills.draw(config.skill, key, shape[0] * shape[1]).reshape(shape)
    step = step._replace(extras=step.extras | {"skill": fresh})
    return true(config, spec, state, batch._replace(step=step))


@contextmanager
def broken(name):
    """Break METRA in one of the ways that its acceptance must notice; yields its configuration."""
    config, squared, paid = CONFIG, metra.squared_length, metra.reward
    updated, patch = metra.update, None

    match name:
        case "no-constraint":
            patch = mock.patch.object(
                metra, "squared_length", lambda c, delta: 0 * squared(c, delta)
            )
        case "sign-flipped":
            patch = mock.patch.object(
                metra, "squared_length", lambda c, delta: 2 - squared(c, delta)
            )
        case "frozen":
            config = replace(CONFIG, representation_learning_rate=0.0)
        case "paid-for-place":

            def step_policy(config, spec, state, batch, reward, true=metra.step_policy):
                weights = state.params["representation"]
                place = metra.embed(config, spec, weights, batch.step.next_obs)
                along = skills.direction(config.skill, batch.step.extras["skill"])
                return true(config, spec, state, batch, paid(place, along))

            patch = mock.patch.object(metra, "step_policy", step_policy)
        case "skill-per-update":
            patch = mock.patch.object(metra, "update", partial(_per_step, updated))
    with patch or nullcontext():
        yield config


BROKEN = ("no-constraint", "sign-flipped", "frozen", "paid-for-place", "skill-per-update")


def main():
    """Measure the seeds that the bounds are fitted to, the fresh ones, and what is broken."""
    found = {
        "command": "python tests/algorithms/point_skills.py",
        "hardware": f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "steps": ROUNDS * CONFIG.experience.steps,
        "seeds": list(FITTED),
        "rows": judge(*train(seeds=FITTED)),
        "fresh_seeds": list(FRESH),
        "fresh_rows": judge(*train(seeds=FRESH)),
        "broken": {},
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    for name in BROKEN:
        with broken(name) as config:
            found["broken"][name] = judge(*train(config, FRESH), config)
        print(name, [missed(row, BOUNDS) for row in found["broken"][name]], flush=True)
        FILE.write_text(json.dumps(found, indent=1) + "\n")


# --- What may keep skills apart ---------------------------------------------------------------


def _with(**changes):
    return replace(CONFIG, **changes)


VARIANTS = {
    "preset": CONFIG,
    "actor tanh": _with(actor=replace(CONFIG.actor, activation="tanh")),
    "actor 256": _with(actor=replace(CONFIG.actor, hidden=(256, 256))),
    "critics with LayerNorm": _with(critic=replace(CONFIG.critic, layer_norm=True)),
    "critics 256": _with(critic=replace(CONFIG.critic, hidden=(256, 256))),
    "discount 0.95": _with(discount=0.95),
    "discount 0.9": _with(discount=0.9),
    "polyak 0.02": _with(polyak=0.02),
    "temperature from 0.3": _with(init_temperature=0.3),
    "representation 1e-3": _with(representation_learning_rate=1e-3),
    "actor 1e-3": _with(learning_rate=1e-3),
    "resampled at 0.01": _with(skill=replace(CONFIG.skill, resample=0.01)),
    "resampled at 0.02": _with(skill=replace(CONFIG.skill, resample=0.02)),
    "resampled at 0.04": _with(skill=replace(CONFIG.skill, resample=0.04)),
}


def variants(seeds=range(20)):
    """Measure what may keep skills apart, on seeds that no bound is accepted by."""
    found = {}
    for name, config in VARIANTS.items():
        rows = judge(*train(config, seeds), config)
        met = sum(not missed(row, BOUNDS) for row in rows)
        goals = sum("hit_1" in missed(row, BOUNDS) for row in rows)
        mean = {x: float(np.mean([row[x] for row in rows])) for x in ("gap", "distance", "queue")}
        found[name] = {"met": met, "goals_missed": goals, "of": len(rows), **mean, "rows": rows}
        print(name, {k: v for k, v in found[name].items() if k != "rows"}, flush=True)
        FILE.with_name("point-variants.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    variants() if "variants" in sys.argv[1:] else main()
