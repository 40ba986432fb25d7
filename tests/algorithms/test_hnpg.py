"""HNPG: without its data it is TRPO, with them it opens a lock that TRPO does not."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from replayed import assert_trees_close, from_env

from rlssm.algorithms import hnpg, trpo
from rlssm.algorithms.bc import BCConfig
from rlssm.algorithms.hnpg import HNPGConfig
from rlssm.algorithms.trpo import TRPOConfig
from rlssm.data import mixing
from rlssm.data.dataset import DatasetInfo, from_episodes, to_episodes
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs.base import Vectorized
from rlssm.envs.locks import ContinuousLock
from rlssm.envs.registry import EnvConfig, make
from rlssm.envs.stateless import StatelessPendulum
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate_seeds
from rlssm.evaluation.statistics import bootstrap_interval, mean
from rlssm.nn.cores import S5Config
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.natural_gradient import Trust, natural_step
from rlssm.nn.torso import TorsoConfig
from rlssm.train import recipes_lock, recipes_pendulum
from rlssm.train.collect import rollout, start
from rlssm.train.config import RunConfig
from rlssm.train.program import make_program, on_policy
from rlssm.types import Hybrid, Inputs, Rollout

SMALL = MLPConfig((8,), "tanh")
# Most of these tests' time is compilation, and one update is not long enough to repay it.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick_jit = partial(jax.jit, compiler_options=QUICK)
FAST = TRPOConfig(
    actor=SMALL, critic=SMALL, num_envs=4, rollout_length=12, critic_steps=6, value_samples=3
)  # fmt: skip
FORMS = {
    "stationary": ({}, StatelessPendulum(max_steps=5)),
    "memory": (
        {"core": S5Config(layers=1, state_size=4), "torso": TorsoConfig(width=8, hidden=())},
        StatelessPendulum(max_steps=5),
    ),
    "per step": ({"per_step": True, "rollout_length": 3, "discount": 1.0}, ContinuousLock(3)),
}


def data_of(env):
    """Return whole episodes of random actions."""
    return from_env(env, steps=30, num_envs=4)


@cache
def played(form):
    """Return (TRPO's, HNPG's configuration, spec, agent, a rollout, offline data) of a form."""
    changes, env = FORMS[form]
    plain = TRPOConfig(**{**vars(FAST), **changes})
    hybrid = HNPGConfig(**{**vars(plain), "name": "hnpg"}, offline_weight=0.0, sweeps=3, burn_in=2)
    spec, data = env.spec, data_of(env)

    def play(key):
        agent = trpo.init(plain, spec, key)
        act = partial(trpo.act, plain, spec, agent.params, greedy=False)
        envs = Vectorized(env, plain.num_envs)
        carry = trpo.networks(plain, spec).initial_carry(plain.num_envs)
        _, own = rollout(envs, act, start(envs, carry, key), trpo.batch_spec(plain))
        return agent, own, mixing.beside(hnpg.batch_spec(hybrid), key, data)

    return plain, hybrid, spec, *quick_jit(play)(jax.random.key(0))


@cache
def hybrid_updates(form):
    """Return HNPG's update, as a function of the offline weight."""
    _, hybrid, spec, agent, own, offline = played(form)
    update = quick_jit(partial(hnpg.update, hybrid, spec))

    def of_weight(weight):
        hyper = agent.hyper | {"offline_weight": jnp.float32(weight)}
        return update(agent.replace(hyper=hyper), Hybrid(own, offline))

    return of_weight


@pytest.mark.parametrize(
    "form",
    [
        "per step",
        *(pytest.param(form, marks=pytest.mark.slow) for form in ("stationary", "memory")),
    ],
)
def test_an_offline_weight_of_zero_is_trpo(form):
    plain, _, spec, agent, own, _ = played(form)
    ours, _ = quick_jit(partial(trpo.update, plain, spec))(agent, own)
    (without, _), (with_data, metrics) = map(hybrid_updates(form), (0.0, 1.0))
    before = agent.params
    assert_trees_close(without.params, ours.params, rtol=1e-4, atol=1e-6)
    assert distance(ours.params, before) > 1e-2, "TRPO itself must have moved"
    for name in ("actor", "critic"):
        gap = distance(with_data.params[name], ours.params[name])
        assert gap > 1e-3, f"the data must count in the {name}"
    assert all(np.isfinite(x) for x in metrics.values())


