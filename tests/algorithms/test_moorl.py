"""MOORL: its meta-iteration against SAC's update and NumPy, and what it learns from two sources."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import (
    SPEC,
    action_values,
    assert_trees_close,
    check_act_equals_unroll,
    dataset,
    from_env,
    with_core,
    with_random_weights,
)

from rlssm.algorithms import moorl, sac
from rlssm.algorithms.moorl import MOORLConfig
from rlssm.data import mixing
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.actor_critic import apply
from rlssm.nn.cores import S5Config
from rlssm.nn.mlp import MLPConfig
from rlssm.train.program import make_program
from rlssm.types import Box

K, EPSILON, TAU = 3, 0.3, 0.1
SMALL = MOORLConfig(
    actor=MLPConfig((8,), "relu"),
    critic=MLPConfig((8,), "relu"),
    inner_steps=K,
    meta_rate=EPSILON,
    polyak=TAU,
    learning_rate=1e-2,
    critic_learning_rate=2e-2,
    temperature_learning_rate=3e-2,
    experience=ExperienceConfig(batch=16, rollout_length=K, reward_scale=2.0),
    precision="highest",
)
RECURRENT = with_core(SMALL, "s5")
PROBING = replace(
    SMALL,
    inner_steps=2,
    meta_rate=0.5,
    experience=ExperienceConfig(batch=32, rollout_length=4, update_ratio=2.0, warmup=4),
    temperature_learning_rate=0.0,
    init_temperature=0.01,
    critic_learning_rate=1e-2,
    discount=0.8,
)
ONE_ACTION = Box((1,))
# What is compiled here runs for microseconds, so compiling is what takes the time.
jit = partial(jax.jit, compiler_options={"xla_llvm_disable_expensive_passes": True})


@cache
def batches(config, seed=0):
    """Return windows `[2, K, T, B]` of two sets of random episodes."""
    wish = moorl.batch_spec(config)
    parts = [
        mixing.batch(wish, jax.random.key(seed), jax.device_put(dataset(10 * seed + i)), None, None)
        for i in (0, 1)
    ]
    both = jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), *parts)
    source = jnp.zeros_like(both.step.extras["source"]).at[1].set(1)
    return both._replace(step=both.step._replace(extras={"source": source}))


@cache
def step_of(config):
    return jit(partial(moorl.update, config, SPEC))


@cache
def inner_step(config):
    return jit(partial(sac.update, config, SPEC))


def start(config, seed=1):
    """Return a state in which targets differ from critics, and moments from zero."""
    state = with_random_weights(config, SPEC, seed)
    data = jax.tree.map(lambda x: x[0, 0], batches(config, 5))
    state, _ = inner_step(config)(state, data)
    return state.replace(target=jax.tree.map(lambda x: 0.7 * x, state.critic))


def learnt(state):
    return {"actor": state.params["actor"], "critic": state.critic, "alpha": state.log_alpha}


def by_hand(config, state, data):
    """Return what the equations make of one meta-iteration: (learnt, targets, inner state)."""
    key, source_key = jax.random.split(state.key)
    own = float(jax.random.uniform(source_key)) >= config.offline_probability
    inner = state.replace(key=key)
    if not config.keep_optimizer:
        inner = inner.replace(opt_state=jax.tree.map(jnp.zeros_like, inner.opt_state))
    for k in range(config.inner_steps):
        one = jax.tree.map(lambda x, k=k: x[int(own), k], data)
        inner, _ = inner_step(config)(inner, one)
        inner = inner.replace(target=state.target)
    meta = jax.tree.map(
        lambda old, new: np.float64(old) + config.meta_rate * (np.float64(new) - old),
        learnt(state),
        learnt(inner),
    )
    share = 1 - (1 - config.polyak) ** config.inner_steps
    target = jax.tree.map(
        lambda old, new: np.float64(old) + share * (new - old), state.target, meta["critic"]
    )
    return meta, target, inner, own


# --- One meta-iteration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "keep", [pytest.param(True, marks=pytest.mark.slow), False], ids=["kept", "reset"]
)
def test_the_meta_step_goes_a_share_of_the_way_that_the_inner_steps_went(keep):
    config = replace(SMALL, keep_optimizer=keep)
    state, data = start(config), batches(config)
    sources = set()
    for seed in range(4):
        state = state.replace(key=jax.random.key(seed))
        after, metrics = step_of(config)(state, data)
        meta, target, inner, own = by_hand(config, state, data)
        assert_trees_close(learnt(after), meta, rtol=1e-4, atol=1e-6)
        assert_trees_close(after.target, target, rtol=1e-4, atol=1e-6)
        assert_trees_close(after.opt_state, inner.opt_state, rtol=1e-3, atol=1e-6)
        assert float(metrics["meta/dataset"]) == 1 - own
        moved = np.sqrt(sum(
            np.square(np.asarray(a - b)).sum()
            for a, b in zip(*map(jax.tree.leaves, (inner.critic, state.critic)), strict=True)
        ))  # fmt: skip
        assert float(metrics["meta/critic_drift"]) == pytest.approx(moved, rel=1e-3)
        sources.add(own)
    assert sources == {True, False}


def test_at_rate_one_and_one_inner_step_it_is_sac_on_alternating_sources():
    """Forty updates in a row, parameter for parameter; without the meta-step it is another one."""
    config = replace(
        SMALL, inner_steps=1, meta_rate=1.0, experience=replace(SMALL.experience, rollout_length=1)
    )
    ours = theirs = start(config)
    slower = theirs
    seen = []
    for i in range(40):
        data = batches(config, i % 4)
        key, source_key = jax.random.split(theirs.key)
        own = int(jax.random.uniform(source_key) >= 0.5)
        seen.append(own)
        one = jax.tree.map(lambda x, own=own: x[own, 0], data)
        theirs, _ = inner_step(config)(theirs.replace(key=key), one)
        ours, _ = step_of(config)(ours, data)
        half = slower.replace(hyper=slower.hyper | {"meta_rate": jnp.float32(0.5)})
        slower, _ = step_of(config)(half, data)
        np.testing.assert_array_equal(*(jax.random.key_data(s.key) for s in (ours, theirs)))
    assert_trees_close(learnt(ours), learnt(theirs), rtol=1e-4, atol=1e-5)
    assert_trees_close(ours.target, theirs.target, rtol=1e-4, atol=1e-5)
    assert 10 < sum(seen) < 30
    assert np.abs(ours.log_alpha - slower.log_alpha) > 0.05


@pytest.mark.parametrize("probability, source", [(0.0, 0.0), (1.0, 1.0)])
def test_the_probability_of_a_source_may_be_swept_to_its_ends(probability, source):
    state = start(SMALL)
    state = state.replace(hyper=state.hyper | {"offline_probability": jnp.float32(probability)})
    for seed in range(5):
        changed = state.replace(key=jax.random.key(seed))
        assert float(step_of(SMALL)(changed, batches(SMALL))[1]["meta/dataset"]) == source


@pytest.mark.slow
def test_state_space_parameters_are_averaged_without_their_constraints():
    """Both are logarithms; what they stand for is averaged geometrically."""
    config = replace(RECURRENT, core=S5Config(layers=1, state_size=8, stability="exp"))
    before = with_random_weights(config, SPEC, 1)
    ahead, half = (
        step_of(config)(
            before.replace(hyper=before.hyper | {"meta_rate": jnp.float32(rate)}), batches(config)
        )[0]
        for rate in (1.0, 0.5)
    )
    for name in ("Lambda_re", "log_step"):
        values = []
        for state in (before, ahead, half):
            leaves = jax.tree_util.tree_leaves_with_path(state.params["actor"])
            (leaf,) = (x for path, x in leaves if name in jax.tree_util.keystr(path))
            values.append(np.exp(np.float64(leaf)))
        np.testing.assert_allclose(values[2], np.sqrt(values[0] * values[1]), rtol=1e-4)
        assert np.abs(values[1] / values[0] - 1).max() > 1e-3


# --- What it learns ---------------------------------------------------------------------------


@cache
def probe():
    env = probes.RewardFromBoth(ONE_ACTION)
    return env, from_env(env), make_program(PROBING, env)


@pytest.mark.slow
def test_the_best_action_is_found_online():
    env, data, program = probe()
    state = jit(program.init)(jax.random.key(0), {})
    state, _ = jit(program.chunks["random"])(state, data, jnp.int32(1))
    state, metrics = jit(program.chunks["online"])(state, data, jnp.int32(300))
    assert 0.3 < metrics["meta/dataset"] < 0.7
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    assert played.episode_return.mean() > 0.95


def test_only_the_dataset_is_learnt_from_until_there_is_a_batch_of_own_steps():
    env, data, program = probe()
    config = replace(PROBING, offline_probability=0.0)
    program = make_program(config, env)
    state = jit(program.init)(jax.random.key(0), {})
    state, _ = jit(program.chunks["random"])(state, data, jnp.int32(1))
    online, found = jit(program.chunks["online"]), []
    for _ in range(10):  # four steps a round, 32 make a batch
        state, metrics = online(state, data, jnp.int32(1))
        found.append(float(metrics["meta/dataset"]))
    assert found == [1.0] * 6 + [0.0] * 4


def test_values_stay_bounded_on_random_actions():
    """Rewards lie in [-1, 1], so that no policy is worth more than 1 / (1 - γ) = 5."""
    env = probes.TruncatedStream(ONE_ACTION, 2)
    data = from_env(env)
    config = replace(PROBING, offline_probability=0.5)
    program = make_program(config, env)
    state = jit(program.init)(jax.random.key(0), {})
    state, _ = jit(program.chunks["random"])(state, data, jnp.int32(1))
    chunk = jit(program.chunks["online"])
    for _ in range(4):
        state, _ = chunk(state, data, jnp.int32(100))
        actions = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
        values = action_values(config, env.spec, state.agent, np.ones((11, 1)), actions)
        assert np.abs(values).max() < 1.2 * 5
    assert values.mean() == pytest.approx(5, abs=0.5)


# --- Acting and settings ----------------------------------------------------------------------


def test_acting_step_by_step_equals_unrolling():
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()

    check_act_equals_unroll(RECURRENT, actions)


def test_what_a_meta_iteration_is_handed():
    wish = moorl.batch_spec(MOORLConfig())
    assert (wish.stack, wish.updates, wish.collect.steps, wish.sources) == (10, 1, 10, "apart")
    assert not wish.offline_first and not wish.both
    state = with_random_weights(SMALL)
    assert set(moorl.SWEPT) == set(SMALL.swept) == set(state.hyper)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"meta_rate": 0.0}, "meta_rate must be in (0, 1], got 0.0"),
        ({"meta_rate": 1.5}, "meta_rate must be in (0, 1], got 1.5"),
        ({"offline_probability": -0.1}, "offline_probability must be in [0, 1], got -0.1"),
        (
            {"experience": ExperienceConfig(rollout_length=10, prior=0.2)},
            "prior must be left out: offline_probability takes its place, got 0.2",
        ),
        (
            {"inner_steps": 4},
            "update_ratio * num_envs * rollout_length must be a multiple of 4, got 1 * 1 * 10",
        ),
        ({"polyak": 0.0}, "polyak must be in (0, 1], got 0.0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        MOORLConfig(**changes)
    assert str(error.value) == message
