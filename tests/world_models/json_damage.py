"""Damage done to JSON values at random, for loaders that must end in one sentence."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.world_models.json_reader import Node, parse_json

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 10**6, 10**30, -(10**400), 0.5, 1e308, float("inf"), float("nan"),
    "", "x", "tree", "\x00", "\n", "\ud800", "__import__('os').system('true')", "a" * 5_000,
    "{0.__class__}", [], [[]], [None], {}, {"": 0}, {"__class__": "os"}, [0, 0], "left",
]  # fmt: skip


def damaged(value: Any, rng: np.random.RandomState) -> Any:
    """Return a copy in which one to three places were replaced, removed, doubled or renamed."""
    root = {"root": copy.deepcopy(value)}
    for _ in range(rng.randint(1, 4)):
        _damage(root, rng)
    return root.get("root")


def _damage(root: dict, rng: np.random.RandomState) -> None:
    places = list(_places(root))
    holder, key = places[rng.randint(len(places))]
    hostile = HOSTILE[rng.randint(len(HOSTILE))]
    match rng.randint(4):
        case 1 if len(holder) > 1:
            del holder[key]
        case 2 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        case 3 if isinstance(holder, dict) and holder is not root:
            holder[str(hostile)] = holder.pop(key)
        case _:
            holder[key] = hostile


def _places(value: Any):
    pairs = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def refuses_in_one_sentence(load: Callable[[Node], Any], value: Any) -> bool:
    """Return whether `load` refuses `value`; anything but a one-line `UserError` is an error."""
    try:
        load(Node(value, "file"))
    except UserError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 4_000
        return True
    return False


DAMAGED_TEXTS = {
    b"": "file is not valid JSON",
    b"{": "file is not valid JSON",
    b"\xff\xfe": "file is not valid JSON",
    b'{"a": 1, "a": 2}': "file is not valid JSON: an object has one name twice",
    b"[NaN]": "file is not valid JSON: NaN is not a number",
    b"[Infinity]": "file is not valid JSON: Infinity is not a number",
    b"[" * 200_000: "file is nested too deeply",
    b"1" * 5_000: "file is not valid JSON",
    b" " * (2**24 + 1): "file must be at most 16777216 bytes",
}


def check_damaged_texts() -> None:
    for text, message in DAMAGED_TEXTS.items():
        with pytest.raises(UserError) as caught:
            parse_json(text, "file")
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
