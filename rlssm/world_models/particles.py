"""Weighted particles, and steps on them that compose: weigh, resample, move.

Particles stand for a measure, not a distribution: their total weight is the evidence so far.
Every step here keeps what it should, for every function f of a state:

- `weigh` by g multiplies the measure by g, exactly;
- `resample` leaves E[sum w f] as it is, and the total weight exactly;
- `move` by a kernel that leaves a density alone leaves the measure alone, if it has that density.

Their compositions are importance sampling, sequential Monte Carlo, and resample-move.

Source: Denotational validation of higher-order Bayesian inference (arXiv 1711.03219), the ideas.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float

from rlssm.errors import require

S = TypeVar("S")
H = TypeVar("H", bound=Hashable)
Kernel = Callable[[S, np.random.Generator], S]


@dataclass(frozen=True)
class Particles(Generic[S]):
    """States with log weights; a state may stand there several times."""

    states: tuple[S, ...]
    log_weights: Float[np.ndarray, " N"]

    @property
    def log_evidence(self) -> float:
        """The log of the total weight."""
        return float(np.logaddexp.reduce(self.log_weights))

    @property
    def probabilities(self) -> Float[np.ndarray, " N"]:
        """The weights, normalised."""
        return np.exp(self.log_weights - self.log_evidence)

    @property
    def effective_size(self) -> float:
        """1 / sum p^2: how many equally weighted particles would be as good."""
        return float(1 / (self.probabilities**2).sum())

    def mean(self, function: Callable[[S], float]) -> float:
        """Return the normalised mean of a function."""
        return float(self.probabilities @ [function(state) for state in self.states])


def spawn(states: Iterable[S]) -> Particles[S]:
    """Return states of total weight 1, equally weighted."""
    states = tuple(states)
    require(len(states) > 0, "states", len(states), "at least one state")
    return Particles(states, np.full(len(states), -math.log(len(states))))


def weigh(particles: Particles[S], log_factor: Callable[[S], float]) -> Particles[S]:
    """Multiply the weight of each particle by a factor of its state."""
    factors = np.array([log_factor(state) for state in particles.states], float)
    return replace(particles, log_weights=particles.log_weights + factors)


def resample(particles: Particles[S], rng: np.random.Generator) -> Particles[S]:
    """Draw as many particles anew by their weights (systematically), each of the mean weight.

    Raises:
      UserError: if every weight is 0.
    """
    total = particles.log_evidence
    require(math.isfinite(total), "the total weight", math.exp(total), "positive")
    count = len(particles.states)
    points = (np.arange(count) + rng.random()) / count
    chosen = np.searchsorted(np.cumsum(particles.probabilities), points)
    states = tuple(particles.states[min(i, count - 1)] for i in chosen)
    return Particles(states, np.full(count, total - math.log(count)))


def move(particles: Particles[S], kernel: Kernel[S], rng: np.random.Generator) -> Particles[S]:
    """Move each particle by a kernel."""
    return replace(particles, states=tuple(kernel(state, rng) for state in particles.states))


def resample_move(
    particles: Particles[S],
    stages: Iterable[tuple[Callable[[S], float], Kernel[S]]],
    rng: np.random.Generator,
    moves: int = 1,
    threshold: float = 0.5,
) -> Particles[S]:
    """Weigh by each stage's factor; resample where the effective size falls; then move.

    Args:
      particles: where to start.
      stages: a log factor, and a kernel that leaves the density after it alone.
      rng: where chance comes from.
      moves: how often each stage's kernel is applied.
      threshold: resample if the effective size is below this share of the particles.
    """
    for log_factor, kernel in stages:
        particles = weigh(particles, log_factor)
        if particles.effective_size < threshold * len(particles.states):
            particles = resample(particles, rng)
        for _ in range(moves):
            particles = move(particles, kernel, rng)
    return particles


# --- Metropolis-Hastings ----------------------------------------------------------------------


@dataclass(frozen=True)
class Metropolis(Generic[H]):
    """A kernel that leaves a density alone, from proposals whose probabilities are known.

    Attributes:
      log_density: up to a constant.
      proposals: every state that may be proposed from a state, with its probability.
    """

    log_density: Callable[[H], float]
    proposals: Callable[[H], Mapping[H, float]]

    def __call__(self, state: H, rng: np.random.Generator) -> H:
        options = self.proposals(state)
        chosen = list(options)[rng.choice(len(options), p=list(options.values()))]
        return chosen if rng.random() < self.acceptance(state, chosen) else state

    def acceptance(self, state: H, proposed: H) -> float:
        """Return min(1, p(new) q(old | new) / (p(old) q(new | old)))."""
        forth = self.proposals(state)[proposed]
        back = self.proposals(proposed).get(state, 0.0)
        if back == 0.0:
            return 0.0
        ratio = self.log_density(proposed) - self.log_density(state) + math.log(back / forth)
        return math.exp(min(0.0, ratio))

    def row(self, state: H) -> dict[H, float]:
        """Return the exact distribution of the next state."""
        moved = {new: p * self.acceptance(state, new) for new, p in self.proposals(state).items()}
        stayed = moved.get(state, 0.0) + 1 - sum(moved.values())
        return {**moved, state: stayed}


@dataclass(frozen=True)
class RandomWalk:
    """Metropolis steps over the numbers of a vector: all at once, normal, of one width."""

    log_density: Callable[[np.ndarray], float]
    width: float

    def __call__(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        proposed = state + self.width * rng.standard_normal(len(state))
        ratio = self.log_density(proposed) - self.log_density(state)
        return proposed if math.log(max(rng.random(), 1e-300)) < ratio else state
