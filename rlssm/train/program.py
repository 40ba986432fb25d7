"""An algorithm, an environment and a dataset made into pure functions for the loop."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jaxtyping import Array, Int

from rlssm.algorithms import ALGORITHMS
from rlssm.data import mixing, replay
from rlssm.data.dataset import OfflineDataset
from rlssm.data.replay import Replay
from rlssm.envs.base import Environment, VectorEnvironment, Vectorized
from rlssm.envs.trials import Suite
from rlssm.train.collect import Act, rollout, start
from rlssm.types import Discrete, Hybrid, Key, Metrics, Params, Policy, Rollout, Spec, Windows

PhaseName = Literal["offline", "random", "fill", "online"]
Data = OfflineDataset | None  # passed to compiled code, never closed over


class LoopState(PyTreeNode):
    """Everything that changes during a run; a checkpoint of it is a complete run.

    `runner` is None where nothing is collected, and `replay` where nothing is kept.
    """

    agent: Any
    runner: Any  # a Runner
    replay: Any  # a Replay
    rounds: Int[Array, ""]
    key: Key


Round = Callable[[LoopState, Data], tuple[LoopState, Metrics]]
Chunk = Callable[[LoopState, Data, Array], tuple[LoopState, Metrics]]


class Program(NamedTuple):
    """The functions of a run, for one member; the loop vmaps them over members.

    `init(key, hyper)` takes the swept hyper-parameters by name. `chunks[phase](state, data,
    count)` makes `count` rounds, a traced number, and returns the means of their metrics, beside
    the sums over the episodes that ended (`EpisodeStatistics.metrics`). `params(state)` is what
    `policy` acts with.

    Phases: "offline" learns from the dataset alone; "random" takes uniformly random actions and
    "fill" the policy's own, neither learns; "online" collects and learns.
    """

    init: Callable[[Key, dict[str, Array]], LoopState]
    chunks: Mapping[PhaseName, Chunk]
    params: Callable[[LoopState], Params]
    policy: Policy

    @property
    def chunk(self) -> Chunk:
        """The chunk of the phase that collects and learns."""
        return self.chunks["online"]


def wish_of(config: Any) -> Rollout | Windows:
    """Return what an algorithm's configuration asks of the loop."""
    return ALGORITHMS[config.name].batch_spec(config)


def collected(config: Any) -> Rollout:
    """Return what one round of an algorithm collects."""
    wish = wish_of(config)
    return wish if isinstance(wish, Rollout) else wish.collect


def make_program(config: Any, env: Environment | Suite, *, online: bool = True) -> Program:
    """Return the program of an algorithm in an environment.

    Args:
        config: an algorithm's `Config`; its `name` says which algorithm.
        env: one environment, or the tasks of a suite, of which those held out are never met.
        online: whether steps are ever taken in it; without, only the phase "offline" exists.

    Raises:
        UserError: if the algorithm cannot serve the environment's spaces.
    """
    wish = wish_of(config)
    if isinstance(wish, Rollout):
        return on_policy(config, env)
    assert not isinstance(env, Suite)
    return off_policy(config, env, online=online)


def on_policy(config: Any, env: Environment | Suite) -> Program:
    """Return the program of an algorithm that learns from fresh rollouts of its own policy.

    Where it wishes for a dataset beside them, each round draws from it anew.
    """
    algorithm = ALGORITHMS[config.name]
    spec, wish = env.spec, algorithm.batch_spec(config)
    envs = vectorized(env, wish.num_envs)
    initial_carry = algorithm.networks(config, spec).initial_carry

    def init(key: Key, hyper: dict[str, Array]) -> LoopState:
        agent_key, runner_key, key = jax.random.split(key, 3)
        agent = _with_hyper(algorithm.init(config, spec, agent_key), hyper)
        runner = start(envs, initial_carry(wish.num_envs), runner_key)
        return LoopState(agent, runner, None, jnp.int32(0), key)

    def online(state: LoopState, data: Data) -> tuple[LoopState, Metrics]:
        act = partial(algorithm.act, config, spec, state.agent.params, greedy=False)
        runner, batch = rollout(envs, act, state.runner, wish)
        key = state.key
        if wish.offline is not None:
            key, draw_key = jax.random.split(key)
            batch = Hybrid(batch, mixing.beside(wish, draw_key, data))
        agent, metrics = algorithm.update(config, spec, state.agent, batch)
        return state.replace(agent=agent, runner=runner, key=key), metrics

    return Program(
        init, {"online": _chunk(online)}, lambda state: state.agent.params, _policy(config, env)
    )


