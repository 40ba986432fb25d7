"""Point mazes: push a small body through corridors to a goal that pays on arrival, or all the way.

`pointmaze/umaze`, `/medium` and `/large`; with `-dense` every step pays. Cells have a side of 1 m,
and `(row, column)` in the code is a position in metres from the upper left corner. The body is a
square of half-width w = 0.1 m that slides along walls. With action u in [-1, 1]^2 and a step of h,

    v ← (1 - h c) v + h a u,        x ← x + h v, one axis after the other;

where a wall is in the way the body stops in front of it and loses its speed along that axis.
Sources: the layouts and the goal's radius are those of D4RL's maze2d (arXiv 2004.07219); one fixed
start and one fixed goal, at which an episode ends, are those of its antmaze. The physics is ours.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import Step
from rlssm.errors import unknown_name
from rlssm.types import Box, Key, Spec

Scalar = Float[Array, ""]

# "#" wall, "S" start, "G" goal.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "umaze": (
        "#####",
        "#G  #",
        "### #",
        "#S  #",
        "#####",
    ),
    "medium": (
        "########",
        "#S ##  #",
        "#  #   #",
        "##   ###",
        "#  #   #",
        "# #  # #",
        "#   # G#",
        "########",
    ),
    "large": (
        "############",
        "#S   #     #",
        "# ## # # # #",
        "#      #   #",
        "# #### ### #",
        "#  # #     #",
        "## # # # ###",
        "#  #   # G #",
        "############",
    ),
}  # fmt: skip
LIMITS = {"umaze": 100, "medium": 200, "large": 300}  # steps
DENSE = "-dense"
IDS = tuple(f"pointmaze/{name}{kind}" for name in LAYOUTS for kind in ("", DENSE))
HALF_WIDTH, GOAL_RADIUS = 0.1, 0.5  # m
SLACK = 1e-3  # m, by which a body that slides along a wall is taken to be clear of it


class PointMazeParams(NamedTuple):
    """Physics, SI units: a, c and h of the module's head; the speed stays below 2.5 m/s."""

    acceleration: Scalar | float = 5.0
    friction: Scalar | float = 2.0
    dt: Scalar | float = 0.1


class PointMazeState(NamedTuple):
    """Where the body is (row, column; m), its speed (m/s), and the steps taken."""

    position: Float[Array, "2"]
    velocity: Float[Array, "2"]
    time: Int[Array, ""]


@dataclass(frozen=True)
class PointMaze:
    """One maze; `layout` is a key of `LAYOUTS`.

    The observation is position, from the maze's centre, and velocity, each as (row, column).
    Reaching the goal terminates, which is when `info["success"]` is True, and pays 1; nothing else
    does. Where `dense`, a step pays minus the straight distance to the goal over the maze's
    diagonal, which walls make a misleading guide. Episodes are truncated after `LIMITS` steps.
    """

    layout: str
    dense: bool = False

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise unknown_name("layout", self.layout, LAYOUTS)

    @property
    def walls(self) -> Bool[np.ndarray, "rows columns"]:
        return self._cells == "#"

    @property
    def start(self) -> tuple[int, int]:
        """The cell that episodes start in."""
        return self._find("S")

    @property
    def goal(self) -> tuple[int, int]:
        """The cell in whose middle the goal is."""
        return self._find("G")

    @property
    def spec(self) -> Spec:
        return Spec(Box((4,)), Box((2,)), max_episode_steps=LIMITS[self.layout])

    @property
    def params(self) -> PointMazeParams:
        return jax.tree.map(jnp.float32, PointMazeParams())

    def reset(self, key: Key, params: PointMazeParams) -> tuple[PointMazeState, Float[Array, "4"]]:
        return self.reset_in(jnp.asarray(self.start), key)

    def reset_in(self, cell: Int[Array, "2"], key: Key) -> tuple[PointMazeState, Float[Array, "4"]]:
        """Return an episode that starts at rest, anywhere in a cell (row, column)."""
        room = 0.5 - HALF_WIDTH
        offset = jax.random.uniform(key, (2,), minval=-room, maxval=room)
        state = PointMazeState(cell + 0.5 + offset, jnp.zeros(2), jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(
        self, key: Key, state: PointMazeState, action: Float[Array, "2"], params: PointMazeParams
    ) -> tuple[PointMazeState, Step]:
        push = params.acceleration * jnp.clip(action, -1, 1)
        velocity = (1 - params.dt * params.friction) * state.velocity + params.dt * push
        position = state.position
        for axis in (0, 1):
            position, velocity = self._slide(position, velocity, axis, params.dt)
        state = PointMazeState(position, velocity, state.time + 1)
        goal = jnp.asarray(self.goal) + 0.5
        distance = jnp.sqrt(jnp.square(position - goal).sum())
        arrived = distance <= GOAL_RADIUS
        diagonal = float(np.hypot(*self.walls.shape))
        reward = -distance / diagonal if self.dense else arrived
        return state, Step(
            obs=self._observe(state),
            reward=reward.astype(jnp.float32),
            terminated=arrived,
            truncated=(state.time >= LIMITS[self.layout]) & ~arrived,
            info={"success": arrived},
        )

    def _slide(
        self, position: Array, velocity: Array, axis: int, dt: Scalar | float
    ) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
        """Return position and velocity after a move along one axis, in front of a wall at most."""
        walls = jnp.asarray(self.walls if axis == 0 else self.walls.T)
        speed = velocity[axis]
        ahead = position[axis] + dt * speed
        cell = jnp.floor(ahead + HALF_WIDTH * jnp.sign(speed)).astype(int)
        width = HALF_WIDTH - SLACK
        beside = jnp.floor(position[1 - axis] + jnp.array([-width, width])).astype(int)
        blocked = walls[cell, beside].any()
        front = jnp.where(speed > 0, cell - HALF_WIDTH, cell + 1 + HALF_WIDTH)
        return (
            position.at[axis].set(jnp.where(blocked, front, ahead)),
            velocity.at[axis].set(jnp.where(blocked, 0.0, speed)),
        )

    def _observe(self, state: PointMazeState) -> Float[Array, "4"]:
        centre = np.array(self.walls.shape, np.float32) / 2
        return jnp.concatenate([state.position - centre, state.velocity]).astype(jnp.float32)

    @property
    def _cells(self) -> np.ndarray:
        return np.array([list(row) for row in LAYOUTS[self.layout]])

    def _find(self, mark: str) -> tuple[int, int]:
        ((row, column),) = np.argwhere(self._cells == mark).tolist()
        return row, column


def make(env_id: str) -> PointMaze:
    """Return the maze of an id of `IDS`."""
    name = env_id.removeprefix("pointmaze/")
    return PointMaze(name.removesuffix(DENSE), dense=name.endswith(DENSE))
