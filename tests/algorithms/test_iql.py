"""IQL: its losses against loops written from the equations, and what it learns on probes."""

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
    dataset,
    first_gradient,
    from_env,
    learner,
    with_core,
    with_random_weights,
)

from rlssm.algorithms import iql
from rlssm.algorithms.iql import PRESETS, IQLConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, DictSpace, Discrete, Spec, unrolled

GAMMA, TAU, BETA = 0.8, 0.9, 10.0
SMALL = IQLConfig(
    actor=MLPConfig((16,), "relu"),
    critic=MLPConfig((16,), "relu"),
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    critic_learning_rate=1e-2,
    expectile=TAU,
    beta=BETA,
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
    experience=ExperienceConfig(batch=64, warmup=64),
    learning_rate=1e-2,
    actor_decay_steps=800,
)
ONE_ACTION = Box((1,))


# --- One update -------------------------------------------------------------------------------


# With weights of these seeds some advantages are below 0 and others beyond the limit of a weight.
KINDS = {
    "gaussian": (WINDOWED, SPEC, 4),
    "deterministic": (replace(WINDOWED, deterministic=True), SPEC, 4),
    "discrete": (WINDOWED, Spec(SPEC.obs, Discrete(3)), 2),
}


def drawn(config, spec):
    """Return a batch, with random actions of the space."""
    if isinstance(spec.action, Box):
        return batch(config, seed=5)
    data = batch(config, seed=5)
    action = jax.random.randint(jax.random.key(0), data.mask.shape, 0, spec.action.n)
    return data._replace(
        step=data.step._replace(action=action),
        previous=data.previous._replace(action=jnp.zeros_like(action[0])),
    )


@pytest.fixture(
    scope="module",
    params=["gaussian", pytest.param("deterministic", marks=pytest.mark.slow), "discrete"],
)
def updated(request):
    """One update: (kind, update, state, batch, state after, metrics)."""
    config, spec, seed = KINDS[request.param]
    update = jax.jit(partial(iql.update, config, spec))
    state, data = with_random_weights(config, spec, seed), drawn(config, spec)
    return request.param, update, state, data, *update(state, data)


@pytest.fixture(scope="module")
def recomputed(updated):
    """What the networks say before that update, and gradients with all else held fixed."""
    kind, _, state, data, after, _ = updated
    actor, critic, value = iql.networks(*KINDS[kind][:2])
    rows, reset = unrolled(data)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    weight = data.mask / data.mask.sum()

    @jax.jit
    def run(state, after):
        q = apply(critic, state.target, (), seen, reset[:-1], data.step.action)
        v = apply(value, state.value, (), seen, reset[:-1])

        def next_value(params):
            return apply(value, params, (), rows, reset, skip=1)

        def value_loss(params):
            gap = q.min(0) - apply(value, params, (), seen, reset[:-1])
            return (weight * jnp.where(gap > 0, TAU, 1 - TAU) * gap**2).sum()

        def critic_loss(params, ahead):
            y = 2.0 * data.step.reward - 0.5 + GAMMA * ~data.step.terminated * ahead
            values = apply(critic, params, (), seen, reset[:-1], data.step.action)
            return (weight * (values - y) ** 2).sum() / 2, values

        def actor_loss(params):
            _, policy = apply(actor, params, (), seen, reset[:-1])
            if kind == "deterministic":
                error = ((policy - data.step.action) ** 2).sum(-1)
            else:
                error = -policy.log_prob(data.step.action)
            return (weight * jnp.minimum(jnp.exp(BETA * (q.min(0) - v)), 100) * error).sum(), error

        ahead = next_value(state.value)
        of_critic, values = jax.grad(critic_loss, has_aux=True)(state.critic, ahead)
        late, _ = jax.grad(critic_loss, has_aux=True)(state.critic, next_value(after.value))
        of_actor, error = jax.grad(actor_loss, has_aux=True)(state.params["actor"])
        of_value = jax.grad(value_loss)(state.value)
        said = q, v, ahead, values, error
        return said, {"value": of_value, "critic": of_critic, "actor": of_actor}, late

    said, gradients, late = run(state, after)
    return [np.asarray(x, np.float64) for x in said], gradients, late


