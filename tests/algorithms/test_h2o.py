"""H2O: each of its terms against loops in float64, its switches, and what it learns on probes."""

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

from rlssm.algorithms import h2o
from rlssm.algorithms.h2o import H2OConfig
from rlssm.data import mixing
from rlssm.data.mixing import ExperienceConfig, columns, side_by_side
from rlssm.envs import probes
from rlssm.envs.perturbed import DynamicsConfig
from rlssm.envs.registry import EnvConfig, make
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, DictSpace, Discrete, Spec, inputs, unrolled

GAMMA, ALPHA, BETA, SAMPLES = 0.8, 0.3, 0.7, 4
HIDDEN = MLPConfig((16,), "relu")
SMALL = H2OConfig(
    actor=HIDDEN,
    critic=HIDDEN,
    discriminator=HIDDEN,
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    gap_samples=SAMPLES,
    penalty=BETA,
    init_temperature=ALPHA,
    discount=GAMMA,
    polyak=0.1,
    precision="highest",
)
WINDOWED = replace(SMALL, experience=replace(SMALL.experience, length=6, burn_in=2, batch=24))
PROBING = replace(
    SMALL,
    experience=ExperienceConfig(batch=32, warmup=64),
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    discriminator_learning_rate=1e-2,
    temperature_learning_rate=0.0,
    init_temperature=0.01,
    penalty=0.01,
)
ONE_ACTION = Box((1,))
REAL = 3  # of the 6 windows of a batch
# What is compiled here runs for microseconds, so compiling is what takes the time.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
SWITCHES = {
    "default": {},
    "no ratio": {"use_ratio": False},
    "no gap": {"use_gap": False},
    "mean": {"soft_maximum": False},
    "diluted": {"deviation": "diluted"},
    "shared batch": {"discriminator_batches": 0},
    "noise in place": {"noise_in_place": True},
    "scaled gap": {"gap_scale": 3.0},
    "clean": {"noise": 0.0},
}
RARE = (
    "shared batch",
    "scaled gap",
    "clean",
    "no ratio",
    "diluted",
    "mean",
)  # of which each costs a compilation
SOME_SLOW = [pytest.param(x, marks=pytest.mark.slow) if x in RARE else x for x in SWITCHES]


# --- One update -------------------------------------------------------------------------------


@cache
def before():
    """Return a state before any update, its statistics unlike the standard ones."""
    state = with_random_weights(WINDOWED)
    seen = 3.0 + 0.7 * np.random.default_rng(0).normal(size=(200, *SPEC.obs.shape))
    statistics = normalizers.update(state.params["statistics"], jnp.float32(seen))
    return state.replace(params=state.params | {"statistics": statistics})


@cache
def update_of(switch="default"):
    return jit(partial(h2o.update, replace(WINDOWED, **SWITCHES[switch]), SPEC))


@cache
def updated(switch="default"):
    """Return (config, batches, state after, metrics) of one update."""
    config = replace(WINDOWED, **SWITCHES[switch])
    batches = mixed_batch(config, seed=5)
    return config, batches, *update_of(switch)(before(), batches)


@cache
def said(switch="default"):
    """Return what the networks say in that update, in float64, by name."""
    config, batches, after, _ = updated(switch)
    state, batch = before(), jax.tree.map(lambda x: x[0], batches)
    further = batches if switch == "shared batch" else jax.tree.map(lambda x: x[1:], batches)
    actor, critic, discriminators = h2o.networks(config, SPEC)
    sim = columns(batch, slice(REAL, None))

    @jit
    def run(state, judges, batch, further, spread):
        keys = jax.random.split(state.key, 6)
        _, noise_key, gap_key, next_key, action_key, actor_noise_key = keys
        judged, obs = side_by_side(further), inputs(side_by_side(further)).obs
        obs_key, act_key, succ_key = jax.random.split(noise_key, 3)
        next_obs, action = judged.step.next_obs, judged.step.action
        obs += config.noise * jax.random.normal(obs_key, obs.shape)
        action += config.noise * jax.random.normal(act_key, action.shape)
        next_obs += config.noise * jax.random.normal(succ_key, next_obs.shape)
        start = apply(discriminators, state.discriminators, obs, action, method="start")
        args = obs, action, next_obs
        residual = apply(discriminators, state.discriminators, *args, method="successor")

        obs, action, next_obs = sim.step.obs, sim.step.action, sim.step.next_obs
        near = apply(discriminators, judges, obs, action, next_obs, method="successor")
        noise = jax.random.normal(gap_key, (SAMPLES, *next_obs.shape))
        around = next_obs + spread * noise
        around = apply(discriminators, judges, obs, action, around, method="successor")

        rows, reset = unrolled(batch)
        seen = jax.tree.map(lambda x: x[:-1], rows)
        weights = state.params["actor"]
        _, policy = apply(actor, weights, (), rows, reset, skip=1)
        next_value = apply(
            critic, state.target, (), rows, reset, policy.sample_and_log_prob(next_key)[0], skip=1
        )
        values = apply(critic, state.critic, (), seen, reset[:-1], batch.step.action)
        if config.noise_in_place:
            noise = 0.1 * jax.random.normal(actor_noise_key, seen.obs.shape)
            seen = seen._replace(obs=seen.obs + noise)
        _, policy = apply(actor, weights, (), seen, reset[:-1])
        action, log_prob = policy.sample_and_log_prob(action_key)
        chosen = apply(critic, state.critic, (), seen, reset[:-1], action)
        return {
            "start": start, "residual": residual, "near": near, "around": around,
            "next": next_value, "values": values, "log_prob": log_prob, "chosen": chosen,
        }  # fmt: skip

    outputs = run(state, after.discriminators, batch, further, spread(config))
    return {name: np.asarray(x, np.float64) for name, x in outputs.items()}, batch, further


