"""Which parts of the plane a batch of environments has been to, counted on the device.

The plane is cut into cells of one unit by one. `total` counts the cells ever visited, `queue` those
visited in the last 100,000 steps or so; both within 256 units of the origin, and steps beyond are
counted as `outside`.
Source: the state coverage of METRA (arXiv 2310.08887) and, of the queue, TLDR (arXiv 2407.08464).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlssm.types import Metrics

SIDE = 512  # cells
QUEUE = 100_000  # steps


class Visits(NamedTuple):
    """Cells visited by `B` environments.

    Attributes:
        seen: cells ever visited, bool `[SIDE, SIDE]`.
        recent: the numbers of the cells visited last, -1 where there is none, int32 `[B, R]`.
        steps: steps of each environment, int32.
        outside: steps of all of them that ended beyond the cells, int32.
    """

    seen: Bool[Array, "X Y"]
    recent: Int[Array, "B R"]
    steps: Int[Array, ""]
    outside: Int[Array, ""]

    @classmethod
    def start(cls, num_envs: int) -> "Visits":
        """Return no visits."""
        return cls(
            seen=jnp.zeros((SIDE, SIDE), bool),
            recent=jnp.full((num_envs, max(1, QUEUE // num_envs)), -1, jnp.int32),
            steps=jnp.zeros((), jnp.int32),
            outside=jnp.zeros((), jnp.int32),
        )

    def update(self, position: Float[Array, "B 2"]) -> "Visits":
        """Count one step of every environment."""
        cell = jnp.floor(position).astype(jnp.int32) + SIDE // 2
        inside = jnp.all((cell >= 0) & (cell < SIDE), axis=-1)
        x, y = jnp.where(inside[:, None], cell, SIDE).T  # SIDE is dropped
        number = jnp.where(inside, x * SIDE + y, -1)
        return Visits(
            seen=self.seen.at[x, y].set(True, mode="drop"),
            recent=self.recent.at[:, self.steps % self.recent.shape[1]].set(number),
            steps=self.steps + 1,
            outside=self.outside + jnp.sum(~inside, dtype=jnp.int32),
        )

    def metrics(self) -> Metrics:
        """Return the numbers of cells visited ever and lately, and of steps beyond them."""
        number = jnp.where(self.recent >= 0, self.recent, SIDE**2).ravel()
        lately = jnp.zeros(SIDE**2, bool).at[number].set(True, mode="drop")
        return {
            "coverage/total": jnp.sum(self.seen, dtype=jnp.int32),
            "coverage/queue": jnp.sum(lately, dtype=jnp.int32),
            "coverage/outside": self.outside,
        }
