"""Measure the references of the suite `classic`: random returns, good returns, observations.

    python scripts/benchmark/task_references.py        about 6 minutes of 2 CPU cores

Low: the mean return of 256 episodes of uniformly random actions; observations from the same.
High: the mean return over 256 episodes of PPO without memory after 1,000,000 steps (seed 0, greedy,
the better of last and best weights), or, on the mountain cars, of pushing the way it rolls. Writes
`rlssm/envs/task_references.json`.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

import rlssm
from rlssm.envs import gymnax_env, suites
from rlssm.envs.registry import DynamicsConfig, EnvConfig, make
from rlssm.envs.tasks import measure
from rlssm.evaluation.evaluate import evaluate
from rlssm.types import Policy

EPISODES = 256
STEPS = 1_000_000


def with_motion(params, inputs, reset, carry, key, greedy):
    """Push the way the car rolls."""
    speed = inputs.obs[:, 1]
    if inputs.previous.action.ndim == 1:
        return jnp.where(speed >= 0, 2, 0), carry
    return jnp.where(speed >= 0, 1.0, -1.0)[:, None], carry


def high(config: EnvConfig) -> tuple[float, str]:
    env = make(config)
    if config.id.startswith("MountainCar"):
        policy = Policy(lambda batch: (), with_motion)
        played = evaluate(env, policy, (), jax.random.key(1), episodes=EPISODES)
        return float(played.episode_return.mean()), "pushing in the direction of motion"
    agent = rlssm.PPOConfig(
        core=rlssm.NoneConfig(), reward_scale=0.1 if "Pendulum" in config.id else 1.0,
        gae_lambda=0.95, entropy_coef=0.0 if "Pendulum" in config.id else 0.01,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = rlssm.fit(
            rlssm.RunConfig(config, agent, steps=STEPS, final_episodes=EPISODES),
            Path(folder) / "run",
            progress=False,
        )
        best = max(run.result[which]["eval/return"][0] for which in ("last", "best"))
    return best, f"PPO without memory, {STEPS:,} steps, seed 0"


def main() -> None:
    found = {}
    tasks = [(name, None, 1.0) for name in suites.CLASSIC]
    for name, quantity, scale in [*tasks, *suites.CLASSIC_HELD_OUT]:
        dynamics = replace(DynamicsConfig(), **({} if quantity is None else {quantity: scale}))
        label = name if quantity is None else f"{name}, {quantity} {scale:g}"
        config = EnvConfig(name, dynamics=dynamics)
        env = make(config)
        limit = gymnax_env.make(name).spec.max_episode_steps or 1000
        measured = measure(env, jax.random.key(0), episodes=EPISODES, max_steps=limit)
        good, how = high(config)
        found[label] = {
            "low": round(float(measured.returns.mean()), 3),
            "high": round(good, 3),
            "high_by": how,
            "episodes": EPISODES,
            "obs_mean": measured.obs_mean.round(4).tolist(),
            "obs_std": measured.obs_std.round(4).tolist(),
        }
        print(label, found[label], flush=True)
        suites.REFERENCES.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
