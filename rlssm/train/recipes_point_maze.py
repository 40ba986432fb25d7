"""`pointmaze/...`: a controller that wanders through a point maze, wherever its whim takes it.

An episode starts in any free cell but the goal's. The player makes for a free cell drawn at random,
along the shortest way from cell to cell; when it is there it draws the next. So the data show how
to move everywhere, and the goal is found by chance. For position x, speed v and the middle m of the
next cell on its way,

    u = clip(4 (m - x) - v + noise)          noise of deviation 0.5 per entry

Source: the idea is that of D4RL's maze2d and antmaze-diverse data (arXiv 2004.07219); the law is
ours.
"""

import math
from collections import deque
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlssm.data.dataset import DatasetInfo, Episode, OfflineDataset, from_episodes
from rlssm.data.scores import Reference
from rlssm.envs import point_maze
from rlssm.envs.point_maze import LIMITS, PointMaze, PointMazeState
from rlssm.types import Key

IDS = point_maze.IDS
STEPS = {"umaze": 100_000, "medium": 200_000, "large": 400_000}
NOISE = 0.5
NEAR = 0.3  # m from the middle of the cell that was made for
REFERENCE_EPISODES = 1000
REFERENCE_SEED = 0  # of the references, which are the same whatever the seed of the data


class Player(NamedTuple):
    """How an episode is played: wandering or straight to the goal, and what its actions are."""

    wanders: bool
    noise: float
    skill: float  # 0 acts uniformly at random, 1 by the law


WANDERER = Player(wanders=True, noise=NOISE, skill=1.0)
RANDOM = Player(wanders=False, noise=0.0, skill=0.0)
EXPERT = Player(wanders=False, noise=0.0, skill=1.0)


class Played(NamedTuple):
    """Episodes as long as the limit, leaves `[N, T, ...]`; what follows an end is to be cut off."""

    obs: Any
    action: Any
    reward: Any
    terminated: Any


def text(name: str) -> str:
    """Return what the data of a maze are."""
    return "a noisy controller that wanders from anywhere to anywhere"


def default_steps(name: str) -> int:
    """Return the steps of a maze's dataset."""
    return STEPS[point_maze.make(name).layout]


def build(name: str, steps: int, seed: int, progress: bool) -> OfflineDataset:
    """Return the data of a maze, named by its id: whole episodes, `steps` or more.

    Episodes are played some at a time, in seconds, so `progress` is not shown.
    """
    maze = point_maze.make(name)
    episodes: list[Episode] = []
    found = part = 0
    while found < steps:
        key = jax.random.fold_in(jax.random.key(seed), part)
        keys = jax.random.split(key, math.ceil(steps / LIMITS[maze.layout]))
        for one in cut(jax.device_get(play(maze, WANDERER, keys))):
            if found < steps:
                episodes.append(one)
                found += len(one.reward)
        part += 1
    keys = jax.random.split(jax.random.key(REFERENCE_SEED), REFERENCE_EPISODES)
    low, high = (
        float(np.mean([one.reward.sum() for one in cut(jax.device_get(play(maze, who, keys)))]))
        for who in (RANDOM, EXPERT)
    )
    return from_episodes(episodes, _info(name, maze, Reference(low, high, _SOURCE), steps, seed))


_SOURCE = (
    "mean returns of uniformly random actions and of the recipe's controller without noise, "
    f"straight to the goal, {REFERENCE_EPISODES} episodes each"
)


def _info(name: str, maze: PointMaze, reference: Reference, steps: int, seed: int) -> DatasetInfo:
    provenance = {
        "algorithm_name": "hand-written waypoint controller",
        "author": "rlssm",
        "description": f"{name} of rlssm, {text(name)}; noise {NOISE:g}",
        "recipe": f"rlssm data make {name} --steps {steps} --seed {seed}",
        "versions": f"jax {version('jax')}",
    }
    return DatasetInfo(
        id=f"{name}-v0",
        spec=maze.spec,
        action_bounds=((-1.0, -1.0), (1.0, 1.0)),
        env=name,
        reference=reference,
        provenance=tuple(sorted(provenance.items())),
    )