def spread(config):
    """Return σ of the noisy successors by its definition."""
    statistics = before().params["statistics"]
    mean = np.asarray(statistics.mean, np.float64)
    sd = np.sqrt(np.asarray(statistics.m2, np.float64) / 200)
    if config.deviation == "diluted":
        rng = np.random.default_rng(1).normal(size=(5000, len(mean)))
        rows = mean + sd * (rng - rng.mean(0)) / rng.std(0)
        sd = np.concatenate([rows, np.zeros((50_000, len(mean)))]).std(0) + 1e-3
    return jnp.float32(config.gap_scale * sd)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def steps_of(mask, where=slice(None)):
    """Return the (t, b) of the steps that count, of some windows."""
    return [(t, b) for t, b in np.argwhere(np.asarray(mask)) if b in range(1000)[where]]


@pytest.mark.parametrize("switch", SOME_SLOW)
def test_every_term_is_that_of_the_equations_under_every_switch(switch):
    config, _, _, metrics = updated(switch)
    out, batch, _ = said(switch)
    step, real = batch.step, steps_of(batch.mask, slice(REAL))
    simulated = steps_of(batch.mask, slice(REAL, None))
    ratio = {}
    gap = {}
    for t, b in simulated:
        logits = out["near"][t, b - REAL]
        ratio[t, b] = np.clip(np.exp(logits[0] - logits[1]), 1e-5, 1)
        around = out["around"][:, t, b - REAL]
        gap[t, b] = np.clip(np.mean(around[:, 1] - around[:, 0]), 1e-30, 10)
    assert metrics["simulator/ratio"] == pytest.approx(np.mean(list(ratio.values())), rel=1e-4)
    assert metrics["simulator/gap"] == pytest.approx(np.mean(list(gap.values())), rel=1e-4)
    total = sum(gap.values())
    omega = {at: u / total if config.use_gap else 1 / len(gap) for at, u in gap.items()}

    def error(k, t, b):
        y = 2.0 * float(step.reward[t, b]) - 0.5
        if not step.terminated[t, b]:
            y += GAMMA * out["next"][:, t, b].min()
        return (out["values"][k, t, b] - y) ** 2

    of_real, of_sim, excess = 0, 0, []
    for k in range(2):
        of_real += np.mean([error(k, *at) for at in real])
        w = ratio if config.use_ratio else dict.fromkeys(ratio, 1.0)
        of_sim += np.mean([w[at] * error(k, *at) for at in simulated])
        values = {at: out["values"][k][at] for at in simulated}
        if config.soft_maximum:
            high = np.log(sum(omega[at] * np.exp(values[at]) for at in simulated))
        else:
            high = sum(omega[at] * values[at] for at in simulated)
        excess.append(high - np.mean([out["values"][k][at] for at in real]))
    assert metrics["critic/real_error"] == pytest.approx(of_real, rel=1e-4)
    assert metrics["critic/simulated_error"] == pytest.approx(of_sim, rel=1e-4)
    assert metrics["critic/excess"] == pytest.approx(np.mean(excess), rel=1e-3, abs=1e-4)
    total = of_real + of_sim + BETA * sum(excess)
    assert metrics["critic/loss"] == pytest.approx(total, rel=1e-4)
    counted = [*real, *simulated]
    expected = [ALPHA * out["log_prob"][at] - out["chosen"][:, *at].min() for at in counted]
    assert metrics["actor/loss"] == pytest.approx(np.mean(expected), rel=1e-4)
    entropy = -np.mean([out["log_prob"][at] for at in counted])
    assert metrics["actor/entropy"] == pytest.approx(entropy, rel=1e-4)


