"""Finding the way in Crafter: what is nearest, where to hide, and the first step there."""

from collections import deque
from functools import cached_property

import numpy as np

from rlssm.world_models.schema import (
    DIRECTIONS,
    MATERIAL_INDEX,
    MATERIALS,
    WALKABLE,
    Position,
    WorldState,
    material_at,
    shift,
)

SIGHT = 40  # steps of walking that are thought ahead
MOVES = {vector: f"move_{name}" for name, vector in DIRECTIONS.items()}
_WALKABLE = np.zeros(len(MATERIAL_INDEX) + 1, bool)
_WALKABLE[[MATERIAL_INDEX[name] for name in WALKABLE]] = True


def in_front(state: WorldState, place: Position) -> str:
    """Return what stands on a tile, or else its material."""
    for entity in state.objects:
        if entity.position == place:
            return entity.kind
    return material_at(state, place) or "none"


def difference(origin: Position, goal: Position) -> Position:
    """Return the way from one tile to another."""
    return goal[0] - origin[0], goal[1] - origin[1]


class Walk:
    """The shortest ways from where the player stands, over walkable tiles without objects.

    With a pickaxe the ways lead through stone as well.
    """

    def __init__(self, state: WorldState) -> None:
        self.state = state
        self.start = state.player.position
        self.occupants = {e.position: e.kind for e in state.objects[1:]}
        passable = _WALKABLE.copy()
        passable[MATERIAL_INDEX["stone"]] = state.player.inventory["wood_pickaxe"] > 0
        free = np.zeros((state.size[0] + 2, state.size[1] + 2), bool)
        free[1:-1, 1:-1] = passable[state.materials]
        for x, y in self.occupants:
            free[x + 1, y + 1] = False
        self.before: dict[Position, Position] = {self.start: self.start}
        self.steps: dict[Position, int] = {self.start: 0}
        self.edges: dict[Position, Position] = {}  # a blocked tile, and from where it is reached
        open_tile, ways = free.tolist(), list(DIRECTIONS.values())
        queue = deque([self.start])
        while queue:
            here = queue.popleft()
            steps = self.steps[here] + 1
            for dx, dy in ways:
                there = here[0] + dx, here[1] + dy
                if there in self.steps:
                    continue
                if open_tile[there[0] + 1][there[1] + 1]:
                    self.before[there] = here
                    self.steps[there] = steps
                    if steps < SIGHT:
                        queue.append(there)
                elif there not in self.edges:
                    self.edges[there] = here

    def is_open(self, place: Position) -> bool:
        """Return whether a creature could stand on a tile."""
        return place not in self.occupants and material_at(self.state, place) in WALKABLE

    @cached_property
    def enclosed(self) -> bool:
        """Whether at most one tile beside the player's can be walked to, and none from there."""
        reached, border = {self.start}, [self.start]
        while border and len(reached) <= 2:
            here = border.pop()
            for direction in DIRECTIONS.values():
                there = shift(here, direction)
                if there not in reached and (self.is_open(there) or there in self.occupants):
                    reached.add(there)
                    border.append(there)
        return len(reached) <= 2

    def burrow(self) -> tuple[Position, Position] | None:
        """Return the nearest tile before two of stone in line, with closed sides, and the line."""
        for mouth in self.steps:
            for inward in DIRECTIONS.values() if self.is_open(mouth) else ():
                first = shift(mouth, inward)
                second = shift(first, inward)
                side = inward[1], inward[0]
                back = -side[0], -side[1]
                walls = [shift(second, inward)]
                walls += [shift(tile, way) for tile in (first, second) for way in (side, back)]
                stone = all(material_at(self.state, tile) == "stone" for tile in (first, second))
                if stone and not any(self.is_open(tile) for tile in walls):
                    return mouth, inward
        return None

    @cached_property
    def nearest(self) -> dict[str, tuple[int, Position]]:
        """The nearest of each thing: steps until it is in front, and its tile."""
        found: dict[int, tuple[int, Position]] = {}
        materials, stone = self.state.materials, MATERIAL_INDEX["stone"]
        for place, steps in self.steps.items():
            material = int(materials[place])
            if material not in found and steps and (steps > 1 or material == stone):
                found[material] = steps, place
        named = {MATERIALS[material]: where for material, where in found.items()}
        for place, here in self.edges.items():
            kind = self.occupants.get(place) or material_at(self.state, place) or "none"
            if kind not in named:
                named[kind] = self.steps[here] + 1, place
        front = in_front(self.state, self.state.player.target)
        return {**named, front: (0, self.state.player.target)}

    def first_step(self, place: Position) -> str:
        """Return the move that leads to `place`, or into it where it is next; stone is dug."""
        if place not in self.steps:
            here = min(
                (shift(place, d) for d in DIRECTIONS.values() if shift(place, d) in self.steps),
                key=lambda tile: self.steps[tile],
            )
            if here == self.start:
                return MOVES[difference(self.start, place)]
            place = here
        while self.before[place] != self.start:
            place = self.before[place]
        if place == self.state.player.target and material_at(self.state, place) == "stone":
            return "do"
        return MOVES[difference(self.start, place)]

    def toward(self, thing: str) -> str | None:
        """Return what to do to use the nearest thing of a kind, None if there is no way to one."""
        found = self.nearest.get(thing)
        if found is None:
            return None
        return "do" if found[0] == 0 else self.first_step(found[1])
