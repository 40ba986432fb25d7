"""An episode as an animated GIF."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from rlssm.envs.base import Environment
from rlssm.envs.cards import CardGame
from rlssm.envs.gymnax_env import GymnaxEnvironment
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.point_pixels import PixelWorld
from rlssm.envs.stateless import StatelessCartPole, StatelessPendulum
from rlssm.envs.wrappers import HideObservation, ObservationNoise, TimeLimit
from rlssm.errors import UserError, require
from rlssm.evaluation.drawings import DRAWINGS, HEIGHT, WIDTH, Canvas, Drawing, Frame
from rlssm.evaluation.evaluate import Recording

MAX_FRAMES = 1_000  # of a longer episode only every n-th step is drawn
LAST_FRAME_SECONDS = 1.0


def save_gif(path: Path, env: Environment, recording: Recording, *, fps: int | None = None) -> None:
    """Write an episode as an animated GIF that repeats for ever.

    Args:
        path: where to write it.
        env: the environment it was recorded in, wrapped or not.
        recording: from `rlssm.evaluation.evaluate.record`.
        fps: steps shown per second, from 1 to 50; default the pace that suits the environment.

    Raises:
        UserError: if the environment has no drawing, or if the file cannot be written.
    """
    drawing = drawing_of(env)
    _write(path, list(_images(env, recording, drawing)), drawing.fps if fps is None else fps)


def save_gif_of_several(path: Path, env: Environment, recordings: Sequence[Recording]) -> None:
    """Write episodes of one environment side by side, in rows of four, as an animated GIF.

    One that ends before the others stays as it ended.

    Raises:
        UserError: if the environment has no drawing, or if the file cannot be written.
    """
    drawing = drawing_of(env)
    episodes = [list(_images(env, recording, drawing)) for recording in recordings]
    width, height = WIDTH // 2, HEIGHT // 2
    columns = min(4, len(episodes))
    size = (columns * width, math.ceil(len(episodes) / columns) * height)
    frames = []
    for t in range(max(map(len, episodes))):
        sheet = Image.new("RGB", size, "white")
        for i, images in enumerate(episodes):
            image = images[min(t, len(images) - 1)].resize((width, height))
            sheet.paste(image, (i % columns * width, i // columns * height))
        frames.append(sheet)
    _write(path, frames, drawing.fps)


def _write(path: Path, images: list[Image.Image], fps: int) -> None:
    require(1 <= fps <= 50, "fps", fps, "from 1 to 50")
    durations = [1_000 // fps] * (len(images) - 1) + [round(1_000 * LAST_FRAME_SECONDS)]
    try:
        images[0].save(
            path,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=durations,
            loop=0,
        )
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def drawing_of(env: Environment) -> Drawing:
    """Return how an environment is drawn; wrapped ones look like what they wrap.

    Raises:
        UserError: if it has no drawing, naming those that have.
    """
    bare, _ = _unwrap(env, None)
    name = _kind(bare)
    if name not in DRAWINGS:
        raise UserError(
            f"{name} has no drawing, so no episode of it can be rendered; these have one: "
            f"{', '.join(DRAWINGS)}"
        )
    return DRAWINGS[name]


def _images(env: Environment, recording: Recording, drawing: Drawing) -> Iterator[Image.Image]:
    bare, states = _unwrap(env, recording.states)
    length = len(recording.reward)
    returns = np.concatenate([[0.0], np.cumsum(recording.reward, dtype=np.float64)])
    stride = math.ceil(length / MAX_FRAMES)
    for t in [*range(0, length, stride), length]:
        frame = Frame(
            state=jax.tree.map(lambda x, t=t: np.asarray(x[t]), states),
            action=recording.action[t] if t < length else None,
            t=t,
            episode_return=float(returns[t]),
        )
        canvas = Canvas(drawing.scale)
        drawing.draw(canvas, bare, frame)
        canvas.caption(f"step {t}   return {frame.episode_return:.2f}")
        yield canvas.image()


def _unwrap(env: Environment, states: Any) -> tuple[Any, Any]:
    """Return the innermost environment and the part of the states that belongs to it."""
    while isinstance(env, HideObservation | ObservationNoise | TimeLimit | PixelWorld):
        if isinstance(env, TimeLimit) and states is not None:
            states = states.inner
        env = env.env
    return env, states


def _kind(env: Any) -> str:
    """Return the name of an environment's drawing, or its own name where there is none."""
    match env:
        case StatelessCartPole():
            return "CartPole"
        case StatelessPendulum():
            return "Pendulum"
        case CardGame() | MemoryChain():
            return type(env).__name__
        case GymnaxEnvironment():
            name = env.env.name.partition("-")[0].removesuffix("Continuous")
            return env.name if env.env.name.endswith("-bsuite") else name
        case _:
            return type(env).__name__
