"""Learning curves as pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from rlssm.errors import UserError, require

# Okabe and Ito's palette: told apart by the colour-blind too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


class Curve(NamedTuple):
    """A metric over a run: steps `[N]`, and values `[N, S]`, NaN where a member has none."""

    steps: Shaped[np.ndarray, " N"]
    values: Float[np.ndarray, "N S"]


def learning_curves(
    path: Path,
    curves: Mapping[str, Curve],
    *,
    metric: str,
    title: str = "",
    smooth: int = 1,
    lines: Mapping[str, float] | None = None,
) -> None:
    """Draw runs over each other: mean over members, 95 % interval, single members thin.

    Args:
        path: where to write the picture; its suffix says in what format (`.png`, `.pdf`, `.svg`).
        curves: one for each run, by the name it gets in the legend.
        metric: what is drawn; the label of the vertical axis.
        title: written above.
        smooth: number of points of the centred running mean taken of each member, odd.
        lines: values to draw a dashed line at, by the name each gets in the legend.

    Raises:
        UserError: if there is nothing to draw, or if the picture cannot be written.
    """
    require(len(curves) > 0, "curves", dict(curves), "one or more")
    require(smooth >= 1 and smooth % 2 == 1, "smooth", smooth, "odd and at least 1")
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, (name, curve) in enumerate(curves.items()):
            _draw(axes, name, curve, COLORS[i % len(COLORS)], smooth)
        for i, (name, value) in enumerate((lines or {}).items(), len(curves)):
            axes.axhline(value, color=COLORS[i % len(COLORS)], ls="--", lw=1.5, label=name)
        axes.set(xlabel="steps", ylabel=metric, title=title)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0.01)
        if len(curves) > 1 or lines:
            axes.legend(loc="best")
        save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture in the format that its suffix says.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from None


def _draw(axes: Axes, name: str, curve: Curve, color: str, smooth: int) -> None:
    values = np.stack([_running_mean(member, smooth) for member in curve.values.T], axis=1)
    some = ~np.all(np.isnan(values), axis=1)
    if not some.any():
        raise UserError(f"{name} has no value to draw; train it for longer")
    steps, values = curve.steps[some], values[some]
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, np.nanmean(values, axis=1), color=color, lw=2, label=name, marker=marker)
    if values.shape[1] > 1:
        axes.plot(steps, values, color=color, lw=0.6, alpha=0.3)
        axes.fill_between(steps, *_band(values), color=color, alpha=0.2, lw=0)


def adaptation_curves(
    path: Path, curves: Mapping[str, Float[np.ndarray, "S K"]], *, title: str = ""
) -> None:
    """Draw scores by the episode of a trial: mean over members, 95 % interval, members thin.

    Args:
        path: where to write the picture; its suffix says in what format.
        curves: scores of episode 1 to K, one table for each name in the legend.
        title: written above.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for i, (name, table) in enumerate(curves.items()):
            curve = Curve(np.arange(1, table.shape[1] + 1), table.T)
            _draw(axes, name, curve, COLORS[i % len(COLORS)], 1)
        axes.set(xlabel="episode of the trial", ylabel="score", title=title)
        axes.legend(loc="best")
        save_figure(figure, path)


def _band(values: Float[np.ndarray, "N S"], resamples: int = 1_000) -> Float[np.ndarray, "2 N"]:
    """Return the 95 % bootstrap interval of the mean, NaN where a member has no value.

    Every point is computed from the same draws of members, so that the band is as smooth as the
    curves are.
    """
    members = values.shape[1]
    draws = np.random.default_rng(0).integers(members, size=(resamples, members))
    means = np.stack([values[:, draw].mean(axis=1) for draw in draws])
    return np.quantile(means, [0.025, 0.975], axis=0)


def _running_mean(x: Float[np.ndarray, " N"], width: int) -> Float[np.ndarray, " N"]:
    """Return the mean of the values in a centred window, cut off at the ends; NaN is no value."""
    window = np.ones(width)
    known = ~np.isnan(x)
    counts = np.convolve(known, window, "same")
    sums = np.convolve(np.where(known, x, 0), window, "same")
    return np.where(known, sums / np.maximum(counts, 1), np.nan)
