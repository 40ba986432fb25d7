"""What the tests of learners from stored experience share: batches, datasets, small runs."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlssm.algorithms import ALGORITHMS
from rlssm.data import mixing
from rlssm.data.dataset import (
    DatasetInfo,
    Episode,
    from_episodes,
    with_returns,
    with_rewards,
)
from rlssm.envs.base import Vectorized
from rlssm.envs.stateless import StatelessPendulum
from rlssm.nn import normalizers
from rlssm.nn.cores import GRUConfig, S5Config
from rlssm.nn.torso import TorsoConfig
from rlssm.train.collect import rollout, start
from rlssm.train.program import LoopState, make_program
from rlssm.types import Box, Inputs, Rollout, Spec, Trajectory, unrolled, zeros

SPEC = Spec(Box((3,)), Box((2,)), max_episode_steps=20)
CORES = {
    "s5": (S5Config(layers=1, state_size=8), TorsoConfig(width=8, hidden=())),
    "gru": (GRUConfig(), TorsoConfig(width=8, hidden=())),
}


def with_core(config, name, **experience):
    """Return a configuration with a small memory and short windows."""
    core, torso = CORES[name]
    settings = {"length": 6, "burn_in": 2, "batch": 16, **experience}
    return replace(
        config, core=core, torso=torso, experience=replace(config.experience, **settings)
    )


def episodes(rng, lengths=(7, 12, 5, 20, 9), spec=SPEC):
    """Return random episodes that end in terminations and truncations by turns."""
    made = []
    for e, n in enumerate(lengths):
        last = np.arange(n) == n - 1
        made.append(
            Episode(
                obs=rng.normal(size=(n + 1, *spec.obs.shape)).astype(np.float32),
                action=rng.uniform(-1, 1, (n, *spec.action.shape)).astype(np.float32),
                reward=rng.normal(size=n).astype(np.float32),
                terminated=last & (e % 2 == 0),
                truncated=last & (e % 2 == 1),
            )
        )
    return made


def dataset(seed=0, spec=SPEC):
    """Return the random episodes as a dataset."""
    return from_episodes(
        episodes(np.random.default_rng(seed), spec=spec), DatasetInfo("t/x-v0", spec)
    )


def batch(config, seed=0, spec=SPEC):
    """Return one batch as the loop would draw it for a configuration, from random episodes."""
    wish, data = ALGORITHMS[config.name].batch_spec(config), jax.device_put(dataset(seed, spec))
    return mixing.batch(wish, jax.random.key(seed), as_wished(config, data), None, None)


def mixed_batch(config, seed=0, spec=SPEC):
    """Return one batch of real and simulated windows, as the loop would draw it, from random
    episodes of two kinds."""
    wish, parts = ALGORITHMS[config.name].batch_spec(config), []
    for source, size in enumerate((wish.offline, wish.batch - wish.offline)):
        data = jax.device_put(dataset(100 * source + seed, spec))
        key = jax.random.key(2 * seed + source)
        part = mixing.batch(replace(wish, batch=size), key, data, None, None)
        label = jnp.full_like(part.step.extras["source"], source)
        parts.append(part._replace(step=part.step._replace(extras={"source": label})))
    rows = jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), *(part[:4] for part in parts))
    before = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *(part[4:] for part in parts))
    return Trajectory(*rows, *before)


def as_wished(config, data):
    """Return a dataset with the Monte-Carlo returns that an algorithm asks for, if it does."""
    wish = ALGORITHMS[config.name].batch_spec(config)
    if wish.returns is None:
        return data
    seen = with_rewards(data, wish.reward_scale, wish.reward_shift)
    return data.replace(extras=with_returns(seen, wish.returns).extras)


def from_env(env, *, steps=256, num_envs=8, seed=0, policy=None):
    """Return a dataset of whole episodes of uniformly random actions, or of `policy(key, obs)`."""
    envs = Vectorized(env, num_envs)

    def act(seen, reset, carry, key):
        shape = (num_envs, *env.spec.action.shape)
        action = jax.random.uniform(key, shape, minval=-1) if policy is None else policy(key, seen)
        return action, carry, {}

    runner = start(envs, (), jax.random.key(seed))
    _, trajectory = jax.jit(lambda r: rollout(envs, act, r, Rollout(steps, num_envs)))(runner)
    step = jax.device_get(trajectory.step)
    made = []
    for b in range(num_envs):
        ends = np.flatnonzero(step.terminated[:, b] | step.truncated[:, b]) + 1
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            rows = slice(begin, end)
            obs = np.concatenate([step.obs[rows, b], step.next_obs[end - 1 : end, b]])
            made.append(
                Episode(obs, step.action[rows, b], step.reward[rows, b], step.terminated[rows, b],
                        step.truncated[rows, b])
            )  # fmt: skip
    return jax.device_put(from_episodes(made, DatasetInfo("t/probe-v0", env.spec)))


def learn(config, env, data, rounds, *, online=False, seed=0):
    """Return the program and its state after some rounds on a dataset (then online, if asked)."""
    program = make_program(config, env, online=online)
    state = jax.jit(program.init)(jax.random.key(seed), {})
    state, metrics = jax.jit(program.chunks["offline"])(state, data, jnp.int32(rounds))
    return program, state, metrics


def learner(config, env):
    """Return a function of (dataset, rounds) that learns offline, compiled once per data shape."""
    chunk = jax.jit(make_program(config, env, online=False).chunks["offline"])

    def run(data, rounds, seed=0):
        agent = with_random_weights(config, env.spec, seed)
        state = LoopState(agent, None, None, jnp.int32(0), jax.random.key(seed))
        state, metrics = chunk(state, data.replace(info=None), jnp.int32(rounds))
        return state.agent, metrics

    return run


def with_random_weights(config, spec=SPEC, seed=0):
    """Return a state before any update, its weights normal: initial ones take long to compile."""
    algorithm, rng = ALGORITHMS[config.name], np.random.default_rng(seed)
    state = jax.eval_shape(partial(algorithm.init, config, spec), jax.random.key(0))
    state = state.replace(key=jax.random.key(seed), params=dict(state.params))

    def normal(x):
        return jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype)

    drawn = {"params": jax.tree.map(normal, state.params)}
    if "statistics" in state.params:
        drawn["params"]["statistics"] = normalizers.init(zeros(spec.obs))
    for name in ("critic", "target", "value", "discriminators"):
        if hasattr(state, name):
            drawn[name] = jax.tree.map(normal, getattr(state, name))
    if hasattr(state, "log_alpha"):
        drawn["log_alpha"] = jnp.log(jnp.float32(config.init_temperature))
    state = state.replace(
        **drawn,
        opt_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.opt_state),
        hyper={name: jnp.float32(getattr(config, name)) for name in state.hyper},
    )
    for name in ("updates", "online_updates"):
        if hasattr(state, name):
            state = state.replace(**{name: jnp.int32(0)})
    return state


def alone(obs):
    """Return observations `[N, ...]` as one row of inputs for a network without memory: its first
    three arguments beside its parameters."""
    obs = jnp.asarray(obs)
    return (), Inputs(obs[None], None, None), jnp.ones((1, len(obs)), bool)


def action_values(config, spec, state, obs, action):
    """Return the smallest critic's values of actions `[N, ...]` at observations `[N, ...]`."""
    critic = ALGORITHMS[config.name].networks(config, spec).critic
    return np.asarray(critic.apply(state.critic, *alone(obs), jnp.asarray(action)[None]).min(0)[0])


