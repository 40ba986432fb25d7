"""DARC: its correction against loops, what each part learns from, and the best action found."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import (
    SPEC,
    assert_trees_close,
    check_act_equals_unroll,
    first_gradient,
    from_env,
    mixed_batch,
    with_core,
    with_random_weights,
)

from rlssm.algorithms import darc, sac
from rlssm.algorithms.darc import DARCConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.train.program import make_program
from rlssm.types import Box, DictSpace, Spec

HIDDEN = MLPConfig((16,), "relu")
SMALL = DARCConfig(
    actor=HIDDEN,
    critic=HIDDEN,
    discriminator=HIDDEN,
    experience=ExperienceConfig(batch=24, length=6, burn_in=2),
    correction=0.7,
    init_temperature=0.3,
    precision="highest",
)
REAL = 3  # of the 6 windows of a batch
BOTH = [
    pytest.param(False, id="darc"),
    pytest.param(True, id="darc+", marks=pytest.mark.slow),  # another compilation
]
# What is compiled here runs for microseconds, so compiling is what takes the time.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def before(config):
    state = with_random_weights(config)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.discriminator_opt)
    return state.replace(discriminator_opt=zero)


@cache
def update_of(plus):
    return jit(partial(darc.update, replace(SMALL, real_steps=plus), SPEC))


@cache
def updated(plus):
    """Return (config, batches, state after, metrics) of one update of DARC or DARC+."""
    config = replace(SMALL, real_steps=plus)
    batches = mixed_batch(config, seed=5)
    return config, batches, *update_of(plus)(before(config), batches)


def corrections(config, step):
    """Return Δr of steps, in float64."""
    discriminators = darc.networks(config, SPEC).discriminators
    args = step.obs, step.action, step.next_obs
    weights = before(config).discriminators
    d2 = np.asarray(apply(discriminators, weights, *args, method="successor"), np.float64)
    return d2[..., 0] - d2[..., 1]


@pytest.mark.parametrize("plus", BOTH)
def test_an_update_is_that_of_sac_on_corrected_simulated_rewards(plus):
    config, batches, after, metrics = updated(plus)
    assert batches.mask.shape == (2, 6, 6)
    columns = [(0, b) for b in range(6)] if plus else [(k, b) for k in (0, 1) for b in range(3, 6)]

    def pick(x):
        return jnp.stack([x[k, :, b] for k, b in columns], axis=1)

    rows = jax.tree.map(pick, batches[:4])
    previous = jax.tree.map(lambda x: jnp.stack([x[at] for at in columns]), batches.previous)
    change = corrections(config, rows[0])
    simulated = np.array([b >= REAL for _, b in columns])
    change = np.where(simulated, change, 0)
    step = rows[0]._replace(reward=rows[0].reward + 0.7 * jnp.float32(change))
    batch = batches._replace(**dict(zip(("first", "reset", "mask"), rows[1:], strict=True)))
    batch = batch._replace(step=step, previous=previous, carry=None)
    expected, _ = jit(partial(sac.update, config, SPEC))(before(config), batch)
    for name in ("critic", "actor", "temperature"):
        ours, theirs = (first_gradient(x.opt_state[name]) for x in (after, expected))
        assert_trees_close(ours, theirs, rtol=1e-3, atol=1e-5)
    counted = np.asarray(batch.mask) & simulated
    assert metrics["simulator/correction"] == pytest.approx(change[counted].mean(), rel=1e-4)


def test_a_memory_is_fed_the_rewards_that_were_earned(monkeypatch):
    handed = []

    def spy(config, spec, state, batch, correction):
        handed.append((batch, correction))
        return state, {}

    monkeypatch.setattr(sac, "update", spy)
    batches = mixed_batch(SMALL, seed=5)
    darc.update(SMALL, SPEC, before(SMALL), batches)
    ((batch, correction),) = handed
    earned = np.asarray(batches.step.reward)[:, :, REAL:]
    np.testing.assert_array_equal(batch.step.reward, np.concatenate([*earned], axis=1))
    assert np.abs(correction).min() > 0


@pytest.mark.parametrize("plus", BOTH)
def test_real_steps_teach_the_discriminators_and_in_darc_plus_the_critics(plus):
    config, batches, after, _ = updated(plus)
    reward = batches.step.reward.at[:, :, :REAL].add(1.0)
    other = batches._replace(step=batches.step._replace(reward=reward))
    found, _ = update_of(plus)(before(config), other)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(),
        *(first_gradient(x.opt_state["critic"]) for x in (found, after)),
    )
    assert (max(jax.tree.leaves(moved)) > 1e-4) == plus
    for old, new in zip(
        jax.tree.leaves(before(config).discriminators),
        jax.tree.leaves(after.discriminators),
        strict=True,
    ):
        assert (np.asarray(old) != np.asarray(new)).any()


@pytest.mark.slow
def test_the_best_action_is_found_with_a_dataset_of_random_ones():
    env = probes.RewardFromBoth(Box((1,)))
    config = replace(
        SMALL,
        experience=ExperienceConfig(batch=32, warmup=64),
        learning_rate=1e-2,
        critic_learning_rate=1e-2,
        temperature_learning_rate=0.0,
        init_temperature=0.01,
        discount=0.8,
    )
    data, program = from_env(env), make_program(config, env)
    state = jit(program.init)(jax.random.key(0), {})
    state, _ = jit(program.chunks["random"])(state, data, jnp.int32(64))
    state, metrics = jit(program.chunks["online"])(state, data, jnp.int32(500))
    assert abs(float(metrics["simulator/correction"])) < 0.5
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    assert played.episode_return.mean() > 0.9  # the correction is noise here


@pytest.mark.slow
def test_acting_step_by_step_equals_unrolling():
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()

    check_act_equals_unroll(with_core(SMALL, "s5"), actions)


def test_published_settings():
    paper, plus = darc.PRESETS["paper"], darc.PRESETS["plus"]
    assert (paper.discriminator.hidden, paper.noise, paper.correction) == ((32,), 1.0, 1.0)
    assert paper.experience.reward_scale == 0.1 and not paper.real_steps and plus.real_steps
    wish = darc.batch_spec(DARCConfig())
    assert (wish.stack, wish.batch, wish.offline, wish.updates, wish.both) == (
        2, 256, 128, 1000, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correction": -1.0}, "correction must be at least 0, got -1.0"),
        (
            {"discriminator_learning_rate": 0.0},
            "discriminator_learning_rate must be above 0, got 0.0",
        ),
        (
            {"experience": ExperienceConfig(prior=1.0)},
            "prior must leave each batch of 256 windows one real and one simulated or more, "
            "got 1.0",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        DARCConfig(**changes)
    assert str(error.value) == message


def test_networks_refuse_observations_that_are_not_vectors():
    with pytest.raises(UserError, match="darc needs observations that are a vector, got DictSp"):
        darc.networks(DARCConfig(), Spec(DictSpace((("a", Box((3,))),)), Box((2,))))
