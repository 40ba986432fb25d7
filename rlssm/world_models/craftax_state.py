"""Craftax-Classic's state as Crafter's objects: the second world behind the same view.

Craftax-Classic (package `craftax`, an extra) has Crafter's things with rules of its own. Here its
state becomes a `WorldState`, so that everything that looks at Crafter looks at it too: laws,
scores, pictures. x is the column and y the row. Ids are given by `Identities`, which must see
every state of a life in order: who keeps its slot keeps its id.

What Craftax does not keep is filled in: achievements are 0 or 1, a plant is healthy, and the
player remembers the health it has. Its rules differ from Crafter's in many places (a furnace costs
one stone, plants ripen after 600 steps, creatures come and go near the player), so that Crafter's
hand-written laws do not hold here.

Source: Craftax (arXiv 2402.16801), package `craftax` 1.6.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.errors import missing_package, unknown_name
from rlssm.world_models.crafter import daylight
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    ITEMS,
    MATERIAL_INDEX,
    NO_MATERIAL,
    RIPE_AFTER,
    VITALS,
    Arrow,
    ChunkKey,
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

VIEW = (9, 9)  # nine tiles across, as in Crafter; Craftax shows seven down
RIPE_THERE = 600  # steps after which a plant is ripe there

_BLOCKS = (
    None, None, "grass", "water", "stone", "tree", "tree", "path", "coal", "iron", "diamond",
    "table", "furnace", "sand", "lava", "grass", "grass",
)  # fmt: skip
_ACHIEVEMENTS = (
    "collect_wood", "place_table", "eat_cow", "collect_sapling", "collect_drink",
    "make_wood_pickaxe", "make_wood_sword", "place_plant", "defeat_zombie", "collect_stone",
    "place_stone", "eat_plant", "defeat_skeleton", "make_stone_pickaxe", "make_stone_sword",
    "wake_up", "place_furnace", "collect_coal", "collect_iron", "collect_diamond",
    "make_iron_pickaxe", "make_iron_sword",
)  # fmt: skip
_FACING: tuple[Position, ...] = ((0, 1), (-1, 0), (1, 0), (0, -1), (0, 1))  # by action id
_PLAYER_ID = 1


class CraftaxWorld(NamedTuple):
    """Craftax-Classic as pure functions, compiled: `reset(key)`, `step(key, state, action)`."""

    reset: Any
    step: Any


def load_craftax() -> CraftaxWorld:
    """Return Craftax-Classic, without its automatic reset.

    Raises:
      UserError: if the package is not installed, with the extra that brings it.
    """
    try:
        envs = import_module("craftax.craftax_classic.envs.craftax_symbolic_env")
        rules = import_module("craftax.craftax_classic.game_logic")
    except ImportError as error:
        raise missing_package("craftax", "craftax", "Craftax-Classic") from error
    env = envs.CraftaxClassicSymbolicEnvNoAutoReset()
    params, static = env.default_params, env.static_env_params

    def reset(key: Any) -> Any:
        return strong(env.reset_env(key, params)[1])

    def step(key: Any, state: Any, action: Any) -> tuple[Any, Any]:
        return rules.craftax_step(key, state, action, params, static)

    return CraftaxWorld(jax.jit(reset), jax.jit(step))


def strong(state: Any) -> Any:
    """Return a state whose leaves all have a dtype of their own.

    Those of a new state are Python numbers in disguise, so that a step would be compiled twice.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.asarray(leaf).dtype), state)


# --- As objects -------------------------------------------------------------------------------


