"""Cal-QL: what the returns change in CQL, against loops, and on a probe offline and online."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replayed import SPEC, as_wished, assert_trees_close, batch, from_env

from rlssm.algorithms import calql, cql
from rlssm.algorithms.calql import CalQLConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs import probes
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.actor_critic import apply
from rlssm.nn.mlp import MLPConfig
from rlssm.train.program import make_program
from rlssm.types import Box, Discrete, Spec, unrolled

WEIGHT, TAU, N = 1.5, 0.7, 2
LOWEST = np.finfo(np.float32).min
SMALL = CalQLConfig(
    actor=MLPConfig((16,), "relu"),
    critic=MLPConfig((16,), "relu"),
    experience=ExperienceConfig(batch=32, reward_scale=2.0, reward_shift=-0.5),
    discount=0.8,
    cql_alpha=WEIGHT,
    cql_actions=N,
    cql_temperature=TAU,
    precision="highest",
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
def setting():
    """Return (state, batch, update): every fourth step's return is unknown, one is not learnt."""
    state = jit(partial(calql.init, SMALL, SPEC))(jax.random.key(1))
    data = batch(SMALL, seed=3)
    returns = data.step.extras["mc_return"].at[:, ::4].set(LOWEST)
    extras = {**data.step.extras, "mc_return": returns}
    data = data._replace(step=data.step._replace(extras=extras), mask=data.mask.at[0, 1].set(False))
    return state, data, jit(partial(calql.update, SMALL, SPEC))


def with_returns(data, returns):
    """Return a batch with these returns, without any where they are None."""
    extras = {} if returns is None else {"mc_return": returns}
    return data._replace(step=data.step._replace(extras=extras))


def test_only_the_values_of_the_policys_actions_are_bounded():
    state, data, update = setting()
    _, metrics = update(state, data)
    actor, critic = calql.networks(SMALL, SPEC)
    rows, reset = unrolled(data)
    key = jax.random.split(state.key, 4)[2]

    @jit
    def outputs(state):
        _, policy = apply(actor, state.params["actor"], (), rows, reset)
        now, later = jax.tree.map(lambda x: x[:1], policy), jax.tree.map(lambda x: x[1:], policy)
        action, log_density = cql.proposals(now, later, N, key)
        seen = jax.tree.map(lambda x: x[:-1], rows)
        at = [apply(critic, state.critic, (), seen, reset[:-1], a) for a in action]
        stored = apply(critic, state.critic, (), seen, reset[:-1], data.step.action)
        return jnp.stack(at), log_density, stored

    at, log_density, stored = (np.asarray(x, np.float64) for x in outputs(state))
    returns = np.asarray(data.step.extras["mc_return"], np.float64)[0]
    gaps, active = [], []
    for b in np.flatnonzero(data.mask[0]):
        for k in range(2):
            total = 0.0
            for i in range(3 * N):
                value = at[i, k, 0, b] if i < N else max(at[i, k, 0, b], returns[b])
                total += np.exp((value - log_density[i, 0, b]) / TAU)
                if i >= N and returns[b] > LOWEST:
                    active.append(at[i, k, 0, b] < returns[b])
            gaps.append(TAU * np.log(total) - stored[k, 0, b])
    assert metrics["critic/gap"] == pytest.approx(np.mean(gaps), rel=1e-4)
    assert metrics["critic/bound_active"] == pytest.approx(np.mean(active), rel=1e-5)
    assert 0.2 < np.mean(active) < 0.8
    loss = float(metrics["critic/bellman_error"]) + 2 * WEIGHT * np.mean(gaps)
    assert metrics["critic/loss"] == pytest.approx(loss, rel=1e-4)


def test_unknown_returns_leave_cql():
    state, data, update = setting()
    unknown = with_returns(data, jnp.full_like(data.step.reward, LOWEST))
    ours, metrics = update(state, unknown)
    theirs, plain = jit(partial(cql.update, SMALL, SPEC))(state, with_returns(data, None))
    assert_trees_close(ours.critic, theirs.critic, rtol=1e-5, atol=1e-7)
    assert_trees_close(ours.params, theirs.params, rtol=1e-5, atol=1e-7)
    assert metrics["critic/bound_active"] == 0 and "critic/bound_active" not in plain
    assert metrics["critic/gap"] == pytest.approx(float(plain["critic/gap"]), rel=1e-5)


