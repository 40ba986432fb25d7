"""What happened to one observable, case by case, in the words that laws have for it.

A case is a row of a record in which an observable of a scope was seen. A lens is a list of terms;
through it each case becomes the first of its terms that gives the observed value. Questions are
all tests that tell cases apart, as a matrix of answers.
"""

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from rlssm.world_models.laws import Add, Outcome, Read, Step, Term, Test
from rlssm.world_models.laws import Set as Assign
from rlssm.world_models.object_view import (
    BOOLEAN,
    MOVES,
    STEPS,
    Choices,
    Displacements,
    Domain,
    Key,
    Numbers,
    Observable,
    Value,
    World,
    number_of,
)
from rlssm.world_models.record import Record

# Features that only count what has happened, or name the moment: they tell cases apart by chance.
NOT_ASKED = (
    "step.count", "daylight.", "player.achievements.", "player.action", "player.last_health",
    "action.",
)  # fmt: skip

VITAL = ("player.inventory.food", "player.inventory.drink", "player.inventory.energy")

# Bits to ask about something. What one does, what one does it to, what is at hand and what is held
# come to mind before the rest, as they do to the explorer; then the body; the hour and the region
# come last. A creature is nearest to itself.
ACT_BITS = 3.0
HELD = "player.inventory."
UNLIKELY_BITS = 9.0
CLOSENESS = {
    "action.": ACT_BITS, "target.": 4.0, "front.": 4.0, "near.": 4.0, "self.free.": 9.0,
    "self.": 4.0, "player.sleeping": 5.0, **dict.fromkeys(VITAL, 8.0), HELD: 5.0,
    "player.": 9.0, "step.": 10.0, "chunk.": 10.0, "darkness": 10.0,
}  # fmt: skip
ALIKE_BITS = 2.0  # less for what is named like what is predicted
FEW = 20  # distinct numbers up to which each is a threshold
TAIL = 4  # beyond that: so many from either end, and so many between
BETWEEN = 8
MOST_TERMS = 4
MOST_CASES = 2_500  # of either sort, changed and unchanged; of more, a weighted sample


class Question(NamedTuple):
    """A test, or a set of actions."""

    test: Test | None
    actions: frozenset[str] | None = None


class Lens(NamedTuple):
    """Terms, and which of them each case is; `len(terms)` where none fits."""

    terms: tuple[Term, ...]
    code: Int[np.ndarray, " C"]


class Questions:
    """Every question about a scope, with its answer in every row of a record."""

    def __init__(self, record: Record, scope: str) -> None:
        self.asked: list[Question] = []
        self._prices: dict[frozenset[str], np.ndarray] = {}
        answers = []
        transition = record.rows(scope).transition
        for actions in action_sets(record):
            chosen = np.array([action in actions for action in record.actions], bool)[transition]
            self._ask(answers, Question(None, actions), chosen)
        for feature, domain in record.world.scopes[scope].features.items():
            if not feature.startswith(NOT_ASKED):
                for test in tests_of(feature, domain, record.coded(scope, feature)[1]):
                    self._ask(answers, Question(test), record.truth(scope, test))
        self.answers = np.array(answers, bool).reshape(len(self.asked), len(transition))
        features = {question.test.feature for question in self.asked if question.test}
        self._bits = float(np.log2(len(features) + 1) + 1)

    def opposite(self, question: int) -> int | None:
        """Return the question that is true where this one is false, if there is one."""
        turned = self._places.get((~self.answers[question]).tobytes())
        test = self.asked[question].test
        if turned is not None or test is None or test.comparison not in ("==", "!="):
            return turned
        # Where the feature has no value neither is true.
        other = Test(test.feature, "!=" if test.comparison == "==" else "==", test.value)
        if isinstance(test.value, bool):
            other = Test(test.feature, "==", not test.value)
        return next((i for i, asked in enumerate(self.asked) if asked.test == other), None)

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {answer.tobytes(): place for place, answer in enumerate(self.answers)}

    def price(self, question: Question, about: Set[str] = frozenset()) -> float:
        """Return the bits that a question takes, in a law about things of these names."""
        test = question.test
        if test is None:
            bits = ACT_BITS
        elif test.feature.startswith(HELD) and test.comparison == "<=":
            return UNLIKELY_BITS  # to hold more seldom hurts
        else:
            bits = self.feature_bits(test.feature)
        return bits - ALIKE_BITS * (not about.isdisjoint(names_in(question)))

    def prices(self, about: Set[str]) -> Float[np.ndarray, " Q"]:
        """Return the bits of every question, in a law about things of these names."""
        known = frozenset(about)
        if known not in self._prices:
            self._prices[known] = np.array([self.price(q, known) for q in self.asked])
        return self._prices[known]

    def feature_bits(self, feature: str) -> float:
        """Return the bits that it takes to name a feature and a value of it."""
        close = (bits for prefix, bits in CLOSENESS.items() if feature.startswith(prefix))
        return next(close, self._bits)

    def _ask(self, answers: list[np.ndarray], question: Question, answer: np.ndarray) -> None:
        if answer.any() and not answer.all():
            self.asked.append(question)
            answers.append(answer)