@pytest.mark.parametrize("switch", SOME_SLOW[1:])
def test_every_switch_changes_what_is_learnt(switch):
    before, after = updated()[2], updated(switch)[2]
    changed = "params" if switch == "noise in place" else "critic"
    gaps = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()),
        first_gradient(before.opt_state["actor" if changed == "params" else "critic"]),
        first_gradient(after.opt_state["actor" if changed == "params" else "critic"]),
    )
    assert max(jax.tree.leaves(gaps)) > 1e-4


@pytest.mark.parametrize("switch", ["default", "shared batch"])
def test_the_discriminators_learn_from_batches_of_their_own(switch):
    _, batches, _, metrics = updated(switch)
    out, _, further = said(switch)
    assert batches.mask.shape == ((3 if switch == "default" else 1), 6, 6)
    judged = side_by_side(further)
    mask, source = np.asarray(judged.mask), np.asarray(judged.step.extras["source"])
    loss, right = 0.0, {"start": [], "step": []}
    for name, logits in (("start", out["start"]), ("step", out["start"] + out["residual"])):
        p = softmax(logits)
        for label in (0, 1):
            rows = p[mask & (source == label)]
            loss -= np.log(rows[:, label]).mean()
            right[name].append((rows.argmax(-1) == label).mean())
    assert metrics["discriminator/loss"] == pytest.approx(loss, rel=1e-5)
    for name, shares in right.items():
        assert metrics[f"discriminator/{name}_accuracy"] == pytest.approx(np.mean(shares))


def test_what_the_discriminators_are_given_is_not_what_the_critics_are_given():
    _, batches, after, _ = updated()
    run = update_of()
    louder = jnp.zeros(3).at[0].set(1.0)[:, None, None]
    reward = batches.step.reward + louder
    other, _ = run(before(), batches._replace(step=batches.step._replace(reward=reward)))
    assert_trees_close(other.discriminators, after.discriminators)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), other.critic, after.critic)
    assert max(jax.tree.leaves(moved)) > 1e-5
    action = batches.step.action.at[1:].multiply(-1.0)
    other, _ = run(before(), batches._replace(step=batches.step._replace(action=action)))
    moved = jax.tree.map(
        lambda a, b: float(abs(a - b).max()), other.discriminators, after.discriminators
    )
    assert max(jax.tree.leaves(moved)) > 1e-5


