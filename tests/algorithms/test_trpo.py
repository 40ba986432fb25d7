"""TRPO: its surrogate and divergence, the bound it keeps, probes, both forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.algorithms import natural_update, trpo
from rlssm.algorithms.natural_update import Part, Sample, beside
from rlssm.algorithms.trpo import TRPOConfig
from rlssm.data.mixing import bootstrap_rows
from rlssm.envs import locks, probes
from rlssm.envs.base import Vectorized
from rlssm.envs.locks import DiscreteLock
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.stateless import StatelessPendulum
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate
from rlssm.nn.actor_critic import apply
from rlssm.nn.cores import GRUConfig, S5Config
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.collect import rollout, start
from rlssm.train.program import on_policy
from rlssm.types import Box, Discrete, Inputs, Previous, Spec, example_inputs, inputs, unrolled

T, B = 5, 3
SMALL = MLPConfig((16,), "tanh")
FAST = TRPOConfig(
    actor=SMALL, critic=SMALL, num_envs=16, rollout_length=16, critic_learning_rate=1e-2,
    discount=0.9,
)  # fmt: skip
S5 = {"core": S5Config(layers=1, state_size=8), "torso": TorsoConfig(width=16, hidden=())}
SPEC = Spec(Box((3,)), Box((2,)), truncates=False)


def config(**changes):
    return TRPOConfig(**{**vars(FAST), **changes})


def samples(nets, rng, batch=B, dtype=np.float64):
    """Return random `Sample`s whose shares are flags, one of them not set."""
    draw = lambda *shape: jnp.asarray(rng.normal(size=(T, batch, *shape)), dtype)  # noqa: E731
    first = jnp.zeros((T, batch), bool).at[0].set(True)
    seen = Inputs(draw(3), Previous(draw(2), draw()), first)
    mask = jnp.ones((T, batch), bool).at[2, 1].set(False)
    carry = nets.initial_carry(batch)[0]
    return Sample(seen, first, carry, draw(2), draw(), mask)


def side_by_side(parts, weights):
    """Return samples of several sources as one, in which each row counts by its share."""
    total = sum(weight * s.share.sum() for s, weight in zip(parts, weights, strict=True))
    weighted = [s._replace(share=w * s.share / total) for s, w in zip(parts, weights, strict=True)]
    rows = [s._replace(carry=()) for s in weighted]
    carry = jax.tree.map(lambda *x: jnp.concatenate(x), *[s.carry for s in parts])
    return beside(rows)._replace(carry=carry)


@pytest.mark.parametrize(
    "memory", [{}, pytest.param(S5, marks=pytest.mark.slow)], ids=["none", "s5"]
)
def test_surrogate_and_divergence_against_loops_and_finite_differences(memory):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        setting = config(**memory)
        nets = trpo.networks(setting, SPEC)
        to64 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)  # noqa: E731
        params = to64(trpo.init(setting, SPEC, jax.random.key(0)).params["actor"])
        parts, weights = [to64_sample(samples(nets, rng, b)) for b in (3, 2)], [1.0, 0.3]
        policy_of = natural_update.policy_of
        old = [policy_of(nets.actor, params, s) for s in parts]
        flat, unflatten = jax.flatten_util.ravel_pytree(params)
        there = flat + 0.1 * jnp.asarray(rng.normal(size=flat.shape))
        joined = side_by_side(parts, weights)
        arguments = joined, policy_of(nets.actor, params, joined)
        for function in (natural_update.surrogate, natural_update.divergence):
            f = jax.jit(lambda x, function=function: function(nets.actor, unflatten(x), *arguments))
            total = count = 0.0
            now = [policy_of(nets.actor, unflatten(there), s) for s in parts]
            for policy, before, s, weight in zip(now, old, parts, weights, strict=True):
                if function is natural_update.surrogate:
                    ratio = np.exp(policy.log_prob(s.action) - before.log_prob(s.action))
                    terms = np.asarray(s.advantage) * ratio
                else:
                    terms = np.asarray(before.kl(policy))
                for t in range(T):
                    for b in range(s.share.shape[1]):
                        if s.share[t, b]:
                            total, count = total + weight * terms[t, b], count + weight
            assert f(there) == pytest.approx(total / count, rel=1e-9)
            way, step = jnp.asarray(rng.normal(size=flat.shape)), 1e-6
            numeric = (f(there + step * way) - f(there - step * way)) / (2 * step)
            assert jax.grad(f)(there) @ way == pytest.approx(float(numeric), rel=1e-6)


def to64_sample(sample):
    wide = lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x  # noqa: E731
    return jax.tree.map(wide, sample)


# --- Learning ---------------------------------------------------------------------------------


def train(env, setting, updates, seed=0):
    """Return the program, its state after some updates and the last update's metrics."""
    program = on_policy(setting, env)
    state = jax.jit(program.init)(jax.random.key(seed), {})
    state, metrics = jax.jit(program.chunk)(state, None, jnp.int32(updates))
    return program, state, metrics


