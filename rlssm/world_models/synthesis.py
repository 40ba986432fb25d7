"""Laws from a record alone: no language model, no reward, no knowledge of the game.

For each attribute that ever changes, and until nothing is gained:

1. look at its cases through every lens (`cases`): which terms would tell what happened;
2. search guards (`guards`): a beam over conjunctions of an action set and up to three tests; a
   question that splits the cases better splits the guard;
3. keep the law that shortens the description most;
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
from jaxtyping import Bool

from rlssm.world_models.analogies import analogies
from rlssm.world_models.cases import (
    MOST_CASES,
    Cases,
    Items,
    Question,
    Questions,
    collect_keys,
    names_of,
    other_observables,
    outcomes_of,
    own_observables,
)
from rlssm.world_models.deeds import needing
from rlssm.world_models.evidence import Evidence
from rlssm.world_models.fitting import Fit, fit
from rlssm.world_models.guards import (
    LAW_BITS,
    SAME_BITS,
    Candidate,
    Judge,
    best_law,
    is_birth,
    term_bits,
)
from rlssm.world_models.laws import Law, Set, Term
from rlssm.world_models.object_view import Key, Numbers, Observable, World, number_of
from rlssm.world_models.proposer import Proposer, propose_laws
from rlssm.world_models.pruning import guard_of, worth_keeping
from rlssm.world_models.record import Gathered, Record

MOST_ROUNDS = 24  # laws of one attribute
RESIDUAL = 25.0  # nats left unexplained from which on other kinds are asked too
LEFT_WRONG = -2.0  # log probability below which an item counts as unexplained
REFITS = 2

Progress = Callable[[str], None]
Keys = tuple[np.ndarray, list[tuple[int, Key]], np.ndarray]  # as `collect_keys` returns


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
        wider, evidence = fit_and_prune(search, [*fitted.model.laws, *more], fitted.model.weights)
        shorter = search.length(wider, evidence)
        if shorter >= length:
            break
        fitted, length = wider, shorter
        progress(f"{len(fitted.model.laws)} laws kept")
    return with_analogies(record, fitted, progress)


def with_analogies(record: Record, fitted: Fit, progress: Progress) -> Fit:
    """Return a model whose laws ask what their deeds need, with laws by analogy, all fitted.

    See `deeds` and `analogies` for what these are worth.
    """
    known = needing(record, fitted.model.laws)
    further = analogies(record, known)
    laws = named(record.world, [*known, *further.laws])
    more = sum(one != other for one, other in zip(known, fitted.model.laws, strict=True))
    start = once_each(known, fitted.model.weights)
    fitted = fit(record, laws, trust=further.trust, start=start)
    progress(
        f"{more} laws ask for what their deed needs; {len(further.laws)} laws by analogy; of those "
        f"that could be tested {further.confirmed} were right, {further.refuted} wrong"
    )
    return fitted


def fit_and_prune(
    search: "Search", laws: Sequence[Law], start: Sequence[float] = ()
) -> tuple[Fit, Evidence]:
    """Return laws fitted, less those not worth their length, with what they compile to.

    `start` are the weights where fitting starts of as many laws, the first ones.
    """
    record = search.record
    laws = named(record.world, laws)
    fitted, evidence, gathered = _fitted(record, laws, start)
    for _ in range(2):
        kept = worth_keeping(record, fitted.model, gathered, search.cost)
        if len(kept) == len(fitted.model.laws):
            break
        laws = [fitted.model.laws[i] for i in kept]
        fitted, evidence, gathered = _fitted(record, laws, [fitted.model.weights[i] for i in kept])
    return fitted, evidence


def _fitted(
    record: Record, laws: Sequence[Law], start: Sequence[float]
) -> tuple[Fit, Evidence, Gathered]:
    gathered = record.gathered(laws)
    evidence = Evidence(record, laws, *gathered)
    return fit(record, laws, evidence=evidence, start=start), evidence, gathered


def once_each(laws: Sequence[Law], weights: Sequence[float]) -> list[float]:
    """Return the weights of laws as `named` leaves them, which drops what is there already."""
    first: dict[Law, float] = {}
    for law, weight in zip(laws, weights, strict=True):
        first.setdefault(replace(law, name="", source=""), weight)
    return list(first.values())


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
    _collected: dict[tuple[str, Observable], Keys] = field(default_factory=dict)
    _tables: dict[tuple[str, Callable], tuple[Items, list[Cases]]] = field(default_factory=dict)
    _guards: dict[str, set[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(set))

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

    def cost(self, law: Law, shared: bool = False) -> float:
        """Return the description length of a law in nats; `shared`: another has the same guard."""
        questions = self.questions(law.scope)
        asked = [Question(test) for test in law.tests]
        asked += [Question(None, law.actions)] if law.actions is not None else []
        about = names_of(law.observable, [outcome.term for outcome in law.outcomes])
        bits = sum(questions.price(question, about) for question in asked)
        terms = sum(term_bits(outcome.term) for outcome in law.outcomes)
        return (LAW_BITS + terms + (min(bits, SAME_BITS) if shared else bits)) * math.log(2)

    def costs(self, laws: Sequence[Law]) -> float:
        """Return the description length of laws in nats; a guard is written down once."""
        seen: set[tuple] = set()
        total = 0.0
        for law in laws:
            total += self.cost(law, guard_of(law) in seen)
            seen.add(guard_of(law))
        return total

    def length(self, fitted: Fit, evidence: Evidence) -> float:
        """Return the description length of the record under a fitted model, in nats."""
        model = fitted.model
        logits = np.array([o.logit for law in model.laws for o in law.outcomes])
        found = evidence.log_probs(np.array(model.weights), model.persistence, logits)
        return self.costs(model.laws) - float(found.sum())

    def explain(self, attribute: str) -> list[Law]:
        """Return laws for an attribute; other kinds are asked where its own do not suffice."""
        items, own = self._table(attribute, own_observables)
        laws = self._cover(items, own)
        if -items.log_prob[items.changed].sum() < RESIDUAL:
            return laws
        length = self.costs(laws) - items.log_prob.sum()
        wide, everyone = self._table(attribute, _all_observables)
        if len(everyone) == len(own):
            return laws
        more = self._cover(wide, everyone)
        both = self.costs(more) - wide.log_prob[: len(items.value)].sum()
        return more if both < length else laws

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
        if (attribute, whose) not in self._tables:
            self._tables[attribute, whose] = self._tabulate(attribute, whose)
        items, cases = self._tables[attribute, whose]
        return items.anew(), cases

    def _tabulate(self, attribute: str, whose: Callable) -> tuple[Items, list[Cases]]:
        number: dict[tuple[int, Key], int] = {}
        tables = []
        for scope in self.record.world.scopes:
            for observable in whose(self.record.world, scope):
                if observable.attribute == attribute:
                    rows, keys, among = self._keys(scope, observable)
                    if len(rows):
                        found = np.array([number.setdefault(key, len(number)) for key in keys])
                        tables.append((scope, observable, rows, found, among))
        items = Items.of(self.record, number)
        self._persist(items)
        rng = np.random.default_rng(self.seed)
        cases = []
        for scope, observable, rows, found, among in tables:
            domain = self.record.world.scopes[scope].observables[observable]
            if items.changed[found].any():
                keep, weight = _sample(items.changed[found], rng)
                cases.append(
                    Cases(scope, observable, domain, rows[keep], found[keep], weight, among[keep])
                )
        return items, cases

    def _keys(self, scope: str, observable: Observable) -> Keys:
        if (scope, observable) not in self._collected:
            found = collect_keys(self.record, scope, observable)
            self._collected[scope, observable] = found
        return self._collected[scope, observable]

    # --- Rounds -------------------------------------------------------------------------------

    def _cover(self, items: Items, cases: list[Cases], rounds: int = MOST_ROUNDS) -> list[Law]:
        best: dict[int, Candidate | None] = {}
        laws: list[Law] = []
        for _ in range(rounds):
            for index, table in enumerate(cases):
                if index not in best:
                    best[index] = best_law(
                        self.record, self.questions(table.scope), items, table,
                        sorted(self._guards[table.scope]),
                    )  # fmt: skip
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

    def _commit(self, items: Items, winner: Candidate) -> Bool[np.ndarray, " I"]:
        """Note what a law explains, and return which items it speaks about."""
        cases, lens = winner.cases, winner.lens
        judge = Judge(self.questions(cases.scope), items, cases, lens)
        scores = judge.log_probs(winner.counts)
        inside = np.flatnonzero(winner.mask)
        number, code = cases.item[inside], lens.code[inside]
        scored = scores[code] - np.where(is_birth(lens, code), np.log(cases.among[inside]), 0.0)
        scored -= np.where(code == len(lens.terms), np.log(items.size[number]), 0.0)
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
        others = np.maximum(items.size - 1, 1)
        prior = np.where(items.changed, np.log(rate / others), np.log1p(-rate))
        items.log_prob = np.where(left, prior, items.log_prob)

    def _law(self, winner: Candidate) -> Law:
        asked = self.questions(winner.cases.scope).asked
        if winner.guard:
            self._guards[winner.cases.scope].add(tuple(sorted(winner.guard)))
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


def _applied(term: Term, expected: np.ndarray, domain: Numbers) -> np.ndarray:
    if isinstance(term, Set):
        return np.full(len(expected), number_of(term.value))
    amount = getattr(term, "amount", 0.0)
    return np.clip(expected + amount, domain.low, domain.high)
