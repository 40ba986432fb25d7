"""Staying alive in Crafter, as far as it goes: eat, drink, fight, and sleep behind stones."""

from dataclasses import dataclass

import numpy as np

from rlssm.world_models.schema import (
    MAX_ITEM,
    WALKABLE,
    Entity,
    Position,
    WorldState,
    distance,
    material_at,
    shift,
)
from rlssm.world_models.shelter import Shelter, build, nearest_shelter
from rlssm.world_models.walking import MOVES, Walk, difference

NEED = 4  # a vital below this calls for action
DUSK_NEED = 7  # the same when the night is near
WEAK = 4  # health, at or below which one hides
RESTED = 8  # health, at which one comes out again
DUSK, NIGHT = 0.85, 0.6  # daylight
FIERCE = ("zombie", "skeleton")


@dataclass
class Instincts:
    """What a body wants at once.

    Attributes:
      rng: where chance comes from.
      shelter: the tiles of a shelter under way.
      hiding: whether to stay inside until health is back.
    """

    rng: np.random.Generator
    shelter: Shelter | None = None
    hiding: bool = False

    def act(self, state: WorldState, walk: Walk) -> str | None:
        """Return what must be done at once, None if nothing."""
        player = state.player
        vitals = player.inventory
        self.hiding = player.health <= WEAK or (self.hiding and player.health < RESTED)
        night = state.daylight < NIGHT
        wanting = min(vitals["food"], vitals["drink"])
        spent = vitals["energy"] <= 2
        if walk.enclosed and (night or spent or self.hiding) and wanting > 1:
            self.shelter = None
            return "sleep" if vitals["energy"] < MAX_ITEM else "noop"
        if not walk.enclosed and (action := self._danger(state, walk)) is not None:
            return action
        dusk = _darker(state) and NIGHT <= state.daylight < DUSK
        if wanting < (DUSK_NEED if dusk else NEED):
            found = self._feed(walk, vitals)
            if found is not None:
                return found
        if night or spent or self.hiding:
            return self._hide(walk)
        self.shelter = None
        return None

    def _feed(self, walk: Walk, vitals: dict[str, int]) -> str | None:
        first, second = ("water", "cow") if vitals["drink"] <= vitals["food"] else ("cow", "water")
        if first == "cow" and (ripe := walk.toward("ripe plant")):
            return ripe
        other = {"water": "drink", "cow": "food"}[second]
        return walk.toward(first) or (walk.toward(second) if vitals[other] < DUSK_NEED else None)

    def _hide(self, walk: Walk) -> str | None:
        if self.shelter is not None:
            action = build(walk, self.shelter)
            if action is not None:
                return action
        self.shelter = nearest_shelter(walk)
        return None if self.shelter is None else build(walk, self.shelter)

    def _danger(self, state: WorldState, walk: Walk) -> str | None:
        """Return what to do about who is close: strike, wall off, hide, or run from arrows."""
        zombie, skeleton = _nearest(state, "zombie", 2), _nearest(state, "skeleton", 3)
        threat = zombie or skeleton
        if threat is None:
            return None
        player = state.player
        away = distance(threat.position, player.position)
        if player.target == threat.position:
            return "do"
        if away == 1:
            return MOVES[difference(player.position, threat.position)]
        ahead = player.target
        between = distance(ahead, threat.position) < away
        free = material_at(state, ahead) in WALKABLE and ahead not in walk.occupants
        if self.hiding or state.daylight < NIGHT:
            if between and free and player.inventory["stone"]:
                return "place_stone"
            return self._hide(walk) or (_flee(state, threat, self.rng) if skeleton else "noop")
        return "noop" if zombie and between and free else walk.toward(threat.kind)

    def fears(self, state: WorldState, thing: str, steps: int, place: Position) -> bool:
        """Return whether to keep away from a place: lava, or where arrows fly."""
        if steps == 0:
            return False
        shot = any(e.kind == "skeleton" and distance(e.position, place) <= 5 for e in state.objects)
        return thing == "lava" or (shot and state.player.health < RESTED)

    def may_sleep(self, state: WorldState, walk: Walk) -> bool:
        """Return whether sleep is safe, or cannot be put off."""
        close = (e for e in state.objects if e.kind in FIERCE)
        safe = all(distance(e.position, state.player.position) > 8 for e in close)
        return walk.enclosed or (safe and state.player.inventory["energy"] == 0)


def _darker(state: WorldState) -> bool:
    return 30 < state.step_count % 300 < 240


def _nearest(state: WorldState, kind: str, within: int) -> Entity | None:
    close = [
        entity
        for entity in state.objects
        if entity.kind == kind and distance(entity.position, state.player.position) <= within
    ]
    return min(close, key=lambda e: distance(e.position, state.player.position), default=None)


def _flee(state: WorldState, threat: Entity, rng: np.random.Generator) -> str:
    occupied = {entity.position for entity in state.objects}
    ways = []
    for direction, action in MOVES.items():
        there = shift(state.player.position, direction)
        if there not in occupied and material_at(state, there) in WALKABLE:
            ways.append((distance(there, threat.position) + rng.random(), action))
    return max(ways)[1] if ways else "do"
