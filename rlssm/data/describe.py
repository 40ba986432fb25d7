"""A dataset in numbers, and as a picture of its returns and lengths."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rlssm.data.dataset import DatasetInfo, OfflineDataset
from rlssm.data.scores import normalise, references
from rlssm.errors import UserError
from rlssm.types import Box, DictSpace, Discrete, Space

QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "max": 1.0}


class Summary(NamedTuple):
    """The episodes of a dataset: undiscounted returns and lengths, and how they ended."""

    returns: Float[np.ndarray, " E"]
    lengths: Int[np.ndarray, " E"]
    terminated: int  # episodes that ended in a termination; the others were truncated


def summarise(dataset: OfflineDataset) -> Summary:
    """Return each episode's return, summed in float64, and length."""
    data = jax.device_get(dataset)
    return Summary(
        returns=np.add.reduceat(data.reward.astype(np.float64), data.start),
        lengths=np.diff(data.start, append=data.num_steps),
        terminated=int(data.terminated.sum()),
    )


def describe(dataset: OfflineDataset) -> str:
    """Return a dataset's counts, spaces, return quantiles and normalised scores, as lines."""
    info, summary = dataset.info, summarise(dataset)
    episodes = len(summary.returns)
    lines = [
        f"{info.id}: {dataset.num_steps:,} steps in {episodes:,} episodes, "
        f"{summary.terminated:,} terminated, {episodes - summary.terminated:,} truncated",
        f"  observations: {in_words(info.spec.obs)}",
        f"  actions: {in_words(info.spec.action)}{_scale(info)}",
        f"  return: {_quantiles(summary.returns)}",
        f"  length: {_quantiles(summary.lengths)}",
    ]
    for reference in references(info.id, info.env, info.reference):
        score = normalise(float(summary.returns.mean()), reference)
        lines.append(f"  mean return normalised: {score:.1f} by {reference.source}")
    if info.env is not None:
        lines.append(f"  environment: {info.env}")
    lines += [f"  {name}: {text}" for name, text in info.provenance]
    lines += [f"  transform: {text}" for text in info.transforms]
    return "\n".join(lines)


def picture(path: Path, dataset: OfflineDataset) -> None:
    """Draw histograms of the episodes' returns and lengths.

    Args:
        path: the file; its suffix says in what format (`.png`, `.pdf`, `.svg`).
        dataset: what to draw.

    Raises:
        UserError: if the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    summary = summarise(dataset)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{dataset.info.id}: {dataset.num_steps:,} steps")
    columns = {"episode return": summary.returns, "episode length [steps]": summary.lengths}
    for axes, (label, values) in zip(figure.subplots(1, 2), columns.items(), strict=True):
        axes.hist(values, bins=_bins(values), color="#0072B2")
        axes.set(xlabel=label, ylabel="episodes")
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from None


def in_words(space: Space) -> str:
    """Return a space as `float32[17]`, or `one of 3`."""
    match space:
        case Discrete(n):
            return f"one of {n}"
        case Box(shape, dtype):
            return f"{dtype}[{', '.join(map(str, shape))}]"
        case DictSpace(parts):
            return ", ".join(f"{name} {in_words(part)}" for name, part in parts)


def _bins(values: np.ndarray, most: int = 40) -> np.ndarray:
    """Return bin edges; values that hardly differ share one bin of visible width."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(1.0, abs(low)):
        return np.array([low - 0.5, low + 0.5])
    return np.linspace(low, high, min(most, max(8, len(values) // 4)) + 1)


def _quantiles(values: np.ndarray) -> str:
    found = np.quantile(values, list(QUANTILES.values()))
    named = (f"{name} {value:.6g}" for name, value in zip(QUANTILES, found, strict=True))
    return f"mean {values.mean():.6g}, {', '.join(named)}"


def _scale(info: DatasetInfo) -> str:
    if not isinstance(info.spec.action, Box):
        return ""
    low, high = info.bounds
    if np.all(low == low[0]) and np.all(high == high[0]):
        return f", [-1, 1] stands for [{low[0]:g}, {high[0]:g}]"
    entries = (f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True))
    return f", [-1, 1] stands for {' '.join(entries)}"
