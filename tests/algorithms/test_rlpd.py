"""RLPD: its update against one made by hand, and what it learns with and without a dataset."""

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
    batch,
    check_act_equals_unroll,
    first_gradient,
    from_env,
    with_core,
)

from rlssm.algorithms import rlpd
from rlssm.algorithms.rlpd import RLPDConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, Discrete, Spec, unrolled

GAMMA, ALPHA, TAU, UTD, SIZE, CHOSEN = 0.8, 0.3, 0.1, 3, 4, 2
SMALL = RLPDConfig(
    actor=MLPConfig((16,), "relu"),
    critic=MLPConfig((16,), "relu", layer_norm=True),
    critics=SIZE,
    min_critics=CHOSEN,
    utd=UTD,
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    init_temperature=ALPHA,
    discount=GAMMA,
    polyak=TAU,
    precision="highest",
)
# Heads alone see what the steps that only warm the memory up did and earned.
RECURRENT = replace(
    with_core(SMALL, "gru"),
    torso=TorsoConfig(width=8, hidden=(), observe_action=False, observe_reward=False),
)
PROBING = replace(
    SMALL,
    utd=4,
    experience=ExperienceConfig(batch=32, warmup=64),
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    temperature_learning_rate=0.0,
    init_temperature=0.01,
)
ONE_ACTION = Box((1,))
# What is compiled here runs for microseconds, so compiling is what takes the time.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


# --- One update -------------------------------------------------------------------------------


@cache
def one_update():
    """Return (state, batches, state after, metrics), the targets unlike the critics."""
    state = jit(partial(rlpd.init, RECURRENT, SPEC))(jax.random.key(1))
    state = state.replace(target=jax.tree.map(lambda x: 0.7 * x, state.critic))
    data = batch(RECURRENT, seed=10)
    return state, data, *step_of()(state, data)


@cache
def step_of():
    return jit(partial(rlpd.update, RECURRENT, SPEC))


@cache
def outputs_of():
    """Return a compiled function of what the networks say of one batch."""
    actor, critic = rlpd.networks(RECURRENT, SPEC)

    def outputs(weights, critics, targets, data, key):
        rows, reset = unrolled(data)
        seen, before = jax.tree.map(lambda x: x[:-1], (rows, reset))
        blank = actor.initial_carry(data.mask.shape[1])
        _, policy = apply(actor, weights, blank, rows, reset, skip=1)
        action, log_prob = policy.sample_and_log_prob(key)
        after = apply(critic, targets, blank, rows, reset, action, skip=1)
        return log_prob, after, apply(critic, critics, blank, seen, before, data.step.action)

    return jit(outputs)


@cache
def by_hand():
    """Return what the equations make of that update: (critics, targets, losses, key after)."""
    state, data, _, _ = one_update()
    _, critic = rlpd.networks(RECURRENT, SPEC)
    critics, targets, key = state.critic, state.target, state.key
    mean = jax.tree.map(np.zeros_like, critics)
    square, losses = mean, []

    @jit
    def gradient(critics, one, y):
        rows, reset = unrolled(one)
        seen, before = jax.tree.map(lambda x: x[:-1], (rows, reset))
        blank = critic.initial_carry(one.mask.shape[1])

        def loss(params):
            values = apply(critic, params, blank, seen, before, one.step.action)
            return (one.mask / one.mask.sum() * (values - y) ** 2).sum() / SIZE

        return jax.grad(loss)(critics)

    for i in range(UTD):
        one = jax.tree.map(lambda x, i=i: x[i], data)
        key, action_key, subset_key = jax.random.split(key, 3)
        log_prob, after, values = (
            np.asarray(x, np.float64)
            for x in outputs_of()(state.params["actor"], critics, targets, one, action_key)
        )
        chosen = np.asarray(jax.random.choice(subset_key, SIZE, (CHOSEN,), replace=False))
        y, errors = np.zeros(one.mask.shape), []
        for t, b in np.argwhere(np.asarray(one.mask)):
            y[t, b] = 2.0 * float(one.step.reward[t, b]) - 0.5
            if not one.step.terminated[t, b]:
                y[t, b] += GAMMA * (min(after[k, t, b] for k in chosen) - ALPHA * log_prob[t, b])
            errors += [(values[k, t, b] - y[t, b]) ** 2 for k in range(SIZE)]
        losses.append(np.mean(errors))
        grad = gradient(critics, one, jnp.asarray(y, jnp.float32))
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grad)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, grad)
        critics = jax.tree.map(
            lambda p, m, v, n=i + 1: (
                p - 3e-4 * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
            ),
            critics,
            mean,
            square,
        )
        targets = jax.tree.map(lambda old, new: old + TAU * (new - old), targets, critics)
    return critics, targets, losses, key


