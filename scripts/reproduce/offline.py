"""Memory where velocities are hidden: S5 and memoryless agents on the same dataset, four seeds.

    python scripts/reproduce/offline.py [--plan] [--only NAME] [--shard I/N] [--minutes M]

The dataset is the locally made pendulum/mixed, its angular velocity hidden in data and environment
alike. "offline" is IQL on the dataset alone; "hybrid" is SAC with half of every batch from the
dataset and half from its own steps. Beside them the same learners that see everything. Trains what
is missing, then tabulates into `results/offline/`; see shared.py beside this file. The four runs
without velocity took about 10 minutes on 2 busy CPU cores.
"""

from dataclasses import replace

from shared import reproduce

from rlssm import (
    EnvConfig,
    ExperienceConfig,
    IQLConfig,
    MLPConfig,
    RunConfig,
    S5Config,
    SACConfig,
    TorsoConfig,
)

SEEDS = 4
GPU_MINUTES = 1.5  # an estimate: not run on a GPU yet
DATASET, VELOCITY = "pendulum/mixed", 2
SMALL = MLPConfig((64, 64), "relu")
EXPERIENCE = ExperienceConfig(batch=256, capacity=20_000)
SCALED = replace(EXPERIENCE, reward_scale=0.1)  # IQL weighs actions by exp(β A)
MEMORY = S5Config(layers=1, state_size=32)
SEEING = TorsoConfig(width=64, hidden=())
# Shown its last action, a policy cloned from smooth controllers copies it.
BLIND = replace(SEEING, observe_action=False, observe_reward=False)

RATE = 1e-3
IQL = IQLConfig(
    actor=SMALL,
    critic=SMALL,
    experience=SCALED,
    learning_rate=RATE,
    actor_decay_steps=None,
    critic_learning_rate=RATE,
)
SAC = SACConfig(
    actor=SMALL,
    critic=SMALL,
    experience=EXPERIENCE,
    learning_rate=RATE,
    critic_learning_rate=RATE,
    temperature_learning_rate=RATE,
)
LEARNERS = {"offline": (IQL, BLIND, 20_000), "hybrid": (SAC, SEEING, 10_000)}


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    table = {}
    for mode, (learner, torso, steps) in LEARNERS.items():
        windows = replace(learner.experience, length=20, burn_in=4)
        remembering = replace(learner, core=MEMORY, torso=torso, experience=windows)
        for name, agent, hide in (
            ("position-s5", remembering, (VELOCITY,)),
            ("position-none", learner, (VELOCITY,)),
            ("full-none", learner, ()),
        ):
            table[f"{mode}-{name}"] = RunConfig(
                env=EnvConfig("dataset", hide=hide),
                agent=agent,
                dataset=DATASET,
                steps=steps,
                seeds=SEEDS,
            )
    return table


if __name__ == "__main__":
    reproduce("offline", __doc__ or "", configs(), GPU_MINUTES)
