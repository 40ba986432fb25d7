"""Crafter's state as arrays of fixed shape, for JAX, and the way there and back.

Objects other than the player live in slots, in no particular order; an empty slot has kind 0.
Update order is the order of ids. A birth that finds every slot taken is lost, and counted.
The random generator stays behind: a compiled step takes its random numbers as an argument.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.errors import UserError
from rlssm.world_models.crafter import daylight
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    CHUNK_SIZE,
    DIRECTIONS,
    ITEMS,
    KINDS,
    Arrow,
    ChunkKey,
    Entity,
    GeneratorState,
    Plant,
    Player,
    Skeleton,
    WorldState,
    Zombie,
    chunk_of,
)

CAPACITY = 128  # the published 64 x 64 worlds hold up to about 100 objects

EMPTY = 0
KIND_NAMES = tuple(kind for kind in KINDS if kind != "player")
KIND_CODE = {kind: code for code, kind in enumerate(KIND_NAMES, start=1)}
COW, ZOMBIE, SKELETON, ARROW, PLANT = (
    KIND_CODE[kind] for kind in ("cow", "zombie", "skeleton", "arrow", "plant")
)

# Directions by number, with staying as the last.
VECTORS = np.array([*DIRECTIONS.values(), (0, 0)], np.int32)
NOWHERE = 4

FREE = -1  # nobody stands on a tile
COUNTERS = ("hunger", "thirst", "fatigue", "recover")


class Slots(NamedTuple):
    """Objects other than the player, leaves `[N]` int32 but `position`, `[N, 2]`.

    `timer` is a zombie's cooldown, a skeleton's reload or a plant's age; `facing` an arrow's
    direction.
    """

    kind: Int[Array, "*N"]
    id: Int[Array, "*N"]
    position: Int[Array, "*N 2"]
    health: Int[Array, "*N"]
    timer: Int[Array, "*N"]
    facing: Int[Array, "*N"]


class PlayerArrays(NamedTuple):
    """The player; items, achievements and counters in the order of their names' tuples."""

    position: Int[Array, "*B 2"]
    facing: Int[Array, "*B"]
    action: Int[Array, "*B"]
    health: Int[Array, "*B"]
    last_health: Int[Array, "*B"]
    sleeping: Bool[Array, "*B"]
    inventory: Int[Array, "*B 15"]
    achievements: Int[Array, "*B 22"]
    counters: Float[Array, "*B 4"]


class CrafterArrays(NamedTuple):
    """A Crafter state. Batches stack every leaf along a first axis.

    Attributes:
      materials: int8 `[X, Y]`, as in `WorldState`.
      player, slots: the objects.
      chunk_rank: int32 `[C]`, when each chunk first held an object, -1 for never; chunks lie in
        rows along y.
      next_id, step_count, update_range: int32, as in `WorldState`.
      lost: int32, births so far that found no slot; 0 where the state is exact.
    """

    materials: Int[Array, "*B X Y"]
    player: PlayerArrays
    slots: Slots
    chunk_rank: Int[Array, "*B C"]
    next_id: Int[Array, "*B"]
    step_count: Int[Array, "*B"]
    update_range: Int[Array, "*B"]
    lost: Int[Array, "*B"]


# --- There and back ---------------------------------------------------------------------------


