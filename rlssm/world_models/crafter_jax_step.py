"""What the compiled rules of Crafter share: random numbers, tiles, births. One state, no batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.types import Key
from rlssm.world_models.crafter_slots import EMPTY, FREE, CrafterArrays, Slots, chunk_grid
from rlssm.world_models.schema import (
    ARROW_WALKABLE,
    CHUNK_SIZE,
    MATERIALS,
    PLAYER_WALKABLE,
    WALKABLE,
)

# Names of the draws in `crafter_creatures`, by column of `Draws.slots` and `Draws.chunks`.
SLOT_DRAWS = {
    "wander": 0, "chase": 1, "long axis": 2, "flee along the long axis": 3, "shoot": 4,
    "approach": 5, "direction": 6,
}  # fmt: skip
CHUNK_DRAWS = {
    f"{before}{kind}{after}": (row, column)
    for row, kind in enumerate(("zombie", "skeleton", "cow"))
    for column, (before, after) in enumerate(
        (("spawn ", ""), ("", " tile"), ("despawn ", ""), ("", " to vanish"))
    )
}

WALKABLE_FOR = {
    name: np.array([material in walkable for material in MATERIALS])
    for name, walkable in (
        ("creature", WALKABLE), ("arrow", ARROW_WALKABLE), ("player", PLAYER_WALKABLE)
    )
}  # fmt: skip


class Draws(NamedTuple):
    """Every uniform random number in [0, 1) that one step may use; most are not.

    An integer below n is floor(u n).
    """

    collect: Float[Array, "*B"]
    slots: Float[Array, "*B N 7"]
    chunks: Float[Array, "*B C 3 4"]


class Step(NamedTuple):
    """A state in the middle of a step, and who stands on each tile.

    `occupied` is int32 `[X, Y]`: a slot, N for the player, or `FREE`.
    """

    state: CrafterArrays
    occupied: Int[Array, "X Y"]


def sample_draws(key: Key, state: CrafterArrays) -> Draws:
    """Return the random numbers for one step of one state."""
    collect, slots, chunks = jax.random.split(key, 3)
    return Draws(
        jax.random.uniform(collect),
        jax.random.uniform(slots, (*state.slots.kind.shape, len(SLOT_DRAWS))),
        jax.random.uniform(chunks, (*state.chunk_rank.shape, 3, 4)),
    )


def below(draw: Float[Array, "*B"], n: Int[Array, "*B"] | int) -> Int[Array, "*B"]:
    """Return the integer in 0 .. n - 1 that a uniform number stands for."""
    return jnp.minimum(jnp.floor(draw * n).astype(jnp.int32), jnp.maximum(n, 1) - 1)


# --- Tiles ------------------------------------------------------------------------------------


def begin(state: CrafterArrays) -> Step:
    """Return a state with the map of who stands where."""
    slots = state.slots
    x, y = jnp.where(slots.kind == EMPTY, -1, slots.position.T)
    numbers = jnp.arange(len(slots.kind), dtype=jnp.int32)
    occupied = jnp.full(state.materials.shape, FREE, jnp.int32)
    occupied = occupied.at[_wrap(x, occupied), y].set(numbers, mode="drop")
    player = state.player.position
    return Step(state, occupied.at[player[0], player[1]].set(len(slots.kind)))


def _wrap(x: Int[Array, "*N"], tiles: Int[Array, "X Y"]) -> Int[Array, "*N"]:
    # Negative indices count from the end: send them beyond it, where writes are dropped.
    return jnp.where(x < 0, tiles.shape[0], x)


def look(tiles: Int[Array, "X Y"], positions: Int[Array, "*N 2"], outside: int) -> Int[Array, "*N"]:
    """Return the values of tiles, `outside` beyond the map."""
    x, y = positions[..., 0], positions[..., 1]
    inside = (x >= 0) & (x < tiles.shape[0]) & (y >= 0) & (y < tiles.shape[1])
    found = tiles[jnp.clip(x, 0, tiles.shape[0] - 1), jnp.clip(y, 0, tiles.shape[1] - 1)]
    return jnp.where(inside, found, outside)


def write(
    tiles: Int[Array, "X Y"],
    positions: Int[Array, "*N 2"],
    values: Int[Array, "*N"] | int,
    when: Bool[Array, "*N"],
) -> Int[Array, "X Y"]:
    """Return the tiles with values written where `when` holds."""
    x = jnp.where(when, positions[..., 0], tiles.shape[0])
    values = jnp.broadcast_to(jnp.asarray(values, tiles.dtype), x.shape)
    return tiles.at[x, positions[..., 1]].set(values, mode="drop")


def walkable(materials: Int[Array, "*N"], who: str) -> Bool[Array, "*N"]:
    """Return whether a kind of walker may stand on materials; never on none."""
    return (materials >= 0) & jnp.asarray(WALKABLE_FOR[who])[jnp.maximum(materials, 0)]


def chunk_at(positions: Int[Array, "*N 2"], size: tuple[int, ...]) -> Int[Array, "*N"]:
    """Return the chunk index of tiles."""
    row = positions[..., 0] // CHUNK_SIZE[0] * chunk_grid(size)[1]
    return row + positions[..., 1] // CHUNK_SIZE[1]


def know_chunk(
    rank: Int[Array, " C"], position: Int[Array, " 2"], size: tuple[int, ...], when: Bool[Array, ""]
) -> Int[Array, " C"]:
    """Return the ranks with the chunk of a tile added if it is new and `when` holds."""
    here = jnp.arange(rank.shape[0]) == chunk_at(position, size)
    known = jnp.sum(rank >= 0, dtype=rank.dtype)
    return jnp.where(here & (rank < 0) & when, known, rank)


# --- Births -----------------------------------------------------------------------------------


def add(
    step: Step,
    when: Bool[Array, ""],
    kind: int,
    position: Int[Array, " 2"],
    health: int,
    facing: Int[Array, ""] | int = 0,
) -> Step:
    """Return the step with a newborn object in the first empty slot, where `when` holds."""
    state, occupied = step
    slots = state.slots
    empty = slots.kind == EMPTY
    room = jnp.any(empty)
    slot = jnp.argmax(empty).astype(jnp.int32)
    born = when & room
    new = Slots(
        jnp.int32(kind),
        state.next_id,
        position,
        jnp.int32(health),
        jnp.int32(0),
        jnp.asarray(facing, jnp.int32),
    )
    here = (jnp.arange(empty.shape[0]) == slot) & born
    state = state._replace(
        slots=replace_rows(slots, here, new),
        next_id=state.next_id + born,
        chunk_rank=know_chunk(state.chunk_rank, position, state.materials.shape, born),
        lost=state.lost + (when & ~room),
    )
    return Step(state, write(occupied, position, slot, born))


def replace_rows(slots: Slots, where: Bool[Array, " N"], new: Slots) -> Slots:
    """Return the slots with one object's values wherever `where` holds."""
    return jax.tree.map(
        lambda old, value: jnp.where(
            where.reshape(where.shape + (1,) * (old.ndim - 1)), value, old
        ).astype(old.dtype),
        slots,
        new,
    )
