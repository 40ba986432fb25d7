"""SAC: its losses against loops written from the equations, and what it learns on probes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import (
    SPEC,
    action_values,
    alone,
    assert_trees_close,
    batch,
    check_act_equals_unroll,
    first_gradient,
    from_env,
    learner,
    with_core,
    with_random_weights,
)

from rlssm.algorithms import sac
from rlssm.algorithms.sac import SACConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.envs.registry import make
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, DictSpace, Discrete, Spec, unrolled

GAMMA, ALPHA = 0.8, 0.3
SMALL = SACConfig(
    actor=MLPConfig((16,), "relu"),
    critic=MLPConfig((16,), "relu"),
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    init_temperature=ALPHA,
    discount=GAMMA,
    polyak=0.1,
    precision="highest",
)
WINDOWED = replace(SMALL, experience=replace(SMALL.experience, length=6, burn_in=2, batch=24))
# The memory is not told what the steps that only warm it up did and earned.
RECURRENT = replace(
    with_core(SMALL, "gru"),
    torso=TorsoConfig(width=8, hidden=(), observe_action=False, observe_reward=False),
)
PROBING = replace(
    SMALL,
    experience=ExperienceConfig(batch=32, warmup=64),
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    temperature_learning_rate=0.0,
    init_temperature=0.01,
)
ONE_ACTION = Box((1,))


# --- One update -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def update():
    return jax.jit(partial(sac.update, WINDOWED, SPEC))


@pytest.fixture(scope="module")
def updated(update):
    """One update: (state, batch, state after, metrics), the targets unlike the critics."""
    state = with_random_weights(WINDOWED)
    data = batch(WINDOWED, seed=5)
    return state, data, *update(state, data)


@pytest.fixture(scope="module")
def recomputed(updated):
    """What the networks say in that update, and gradients of the losses with all else fixed."""
    state, data, after, _ = updated
    actor, critic = sac.networks(WINDOWED, SPEC)
    rows, reset = unrolled(data)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    _, next_key, action_key = jax.random.split(state.key, 3)
    weight = data.mask / data.mask.sum()

    @jax.jit
    def run(state, after):
        _, policy = apply(actor, state.params["actor"], (), rows, reset, skip=1)
        next_action, next_log_prob = policy.sample_and_log_prob(next_key)
        next_value = apply(critic, state.target, (), rows, reset, next_action, skip=1)
        y = 2.0 * data.step.reward - 0.5
        y += GAMMA * ~data.step.terminated * (next_value.min(0) - ALPHA * next_log_prob)

        def critic_loss(params):
            values = apply(critic, params, (), seen, reset[:-1], data.step.action)
            return (weight * (values - y) ** 2).sum(), values

        def actor_loss(params, critics):
            _, policy = apply(actor, params, (), seen, reset[:-1])
            action, log_prob = policy.sample_and_log_prob(action_key)
            values = apply(critic, critics, (), seen, reset[:-1], action)
            return (weight * (ALPHA * log_prob - values.min(0))).sum(), (log_prob, values)

        weights = state.params["actor"]
        of_critic, values = jax.grad(critic_loss, has_aux=True)(state.critic)
        of_actor, (log_prob, chosen) = jax.grad(actor_loss, has_aux=True)(weights, after.critic)
        stale, _ = jax.grad(actor_loss, has_aux=True)(weights, state.critic)
        said = next_value, next_log_prob, values, log_prob, chosen
        return said, {"critic": of_critic, "actor": of_actor, "stale": stale}

    said, gradients = run(state, after)
    return [np.asarray(x, np.float64) for x in said], gradients


def learnt_from(data):
    """Return the (t, b) of the steps that count."""
    return np.argwhere(np.asarray(data.mask))


def test_the_batch_of_these_tests_has_every_kind_of_step(updated):
    data = updated[1]
    mask = np.asarray(data.mask)
    assert (np.asarray(data.step.terminated) & mask).any()
    assert (np.asarray(data.step.truncated) & mask)[:-1].any()
    assert not mask[:2].any() and not mask[2:].all()


def test_losses_are_those_of_the_equations(updated, recomputed):
    _, data, _, metrics = updated
    next_value, next_log_prob, values, log_prob, chosen = recomputed[0]
    critic_loss, actor_loss, entropy = [], [], []
    for t, b in learnt_from(data):
        y = 2.0 * float(data.step.reward[t, b]) - 0.5
        if not data.step.terminated[t, b]:
            y += GAMMA * (next_value[:, t, b].min() - ALPHA * next_log_prob[t, b])
        critic_loss.append(sum((q - y) ** 2 for q in values[:, t, b]))
        actor_loss.append(ALPHA * log_prob[t, b] - chosen[:, t, b].min())
        entropy.append(-log_prob[t, b])
    assert metrics["critic/loss"] == pytest.approx(np.mean(critic_loss), rel=1e-4)
    assert metrics["actor/loss"] == pytest.approx(np.mean(actor_loss), rel=1e-4)
    assert metrics["actor/entropy"] == pytest.approx(np.mean(entropy), rel=1e-4)
    assert metrics["actor/temperature"] == pytest.approx(ALPHA, rel=1e-6)


def test_gradients_stop_at_targets_and_the_actor_meets_the_new_critics(updated, recomputed):
    after, gradients = updated[2], recomputed[1]
    for name in ("critic", "actor"):
        found = first_gradient(after.opt_state[name])
        assert_trees_close(found, gradients[name], rtol=1e-3, atol=1e-5)
    found = first_gradient(after.opt_state["actor"])
    gaps = jax.tree.map(lambda a, b: np.abs(a - np.asarray(b)).max(), found, gradients["stale"])
    assert max(jax.tree.leaves(gaps)) > 1e-4


def test_the_temperature_follows_the_slope_of_its_loss(updated, recomputed):
    state, data, after, _ = updated
    log_prob = recomputed[0][3]

    def loss(log_alpha):
        return np.mean([-log_alpha * (log_prob[t, b] - 2) for t, b in learnt_from(data)])

    at, h = float(state.log_alpha), 1e-3
    slope = (loss(at + h) - loss(at - h)) / (2 * h)
    assert first_gradient(after.opt_state["temperature"]) == pytest.approx(slope, rel=1e-4)
    assert np.sign(after.log_alpha - state.log_alpha) == -np.sign(slope)


def test_targets_move_towards_the_new_critics(updated):
    state, _, after, _ = updated
    expected = jax.tree.map(
        lambda q, old: old + 0.1 * (q - old), *jax.device_get((after.critic, state.target))
    )
    assert_trees_close(after.target, expected, rtol=1e-5, atol=1e-6)


def test_an_update_is_reproducible_and_changes_every_parameter(updated, update):
    state, data, after, _ = updated
    again = update(state, data)[0]
    for name in ("params", "critic", "target", "log_alpha"):
        trees = (getattr(s, name) for s in (state, after, again))
        for before, a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(a, b)
            assert (np.asarray(a) != np.asarray(before)).any()
    assert_trees_close(after.hyper, state.hyper)


def test_with_memory_masked_steps_teach_nothing_but_are_remembered():
    update = jax.jit(partial(sac.update, RECURRENT, SPEC))
    state, data = with_random_weights(RECURRENT), batch(RECURRENT, seed=5)
    after, metrics = update(state, data)
    step, unmasked = data.step, ~data.mask
    other = step._replace(
        reward=jnp.where(unmasked, 99.0, step.reward),
        action=jnp.where(unmasked[..., None], 0.5, step.action),
        terminated=step.terminated ^ unmasked,
    )
    found = update(state, data._replace(step=other))[0]
    assert_trees_close((found.params, found.critic), (after.params, after.critic), atol=1e-7)
    moved = update(state, data._replace(step=step._replace(obs=step.obs.at[1].add(1.0))))[1]
    assert abs(moved["critic/loss"] - metrics["critic/loss"]) > 1e-4


# --- Probes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_steps():
    """Learning from episodes of two steps."""
    return learner(PROBING, probes.DelayedReward(ONE_ACTION))


def values(env, state, obs):
    obs = np.asarray(obs, np.float32)[:, None]
    return action_values(PROBING, env.spec, state, obs, np.zeros_like(obs))


@pytest.mark.parametrize(
    ("probe", "obs", "expected"),
    [
        (probes.DelayedReward, [0, 1], [GAMMA, 1]),
        (partial(probes.TerminatedStream, steps=2), [0, 0.5], [1 + GAMMA, 1]),
        (partial(probes.TruncatedStream, steps=2), [1], [1 / (1 - GAMMA)]),
    ],
    ids=["delayed", "terminated", "truncated"],
)
def test_values_of_probes(two_steps, probe, obs, expected):
    env = probe(ONE_ACTION)
    state, _ = two_steps(from_env(env), 800)
    assert values(env, state, obs) == pytest.approx(expected, abs=0.15)


def test_taking_a_time_limit_for_a_death_is_visible(two_steps):
    env = probes.TruncatedStream(ONE_ACTION, 2)
    data = from_env(env)
    state, _ = two_steps(data.replace(terminated=data.terminated | data.truncated), 800)
    assert values(env, state, [1]) < 0.5 / (1 - GAMMA)


def test_the_best_action_is_found_online():
    env = probes.RewardFromBoth(ONE_ACTION)
    program = make_program(PROBING, env)
    state = jax.jit(program.init)(jax.random.key(0), {})
    before = program.params(state)
    state, _ = jax.jit(program.chunks["random"])(state, None, jnp.int32(64))
    assert_trees_close(program.params(state), before)
    stored = state.replay.storage.experience.action[0, :64, 0]
    assert stored.min() < -0.8 and stored.max() > 0.8 and abs(stored.mean()) < 0.3
    state, _ = jax.jit(program.chunks["online"])(state, None, jnp.int32(800))
    assert best_actions(env, state.agent) == pytest.approx([-0.5, 0.5], abs=0.15)


def best_actions(env, state):
    """Return the policy's modes at -1 and +1."""
    actor = sac.networks(PROBING, env.spec).actor
    _, policy = actor.apply(state.params["actor"], *alone(np.array([[-1.0], [1.0]], np.float32)))
    return policy.mode()[0, :, 0]


