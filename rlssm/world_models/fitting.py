"""Fitting weights to a record: bounded L-BFGS on the exact likelihood, to the end or as published.

    minimise  -sum_items log p + l1 sum_i w_i     over 0 <= w_i <= 10

is convex in the weights and only active laws have a gradient. The default semantics also fits the
logits of laws with several outcomes, kept as log probabilities, with half a count for each, and
the persistence of what no law speaks about. Laws that never speak about the same value have nothing
to do with one another, so that the minimum falls into parts, each found by itself: it takes fewer
iterations, and small ones. `PUBLISHED` is the optimiser of the released code.

Source: One Life to Learn (arXiv 2510.12088), released code; L-BFGS-B of Zhu et al. (1997).
Departure: the line search of the published schedule is SciPy's, not PyTorch's; both stop at the
strong Wolfe conditions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy.optimize
from jaxtyping import Float

from rlssm.errors import require
from rlssm.world_models.evidence import Evidence
from rlssm.world_models.item_arrays import Part
from rlssm.world_models.laws import Law
from rlssm.world_models.likelihood import NOISE, Model
from rlssm.world_models.object_view import World
from rlssm.world_models.record import Record

Schedule = Literal["converged", "published"]

MOST = 10.0  # bound of a fitted weight
START = 0.5
REFERENCE_L1 = 0.001
DEFAULT_L1 = 5.0  # p(miss) of a certain law after N hits is then about 1 / (2N), as Jeffreys has it
TRUST = 0.5
HALF_COUNT = 0.5  # each outcome of a law is taken to have been seen so often before
LOGIT_BOUND = 15.0
RESTARTS = 4  # of the optimiser, as long as the slope is not
FLAT, NEARLY_FLAT = 1e-6, 1e-4  # nats for a unit of weight

# The published schedule: this many transitions drawn once, this many outer times inner iterations.
BATCH = 1000
OUTER, INNER = 3, 5
MEMORY = 100


@dataclass(frozen=True)
class Fit:
    """A fitted model, the objective at its weights, and what that took, of all parts together."""

    model: Model
    objective: float
    iterations: int
    evaluations: int


def fit(
    record: Record,
    laws: Sequence[Law],
    schedule: Schedule = "converged",
    l1: float | None = None,
    seed: int = 0,
    evidence: Evidence | None = None,
    trust: float = TRUST,
    start: Sequence[float] = (),
) -> Fit:
    """Return laws with weights (default semantics: logits and persistence too) fitted to a record.

    Args:
      record: the transitions; its world says which semantics.
      laws: their logits are where fitting starts.
      schedule: "converged", or "published" for the optimiser of the released code.
      l1: cost of a unit of weight, in nats; by default 0.001 in the reference semantics and 5
        otherwise, which leaves a law that was right N times about 1 / (2N) to be wrong.
      seed: draws the published batch.
      evidence: what record and laws compile to, if it is there already.
      trust: the probability of what a law says that never spoke in the record, which no data can
        weigh; the published schedule leaves such a law where fitting starts.
      start: weights where fitting starts, of as many laws, the first ones; by default 0.5.

    Raises:
      UserError: on an unknown schedule or a negative `l1`.
    """
    require(schedule in ("converged", "published"), "schedule", schedule, "converged or published")
    cost = l1 if l1 is not None else REFERENCE_L1 if record.world.reference else DEFAULT_L1
    require(cost >= 0, "l1", cost, "at least 0")
    if schedule == "published" and len(record) > BATCH:
        chosen = np.random.default_rng(seed).choice(len(record), BATCH, replace=False)
        record = Record(record.world, [record.transitions[i] for i in np.sort(chosen)])
        evidence = None
    evidence = Evidence(record, laws) if evidence is None else evidence
    if not laws:
        return _fit(record, evidence, [], np.zeros(0), np.zeros(0))
    if schedule == "published":
        return _published(record, evidence, cost)
    return _converged(record, evidence, cost, trust, start)


def prune(model: Model, least: float = 0.01) -> Model:
    """Return the model without the laws whose weight is below `least`."""
    kept = [i for i, weight in enumerate(model.weights) if weight >= least]
    return replace(
        model,
        laws=tuple(model.laws[i] for i in kept),
        weights=tuple(model.weights[i] for i in kept),
    )


# --- To convergence ---------------------------------------------------------------------------


def _converged(
    record: Record, evidence: Evidence, price: float, trust: float, start: Sequence[float]
) -> Fit:
    laws = evidence.laws
    heard = np.isin(np.arange(len(laws)), [saying.law for saying in evidence.sayings])
    weights, logits = np.full(len(laws), START), evidence.logits()
    weights[: len(start)] = start
    if not evidence.reference:  # what nobody can weigh is trusted so far, all outcomes alike
        for law in np.flatnonzero(~heard):
            weights[law] = weight_of(laws[law], record.world, trust)
            if len(laws[law].outcomes) > 1:
                logits[evidence.of_law(law)] = -math.log(len(laws[law].outcomes))
    parted = np.concatenate([np.zeros(0, int), *(part.laws for part in evidence.parts)])
    outside = heard & ~np.isin(np.arange(len(laws)), parted)  # all it names is outside the domain
    weights[outside] = 0.0 if price > 0 else weights[outside]
    ends = []
    for part in evidence.parts:
        own = [laws[law] for law in part.laws]
        shape = _Logits(own, logits[part.logits], evidence.reference)
        found = _minimum(part, evidence.count[part.numbers], shape, weights[part.laws], price)
        weights[part.laws] = found.x[: len(own)]
        logits[part.logits] = shape.logits(found.x[len(own) :])
        ends.append(found)
    return _fit(record, evidence, ends, weights, logits)


def _minimum(
    part: Part, count: np.ndarray, shape: "_Logits", weights: np.ndarray, price: float
) -> scipy.optimize.OptimizeResult:
    """Return the best weights of a part's laws, and then the free numbers of their logits."""
    size = len(weights)

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        logits = shape.logits(point[size:])
        value, by_weight, by_logit = part.items.gradient(point[:size], logits, count)
        prior, by_prior = shape.prior(logits)
        slope = np.concatenate([price - by_weight, -shape.pull_back(logits, by_logit + by_prior)])
        return price * float(point[:size].sum()) - value - prior, slope

    bounds = [(0.0, MOST)] * size + [(-LOGIT_BOUND, LOGIT_BOUND)] * len(shape.start)
    low, high = np.array(bounds).T
    point = np.concatenate([weights, shape.start])
    for _ in range(RESTARTS):
        found = scipy.optimize.minimize(
            objective, point, jac=True, bounds=bounds, method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 5000, "ftol": 0.0, "gtol": FLAT, "maxcor": 30},
        )  # fmt: skip
        # Where one weight has a slope and no curvature, what was learned of the others' makes steps
        # too short to be told from rounding: begin anew from there.
        if np.abs(np.clip(found.x - found.jac, low, high) - found.x).max() <= NEARLY_FLAT:
            break
        point = found.x
    return found