def test_a_call_is_handed_as_many_batches_as_it_makes_critic_steps():
    data = one_update()[1]
    mask = np.asarray(data.mask)
    assert data.step.reward.shape == (UTD, 6, 4)
    assert (np.asarray(data.step.terminated) & mask).any()
    assert (np.asarray(data.step.truncated) & mask)[:, :-1].any()
    assert len({float(x) for x in data.step.reward[:, 2, 0]}) == UTD


def test_critics_and_targets_step_once_per_batch_towards_a_random_few():
    """Every step sees the critics and targets of the one before, the same policy and the same
    temperature."""
    state, _, after, metrics = one_update()
    critics, targets, losses, _ = by_hand()
    assert metrics["critic/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    for ours, theirs, before in ((after.critic, critics, state.critic),
                                 (after.target, targets, state.target)):  # fmt: skip
        moved = jax.tree.map(lambda a, b: a - b, ours, before)
        expected = jax.tree.map(lambda a, b: a - b, theirs, before)
        assert_trees_close(moved, expected, rtol=2e-2, atol=2e-6)


def test_the_actor_follows_the_mean_of_the_newest_critics_on_the_last_batch():
    state, data, after, metrics = one_update()
    actor, critic = rlpd.networks(RECURRENT, SPEC)
    action_key = jax.random.split(by_hand()[3])[1]
    last = jax.tree.map(lambda x: x[-1], data)
    rows, reset = unrolled(last)
    seen, reset = jax.tree.map(lambda x: x[:-1], (rows, reset))
    blank = actor.initial_carry(last.mask.shape[1])

    def loss(params, critics):
        _, policy = apply(actor, params, blank, seen, reset)
        action, log_prob = policy.sample_and_log_prob(action_key)
        values = apply(critic, critics, blank, seen, reset, action)
        share = last.mask / last.mask.sum()
        return (share * (ALPHA * log_prob - sum(values) / SIZE)).sum(), (share * log_prob).sum()

    of_actor = jit(jax.value_and_grad(loss, has_aux=True))
    (value, log_prob), grad = of_actor(state.params["actor"], after.critic)
    found = first_gradient(after.opt_state["actor"])
    assert_trees_close(found, grad, rtol=1e-3, atol=1e-6)
    assert metrics["actor/loss"] == pytest.approx(float(value), rel=1e-4)
    assert metrics["actor/entropy"] == pytest.approx(-float(log_prob), rel=1e-4)
    (stale, _), _ = of_actor(state.params["actor"], state.critic)
    assert abs(float(stale - value)) > 1e-3
    # of α (entropy - H̄) in log α, with H̄ = -dim(a) / 2
    slope = ALPHA * (-float(log_prob) + 1)
    assert first_gradient(after.opt_state["temperature"]) == pytest.approx(slope, rel=1e-4)
    assert np.sign(after.log_alpha - state.log_alpha) == -np.sign(slope)


def test_an_update_is_reproducible_and_changes_every_parameter():
    state, data, after, _ = one_update()
    again = step_of()(state, data)[0]
    for name in ("params", "critic", "target", "log_alpha"):
        trees = (getattr(s, name) for s in (state, after, again))
        for before, a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(a, b)
            assert (np.asarray(a) != np.asarray(before)).any()
    assert_trees_close(after.hyper, state.hyper)


def test_steps_that_are_not_learnt_from_teach_nothing():
    state, data, after, _ = one_update()
    step, unmasked = data.step, ~data.mask
    other = step._replace(
        reward=jnp.where(unmasked, 99.0, step.reward),
        action=jnp.where(unmasked[..., None], 0.5, step.action),
        terminated=step.terminated ^ unmasked,
    )
    changed = step_of()(state, data._replace(step=other))[0]
    assert_trees_close(changed.critic, after.critic, rtol=1e-5, atol=1e-7)
    assert_trees_close(changed.params, after.params, rtol=1e-5, atol=1e-7)


