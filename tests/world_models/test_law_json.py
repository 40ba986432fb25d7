"""Law files: what is written comes back; what is damaged or hostile ends in one sentence."""

import json

import numpy as np
import pytest
from crafter_laws import LAWS
from json_damage import HOSTILE, check_damaged_texts, damaged, refuses_in_one_sentence

from rlssm.errors import UserError
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.json_reader import Node
from rlssm.world_models.law_json import (
    law_from_json,
    law_to_json,
    load_model,
    model_from_json,
    model_to_json,
    save_model,
)
from rlssm.world_models.laws import Add, Law, Outcome, Read, Set, Step, Test, check_law
from rlssm.world_models.likelihood import Model
from rlssm.world_models.object_view import Observable
from rlssm.world_models.small_laws import lit_walk_laws
from rlssm.world_models.small_worlds import lit_walk

WORLD = CrafterView()
MODEL = Model(WORLD, LAWS, tuple(np.linspace(0, 3, len(LAWS))), {"cow.health": 0.01})


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        Model(CrafterView(reference=True), LAWS, MODEL.weights),
        Model(lit_walk(), tuple(lit_walk_laws().values()), (1.0,) * 12),
    ],
    ids=["default", "reference", "walk"],
)
def test_models_come_back_as_they_were(model, tmp_path):
    path = tmp_path / "laws.json"
    save_model(model, path)
    again = load_model(path, model.world)
    assert again.laws == model.laws
    assert again.weights == model.weights
    assert again.persistence == model.persistence


def edited(path: str, value):
    data = model_to_json(MODEL)
    holder = data
    *heads, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in heads:
        holder = holder[key]
    if value is KeyError:
        del holder[last]
    else:
        holder[last] = value
    return json.loads(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "laws", r"file.format must be 'rlssm laws', got 'laws'"),
        ("version", True, r"file.version must be 1, got True"),
        ("world", "minecraft", r"file.world must be 'crafter', got 'minecraft'"),
        ("reference", 0, r"file.reference must be False, got 0"),
        ("weights", [1.0], r"file.weights must have \d+ to \d+ elements, got 1"),
        ("weights/0", -1, r"file.weights\[0\] must be a number in \[0, 100\], got -1"),
        ("persistence/cow.health", 1, r"file.persistence.cow.health must be a number"),
        ("laws/0/name", "a\nb", r"file.laws\[0\].name must be printable text"),
        ("laws/0/scope", "dragon", r"unknown file.laws\[0\].scope 'dragon'"),
        ("laws/0/code", "import os", r"unknown member of file.laws\[0\] 'code'"),
        ("laws/0/outcomes", [], r"file.laws\[0\].outcomes must have 1 to 256 elements, got 0"),
        ("laws/0/outcomes/0", {"add": 1, "set": 1}, r"must have exactly one of set, add, read"),
        ("laws/0/outcomes/0/logit", 1e9, r"outcomes\[0\].logit must be a number in \[-50, 50\]"),
        ("laws/0/observable/attribute", "luck", r"observable of law 'time passes': 'world.luck'"),
        ("laws/2/actions", ["fly"], r"unknown file.laws\[2\].actions\[0\] 'fly'"),
        (
            "laws/2/when/0/feature",
            "player.luck",
            r"unknown feature of law 'walking': 'player.luck'",
        ),
        ("laws/2/when/0/is", "=", r"unknown file.laws\[2\].when\[0\].is '='"),
        ("laws/2/when/0", {"feature": 1}, r"file.laws\[2\].when\[0\] lacks 'is'"),
    ],
)
def test_wrong_members_are_named(path, value, message):
    with pytest.raises(UserError, match=message):
        model_from_json(Node(edited(path, value), "file"), WORLD)