def weight_of(law: Law, world: World, probability: float) -> float:
    """Return the weight at which what a law says has a probability, if it alone speaks."""
    domain = world.scopes[law.scope].observables[law.observable]
    others = max(domain.size - len(law.outcomes), 1)
    odds = probability / (1 - probability)
    return float(np.clip(math.log(others * odds) / -NOISE, 0.0, MOST))


class _Logits:
    """Which logits are free: those of laws with several outcomes; reference: none.

    They enter as the log-softmax of free numbers, since scale is the weight's business.
    """

    def __init__(self, laws: Sequence[Law], logits: np.ndarray, reference: bool) -> None:
        self._all = logits
        law_of = np.repeat(np.arange(len(laws)), [len(law.outcomes) for law in laws])
        several = np.array([len(law.outcomes) > 1 for law in laws], bool)
        free = np.zeros(len(logits), bool) if reference else several[law_of]
        self._free = np.flatnonzero(free)
        self._group = np.unique(law_of[self._free], return_inverse=True)[1]
        self.start = np.clip(self._softmax(self._all[self._free]), -LOGIT_BOUND, 0.0)

    def _softmax(self, free: np.ndarray) -> np.ndarray:
        if not len(free):
            return free
        best = np.full(self._group.max() + 1, -np.inf)
        np.maximum.at(best, self._group, free)
        mass = np.bincount(self._group, np.exp(free - best[self._group]))
        return free - best[self._group] - np.log(mass)[self._group]

    def logits(self, free: Float[np.ndarray, " F"]) -> Float[np.ndarray, " O"]:
        logits = self._all.copy()
        logits[self._free] = self._softmax(free)
        return logits

    def prior(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        slope = np.zeros_like(logits)
        slope[self._free] = HALF_COUNT
        return float(HALF_COUNT * logits[self._free].sum()), slope

    def pull_back(self, logits: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Return the slope by the free numbers, from that by the logits."""
        if not len(self._free):
            return np.zeros(0)
        inner = slope[self._free]
        total = np.bincount(self._group, inner)
        return inner - np.exp(logits[self._free]) * total[self._group]


# --- As published -----------------------------------------------------------------------------


def _published(record: Record, evidence: Evidence, cost: float) -> Fit:
    """Run the published number of iterations of an unbounded L-BFGS over clamped weights.

    Clamping inside the objective is what the released code does; the gradient is that at the
    clamped point, which the optimiser knows nothing of.
    """
    logits = evidence.logits()

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights = np.clip(point, 0.0, MOST)
        value, by_weight, _ = evidence.gradient(weights, logits)
        return cost * float(weights.sum()) - value, cost - by_weight

    found = scipy.optimize.minimize(
        objective, np.full(len(evidence.laws), START), jac=True, method="L-BFGS-B",
        options={"maxiter": OUTER * INNER, "maxcor": MEMORY},
    )  # fmt: skip
    return _fit(record, evidence, [found], np.clip(found.x, 0.0, MOST), logits)


def _fit(
    record: Record,
    evidence: Evidence,
    ends: Sequence[scipy.optimize.OptimizeResult],
    weights: np.ndarray,
    logits: np.ndarray,
) -> Fit:
    left = iter(logits.tolist())
    laws = tuple(
        replace(law, outcomes=tuple(replace(o, logit=next(left)) for o in law.outcomes))
        for law in evidence.laws
    )
    persistence = {} if record.world.reference else evidence.unspoken.persistence()
    model = Model(record.world, laws, tuple(weights.tolist()), persistence)
    return Fit(
        model,
        objective=float(sum(end.fun for end in ends)),
        iterations=sum(int(end.nit) for end in ends),
        evaluations=sum(int(end.nfev) for end in ends),
    )


def log_probs(model: Model, record: Record) -> Float[np.ndarray, " T"]:
    """Return log p(next state | state, action) of every transition of a record."""
    evidence = Evidence(record, model.laws)
    return evidence.log_probs(np.array(model.weights, float), model.persistence)