@dataclass
class Identities:
    """Ids of the objects of one life, by their slot; a slot that is taken anew gets a new id."""

    next_id: int = _PLAYER_ID + 1
    by_slot: dict[tuple[str, int], int] = field(default_factory=dict)
    chunks: list[ChunkKey] = field(default_factory=list)

    def see(self, slots: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Return the ids of the slots that are taken now, and remember them."""
        kept = {slot: self.by_slot[slot] for slot in slots if slot in self.by_slot}
        for slot in slots:
            if slot not in kept:
                kept[slot] = self.next_id
                self.next_id += 1
        self.by_slot = kept
        return kept


def from_craftax(state: Any, identities: Identities, action: str = "noop") -> WorldState:
    """Return a state (not a batch) of Craftax-Classic as objects.

    Args:
      state: its `EnvState`, arrays of JAX or NumPy.
      identities: those of this life; they move on.
      action: what led here.

    Raises:
      UserError: on an unknown action.
    """
    if action not in ACTIONS:
        raise unknown_name("action", action, ACTIONS)
    materials, size = _materials(state), np.shape(state.map)
    found = dict(_entities(state))
    ids = identities.see(list(found))
    for slot, entity in found.items():
        entity.entity_id = ids[slot]
    others = sorted(found.values(), key=lambda entity: entity.entity_id)
    objects: list[Entity] = [_player(state, action), *others]
    held = [chunk_of((size[1], size[0]), entity.position) for entity in objects]
    identities.chunks = list(dict.fromkeys([*identities.chunks, *held]))
    step_count = int(state.timestep)
    return WorldState(
        materials=materials,
        objects=objects,
        known_chunks=list(identities.chunks),
        next_id=identities.next_id,
        view=VIEW,
        random=GeneratorState.of(np.random.RandomState(0)),  # Craftax draws from keys it is given
        step_count=step_count,
        daylight=daylight(step_count),
    )


def _materials(state: Any) -> np.ndarray:
    codes = [NO_MATERIAL if name is None else MATERIAL_INDEX[name] for name in _BLOCKS]
    return np.array(codes, np.int8)[np.asarray(state.map)].T.copy()


def _position(row_and_column: Any) -> Position:
    row, column = np.asarray(row_and_column).tolist()
    return column, row


def _player(state: Any, action: str) -> Player:
    inventory = {item: int(getattr(state, f"player_{item}")) for item in VITALS}
    inventory |= {item: int(getattr(state.inventory, item)) for item in ITEMS[len(VITALS) :]}
    done = dict(zip(_ACHIEVEMENTS, np.asarray(state.achievements).tolist(), strict=True))
    return Player(
        entity_id=_PLAYER_ID,
        position=_position(state.player_position),
        health=int(state.player_health),
        facing=_FACING[int(state.player_direction)],
        action=action,
        sleeping=bool(state.is_sleeping),
        achievements={name: int(done[name]) for name in ACHIEVEMENTS},
        inventory=inventory,
        hunger=float(state.player_hunger),
        thirst=float(state.player_thirst),
        fatigue=float(state.player_fatigue),
        recover=float(state.player_recover),
        last_health=int(state.player_health),
    )


def _entities(state: Any) -> Iterator[tuple[tuple[str, int], Entity]]:
    """Yield every object but the player under its slot; ids are still to be given."""
    for name in ("zombies", "cows", "skeletons", "arrows"):
        mobs = getattr(state, name)
        for slot in np.flatnonzero(np.asarray(mobs.mask)).tolist():
            position, health = _position(mobs.position[slot]), int(mobs.health[slot])
            waits = max(int(mobs.attack_cooldown[slot]), 0)
            match name:
                case "zombies":
                    entity: Entity = Zombie(0, position, health, cooldown=waits)
                case "cows":
                    entity = Cow(0, position, health)
                case "skeletons":
                    entity = Skeleton(0, position, health, reload=waits)
                case _:
                    facing = _position(state.arrow_directions[slot])
                    entity = Arrow(0, position, health, facing=facing)
            yield (name, slot), entity
    for slot in np.flatnonzero(np.asarray(state.growing_plants_mask)).tolist():
        age = int(state.growing_plants_age[slot])
        # Ripe there is ripe here; until then it is as far as it can be without being ripe.
        grown = age - RIPE_THERE + RIPE_AFTER + 1 if age >= RIPE_THERE else min(age, RIPE_AFTER)
        position = _position(state.growing_plants_positions[slot])
        yield ("plants", slot), Plant(0, position, grown=grown)


CRAFTAX_VIEW = CrafterView(name="craftax-classic")  # laws of one world are refused in the other
