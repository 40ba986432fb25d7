"""What random play returns on every task of the memory suite.

    python scripts/benchmark/memory_suite.py           about 2 minutes of 2 CPU cores

Mean and standard deviation over 512 episodes of uniformly random actions, seed 0. Writes
`results/benchmark/memory-suite.json`, which the tests compare fresh episodes with.
"""

import json
from pathlib import Path

import jax

from rlssm.envs.memory_suite import SUITE
from rlssm.envs.tasks import measure
from rlssm.io.config import environment

EPISODES = 512
OUT = Path("results/benchmark/memory-suite.json")


def main() -> None:
    tasks = {}
    for name, env in SUITE.items():
        length = env.spec.max_episode_steps or 1000  # none of the others is longer
        found = measure(env, jax.random.key(0), episodes=EPISODES, max_steps=length).returns
        tasks[name] = {
            "mean": round(float(found.mean()), 4),
            "std": round(float(found.std()), 4),
            "episodes": EPISODES,
        }
        print(name, tasks[name], flush=True)
    made = environment()
    record = {
        "command": "python scripts/benchmark/memory_suite.py",
        "revision": made["git_revision"],
        "device": made["device_kind"],
        "tasks": tasks,
    }
    OUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
