"""The creatures' part of a compiled Crafter step: `crafter_creatures` on arrays, for one state."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlssm.world_models.crafter_jax_step import (
    SLOT_DRAWS,
    Draws,
    Step,
    add,
    below,
    know_chunk,
    look,
    replace_rows,
    walkable,
    write,
)
from rlssm.world_models.crafter_slots import (
    ARROW,
    COW,
    EMPTY,
    FREE,
    NOWHERE,
    PLANT,
    SKELETON,
    VECTORS,
    ZOMBIE,
    Slots,
)
from rlssm.world_models.schema import MATERIAL_INDEX


def update_order(step: Step, next_id: Int[Array, ""]) -> tuple[Int[Array, " N"], Int[Array, ""]]:
    """Return the slots that act, first and in order of birth, and how many they are.

    They are in range of the player and were born before this step, with an id below `next_id`.
    """
    slots, state = step.state.slots, step.state
    away = jnp.sum(jnp.abs(slots.position - state.player.position), -1)
    acts = (slots.kind != EMPTY) & (away < state.update_range) & (slots.id < next_id)
    last = jnp.iinfo(slots.id.dtype).max
    order = jnp.argsort(jnp.where(acts, slots.id, last)).astype(jnp.int32)
    return order, jnp.sum(acts, dtype=jnp.int32)


def update_creature(step: Step, slot: Int[Array, ""], draws: Draws, acts: Bool[Array, ""]) -> Step:
    """Let the object in a slot act, where `acts` holds."""
    state = step.state
    slots, player = state.slots, state.player
    me = Slots(*(leaf[slot] for leaf in slots))
    draw = {name: draws.slots[slot, column] for name, column in SLOT_DRAWS.items()}
    offset = player.position - me.position
    away = jnp.sum(jnp.abs(offset))

    # The tile itself comes last; whoever is dead no longer blocks it.
    places = me.position + jnp.asarray(VECTORS)
    materials = look(state.materials, places, -1).astype(jnp.int32)
    occupants = look(step.occupied, places, FREE)
    dead = (me.health == 0) & _is(me, COW, ZOMBIE, SKELETON)
    clear = (occupants == FREE).at[NOWHERE].set(dead)
    passable = clear & jnp.where(
        me.kind == ARROW, walkable(materials, "arrow"), walkable(materials, "creature")
    )

    reload = jnp.maximum(me.timer - 1, 0)
    direction, shoots = _intention(me, offset, away, passable, draw)
    ahead = occupants[me.facing]
    strikes = (me.kind == ARROW) & (ahead != FREE)
    shatters = (me.kind == ARROW) & ~strikes & ~passable[me.facing]
    mobs = jnp.any(_at(slots.kind, occupants[:NOWHERE], (COW, ZOMBIE, SKELETON)))
    health = jnp.where((me.kind == PLANT) & mobs, jnp.maximum(me.health - 1, 0), me.health)
    removed = acts & (dead | strikes | shatters | ((me.kind == PLANT) & (health == 0)))

    goes = acts & ~removed & passable[direction] & (direction != NOWHERE)
    position = jnp.where(goes, places[direction], me.position)
    beside = jnp.sum(jnp.abs(player.position - position)) <= 1
    bites = (me.kind == ZOMBIE) & beside & (me.timer == 0)
    shot = places[shoots]
    fires = acts & (shoots != NOWHERE) & (reload == 0) & clear[shoots]
    fires &= walkable(materials[shoots], "arrow")
    timer = jnp.where(
        me.kind == ZOMBIE,
        jnp.where(beside, jnp.where(bites, 5, me.timer - 1), me.timer),
        jnp.where(
            me.kind == SKELETON,
            jnp.where(fires, 4, reload),
            me.timer + (me.kind == PLANT),
        ),
    )

    after = me._replace(
        kind=jnp.where(removed, EMPTY, me.kind), position=position, health=health, timer=timer
    )
    numbers = jnp.arange(slots.kind.shape[0])
    struck = (numbers == ahead) & strikes & acts
    slots = replace_rows(slots, (numbers == slot) & acts, after)
    slots = slots._replace(health=jnp.where(struck, jnp.maximum(slots.health - 2, 0), slots.health))
    pain = jnp.where(bites & acts, jnp.where(player.sleeping, 7, 2), 0)
    pain += 2 * (strikes & acts & (ahead == numbers.shape[0]))
    breaks = shatters & acts & _is_one_of(materials[me.facing], "table", "furnace")
    state = state._replace(
        slots=slots,
        player=player._replace(health=jnp.maximum(player.health - pain, 0)),
        materials=write(state.materials, places[me.facing], MATERIAL_INDEX["path"], breaks),
        chunk_rank=know_chunk(state.chunk_rank, position, state.materials.shape, goes),
    )
    occupied = write(step.occupied, me.position, FREE, goes | removed)
    occupied = write(occupied, position, slot, goes)
    return add(Step(state, occupied), fires, ARROW, shot, health=0, facing=shoots)


def _intention(
    me: Slots,
    offset: Int[Array, " 2"],
    away: Int[Array, ""],
    passable: Bool[Array, " 5"],
    draw: dict[str, Float[Array, ""]],
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Return where an object wants to go and where it wants to shoot, `NOWHERE` for neither."""
    anywhere = below(draw["direction"], 4)
    cow = jnp.where(draw["wander"] < 0.5, anywhere, NOWHERE)
    chases = (away <= 8) & (draw["chase"] < 0.9)
    zombie = jnp.where(chases, _toward(offset, draw["long axis"] < 0.8), anywhere)

    flight = _opposite(_toward(offset, draw["flee along the long axis"] < 0.6))
    flees = (away <= 3) & passable[flight]
    shoots = ~flees & (away <= 5) & (draw["shoot"] < 0.5)
    approaches = (away <= 8) & (draw["approach"] < 0.3)
    approach = _toward(offset, draw["long axis"] < 0.6)
    wander = jnp.where(draw["wander"] < 0.2, anywhere, NOWHERE)
    calm = jnp.where(shoots, NOWHERE, jnp.where(approaches, approach, wander))
    skeleton = jnp.where(flees, flight, calm)

    direction = jnp.select(
        [me.kind == kind for kind in (COW, ZOMBIE, SKELETON, ARROW)],
        [cow, zombie, skeleton, me.facing],
        NOWHERE,
    )
    target = jnp.where((me.kind == SKELETON) & shoots, _toward(offset, True), NOWHERE)
    return direction, target


