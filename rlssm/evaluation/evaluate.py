"""Whole episodes with a fixed policy: how good it is, and what an episode looks like."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import Environment, Step
from rlssm.errors import require
from rlssm.types import Carry, Inputs, Key, Params, Policy, Previous, zeros

UNLIMITED = 10_000  # steps after which an episode without a limit of its own is given up


class Episodes(NamedTuple):
    """The outcome of `N` episodes; leaves `[N]`, or `[S, N]` for several members.

    An episode that was given up after `max_steps` is not `finished`; its return and length are
    those so far.
    """

    episode_return: Float[Array, " N"]
    length: Int[Array, " N"]
    success: Float[Array, " N"]  # 1 where solved at the last step, else 0; NaN where undefined
    finished: Bool[Array, " N"]


class Recording(NamedTuple):
    """One episode on the host; `states` and `obs` lead with [T + 1], the others with [T]."""

    states: Any
    obs: Any
    action: np.ndarray
    reward: Float[np.ndarray, " T"]


class _Player(NamedTuple):
    """Where `N` episodes stand; leaves `[N, ...]`."""

    env_state: Any
    inputs: Inputs
    reset: Bool[Array, " N"]
    carry: Carry


def evaluate(
    env: Environment,
    policy: Policy,
    params: Params,
    key: Key,
    *,
    episodes: int,
    greedy: bool = True,
    max_steps: int | None = None,
) -> Episodes:
    """Play `episodes` whole episodes in parallel, exactly one in each copy of the environment.

    Compiled once per (env, policy, episodes, greedy, max_steps): keep the policy, do not make a
    new one for every call.

    Args:
        env: one environment.
        policy, params: how to act.
        key: start states, the environment's noise and a stochastic policy's actions.
        episodes: how many, at least 1.
        greedy: whether the policy takes its best action.
        max_steps: when to give an episode up; default the environment's own limit, or
            `UNLIMITED` where it has none.
    """
    return _evaluate(env, policy, episodes, greedy, _limit(env, episodes, max_steps), params, key)


def evaluate_seeds(
    env: Environment,
    policy: Policy,
    params: Params,
    key: Key,
    *,
    episodes: int,
    greedy: bool = True,
    max_steps: int | None = None,
) -> Episodes:
    """Evaluate several members at once; see `evaluate`.

    Args:
        env, policy, episodes, greedy, max_steps: as in `evaluate`.
        params: leaves `[S, ...]`.
        key: one for all, so that members meet the same start states, or one each, `[S]`.

    Returns:
        The outcomes, leaves `[S, episodes]`.
    """
    limit = _limit(env, episodes, max_steps)
    return _evaluate_seeds(env, policy, episodes, greedy, limit, params, key)


def record(
    env: Environment,
    policy: Policy,
    params: Params,
    key: Key,
    *,
    greedy: bool = True,
    max_steps: int | None = None,
) -> Recording:
    """Play one episode and keep every step of it; arguments as in `evaluate`."""
    reset_key, steps_key = jax.random.split(key)
    player = _jitted_start(env, policy, reset_key, 1)
    seen, taken = [(player.env_state, player.inputs.obs)], []
    for t in range(_limit(env, 1, max_steps)):
        player, out = _jitted_step(env, policy, greedy, params, steps_key, player, t)
        seen.append((player.env_state, player.inputs.obs))
        taken.append(player.inputs.previous)
        if out.terminated[0] | out.truncated[0]:
            break
    states, obs = jax.tree.map(lambda *steps: np.concatenate(steps), *seen)
    action, reward = jax.tree.map(lambda *steps: np.concatenate(steps), *taken)
    return Recording(states, obs, action, reward)


def _limit(env: Environment, episodes: int, max_steps: int | None) -> int:
    require(episodes >= 1, "episodes", episodes, "at least 1")
    if max_steps is None:
        max_steps = env.spec.max_episode_steps or UNLIMITED
    require(max_steps >= 1, "max_steps", max_steps, "at least 1")
    return max_steps


@partial(jax.jit, static_argnums=range(5))
def _evaluate_seeds(
    env: Environment,
    policy: Policy,
    episodes: int,
    greedy: bool,
    max_steps: int,
    params: Params,
    key: Key,
) -> Episodes:
    one = partial(_evaluate, env, policy, episodes, greedy, max_steps)
    return jax.vmap(one, (0, 0 if key.ndim else None))(params, key)


@partial(jax.jit, static_argnums=range(5))
def _evaluate(
    env: Environment,
    policy: Policy,
    episodes: int,
    greedy: bool,
    max_steps: int,
    params: Params,
    key: Key,
) -> Episodes:
    """Play until every episode is over; those that are go on unseen until the last one is."""
    reset_key, steps_key = jax.random.split(key)
    step = partial(_step, env, policy, greedy, params, steps_key)

    def unfinished(loop: tuple[_Player, Episodes, Array]) -> Bool[Array, ""]:
        _, outcome, t = loop
        return (t < max_steps) & ~jnp.all(outcome.finished)

    def body(loop: tuple[_Player, Episodes, Array]) -> tuple[_Player, Episodes, Array]:
        player, outcome, t = loop
        player, out = step(player, t)
        return player, _count(outcome, out), t + 1

    player = _start(env, policy, reset_key, episodes)
    out = jax.eval_shape(step, player, 0)[1]
    outcome = Episodes(
        episode_return=jnp.zeros(episodes, out.reward.dtype),
        length=jnp.zeros(episodes, jnp.int32),
        success=jnp.full(episodes, 0.0 if "success" in out.info else jnp.nan, out.reward.dtype),
        finished=jnp.zeros(episodes, bool),
    )
    return jax.lax.while_loop(unfinished, body, (player, outcome, jnp.int32(0)))[1]


def _count(outcome: Episodes, out: Step) -> Episodes:
    """Return the outcome after one more step of the episodes that are not over."""
    going = ~outcome.finished
    last = out.terminated | out.truncated
    solved = going & last & out.info.get("success", False)
    return Episodes(
        episode_return=outcome.episode_return + jnp.where(going, out.reward, 0),
        length=outcome.length + going,
        success=jnp.where(solved, 1, outcome.success),
        finished=outcome.finished | last,
    )


def _start(env: Environment, policy: Policy, key: Key, episodes: int) -> _Player:
    """Return `episodes` episodes at their first step."""
    keys = jax.random.split(key, episodes)
    env_state, obs = jax.vmap(env.reset, (0, None))(keys, env.params)
    action = zeros(env.spec.action, (episodes,))
    out = jax.eval_shape(partial(_step_envs, env), key, env_state, action)[1]
    first = jnp.ones(episodes, bool)
    return _Player(
        env_state=env_state,
        inputs=Inputs(obs, Previous(action, jnp.zeros(episodes, out.reward.dtype)), first),
        reset=first,
        carry=policy.initial_carry(episodes),
    )


def _step(
    env: Environment,
    policy: Policy,
    greedy: bool,
    params: Params,
    key: Key,
    player: _Player,
    t: Int[Array, ""] | int,
) -> tuple[_Player, Step]:
    """Return the episodes one step later, and what the environments said."""
    act_key, env_key = jax.random.split(jax.random.fold_in(key, t))
    action, carry = policy.act(params, player.inputs, player.reset, player.carry, act_key, greedy)
    action = action.astype(player.inputs.previous.action.dtype)
    env_state, out = _step_envs(env, env_key, player.env_state, action)
    later = jnp.zeros_like(player.reset)
    return _Player(
        env_state, Inputs(out.obs, Previous(action, out.reward), later), later, carry
    ), out


_jitted_start = jax.jit(_start, static_argnums=(0, 1, 3))
_jitted_step = jax.jit(_step, static_argnums=(0, 1, 2))


def _step_envs(env: Environment, key: Key, env_state: Any, action: Array) -> tuple[Any, Step]:
    keys = jax.random.split(key, action.shape[0])
    return jax.vmap(env.step, (0, 0, 0, None))(keys, env_state, action, env.params)
