"""Deeds: an action on something, whose effects come about together, and what they need.

A deed needs what the guards of its effects ask to be at hand or held, and what is used up by it
must be held. A record in which something was never tried without may leave that out, for a guard
is as short as the record allows: `needing` puts it back.

Source: ours.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rlssm.world_models.cases import VITAL
from rlssm.world_models.laws import Add, Law, Set, Test
from rlssm.world_models.record import Record

FACED = ("target.material", "target.object")
NEEDS = ("near.", "player.inventory.")  # but for vitals


class Deed(NamedTuple):
    """An action on something: whose, which, and the tests of what is in front."""

    scope: str
    action: str
    faced: frozenset[Test]


def deeds(laws: Sequence[Law]) -> dict[Deed, list[Law]]:
    """Return the laws of each deed that takes one action, where they leave nothing to chance."""
    found: dict[Deed, list[Law]] = defaultdict(list)
    for law in laws:
        if law.actions is not None and len(law.actions) == len(law.outcomes) == 1:
            (action,) = law.actions
            faced = frozenset(t for t in law.tests if t.feature in FACED and t.comparison == "==")
            found[Deed(law.scope, action, faced)].append(law)
    return found


def asks(test: Test, about: tuple[str, ...]) -> bool:
    """Return whether a test is about features that begin so, vitals apart."""
    return test.feature.startswith(about) and not test.feature.startswith(VITAL)


def needs_of(action: str, own: Sequence[Law], laws: Sequence[Law]) -> dict[str, Test]:
    """Return what has to be at hand or held for a deed, by feature; `own` are the deed's laws."""
    needs = {
        test.feature: test
        for law in own
        for test in law.tests
        if asks(test, NEEDS) and (test.comparison == ">=" or test.value is True)
    }
    for law in laws:
        feature, used = f"player.{law.observable.attribute}", _used(law)
        if used and action in (law.actions or ()) and asks(Test(feature, ">=", used), NEEDS):
            needs.setdefault(feature, Test(feature, ">=", used))
    return needs


def _used(law: Law) -> float:
    """Return how much of what a law speaks about goes away for certain; 1 if all of it."""
    if len(law.outcomes) != 1:
        return 0
    match law.outcomes[0].term:
        case Add(amount) if amount < 0:
            return -amount
        case Set(value) if value == 0 and not isinstance(value, bool):
            return 1
    return 0


def needing(record: Record, laws: Sequence[Law]) -> list[Law]:
    """Return laws that ask for what their deed needs too, unless the record shows they need not."""
    changed: dict[Law, Law] = {}
    for deed, own in deeds(laws).items():
        for law in own:
            wanted = law
            for feature, test in needs_of(deed.action, own, laws).items():
                known = any(asked.feature == feature for asked in wanted.tests)
                if not known and not _needless(record, law, test):
                    wanted = replace(wanted, tests=(*wanted.tests, test))
            changed[law] = wanted
    return [changed.get(law, law) for law in laws]


def _needless(record: Record, law: Law, test: Test) -> bool:
    """Return whether a law was ever right where a test does not hold."""
    turned = (
        Test(test.feature, "<", test.value)
        if test.comparison == ">="
        else replace(test, value=False)
    )
    return outcome(record, replace(law, tests=(*law.tests, turned)))[0] > 0


def outcome(record: Record, law: Law) -> tuple[int, int]:
    """Return how often a law was right in a record, and wrong."""
    right = wrong = 0
    for (t, key), (vote, *_) in record.votes([law]).items():
        scene = record.scenes[t]
        old = scene.old(key)
        value = record.changes[t].values.get(key, old)
        said = vote.values
        if law.adds and not record.world.reference:
            said = tuple(scene.clamp(key, float(old) + float(a)) for a in vote.values)  # ty: ignore[invalid-argument-type]: laws add to numbers alone
        hit = bool(np.any([value == one for one in said]))
        right, wrong = right + hit, wrong + (not hit)
    return right, wrong
