"""Crafter as laws see it: what changed between two states, and a state from predicted values.

The default reading observes every field: each object's displacement, attributes and being alive,
each tile's material and what is born on it, and the clock. The reference reading observes what
the published extractor does: positions as two separate numbers, health (the player's twice),
inventory, cooldowns, and for every active law that all objects exist and none was added.

Source: One Life to Learn (arXiv 2510.12088), released code, for the reference reading.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlssm.errors import unknown_name
from rlssm.world_models.crafter_scene import (
    CrafterScene,
    read_observed,
)
from rlssm.world_models.crafter_vocabulary import (
    ATTRIBUTES,
    CREATURES,
    DAYLIGHT_DIGITS,
    SCOPES,
    TILE,
    WORLD,
    observed_domains,
    read_attribute,
    write_attribute,
)
from rlssm.world_models.object_view import (
    MOVE_NAMES,
    MOVES,
    Changes,
    Key,
    Value,
    Vocabulary,
    number_of,
    vector_of,
)
from rlssm.world_models.schema import (
    ACTIONS,
    KINDS,
    MATERIAL_INDEX,
    MATERIALS,
    NO_MATERIAL,
    Arrow,
    Entity,
    Position,
    WorldState,
    chunk_of,
    inside,
    material_at,
    shift,
)


@dataclass(frozen=True)
class CrafterView:
    """Crafter in the default or in the reference reading.

    `facing` lets the reference reading see, and its samples change, where the player faces and
    the tile there.
    """

    reference: bool = False
    name: str = "crafter"
    facing: bool = False

    @property
    def actions(self) -> tuple[str, ...]:
        return ACTIONS

    @property
    def scopes(self) -> Mapping[str, Vocabulary]:
        return SCOPES

    def scene(self, state: WorldState, action: str) -> CrafterScene:
        if action not in ACTIONS:
            raise unknown_name("action", action, ACTIONS)
        return CrafterScene(state, action, self.reference, self.facing)

    def changes(self, scene: CrafterScene, after: WorldState) -> Changes:
        if self.reference:
            return _reference_changes(scene, after)
        return _all_changes(scene, after)

    def apply(self, scene: CrafterScene, values: Mapping[Key, Value]) -> WorldState:
        if self.reference:
            return _reference_apply(scene, values)
        return _apply(scene, values)


# --- The default reading ----------------------------------------------------------------------


def _all_changes(scene: CrafterScene, after: WorldState) -> Changes:
    state = scene.state
    values: dict[Key, Value] = {}
    survivors = {entity.entity_id: entity for entity in after.objects}
    gone = frozenset(scene.by_id.keys() - survivors.keys())
    for entity in state.objects:
        if entity.entity_id in gone:
            values[Key(entity.kind, entity.entity_id, "alive")] = False
        else:
            values |= _object_changes(entity, survivors[entity.entity_id])
    for newborn in after.objects:
        if newborn.entity_id not in scene.by_id:
            key = Key("tile", newborn.position, f"birth.{newborn.kind}")
            values[key] = MOVE_NAMES[newborn.facing] if isinstance(newborn, Arrow) else "new"
    for x, y in np.argwhere(state.materials != after.materials).tolist():
        index = after.materials[x, y]
        material = "none" if index == NO_MATERIAL else MATERIALS[index]
        values[Key("tile", (x, y), "material")] = material
    for attribute, value in _clock(after).items():
        key = Key("world", 0, attribute)
        if value != scene.old(key):
            values[key] = value
    return Changes(values, gone, _totals(state, gone))


def _object_changes(before: Entity, after: Entity) -> dict[Key, Value]:
    kind, number = before.kind, before.entity_id
    changed: dict[Key, Value] = {}
    if before.position != after.position:
        moved = after.position[0] - before.position[0], after.position[1] - before.position[1]
        changed[Key(kind, number, "displacement")] = MOVE_NAMES.get(moved, moved)
    for attribute in ATTRIBUTES[kind]:
        value = read_attribute(after, attribute)
        if value != read_attribute(before, attribute):
            changed[Key(kind, number, attribute)] = value
    return changed


def _clock(state: WorldState) -> dict[str, float]:
    return {
        "step_count": state.step_count,
        "daylight": round(state.daylight, DAYLIGHT_DIGITS),
    }


def _totals(state: WorldState, gone: frozenset[int]) -> Counter[str]:
    """Return how many observables there are of each family.

    Of an object that vanished only that is observed.
    """
    present = Counter(entity.kind for entity in state.objects)
    stayed = Counter(entity.kind for entity in state.objects if entity.entity_id not in gone)
    totals = Counter({f"world.{attribute}": 1 for attribute in WORLD})
    totals.update({f"tile.{attribute}": state.materials.size for attribute in TILE})
    for kind, count in present.items():
        for attribute in observed_domains(kind):
            totals[f"{kind}.{attribute}"] = count if attribute == "alive" else stayed[kind]
    return totals


def _apply(scene: CrafterScene, values: Mapping[Key, Value]) -> WorldState:
    """Return a copy of the state with values written into it.

    Where two objects want the same tile, the first in order of birth gets it, as in a real step.
    """
    state = scene.state.copy()
    by_id = {entity.entity_id: entity for entity in state.objects}
    moves: dict[int, Position] = {}
    births: list[tuple[Position, str, Value]] = []
    for key, value in values.items():
        match key:
            case Key("world", _, "step_count"):
                state.step_count = int(number_of(value))
            case Key("world", _, "daylight"):
                state.daylight = number_of(value)
            case Key("tile", tuple(place), "material"):
                state.materials[place] = MATERIAL_INDEX[str(value)]
            case Key("tile", tuple(place), birth) if value != "none":
                births.append((place, birth.removeprefix("birth."), value))
            case Key(_, int(number), "displacement"):
                moves[number] = vector_of(value)
            case Key(_, int(number), "alive"):
                if not value:
                    state.objects.remove(by_id[number])
            case Key(_, int(number), attribute):
                write_attribute(by_id[number], attribute, value)
    occupied = {entity.position for entity in state.objects}
    for entity in state.objects:
        _place(state, entity, shift(entity.position, moves.get(entity.entity_id, (0, 0))), occupied)
    for place, kind, value in births:
        if place not in occupied:
            occupied.add(place)
            state.objects.append(_newborn(state.next_id, place, kind, value))
            state.next_id += 1
    _know_chunks(state)
    return state


def _place(state: WorldState, entity: Entity, position: Position, occupied: set[Position]) -> None:
    if position not in occupied and inside(state.size, position):
        occupied.discard(entity.position)
        occupied.add(position)
        entity.position = position


def _newborn(entity_id: int, place: Position, kind: str, value: Value) -> Entity:
    if kind == "arrow":
        return Arrow(entity_id, place, facing=MOVES[str(value)])
    return KINDS[kind](entity_id, place)


def _know_chunks(state: WorldState) -> None:
    held = [chunk_of(state.size, entity.position) for entity in state.objects]
    state.known_chunks = list(dict.fromkeys([*state.known_chunks, *held]))


# --- The reference reading --------------------------------------------------------------------


def _reference_changes(scene: CrafterScene, after: WorldState) -> Changes:
    values: dict[Key, Value] = {}
    present = {entity.entity_id for entity in after.objects}
    for entity in after.objects:
        before = scene.by_id.get(entity.entity_id)
        names = scene.reference_names(entity.kind)
        for name in names if before is not None else (*names, "exists"):
            value = read_observed(entity, name)
            if before is None or value != read_observed(before, name):
                values[Key(entity.kind, entity.entity_id, name)] = value
    counts = Counter(entity.kind for entity in after.objects)
    for kind in CREATURES:
        key = Key("world", 0, f"count.{kind}")
        if counts[kind] != scene.old(key):
            values[key] = counts[kind]
    faced = scene.player.target
    if scene.facing and inside(after.size, faced):
        key, material = Key("tile", faced, "material"), material_at(after, faced)
        if material != scene.old(key):
            values[key] = str(material)
    return Changes(values, frozenset(scene.by_id.keys() - present))


def _reference_apply(scene: CrafterScene, values: Mapping[Key, Value]) -> WorldState:
    """Return a copy of the state with values written into it, each by itself.

    Objects may come to stand on one another. Positions off the map, which only noise draws, are
    left out: the state has no place for them.
    """
    state = scene.state.copy()
    by_id = {entity.entity_id: entity for entity in state.objects}
    for key, value in values.items():
        if key.kind == "tile" and isinstance(key.owner, tuple):
            state.materials[key.owner] = MATERIAL_INDEX[str(value)]
        if key.kind == "world" or key.attribute == "exists" or not isinstance(key.owner, int):
            continue
        entity = by_id[key.owner]
        x, y = entity.position
        match key.attribute:
            case "position_x":
                moved = int(number_of(value)), y
            case "position_y":
                moved = x, int(number_of(value))
            case "inventory.health":  # the other health of the two that may differ
                continue
            case attribute:
                write_attribute(entity, attribute, value)
                continue
        entity.position = moved if inside(state.size, moved) else entity.position
    _know_chunks(state)
    return state
