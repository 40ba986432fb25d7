"""Hy-Q: its update against NumPy, exploration, memory, and a lock that data open."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import assert_trees_close, first_gradient, from_env

from rlssm.algorithms import hyq
from rlssm.algorithms.hyq import HyQConfig
from rlssm.data import mixing
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.envs.base import Vectorized
from rlssm.envs.locks import DiscreteLock
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.registry import EnvConfig
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate, evaluate_seeds
from rlssm.nn.actor_critic import apply
from rlssm.nn.cores import GRUConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train import recipes, recipes_lock
from rlssm.train.collect import rollout, start
from rlssm.train.config import RunConfig
from rlssm.train.loop import fit
from rlssm.train.program import make_program
from rlssm.train.run import Run
from rlssm.types import Box, DictSpace, Discrete, Inputs, Previous, Rollout, Spec, unrolled

GAMMA, TAU = 0.8, 0.1
SMALL = HyQConfig(
    critic=MLPConfig((16,), "relu"),
    experience=ExperienceConfig(batch=32, warmup=64, reward_scale=2.0, reward_shift=-0.5),
    learning_rate=1e-2,
    discount=GAMMA,
    polyak=TAU,
    precision="highest",
)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = partial(jax.jit, compiler_options=QUICK)
LOCK = DiscreteLock(3)


@cache
def one_update():
    """Return (state, batch, state after, metrics), the target unlike the network."""
    state = jit(partial(hyq.init, SMALL, LOCK.spec))(jax.random.key(1))
    state = state.replace(target=jax.tree.map(lambda x: 0.7 * x, state.params))
    data = jax.device_put(recipes_lock.build("lock/h3-discrete", 60, 0, False))
    batch = mixing.batch(hyq.batch_spec(SMALL), jax.random.key(2), data, None, None)
    return state, batch, *jit(partial(hyq.update, SMALL, LOCK.spec))(state, batch)


def values(params, obs):
    """Return the network's values in float64."""
    layers = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"]["values"])
    hidden = np.maximum(obs @ layers["hidden_0"]["kernel"] + layers["hidden_0"]["bias"], 0)
    return hidden, hidden @ layers["out"]["kernel"] + layers["out"]["bias"]


