"""Scores of several runs on several tasks in few numbers, with honest intervals.

Scores are `[S, K]`: `S` runs (seeds), `K` tasks; `[S]` stands for one task. Everything is
computed in float64 and depends only on its arguments.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (arXiv 2108.13264), sections 4.1 to 4.3.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from rlssm.errors import require

Scores = Float[np.ndarray, "S K"]
Statistic = Callable[..., float]


def mean(scores: ArrayLike) -> float:
    """Return the mean over runs and tasks."""
    return float(np.mean(_table(scores)))


def median(scores: ArrayLike) -> float:
    """Return the median over tasks of the mean over runs."""
    return float(np.median(np.mean(_table(scores), axis=0)))


def iqm(scores: ArrayLike) -> float:
    """Return the interquartile mean.

    The mean of what is left of all `S K` scores once the lowest and the highest `floor(S K / 4)`
    are dropped.
    """
    ordered = np.sort(_table(scores), axis=None)
    dropped = ordered.size // 4
    return float(np.mean(ordered[dropped : ordered.size - dropped]))


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> float:
    """Return by how much scores fall short of `target` on average: mean of max(0, target - x)."""
    return float(np.mean(np.maximum(0.0, target - _table(scores))))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Return how likely a run of X beats a run of Y on a task drawn at random.

    P(X > Y) = 1/K sum_k 1/(S_x S_y) sum_ij [x_ik > y_jk] + [x_ik = y_jk] / 2

    Args:
        x, y: scores on the same tasks, `[S_x, K]` and `[S_y, K]`.
    """
    x, y = _table(x), _table(y)
    require(x.shape[1] == y.shape[1], "the number of tasks", y.shape[1], f"{x.shape[1]} in both")
    difference = x[:, None] - y[None]
    return float(np.mean((np.sign(difference) + 1) / 2))


def bootstrap_interval(
    statistic: Statistic,
    *scores: ArrayLike,
    level: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a stratified bootstrap percentile interval.

    Runs are drawn with replacement within each task, independently of the other tasks, and the
    statistic is computed from each such sample; the interval holds the middle `level` of them.
    It is too narrow for few runs: of the mean of normal scores, 95 % intervals from 3, 4, 5, 8, 10
    and 20 runs held the true mean in 75, 79, 83, 89, 90 and 93 % of 4,000 trials.

    Args:
        statistic: a function of as many tables of scores as are given.
        scores: tables `[S, K]`; each is resampled on its own.
        level: share of the samples inside, in (0, 1).
        resamples: how many samples.
        seed: of the draws.

    Returns:
        Lower and upper end; NaN if a table has only one run, which says nothing of the spread.
    """
    require(0 < level < 1, "level", level, "between 0 and 1")
    require(resamples >= 1, "resamples", resamples, "at least 1")
    tables = [_table(table) for table in scores]
    if any(len(table) < 2 for table in tables):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    values = [statistic(*(_resample(rng, table) for table in tables)) for _ in range(resamples)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarize(scores: ArrayLike, *, seed: int = 0) -> dict[str, float]:
    """Return mean, IQM and median with the ends of their 95 % intervals, by name.

    A single run has no intervals: `mean_low`, `mean_high` and so on are left out.
    """
    summary = {}
    for statistic in (mean, iqm, median):
        name = statistic.__name__
        summary[name] = statistic(scores)
        if len(_table(scores)) > 1:
            low, high = bootstrap_interval(statistic, scores, seed=seed)
            summary |= {f"{name}_low": low, f"{name}_high": high}
    return summary


def area_under_curve(steps: ArrayLike, values: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return the mean height of learning curves, by the trapezoidal rule.

    1 / (x_N - x_1) sum_i (x_{i+1} - x_i) (v_i + v_{i+1}) / 2

    Args:
        steps: `[N]`, increasing, at least two.
        values: `[N, ...]`.

    Returns:
        One number per curve, in the unit of the values.
    """
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    increasing = steps.ndim == 1 and steps.size >= 2 and bool(np.all(np.diff(steps) > 0))
    require(increasing, "steps", steps.tolist(), "two or more increasing numbers")
    require(len(values) == steps.size, "values", len(values), f"{steps.size}, one for each step")
    return np.trapezoid(values, steps, axis=0) / (steps[-1] - steps[0])


def _resample(rng: np.random.Generator, table: Scores) -> Scores:
    return np.take_along_axis(table, rng.integers(len(table), size=table.shape), axis=0)


def _table(scores: ArrayLike) -> Scores:
    table = np.asarray(scores, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    require(table.ndim == 2 and table.size > 0, "scores", table.shape, "of shape [S] or [S, K]")
    require(bool(np.all(np.isfinite(table))), "scores", table.tolist(), "finite")
    return table
