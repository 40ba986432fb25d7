"""MOORL beside SAC from scratch and offline IQL: pendulum/medium, and a maze that pays at its goal.

Before its first real step MOORL makes `PRIOR` updates on the dataset, then one per step. SAC takes
the same steps without the dataset. IQL makes as many updates as MOORL on the dataset alone and its
curve is that of the last of them, while MOORL acts. Eight seeds; settings were chosen on others.
`pytest -m learning -s` prints what came out.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.algorithms.iql import IQLConfig
from rlssm.algorithms.moorl import MOORLConfig
from rlssm.algorithms.sac import SACConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs.registry import make
from rlssm.evaluation.evaluate import evaluate_seeds
from rlssm.evaluation.statistics import area_under_curve, bootstrap_interval, mean
from rlssm.nn.mlp import MLPConfig
from rlssm.train import recipes_pendulum, recipes_point_maze
from rlssm.train.program import make_program

SEEDS, STEPS, PRIOR, EVERY, K = 8, 3000, 3000, 300, 5
HIDDEN = MLPConfig((64, 64), "relu")
EXPERIENCE = ExperienceConfig(batch=128, capacity=20_000, warmup=100)
TASKS = {
    "pendulum": ("Pendulum-v1", "pendulum/medium", recipes_pendulum.build, 0.95, 0.0),
    "umaze": ("pointmaze/umaze", "pointmaze/umaze", recipes_point_maze.build, 0.99, -1.0),
}


def learners(task):
    """Return the agents of a task by name."""
    *_, discount, shift = TASKS[task]
    experience = replace(EXPERIENCE, reward_shift=shift)
    common = {
        "actor": HIDDEN,
        "critic": HIDDEN,
        "learning_rate": 3e-3,
        "critic_learning_rate": 3e-3,
        "discount": discount,
    }
    ours = {**common, "temperature_learning_rate": 3e-3}
    own = replace(experience, rollout_length=K, warmup=K)
    return {
        "moorl": MOORLConfig(
            **ours, inner_steps=K, meta_rate=0.8, polyak=0.01, init_temperature=0.1, experience=own
        ),
        "sac": SACConfig(**ours, polyak=0.02, experience=experience),
        "iql": IQLConfig(**common, polyak=0.02, actor_decay_steps=None, experience=experience),
    }


@cache
def data(task):
    _, name, build, *_ = TASKS[task]
    return jax.device_put(build(name, 20_000, 0, False))


@cache
def curve(task, name, first_seed=0, seeds=SEEDS):
    """Return scores (pendulum) or success in per cent (maze) `[STEPS / EVERY + 1, seeds]`."""
    env, config = make(TASKS[task][0]), learners(task)[name]
    program = make_program(config, env, online=name != "iql")
    keys = jax.vmap(jax.random.key)(first_seed + jnp.arange(seeds))
    state = jax.jit(jax.vmap(lambda key: program.init(key, {})))(keys)
    shown = None if name == "sac" else data(task)
    chunks = {
        phase: jax.jit(jax.vmap(chunk, (0, None, None)), donate_argnums=0)
        for phase, chunk in program.chunks.items()
    }
    found, per_round = [], config.experience.steps

    def judge():
        played = evaluate_seeds(
            env, program.policy, program.params(state), jax.random.key(9), episodes=16
        )
        if task == "umaze":
            return 100 * np.asarray(played.success).mean(1)
        low, high = data(task).info.reference[:2]
        return 100 * (np.asarray(played.episode_return).mean(1) - low) / (high - low)

    if shown is not None:
        state, _ = chunks["offline"](state, shown, jnp.int32(PRIOR // per_round))
    found.append(judge())
    if name != "iql":  # what is taken before the first update counts
        warm = config.experience.warmup
        phase = "random" if shown is None else "fill"
        state, _ = chunks[phase](state, shown, jnp.int32(warm // per_round))
    else:
        warm = 0
    for i in range(STEPS // EVERY):
        rounds = (EVERY - (warm if i == 0 else 0)) // per_round
        phase = "offline" if name == "iql" else "online"
        state, _ = chunks[phase](state, shown, jnp.int32(rounds))
        found.append(judge())
    print(f"\n{task} {name}: {np.mean(found, axis=1).round().astype(int).tolist()}", end="")
    return np.stack(found)


def intervals(task, name, **seeds):
    """Return 95 % intervals over seeds of the area under the curve and of its end."""
    found = curve(task, name, **seeds)
    steps = np.linspace(0, STEPS, len(found))
    area, end = area_under_curve(steps, found), found[-1]
    both = [bootstrap_interval(mean, x) for x in (area, end)]
    print(f"\n{task} {name}: area {area.mean():.1f} {np.round(both[0], 1)}, end {end.mean():.1f} "
          f"{np.round(both[1], 1)}", end="")  # fmt: skip
    return both


ENOUGH = pytest.mark.xfail(
    reason="these data are enough for IQL alone, see docs/moorl.md", strict=True
)


@pytest.mark.learning
@pytest.mark.parametrize(
    "task, rival",
    [
        ("pendulum", "sac"),
        pytest.param("pendulum", "iql", marks=ENOUGH),
        ("umaze", "sac"),
        pytest.param("umaze", "iql", marks=ENOUGH),
    ],
)
def test_moorl_is_above(task, rival):
    (ours, _), (theirs, _) = intervals(task, "moorl"), intervals(task, rival)
    assert ours[0] > theirs[1]