def mean_return(env, program, state):
    played = evaluate(env, program.policy, program.params(state), jax.random.key(2), episodes=64)
    return float(played.episode_return.mean())


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(Discrete(2), id="discrete", marks=pytest.mark.slow),  # another compilation
        pytest.param(Box((2,)), id="continuous"),
    ],
)
def test_best_actions_of_a_probe_within_the_bound(action):
    """Every step but a rejected one moves, and none further than the bound."""
    env, setting = probes.RewardFromBoth(action), config()
    program = on_policy(setting, env)
    state = jax.jit(program.init)(jax.random.key(0), {})
    chunk, farthest = jax.jit(program.chunk), 0.0
    for _ in range(8):
        state, metrics = chunk(state, None, jnp.int32(1))
        assert 0 <= metrics["actor/kl"] <= setting.max_kl
        assert (metrics["actor/kl"] > 0) == (metrics["actor/accepted"] == 1)
        farthest = max(farthest, float(metrics["actor/kl"]))
    assert farthest > 0.1 * setting.max_kl
    state, _ = chunk(state, None, jnp.int32(100))
    assert mean_return(env, program, state) > 0.95


@pytest.mark.slow
def test_memory_is_used():
    env = MemoryChain(1)
    program, state, _ = train(env, config(**S5, max_kl=0.05), 80)
    assert mean_return(env, program, state) > 0.95


