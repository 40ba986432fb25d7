"""What skills are worth: where they lead, what they cover, whether they reach goals.

Skills are judged by where they go in a world to roam in (`rlssm.envs.points.Roamable`), wrapped or
not: whole episodes of deterministic actions, one skill each.
Sources: METRA (arXiv 2310.08887) for coverage and final distance; the contrastive successor
features of arXiv 2412.08021 for hits and staying time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlssm.envs import roaming
from rlssm.envs.base import Environment
from rlssm.errors import require
from rlssm.types import Carry, Inputs, Key, Params, Previous, zeros

RADII = (3.0, 1.0)  # within which a goal counts as reached
STEP_LIMIT = 1.05  # of the squared length of a step of the representation


class SkillPolicy(NamedTuple):
    """A policy that is told which skill to follow, without its parameters; pure functions.

    `initial_memory(batch)`; `follow(params, inputs, reset, memory, skill, key, greedy)` returns the
    action and the next memory; `embed(params, obs)` the representation `[*batch, K]`;
    `towards(params, obs, goal)` the skill that leads to a goal; `draw(key, count)` skills to
    judge by, `[count, K]`.
    """

    initial_memory: Callable[[int], Carry]
    follow: Callable[..., tuple[Array, Carry]]
    embed: Callable[[Params, Any], Array]
    towards: Callable[[Params, Any, Any], Array]
    draw: Callable[[Key, int], Array]


class Roamed(NamedTuple):
    """Episodes side by side: positions `[T + 1, N, 2]` and representations `[T + 1, N, K]`."""

    position: Float[Array, "T1 N 2"]
    embedding: Float[Array, "T1 N K"]


class _Walk(NamedTuple):
    state: Any
    obs: Any
    previous: Previous
    memory: Carry


@partial(jax.jit, static_argnums=(0, 1))
def roam(
    env: Environment, policy: SkillPolicy, params: Params, skill: Float[Array, "N K"], key: Key
) -> Roamed:
    """Return one episode of deterministic actions for each skill."""
    return _roam(env, policy, params, len(skill), key, lambda _: skill)


@partial(jax.jit, static_argnums=(0, 1, 5))
def reach(
    env: Environment,
    policy: SkillPolicy,
    params: Params,
    goals: Float[Array, "N 2"],
    key: Key,
    mode: Literal["adaptive", "single"] = "adaptive",
) -> Roamed:
    """Return one episode for each goal, given as a place, reached for without any training.

    A goal is shown as an observation at the start of an episode, but at that place. The skill is
    the one that `policy.towards` names: at every step anew, or once.
    """
    goal_key, key = jax.random.split(key)
    count = len(goals)
    at = jax.vmap(partial(roaming.at, env), (0, 0, None))
    goal = at(jax.random.split(goal_key, count), goals, env.params)
    if mode == "adaptive":
        return _roam(env, policy, params, count, key, lambda obs: policy.towards(params, obs, goal))
    reset_key = jax.random.split(key)[0]
    _, first = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, count), env.params)
    skill = policy.towards(params, first, goal)
    return _roam(env, policy, params, count, key, lambda _: skill)


def _roam(
    env: Environment,
    policy: SkillPolicy,
    params: Params,
    count: int,
    key: Key,
    choose: Callable[[Any], Float[Array, "N K"]],
) -> Roamed:
    """Play `count` episodes, each step under the skills that `choose(obs)` returns."""
    reset_key, key = jax.random.split(key)
    keys = jax.random.split(reset_key, count)
    state, obs = jax.vmap(env.reset, (0, None))(keys, env.params)
    previous = Previous(zeros(env.spec.action, (count,)), jnp.zeros(count))
    limit = env.spec.max_episode_steps

    def see(walk: _Walk) -> Roamed:
        place = jax.vmap(partial(roaming.position, env))(walk.state)
        return Roamed(place, policy.embed(params, walk.obs))

    def step(walk: _Walk, t: Array) -> tuple[_Walk, Roamed]:
        act_key, env_key = jax.random.split(jax.random.fold_in(key, t))
        first = jnp.full(count, t == 0)
        inputs = Inputs(walk.obs, walk.previous, first)
        skill = choose(walk.obs)
        action, memory = policy.follow(params, inputs, first, walk.memory, skill, act_key, True)
        keys = jax.random.split(env_key, count)
        state, out = jax.vmap(env.step, (0, 0, 0, None))(keys, walk.state, action, env.params)
        return _Walk(state, out.obs, Previous(action, out.reward), memory), see(walk)

    walk = _Walk(state, obs, previous, policy.initial_memory(count))
    end, seen = jax.lax.scan(step, walk, jnp.arange(limit))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), seen, see(end))


# --- Judging ----------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What skills came to, on the host: measures of each member, and the episodes behind them.

    Leaves of `roamed` and `reached` lead with `[S]`; `skill` and `goals` are the same for all.
    """

    measures: list[dict[str, float]]
    skill: Float[np.ndarray, "N K"]
    roamed: Roamed
    goals: Float[np.ndarray, "M 2"]
    reached: Roamed


