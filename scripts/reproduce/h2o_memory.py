"""H2O where velocities are hidden: S5 and memoryless, a wrong simulator and few real steps.

    python scripts/reproduce/h2o_memory.py [--plan] [--only NAME] [--shard I/N] [--minutes M]

The dataset is the locally made pendulum/mixed, the simulator Pendulum with doubled gravity; the
angular velocity is hidden in data, simulator and reality alike. Four seeds by vmap, as many steps
as SAC makes with the same data in offline.py. Trains what is missing, then tabulates into
`results/h2o_memory/`; see shared.py beside this file. A GPU is of little use to runs this small.
"""

from shared import reproduce

from rlssm import EnvConfig, RunConfig, SimulatorConfig
from rlssm.algorithms import h2o

SEEDS, STEPS, VELOCITY = 4, 10_000, 2
GPU_MINUTES = 2.0  # an estimate
WINDOWS = h2o.PRESETS["small-s5"]
AGENTS = {
    "s5": WINDOWS,
    "none": h2o.PRESETS["small"],
}


def configs() -> dict[str, RunConfig]:
    """Return the configuration of every run by its name."""
    return {
        f"position-{name}": RunConfig(
            env=EnvConfig("dataset", hide=(VELOCITY,)),
            agent=agent,
            dataset="pendulum/mixed",
            sim=SimulatorConfig(gravity=2.0),
            steps=STEPS,
            seeds=SEEDS,
        )
        for name, agent in AGENTS.items()
    }


if __name__ == "__main__":
    reproduce("h2o_memory", __doc__ or "", configs(), GPU_MINUTES)
