"""One picture of one step, for each kind of environment that can be seen.

A drawing is a function `(canvas, env, frame)`; `DRAWINGS` says which environment it belongs to.
Everything is drawn in the environment's own units, on a canvas that knows how many pixels one
of them has.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 480, 320  # pixels
OVERSAMPLING = 2  # drawn larger and scaled down, which smooths the edges

INK, GREY, PALE = "#222222", "#9a9a9a", "#e6e6e6"
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SUIT_COLORS = (BLUE, ORANGE, GREEN, "#CC79A7")
SUIT_NAMES = "ABCD"

Point = tuple[float, float]


class Frame(NamedTuple):
    """One moment of an episode: the state, and the action taken in it (None at the end)."""

    state: Any
    action: np.ndarray | None
    t: int
    episode_return: float


class Canvas:
    """A picture in units of `1/scale` pixels, the origin at its centre, y pointing up."""

    def __init__(self, scale: float) -> None:
        self._unit = scale * OVERSAMPLING
        size = (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING)
        self._image = Image.new("RGB", size, "white")
        self._draw = ImageDraw.Draw(self._image)

    def image(self) -> Image.Image:
        """Return the picture at its final size."""
        return self._image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)

    def line(self, points: Sequence[Point], color: str, width: float) -> None:
        """Draw a line `width` units thick with round ends."""
        pixels = [self._pixel(point) for point in points]
        self._draw.line(pixels, color, max(1, round(width * self._unit)), joint="curve")
        for end in (points[0], points[-1]):
            self.disc(end, width / 2, color)

    def disc(self, center: Point, radius: float, color: str) -> None:
        x, y = self._pixel(center)
        r = radius * self._unit
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def box(self, center: Point, size: Point, fill: str | None, outline: str | None = None) -> None:
        x, y = self._pixel(center)
        w, h = size[0] * self._unit / 2, size[1] * self._unit / 2
        self._draw.rectangle((x - w, y - h, x + w, y + h), fill, outline, 3 * OVERSAMPLING)

    def text(self, position: Point, text: str, color: str = INK, size: int = 15) -> None:
        """Write centred on a position; `size` in pixels."""
        font = ImageFont.load_default(size * OVERSAMPLING)
        self._draw.text(self._pixel(position), text, color, font, anchor="mm")

    def caption(self, text: str) -> None:
        """Write in the lower left corner."""
        corner = (10 * OVERSAMPLING, (HEIGHT - 10) * OVERSAMPLING)
        font = ImageFont.load_default(14 * OVERSAMPLING)
        self._draw.text(corner, text, GREY, font, anchor="ls")

    def _pixel(self, point: Point) -> Point:
        x, y = point
        return (
            WIDTH * OVERSAMPLING / 2 + float(x) * self._unit,
            HEIGHT * OVERSAMPLING / 2 - float(y) * self._unit,
        )


class Drawing(NamedTuple):
    """How to draw a kind of environment: pixels per unit, frames per second, the function."""

    scale: float
    fps: int
    draw: Callable[[Canvas, Any, Frame], None]


# --- Classic control --------------------------------------------------------------------------


def cart_pole(canvas: Canvas, env: Any, frame: Frame) -> None:
    """Cart on a track of 2.4 m to either side, pole of 1 m."""
    x, theta = float(frame.state.x), float(frame.state.theta)
    ground, top = -0.9, -0.65
    canvas.line([(-2.4, ground), (2.4, ground)], GREY, 0.02)
    for end in (-2.4, 2.4):
        canvas.line([(end, ground - 0.1), (end, ground + 0.1)], GREY, 0.02)
    canvas.box((x, ground + 0.14), (0.5, 0.24), INK)
    tip = (x + 1.2 * math.sin(theta), top + 1.2 * math.cos(theta))
    canvas.line([(x, top), tip], ORANGE, 0.09)
    canvas.disc((x, top), 0.04, GREY)
    if frame.action is not None:
        side = 1 if int(frame.action) == 1 else -1
        push = [(x + side * 0.35, ground + 0.14), (x + side * 0.6, ground + 0.14)]
        _arrow(canvas, *push, BLUE, 0.04)


def pendulum(canvas: Canvas, env: Any, frame: Frame) -> None:
    """Rod of 1 m, its angle counter-clockwise from upright, and the torque as an arc."""
    theta = float(frame.state.theta)
    tip = (-math.sin(theta), math.cos(theta))
    canvas.line([(0, 0), tip], ORANGE, 0.16)
    canvas.disc((0, 0), 0.05, INK)
    if frame.action is not None:
        torque = float(np.ravel(frame.action)[0])
        angles = np.linspace(math.pi / 2, math.pi / 2 + 2.5 * torque, 24)
        arc = [(0.45 * math.cos(a), 0.45 * math.sin(a)) for a in angles]
        canvas.line(arc, BLUE, 0.03)
        canvas.disc(arc[-1], 0.05, BLUE)


def mountain_car(canvas: Canvas, env: Any, frame: Frame) -> None:
    """Car in a valley of height sin 3x, the flag at its goal."""

    def place(x: float) -> Point:
        return x + 0.3, 0.45 * math.sin(3 * x) - 0.1

    goal, x = float(env.params.goal_position), float(frame.state.position)
    canvas.line([place(point) for point in np.linspace(-1.2, 0.6, 120)], GREY, 0.012)
    foot = place(goal)
    mast = (foot[0], foot[1] + 0.18)
    canvas.line([foot, mast], INK, 0.012)
    canvas.box((mast[0] + 0.045, mast[1] - 0.03), (0.09, 0.06), RED)
    at = place(x)
    canvas.disc((at[0], at[1] + 0.04), 0.045, ORANGE)
    if frame.action is not None:
        force = _force(env, frame.action)
        if force:
            start = (at[0] + math.copysign(0.06, force), at[1] + 0.04)
            _arrow(canvas, start, (start[0] + 0.12 * force, start[1]), BLUE, 0.015)


def acrobot(canvas: Canvas, env: Any, frame: Frame) -> None:
    """Two links of 1 m hanging from the origin; the tip must rise above the line."""
    first = float(frame.state.joint_angle1)
    second = first + float(frame.state.joint_angle2)
    elbow = (math.sin(first), -math.cos(first))
    tip = (elbow[0] + math.sin(second), elbow[1] - math.cos(second))
    canvas.line([(-2.2, 1), (2.2, 1)], GREEN, 0.02)
    canvas.line([(0, 0), elbow], BLUE, 0.16)
    canvas.line([elbow, tip], ORANGE, 0.16)
    for joint in ((0.0, 0.0), elbow):
        canvas.disc(joint, 0.05, INK)


def point_world(canvas: Canvas, env: Any, frame: Frame) -> None:
    """The point, its way from where it began as the crow flies, and walls in a maze."""
    size, middle = env.extent
    scale = min(WIDTH / size[0], HEIGHT / size[1])

    def place(x: Any) -> Point:
        return scale * (float(x[0]) - middle[0]), scale * (float(x[1]) - middle[1])

    for cell in env.wall_cells:
        canvas.box(place(cell + 0.5), (scale, scale), GREY)
    start, now = place(frame.state.start), place(frame.state.position)
    canvas.line([start, now], PALE, 3)
    canvas.disc(start, 4, BLUE)
    canvas.disc(now, 6, ORANGE)


def _force(env: Any, action: np.ndarray) -> float:
    """Return a push in [-1, 1] from a discrete action (0 left, 1 none, 2 right) or a real one."""
    value = float(np.ravel(action)[0])
    return value if np.issubdtype(np.asarray(action).dtype, np.floating) else value - 1


def _arrow(canvas: Canvas, start: Point, end: Point, color: str, width: float) -> None:
    canvas.line([start, end], color, width)
    side = math.copysign(2.5 * width, end[0] - start[0])
    for up in (1, -1):
        canvas.line([end, (end[0] - side, end[1] + up * 2.5 * width)], color, width)


# --- Memory tasks -----------------------------------------------------------------------------


def cards(canvas: Canvas, env: Any, frame: Frame) -> None:
    """All cards dealt so far, in reading order; the one asked for is framed.

    What is drawn is the truth. The player sees the last card dealt alone.
    """
    deck = frame.state.deck
    asked = int(env.asked(frame.state.time)) if frame.t >= env.first_question else -1
    columns = 13 if len(deck) <= 52 else 26 if len(deck) <= 260 else 52
    size = 460 / columns
    for i, suit in enumerate(deck):
        row, column = divmod(i, columns)
        at = ((column + 0.5) * size - 230, 150 - (row + 0.5) * size)
        canvas.box(at, (0.8 * size, 0.8 * size), PALE if suit < 0 else SUIT_COLORS[suit])
        if i == asked:
            canvas.box(at, (1.1 * size, 1.1 * size), None, INK)
    _labelled(canvas, (-120, -100), "shown", int(deck[frame.t]) if frame.t < len(deck) else -1)
    if frame.action is not None and asked >= 0:
        _labelled(canvas, (0, -100), "answer", int(frame.action))
        _verdict(canvas, (120, -100), right=int(frame.action) == deck[asked])


def memory_chain(canvas: Canvas, env: Any, frame: Frame) -> None:
    """The cue, the way to the question, and the answer."""
    canvas.text((-150, 70), "cue" if frame.t == 0 else "cue, no longer shown")
    cue = int(frame.state.cue)
    canvas.box((-150, 20), (60, 60), SUIT_COLORS[cue])
    canvas.line([(-200, -60), (200, -60)], PALE, 8)
    done = 400 * min(1.0, frame.t / env.length) - 200
    canvas.line([(-200, -60), (done, -60)], GREY, 8)
    if frame.action is not None and frame.t >= env.length:
        answer = int(frame.action)
        canvas.text((150, 70), "answer")
        canvas.box((150, 20), (60, 60), SUIT_COLORS[answer])
        _verdict(canvas, (0, 20), right=answer == cue)


def _labelled(canvas: Canvas, at: Point, label: str, suit: int) -> None:
    x, y = at
    canvas.text((x, y + 35), label)
    if suit >= 0:
        canvas.box(at, (40, 40), SUIT_COLORS[suit])
        canvas.text(at, SUIT_NAMES[suit], "white", 20)
    else:
        canvas.text(at, "nothing", GREY)


def _verdict(canvas: Canvas, at: Point, *, right: bool) -> None:
    canvas.text(at, "right" if right else "wrong", GREEN if right else RED, 22)


DRAWINGS: dict[str, Drawing] = {
    "CartPole": Drawing(85, 50, cart_pole),
    "Pendulum": Drawing(110, 20, pendulum),
    "MountainCar": Drawing(240, 30, mountain_car),
    "Acrobot": Drawing(68, 15, acrobot),
    "PointWorld": Drawing(1, 20, point_world),
    "RepeatPrevious": Drawing(1, 4, cards),
    "RepeatFirst": Drawing(1, 4, cards),
    "Autoencode": Drawing(1, 4, cards),
    "MemoryChain": Drawing(1, 10, memory_chain),
}