def off_policy(config: Any, env: Environment, *, online: bool = True) -> Program:
    """Return the program of an algorithm that learns from windows of stored experience."""
    algorithm = ALGORITHMS[config.name]
    spec, wish = env.spec, algorithm.batch_spec(config)
    envs = Vectorized(env, wish.collect.num_envs)
    initial_carry = algorithm.networks(config, spec).initial_carry
    kept = initial_carry(wish.collect.num_envs) if wish.store_carry else None

    def init(key: Key, hyper: dict[str, Array]) -> LoopState:
        agent_key, runner_key, key = jax.random.split(key, 3)
        agent = _with_hyper(algorithm.init(config, spec, agent_key), hyper)
        if not online:
            return LoopState(agent, None, None, jnp.int32(0), key)
        runner = start(envs, initial_carry(envs.num_envs), runner_key)
        stored = replay.init(spec, envs.num_envs, wish.capacity, kept, wish.kept)
        return LoopState(agent, runner, stored, jnp.int32(0), key)

    def learn(state: LoopState, data: Data, stored: Replay | None) -> tuple[LoopState, Metrics]:
        carry = initial_carry(wish.batch) if wish.store_carry else None

        def one(loop: tuple[Any, Key], _: None) -> tuple[tuple[Any, Key], Metrics]:
            agent, key = loop
            key, draw_key = jax.random.split(key)
            batch = mixing.batch(wish, draw_key, data, stored, carry)
            agent, metrics = algorithm.update(config, spec, agent, batch)
            return (agent, key), metrics

        (agent, key), metrics = jax.lax.scan(one, (state.agent, state.key), None, wish.updates)
        metrics = jax.tree.map(lambda x: x.mean(0), metrics)
        return state.replace(agent=agent, key=key), metrics

    def collect(state: LoopState, *, random: bool = False) -> LoopState:
        act = partial(algorithm.act, config, spec, state.agent.params, greedy=False)
        act = _uniform(act, spec) if random else act
        act = _remembering(act) if wish.store_carry else act
        runner, trajectory = rollout(envs, act, state.runner, wish.collect)
        carries = trajectory.step.extras.get("carry")
        return state.replace(runner=runner, replay=replay.add(state.replay, trajectory, carries))

    def offline_round(state: LoopState, data: Data) -> tuple[LoopState, Metrics]:
        return learn(state, data, None)

    def online_round(state: LoopState, data: Data) -> tuple[LoopState, Metrics]:
        state = collect(state)
        return learn(state, data, state.replay)

    rounds: dict[PhaseName, Round] = {"offline": offline_round}
    if online:
        rounds["random"] = lambda state, data: (collect(state, random=True), {})
        rounds["fill"] = lambda state, data: (collect(state), {})
        rounds["online"] = online_round
    chunks = {name: _chunk(one) for name, one in rounds.items()}
    return Program(init, chunks, lambda state: state.agent.params, _policy(config, env))


def _with_hyper(agent: Any, hyper: dict[str, Array]) -> Any:
    return agent.replace(hyper={**agent.hyper, **hyper})


def vectorized(env: Environment | Suite, num_envs: int) -> VectorEnvironment:
    """Return a batch of an environment, or of the tasks that a suite has to learn from."""
    return env.training(num_envs) if isinstance(env, Suite) else Vectorized(env, num_envs)


def unit_of(env: Environment | Suite, num_envs: int) -> int:
    """Return what devices must divide: the environments, of a suite those of every task."""
    return math.gcd(*env.training(num_envs).groups) if isinstance(env, Suite) else num_envs


def _policy(config: Any, env: Environment | Suite) -> Policy:
    algorithm, spec = ALGORITHMS[config.name], env.spec

    def act(params, inputs, reset, carry, key, greedy):
        return algorithm.act(config, spec, params, inputs, reset, carry, key, greedy=greedy)[:2]

    return Policy(algorithm.networks(config, spec).initial_carry, act)


def _chunk(one_round: Round) -> Chunk:
    """Return a function that makes a traced number of rounds and averages their metrics."""

    def chunk(state: LoopState, data: Data, count: Array) -> tuple[LoopState, Metrics]:
        if state.runner is not None:
            cleared = state.runner.statistics.clear()
            state = state.replace(runner=state.runner.replace(statistics=cleared))
        shapes = jax.eval_shape(one_round, state, data)[1]
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(_: Array, loop: tuple[LoopState, Metrics]) -> tuple[LoopState, Metrics]:
            state, sums = loop
            state, metrics = one_round(state, data)
            return state, jax.tree.map(jnp.add, sums, metrics)

        state, sums = jax.lax.fori_loop(0, count, body, (state, zero))
        means = jax.tree.map(lambda x: x / count, sums)
        state = state.replace(rounds=state.rounds + count)
        if state.runner is not None:
            means |= state.runner.statistics.metrics()
            if state.runner.visits is not None:
                means |= state.runner.visits.metrics()
        return state, means

    return chunk


def _uniform(act: Act, spec: Spec) -> Act:
    """Return a policy that takes uniformly random (allowed) actions, with the memory of `act`."""

    def random(inputs, reset, carry, key):
        action, carry, extras = act(inputs, reset, carry, key)
        if isinstance(spec.action, Discrete):
            allowed = jnp.ones((*action.shape, spec.action.n), bool)
            if isinstance(inputs.obs, dict):
                allowed = inputs.obs.get("action_mask", allowed)
            logits = jnp.where(allowed, 0.0, -jnp.inf)
            return jax.random.categorical(key, logits).astype(action.dtype), carry, extras
        return jax.random.uniform(key, action.shape, action.dtype, -1, 1), carry, extras

    return random


def _remembering(act: Act) -> Act:
    """Return `act` with the memory that it started each step from in `extras["carry"]`."""

    def remembering(inputs, reset, carry, key):
        action, after, extras = act(inputs, reset, carry, key)
        return action, after, {**extras, "carry": carry}

    return remembering
