"""Crafter states in which much can happen, drawn by a seed, and lives lived from them."""

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from rlssm.world_models.crafter import daylight, initial_state
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    DIRECTIONS,
    ITEMS,
    MATERIAL_INDEX,
    Arrow,
    Cow,
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
from rlssm.world_models.schema_json import state_to_json

STEPS = 12  # lived from each random start

# What the land is mostly made of, and what is strewn over it.
_GROUNDS = ("grass", "path", "sand")
_STREWN = (
    "water", "stone", "tree", "lava", "coal", "iron", "diamond", "table", "furnace", "grass",
    "path",
)  # fmt: skip


def random_start(seed: int, size: tuple[int, int] | None = None) -> WorldState:
    """Return a small world with a well equipped player amid everything there is."""
    rng = np.random.RandomState(seed)
    drawn = int(rng.randint(7, 26)), int(rng.randint(7, 26))
    size = size or drawn
    materials = np.full(size, MATERIAL_INDEX[_GROUNDS[rng.choice(3, p=[0.5, 0.4, 0.1])]], np.int8)
    strewn = rng.uniform(size=size) < rng.choice([0.1, 0.3, 0.5])
    chosen = [MATERIAL_INDEX[name] for name in _STREWN]
    materials[strewn] = rng.choice(chosen, strewn.sum())
    position = int(rng.randint(size[0])), int(rng.randint(size[1]))
    player = _random_player(rng, position)
    objects: list[Entity] = [player]
    taken = {position}
    # Three times as many close to the player as anywhere.
    for count, spread in ((rng.randint(0, 10), 3), (rng.randint(0, 5), 30)):
        for _ in range(count):
            at = _near(rng, size, position, spread)
            if at not in taken:
                taken.add(at)
                objects.append(_random_creature(rng, 1 + len(objects) * 2, at))
    step_count = int(rng.randint(0, 900))
    return WorldState(
        materials=materials,
        objects=objects,
        known_chunks=list(dict.fromkeys(chunk_of(size, entity.position) for entity in objects)),
        next_id=2 * len(objects) + 3,
        view=(9, 9) if rng.uniform() < 0.8 else (5, 3),
        random=GeneratorState.of(np.random.RandomState(seed)),
        step_count=step_count,
        daylight=daylight(step_count),
    )


def _near(rng: np.random.RandomState, size: tuple[int, int], at: Position, spread: int) -> Position:
    x, y = np.clip(np.array(at) + rng.randint(-spread, spread + 1, 2), 0, np.array(size) - 1)
    return int(x), int(y)


def _random_player(rng: np.random.RandomState, position: Position) -> Player:
    amounts = np.where(rng.uniform(size=len(ITEMS)) < 0.6, rng.randint(0, 10, len(ITEMS)), 0)
    health = int(rng.randint(1, 10))
    return Player(
        entity_id=1,
        position=position,
        health=health,
        facing=list(DIRECTIONS.values())[rng.randint(4)],
        action=ACTIONS[rng.randint(len(ACTIONS))],
        sleeping=bool(rng.uniform() < 0.2),
        achievements=dict(zip(ACHIEVEMENTS, rng.randint(0, 2, 22).tolist(), strict=True)),
        inventory=dict(zip(ITEMS, amounts.tolist(), strict=True)),
        hunger=rng.randint(0, 51) / 2,
        thirst=rng.randint(0, 41) / 2,
        fatigue=float(rng.randint(-10, 31)),
        recover=rng.randint(-30, 51) / 2,
        last_health=int(np.clip(health + rng.randint(-1, 2), 0, 9)),
    )


def _random_creature(rng: np.random.RandomState, entity_id: int, position: Position) -> Entity:
    health = int(rng.randint(0, 6))
    match rng.choice(5, p=[0.2, 0.25, 0.25, 0.15, 0.15]):
        case 0:
            return Cow(entity_id, position, health)
        case 1:
            return Zombie(entity_id, position, health, cooldown=int(rng.randint(0, 3)))
        case 2:
            return Skeleton(entity_id, position, health, reload=int(rng.randint(0, 3)))
        case 3:
            facing = list(DIRECTIONS.values())[rng.randint(4)]
            return Arrow(entity_id, position, 0, facing=facing)
        case _:
            grown = int(rng.choice([0, 50, 299, 300, 301, 400]))
            return Plant(entity_id, position, health % 2, grown=grown)


BARE = initial_state((9, 9))


def meadow(*others: Entity, **player) -> WorldState:
    """Return nine by nine tiles of grass with the player amid them, facing (4, 5)."""
    state = BARE.copy()
    state.materials[:] = MATERIAL_INDEX["grass"]
    state.objects = [state.player, *others]
    state.next_id = 2 + len(others)
    state.known_chunks = [chunk_of((9, 9), (4, 4))]
    inventory = player.pop("inventory", {})
    for name, value in player.items():
        setattr(state.player, name, value)
    state.player.last_health = state.player.health
    state.player.inventory.update(inventory)
    return state


def put(state: WorldState, material: str, at=(4, 5)) -> WorldState:
    state.materials[at] = MATERIAL_INDEX[material]
    return state


def random_actions(seed: int, steps: int = STEPS) -> Iterator[str]:
    """Yield actions with more use of what is in front than a uniform choice makes."""
    rng = np.random.RandomState(seed + 10**6)
    for _ in range(steps):
        yield "do" if rng.uniform() < 0.25 else ACTIONS[rng.randint(len(ACTIONS))]


def digest(state: WorldState, reward: float) -> str:
    """Return 16 hex digits that stand for every field of a state and the reward before it."""
    fields = state_to_json(state)
    fields["daylight"] = round(state.daylight, 9)  # the cosine's last bit depends on the processor
    text = json.dumps([fields, round(reward, 9)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
