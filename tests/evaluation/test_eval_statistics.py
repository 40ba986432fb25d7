"""Statistics against closed forms and plain loops."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlssm.errors import UserError
from rlssm.evaluation import statistics
from rlssm.evaluation.statistics import (
    area_under_curve,
    bootstrap_interval,
    iqm,
    mean,
    median,
    optimality_gap,
    probability_of_improvement,
    summarize,
)

values = st.floats(-1e3, 1e3).map(lambda x: round(x, 2))
tables = hnp.arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=values)


@settings(max_examples=50, deadline=None)
@given(tables)
def test_point_estimates(scores):
    flat = [x for row in scores for x in row]
    assert mean(scores) == pytest.approx(sum(flat) / len(flat), abs=1e-9)
    assert iqm(scores) == pytest.approx(scipy.stats.trim_mean(flat, 0.25), abs=1e-9)
    per_task = sorted(sum(column) / len(column) for column in scores.T)
    k = len(per_task)
    middle = (per_task[(k - 1) // 2] + per_task[k // 2]) / 2
    assert median(scores) == pytest.approx(middle, abs=1e-9)
    gap = sum(max(0.0, 3.0 - x) for x in flat) / len(flat)
    assert optimality_gap(scores, target=3.0) == pytest.approx(gap, abs=1e-9)


def test_closed_forms():
    assert iqm(np.arange(8)) == 3.5  # of 2, 3, 4, 5
    assert iqm([5.0]) == 5.0
    assert optimality_gap([[0.5, 2.0], [1.0, 0.0]]) == 0.375
    assert median([[0, 10, 5], [2, 10, 5]]) == 5.0


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_probability_of_improvement_is_the_u_statistic(data):
    tasks = data.draw(st.integers(1, 3))
    x, y = (
        data.draw(hnp.arrays(np.float64, (data.draw(st.integers(1, 5)), tasks), elements=values))
        for _ in range(2)
    )
    per_task = [
        np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(x[:, k], y[:, k])])
        for k in range(tasks)
    ]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(per_task))
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)
    u = scipy.stats.mannwhitneyu(x[:, 0], y[:, 0]).statistic / (len(x) * len(y))
    assert probability_of_improvement(x[:, 0], y[:, 0]) == pytest.approx(u)


def test_bootstrap_of_the_mean_has_its_known_spread():
    """The bootstrap distribution of a mean has variance s^2 / S, s^2 the biased variance."""
    scores = np.random.default_rng(1).normal(size=(40, 1))
    low, high = bootstrap_interval(mean, scores, resamples=20_000)
    half = 1.96 * scores.std() / np.sqrt(40)
    assert low == pytest.approx(scores.mean() - half, abs=0.02)
    assert high == pytest.approx(scores.mean() + half, abs=0.02)


def test_bootstrap_is_stratified():
    """Tasks keep their share of the sample, and are resampled independently of each other."""
    apart = np.array([[0.0, 100.0]] * 4)  # no spread within a task: none in the interval
    assert bootstrap_interval(mean, apart) == (50.0, 50.0)
    linked = np.array([[0.0, 1.0], [1.0, 0.0]] * 8)  # whole rows would always average 1/2
    low, high = bootstrap_interval(mean, linked)
    half = 1.96 * 0.5 / np.sqrt(32)
    assert (low, high) == (pytest.approx(0.5 - half, abs=0.03), pytest.approx(0.5 + half, abs=0.03))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(
            mean, rng.normal(3.0, 1.0, size=(20, 1)), resamples=300, seed=trial
        )
        covered += low <= 3.0 <= high
    assert 0.87 <= covered / 200 <= 0.99


def test_bootstrap_of_two_tables():
    x, y = np.arange(10.0), np.arange(10.0) + 20
    assert bootstrap_interval(probability_of_improvement, y, x) == (1.0, 1.0)
    low, high = bootstrap_interval(probability_of_improvement, x + 3, x)
    assert 0.4 < low < probability_of_improvement(x + 3, x) < high < 1.0


def test_same_seed_same_interval():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    assert bootstrap_interval(iqm, scores) == bootstrap_interval(iqm, scores)
    assert bootstrap_interval(iqm, scores, seed=1) != bootstrap_interval(iqm, scores)
    narrow, wide = (bootstrap_interval(iqm, scores, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_one_run_has_no_interval():
    assert np.isnan(bootstrap_interval(mean, [[1.0, 2.0]])).all()
    assert summarize([[1.0, 3.0]]) == {"mean": 2.0, "iqm": 2.0, "median": 2.0}


def test_summary():
    scores = np.random.default_rng(0).normal(size=(6, 2))
    summary = summarize(scores)
    assert summary["iqm"] == iqm(scores) and summary["median"] == median(scores)
    assert (summary["mean_low"], summary["mean_high"]) == bootstrap_interval(mean, scores)
    assert set(summary) == {
        f"{a}{b}" for a in ("mean", "iqm", "median") for b in ("", "_low", "_high")
    }


def test_area_under_curve():
    assert area_under_curve([0, 1, 3], [1.0, 3.0, 3.0]) == pytest.approx((2 + 6) / 3)
    steps = np.linspace(1, 2, 2001)
    assert area_under_curve(steps, steps**2) == pytest.approx(7 / 3, abs=1e-6)
    both = area_under_curve([5, 7], [[1.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(both, [2.0, 2.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean([]), r"scores must be of shape \[S\] or \[S, K\], got \(0, 1\)"),
        (lambda: mean(np.zeros((1, 1, 1))), r"scores must be of shape"),
        (lambda: iqm([1.0, np.nan]), "scores must be finite"),
        (lambda: probability_of_improvement([[1.0, 2.0]], [1.0]), "number of tasks must be 2 in"),
        (
            lambda: bootstrap_interval(mean, [1.0], level=1.0),
            "level must be between 0 and 1, got 1",
        ),
        (lambda: bootstrap_interval(mean, [1.0], resamples=0), "resamples must be at least 1, got"),
        (lambda: area_under_curve([1, 1], [0, 0]), "steps must be two or more increasing numbers"),
        (lambda: area_under_curve([1, 2], [0]), "values must be 2, one for each step, got 1"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_everything_is_float64():
    third = np.full((3, 1), 1 / 3, np.float32)
    assert statistics.mean(third) == np.float64(np.float32(1 / 3))
