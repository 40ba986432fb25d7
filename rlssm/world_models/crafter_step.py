"""The world while a step is being made: who stands where, and where chance comes from.

Every random draw has an owner and a name. With `GeneratorDraws` they come from the generator that
is kept in the state, in the order of the calls; any other `Draws` lets another implementation be
fed the same numbers.
"""

from typing import Protocol

from rlssm.world_models.schema import (
    DIRECTIONS,
    MATERIAL_INDEX,
    WALKABLE,
    ChunkKey,
    Entity,
    GeneratorState,
    Player,
    Position,
    WorldState,
    chunk_of,
    material_at,
    shift,
)


class Draws(Protocol):
    """Where random numbers come from; `owner` is an entity's id or a chunk."""

    def uniform(self, owner: int | ChunkKey, name: str) -> float:
        """Return a number in [0, 1)."""
        ...

    def integer(self, owner: int | ChunkKey, name: str, below: int) -> int:
        """Return an integer in 0 .. below - 1."""
        ...


class GeneratorDraws:
    """Draws in the order of the calls, whoever makes them."""

    def __init__(self, state: GeneratorState) -> None:
        self._generator = state.generator()

    def uniform(self, owner: int | ChunkKey, name: str) -> float:
        return self._generator.uniform()

    def integer(self, owner: int | ChunkKey, name: str, below: int) -> int:
        return int(self._generator.randint(0, below))

    @property
    def state(self) -> GeneratorState:
        return GeneratorState.of(self._generator)


class Step:
    """The state being changed, with who stands where.

    An object removed during a step still finishes its update: it no longer blocks anyone, and
    moves without moving.
    """

    def __init__(self, state: WorldState, draws: Draws) -> None:
        self.state = state
        self.draws = draws
        self.occupants = {entity.position: entity for entity in state.objects}
        self.removed: set[int] = set()

    @property
    def player(self) -> Player:
        return self.state.player

    def is_free(self, position: Position, walkable: frozenset[str]) -> bool:
        return position not in self.occupants and material_at(self.state, position) in walkable

    def move(
        self, entity: Entity, direction: Position, walkable: frozenset[str] = WALKABLE
    ) -> bool:
        position = shift(entity.position, direction)
        if not self.is_free(position, walkable):
            return False
        if entity.entity_id not in self.removed:
            del self.occupants[entity.position]
            entity.position = position
            self.occupants[position] = entity
            self._know(position)
        return True

    def add(self, entity: Entity) -> None:
        self.state.next_id += 1
        self.state.objects.append(entity)
        self.occupants[entity.position] = entity
        self._know(entity.position)

    def remove(self, entity: Entity) -> None:
        self.removed.add(entity.entity_id)
        del self.occupants[entity.position]

    def set_material(self, position: Position, material: str) -> None:
        self.state.materials[position] = MATERIAL_INDEX[material]

    def hurt(self, entity: Entity, damage: int) -> None:
        entity.health = max(0, entity.health - damage)

    def random_direction(self, entity: Entity) -> Position:
        return tuple(DIRECTIONS.values())[self.draws.integer(entity.entity_id, "direction", 4)]

    def chance(self, entity: Entity, name: str, probability: float) -> bool:
        return self.draws.uniform(entity.entity_id, name) < probability

    def _know(self, position: Position) -> None:
        chunk = chunk_of(self.state.size, position)
        if chunk not in self.state.known_chunks:
            self.state.known_chunks.append(chunk)
