"""Shelters in Crafter: two or four tiles that nothing can walk into, and how to close them.

One faces a free tile only by walking towards it. So a tile beside the shelter can be closed by a
stone only where the shelter's tile before it has another one behind: step across, and place it.
Two tiles in a line can be closed at their ends, four in a square all around; what is closed by
nature, or is solid stone and dug out, costs less.
"""

from collections.abc import Iterator
from typing import TypeAlias

from rlssm.world_models.schema import DIRECTIONS, Position, material_at, shift
from rlssm.world_models.walking import MOVES, Walk, difference

Shelter: TypeAlias = frozenset[Position]

FARTHEST = 12  # steps to a shelter
STONE_COST = 3.0  # steps of walking that placing a stone is worth
DIG_COST = 1.0
_SHAPES = (((0, 0), (1, 0)), ((0, 0), (0, 1)), ((0, 0), (1, 0), (0, 1), (1, 1)))


def nearest_shelter(walk: Walk) -> Shelter | None:
    """Return the tiles that are closed soonest with the stones at hand, None if none can be."""
    stones = walk.state.player.inventory["stone"]
    best, cheapest = None, float("inf")
    for place, steps in walk.steps.items():
        if steps > FARTHEST or steps * 1.0 >= cheapest:
            break  # places come in order of their distance
        for shape in _SHAPES:
            tiles = frozenset(shift(place, offset) for offset in shape)
            if not tiles <= walk.steps.keys():
                continue
            gaps = list(_gaps(walk, tiles))
            dug = sum(material_at(walk.state, tile) == "stone" for tile in tiles)
            closable = all(_behind(tile, way) in tiles for tile, way in gaps)
            cost = steps + STONE_COST * len(gaps) + DIG_COST * dug
            if closable and len(gaps) <= stones + dug and cost < cheapest:
                best, cheapest = tiles, cost
    return best


def build(walk: Walk, tiles: Shelter) -> str | None:
    """Return the next action towards a closed shelter, None where it is closed."""
    state, here = walk.state, walk.start
    if here not in tiles:
        way = [tile for tile in tiles if tile in walk.steps]
        return walk.first_step(min(way, key=walk.steps.__getitem__)) if way else None
    gaps = list(_gaps(walk, tiles))
    if not gaps:
        return None
    ahead = state.player.target
    if any(shift(tile, way) == ahead and tile == here for tile, way in gaps):
        return "do" if ahead in walk.occupants else "place_stone"
    tile, way = min(gaps, key=lambda gap: _apart(here, _behind(*gap)))
    start = _behind(tile, way)
    goal = tile if here == start else _toward(here, start, tiles)
    if goal == ahead and (material_at(state, goal) == "stone" or goal in walk.occupants):
        return "do"
    return MOVES[difference(here, goal)]


def _gaps(walk: Walk, tiles: Shelter) -> Iterator[tuple[Position, Position]]:
    """Yield the tiles of a shelter beside which one can walk in, and where."""
    for tile in sorted(tiles):
        for way in DIRECTIONS.values():
            beside = shift(tile, way)
            if beside not in tiles and (walk.is_open(beside) or beside in walk.occupants):
                yield tile, way


def _behind(tile: Position, way: Position) -> Position:
    return tile[0] - way[0], tile[1] - way[1]


def _apart(a: Position, b: Position) -> int:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _toward(here: Position, goal: Position, tiles: Shelter) -> Position:
    beside = [shift(here, way) for way in DIRECTIONS.values()]
    return min((tile for tile in beside if tile in tiles), key=lambda tile: _apart(tile, goal))
