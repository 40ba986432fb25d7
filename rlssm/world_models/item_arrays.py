"""The probability of observed values, and its gradient, as arrays; see `evidence` for the formula.

`ItemArrays` compiles items for some laws. Items that have no law in common can be compiled apart:
no weight is in the probabilities of both, so that each part may be fitted by itself.

Source: One Life to Learn (arXiv 2510.12088), section 3: only active laws take part.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components

from rlssm.world_models.likelihood import LEAST_SCORE, NOISE


class Saying(NamedTuple):
    """The score a law gives a value: by which of its outcomes, and what is added."""

    law: int
    outcomes: tuple[int, ...]
    offset: float


class Factor(NamedTuple):
    """Values that are named, each by some sayings (by index), and how many are not."""

    entries: tuple[tuple[int, ...], ...]
    rest: int


class Way(NamedTuple):
    """One way to the observed value: entries (factor, index), and how often."""

    entries: tuple[tuple[int, int], ...]
    times: float


class Item(NamedTuple):
    """One observed value, whatever its key: all that its probability depends on."""

    factors: tuple[Factor, ...]
    ways: tuple[Way, ...]

    @property
    def sayings(self) -> set[int]:
        return {said for factor in self.factors for entry in factor.entries for said in entry}


class ItemArrays:
    """ItemArrays compiled for laws; the sayings of the items are by index in `sayings`.

    Weights are one for each of `outcomes`, which says how many outcomes each law has; logits are
    those of all outcomes, one law after the other.
    """

    def __init__(
        self,
        items: Sequence[Item],
        sayings: Sequence[Saying],
        outcomes: Sequence[int],
        reference: bool,
    ) -> None:
        self.reference = reference
        self._size = len(items)
        rest: list[float] = []
        says: list[tuple[int, int]] = []  # entry, saying
        factor_starts, factor_items, way_starts, times = [], [], [], []
        way_entries: list[tuple[int, int]] = []  # way, entry
        for number, item in enumerate(items):
            first = []
            for factor in item.factors:
                factor_starts.append(len(rest))
                factor_items.append(number)
                rest.append(math.log(factor.rest) if factor.rest else -math.inf)
                first.append(len(rest))
                for said in factor.entries:
                    says += [(len(rest), saying) for saying in said]
                    rest.append(0.0)
            way_starts.append(len(times))
            for way in item.ways:
                way_entries += [(len(times), first[f] + e) for f, e in way.entries]
                times.append(math.log(way.times))
        self._base = np.array(rest)
        self._finite = np.isfinite(self._base)
        self._says = _incidence(says, len(rest), len(sayings))
        self._heard_by = self._says.T.tocsr()
        self._ways = _incidence(way_entries, len(times), len(rest))
        self._leads_to = self._ways.T.tocsr()
        self._times = np.array(times)
        self._way_segments = _Segments(way_starts, len(times))
        self._factor_segments = _Segments(factor_starts, len(rest))
        self._factor_items = np.array(factor_items, np.int64)
        self._law_of = np.array([saying.law for saying in sayings], np.int64)
        self._offset = np.array([saying.offset for saying in sayings])
        first_logit = np.cumsum([0, *outcomes]).tolist()
        members = [
            (index, first_logit[saying.law] + outcome)
            for index, saying in enumerate(sayings)
            for outcome in saying.outcomes
        ]
        self._member = np.array(members, np.int64).reshape(-1, 2)

    def log_probs(
        self, weights: Float[np.ndarray, " L"], logits: Float[np.ndarray, " O"]
    ) -> Float[np.ndarray, " I"]:
        """Return the log probability of each item."""
        return self._forward(weights, logits)[0]

    def gradient(
        self,
        weights: Float[np.ndarray, " L"],
        logits: Float[np.ndarray, " O"],
        count: Float[np.ndarray, " I"],
    ) -> tuple[float, Float[np.ndarray, " L"], Float[np.ndarray, " O"]]:
        """Return the log likelihood of items, each so often, and its gradient."""
        log_probs, scores, way_share, share, chosen = self._forward(weights, logits)
        counts = np.repeat(count, self._way_segments.widths)
        per_factor = np.repeat(count[self._factor_items], self._factor_segments.widths)
        by_entry = self._leads_to @ (counts * way_share) - per_factor * share
        by_saying = self._heard_by @ by_entry
        by_weight = np.bincount(self._law_of, by_saying * (scores - NOISE), len(weights))
        by_score = by_saying * weights[self._law_of]
        saying, outcome = self._member.T
        by_logit = np.bincount(outcome, by_score[saying] * chosen, len(logits))
        return float(count @ log_probs), by_weight, by_logit

    def _forward(self, weights: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, ...]:
        if not self._size:
            none = np.zeros(0)
            return none, np.zeros(len(self._law_of)), none, none, np.zeros(len(self._member))
        scores, chosen = self._scores(logits)
        raised = self._base + self._says @ (weights[self._law_of] * (scores - NOISE))
        normaliser, share = self._factor_segments.log_sum_exp(raised)
        named = np.where(self._finite, raised, 0.0)  # the rest of no values is in no way
        reached, way_share = self._way_segments.log_sum_exp(self._times + self._ways @ named)
        total = np.bincount(self._factor_items, normaliser, self._size)
        return reached - total, scores, way_share, share, chosen

    def _scores(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the score of every saying and by how much each of its outcomes moves it."""
        saying, outcome = self._member.T
        member = logits[outcome]
        size = len(self._law_of)
        best = np.full(size, -np.inf)
        np.maximum.at(best, saying, member)
        silent = np.isinf(best)  # what every active law says has no outcome and the score 0
        best[silent] = 0.0
        mass = np.bincount(saying, np.exp(member - best[saying]), size)
        joint = best + (0.0 if self.reference else np.log(np.where(silent, 1.0, mass)))
        scores = np.maximum(joint + self._offset, LEAST_SCORE)
        share = np.exp(member - best[saying]) / mass[saying]
        return scores, np.where((joint + self._offset)[saying] > LEAST_SCORE, share, 0.0)


