"""Reading JSON that nobody vouches for: each value knows where it stands, and says what it must be.

Nothing a file holds is ever executed. Whatever is wrong with it ends in one `UserError` sentence
that names the place, such as `laws[3].tests[0].value must be a number, got 'x'`.
"""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlssm.errors import UserError, unknown_name

MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Node:
    """A JSON value and its place in the file."""

    value: Any
    path: str

    def fields(self, required: Collection[str], optional: Collection[str] = ()) -> "Fields":
        """Return the members of an object that has all `required` names and no unknown ones."""
        if not isinstance(self.value, dict):
            raise self.refusal("an object")
        for name in required:
            if name not in self.value:
                raise UserError(f"{self.path} lacks {name!r}; it needs {', '.join(required)}")
        for name in self.value:
            if name not in required and name not in optional:
                raise unknown_name(f"member of {self.path}", shorten(name), [*required, *optional])
        return Fields({name: Node(v, f"{self.path}.{name}") for name, v in self.value.items()})

    def items(self, most: int, least: int = 0) -> list["Node"]:
        """Return the elements of a list of `least` to `most` elements."""
        if not isinstance(self.value, list):
            raise self.refusal("a list")
        if not least <= len(self.value) <= most:
            raise UserError(
                f"{self.path} must have {least} to {most} elements, got {len(self.value)}"
            )
        return [Node(value, f"{self.path}[{i}]") for i, value in enumerate(self.value)]

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.refusal("true or false")
        return self.value

    def integer(self, least: int, most: int) -> int:
        if type(self.value) is not int or not least <= self.value <= most:
            raise self.refusal(f"an integer in [{least}, {most}]")
        return self.value

    def number(self, least: float, most: float) -> float:
        """Return a finite number, of type int where the file has an integer."""
        fits = type(self.value) in (int, float) and least <= self.value <= most
        if not fits or not math.isfinite(self.value):
            raise self.refusal(f"a number in [{least:g}, {most:g}]")
        return self.value

    def text(self, most: int) -> str:
        """Return a printable string of at most `most` characters."""
        if (
            not isinstance(self.value, str)
            or len(self.value) > most
            or not self.value.isprintable()
        ):
            raise self.refusal(f"printable text of at most {most} characters")
        return self.value

    def choice(self, known: Collection[str]) -> str:
        """Return a string that is one of `known`."""
        if not isinstance(self.value, str):
            raise self.refusal(f"one of {', '.join(known)}")
        if self.value not in known:
            raise unknown_name(self.path, shorten(self.value), known)
        return self.value

    def refusal(self, expected: str) -> UserError:
        """Return the error that this value is not what was expected."""
        found = {dict: "an object", list: "a list"}.get(type(self.value))
        if found is None:
            found = ascii(shorten(self.value) if isinstance(self.value, str) else self.value)
        return UserError(f"{self.path} must be {expected}, got {shorten(found)}")


class Fields(dict[str, Node]):
    """The members of one JSON object."""

    def get_value(self, name: str, default: Any = None) -> Any:
        """Return the raw value of a member, or `default` where it is left out."""
        return self[name].value if name in self else default


def shorten(text: str, most: int = 60) -> str:
    """Return at most `most` characters of a text."""
    return text if len(text) <= most else text[: most - 3] + "..."


def parse_json(text: str | bytes, name: str) -> Node:
    """Return the root of a JSON text; `name` is what error messages call it.

    Raises:
      UserError: if it is too large or not strict JSON (no NaN, no name twice in an object).
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{name} must be at most {MAX_BYTES} bytes, got {len(text)}")
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise UserError(f"{name} is nested too deeply") from None
    except ValueError as error:
        reason = shorten(str(error).splitlines()[0], 120)
        raise UserError(f"{name} is not valid JSON: {reason}") from None
    return Node(value, name)


def read_json(path: str | Path) -> Node:
    """Return the root of a JSON file, called by the file's name.

    Raises:
      UserError: if it cannot be read, or as `parse_json`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UserError(f"cannot read {shorten(ascii(str(path)), 200)}: {reason}") from None
    return parse_json(text, path.name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object has one name twice")
    return members


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