def test_the_few_are_distinct_and_any_of_them():
    heads = {"kernel": jnp.arange(5.0)[:, None]}
    params = {"params": {"history": {"x": jnp.ones(3)}, "values": heads}}
    draw = jax.jit(jax.vmap(lambda key: rlpd.some_critics(params, 5, 2, key)["params"]))
    drawn = draw(jax.random.split(jax.random.key(0), 2000))
    members = np.asarray(drawn["values"]["kernel"])[..., 0]
    assert members.shape == (2000, 2) and (members[:, 0] != members[:, 1]).all()
    counts = np.bincount(members.astype(int).ravel(), minlength=5)
    assert counts / 2000 == pytest.approx([0.4] * 5, abs=0.04)
    np.testing.assert_array_equal(drawn["history"]["x"], 1)


# --- Probes -----------------------------------------------------------------------------------


def test_values_of_a_stream_that_is_cut_off():
    env = probes.TruncatedStream(ONE_ACTION, 2)
    data = from_env(env)

    program = make_program(PROBING, env, online=False)
    start, chunk = jit(program.init)(jax.random.key(0), {}), jit(program.chunks["offline"])

    def value(data):
        state = chunk(start, data, jnp.int32(300))[0].agent
        return float(action_values(PROBING, env.spec, state, [[1.0]], [[0.0]])[0])

    assert value(data) == pytest.approx(1 / (1 - GAMMA), abs=0.15)
    assert value(data.replace(terminated=data.terminated | data.truncated)) < 0.5 / (1 - GAMMA)


@pytest.mark.parametrize(
    "with_data", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["dataset", "alone"]
)
def test_the_best_action_is_found_online(with_data):
    env = probes.RewardFromBoth(ONE_ACTION)
    data, program = from_env(env) if with_data else None, make_program(PROBING, env)
    state = jit(program.init)(jax.random.key(0), {})
    state, _ = jit(program.chunks["random"])(state, data, jnp.int32(64))
    state, _ = jit(program.chunks["online"])(state, data, jnp.int32(400))
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    assert played.episode_return.mean() > 0.95


# --- Acting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["s5", "gru"])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()

    check_act_equals_unroll(with_core(SMALL, core), actions)


# --- Settings ---------------------------------------------------------------------------------


def test_one_number_says_how_many_critic_steps_a_step_of_the_environment_brings():
    wish = rlpd.batch_spec(RLPDConfig())
    assert (wish.updates, wish.stack, wish.batch, wish.offline) == (1, 20, 256, 128)
    assert wish.warmup == 5000 and not wish.offline_first and wish.returns is None
    many = RLPDConfig(utd=3, experience=ExperienceConfig(num_envs=4, rollout_length=2))
    wish = rlpd.batch_spec(many)
    assert (wish.updates, wish.stack, wish.collect.steps) == (8, 3, 8)


def test_published_settings():
    default, antmaze, adroit = (rlpd.PRESETS[name] for name in ("default", "antmaze", "adroit"))
    for config in (default, antmaze, adroit):
        assert (config.critics, config.utd, config.critic.layer_norm) == (10, 20, True)
        assert config.critic.activation == "relu" and not config.actor.layer_norm
        assert config.actor.hidden == config.critic.hidden
        assert config.experience.warmup == 5000
    assert (default.min_critics, default.backup_entropy) == (2, True)
    assert (antmaze.min_critics, antmaze.backup_entropy) == (1, False)
    assert (adroit.min_critics, adroit.backup_entropy) == (2, False)
    assert default.critic.hidden == (256,) * 2
    assert antmaze.critic.hidden == adroit.critic.hidden == (256,) * 3
    assert antmaze.experience.reward(jnp.float32(1)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"utd": 0}, "utd must be at least 1, got 0"),
        ({"critics": 0}, "critics must be at least 1, got 0"),
        ({"min_critics": 11}, "min_critics must be from 1 to critics = 10, got 11"),
        ({"min_critics": 0}, "min_critics must be from 1 to critics = 10, got 0"),
        (
            {"experience": ExperienceConfig(update_ratio=20)},
            "update_ratio must be 1: utd counts the updates of the critics, got 20",
        ),
        ({"polyak": 0.0}, "polyak must be in (0, 1], got 0.0"),
        (
            {"torso": TorsoConfig(width=8)},
            "torso feeds the memory, and core none has none: set the sizes of the networks, or "
            "choose a core",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        RLPDConfig(**changes)
    assert str(error.value) == message


def test_networks_refuse_discrete_actions():
    with pytest.raises(UserError) as error:
        rlpd.networks(RLPDConfig(), Spec(Box((3,)), Discrete(2)))
    assert str(error.value) == "rlpd needs continuous actions (a vector), got Discrete(n=2)"
