"""States as JSON: they come back as they were, and damaged ones end in one sentence."""

import json

import numpy as np
import pytest
from crafter_starts import random_start
from json_damage import check_damaged_texts, damaged, refuses_in_one_sentence

from rlssm.errors import UserError
from rlssm.world_models.crafter import transition
from rlssm.world_models.json_reader import Node, parse_json, read_json
from rlssm.world_models.schema_json import state_from_json, state_to_json


def through_text(state):
    return state_from_json(parse_json(json.dumps(state_to_json(state)), "state"))


def test_states_come_back_as_they_were():
    for seed in range(60):
        state = random_start(seed)
        again = through_text(state)
        assert state_to_json(again) == state_to_json(state)
        assert again.objects == state.objects
        # The generator too: they have one future.
        assert state_to_json(transition(again, "do")[0]) == state_to_json(
            transition(state, "do")[0]
        )


def test_layout_is_the_published_one():
    state = state_to_json(random_start(1))
    assert list(state) == [
        "size", "chunk_size", "view", "daylight", "step_count", "materials", "objects", "player",
        "entity_id_counter_state", "chunks", "serialized_random_state",
    ]  # fmt: skip
    assert state["player"] == state["objects"][0]
    assert len(state["player"]["inventory"]) == 16
    assert len(state["player"]["achievements"]) == 22
    assert (len(state["materials"]), len(state["materials"][0])) == tuple(state["size"])


def edit(path: str, value):
    state = state_to_json(random_start(1))
    holder = state
    *heads, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in heads:
        holder = holder[key]
    if value is KeyError:
        del holder[last]
    else:
        holder[last] = value
    if path.startswith("objects/0/"):
        state["player"] = state["objects"][0]
    return state


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("daylight", "noon", r"state.daylight must be a number in \[0, 1\], got 'noon'"),
        ("step_count", 1.0, r"state.step_count must be an integer in \[0, 1000000\], got 1.0"),
        ("view", KeyError, r"state lacks 'view'; it needs size, chunk_size"),
        ("weather", 1, r"unknown member of state 'weather'"),
        ("materials/0/0", "gold", r"unknown state.materials\[0\]\[0\] 'gold'"),
        ("objects/0/name", "cow", r"unknown member of state.objects\[0\]"),
        ("objects/0/health", 99, r"state.objects\[0\].inventory.health must be the player's"),
        ("objects/0/facing", {"x": 1, "y": 1}, r"state.objects\[0\].facing must be one step"),
        ("objects", [], r"state.objects must have 1 to \d+ elements, got 0"),
        ("player/hunger", -3.0, r"state.player must equal state.objects\[0\]"),
        ("entity_id_counter_state", 1, r"in order of entity_id, all below entity_id_counter"),
        ("chunks", [], r"state.chunks must list every chunk that holds an object"),
        ("serialized_random_state", "0:00", r"must be an index up to 624, ':' and 624 hex words"),
    ],
)
def test_wrong_members_are_named(path, value, message):
    with pytest.raises(UserError, match=message):
        state_from_json(Node(edit(path, value), "state"))


def test_damaged_states_end_in_one_sentence():
    rng = np.random.RandomState(0)
    originals = [state_to_json(random_start(seed)) for seed in range(10)]
    refused = [
        refuses_in_one_sentence(state_from_json, damaged(originals[i % 10], rng))
        for i in range(600)
    ]
    assert sum(refused) > 500


def test_damaged_texts_end_in_one_sentence():
    check_damaged_texts()


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot read .*missing.json': No such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="cannot read .*: not a path"):
        read_json("a\x00b")
