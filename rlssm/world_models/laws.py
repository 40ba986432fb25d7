"""Laws as data: for each object in a scope, when a guard holds, an observable is distributed so.

    for each zombie: when self.distance <= 1 and self.cooldown == 0: player.health := old - 2

A law is a frozen value. It names features and observables of a world; it holds no code, and
nothing of it is ever executed. `evaluate` says which laws are active in a scene and what they say.

Source: One Life to Learn (arXiv 2510.12088): precondition and effect, here as tests and outcomes.
"""

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from rlssm.errors import UserError, unknown_name
from rlssm.world_models.object_view import (
    MOVES,
    STEPS,
    Binding,
    Choices,
    Displacements,
    Domain,
    Key,
    Numbers,
    Observable,
    Scene,
    Value,
    Vocabulary,
    World,
)

BIRTH = "birth."  # how attributes of tiles are called that say what came to be there

COMPARISONS: dict[str, Callable[[Value, Value], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Test:
    """A feature compared with a constant; false where the feature has no value."""

    __test__ = False  # not for pytest

    feature: str
    comparison: str
    value: Value


@dataclass(frozen=True)
class Set:
    """The observable becomes a constant."""

    value: Value


@dataclass(frozen=True)
class Add:
    """The observable grows by an amount and stays within what the world allows."""

    amount: float


@dataclass(frozen=True)
class Read:
    """The observable becomes what a feature says."""

    feature: str


@dataclass(frozen=True)
class Step:
    """One tile in a direction, given by name or by a feature; stay where that tile is not free."""

    direction: str


Term: TypeAlias = Set | Add | Read | Step


@dataclass(frozen=True)
class Outcome:
    """One thing that may happen, and the log of how likely it is beside the other outcomes.

    A model's weight multiplies it: at weight 1 logits are log probabilities but for noise.
    """

    term: Term
    logit: float = 0.0


@dataclass(frozen=True)
class Law:
    """For each binding of `scope`: when the action and all tests hold, one of the outcomes.

    `actions` None stands for any action. `source` says where the law comes from.
    """

    name: str
    scope: str
    observable: Observable
    outcomes: tuple[Outcome, ...]
    tests: tuple[Test, ...] = ()
    actions: frozenset[str] | None = None
    source: str = "handwritten"

    @property
    def adds(self) -> bool:
        """Whether the law is one cause among several whose amounts add up."""
        return all(isinstance(outcome.term, Add) for outcome in self.outcomes)


class Vote(NamedTuple):
    """What one active law says about one key.

    Attributes:
      law: index of the law.
      values: the distinct values it names; amounts where the law adds, in the default semantics.
      outcomes: for each value, the indices of the law's outcomes that come to it; none for what
        every active law says (reference semantics only).
      offset: what is added to the score of each value: -log n for one birth on any of n tiles.
    """

    law: int
    values: tuple[Value, ...]
    outcomes: tuple[tuple[int, ...], ...]
    offset: tuple[float, ...]


# --- Checking ---------------------------------------------------------------------------------


def check_law(law: Law, world: World) -> None:
    """Refuse a law that speaks of what the world does not have.

    Raises:
      UserError: naming the law, the unknown or unfit part of it and what is known.
    """
    if law.scope not in world.scopes:
        raise unknown_name(f"scope of law {law.name!r}:", law.scope, world.scopes)
    vocabulary = world.scopes[law.scope]
    for action in sorted(law.actions or ()):
        if action not in world.actions:
            raise unknown_name(f"action of law {law.name!r}:", action, world.actions)
    for test in law.tests:
        _check_test(law, test, vocabulary)
    if law.observable not in vocabulary.observables:
        known = [f"{item.of}.{item.attribute}" for item in vocabulary.observables]
        wanted = f"{law.observable.of}.{law.observable.attribute}"
        raise unknown_name(f"observable of law {law.name!r}:", wanted, known)
    if not law.outcomes:
        raise UserError(f"law {law.name!r} must have at least one outcome")
    for outcome in law.outcomes:
        _check_term(law, outcome.term, vocabulary)


def _check_test(law: Law, test: Test, vocabulary: Vocabulary) -> None:
    domain = _feature(law, test.feature, vocabulary)
    if test.comparison not in COMPARISONS:
        raise unknown_name(f"comparison of law {law.name!r}:", test.comparison, COMPARISONS)
    ordered = isinstance(domain, Numbers)
    if not ordered and test.comparison not in ("==", "!="):
        raise UserError(
            f"law {law.name!r} must compare {test.feature} by == or !=, got {test.comparison!r}"
        )
    if not (_is_number(test.value) if ordered else domain.contains(test.value)):
        raise UserError(
            f"law {law.name!r} must compare {test.feature} with {_spoken(domain)}, "
            f"got {test.value!r}"
        )


def _check_term(law: Law, term: Term, vocabulary: Vocabulary) -> None:
    domain = vocabulary.observables[law.observable]
    moves = law.observable.attribute == "displacement"
    target = f"{law.observable.of}.{law.observable.attribute}"
    match term:
        case Set(value):
            if not domain.contains(value):
                raise UserError(
                    f"law {law.name!r} must set {target} to {_spoken(domain)}, got {value!r}"
                )
        case Add(amount):
            if not isinstance(domain, Numbers) or not _is_number(amount):
                raise UserError(f"law {law.name!r} cannot add {amount!r} to {target}")
            span = domain.high - domain.low
            if abs(amount) > span or not float(amount / domain.step).is_integer():
                raise UserError(
                    f"law {law.name!r} must add a multiple of {domain.step:g}, at most {span:g}, "
                    f"to {target}, got {amount!r}"
                )
        case Read(feature):
            read = _feature(law, feature, vocabulary)
            if not _fits(read, domain):
                raise UserError(f"law {law.name!r} cannot set {target} to what {feature} says")
        case Step(direction):
            if not moves or law.observable.of != "self":
                raise UserError(f"law {law.name!r} can step only with self.displacement")
            if direction not in MOVES and not _fits(_feature(law, direction, vocabulary), STEPS):
                raise UserError(f"law {law.name!r} must step in a direction, got {direction!r}")


def _feature(law: Law, name: str, vocabulary: Vocabulary) -> Domain:
    if name not in vocabulary.features:
        raise unknown_name(f"feature of law {law.name!r}:", name, vocabulary.features)
    return vocabulary.features[name]


def _fits(read: Domain, written: Domain) -> bool:
    if isinstance(read, Numbers) or isinstance(written, Numbers):
        return isinstance(read, Numbers) and isinstance(written, Numbers)
    return all(written.contains(value) for value in read)


def _is_number(value: Value) -> bool:
    return not isinstance(value, bool | str | tuple) and math.isfinite(value)


def _spoken(domain: Domain) -> str:
    match domain:
        case Numbers(low, high, step):
            return f"a number in [{low:g}, {high:g}], {step:g} apart"
        case Choices(values):
            return "one of " + ", ".join(map(str, values))
        case Displacements():
            return "a displacement"


# --- Evaluating -------------------------------------------------------------------------------


def active_bindings(law: Law, scene: Scene) -> list[Binding]:
    """Return the bindings for which a law's action and tests hold."""
    if law.actions is not None and scene.action not in law.actions:
        return []
    return [binding for binding in scene.bindings(law.scope) if holds(law.tests, scene, binding)]


def holds(tests: Sequence[Test], scene: Scene, binding: Binding) -> bool:
    """Return whether every test is true of a binding."""
    for test in tests:
        value = scene.read(binding, test.feature)
        if value is None or not COMPARISONS[test.comparison](value, test.value):
            return False
    return True


def evaluate(laws: Sequence[Law], scene: Scene, reference: bool) -> dict[Key, list[Vote]]:
    """Return what every active law says, for every key that any of them speaks about.

    In the default semantics each binding of a law is a voice of its own. In the reference
    semantics a law has one voice for each key, that of its last binding, as an assignment has.
    """
    votes: dict[Key, list[Vote]] = defaultdict(list)
    for index, law in enumerate(laws):
        for keys, vote in law_votes(index, law, scene, active_bindings(law, scene), reference):
            for key in keys:
                votes[key].append(vote)
    return dict(votes)


def law_votes(
    index: int, law: Law, scene: Scene, bindings: Sequence[Binding], reference: bool
) -> list[tuple[Sequence[Key], Vote]]:
    """Return what one law, active for `bindings`, says, with the keys that it says it of.

    `index` is the law's place among the laws. Of several keys, tiles where something may be born
    alike, a vote is one for all.
    """
    said: list[tuple[Sequence[Key], Vote]] = []
    if bindings and reference:
        said += [((k,), Vote(index, (v,), ((),), (0.0,))) for k, v in scene.bystanders().items()]
    last: dict[Key, Vote] = {}
    amounts = law.adds and not reference
    for binding in bindings:
        keys = scene.keys(binding, law.observable)
        alike = law.observable.attribute.startswith(BIRTH)
        for group in [keys] if alike and keys else [(key,) for key in keys]:
            vote = _vote(index, law, scene, binding, group[0], len(keys), amounts)
            if vote is not None and reference:
                last.update(dict.fromkeys(group, vote))
            elif vote is not None:
                said.append((group, vote))
    return [*said, *(((key,), vote) for key, vote in last.items())]


def _vote(
    index: int, law: Law, scene: Scene, binding: Binding, key: Key, shared: int, amounts: bool
) -> Vote | None:
    named: dict[Value, list[int]] = defaultdict(list)
    for number, outcome in enumerate(law.outcomes):
        value = _resolve(outcome.term, scene, binding, key, amounts)
        if value is not None:
            named[value].append(number)
    if not named:
        return None
    spread = key.attribute.startswith(BIRTH)
    offset = [-math.log(shared) if spread and value != "none" else 0.0 for value in named]
    return Vote(index, tuple(named), tuple(map(tuple, named.values())), tuple(offset))


def _resolve(term: Term, scene: Scene, binding: Binding, key: Key, amount: bool) -> Value | None:
    """Return the value a term stands for here, or the amount it adds; None where it has none."""
    match term:
        case Add(number):
            old = scene.old(key)
            if amount or isinstance(old, str | tuple):
                return number
            return scene.clamp(key, old + number)
        case Set(value):
            return scene.translate(key, value)
        case Read(feature):
            value = scene.read(binding, feature)
            return None if value is None else scene.translate(key, value)
        case Step(direction):
            toward = direction if direction in MOVES else scene.read(binding, direction)
            if toward is None:
                return None
            free = toward == "stay" or scene.read(binding, f"self.free.{toward}")
            return scene.translate(key, toward if free else "stay")
