"""AWAC: its losses against loops written from the equations, and what it learns on probes."""

from dataclasses import replace
from functools import partial
from statistics import NormalDist

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

from rlssm.algorithms import awac
from rlssm.algorithms.awac import PRESETS, AWACConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, DictSpace, Discrete, Spec, unrolled

GAMMA, LAMBDA = 0.8, 0.1
SMALL = AWACConfig(
    actor=MLPConfig((16,), "relu"),
    critic=MLPConfig((16,), "relu"),
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    critic_learning_rate=1e-2,
    temperature=LAMBDA,
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
    experience=ExperienceConfig(batch=256, warmup=64),
    learning_rate=1e-2,
    temperature=1 / 3,
)
ONE_ACTION = Box((1,))


# --- One update -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def update():
    return jax.jit(partial(awac.update, WINDOWED, SPEC))


@pytest.fixture(scope="module")
def updated(update):
    """One update: (state, batch, state after, metrics)."""
    state, data = with_random_weights(WINDOWED, seed=9), batch(WINDOWED, seed=5)
    return state, data, *update(state, data)


@pytest.fixture(scope="module")
def recomputed(updated):
    """What the networks say in that update, and gradients of the losses with all else fixed."""
    state, data, after, _ = updated
    actor, critic = awac.networks(WINDOWED, SPEC)
    rows, reset = unrolled(data)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    _, next_key, action_key = jax.random.split(state.key, 3)
    weight = data.mask / data.mask.sum()

    @jax.jit
    def run(state, after):
        weights = state.params["actor"]
        _, policy = apply(actor, weights, (), rows, reset, skip=1)
        next_action = jnp.clip(policy.sample(next_key), -1, 1)
        ahead = apply(critic, state.target, (), rows, reset, next_action, skip=1)
        y = 2.0 * data.step.reward - 0.5 + GAMMA * ~data.step.terminated * ahead.min(0)

        def values(params, action):
            return apply(critic, params, (), seen, reset[:-1], action)

        def critic_loss(params):
            q = values(params, data.step.action)
            return (weight * (q - y) ** 2).sum(), q

        _, policy = apply(actor, weights, (), seen, reset[:-1])
        action = jnp.clip(policy.sample(action_key), -1, 1)

        def actor_loss(params, critics):
            q, v = values(critics, data.step.action), values(critics, action)
            _, policy = apply(actor, params, (), seen, reset[:-1])
            factor = jnp.minimum(jnp.exp((q.min(0) - v.min(0)) / LAMBDA), 100)
            log_prob = policy.log_prob(data.step.action)
            return -(weight * factor * log_prob).sum(), (q, v, log_prob)

        of_critic, old = jax.grad(critic_loss, has_aux=True)(state.critic)
        of_actor, (q, v, log_prob) = jax.grad(actor_loss, has_aux=True)(weights, after.critic)
        stale, _ = jax.grad(actor_loss, has_aux=True)(weights, state.critic)
        said = ahead, old, q, v, log_prob
        return said, {"critic": of_critic, "actor": of_actor, "stale": stale}

    said, gradients = run(state, after)
    return [np.asarray(x, np.float64) for x in said], gradients


def test_losses_are_those_of_the_equations(updated, recomputed):
    _, data, _, metrics = updated
    ahead, old, q, v, log_prob = recomputed[0]
    critic_loss, actor_loss, weights = [], [], []
    for t, b in np.argwhere(np.asarray(data.mask)):
        y = 2.0 * float(data.step.reward[t, b]) - 0.5
        if not data.step.terminated[t, b]:
            y += GAMMA * ahead[:, t, b].min()
        critic_loss.append(sum((x - y) ** 2 for x in old[:, t, b]))
        advantage = q[:, t, b].min() - v[:, t, b].min()
        weights.append(min(np.exp(advantage / LAMBDA), 100.0))
        actor_loss.append(-weights[-1] * log_prob[t, b])
    assert max(weights) == 100 and min(weights) < 1
    assert np.asarray(data.step.terminated)[np.asarray(data.mask)].any()
    assert metrics["critic/loss"] == pytest.approx(np.mean(critic_loss), rel=1e-4)
    assert metrics["actor/loss"] == pytest.approx(np.mean(actor_loss), rel=1e-4)
    assert metrics["actor/weight_mean"] == pytest.approx(np.mean(weights), rel=1e-4)


