"""Who can be evaluated: a law model, and what it must beat or can at most reach.

A contender draws a next state and scores candidates for it; higher is likelier, and only scores of
one state and action are ever compared.

Source: One Life to Learn (arXiv 2510.12088), released code, for all but `constant`. PoE-World
(arXiv 2505.10819) is, as there, the same laws with a narrower extractor and no penalty.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np

from rlssm.errors import require
from rlssm.world_models.crafter import transition
from rlssm.world_models.fidelity import same
from rlssm.world_models.likelihood import Distribution, Model, predict, score_predicted
from rlssm.world_models.object_view import Key, Scene
from rlssm.world_models.schema import DIRECTIONS, MATERIALS, MAX_ITEM, Player, WorldState, chunk_of

UNFITTED_WEIGHT = 0.5  # where fitting starts
_UNEXPECTED = -5.0  # the published score of any change, by who expects none

Predicted: TypeAlias = dict[Key, Distribution]


class Contender(NamedTuple):
    """Two functions: draw a next state, and score candidates for it."""

    name: str
    sample: Callable[[WorldState, str, np.random.Generator], WorldState]
    scores: Callable[[WorldState, str, Sequence[WorldState]], list[float]]


def of_model(model: Model, name: str = "laws") -> Contender:
    """Return a law model as a contender."""
    foresee = _foreseeing(model)

    def draw(state: WorldState, action: str, rng: np.random.Generator) -> WorldState:
        scene, predicted = foresee(state, action)
        return model.world.apply(scene, {k: dist.sample(rng) for k, dist in predicted.items()})

    def scores(state: WorldState, action: str, afters: Sequence[WorldState]) -> list[float]:
        foreseen = foresee(state, action)
        return [score_predicted(model, *foreseen, after).total for after in afters]

    return Contender(name, draw, scores)


def _foreseeing(model: Model) -> Callable[[WorldState, str], tuple[Scene, Predicted]]:
    """Return what predicts a step with a model; asked again of the same one, it remembers."""
    known: list[tuple[WorldState, str, tuple[Scene, Predicted]]] = []

    def foresee(state: WorldState, action: str) -> tuple[Scene, Predicted]:
        if not known or known[0][0] is not state or known[0][1] != action:
            scene = model.world.scene(state, action)
            known[:] = [(state, action, (scene, predict(model, scene)))]
        return known[0][2]

    return foresee


def unfitted(model: Model) -> Contender:
    """Return the laws of a model with the weights from which fitting starts."""
    weights = (UNFITTED_WEIGHT,) * len(model.laws)
    return of_model(replace(model, weights=weights, persistence={}), "unfitted")


def poe_world(model: Model) -> Contender:
    """Return the laws of a reference model as PoE-World has them.

    Only positions, health, existence and counts are seen, and what no law speaks about is free.

    Raises:
      UserError: if the model does not have the reference reading.
    """
    require(model.world.reference, "reference", model.world.reference, "True for PoE-World")
    foresee = _foreseeing(model)

    def draw(state: WorldState, action: str, rng: np.random.Generator) -> WorldState:
        scene, predicted = foresee(state, action)
        drawn = {k: dist.sample(rng) for k, dist in predicted.items() if seen_by_poe(k)}
        return model.world.apply(scene, drawn)

    def scores(state: WorldState, action: str, afters: Sequence[WorldState]) -> list[float]:
        foreseen = foresee(state, action)
        each = [score_predicted(model, *foreseen, after) for after in afters]
        return [sum(p for k, p in s.explained.items() if seen_by_poe(k)) for s in each]

    return Contender("PoE-World", draw, scores)


def seen_by_poe(key: Key) -> bool:
    """Return whether PoE-World, as published beside OneLife, observes a key."""
    return not key.attribute.startswith("inventory.") and key.attribute != "cooldown"


def null() -> Contender:
    """Return the contender that expects nothing to change."""
    return Contender(
        "null",
        lambda state, action, rng: state.copy(),
        lambda state, action, afters: [0.0 if same(state, s) else _UNEXPECTED for s in afters],
    )


def constant() -> Contender:
    """Return the contender that expects nothing and minds nothing: chance level."""
    return Contender(
        "constant",
        lambda state, action, rng: state.copy(),
        lambda state, action, afters: [0.0] * len(afters),
    )


def random() -> Contender:
    """Return the contender that draws everything anew and finds all states alike."""
    return Contender(
        "random",
        lambda state, action, rng: _anything(state, rng),
        lambda state, action, afters: [0.0] * len(afters),
    )


def true_world() -> Contender:
    """Return the true world, which knows its own random numbers."""
    return Contender(
        "true",
        lambda state, action, rng: transition(state, action)[0],
        lambda state, action, afters: [
            0.0 if same(transition(state, action)[0], after) else -np.inf for after in afters
        ],
    )


def _anything(state: WorldState, rng: np.random.Generator) -> WorldState:
    drawn = state.copy()
    drawn.materials[:] = rng.integers(len(MATERIALS), size=state.size)
    tiles = rng.permutation(drawn.materials.size)[: len(drawn.objects)]
    for entity, tile in zip(drawn.objects, tiles.tolist(), strict=True):
        entity.position = divmod(tile, state.size[1])
        entity.health = int(rng.integers(MAX_ITEM + 1))
        if isinstance(entity, Player):
            entity.facing = tuple(DIRECTIONS.values())[int(rng.integers(4))]
            for item in entity.inventory:
                entity.inventory[item] = int(rng.integers(MAX_ITEM + 1))
    held = [chunk_of(drawn.size, entity.position) for entity in drawn.objects]
    drawn.known_chunks = list(dict.fromkeys([*drawn.known_chunks, *held]))
    return drawn
