"""ReBRAC: its losses against loops, the dataset's next actions, fine-tuning, and what it learns."""

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

from rlssm.algorithms import rebrac
from rlssm.algorithms.rebrac import PRESETS, ReBRACConfig, batch_spec
from rlssm.data import mixing
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.nn.actor_critic import apply
from rlssm.nn.cores import GRUConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.program import make_program
from rlssm.types import Box, Discrete, Spec, inputs

GAMMA, BETA_1, BETA_2 = 0.8, 0.7, 0.3
SMALL = ReBRACConfig(
    actor=MLPConfig((16,), "tanh"),
    critic=MLPConfig((16,), "tanh", layer_norm=True),
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    actor_penalty=BETA_1,
    critic_penalty=BETA_2,
    online_decay_updates=10,
    policy_noise=0.5,  # so that it is often clipped
    noise_clip=0.3,
    critic_learning_rate=1e-2,
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
    policy_noise=0.2,
    noise_clip=0.5,
    actor_penalty=10.0,
    critic_penalty=1.0,
)
ONE_ACTION = Box((1,))


# --- Windows with the next action -------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "length", "burn_in", "windows"),
    [
        (ReBRACConfig(), 2, 0, 1024),
        (ReBRACConfig(core=GRUConfig()), 41, 8, 32),
        (WINDOWED, 7, 2, 6),
    ],
    ids=["default", "memory", "windowed"],
)
def test_windows_have_one_row_more_than_is_learnt_from(config, length, burn_in, windows):
    wish = batch_spec(config)
    assert (wish.length, wish.burn_in, wish.batch) == (length, burn_in, windows)
    assert wish.offline_first


@pytest.mark.parametrize("config", [SMALL, WINDOWED], ids=["steps", "windows"])
def test_the_row_after_a_step_shows_the_action_that_the_dataset_took_next(config):
    data = dataset()
    data = data.replace(reward=np.arange(data.num_steps, dtype=np.float32))  # tells the step
    drawn = mixing.batch(batch_spec(config), jax.random.key(0), data, None, None)
    checked = 0
    for t, b in np.argwhere(np.asarray(drawn.mask[:-1])):
        i = int(drawn.step.reward[t, b])
        if not (data.terminated[i] or data.truncated[i]):
            assert data.episode[i + 1] == data.episode[i]
            np.testing.assert_array_equal(drawn.step.action[t + 1, b], data.action[i + 1])
            checked += 1
    assert checked > 15


# --- One update -------------------------------------------------------------------------------


def with_source(data, online):
    """Return a batch whose last window is of the agent's own steps, or none."""
    source = jnp.zeros_like(data.step.extras["source"]).at[:, -1].set(int(online))
    return data._replace(step=data.step._replace(extras={"source": source}))


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(partial(rebrac.update, WINDOWED, SPEC))


@pytest.fixture(scope="module", params=["offline", "online"])
def updated(request, compiled):
    """An update with the actor's step due: (online, state, batch, after, metrics)."""
    online = request.param == "online"
    state = with_random_weights(WINDOWED, seed=4)
    state = state.replace(updates=jnp.int32(1), online_updates=jnp.int32(4))
    data = with_source(batch(WINDOWED, seed=5), online)
    return online, state, data, *compiled(state, data)


