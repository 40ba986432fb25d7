"""How far a predicted state is from the true one: edits of their JSON, counted by RFC 6902.

The player stands only under `player`, objects are in order of id, chunks in order of their bounds;
the random state is left out, and daylight is rounded as laws see it. Counters, daylight and
achievements count, as does every tile.

Source: One Life to Learn (arXiv 2510.12088), released code.
"""

import json
from typing import Any, NamedTuple

import jsonpatch

from rlssm.world_models.crafter_vocabulary import DAYLIGHT_DIGITS
from rlssm.world_models.schema import WorldState
from rlssm.world_models.schema_json import state_to_json


class Fidelity(NamedTuple):
    """Edits from a predicted state to the true one.

    Attributes:
      edits: JSON-Patch operations.
      normalised: edits over the number of leaves of the true state.
      overlap: operations that the predicted and the true change share, over those of either.
    """

    edits: int
    normalised: float
    overlap: float


def comparable(state: WorldState) -> dict[str, Any]:
    """Return a state as JSON values in the order in which states are compared."""
    fields = state_to_json(state)
    del fields["serialized_random_state"]
    fields["daylight"] = round(state.daylight, DAYLIGHT_DIGITS)
    fields["objects"] = sorted(fields["objects"][1:], key=lambda entity: entity["entity_id"])
    for chunk in fields["chunks"]:
        chunk["objects"].sort()
    fields["chunks"].sort(key=lambda chunk: chunk["chunk_key"])
    return fields


def same(a: WorldState, b: WorldState) -> bool:
    """Return whether two states agree in everything but where their generators stand."""
    return (
        a.objects == b.objects
        and (a.step_count, a.next_id) == (b.step_count, b.next_id)
        and round(a.daylight, DAYLIGHT_DIGITS) == round(b.daylight, DAYLIGHT_DIGITS)
        and set(a.known_chunks) == set(b.known_chunks)
        and bool((a.materials == b.materials).all())
    )


def operations(source: Any, target: Any) -> list[dict[str, Any]]:
    """Return the JSON-Patch operations that turn one JSON value into another."""
    return jsonpatch.make_patch(source, target).patch


def leaves(value: Any) -> int:
    """Return how many values a JSON value holds that hold no other."""
    if isinstance(value, dict):
        return sum(map(leaves, value.values()))
    return sum(map(leaves, value)) if isinstance(value, list) else 1


def fidelity(before: WorldState, predicted: WorldState, true: WorldState) -> Fidelity:
    """Return how far a predicted next state is from the true one."""
    start, guess, end = map(comparable, (before, predicted, true))
    edits = len(operations(guess, end))
    ours, theirs = (
        {json.dumps(change, sort_keys=True) for change in operations(start, state)}
        for state in (guess, end)
    )
    either = len(ours | theirs)
    return Fidelity(edits, edits / leaves(end), len(ours & theirs) / either if either else 1.0)
