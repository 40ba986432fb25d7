"""Rolling a policy through a batch of environments, on the device."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool

from rlssm.envs.base import VectorEnvironment
from rlssm.envs.coverage import Visits
from rlssm.envs.statistics import EpisodeStatistics
from rlssm.types import (
    Carry,
    Inputs,
    Key,
    Previous,
    Rollout,
    Trajectory,
    Transition,
    clear_at_start,
    zeros,
)


class Act(Protocol):
    """A policy with its parameters bound: `(inputs, reset, carry, key)` for one step."""

    def __call__(
        self, inputs: Inputs, reset: Bool[Array, " B"], carry: Carry, key: Key
    ) -> tuple[Array, Carry, dict[str, Array]]: ...


class Runner(PyTreeNode):
    """Where a batch of environments and its policy's memory stand between two rollouts.

    Every leaf leads with [B] except the key and the counts of `statistics`.
    """

    env_state: Any
    obs: Any
    first: Bool[Array, " B"]
    reset: Bool[Array, " B"]
    carry: Carry
    previous: Previous
    successor: Any  # the true successor of the step before; `obs` unless an episode ended
    statistics: EpisodeStatistics
    visits: Any  # Visits, or None where nobody says where one is
    key: Key


def start(env: VectorEnvironment, carry: Carry, key: Key) -> Runner:
    """Return a runner at the first step of an episode in every environment."""
    env_key, key = jax.random.split(key)
    env_state, obs = env.reset(env_key)
    ones = jnp.ones(env.num_envs, bool)
    action = zeros(env.spec.action, (env.num_envs,))
    return Runner(
        env_state=env_state,
        obs=obs,
        first=ones,
        reset=ones,
        carry=carry,
        previous=Previous(action, jnp.zeros(env.num_envs, jnp.float32)),
        successor=jax.tree.map(jnp.copy, obs),  # donated buffers must not be shared
        statistics=EpisodeStatistics.start(env.num_envs),
        visits=Visits.start(env.num_envs) if env.spec.located else None,
        key=key,
    )


def rollout(
    env: VectorEnvironment, act: Act, runner: Runner, wish: Rollout
) -> tuple[Runner, Trajectory]:
    """Take `wish.length` steps in every environment.

    Returns:
        The runner after the last step, and the trajectory `[length, B, ...]`. With
        `wish.next_value` its `extras["next_value"]` is the value of the true successor: that of
        the following step, and at a truncation the value of the final observation under the
        memory that has seen the whole episode. With `wish.trials` it is that of the following
        step wherever the memory lives on.
    """
    look_back = wish.next_value and env.spec.truncates and not wish.trials

    def step(runner: Runner, _: None) -> tuple[Runner, tuple[Transition, Array, Array]]:
        key, act_key, env_key = jax.random.split(runner.key, 3)
        action, carry, extras = _act(act, runner, act_key, look_back)
        env_state, out = env.step(env_key, runner.env_state, action)
        if wish.trials:
            extras = {**extras, "trial_end": out.reset}
        transition = Transition(
            obs=runner.obs,
            action=action,
            reward=out.reward,
            next_obs=out.next_obs,
            terminated=out.terminated,
            truncated=out.truncated,
            extras=extras,
        )
        after = Runner(
            env_state=env_state,
            obs=out.obs,
            first=out.first,
            reset=out.reset,
            carry=carry,
            previous=Previous(action, out.reward),
            successor=out.next_obs,
            statistics=runner.statistics.update(out),
            visits=runner.visits and runner.visits.update(out.info["position"]),
            key=key,
        )
        return after, (transition, runner.first, runner.reset)

    end, (steps, first, reset) = jax.lax.scan(step, runner, None, wish.length)
    if wish.next_value:
        after = _act(act, end, end.key, look_back)[2]
        steps = steps._replace(extras=_with_next_value(steps, after))
    mask = jnp.ones_like(first)
    return end, Trajectory(steps, first, reset, mask, runner.carry, runner.previous)


def _act(
    act: Act, runner: Runner, key: Key, look_back: bool
) -> tuple[Array, Carry, dict[str, Array]]:
    """Act on the present and, in the same call, value the true successor of the step before.

    The two differ where an episode ended: the successor is its final observation, seen by the
    memory that is about to be dropped. One call on twice the rows costs an accelerator about
    what a call on the present alone does. The rows alternate, so that a batch spread over
    devices stays where it is.
    """
    previous = clear_at_start(runner.previous, runner.first & runner.reset)
    present = Inputs(runner.obs, previous, runner.first), runner.reset, runner.carry
    if not look_back:
        return act(*present, key)
    nowhere = jnp.zeros_like(runner.first)
    past = Inputs(runner.successor, runner.previous, nowhere), nowhere, runner.carry
    both = jax.tree.map(
        lambda a, b: jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:]), present, past
    )
    action, carry, extras = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), act(*both, key))
    now = jax.tree.map(lambda x: x[:, 0], (action, carry, extras))
    now[2]["final_value"] = extras["value"][:, 1]
    return now


def _with_next_value(steps: Transition, after: dict[str, Array]) -> dict[str, Array]:
    """Return the extras with `next_value` in place of the `final_value` of the step before."""
    extras = dict(steps.extras)

    def following(name: str) -> Array:
        return jnp.concatenate([extras[name][1:], after[name][None]])

    extras["next_value"] = following("value")
    if "final_value" in extras:
        final = following("final_value")
        extras["next_value"] = jnp.where(steps.truncated, final, extras["next_value"])
        del extras["final_value"]
    return extras
