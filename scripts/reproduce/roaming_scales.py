"""Measure means and deviations of bodies under random actions, for rlssm/envs/roaming_scales.json.

2,000 episodes of 50 uniformly random actions from Gymnasium's start states, none cut short by a
fall; every state counts, the first included. That is the recipe of METRA's fixed normaliser (arXiv
2310.08887, released code), which takes 10,000. Two minutes on one core.
"""

import argparse
import json
from typing import Any

import gymnasium
import numpy as np

from rlssm.envs.roaming import BODIES, SCALES

STEPS = 50


def measure(name: str, episodes: int) -> dict[str, list[float]]:
    """Return mean and deviation of positions and velocities."""
    more = {} if name.startswith("HalfCheetah") else {"terminate_when_unhealthy": False}
    env: Any = gymnasium.make(name, **more).unwrapped
    rng, count = np.random.default_rng(0), 0
    total, squares = np.zeros((2, env.model.nq + env.model.nv))
    for episode in range(episodes):
        env.reset(seed=episode)
        actions = rng.uniform(
            env.action_space.low, env.action_space.high, (STEPS, *env.action_space.shape)
        )
        states = [np.concatenate([env.data.qpos, env.data.qvel])]
        for action in actions:
            env.step(action)
            states.append(np.concatenate([env.data.qpos, env.data.qvel]))
        total += np.sum(states, axis=0)
        squares += np.square(states).sum(axis=0)
        count += len(states)
    mean = total / count
    std = np.sqrt(squares / count - np.square(mean))
    return {"mean": mean.round(4).tolist(), "std": std.round(4).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=2_000)
    args = parser.parse_args()
    found = {
        "command": "python scripts/reproduce/roaming_scales.py",
        "episodes": args.episodes,
        "steps": STEPS,
        "gymnasium": gymnasium.__version__,
        "bodies": {name: measure(name, args.episodes) for name in BODIES},
    }
    SCALES.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