@pytest.fixture(scope="module")
def recomputed(updated):
    """That update by loops: the rows valued, their targets, β₁, λ; and the gradients."""
    online, state, data, after, _ = updated
    actor, critic = rebrac.networks(WINDOWED, SPEC)
    rows, reset, step = inputs(data), data.reset, data.step
    seen, mask = jax.tree.map(lambda x: x[:-1], rows), np.asarray(data.mask[:-1])
    taken = step.action[:-1]

    def values_of(params, action):
        return apply(critic, params, (), seen, reset[:-1], action)

    _, ahead = apply(actor, state.target["actor"], (), rows, reset, skip=1)
    noise = 0.5 * jax.random.normal(jax.random.split(state.key)[1], ahead.shape)
    chosen = jnp.clip(ahead + jnp.clip(noise, -0.3, 0.3), -1, 1)
    q_next = apply(critic, state.target["critic"], (), rows, reset, chosen, skip=1)
    y, valued = np.zeros(mask.shape), np.zeros(mask.shape, bool)
    for t, b in np.argwhere(mask):
        y[t, b] = 2.0 * float(step.reward[t, b]) - 0.5
        valued[t, b] = online or bool(step.terminated[t, b]) or not step.truncated[t, b]
        if not step.terminated[t, b]:
            gaps = [float(chosen[t, b, i] - step.action[t + 1, b, i]) for i in range(2)]
            penalty = 0.0 if online else BETA_2 * sum(gap**2 for gap in gaps)
            y[t, b] += GAMMA * (min(float(q_next[0, t, b]), float(q_next[1, t, b])) - penalty)
    beta = BETA_1 * 0.8  # 4 of 10 updates on the way to half

    def critic_loss(params):
        values = values_of(params, taken)
        return (valued / valued.sum() * (values - y) ** 2).sum(), values

    def actor_loss(params, critics, scale):
        _, action = apply(actor, params, (), seen, reset[:-1])
        value = values_of(critics, action).min(0)
        error = ((action - taken) ** 2).sum(-1)
        return (mask / mask.sum() * (beta * error - scale * value)).sum(), (error, value)

    of_critic, values = jax.jit(jax.grad(critic_loss, has_aux=True))(state.critic)
    slope = jax.jit(jax.grad(actor_loss, has_aux=True))
    weights = state.params["actor"]
    _, (error, value) = slope(weights, after.critic, 0.0)
    scale = 1 / np.mean([abs(float(value[t, b])) for t, b in np.argwhere(mask)])
    of_actor = slope(weights, after.critic, scale)[0]
    return mask, valued, y, beta, scale, values, error, value, of_critic, of_actor


def test_losses_are_those_of_the_equations(updated, recomputed):
    online, _, data, _, metrics = updated
    mask, valued, y, beta, scale, values, error, value, *_ = recomputed
    assert (valued == mask).all() == online  # some steps are truncated
    assert np.asarray(data.step.terminated[:-1])[mask].any()
    critic_loss = [
        sum((float(values[k, t, b]) - y[t, b]) ** 2 for k in range(2))
        for t, b in np.argwhere(valued)
    ]
    actor_loss = [
        beta * float(error[t, b]) - scale * float(value[t, b]) for t, b in np.argwhere(mask)
    ]
    assert metrics["critic/loss"] == pytest.approx(np.mean(critic_loss), rel=1e-4)
    assert metrics["actor/loss"] == pytest.approx(np.mean(actor_loss), rel=1e-4, abs=1e-5)
    assert metrics["actor/penalty"] == pytest.approx(beta)
    bc_error = np.mean([float(error[t, b]) / 2 for t, b in np.argwhere(mask)])
    assert metrics["actor/bc_error"] == pytest.approx(bc_error, rel=1e-4)


def test_gradients_leave_targets_and_lambda_alone(updated, recomputed):
    after, (of_critic, of_actor) = updated[3], recomputed[-2:]
    for name, expected in (("critic", of_critic), ("actor", of_actor)):
        found = first_gradient(after.opt_state[name])
        assert_trees_close(found, expected, rtol=1e-3, atol=1e-5)


def test_an_update_is_reproducible_and_changes_every_parameter(updated, compiled):
    online, state, data, after, _ = updated
    again = compiled(state, data)[0]
    for name in ("params", "critic", "target"):
        trees = (getattr(s, name) for s in (state, after, again))
        for before, a, b in zip(*map(jax.tree.leaves, trees), strict=True):
            np.testing.assert_array_equal(a, b)
            assert (np.asarray(a) != np.asarray(before)).any()
    assert after.updates == 2 and after.online_updates == 4 + online


def changed(data, rows, **leaves):
    """Return a batch with other values of a step's fields in the rows `[T, B]` named."""
    step = data.step
    for name, value in leaves.items():
        old = getattr(step, name)
        chosen = rows.reshape(rows.shape + (1,) * (old.ndim - 2))
        step = step._replace(**{name: jnp.where(chosen, value, old).astype(old.dtype)})
    return data._replace(step=step)


