"""TD3+BC: its losses against loops written from the equations, its delay, and what it learns."""

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

from rlssm.algorithms import td3bc
from rlssm.algorithms.td3bc import PRESETS, TD3BCConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, DictSpace, Discrete, Spec, unrolled

GAMMA, ALPHA = 0.8, 2.5
SMALL = TD3BCConfig(
    actor=MLPConfig((16,), "tanh"),
    critic=MLPConfig((16,), "tanh"),
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    policy_noise=0.5,  # so that it is often clipped
    noise_clip=0.3,
    critic_learning_rate=1e-2,
    discount=GAMMA,
    polyak=0.1,
    normalize_obs=False,
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
    experience=ExperienceConfig(batch=64, warmup=64),
    learning_rate=3e-3,
    policy_noise=0.2,
    noise_clip=0.5,
)
ONE_ACTION = Box((1,))


# --- One update -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def updated():
    """The second update, with the actor's step due: (update, state, batch, after, metrics)."""
    update = jax.jit(partial(td3bc.update, WINDOWED, SPEC))
    state = with_random_weights(WINDOWED, seed=4).replace(updates=jnp.int32(1))
    data = batch(WINDOWED, seed=5)
    return update, state, data, *update(state, data)


@pytest.fixture(scope="module")
def recomputed(updated):
    """The targets and λ of that update by loops, and both gradients with all else held fixed."""
    _, state, data, after, _ = updated
    actor, critic = td3bc.networks(WINDOWED, SPEC)
    rows, reset = unrolled(data)
    seen, step, mask = jax.tree.map(lambda x: x[:-1], rows), data.step, np.asarray(data.mask)
    weight = mask / mask.sum()

    def values_of(params, action):
        return apply(critic, params, (), seen, reset[:-1], action)

    _, ahead = apply(actor, state.target["actor"], (), rows, reset, skip=1)
    noise = 0.5 * jax.random.normal(jax.random.split(state.key)[1], ahead.shape)
    ahead, noise = np.asarray(ahead, np.float64), np.asarray(noise, np.float64)
    chosen = np.zeros_like(ahead)
    for i in np.ndindex(*ahead.shape):
        chosen[i] = min(max(ahead[i] + min(max(noise[i], -0.3), 0.3), -1), 1)
    assert (np.abs(noise) > 0.3).any() and (np.abs(chosen) == 1).any()
    chosen = jnp.asarray(chosen, jnp.float32)
    q_next = apply(critic, state.target["critic"], (), rows, reset, chosen, skip=1)
    y = np.zeros(mask.shape)
    for t, b in np.ndindex(*mask.shape):
        y[t, b] = 2.0 * float(step.reward[t, b]) - 0.5
        if not step.terminated[t, b]:
            y[t, b] += GAMMA * min(float(q_next[0, t, b]), float(q_next[1, t, b]))

    def critic_loss(params):
        values = values_of(params, step.action)
        return (weight * (values - y) ** 2).sum(), values

    def actor_loss(params, critics, scale):
        _, action = apply(actor, params, (), seen, reset[:-1])
        value = values_of(critics, action)[0]
        error = ((action - step.action) ** 2).sum(-1) / 2
        return (weight * (error - scale * value)).sum(), (action, value)

    of_critic, values = jax.jit(jax.grad(critic_loss, has_aux=True))(state.critic)
    slope = jax.jit(jax.grad(actor_loss, has_aux=True))
    weights = state.params["actor"]
    _, (action, value) = slope(weights, after.critic, 0.0)
    scale = ALPHA / np.mean([abs(float(value[t, b])) for t, b in np.argwhere(mask)])
    gradients = of_critic, *(slope(weights, c, scale)[0] for c in (after.critic, state.critic))
    return y, scale, values, action, value, gradients


def test_losses_are_those_of_the_equations(updated, recomputed):
    *_, data, _, metrics = updated
    y, scale, values, action, value, _ = recomputed
    critic_loss, error, gain = [], [], []
    for t, b in np.argwhere(np.asarray(data.mask)):
        critic_loss.append(sum((float(values[k, t, b]) - y[t, b]) ** 2 for k in range(2)))
        gaps = [float(action[t, b, i] - data.step.action[t, b, i]) for i in range(2)]
        error += [gap**2 for gap in gaps]
        gain.append(float(value[t, b]))
    assert np.asarray(data.step.terminated)[np.asarray(data.mask)].any()
    assert metrics["critic/loss"] == pytest.approx(np.mean(critic_loss), rel=1e-4)
    assert metrics["actor/bc_error"] == pytest.approx(np.mean(error), rel=1e-4)
    loss = np.mean(error) - scale * np.mean(gain)
    assert metrics["actor/loss"] == pytest.approx(loss, rel=1e-4)