def cow(attribute: str, term, *tests: Test) -> Law:
    return Law("odd", "cow", Observable("self", attribute), (Outcome(term),), tests)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (cow("health", Set(10)), r"set self.health to a number in \[0, 9\], 1 apart, got 10"),
        (cow("health", Set("left")), r"must set self.health to a number"),
        (cow("displacement", Set("north")), r"to one of stay, left, right, up, down, got 'north'"),
        (cow("displacement", Add(1)), r"cannot add 1 to self.displacement"),
        (cow("health", Add(0.5)), r"a multiple of 1, at most 9, to self.health, got 0.5"),
        (cow("health", Add(-(10**8))), r"at most 9, to self.health, got -100000000"),
        (cow("health", Add(float("inf"))), r"cannot add inf to self.health"),
        (cow("health", Read("self.toward_long")), r"cannot set self.health to what self.toward"),
        (cow("displacement", Read("self.material")), r"cannot set self.displacement to what"),
        (cow("health", Step("left")), r"can step only with self.displacement"),
        (cow("displacement", Step("self.distance")), r"must step in a direction"),
        (cow("health", Set(1), Test("self.cooldown", "==", 1)), r"unknown feature of law 'odd'"),
        (cow("health", Set(1), Test("self.health", "in", 1)), r"unknown comparison of law 'odd'"),
        (cow("health", Set(1), Test("self.health", "==", "9")), r"compare self.health with a num"),
        (cow("health", Set(1), Test("self.material", "<", "iron")), r"self.material by == or !="),
        (cow("health", Set(1), Test("self.material", "==", "gold")), r"self.material with one of"),
    ],
)
def test_laws_that_make_no_sense_are_refused(law, message):
    with pytest.raises(UserError, match=message):
        check_law(law, WORLD)
    with pytest.raises(UserError, match=message):
        Model(WORLD, (law,), (1.0,))
    with pytest.raises(UserError, match="law_file"):
        law_from_json(Node(law_to_json(law), "law_file"), WORLD)


def test_damaged_files_end_in_one_sentence():
    rng = np.random.RandomState(0)
    original = model_to_json(MODEL)
    refused = [
        refuses_in_one_sentence(lambda node: model_from_json(node, WORLD), damaged(original, rng))
        for _ in range(800)
    ]
    assert sum(refused) > 600


def test_hostile_values_in_every_place_end_in_one_sentence():
    original = law_to_json(LAWS[4])
    for key in original:
        for value in HOSTILE:
            refuses_in_one_sentence(
                lambda node: law_from_json(node, WORLD), original | {key: value}
            )


def test_damaged_texts_end_in_one_sentence(tmp_path):
    check_damaged_texts()
    path = tmp_path / "laws.json"
    path.write_text('{"laws": [__import__("os").system("true")]}')
    with pytest.raises(UserError, match=r"laws.json is not valid JSON"):
        load_model(path, WORLD)


def test_files_that_are_too_large_end_in_one_sentence(tmp_path):
    path = tmp_path / "laws.json"
    path.write_bytes(b"[" + b"0," * (2**23) + b"0]")
    with pytest.raises(UserError, match=r"laws.json must be at most 16777216 bytes"):
        load_model(path, WORLD)
    many = model_to_json(MODEL) | {"laws": [[]] * 100_001}
    with pytest.raises(UserError, match=r"file.laws must have 0 to 100000 elements"):
        model_from_json(Node(many, "file"), WORLD)


def test_nothing_in_a_file_is_executed(monkeypatch):
    """Code, templates and attribute names stay text: loading calls neither eval nor import."""

    def forbidden(*_, **__):
        raise AssertionError("loading a law file executed something")

    for name in ("eval", "exec", "compile", "__import__"):
        monkeypatch.setattr(f"builtins.{name}", forbidden)
    for text in ("__import__('os').system('true')", "{0.__class__}", "__class__", "%(x)s"):
        data = law_to_json(LAWS[4]) | {"name": text, "source": text}
        assert law_from_json(Node(data, "file"), WORLD).name == text
        refuses_in_one_sentence(
            lambda node: law_from_json(node, WORLD),
            data | {"observable": {"of": text, "attribute": text}},
        )
