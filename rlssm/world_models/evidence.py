"""What a record says about laws, as arrays: the exact likelihood and its gradient, sparsely.

The probability of one observed value is a ratio of sums of exponentials of sums of scores,

    log p = log sum_m c_m exp( sum_{e in m} u_e )  -  sum_f log( sum_{e in f} exp(u_e) + rest_f ),

where an entry e is one value that a factor f names, u_e = sum_i w_i (l_i(e) + 10) over the laws
that name it, and rest_f counts the values nobody names. Laws that multiply make one factor with
one way m; each law that adds is a factor of its own, and the ways m are all combinations of amounts
that lead to the observed value, c_m times where it takes unnamed amounts. Laws that are silent
about an observable are in none of its entries: it costs them nothing and teaches nothing.

Items that look alike are kept once, with a count. What no law speaks about has no item; it is
counted by family for the persistence prior.

Source: One Life to Learn (arXiv 2510.12088), section 3: only active laws take part.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from jaxtyping import Float, Int
from scipy.signal import fftconvolve

from rlssm.errors import UserError
from rlssm.world_models.item_arrays import Factor, Item, ItemArrays, Part, Saying, Way, parts
from rlssm.world_models.laws import Law, Vote
from rlssm.world_models.likelihood import NO_LAWS, PERSISTENCE, UNEXPLAINED
from rlssm.world_models.object_view import Displacements, Domain, Key, Numbers, Value, number_of
from rlssm.world_models.record import Record, Votes

MAX_WAYS = 100_000  # combinations of amounts in one item


@dataclass(frozen=True)
class Unspoken:
    """What no law speaks about, by transition and family of observables.

    Attributes:
      families: their names.
      kept: rows (transition, family, how many observables kept their value).
      changed: rows (transition, family, how many values it could have taken instead); 0 where the
        new value lies outside the domain.
    """

    families: tuple[str, ...]
    kept: Int[np.ndarray, "N 3"]
    changed: Int[np.ndarray, "C 3"]

    def persistence(self) -> dict[str, float]:
        """Return the probability of a change per family, (changed + 1/2) / (seen + 1)."""
        size = len(self.families)
        kept = np.bincount(self.kept[:, 1], self.kept[:, 2], size)
        changed = np.bincount(self.changed[:, 1], minlength=size)
        fitted = (changed + 0.5) / (changed + kept + 1)
        return dict(zip(self.families, fitted.tolist(), strict=True))

    def log_probs(
        self, persistence: Mapping[str, float], transitions: int
    ) -> Float[np.ndarray, " T"]:
        """Return the log probability of what is unspoken of, per transition."""
        rates = np.array([persistence.get(family, PERSISTENCE) for family in self.families])
        kept, changed = self.kept, self.changed
        stay = kept[:, 2] * np.log1p(-rates[kept[:, 1]])
        with np.errstate(divide="ignore"):
            move = np.log(rates[changed[:, 1]]) - np.log(changed[:, 2])
        move[changed[:, 2] == 0] = -np.inf
        total = np.bincount(kept[:, 0], stay, transitions)
        return total + np.bincount(changed[:, 0], move, transitions)


class Evidence:
    """A record and laws, compiled.

    Attributes:
      laws: the laws; weights and logits of every function below are in their order.
      items: the distinct items; `count` says how often each occurs.
      where: rows (transition, item); `keys` are the transition and observable of each, and `times`
        for how many observables it stands.
      impossible: the transitions, one for each observed value outside its domain.
    """

    def __init__(
        self,
        record: Record,
        laws: Sequence[Law],
        votes: Votes | None = None,
        times: Mapping[tuple[int, Key], int] | None = None,
    ) -> None:
        self.laws = tuple(laws)
        self.reference = record.world.reference
        self.size = len(record)
        self.sayings: dict[Saying, int] = {}
        self.keys: list[tuple[int, Key]] = []
        if votes is None:
            votes, times = record.gathered(laws)
        items: dict[Item, int] = {}
        where, impossible = [], []
        looks: dict[tuple, int] = {}
        for (t, key), said in votes.items():
            look, (domain, old, observed) = look_at(record, t, key, said)
            number = looks.get(look, -1)
            if number < 0 and domain.contains(observed):
                item = self._item(domain, old, observed, said)
                number = looks[look] = items.setdefault(item, len(items))
            if number < 0:
                impossible.append(t)
            else:
                where.append((t, number))
                self.keys.append((t, key))
        self.items = tuple(items)
        self.where = np.array(where, np.int64).reshape(-1, 2)
        self.impossible = np.array(impossible, np.int64)
        self.times = np.array([times.get(key, 1) for key in self.keys] if times else 1.0, float)
        self.times = np.broadcast_to(self.times, len(self.where))
        self.count = np.bincount(self.where[:, 1], self.times, len(items))
        self._record, self._votes, self._gathered = record, votes, times or {}

    @cached_property
    def unspoken(self) -> Unspoken:
        """What no law speaks about."""
        return _unspoken(self._record, self._votes, self._gathered)

    # --- Items --------------------------------------------------------------------------------

    def _item(self, domain: Domain, old: Value, observed: Value, votes: Sequence[Vote]) -> Item:
        adding = [not self.reference and self.laws[vote.law].adds for vote in votes]
        named = self._named([v for v, add in zip(votes, adding, strict=True) if not add])
        named = {value: said for value, said in named.items() if domain.contains(value)}
        base = Factor(tuple(map(tuple, named.values())), domain.size - len(named))
        if not any(adding):
            values = list(named)
            way = ((0, values.index(observed)),) if observed in named else ()
            return Item((base,), (Way(way, 1.0),))
        if not isinstance(domain, Numbers):
            raise TypeError(f"a law adds to {old!r}, which is not a number")
        origin = domain.index(domain.clamp(number_of(old)))
        causes = [self._named([v]) for v, add in zip(votes, adding, strict=True) if add]
        shifts = [{round(number_of(a) / domain.step): s for a, s in c.items()} for c in causes]
        factors = [
            Factor(tuple(map(tuple, c.values())), _unnamed(c, -origin, domain.size).sum())
            for c in shifts
        ]
        starts = [(tuple(c), -origin) for c in shifts]
        if not all(adding):
            factors.insert(0, base)
            starts.insert(0, (tuple(domain.index(number_of(value)) for value in named), 0))
            origin = 0
        goal = domain.index(number_of(observed))
        return Item(tuple(factors), _ways(tuple(starts), origin, domain.size, goal))

    def _named(self, votes: Sequence[Vote]) -> dict[Value, list[int]]:
        """Return the sayings about every value that votes name."""
        named: dict[Value, list[int]] = defaultdict(list)
        for vote in votes:
            for value, outcomes, offset in zip(
                vote.values, vote.outcomes, vote.offset, strict=True
            ):
                saying = Saying(vote.law, outcomes, offset)
                named[value].append(self.sayings.setdefault(saying, len(self.sayings)))
        return named

    # --- Arrays -------------------------------------------------------------------------------

    def logits(self) -> Float[np.ndarray, " O"]:
        """Return the outcome logits of all laws, one law after the other."""
        return np.array([o.logit for law in self.laws for o in law.outcomes], float)

    @cached_property
    def whole(self) -> ItemArrays:
        """All items, compiled."""
        return ItemArrays(self.items, list(self.sayings), self._outcomes, self.reference)

    @cached_property
    def parts(self) -> list[Part]:
        """The parts whose laws have nothing to do with one another, compiled."""
        return parts(self.items, list(self.sayings), self._outcomes, self.reference)

    @cached_property
    def _outcomes(self) -> list[int]:
        return [len(law.outcomes) for law in self.laws]

    def of_law(self, law: int) -> slice:
        """Return where the logits of a law are."""
        first = sum(self._outcomes[:law])
        return slice(first, first + self._outcomes[law])

    def item_log_probs(
        self, weights: Float[np.ndarray, " L"], logits: Float[np.ndarray, " O"]
    ) -> Float[np.ndarray, " I"]:
        """Return the log probability of each distinct item."""
        return self.whole.log_probs(weights, logits)

    def gradient(
        self,
        weights: Float[np.ndarray, " L"],
        logits: Float[np.ndarray, " O"],
        count: Float[np.ndarray, " I"] | None = None,
    ) -> tuple[float, Float[np.ndarray, " L"], Float[np.ndarray, " O"]]:
        """Return the log likelihood of the items, and its gradient by weights and by logits.

        `count` says how often each item occurs, by default as often as in the record.
        """
        return self.whole.gradient(weights, logits, self.count if count is None else count)

    def log_probs(
        self,
        weights: Float[np.ndarray, " L"],
        persistence: Mapping[str, float],
        logits: Float[np.ndarray, " O"] | None = None,
    ) -> Float[np.ndarray, " T"]:
        """Return log p(next state | state, action) of each transition, as `log_prob` does."""
        found = self.item_log_probs(weights, self.logits() if logits is None else logits)
        total = np.zeros(self.size)
        np.add.at(total, self.where[:, 0], self.times * found[self.where[:, 1]])
        total[self.impossible] = -np.inf
        if not self.reference:
            return total + self.unspoken.log_probs(persistence, self.size)
        if not self.laws:
            return total + NO_LAWS
        return total + UNEXPLAINED * np.bincount(self.unspoken.changed[:, 0], minlength=self.size)


def look_at(
    record: Record, transition: int, key: Key, votes: Sequence[Vote]
) -> tuple[tuple, tuple[Domain, Value, Value]]:
    """Return all that the probability of an observed value depends on, but for its family.

    Domain, old and new value are returned too. Votes count as alike where they are the same object,
    as a record makes them.
    """
    scene = record.scenes[transition]
    domain, old = scene.domain(key), scene.old(key)
    observed = record.changes[transition].values.get(key, old)
    if isinstance(domain, Displacements):
        # Where one stands matters only for what is still on the map.
        within = tuple(domain.contains(value) for vote in votes for value in vote.values)
        like: object = (domain.size, domain.contains(observed), within)
    else:
        like = id(domain)  # domains of one kind are the same object
    return (like, type(old), old, observed, tuple(map(id, votes))), (domain, old, observed)


def _unspoken(record: Record, votes: Votes, times: Mapping[tuple[int, Key], int]) -> Unspoken:
    spoken: dict[int, set[Key]] = defaultdict(set)
    explained_at: dict[int, Counter[str]] = defaultdict(Counter)
    for t, key in votes:
        spoken[t].add(key)
        explained_at[t][key.family] += times.get((t, key), 1)
    families: dict[str, int] = {}
    kept, changed = [], []
    for t, (scene, changes) in enumerate(zip(record.scenes, record.changes, strict=True)):
        moved = [key for key in changes.values if key not in spoken[t]]
        left = changes.totals - explained_at[t] - Counter(key.family for key in moved)
        for family, count in left.items():
            kept.append((t, families.setdefault(family, len(families)), count))
        for key in moved:
            domain = None if record.world.reference else scene.domain(key)
            inside = domain is not None and domain.contains(changes.values[key])
            others = domain.size - 1 if domain is not None and inside else 0
            changed.append((t, families.setdefault(key.family, len(families)), others))
    return Unspoken(
        tuple(families),
        np.array(kept, np.int64).reshape(-1, 3),
        np.array(changed, np.int64).reshape(-1, 3),
    )


# --- Ways to a sum ----------------------------------------------------------------------------


def _unnamed(named: Mapping[int, object] | Sequence[int], low: int, size: int) -> np.ndarray:
    """Return which of the steps `low` .. `low + size - 1` are not named."""
    free = np.ones(size, bool)
    free[[step - low for step in named if 0 <= step - low < size]] = False
    return free


@lru_cache(maxsize=100_000)
def _ways(
    factors: tuple[tuple[tuple[int, ...], int], ...], origin: int, size: int, goal: int
) -> tuple[Way, ...]:
    """Return every way in which steps from `origin`, one of each factor, fold to `goal`.

    A factor is the steps it names and the least step it may take unnamed.
    """
    if math.prod(len(steps) + 1 for steps, _ in factors) > MAX_WAYS:
        raise UserError(f"{len(factors)} laws add to one number in more than {MAX_WAYS} ways")
    ways = []
    for chosen in product(*[(*range(len(steps)), -1) for steps, _ in factors]):
        at = origin + sum(factors[f][0][e] for f, e in enumerate(chosen) if e >= 0)
        counts, low = _sums(tuple(factors[f] for f, e in enumerate(chosen) if e < 0), size)
        times = float(counts[_folding(at + low, len(counts), size, goal)].sum())
        if times:
            ways.append(Way(tuple((f, e) for f, e in enumerate(chosen) if e >= 0), times))
    return tuple(ways)


@lru_cache(maxsize=1_000)
def _sums(factors: tuple[tuple[tuple[int, ...], int], ...], size: int) -> tuple[np.ndarray, int]:
    """Return in how many ways unnamed steps add up to each sum, and the least sum."""
    counts = np.ones(1)
    for steps, low in factors:
        free = _unnamed(steps, low, size).astype(float)
        counts = free if len(counts) == 1 else np.rint(fftconvolve(counts, free))
    return counts, sum(low for _, low in factors)


def _folding(first: int, length: int, size: int, goal: int) -> slice:
    """Return which of `length` numbers from `first` on fold into 0 .. `size` - 1 as `goal`."""
    start = 0 if goal == 0 else goal - first
    stop = length if goal == size - 1 else goal - first + 1
    return slice(min(max(start, 0), length), min(max(stop, 0), length))