def test_a_bounded_value_is_not_pushed_down():
    """Where every return is above every value, the policy's actions take no part in the gradient,
    so it does not matter how much higher the returns are, but that the stored action's value is
    then raised without any resistance."""
    state, data, update = setting()
    high = update(state, with_returns(data, jnp.full_like(data.step.reward, 30.0)))
    higher = update(state, with_returns(data, jnp.full_like(data.step.reward, 60.0)))
    assert high[1]["critic/bound_active"] == 1
    assert_trees_close(high[0].critic, higher[0].critic, rtol=1e-5, atol=1e-7)
    gaps = [float(m["critic/gap"]) for _, m in (high, higher)]
    assert gaps[1] - gaps[0] == pytest.approx(30, rel=1e-3)


# --- Returns ----------------------------------------------------------------------------------


def test_returns_are_of_the_rewards_as_they_are_learnt_from():
    wish = calql.batch_spec(SMALL)
    assert (wish.returns, wish.reward_scale, wish.reward_shift) == (0.8, 2.0, -0.5)
    assert wish.offline_first
    assert replace(wish, returns=None) == cql.batch_spec(SMALL)


def test_the_discount_is_not_swept_since_returns_are_taken_once():
    assert "discount" not in SMALL.swept and "discount" in cql.SWEPT
    assert set(SMALL.swept) == set(calql.SWEPT) == set(cql.SWEPT) - {"discount"}


# --- A probe ----------------------------------------------------------------------------------

PROBING = replace(
    SMALL,
    experience=ExperienceConfig(batch=32, warmup=64),
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    temperature_learning_rate=0.0,
    init_temperature=0.01,
    cql_alpha=0.2,
    cql_temperature=1.0,
    cql_actions=4,
)


@pytest.mark.slow
def test_the_best_action_is_found_offline_and_kept_online():
    """The environment's steps have no returns, the dataset's half of each batch has."""
    env = probes.RewardFromBoth(ONE_ACTION)
    data, program = as_wished(PROBING, from_env(env)), make_program(PROBING, env)
    state = jit(program.init)(jax.random.key(0), {})
    state, offline = jit(program.chunks["offline"])(state, data, jnp.int32(600))
    state, _ = jit(program.chunks["fill"])(state, data, jnp.int32(64))
    state, online = jit(program.chunks["online"])(state, data, jnp.int32(300))
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    assert played.episode_return.mean() > 0.95
    assert 0 < offline["critic/bound_active"] < 0.5
    assert all(jnp.isfinite(value) for value in online.values())


# --- Settings ---------------------------------------------------------------------------------


def test_published_settings():
    antmaze, corl = calql.PRESETS["antmaze"], calql.PRESETS["antmaze-corl"]
    binary, cloned = calql.PRESETS["adroit-binary"], calql.PRESETS["adroit-cloned"]
    for config in (antmaze, corl, binary, cloned):
        assert (config.learning_rate, config.critic_learning_rate) == (1e-4, 3e-4)
        assert config.max_target_backup and not config.normalize_obs
    for config in (antmaze, corl):
        assert (config.cql_alpha, config.lagrange_gap) == (5, 0.8)
        assert config.experience.reward(jnp.array([0.0, 1.0])).tolist() == [-5, 5]
    assert (antmaze.critic.hidden, antmaze.clip_min) == ((256,) * 4, None)
    assert (corl.critic.hidden, corl.clip_min) == ((256,) * 5, -200)
    assert (binary.cql_alpha, binary.lagrange_gap, binary.clip_min) == (1, None, None)
    assert (binary.actor.hidden, binary.critic.hidden) == ((512,) * 2, (512,) * 3)
    assert binary.experience.reward(jnp.array([-1.0, 0.0])).tolist() == [-5, 5]
    assert (cloned.cql_alpha, cloned.lagrange_gap, cloned.clip_min) == (1, None, -200)
    assert cloned.critic.hidden == (256,) * 3


def test_refusals_name_the_algorithm():
    with pytest.raises(UserError) as error:
        calql.networks(CalQLConfig(), Spec(Box((3,)), Discrete(2)))
    assert str(error.value) == "calql needs continuous actions (a vector), got Discrete(n=2)"
    with pytest.raises(UserError, match="cql_alpha must be at least 0, got -1.0"):
        CalQLConfig(cql_alpha=-1.0)