def distance(tree, other):
    """Return the Euclidean distance of two trees."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return np.sqrt(sum(float(jnp.sum((x - y) ** 2)) for x, y in pairs))


# --- Source by source, step by step ------------------------------------------------------------


def test_an_update_is_that_of_separate_sources_and_steps():
    """The same equations in loops over steps and sources, leaf by leaf, with the same draws."""
    plain, _, spec, agent, own, offline = played("per step")
    nets, horizon, sources = trpo.networks(plain, spec), plain.rollout_length, (own, offline)
    weights = 1.0, 0.7
    _, fit_key, act_key = jax.random.split(agent.key, 3)
    step_keys = jax.random.split(fit_key, horizon)

    def one_row(obs):
        flags = jnp.zeros((1, len(obs)), bool)
        return Inputs(obs[None], None, flags), flags

    def policy_at(params, obs):
        return jax.tree.map(lambda x: x[0], nets.actor.apply(params, (), *one_row(obs))[1])

    def q_at(params, obs, action):
        return nets.critic.apply(params, (), *one_row(obs), jnp.clip(action, -1, 1)[None])[0, 0]

    @quick_jit
    def fit(params, actor, key, data):
        def loss_of(params):
            errors = [jnp.square(q_at(params, obs, a) - y).mean() for obs, a, y in data]
            return sum(w * error for w, error in zip(weights, errors, strict=True))

        def step(_, loop):
            change, moments = adam.update(jax.grad(loss_of)(loop[0]), loop[1])
            return optax.apply_updates(loop[0], change), moments

        adam = optax.adam(plain.critic_learning_rate)
        params, _ = jax.lax.fori_loop(0, plain.critic_steps, step, (params, adam.init(params)))
        values = []
        for i, (obs, _, _) in enumerate(data):
            keys = jax.random.split(jax.random.fold_in(key, i), plain.value_samples)
            drawn = jax.vmap(policy_at(actor, obs).sample)(keys)
            values.append(jnp.stack([q_at(params, obs, a) for a in drawn]).mean(0))
        return params, values

    @quick_jit
    def improve(params, data):
        def mean(values):
            total = sum(w * x.sum() for w, x in zip(weights, values, strict=True))
            return total / sum(w * x.size for w, x in zip(weights, values, strict=True))

        old = [policy_at(params, obs) for obs, _, _ in data]

        def surrogate(new):
            ratios = [
                jnp.exp(policy_at(new, obs).log_prob(a) - before.log_prob(a))
                for (obs, a, _), before in zip(data, old, strict=True)
            ]
            return mean([ratio * x[2] for ratio, x in zip(ratios, data, strict=True)])

        def divergence(new):
            now = [policy_at(new, obs) for obs, _, _ in data]
            return mean([before.kl(policy) for before, policy in zip(old, now, strict=True)])

        trust = Trust(plain.max_kl, plain.damping, plain.cg_iterations, 10)
        return natural_step(surrogate, divergence, params, trust)[0]

    at = lambda tree, h: jax.tree.map(lambda x: x[h], tree)  # noqa: E731
    critics, values, earned, following = [None] * horizon, [None] * horizon, 0.0, 0.0
    for h in reversed(range(horizon)):
        earned = own.step.reward[h] + earned
        targets = earned, offline.step.reward[h] + following
        data = [
            (batch.step.obs[h], batch.step.action[h], y)
            for batch, y in zip(sources, targets, strict=True)
        ]
        actor, critic = at(agent.params["actor"], h), at(agent.params["critic"], h)
        critics[h], values[h] = fit(critic, actor, step_keys[h], data)
        following = values[h][1]

    drawn = jax.vmap(policy_at)(agent.params["actor"], offline.step.obs).sample(
        jax.random.fold_in(act_key, 1)
    )
    advantage, actors = 0.0, [None] * horizon
    for h in reversed(range(horizon)):
        after = values[h + 1][0] if h + 1 < horizon else 0.0
        advantage = own.step.reward[h] + after - values[h][0] + plain.gae_lambda * advantage
        theirs = q_at(critics[h], offline.step.obs[h], drawn[h]) - values[h][1]
        data = [
            (own.step.obs[h], own.step.extras["sample"][h], advantage),
            (offline.step.obs[h], drawn[h], theirs),
        ]
        actors[h] = improve(at(agent.params["actor"], h), data)
    expected = {"actor": actors, "critic": critics}
    expected = {
        name: jax.tree.map(lambda *x: jnp.stack(x), *of_steps)
        for name, of_steps in expected.items()
    }
    state, _ = hybrid_updates("per step")(weights[1])
    assert_trees_close(state.params, expected, rtol=1e-4, atol=2e-5)
    assert distance(state.params, agent.params) > 1e-1


# --- What the loop hands over -----------------------------------------------------------------


def test_data_come_in_whole_episodes_or_in_windows():
    env = ContinuousLock(3)
    data = data_of(env)
    wish = Rollout(3, 50, offline="episodes")
    episodes = mixing.beside(wish, jax.random.key(0), data)
    assert episodes.first.shape == (3, 50) and episodes.first[0].all()
    assert not episodes.first[1:].any() and episodes.step.terminated[-1].all()
    np.testing.assert_array_equal(episodes.step.next_obs[:-1], episodes.step.obs[1:])
    starts = {tuple(np.asarray(x)) for x in episodes.step.obs[0]}
    known = {tuple(x) for x in np.asarray(data.obs).reshape(data.num_episodes, 4, -1)[:, 0]}
    assert starts <= known and len(starts) > 20

    cut = data_of(StatelessPendulum(max_steps=5))
    windows = mixing.beside(Rollout(12, 50, offline="windows"), jax.random.key(0), cut)
    assert 0 < (~windows.mask).sum() < windows.mask.size / 4
    kept = windows.mask[:-1]
    np.testing.assert_array_equal(windows.step.next_obs[:-1][kept], windows.step.obs[1:][kept])


def test_episodes_of_another_length_are_refused():
    made = list(to_episodes(data_of(ContinuousLock(3))))
    data = from_episodes(made, DatasetInfo("t/lock-v0", ContinuousLock(3).spec))
    with pytest.raises(UserError) as error:
        mixing.beside(Rollout(4, 2, offline="episodes"), jax.random.key(0), data)
    assert str(error.value) == (
        "every episode of dataset t/lock-v0 must have rollout_length = 4 steps, got 120 steps in "
        "40 episodes"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: RunConfig(EnvConfig("lock/h5"), HNPGConfig()),
            "hnpg learns from a dataset as it plays; name one with dataset",
        ),
        (
            lambda: RunConfig(EnvConfig("lock/h5"), HNPGConfig(), "lock/h5", offline_steps=10),
            "offline_steps must be left out: hnpg always plays, got 10",
        ),
        (
            lambda: RunConfig(EnvConfig("lock/h5"), TRPOConfig(), "lock/h5"),
            "dataset must be left out: trpo takes none, got 'lock/h5'",
        ),
        (lambda: HNPGConfig(offline_weight=-1.0), "offline_weight must be at least 0, got -1.0"),
        (
            lambda: HNPGConfig(sweeps=7),
            "critic_steps must be a multiple of sweeps = 7, got 30",
        ),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message


# --- Learning ---------------------------------------------------------------------------------


@pytest.mark.learning
def test_hnpg_opens_a_lock_of_five_and_trpo_does_not():
    """110,000 steps, three seeds of each; -s prints the shares of locks opened."""
    lock, seeds, blocks = ContinuousLock(5), 3, 11
    data = jax.device_put(recipes_lock.build("lock/h5", 25_000, 0, False))
    setting = replace(hnpg.PRESETS["lock"], rollout_length=5, num_envs=200)
    program = on_policy(setting, lock)
    keys = jax.vmap(jax.random.key)(jnp.tile(jnp.arange(seeds), 2))
    weight = jnp.repeat(jnp.array([1.0, 0.0]), seeds)  # HNPG, then TRPO
    state = jax.jit(jax.vmap(program.init))(keys, {"offline_weight": weight})
    chunk = jax.jit(jax.vmap(program.chunk, (0, None, None)))
    for block in range(blocks):
        state, metrics = chunk(state, data, jnp.int32(10))
        opened = np.asarray(metrics["episode/success_sum"] / metrics["episode/judged"])
        print(10_000 * (block + 1), opened.round(3))
    assert (opened[:seeds] > 0.9).all()
    assert (opened[seeds:] < 0.1).all()


@pytest.mark.learning
def test_data_speed_up_one_network_for_all_steps():
    """Area under the curve on pendulum/medium, eight seeds, against TRPO and BC; -s prints all.

    A curve is the greedy policy's return after every 5,120 steps of 51,200. BC, which takes none,
    counts what it comes to.
    """
    env, seeds, blocks = make(EnvConfig("Pendulum-v1")), 8, 10
    data = jax.device_put(recipes_pendulum.build("pendulum/medium", 20_000, 0, False))
    hybrid = on_policy(hnpg.PRESETS["small"], env)
    cloning = BCConfig(
        policy="gaussian", actor=MLPConfig((64, 64), "relu"), learning_rate=1e-3,
        experience=ExperienceConfig(batch=256),
    )  # fmt: skip
    clone = make_program(cloning, env, online=False)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))

    def judged(program, state):
        params, key = program.params(state), jax.random.key(7)
        return np.asarray(
            evaluate_seeds(env, program.policy, params, key, episodes=32).episode_return.mean(1)
        )

    def started(program, keys, hyper, phase):
        state = jax.jit(jax.vmap(program.init))(keys, hyper)
        return state, jax.jit(jax.vmap(program.chunks[phase], (0, None, None)), donate_argnums=0)

    state, chunk = started(clone, keys, {}, "offline")
    state, _ = chunk(state, data, jnp.int32(5000))
    cloned = judged(clone, state)
    print("BC", cloned.round())

    weight = jnp.repeat(jnp.array([1.0, 0.0]), seeds)  # HNPG, then TRPO
    state, chunk = started(hybrid, jnp.tile(keys, 2), {"offline_weight": weight}, "online")
    curve = []
    for block in range(blocks):
        state, _ = chunk(state, data, jnp.int32(10))
        curve.append(judged(hybrid, state))
        print(5120 * (block + 1), curve[-1].round())
    area = np.mean(curve, 0)
    ours, plain = area[:seeds], area[seeds:]
    print("areas: HNPG", ours.round(), "TRPO", plain.round())
    for rival in (plain, cloned):
        assert bootstrap_interval(mean, ours - rival)[0] > 0, "the data must help, by 95 %"
