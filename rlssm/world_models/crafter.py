"""The rules of Crafter as a pure function of the state, on NumPy and plain objects.

One step: the clock moves on; the player acts; every other object in range acts, in order of birth;
every tenth step creatures appear and vanish, chunk by chunk. Later ones see what earlier ones did.
Equal in every field to package `crafter`, given the same generator.

Source: Crafter 1.8.3 (arXiv 2109.06780). Departures: nothing is drawn on screen (the package's
night pictures consume random numbers); the creature to vanish is chosen from those of the chunk
in order of birth (the package holds them in a set, whose order differs between processes).
"""

import numpy as np

from rlssm.errors import require, unknown_name
from rlssm.world_models.crafter_creatures import balance, update
from rlssm.world_models.crafter_player import update_player
from rlssm.world_models.crafter_step import Draws, GeneratorDraws, Step
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    Entity,
    GeneratorState,
    Player,
    WorldState,
    chunk_of,
    distance,
)
from rlssm.world_models.terrain import terrain

DAY_LENGTH = 300
EPISODE_LENGTH = 10_000
BALANCE_EVERY = 10


def initial_state(
    size: tuple[int, int] = (64, 64),
    view: tuple[int, int] = (9, 9),
    seed: int = 0,
    episode: int = 1,
) -> WorldState:
    """Return the first state of an episode, equal to the package's for the same arguments.

    Raises:
      UserError: on a map or view smaller than 3 by 3.
    """
    require(min(size) >= 3, "size", size, "at least (3, 3)")
    require(min(view) >= 3, "view", view, "at least (3, 3)")
    generator = np.random.RandomState(hash((seed, episode)) % (2**31 - 1))
    start = size[0] // 2, size[1] // 2
    materials, animals = terrain(size, start, generator)
    objects: list[Entity] = [Player(entity_id=1, position=start), *animals]
    chunks = dict.fromkeys(chunk_of(size, entity.position) for entity in objects)
    return WorldState(
        materials=materials,
        objects=objects,
        known_chunks=list(chunks),
        next_id=len(objects) + 1,
        view=view,
        random=GeneratorState.of(generator),
        daylight=daylight(0),
    )


def transition(
    state: WorldState, action: str, draws: Draws | None = None
) -> tuple[WorldState, float]:
    """Return the next state and the reward; `state` stays as it was.

    Args:
      state: the world before.
      action: one of `ACTIONS`.
      draws: where random numbers come from; by default the generator kept in the state, which
        moves on.

    Raises:
      UserError: on an unknown action.
    """
    if action not in ACTIONS:
        raise unknown_name("action", action, ACTIONS)
    own = GeneratorDraws(state.random)
    step = Step(state.copy(), own if draws is None else draws)
    after = step.state
    after.step_count += 1
    after.daylight = daylight(after.step_count)
    after.player.action = action
    others = after.objects[1:]  # those born in this step wait for the next
    update_player(step, after.player)
    for entity in others:
        if distance(entity.position, after.player.position) < after.update_range:
            update(step, entity)
    if after.step_count % BALANCE_EVERY == 0:
        for chunk in after.known_chunks:
            balance(step, chunk)
    after.objects = [entity for entity in after.objects if entity.entity_id not in step.removed]
    after.random = own.state
    return after, reward(state, after)


def reward(before: WorldState, after: WorldState) -> float:
    """Return a tenth of the health gained, plus 1 if anything was achieved for the first time."""
    unlocked = any(
        after.player.achievements[name] > 0 and before.player.achievements[name] == 0
        for name in ACHIEVEMENTS
    )
    return (after.player.health - before.player.health) / 10 + float(unlocked)


def is_over(state: WorldState) -> bool:
    """Return whether the life has ended: by death or by its length."""
    return state.player.health <= 0 or state.step_count >= EPISODE_LENGTH


def daylight(step_count: int) -> float:
    """Return how light it is: 1 - |cos(pi (t / 300 mod 1 + 0.3))|^3."""
    progress = (step_count / DAY_LENGTH) % 1 + 0.3
    return float(1 - np.abs(np.cos(np.pi * progress)) ** 3)
