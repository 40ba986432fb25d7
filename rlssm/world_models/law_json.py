"""Laws and models as JSON and back. Nothing a file holds is ever executed.

    {"format": "rlssm laws", "version": 1, "world": "crafter", "reference": false,
     "laws": [{"name": "zombie hits", "scope": "zombie",
               "when": [{"feature": "self.distance", "is": "<=", "value": 1}],
               "observable": {"of": "player", "attribute": "health"},
               "outcomes": [{"add": -2, "logit": 0.0}]}],
     "weights": [1.0], "persistence": {"cow.health": 0.001}}

A law may have "actions" (a list; without it, any action) and "source". An outcome has one of
"set", "add", "read" (a feature) and "step" (a direction or a feature that gives one).
"""

import json
from pathlib import Path
from typing import Any

from rlssm.errors import UserError
from rlssm.world_models.json_reader import Node, read_json
from rlssm.world_models.laws import (
    COMPARISONS,
    Add,
    Law,
    Outcome,
    Read,
    Set,
    Step,
    Term,
    Test,
    check_law,
)
from rlssm.world_models.likelihood import MAX_WEIGHT, Model
from rlssm.world_models.object_view import Observable, Value, World

FORMAT = "rlssm laws"
VERSION = 1

_MAX_LAWS = 100_000
_MAX_PARTS = 256  # tests, actions or outcomes of one law; families of persistence
_MAX_TEXT = 200
_MAX_NUMBER = 10.0**9
_MAX_LOGIT = 50.0
_TERMS = ("set", "add", "read", "step")


def save_model(model: Model, path: str | Path) -> None:
    """Write a model to a file as JSON."""
    Path(path).write_text(json.dumps(model_to_json(model), indent=1), encoding="utf-8")


def load_model(path: str | Path, world: World) -> Model:
    """Return the model in a file, whose laws must all make sense in `world`.

    Raises:
      UserError: naming the file and the first thing wrong with it.
    """
    return model_from_json(read_json(path), world)


def model_to_json(model: Model) -> dict[str, Any]:
    """Return a model as JSON values."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "world": model.world.name,
        "reference": model.world.reference,
        "laws": [law_to_json(law) for law in model.laws],
        "weights": list(model.weights),
        "persistence": dict(model.persistence),
    }


def law_to_json(law: Law) -> dict[str, Any]:
    """Return a law as JSON values."""
    actions = {} if law.actions is None else {"actions": sorted(law.actions)}
    return {
        "name": law.name,
        "scope": law.scope,
        **actions,
        "when": [
            {"feature": test.feature, "is": test.comparison, "value": test.value}
            for test in law.tests
        ],
        "observable": {"of": law.observable.of, "attribute": law.observable.attribute},
        "outcomes": [
            {**_term_to_json(outcome.term), "logit": outcome.logit} for outcome in law.outcomes
        ],
        "source": law.source,
    }


def _term_to_json(term: Term) -> dict[str, Any]:
    match term:
        case Set(value):
            return {"set": value}
        case Add(amount):
            return {"add": amount}
        case Read(feature):
            return {"read": feature}
        case Step(direction):
            return {"step": direction}


def model_from_json(root: Node, world: World) -> Model:
    """Return the model that a JSON value describes, checked against `world`.

    Raises:
      UserError: naming the place of the first thing wrong.
    """
    fields = root.fields(
        ("format", "version", "world", "reference", "laws", "weights"), ("persistence",)
    )
    for name, expected in (
        ("format", FORMAT),
        ("version", VERSION),
        ("world", world.name),
        ("reference", world.reference),
    ):
        if type(fields[name].value) is not type(expected) or fields[name].value != expected:
            raise fields[name].refusal(ascii(expected))
    laws = [law_from_json(node, world) for node in fields["laws"].items(_MAX_LAWS)]
    weights = [
        float(node.number(0, MAX_WEIGHT)) for node in fields["weights"].items(len(laws), len(laws))
    ]
    return Model(world, tuple(laws), tuple(weights), _persistence(fields.get("persistence")))


def law_from_json(node: Node, world: World) -> Law:
    """Return the law that a JSON value describes, checked against `world`.

    Raises:
      UserError: naming the place of the first thing wrong.
    """
    fields = node.fields(("name", "scope", "when", "observable", "outcomes"), ("actions", "source"))
    observable = fields["observable"].fields(("of", "attribute"))
    actions = fields.get("actions")
    law = Law(
        name=fields["name"].text(_MAX_TEXT),
        scope=fields["scope"].choice(world.scopes),
        observable=Observable(
            observable["of"].text(_MAX_TEXT), observable["attribute"].text(_MAX_TEXT)
        ),
        outcomes=tuple(_outcome(item) for item in fields["outcomes"].items(_MAX_PARTS, 1)),
        tests=tuple(_test(item) for item in fields["when"].items(_MAX_PARTS)),
        actions=None
        if actions is None
        else frozenset(item.choice(world.actions) for item in actions.items(_MAX_PARTS, 1)),
        source=fields["source"].text(_MAX_TEXT) if "source" in fields else "file",
    )
    try:
        check_law(law, world)
    except UserError as error:
        raise UserError(f"{node.path}: {error}") from None
    return law


def _test(node: Node) -> Test:
    fields = node.fields(("feature", "is", "value"))
    return Test(
        fields["feature"].text(_MAX_TEXT),
        fields["is"].choice(COMPARISONS),
        _value(fields["value"]),
    )


def _outcome(node: Node) -> Outcome:
    fields = node.fields((), (*_TERMS, "logit"))
    given = [name for name in _TERMS if name in fields]
    if len(given) != 1:
        raise UserError(f"{node.path} must have exactly one of {', '.join(_TERMS)}")
    logit = fields["logit"].number(-_MAX_LOGIT, _MAX_LOGIT) if "logit" in fields else 0.0
    return Outcome(_term(given[0], fields[given[0]]), float(logit))


def _term(kind: str, node: Node) -> Term:
    match kind:
        case "set":
            return Set(_value(node))
        case "add":
            return Add(node.number(-_MAX_NUMBER, _MAX_NUMBER))
        case "read":
            return Read(node.text(_MAX_TEXT))
        case _:
            return Step(node.text(_MAX_TEXT))


def _value(node: Node) -> Value:
    if isinstance(node.value, bool):
        return node.value
    if isinstance(node.value, str):
        return node.text(_MAX_TEXT)
    return node.number(-_MAX_NUMBER, _MAX_NUMBER)


def _persistence(node: Node | None) -> dict[str, float]:
    if node is None:
        return {}
    if not isinstance(node.value, dict) or len(node.value) > _MAX_PARTS:
        raise node.refusal(f"an object of at most {_MAX_PARTS} members")
    fields = node.fields((), tuple(node.value))
    return {
        Node(n, node.path).text(_MAX_TEXT): f.number(1e-12, 1 - 1e-12) for n, f in fields.items()
    }
