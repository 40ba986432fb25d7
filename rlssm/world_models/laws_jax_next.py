"""The next state that compiled laws make: values drawn, the dead gone, all moved, births last."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlssm.types import Key
from rlssm.world_models.crafter_jax_step import begin, chunk_at, look, write
from rlssm.world_models.crafter_slots import (
    EMPTY,
    FREE,
    KIND_CODE,
    VECTORS,
    CrafterArrays,
    PlayerArrays,
    Slots,
)
from rlssm.world_models.crafter_vocabulary import ATTRIBUTES, TILE
from rlssm.world_models.laws_jax_heard import Heard, free_tiles, slot_value
from rlssm.world_models.laws_jax_scene import NONE, PLAYER_INDEX, TIMERS, chunk_map, unpack_player
from rlssm.world_models.laws_jax_votes import Scores, Uniforms, draw, draw_number, merged
from rlssm.world_models.object_view import BOOLEAN, STEPS, Domain, Numbers
from rlssm.world_models.schema import KINDS


class Births(NamedTuple):
    """Newborns drawn, one for each place."""

    born: Bool[Array, " K"]
    place: Int[Array, "K 2"]
    kind: Int[Array, " K"]
    facing: Int[Array, " K"]


class Moved(NamedTuple):
    """A state before its births, who stands where in it, and what is said about births.

    `appearing` holds scores by chunk, `[C, V]`, under the material and the kind that they are for.
    """

    state: CrafterArrays
    occupied: Int[Array, "X Y"]
    births: Births
    appearing: dict[tuple[str, str], Scores]


def next_state(drawn: Heard) -> Moved:
    """Return the state that follows from what laws say, but for its births."""
    scene, uniforms = drawn.scene, drawn.uniforms
    state = scene.state
    player = _new_player(drawn)
    slots, alive = _new_slots(drawn)
    materials = state.materials
    for places, scores in drawn.materials:
        material = draw_number(scores, TILE["material"], uniforms)
        materials = write(materials, places, material.astype(jnp.int32), scores.spoken)
    goals = _goals(drawn)
    births = [_born(kind, *said, uniforms) for kind, all_ in drawn.births.items() for said in all_]
    state = state._replace(
        materials=materials,
        player=player,
        slots=slots._replace(kind=jnp.where(alive, slots.kind, EMPTY)),
        step_count=_new_clock(drawn),
    )
    state, occupied = _move_all(state, goals, jnp.where(alive, scene.slots.id, -1))
    return Moved(state, occupied, _joined(births), drawn.appearing)


def finish(key: Key, before: CrafterArrays, moved: Moved, appearing: bool) -> CrafterArrays:
    """Return the state with its births; those by chunk only if `appearing`."""
    births = [moved.births]
    if appearing:
        uniforms, occupied = Uniforms(key), begin(before).occupied
        size = before.materials.shape
        places = jnp.stack(jnp.indices(size), -1).reshape(-1, 2)
        owner = chunk_map(size).ravel()
        for (material, kind), scores in moved.appearing.items():
            free = free_tiles(before.materials, occupied, material).ravel()
            each = Scores(scores.values[owner], scores.raised[owner], scores.spoken[owner] & free)
            births.append(_born(kind, places, each, uniforms))
    state = _give_birth(moved.state, moved.occupied, _joined(births))
    return state._replace(chunk_rank=_know_chunks(state))


def _final(
    domain: Domain,
    old: Float[Array, "*K"],
    said: list[Scores],
    amount: Float[Array, "*K"] | float,
    adds: Bool[Array, "*K"] | bool,
    uniforms: Uniforms,
) -> Float[Array, "*K"]:
    """Return the new value of an observable: drawn where laws set it, and what they add."""
    value = old
    if said:
        scores = _together(domain, said)
        value = jnp.where(scores.spoken, draw_number(scores, domain, uniforms), value)
    if isinstance(domain, Numbers):
        total = jnp.clip(value, domain.low, domain.high) + amount
        value = jnp.where(adds, jnp.clip(total, domain.low, domain.high), value)
    return value


def _together(domain: Domain, said: list[Scores]) -> Scores:
    if len(said) == 1 and said[0].values.ndim > 1:
        return said[0]
    spoken = jnp.any(jnp.stack([scores.spoken for scores in said]), 0)
    values = jnp.concatenate([scores.values for scores in said], -1)
    raised = jnp.concatenate([scores.raised for scores in said], -1)
    return merged(domain, values, raised, spoken)


_NUMERIC = {
    name: domain if isinstance(domain, Numbers) else Numbers(-np.inf, np.inf)
    for name, domain in ATTRIBUTES["player"].items()
}
_LOW, _HIGH = (
    np.array([getattr(domain, end) for domain in _NUMERIC.values()], np.float32)
    for end in ("low", "high")
)


def _new_player(drawn: Heard) -> PlayerArrays:
    old = drawn.scene.player
    value = old
    for name, said in drawn.set_player.items():
        if name != "displacement":
            index, domain = PLAYER_INDEX[name], ATTRIBUTES["player"][name]
            new = _final(domain, old[index], said, 0.0, False, drawn.uniforms)
            value = value.at[index].set(new)
    total = jnp.clip(jnp.clip(value, _LOW, _HIGH) + drawn.added, _LOW, _HIGH)
    return unpack_player(jnp.where(drawn.adds, total, value), drawn.scene.state.player)


def _new_slots(drawn: Heard) -> tuple[Slots, Bool[Array, " N"]]:
    slots = drawn.scene.slots
    alive = slots.kind != EMPTY
    new: dict[str, Array] = {}
    for name in dict.fromkeys([*drawn.set_slots, *drawn.add_slots]):
        if name == "displacement":
            continue
        added = drawn.add_slots[name]
        amount = sum((amount for amount, _ in added), start=jnp.zeros(slots.kind.shape))
        adds = sum((acts for _, acts in added), start=jnp.zeros(slots.kind.shape, bool))
        old, said = slot_value(slots, name), drawn.set_slots[name]
        new[name] = _final(_slot_domain(name), old, said, amount, adds, drawn.uniforms)
    timer = slots.timer
    for name, kind in TIMERS.items():
        if name in new:
            timer = jnp.where(slots.kind == kind, new[name].astype(jnp.int32), timer)
    after = slots._replace(
        health=new.get("health", slots.health).astype(jnp.int32),
        facing=new.get("facing", slots.facing).astype(jnp.int32),
        timer=timer,
    )
    return after, alive & (new["alive"] > 0 if "alive" in new else True)


def _slot_domain(name: str) -> Domain:
    if name == "alive":
        return BOOLEAN
    return next(ATTRIBUTES[kind][name] for kind in KIND_CODE if name in ATTRIBUTES[kind])


def _new_clock(drawn: Heard) -> Int[Array, ""]:
    step_count = drawn.scene.state.step_count
    passed = sum(drawn.clock, start=jnp.float32(0))
    return jnp.maximum(step_count + jnp.round(passed).astype(jnp.int32), 0)


# --- Moving -----------------------------------------------------------------------------------


def _goals(drawn: Heard) -> Int[Array, "N1 2"]:
    """Return where every slot, and last the player, wants to be."""
    scene, uniforms = drawn.scene, drawn.uniforms
    wanted = []
    for said, here in (
        (drawn.set_slots["displacement"], scene.slots.position),
        (drawn.set_player["displacement"], scene.state.player.position),
    ):
        if not said:
            wanted.append(here.reshape(-1, 2))
            continue
        scores = _together(STEPS, said)
        steps = here[..., None, :] + jnp.asarray(VECTORS)[scores.values.astype(jnp.int32)]
        on_map = look(scene.state.materials, steps, -2) != -2
        scores = scores._replace(raised=jnp.where(on_map, scores.raised, 0.0))
        size = scene.state.materials.shape
        direction, anywhere, place = draw(scores, size[0] * size[1], uniforms)
        there = jnp.stack(jnp.divmod(place, size[1]), -1)
        stepped = here + jnp.asarray(VECTORS)[direction.astype(jnp.int32)]
        goal = jnp.where(anywhere[..., None], there, stepped)
        wanted.append(jnp.where(scores.spoken[..., None], goal, here).reshape(-1, 2))
    return jnp.concatenate(wanted)


def _move_all(
    state: CrafterArrays, goals: Int[Array, "N1 2"], ids: Int[Array, " N"]
) -> tuple[CrafterArrays, Int[Array, "X Y"]]:
    """Return the state after everybody moved, and who stands where; ids are -1 for the dead."""
    capacity = ids.shape[0]
    positions = jnp.concatenate([state.slots.position, state.player.position[None]])
    lives = jnp.concatenate([ids >= 0, jnp.ones(1, bool)])
    occupied = jnp.full(state.materials.shape, FREE, jnp.int32)
    occupied = write(occupied, positions, jnp.arange(capacity + 1, dtype=jnp.int32), lives)
    moves = lives & jnp.any(goals != positions, -1)
    last = jnp.iinfo(jnp.int32).max
    rank = jnp.where(moves, jnp.concatenate([ids, jnp.full(1, -1)]), last)
    order = jnp.argsort(rank).astype(jnp.int32)  # the player first, then by birth

    def move(turn: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        occupied, positions = carry
        who = order[turn]
        here, goal = positions[who], goals[who]
        free = moves[who] & (look(occupied, goal, 0) == FREE)
        occupied = write(occupied, here, FREE, free)
        occupied = write(occupied, goal, who, free)
        return occupied, positions.at[who].set(jnp.where(free, goal, here))

    occupied, positions = lax.fori_loop(0, jnp.sum(moves), move, (occupied, positions))
    slots = state.slots._replace(position=positions[:capacity])
    player = state.player._replace(position=positions[capacity])
    return state._replace(slots=slots, player=player), occupied


# --- Births -----------------------------------------------------------------------------------


def _born(kind: str, places: Int[Array, "K 2"], scores: Scores, uniforms: Uniforms) -> Births:
    code = draw_number(scores, TILE[f"birth.{kind}"], uniforms).astype(jnp.int32)
    return Births(
        scores.spoken & (code != NONE),
        places,
        jnp.full(code.shape, KIND_CODE[kind]),
        jnp.where(kind == "arrow", code, 0),
    )


def _joined(births: list[Births]) -> Births:
    nobody = Births(
        jnp.zeros(0, bool), jnp.zeros((0, 2), jnp.int32), *(jnp.zeros(0, jnp.int32),) * 2
    )
    return Births(*(jnp.concatenate(parts) for parts in zip(nobody, *births, strict=True)))


def _give_birth(state: CrafterArrays, occupied: Int[Array, "X Y"], births: Births) -> CrafterArrays:
    born, place, kind, facing = births
    if not born.shape[0]:
        return state
    number = jnp.arange(born.shape[0])
    born &= look(occupied, place, 0) == FREE
    first = jnp.full(occupied.shape, born.shape[0])
    row = jnp.where(born, place[:, 0], occupied.shape[0])
    first = first.at[row, place[:, 1]].min(number, mode="drop")
    born &= look(first, place, 0) == number

    capacity = state.slots.kind.shape[0]
    empty = jnp.argsort(state.slots.kind != EMPTY)
    room = jnp.sum(state.slots.kind == EMPTY)
    rank = jnp.cumsum(born) - 1
    lives = born & (rank < room)
    slot = jnp.where(lives, empty[jnp.clip(rank, 0, capacity - 1)], capacity)
    healths = jnp.asarray([0, *(KINDS[name].full_health for name in KIND_CODE)])[kind]
    zeros = jnp.zeros(born.shape, jnp.int32)
    new = Slots(kind, state.next_id + rank, place, healths, zeros, facing)
    slots = Slots(
        *(
            old.at[slot].set(jnp.asarray(value).astype(old.dtype), mode="drop")
            for old, value in zip(state.slots, new, strict=True)
        )
    )
    count = jnp.sum(lives, dtype=jnp.int32)
    lost = state.lost + jnp.sum(born, dtype=jnp.int32) - count
    return state._replace(slots=slots, next_id=state.next_id + count, lost=lost)


def _know_chunks(state: CrafterArrays) -> Int[Array, " C"]:
    rank, slots = state.chunk_rank, state.slots
    here = chunk_at(slots.position, state.materials.shape)
    held = jnp.zeros(rank.shape, bool).at[jnp.where(slots.kind == EMPTY, rank.shape[0], here)]
    held = held.set(True, mode="drop")
    held |= jnp.arange(rank.shape[0]) == chunk_at(state.player.position, state.materials.shape)
    new = held & (rank < 0)
    known = jnp.sum(rank >= 0)
    return jnp.where(new, known + jnp.cumsum(new) - 1, rank).astype(rank.dtype)