def test_gradients_stop_at_targets_and_advantages_and_the_actor_meets_the_new_critics(
    updated, recomputed
):
    after, gradients = updated[2], recomputed[1]
    for name in ("critic", "actor"):
        found = first_gradient(after.opt_state[name])
        assert_trees_close(found, gradients[name], rtol=1e-3, atol=1e-4)
    found = first_gradient(after.opt_state["actor"])
    gaps = jax.tree.map(lambda a, b: np.abs(a - np.asarray(b)).max(), found, gradients["stale"])
    assert max(jax.tree.leaves(gaps)) > 1e-2


def test_an_update_is_reproducible_and_changes_every_parameter(updated, update):
    state, data, after, _ = updated
    again = update(state, data)[0]
    for name in ("params", "critic", "target"):
        trees = (getattr(s, name) for s in (state, after, again))
        for before, a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(a, b)
            assert (np.asarray(a) != np.asarray(before)).any()
    expected = jax.tree.map(
        lambda q, old: old + 0.1 * (q - old), *jax.device_get((after.critic, state.target))
    )
    assert_trees_close(after.target, expected, rtol=1e-5, atol=1e-6)
    assert_trees_close(after.hyper, state.hyper)


@pytest.mark.slow
def test_with_memory_masked_steps_teach_nothing_but_are_remembered():
    update = jax.jit(partial(awac.update, RECURRENT, SPEC))
    state, data = with_random_weights(RECURRENT), batch(RECURRENT, seed=5)
    after, metrics = update(state, data)
    step, unmasked = data.step, ~data.mask
    other = step._replace(
        reward=jnp.where(unmasked, 99.0, step.reward),
        action=jnp.where(unmasked[..., None], 0.5, step.action),
        terminated=step.terminated ^ unmasked,
    )
    found = update(state, data._replace(step=other))[0]
    for name in ("params", "critic"):
        assert_trees_close(getattr(found, name), getattr(after, name), atol=1e-7)
    moved = update(state, data._replace(step=step._replace(obs=step.obs.at[1].add(1.0))))[1]
    for name in ("actor/loss", "critic/loss"):
        assert abs(moved[name] - metrics[name]) > 1e-4


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
        pytest.param(probes.DelayedReward, [0, 1], [GAMMA, 1], marks=pytest.mark.slow),
        (partial(probes.TerminatedStream, steps=2), [0, 0.5], [1 + GAMMA, 1]),
        (partial(probes.TruncatedStream, steps=2), [1], [1 / (1 - GAMMA)]),
    ],
    ids=["delayed", "terminated", "truncated"],
)
def test_values_of_probes(two_steps, probe, obs, expected):
    env = probe(ONE_ACTION)
    state, _ = two_steps(from_env(env), 800)
    assert values(env, state, obs) == pytest.approx(expected, abs=0.15)


@pytest.mark.slow  # shown for IQL and SAC by default
def test_taking_a_time_limit_for_a_death_is_visible(two_steps):
    env = probes.TruncatedStream(ONE_ACTION, 2)
    data = from_env(env)
    state, _ = two_steps(data.replace(terminated=data.terminated | data.truncated), 800)
    assert values(env, state, [1]) < 0.5 / (1 - GAMMA)


def reweighted(temperature):
    """Return mean and deviation of a policy at o = 1 that AWAC no longer changes.

    Data are uniform in [-1, 1] and Q = 1 - (a - 1/2)²; a policy decides on its own weights.
    """
    actions = np.linspace(-1, 1, 401)
    noise = np.array([NormalDist().inv_cdf((i + 0.5) / 200) for i in range(200)])
    mean, deviation = 0.0, 1.0
    for _ in range(100):
        own = np.clip(mean + deviation * noise, -1, 1)
        advantage = (own - 0.5) ** 2 - (actions[:, None] - 0.5) ** 2
        weight = np.minimum(np.exp(advantage / temperature), 100).mean(1)
        mean = (weight * actions).sum() / weight.sum()
        deviation = np.sqrt((weight * (actions - mean) ** 2).sum() / weight.sum())
    return mean, deviation


