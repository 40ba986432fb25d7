"""Which sides of a Crafter world changed in a transition: one detector for each.

Objects and tiles count within the player's view, health of zombies anywhere.

Source: One Life to Learn (arXiv 2510.12088), released code: its eleven change detectors.
"""

from collections.abc import Callable, Mapping

from rlssm.world_models.object_view import Changes, Key
from rlssm.world_models.record import Record
from rlssm.world_models.schema import Position, WorldState

Detector = Callable[[WorldState, Changes, Key], bool]


def _in_view(state: WorldState, place: Position) -> bool:
    x, y = state.player.position
    width, height = state.view
    return abs(place[0] - x) <= width // 2 and abs(place[1] - y) <= height // 2


def _of_player(*names: str) -> Detector:
    def detect(state: WorldState, changes: Changes, key: Key) -> bool:
        return key.kind == "player" and key.attribute.startswith(names)

    return detect


def _of_kind(kind: str) -> Detector:
    """Changed, appeared or vanished within view."""

    def detect(state: WorldState, changes: Changes, key: Key) -> bool:
        if key.attribute == f"birth.{kind}" and isinstance(key.owner, tuple):
            return _in_view(state, key.owner)
        if key.kind != kind:
            return False
        place = next(e.position for e in state.objects if e.entity_id == key.owner)
        return _in_view(state, place)

    return detect


def _tiles(state: WorldState, changes: Changes, key: Key) -> bool:
    tile = key.attribute == "material" and isinstance(key.owner, tuple)
    return tile and _in_view(state, key.owner)


def _zombie_health(state: WorldState, changes: Changes, key: Key) -> bool:
    return key.kind == "zombie" and key.attribute == "health"


ASPECTS: Mapping[str, Detector] = {
    "player_inventory": _of_player("inventory."),
    "player_position": _of_player("displacement", "facing"),
    "player_health": _of_player("health"),
    "map_tiles": _tiles,
    "zombies": _of_kind("zombie"),
    "zombie_health": _zombie_health,
    "cows": _of_kind("cow"),
    "skeletons": _of_kind("skeleton"),
    "arrows": _of_kind("arrow"),
    "plants": _of_kind("plant"),
    "fences": _of_kind("fence"),
}


def changed_aspects(record: Record, transition: int) -> dict[str, list[Key]]:
    """Return the aspects that changed in a transition of Crafter, each with what changed."""
    state, changes = record.transitions[transition][0], record.changes[transition]
    found = {
        aspect: [key for key in changes.values if detect(state, changes, key)]
        for aspect, detect in ASPECTS.items()
    }
    return {aspect: keys for aspect, keys in found.items() if keys}


def telling_transitions(record: Record) -> list[tuple[int, str, list[Key]]]:
    """Return, of each family of observables, the first transition in which it changed.

    Each comes with the aspect it belongs to and all that changed of it. No reward is looked at.
    """
    seen: set[str] = set()
    found = []
    for t in range(len(record)):
        for aspect, keys in changed_aspects(record, t).items():
            families = {key.family for key in keys}
            if families - seen:
                seen |= families
                found.append((t, aspect, keys))
    return found