def names_in(question: Question) -> frozenset[str]:
    """Return what a question is about by name: a thing held or faced, or what an action is for."""
    if question.test is None:
        actions = question.actions or frozenset()
        (action, *others) = sorted(actions)
        return frozenset() if others else frozenset({action.partition("_")[2]}) - {""}
    named = {question.test.feature.rpartition(".")[2]}
    if isinstance(question.test.value, str) and question.test.comparison == "==":
        named.add(question.test.value)
    return frozenset(named)


def names_of(observable: Observable, terms: Iterable[Term]) -> frozenset[str]:
    """Return what a law is about by name: what it predicts, and what that becomes."""
    own = observable.attribute.rpartition(".")[2]
    values = {str(term.value) for term in terms if isinstance(term, Assign)}
    return frozenset({own, own.partition("_")[2]} - {""}) | (values - {"none", "stay"})


def action_sets(record: Record) -> list[frozenset[str]]:
    """Return each action, and those that share a verb."""
    used = sorted(set(record.actions))
    verbs: dict[str, list[str]] = {}
    for action in record.world.actions:
        verbs.setdefault(action.partition("_")[0], []).append(action)
    groups = [frozenset(group) for group in verbs.values() if len(group) > 1]
    return [*(frozenset({action}) for action in used), *groups]


