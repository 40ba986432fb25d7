"""The player's part of a compiled Crafter step: `crafter_player` on arrays, for one state."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.world_models.crafter_jax_step import Step, add, know_chunk, look, walkable, write
from rlssm.world_models.crafter_player import COLLECT, MAKE, PLACE, SAPLING_PROBABILITY
from rlssm.world_models.crafter_slots import (
    COUNTERS,
    COW,
    FREE,
    PLANT,
    SKELETON,
    VECTORS,
    ZOMBIE,
    PlayerArrays,
)
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    ITEMS,
    MATERIAL_INDEX,
    MATERIALS,
    MAX_ITEM,
    RIPE_AFTER,
)

ITEM = {name: index for index, name in enumerate(ITEMS)}
ACHIEVEMENT = {name: index for index, name in enumerate(ACHIEVEMENTS)}
NONE = len(ITEMS)  # an item everybody has, for what needs none
SLEEP, DO = ACTIONS.index("sleep"), ACTIONS.index("do")
FIRST_PLACE, FIRST_MAKE = ACTIONS.index("place_stone"), ACTIONS.index("make_wood_pickaxe")
PLACED = tuple(action.removeprefix("place_") for action in ACTIONS[FIRST_PLACE:FIRST_MAKE])
MADE = tuple(action.removeprefix("make_") for action in ACTIONS[FIRST_MAKE:])
NEARBY = ("table", "furnace")
HUNGER, THIRST = (np.array([name == counter for name in COUNTERS]) for counter in COUNTERS[:2])
AROUND = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], np.int32)

# By material in front: what is needed, gained, left, and achieved; `NONE` where nothing.
_COLLECTED = [COLLECT.get(material, (None, "", material)) for material in MATERIALS]
TOOL = np.array([ITEM[tool] if tool else NONE for tool, _, _ in _COLLECTED])
GAIN = np.array([ITEM.get(item, NONE) for _, item, _ in _COLLECTED])
LEFT = np.array([MATERIAL_INDEX[left] for _, _, left in _COLLECTED], np.int8)
COLLECTED = np.array([ACHIEVEMENT.get(f"collect_{item}", 0) for _, item, _ in _COLLECTED])

# By thing placed.
COST_ITEM = np.array([ITEM[PLACE[thing][0]] for thing in PLACED])
COST = np.array([PLACE[thing][1] for thing in PLACED], np.int32)
WHERE = np.array([[material in PLACE[thing][2] for material in MATERIALS] for thing in PLACED])
BECOMES = np.array([MATERIAL_INDEX.get(thing, -1) for thing in PLACED], np.int8)
PLACE_ACHIEVEMENT = np.array([ACHIEVEMENT[f"place_{thing}"] for thing in PLACED])

# By thing made.
USES = np.array([[item in MAKE[thing][1] for item in ITEMS] for thing in MADE])
NEEDS = np.array([[place in MAKE[thing][0] for place in NEARBY] for thing in MADE])
MADE_ITEM = np.array([ITEM[thing] for thing in MADE])
MADE_ACHIEVEMENT = np.array([ACHIEVEMENT[f"make_{thing}"] for thing in MADE])


def update_player(step: Step, action: Int[Array, ""], draw: Float[Array, ""]) -> Step:
    """Let the player act and live; `draw` decides whether grass gives a sapling."""
    player = step.state.player
    tired = player.inventory[ITEM["energy"]] < MAX_ITEM
    wakes = player.sleeping & ~tired
    done = jnp.where(player.sleeping & tired, SLEEP, action)
    player = player._replace(
        action=action,
        sleeping=(player.sleeping & tired) | ((done == SLEEP) & tired),
        achievements=_achieve(player, ACHIEVEMENT["wake_up"], wakes),
    )
    step = _with(step, player)
    ahead = player.position + jnp.asarray(VECTORS)[player.facing]
    material = look(step.state.materials, ahead, -1).astype(jnp.int32)
    occupant = look(step.occupied, ahead, FREE)
    step = _move(step, done)
    step = _strike(step, occupant, (done == DO) & (occupant != FREE))
    step = _collect(
        step, ahead, material, (done == DO) & (occupant == FREE) & (material >= 0), draw
    )
    step = _place(step, ahead, material, done, (occupant == FREE) & (material >= 0))
    step = _make(step, done)
    return _with(step, _live(step.state.player))


def _with(step: Step, player: PlayerArrays) -> Step:
    return step._replace(state=step.state._replace(player=player))


def _achieve(
    player: PlayerArrays, achievement: Int[Array, ""] | int, when: Bool[Array, ""]
) -> Int[Array, " 22"]:
    return player.achievements.at[achievement].add(when.astype(jnp.int32))


def _move(step: Step, action: Int[Array, ""]) -> Step:
    state, player = step.state, step.state.player
    moves = (action >= 1) & (action <= 4)
    facing = jnp.where(moves, action - 1, player.facing)
    goal = player.position + jnp.asarray(VECTORS)[facing]
    free = walkable(look(state.materials, goal, -1), "player") & (
        look(step.occupied, goal, FREE) == FREE
    )
    goes = moves & free
    position = jnp.where(goes, goal, player.position)
    occupied = write(step.occupied, player.position, FREE, goes)
    occupied = write(occupied, position, state.slots.kind.shape[0], goes)
    burns = moves & (look(state.materials, position, -1) == MATERIAL_INDEX["lava"])
    player = player._replace(
        facing=facing, position=position, health=jnp.where(burns, 0, player.health)
    )
    ranks = know_chunk(state.chunk_rank, position, state.materials.shape, goes)
    return Step(state._replace(player=player, chunk_rank=ranks), occupied)


def _strike(step: Step, slot: Int[Array, ""], when: Bool[Array, ""]) -> Step:
    player, slots = step.state.player, step.state.slots
    struck = (jnp.arange(slots.kind.shape[0]) == slot) & when
    has = {name: player.inventory[ITEM[name]] > 0 for name in ITEMS if name.endswith("sword")}
    damage = jnp.where(
        has["iron_sword"], 5, jnp.where(has["stone_sword"], 3, jnp.where(has["wood_sword"], 2, 1))
    )
    hit = struck & ((slots.kind == COW) | (slots.kind == ZOMBIE) | (slots.kind == SKELETON))
    health = jnp.where(hit, jnp.maximum(slots.health - damage, 0), slots.health)
    ripe = struck & (slots.kind == PLANT) & (slots.timer > RIPE_AFTER)
    killed = hit & (health == 0)
    ate_cow, ate_plant = jnp.any(killed & (slots.kind == COW)), jnp.any(ripe)
    achievements = player.achievements
    for name, gained in (
        ("eat_cow", ate_cow),
        ("eat_plant", ate_plant),
        ("defeat_zombie", jnp.any(killed & (slots.kind == ZOMBIE))),
        ("defeat_skeleton", jnp.any(killed & (slots.kind == SKELETON))),
    ):
        achievements = achievements.at[ACHIEVEMENT[name]].add(gained.astype(jnp.int32))
    food = (6 * ate_cow + 4 * ate_plant).astype(jnp.int32)
    player = player._replace(
        achievements=achievements,
        inventory=player.inventory.at[ITEM["food"]].add(food),
        counters=jnp.where(ate_cow & HUNGER, 0, player.counters),
    )
    slots = slots._replace(health=health, timer=jnp.where(ripe, 0, slots.timer))
    return step._replace(state=step.state._replace(player=player, slots=slots))


def _collect(
    step: Step,
    ahead: Int[Array, " 2"],
    material: Int[Array, ""],
    when: Bool[Array, ""],
    draw: Float[Array, ""],
) -> Step:
    player = step.state.player
    drinks = when & (material == MATERIAL_INDEX["water"])
    tool, gain = jnp.asarray(TOOL)[material], jnp.asarray(GAIN)[material]
    owned = jnp.append(player.inventory, 1)  # the last is what needs nothing
    works = when & (gain != NONE) & (owned[tool] > 0)
    gains = works & ((material != MATERIAL_INDEX["grass"]) | (draw <= SAPLING_PROBABILITY))
    player = player._replace(
        inventory=owned.at[gain].add(gains.astype(jnp.int32))[:NONE],
        achievements=_achieve(player, jnp.asarray(COLLECTED)[material], gains),
        counters=jnp.where(drinks & THIRST, 0, player.counters),
    )
    materials = write(step.state.materials, ahead, jnp.asarray(LEFT)[material], works)
    return step._replace(state=step.state._replace(player=player, materials=materials))


def _place(
    step: Step,
    ahead: Int[Array, " 2"],
    material: Int[Array, ""],
    action: Int[Array, ""],
    free: Bool[Array, ""],
) -> Step:
    player = step.state.player
    thing = jnp.clip(action - FIRST_PLACE, 0, len(PLACED) - 1)
    item, cost = jnp.asarray(COST_ITEM)[thing], jnp.asarray(COST)[thing]
    chosen = (action >= FIRST_PLACE) & (action < FIRST_MAKE)
    fits = jnp.asarray(WHERE)[thing, material] & (player.inventory[item] >= cost)
    places = chosen & free & fits
    player = player._replace(
        inventory=player.inventory.at[item].add(-cost * places),
        achievements=_achieve(player, jnp.asarray(PLACE_ACHIEVEMENT)[thing], places),
    )
    step = _with(step, player)
    becomes = jnp.asarray(BECOMES)[thing]
    step = add(step, places & (becomes < 0), PLANT, ahead, health=1)
    materials = write(step.state.materials, ahead, becomes, places & (becomes >= 0))
    return step._replace(state=step.state._replace(materials=materials))


def _make(step: Step, action: Int[Array, ""]) -> Step:
    player = step.state.player
    thing = jnp.clip(action - FIRST_MAKE, 0, len(MADE) - 1)
    around = look(step.state.materials, player.position + jnp.asarray(AROUND), -1)
    # At x = 0 or y = 0 nothing is near: see `schema.nearby_materials`.
    near = jnp.stack([jnp.any(around == MATERIAL_INDEX[place]) for place in NEARBY])
    near &= jnp.all(player.position > 0)
    uses = jnp.asarray(USES)[thing]
    makes = (
        (action >= FIRST_MAKE)
        & jnp.all(near | ~jnp.asarray(NEEDS)[thing])
        & jnp.all((player.inventory > 0) | ~uses)
    )
    spent = (uses & makes).astype(jnp.int32)
    made = makes.astype(jnp.int32)
    player = player._replace(
        inventory=(player.inventory - spent).at[jnp.asarray(MADE_ITEM)[thing]].add(made),
        achievements=_achieve(player, jnp.asarray(MADE_ACHIEVEMENT)[thing], makes),
    )
    return _with(step, player)


def _live(player: PlayerArrays) -> PlayerArrays:
    """Return the player after one step of hunger, thirst, fatigue and recovery."""
    asleep, vitals = player.sleeping, player.inventory[:3]
    hunger, thirst, fatigue, recover = player.counters
    pace = jnp.where(asleep, 0.5, 1.0)
    hunger, thirst = hunger + pace, thirst + pace
    fatigue = jnp.where(asleep, jnp.minimum(fatigue - 1, 0), fatigue + 1)
    over = jnp.stack([hunger > 25, thirst > 20, fatigue > 30])
    rested = fatigue < -10
    vitals = vitals - over.astype(jnp.int32)
    vitals = vitals.at[2].add(rested.astype(jnp.int32))
    met = (vitals[0] > 0) & (vitals[1] > 0) & ((vitals[2] > 0) | asleep)
    recover += jnp.where(met, jnp.where(asleep, 2.0, 1.0), jnp.where(asleep, -0.5, -1.0))
    healed, worn = recover > 25, recover < -15
    health = player.health + healed.astype(jnp.int32) - worn.astype(jnp.int32)
    health = jnp.clip(health, 0, MAX_ITEM)
    counters = jnp.stack(
        [
            jnp.where(over[0], 0, hunger),
            jnp.where(over[1], 0, thirst),
            jnp.where(over[2] | rested, 0, fatigue),
            jnp.where(healed | worn, 0, recover),
        ]
    ).astype(player.counters.dtype)
    return player._replace(
        inventory=jnp.clip(player.inventory.at[:3].set(vitals), 0, MAX_ITEM),
        counters=counters,
        health=health,
        sleeping=asleep & (health >= player.last_health),
        last_health=health,
    )