def test_gradients_leave_targets_and_lambda_alone_and_the_actor_follows_the_new_critic(
    updated, recomputed
):
    after, (of_critic, of_actor, early) = updated[3], recomputed[-1]
    assert_trees_close(first_gradient(after.opt_state["critic"]), of_critic, rtol=1e-3, atol=1e-5)
    found = first_gradient(after.opt_state["actor"])
    assert_trees_close(found, of_actor, rtol=1e-3, atol=1e-5)
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, early)
    assert max(jax.tree.leaves(gaps)) > 1e-3


def same(a, b):
    return [bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]


def test_when_due_everything_moves_and_the_targets_towards_what_was_just_learnt(updated):
    update, state, data, after, _ = updated
    again = update(state, data)[0]
    for name in ("params", "critic", "target", "opt_state"):
        assert not any(same(getattr(state, name), getattr(after, name)))
        assert all(same(getattr(again, name), getattr(after, name)))
    learnt = {"actor": after.params["actor"], "critic": after.critic}
    expected = jax.tree.map(lambda new, old: old + 0.1 * (new - old), learnt, state.target)
    assert_trees_close(after.target, expected, rtol=1e-5, atol=1e-6)
    assert_trees_close(after.hyper, state.hyper)
    assert after.updates == 2


def test_between_two_steps_of_the_actor_only_the_critics_move(updated):
    update, state, data, *_ = updated
    before = state.replace(updates=jnp.int32(2))
    after = update(before, data)[0]
    assert after.updates == 3
    assert all(same(before.params, after.params)) and all(same(before.target, after.target))
    assert all(same(before.opt_state["actor"], after.opt_state["actor"]))
    assert not any(same(before.critic, after.critic))
    assert not any(same(before.opt_state["critic"], after.opt_state["critic"]))


@pytest.mark.parametrize("delay", [1, 3])
def test_the_delay_counts_updates(delay):
    config = replace(SMALL, policy_delay=delay)
    state = td3bc.TD3BCState(
        params={"actor": jnp.zeros(())}, critic=jnp.ones(()), key=None,
        target={"actor": jnp.zeros(()), "critic": jnp.zeros(())},
        opt_state={"actor": jnp.zeros(()), "critic": jnp.zeros(())},
        updates=jnp.int32(0), hyper={"polyak": jnp.float32(1)},
    )  # fmt: skip
    moved = []
    for t in range(1, 7):
        state = td3bc.delayed(config, state, jnp.float32(t), jnp.float32(-t))
        moved.append(float(state.params["actor"]))
        assert state.target["actor"] == moved[-1] and state.opt_state["actor"] == -moved[-1]
    assert moved == {1: [1, 2, 3, 4, 5, 6], 3: [0, 0, 3, 3, 3, 6]}[delay]


@pytest.mark.slow
def test_with_memory_masked_steps_teach_nothing_but_are_remembered():
    update = jax.jit(partial(td3bc.update, RECURRENT, SPEC))
    state = with_random_weights(RECURRENT).replace(updates=jnp.int32(1))
    data = batch(RECURRENT, seed=5)
    after, metrics = update(state, data)
    step, unmasked = data.step, ~data.mask
    other = step._replace(
        reward=jnp.where(unmasked, 99.0, step.reward),
        action=jnp.where(unmasked[..., None], 0.5, step.action),
        terminated=step.terminated ^ unmasked,
    )
    found = update(state, data._replace(step=other))[0]
    for name in ("params", "critic", "target"):
        assert_trees_close(getattr(found, name), getattr(after, name), atol=1e-7)
    moved = update(state, data._replace(step=step._replace(obs=step.obs.at[1].add(1.0))))[1]
    for name in ("actor/loss", "critic/loss"):
        assert abs(moved[name] - metrics[name]) > 1e-4


def test_a_batch_that_values_nothing_leaves_numbers_finite(updated):
    update, state, data, *_ = updated
    flat = jax.tree.map(jnp.zeros_like, state.critic)
    after, metrics = update(state.replace(critic=flat), data._replace(mask=~data.mask & data.mask))
    for x in jax.tree.leaves((after.params, after.critic, metrics)):
        assert jnp.isfinite(x).all()


# --- Probes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_steps():
    """Learning from episodes of two steps."""
    return learner(PROBING, probes.DelayedReward(ONE_ACTION))


def values(env, state, obs):
    """Return Q of action 0."""
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
    assert values(env, state, [1])[0] < 0.5 / (1 - GAMMA)