def _toward(offset: Int[Array, " 2"], long_axis: Bool[Array, ""] | bool) -> Int[Array, ""]:
    """Return the direction along the longer or shorter axis, `NOWHERE` where that is level."""
    dx, dy = offset
    along_x = jnp.where(long_axis, jnp.abs(dx) > jnp.abs(dy), jnp.abs(dx) <= jnp.abs(dy))
    step = jnp.where(along_x, dx, dy)
    direction = jnp.where(step > 0, 1, 0) + jnp.where(along_x, 0, 2)
    return jnp.where(step == 0, NOWHERE, direction)


def _opposite(direction: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.where(direction == NOWHERE, NOWHERE, direction ^ 1)


def _is(me: Slots, *kinds: int) -> Bool[Array, ""]:
    return jnp.any(jnp.array([me.kind == kind for kind in kinds]))


def _is_one_of(material: Int[Array, ""], *names: str) -> Bool[Array, ""]:
    return jnp.any(jnp.array([material == MATERIAL_INDEX[name] for name in names]))


def _at(
    kinds: Int[Array, " N"], occupants: Int[Array, " K"], wanted: tuple[int, ...]
) -> Bool[Array, " K"]:
    """Return which occupants are slots of one of the wanted kinds."""
    count = kinds.shape[0]
    found = kinds[jnp.clip(occupants, 0, count - 1)]
    is_slot = (occupants >= 0) & (occupants < count)
    return is_slot & jnp.any(jnp.array([found == kind for kind in wanted]), 0)
