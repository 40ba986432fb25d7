"""CQL: its losses against loops written from the equations, and what it learns on probes."""

from dataclasses import replace
from functools import cache, partial

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
    with_core,
)

from rlssm.algorithms import cql
from rlssm.algorithms.cql import CQLConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.nn.actor_critic import apply
from rlssm.nn.distributions import TanhGaussian
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, DictSpace, Discrete, Spec, unrolled

GAMMA, ALPHA, WEIGHT, TAU, N = 0.8, 0.3, 1.5, 0.7, 2
PLAIN = CQLConfig(
    actor=MLPConfig((16,), "relu"),
    critic=MLPConfig((16,), "relu"),
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    init_temperature=ALPHA,
    discount=GAMMA,
    polyak=0.1,
    cql_alpha=WEIGHT,
    cql_actions=N,
    cql_temperature=TAU,
    normalize_obs=False,
    precision="highest",
)
# With a memory and all that is optional. Heads alone see what the masked steps did and earned.
FULL = replace(
    with_core(PLAIN, "gru"),
    torso=TorsoConfig(width=8, hidden=(), observe_action=False, observe_reward=False),
    backup_entropy=True,
    max_target_backup=True,
    lagrange_gap=0.6,
    clip_min=2.1,
    clip_max=2.5,
)
BOTH = pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
PROBING = replace(
    PLAIN,
    experience=ExperienceConfig(batch=32, warmup=64),
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    temperature_learning_rate=0.0,
    init_temperature=0.01,
    cql_temperature=1.0,
    cql_actions=4,
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
def step_of(config):
    return jit(partial(cql.update, config, SPEC))


@cache
def one_update(config):
    """Return (state, batch, state after, metrics), the targets unlike the critics."""
    state = jit(partial(cql.init, config, SPEC))(jax.random.key(1))
    state = state.replace(target=jax.tree.map(lambda x: 0.7 * x, state.critic))
    data = batch(config, seed=10)
    return state, data, *step_of(config)(state, data)


@cache
def outputs(config):
    """Return what the networks say in that update, from their own calls, as float64."""
    state, data, _, _ = one_update(config)
    actor, critic = cql.networks(config, SPEC)
    rows, reset = unrolled(data)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank = actor.initial_carry(data.mask.shape[1])
    _, next_key, proposal_key, action_key = jax.random.split(state.key, 4)

    @jit
    def run(state):
        _, now = apply(actor, state.params["actor"], blank, seen, reset[:-1])
        _, later = apply(actor, state.params["actor"], blank, rows, reset, skip=1)
        draws = cql.several(later, N if config.max_target_backup else 1)
        next_action, next_log_prob = draws.sample_and_log_prob(next_key)
        next_value = [
            apply(critic, state.target, blank, rows, reset, a, skip=1) for a in next_action
        ]
        proposed, _ = cql.proposals(now, later, N, proposal_key)
        density = [now.log_prob(a) for a in proposed[N : 2 * N]]
        density += [later.log_prob(a) for a in proposed[2 * N :]]
        value = [apply(critic, state.critic, blank, seen, reset[:-1], a) for a in proposed]
        at_data = apply(critic, state.critic, blank, seen, reset[:-1], data.step.action)
        action, log_prob = now.sample_and_log_prob(action_key)
        own = apply(critic, state.critic, blank, seen, reset[:-1], action)
        out = {
            "next_value": jnp.stack(next_value), "next_log_prob": next_log_prob,
            "density": jnp.stack(density), "proposed": jnp.stack(value), "data": at_data,
            "log_prob": log_prob, "own": own,
        }  # fmt: skip
        return out, proposed

    out, proposed = run(state)
    return {name: np.asarray(x, np.float64) for name, x in out.items()}, proposed


def learnt_from(data):
    """Yield (t, b) of the steps that count."""
    return np.argwhere(np.asarray(data.mask))


def targets(config):
    """Return y by the equation, one step at a time."""
    data, (out, _) = one_update(config)[1], outputs(config)
    y = np.zeros(data.mask.shape)
    for t, b in learnt_from(data):
        best = max(range(len(out["next_value"])), key=lambda i: out["next_value"][i, :, t, b].min())
        ahead = out["next_value"][best, :, t, b].min()
        if config.backup_entropy:
            ahead -= ALPHA * out["next_log_prob"][best, t, b]
        y[t, b] = 2.0 * float(data.step.reward[t, b]) - 0.5
        if not data.step.terminated[t, b]:
            y[t, b] += GAMMA * ahead
    return y


def differences(config, limited=True):
    """Return, per critic and step, how far the soft maximum lies above the stored action."""
    data, (out, _) = one_update(config)[1], outputs(config)
    found = np.zeros((2, *data.mask.shape))
    for k in range(2):
        for t, b in learnt_from(data):
            total = 0.0
            for i in range(3 * N):
                log_density = 2 * np.log(0.5) if i < N else out["density"][i - N, t, b]
                total += np.exp((out["proposed"][i, k, t, b] - log_density) / TAU)
            found[k, t, b] = TAU * np.log(total) - out["data"][k, t, b]
    if limited and config.clip_min is not None:
        found = np.clip(found, config.clip_min, config.clip_max)
    return found


def conservative(config, log_multiplier=1.0):
    """Return w (D_k - gap) of each critic."""
    data, found = one_update(config)[1], differences(config)
    gaps = np.array([np.mean([found[k, t, b] for t, b in learnt_from(data)]) for k in range(2)])
    if config.lagrange_gap is None:
        return WEIGHT * gaps
    return np.exp(log_multiplier) * WEIGHT * (gaps - config.lagrange_gap)


def test_the_batch_of_these_tests_has_every_kind_of_step():
    data = one_update(FULL)[1]
    mask = np.asarray(data.mask)
    assert (np.asarray(data.step.terminated) & mask).any()
    assert (np.asarray(data.step.truncated) & mask)[:-1].any()
    assert not mask[:2].any() and not mask[2:].all()
    free, limited = (differences(FULL, limited)[:, mask] for limited in (False, True))
    assert (free < 2.1).any() and (free > 2.5).any() and (free == limited).any()


@BOTH
def test_losses_are_those_of_the_equations(config):
    _, data, _, metrics = one_update(config)
    out, y = outputs(config)[0], targets(config)
    errors, actor_loss, spread = [], [], []
    for t, b in learnt_from(data):
        errors.append(sum((q - y[t, b]) ** 2 for q in out["data"][:, t, b]))
        actor_loss.append(ALPHA * out["log_prob"][t, b] - out["own"][:, t, b].min())
        spread.append(-out["log_prob"][t, b])
    mask = np.asarray(data.mask)
    loss = np.mean(errors) + conservative(config).sum()
    assert metrics["critic/bellman_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert metrics["critic/gap"] == pytest.approx(differences(config)[:, mask].mean(), rel=1e-4)
    assert metrics["critic/loss"] == pytest.approx(loss, rel=1e-4)
    assert metrics["critic/value_mean"] == pytest.approx(out["data"][:, mask].mean(), rel=1e-4)
    assert metrics["actor/loss"] == pytest.approx(np.mean(actor_loss), rel=1e-4)
    assert metrics["actor/entropy"] == pytest.approx(np.mean(spread), rel=1e-4)
    assert metrics["actor/temperature"] == pytest.approx(ALPHA, rel=1e-6)
    if config.lagrange_gap is not None:
        assert metrics["critic/multiplier"] == pytest.approx(np.e, rel=1e-6)


@BOTH
def test_gradients_are_those_of_the_losses_at_the_parameters_before_the_update(config):
    """Targets, proposals, densities and weights are constants; no loss sees a parameter that
    another one has already moved."""
    state, data, after, _ = one_update(config)
    actor, critic = cql.networks(config, SPEC)
    rows, reset = unrolled(data)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank, y = actor.initial_carry(data.mask.shape[1]), jnp.asarray(targets(config), jnp.float32)
    share = data.mask / data.mask.sum()
    out, proposed = outputs(config)
    density = np.concatenate([np.full((N, *y.shape), 2 * np.log(0.5)), out["density"]])
    density = jnp.asarray(density, jnp.float32)[:, None]
    weight = WEIGHT * (1 if config.lagrange_gap is None else np.e)
    low, high = config.clip_min or -np.inf, config.clip_max or np.inf

    def critic_loss(params):
        values = apply(critic, params, blank, seen, reset[:-1], data.step.action)
        others = [apply(critic, params, blank, seen, reset[:-1], a) for a in proposed]
        total = jnp.exp((jnp.stack(others) - density) / TAU).sum(0)
        above = jnp.clip(TAU * jnp.log(total) - values, low, high)
        return (share * ((values - y) ** 2 + weight * above)).sum()

    def actor_loss(params, critics):
        _, policy = apply(actor, params, blank, seen, reset[:-1])
        action, log_prob = policy.sample_and_log_prob(jax.random.split(state.key, 4)[3])
        value = apply(critic, critics, blank, seen, reset[:-1], action).min(0)
        return (share * (ALPHA * log_prob - value)).sum()

    of_critic, of_actor = jit(jax.grad(critic_loss)), jit(jax.grad(actor_loss))
    found = first_gradient(after.opt_state["critic"])
    assert_trees_close(found, of_critic(state.critic), rtol=1e-3, atol=2e-5)
    found = first_gradient(after.opt_state["actor"])
    grad = of_actor(state.params["actor"], state.critic)
    assert_trees_close(found, grad, rtol=1e-3, atol=1e-5)
    stepped = of_actor(state.params["actor"], after.critic)
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, stepped)
    assert max(jax.tree.leaves(gaps)) > 1e-4


@BOTH
def test_scalars_follow_the_slopes_of_their_losses(config):
    state, data, after, _ = one_update(config)
    log_prob, h = outputs(config)[0]["log_prob"], 1e-3
    mean = np.mean([log_prob[t, b] for t, b in learnt_from(data)])
    slope = first_gradient(after.opt_state["temperature"])
    assert slope == pytest.approx(-(mean - 2), rel=1e-4)  # of -log α (log π + H̄), H̄ = -2
    assert np.sign(after.log_alpha - state.log_alpha) == -np.sign(slope)
    if config.lagrange_gap is None:
        assert after.log_multiplier == state.log_multiplier
        return
    loss = lambda at: -conservative(config, at).sum() / 2  # noqa: E731
    slope = (loss(1 + h) - loss(1 - h)) / (2 * h)
    assert first_gradient(after.opt_state["multiplier"]) == pytest.approx(slope, rel=1e-4)
    assert np.sign(after.log_multiplier - 1) == -np.sign(slope)


def test_the_multiplier_stops_at_its_cap():
    state, data, _, _ = one_update(FULL)
    after, metrics = step_of(FULL)(state.replace(log_multiplier=jnp.float32(15)), data)
    assert metrics["critic/multiplier"] == pytest.approx(1e6)
    assert first_gradient(after.opt_state["multiplier"]) == 0


@BOTH
def test_an_update_is_reproducible_and_changes_every_parameter(config):
    state, data, after, _ = one_update(config)
    again = step_of(config)(state, data)[0]
    for name in ("params", "critic", "target", "log_alpha"):
        trees = (getattr(s, name) for s in (state, after, again))
        for before, a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(a, b)
            assert (np.asarray(a) != np.asarray(before)).any()
    assert_trees_close(after.hyper, state.hyper)
    expected = jax.tree.map(lambda q, old: old + 0.1 * (q - old), after.critic, state.target)
    assert_trees_close(after.target, expected, rtol=1e-5, atol=1e-6)


def test_steps_that_are_not_learnt_from_teach_nothing():
    """But what was observed in them is remembered."""
    state, data, after, _ = one_update(FULL)
    step, unmasked = data.step, ~data.mask
    other = step._replace(
        reward=jnp.where(unmasked, 99.0, step.reward),
        action=jnp.where(unmasked[..., None], 0.5, step.action),
        terminated=step.terminated ^ unmasked,
    )
    update = step_of(FULL)
    assert_trees_close(update(state, data._replace(step=other))[0].critic, after.critic, rtol=1e-6)
    seen = step._replace(obs=step.obs.at[1].add(1.0))
    loss = update(state, data._replace(step=seen))[1]["critic/loss"]
    assert abs(float(loss - one_update(FULL)[3]["critic/loss"])) > 1e-4


# --- Proposals --------------------------------------------------------------------------------


def test_proposals_are_spread_as_their_densities_say():
    """A third each are uniform, from one policy, and from the other."""
    n, size = 4000, 2
    now = TanhGaussian(jnp.full((1, 1, size), 0.4), jnp.full((1, 1, size), -0.5))
    later = TanhGaussian(jnp.full((1, 1, size), -0.8), jnp.full((1, 1, size), -1.5))
    action, log_density = map(np.array, cql.proposals(now, later, n, jax.random.key(0)))
    thirds = [slice(i * n, (i + 1) * n) for i in range(3)]
    np.testing.assert_allclose(log_density[thirds[0]], -size * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(
        log_density[thirds[1]], now.log_prob(jnp.asarray(action[thirds[1]])), atol=1e-3
    )
    np.testing.assert_allclose(
        log_density[thirds[2]], later.log_prob(jnp.asarray(action[thirds[2]])), atol=1e-3
    )
    assert np.abs(action).max() < 1
    drawn = action.reshape(3, n, size)
    drawn[1:] = np.arctanh(drawn[1:])
    assert drawn.mean(1) == pytest.approx(np.array([[0, 0], [0.4, 0.4], [-0.8, -0.8]]), abs=0.05)
    std = np.array([3**-0.5, np.exp(-0.5), np.exp(-1.5)])
    assert drawn.std(1) == pytest.approx(np.stack([std, std], 1), abs=0.05)
    assert all(abs(np.corrcoef(pair.T)[0, 1]) < 0.06 for pair in drawn)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_soft_maximum_is_an_integral_over_actions(temperature):
    """Of a flat value c it is c + T log N + A log 2, so no constant is taken off for N."""
    values, size, count = jnp.full((2, 12, 1, 1), 0.7), 3, 12
    found = cql.soft_maximum(values, jnp.full((count, 1, 1), -size * np.log(2)), temperature)
    expected = 0.7 + temperature * np.log(count) + size * np.log(2)
    assert found[:, 0, 0] == pytest.approx([expected] * 2, rel=1e-5)


# --- Probes -----------------------------------------------------------------------------------


@cache
def trained(env):
    """Return a function from the weight of the conservative term and a dataset to what is learnt
    from it, compiled once."""
    program = make_program(PROBING, env, online=False)
    init, chunk = jit(program.init), jit(program.chunks["offline"])

    def learn(weight, data):
        state = init(jax.random.key(0), {"cql_alpha": jnp.float32(weight)})
        return chunk(state, data, jnp.int32(800))[0].agent

    return learn


def values(env, state, obs, action):
    obs, action = (np.asarray(x, np.float32)[:, None] for x in (obs, action))
    return action_values(PROBING, env.spec, state, obs, action)


def test_values_without_conservatism_are_those_of_the_data():
    """A time limit is no end, and taking it for one is visible."""
    env = probes.TruncatedStream(ONE_ACTION, 2)
    learn, data = trained(env), from_env(env)
    found = values(env, learn(0, data), [1], [0])
    assert found == pytest.approx([1 / (1 - GAMMA)], abs=0.1)
    broken = learn(0, data.replace(terminated=data.terminated | data.truncated))
    assert values(env, broken, [1], [0]) < 0.5 / (1 - GAMMA)


def test_a_policy_stays_with_the_actions_of_the_data():
    """They are all negative, and pay more the nearer to 1/2: without conservatism the policy goes
    where nothing is known."""
    env = probes.RewardFromAction(ONE_ACTION)
    data = from_env(env, policy=lambda key, _: jax.random.uniform(key, (8, 1), minval=-1, maxval=0))
    learn, found = trained(env), {}
    for weight in (0, 5):
        state = learn(weight, data)
        actor = cql.networks(PROBING, env.spec).actor
        _, policy = actor.apply(state.params["actor"], *alone(np.ones((1, 1), np.float32)))
        found[weight] = float(policy.mode()[0, 0, 0]), *values(env, state, [1, 1], [-0.3, 0.7])
    assert found[0][0] > 0.2 and found[0][2] > found[0][1]
    assert -0.6 < found[5][0] < 0.1 and found[5][2] < found[5][1] - 1


def test_the_best_action_is_found_in_a_dataset_of_random_ones():
    env = probes.RewardFromBoth(ONE_ACTION)
    state = trained(env)(0.1, from_env(env))
    actor = cql.networks(PROBING, env.spec).actor
    _, policy = actor.apply(state.params["actor"], *alone(np.array([[-1.0], [1.0]], np.float32)))
    assert policy.mode()[0, :, 0] == pytest.approx([-0.5, 0.5], abs=0.2)


# --- Acting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["s5", "gru"])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()

    check_act_equals_unroll(with_core(PLAIN, core), actions)


def test_a_new_policy_is_narrow_and_its_spread_is_learnt():
    """log σ is scale f + offset with scale 1 and offset -1 at first."""
    state, data, after, _ = one_update(PLAIN)
    head, moved = (s.params["actor"]["params"]["head"] for s in (state, after))
    assert (head["scale"], head["offset"]) == (1.0, -1.0)
    assert moved["scale"] != 1.0 and moved["offset"] != -1.0
    actor = cql.networks(PLAIN, SPEC).actor
    _, policy = actor.apply(state.params["actor"], *alone(data.step.obs[0]))
    assert policy.log_std == pytest.approx(np.full(policy.log_std.shape, -1.0), abs=0.1)


def test_observations_are_standardised_alike_in_acting_and_learning():
    config = replace(PLAIN, normalize_obs=True)
    state = cql.init(config, SPEC, jax.random.key(1))
    mean, std = jnp.array([1.0, -2.0, 0.5]), jnp.array([2.0, 0.5, 0.0])
    seen = state.params["statistics"]._replace(
        count=jnp.float32(10), mean=mean, m2=10 * jnp.square(std)
    )
    state = state.replace(params=state.params | {"statistics": seen})
    data = batch(config, seed=10)
    scaled = jax.tree.map(lambda x: (x - mean) / (std + 1e-3), (data.step.obs, data.step.next_obs))
    same = data._replace(step=data.step._replace(obs=scaled[0], next_obs=scaled[1]))
    plain = state.replace(params={"actor": state.params["actor"]})
    loss = jit(partial(cql.update, config, SPEC))(state, data)[1]["critic/loss"]
    assert loss == pytest.approx(float(step_of(PLAIN)(plain, same)[1]["critic/loss"]), rel=1e-4)
    policy = partial(cql.act, reset=jnp.ones(32, bool), carry=(), key=jax.random.key(0))
    rows, rows_same = (unrolled(x)[0] for x in (data, same))
    ours = policy(config, SPEC, state.params, jax.tree.map(lambda x: x[0], rows), greedy=True)[0]
    theirs = policy(
        PLAIN, SPEC, plain.params, jax.tree.map(lambda x: x[0], rows_same), greedy=True
    )[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


# --- Settings ---------------------------------------------------------------------------------


def test_published_settings():
    default, antmaze = cql.PRESETS["default"], cql.PRESETS["antmaze"]
    assert (default.cql_alpha, default.lagrange_gap, default.cql_actions) == (10, None, 10)
    assert (default.learning_rate, default.critic_learning_rate) == (3e-5, 3e-4)
    assert default.critic.hidden == (256,) * 3 and default.normalize_obs
    assert not default.backup_entropy and not default.max_target_backup
    assert (antmaze.cql_alpha, antmaze.lagrange_gap, antmaze.clip_min) == (5, 0.8, -200)
    assert antmaze.critic.hidden == (256,) * 5 and antmaze.max_target_backup
    assert antmaze.experience.reward(jnp.array([0.0, 1.0])).tolist() == [-5, 5]
    wish = cql.batch_spec(default)
    assert wish.offline_first and wish.returns is None and wish.batch == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cql_alpha": -1.0}, "cql_alpha must be at least 0, got -1.0"),
        ({"cql_actions": 0}, "cql_actions must be at least 1, got 0"),
        ({"cql_temperature": 0.0}, "cql_temperature must be above 0, got 0.0"),
        ({"clip_max": float("inf")}, "clip_max must be finite, or left out, got inf"),
        (
            {"clip_min": 1.0, "clip_max": 0.0},
            "clip_min must be below clip_max = 0, got 1.0",
        ),
        ({"lagrange_gap": float("nan")}, "lagrange_gap must be finite, or left out, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
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
        CQLConfig(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            Spec(Box((3,)), Discrete(2)),
            "cql needs continuous actions (a vector), got Discrete(n=2)",
        ),
        (
            Spec(DictSpace((("a", Box((3,))),)), Box((2,))),
            "normalize_obs needs array observations; set it to False here",
        ),
    ],
)
def test_networks_refuse(spec, message):
    with pytest.raises(UserError) as error:
        cql.networks(CQLConfig(), spec)
    assert str(error.value) == message
