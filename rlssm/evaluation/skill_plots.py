"""Pictures of skills: where they lead, and what a representation makes of it."""

from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlssm.evaluation.plots import STYLE, save_figure
from rlssm.evaluation.skills import Roamed


def trajectories(
    path: Path, roamed: Roamed, skill: Float[np.ndarray, "N K"], *, title: str = ""
) -> None:
    """Draw the way of each skill over the plane, coloured by skill.

    Where one coordinate alone moves it is drawn over time.

    Raises:
        UserError: if the picture cannot be written.
    """
    position, colors = np.asarray(roamed.position), skill_colors(skill)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(5.4, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        flat = not position[..., 1].any()
        for way, color in zip(position.swapaxes(0, 1), colors, strict=True):
            x, y = (np.arange(len(way)), way[:, 0]) if flat else way.T
            axes.plot(x, y, color=color, lw=1)
        names = ("step", "x") if flat else ("x", "y")
        axes.set(xlabel=names[0], ylabel=names[1], title=title)
        if not flat:
            axes.set_aspect("equal", adjustable="datalim")
        save_figure(figure, path)


def representation(
    path: Path, roamed: Roamed, skill: Float[np.ndarray, "N K"], *, title: str = ""
) -> None:
    """Draw the two components of φ that vary most against each other, and φ against position.

    Raises:
        UserError: if the picture cannot be written.
    """
    position = np.asarray(roamed.position, np.float64)
    embedding = np.asarray(roamed.embedding, np.float64)
    most = np.argsort(embedding.reshape(-1, embedding.shape[-1]).var(0))[::-1][:2]
    colors = np.repeat(skill_colors(skill)[None], len(position), 0).reshape(-1, 4)
    dots: dict[str, Any] = {"c": colors, "s": 2, "lw": 0}
    moved = [i for i in range(2) if position[..., i].any()]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(4.2 * (1 + len(moved)), 4), layout="constrained")
        FigureCanvasAgg(figure)
        first, *others = np.ravel(figure.subplots(1, 1 + len(moved)))
        x, y = (embedding[..., i].ravel() for i in (most[0], most[-1]))
        first.scatter(x, y, **dots)
        first.set(xlabel=f"φ{most[0]}", ylabel=f"φ{most[-1]}", title=title)
        for axis, axes in zip(moved, others, strict=True):
            chosen = _most_alike(position[..., axis].ravel(), embedding)
            axes.scatter(position[..., axis].ravel(), embedding[..., chosen].ravel(), **dots)
            axes.set(xlabel="xy"[axis], ylabel=f"φ{chosen}")
        save_figure(figure, path)


def skill_colors(skill: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N 4"]:
    """Return a colour for each skill: by its direction, or of its own where it is one of several.

    Of more than two dimensions the first two say the direction.
    """
    skill = np.asarray(skill)
    one_hot = np.isin(skill, (0, 1)).all() and (skill.sum(-1) == 1).all()
    if one_hot or skill.shape[-1] == 1:
        place = skill.argmax(-1) / skill.shape[-1] if one_hot else (skill[:, 0] > 0) / 2
    else:
        place = np.arctan2(skill[:, 1], skill[:, 0]) / (2 * np.pi) % 1
    return colormaps["hsv"](place)


def _most_alike(x: Float[np.ndarray, " M"], embedding: Float[np.ndarray, "*any K"]) -> int:
    """Return the component that goes most nearly with a coordinate, up to its sign."""
    y = embedding.reshape(len(x), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [abs(np.corrcoef(x, column)[0, 1]) for column in y.T]
    return int(np.argmax(np.nan_to_num(found)))