def test_the_last_row_is_in_no_loss_but_its_action_is_a_next_action(updated, compiled):
    online, state, data, after, metrics = updated
    last = jnp.zeros_like(data.mask).at[-1].set(True)
    other = compiled(state, changed(data, last, reward=99.0, terminated=True, truncated=True))[0]
    for name in ("params", "critic", "target"):
        assert_trees_close(getattr(other, name), getattr(after, name), atol=1e-7)
    found = compiled(state, changed(data, last, action=0.9))[1]
    assert (abs(found["critic/loss"] - metrics["critic/loss"]) < 1e-6) == online
    assert found["actor/bc_error"] == pytest.approx(float(metrics["actor/bc_error"]))


def test_where_data_were_cut_off_the_critics_learn_from_the_agents_own_steps_alone(
    updated, compiled
):
    online, state, data, after, _ = updated
    cut = data.mask & data.step.truncated
    assert cut[:-1].any()
    other = compiled(state, changed(data, cut, reward=99.0))[0]
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), other.critic, after.critic)
    assert (max(jax.tree.leaves(gaps)) > 1e-3) == online


@pytest.mark.parametrize(
    ("done", "online", "expected"),
    [
        (0, False, (BETA_1, BETA_2)),
        (0, True, (BETA_1, 0)),
        (5, True, (0.75 * BETA_1, 0)),
        (10, True, (0.5 * BETA_1, 0)),
        (99, True, (0.5 * BETA_1, 0)),
    ],
)
def test_penalties_before_and_in_fine_tuning(updated, done, online, expected):
    state = updated[1].replace(online_updates=jnp.int32(done))
    found = rebrac.penalties(WINDOWED, state, jnp.bool_(online))
    assert [float(x) for x in found] == pytest.approx(expected)


@pytest.mark.slow
def test_with_memory_masked_steps_teach_nothing_but_are_remembered():
    update = jax.jit(partial(rebrac.update, RECURRENT, SPEC))
    state = with_random_weights(RECURRENT).replace(updates=jnp.int32(1))
    data = batch(RECURRENT, seed=5)
    after, metrics = update(state, data)
    early = jnp.zeros_like(data.mask).at[0].set(True)  # its next action is not learnt from either
    other = update(state, changed(data, early, reward=99.0, action=0.5, truncated=True))[0]
    for name in ("params", "critic", "target"):
        assert_trees_close(getattr(other, name), getattr(after, name), atol=1e-7)
    moved = update(state, changed(data, early, obs=2.0))[1]
    for name in ("actor/loss", "critic/loss"):
        assert abs(moved[name] - metrics[name]) > 1e-5


# --- Probes -----------------------------------------------------------------------------------

# Uniform actions have variance 1/3 around the action that a strongly penalised actor takes, 0;
# the noise on the target's action adds its own.
DISTANCE = 1 / 3 + 0.2**2


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
        pytest.param(
            probes.DelayedReward, [0, 1], [GAMMA * (1 - DISTANCE), 1], marks=pytest.mark.slow
        ),
        (probes.TerminatedStream, [0, 0.5], [1 + GAMMA * (1 - DISTANCE), 1]),
        (probes.TruncatedStream, [1], [(1 - GAMMA * DISTANCE) / (1 - GAMMA)]),
    ],
    ids=["delayed", "terminated", "truncated"],
)
def test_values_of_probes_are_less_the_distance_from_the_next_action(
    two_steps, probe, obs, expected
):
    env = probe(ONE_ACTION) if probe is probes.DelayedReward else probe(ONE_ACTION, 2)
    state, metrics = two_steps(from_env(env), 800)
    assert values(env, state, obs) == pytest.approx(expected, abs=0.15)
    assert metrics["critic/distance"] == pytest.approx(DISTANCE, abs=0.06)


@pytest.mark.slow  # shown for IQL and SAC by default
def test_taking_a_time_limit_for_a_death_is_visible(two_steps):
    env = probes.TruncatedStream(ONE_ACTION, 2)
    data = from_env(env)
    state, _ = two_steps(data.replace(terminated=data.terminated | data.truncated), 800)
    assert values(env, state, [1])[0] < 0.5 * (1 - GAMMA * DISTANCE) / (1 - GAMMA)


