"""Observations and actions as feature vectors: flat, image, discrete and dict spaces."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from rlssm.nn.mlp import Precision, orthogonal
from rlssm.types import Box, DictSpace, Discrete, Space

ACTION_MASK = "action_mask"


def action_mask(obs: Any) -> Bool[Array, "*batch A"] | None:
    """Return the mask of allowed actions that an observation carries, or None."""
    return obs.get(ACTION_MASK) if isinstance(obs, dict) else None


def as_float(x: Shaped[Array, "*any"]) -> Float[Array, "*any"]:
    """Return an array as floating point: bytes as fractions of 255, other integers unchanged."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.float32) / (255 if x.dtype == jnp.uint8 else 1)


def encode_vector(space: Box | Discrete, x: Shaped[Array, "..."]) -> Float[Array, "*batch D"]:
    """Return a discrete value as a one-hot vector and an array flattened to a vector."""
    match space:
        case Discrete(n):
            return jax.nn.one_hot(x, n, dtype=jnp.float32)
        case Box(shape):
            batch = x.shape[: x.ndim - len(shape)]
            return as_float(x).reshape(*batch, -1)


class ImageEncoder(nn.Module):
    """Three 3x3 convolutions of stride 2 with relu, flattened.

    The smallest usual image network: it takes anything from a 5x5 grid to 84x84 pixels.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    precision: Precision = "default"

    @nn.compact
    def __call__(self, image: Float[Array, "*batch X Y C"]) -> Float[Array, "*batch D"]:
        batch = image.shape[:-3]
        x = image.reshape(-1, *image.shape[-3:])
        for i, channels in enumerate(self.channels):
            convolve = nn.Conv(
                channels,
                kernel_size=(3, 3),
                strides=2,
                kernel_init=orthogonal(2**0.5),
                precision=self.precision,
                name=f"conv_{i}",
            )
            x = nn.relu(convolve(x))
        return x.reshape(*batch, -1)


class Encoder(nn.Module):
    """An observation of any space as one feature vector.

    Rank-3 boxes are images `[X, Y, C]` and pass through `ImageEncoder`; other boxes are
    flattened; discrete values become one-hot vectors; a dict is the concatenation of its
    entries without `action_mask`.
    """

    space: Space
    precision: Precision = "default"

    @nn.compact
    def __call__(self, obs: Any) -> Float[Array, "*batch D"]:
        match self.space:
            case DictSpace(spaces):
                parts = [
                    Encoder(space, self.precision, name=name)(obs[name])
                    for name, space in spaces
                    if name != ACTION_MASK
                ]
                return jnp.concatenate(parts, axis=-1)
            case Box(shape) if len(shape) == 3:
                return ImageEncoder(precision=self.precision, name="image")(as_float(obs))
            case space:
                return encode_vector(space, obs)