@pytest.mark.slow
def test_the_policy_is_the_reweighted_data_and_gets_better_online():
    env = probes.RewardFromBoth(ONE_ACTION)
    program, data = make_program(PROBING, env), from_env(env)
    state = jax.jit(program.init)(jax.random.key(0), {})
    state, _ = jax.jit(program.chunks["offline"])(state, data, jnp.int32(800))
    mean, deviation = reweighted(1 / 3)
    low, high, spread = policy_of(env, state)
    assert [low, high] == pytest.approx([-mean, mean], abs=0.12)
    assert (high - low) / 2 == pytest.approx(mean, abs=0.07)
    assert spread == pytest.approx(deviation, abs=0.03)

    state, _ = jax.jit(program.chunks["fill"])(state, None, jnp.int32(64))
    own = state.replay.storage.experience
    assert jnp.corrcoef(own.obs[0, :64, 0], own.action[0, :64, 0])[0, 1] > 0.5
    state, metrics = jax.jit(program.chunks["online"])(state, data, jnp.int32(300))
    assert policy_of(env, state)[2] < spread - 0.02  # it learns from what is already better
    earned = metrics["episode/return_sum"] / metrics["episode/count"]
    assert earned > 0.8  # uniformly random actions earn 5/12


def policy_of(env, state):
    """Return the policy's modes at -1 and +1, and its standard deviation."""
    actor = awac.networks(PROBING, env.spec).actor
    obs = np.array([[-1.0], [1.0]], np.float32)
    _, policy = actor.apply(state.agent.params["actor"], *alone(obs))
    return *policy.mode()[0, :, 0].tolist(), float(jnp.exp(policy.log_std[0, 0, 0]))


# --- Acting -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("core", ["s5", "gru"])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        mode = apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()
        return jnp.clip(mode, -1, 1)

    check_act_equals_unroll(with_core(SMALL, core), actions)


def test_samples_are_clipped_to_what_an_environment_accepts():
    state = with_random_weights(SMALL)
    _, seen, reset = jax.tree.map(lambda x: x[0], alone(np.zeros((200, 3), np.float32)))
    act = partial(awac.act, SMALL, SPEC, state.params, seen, reset, (), state.key)
    action = np.asarray(act(greedy=False)[0])
    assert (np.abs(action) == 1).any() and np.abs(action).max() == 1
    assert len(np.unique(action[:, 0])) > 50 and len(np.unique(act(greedy=True)[0][:, 0])) == 1


# --- Refusals and presets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"discount": 1.5}, "discount must be in [0, 1], got 1.5"),
        ({"polyak": 0.0}, "polyak must be in (0, 1], got 0.0"),
        ({"critics": 0}, "critics must be at least 1, got 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0, or left out, got 0.0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        AWACConfig(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            Spec(Box((3,)), Discrete(2)),
            "awac needs continuous actions (a vector), got Discrete(n=2)",
        ),
        (
            Spec(DictSpace((("a", Box((3,))),)), Box((2,))),
            "normalize_obs needs array observations; leave it out for this environment",
        ),
    ],
)
def test_networks_refuse(spec, message):
    with pytest.raises(UserError) as error:
        awac.networks(AWACConfig(normalize_obs=True), spec)
    assert str(error.value) == message


def test_presets_are_the_published_settings():
    published = {
        name: (p.temperature, p.experience.reward_shift, p.normalize_obs)
        for name, p in PRESETS.items()
    }
    assert published == {
        "default": (0.3333, 0.0, False),
        "mujoco": (0.3333, 0.0, True),
        "antmaze": (0.1, -1.0, True),
        "adroit": (0.1, 0.0, True),
    }
