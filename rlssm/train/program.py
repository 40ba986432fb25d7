"""An algorithm and an environment made into pure functions for the loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jaxtyping import Array, Int

from rlssm.algorithms import ALGORITHMS
from rlssm.envs.base import Environment, Vectorized
from rlssm.train.collect import Runner, rollout, start
from rlssm.types import Key, Metrics, Params, Policy


class LoopState(PyTreeNode):
    """Everything that changes during a run; a checkpoint of it is a complete run."""

    agent: Any
    runner: Runner
    updates: Int[Array, ""]


class Program(NamedTuple):
    """The three functions of a run, for one member; the loop vmaps them over members.

    `init(key, hyper)` takes the swept hyper-parameters by name. `chunk(state, count)` makes
    `count` updates, a traced number, and returns the means of their metrics, beside the sums
    over the episodes that ended (`EpisodeStatistics.metrics`). `params(state)` is what `policy`
    acts with.
    """

    init: Callable[[Key, dict[str, Array]], LoopState]
    chunk: Callable[[LoopState, Array], tuple[LoopState, Metrics]]
    params: Callable[[LoopState], Params]
    policy: Policy


def on_policy(config: Any, env: Environment) -> Program:
    """Return the program of an algorithm that learns from fresh rollouts of its own policy.

    Args:
        config: an algorithm's `Config`; its `name` says which algorithm.
        env: one environment.
    """
    algorithm = ALGORITHMS[config.name]
    spec = env.spec
    wish = algorithm.batch_spec(config)
    envs = Vectorized(env, wish.num_envs)
    initial_carry = algorithm.networks(config, spec).initial_carry

    def init(key: Key, hyper: dict[str, Array]) -> LoopState:
        agent_key, runner_key = jax.random.split(key)
        agent = algorithm.init(config, spec, agent_key)
        agent = agent.replace(hyper={**agent.hyper, **hyper})
        runner = start(envs, initial_carry(wish.num_envs), runner_key)
        return LoopState(agent, runner, jnp.int32(0))

    def update(state: LoopState) -> tuple[LoopState, Metrics]:
        act = partial(algorithm.act, config, spec, state.agent.params, greedy=False)
        runner, trajectory = rollout(envs, act, state.runner, wish)
        agent, metrics = algorithm.update(config, spec, state.agent, trajectory)
        return LoopState(agent, runner, state.updates + 1), metrics

    def chunk(state: LoopState, count: Array) -> tuple[LoopState, Metrics]:
        cleared = state.runner.statistics.clear()
        state = state.replace(runner=state.runner.replace(statistics=cleared))
        shapes = jax.eval_shape(update, state)[1]
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(_: Array, loop: tuple[LoopState, Metrics]) -> tuple[LoopState, Metrics]:
            state, sums = loop
            state, metrics = update(state)
            return state, jax.tree.map(jnp.add, sums, metrics)

        state, sums = jax.lax.fori_loop(0, count, body, (state, zero))
        means = jax.tree.map(lambda x: x / count, sums)
        return state, means | state.runner.statistics.metrics()

    def act(params, inputs, reset, carry, key, greedy):
        return algorithm.act(config, spec, params, inputs, reset, carry, key, greedy=greedy)[:2]

    return Program(init, chunk, lambda state: state.agent.params, Policy(initial_carry, act))
