"""Rolls one environment, without resets, under a policy that may look at the hidden state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.envs.base import Step

# Most of a test's time is compilation, and none of these rollouts is long enough to repay it.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick_jit(function):
    return jax.jit(function, compiler_options=QUICK)


def play(env, policy, steps, seed=0, batch=3):
    """Return (observations before each step `[B, T, ...]`, actions, steps) as NumPy arrays.

    `policy(lane, key, state, obs)` acts for environment number `lane`.
    """
    run = quick_jit(jax.vmap(functools.partial(_roll, env, policy, steps)))
    keys = jax.random.split(jax.random.key(seed), batch)
    return jax.tree.map(np.asarray, run(jnp.arange(batch), keys))


def _roll(env, policy, steps, lane, key):
    reset_key, steps_key = jax.random.split(key)

    def body(carry, key):
        state, obs = carry
        act_key, step_key = jax.random.split(key)
        action = policy(lane, act_key, state, obs)
        state, step = env.step(step_key, state, action, env.params)
        return (state, step.obs), (obs, action, step)

    start = env.reset(reset_key, env.params)
    return jax.lax.scan(body, start, jax.random.split(steps_key, steps))[1]


def random_discrete(n):
    return lambda lane, key, state, obs: jax.random.randint(key, (), 0, n)


def assert_one_episode(step: Step, terminated, truncated):
    """All of `[B, T]` flags are False but at the last step, where they are as said."""
    for flags, at_end in ((step.terminated, terminated), (step.truncated, truncated)):
        assert flags.dtype == jnp.bool_
        assert not flags[:, :-1].any()
        assert (flags[:, -1] == at_end).all()