def test_all_gradients_are_taken_at_the_same_parameters():
    config, _, after, _ = updated()
    out, batch, _ = said()
    state = before()
    _, critic, _ = h2o.networks(config, SPEC)
    rows, reset = unrolled(batch)
    seen, reset = jax.tree.map(lambda x: x[:-1], (rows, reset))
    y = 2.0 * batch.step.reward - 0.5
    y += GAMMA * ~batch.step.terminated * jnp.float32(out["next"].min(0))
    near, around = (jnp.float32(out[name]) for name in ("near", "around"))
    w = jnp.minimum(jnp.exp(near[..., 0] - near[..., 1]), 1)
    u = jnp.maximum((around[..., 1] - around[..., 0]).mean(0), 1e-30)
    real, sim = batch.mask[:, :REAL], batch.mask[:, REAL:]

    def loss(params):
        q = apply(critic, params, (), seen, reset, batch.step.action)
        error = (q - y) ** 2
        omega = u * sim / (u * sim).sum()
        high = jnp.log((omega * jnp.exp(q[..., REAL:])).sum((1, 2)))
        low = (q[..., :REAL] * real).sum((1, 2)) / real.sum()
        each = (error[..., :REAL] * real).sum((1, 2)) / real.sum() + BETA * (high - low)
        return (each + (w * error[..., REAL:] * sim).sum((1, 2)) / sim.sum()).sum()

    found = first_gradient(after.opt_state["critic"])
    assert_trees_close(found, jit(jax.grad(loss))(state.critic), rtol=1e-3, atol=1e-5)
    slope = -(np.mean([out["log_prob"][at] for at in steps_of(batch.mask)]) - 2)
    assert first_gradient(after.opt_state["temperature"]) == pytest.approx(slope, rel=1e-4)
    expected = jax.tree.map(lambda old, new: old + 0.1 * (new - old), state.target, after.critic)
    assert_trees_close(after.target, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("deviation", ["true", "diluted"])
def test_the_spread_of_successors_is_that_of_the_data_or_of_a_buffer_of_mostly_zeros(deviation):
    config = replace(WINDOWED, deviation=deviation, gap_scale=2.0)
    found = h2o.spread_of(config, before().params["statistics"])
    np.testing.assert_allclose(found, spread(config), rtol=1e-4)


def test_the_soft_maximum_of_values_and_their_mean():
    values = np.random.default_rng(0).normal(size=(2, 1, 3))
    omega, mask = np.array([[0.25, 0.75, 0.0]]), jnp.array([[True, True, False]])
    shares = h2o.log_shares(jnp.float32([[1.0, 3.0, 9.0]]), mask)
    soft = h2o.upper(WINDOWED, jnp.float32(values), shares)
    expected = np.log((omega * np.exp(values)).sum((1, 2)))
    np.testing.assert_allclose(soft, expected, rtol=1e-5)
    plain = h2o.upper(replace(WINDOWED, soft_maximum=False), jnp.float32(values), shares)
    np.testing.assert_allclose(plain, (omega * values).sum((1, 2)), rtol=1e-5)


# --- Ratio and gap ----------------------------------------------------------------------------


def test_the_ratio_of_dynamics_is_the_difference_of_the_two_posteriors():
    out, _, _ = said()
    p, q = softmax(out["start"]), softmax(out["start"] + out["residual"])
    bayes = np.log(q[..., 1]) - np.log(q[..., 0]) - np.log(p[..., 1]) + np.log(p[..., 0])
    ours = out["residual"][..., 1] - out["residual"][..., 0]
    np.testing.assert_allclose(ours, bayes, atol=1e-6)
    assert np.abs(ours).max() <= 4


@pytest.mark.parametrize("towards", [0, 1], ids=["real", "simulated"])
def test_discriminators_of_any_opinion_lead_to_no_nan(towards):
    _, batches, _, _ = updated()
    state = before()
    judges = state.discriminators["params"]
    sure = {"kernel": jnp.zeros((16, 2)), "bias": jnp.full(2, -99.0).at[towards].set(99.0)}
    judges = judges | {name: judges[name] | {"out": sure} for name in ("of_start", "of_step")}
    state = state.replace(discriminators={"params": judges})
    after, metrics = update_of()(state, batches)
    for leaf in jax.tree.leaves((after.params, after.critic, after.discriminators, metrics)):
        assert np.isfinite(leaf).all()
    gap, ratio = (float(metrics[f"simulator/{name}"]) for name in ("gap", "ratio"))
    expected = (1e-30, 1.0) if towards == 0 else (4.0, np.exp(-4))
    assert (gap, ratio) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("gap", "share"),
    [([1e-30, 1e-30, 1e-30], [1 / 3] * 3), ([1e-30, 2.0, 6.0], [0, 0.25, 0.75])],
    ids=["none above zero", "some"],
)
def test_shares_of_gaps_that_are_not_above_zero(gap, share):
    gap = jnp.float32([[*gap, 5.0]])
    found = h2o.log_shares(gap, jnp.array([[True, True, True, False]]))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found[0]), [*share, 0], atol=1e-6)


@cache
def pendulum(gravity, seed):
    """Return a dataset of random play, in the ordinary Pendulum or in another."""
    return from_env(make(EnvConfig("Pendulum-v1", dynamics=DynamicsConfig(gravity))), seed=seed)


@cache
def judged():
    """Return a function of (real, simulated): mean w and u, and accuracy, after 400 steps."""
    config, spec = replace(PROBING, discriminator_learning_rate=3e-3), make("Pendulum-v1").spec

    @jit
    def run(state, real, simulated):
        def batch(key):
            parts = (mixing.from_dataset(x, key, 128, 1) for x in (real, simulated))
            return mixing.join(*parts)

        def step(state, key):
            return h2o.step_discriminators(config, spec, state, batch(key), key)

        state, metrics = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 400))
        found = columns(batch(jax.random.key(2)), slice(128, None))
        ratio, gap = h2o.judge(config, spec, state, found, jax.random.key(3))
        return ratio.mean(), gap.mean(), metrics["discriminator/step_accuracy"][-100:].mean()

    state, real = with_random_weights(config, spec), pendulum(1.0, 0).replace(info=None)
    seen = normalizers.update(state.params["statistics"], real.obs)
    state = state.replace(params=state.params | {"statistics": seen})
    return lambda simulated: run(state, real, simulated.replace(info=None))


