"""The best guard for a law about some cases: a beam over conjunctions, judged by length.

Anti-unification by gain: of all questions about a scope, those are kept that hold where a term
tells what happened and not elsewhere, as long as each saves more than it costs to write down.

    gain = log p(cases | law) - log p(cases | laws so far) - ln 2 (bits of the law)
           - 1/2 (outcomes - 1) ln n
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from rlssm.world_models.cases import Cases, Items, Lens, Questions, lenses, names_of
from rlssm.world_models.laws import Add, Read, Set, Step, Term
from rlssm.world_models.object_view import MOVES
from rlssm.world_models.record import Record

BEAM = 5
MOST_TESTS = 4  # with the action set
LENSES = 3  # of one observable that are searched in depth
LAW_BITS = 4.0
SAME_BITS = 4.0  # to ask what another law asks already
TERM_BITS = 4.0
NOTHING_BITS = 2.0  # "or nothing comes of it"
FIXED_BITS = 2.0  # more


# How often each term occurs where a question is answered with yes, and what is known of it already.
Tally: TypeAlias = tuple[Float[np.ndarray, "Q K"], Float[np.ndarray, " Q"]]


@dataclass(frozen=True)
class Guard:
    """Questions all answered with yes, where that is so, and what a law there gains."""

    gain: float
    asked: tuple[int, ...]
    mask: Bool[np.ndarray, " C"]


@dataclass(frozen=True)
class Candidate:
    """A law in the making: whose cases, through which lens, under which guard, and its gain."""

    gain: float
    cases: Cases
    lens: Lens
    guard: tuple[int, ...]  # questions
    mask: Bool[np.ndarray, " C"]
    counts: Float[np.ndarray, " K"]


# --- Search ---------------------------------------------------------------------------------


def best_law(
    record: Record,
    questions: Questions,
    items: Items,
    cases: Cases,
    known: Iterable[tuple[int, ...]] = (),
) -> Candidate | None:
    """Return the best law about some cases: the likeliest lenses, each with a beam.

    `known` are guards of other laws, which are cheaper to write down again.
    """
    judges = [Judge(questions, items, cases, lens) for lens in lenses(record, cases, items)]
    if not judges:
        return None
    asked = questions.answers[:, cases.row]
    answers = np.ascontiguousarray(asked.T, np.float32)
    everywhere = np.ones(len(cases.row), bool)
    promise = [
        max(judge.gain(everywhere, 0.0), judge.gains(*tally, 0.0).max(initial=-np.inf))
        for judge, tally in tallies([(judge, everywhere) for judge in judges], answers)
    ]
    masks = [(guard, np.logical_and.reduce(asked[list(guard)])) for guard in known]
    masks = [(guard, mask) for guard, mask in masks if mask.any()]
    found: Candidate | None = None
    for index in np.argsort(promise)[::-1][:LENSES]:
        guard = _beam(judges[index], asked, answers, everywhere)
        judge, guard = _split(questions, judges, judges[index], asked, answers, guard)
        tried = [(judge, guard.asked, guard.mask, judge.bits(guard.asked))]
        tried += [(judges[index], known_guard, mask, SAME_BITS) for known_guard, mask in masks]
        for judge, guard_asked, mask, bits in tried:
            once = judge.gain(mask, bits, once=True)
            if once > 0 and (found is None or once > found.gain):
                counts = judge.counts(mask, once=True)
                found = Candidate(once, cases, judge.lens, guard_asked, mask, counts)
    return found


def _beam(judge: "Judge", asked: np.ndarray, answers: np.ndarray, everywhere: np.ndarray) -> Guard:
    beam = [Guard(judge.gain(everywhere, 0.0), (), everywhere)]
    best = beam[0]
    for _ in range(MOST_TESTS):
        grown: dict[bytes, Guard] = {}
        counted = tallies([(judge, guard.mask) for guard in beam], answers)
        for guard, (_, tally) in zip(beam, counted, strict=True):
            gains = judge.gains(*tally, judge.bits(guard.asked))
            for question in np.argsort(-gains, kind="stable")[: 3 * BEAM].tolist():
                if math.isfinite(gains[question]) and judge.allowed(guard.asked, question):
                    narrower = guard.mask & asked[question]
                    entry = Guard(float(gains[question]), (*guard.asked, question), narrower)
                    grown.setdefault(np.packbits(narrower).tobytes(), entry)
        beam = sorted(grown.values(), key=lambda guard: -guard.gain)[:BEAM]
        if not beam:
            break
        best = max(best, beam[0], key=lambda guard: guard.gain)
    return best


def _split(
    questions: Questions,
    judges: Sequence["Judge"],
    judge: "Judge",
    asked: np.ndarray,
    answers: np.ndarray,
    best: Guard,
) -> tuple["Judge", Guard]:
    """Narrow a guard as long as two laws, one for either answer, say more than one.

    The two may look through different lenses. The one that says more is kept.
    """
    while len(asked) and len(best.asked) < MOST_TESTS and best.gain > 0:
        bits = judge.bits(best.asked)
        counted = tallies([(j, best.mask) for j in judges], answers)
        inside = np.array([j.gains(*tally, bits) for j, tally in counted])
        outside = np.array([j.gains(*j.others(best.mask, tally), bits) for j, tally in counted])
        total = inside.max(0) + outside.max(0)
        total[[not judge.allowed(best.asked, q) for q in range(len(total))]] = -np.inf
        question = int(np.argmax(total))
        opposite = questions.opposite(question)
        turn = opposite is not None and outside[:, question].max() > inside[:, question].max()
        half = outside[:, question] if turn else inside[:, question]
        if not total[question] > best.gain or half.max() <= 0:
            break
        judge = judges[int(np.argmax(half))]
        mask = best.mask & (~asked[question] if turn else asked[question])
        added = opposite if turn and opposite is not None else question
        best = Guard(float(half.max()), (*best.asked, added), mask)
    return judge, best


# --- Gain ----------------------------------------------------------------------------------


class Judge:
    """The gain of guards over the cases of one observable, seen through one lens."""

    def __init__(self, questions: Questions, items: Items, cases: Cases, lens: Lens) -> None:
        self.lens = lens
        self._item = cases.item
        self._asked = questions.asked
        self._bits = questions.prices(names_of(cases.observable, lens.terms))
        self._feature_bits = questions.feature_bits
        width = len(lens.terms) + 1
        self._onehot = np.eye(width, dtype=np.float32)[lens.code] * cases.weight[:, None]
        self._term_bits = np.array([self._price(term) for term in lens.terms])
        # Amounts that add up leave nothing to gain where they are right already.
        known = np.where(items.settled, 0.0, items.log_prob)
        base = known[cases.item] * cases.weight
        births = np.where(is_birth(lens, lens.code), np.log(cases.among), 0.0)
        sizes = np.log(items.size[cases.item])
        unnamed = np.where(lens.code == len(lens.terms), sizes, 0.0)
        self._base = (base + (births + unnamed) * cases.weight).astype(np.float32)
        self.table = np.column_stack([self._onehot, self._base])

    def _price(self, term: Term) -> float:
        match term:
            case Read(feature) | Step(feature) if feature not in MOVES:
                return TERM_BITS + self._feature_bits(feature)
        return term_bits(term)

    def allowed(self, guard: tuple[int, ...], question: int) -> bool:
        """Return whether a question may join a guard: one action set, and nothing twice."""
        acts = self._asked[question].actions is not None
        taken = any(self._asked[q].actions is not None for q in guard)
        return question not in guard and not (acts and taken)

    def counts(self, mask: np.ndarray, once: bool = False) -> Float[np.ndarray, " K"]:
        """Return how often each term occurs; `once`: what several objects may have caused, once."""
        share = self._share(mask) if once else 1.0
        return (self._onehot[mask] * share).sum(0).astype(float)

    def _share(self, mask: np.ndarray) -> Float[np.ndarray, "M 1"]:
        item = self._item[mask]
        return (1 / np.bincount(item)[item])[:, None] if len(item) else np.ones((0, 1))

    def log_probs(self, counts: Float[np.ndarray, "... K"]) -> Float[np.ndarray, "... K"]:
        """Return the log probability of each outcome, half a count added to those that occurred."""
        occurred = (counts > 0).sum(-1, keepdims=True)
        total = counts.sum(-1, keepdims=True) + 0.5 * np.maximum(occurred, 1) + 0.5
        return np.log((counts + 0.5) / total)

    def bits(self, asked: tuple[int, ...]) -> float:
        """Return the bits that some questions take."""
        return float(self._bits[list(asked)].sum())

    def gain(self, mask: np.ndarray, bits: float, once: bool = False) -> float:
        """Return the gain of a guard that takes so many bits."""
        base = self._base[mask]
        total = base @ self._share(mask)[:, 0] if once else base.sum()
        return float(self._gain(self.counts(mask, once), np.asarray(total), np.asarray(bits)))

    def gains(
        self, counts: Float[np.ndarray, "Q K"], bases: Float[np.ndarray, " Q"], bits: float
    ) -> Float[np.ndarray, " Q"]:
        """Return the gain of a guard with each question added, given its tally.

        `bits` are those of the guard alone.
        """
        return self._gain(counts, bases, bits + self._bits)

    def others(self, mask: np.ndarray, tally: Tally) -> Tally:
        """Return the tally of the cases of a guard that answer each question with no."""
        counts, bases = tally
        total = self.table[mask].sum(0)
        return np.maximum(total[:-1] - counts, 0), total[-1] - bases

    def _gain(self, counts: np.ndarray, base: np.ndarray, bits: np.ndarray) -> np.ndarray:
        total = counts.sum(-1)
        occurred = counts[..., :-1] > 0.5
        named = occurred.sum(-1)
        fitted = (counts * self.log_probs(counts)).sum(-1)
        bits = LAW_BITS + occurred @ self._term_bits + bits
        price = bits * math.log(2) + 0.5 * np.maximum(named - 1, 0) * np.log(np.maximum(total, 2))
        return np.where(named > 0, fitted - base - price, -np.inf)


def tallies(
    asking: Sequence[tuple[Judge, Bool[np.ndarray, " C"]]], answers: Float[np.ndarray, "C Q"]
) -> list[tuple[Judge, Tally]]:
    """Return what judges count where some cases answer each question with yes."""
    some = np.logical_or.reduce([mask for _, mask in asking])
    rows = np.flatnonzero(some) if 2 * some.sum() < len(some) else slice(None)
    tables = [judge.table[rows] * mask[rows, None] for judge, mask in asking]
    ends = np.cumsum([table.shape[1] for table in tables])
    sums = np.split((np.hstack(tables).T @ answers[rows]).astype(float), ends[:-1])
    return [(judge, (part[:-1].T, part[-1])) for (judge, _), part in zip(asking, sums, strict=True)]


def term_bits(term: Term) -> float:
    """Return the bits that a term takes, without those of a feature it names.

    The larger a change the longer its name; a fixed number is named after any change.
    """
    match term:
        case Add(0):
            return NOTHING_BITS
        case Add(amount):
            return TERM_BITS + abs(math.log2(abs(amount)))
        case Set(value) if not isinstance(value, bool | str | tuple):
            return TERM_BITS + FIXED_BITS
    return TERM_BITS


def is_birth(lens: Lens, code: np.ndarray) -> np.ndarray:
    spread = [not (isinstance(term, Set) and term.value == "none") for term in lens.terms]
    return np.array([*spread, False])[code]
