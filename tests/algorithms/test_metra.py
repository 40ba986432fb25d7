"""METRA: its losses against loops written from the equations, its skills, and what it learns."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import assert_trees_close, first_gradient

from rlssm.algorithms import metra
from rlssm.algorithms.metra import METRAConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs.base import Vectorized
from rlssm.envs.points import PointWorld
from rlssm.envs.registry import EnvConfig
from rlssm.errors import UserError
from rlssm.nn import skills
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.s5 import S5Config
from rlssm.nn.skills import SkillConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.collect import rollout, start
from rlssm.train.config import RunConfig
from rlssm.train.loop import fit
from rlssm.train.program import make_program
from rlssm.train.skills import skill_policy, with_skill
from rlssm.types import Inputs, Previous, Rollout, unrolled

HIDDEN = MLPConfig((8,), "relu")
ENV = PointWorld(max_steps=6)
SMALL = METRAConfig(
    actor=HIDDEN,
    critic=HIDDEN,
    representation=HIDDEN,
    skill=SkillConfig("discrete", 3),
    experience=ExperienceConfig(
        batch=16, num_envs=4, rollout_length=6, update_ratio=1 / 12, warmup=0, capacity=200
    ),
    init_multiplier=0.5,
    slack=0.1,
    precision="highest",
)
MEAN = replace(SMALL, constraint="mean", terminal_on_timeout=True)
S5 = replace(
    SMALL,
    core=S5Config(layers=1, state_size=8),
    torso=TorsoConfig(width=8, hidden=()),
    skill=SkillConfig("sphere", 2, resample=0.3),
    experience=replace(SMALL.experience, length=6, burn_in=2),
)


def played(config, steps=13, seed=0, env=ENV):
    """Return a state and a rollout of its own policy, as the loop makes them."""
    state = jax.jit(partial(metra.init, config, env.spec))(jax.random.key(seed))
    envs, act = Vectorized(env, 4), partial(metra.act, config, env.spec, state.params, greedy=True)
    carry = metra.networks(config, env.spec).initial_carry(4)
    runner = start(envs, carry, jax.random.key(seed + 1))
    return state, jax.jit(lambda r: rollout(envs, act, r, Rollout(steps, 4)))(runner)[1]


# --- Skills -----------------------------------------------------------------------------------


def test_skills_are_drawn_from_their_priors():
    sphere, normal, one_hot = (
        np.asarray(skills.draw(SkillConfig(kind, 3), jax.random.key(0), 4000))
        for kind in ("sphere", "gaussian", "discrete")
    )
    np.testing.assert_allclose(np.linalg.norm(sphere, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.cov(sphere.T), np.eye(3) / 3, atol=0.03)
    np.testing.assert_allclose(np.cov(normal.T), np.eye(3), atol=0.09)
    assert set(one_hot.ravel()) == {0.0, 1.0} and (one_hot.sum(1) == 1).all()
    np.testing.assert_allclose(one_hot.mean(0), 1 / 3, atol=0.03)
    for drawn in (sphere, normal):
        np.testing.assert_allclose(drawn.mean(0), 0, atol=0.06)


def test_discrete_directions_are_centred_and_goals_pick_the_largest_component():
    config = SkillConfig("discrete", 4)
    found = skills.direction(config, jnp.eye(4))
    np.testing.assert_allclose(found, np.eye(4) - (1 - np.eye(4)) / 3, atol=1e-6)
    np.testing.assert_array_equal(skills.towards(config, jnp.array([0.1, -3, 2, 1])), np.eye(4)[2])
    wanted = jnp.array([3.0, -4.0])
    np.testing.assert_allclose(skills.towards(SkillConfig(), wanted), [0.6, -0.8], rtol=1e-6)
    far = skills.towards(SkillConfig("gaussian", 2), wanted)
    np.testing.assert_allclose(far, np.sqrt(2) * np.array([0.6, -0.8]), rtol=1e-6)
    even = skills.even(config, jax.random.key(0), 8)
    np.testing.assert_array_equal(even.sum(0), [2, 2, 2, 2])


def test_a_skill_lasts_an_episode_and_is_another_in_the_next():
    skill = np.asarray(played(SMALL)[1].step.extras["skill"])
    for begin in (0, 6):
        assert (skill[begin : begin + 6] == skill[begin]).all()
    assert (skill[0] != skill[6]).any() and (skill.sum(-1) == 1).all()


def test_resampling_changes_a_skill_within_an_episode_as_often_as_asked():
    config = SkillConfig("sphere", 2, resample=0.25)
    before = skills.draw(config, jax.random.key(1), 4000)
    after = skills.keep_or_draw(config, jax.random.key(2), before, jnp.zeros(4000, bool))
    assert np.mean(np.any(before != after, axis=1)) == pytest.approx(0.25, abs=0.03)


# --- One update -------------------------------------------------------------------------------


def by_loops(config, state, batch, weights):
    """Return (loss, mean slack, rewards) from the equations, in float64, step by step."""
    obs, next_obs = (
        np.asarray(metra.embed(config, ENV.spec, weights, x), np.float64)
        for x in (batch.step.obs, batch.step.next_obs)
    )
    skill, multiplier = np.asarray(batch.step.extras["skill"], np.float64), 0.5
    loss, slacks, rewards = [], [], np.zeros(skill.shape[:2])
    for t, b in np.argwhere(np.asarray(batch.mask)):
        z = [1.0 if on else -1 / (len(skill[t, b]) - 1) for on in skill[t, b]]
        delta = next_obs[t, b] - obs[t, b]
        square = sum(d * d for d in delta)
        square = square / len(delta) if config.constraint == "mean" else square
        slacks.append(min(0.1, 1 - square))
        rewards[t, b] = sum(d * w for d, w in zip(delta, z, strict=True))
        loss.append(-(rewards[t, b] + multiplier * slacks[-1]))
    return np.mean(loss), np.mean(slacks), rewards


@pytest.fixture(scope="module", params=[SMALL, MEAN], ids=["sum", "mean"])
def updated(request):
    """One update on steps of the policy, the representation stretched until some violate."""
    config = request.param
    state, batch = played(config)
    weights = jax.tree.map(lambda x: 3 * x, state.params["representation"])
    state = state.replace(params=state.params | {"representation": weights})
    return config, state, batch, *jax.jit(partial(metra.update, config, ENV.spec))(state, batch)


def test_the_losses_are_those_of_the_equations(updated):
    config, state, batch, after, metrics = updated
    loss, slack, _ = by_loops(config, state, batch, state.params["representation"])
    assert metrics["representation/loss"] == pytest.approx(loss, rel=1e-4)
    assert metrics["representation/slack"] == pytest.approx(slack, rel=1e-4)
    _, _, rewards = by_loops(config, state, batch, after.params["representation"])
    assert metrics["skill/reward"] == pytest.approx(rewards.mean(), rel=1e-3, abs=1e-5)


def test_the_representation_descends_its_loss_and_nothing_else(updated):
    config, state, batch, after, _ = updated
    weights = state.params["representation"]
    found = first_gradient(after.representation_opt)

    def loss(weights):
        return by_loops(config, state, batch, weights)[0]

    flat, unravel = jax.flatten_util.ravel_pytree(weights)
    along = np.random.default_rng(0).normal(size=flat.shape)
    along /= np.linalg.norm(along)
    h = 1e-2
    slope = (loss(unravel(flat + h * along)) - loss(unravel(flat - h * along))) / (2 * h)
    ours = jax.flatten_util.ravel_pytree(found)[0] @ along
    assert ours == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_the_multiplier_falls_with_slack_and_rises_with_violation():
    state, batch = played(SMALL)
    update = jax.jit(partial(metra.update, SMALL, ENV.spec))
    for stretch, sign in ((0.1, -1), (300.0, 1)):
        weights = jax.tree.map(lambda x, s=stretch: s * x, state.params["representation"])
        params = state.params | {"representation": weights}
        after, metrics = update(state.replace(params=params), batch)
        move = float(after.log_multiplier - state.log_multiplier)
        assert move == pytest.approx(sign * 1e-4, rel=1e-2)
        gradient = first_gradient(after.multiplier_opt)
        assert gradient == pytest.approx(float(metrics["representation/slack"]), rel=1e-5)


def test_critics_are_paid_by_the_new_representation_and_never_by_the_environment(updated):
    config, state, batch, after, _ = updated
    weights = after.params["representation"]
    paid = jnp.asarray(by_loops(config, state, batch, weights)[2], jnp.float32)
    given = state.replace(params=after.params | {"actor": state.params["actor"]})
    expected, _ = jax.jit(partial(metra.step_policy, config, ENV.spec))(given, batch, paid)
    assert_trees_close(after.critic, expected.critic, rtol=1e-4, atol=1e-6)
    richer = batch._replace(step=batch.step._replace(reward=batch.step.reward + 100))
    again, _ = jax.jit(partial(metra.update, config, ENV.spec))(state, richer)
    assert_trees_close(again.params, after.params)


def test_time_limits_cut_the_bootstrap_only_where_asked():
    step = played(SMALL)[1]
    for config in (SMALL, MEAN):
        shown = metra.skilled.as_shown(config, step)
        cut = np.asarray(step.step.truncated) & (config is MEAN)
        np.testing.assert_array_equal(shown.step.terminated, cut)


# --- Acting, with and without a memory ---------------------------------------------------------


def test_acting_step_by_step_with_s5_equals_unrolling_over_changing_skills():
    state, trajectory = played(S5)
    shown = metra.skilled.as_shown(S5, trajectory)
    seen, reset = jax.tree.map(lambda x: x[:-1], unrolled(shown))
    actor = metra.networks(S5, ENV.spec).actor
    policy = apply(actor, state.params["actor"], shown.carry, seen, reset)[1]
    np.testing.assert_allclose(policy.mode(), trajectory.step.action, rtol=1e-4, atol=1e-5)
    skill = np.asarray(trajectory.step.extras["skill"])
    changed = (skill[1:] != skill[:-1]).any(-1)
    within = ~np.asarray(trajectory.first[1:])
    assert (changed & within).any() and not (changed & within).all()
    np.testing.assert_array_equal(shown.mask[:-1], ~changed)  # nothing terminates here


@pytest.mark.slow
def test_with_s5_an_update_from_windows_changes_every_network():
    program = make_program(S5, ENV)
    state = jax.jit(program.init)(jax.random.key(0), {})
    before = jax.device_get((state.agent.params, state.agent.critic))
    after, metrics = jax.jit(program.chunk)(state, None, jnp.int32(2))
    assert all(np.isfinite(x).all() for x in metrics.values())
    learnt = (after.agent.params, after.agent.critic)
    changed = jax.tree.map(lambda old, new: bool((np.asarray(old) != new).any()), before, learnt)
    params, critic = changed
    for network in (params["actor"], params["representation"], critic):
        assert any(jax.tree.leaves(network))


def test_a_policy_that_follows_one_skill_never_draws_another():
    state, _ = played(SMALL)
    policy = with_skill(SMALL, ENV.spec, jnp.eye(3)[1])
    told = skill_policy(SMALL, ENV.spec)
    obs = jnp.ones((2, 2))
    inputs = Inputs(obs, Previous(jnp.zeros((2, 2)), jnp.zeros(2)), jnp.ones(2, bool))
    key = jax.random.key(0)
    found, _ = policy.act(state.params, inputs, inputs.first, (), key, True)
    skill = jnp.tile(jnp.eye(3)[1], (2, 1))
    expected, _ = told.follow(state.params, inputs, inputs.first, (), skill, key, True)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UserError, match="skill must be 3 numbers"):
        with_skill(SMALL, ENV.spec, jnp.ones(2))


# --- Runs -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(tmp_path):
    config = RunConfig(
        EnvConfig("point/plane", time_limit=6), SMALL, steps=96, log_every=24, eval_every=96,
        checkpoint_every=24, eval_episodes=2, final_episodes=2,
    )  # fmt: skip
    whole = fit(config, tmp_path / "whole", progress=False)
    run = fit(config, tmp_path / "cut", progress=False)
    run.go_back(72)
    again = fit(config, tmp_path / "cut", progress=False)
    for a, b in zip(*(jax.tree.leaves(r.state("last")) for r in (whole, again)), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
    skill = whole.state("last").replay.storage.experience.extras["skill"]
    assert (np.asarray(skill)[0, :, :24].sum(-1) == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slack": 0.0}, "slack must be above 0, got 0.0"),
        ({"init_multiplier": -1.0}, "init_multiplier must be above 0, got -1.0"),
        ({"constraint": "max"}, "unknown constraint 'max'"),
    ],
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError, match=message):
        METRAConfig(**changes)


def test_skills_and_datasets_are_refused_where_they_make_no_sense():
    with pytest.raises(UserError, match="skill.size must be at least 2, got 1"):
        SkillConfig("discrete", 1)
    with pytest.raises(UserError, match="metra learns from steps of its own alone"):
        RunConfig(EnvConfig("point/plane"), SMALL, dataset="pendulum/medium")
