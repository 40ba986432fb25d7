"""Laws from a record alone: no language model, no reward, no knowledge of the game.

For each attribute that ever changes, and until nothing is gained:

1. look at its cases through every lens (`cases`): which terms would tell what happened;
2. search guards: a beam over conjunctions of an action set and up to three tests, from those that
   hold more often where a term fits; a question that splits the cases better splits the guard;
3. keep the best by description length,

       gain = log p(cases | law) - log p(cases | laws so far) - ln 2 (bits of the law)
              - 1/2 (outcomes - 1) ln n;

4. what it explains is explained; amounts add up, so further causes are sought in what is left.

Then all weights are fitted together, useless laws pruned, and the rounds repeated on the residual
of the fitted model.

Source: One Life to Learn (arXiv 2510.12088), the task; there a language model writes the laws.
The search is ours: minimum description length over anti-unified guards.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from rlssm.world_models.cases import (
    MOST_CASES,
    Cases,
    Items,
    Lens,
    Questions,
    collect_keys,
    lenses,
    other_observables,
    outcomes_of,
    own_observables,
)
from rlssm.world_models.evidence import Evidence
from rlssm.world_models.fitting import Fit, fit
from rlssm.world_models.laws import Law, Read, Set, Step, Term
from rlssm.world_models.likelihood import persistence_log_prob
from rlssm.world_models.object_view import MOVES, Key, Numbers, Observable, World, number_of
from rlssm.world_models.proposer import Proposer, propose_laws
from rlssm.world_models.record import Record, Votes

BEAM = 5
MOST_TESTS = 4  # with the action set
MOST_ROUNDS = 24  # laws of one attribute
LAW_BITS = 4.0
TERM_BITS = 4.0
LENSES = 3  # of one observable that are searched in depth
RESIDUAL = 25.0  # nats left unexplained from which on other kinds are asked too
LEFT_WRONG = -2.0  # log probability below which an item counts as unexplained
REFITS = 2

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Guard:
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


def synthesise(
    record: Record,
    progress: Progress = lambda text: None,
    proposer: Proposer | None = None,
) -> Fit:
    """Return laws that explain a record, fitted and pruned.

    Args:
      record: transitions, default semantics.
      proposer: asked for further laws (of Crafter), such as a language model; by default none is.
      progress: told what is being done, a line each time.
    """
    search = Search(record)
    laws: list[Law] = []
    for attribute in search.attributes:
        found = search.explain(attribute)
        laws += found
        progress(f"{attribute}: {len(found)} laws")
    if proposer is not None:
        laws += propose_laws(record, proposer, progress)
    fitted, evidence = fit_and_prune(search, laws)
    progress(f"{len(fitted.model.laws)} of {len(laws)} laws kept")
    length = search.length(fitted, evidence)
    for number in range(REFITS):
        search.judge(fitted, evidence)
        more = [law for attribute in search.attributes for law in search.again(attribute)]
        progress(f"residual round {number + 1}: {len(more)} more laws")
        if not more:
            break
        wider, evidence = fit_and_prune(search, [*fitted.model.laws, *more])
        shorter = search.length(wider, evidence)
        if shorter >= length:
            break
        fitted, length = wider, shorter
        progress(f"{len(fitted.model.laws)} laws kept")
    return fitted


def fit_and_prune(search: "Search", laws: Sequence[Law]) -> tuple[Fit, Evidence]:
    """Return laws fitted, less those not worth their length, with what they compile to.

    Weight is no measure of worth here: a law at weight 0 still says that anything can happen.
    """
    record = search.record
    laws = named(record.world, laws)
    votes = record.votes(laws)
    evidence = Evidence(record, laws, votes)
    fitted = fit(record, laws, evidence=evidence)
    for _ in range(2):
        kept = search.worth_keeping(fitted, votes)
        if len(kept) == len(laws):
            break
        laws = [fitted.model.laws[i] for i in kept]
        votes = only(votes, kept)
        evidence = Evidence(record, laws, votes)
        fitted = fit(record, laws, evidence=evidence)
    return fitted, evidence


def only(votes: Votes, kept: Sequence[int]) -> Votes:
    """Return the votes of the laws kept, numbered anew."""
    place = {law: index for index, law in enumerate(kept)}
    return {
        key: left
        for key, said in votes.items()
        if (left := [vote._replace(law=place[vote.law]) for vote in said if vote.law in place])
    }


def named(world: World, laws: Sequence[Law]) -> list[Law]:
    """Return laws once each, whose names are all different: what they predict, and a number."""
    distinct: dict[Law, Law] = {}
    for law in laws:
        own = Observable("self", law.observable.attribute)
        if law.observable.of == law.scope and own in world.scopes[law.scope].observables:
            law = replace(law, observable=own)
        distinct.setdefault(replace(law, name="", source=""), law)
    counts: Counter[str] = Counter()
    renamed = []
    for law in distinct.values():
        name = f"{law.scope}: {law.observable.of}.{law.observable.attribute}"
        counts[name] += 1
        renamed.append(replace(law, name=f"{name} {counts[name]}"))
    return renamed


# --- Search -----------------------------------------------------------------------------------


@dataclass
class Search:
    """A record being explained.

    Attributes:
      record: the transitions.
      seed: draws the sample where there are very many cases.
    """

    record: Record
    seed: int = 0
    _questions: dict[str, Questions] = field(default_factory=dict)
    _judged: dict[tuple[int, Key], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen: Counter[str] = Counter()
        changed: set[str] = set()
        for changes in self.record.changes:
            self.seen.update(changes.totals)
            changed.update(key.attribute for key in changes.values)
        self.attributes = sorted(changed)

    def questions(self, scope: str) -> Questions:
        if scope not in self._questions:
            self._questions[scope] = Questions(self.record, scope)
        return self._questions[scope]

    def cost(self, law: Law) -> float:
        """Return the description length of a law in nats."""
        asked = len(law.tests) + (law.actions is not None)
        bits = LAW_BITS + TERM_BITS * len(law.outcomes) + self.questions(law.scope).bits * asked
        return bits * math.log(2)

    def length(self, fitted: Fit, evidence: Evidence) -> float:
        """Return the description length of the record under a fitted model, in nats."""
        model = fitted.model
        logits = np.array([o.logit for law in model.laws for o in law.outcomes])
        found = evidence.log_probs(np.array(model.weights), model.persistence, logits)
        return sum(map(self.cost, model.laws)) - float(found.sum())

    def explain(self, attribute: str) -> list[Law]:
        """Return laws for an attribute; other kinds are asked where its own do not suffice."""
        items, own = self._table(attribute, own_observables)
        laws = self._cover(items, own)
        if -items.log_prob[items.changed].sum() < RESIDUAL:
            return laws
        length = sum(map(self.cost, laws)) - items.log_prob.sum()
        wide, everyone = self._table(attribute, _all_observables)
        if len(everyone) == len(own):
            return laws
        more = self._cover(wide, everyone)
        both = sum(map(self.cost, more)) - wide.log_prob[: len(items.value)].sum()
        return more if both < length else laws

    def worth_keeping(self, fitted: Fit, votes: Votes) -> list[int]:
        """Return which laws pay for their length, the least weighty tried first.

        What a law explains is compared with what the others, or persistence, make of it.
        """
        model = fitted.model
        weights = np.array(model.weights)
        laws = range(len(model.laws))
        kept, speaks = set(laws), defaultdict(list)
        for key, said in votes.items():
            for law in {vote.law for vote in said}:
                speaks[law].append(key)
        for law in sorted(laws, key=lambda index: weights[index]):
            here = {key: [v for v in votes[key] if v.law in kept] for key in speaks[law]}
            without = {key: [v for v in said if v.law != law] for key, said in here.items()}
            loss = self._explained(fitted, here) - self._explained(fitted, without)
            if loss < self.cost(model.laws[law]):
                kept.discard(law)
        return sorted(kept)

    def _explained(self, fitted: Fit, votes: Votes) -> float:
        """Return the log probability of what is voted on, and of what nobody votes on here."""
        model = fitted.model
        spoken = {key: said for key, said in votes.items() if said}
        evidence = Evidence(self.record, model.laws, spoken)
        found = evidence.item_log_probs(np.array(model.weights), evidence.logits())
        total = float(found @ evidence.count) if len(found) else 0.0
        for t, key in votes.keys() - spoken.keys():
            value = self.record.changes[t].values.get(key, self.record.scenes[t].old(key))
            total += persistence_log_prob(model, self.record.scenes[t], key, value)
        return total

    def judge(self, fitted: Fit, evidence: Evidence) -> None:
        """Note how probable a fitted model makes what was seen, for `again`."""
        model = fitted.model
        logits = np.array([o.logit for law in model.laws for o in law.outcomes])
        found = evidence.item_log_probs(np.array(model.weights), logits)
        self._judged = {
            key: float(found[item])
            for key, item in zip(evidence.keys, evidence.where[:, 1], strict=True)
        }

    def again(self, attribute: str) -> list[Law]:
        """Return further laws for what the judged model leaves unexplained of an attribute."""
        items, cases = self._table(attribute, _all_observables)
        for key, number in items.number.items():
            if key in self._judged:
                items.log_prob[number] = self._judged[key]
                items.explained[number] = True
                if self._judged[key] > LEFT_WRONG and isinstance(items.domain[number], Numbers):
                    items.expected[number] = number_of(items.value[number])
                    items.settled[number] = True
        self._persist(items)
        if -items.log_prob[items.log_prob < LEFT_WRONG].sum() < RESIDUAL:
            return []
        return self._cover(items, cases, rounds=4)

    # --- Tables -------------------------------------------------------------------------------

    def _table(self, attribute: str, whose: Callable) -> tuple[Items, list[Cases]]:
        """Return the items of an attribute, unexplained, and the cases of each observable."""
        items = Items.none()
        rng = np.random.default_rng(self.seed)
        tables = []
        for scope in self.record.world.scopes:
            for observable in whose(self.record.world, scope):
                if observable.attribute == attribute:
                    rows, keys, among = collect_keys(self.record, scope, observable)
                    if len(rows):
                        numbers = np.array([self._number(items, key) for key in keys])
                        tables.append((scope, observable, rows, numbers, among))
        items.log_prob = np.zeros(len(items.old))
        items.expected = np.array(
            [
                number_of(old) if isinstance(domain, Numbers) else 0.0
                for old, domain in zip(items.old, items.domain, strict=True)
            ]
        )
        items.explained = np.zeros(len(items.old), bool)
        items.settled = np.zeros(len(items.old), bool)
        families: dict[str, int] = {}
        numbers = [families.setdefault(key.family, len(families)) for _, key in items.number]
        items.family, items.families = np.array(numbers, np.int64), tuple(families)
        self._persist(items)
        cases = []
        for scope, observable, rows, numbers, among in tables:
            domain = self.record.world.scopes[scope].observables[observable]
            if items.changed[numbers].any():
                keep, weight = _sample(items.changed[numbers], rng)
                cases.append(
                    Cases(scope, observable, domain, rows[keep], numbers[keep], weight, among[keep])
                )
        return items, cases

    def _number(self, items: Items, key: tuple[int, Key]) -> int:
        if key not in items.number:
            t, observed = key
            scene = self.record.scenes[t]
            old, domain = scene.old(observed), scene.domain(observed)
            items.number[key] = len(items.old)
            items.old.append(old)
            items.value.append(self.record.changes[t].values.get(observed, old))
            items.domain.append(domain)
            items.size.append(domain.size)
        return items.number[key]

    # --- Rounds -------------------------------------------------------------------------------

    def _cover(self, items: Items, cases: list[Cases], rounds: int = MOST_ROUNDS) -> list[Law]:
        best: dict[int, Candidate | None] = {}
        laws: list[Law] = []
        for _ in range(rounds):
            for index, table in enumerate(cases):
                if index not in best:
                    best[index] = self._best(items, table)
            winners = [c for c in best.values() if c is not None and c.gain > 0]
            if not winners:
                break
            winner = max(winners, key=lambda candidate: candidate.gain)
            laws.append(self._law(winner))
            touched = self._commit(items, winner)
            for index, table in enumerate(cases):
                if touched[table.item].any():
                    best.pop(index, None)
        return laws

    def _best(self, items: Items, cases: Cases) -> Candidate | None:
        """Return the best law about some cases: the likeliest lenses, each with a beam."""
        questions = self.questions(cases.scope)
        answers = questions.answers[:, cases.row]
        everywhere = np.ones(len(cases.row), bool)
        judges = [
            _Judge(questions, items, cases, lens) for lens in lenses(self.record, cases, items)
        ]
        promise = [
            max(j.gain(everywhere, 0), j.gains(answers, everywhere, 1).max(initial=-np.inf))
            for j in judges
        ]
        found: Candidate | None = None
        for index in np.argsort(promise)[::-1][:LENSES]:
            guard = self._beam(judges[index], answers, everywhere)
            judge, guard = self._split(judges, judges[index], answers, guard)
            once = judge.gain(guard.mask, len(guard.asked), once=True)
            if once > 0 and (found is None or once > found.gain):
                counts = judge.counts(guard.mask, once=True)
                found = Candidate(once, cases, judge.lens, guard.asked, guard.mask, counts)
        return found

    def _beam(self, judge: "_Judge", answers: np.ndarray, everywhere: np.ndarray) -> "_Guard":
        beam = [_Guard(judge.gain(everywhere, 0), (), everywhere)]
        best = beam[0]
        for depth in range(1, MOST_TESTS + 1):
            grown: dict[bytes, _Guard] = {}
            for guard in beam:
                gains = judge.gains(answers, guard.mask, depth)
                for question in np.argsort(-gains)[: 3 * BEAM].tolist():
                    if math.isfinite(gains[question]) and judge.allowed(guard.asked, question):
                        narrower = guard.mask & answers[question]
                        entry = _Guard(float(gains[question]), (*guard.asked, question), narrower)
                        grown.setdefault(np.packbits(narrower).tobytes(), entry)
            beam = sorted(grown.values(), key=lambda guard: -guard.gain)[:BEAM]
            if not beam:
                break
            best = max(best, beam[0], key=lambda guard: guard.gain)
        return best

    def _split(
        self, judges: Sequence["_Judge"], judge: "_Judge", answers: np.ndarray, best: "_Guard"
    ) -> tuple["_Judge", "_Guard"]:
        """Narrow a guard as long as two laws, one for either answer, say more than one.

        The two may look through different lenses. The one that says more is kept.
        """
        while len(best.asked) < MOST_TESTS and best.gain > 0:
            depth = len(best.asked) + 1
            inside = np.array([j.gains(answers, best.mask, depth) for j in judges])
            outside = np.array([j.gains(answers, best.mask, depth, True) for j in judges])
            total = inside.max(0) + outside.max(0)
            total[[not judge.allowed(best.asked, q) for q in range(len(total))]] = -np.inf
            question = int(np.argmax(total))
            opposite = judge.opposite(question)
            turn = opposite is not None and outside[:, question].max() > inside[:, question].max()
            half = outside[:, question] if turn else inside[:, question]
            if not total[question] > best.gain or half.max() <= 0:
                break
            judge = judges[int(np.argmax(half))]
            mask = best.mask & (~answers[question] if turn else answers[question])
            asked = opposite if turn and opposite is not None else question
            best = _Guard(float(half.max()), (*best.asked, asked), mask)
        return judge, best

    def _commit(self, items: Items, winner: Candidate) -> Bool[np.ndarray, " I"]:
        """Note what a law explains, and return which items it speaks about."""
        cases, lens = winner.cases, winner.lens
        judge = _Judge(self.questions(cases.scope), items, cases, lens)
        scores = judge.log_probs(winner.counts)
        inside = np.flatnonzero(winner.mask)
        number, code = cases.item[inside], lens.code[inside]
        scored = scores[code] - np.where(_is_birth(lens, code), np.log(cases.among[inside]), 0.0)
        scored -= np.where(code == len(lens.terms), np.log(np.array(items.size)[number]), 0.0)
        if isinstance(cases.domain, Numbers):
            items.log_prob[number] = scored
            hit = code < len(lens.terms)
            items.expected[number[hit]] = [number_of(items.value[i]) for i in number[hit]]
            modal = lens.terms[int(np.argmax(winner.counts[:-1]))]
            missed = number[~hit]
            items.expected[missed] = _applied(modal, items.expected[missed], cases.domain)
            items.settled[number] = hit
        else:
            before = np.where(items.explained[number], items.log_prob[number], -np.inf)
            items.log_prob[number] = np.maximum(before, scored)
        items.explained[number] = True
        touched = np.zeros(len(items.old), bool)
        touched[number] = True
        self._persist(items)
        return touched

    def _persist(self, items: Items) -> None:
        """Let what no law speaks about persist as often as it does."""
        left = ~items.explained
        seen = np.bincount(items.family[left], minlength=len(items.families))
        changed = np.bincount(items.family[left & items.changed], minlength=len(items.families))
        unseen = np.array([self.seen.get(family, 0) for family in items.families])
        covered = np.bincount(items.family[items.explained], minlength=len(items.families))
        rate = ((changed + 0.5) / (np.maximum(unseen - covered, seen) + 1))[items.family]
        others = np.maximum(np.array(items.size, float) - 1, 1)
        prior = np.where(items.changed, np.log(rate / others), np.log1p(-rate))
        items.log_prob = np.where(left, prior, items.log_prob)

    def _law(self, winner: Candidate) -> Law:
        asked = self.questions(winner.cases.scope).asked
        chosen = [asked[question] for question in winner.guard]
        return Law(
            name="",
            scope=winner.cases.scope,
            observable=winner.cases.observable,
            outcomes=outcomes_of(winner.lens, winner.counts),
            tests=tuple(question.test for question in chosen if question.test is not None),
            actions=next((q.actions for q in chosen if q.actions is not None), None),
            source="enumerated",
        )


def _all_observables(world: World, scope: str) -> Iterator[Observable]:
    yield from own_observables(world, scope)
    yield from other_observables(world, scope)


def _sample(changed: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return which cases to look at, at most `MOST_CASES` of either sort, and their weights."""
    keep, weight = [], []
    for sort in (np.flatnonzero(changed), np.flatnonzero(~changed)):
        chosen = sort
        if len(sort) > MOST_CASES:
            chosen = rng.choice(sort, MOST_CASES, replace=False)
        keep.append(chosen)
        weight.append(np.full(len(chosen), len(sort) / max(len(chosen), 1)))
    order = np.argsort(np.concatenate(keep))
    return np.concatenate(keep)[order], np.concatenate(weight)[order]