def test_losses_are_those_of_the_equations(updated, recomputed):
    *_, data, _, metrics = updated
    q, v, ahead, values, error = recomputed[0]
    value_loss, critic_loss, actor_loss, weights = [], [], [], []
    for t, b in np.argwhere(np.asarray(data.mask)):
        advantage = q[:, t, b].min() - v[t, b]
        value_loss.append(abs(TAU - (advantage < 0)) * advantage**2)
        y = 2.0 * float(data.step.reward[t, b]) - 0.5
        if not data.step.terminated[t, b]:
            y += GAMMA * ahead[t, b]
        critic_loss.append(np.mean([(x - y) ** 2 for x in values[:, t, b]]))
        weights.append(min(np.exp(BETA * advantage), 100.0))
        actor_loss.append(weights[-1] * error[t, b])
    assert max(weights) == 100 and min(weights) < 1
    assert np.asarray(data.step.terminated)[np.asarray(data.mask)].any()
    assert metrics["value/loss"] == pytest.approx(np.mean(value_loss), rel=1e-4)
    assert metrics["critic/loss"] == pytest.approx(np.mean(critic_loss), rel=1e-4)
    assert metrics["actor/loss"] == pytest.approx(np.mean(actor_loss), rel=1e-4)
    assert metrics["actor/weight_mean"] == pytest.approx(np.mean(weights), rel=1e-4)


def test_gradients_take_everything_else_as_it_was_before_the_update(updated, recomputed):
    after, (_, gradients, late) = updated[4], recomputed
    for name, expected in gradients.items():
        found = first_gradient(after.opt_state[name])
        assert_trees_close(found, expected, rtol=1e-3, atol=1e-5)
    found = first_gradient(after.opt_state["critic"])
    gaps = jax.tree.map(lambda a, b: np.abs(a - np.asarray(b)).max(), found, late)
    assert max(jax.tree.leaves(gaps)) > 1e-3


def test_an_update_is_reproducible_and_changes_every_parameter(updated):
    _, update, state, data, after, _ = updated
    again = update(state, data)[0]
    for name in ("params", "critic", "target", "value"):
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
    update = jax.jit(partial(iql.update, RECURRENT, SPEC))
    state, data = with_random_weights(RECURRENT), batch(RECURRENT, seed=5)
    after, metrics = update(state, data)
    step, unmasked = data.step, ~data.mask
    other = step._replace(
        reward=jnp.where(unmasked, 99.0, step.reward),
        action=jnp.where(unmasked[..., None], 0.5, step.action),
        terminated=step.terminated ^ unmasked,
    )
    found = update(state, data._replace(step=other))[0]
    for name in ("params", "critic", "value"):
        assert_trees_close(getattr(found, name), getattr(after, name), atol=1e-7)
    moved = update(state, data._replace(step=step._replace(obs=step.obs.at[1].add(1.0))))[1]
    for name in ("actor/loss", "critic/loss", "value/loss"):
        assert abs(moved[name] - metrics[name]) > 1e-4


@pytest.mark.parametrize("steps", [4, None])
def test_the_step_size_of_the_actor_decays(steps):
    config = replace(SMALL, actor_decay_steps=steps, learning_rate=0.1)
    optimizer = iql.optimizers(config, {n: jnp.float32(getattr(config, n)) for n in iql.SWEPT})
    state, taken = optimizer["actor"].init(jnp.zeros(())), []
    for _ in range(6):  # Adam's step is the step size while the gradient stays the same
        change, state = optimizer["actor"].update(jnp.ones(()), state)
        taken.append(-float(change))
    expected = [0.1 * (1 + np.cos(np.pi * t / 4)) / 2 for t in range(4)] + [0, 0]
    assert taken == pytest.approx([0.1] * 6 if steps is None else expected, abs=1e-5)


