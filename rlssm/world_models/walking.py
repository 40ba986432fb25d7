"""Finding the way in Crafter: what is nearest, where to hide, and the first step there."""

from collections import deque
from functools import cached_property

import numpy as np

from rlssm.world_models.schema import (
    DIRECTIONS,
    MATERIAL_INDEX,
    MATERIALS,
    WALKABLE,
    Entity,
    Plant,
    Position,
    WorldState,
    material_at,
    shift,
)

SIGHT = 60  # steps of walking that are thought ahead
ROOM = 4  # tiles of a shelter
STATIONS = ("table", "furnace")
NEAR = ("", "table", "furnace", "table furnace")  # what is near, in the order of their bits
MOVES = {vector: f"move_{name}" for name, vector in DIRECTIONS.items()}
_WALKABLE = np.zeros(len(MATERIAL_INDEX) + 1, bool)
_WALKABLE[[MATERIAL_INDEX[name] for name in WALKABLE]] = True


def in_front(state: WorldState, place: Position) -> str:
    """Return what stands on a tile, or else its material."""
    for entity in state.objects:
        if entity.position == place:
            return spoken(entity)
    return material_at(state, place) or "none"


def spoken(entity: Entity) -> str:
    """Return what an object looks like: its kind, and of plants whether they are ripe."""
    return "ripe plant" if isinstance(entity, Plant) and entity.ripe else entity.kind


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
        self.occupants = {entity.position: spoken(entity) for entity in state.objects[1:]}
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
        """Whether at most four tiles, the player's included, can be walked to."""
        reached, border = {self.start}, [self.start]
        while border and len(reached) <= ROOM:
            here = border.pop()
            for direction in DIRECTIONS.values():
                there = shift(here, direction)
                if there not in reached and (self.is_open(there) or there in self.occupants):
                    reached.add(there)
                    border.append(there)
        return len(reached) <= ROOM

    @cached_property
    def nearest(self) -> dict[str, tuple[int, Position]]:
        """The nearest of each thing: steps until it is in front, and its tile."""
        farthest_first = sorted(self.by_station.items(), key=lambda found: -found[1][0])
        return {thing: where for (thing, _), where in farthest_first}

    @cached_property
    def by_station(self) -> dict[tuple[str, str], tuple[int, Position]]:
        """The nearest of each thing and of what is near where one would stand before it."""
        found: dict[tuple[int, int], tuple[int, Position]] = {}
        materials, stone = self.state.materials, MATERIAL_INDEX["stone"]
        near = self._stations()
        for place, steps in self.steps.items():
            stand = self.before[place]
            key = int(materials[place]), int(near[stand])
            if key not in found and steps and (steps > 1 or key[0] == stone):
                found[key] = steps, place
        named = {(MATERIALS[material], NEAR[by]): where for (material, by), where in found.items()}
        for place, stand in self.edges.items():
            thing = self.occupants.get(place) or material_at(self.state, place) or "none"
            named.setdefault((thing, NEAR[near[stand]]), (self.steps[stand] + 1, place))
        ahead = self.state.player.target
        front = self.occupants.get(ahead) or material_at(self.state, ahead) or "none"
        return {**named, (front, NEAR[near[self.start]]): (0, ahead)}

    def _stations(self) -> np.ndarray:
        """Return for each tile whether a table (1) and a furnace (2) are within one tile."""
        width, height = self.state.size
        near = np.zeros(self.state.size, np.int64)
        for bit, name in enumerate(STATIONS):
            for x, y in np.argwhere(self.state.materials == MATERIAL_INDEX[name]).tolist():
                near[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2] |= 1 << bit
        return near

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
