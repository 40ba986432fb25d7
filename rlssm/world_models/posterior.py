"""How probable sets of laws are, given a record: weights integrated out, sets moved about.

    p(set | record) ~ p(set) int p(record | set, w) p(w) dw

A law is in the set with prior odds of 2^-bits; weights have an exponential prior; the integral
over them is Laplace's approximation around the best weights, a weight at 0 counting by the slope
there. The persistence of what no law of the set speaks about is integrated out exactly, over the
prior Beta(1/2, 1/2). Outcome logits are taken as the laws have them.

Source: One Life to Learn (arXiv 2510.12088) for the likelihood; the rest is ours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import scipy.optimize
from jaxtyping import Float
from scipy.special import betaln

from rlssm.world_models.evidence import Evidence, Unspoken
from rlssm.world_models.fitting import MOST, START
from rlssm.world_models.laws import Law
from rlssm.world_models.particles import Metropolis, Particles, resample_move, spawn
from rlssm.world_models.record import Record, Votes

LawSet: TypeAlias = frozenset[int]

WEIGHT_RATE = 1.0  # of the exponential prior of a weight
LAW_BITS = 5.0
HESSIAN_STEP = 1e-4


class LawPosterior:
    """The posterior over subsets of candidate laws, remembered set by set.

    Args:
      record: the transitions.
      laws: the candidates; sets hold their indices.
      bits: the prior cost of each law, by default the same for all.
      rate: of the exponential prior of a weight; 1 leaves weights to the data.
    """

    def __init__(
        self,
        record: Record,
        laws: Sequence[Law],
        bits: Sequence[float] | None = None,
        rate: float = WEIGHT_RATE,
    ) -> None:
        self.record = record
        self.laws = tuple(laws)
        self.bits = np.full(len(laws), LAW_BITS) if bits is None else np.array(bits, float)
        self.rate = rate
        self._evidence: dict[LawSet, Evidence] = {}
        self._marginal: dict[tuple[LawSet, int], float] = {}

    def log_prior(self, chosen: LawSet) -> float:
        """Return the log prior probability of a set, normalised over all sets."""
        odds = -self.bits * math.log(2)
        return float(odds[list(chosen)].sum() - np.logaddexp(0.0, odds).sum())

    def log_marginal(self, chosen: LawSet, upto: int | None = None) -> float:
        """Return log p(first `upto` transitions | set); all of them by default."""
        size = len(self.record) if upto is None else upto
        if (chosen, size) not in self._marginal:
            self._marginal[chosen, size] = self._integrate(chosen, size)
        return self._marginal[chosen, size]

    def log_joint(self, chosen: LawSet, upto: int | None = None) -> float:
        """Return log p(set) + log p(first `upto` transitions | set)."""
        return self.log_prior(chosen) + self.log_marginal(chosen, upto)

    @cached_property
    def _votes(self) -> Votes:
        return self.record.votes(self.laws)

    def evidence(self, chosen: LawSet) -> Evidence:
        """Return what the record and one set compile to; weights stay those of all laws."""
        if chosen not in self._evidence:
            votes = {
                key: kept
                for key, said in self._votes.items()
                if (kept := [vote for vote in said if vote.law in chosen])
            }
            self._evidence[chosen] = Evidence(self.record, self.laws, votes)
        return self._evidence[chosen]

    def _integrate(self, chosen: LawSet, upto: int) -> float:
        evidence = self.evidence(chosen)
        if (evidence.impossible < upto).any():
            return -math.inf
        unspoken = log_persistence(evidence.unspoken, upto)
        if not chosen:
            return unspoken
        early = evidence.where[evidence.where[:, 0] < upto, 1]
        counts = np.bincount(early, minlength=len(evidence.items)).astype(float)
        return unspoken + _laplace(evidence, counts, sorted(chosen), self.rate)

    def proposals(self, chosen: LawSet) -> Mapping[LawSet, float]:
        """Return sets one law away, and those with one law exchanged, all equally probable."""
        every = range(len(self.laws))
        near = [chosen ^ {law} for law in every]
        near += [chosen - {old} | {new} for old in chosen for new in every if new not in chosen]
        return dict.fromkeys(near, 1 / len(near))

    def kernel(self, upto: int | None = None) -> Metropolis[LawSet]:
        """Return Metropolis-Hastings moves that leave the posterior alone."""
        return Metropolis(lambda chosen: self.log_joint(chosen, upto), self.proposals)

    def draw_prior(self, rng: np.random.Generator) -> LawSet:
        odds = 2.0**-self.bits
        return frozenset(np.flatnonzero(rng.random(len(self.laws)) < odds / (1 + odds)).tolist())


def sample_law_sets(
    posterior: LawPosterior,
    particles: int,
    rng: np.random.Generator,
    stages: int = 5,
    moves: int = 2,
) -> Particles[LawSet]:
    """Return law sets drawn by resample-move, the record arriving in `stages` parts."""
    size = len(posterior.record)
    ends = sorted({round(size * (i + 1) / stages) for i in range(stages)})
    begins = [0, *ends[:-1]]

    def factor(begin: int, end: int) -> Callable[[LawSet], float]:
        return lambda chosen: (
            posterior.log_marginal(chosen, end) - posterior.log_marginal(chosen, begin)
        )

    return resample_move(
        spawn(posterior.draw_prior(rng) for _ in range(particles)),
        [(factor(b, e), posterior.kernel(e)) for b, e in zip(begins, ends, strict=True)],
        rng,
        moves,
    )


def log_persistence(unspoken: Unspoken, upto: int) -> float:
    """Return the log probability of what is unspoken of, its rates integrated out."""
    size = len(unspoken.families)
    kept = unspoken.kept[unspoken.kept[:, 0] < upto]
    changed = unspoken.changed[unspoken.changed[:, 0] < upto]
    if (changed[:, 2] == 0).any():
        return -math.inf
    stays = np.bincount(kept[:, 1], kept[:, 2], size)
    moves = np.bincount(changed[:, 1], minlength=size)
    rates = betaln(moves + 0.5, stays + 0.5) - betaln(0.5, 0.5)
    return float(rates.sum() - np.log(changed[:, 2]).sum())


def _laplace(
    evidence: Evidence, counts: Float[np.ndarray, " I"], free: Sequence[int], rate: float
) -> float:
    """Return log int p(items | w) prod_i rate e^(-rate w_i) dw over the free weights."""
    logits = evidence.logits()
    weights = np.zeros(len(evidence.laws))
    index = np.array(free)

    def negative(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights[index] = point
        value, slope, _ = evidence.gradient(weights, logits, counts)
        return rate * float(point.sum()) - value, rate - slope[index]

    start = np.full(len(free), START)
    bounds = [(0.0, MOST)] * len(free)
    found = scipy.optimize.minimize(negative, start, jac=True, bounds=bounds, method="L-BFGS-B")
    best = found.x
    value, slope = negative(best)
    inner = np.flatnonzero((best > 10 * HESSIAN_STEP) & (best < MOST))
    curved = np.zeros((len(inner), len(inner)))
    for row, i in enumerate(inner):
        step = HESSIAN_STEP * np.eye(len(best))[i]
        difference = negative(best + step)[1] - negative(best - step)[1]
        curved[row] = difference[inner] / (2 * HESSIAN_STEP)
    volume = 0.5 * len(inner) * math.log(2 * math.pi)
    volume -= 0.5 * np.linalg.slogdet((curved + curved.T) / 2 + 1e-9 * np.eye(len(inner)))[1]
    edge = np.setdiff1d(np.arange(len(best)), inner)
    volume -= np.log(np.maximum(slope[edge], rate)).sum()
    return len(best) * math.log(rate) - value + float(volume)