def test_observations_are_standardised_by_the_statistics():
    """Shifted and scaled observations make no difference once they are standardised."""
    config = replace(PRESETS["mujoco"], actor=SMALL.actor, critic=SMALL.critic, precision="highest")
    state = with_random_weights(config)
    obs = dataset().obs

    def greedy(obs):
        statistics = iql.normalizers.update(state.params["statistics"], jnp.asarray(obs))
        params, (carry, seen, reset) = state.params | {"statistics": statistics}, alone(obs)
        seen = jax.tree.map(lambda x: x[0], seen)
        return iql.act(config, SPEC, params, seen, reset[0], carry, state.key, greedy=True)[0]

    np.testing.assert_allclose(greedy(obs), greedy(50 + 30 * obs), atol=5e-3)


# --- Probes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_steps():
    """Learning from episodes of two steps."""
    return learner(PROBING, probes.DelayedReward(ONE_ACTION))


def values(env, state, obs):
    """Return Q of action 0, and V."""
    obs = np.asarray(obs, np.float32)[:, None]
    value = iql.networks(PROBING, env.spec).value
    q = action_values(PROBING, env.spec, state, obs, np.zeros_like(obs))
    return q, np.asarray(value.apply(state.value, *alone(obs))[0])


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
    for found in values(env, state, obs):
        assert found == pytest.approx(expected, abs=0.15)


def test_taking_a_time_limit_for_a_death_is_visible(two_steps):
    env = probes.TruncatedStream(ONE_ACTION, 2)
    data = from_env(env)
    state, _ = two_steps(data.replace(terminated=data.terminated | data.truncated), 800)
    assert max(values(env, state, [1])) < 0.5 / (1 - GAMMA)


def modes(env, state):
    """Return the policy's modes at -1 and +1."""
    actor = iql.networks(PROBING, env.spec).actor
    obs = np.array([[-1.0], [1.0]], np.float32)
    return actor.apply(state.params["actor"], *alone(obs))[1].mode()[0]


def test_values_are_expectiles_and_policies_the_reweighted_data():
    """Where rewards are 1 - (a - o/2)² and actions uniform, both follow by quadrature."""
    env = probes.RewardFromBoth(ONE_ACTION)
    state, _ = learner(PROBING, env)(from_env(env), 1200)
    actions = np.linspace(-1, 1, 2001)
    rewards = 1 - (actions - 0.5) ** 2
    expectile = rewards.mean()
    for _ in range(100):  # the zero of the slope of the loss
        share = np.abs(TAU - (rewards < expectile))
        expectile = (share * rewards).sum() / share.sum()
    weight = np.exp(BETA * rewards)
    best = (weight * actions).sum() / weight.sum()
    assert values(env, state, [-1, 1])[1] == pytest.approx([expectile, expectile], abs=0.1)
    assert modes(env, state)[:, 0] == pytest.approx([-best, best], abs=0.1)


@pytest.mark.slow
def test_a_run_goes_on_in_the_environment():
    env, config = probes.RewardFromBoth(ONE_ACTION), replace(PROBING, actor_decay_steps=None)
    program, data = make_program(config, env), from_env(env)
    state = jax.jit(program.init)(jax.random.key(0), {})
    state, _ = jax.jit(program.chunks["offline"])(state, data, jnp.int32(600))
    state, _ = jax.jit(program.chunks["fill"])(state, None, jnp.int32(64))
    own = state.replay.storage.experience
    assert jnp.corrcoef(own.obs[0, :64, 0], own.action[0, :64, 0])[0, 1] > 0.7
    before = state.agent
    state, metrics = jax.jit(program.chunks["online"])(state, data, jnp.int32(300))
    earned = metrics["episode/return_sum"] / metrics["episode/count"]
    assert earned > 0.8  # uniformly random actions earn 5/12
    log_std = [
        agent.params["actor"]["params"]["head"]["log_std"] for agent in (before, state.agent)
    ]
    assert log_std[1] < log_std[0]  # it learns from what is already better


