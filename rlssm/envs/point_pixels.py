"""The point worlds as small images: a camera above the point, over a floor coloured by place.

`point/plane-pixels`, and so on. The camera moves with the point, so that the floor alone says where
one is; in front of a floor of one colour there would be nothing to spread over. An image `[rows,
columns, 3]` of bytes has its first row at the top and shows the square of `VIEW` units around the
point. With p the place in the middle of a pixel, `low` and `size` those of the world's extent,

    red   = 255 clip((p_x - low_x) / size_x, 0, 1), rounded,        green likewise of p_y,
    blue  = 255 where p is in a wall, else 0;

the point itself is a white disc. A step of half a unit on the plane changes red and green by 2.3.

Source: the coloured floors of METRA's pixel tasks (arXiv 2310.08887); these worlds are ours.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rlssm.envs.base import Step
from rlssm.envs.points import WORLDS as SEEN_AS_NUMBERS
from rlssm.envs.points import PointState, PointWorld
from rlssm.types import Box, Key, Spec

SIDE = 16  # pixels
VIEW = 8.0  # units that the camera sees, from side to side
RADIUS = 0.5  # units, of the white disc
BRIGHT = 255
SUFFIX = "-pixels"


@dataclass(frozen=True)
class PixelWorld:
    """A point world whose observations are images; all else, its states too, is as there."""

    env: PointWorld

    @property
    def spec(self) -> Spec:
        return replace(self.env.spec, obs=Box((SIDE, SIDE, 3), "uint8"))

    @property
    def params(self) -> tuple[()]:
        return self.env.params

    def reset(self, key: Key, params: tuple[()]) -> tuple[PointState, Array]:
        state, _ = self.env.reset(key, params)
        return state, self.draw(state.position)

    def step(
        self, key: Key, state: PointState, action: Array, params: tuple[()]
    ) -> tuple[PointState, Step]:
        state, step = self.env.step(key, state, action, params)
        return state, step._replace(obs=self.draw(state.position))

    def position(self, state: PointState) -> Float[Array, "2"]:
        return self.env.position(state)

    def at(self, key: Key, place: Float[Array, "2"], params: tuple[()]) -> Array:
        return self.draw(place)

    def goals(self, key: Key, count: int) -> Float[Array, "N 2"]:
        return self.env.goals(key, count)

    def draw(self, position: Float[Array, "2"]) -> UInt8[Array, "rows columns 3"]:
        """Return what the camera sees from above a place."""
        size, middle = self.env.extent
        offset = ((np.arange(SIDE) + 0.5) / SIDE - 0.5) * VIEW
        x, y = position[0] + offset, position[1] - offset  # of columns, and of rows from the top
        low = middle - size / 2
        red, green = (
            BRIGHT * jnp.clip((p - low[axis]) / size[axis], 0, 1) for axis, p in enumerate((x, y))
        )
        blue = BRIGHT * self.env.in_wall(x[None, :], y[:, None])
        floor = jnp.stack(jnp.broadcast_arrays(red[None, :], green[:, None], blue), axis=-1)
        disc = offset[None, :] ** 2 + offset[:, None] ** 2 <= RADIUS**2
        return jnp.round(jnp.where(disc[..., None], BRIGHT, floor)).astype(jnp.uint8)


WORLDS: dict[str, PixelWorld] = {
    f"{env_id}{SUFFIX}": PixelWorld(world) for env_id, world in SEEN_AS_NUMBERS.items()
}
IDS = tuple(WORLDS)