class Part(NamedTuple):
    """ItemArrays with laws in common, apart from all others.

    Attributes:
      numbers: which of all items they are; `laws` and `logits` which of all laws and their logits.
      items: compiled for these laws alone.
    """

    numbers: Int[np.ndarray, " I"]
    laws: Int[np.ndarray, " L"]
    logits: Int[np.ndarray, " O"]
    items: ItemArrays


def parts(
    items: Sequence[Item], sayings: Sequence[Saying], outcomes: Sequence[int], reference: bool
) -> list[Part]:
    """Return the parts that items fall into; an item that no law speaks about is in none."""
    said = [sorted({sayings[index].law for index in item.sayings}) for item in items]
    beside = sorted({(laws[0], law) for laws in said for law in laws})
    graph = _incidence(beside, len(outcomes), len(outcomes))
    label = connected_components(graph, directed=False)[1]
    members: dict[int, list[int]] = {}
    for number, laws in enumerate(said):
        if laws:
            members.setdefault(int(label[laws[0]]), []).append(number)
    law_of = np.repeat(np.arange(len(outcomes)), outcomes)
    found = []
    for which, numbers in members.items():
        laws = np.flatnonzero(label == which)
        logits = np.flatnonzero(label[law_of] == which)
        mine = [items[number] for number in numbers]
        own, heard = _renumbered(mine, sayings, laws)
        compiled = ItemArrays(own, heard, [outcomes[law] for law in laws], reference)
        found.append(Part(np.array(numbers), laws, logits, compiled))
    return found


def _renumbered(
    items: Sequence[Item], sayings: Sequence[Saying], laws: np.ndarray
) -> tuple[list[Item], list[Saying]]:
    """Return items that refer to their own sayings, and these for `laws` alone."""
    heard = sorted(set().union(*(item.sayings for item in items)))
    saying = {old: new for new, old in enumerate(heard)}
    law = {old: new for new, old in enumerate(laws.tolist())}

    def renumber(factor: Factor) -> Factor:
        return Factor(tuple(tuple(saying[s] for s in e) for e in factor.entries), factor.rest)

    own = [Item(tuple(map(renumber, item.factors)), item.ways) for item in items]
    return own, [sayings[old]._replace(law=law[sayings[old].law]) for old in heard]


# --- Sums over segments -----------------------------------------------------------------------


class _Segments:
    """Consecutive stretches of an array that begin at `starts`, none of them empty."""

    def __init__(self, starts: Sequence[int], size: int) -> None:
        self._starts = np.array(starts, np.int64)
        self.widths = np.diff(self._starts, append=size)

    def log_sum_exp(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the log of the sum of exponentials of each, and each value's share of it."""
        largest = np.maximum.reduceat(values, self._starts)
        raised = np.exp(values - np.repeat(largest, self.widths))
        sums = np.add.reduceat(raised, self._starts)
        return largest + np.log(sums), raised / np.repeat(sums, self.widths)


def _incidence(pairs: Sequence[tuple[int, int]], rows: int, columns: int) -> scipy.sparse.csr_array:
    row, column = np.array(pairs, np.int64).reshape(-1, 2).T
    return scipy.sparse.csr_array((np.ones(len(row)), (row, column)), shape=(rows, columns))
