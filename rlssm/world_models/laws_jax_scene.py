"""A state of Crafter and an action as laws see them, on arrays: the compiled `crafter_scene`.

Every value is a float32 number: a truth value is 0 or 1, and a name goes by its code. What laws of
one scope may be bound to lies along one axis `K`: the slots for creatures, the chunks, or a single
place for the player and the world.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.errors import UserError
from rlssm.world_models.crafter import DAY_LENGTH, daylight
from rlssm.world_models.crafter_jax_step import begin, chunk_at, look, walkable
from rlssm.world_models.crafter_slots import (
    ARROW,
    COUNTERS,
    COW,
    EMPTY,
    FREE,
    KIND_CODE,
    NOWHERE,
    PLANT,
    SKELETON,
    VECTORS,
    ZOMBIE,
    CrafterArrays,
    PlayerArrays,
    chunk_grid,
)
from rlssm.world_models.crafter_vocabulary import ATTRIBUTES
from rlssm.world_models.object_view import Value
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    CHUNK_SIZE,
    DIRECTIONS,
    ITEMS,
    MATERIAL_INDEX,
    MATERIALS,
    RIPE_AFTER,
)

PLAYER = 0  # the player's code as a kind of object
NEW, NONE = 98, 99
CODES: dict[str, int] = {
    **{name: code for code, name in enumerate((*DIRECTIONS, "stay"))},
    **MATERIAL_INDEX,
    **{action: code for code, action in enumerate(ACTIONS)},
    "player": PLAYER,
    **KIND_CODE,
    "new": NEW,
    "none": NONE,
}
NEAR = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1))
TIMERS = {"cooldown": ZOMBIE, "reload": SKELETON, "grown": PLANT}

_DARKNESS = np.array([int(3.5 - 3 * daylight(step)) for step in range(DAY_LENGTH)], np.float32)


class Feature(NamedTuple):
    """A feature of each binding, and where it has a value."""

    value: Float[Array, " K"]
    known: Bool[Array, " K"]


def code_of(value: Value) -> float:
    """Return the number that stands for a value."""
    return float(CODES[value]) if isinstance(value, str) else float(value)  # ty: ignore[invalid-argument-type]: pairs occur in no law


PLAYER_ATTRIBUTES = tuple(ATTRIBUTES["player"])
PLAYER_INDEX = {name: index for index, name in enumerate(PLAYER_ATTRIBUTES)}
PLAYER_INDEX["inventory.health"] = PLAYER_INDEX["health"]
_INVENTORY, _ACHIEVEMENTS, _COUNTERS = (
    np.array([PLAYER_INDEX[name] for name in names])
    for names in (
        [f"inventory.{item}" for item in ITEMS],
        [f"achievements.{name}" for name in ACHIEVEMENTS],
        COUNTERS,
    )
)
_SINGLE = ("health", "facing", "action", "sleeping", "last_health")


def pack_player(player: PlayerArrays) -> Float[Array, " P"]:
    """Return every attribute of the player but the position, in the order of their names."""
    parts = [jnp.stack([getattr(player, name).astype(jnp.float32) for name in _SINGLE])]
    parts += [player.counters, player.inventory, player.achievements]
    order = [PLAYER_INDEX[name] for name in _SINGLE]
    order = np.argsort([*order, *_COUNTERS, *_INVENTORY, *_ACHIEVEMENTS])
    return jnp.concatenate([part.astype(jnp.float32) for part in parts])[order]


def unpack_player(values: Float[Array, " P"], player: PlayerArrays) -> PlayerArrays:
    """Return the player with attributes as `pack_player` gives them."""
    single = {
        name: jnp.round(values[PLAYER_INDEX[name]]).astype(getattr(player, name).dtype)
        for name in _SINGLE
    }
    return player._replace(
        **single,
        inventory=jnp.round(values[_INVENTORY]).astype(player.inventory.dtype),
        achievements=jnp.round(values[_ACHIEVEMENTS]).astype(player.achievements.dtype),
        counters=values[_COUNTERS].astype(player.counters.dtype),
    )


def group_of(scope: str) -> str:
    """Return the axis of a scope: creatures of all kinds share one."""
    return "creature" if scope in KIND_CODE else scope


class ArrayScene:
    """What laws can ask of one state (not a batch) and an action."""

    def __init__(self, state: CrafterArrays, action: Int[Array, ""]) -> None:
        self.state = state
        self.action = action
        self.slots = state.slots
        self.capacity = state.slots.kind.shape[0]
        self.player = pack_player(state.player)
        self.occupied = begin(state).occupied
        self.target = (state.player.position + jnp.asarray(VECTORS)[state.player.facing])[None]
        self.front = state.slots.position + jnp.asarray(VECTORS)[state.slots.facing]
        self.offset = state.player.position - state.slots.position
        self.distance = jnp.sum(jnp.abs(self.offset), -1)
        self._cache: dict[tuple[str, str], Feature] = {}
        self._looked: dict[str, tuple[Array, Array]] = {}
        self._free: dict[str, Array] = {}

    def bound(self, group: str) -> Bool[Array, " K"]:
        """Return which places of an axis hold something in range."""
        if group in ("player", "world"):
            return jnp.ones(1, bool)
        if group == "chunk":
            return self.state.chunk_rank >= 0
        return (self.slots.kind != EMPTY) & (self.distance < self.state.update_range)

    def occupant(self, places: Int[Array, "*K 2"]) -> Int[Array, "*K"]:
        """Return who stands on tiles: a slot, the number of slots for the player, or `FREE`."""
        return look(self.occupied, places, FREE)

    def read(self, scope: str, feature: str) -> Feature:
        """Return a feature of every binding of a scope."""
        key = group_of(scope), feature
        if key not in self._cache:
            value, known = self._read(*key)
            shape = self.bound(key[0]).shape
            self._cache[key] = Feature(
                jnp.broadcast_to(jnp.asarray(value, jnp.float32), shape),
                jnp.broadcast_to(jnp.asarray(known, bool), shape),
            )
        return self._cache[key]

    def _read(self, group: str, feature: str) -> tuple[Array, Array | bool]:
        subject, _, name = feature.partition(".")
        count = self.state.step_count
        match subject:
            case "self":
                return self._of_self(group, name)
            case "player":
                return self.player[PLAYER_INDEX[name]], True
            case "target" | "front":
                return self._of_tile(subject, name)
            case "near":
                return self._near(name), True
            case "chunk":
                counts = self._of_chunk(name)
                here = chunk_at(self.slots.position, self.state.materials.shape)
                return counts if group == "chunk" else counts[here], True
            case "action" if name == "name":
                return self.action, True
            case "action":
                return self.action - 1, (self.action >= 1) & (self.action <= 4)
            case "step":
                return count if name == "count" else count % 10, True
            case "darkness":
                return jnp.asarray(_DARKNESS)[(count + 1) % DAY_LENGTH], True
        raise UserError(f"feature {feature} is not compiled; a law can read darkness instead")

    def _near(self, material: str) -> Array:
        # As in the NumPy rules, there is nothing near at x = 0 or y = 0.
        position = self.state.player.position
        around = look(self.state.materials, position + jnp.asarray(NEAR), -1)
        return jnp.any(around == MATERIAL_INDEX[material]) & jnp.all(position > 0)

    def _of_self(self, group: str, name: str) -> tuple[Array, Array | bool]:
        slots = self.slots
        match name.split("."):
            case ["free", direction]:
                return self.free(group)[:, CODES[direction]], True
            case ["distance"]:
                return self.distance, True
            case ["material"]:
                return look(self.state.materials, slots.position, -1), True
            case ["toward_long" | "toward_short" | "away_long" | "away_short"]:
                direction = _toward(self.offset, name.endswith("long"))
                if name.startswith("away"):
                    direction = jnp.where(direction == NOWHERE, NOWHERE, direction ^ 1)
                return direction, True
            case ["beside_mob"]:
                return jnp.any(self._is_mob(self._around("creature")[0]), -1), True
            case ["ripe"]:
                return slots.timer > RIPE_AFTER, True
            case ["health" | "facing"]:
                return getattr(slots, name), True
        if name in TIMERS:
            return slots.timer, True
        raise UserError(f"feature self.{name} is not compiled")

    def _of_tile(self, which: str, name: str) -> tuple[Array, Array | bool]:
        occupant, material = self.at(which)
        slot = jnp.clip(occupant, 0, self.capacity - 1)
        is_slot = (occupant >= 0) & (occupant < self.capacity)
        is_player = occupant == self.capacity
        match name:
            case "material":
                return material, material >= 0
            case "object":
                kind = jnp.where(is_player, PLAYER, self.slots.kind[slot])
                return jnp.where(occupant == FREE, NONE, kind), True
            case "free":
                walker = "player" if which == "target" else "arrow"
                return (occupant == FREE) & walkable(material, walker), True
            case "health":
                health = jnp.where(is_player, self.state.player.health, self.slots.health[slot])
                return health, occupant != FREE
            case "ripe":
                ripe = self.slots.timer[slot] > RIPE_AFTER
                return ripe, is_slot & (self.slots.kind[slot] == PLANT)
        raise UserError(f"a tile's {name} is not compiled")

    def at(self, which: str) -> tuple[Int[Array, " K"], Int[Array, " K"]]:
        """Return who stands on the tiles "target" or "front", and the materials, -1 off the map."""
        if which not in self._looked:
            places = self.target if which == "target" else self.front
            seen = self.occupant(places), look(self.state.materials, places, -1)
            self._looked[which] = seen
        return self._looked[which]

    def _around(self, group: str) -> tuple[Int[Array, "K 4"], Int[Array, "K 4"]]:
        """Return who stands in the four directions, and the materials there."""
        key = f"around {group}"
        if key not in self._looked:
            here = self.slots.position if group == "creature" else self.state.player.position[None]
            places = here[:, None] + jnp.asarray(VECTORS[:NOWHERE])
            self._looked[key] = self.occupant(places), look(self.state.materials, places, -1)
        return self._looked[key]

    def free(self, group: str) -> Bool[Array, "K 5"]:
        """Return in which of the four directions a tile is free, and last that staying is."""
        if group not in self._free:
            occupant, material = self._around(group)
            if group == "player":
                passable = walkable(material, "player")
            else:
                arrow = (self.slots.kind == ARROW)[:, None]
                passable = walkable(material, "creature")
                passable = jnp.where(arrow, walkable(material, "arrow"), passable)
            stays = jnp.ones((occupant.shape[0], 1), bool)
            self._free[group] = jnp.concatenate([(occupant == FREE) & passable, stays], 1)
        return self._free[group]

    def _is_mob(self, occupant: Array) -> Array:
        kind = self.slots.kind[jnp.clip(occupant, 0, self.capacity - 1)]
        mob = (kind == COW) | (kind == ZOMBIE) | (kind == SKELETON)
        return (occupant >= 0) & (occupant < self.capacity) & mob

    def _of_chunk(self, name: str) -> Int[Array, " C"]:
        size = self.state.materials.shape
        if name in MATERIALS:
            return count_by_chunk(self.state.materials == MATERIAL_INDEX[name])
        here = chunk_at(self.slots.position, size)
        member = self.slots.kind == KIND_CODE[name]
        return jnp.zeros(self.state.chunk_rank.shape, jnp.int32).at[here].add(member)


def count_by_chunk(where: Bool[Array, "X Y"]) -> Int[Array, " C"]:
    """Return how many tiles of each chunk are True."""
    across, along = chunk_grid(where.shape)
    wide = across * CHUNK_SIZE[0] - where.shape[0], along * CHUNK_SIZE[1] - where.shape[1]
    padded = jnp.pad(where, ((0, wide[0]), (0, wide[1])))
    blocks = padded.reshape(across, CHUNK_SIZE[0], along, CHUNK_SIZE[1])
    return jnp.sum(blocks, (1, 3), dtype=jnp.int32).ravel()


def chunk_map(size: tuple[int, ...]) -> Int[Array, "X Y"]:
    """Return the chunk index of every tile."""
    x, y = np.indices(size)
    return jnp.asarray(x // CHUNK_SIZE[0] * chunk_grid(size)[1] + y // CHUNK_SIZE[1])


def _toward(offset: Int[Array, "N 2"], long_axis: bool) -> Int[Array, " N"]:
    dx, dy = offset.T
    along_x = jnp.abs(dx) > jnp.abs(dy) if long_axis else jnp.abs(dx) <= jnp.abs(dy)
    step = jnp.where(along_x, dx, dy)
    direction = jnp.where(step > 0, 1, 0) + jnp.where(along_x, 0, 2)
    return jnp.where(step == 0, NOWHERE, direction)
