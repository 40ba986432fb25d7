"""Laws about what was never tried, by analogy between names.

What is named alike is expected to behave alike: if make_wood_pickaxe makes a wood_pickaxe out of
wood, make_stone_pickaxe may make a stone_pickaxe out of stone. A deed is an action with what is in
front of the player; all laws of one deed are taken together. Another word in place of one word of
the deed gives laws of another deed, where

* something that comes of the deed is called by the word too, and is still known under the other;
* nothing is said yet of that deed and effect, and what was seen does not speak against it.

A deed's effects come about together, and take over what the deed needs (`deeds`): under the new
name and, to be careful, under the old one. Nothing in a record speaks for the laws of a deed that
was never done, so they are kept apart from those that the record pays for, and trusted as far as
analogies were right where they could be tested.

Source: ours. In One Life to Learn (arXiv 2510.12088) a language model writes the laws and knows
what the names mean; here the names are all there is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from rlssm.errors import UserError
from rlssm.world_models.deeds import NEEDS, Deed, asks, deeds, needs_of, outcome
from rlssm.world_models.laws import Law, Outcome, Read, Set, Step, Test, check_law
from rlssm.world_models.object_view import Choices, Value, World
from rlssm.world_models.record import Record

SOURCE = "analogy"
ROUNDS = 2  # an analogy of an analogy is the farthest
ASKED = (*NEEDS, "target.", "self.", "player.sleeping")  # the rest of a guard is not carried over


class Analogies(NamedTuple):
    """Laws by analogy, and how many analogies a record confirms and refutes.

    Those of what other laws speak about already are tested as well, though not among the laws.
    """

    laws: list[Law]
    confirmed: int
    refuted: int

    @property
    def trust(self) -> float:
        """The probability that an untested analogy holds, by the rule of succession."""
        return (self.confirmed + 1) / (self.confirmed + self.refuted + 2)


def analogies(record: Record, laws: Sequence[Law]) -> Analogies:
    """Return laws by analogy to those given, as far as a record does not speak against them."""
    found: list[Law] = []
    tested: dict[Law, bool] = {}
    for _ in range(ROUNDS):
        for law in _translations(record.world, [*laws, *found]):
            if law in tested:
                continue
            right, wrong = outcome(record, law)
            if right + wrong:
                tested[law] = right > wrong
            if tested.get(law, True) and not any(_spoken_of(law, old) for old in (*laws, *found)):
                found.append(law)
    return Analogies(found, sum(tested.values()), sum(not held for held in tested.values()))


# --- Translation ------------------------------------------------------------------------------


def _translations(world: World, laws: Sequence[Law]) -> Iterator[Law]:
    """Yield the laws of other deeds, named as those of a deed are but for one word."""
    for deed, own in deeds(laws).items():
        needs = needs_of(deed.action, own, laws)
        _, *words = _words(deed.action)
        words += [word for test in deed.faced for word in _words(str(test.value))]
        for word in dict.fromkeys(words):
            for other in _vocabulary(world, deed):
                if other != word:
                    yield from _translated(world, own, needs, word, other)


def _translated(
    world: World, laws: Sequence[Law], needs: dict[str, Test], word: str, other: str
) -> list[Law]:
    found, alike = [], False
    for law in laws:
        kept = {t.feature: t for t in law.tests if asks(t, ASKED)}
        renamed = _rename(replace(law, tests=tuple((kept | needs).values())), word, other)
        # Another deed is taken to need what its model needs, beside what it is named for.
        asked = {t.feature: t for t in renamed.tests}
        more = (t for feature, t in needs.items() if feature not in asked)
        renamed = replace(renamed, tests=(*renamed.tests, *more))
        if not _possible(renamed, world):
            continue
        effect = law.observable, law.outcomes
        alike |= effect != (renamed.observable, renamed.outcomes)
        found.append(renamed)
    return found if alike else []


def _possible(law: Law, world: World) -> bool:
    """Return whether a world has all that a law speaks of."""
    known = world.scopes[law.scope]
    if law.observable not in known.observables or not (law.actions or set()) <= {*world.actions}:
        return False
    if any(test.feature not in known.features for test in law.tests):
        return False
    try:
        check_law(law, world)
    except UserError:
        return False
    return True


def _vocabulary(world: World, deed: Deed) -> list[str]:
    """Return every word that an action, or what can be in front, is called by."""
    names = list(world.actions)
    for test in deed.faced:
        domain = world.scopes[deed.scope].features[test.feature]
        names += [str(value) for value in domain] if isinstance(domain, Choices) else []
    return list(dict.fromkeys(word for name in names for word in _words(name)))


def _words(name: str) -> list[str]:
    return re.split("[._]", name)


def _rename(law: Law, word: str, other: str) -> Law:
    def name(text: str) -> str:
        return re.sub(rf"(?<![^._]){re.escape(word)}(?![^._])", other, text)

    def value(read: Value) -> Value:
        return name(read) if isinstance(read, str) else read

    def outcome(one: Outcome) -> Outcome:
        match one.term:
            case Set(wanted):
                return replace(one, term=Set(value(wanted)))
            case Read(feature):
                return replace(one, term=Read(name(feature)))
            case Step(direction):
                return replace(one, term=Step(name(direction)))
        return one

    observable = replace(law.observable, attribute=name(law.observable.attribute))
    return replace(
        law,
        name="",
        actions=frozenset(map(name, law.actions or ())),
        tests=tuple(Test(name(t.feature), t.comparison, value(t.value)) for t in law.tests),
        observable=observable,
        outcomes=tuple(map(outcome, law.outcomes)),
        source=SOURCE,
    )


# --- What is known already --------------------------------------------------------------------


def _spoken_of(law: Law, known: Law) -> bool:
    """Return whether a known law speaks of the same effect of the same deed."""
    if (known.scope, known.observable) != (law.scope, law.observable):
        return False
    if known.actions is None:
        general = all(test.feature.startswith("target.") for test in known.tests)
    else:
        general = (law.actions or frozenset()) <= known.actions
    return general and not any(_exclude(a, b) for a in law.tests for b in known.tests)


def _exclude(one: Test, other: Test) -> bool:
    """Return whether two tests of what a feature is cannot both hold."""
    if one.feature != other.feature:
        return False
    signs = {one.comparison, other.comparison}
    if signs == {"=="}:
        return one.value != other.value
    return signs == {"==", "!="} and one.value == other.value
