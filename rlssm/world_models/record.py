"""Recorded transitions as laws see them, read once: features by column, laws by row.

A row is one binding of one scope in one transition. Tests are evaluated for all rows at once and
remembered, so that many laws over one record cost little more than a few.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from rlssm.errors import unknown_name
from rlssm.world_models.laws import BIRTH, COMPARISONS, Law, Test, Vote, law_votes
from rlssm.world_models.object_view import Binding, Changes, Key, Scene, Value, World

Transition: TypeAlias = tuple[Any, str, Any]  # state, action, next state
Votes: TypeAlias = dict[tuple[int, Key], list[Vote]]  # by transition and observable
Said: TypeAlias = tuple[int, Sequence[Key], Vote]  # transition, of which keys, what

# Features that differ between the bindings of a scope; all others are read once a transition.
OF_BINDING = ("self.", "front.", "chunk.")


class Rows(NamedTuple):
    """All bindings of one scope: the transition of each, in order, and the binding itself."""

    transition: Int[np.ndarray, " R"]
    binding: list[Binding]


class Gathered(NamedTuple):
    """Votes where a key may stand for several, and for how many; 1 unless `times` has it."""

    votes: Votes
    times: dict[tuple[int, Key], int]


class Record:
    """Transitions of one world, with what changed in each."""

    def __init__(self, world: World, transitions: Iterable[Transition]) -> None:
        self.world = world
        self.transitions = list(transitions)
        self.scenes: list[Scene] = [world.scene(s, action) for s, action, _ in self.transitions]
        self.changes: list[Changes] = [
            world.changes(scene, after)
            for scene, (_, _, after) in zip(self.scenes, self.transitions, strict=True)
        ]
        self.actions = np.array([action for _, action, _ in self.transitions], dtype=object)
        self._rows: dict[str, Rows] = {}
        self._columns: dict[tuple[str, str], np.ndarray] = {}
        self._codes: dict[tuple[str, str], tuple[np.ndarray, list[Value | None]]] = {}
        self._truths: dict[tuple[str, Test], np.ndarray] = {}
        self._voices: dict[tuple, list[Said]] = {}

    def __len__(self) -> int:
        return len(self.transitions)

    def rows(self, scope: str) -> Rows:
        """Return the rows of a scope."""
        if scope not in self.world.scopes:
            raise unknown_name("scope", scope, self.world.scopes)
        if scope not in self._rows:
            bindings = [scene.bindings(scope) for scene in self.scenes]
            counts = [len(found) for found in bindings]
            self._rows[scope] = Rows(
                np.repeat(np.arange(len(self.scenes)), counts),
                [binding for found in bindings for binding in found],
            )
        return self._rows[scope]

    def column(self, scope: str, feature: str) -> np.ndarray:
        """Return a feature's value in every row, dtype object, None where it has none."""
        if (scope, feature) not in self._columns:
            transition, bindings = self.rows(scope)
            column = np.empty(len(bindings), dtype=object)
            known: dict[int, Value | None] = {}
            shared = not feature.startswith(OF_BINDING)
            for row, (t, binding) in enumerate(zip(transition.tolist(), bindings, strict=True)):
                if shared and t in known:
                    column[row] = known[t]
                else:
                    column[row] = known[t] = self.scenes[t].read(binding, feature)
            self._columns[scope, feature] = column
        return self._columns[scope, feature]

    def truth(self, scope: str, test: Test) -> Bool[np.ndarray, " R"]:
        """Return in which rows a test holds; where the feature has no value it does not."""
        if (scope, test) not in self._truths:
            codes, distinct = self.coded(scope, test.feature)
            compare, wanted = COMPARISONS[test.comparison], test.value
            held = [value is not None and compare(value, wanted) for value in distinct]
            self._truths[scope, test] = np.array(held, bool)[codes]
        return self._truths[scope, test]

    def coded(self, scope: str, feature: str) -> tuple[Int[np.ndarray, " R"], list[Value | None]]:
        """Return which of its distinct values a feature has in every row, and these."""
        if (scope, feature) not in self._codes:
            number: dict[Value | None, int] = {}
            column = self.column(scope, feature).tolist()
            codes = np.array([number.setdefault(v, len(number)) for v in column], np.int64)
            self._codes[scope, feature] = codes, list(number)
        return self._codes[scope, feature]

    def active(
        self, scope: str, tests: Sequence[Test], actions: frozenset[str] | None = None
    ) -> Bool[np.ndarray, " R"]:
        """Return in which rows the action is one of `actions` and all tests hold."""
        transition = self.rows(scope).transition
        if actions is None:
            active = np.ones(len(transition), bool)
        else:
            chosen = np.array([action in actions for action in self.actions], bool)
            active = chosen[transition]
        for test in tests:
            active = active & self.truth(scope, test)
        return active

    def votes(self, laws: Sequence[Law]) -> Votes:
        """Return what `evaluate` says of every transition, for the keys that are observed.

        Votes that are alike are the same object.
        """
        votes: Votes = defaultdict(list)
        for index, law in enumerate(laws):
            for t, keys, vote in self._said(index, law):
                for key in keys:
                    votes[t, key].append(vote)
        return dict(votes)

    def gathered(self, laws: Sequence[Law]) -> Gathered:
        """Return the votes once more, one key for all tiles of which the same is said and true.

        That is so of most tiles: nothing is born there, and what may be born is said of all tiles
        of a kind at once.
        """
        said = [self._said(index, law) for index, law in enumerate(laws)]
        apart: dict[tuple[int, str], set[Key]] = defaultdict(set)
        for t, keys, _ in (one for each in said for one in each):
            if len(keys) == 1 and keys[0].attribute.startswith(BIRTH):
                apart[t, keys[0].attribute].add(keys[0])
        for t, changes in enumerate(self.changes):
            for key in changes.values:
                if key.attribute.startswith(BIRTH):
                    apart[t, key.attribute].add(key)
        votes: Votes = defaultdict(list)
        times: dict[tuple[int, Key], int] = {}
        for t, keys, vote in (one for each in said for one in each):
            alone = apart.get((t, keys[0].attribute)) if len(keys) > 1 else None
            if alone is not None:
                for key in [key for key in keys if key in alone]:
                    votes[t, key].append(vote)
                keys = [key for key in keys if key not in alone]
            if keys:
                votes[t, keys[0]].append(vote)
                if len(keys) > 1:
                    times[t, keys[0]] = len(keys)
        return Gathered(dict(votes), times)

    def _said(self, index: int, law: Law) -> list[Said]:
        """Return what a law says, as the one in that place; whatever its name, it is remembered."""
        terms = tuple(outcome.term for outcome in law.outcomes)
        shape = law.scope, law.tests, law.actions, law.observable, terms
        if shape not in self._voices:
            distinct: dict[Vote, Vote] = {}
            self._voices[shape] = [
                (t, keys, distinct.setdefault(vote, vote)) for t, keys, vote in self._voice(law)
            ]
        own: dict[int, Vote] = {}
        found = []
        for t, keys, vote in self._voices[shape]:
            if id(vote) not in own:
                own[id(vote)] = vote._replace(law=index)
            found.append((t, keys, own[id(vote)]))
        return found

    def _voice(self, law: Law) -> Iterator[Said]:
        transition, bindings = self.rows(law.scope)
        found = np.flatnonzero(self.active(law.scope, law.tests, law.actions)).tolist()
        for t, rows in groupby(found, key=transition.tolist().__getitem__):
            here = [bindings[row] for row in rows]
            for keys, vote in law_votes(0, law, self.scenes[t], here, self.world.reference):
                if len(keys) > 1 or self.changes[t].observed(keys[0]):
                    yield t, keys, vote
