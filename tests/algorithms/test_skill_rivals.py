"""METRA's rivals: losses against loops in float64; and what all four learners of skills promise."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import assert_trees_close, first_gradient
from small_skills import (
    ALL,
    CHOOSING,
    CONTRASTIVE,
    ENV,
    GUESSING,
    SMALL,
    SPECTRAL,
    played,
    with_memory,
)

from rlssm.algorithms import ALGORITHMS, csf, diayn, lsd, skilled
from rlssm.algorithms.csf import CSFConfig
from rlssm.algorithms.diayn import DIAYNConfig
from rlssm.envs.registry import EnvConfig
from rlssm.errors import UserError
from rlssm.nn import skills
from rlssm.nn.actor_critic import apply
from rlssm.nn.skills import SkillConfig
from rlssm.train.config import RunConfig
from rlssm.train.loop import fit
from rlssm.train.program import make_program
from rlssm.types import unrolled


@cache
def update_of(config):
    return jax.jit(partial(ALGORITHMS[config.name].update, config, ENV.spec))


@cache
def updated(config):
    """Return (state, batch, state afterwards, metrics) of one update on steps of the policy."""
    state, batch = played(config)
    return state, batch, *update_of(config)(state, batch)


def each(config, weights, batch):
    """Yield (skill, φ(s), φ(s')) of every step in float64."""
    embed = ALGORITHMS[config.name].embed
    obs, next_obs = (
        np.asarray(embed(config, ENV.spec, weights, x), np.float64)
        for x in (batch.step.obs, batch.step.next_obs)
    )
    skill = np.asarray(batch.step.extras["skill"], np.float64)
    for t, b in np.argwhere(np.asarray(batch.mask)):
        yield skill[t, b], obs[t, b], next_obs[t, b]


# --- DIAYN ------------------------------------------------------------------------------------


def test_discrete_diayn_is_paid_by_how_well_its_skill_is_told():
    state, batch, after, metrics = updated(CHOOSING)

    def told(weights):
        for skill, _, logits in each(CHOOSING, weights, batch):
            total = sum(np.exp(logit) for logit in logits)
            yield np.log(np.exp(logits[skill.argmax()]) / total)

    before, later = state.params["representation"], after.params["representation"]
    assert metrics["representation/loss"] == pytest.approx(-np.mean(list(told(before))), rel=1e-4)
    paid = np.mean([log_q - np.log(1 / 3) for log_q in told(later)])
    assert metrics["skill/reward"] == pytest.approx(paid, rel=1e-3, abs=1e-5)
    place = jnp.array([[0.3, -0.2], [2.0, 1.0]])
    found = diayn.skill_towards(CHOOSING, ENV.spec, after.params, 0 * place, place)
    logits = diayn.embed(CHOOSING, ENV.spec, later, place)
    np.testing.assert_array_equal(found.argmax(-1), logits.argmax(-1))


def test_gaussian_diayn_is_paid_by_the_density_of_its_skill():
    state, batch, after, metrics = updated(GUESSING)

    def told(weights, prior):
        spread = weights["spread"]
        network = skilled.representation_of(GUESSING, ENV.spec)
        log_std = np.asarray(apply(network, spread, batch.step.next_obs), np.float64)
        for (z, _, mean), s in zip(
            each(GUESSING, weights, batch), log_std.reshape(-1, 2), strict=True
        ):
            pairs = zip(z, mean, np.exp(s), strict=True)
            log_q = sum(
                -(((x - m) / d) ** 2) / 2 - np.log(d) - np.log(2 * np.pi) / 2 for x, m, d in pairs
            )
            yield log_q - prior * sum(-(x**2) / 2 - np.log(2 * np.pi) / 2 for x in z)

    before, later = state.params["representation"], after.params["representation"]
    loss = -np.mean(list(told(before, 0)))
    assert metrics["representation/loss"] == pytest.approx(loss, rel=1e-4)
    assert metrics["skill/reward"] == pytest.approx(np.mean(list(told(later, 1))), rel=1e-3)
    place = jnp.ones((1, 2))
    np.testing.assert_array_equal(
        diayn.skill_towards(GUESSING, ENV.spec, after.params, place, place),
        diayn.embed(GUESSING, ENV.spec, later, place),
    )


# --- LSD --------------------------------------------------------------------------------------


def test_lsd_is_paid_along_its_skill_by_a_representation_that_stretches_nothing():
    state, batch, after, metrics = updated(SPECTRAL)

    def gains(weights):
        for z, now, then in each(SPECTRAL, weights, batch):
            yield sum(d * (1.0 if on else -0.5) for d, on in zip(then - now, z, strict=True))

    left = lsd.iterated(state.raw, state.left)
    before = lsd.divided(state.raw, left)
    loss = -np.mean(list(gains(before)))
    assert metrics["representation/loss"] == pytest.approx(loss, rel=1e-4)
    paid = np.mean(list(gains(after.params["representation"])))
    assert metrics["skill/reward"] == pytest.approx(paid, rel=1e-3, abs=1e-6)
    moved = [np.abs(g).max() for g in jax.tree.leaves(first_gradient(after.representation_opt))]
    assert min(moved[1::2]) > 0  # every matrix


def test_power_iteration_finds_the_largest_singular_values_and_a_gradient_through_them():
    raw, rng = {"kernel": None, "bias": jnp.ones(4)}, np.random.default_rng(0)
    raw["kernel"] = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    left = {"kernel": jnp.ones(4) / 2, "bias": None}
    for _ in range(200):
        left = lsd.iterated(raw, left)
    sigma = np.linalg.svd(np.asarray(raw["kernel"], np.float64))[1][0]
    found = lsd.divided(raw, left)
    np.testing.assert_allclose(found["kernel"], raw["kernel"] / sigma, rtol=1e-4)
    np.testing.assert_array_equal(found["bias"], raw["bias"])
    ours = jax.grad(lambda w: lsd.divided({**raw, "kernel": w}, left)["kernel"].sum())
    exact = jax.grad(lambda w: (w / jnp.linalg.norm(w, 2)).sum())
    np.testing.assert_allclose(ours(raw["kernel"]), exact(raw["kernel"]), rtol=1e-3, atol=1e-4)


# --- CSF --------------------------------------------------------------------------------------


def test_csf_contrasts_its_skill_and_values_successor_features():
    config = CONTRASTIVE
    state, batch, after, metrics = updated(config)
    key, draw_key = jax.random.split(state.key)
    others = np.asarray(skills.draw(config.skill, draw_key, 5), np.float64)

    def objective():
        for z, now, then in each(config, state.params["representation"], batch):
            delta = then - now
            yield delta @ z - 5 * np.log(sum(np.exp(delta @ other) for other in others))

    loss = -np.mean(list(objective()))
    assert metrics["representation/loss"] == pytest.approx(loss, rel=1e-4)

    shown = skilled.as_shown(config, batch)
    rows, reset = unrolled(shown)
    modules = csf.networks(config, ENV.spec)
    actor, critic = modules.actor, modules.critic
    next_key = jax.random.split(key, 3)[1]
    policy = apply(actor, state.params["actor"], (), rows, reset, skip=1)[1]
    action = policy.sample(next_key)
    following = np.asarray(apply(critic, state.target, (), rows, reset, action, skip=1), np.float64)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    values = apply(critic, state.critic, (), seen, reset[:-1], batch.step.action)
    assert values.shape == (2, 13, 4, 2)
    total, steps = 0.0, np.argwhere(np.asarray(shown.mask))
    moves = iter(each(config, after.params["representation"], batch))
    moves = dict(zip(map(tuple, np.argwhere(np.asarray(batch.mask))), moves, strict=True))
    shown_skill = np.asarray(rows.obs["skill"], np.float64)
    for t, b in steps:
        z, now, then = moves[t, b]
        members = following[:, t, b]
        least = members[np.argmin(members @ shown_skill[t + 1, b])]
        target = then - now + 0.99 * least
        total += sum(np.mean((np.asarray(v[t, b], np.float64) - target) ** 2) for v in values)
    assert metrics["critic/loss"] == pytest.approx(total / len(steps), rel=1e-3)
    paid = np.mean([z @ (then - now) for z, now, then in moves.values()])
    assert metrics["skill/reward"] == pytest.approx(paid, rel=1e-3, abs=1e-5)


# --- All four ---------------------------------------------------------------------------------

FOUR = pytest.mark.parametrize("name", ALL)

# The one parameter that need not move: where φ enters as φ(s') - φ(s) alone, its last bias cancels.
CANCELLED = "[0]['representation']['params']['mlp']['out']['bias']"


def test_rivals_act_as_metra_does():
    for name, config in ALL.items():
        algorithm = ALGORITHMS[name]
        assert (algorithm.act, algorithm.follow) == (skilled.act, skilled.follow)
        ours, common = algorithm.networks(config, ENV.spec), skilled.networks(config, ENV.spec)
        assert ours.actor == common.actor


@pytest.mark.parametrize("config", [CHOOSING, SPECTRAL, CONTRASTIVE], ids=lambda c: c.name)
def test_rewards_of_the_environment_are_never_seen(config):
    state, batch, after, _ = updated(config)
    richer = batch._replace(step=batch.step._replace(reward=batch.step.reward + 100))
    again, _ = update_of(config)(state, richer)
    assert_trees_close((again.params, again.critic), (after.params, after.critic))


@pytest.mark.parametrize(
    "name", ["metra", *(pytest.param(x, marks=pytest.mark.slow) for x in ("diayn", "lsd", "csf"))]
)
def test_acting_step_by_step_with_s5_equals_unrolling_over_changing_skills(name):
    config, algorithm = with_memory(ALL[name]), ALGORITHMS[name]
    state, trajectory = played(config)
    shown = skilled.as_shown(config, trajectory)
    seen, reset = jax.tree.map(lambda x: x[:-1], unrolled(shown))
    actor = algorithm.networks(config, ENV.spec).actor
    policy = apply(actor, state.params["actor"], shown.carry, seen, reset)[1]
    np.testing.assert_allclose(policy.mode(), trajectory.step.action, rtol=1e-4, atol=1e-5)
    skill = np.asarray(trajectory.step.extras["skill"])
    changed = (skill[1:] != skill[:-1]).any(-1)
    within = ~np.asarray(trajectory.first[1:])
    assert (changed & within).any() and not (changed & within).all()
    np.testing.assert_array_equal(shown.mask[:-1], ~changed)  # nothing terminates here


@pytest.mark.slow
@FOUR
def test_with_s5_an_update_from_windows_moves_every_parameter(name):
    program = make_program(with_memory(ALL[name]), ENV)
    state = jax.jit(program.init)(jax.random.key(0), {})
    before = jax.device_get((state.agent.params, state.agent.critic))
    after, metrics = jax.jit(program.chunk)(state, None, jnp.int32(2))
    assert all(np.isfinite(x).all() for x in metrics.values())
    learnt = (after.agent.params, after.agent.critic)
    moved = jax.tree.map(lambda old, new: bool((np.asarray(old) != new).any()), before, learnt)
    leaves = jax.tree_util.tree_leaves_with_path(moved)
    still = {jax.tree_util.keystr(path) for path, yes in leaves if not yes}
    assert still <= (set() if name == "diayn" else {CANCELLED})


@pytest.mark.slow
@FOUR
def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(name, tmp_path):
    config = RunConfig(
        EnvConfig("point/plane", time_limit=6), ALL[name], steps=96, log_every=24, eval_every=96,
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
    skill = np.asarray(whole.state("last").replay.storage.experience.extras["skill"])[0, :, :24]
    kept = skill.sum(-1) == 1 if ALL[name].skill.kind == "discrete" else (skill**2).sum(-1) > 0.99
    assert kept.all()


def test_skills_that_a_rival_cannot_learn_are_refused():
    with pytest.raises(UserError, match="skill.kind must be discrete or gaussian for diayn"):
        DIAYNConfig(skill=SkillConfig())
    with pytest.raises(UserError, match="skill.kind must be sphere or gaussian for csf"):
        CSFConfig(skill=SkillConfig("discrete", 4))
    with pytest.raises(UserError, match=r"contrast must be above 0, got 0\.0"):
        replace(CONTRASTIVE, contrast=0.0)
    with pytest.raises(UserError, match="others must be at least 1, got 0"):
        replace(CONTRASTIVE, others=0)
    with pytest.raises(UserError, match="experience.reward_scale must be 1 for csf, whose critics"):
        replace(CONTRASTIVE, experience=replace(CONTRASTIVE.experience, reward_scale=2.0))
    stretching = replace(lsd.PRESETS["point"].representation, layer_norm=True)
    with pytest.raises(UserError, match="representation.layer_norm must be False, as it stretches"):
        replace(lsd.PRESETS["point"], representation=stretching)
    with pytest.raises(UserError, match="representation.activation must be one that stretches"):
        replace(lsd.PRESETS["point"], representation=replace(stretching, activation="gelu"))
    assert SMALL.swept[-1] == "multiplier_learning_rate" not in CONTRASTIVE.swept
