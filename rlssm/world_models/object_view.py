"""What a world must show so that laws can speak about it, and be scored and sampled.

A law sees a state through a `Scene`: bindings (the objects in its scope), features (named values
it may read) and keys (the observables it may predict). The world turns two states into what
changed between them, and predicted values back into a state. No law ever sees a random generator.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

# A pair is a displacement other than the five that have names.
Value: TypeAlias = bool | int | float | str | tuple[int, int]
Binding: TypeAlias = Any  # an object of the world, a place in it, or None for the world itself

# Every other displacement goes by its pair.
MOVES: dict[str, tuple[int, int]] = {
    "stay": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1),
}  # fmt: skip
MOVE_NAMES = {vector: name for name, vector in MOVES.items()}


class Key(NamedTuple):
    """One observable of one state.

    `kind` is that of its owner (an object's kind, "tile" or "world"), `owner` an object's id, a
    tile or 0.
    """

    kind: str
    owner: int | tuple[int, int]
    attribute: str

    @property
    def family(self) -> str:
        """What it has in common with the same attribute of other owners, as `zombie.health`."""
        return f"{self.kind}.{self.attribute}"


# --- Domains ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """Numbers from `low` to `high`, both included, `step` apart."""

    low: float
    high: float
    step: float = 1

    @property
    def size(self) -> int:
        return self.index(self.high) + 1

    def contains(self, value: Value) -> bool:
        if isinstance(value, str | tuple) or not self.low <= value <= self.high:
            return False
        return float((value - self.low) / self.step).is_integer()

    def clamp(self, number: float) -> int | float:
        """Return the nearest number that is not beyond an end."""
        return self._plain(min(max(number, self.low), self.high))

    def index(self, number: float) -> int:
        """Return how many steps `number` lies above `low`."""
        return round((number - self.low) / self.step)

    def __iter__(self) -> Iterator[int | float]:
        return (self._plain(self.low + index * self.step) for index in range(self.size))

    def _plain(self, number: float) -> int | float:
        whole = float(self.low).is_integer() and float(self.step).is_integer()
        return int(number) if whole and float(number).is_integer() else number


@dataclass(frozen=True)
class Choices:
    """Any of some listed values."""

    values: tuple[Value, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    def contains(self, value: Value) -> bool:
        return value in self.values

    def __iter__(self) -> Iterator[Value]:
        return iter(self.values)


@dataclass(frozen=True)
class Displacements:
    """Every way to end on the map for an object at `origin`."""

    origin: tuple[int, int]
    map_size: tuple[int, int]

    @property
    def size(self) -> int:
        return self.map_size[0] * self.map_size[1]

    def contains(self, value: Value) -> bool:
        dx, dy = vector_of(value)
        x, y = self.origin[0] + dx, self.origin[1] + dy
        return 0 <= x < self.map_size[0] and 0 <= y < self.map_size[1]

    def __iter__(self) -> Iterator[Value]:
        for x in range(self.map_size[0]):
            for y in range(self.map_size[1]):
                moved = x - self.origin[0], y - self.origin[1]
                yield MOVE_NAMES.get(moved, moved)


def number_of(value: Value) -> float:
    """Return a value that must be a number."""
    if isinstance(value, str | tuple):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def vector_of(displacement: Value) -> tuple[int, int]:
    """Return the pair that a displacement, named or not, stands for."""
    if isinstance(displacement, tuple):
        return displacement
    return MOVES[str(displacement)]


BOOLEAN = Choices((False, True))
STEPS = Choices(tuple(MOVES))
DIRECTIONS_ONLY = Choices(tuple(MOVES)[1:])
Domain: TypeAlias = Numbers | Choices | Displacements


# --- Worlds -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Observable:
    """What a law predicts: an attribute, and whose, as seen from the law's binding."""

    of: str
    attribute: str


@dataclass(frozen=True)
class Vocabulary:
    """What laws of one scope may say: features with their domains, observables with theirs."""

    features: Mapping[str, Domain]
    observables: Mapping[Observable, Domain]


@dataclass
class Changes:
    """What became of a state's observables.

    Attributes:
      values: those that no longer have their old value; all others kept it.
      gone: ids of the objects that vanished, whose other attributes are not observed.
      totals: how many observables of each family were observed.
    """

    values: dict[Key, Value]
    gone: frozenset[int] = frozenset()
    totals: Counter[str] = field(default_factory=Counter)

    def observed(self, key: Key) -> bool:
        """Return whether the next state has a value for `key`."""
        return key.owner not in self.gone or key in self.values


class Scene(Protocol):
    """A state and the action taken in it, as laws see them."""

    action: str

    def bindings(self, scope: str) -> Sequence[Binding]:
        """Return every object or place that a law of this scope speaks about."""
        ...

    def read(self, binding: Binding, feature: str) -> Value | None:
        """Return the value of a feature, None where it has none."""
        ...

    def keys(self, binding: Binding, observable: Observable) -> Sequence[Key]:
        """Return the keys an observable stands for here: none, one, or each of several tiles."""
        ...

    def old(self, key: Key) -> Value:
        """Return the value that `key` keeps if nothing happens."""
        ...

    def domain(self, key: Key) -> Domain:
        """Return the values that `key` can take."""
        ...

    def clamp(self, key: Key, number: float) -> float:
        """Return the nearest number that the world allows for `key`."""
        ...

    def translate(self, key: Key, value: Value) -> Value:
        """Return what a law's value means for `key`, one of several keys of an observable."""
        ...

    def bystanders(self) -> Mapping[Key, Value]:
        """Return what every active law predicts beside its own observable (reference only)."""
        ...


class World(Protocol):
    """A world as laws see it; `reference` asks for the published observables and semantics."""

    @property
    def name(self) -> str: ...

    @property
    def actions(self) -> tuple[str, ...]: ...

    @property
    def reference(self) -> bool: ...

    @property
    def scopes(self) -> Mapping[str, Vocabulary]: ...

    def scene(self, state: Any, action: str) -> Scene:
        """Return how laws see a state and an action."""
        ...

    def changes(self, scene: Any, after: Any) -> Changes:
        """Return what changed from the scene's state to `after`."""
        ...

    def apply(self, scene: Any, values: Mapping[Key, Value]) -> Any:
        """Return the scene's state with `values` written into a copy of it."""
        ...


def draw(domain: Domain, rng: np.random.Generator, but: Sequence[Value]) -> Value:
    """Return a uniform draw from the values of `domain` that are not in `but`."""
    rest = [value for value in domain if value not in but]
    return rest[rng.integers(len(rest))]
