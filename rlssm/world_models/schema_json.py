"""A Crafter state as JSON and back, in the layout of the published object-oriented schema.

The layout repeats itself: the player stands both beside and among the objects, and his health both
as his own and in the inventory. Both are written, read once, and must agree. The published
`event_bus` is always empty and is left out.
"""

from typing import Any

import numpy as np

from rlssm.errors import UserError
from rlssm.world_models.json_reader import Fields, Node
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    CHUNK_SIZE,
    DIRECTIONS,
    ITEMS,
    KINDS,
    MATERIAL_INDEX,
    MATERIALS,
    NO_MATERIAL,
    Arrow,
    ChunkKey,
    Entity,
    GeneratorState,
    Plant,
    Player,
    Position,
    Skeleton,
    WorldState,
    Zombie,
    chunk_of,
)

_MAX_SIDE = 1024
_MAX_COUNT = 10**6
_COUNTERS = ("hunger", "thirst", "fatigue", "recover")
_WORDS = 624

# --- Writing ----------------------------------------------------------------------------------


def state_to_json(state: WorldState) -> dict[str, Any]:
    """Return a state as JSON values; materials are `[x][y]`, x first."""
    names = [*MATERIALS, None]  # NO_MATERIAL is the last
    members: dict[ChunkKey, list[int]] = {chunk: [] for chunk in state.known_chunks}
    for entity in state.objects:
        members[chunk_of(state.size, entity.position)].append(entity.entity_id)
    return {
        "size": list(state.size),
        "chunk_size": list(CHUNK_SIZE),
        "view": list(state.view),
        "daylight": state.daylight,
        "step_count": state.step_count,
        "materials": [[names[index] for index in column] for column in state.materials.tolist()],
        "objects": [_entity_to_json(entity) for entity in state.objects],
        "player": _entity_to_json(state.player),
        "entity_id_counter_state": state.next_id,
        "chunks": [{"chunk_key": list(chunk), "objects": ids} for chunk, ids in members.items()],
        "serialized_random_state": f"{state.random.position}:{state.random.words.hex()}",
    }


def _entity_to_json(entity: Entity) -> dict[str, Any]:
    common = {
        "name": entity.kind,
        "entity_id": entity.entity_id,
        "position": _vector(entity.position),
        "health": entity.health,
        "removed": False,
    }
    match entity:
        case Player():
            own = {
                "facing": _vector(entity.facing),
                "action": entity.action,
                "sleeping": entity.sleeping,
                "achievements": dict(entity.achievements),
                "inventory": {"health": entity.health, **entity.inventory},
                **{name: getattr(entity, name) for name in _COUNTERS},
                "last_health": entity.last_health,
            }
        case Zombie():
            own = {"cooldown": entity.cooldown}
        case Skeleton():
            own = {"reload": entity.reload}
        case Arrow():
            own = {"facing": _vector(entity.facing)}
        case Plant():
            own = {"grown": entity.grown, "ripe": entity.ripe}
        case _:
            own = {}
    return common | own


def _vector(position: Position) -> dict[str, int]:
    return {"x": position[0], "y": position[1]}


# --- Reading ----------------------------------------------------------------------------------


def state_from_json(root: Node) -> WorldState:
    """Return the state that a JSON value describes.

    Raises:
      UserError: naming the first member that is missing, unknown, out of range, or at odds with
        another.
    """
    fields = root.fields(
        (
            "size", "chunk_size", "view", "daylight", "step_count", "materials", "objects",
            "player", "entity_id_counter_state", "chunks", "serialized_random_state",
        )
    )  # fmt: skip
    size = _pair(fields["size"], 3, _MAX_SIDE)
    if _pair(fields["chunk_size"], 1, _MAX_SIDE) != CHUNK_SIZE:
        raise fields["chunk_size"].refusal(f"{list(CHUNK_SIZE)}")
    objects = [_entity(node, size) for node in fields["objects"].items(size[0] * size[1], 1)]
    state = WorldState(
        materials=_materials(fields["materials"], size),
        objects=objects,
        known_chunks=[_chunk(node, size) for node in fields["chunks"].items(_MAX_COUNT)],
        next_id=fields["entity_id_counter_state"].integer(1, _MAX_COUNT),
        view=_pair(fields["view"], 3, _MAX_SIDE),
        random=_random(fields["serialized_random_state"]),
        step_count=fields["step_count"].integer(0, _MAX_COUNT),
        daylight=float(fields["daylight"].number(0, 1)),
    )
    _check_whole(state, fields)
    return state