def _is_birth(lens: Lens, code: np.ndarray) -> np.ndarray:
    spread = [not (isinstance(term, Set) and term.value == "none") for term in lens.terms]
    return np.array([*spread, False])[code]


def _applied(term: Term, expected: np.ndarray, domain: Numbers) -> np.ndarray:
    if isinstance(term, Set):
        return np.full(len(expected), number_of(term.value))
    amount = getattr(term, "amount", 0.0)
    return np.clip(expected + amount, domain.low, domain.high)


# --- Judging guards ---------------------------------------------------------------------------


class _Judge:
    """The gain of guards over the cases of one observable, seen through one lens."""

    def __init__(self, questions: Questions, items: Items, cases: Cases, lens: Lens) -> None:
        self.lens = lens
        self._item = cases.item
        self._asked = questions.asked
        self._bits = questions.bits
        width = len(lens.terms) + 1
        self._onehot = np.eye(width, dtype=np.float32)[lens.code] * cases.weight[:, None]
        self._term_bits = np.array([self._price(term) for term in lens.terms])
        # Amounts that add up leave nothing to gain where they are right already.
        known = np.where(items.settled, 0.0, items.log_prob)
        base = known[cases.item] * cases.weight
        births = np.where(_is_birth(lens, lens.code), np.log(cases.among), 0.0)
        sizes = np.log(np.array(items.size, float)[cases.item])
        unnamed = np.where(lens.code == len(lens.terms), sizes, 0.0)
        self._base = (base + (births + unnamed) * cases.weight).astype(np.float32)

    def _price(self, term: Term) -> float:
        named = isinstance(term, Read) or (isinstance(term, Step) and term.direction not in MOVES)
        return TERM_BITS + (self._bits if named else 0.0)

    def allowed(self, guard: tuple[int, ...], question: int) -> bool:
        """Return whether a question may join a guard: one action set, and nothing twice."""
        acts = self._asked[question].actions is not None
        taken = any(self._asked[q].actions is not None for q in guard)
        return question not in guard and not (acts and taken)

    def opposite(self, question: int) -> int | None:
        """Return the question that is true where this one is false, if there is one."""
        test = self._asked[question].test
        if test is None:
            return None
        turned = {"==": "!=", "!=": "=="}.get(test.comparison)
        for index, other in enumerate(self._asked):
            same = other.test is not None and other.test.feature == test.feature
            if not same or other.test is None:
                continue
            if isinstance(test.value, bool) and other.test.value == (not test.value):
                return index
            if turned and (other.test.comparison, other.test.value) == (turned, test.value):
                return index
        return None

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

    def gain(self, mask: np.ndarray, asked: int, once: bool = False) -> float:
        base = self._base[mask]
        total = base @ self._share(mask)[:, 0] if once else base.sum()
        return float(self._gain(self.counts(mask, once), np.asarray(total), asked))

    def gains(
        self, answers: np.ndarray, mask: np.ndarray, asked: int, complement: bool = False
    ) -> Float[np.ndarray, " Q"]:
        """Return the gain of a guard with each question added, or where its answer is no."""
        inside = answers[:, mask].astype(np.float32)
        onehot, base = self._onehot[mask], self._base[mask]
        counts, bases = (inside @ onehot).astype(float), (inside @ base).astype(float)
        if complement:
            counts = np.maximum(onehot.sum(0) - counts, 0)
            bases = base.sum() - bases
        return self._gain(counts, bases, asked)

    def _gain(self, counts: np.ndarray, base: np.ndarray, asked: int) -> np.ndarray:
        total = counts.sum(-1)
        occurred = counts[..., :-1] > 0.5
        named = occurred.sum(-1)
        fitted = (counts * self.log_probs(counts)).sum(-1)
        bits = LAW_BITS + occurred @ self._term_bits + self._bits * asked
        price = bits * math.log(2) + 0.5 * np.maximum(named - 1, 0) * np.log(np.maximum(total, 2))
        return np.where(named > 0, fitted - base - price, -np.inf)
