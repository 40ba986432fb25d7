"""Drawing from a pile of cards by how many of each kind are left, and from what a mask allows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from rlssm.types import Key


def draw(key: Key, left: Shaped[Array, " kinds"]) -> Int[Array, ""]:
    """Return the kind of a card drawn from a shuffled pile; `kinds` if the pile is used up.

    Drawing card after card so has the distribution of a pile that was shuffled first. A mask is a
    pile of one card each, so that one of the places it allows is drawn.

    Args:
        key: of this draw.
        left: cards of each kind still in the pile, integers or a mask.
    """
    ends = jnp.cumsum(left, dtype=jnp.int32)
    card = jax.random.randint(key, (), 0, jnp.maximum(ends[-1], 1), jnp.int32)
    return jnp.sum(card >= ends, dtype=jnp.int32)
