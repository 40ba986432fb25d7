"""Labyrinths that are new in every episode, seen three by three squares at a time.

A labyrinth of `rooms` by `rooms` has an odd number of squares along each side, rooms at the odd
ones and walls or doors between them; there is exactly one way between any two rooms. It is
entered on one outer wall, and its exit is on the opposite one. An action moves left, right, up or
down, and nowhere where a wall is.

Source: POPGym (Morad et al. 2023) and the hunt-and-kill mazes of its package mazelib. Departures:
at the border the view stays centred and shows walls outside (there it is shifted, so that one
cannot tell where in it one stands); mazes are always complete (mazelib stops after a number of
tries); an episode may have 1,024 steps, not 1,023; and the last move is not shown again in the
observation, since agents are given it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import Step
from rlssm.envs.piles import draw
from rlssm.errors import require
from rlssm.types import Box, Discrete, Key, Spec

FREE, WALL, START, EXIT = range(4)  # what a square is
KINDS = 4
MOVES = np.array([[0, -1], [0, 1], [-1, 0], [1, 0]])  # left, right, up, down


class LabyrinthState(NamedTuple):
    """Where one is in which labyrinth.

    Attributes:
        grid: what each square is, int32.
        place: row and column, int32.
        seen: squares that one has been on.
        time: steps taken, int32.
    """

    grid: Int[Array, "side side"]
    place: Int[Array, "2"]
    seen: Bool[Array, "side side"]
    time: Int[Array, ""]


@dataclass(frozen=True)
class Labyrinth(ABC):
    """What the two have in common; a task says what it shows and pays, and when it is done."""

    rooms: int = 5
    steps: int = 1024

    def __post_init__(self) -> None:
        require(self.rooms >= 2, "rooms", self.rooms, "at least 2")
        require(self.steps >= 1, "steps", self.steps, "at least 1")

    @property
    def side(self) -> int:
        """Squares along a side."""
        return 2 * self.rooms + 1

    @abstractmethod
    def finished(self, state: LabyrinthState) -> Bool[Array, ""]:
        """Return whether there is nothing left to do."""

    @abstractmethod
    def pay(self, new: Bool[Array, ""], finished: Bool[Array, ""]) -> Float[Array, ""]:
        """Return the reward of a step onto a square that is new or not."""

    @abstractmethod
    def mark(self, grid: Int[Array, "side side"], way_out: Int[Array, "2"]) -> Array:
        """Return the grid with the exit, where there is one."""

    @property
    def spec(self) -> Spec:
        return Spec(Box((9, KINDS), "bool"), Discrete(4), max_episode_steps=self.steps)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[LabyrinthState, Array]:
        maze_key, entrance_key = jax.random.split(key)
        place, way_out = entrances(entrance_key, self.rooms)
        grid = jnp.where(carve(maze_key, self.rooms), FREE, WALL).astype(jnp.int32)
        grid = self.mark(grid.at[tuple(place)].set(START), way_out)
        seen = jnp.zeros(grid.shape, bool).at[tuple(place)].set(True)
        state = LabyrinthState(grid, place, seen, jnp.zeros((), jnp.int32))
        return state, view(state)

    def step(
        self, key: Key, state: LabyrinthState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[LabyrinthState, Step]:
        wished = jnp.clip(state.place + jnp.asarray(MOVES, jnp.int32)[action], 0, self.side - 1)
        place = jnp.where(state.grid[tuple(wished)] == WALL, state.place, wished)
        new, time = ~state.seen[tuple(place)], state.time + 1
        state = LabyrinthState(state.grid, place, state.seen.at[tuple(place)].set(True), time)
        terminated = self.finished(state)
        return state, Step(
            obs=view(state),
            reward=self.pay(new, terminated).astype(jnp.float32),
            terminated=terminated,
            truncated=(time >= self.steps) & ~terminated,
            info={"success": terminated},
        )


@dataclass(frozen=True)
class LabyrinthExplore(Labyrinth):
    """See every square: a new one pays 1 over all but the first, any other step costs 1/steps.

    Having seen all of them terminates. There is no exit.
    """

    @property
    def squares(self) -> int:
        """Squares to be seen: rooms, the doors between them, and the entrance."""
        return 2 * self.rooms**2

    def finished(self, state: LabyrinthState) -> Bool[Array, ""]:
        return jnp.sum(state.seen) == self.squares

    def pay(self, new: Bool[Array, ""], finished: Bool[Array, ""]) -> Float[Array, ""]:
        return jnp.where(new, 1 / (self.squares - 1), -1 / self.steps)

    def mark(self, grid: Int[Array, "side side"], way_out: Int[Array, "2"]) -> Array:
        return grid


@dataclass(frozen=True)
class LabyrinthEscape(Labyrinth):
    """Find the exit, which pays 1 and terminates; every step costs 1/steps."""

    def finished(self, state: LabyrinthState) -> Bool[Array, ""]:
        return state.grid[tuple(state.place)] == EXIT

    def pay(self, new: Bool[Array, ""], finished: Bool[Array, ""]) -> Float[Array, ""]:
        return finished - 1 / self.steps

    def mark(self, grid: Int[Array, "side side"], way_out: Int[Array, "2"]) -> Array:
        return grid.at[tuple(way_out)].set(EXIT)


def view(state: LabyrinthState) -> Bool[Array, "9 kinds"]:
    """Return the three by three squares around one, row by row, one-hot; outside are walls."""
    walled = jnp.pad(state.grid, 1, constant_values=WALL)
    around = jax.lax.dynamic_slice(walled, state.place, (3, 3))
    return around.reshape(9, 1) == jnp.arange(KINDS)


# --- Building ---------------------------------------------------------------------------------


def carve(key: Key, rooms: int) -> Bool[Array, "side side"]:
    """Return where the rooms and doors of a new labyrinth are, by hunt and kill.

    Walk from room to room that no one has been in and open the doors passed; where there is none
    next to one, go on from any room visited that has one.
    """
    side = 2 * rooms + 1
    start_key, walk_key = jax.random.split(key)

    def open_one(i: Array, loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        grid, visited, room = loop
        hunt_key, way_key = jax.random.split(jax.random.fold_in(walk_key, i))
        new = jnp.pad(~visited, 1)
        ways = jnp.stack([new[1 + r : 1 + r + rooms, 1 + c : 1 + c + rooms] for r, c in MOVES])
        stuck = ~jnp.any(ways[:, room[0], room[1]])
        found = draw(hunt_key, (visited & jnp.any(ways, 0)).ravel())
        room = jnp.where(stuck, jnp.stack(jnp.divmod(found, rooms)), room)
        move = jnp.asarray(MOVES, jnp.int32)[draw(way_key, ways[:, room[0], room[1]])]
        door, room = 2 * room + 1 + move, room + move
        return grid.at[tuple(door)].set(True), visited.at[tuple(room)].set(True), room

    room = jax.random.randint(start_key, (2,), 0, rooms, jnp.int32)
    visited = jnp.zeros((rooms, rooms), bool).at[tuple(room)].set(True)
    grid = jnp.zeros((side, side), bool).at[1::2, 1::2].set(True)
    return jax.lax.fori_loop(0, rooms**2 - 1, open_one, (grid, visited, room))[0]


def entrances(key: Key, rooms: int) -> tuple[Int[Array, "2"], Int[Array, "2"]]:
    """Return row and column of the entrance and of the exit, on opposite outer walls."""
    side_key, room_key = jax.random.split(key)
    upright, flipped = jax.random.bernoulli(side_key, shape=(2,))
    along = 2 * jax.random.randint(room_key, (2,), 0, rooms, jnp.int32) + 1
    across = jnp.where(flipped, jnp.array([2 * rooms, 0]), jnp.array([0, 2 * rooms]))
    ends = jnp.stack([across, along], 1).astype(jnp.int32)
    ends = jnp.where(upright, ends, ends[:, ::-1])
    return ends[0], ends[1]