def cut(played: Played) -> list[Episode]:
    """Return episodes up to their ends, on the host."""
    limit = played.reward.shape[1]
    ended = played.terminated.any(1)
    lengths = np.where(ended, played.terminated.argmax(1) + 1, limit)
    return [
        Episode(
            obs=played.obs[i, : n + 1],
            action=played.action[i, :n],
            reward=played.reward[i, :n],
            terminated=played.terminated[i, :n],
            truncated=(np.arange(n) == limit - 1) & ~played.terminated[i, :n],
        )
        for i, n in enumerate(lengths.tolist())
    ]


@partial(jax.jit, static_argnums=(0, 1))
def play(maze: PointMaze, player: Player, keys: Key) -> Played:
    """Play an episode for each key, from the maze's start unless the player wanders."""
    cells, ways = np.argwhere(~maze.walls), jnp.asarray(next_cells(maze))
    free, starts = jnp.asarray(cells), jnp.asarray(cells[(cells != maze.goal).any(1)])
    limit = LIMITS[maze.layout]

    def drawn(key: Key, cells: Array = free) -> Int[Array, "2"]:
        return cells[jax.random.randint(key, (), 0, len(cells))]

    def episode(key: Key) -> Played:
        start_key, place_key, target_key, steps_key = jax.random.split(key, 4)
        cell = drawn(start_key, starts) if player.wanders else jnp.asarray(maze.start)
        state, first = maze.reset_in(cell, place_key)
        target = drawn(target_key) if player.wanders else jnp.asarray(maze.goal)

        def step(
            before: tuple[PointMazeState, Array], key: Key
        ) -> tuple[tuple[PointMazeState, Array], Played]:
            state, target = before
            act_key, target_key = jax.random.split(key)
            action = act(player, state, ways, target, act_key)
            state, out = maze.step(key, state, action, maze.params)
            if player.wanders:
                there = jnp.square(state.position - target - 0.5).sum() < NEAR**2
                target = jnp.where(there, drawn(target_key), target)
            return (state, target), Played(out.obs, action, out.reward, out.terminated)

        keys = jax.random.split(steps_key, limit)
        _, played = jax.lax.scan(step, (state, target), keys)
        return played._replace(obs=jnp.concatenate([first[None], played.obs]))

    return jax.vmap(episode)(keys)


def act(
    player: Player, state: PointMazeState, ways: Array, target: Int[Array, "2"], key: Key
) -> Float[Array, "2"]:
    """Return the action of a player who makes for a cell; `ways` is of `next_cells`."""
    noise_key, uniform_key, follow_key = jax.random.split(key, 3)
    here = state.position.astype(int)
    middle = ways[here[0], here[1], target[0], target[1]] + 0.5
    noise = player.noise * jax.random.normal(noise_key, (2,))
    own = jnp.clip(4 * (middle - state.position) - state.velocity + noise, -1, 1)
    uniform = jax.random.uniform(uniform_key, (2,), minval=-1)
    return jnp.where(jax.random.uniform(follow_key) < player.skill, own, uniform)


def next_cells(maze: PointMaze) -> Int[np.ndarray, "rows columns rows columns 2"]:
    """Return the next cell of the shortest way from any free cell to any other.

    From a target to itself it is the target; at walls it is meaningless.
    """
    walls = maze.walls
    ways = np.zeros((*walls.shape, *walls.shape, 2), np.int32)
    for target in map(tuple, np.argwhere(~walls).tolist()):
        ways[(*target, *target)] = target
        seen, waiting = {target}, deque([target])
        while waiting:
            row, column = waiting.popleft()
            for cell in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if not walls[cell] and cell not in seen:
                    ways[(*cell, *target)] = row, column
                    seen.add(cell)
                    waiting.append(cell)
    return ways