def judge(
    env: Environment,
    policy: SkillPolicy,
    params: Params,
    key: Key,
    *,
    count: int = 48,
    goals: int = 50,
    mode: Literal["adaptive", "single"] = "adaptive",
) -> Judged:
    """Return what the skills of several members are worth, each under the same skills and goals.

    Args:
        env: a world to roam in.
        policy, params: whom to tell; leaves `[S, ...]`.
        key: skills, start states, and goals.
        count: skills to roam with, an episode each.
        goals: places to reach for, an episode each.
        mode: see `reach`.

    Raises:
        UserError: if `env` does not say where one is, or there is nothing to judge by.
    """
    world = roaming.world(env)
    require(count >= 1, "count", count, "at least 1")
    require(goals >= 1, "goals", goals, "at least 1")
    draw_key, roam_key, goal_key, reach_key = jax.random.split(key, 4)
    skill, places = policy.draw(draw_key, count), world.goals(goal_key, goals)
    out = jax.vmap(partial(roam, env, policy), (0, None, None))(params, skill, roam_key)
    towards = partial(reach, env, policy, mode=mode)
    back = jax.vmap(towards, (0, None, None))(params, places, reach_key)
    out, back, skill, places = jax.device_get((out, back, skill, places))
    measures = []
    for roamed, reached in zip(_members(out), _members(back), strict=True):
        far = np.linalg.norm(roamed.position[-1] - roamed.position[0], axis=-1).max()
        measures.append(of_roaming(roamed) | of_reaching(reached, places, far))
    return Judged(measures, skill, out, places, back)


def _members(roamed: Roamed) -> list[Roamed]:
    return [Roamed(*one) for one in zip(*roamed, strict=True)]


# --- Measures, on the host --------------------------------------------------------------------


def covered(position: Float[np.ndarray, "*any 2"]) -> int:
    """Return how many cells of one unit by one have a position in them."""
    cells = np.floor(np.asarray(position, np.float64)).reshape(-1, 2)
    return len(np.unique(cells, axis=0))


def explained(
    position: Float[np.ndarray, "*any 2"], embedding: Float[np.ndarray, "*any K"]
) -> float:
    """Return R² of the best affine map from positions to representations, components together.

    It is 0 for a representation that never changes.
    """
    x = np.asarray(position, np.float64).reshape(-1, 2)
    y = np.asarray(embedding, np.float64).reshape(len(x), -1)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    total = np.square(y - y.mean(0)).sum()
    return float(1 - np.square(left).sum() / total) if total > 0 else 0.0


def of_roaming(roamed: Roamed) -> dict[str, float]:
    """Return coverage, mean final displacement, and how the representation moved.

    `squared_step` is the mean of |φ(s') - φ(s)|², `long_steps` the share above 1.05, and
    `explained` as the function says.
    """
    position, embedding = (np.asarray(x, np.float64) for x in roamed)
    square = np.square(np.diff(embedding, axis=0)).sum(-1)
    return {
        "coverage": covered(position),
        "displacement": float(np.linalg.norm(position[-1] - position[0], axis=-1).mean()),
        "explained": explained(position, embedding),
        "squared_step": float(square.mean()),
        "long_steps": float((square > STEP_LIMIT).mean()),
    }


def of_reaching(
    roamed: Roamed, goals: Float[np.ndarray, "N 2"], far: float = np.inf
) -> dict[str, float]:
    """Return the mean final distance and, by radius, three shares.

    `hit` of the episodes that were ever inside, `end` of those inside at the end, `stay` of the
    steps inside. `near` is the share of goals at most `far` from where an episode started, and
    `near_distance` the mean final distance to these, NaN where there are none.
    """
    position = np.asarray(roamed.position, np.float64)
    distance = np.linalg.norm(position - np.asarray(goals, np.float64), axis=-1)
    near = distance[0] <= far
    found = {
        "distance": float(distance[-1].mean()),
        "near": float(near.mean()),
        "near_distance": float(distance[-1][near].mean()) if near.any() else float("nan"),
    }
    for radius in RADII:
        inside = distance <= radius
        found |= {
            f"hit_{radius:g}": float(inside.any(0).mean()),
            f"end_{radius:g}": float(inside[-1].mean()),
            f"stay_{radius:g}": float(inside[1:].mean()),
        }
    return found