def test_acting_step_by_step_equals_unrolling():
    env, setting = StatelessPendulum(max_steps=7), config(core=GRUConfig(), torso=S5["torso"])
    nets = trpo.networks(setting, env.spec)
    state = jax.jit(partial(trpo.init, setting, env.spec))(jax.random.key(0))
    act = partial(trpo.act, setting, env.spec, state.params, greedy=True)
    runner = start(Vectorized(env, 4), nets.initial_carry(4), jax.random.key(1))
    end, batch = jax.jit(
        lambda r: rollout(Vectorized(env, 4), act, r, trpo.batch_spec(config(num_envs=4)))
    )(runner)
    rows = inputs(batch), batch.reset
    carry, policy = apply(nets.actor, state.params["actor"], batch.carry[0], *rows)
    np.testing.assert_allclose(policy.mean, batch.step.extras["sample"], rtol=1e-4, atol=1e-5)
    memory, _ = natural_update.remember(nets.critic, state.params["critic"], batch.carry[1], *rows)
    for ours, theirs in zip(
        jax.tree.leaves((carry, memory)), jax.tree.leaves(end.carry), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    # Rows for the ends of episodes: every valid step's successor is the next row.
    part = trpo.own_part(setting, env.spec, batch)
    kept = int(part.steps.mask.sum())
    assert kept == batch.mask.size
    seen, _ = unrolled(part.steps)
    follows = np.asarray(part.steps.mask)
    np.testing.assert_array_equal(
        np.asarray(seen.obs)[1:][follows], np.asarray(part.steps.step.next_obs)[follows]
    )
    again = bootstrap_rows(part.steps)
    assert again.mask.shape == part.steps.mask.shape


@pytest.mark.parametrize("clip", [True, False])
def test_actions_are_clipped_where_it_is_asked_for(clip):
    env, setting = StatelessPendulum(max_steps=7), config(clip_actions=clip)
    nets = trpo.networks(setting, env.spec)
    params = trpo.init(setting, env.spec, jax.random.key(0)).params
    seen, reset = jax.tree.map(
        lambda x: jnp.zeros((64, *x.shape[2:]), x.dtype), example_inputs(env.spec)
    )
    carry, key = nets.initial_carry(64), jax.random.key(1)
    action, _, extras = trpo.act(setting, env.spec, params, seen, reset, carry, key, greedy=False)
    assert np.abs(extras["sample"]).max() > 1.5
    limit = 1 if clip else np.inf
    np.testing.assert_array_equal(action, np.clip(extras["sample"], -limit, limit))


# --- A network per step -----------------------------------------------------------------------

H = 2
TABULAR = TRPOConfig(
    actor=SMALL, critic=MLPConfig((64,), "tanh"), per_step=True, num_envs=4000, rollout_length=H,
    critic_steps=500, critic_learning_rate=1e-2, discount=1.0,
)  # fmt: skip


@pytest.mark.slow
def test_fitted_evaluation_is_exact_on_a_tabular_lock(monkeypatch):
    """Without noise a lock has three states by step, whose values a table of means gives."""
    monkeypatch.setattr(locks, "NOISE", 0.0)
    lock = DiscreteLock(H)
    nets = trpo.networks(TABULAR, lock.spec)
    agent = jax.jit(partial(trpo.init, TABULAR, lock.spec))(jax.random.key(0))
    act = partial(trpo.act, TABULAR, lock.spec, agent.params, greedy=False)
    envs = Vectorized(lock, TABULAR.num_envs)
    runner = start(envs, nets.initial_carry(TABULAR.num_envs), jax.random.key(1))
    _, batch = jax.jit(lambda r: rollout(envs, act, r, trpo.batch_spec(TABULAR)))(runner)
    own = trpo.own_part(TABULAR, lock.spec, batch)
    others = Part(batch, None, 0.0)  # the same steps, as if others had taken them
    learn = jax.jit(partial(trpo.learn, TABULAR, lock.spec))

    hidden = np.asarray(batch.step.obs) @ locks._hadamard(8) / 8
    latent = hidden[..., :3].argmax(-1)
    action, reward = np.asarray(batch.step.action), np.asarray(batch.step.reward, np.float64)
    for part in (own, others._replace(weight=1.0)):
        parts = [own, part._replace(weight=1.0)] if part.sample is None else [own]
        parts[0] = parts[0]._replace(weight=0.0 if part.sample is None else 1.0)
        state, _ = learn(agent, parts)
        judge = jax.vmap(partial(natural_update.q_value, nets.critic))
        found = judge(state.params["critic"], batch.step.obs[:, None], batch.step.action[:, None])
        found = np.asarray(found)[:, 0]
        following, earned = np.zeros(TABULAR.num_envs), np.zeros(TABULAR.num_envs)
        for h in reversed(range(H)):
            earned = reward[h] + earned
            target = earned if part.sample is not None else reward[h] + following
            q = np.zeros((3, 10))
            for s in range(3):
                for a in range(10):
                    there = (latent[h] == s) & (action[h] == a)
                    if there.any():
                        q[s, a] = target[there].mean()
                        assert found[h][there] == pytest.approx(q[s, a], abs=0.05), (h, s, a)
            following = q[latent[h]].mean(-1)
    assert np.abs(found).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_kl": 0.0}, "max_kl must be above 0, got 0.0"),
        ({"damping": -1.0}, "damping must be at least 0, got -1.0"),
        ({"cg_iterations": 0}, "cg_iterations must be at least 1, got 0"),
        ({"per_step": True, **S5}, "per_step must be False with a memory, got True"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError) as error:
        config(**changes)
    assert str(error.value) == message
