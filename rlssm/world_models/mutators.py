"""Eight ways to make a state that did not come about: the distractors of state ranking.

Each takes the state before a step, the action and a generator, and returns a changed copy, or None
where it does not apply to the action.

Source: One Life to Learn (arXiv 2510.12088), released code; its default list holds the first
seven, its page speaks of eight.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from rlssm.world_models.crafter_player import COLLECT, MAKE, PLACE
from rlssm.world_models.schema import (
    DIRECTIONS,
    ITEMS,
    MATERIAL_INDEX,
    Plant,
    Position,
    WorldState,
    inside,
    material_at,
    shift,
)

Mutator: TypeAlias = Callable[[WorldState, str, np.random.Generator], WorldState | None]

_FARTHEST = 10
_MOST_HEALTH = 10
_MOST_ITEMS = 100


def _pick(rng: np.random.Generator, values: list[str]) -> str:
    return values[int(rng.integers(len(values)))]


def entity_health(state: WorldState, action: str, rng: np.random.Generator) -> WorldState:
    """Give every creature a health that is not within one of its own."""
    changed = state.copy()
    for entity in changed.objects[1:]:
        others = [h for h in range(_MOST_HEALTH + 1) if abs(h - entity.health) > 1]
        entity.health = int(rng.choice(others))
    return changed


def entity_position(state: WorldState, action: str, rng: np.random.Generator) -> WorldState:
    """Move every creature 2 to 10 tiles in one of eight directions, off the map if need be."""
    changed = state.copy()
    around = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0)]
    for entity in changed.objects[1:]:
        dx, dy = around[int(rng.integers(len(around)))]
        far = int(rng.integers(2, _FARTHEST + 1))
        entity.position = shift(entity.position, (dx * far, dy * far))
    return changed


def player_health(state: WorldState, action: str, rng: np.random.Generator) -> WorldState:
    """Add -3 to 2 to the player's health; it may stay the same."""
    changed = state.copy()
    health = changed.player.health + int(rng.integers(-3, 3))
    changed.player.health = min(max(health, 0), _MOST_HEALTH)
    return changed


def inventory(state: WorldState, action: str, rng: np.random.Generator) -> WorldState:
    """Draw every amount from 0 to 100 (of diamonds, add that many)."""
    changed = state.copy()
    held = changed.player.inventory
    for item in ITEMS:
        drawn = int(rng.integers(_MOST_ITEMS + 1))
        held[item] = held[item] + drawn if item == "diamond" else drawn
    return changed


def collect_illegal_material(
    state: WorldState, action: str, rng: np.random.Generator
) -> WorldState | None:
    """Add one of something that the tile in front does not give."""
    if action != "do":
        return None
    faced = material_at(state, state.player.target)
    wrong = [item for material, (_, item, _) in COLLECT.items() if material != faced]
    return _with_one_more(state, _pick(rng, wrong))


def craft_illegal_item(
    state: WorldState, action: str, rng: np.random.Generator
) -> WorldState | None:
    """Add one of another thing that can be made, and use nothing up."""
    if not action.startswith("make_"):
        return None
    wrong = [thing for thing in MAKE if thing != action.removeprefix("make_")]
    return _with_one_more(state, _pick(rng, wrong))


def illegal_movement(state: WorldState, action: str, rng: np.random.Generator) -> WorldState | None:
    """Move the player one tile in a random direction, whatever stands there."""
    if action.startswith("move_"):
        return None
    changed = state.copy()
    changed.player.facing = DIRECTIONS[_pick(rng, list(DIRECTIONS))]
    changed.player.position = changed.player.target
    return changed


def place_illegal_item(
    state: WorldState, action: str, rng: np.random.Generator
) -> WorldState | None:
    """Put another thing that can be placed in front of the player."""
    if not action.startswith("place_"):
        return None
    changed = state.copy()
    thing = _pick(rng, [thing for thing in PLACE if thing != action.removeprefix("place_")])
    target = changed.player.target
    if thing == "plant":
        _plant(changed, target)
    elif inside(changed.size, target):
        changed.materials[target] = MATERIAL_INDEX[thing]
    return changed


def _plant(state: WorldState, target: Position) -> None:
    state.objects.append(Plant(state.next_id, target))
    state.next_id += 1


def _with_one_more(state: WorldState, item: str) -> WorldState:
    changed = state.copy()
    changed.player.inventory[item] += 1
    return changed


MUTATORS: Mapping[str, Mutator] = {
    "entity health": entity_health,
    "entity position": entity_position,
    "player health": player_health,
    "inventory": inventory,
    "collect illegal material": collect_illegal_material,
    "craft illegal item": craft_illegal_item,
    "illegal movement": illegal_movement,
    "place illegal item": place_illegal_item,
}
PUBLISHED = tuple(MUTATORS)[:7]


def distractors(
    state: WorldState,
    action: str,
    rng: np.random.Generator,
    names: tuple[str, ...] = PUBLISHED,
    most: int = 10,
) -> list[WorldState]:
    """Return what the named mutators make of a state, in their order, `most` at the most."""
    made = [MUTATORS[name](state, action, rng) for name in names]
    return [changed for changed in made if changed is not None][:most]
