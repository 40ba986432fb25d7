"""Recorded transitions as laws see them, read once: features by column, laws by row.

A row is one binding of one scope in one transition. Tests are evaluated for all rows at once and
remembered, so that many laws over one record cost little more than a few.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from rlssm.errors import unknown_name
from rlssm.world_models.laws import COMPARISONS, Law, Test, Vote, law_votes
from rlssm.world_models.object_view import Binding, Changes, Key, Scene, Value, World

Transition: TypeAlias = tuple[Any, str, Any]  # state, action, next state
Votes: TypeAlias = dict[tuple[int, Key], list[Vote]]  # by transition and observable

# Features that differ between the bindings of a scope; all others are read once a transition.
OF_BINDING = ("self.", "front.", "chunk.")


class Rows(NamedTuple):
    """All bindings of one scope: the transition of each, in order, and the binding itself."""

    transition: Int[np.ndarray, " R"]
    binding: list[Binding]


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
        self._truths: dict[tuple[str, Test], np.ndarray] = {}

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
            column = self.column(scope, test.feature)
            present = np.array([value is not None for value in column], bool)
            compare, wanted = COMPARISONS[test.comparison], test.value
            present[present] = [compare(value, wanted) for value in column[present]]
            self._truths[scope, test] = present
        return self._truths[scope, test]

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
        """Return what `evaluate` says of every transition, for the keys that are observed."""
        votes: Votes = defaultdict(list)
        for index, law in enumerate(laws):
            transition, bindings = self.rows(law.scope)
            found = np.flatnonzero(self.active(law.scope, law.tests, law.actions)).tolist()
            for t, rows in groupby(found, key=lambda row: int(transition[row])):
                here = [bindings[row] for row in rows]
                said = law_votes(index, law, self.scenes[t], here, self.world.reference)
                for key, vote in said:
                    if self.changes[t].observed(key):
                        votes[t, key].append(vote)
        return dict(votes)
