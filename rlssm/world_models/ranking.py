"""Evaluation on the scenarios: state ranking, state fidelity, and their means over trials.

For each transition of a run in the true world the candidates are the true next state, the
contender's own draw and the distractors; they are shuffled and ordered by the contender's score.
The rank is that of the best candidate equal to the true state:

    R@1 = [rank = 1],  MRR = 1 / rank,  normalised recall = 1 - (rank - 1) / (n - 1).

A trial plays every scenario once, with its own chances. Of a scenario: means over transitions per
trial, then mean and standard deviation over trials. Overall: plain means of the scenarios' means
and of their deviations; beside them a 95 % interval by resampling trials.

Source: One Life to Learn (arXiv 2510.12088), released code; intervals are ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
from tqdm import tqdm

from rlssm.errors import require
from rlssm.world_models.contenders import Contender
from rlssm.world_models.fidelity import fidelity, same
from rlssm.world_models.mutators import PUBLISHED, distractors
from rlssm.world_models.scenarios import Scenario, Transition, play

TRIALS = 10
METRICS = ("r_at_1", "mrr", "recall", "edits", "normalised_edits", "overlap")
_RESAMPLES = 2_000


class Metric(NamedTuple):
    """Mean and standard deviation over trials."""

    mean: float
    deviation: float


class Row(NamedTuple):
    """What one contender reached in one scenario."""

    scenario: Scenario
    transitions: float  # per trial, on average
    candidates: float
    trials: Mapping[str, np.ndarray]  # of each metric, one mean per trial

    def metric(self, name: str) -> Metric:
        values = self.trials[name]
        return Metric(float(values.mean()), float(values.std()))


class Overall(NamedTuple):
    """Means over scenarios of their mean and deviation, and a 95 % interval of the mean."""

    mean: float
    deviation: float
    low: float
    high: float


def rank(scores: Sequence[float], true: Sequence[bool], rng: np.random.Generator) -> int:
    """Return the best rank, from 1, of a true candidate; equal scores fall as `rng` shuffles."""
    order = rng.permutation(len(scores))
    # Any comparison with NaN is false, so that a contender without a score would win: refuse it.
    require(not np.isnan(scores).any(), "a score", list(scores), "a number")
    by_score = sorted(order.tolist(), key=lambda candidate: -scores[candidate])
    return 1 + min(place for place, candidate in enumerate(by_score) if true[candidate])


def judge(
    contender: Contender,
    step: Transition,
    rng: np.random.Generator,
    mutators: tuple[str, ...] = PUBLISHED,
) -> tuple[dict[str, float], int]:
    """Return the metrics of a transition and the number of candidates."""
    drawn = contender.sample(step.state, step.action, rng)
    candidates = [step.after, drawn, *distractors(step.state, step.action, rng, mutators)]
    scores = contender.scores(step.state, step.action, candidates)
    true = [same(candidate, step.after) for candidate in candidates]
    place, count = rank(scores, true, rng), len(candidates)
    edits = fidelity(step.state, drawn, step.after)
    values = (
        float(place == 1), 1 / place, 1 - (place - 1) / (count - 1),
        float(edits.edits), edits.normalised, edits.overlap,
    )  # fmt: skip
    return dict(zip(METRICS, values, strict=True)), count


def evaluate(
    contender: Contender,
    scenarios: Iterable[Scenario],
    trials: int = TRIALS,
    seed: int = 0,
    mutators: tuple[str, ...] = PUBLISHED,
    progress: bool = False,
) -> list[Row]:
    """Return what a contender reaches in each scenario.

    Runs depend on seed, trial and scenario alone, so that contenders meet the same.

    Raises:
      UserError: on fewer than one trial.
    """
    require(trials >= 1, "trials", trials, "at least 1")
    scenarios = list(scenarios)
    bar = tqdm(scenarios, desc=contender.name, disable=not progress, leave=False)
    return [_row(contender, scenario, trials, seed, mutators) for scenario in bar]


def _row(
    contender: Contender, scenario: Scenario, trials: int, seed: int, mutators: tuple[str, ...]
) -> Row:
    means: dict[str, list[float]] = {name: [] for name in METRICS}
    lengths: list[int] = []
    counts: list[int] = []
    for trial in range(trials):
        stream = np.random.SeedSequence([seed, trial, crc32(scenario.id.encode())])
        run_seed, judge_seed = stream.generate_state(2).tolist()
        rng = np.random.default_rng(judge_seed)
        run = play(scenario, run_seed)
        judged = [judge(contender, step, rng, mutators) for step in run]
        for name in METRICS:
            means[name].append(float(np.mean([values[name] for values, _ in judged])))
        lengths.append(len(run))
        counts += [count for _, count in judged]
    return Row(
        scenario,
        float(np.mean(lengths)),
        float(np.mean(counts)),
        {name: np.array(values) for name, values in means.items()},
    )


def overall(rows: Sequence[Row], metric: str) -> Overall:
    """Return a metric over scenarios: unweighted means, and an interval over trials."""
    each = [row.metric(metric) for row in rows]
    per_trial = np.mean([row.trials[metric] for row in rows], axis=0)
    rng = np.random.default_rng(0)
    drawn = per_trial[rng.integers(len(per_trial), size=(_RESAMPLES, len(per_trial)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    mean, deviation = (float(np.mean(values)) for values in zip(*each, strict=True))
    return Overall(mean, deviation, low, high)


def wins(ours: Sequence[Row], theirs: Sequence[Row], metric: str = "mrr") -> int:
    """Return in how many scenarios one contender's mean is above the other's."""
    return sum(
        a.metric(metric).mean > b.metric(metric).mean for a, b in zip(ours, theirs, strict=True)
    )


def chance(candidates: int) -> tuple[float, float]:
    """Return R@1 and MRR of who orders n candidates at random: 1 / n and H_n / n."""
    return 1 / candidates, sum(1 / place for place in range(1, candidates + 1)) / candidates