def compromise():
    """Return the action for o = 1 where rewards are 1 - (a - o/2)² and actions uniform.

    Minimising a² - λ Q(o, a) gives a = λ / (1 + λ) o/2 with λ = α / Q(o, a).
    """
    action = 0.5
    for _ in range(20):
        scale = ALPHA / (1 - (action - 0.5) ** 2)
        action = scale / (1 + scale) / 2
    return action


def test_the_actor_leaves_the_data_for_the_best_action_as_far_as_alpha_says():
    env = probes.RewardFromBoth(ONE_ACTION)
    state, _ = learner(PROBING, env)(from_env(env), 1000)
    obs = np.array([[-1.0], [1.0]], np.float32)
    actor, _ = td3bc.networks(PROBING, env.spec)
    _, action = actor.apply(state.params["actor"], *alone(obs))
    assert compromise() == pytest.approx(0.36, abs=0.005)
    assert action[0, :, 0] == pytest.approx([-compromise(), compromise()], abs=0.06)
    assert action_values(PROBING, env.spec, state, obs, obs / 2) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_online_it_goes_on_with_noise_from_where_the_dataset_left_it():
    env = probes.RewardFromBoth(ONE_ACTION)
    program, data = make_program(PROBING, env), from_env(env)
    state = jax.jit(program.init)(jax.random.key(0), {})
    state, _ = jax.jit(program.chunks["offline"])(state, data, jnp.int32(1000))
    state, _ = jax.jit(program.chunks["fill"])(state, None, jnp.int32(64))
    own = state.replay.storage.experience
    noise = own.action[0, :64, 0] - compromise() * own.obs[0, :64, 0]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.4)
    state, metrics = jax.jit(program.chunks["online"])(state, data, jnp.int32(20))
    mean = metrics["episode/return_sum"] / metrics["episode/count"]
    assert mean > 0.9  # uniformly random actions earn 5/12


# --- Acting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", [pytest.param("s5", marks=pytest.mark.slow), "gru"])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1]

    check_act_equals_unroll(with_core(SMALL, core), actions)


@pytest.mark.parametrize("scale", [0.2, 2.0])
def test_exploration_is_noise_within_what_an_environment_accepts(scale):
    config = replace(SMALL, exploration_noise=scale)
    params = jax.tree.map(jnp.zeros_like, with_random_weights(config).params)  # the mean is 0
    _, seen, reset = jax.tree.map(lambda x: x[0], alone(np.zeros((1000, 3), np.float32)))
    act = partial(td3bc.act, config, SPEC, params, seen, reset, (), jax.random.key(0))
    assert not act(greedy=True)[0].any()
    action = np.asarray(act(greedy=False)[0])
    if scale == 0.2:
        assert action.std() == pytest.approx(0.2, rel=0.1)
    else:
        assert np.abs(action).max() == 1 and (np.abs(action) == 1).mean() > 0.5


# --- Refusals and presets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -1.0}, "alpha must be at least 0, got -1.0"),
        ({"policy_noise": -0.1}, "policy_noise must be at least 0, got -0.1"),
        ({"noise_clip": float("nan")}, "noise_clip must be at least 0, got nan"),
        ({"exploration_noise": -0.1}, "exploration_noise must be at least 0, got -0.1"),
        ({"policy_delay": 0}, "policy_delay must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be above 0, or left out, got -1.0"),
        ({"discount": 1.5}, "discount must be in [0, 1], got 1.5"),
        ({"polyak": 0.0}, "polyak must be in (0, 1], got 0.0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        TD3BCConfig(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            Spec(Box((3,)), Discrete(2)),
            "td3bc needs continuous actions (a vector), got Discrete(n=2)",
        ),
        (
            Spec(DictSpace((("a", Box((3,))),)), Box((2,))),
            "normalize_obs needs array observations; set it to False here",
        ),
    ],
    ids=["action", "obs"],
)
def test_networks_refuse(spec, message):
    with pytest.raises(UserError) as error:
        td3bc.networks(TD3BCConfig(), spec)
    assert str(error.value) == message


def test_the_default_is_the_published_setting():
    found = PRESETS["default"]
    assert (found.alpha, found.policy_noise, found.noise_clip, found.policy_delay) == (
        2.5, 0.2, 0.5, 2,
    )  # fmt: skip
    assert (found.learning_rate, found.critic_learning_rate, found.polyak) == (3e-4, 3e-4, 0.005)
    assert (found.experience.batch, found.discount, found.normalize_obs) == (256, 0.99, True)
    assert found.actor.hidden == found.critic.hidden == (256, 256)
