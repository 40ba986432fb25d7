"""How all but the player act, and how creatures appear and vanish. Source: Crafter 1.8.3."""

from dataclasses import dataclass

import numpy as np

from rlssm.world_models.crafter_step import Step
from rlssm.world_models.schema import (
    ARROW_WALKABLE,
    DIRECTIONS,
    MATERIAL_INDEX,
    Arrow,
    ChunkKey,
    Cow,
    Entity,
    Plant,
    Position,
    Skeleton,
    Zombie,
    distance,
    material_at,
    shift,
    toward,
)


def update(step: Step, entity: Entity) -> None:
    """Let one object other than the player act."""
    match entity:
        case Cow():
            _update_cow(step, entity)
        case Zombie():
            _update_zombie(step, entity)
        case Skeleton():
            _update_skeleton(step, entity)
        case Arrow():
            _update_arrow(step, entity)
        case Plant():
            _update_plant(step, entity)


def _update_cow(step: Step, cow: Cow) -> None:
    if cow.health <= 0:
        step.remove(cow)
    if step.chance(cow, "wander", 0.5):
        step.move(cow, step.random_direction(cow))


def _update_zombie(step: Step, zombie: Zombie) -> None:
    player = step.player
    if zombie.health <= 0:
        step.remove(zombie)
    if distance(zombie.position, player.position) <= 8 and step.chance(zombie, "chase", 0.9):
        long_axis = step.chance(zombie, "long axis", 0.8)
        step.move(zombie, toward(zombie.position, player.position, long_axis))
    else:
        step.move(zombie, step.random_direction(zombie))
    if distance(zombie.position, player.position) <= 1:
        if zombie.cooldown:
            zombie.cooldown -= 1
        else:
            step.hurt(player, 7 if player.sleeping else 2)
            zombie.cooldown = 5


def _update_skeleton(step: Step, skeleton: Skeleton) -> None:
    here, player = skeleton.position, step.player.position
    if skeleton.health <= 0:
        step.remove(skeleton)
    skeleton.reload = max(0, skeleton.reload - 1)
    away = distance(here, player)
    if away <= 3:
        dx, dy = toward(here, player, step.chance(skeleton, "flee along the long axis", 0.6))
        if step.move(skeleton, (-dx, -dy)):
            return
    if away <= 5 and step.chance(skeleton, "shoot", 0.5):
        _shoot(step, skeleton, toward(here, player))
    elif away <= 8 and step.chance(skeleton, "approach", 0.3):
        step.move(skeleton, toward(here, player, step.chance(skeleton, "long axis", 0.6)))
    elif step.chance(skeleton, "wander", 0.2):
        step.move(skeleton, step.random_direction(skeleton))


def _shoot(step: Step, skeleton: Skeleton, direction: Position) -> None:
    position = shift(skeleton.position, direction)
    if skeleton.reload == 0 and direction != (0, 0) and step.is_free(position, ARROW_WALKABLE):
        step.add(Arrow(entity_id=step.state.next_id, position=position, facing=direction))
        skeleton.reload = 4


def _update_arrow(step: Step, arrow: Arrow) -> None:
    ahead = shift(arrow.position, arrow.facing)
    struck = step.occupants.get(ahead)
    if struck is not None:
        step.hurt(struck, 2)
        step.remove(arrow)
    elif not step.move(arrow, arrow.facing, ARROW_WALKABLE):
        step.remove(arrow)
        if material_at(step.state, ahead) in ("table", "furnace"):
            step.set_material(ahead, "path")


def _update_plant(step: Step, plant: Plant) -> None:
    plant.grown += 1
    around = (step.occupants.get(shift(plant.position, side)) for side in DIRECTIONS.values())
    if any(isinstance(entity, Zombie | Skeleton | Cow) for entity in around):
        step.hurt(plant, 1)
    if plant.health <= 0:
        step.remove(plant)


# --- Appearing and vanishing ------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """How the number of one kind of creature in a chunk is held near a target."""

    kind: type[Zombie] | type[Skeleton] | type[Cow]
    material: str  # where they appear
    spawn_distance: int  # least L1 distance to the player
    despawn_distance: int
    spawn_probability: float
    despawn_probability: float

    def target(self, space: int, light: float) -> tuple[int, int]:
        """Return the least and the largest number wanted, given tiles of the material and light."""
        if self.kind is Zombie:
            wanted = int(3.5 - 3 * light)
            return (0 if space < 50 else wanted), wanted
        if self.kind is Skeleton:
            return (0 if space < 6 else 1), 2
        return (0 if space < 30 else 1), int(1.5 + light)


POPULATIONS = (
    Population(Zombie, "grass", 6, 0, 0.3, 0.4),
    Population(Skeleton, "path", 7, 7, 0.1, 0.1),
    Population(Cow, "grass", 5, 5, 0.01, 0.1),
)


def balance(step: Step, chunk: ChunkKey) -> None:
    """Let creatures of each kind appear in or vanish from a chunk."""
    x0, x1, y0, y1 = chunk
    for population in POPULATIONS:
        creatures = [
            entity
            for entity in step.state.objects
            if isinstance(entity, population.kind)
            and entity.entity_id not in step.removed
            and x0 <= entity.position[0] < x1
            and y0 <= entity.position[1] < y1
        ]
        region = step.state.materials[x0:x1, y0:y1]
        tiles = np.argwhere(region == MATERIAL_INDEX[population.material])
        least, most = population.target(len(tiles), step.state.daylight)
        name = population.kind.kind
        if len(creatures) < least and (
            step.draws.uniform(chunk, f"spawn {name}") < population.spawn_probability
        ):
            x, y = tiles[step.draws.integer(chunk, f"{name} tile", len(tiles))]
            _spawn(step, population, (x0 + int(x), y0 + int(y)))
        elif len(creatures) > most and (
            step.draws.uniform(chunk, f"despawn {name}") < population.despawn_probability
        ):
            creature = creatures[step.draws.integer(chunk, f"{name} to vanish", len(creatures))]
            if distance(creature.position, step.player.position) >= population.despawn_distance:
                step.remove(creature)


def _spawn(step: Step, population: Population, position: Position) -> None:
    away = distance(position, step.player.position)
    if position not in step.occupants and away >= population.spawn_distance:
        step.add(population.kind(entity_id=step.state.next_id, position=position))