def first_gradient(opt_state):
    """Return the gradient that an optimiser was given in its first step, from Adam's mean."""
    return jax.tree.map(lambda m: np.asarray(m) / 0.1, optax.tree_utils.tree_get(opt_state, "mu"))


def assert_trees_close(ours, theirs, **tolerance):
    """Check that two trees have the same structure and nearly the same leaves."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def check_act_equals_unroll(config, actor_of):
    """Acting step by step gives the greedy actions of one unroll over the same trajectory.

    `actor_of(networks, params, carry, seen, reset)` returns the greedy actions `[T, B, A]`.
    """
    algorithm, env = ALGORITHMS[config.name], StatelessPendulum(max_steps=7)
    networks = algorithm.networks(config, env.spec)
    params = with_random_weights(config, env.spec).params
    envs, act = Vectorized(env, 4), partial(algorithm.act, config, env.spec, params, greedy=True)
    runner = start(envs, networks.initial_carry(4), jax.random.key(1))
    _, trajectory = jax.jit(lambda r: rollout(envs, act, r, Rollout(17, 4)))(runner)
    seen, reset = jax.tree.map(lambda x: x[:-1], unrolled(trajectory))
    actions = actor_of(networks, params, trajectory.carry, seen, reset)
    np.testing.assert_allclose(actions, trajectory.step.action, rtol=1e-4, atol=1e-5)
