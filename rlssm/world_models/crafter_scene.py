"""A state of Crafter and the action taken in it, as laws see them."""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np

from rlssm.world_models.crafter import daylight
from rlssm.world_models.crafter_vocabulary import (
    ATTRIBUTES,
    CREATURES,
    DAYLIGHT_DIGITS,
    REFERENCE_COUNT,
    REFERENCE_EXISTS,
    REFERENCE_NUMBER,
    TILE,
    WORLD,
    read_attribute,
)
from rlssm.world_models.object_view import (
    BOOLEAN,
    MOVE_NAMES,
    Displacements,
    Domain,
    Key,
    Numbers,
    Observable,
    Value,
    vector_of,
)
from rlssm.world_models.schema import (
    ARROW_WALKABLE,
    DIRECTIONS,
    MATERIAL_INDEX,
    PLAYER_WALKABLE,
    WALKABLE,
    Arrow,
    ChunkKey,
    Cow,
    Entity,
    Plant,
    Player,
    Position,
    Skeleton,
    WorldState,
    Zombie,
    chunk_of,
    distance,
    inside,
    material_at,
    nearby_materials,
    shift,
    toward,
)

Binding: TypeAlias = Entity | ChunkKey | None


class CrafterScene:
    """What laws can ask of a state and an action; `reference` selects the published observables.

    `facing` adds to these what no plan can do without: the direction that the player faces, and
    the material of the tile in front, which is optional in the released code.
    """

    def __init__(
        self, state: WorldState, action: str, reference: bool, facing: bool = False
    ) -> None:
        self.state = state
        self.action = action
        self.reference = reference
        self.facing = facing
        self.by_id = {entity.entity_id: entity for entity in state.objects}
        self.occupants = {entity.position: entity for entity in state.objects}

    @property
    def player(self) -> Player:
        return self.state.player

    def bindings(self, scope: str) -> Sequence[Binding]:
        if scope == "world":
            return [None]
        if scope == "chunk":
            return self.state.known_chunks
        return self._in_range.get(scope, [])

    @cached_property
    def _in_range(self) -> dict[str, list[Entity]]:
        found: dict[str, list[Entity]] = {}
        for entity in self.state.objects:
            if distance(entity.position, self.player.position) < self.state.update_range:
                found.setdefault(entity.kind, []).append(entity)
        return found

    # --- Features -----------------------------------------------------------------------------

    def read(self, binding: Binding, feature: str) -> Value | None:
        subject, _, name = feature.partition(".")
        match subject:
            case "self":
                return self._of_object(binding, name)
            case "player":
                return read_attribute(self.player, name)
            case "target":
                return self._of_tile(self.player.target, name, PLAYER_WALKABLE)
            case "front":
                return self._of_tile(self._front(binding), name, ARROW_WALKABLE)
            case "near":
                return name in self._near
            case "chunk":
                return self._of_chunk(binding, name)
            case "action":
                if name == "name":
                    return self.action
                verb, _, direction = self.action.partition("_")
                return direction if verb == "move" else None
            case "step":
                count = self.state.step_count
                return count if name == "count" else count % 10
            case "daylight":
                return _light(self.state.step_count + (name == "next"))
            case "darkness":
                return int(3.5 - 3 * daylight(self.state.step_count + 1))
        raise KeyError(feature)

    @cached_property
    def _near(self) -> set[str]:
        return nearby_materials(self.state, self.player.position)

    def _of_object(self, binding: Binding, name: str) -> Value:
        entity = _entity(binding)
        origin, goal = entity.position, self.player.position
        match name.split("."):
            case ["free", direction]:
                return self._is_free(shift(origin, DIRECTIONS[direction]), _walkable(entity))
            case ["distance"]:
                return distance(origin, goal)
            case ["material"]:
                return material_at(self.state, origin) or "none"
            case ["toward_long" | "toward_short"]:
                return MOVE_NAMES[toward(origin, goal, name == "toward_long")]
            case ["away_long" | "away_short"]:
                dx, dy = toward(origin, goal, name == "away_long")
                return MOVE_NAMES[-dx, -dy]
            case ["beside_mob"]:
                around = (self.occupants.get(shift(origin, side)) for side in DIRECTIONS.values())
                return any(isinstance(other, Zombie | Skeleton | Cow) for other in around)
        return read_attribute(entity, name)

    def _of_tile(self, position: Position, name: str, walkable: frozenset[str]) -> Value | None:
        entity = self.occupants.get(position)
        match name:
            case "material":
                return material_at(self.state, position)
            case "object":
                return "none" if entity is None else entity.kind
            case "free":
                return self._is_free(position, walkable)
            case "health":
                return None if entity is None else entity.health
            case "ripe":
                return entity.ripe if isinstance(entity, Plant) else None
        raise KeyError(name)

    def _of_chunk(self, binding: Binding, name: str) -> int:
        chunk = self._chunk(binding)
        if name in MATERIAL_INDEX:
            return len(self._tiles(chunk, name))
        x0, x1, y0, y1 = chunk
        return sum(
            entity.kind == name and x0 <= entity.position[0] < x1 and y0 <= entity.position[1] < y1
            for entity in self.state.objects
        )

    def _chunk(self, binding: Binding) -> ChunkKey:
        if isinstance(binding, tuple):
            return binding
        return chunk_of(self.state.size, _entity(binding).position)

    def _tiles(self, chunk: ChunkKey, material: str) -> tuple[Position, ...]:
        x0, x1, y0, y1 = chunk
        region = self.state.materials[x0:x1, y0:y1]
        return _places((x0, y0), region.shape, region.tobytes(), MATERIAL_INDEX[material])

    def _front(self, binding: Binding) -> Position:
        entity = _entity(binding)
        facing = entity.facing if isinstance(entity, Player | Arrow) else (0, 0)
        return shift(entity.position, facing)

    def _is_free(self, position: Position, walkable: frozenset[str]) -> bool:
        return position not in self.occupants and material_at(self.state, position) in walkable

    # --- Observables --------------------------------------------------------------------------

    def keys(self, binding: Binding, observable: Observable) -> Sequence[Key]:
        of, attribute = observable.of, observable.attribute
        if of == "world":
            return [] if self.reference else [Key("world", 0, attribute)]
        if of.endswith(" tiles"):
            places = self._tiles(self._chunk(binding), of.removesuffix(" tiles"))
            places = [place for place in places if place not in self.occupants]
            return [] if self.reference else _TileKeys(places, attribute)
        if of in ("self", "player"):
            entity = self.player if of == "player" else _entity(binding)
            return self._entity_keys(entity, attribute)
        place = {
            "target": lambda: self.player.target,
            "front": lambda: self._front(binding),
            "toward": lambda: self._toward(_entity(binding)),
        }[of]()
        if attribute in TILE:
            faced = self.facing and (of, attribute) == ("target", "material")
            shown = inside(self.state.size, place) and (faced or not self.reference)
            return [Key("tile", place, attribute)] if shown else []
        entity = self.occupants.get(place)
        return [] if entity is None else self._entity_keys(entity, attribute)

    def _toward(self, entity: Entity) -> Position:
        return shift(entity.position, toward(entity.position, self.player.position))

    def _entity_keys(self, entity: Entity, attribute: str) -> list[Key]:
        kind, number = entity.kind, entity.entity_id
        if self.reference:
            names = self.reference_names(kind)
            wanted = ["position_x", "position_y"] if attribute == "displacement" else [attribute]
            return [Key(kind, number, name) for name in wanted if name in names]
        if attribute == "inventory.health":
            attribute = "health"
        known = attribute in ("displacement", "alive") or attribute in ATTRIBUTES[kind]
        return [Key(kind, number, attribute)] if known else []

    def reference_names(self, kind: str) -> tuple[str, ...]:
        """Return the observables of an object of a kind, beside its existence (reference only)."""
        names = reference_attributes(kind)
        return (*names, "facing") if self.facing and kind == "player" else names

    def old(self, key: Key) -> Value:
        match key:
            case Key("world", _, attribute):
                if attribute.startswith("count."):
                    return self._count(attribute.removeprefix("count."))
                return self.state.step_count if attribute == "step_count" else self._light_now
            case Key("tile", tuple(place), attribute):
                return str(material_at(self.state, place)) if attribute == "material" else "none"
            case Key(_, int(number), attribute):
                return read_observed(self.by_id[number], attribute)
        raise KeyError(key)

    @property
    def _light_now(self) -> float:
        return round(self.state.daylight, DAYLIGHT_DIGITS)

    def domain(self, key: Key) -> Domain:
        kind, owner, attribute = key
        if self.reference and kind != "tile" and attribute != "facing":
            if attribute.startswith("count."):
                return REFERENCE_COUNT
            return REFERENCE_EXISTS if attribute == "exists" else REFERENCE_NUMBER
        if kind == "world":
            return WORLD[attribute]
        if kind == "tile":
            return TILE[attribute]
        if attribute == "displacement" and isinstance(owner, int):
            return Displacements(self.by_id[owner].position, self.state.size)
        return BOOLEAN if attribute == "alive" else ATTRIBUTES[kind][attribute]

    def clamp(self, key: Key, number: float) -> float:
        name = "health" if key.attribute == "inventory.health" else key.attribute
        domain = WORLD[name] if key.kind == "world" else ATTRIBUTES[key.kind].get(name)
        return domain.clamp(number) if isinstance(domain, Numbers) else number

    def translate(self, key: Key, value: Value) -> Value:
        if key.attribute in ("position_x", "position_y"):
            entity = self.by_id[int(key.owner)] if isinstance(key.owner, int) else self.player
            axis = int(key.attribute == "position_y")
            return entity.position[axis] + vector_of(value)[axis]
        return value

    def bystanders(self) -> Mapping[Key, Value]:
        return self._bystanders

    @cached_property
    def _bystanders(self) -> dict[Key, Value]:
        exists: dict[Key, Value] = {
            Key(entity.kind, entity.entity_id, "exists"): 1 for entity in self.state.objects[1:]
        }
        return exists | {Key("world", 0, f"count.{k}"): self._count(k) for k in CREATURES}

    def _count(self, kind: str) -> int:
        return sum(entity.kind == kind for entity in self.state.objects)