def tests_of(feature: str, domain: Domain, values: Iterable[Value | None]) -> list[Test]:
    """Return the tests of a feature that its values give reason for."""
    seen = sorted({value for value in values if value is not None}, key=lambda v: (str(type(v)), v))
    if domain == BOOLEAN:
        return [Test(feature, "==", value) for value in (False, True)]
    if isinstance(domain, Choices):
        return [Test(feature, sign, value) for value in seen for sign in ("==", "!=")]
    if len(seen) > FEW:
        between = seen[TAIL : len(seen) - TAIL : max(1, len(seen) // BETWEEN)]
        cuts = sorted({*seen[: TAIL + 1], *between, *seen[-TAIL - 1 :]})
    else:
        cuts = seen
    return [
        *(Test(feature, "<=", value) for value in cuts[:-1]),
        *(Test(feature, ">=", value) for value in cuts[1:]),
    ]


@dataclass
class Items:
    """Observed values of one attribute, whoever's, and how well they are explained so far.

    Attributes:
      number: the index of each (transition, key).
      old, value: before and after.
      domain: of each.
      size: of each domain.
      changed: whether the value is another than before.
      family: the index of its family in `families`.
      log_prob: how probable what was seen is, so far.
      expected: of numbers, what the laws so far make of them.
      explained: whether any law speaks about it.
      settled: of numbers, whether the laws so far come to what was seen.
    """

    number: dict[tuple[int, Key], int]
    old: list[Value]
    value: list[Value]
    domain: list[Domain]
    size: Float[np.ndarray, " I"]
    changed: Bool[np.ndarray, " I"]
    family: Int[np.ndarray, " I"]
    families: tuple[str, ...]
    log_prob: Float[np.ndarray, " I"]
    expected: Float[np.ndarray, " I"]
    explained: Bool[np.ndarray, " I"]
    settled: Bool[np.ndarray, " I"]

    @staticmethod
    def of(record: Record, number: dict[tuple[int, Key], int]) -> "Items":
        """Return the table of some keys, numbered from 0, with nothing explained."""
        old, value, domain = [], [], []
        families: dict[str, int] = {}
        family = []
        for t, key in number:
            before = record.scenes[t].old(key)
            old.append(before)
            value.append(record.changes[t].values.get(key, before))
            domain.append(record.scenes[t].domain(key))
            family.append(families.setdefault(key.family, len(families)))
        expected = [
            number_of(v) if isinstance(d, Numbers) else 0.0
            for v, d in zip(old, domain, strict=True)
        ]
        return Items(
            number,
            old,
            value,
            domain,
            size=np.array([d.size for d in domain], float),
            changed=np.array([a != b for a, b in zip(old, value, strict=True)], bool),
            family=np.array(family, np.int64),
            families=tuple(families),
            log_prob=np.zeros(len(old)),
            expected=np.array(expected, float),
            explained=np.zeros(len(old), bool),
            settled=np.zeros(len(old), bool),
        )

    def anew(self) -> "Items":
        """Return the table once more, to be explained apart from this one."""
        return replace(
            self,
            log_prob=self.log_prob.copy(),
            expected=self.expected.copy(),
            explained=self.explained.copy(),
            settled=self.settled.copy(),
        )


@dataclass
class Cases:
    """The cases of one observable of one scope.

    Attributes:
      row: the row of the record.
      item: what was observed there.
      weight: how many cases it stands for.
      among: how many places share the observable (births anywhere in a chunk).
    """

    scope: str
    observable: Observable
    domain: Domain
    row: Int[np.ndarray, " C"]
    item: Int[np.ndarray, " C"]
    weight: Float[np.ndarray, " C"]
    among: Float[np.ndarray, " C"]


def own_observables(world: World, scope: str) -> list[Observable]:
    """Return what laws of a scope may predict of itself and of what it touches."""
    seen = world.scopes[scope].observables
    others = [kind for kind in world.scopes if kind != "world"]
    return [o for o in seen if o.of not in others and o.attribute != "inventory.health"]


def other_observables(world: World, scope: str) -> list[Observable]:
    """Return what laws of a scope may predict of the one object of another kind."""
    others = world.scopes.keys() - {scope, "world"}
    seen = world.scopes[scope].observables
    return [o for o in seen if o.of in others and o.attribute != "inventory.health"]


def collect_keys(
    record: Record, scope: str, observable: Observable
) -> tuple[np.ndarray, list[tuple[int, Key]], np.ndarray]:
    """Return the rows in which an observable is seen, its keys, and among how many places.

    Of several places the one where something changed stands for all, or else the first.
    """
    transition, bindings = record.rows(scope)
    shared = observable.of in record.world.scopes and observable.of != "world"
    known: dict[int, Sequence[Key]] = {}
    altered = [{key.attribute for key in changes.values} for changes in record.changes]
    rows, keys, among = [], [], []
    for row, (t, binding) in enumerate(zip(transition.tolist(), bindings, strict=True)):
        if shared and t in known:
            found = known[t]
        else:
            found = known[t] = record.scenes[t].keys(binding, observable)
        changes = record.changes[t]
        if changes.gone:
            found = [key for key in found if changes.observed(key)]
        if found:
            rows.append(row)
            due = found[0].attribute in altered[t]  # most often not, and there may be many places
            changed = [key for key in found if key in changes.values] if due else []
            keys.append((t, changed[0] if changed else found[0]))
            among.append(len(found))
    return np.array(rows, np.int64), keys, np.array(among, float)


# --- Lenses -----------------------------------------------------------------------------------


def lenses(record: Record, cases: Cases, items: Items) -> list[Lens]:
    """Return every way of telling the cases that their domain and their features offer."""
    if isinstance(cases.domain, Numbers):
        found = _numbers(record, cases, items)
    elif cases.observable.attribute == "displacement":
        found = _steps(record, cases, items)
    else:
        found = _choices(record, cases, items)
    return [lens for lens in found if (lens.code < len(lens.terms)).any()]


def _numbers(record: Record, cases: Cases, items: Items) -> list[Lens]:
    value = np.array([number_of(items.value[i]) for i in cases.item])
    expected = items.expected[cases.item]
    domain = cases.domain
    assert isinstance(domain, Numbers)
    moved = value - expected
    wrong = moved != 0
    amounts = [a for a, _ in Counter(moved[wrong].tolist()).most_common(MOST_TERMS)]
    amounts = [a for a in amounts if _fits(a, domain)]
    found = [_first([Add(_plain(a)) for a in (0.0, *amounts)], [moved == a for a in (0, *amounts)])]
    for amount in amounts:
        clamped = np.clip(expected + amount, domain.low, domain.high)
        found.append(_first([Add(_plain(amount))], [clamped == value]))
    goals = [v for v, _ in Counter(value[wrong].tolist()).most_common(MOST_TERMS)]
    found += [_first([Assign(_plain(v))], [value == v]) for v in goals]
    for feature, read in record.world.scopes[cases.scope].features.items():
        if isinstance(read, Numbers) and wrong.any() and not feature.startswith(NOT_ASKED):
            column = record.column(cases.scope, feature)[cases.row]
            same = np.array(
                [v is not None and float(v) == w for v, w in zip(column, value, strict=True)], bool
            )
            if same[wrong].mean() > 0.5 and len(set(value[wrong])) > 2:
                found.append(_first([Read(feature)], [same]))
    return found


def _choices(record: Record, cases: Cases, items: Items) -> list[Lens]:
    value = np.array([items.value[i] for i in cases.item] + [None], dtype=object)[:-1]
    changed = items.changed[cases.item]
    goals = [v for v, _ in Counter(value[changed].tolist()).most_common(2 * MOST_TERMS)]
    kept = [v for v, _ in Counter(value[~changed].tolist()).most_common(1)]
    terms = [*goals, *(v for v in kept if v not in goals and cases.domain.contains(v))]
    found = [_first([Assign(v) for v in terms], [value == v for v in terms])]
    for feature, read in record.world.scopes[cases.scope].features.items():
        fits = not isinstance(read, Numbers | Displacements) and not isinstance(
            cases.domain, Numbers
        )
        if fits and len(goals) > 1 and all(map(cases.domain.contains, read)):
            same = record.column(cases.scope, feature)[cases.row] == value
            if same[changed].mean() > 0.5:
                found.append(_first([Read(feature)], [same]))
            if same[changed].mean() > 0.5 and kept:
                found.append(_first([Read(feature), Assign(kept[0])], [same, value == kept[0]]))
    return found


def _steps(record: Record, cases: Cases, items: Items) -> list[Lens]:
    value = np.array([items.value[i] for i in cases.item] + [None], dtype=object)[:-1]
    vocabulary = record.world.scopes[cases.scope].features
    names = [name for name in MOVES if name != "stay"]
    plain = [Step(name) for name in names]
    seen = [value == name for name in names]
    stay, stayed = Assign("stay"), value == "stay"
    found = [_first([*plain, stay], [*seen, stayed])]
    features = [
        name for name, domain in vocabulary.items()
        if isinstance(domain, Choices) and set(domain.values) <= set(STEPS.values)
        and not name.startswith(("player.", "target."))
    ]  # fmt: skip
    fits = {}
    for feature in features:
        fits[feature] = _step_values(record, cases, feature) == value
        found.append(_first([Step(feature)], [fits[feature]]))
        found.append(
            _first([Step(feature), *plain, stay], [fits[feature] & ~stayed, *seen, stayed])
        )
    for feature in features:
        other = feature.replace("_long", "_short")
        if other != feature and other in fits:
            terms = [Step(feature), Step(other), *plain, stay]
            hits = [fits[feature] & ~stayed, fits[other] & ~stayed, *seen, stayed]
            found.append(_first(terms, hits))
    return found


def _step_values(record: Record, cases: Cases, feature: str) -> np.ndarray:
    """Return where a step in the direction a feature names leads: there, or nowhere."""
    direction = record.column(cases.scope, feature)[cases.row]
    free = {
        name: record.column(cases.scope, f"self.free.{name}")[cases.row]
        for name in MOVES
        if name != "stay"
    }
    led = np.empty(len(direction), dtype=object)
    for case, name in enumerate(direction):
        led[case] = name if name in free and free[name][case] else "stay" if name else None
    return led


def _first(terms: Sequence[Term], hits: Sequence[np.ndarray]) -> Lens:
    code = np.full(len(hits[0]) if hits else 0, len(terms), np.int64)
    for index in reversed(range(len(terms))):
        code[np.asarray(hits[index], bool)] = index
    return Lens(tuple(terms), code)


def _fits(amount: float, domain: Numbers) -> bool:
    return abs(amount) <= domain.high - domain.low and float(amount / domain.step).is_integer()


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def outcomes_of(lens: Lens, counts: Float[np.ndarray, " K"]) -> tuple[Outcome, ...]:
    """Return the terms that occurred, with the logs of their shares."""
    total = counts[:-1].sum()
    return tuple(
        Outcome(term, float(np.log(count / total)))
        for term, count in zip(lens.terms, counts[:-1], strict=True)
        if count > 0
    )
