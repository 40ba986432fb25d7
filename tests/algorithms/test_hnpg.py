"""HNPG: without its data it is TRPO, with them it opens a lock that TRPO does not."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import assert_trees_close, from_env

from rlssm.algorithms import hnpg, trpo
from rlssm.algorithms.hnpg import HNPGConfig
from rlssm.algorithms.trpo import TRPOConfig
from rlssm.data import mixing
from rlssm.data.dataset import DatasetInfo, from_episodes, to_episodes
from rlssm.envs.base import Vectorized
from rlssm.envs.locks import ContinuousLock
from rlssm.envs.registry import EnvConfig
from rlssm.envs.stateless import StatelessPendulum
from rlssm.errors import UserError
from rlssm.nn.cores import S5Config
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train import recipes_lock
from rlssm.train.collect import rollout, start
from rlssm.train.config import RunConfig
from rlssm.train.program import on_policy
from rlssm.types import Hybrid, Rollout

SMALL = MLPConfig((8,), "tanh")
# Most of these tests' time is compilation, and one update is not long enough to repay it.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick_jit = partial(jax.jit, compiler_options=QUICK)
FAST = TRPOConfig(
    actor=SMALL, critic=SMALL, num_envs=4, rollout_length=12, critic_steps=6, value_samples=3
)  # fmt: skip
FORMS = {
    "stationary": ({}, StatelessPendulum(max_steps=5)),
    "memory": (
        {"core": S5Config(layers=1, state_size=4), "torso": TorsoConfig(width=8, hidden=())},
        StatelessPendulum(max_steps=5),
    ),
    "per step": ({"per_step": True, "rollout_length": 3, "discount": 1.0}, ContinuousLock(3)),
}


def data_of(env):
    """Return whole episodes of random actions."""
    return from_env(env, steps=30, num_envs=4)


@pytest.mark.parametrize(
    "form",
    [
        "per step",
        *(pytest.param(form, marks=pytest.mark.slow) for form in ("stationary", "memory")),
    ],
)
def test_an_offline_weight_of_zero_is_trpo(form):
    changes, env = FORMS[form]
    plain = TRPOConfig(**{**vars(FAST), **changes})
    hybrid = HNPGConfig(**{**vars(plain), "name": "hnpg"}, offline_weight=0.0, sweeps=3, burn_in=2)
    spec, data = env.spec, data_of(env)

    def played(key):
        agent = trpo.init(plain, spec, key)
        act = partial(trpo.act, plain, spec, agent.params, greedy=False)
        envs = Vectorized(env, plain.num_envs)
        carry = trpo.networks(plain, spec).initial_carry(plain.num_envs)
        _, own = rollout(envs, act, start(envs, carry, key), trpo.batch_spec(plain))
        return agent, own, mixing.beside(hnpg.batch_spec(hybrid), key, data)

    agent, own, offline = quick_jit(played)(jax.random.key(0))
    ours, _ = quick_jit(partial(trpo.update, plain, spec))(agent, own)
    update = quick_jit(partial(hnpg.update, hybrid, spec))
    weighted = [
        agent.replace(hyper=agent.hyper | {"offline_weight": jnp.float32(weight)})
        for weight in (0.0, 1.0)
    ]
    (without, _), (with_data, metrics) = (update(one, Hybrid(own, offline)) for one in weighted)
    before = agent.params
    assert_trees_close(without.params, ours.params, rtol=1e-4, atol=1e-6)
    assert distance(ours.params, before) > 1e-2, "TRPO itself must have moved"
    for name in ("actor", "critic"):
        gap = distance(with_data.params[name], ours.params[name])
        assert gap > 1e-3, f"the data must count in the {name}"
    assert all(np.isfinite(x) for x in metrics.values())


def distance(tree, other):
    """Return the Euclidean distance of two trees."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return np.sqrt(sum(float(jnp.sum((x - y) ** 2)) for x, y in pairs))


# --- What the loop hands over -----------------------------------------------------------------


def test_data_come_in_whole_episodes_or_in_windows():
    env = ContinuousLock(3)
    data = data_of(env)
    wish = Rollout(3, 50, offline="episodes")
    episodes = mixing.beside(wish, jax.random.key(0), data)
    assert episodes.first.shape == (3, 50) and episodes.first[0].all()
    assert not episodes.first[1:].any() and episodes.step.terminated[-1].all()
    np.testing.assert_array_equal(episodes.step.next_obs[:-1], episodes.step.obs[1:])
    starts = {tuple(np.asarray(x)) for x in episodes.step.obs[0]}
    known = {tuple(x) for x in np.asarray(data.obs).reshape(data.num_episodes, 4, -1)[:, 0]}
    assert starts <= known and len(starts) > 20

    cut = data_of(StatelessPendulum(max_steps=5))
    windows = mixing.beside(Rollout(12, 50, offline="windows"), jax.random.key(0), cut)
    assert 0 < (~windows.mask).sum() < windows.mask.size / 4
    kept = windows.mask[:-1]
    np.testing.assert_array_equal(windows.step.next_obs[:-1][kept], windows.step.obs[1:][kept])


def test_episodes_of_another_length_are_refused():
    made = list(to_episodes(data_of(ContinuousLock(3))))
    data = from_episodes(made, DatasetInfo("t/lock-v0", ContinuousLock(3).spec))
    with pytest.raises(UserError) as error:
        mixing.beside(Rollout(4, 2, offline="episodes"), jax.random.key(0), data)
    assert str(error.value) == (
        "every episode of dataset t/lock-v0 must have rollout_length = 4 steps, got 120 steps in "
        "40 episodes"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: RunConfig(EnvConfig("lock/h5"), HNPGConfig()),
            "hnpg learns from a dataset as it plays; name one with dataset",
        ),
        (
            lambda: RunConfig(EnvConfig("lock/h5"), HNPGConfig(), "lock/h5", offline_steps=10),
            "offline_steps must be left out: hnpg always plays, got 10",
        ),
        (
            lambda: RunConfig(EnvConfig("lock/h5"), TRPOConfig(), "lock/h5"),
            "dataset must be left out: trpo takes none, got 'lock/h5'",
        ),
        (lambda: HNPGConfig(offline_weight=-1.0), "offline_weight must be at least 0, got -1.0"),
        (
            lambda: HNPGConfig(sweeps=7),
            "critic_steps must be a multiple of sweeps = 7, got 30",
        ),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message


# --- Learning ---------------------------------------------------------------------------------


@pytest.mark.learning
def test_hnpg_opens_a_lock_of_five_and_trpo_does_not():
    """110,000 steps, three seeds of each; -s prints the shares of locks opened."""
    lock, seeds, blocks = ContinuousLock(5), 3, 11
    data = jax.device_put(recipes_lock.build("lock/h5", 25_000, 0, False))
    setting = replace(hnpg.PRESETS["lock"], rollout_length=5, num_envs=200)
    program = on_policy(setting, lock)
    keys = jax.vmap(jax.random.key)(jnp.tile(jnp.arange(seeds), 2))
    weight = jnp.repeat(jnp.array([1.0, 0.0]), seeds)  # HNPG, then TRPO
    state = jax.jit(jax.vmap(program.init))(keys, {"offline_weight": weight})
    chunk = jax.jit(jax.vmap(program.chunk, (0, None, None)))
    for block in range(blocks):
        state, metrics = chunk(state, data, jnp.int32(10))
        opened = np.asarray(metrics["episode/success_sum"] / metrics["episode/judged"])
        print(10_000 * (block + 1), opened.round(3))
    assert (opened[:seeds] > 0.9).all()
    assert (opened[seeds:] < 0.1).all()
