"""What compiled laws say about one state, collected by whom it is about."""

from collections import defaultdict
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.world_models.crafter_jax_step import look
from rlssm.world_models.crafter_slots import FREE, NOWHERE, VECTORS, Slots
from rlssm.world_models.crafter_vocabulary import ATTRIBUTES, TILE
from rlssm.world_models.laws import Law
from rlssm.world_models.laws_jax_scene import (
    PLAYER_ATTRIBUTES,
    PLAYER_INDEX,
    TIMERS,
    ArrayScene,
    count_by_chunk,
)
from rlssm.world_models.laws_jax_votes import Adders, Scores, Uniforms, set_scores
from rlssm.world_models.schema import KINDS, MATERIALS


class Channel(NamedTuple):
    """Laws on one axis that set one observable."""

    of: str
    attribute: str
    laws: tuple[Law, ...]
    rows: np.ndarray  # their places among the laws of the scope


class Heard:
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
        self, scope: str, channel: Channel, weights: Array, active: Bool[Array, "L K"]
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

    def _hear_tiles(self, channel: Channel, weights: Array, active: Bool[Array, "L K"]) -> None:
        scene, of = self.scene, channel.of
        old = jnp.zeros(active.shape[1])
        kind = channel.attribute.removeprefix("birth.")
        if of.endswith(" tiles"):
            material = of.removesuffix(" tiles")
            count = count_by_chunk(free_tiles(scene.state.materials, scene.occupied, material))
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


def free_tiles(
    materials: Int[Array, "X Y"], occupied: Int[Array, "X Y"], material: str
) -> Bool[Array, "X Y"]:
    """Return which tiles are of a material with nobody on them."""
    return (materials == MATERIALS.index(material)) & (occupied == FREE)