def _check_whole(state: WorldState, fields: Fields) -> None:
    objects, path = state.objects, fields["objects"].path
    players = [index for index, entity in enumerate(objects) if isinstance(entity, Player)]
    if players != [0]:
        raise UserError(f"{path} must hold the player first and once, got it at {players}")
    ids = [entity.entity_id for entity in objects]
    if ids != sorted(set(ids)) or ids[-1] >= state.next_id:
        raise UserError(f"{path} must be in order of entity_id, all below entity_id_counter_state")
    if len({entity.position for entity in objects}) < len(objects):
        raise UserError(f"{path} must stand on different tiles")
    if _entity(fields["player"], state.size) != state.player:
        raise UserError(f"{fields['player'].path} must equal {path}[0]")
    held = {chunk_of(state.size, entity.position) for entity in objects}
    if not held.issubset(state.known_chunks):
        raise UserError(f"{fields['chunks'].path} must list every chunk that holds an object")
    if len(set(state.known_chunks)) < len(state.known_chunks):
        raise UserError(f"{fields['chunks'].path} must list no chunk twice")


def _entity(node: Node, size: tuple[int, int]) -> Entity:
    own_names = {
        "player": ("facing", "action", "sleeping", "achievements", "inventory", *_COUNTERS,
                   "last_health"),
        "zombie": ("cooldown",),
        "skeleton": ("reload",),
        "arrow": ("facing",),
        "plant": ("grown", "ripe"),
    }  # fmt: skip
    if not isinstance(node.value, dict) or "name" not in node.value:
        raise node.refusal("an object with a name")
    kind = Node(node.value["name"], f"{node.path}.name").choice(KINDS)
    common = ("name", "entity_id", "position", "health")
    fields = node.fields((*common, *own_names.get(kind, ())), ("removed",))
    if fields.get_value("removed", False) is not False:
        raise fields["removed"].refusal("false")
    position = fields["position"].fields("xy")
    entity = KINDS[kind](
        entity_id=fields["entity_id"].integer(1, _MAX_COUNT),
        position=(
            position["x"].integer(0, size[0] - 1),
            position["y"].integer(0, size[1] - 1),
        ),
        health=fields["health"].integer(0, _MAX_COUNT),
    )
    match entity:
        case Player():
            _read_player(entity, fields)
        case Zombie():
            entity.cooldown = fields["cooldown"].integer(0, _MAX_COUNT)
        case Skeleton():
            entity.reload = fields["reload"].integer(0, _MAX_COUNT)
        case Arrow():
            entity.facing = _direction(fields["facing"])
        case Plant():
            entity.grown = fields["grown"].integer(0, _MAX_COUNT)
            if fields["ripe"].boolean() != entity.ripe:
                raise fields["ripe"].refusal(f"{entity.ripe}, as grown says")
    return entity


def _read_player(player: Player, fields: Fields) -> None:
    player.facing = _direction(fields["facing"])
    player.action = fields["action"].choice(ACTIONS)
    player.sleeping = fields["sleeping"].boolean()
    counts = fields["achievements"].fields(ACHIEVEMENTS)
    player.achievements = {name: counts[name].integer(0, _MAX_COUNT) for name in ACHIEVEMENTS}
    items = fields["inventory"].fields(("health", *ITEMS))
    player.inventory = {name: items[name].integer(0, _MAX_COUNT) for name in ITEMS}
    if items["health"].integer(0, _MAX_COUNT) != player.health:
        raise items["health"].refusal(f"the player's health, {player.health}")
    for name in _COUNTERS:
        setattr(player, name, float(fields[name].number(-_MAX_COUNT, _MAX_COUNT)))
    player.last_health = fields["last_health"].integer(0, _MAX_COUNT)


def _pair(node: Node, least: int, most: int) -> tuple[int, int]:
    x, y = (item.integer(least, most) for item in node.items(2, 2))
    return x, y


def _direction(node: Node) -> Position:
    vector = node.fields("xy")
    x, y = vector["x"].integer(-1, 1), vector["y"].integer(-1, 1)
    if (x, y) not in DIRECTIONS.values():
        raise node.refusal("one step along x or y")
    return x, y


def _chunk(node: Node, size: tuple[int, int]) -> ChunkKey:
    # The ids it holds follow from where the objects stand.
    key = node.fields(("chunk_key", "objects"))["chunk_key"]
    x0, x1, y0, y1 = (item.integer(0, _MAX_SIDE) for item in key.items(4, 4))
    if not (x0 < size[0] and y0 < size[1] and chunk_of(size, (x0, y0)) == (x0, x1, y0, y1)):
        raise UserError(f"{key.path} must be the bounds of a chunk of the map, got {key.value}")
    return x0, x1, y0, y1


def _materials(node: Node, size: tuple[int, int]) -> np.ndarray:
    columns = [column.items(size[1], size[1]) for column in node.items(size[0], size[0])]
    return np.array([[_material(tile) for tile in column] for column in columns], np.int8)


def _material(tile: Node) -> int:
    return NO_MATERIAL if tile.value is None else MATERIAL_INDEX[tile.choice(MATERIALS)]


def _random(node: Node) -> GeneratorState:
    position, _, words = node.text(16 + 8 * _WORDS).partition(":")
    try:
        state = GeneratorState(bytes.fromhex(words), int(position))
    except ValueError:
        state = GeneratorState(b"", 0)
    if len(state.words) != 4 * _WORDS or not 0 <= state.position <= _WORDS:
        raise UserError(f"{node.path} must be an index up to {_WORDS}, ':' and {_WORDS} hex words")
    return state
