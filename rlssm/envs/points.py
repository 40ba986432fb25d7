"""A point to roam with: on an open plane, in four rooms, in mazes. Nothing is to be achieved.

An action moves the point by half a unit at most, in any direction alike; on the plane "box" by half
a unit in each coordinate, so that diagonals are faster. In a maze a coordinate that would
enter a wall stays. Episodes are cut after a fixed number of steps and never terminate. The
observation is the position over 3, in a maze from its centre. `reward` is how much farther from
its start the point is than before, so that the return of an episode is how far it got; learners
of skills never see it.

Worlds to roam in have beside the contract of every environment

    position(state)             where one is, two coordinates of which the second may be 0
    at(key, place, params)      the observation of a state at the start of an episode, but there
    goals(key, count)           places to be reached
    info["position"]            position after the step
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import Environment, Step
from rlssm.errors import require
from rlssm.types import Box, Key, Params, Spec

STRIDE = 0.5
UNIT = 3.0  # of observations
START_NOISE = 0.1
GOAL_RANGE = 10.0  # on the plane

FOUR_ROOMS = """
###########
#....#....#
#....#....#
#.........#
#....#....#
#....#....#
##.####.###
#....#....#
#.........#
#....#....#
###########
"""
U_MAZE = """
#######
#.....#
#.....#
#####.#
#.....#
#S....#
#######
"""
LARGE_MAZE = """
###############
#.....#.......#
#.###.#.#####.#
#...#...#.....#
###.#####.###.#
#...#...#...#.#
#.###.#.###.#.#
#.....#...#...#
#.#######.###.#
#S......#.....#
###############
"""


class Roamable(Environment, Protocol):
    """A world to roam in; see above."""

    def position(self, state: Any) -> Float[Array, "2"]: ...

    def at(self, key: Key, place: Float[Array, "2"], params: Params) -> Any: ...

    def goals(self, key: Key, count: int) -> Float[Array, "N 2"]: ...


class PointState(NamedTuple):
    """Where the point is and where it began, and the steps taken."""

    position: Float[Array, "2"]
    start: Float[Array, "2"]
    time: Int[Array, ""]


@dataclass(frozen=True)
class PointWorld:
    """A point on the plane, or among the walls (#) of a layout, starting at S or in a corner."""

    layout: str | None = None
    """Rows of a maze from its top; None for the plane."""
    max_steps: int = 50
    round: bool = True
    """Whether an action is scaled down to length 1 rather than clipped in each coordinate."""

    def __post_init__(self) -> None:
        require(self.max_steps >= 1, "max_steps", self.max_steps, "at least 1")

    @property
    def spec(self) -> Spec:
        return Spec(Box((2,)), Box((2,)), self.max_steps, located=True)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[PointState, Array]:
        middle = jnp.asarray(np.zeros(2) if self.layout is None else _start(self.layout))
        noise = jax.random.uniform(key, (2,), minval=-START_NOISE, maxval=START_NOISE)
        position = (middle + noise).astype(jnp.float32)
        return PointState(position, position, jnp.zeros((), jnp.int32)), self._observe(position)

    def step(
        self, key: Key, state: PointState, action: Array, params: tuple[()]
    ) -> tuple[PointState, Step]:
        position = self._move(state.position, STRIDE * self._limited(action))
        before, after = (_distance(x, state.start) for x in (state.position, position))
        state = PointState(position, state.start, state.time + 1)
        return state, Step(
            obs=self._observe(position),
            reward=after - before,
            terminated=jnp.zeros((), bool),
            truncated=state.time >= self.max_steps,
            info={"position": position},
        )

    def position(self, state: PointState) -> Float[Array, "2"]:
        return state.position

    def at(self, key: Key, place: Float[Array, "2"], params: tuple[()]) -> Array:
        return self._observe(place)

    def goals(self, key: Key, count: int) -> Float[Array, "N 2"]:
        """Return places uniform in a square of +-10, or over the free cells of a maze."""
        if self.layout is None:
            return jax.random.uniform(key, (count, 2), minval=-GOAL_RANGE, maxval=GOAL_RANGE)
        cell_key, place_key = jax.random.split(key)
        free = jnp.asarray(np.argwhere(~_walls(self.layout)), jnp.float32)
        cells = free[jax.random.randint(cell_key, (count,), 0, len(free))]
        return cells + jax.random.uniform(place_key, (count, 2))

    @property
    def extent(self) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
        """Size and middle of what can be reached, for pictures."""
        if self.layout is None:
            return np.full(2, 2.2 * STRIDE * self.max_steps), np.zeros(2)
        size = np.array(_walls(self.layout).shape, float)
        return size, size / 2

    @property
    def wall_cells(self) -> Float[np.ndarray, "W 2"]:
        """Lower left corners of the cells that are walls."""
        return np.empty((0, 2)) if self.layout is None else np.argwhere(_walls(self.layout)) * 1.0

    def in_wall(self, x: Float[Array, "*any"], y: Float[Array, "*any"]) -> Bool[Array, "*any"]:
        """Return whether places are in a wall; all that is outside a maze is."""
        if self.layout is None:
            return jnp.zeros(jnp.broadcast_shapes(x.shape, y.shape), bool)
        walls = jnp.asarray(_walls(self.layout))
        cells = [
            jnp.clip(jnp.floor(p).astype(jnp.int32), 0, size - 1)
            for p, size in zip((x, y), walls.shape, strict=True)
        ]
        return walls[cells[0], cells[1]]  # a maze's outermost cells are walls

    def _limited(self, action: Array) -> Array:
        if not self.round:
            return jnp.clip(action, -1.0, 1.0)
        return action / jnp.maximum(1.0, jnp.linalg.norm(action))

    def _move(self, position: Float[Array, "2"], by: Float[Array, "2"]) -> Float[Array, "2"]:
        if self.layout is None:
            return position + by
        walls = jnp.asarray(_walls(self.layout))
        for axis in range(2):
            there = position.at[axis].add(by[axis])
            x, y = jnp.floor(there).astype(jnp.int32)
            position = jnp.where(walls[x, y], position, there)
        return position

    def _observe(self, position: Float[Array, "2"]) -> Float[Array, "2"]:
        centre = 0.0 if self.layout is None else np.array(_walls(self.layout).shape) / 2
        return ((position - centre) / UNIT).astype(jnp.float32)


@cache
def _walls(layout: str) -> Bool[np.ndarray, "X Y"]:
    """Return where walls are, by cell: x to the right, y upwards."""
    rows = layout.split()
    return np.array([[cell == "#" for cell in row] for row in reversed(rows)]).T


def _start(layout: str) -> Float[np.ndarray, "2"]:
    """Return the middle of the cell S, or of the lowest free one on the left."""
    rows = np.array([list(row) for row in reversed(layout.split())]).T
    chosen = np.argwhere(rows == "S") if "S" in layout else np.argwhere(rows == ".")
    return chosen[0] + 0.5


def _distance(a: Array, b: Array) -> Float[Array, ""]:
    return jnp.linalg.norm(a - b)


WORLDS: dict[str, PointWorld] = {
    "point/plane": PointWorld(),
    "point/box": PointWorld(round=False),
    "point/four-rooms": PointWorld(FOUR_ROOMS, max_steps=100),
    "point/u-maze": PointWorld(U_MAZE, max_steps=100),
    "point/large-maze": PointWorld(LARGE_MAZE, max_steps=200),
}
IDS = tuple(WORLDS)