def test_a_simulator_without_a_gap_is_trusted_and_one_with_a_gap_is_not():
    ratio, gap, accuracy = judged()(pendulum(1.0, 1))
    assert ratio > 0.85 and gap < 0.3 and accuracy < 0.65
    ratio, gap, accuracy = judged()(pendulum(2.0, 1))
    assert ratio < 0.6 and gap > 1 and accuracy > 0.8


# --- Probes -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_action_is_found_with_a_dataset_of_random_ones():
    env = probes.RewardFromBoth(ONE_ACTION)
    data, program = from_env(env), make_program(PROBING, env)
    state = jit(program.init)(jax.random.key(0), {})
    state, _ = jit(program.chunks["random"])(state, data, jnp.int32(64))
    state, _ = jit(program.chunks["online"])(state, data, jnp.int32(500))
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    assert played.episode_return.mean() > 0.95


# --- Memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["s5"])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()

    check_act_equals_unroll(with_core(SMALL, core), actions)


def test_with_memory_discriminators_judge_by_the_history_and_only_the_steps_learnt_from():
    blind = TorsoConfig(width=8, hidden=(), observe_action=False, observe_reward=False)
    config = replace(with_core(SMALL, "gru"), torso=blind)
    run, state = jit(partial(h2o.update, config, SPEC)), with_random_weights(config)
    batches = mixed_batch(config, seed=5)
    after, metrics = run(state, batches)
    for leaf in jax.tree.leaves((after.params, after.critic, after.discriminators, metrics)):
        assert np.isfinite(leaf).all()
    step = batches.step
    earlier = step._replace(obs=step.obs.at[:, 1].add(1.0))
    moved = run(state, batches._replace(step=earlier))[1]
    assert abs(moved["discriminator/loss"] - metrics["discriminator/loss"]) > 1e-5
    assert abs(moved["simulator/ratio"] - metrics["simulator/ratio"]) > 1e-6
    unmasked = ~batches.mask
    other = step._replace(
        reward=jnp.where(unmasked, 99.0, step.reward), terminated=step.terminated ^ unmasked
    )
    same, again = run(state, batches._replace(step=other))
    found = [first_gradient(x.opt_state["discriminators"]) for x in (same, after)]
    assert_trees_close(*found, rtol=1e-5, atol=1e-7)
    assert again["simulator/gap"] == pytest.approx(float(metrics["simulator/gap"]), rel=1e-5)


# --- Settings ---------------------------------------------------------------------------------


def test_published_settings():
    config = H2OConfig()
    wish = h2o.batch_spec(config)
    assert (wish.stack, wish.batch, wish.offline, wish.updates) == (3, 256, 128, 1000)
    assert wish.both and not wish.offline_first and wish.collect.steps == 1000
    assert config.penalty == 0.01 and config.gap_samples == 10 and config.noise == 0.1
    assert not config.backup_entropy and config.use_ratio and config.use_gap
    shared = h2o.PRESETS["d2c"]
    assert h2o.batch_spec(shared).stack == 1 and shared.noise_in_place


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"penalty": -1.0}, "penalty must be at least 0, got -1.0"),
        ({"noise": -0.1}, "noise must be at least 0, got -0.1"),
        ({"gap_samples": 0}, "gap_samples must be at least 1, got 0"),
        ({"gap_scale": 0.0}, "gap_scale must be above 0, got 0.0"),
        ({"discriminator_batches": -1}, "discriminator_batches must be at least 0, got -1"),
        ({"deviation": "tru"}, "unknown deviation 'tru', perhaps 'true' was meant; known: ..."),
        (
            {"experience": ExperienceConfig(prior=0.0)},
            "prior must leave each batch of 256 windows one real and one simulated or more, "
            "got 0.0",
        ),
        (
            {"noise_in_place": True, "core": with_core(SMALL, "gru").core},
            "noise_in_place must be False with a memory, whose history it would spoil",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        H2OConfig(**changes)
    assert str(error.value).startswith(message.removesuffix("..."))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            Spec(Box((3,)), Discrete(2)),
            "h2o needs continuous actions (a vector), got Discrete(n=2)",
        ),
        (
            Spec(DictSpace((("a", Box((3,))),)), Box((2,))),
            "h2o needs observations that are a vector, got DictSpace",
        ),
    ],
)
def test_networks_refuse(spec, message):
    with pytest.raises(UserError) as error:
        h2o.networks(H2OConfig(), spec)
    assert str(error.value).startswith(message)