def test_an_update_is_that_of_the_equations():
    """Loss, the gradient of the last layer and the target's step, by loops over the batch."""
    state, batch, after, metrics = one_update()
    step = jax.tree.map(lambda x: np.asarray(x)[0], batch.step)  # windows of one step
    losses, slope, bias = [], np.zeros((16, 10)), np.zeros(10)
    for obs, action, reward, next_obs, terminated in zip(*step[:5], strict=True):
        hidden, q = values(state.params, obs)
        y = 2.0 * reward - 0.5
        if not terminated:
            y += GAMMA * values(state.target, next_obs)[1].max()
        losses.append((q[action] - y) ** 2)
        slope[:, action] += 2 * (q[action] - y) * hidden / len(step.reward)
        bias[action] += 2 * (q[action] - y) / len(step.reward)
    assert 0 < step.terminated.sum() < len(step.reward)
    assert metrics["critic/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    out = first_gradient(after.opt_state)["params"]["values"]["out"]
    np.testing.assert_allclose(out["kernel"], slope, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(out["bias"], bias, rtol=1e-3, atol=1e-5)
    blend = jax.tree.map(lambda a, b: a + TAU * (b - a), state.target, after.params)
    assert_trees_close(after.target, blend, rtol=1e-5, atol=1e-7)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True):
        assert (np.asarray(a) != np.asarray(b)).any()


def test_half_a_batch_is_the_datasets():
    wish = hyq.batch_spec(HyQConfig())
    assert (wish.batch, wish.offline, wish.offline_first) == (256, 128, False)


# --- Acting -----------------------------------------------------------------------------------


def test_exploration_is_as_frequent_as_asked_and_keeps_to_allowed_actions():
    space = DictSpace((("action_mask", Box((4,), "bool")), ("x", Box((2,)))))
    spec, setting, n = Spec(space, Discrete(4)), replace(SMALL, epsilon=0.3), 4000
    state = jit(partial(hyq.init, setting, spec))(jax.random.key(0))
    obs = {"action_mask": jnp.tile(jnp.array([True, False, True, True]), (n, 1)),
           "x": jnp.ones((n, 2))}  # fmt: skip
    flags = jnp.ones(n, bool)
    seen = Inputs(obs, Previous(jnp.zeros(n, jnp.int32), jnp.zeros(n)), flags)
    act = partial(hyq.act, setting, spec, state.params, seen, flags, (), jax.random.key(1))
    greedy, taken = (np.asarray(act(greedy=x)[0]) for x in (True, False))
    assert len(set(greedy.tolist())) == 1 and greedy[0] != 1
    share = np.bincount(taken, minlength=4) / n
    assert share[1] == 0
    others = [share[a] for a in (0, 2, 3) if a != greedy[0]]
    assert others == pytest.approx([0.1, 0.1], abs=0.02)


def test_acting_step_by_step_equals_unrolling():
    env = MemoryChain(3)
    setting = replace(
        SMALL, core=GRUConfig(), torso=TorsoConfig(width=8, hidden=()),
        experience=ExperienceConfig(batch=16, length=6, burn_in=2),
    )  # fmt: skip
    net = hyq.networks(setting, env.spec)
    state = jit(partial(hyq.init, setting, env.spec))(jax.random.key(0))
    act = partial(hyq.act, setting, env.spec, state.params, greedy=True)
    runner = start(Vectorized(env, 4), net.initial_carry(4), jax.random.key(1))
    play = jit(lambda r: rollout(Vectorized(env, 4), act, r, Rollout(17, 4)))
    end, trajectory = play(runner)
    rows, reset = jax.tree.map(lambda x: x[:-1], unrolled(trajectory))
    carry, found = apply(net, state.params, trajectory.carry, rows, reset)
    np.testing.assert_array_equal(found.argmax(-1), trajectory.step.action)
    assert_trees_close(carry, end.carry, rtol=1e-4, atol=1e-5)


# --- Learning ---------------------------------------------------------------------------------


def test_the_best_action_is_found_with_data_and_steps():
    env, setting = probes.RewardFromBoth(Discrete(2)), replace(SMALL, epsilon=0.1)
    random = lambda key, seen: jax.random.randint(key, (8,), 0, 2)  # noqa: E731
    data, program = from_env(env, policy=random), make_program(setting, env)
    state = jit(program.init)(jax.random.key(0), {})
    state, _ = jit(program.chunks["random"])(state, data, jnp.int32(64))
    state, _ = jit(program.chunks["online"])(state, data, jnp.int32(300))
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    assert played.episode_return.mean() > 0.95


@pytest.mark.slow
def test_going_on_from_a_checkpoint_is_bit_identical(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    recipes.make("lock/h5-discrete", steps=250)
    setting = RunConfig(
        EnvConfig("lock/h5-discrete"), SMALL, "lock/h5-discrete", steps=400, keep=20,
        checkpoint_every=100, eval_episodes=4, final_episodes=4, seeds=2,
    )  # fmt: skip
    run = fit(setting, tmp_path / "run", progress=False)
    whole = run.state("last")
    run.go_back(200)
    again = fit(setting, tmp_path / "run", progress=False).state("last")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    assert Run(tmp_path / "run").complete


@pytest.mark.learning
def test_data_open_a_lock_of_fifteen_that_exploration_does_not():
    """20,000 steps, three seeds, with 1,000 episodes beside them and without; -s prints both.

    A lock of five is no test: to stay alive costs nothing, so that exploration alone opens it.
    """
    lock, seeds = DiscreteLock(15), 3
    program = make_program(replace(hyq.PRESETS["lock"], epsilon=1 / 15), lock)
    data = jax.device_put(recipes_lock.build("lock/h15-discrete", 15_000, 0, False))
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    opened = {}
    for name, given in (("with data", data), ("alone", None)):
        state = jax.jit(jax.vmap(program.init))(keys, {})
        for phase, rounds in (("random", 100), ("online", 1900)):
            chunk = jax.jit(jax.vmap(program.chunks[phase], (0, None, None)), donate_argnums=0)
            state, _ = chunk(state, given, jnp.int32(rounds))
        params = state.agent.params
        played = evaluate_seeds(lock, program.policy, params, jax.random.key(5), episodes=200)
        opened[name] = np.asarray(played.success.mean(1))
        print(name, opened[name].round(3))
    assert opened["with data"].min() > 0.9 and opened["alone"].max() < 0.1


# --- Settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 1.5}, "epsilon must be in [0, 1], got 1.5"),
        ({"polyak": 0.0}, "polyak must be in (0, 1], got 0.0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        HyQConfig(**changes)
    assert str(error.value) == message


def test_networks_refuse_continuous_actions():
    with pytest.raises(UserError) as error:
        hyq.networks(HyQConfig(), Spec(Box((3,)), Box((2,))))
    assert str(error.value) == "hyq needs discrete actions, got Box(shape=(2,), dtype='float32')"
