"""Creatures appearing and vanishing in a compiled Crafter step, all chunks at once."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.world_models.crafter import DAY_LENGTH, daylight
from rlssm.world_models.crafter_creatures import POPULATIONS, Population
from rlssm.world_models.crafter_jax_step import Draws, Step, below, chunk_at, look, write
from rlssm.world_models.crafter_slots import EMPTY, FREE, KIND_CODE, Slots, chunk_grid
from rlssm.world_models.schema import CHUNK_SIZE, MATERIAL_INDEX

_TILES = CHUNK_SIZE[0] * CHUNK_SIZE[1]
_TARGETS = {  # [phase of the day, (least, most)], where there is space enough
    population.kind: np.array(
        [population.target(_TILES, daylight(t)) for t in range(DAY_LENGTH)], np.int32
    )
    for population in POPULATIONS
}


def balance(step: Step, draws: Draws) -> Step:
    """Let creatures of each kind appear in or vanish from every known chunk.

    Chunks do not touch one another; what orders them is only which newborn gets which id.
    """
    births: list[tuple[Population, Bool[Array, " C"], Int[Array, "C 2"]]] = []
    for row, population in enumerate(POPULATIONS):
        step, born, places = _balance_kind(step, population, draws.chunks[:, row])
        births.append((population, born, places))
    return _give_birth(step, births)


def _balance_kind(
    step: Step, population: Population, draws: Float[Array, "C 4"]
) -> tuple[Step, Bool[Array, " C"], Int[Array, "C 2"]]:
    state, slots = step.state, step.state.slots
    size, player = state.materials.shape, state.player.position
    known = state.chunk_rank >= 0
    chunks = jnp.arange(known.shape[0])
    of_kind = slots.kind == KIND_CODE[population.kind.kind]
    member = of_kind & (chunk_at(slots.position, size) == chunks[:, None])  # [C, N]
    count = jnp.sum(member, -1)
    tiles = _chunk_tiles(state.materials) == MATERIAL_INDEX[population.material]  # [C, 144]
    space = jnp.sum(tiles, -1)
    least, most = _targets(population, state.step_count, space)
    enter, tile, leave, who = draws.T

    born = known & (count < least) & (enter < population.spawn_probability)
    inner = _nth(tiles, below(tile, space))
    corner = jnp.stack(jnp.divmod(chunks, chunk_grid(size)[1]), -1) * jnp.array(CHUNK_SIZE)
    place = corner + jnp.stack(jnp.divmod(inner, CHUNK_SIZE[1]), -1)
    empty = look(step.occupied, place, 0) == FREE
    born &= empty & (_away(place, player) >= population.spawn_distance)

    leaves = known & (count > most) & (leave < population.despawn_probability)
    order = jnp.argsort(slots.id)
    chosen = order[_nth(member[:, order], below(who, count))]
    leaves &= _away(slots.position[chosen], player) >= population.despawn_distance
    # A chunk's newborn blocks its tile for kinds that come later; its slot is not known yet.
    occupied = write(step.occupied, slots.position[chosen], FREE, leaves)
    occupied = write(occupied, place, slots.kind.shape[0], born)
    gone = jnp.any(leaves[:, None] & (chosen[:, None] == jnp.arange(of_kind.shape[0])), 0)
    slots = slots._replace(kind=jnp.where(gone, EMPTY, slots.kind))
    return Step(state._replace(slots=slots), occupied), born, place


def _targets(
    population: Population, step_count: Int[Array, ""], space: Int[Array, " C"]
) -> tuple[Int[Array, " C"], Int[Array, ""]]:
    least, most = jnp.asarray(_TARGETS[population.kind])[step_count % DAY_LENGTH]
    # In the dark every kind is wanted, so that what remains is whether there is space.
    enough = np.array([population.target(tiles, 0.0)[0] > 0 for tiles in range(_TILES + 1)])
    return jnp.where(jnp.asarray(enough)[space], least, 0), most


def _chunk_tiles(materials: Int[Array, "X Y"]) -> Int[Array, "C 144"]:
    """Return each chunk's materials in order of x, then y; -1 beyond the map."""
    across, along = chunk_grid(materials.shape)
    wide = across * CHUNK_SIZE[0] - materials.shape[0], along * CHUNK_SIZE[1] - materials.shape[1]
    padded = jnp.pad(materials, ((0, wide[0]), (0, wide[1])), constant_values=-1)
    blocks = padded.reshape(across, CHUNK_SIZE[0], along, CHUNK_SIZE[1])
    return blocks.swapaxes(1, 2).reshape(across * along, _TILES)


def _nth(where: Bool[Array, "C M"], n: Int[Array, " C"]) -> Int[Array, " C"]:
    """Return the index of the n-th True of each row, counted from 0."""
    return jnp.argmax(jnp.cumsum(where, -1) > n[:, None], -1)


def _away(places: Int[Array, "C 2"], player: Int[Array, " 2"]) -> Int[Array, " C"]:
    return jnp.sum(jnp.abs(places - player), -1)


def _give_birth(
    step: Step, births: list[tuple[Population, Bool[Array, " C"], Int[Array, "C 2"]]]
) -> Step:
    """Return the step with all newborn creatures: ids in order of chunks, then of kinds."""
    state, slots = step.state, step.state.slots
    capacity = slots.kind.shape[0]
    born = jnp.stack([flags for _, flags, _ in births], -1)  # [C, 3]
    rank = state.chunk_rank[:, None] * len(births) + jnp.arange(len(births))
    order = jnp.argsort(jnp.where(born, rank, jnp.iinfo(rank.dtype).max).ravel())
    number = (
        jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0], dtype=jnp.int32))
    )
    empty = jnp.argsort(slots.kind != EMPTY)  # empty slots first
    room = jnp.sum(slots.kind == EMPTY, dtype=jnp.int32)
    lives = born.ravel() & (number < room)
    slot = jnp.where(lives, empty[jnp.minimum(number, capacity - 1)], capacity)
    kinds = [KIND_CODE[population.kind.kind] for population, _, _ in births]
    healths = [population.kind.full_health for population, _, _ in births]
    zeros = jnp.zeros(number.shape, jnp.int32)
    new = Slots(
        kind=jnp.broadcast_to(jnp.array(kinds), born.shape).ravel(),
        id=state.next_id + number,
        position=jnp.stack([places for _, _, places in births], 1).reshape(-1, 2),
        health=jnp.broadcast_to(jnp.array(healths), born.shape).ravel(),
        timer=zeros,
        facing=zeros,
    )
    slots = Slots(
        *(
            old.at[slot].set(value.astype(old.dtype), mode="drop")
            for old, value in zip(slots, new, strict=True)
        )
    )
    living = jnp.sum(lives, dtype=jnp.int32)
    lost = state.lost + jnp.sum(born, dtype=jnp.int32) - living
    state = state._replace(slots=slots, next_id=state.next_id + living, lost=lost)
    return Step(state, step.occupied)