def chunk_grid(size: tuple[int, ...]) -> tuple[int, int]:
    """Return how many chunks lie along x and along y."""
    return -(-size[0] // CHUNK_SIZE[0]), -(-size[1] // CHUNK_SIZE[1])


def chunk_index(size: tuple[int, int], chunk: ChunkKey) -> int:
    """Return the place of a chunk in `chunk_rank`."""
    return chunk[0] // CHUNK_SIZE[0] * chunk_grid(size)[1] + chunk[2] // CHUNK_SIZE[1]


def to_arrays(state: WorldState, capacity: int = CAPACITY) -> CrafterArrays:
    """Return a state as arrays with `capacity` slots.

    Raises:
      UserError: if it holds more objects than that.
    """
    others = state.objects[1:]
    if len(others) > capacity:
        raise UserError(f"capacity must be at least {len(others)} for this state, got {capacity}")
    ranks = np.full(np.prod(chunk_grid(state.size)), -1, np.int32)
    for rank, chunk in enumerate(state.known_chunks):
        ranks[chunk_index(state.size, chunk)] = rank
    return CrafterArrays(
        materials=jnp.asarray(state.materials),
        player=_player_to_arrays(state.player),
        slots=_slots(others, capacity),
        chunk_rank=_int32(ranks),
        next_id=_int32(state.next_id),
        step_count=_int32(state.step_count),
        update_range=_int32(state.update_range),
        lost=_int32(0),
    )


def stack(states: Sequence[CrafterArrays]) -> CrafterArrays:
    """Return a batch of states."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _direction(vector: tuple[int, int]) -> int:
    return list(DIRECTIONS.values()).index(vector)


def _int32(values: Any) -> Array:
    return jnp.asarray(values, jnp.int32)


def _player_to_arrays(player: Player) -> PlayerArrays:
    return PlayerArrays(
        position=_int32(player.position),
        facing=_int32(_direction(player.facing)),
        action=_int32(ACTIONS.index(player.action)),
        health=_int32(player.health),
        last_health=_int32(player.last_health),
        sleeping=jnp.asarray(player.sleeping),
        inventory=_int32([player.inventory[item] for item in ITEMS]),
        achievements=_int32([player.achievements[name] for name in ACHIEVEMENTS]),
        counters=jnp.asarray([getattr(player, name) for name in COUNTERS], jnp.float32),
    )


def _slots(entities: Sequence[Entity], capacity: int) -> Slots:
    columns: dict[str, np.ndarray] = {
        name: np.zeros((capacity, 2) if name == "position" else capacity, np.int32)
        for name in Slots._fields
    }
    for index, entity in enumerate(entities):
        columns["kind"][index] = KIND_CODE[entity.kind]
        columns["id"][index] = entity.entity_id
        columns["position"][index] = entity.position
        columns["health"][index] = entity.health
        columns["timer"][index] = _timer(entity)
        columns["facing"][index] = _direction(entity.facing) if isinstance(entity, Arrow) else 0
    return Slots(**{name: _int32(column) for name, column in columns.items()})


def _timer(entity: Entity) -> int:
    match entity:
        case Zombie():
            return entity.cooldown
        case Skeleton():
            return entity.reload
        case Plant():
            return entity.grown
    return 0


def from_arrays(arrays: CrafterArrays, view: tuple[int, int], random: GeneratorState) -> WorldState:
    """Return one state (not a batch) as objects; view and generator are not in the arrays."""
    arrays = jax.tree.map(np.asarray, arrays)
    size = arrays.materials.shape
    chunks = {
        int(arrays.chunk_rank[chunk_index(size, chunk)]): chunk
        for x in range(0, size[0], CHUNK_SIZE[0])
        for y in range(0, size[1], CHUNK_SIZE[1])
        for chunk in [chunk_of(size, (x, y))]
    }
    chunks.pop(-1, None)
    step_count = int(arrays.step_count)
    return WorldState(
        materials=arrays.materials.copy(),
        objects=[_player_from_arrays(arrays.player), *_entities(arrays.slots)],
        known_chunks=[chunks[rank] for rank in sorted(chunks)],
        next_id=int(arrays.next_id),
        view=view,
        random=random,
        step_count=step_count,
        daylight=daylight(step_count),
    )


def _player_from_arrays(player: PlayerArrays) -> Player:
    x, y = player.position.tolist()
    hunger, thirst, fatigue, recover = player.counters.tolist()
    return Player(
        entity_id=1,
        position=(x, y),
        health=int(player.health),
        facing=list(DIRECTIONS.values())[int(player.facing)],
        action=ACTIONS[int(player.action)],
        sleeping=bool(player.sleeping),
        achievements=dict(zip(ACHIEVEMENTS, player.achievements.tolist(), strict=True)),
        inventory=dict(zip(ITEMS, player.inventory.tolist(), strict=True)),
        hunger=hunger,
        thirst=thirst,
        fatigue=fatigue,
        recover=recover,
        last_health=int(player.last_health),
    )


def _entities(slots: Slots) -> list[Entity]:
    entities = []
    for index in np.argsort(slots.id):
        kind = int(slots.kind[index])
        if kind == EMPTY:
            continue
        x, y = slots.position[index].tolist()
        entity = KINDS[KIND_NAMES[kind - 1]](int(slots.id[index]), (x, y), int(slots.health[index]))
        timer = int(slots.timer[index])
        match entity:
            case Zombie():
                entity.cooldown = timer
            case Skeleton():
                entity.reload = timer
            case Plant():
                entity.grown = timer
            case Arrow():
                entity.facing = list(DIRECTIONS.values())[int(slots.facing[index])]
        entities.append(entity)
    return entities