@pytest.mark.slow
def test_the_best_action_is_found_in_a_dataset_of_random_ones():
    env = probes.RewardFromBoth(ONE_ACTION)
    state, _ = learner(PROBING, env)(from_env(env), 800)
    assert best_actions(env, state) == pytest.approx([-0.5, 0.5], abs=0.15)


@pytest.mark.slow
def test_the_policy_is_held_to_its_target_entropy():
    env = probes.RewardFromBoth(ONE_ACTION)
    entropies = []
    for target in (-1.5, 0.0):
        config = replace(PROBING, temperature_learning_rate=3e-2, target_entropy=target)
        run = learner(config, env)
        entropies.append(float(run(from_env(env), 1500)[1]["actor/entropy"]))
    assert entropies == pytest.approx([-1.5, 0.0], abs=0.3)


# --- Acting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["s5", pytest.param("gru", marks=pytest.mark.slow)])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()

    check_act_equals_unroll(with_core(SMALL, core), actions)


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"discount": 1.5}, "discount must be in [0, 1], got 1.5"),
        ({"polyak": 0.0}, "polyak must be in (0, 1], got 0.0"),
        ({"critics": 0}, "critics must be at least 1, got 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0, or left out, got 0.0"),
        ({"target_entropy": float("nan")}, "target_entropy must be finite, got nan"),
        (
            {"temperature_learning_rate": -1.0},
            "temperature_learning_rate must be at least 0, got -1.0",
        ),
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
        SACConfig(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            Spec(Box((3,)), Discrete(2)),
            "sac needs continuous actions (a vector), got Discrete(n=2)",
        ),
        (
            Spec(DictSpace((("a", Box((3,))),)), Box((2,))),
            "normalize_obs needs array observations; leave it out for this environment",
        ),
    ],
)
def test_networks_refuse(spec, message):
    with pytest.raises(UserError) as error:
        sac.networks(SACConfig(normalize_obs=True), spec)
    assert str(error.value) == message


# --- Learning ---------------------------------------------------------------------------------


@pytest.mark.learning
def test_pendulum_is_swung_up_within_6000_steps():
    """Most seeds reach about -150 by then; a policy that does nothing of use gets -1200."""
    env, hidden, rate = make("Pendulum-v1"), MLPConfig((64, 64), "relu"), 1e-3
    config = SACConfig(
        actor=hidden,
        critic=hidden,
        learning_rate=rate,
        critic_learning_rate=rate,
        temperature_learning_rate=rate,
    )
    program, returns = make_program(config, env), []
    init, chunks = jax.jit(program.init), {n: jax.jit(c) for n, c in program.chunks.items()}
    for seed in range(3):
        state, _ = chunks["random"](init(jax.random.key(seed), {}), None, jnp.int32(1000))
        state, _ = chunks["online"](state, None, jnp.int32(5000))
        params = program.params(state)
        played = evaluate(env, program.policy, params, jax.random.key(2), episodes=64)
        returns.append(float(played.episode_return.mean()))
    assert np.mean(returns) > -400
