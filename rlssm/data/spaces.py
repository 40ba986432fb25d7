"""Spaces as Minari writes them, read as this library's own.

Minari keeps a space as JSON text in a dataset's metadata. It is parsed here, without building
Gymnasium objects, because the text may be damaged: whatever is wrong ends in one sentence.
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np

from rlssm.errors import UserError
from rlssm.types import Box, DictSpace, Discrete, Space

_KEPT_DTYPES = ("bool", "uint8")  # other boxes are float32 here


class Leaf(NamedTuple):
    """A space without parts, as stored; values become `space` when they are read."""

    space: Box | Discrete
    dtype: np.dtype
    low: np.ndarray  # float64, of the space's shape; for Discrete the first integer
    high: np.ndarray

    @property
    def is_image(self) -> bool:
        """Whether Minari may store this space as JPEG files."""
        shape = self.space.shape
        return (
            self.dtype == np.uint8
            and len(shape) in (2, 3)
            and min(shape[:2]) >= 32
            and bool(np.all(self.low == 0) and np.all(self.high == 255))
        )


SpaceTree = Leaf | dict[str, Any]  # nested dicts of leaves, in sorted order of name


def parse_space(text: Any, field: str) -> tuple[SpaceTree, list[str]]:
    """Return the space written in a metadata text, and the names of parts left out.

    Parts of dictionaries that hold text (a mission, say) are left out: no network reads them.

    Args:
        text: the value of the metadata entry.
        field: what error messages call it.

    Raises:
        UserError: if the text is damaged or the space has no counterpart here.
    """
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise UserError(f"{field} is not a space in JSON") from None
    left_out: list[str] = []
    return _parse(value, field, left_out), left_out


def to_space(tree: SpaceTree) -> Space:
    """Return the library's space of a parsed one."""
    if isinstance(tree, Leaf):
        return tree.space
    return DictSpace(tuple((name, to_space(part)) for name, part in tree.items()))


def columns(tree: SpaceTree, path: str) -> dict[str, Leaf]:
    """Return the leaves of a space by path, such as `observations/position`."""
    if isinstance(tree, Leaf):
        return {path: tree}
    found: dict[str, Leaf] = {}
    for name, part in tree.items():
        found |= columns(part, f"{path}/{name}")
    return found


def assemble(tree: SpaceTree, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return arrays by path as a pytree of the form of the space; the inverse of `columns`."""
    if isinstance(tree, Leaf):
        return arrays[path]
    return {name: assemble(part, f"{path}/{name}", arrays) for name, part in tree.items()}


def to_gymnasium(space: Space, bounds: tuple[np.ndarray, np.ndarray] | None = None) -> Any:
    """Return the Gymnasium space of one of ours; `bounds` are those of a box."""
    from gymnasium import spaces

    match space:
        case Discrete(n):
            return spaces.Discrete(n)
        case DictSpace(parts):
            return spaces.Dict({name: to_gymnasium(part) for name, part in parts})
        case Box(shape, dtype) if bounds is not None:
            low, high = bounds
            return spaces.Box(low.astype(dtype), high.astype(dtype), shape, np.dtype(dtype).type)
        case Box(shape, "bool"):
            return spaces.Box(0, 1, shape, np.bool_)  # ty: ignore[invalid-argument-type]  # taken
        case Box(shape, "uint8"):
            return spaces.Box(0, 255, shape, np.uint8)
        case Box(shape, dtype):
            return spaces.Box(-math.inf, math.inf, shape, np.dtype(dtype).type)


# --- Parsing ----------------------------------------------------------------------------------


def _parse(value: Any, field: str, left_out: list[str]) -> SpaceTree:
    kind = value.get("type") if isinstance(value, dict) else None
    try:
        match kind:
            case "Box":
                return _box(value)
            case "Discrete":
                return _discrete(value)
            case "Dict":
                return _dict(value["subspaces"], field, left_out)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError):
        raise UserError(f"{field} is a damaged {kind} space") from None
    raise UserError(
        f"{field} is a {str(kind)[:40]!r} space, which cannot be served; use Box, Discrete or Dict"
    )


def _box(value: dict[str, Any]) -> Leaf:
    shape = tuple(value["shape"])
    dtype = np.dtype(value["dtype"])
    low, high = (np.array(value[name], np.float64) for name in ("low", "high"))
    sizes_fit = all(type(n) is int and n > 0 for n in shape)
    if not (sizes_fit and low.shape == high.shape == shape and dtype.kind in "fiub"):
        raise ValueError
    if not np.all(low <= high):  # False for NaN
        raise ValueError
    name = dtype.name if dtype.name in _KEPT_DTYPES else "float32"
    return Leaf(Box(shape, name), dtype, low, high)


def _discrete(value: dict[str, Any]) -> Leaf:
    n, start = value["n"], value.get("start", 0)
    if type(n) is not int or type(start) is not int or not 1 <= n < 2**31 or abs(start) >= 2**31:
        raise ValueError
    return Leaf(Discrete(n), np.dtype(np.int64), np.array(1.0 * start), np.array(start + n - 1.0))


def _dict(parts: dict[str, Any], field: str, left_out: list[str]) -> SpaceTree:
    tree = {}
    for name, part in sorted(parts.items()):
        if not name or "/" in name:
            raise UserError(f"{field} has a part called {name!r}; a name needs letters and no '/'")
        if isinstance(part, dict) and part.get("type") == "Text":
            left_out.append(f"{field}/{name}")
        else:
            tree[name] = _parse(part, f"{field}/{name}", left_out)
    if not tree:
        raise UserError(f"{field} has no part that can be served; use Box, Discrete or Dict")
    return tree


# --- Actions ----------------------------------------------------------------------------------


def to_unit(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return actions `[N, *A]` in the environment's units as float64 on [-1, 1].

    Args:
        action: any real dtype.
        low: lowest value of every entry, flat `[A]`; `high` the highest.
    """
    centre, half = _centre_and_half(action.shape[1:], low, high)
    return (action.astype(np.float64) - centre) / half


def from_unit(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return actions on [-1, 1] in the environment's units, in a dtype that `to_unit` inverts.

    That is float32 where bounds have a half width of a power of two, such as 1 and 2, else float64.
    """
    centre, half = _centre_and_half(action.shape[1:], low, high)
    long = centre + half * action.astype(np.float64)
    short = long.astype(np.float32)
    again = to_unit(short, low, high).astype(action.dtype)
    bounds_fit = all(np.array_equal(bound.astype(np.float32), bound) for bound in (low, high))
    return short if bounds_fit and np.array_equal(again, action) else long


def _centre_and_half(
    shape: tuple[int, ...], low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return (low / 2 + high / 2).reshape(shape), (high / 2 - low / 2).reshape(shape)
