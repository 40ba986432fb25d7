"""Minesweeper on a board that is never shown: open all squares but those with mines.

Source: POPGym (Morad et al. 2023), whose moves and pay these are; a square is named by one number,
row by row, in place of two.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from rlssm.envs.base import Step
from rlssm.errors import require
from rlssm.types import Discrete, Key, Spec

MOST_COUNTED = 9  # mines on and around one square


class MinesweeperState(NamedTuple):
    """Where mines are and which squares were opened, row by row, and the steps taken."""

    mines: Bool[Array, " squares"]
    opened: Bool[Array, " squares"]
    time: Int[Array, ""]


@dataclass(frozen=True)
class Minesweeper:
    """Open squares; the observation says how many mines are on and around the last one.

    With n squares without a mine, opening one of them pays 1/n, one that is open already costs
    1/2 over n - 2, and a mine costs 1/2 + 1/n and terminates. So do all n squares opened, which is
    success and returns 1 where it took n steps. The episode is truncated after n of them.
    """

    side: int = 4
    mines: int = 2

    def __post_init__(self) -> None:
        require(self.side >= 2, "side", self.side, "at least 2")
        most = self.squares - 3
        require(1 <= self.mines <= most, "mines", self.mines, f"from 1 to {most}")

    @property
    def squares(self) -> int:
        return self.side**2

    @property
    def safe(self) -> int:
        """Squares without a mine, and the length of an episode."""
        return self.squares - self.mines

    @property
    def spec(self) -> Spec:
        counts = Discrete(min(self.mines, MOST_COUNTED) + 1)
        return Spec(counts, Discrete(self.squares), max_episode_steps=self.safe)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[MinesweeperState, Int[Array, ""]]:
        mines = jax.random.permutation(key, self.squares) < self.mines
        none = jnp.zeros((), jnp.int32)
        return MinesweeperState(mines, jnp.zeros(self.squares, bool), none), none

    def step(
        self, key: Key, state: MinesweeperState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[MinesweeperState, Step]:
        dead, again = state.mines[action], state.opened[action]
        opened, time = state.opened.at[action].set(~dead), state.time + 1
        swept = ~dead & jnp.all(opened | state.mines)
        near = jnp.asarray(_neighbours(self.side))[action]
        reward = jnp.where(again, -0.5 / (self.safe - 2), 1 / self.safe)
        reward = jnp.where(dead, -0.5 - 1 / self.safe, reward)
        terminated = dead | swept
        return MinesweeperState(state.mines, opened, time), Step(
            obs=jnp.sum(near & state.mines, dtype=jnp.int32),
            reward=reward.astype(jnp.float32),
            terminated=terminated,
            truncated=(time >= self.safe) & ~terminated,
            info={"success": swept},
        )


def _neighbours(side: int) -> Bool[np.ndarray, "squares squares"]:
    """Return which squares are one and the same or touch, at corners too."""
    row, column = np.divmod(np.arange(side**2), side)
    return (np.abs(row[:, None] - row) <= 1) & (np.abs(column[:, None] - column) <= 1)
