"""Labyrinths: one way between any two squares, a way out on the other side, and the best walks."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import quick_jit

from rlssm.envs.labyrinth import EXIT, FREE, MOVES, START, WALL, LabyrinthEscape, LabyrinthExplore

MAZES = 200


@cache
def starts(env):
    keys = jax.random.split(jax.random.key(0), MAZES)
    return jax.tree.map(np.asarray, quick_jit(jax.vmap(env.reset, (0, None)))(keys, ()))


def neighbours(grid, place):
    """Return (move, square) of every step that leads somewhere."""
    found = []
    for move, step in enumerate(MOVES):
        near = (place[0] + step[0], place[1] + step[1])
        if all(0 <= x < len(grid) for x in near) and grid[near] != WALL:
            found.append((move, near))
    return found


def distances(grid, start):
    away, edge = {start: 0}, [start]
    for place in edge:
        for _, near in neighbours(grid, place):
            if near not in away:
                away[near] = away[place] + 1
                edge.append(near)
    return away


@pytest.fixture(scope="module", params=[LabyrinthExplore(5), LabyrinthEscape(7)])
def mazes(request):
    return request.param, *starts(request.param)


def test_a_labyrinth_is_a_tree_with_a_way_out(mazes):
    env, state, obs = mazes
    ends = env.side - 1
    sides = set()
    for grid, place in zip(state.grid, map(tuple, state.place), strict=True):
        away = distances(grid, place)
        assert len(away) == (grid != WALL).sum(), "every square can be reached"
        links = sum(len(neighbours(grid, square)) for square in away) // 2
        assert links == len(away) - 1, "there is one way"
        assert (grid[1::2, 1::2] == FREE).all() and (grid[::2, ::2] == WALL).all()
        assert grid[place] == START and (grid == START).sum() == 1
        axis = 0 if place[0] in (0, ends) else 1
        assert place[axis] in (0, ends)
        sides.add((axis, int(place[axis])))
        exits = np.argwhere(grid == EXIT)
        assert len(exits) == isinstance(env, LabyrinthEscape)
        if len(exits):
            assert exits[0][axis] == ends - place[axis]
    assert len(sides) == 4
    # The view is centred on the entrance, with walls outside.
    kinds = obs.argmax(-1)
    assert obs.sum(-1).min() == 1 and (kinds[:, 4] == START).all()
    assert (np.sort(kinds, 1)[:, -3:] == [WALL, WALL, START]).all()


def walk(env, state, moves):
    """Return rewards and ends of a walk."""

    def body(state, move):
        state, step = env.step(jax.random.key(0), state, move, ())
        return state, step

    steps = np.resize(moves, env.steps).astype(np.int32)
    return jax.tree.map(np.asarray, quick_jit(lambda s: jax.lax.scan(body, s, steps))(state))[1]


def first(state):
    return jax.tree.map(lambda x: jnp.asarray(x[0]), state)


def test_the_shortest_way_out_returns_the_most():
    env = LabyrinthEscape(7)
    state, _ = starts(env)
    grid, place, moves = state.grid[0], tuple(state.place[0]), []
    (way_out,) = map(tuple, np.argwhere(grid == EXIT))
    away = distances(grid, way_out)
    shortest = away[place]
    while place != way_out:
        move, place = min(neighbours(grid, place), key=lambda x: away[x[1]])
        moves.append(move)
    step = walk(env, first(state), moves)
    assert (
        np.flatnonzero(step.terminated)[0] == shortest - 1 and not step.truncated[:shortest].any()
    )
    np.testing.assert_allclose(step.reward[:shortest].sum(), 1 - shortest / 1024, rtol=1e-6)
    assert step.info["success"][shortest - 1]


def test_the_shortest_walk_through_everything_returns_the_most():
    """Twice each link of the tree, less the way to the farthest square, where the walk ends."""
    env = LabyrinthExplore(5)
    state, _ = starts(env)
    grid, place, moves = state.grid[0], tuple(state.place[0]), []
    away = distances(grid, place)
    farthest = max(away, key=lambda square: away[square])
    home = distances(grid, farthest)

    def visit(square, came):
        branches = [x for x in neighbours(grid, square) if x[1] != came]
        for move, near in sorted(branches, key=lambda x: -home[x[1]]):  # the farthest comes last
            moves.append(move)
            visit(near, square)
            moves.append(move ^ 1)

    visit(place, None)
    least = 2 * (len(away) - 1) - away[farthest]
    step = walk(env, first(state), moves)
    over = np.flatnonzero(step.terminated)[0]
    assert over == least - 1 and step.info["success"][over]
    again = least - (len(away) - 1)
    np.testing.assert_allclose(step.reward[:least].sum(), 1 - again / 1024, rtol=1e-5)


def test_walking_into_walls_costs_all_and_truncates_in_time():
    env = LabyrinthEscape(7)
    state, _ = starts(env)
    outwards = next(
        move for move, step in enumerate(MOVES)
        if not all(0 <= x < env.side for x in state.place[0] + step)
    )  # fmt: skip
    step = walk(env, first(state), [outwards])
    assert not step.terminated.any() and np.flatnonzero(step.truncated).tolist() == [1023]
    np.testing.assert_allclose(step.reward.sum(dtype=float), -1, rtol=1e-5)