@pytest.mark.slow
def test_the_actor_leaves_the_data_as_far_as_its_penalty_says_then_fine_tunes():
    """Rewards are 1 - (a - o/2)² and actions uniform: minimising β₁ a² - λ Q(o, a) gives
    a = λ / (β₁ + λ) o/2 with λ = 1 / Q(o, a)."""
    config, env = replace(PROBING, actor_penalty=1.0), probes.RewardFromBoth(ONE_ACTION)

    def best(beta):
        action = 0.5
        for _ in range(20):
            scale = 1 / (1 - (action - 0.5) ** 2)
            action = scale / (beta + scale) / 2
        return action

    program, data = make_program(config, env), from_env(env)
    state = jax.jit(program.init)(jax.random.key(0), {})
    state, _ = jax.jit(program.chunks["offline"])(state, data, jnp.int32(1000))
    obs = np.array([[-1.0], [1.0]], np.float32)
    actor, _ = rebrac.networks(config, env.spec)

    def action():
        return actor.apply(state.agent.params["actor"], *alone(obs))[1][0, :, 0]

    assert action() == pytest.approx([-best(1), best(1)], abs=0.06)
    assert action_values(config, env.spec, state.agent, obs, obs / 2) == pytest.approx(1, abs=0.1)

    state, _ = jax.jit(program.chunks["fill"])(state, None, jnp.int32(64))
    assert state.agent.online_updates == 0
    state, metrics = jax.jit(program.chunks["online"])(state, data, jnp.int32(50))
    assert state.agent.online_updates == 50
    assert metrics["actor/penalty"] == pytest.approx((0.5 * 40 + 0.775 * 10) / 50)


# --- Acting, refusals and presets -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("core", ["s5", "gru"])
def test_acting_step_by_step_equals_unrolling(core):
    def actions(networks, params, carry, seen, reset):
        return apply(networks.actor, params["actor"], carry, seen, reset)[1]

    check_act_equals_unroll(with_core(SMALL, core), actions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actor_penalty": -1.0}, "actor_penalty must be at least 0, got -1.0"),
        ({"critic_penalty": float("inf")}, "critic_penalty must be at least 0, got inf"),
        ({"online_decay_updates": 0}, "online_decay_updates must be at least 1, got 0"),
        ({"policy_delay": 0}, "policy_delay must be at least 1, got 0"),
        (
            {"experience": ExperienceConfig(warmup=1)},
            "warmup must be at least length * num_envs = 2, to have a window to draw, got 1",
        ),
        (
            {"experience": ExperienceConfig(batch=10, length=4)},
            "batch must be a multiple of the 4 steps that a window of length 4 with burn_in 0 is "
            "learnt from, got 10",
        ),
    ],
    ids=["actor", "critic", "decay", "delay", "warmup", "batch"],
)
def test_config_refuses(changes, message):
    with pytest.raises(UserError) as error:
        ReBRACConfig(**changes)
    assert str(error.value) == message


def test_networks_refuse_discrete_actions():
    with pytest.raises(UserError) as error:
        rebrac.networks(ReBRACConfig(), Spec(Box((3,)), Discrete(2)))
    assert str(error.value) == ("rebrac needs continuous actions (a vector), got Discrete(n=2)")


def test_presets_are_the_published_settings():
    found = {
        name: (
            p.actor_penalty, p.critic_penalty, p.learning_rate, p.critic_learning_rate, p.discount,
            p.experience.batch, p.experience.reward_scale,
        )
        for name, p in PRESETS.items()
    }  # fmt: skip
    assert len(found) == 40
    assert found["halfcheetah-medium-replay"] == (0.01, 0.001, 1e-3, 1e-3, 0.99, 1024, 1)
    assert found["hopper-medium-replay"] == (0.05, 0.5, 1e-3, 1e-3, 0.99, 1024, 1)
    assert found["walker2d-medium"] == (0.05, 0.1, 1e-3, 1e-3, 0.99, 1024, 1)
    assert found["antmaze-medium-play"] == (0.001, 0.0005, 3e-4, 5e-5, 0.999, 256, 100)
    assert found["maze2d-large"] == (0.003, 0.001, 3e-4, 3e-4, 0.99, 256, 1)
    assert found["pen-cloned"] == (0.05, 0.5, 3e-4, 3e-4, 0.99, 256, 1)
    for preset in PRESETS.values():
        assert preset.actor.hidden == preset.critic.hidden == (256, 256, 256)
        assert preset.critic.layer_norm and not preset.actor.layer_norm
        assert not preset.normalize_obs
