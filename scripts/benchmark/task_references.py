"""Measure the references of a suite: random returns, good returns, observations.

    python scripts/benchmark/task_references.py classic [--again]     about 6 minutes, 2 CPU cores
    python scripts/benchmark/task_references.py control [--again]

Low: the mean return of 256 episodes of uniformly random actions; observations from the same. High,
over 256 episodes (on MJX 100): PPO without memory after 1,000,000 steps (seed 0, greedy, the better
of last and best weights); on the mountain cars pushing the way it rolls; on MJX the scripted
policies of mjx.py beside this file, and on HalfCheetah and Hopper the experts that ship. Writes
what it finds into `rlssm/envs/task_references.json`, beside what is there of other tasks.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from mjx import POLICIES, mjx_returns

import rlssm
from rlssm.envs import suites
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
    if config.id.startswith("mjx"):
        policy = POLICIES[config.id.split("/")[1]]
        return float(mjx_returns(env, policy).mean()), f"`{policy.__name__}` of mjx.py"
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
    stored = json.loads(suites.REFERENCES.read_text())
    for member in suites.MEASURED[sys.argv[1]]:
        label = member.label
        if label in stored and "--again" not in sys.argv:
            continue
        scaled = {} if member.quantity is None else {member.quantity: member.scale}
        dynamics = replace(DynamicsConfig(), **scaled)
        config = EnvConfig(member.env_id, time_limit=member.steps, dynamics=dynamics)
        env = make(config)
        limit = env.spec.max_episode_steps or 1000
        measured = measure(env, jax.random.key(0), episodes=EPISODES, max_steps=limit)
        good, how = high(config)
        stored[label] = {
            "low": round(float(measured.returns.mean()), 3),
            "high": round(good, 3),
            "high_by": how,
            "episodes": EPISODES,
            "obs_mean": measured.obs_mean.round(4).tolist(),
            "obs_std": measured.obs_std.round(4).tolist(),
        }
        print(label, stored[label], flush=True)
        suites.REFERENCES.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
