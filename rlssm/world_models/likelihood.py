"""How likely laws make a transition, and what they make of a state.

For every observable k the active laws that speak about it give a distribution over its values V.
Law i gives each value it names a score l_i(v) and every other value -10; with weights w_i >= 0

    log p(v) = z(v) - log sum_{v' in V} e^{z(v')},    z(v) = sum_i w_i l_i(v),

and observables are independent given the state and the action. Only named values need be looked
at, for all others share one probability:

    log p(v) = u(v) - log( sum_{named v'} e^{u(v')} + |V| - #named ),   u(v) = z(v) + 10 sum_i w_i.

The default semantics adds to this: laws whose outcomes are all amounts are separate causes, whose
amounts add up (the distributions are convolved, then folded into the range); an observable nobody
speaks about keeps its value with probability 1 - e, e per family of observables; objects are born
and die, and tiles change. The reference semantics is the published one: all laws multiply, what
nobody speaks about costs 0 if it kept its value and 1 if not, and a model without laws costs 1000.

Source: One Life to Learn (arXiv 2510.12088), section 3; released code for the constants.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlssm.errors import UserError, require
from rlssm.world_models.laws import Law, Vote, check_law, evaluate
from rlssm.world_models.object_view import (
    Changes,
    Domain,
    Key,
    Numbers,
    Scene,
    Value,
    World,
    draw,
    number_of,
)

NOISE = -10.0  # the score of a value that a law does not name
LEAST_SCORE = -50.0
UNEXPLAINED = -1.0  # reference: the log score of a change nobody speaks about
NO_LAWS = -1000.0  # reference: the log score of any transition under no laws at all
PERSISTENCE = 1e-3  # probability of a change nobody speaks about, where none was fitted
MAX_WEIGHT = 100.0


@dataclass(frozen=True)
class Model:
    """Laws of a world, each with a weight, and how often things change that no law speaks about.

    `persistence` gives for families of observables (`zombie.health`) the probability of such a
    change, in (0, 1); the reference semantics does without it.
    """

    world: World
    laws: tuple[Law, ...]
    weights: tuple[float, ...]
    persistence: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.laws):
            raise UserError(
                f"weights must be one for each of {len(self.laws)} laws, got {len(self.weights)}"
            )
        for weight in self.weights:
            require(0 <= weight <= MAX_WEIGHT, "a weight", weight, f"in [0, {MAX_WEIGHT:g}]")
        for family, probability in self.persistence.items():
            require(0 < probability < 1, f"persistence of {family}", probability, "in (0, 1)")
        for law in self.laws:
            check_law(law, self.world)


@dataclass(frozen=True)
class Distribution:
    """A distribution over a domain: some values by name, all others alike.

    `log_probs` is for the named values; `log_other` for each value of the domain that is not.
    """

    domain: Domain
    log_probs: Mapping[Value, float]
    log_other: float

    def log_prob(self, value: Value) -> float:
        """Return log p(value), -inf outside the domain."""
        if value in self.log_probs:
            return self.log_probs[value]
        return self.log_other if self.domain.contains(value) else -math.inf

    def table(self) -> dict[Value, float]:
        """Return the probability of every value of the domain."""
        return {value: math.exp(self.log_prob(value)) for value in self.domain}

    def sample(self, rng: np.random.Generator) -> Value:
        named = list(self.log_probs)
        left = rng.random()
        for value in named:
            left -= math.exp(self.log_probs[value])
            if left < 0:
                return value
        if self.domain.size > len(named):
            return draw(self.domain, rng, named)
        return max(named, key=self.log_prob)  # rounding alone leaves anything


@dataclass(frozen=True)
class Score:
    """The log probability of a transition, by what explains it.

    Attributes:
      explained: of each observable that laws speak about.
      unexplained: of each change nobody speaks about.
      persisted: of all observables of a family that nobody speaks about and that kept their value.
    """

    explained: Mapping[Key, float]
    unexplained: Mapping[Key, float]
    persisted: Mapping[str, float]

    @property
    def total(self) -> float:
        parts = self.explained, self.unexplained, self.persisted
        return sum(sum(part.values()) for part in parts)


# --- One observable ---------------------------------------------------------------------------


def vote_scores(vote: Vote, law: Law, reference: bool) -> list[float]:
    """Return the score of each value that a vote names.

    Outcomes that come to the same value add their probabilities (reference: the best counts).
    """
    scores = []
    for outcomes, offset in zip(vote.outcomes, vote.offset, strict=True):
        logits = [law.outcomes[index].logit for index in outcomes] or [0.0]
        logit = max(logits) if reference else _log_sum_exp(logits)
        scores.append(max(logit + offset, LEAST_SCORE))
    return scores


def multiply(
    domain: Domain, votes: Sequence[Mapping[Value, float]], weights: Sequence[float]
) -> Distribution:
    """Return the normalised product of weighted votes, given as scores of the values they name."""
    raised: dict[Value, float] = {}
    for vote, weight in zip(votes, weights, strict=True):
        for value, score in vote.items():
            if domain.contains(value):
                raised[value] = raised.get(value, 0.0) + weight * (score - NOISE)
    others = domain.size - len(raised)
    terms = [*raised.values(), *([math.log(others)] if others else [])]
    normaliser = _log_sum_exp(terms)
    return Distribution(domain, {v: u - normaliser for v, u in raised.items()}, -normaliser)


def add_one(
    domain: Numbers, old: float, cause: Mapping[float, float], weight: float
) -> Distribution:
    """Return the distribution of a number that one cause changes by amounts it names.

    Every other amount that leads from `old` to a value of the domain has the score of noise. What
    passes an end of the domain stays at that end.
    """
    amounts = {amount: weight * (score - NOISE) for amount, score in cause.items()}
    inside = [amount for amount in amounts if domain.contains(old + amount)]
    terms: dict[float, list[float]] = {}
    for amount, raised in amounts.items():
        terms.setdefault(domain.clamp(old + amount), []).append(raised)
    for value, raised_here in terms.items():
        if value - old not in amounts:  # an end of the domain can also be reached by noise
            raised_here.append(0.0)
    others = domain.size - len(inside)
    normaliser = _log_sum_exp([*amounts.values(), *([math.log(others)] if others else [])])
    log_probs: dict[Value, float] = {
        value: _log_sum_exp(raised) - normaliser for value, raised in terms.items()
    }
    return Distribution(domain, log_probs, -normaliser)


def add_up(
    domain: Numbers,
    old: float,
    base: Distribution | None,
    causes: Sequence[Mapping[float, float]],
    weights: Sequence[float],
) -> Distribution:
    """Return the distribution of a number that several causes change, whose amounts add up.

    The amounts are added to `old`, or to what `base` says, and folded into the domain at the end.
    Each cause is distributed as in `add_one`, which this equals for one cause and no base.
    """
    origin = domain.index(old)
    if base is None:
        mass = np.eye(1, domain.size, origin)[0]
    else:
        mass = np.exp([base.log_prob(value) for value in domain])
    low = 0  # the index that mass[0] stands for
    for cause, weight in zip(causes, weights, strict=True):
        steps = {round(amount / domain.step): score for amount, score in cause.items()}
        first = min(-origin, *steps)
        raised = np.full(max(domain.size - 1 - origin, *steps) - first + 1, -np.inf)
        raised[-origin - first : domain.size - origin - first] = 0.0
        for step, score in steps.items():
            raised[step - first] = weight * (score - NOISE)
        mass = np.convolve(mass, np.exp(raised - _log_sum_exp(raised.tolist())))
        low += first
    folded = np.zeros(domain.size)
    np.add.at(folded, np.clip(np.arange(len(mass)) + low, 0, domain.size - 1), mass)
    with np.errstate(divide="ignore"):
        log_probs = np.log(folded).tolist()
    return Distribution(domain, dict(zip(domain, log_probs, strict=True)), -math.inf)


def _log_sum_exp(terms: Sequence[float]) -> float:
    # A handful of numbers at a time, many thousand times: plain Python is the fastest here.
    largest = max(terms)
    if math.isinf(largest):
        return largest
    return largest + math.log(sum(math.exp(term - largest) for term in terms))


# --- A whole state ----------------------------------------------------------------------------


def predict(model: Model, scene: Scene) -> dict[Key, Distribution]:
    """Return the distribution of every observable that active laws speak about."""
    votes = evaluate(model.laws, scene, model.world.reference)
    return {key: _combine(model, scene, key, said) for key, said in votes.items()}


def _combine(model: Model, scene: Scene, key: Key, votes: Sequence[Vote]) -> Distribution:
    reference = model.world.reference
    scores = [
        dict(zip(vote.values, vote_scores(vote, model.laws[vote.law], reference), strict=True))
        for vote in votes
    ]
    weights = [model.weights[vote.law] for vote in votes]
    domain = scene.domain(key)
    adds = [not reference and model.laws[vote.law].adds for vote in votes]
    if not any(adds):
        return multiply(domain, scores, weights)
    if not isinstance(domain, Numbers):
        raise TypeError(f"{key} is not a number, yet a law adds to it")
    old = domain.clamp(number_of(scene.old(key)))
    causes = [
        ({number_of(amount): s for amount, s in said.items()}, weight)
        for said, weight, add in zip(scores, weights, adds, strict=True)
        if add
    ]
    setters = [(s, w) for s, w, add in zip(scores, weights, adds, strict=True) if not add]
    if len(causes) == 1 and not setters:
        return add_one(domain, old, *causes[0])
    base = multiply(domain, *zip(*setters, strict=True)) if setters else None
    return add_up(domain, old, base, *zip(*causes, strict=True))


def score(model: Model, state: Any, action: str, after: Any) -> Score:
    """Return the log probability of a transition, split by what explains it."""
    return score_each(model, state, action, [after])[0]


def score_each(model: Model, state: Any, action: str, afters: Iterable[Any]) -> list[Score]:
    """Return the score of each of several next states, predicted once."""
    scene = model.world.scene(state, action)
    predictions = predict(model, scene)
    return [score_predicted(model, scene, predictions, after) for after in afters]


def score_predicted(
    model: Model, scene: Scene, predicted: Mapping[Key, Distribution], after: Any
) -> Score:
    """Return the score of a next state, given what the model predicts of the scene."""
    changes = model.world.changes(scene, after)
    predictions = {key: dist for key, dist in predicted.items() if changes.observed(key)}
    explained = {
        key: distribution.log_prob(changes.values.get(key, scene.old(key)))
        for key, distribution in predictions.items()
    }
    unexplained = {key: v for key, v in changes.values.items() if key not in predictions}
    if model.world.reference:
        costs = dict.fromkeys(unexplained, UNEXPLAINED)
        if not model.laws:
            costs = {Key("world", 0, "no laws"): NO_LAWS}
        return Score(explained, costs, {})
    return Score(
        explained,
        {key: _surprise(model, scene, key, value) for key, value in unexplained.items()},
        {
            family: count * math.log1p(-model.persistence.get(family, PERSISTENCE))
            for family, count in _persisting(changes, predictions).items()
        },
    )


def log_prob(model: Model, state: Any, action: str, after: Any) -> float:
    """Return log p(after | state, action); unnormalised in the reference semantics."""
    return score(model, state, action, after).total


def sample(model: Model, state: Any, action: str, rng: np.random.Generator) -> Any:
    """Return a next state: each observable that laws speak about is drawn, the others stay."""
    scene = model.world.scene(state, action)
    drawn = {key: dist.sample(rng) for key, dist in predict(model, scene).items()}
    return model.world.apply(scene, drawn)


def fit_persistence(model: Model, transitions: Iterable[tuple[Any, str, Any]]) -> dict[str, float]:
    """Return the probability of a change nobody speaks about, per family, from counts.

    (changed + 1/2) / (seen + 1), over observables without an active law.
    """
    changed: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for state, action, after in transitions:
        scene = model.world.scene(state, action)
        changes = model.world.changes(scene, after)
        voted = evaluate(model.laws, scene, model.world.reference)
        changed.update(key.family for key in changes.values if key not in voted)
        kept.update(_persisting(changes, [key for key in voted if changes.observed(key)]))
    families = kept.keys() | changed.keys()
    return {
        family: (changed[family] + 0.5) / (changed[family] + kept[family] + 1)
        for family in sorted(families)
    }


def _persisting(changes: Changes, explained: Iterable[Key]) -> Counter[str]:
    """Return how many observables of each family kept their value without a law saying so."""
    explained = set(explained)
    spoken_of = Counter(key.family for key in explained)
    changed = Counter(key.family for key in changes.values if key not in explained)
    return changes.totals - spoken_of - changed


def persistence_log_prob(model: Model, scene: Scene, key: Key, value: Value) -> float:
    """Return the log probability of a value of an observable that nobody speaks about."""
    if value == scene.old(key):
        return math.log1p(-model.persistence.get(key.family, PERSISTENCE))
    return _surprise(model, scene, key, value)


def _surprise(model: Model, scene: Scene, key: Key, value: Value) -> float:
    domain = scene.domain(key)
    if not domain.contains(value):
        return -math.inf
    probability = model.persistence.get(key.family, PERSISTENCE)
    return math.log(probability / (domain.size - 1))
