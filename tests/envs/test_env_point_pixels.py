"""The point worlds seen from above: images against loops, and that all else is as it was."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.envs import roaming
from rlssm.envs.point_pixels import IDS, WORLDS, PixelWorld
from rlssm.envs.points import LARGE_MAZE, PointWorld
from rlssm.envs.registry import EnvConfig, make
from rlssm.envs.user import check
from rlssm.errors import UserError

RNG = np.random.default_rng(0)


def rendered(layout, position, half):
    """Return the image of a place, pixel by pixel; `half` is half of the plane's size."""
    rows = None if layout is None else layout.split()[::-1]
    low = (-half, -half) if rows is None else (0, 0)
    size = (2 * half, 2 * half) if rows is None else (len(rows[0]), len(rows))
    image = np.zeros((16, 16, 3))
    for row in range(16):
        for column in range(16):
            dx, dy = (column + 0.5) / 2 - 4, 4 - (row + 0.5) / 2
            place = position[0] + dx, position[1] + dy
            for axis in range(2):
                share = (place[axis] - low[axis]) / size[axis]
                image[row, column, axis] = 255 * min(max(share, 0), 1)
            if rows is not None:
                x, y = (int(np.floor(p)) for p in place)
                inside = 0 <= y < len(rows) and 0 <= x < len(rows[0])
                image[row, column, 2] = 255 if not inside or rows[y][x] == "#" else 0
            if dx**2 + dy**2 <= 0.5**2:
                image[row, column] = 255
    return image


@pytest.mark.parametrize("layout", [None, LARGE_MAZE])
def test_images_are_those_of_a_renderer(layout):
    env = PixelWorld(PointWorld(layout, max_steps=50))
    draw = jax.jit(env.draw)
    low, high = (-27, 27) if layout is None else (1, 9)
    for position in RNG.uniform(low, high, (6, 2)).astype(np.float32):
        image = np.asarray(draw(position))
        assert image.dtype == np.uint8
        expected = rendered(layout, position.astype(np.float64), 27.5)
        assert np.abs(image - expected).max() <= 0.501  # what rounding may do
    assert (image[7:9, 7:9] == 255).all()  # the point itself


def test_an_episode_is_that_of_the_world_but_for_what_is_seen():
    plane = PointWorld(max_steps=4)
    env, key = PixelWorld(plane), jax.random.key(3)
    state, obs = env.reset(key, env.params)
    same, _ = plane.reset(key, plane.params)
    for action in RNG.normal(size=(4, 2)).astype(np.float32):
        np.testing.assert_array_equal(obs, env.draw(same.position))
        state, step = env.step(key, state, action, env.params)
        same, expected = plane.step(key, same, action, plane.params)
        obs = step.obs
        np.testing.assert_array_equal(obs, env.draw(same.position))
        jax.tree.map(np.testing.assert_array_equal, step[1:], expected[1:])
    np.testing.assert_array_equal(env.goals(key, 5), plane.goals(key, 5))
    place = jnp.array([3.0, -2.0])
    np.testing.assert_array_equal(env.at(key, place, env.params), env.draw(place))


def test_every_place_looks_different_from_any_half_a_unit_away():
    for env in (WORLDS["point/plane-pixels"], WORLDS["point/large-maze-pixels"]):
        size, middle = env.env.extent
        places = middle + RNG.uniform(-0.4, 0.4, (50, 2)) * size
        turn = RNG.uniform(0, 2 * np.pi, 50)
        there = places + 0.5 * np.stack([np.cos(turn), np.sin(turn)], 1)
        draw = jax.jit(jax.vmap(env.draw))
        before, after = (np.asarray(draw(x.astype(np.float32)), float) for x in (places, there))
        assert np.abs(after - before).sum((1, 2, 3)).min() > 100


def test_names_contract_and_wrappers():
    assert IDS[0] == "point/plane-pixels" and len(IDS) == 5
    env = make(EnvConfig(IDS[0], time_limit=7))
    check(env, IDS[0])
    assert env.spec.obs.shape == (16, 16, 3) and env.spec.located
    state, obs = env.reset(jax.random.key(0), env.params)
    np.testing.assert_array_equal(roaming.position(env, state), state.inner.position)
    at = partial(roaming.at, env, jax.random.key(0), state.inner.position, env.params)
    np.testing.assert_array_equal(at(), obs)
    assert roaming.world(env) == WORLDS[IDS[0]]
    with pytest.raises(UserError, match="noise needs a Box observation of floats"):
        make(EnvConfig(IDS[0], noise=0.1))
