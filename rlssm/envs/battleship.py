"""Battleship: sink all ships on a board that is never shown.

Source: POPGym (Morad et al. 2023), whose moves, pay and placing of ships these are; a square is
named by one number, row by row, in place of two.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rlssm.envs.base import Step
from rlssm.envs.piles import draw
from rlssm.errors import require
from rlssm.types import Discrete, Key, Spec

SHIPS = (2, 3, 3, 4)  # squares of each


class BattleshipState(NamedTuple):
    """Where the ships are and which squares were shot at, row by row, and the steps taken."""

    ships: Bool[Array, " squares"]
    tried: Bool[Array, " squares"]
    time: Int[Array, ""]


@dataclass(frozen=True)
class Battleship:
    """Shoot at the squares of a board; the observation says whether the last shot hit, 0 or 1.

    A hit pays one over the squares that ships cover. Anything else, a square hit before included,
    costs one over the squares that they do not. So hits alone return 1, and every square once
    returns 0. Sinking all ships terminates (and is success); after as many shots as there are
    squares the episode is truncated.
    """

    board: int = 8

    def __post_init__(self) -> None:
        require(self.board >= 5, "board", self.board, "at least 5, so that all ships fit")

    @property
    def squares(self) -> int:
        return self.board**2

    @property
    def spec(self) -> Spec:
        return Spec(Discrete(2), Discrete(self.squares), max_episode_steps=self.squares)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[BattleshipState, Int[Array, ""]]:
        board = jnp.zeros((self.board, self.board), bool)
        for ship_key, length in zip(jax.random.split(key, len(SHIPS)), SHIPS, strict=True):
            board = place(ship_key, board, length)
        none = jnp.zeros((), jnp.int32)
        return BattleshipState(board.ravel(), jnp.zeros(self.squares, bool), none), none

    def step(
        self, key: Key, state: BattleshipState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[BattleshipState, Step]:
        hit = state.ships[action] & ~state.tried[action]
        covered = sum(SHIPS)
        state = BattleshipState(state.ships, state.tried.at[action].set(True), state.time + 1)
        terminated = jnp.all(state.tried | ~state.ships)
        reward = jnp.where(hit, 1 / covered, -1 / (self.squares - covered))
        return state, Step(
            obs=hit.astype(jnp.int32),
            reward=reward.astype(jnp.float32),
            terminated=terminated,
            truncated=(state.time >= self.squares) & ~terminated,
            info={"success": terminated},
        )


def place(key: Key, board: Bool[Array, "n n"], length: int) -> Bool[Array, "n n"]:
    """Return the board with one more ship, uniform among all the ways in which it fits."""
    size = len(board)

    def fits(board: Array) -> Bool[Array, "n starts"]:
        """Return where a ship along a row may begin."""
        starts = size - length + 1
        return ~jnp.any(jnp.stack([board[:, i : i + starts] for i in range(length)]), 0)

    ways = jnp.stack([fits(board), fits(board.T)])
    upright, row, start = jnp.unravel_index(draw(key, ways.ravel()), ways.shape)
    squares = jnp.arange(size)
    ship = (squares[:, None] == row) & (squares >= start) & (squares < start + length)
    return board | jnp.where(upright == 1, ship.T, ship)
