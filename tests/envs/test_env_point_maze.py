"""Point mazes: walls hold, free flight is the recurrence, and the goal ends an episode."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import play

from rlssm.envs import make
from rlssm.envs.point_maze import (
    GOAL_RADIUS,
    HALF_WIDTH,
    IDS,
    LIMITS,
    PointMaze,
    PointMazeState,
)
from rlssm.errors import UserError

MAZES = {name: PointMaze(name) for name in LIMITS}


def bangs(lane, key, state, obs):
    """Full speed in one direction for a while, so that walls are hit."""
    held = jax.random.fold_in(jax.random.key(lane), state.time // 7)
    return jax.random.choice(held, jnp.array([-1.0, 0.0, 1.0]), (2,))


@pytest.mark.parametrize("name", MAZES)
def test_the_body_never_enters_a_wall_and_moves_as_said(name):
    """Every step against a float64 recurrence with a search over all walls."""
    maze, steps = MAZES[name], 80
    obs, actions, out = play(maze, bangs, steps, batch=4)
    centre = np.array(maze.walls.shape) / 2
    walls, hits = np.argwhere(maze.walls), 0

    def blocked(at, axis):
        apart = np.abs(at - (walls + 0.5))
        ahead = apart[:, axis] < 0.5 + HALF_WIDTH - 1e-5
        return (ahead & (apart[:, 1 - axis] < 0.5 + HALF_WIDTH - 1e-3)).any()

    for lane, t in np.ndindex(4, steps):
        at, v = np.float64(obs[lane, t, :2]) + centre, np.float64(obs[lane, t, 2:])
        v = 0.8 * v + 0.5 * actions[lane, t]
        for axis in (0, 1):
            start = at[axis]
            at[axis] += 0.1 * v[axis]
            if blocked(at, axis):
                hits += 1
                low, high = 0.0, 1.0  # how far it gets, by halving
                for _ in range(30):
                    middle = (low + high) / 2
                    at[axis] = start + middle * 0.1 * v[axis]
                    low, high = (low, middle) if blocked(at, axis) else (middle, high)
                at[axis], v[axis] = start + low * 0.1 * v[axis], 0
        found = np.float64(out.obs[lane, t])
        np.testing.assert_allclose(found[:2] + centre, at, atol=1e-4)
        np.testing.assert_allclose(found[2:], v, atol=1e-3)
    assert hits > 40
    assert np.abs(out.obs[..., 2:]).max() < 2.5


@pytest.mark.parametrize("env_id", IDS)
def test_only_the_goal_ends_an_episode_early_and_pays(env_id):
    maze = make(env_id)
    goal = jnp.asarray(maze.goal) + 0.5
    diagonal = np.hypot(*maze.walls.shape)
    step = jax.jit(maze.step)
    for offset, arrived in ((0.0, True), (GOAL_RADIUS - 0.11, True), (GOAL_RADIUS + 0.05, False)):
        away = jnp.array([0.0, offset]) * (
            1 if not maze.walls[maze.goal[0], maze.goal[1] + 1] else -1
        )
        state = PointMazeState(goal + away, jnp.zeros(2), jnp.int32(3))
        _, out = step(jax.random.key(0), state, jnp.zeros(2), maze.params)
        assert bool(out.terminated) == bool(out.info["success"]) == arrived
        paid = -offset / diagonal if maze.dense else float(arrived)
        assert float(out.reward) == pytest.approx(paid, abs=1e-5)
        last = state._replace(time=jnp.int32(LIMITS[maze.layout] - 1))
        _, out = step(jax.random.key(0), last, jnp.zeros(2), maze.params)
        assert bool(out.truncated) == (not arrived)


@pytest.mark.parametrize("name", MAZES)
def test_mazes_are_closed_and_connected(name):
    maze = MAZES[name]
    walls = maze.walls
    assert walls[[0, -1]].all() and walls[:, [0, -1]].all()
    seen, waiting = {maze.start}, deque([maze.start])
    while waiting:
        row, column = waiting.popleft()
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if not walls[cell] and cell not in seen:
                seen.add(cell)
                waiting.append(cell)
    assert len(seen) == (~walls).sum() and maze.goal in seen


def test_episodes_start_at_rest_anywhere_in_the_start_cell():
    maze = MAZES["umaze"]
    states, obs = jax.vmap(maze.reset, (0, None))(
        jax.random.split(jax.random.key(0), 500), maze.params
    )
    inner = np.asarray(states.position) - np.array(maze.start)
    assert inner.min() >= HALF_WIDTH - 1e-6 and inner.max() <= 1 - HALF_WIDTH + 1e-6
    assert np.ptp(inner, axis=0).min() > 0.75 and not np.asarray(obs[:, 2:]).any()


def test_an_unknown_layout_is_refused():
    with pytest.raises(UserError, match="layout"):
        PointMaze("umze")