class _TileKeys(Sequence[Key]):
    """One attribute of many tiles: keys are made when asked for, which most never are."""

    def __init__(self, places: Sequence[Position], attribute: str) -> None:
        self._places, self._attribute = places, attribute

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Key:  # ty: ignore[incompatible-method-override]: no slices
        return Key("tile", self._places[index], self._attribute)


def reference_attributes(kind: str) -> tuple[str, ...]:
    """Return the published observables of an object of a kind, beside its existence."""
    common = ("position_x", "position_y", "health")
    if kind == "player":
        items = [name for name in ATTRIBUTES["player"] if name.startswith("inventory.")]
        return (*common, "inventory.health", *items)
    return (*common, "cooldown") if kind == "zombie" else common


def read_observed(entity: Entity, attribute: str) -> Value:
    """Return the value that an observable of an object has as long as nothing happens."""
    match attribute:
        case "displacement":
            return "stay"
        case "alive":
            return True
        case "exists":
            return 1
        case "position_x" | "position_y":
            return entity.position[int(attribute == "position_y")]
        case "inventory.health":
            return entity.health
    return read_attribute(entity, attribute)


@lru_cache(maxsize=20_000)
def _places(
    corner: Position, shape: tuple[int, ...], region: bytes, material: int
) -> tuple[Position, ...]:
    """Return where a material is; chunks change seldom, and are asked about at every step."""
    tiles = np.frombuffer(region, np.int8).reshape(shape)
    return tuple((corner[0] + x, corner[1] + y) for x, y in np.argwhere(tiles == material).tolist())


def _entity(binding: Binding) -> Entity:
    if not isinstance(binding, Entity):
        raise TypeError(f"the law needs an object, got {binding!r}")
    return binding


def _walkable(entity: Entity) -> frozenset[str]:
    if isinstance(entity, Player):
        return PLAYER_WALKABLE
    return ARROW_WALKABLE if isinstance(entity, Arrow) else WALKABLE


def _light(step_count: int) -> float:
    return round(daylight(step_count), DAYLIGHT_DIGITS)
