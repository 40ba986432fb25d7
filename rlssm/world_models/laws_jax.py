"""Sampling from laws, compiled: the `likelihood.sample` of the default semantics on arrays.

    draw = compile_laws(model.laws)
    after = draw(jnp.array(model.weights), key, states, actions)      states as in crafter_jax

One call draws a next state for each of a batch: what laws set is drawn from their product, what
they add is drawn law by law and added up, everything else stays. Then the dead vanish, objects
move one after another (the player first, then in order of birth; who finds a tile taken stays),
and newborns take empty slots, as `CrafterView.apply` has it.

Departures: daylight is a function of the clock, so laws about it are left out and no law may
compare it; scores below that of noise count as noise; births that find no slot are counted in
`lost`; of two births drawn for one tile the first of (target, other fronts, chunks) lives.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
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
    NOWHERE,
    VECTORS,
    CrafterArrays,
    PlayerArrays,
    Slots,
)
from rlssm.world_models.crafter_vocabulary import ATTRIBUTES, TILE
from rlssm.world_models.laws import Law
from rlssm.world_models.laws_jax_scene import (
    NONE,
    PLAYER_ATTRIBUTES,
    PLAYER_INDEX,
    TIMERS,
    ArrayScene,
    chunk_map,
    count_by_chunk,
    group_of,
    unpack_player,
)
from rlssm.world_models.laws_jax_votes import (
    Adders,
    Guards,
    Scores,
    Uniforms,
    draw,
    draw_number,
    merged,
    set_scores,
)
from rlssm.world_models.object_view import BOOLEAN, STEPS, Domain, Numbers
from rlssm.world_models.schema import KINDS, MATERIALS

Draw: TypeAlias = Callable[
    [Float[Array, " L"], Key, CrafterArrays, Int[Array, " B"]], CrafterArrays
]


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


def compile_laws(laws: Sequence[Law]) -> Draw:
    """Return a function that draws next states of batches; see the head of this file.

    It may be called inside other compiled functions.

    Raises:
      UserError: if a law compares daylight.
    """
    program = _Program(tuple(laws))

    def sample(
        weights: Float[Array, " L"], key: Key, states: CrafterArrays, actions: Int[Array, " B"]
    ) -> CrafterArrays:
        keys = jax.random.split(key, (actions.shape[0], 2))
        moved = jax.vmap(program.move, (None, 0, 0, 0))(weights, keys[:, 0], states, actions)
        finish = jax.vmap(_finish, (0, 0, 0, None))
        if not moved.appearing:
            return finish(keys[:, 1], states, moved, False)
        # Births anywhere in a chunk are looked at tile by tile, but seldom due.
        return lax.cond(
            jnp.any(jnp.stack([one.spoken.any() for one in moved.appearing.values()])),
            lambda: finish(keys[:, 1], states, moved, True),
            lambda: finish(keys[:, 1], states, moved, False),
        )

    return sample


class _Channel(NamedTuple):
    """Laws on one axis that set one observable."""

    of: str
    attribute: str
    laws: tuple[Law, ...]
    rows: np.ndarray  # their places among the laws of the scope


class _Scope(NamedTuple):
    name: str
    rows: np.ndarray  # places of its laws among all
    guards: Guards
    setters: list[_Channel]
    adders: list[tuple[str, Adders, np.ndarray]]  # (whose, laws, their places in the scope)


class _Program:
    """Laws sorted by scope and by what they speak about."""

    def __init__(self, laws: tuple[Law, ...]) -> None:
        kept = [i for i, law in enumerate(laws) if law.observable.attribute != "daylight"]
        by_scope: dict[str, list[int]] = defaultdict(list)
        for index in kept:
            by_scope[group_of(laws[index].scope)].append(index)
        self.scopes = [
            _scope(name, np.array(rows), [laws[row] for row in rows])
            for name, rows in by_scope.items()
        ]

    def move(
        self, weights: Float[Array, " L"], key: Key, state: CrafterArrays, action: Int[Array, ""]
    ) -> Moved:
        """Return a state with everything but births drawn."""
        scene, uniforms = ArrayScene(state, action), Uniforms(key)
        drawn = _Drawn(scene, uniforms)
        for scope in self.scopes:
            active = scope.guards.active(scene)
            own = weights[scope.rows]
            for channel in scope.setters:
                drawn.hear(scope.name, channel, own[channel.rows], active[channel.rows])
            for of, adders, rows in scope.adders:
                drawn.add(scope.name, of, adders, own[rows], active[rows])
        return _apply(drawn)


def _scope(name: str, rows: np.ndarray, laws: list[Law]) -> _Scope:
    setters: dict[tuple[str, str], list[int]] = defaultdict(list)
    adders: dict[str, list[int]] = defaultdict(list)
    for row, law in enumerate(laws):
        if law.adds:
            adders[law.observable.of].append(row)
        else:
            setters[law.observable.of, law.observable.attribute].append(row)
    return _Scope(
        name,
        rows,
        Guards(name, laws),
        [
            _Channel(of, attribute, tuple(laws[row] for row in own), np.array(own))
            for (of, attribute), own in setters.items()
        ],
        [(of, Adders([laws[row] for row in own]), np.array(own)) for of, own in adders.items()],
    )


# --- Collecting what is said, by whom it is about --------------------------------------------


class _Drawn:
    """Scores and amounts for every observable that laws speak about, sorted by owner."""

    def __init__(self, scene: ArrayScene, uniforms: Uniforms) -> None:
        self.scene = scene
        self.uniforms = uniforms
        self.set_player: dict[str, list[Scores]] = defaultdict(list)
        self.set_slots: dict[str, list[Scores]] = defaultdict(list)
        self.added = jnp.zeros(len(PLAYER_ATTRIBUTES))  # to the player
        self.adds = jnp.zeros(len(PLAYER_ATTRIBUTES), bool)
        self.add_slots: dict[str, list[tuple[Array, Array]]] = defaultdict(list)
        self.materials: list[tuple[Int[Array, "K 2"], Scores]] = []
        self.births: dict[str, list[tuple[Int[Array, "K 2"], Scores]]] = defaultdict(list)
        self.appearing: dict[tuple[str, str], Scores] = {}
        self.clock: list[Array] = []

    def hear(
        self, scope: str, channel: _Channel, weights: Array, active: Bool[Array, "L K"]
    ) -> None:
        """Take in what laws that share an axis set."""
        scene, of, attribute = self.scene, channel.of, channel.attribute
        if of == "world":
            return
        if attribute in TILE:
            self._hear_tiles(channel, weights, active)
            return
        old = self._old(scope, of, attribute, active.shape[1])
        scores = set_scores(scene, channel.laws, weights, active, old)
        if self._is_player(scope, of):
            self.set_player[_alias(attribute)].append(_summed(scores))
        elif of == "self":
            self.set_slots[attribute].append(scores)
        else:
            occupant = self._struck(of)
            self.set_slots[attribute].append(
                _sent(scores, occupant, self._holds(occupant, attribute), scene.capacity)
            )
            if of == "front" and attribute in ATTRIBUTES["player"]:
                struck = Scores(
                    scores.values,
                    jnp.where((occupant == scene.capacity)[:, None], scores.raised, 0.0),
                    scores.spoken & (occupant == scene.capacity),
                )
                self.set_player[attribute].append(_summed(struck))

    def _hear_tiles(self, channel: _Channel, weights: Array, active: Bool[Array, "L K"]) -> None:
        scene, of = self.scene, channel.of
        old = jnp.zeros(active.shape[1])
        kind = channel.attribute.removeprefix("birth.")
        if of.endswith(" tiles"):
            material = of.removesuffix(" tiles")
            count = count_by_chunk(_free_tiles(scene.state.materials, scene.occupied, material))
            offset = -jnp.log(jnp.maximum(count, 1).astype(jnp.float32))
            scores = set_scores(scene, channel.laws, weights, active, old, offset)
            self.appearing[material, kind] = scores
            return
        scores = set_scores(scene, channel.laws, weights, active, old)
        places = {
            "target": lambda: scene.target,
            "front": lambda: scene.front,
            "toward": lambda: _toward_places(scene),
        }[of]()
        scores = scores._replace(
            spoken=scores.spoken & (look(scene.state.materials, places, -1) >= 0)
        )
        heard = self.materials if channel.attribute == "material" else self.births[kind]
        heard.append((places, scores))

    def add(
        self, scope: str, of: str, adders: Adders, weights: Array, active: Bool[Array, "L K"]
    ) -> None:
        """Draw and take in what laws that share an axis add."""
        names = adders.attributes
        olds = {name: self._old(scope, of, name, active.shape[1]) for name in set(names)}
        old = jnp.stack([olds[name] for name in names])
        amounts = adders.amounts(weights, active, old, self.uniforms)
        if self._is_player(scope, of):
            self._add_to_player(names, amounts, active)
            return
        for name in dict.fromkeys(names):
            rows = np.array([row for row, other in enumerate(names) if other == name])
            amount, acts = jnp.sum(amounts[rows], 0), jnp.any(active[rows], 0)
            if of == "world":
                self.clock.append(jnp.sum(amount))
            elif of == "self":
                self.add_slots[name].append((amount, acts))
            else:
                self._add_to_struck(of, name, amount, acts)

    def _add_to_player(self, names: list[str], amounts: Array, active: Array) -> None:
        of_law = np.array([PLAYER_INDEX[name] for name in names])
        belongs = of_law == np.arange(len(PLAYER_ATTRIBUTES))[:, None]  # [P, L]
        self.added += belongs.astype(np.float32) @ jnp.sum(amounts, 1)
        self.adds |= belongs.astype(np.float32) @ jnp.any(active, 1).astype(jnp.float32) > 0

    def _add_to_struck(self, of: str, name: str, amount: Array, acts: Array) -> None:
        occupant, capacity = self._struck(of), self.scene.capacity
        goes = acts & self._holds(occupant, name)
        slot = jnp.where(goes, occupant, capacity)
        total = jnp.zeros(capacity).at[slot].add(amount, mode="drop")
        struck = jnp.zeros(capacity, bool).at[slot].set(True, mode="drop")
        self.add_slots[name].append((total, struck))
        if of == "front" and name in PLAYER_INDEX:
            hit = acts & (occupant == capacity)
            self._add_to_player([name], jnp.where(hit, amount, 0.0)[None], hit[None])

    def _is_player(self, scope: str, of: str) -> bool:
        return of == "player" or (of == "self" and scope == "player")

    def _struck(self, of: str) -> Int[Array, " K"]:
        return self.scene.at(of)[0]

    def _holds(self, occupant: Int[Array, " K"], attribute: str) -> Bool[Array, " K"]:
        """Return whether occupants are slots of a kind that has an attribute."""
        capacity = self.scene.capacity
        kind = self.scene.slots.kind[jnp.clip(occupant, 0, capacity - 1)]
        return (occupant >= 0) & (occupant < capacity) & _kinds_with(attribute)[kind]

    def _old(self, scope: str, of: str, attribute: str, places: int) -> Float[Array, " K"]:
        scene = self.scene
        if of == "world":
            return jnp.full(places, scene.state.step_count, jnp.float32)
        if self._is_player(scope, of):
            if attribute == "displacement":
                return jnp.full(places, float(NOWHERE))
            return jnp.broadcast_to(scene.player[PLAYER_INDEX[attribute]], (places,))
        own = slot_value(scene.slots, attribute)
        if of == "self":
            return own
        occupant = self._struck(of)
        value = own[jnp.clip(occupant, 0, scene.capacity - 1)]
        if attribute == "health":
            value = jnp.where(occupant == scene.capacity, scene.state.player.health, value)
        return value


def _alias(attribute: str) -> str:
    return "health" if attribute == "inventory.health" else attribute


def _kinds_with(attribute: str) -> Bool[Array, " 7"]:
    kinds = ["", *(kind for kind in KINDS if kind != "player")]
    return jnp.asarray(
        [kind != "" and (attribute == "alive" or attribute in ATTRIBUTES[kind]) for kind in kinds]
    )


def slot_value(slots: Slots, attribute: str) -> Float[Array, " N"]:
    """Return an attribute of every slot as a number."""
    if attribute == "alive":
        return jnp.ones(slots.kind.shape)
    if attribute == "displacement":
        return jnp.full(slots.kind.shape, float(NOWHERE))
    return getattr(slots, "timer" if attribute in TIMERS else attribute).astype(jnp.float32)


def _toward_places(scene: ArrayScene) -> Int[Array, "N 2"]:
    direction = scene.read("zombie", "self.toward_long").value.astype(jnp.int32)
    return scene.slots.position + jnp.asarray(VECTORS)[direction]


def _summed(scores: Scores) -> Scores:
    """Return what all bindings say about the one player, `[V]`."""
    if scores.values.shape[0] == 1:
        return Scores(*(leaf[0] for leaf in scores))
    return Scores(scores.values.ravel(), scores.raised.ravel(), jnp.any(scores.spoken))


def _sent(
    scores: Scores, occupant: Int[Array, " K"], goes: Bool[Array, " K"], capacity: int
) -> Scores:
    """Return what bindings say about the slots in front of them, `[N, K V]`."""
    here = (occupant[None] == jnp.arange(capacity)[:, None]) & goes  # [N, K]
    values = jnp.broadcast_to(scores.values[None], (capacity, *scores.values.shape))
    raised = jnp.where(here[..., None], scores.raised[None], 0.0)
    return Scores(
        values.reshape(capacity, -1),
        raised.reshape(capacity, -1),
        jnp.any(here & scores.spoken[None], -1),
    )


# --- Making the next state --------------------------------------------------------------------


def _apply(drawn: _Drawn) -> Moved:
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


def _finish(key: Key, before: CrafterArrays, moved: Moved, appearing: bool) -> CrafterArrays:
    """Return the state with its births; those by chunk only if `appearing`."""
    births = [moved.births]
    if appearing:
        uniforms, occupied = Uniforms(key), begin(before).occupied
        size = before.materials.shape
        places = jnp.stack(jnp.indices(size), -1).reshape(-1, 2)
        owner = chunk_map(size).ravel()
        for (material, kind), scores in moved.appearing.items():
            free = _free_tiles(before.materials, occupied, material).ravel()
            each = Scores(scores.values[owner], scores.raised[owner], scores.spoken[owner] & free)
            births.append(_born(kind, places, each, uniforms))
    state = _give_birth(moved.state, moved.occupied, _joined(births))
    return state._replace(chunk_rank=_know_chunks(state))


def _free_tiles(
    materials: Int[Array, "X Y"], occupied: Int[Array, "X Y"], material: str
) -> Bool[Array, "X Y"]:
    return (materials == MATERIALS.index(material)) & (occupied == FREE)


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


def _new_player(drawn: _Drawn) -> PlayerArrays:
    old = drawn.scene.player
    value = old
    for name, said in drawn.set_player.items():
        if name != "displacement":
            index, domain = PLAYER_INDEX[name], ATTRIBUTES["player"][name]
            new = _final(domain, old[index], said, 0.0, False, drawn.uniforms)
            value = value.at[index].set(new)
    total = jnp.clip(jnp.clip(value, _LOW, _HIGH) + drawn.added, _LOW, _HIGH)
    return unpack_player(jnp.where(drawn.adds, total, value), drawn.scene.state.player)


def _new_slots(drawn: _Drawn) -> tuple[Slots, Bool[Array, " N"]]:
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


def _new_clock(drawn: _Drawn) -> Int[Array, ""]:
    step_count = drawn.scene.state.step_count
    passed = sum(drawn.clock, start=jnp.float32(0))
    return jnp.maximum(step_count + jnp.round(passed).astype(jnp.int32), 0)


# --- Moving -----------------------------------------------------------------------------------


def _goals(drawn: _Drawn) -> Int[Array, "N1 2"]:
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
