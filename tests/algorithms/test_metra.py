"""METRA: its losses against loops written from the equations, its skills, and what it learns."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import assert_trees_close, first_gradient
from small_skills import ENV, SMALL, played

from rlssm.algorithms import metra
from rlssm.algorithms.metra import METRAConfig
from rlssm.envs.registry import EnvConfig
from rlssm.errors import UserError
from rlssm.nn import skills
from rlssm.nn.skills import SkillConfig
from rlssm.train.config import RunConfig
from rlssm.train.skills import skill_policy, with_skill
from rlssm.types import Inputs, Previous

MEAN = replace(SMALL, constraint="mean", terminal_on_timeout=True)


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
