"""S5, GRU and memoryless PPO on the memory tasks and on classic control: four seeds each.

    python scripts/reproduce/foundation.py [--plan] [--only NAME] [--shard I/N] [--minutes M]

Trains what is missing, then tabulates into `results/foundation/`; see shared.py beside this file.

The memoryless agent sees neither its last action nor its last reward here: an agent that does can
write a cue down in its own actions, which solves RepeatFirst and MemoryChain without memory.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from shared import reproduce

from rlssm import EnvConfig, GRUConfig, NoneConfig, PPOConfig, RunConfig, S5Config, TorsoConfig

SEEDS = 4
GPU_MINUTES = 0.75  # of one H100 per run, compilation included, with four shards side by side

AGENT = PPOConfig(num_envs=64, rollout_length=128, epochs=4, minibatches=8, precision="highest")
CORES = {"s5": S5Config(), "gru": GRUConfig(), "none": NoneConfig()}
MEMORYLESS = TorsoConfig(observe_action=False, observe_reward=False)


class Task(NamedTuple):
    """An environment, the cores to train on it, steps per seed, and what differs from `AGENT`."""

    env: str
    cores: tuple[str, ...]
    steps: int
    changes: dict[str, Any]


ALL = ("s5", "gru", "none")
EXPLORE = {"entropy_coef": 0.01}
TASKS = [
    Task("RepeatFirstEasy", ALL, 3_000_000, EXPLORE),
    Task("StatelessCartPoleEasy", ALL, 3_000_000, EXPLORE),
    Task("StatelessPendulumEasy", ALL, 8_000_000, {}),
    Task("MemoryChain-10", ALL, 1_000_000, EXPLORE),
    Task("MemoryChain-30", ALL, 2_000_000, EXPLORE),
    Task("MemoryChain-100", ALL, 3_000_000, EXPLORE),
    Task("CartPole-v1", ("none",), 2_000_000, EXPLORE),
    Task("Pendulum-v1", ("none",), 3_000_000, {"discount": 0.95, "reward_scale": 0.1}),
]


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    table = {}
    for task in TASKS:
        for core in task.cores:
            agent = replace(AGENT, core=CORES[core], anneal_steps=task.steps, **task.changes)
            if core == "none":
                agent = replace(agent, torso=MEMORYLESS)
            table[f"{task.env}-{core}"] = RunConfig(
                env=EnvConfig(task.env),
                agent=agent,
                steps=task.steps,
                seeds=SEEDS,
                eval_episodes=64,
                final_episodes=256,
            )
    return table


if __name__ == "__main__":
    reproduce("foundation", __doc__ or "", configs(), GPU_MINUTES)