@pytest.mark.slow
def test_discrete_actions_are_learnt_from_random_ones():
    env = probes.RewardFromBoth(Discrete(2))
    data = from_env(env, policy=lambda key, seen: jax.random.randint(key, (8,), 0, 2))
    state, _ = learner(PROBING, env)(data, 300)
    assert modes(env, state).tolist() == [0, 1]
    obs = np.array([[-1.0], [1.0]], np.float32)
    assert action_values(PROBING, env.spec, state, obs, [0, 1]) == pytest.approx([1, 1], abs=0.1)


# --- Acting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", [pytest.param("s5", marks=pytest.mark.slow), "gru"])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1].mode()

    check_act_equals_unroll(with_core(SMALL, core), actions)


def test_samples_are_clipped_to_what_an_environment_accepts():
    state = with_random_weights(SMALL)
    _, seen, reset = jax.tree.map(lambda x: x[0], alone(np.zeros((200, 3), np.float32)))
    act = partial(iql.act, SMALL, SPEC, state.params, seen, reset, (), state.key)
    action = np.asarray(act(greedy=False)[0])
    assert (np.abs(action) == 1).any() and np.abs(action).max() == 1
    assert len(np.unique(action[:, 0])) > 50 and len(np.unique(act(greedy=True)[0][:, 0])) == 1


# --- Refusals and presets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expectile": 1.0}, "expectile must be in (0, 1), got 1.0"),
        ({"beta": -1.0}, "beta must be at least 0, got -1.0"),
        ({"beta": float("inf")}, "beta must be at least 0, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"actor_decay_steps": 0}, "actor_decay_steps must be at least 1, or left out, got 0"),
        ({"discount": 1.5}, "discount must be in [0, 1], got 1.5"),
        ({"polyak": 0.0}, "polyak must be in (0, 1], got 0.0"),
        ({"critics": 0}, "critics must be at least 1, got 0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        IQLConfig(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "spec", "message"),
    [
        (
            {"deterministic": True},
            Spec(Box((3,)), Discrete(2)),
            "iql needs continuous actions (a vector), got Discrete(n=2)",
        ),
        (
            {},
            Spec(Box((3,)), Box((2, 2))),
            "iql needs discrete or continuous actions (a vector), got Box(shape=(2, 2), "
            "dtype='float32')",
        ),
        (
            {"normalize_obs": True},
            Spec(DictSpace((("a", Box((3,))),)), Box((2,))),
            "normalize_obs needs array observations; leave it out for this environment",
        ),
    ],
)
def test_networks_refuse(changes, spec, message):
    with pytest.raises(UserError) as error:
        iql.networks(IQLConfig(**changes), spec)
    assert str(error.value) == message


def test_presets_are_the_published_settings():
    published = {
        name: (p.expectile, p.beta, p.polyak, p.deterministic, p.normalize_obs)
        for name, p in PRESETS.items()
    }
    assert published == {
        "default": (0.7, 3.0, 0.005, False, False),
        "mujoco": (0.7, 3.0, 0.005, False, True),
        "hopper-medium": (0.7, 3.0, 0.001, True, True),
        "hopper-medium-expert": (0.5, 6.0, 0.005, False, True),
        "antmaze": (0.9, 10.0, 0.005, False, True),
        "antmaze-online": (0.9, 10.0, 0.005, False, False),
        "adroit": (0.8, 3.0, 0.005, False, True),
    }
    shifts = {name for name, p in PRESETS.items() if p.experience.reward_shift == -1}
    assert shifts == {"antmaze", "antmaze-online"}
    assert [name for name, p in PRESETS.items() if p.actor_decay_steps is None] == [
        "antmaze-online"
    ]
