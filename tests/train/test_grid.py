"""Several settings as one program (scripts/reproduce/grid.py): each as if it ran alone."""

import importlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.algorithms.h2o import H2OConfig
from rlssm.data.dataset import DatasetInfo, Episode, from_episodes
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs.registry import EnvConfig, SimulatorConfig, make
from rlssm.errors import UserError
from rlssm.nn import normalizers
from rlssm.nn.mlp import MLPConfig
from rlssm.train.config import RunConfig
from rlssm.train.program import make_program
from rlssm.types import zeros

SCRIPTS = Path(__file__).parents[2] / "scripts" / "reproduce"
LAYERS = MLPConfig((8,), "relu")
EXPERIENCE = ExperienceConfig(num_envs=2, rollout_length=4, batch=8, warmup=16, capacity=200)
AGENT = H2OConfig(actor=LAYERS, critic=LAYERS, discriminator=LAYERS, experience=EXPERIENCE)
ROWS = [
    [
        RunConfig(
            EnvConfig("Pendulum-v1"), AGENT, name, SimulatorConfig(gravity=gravity), steps=32,
            seeds=2, seed=5, eval_episodes=1,
        )
        for gravity in (2.0, 0.5)
    ]
    for name in ("few", "many-more")
]  # fmt: skip
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@pytest.fixture(scope="module")
def grid():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module("grid")


def load(name):
    """Return a dataset of 20 random steps for every letter of its name."""
    rng, spec = np.random.default_rng(len(name)), make("Pendulum-v1").spec
    episodes = [
        Episode(
            rng.normal(size=(21, 3)).astype(np.float32),
            rng.uniform(-1, 1, (20, 1)).astype(np.float32),
            rng.normal(size=20).astype(np.float32),
            np.zeros(20, bool),
            np.arange(20) == 19,
        )
        for _ in name
    ]
    return from_episodes(episodes, DatasetInfo(f"{name}-v0", spec, env="Pendulum-v1"))


def alone(config, seed):
    """Return the weights of the actor after the same rounds, without a grid."""
    program, data = make_program(AGENT, make(config.acting)), jax.device_put(load(config.dataset))
    state = jit(program.init)(jax.random.key(seed), {})
    seen = normalizers.update(normalizers.init(zeros(data.info.spec.obs)), data.obs)
    agent = state.agent.replace(params=state.agent.params | {"statistics": seen})
    state = state.replace(agent=agent)
    for phase in ("random", "online"):
        state, _ = jit(program.chunks[phase])(state, data, jnp.int32(2))
    return state.agent.params


@pytest.mark.slow
def test_each_member_learns_what_it_would_alone(grid, tmp_path):
    whole = grid.Grid(tmp_path / "grid", ROWS)
    assert whole.train(load) and whole.complete
    template = jax.eval_shape(whole.start, *whole.members())
    found = whole.checkpoints.restore("best", whole.program.params(template))
    for row, member in ((0, 3), (1, 0)):  # the last seed of one setting, the first of another
        setting = ROWS[row][member // 2]
        ours = jax.tree.map(lambda x, at=(row, member): x[at], found)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            ours,
            alone(setting, 5 + member % 2),
        )
    assert whole.of(ROWS[1][0]) == slice(4, 6)
    assert whole.train(load)  # nothing is left to do
    other = [[replace(x, seed=6) for x in row] for row in ROWS]
    with pytest.raises(UserError, match="holds another grid; move it away"):
        grid.Grid(tmp_path / "grid", other).train(load)
