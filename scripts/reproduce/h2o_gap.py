"""Where a simulator is wrong, as H2O sees it: the gap over the states of Pendulum.

    python scripts/reproduce/h2o_gap.py [--run DIRECTORY] [--out FILE]

Trains H2O on pendulum/mixed with a simulator of doubled gravity (about a minute on a CPU), then
draws pictures over angle and speed, without torque: the gap u that its discriminators estimate
around the simulator's next state, with the published spread and a twentieth of it, and how far the
next speeds of simulator and reality really lie apart. Where they look alike, the discriminators
have found what is wrong.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlssm import EnvConfig, Run, RunConfig, SimulatorConfig, fit
from rlssm.algorithms import h2o
from rlssm.types import Previous, Trajectory, Transition

POINTS = 61
SECONDS, PULL, TOP_SPEED = 0.05, 15.0, 8.0  # of a step; Pendulum-v1 with g = 10, m = l = 1
AGENT = h2o.PRESETS["small"]


def states() -> np.ndarray:
    """Return angle and speed of a grid, `[POINTS, POINTS, 2]`, angle 0 upright."""
    grid = np.meshgrid(
        np.linspace(-np.pi, np.pi, POINTS), np.linspace(-TOP_SPEED, TOP_SPEED, POINTS)
    )
    return np.stack(grid, axis=-1)


def after(state: np.ndarray, gravity: float) -> np.ndarray:
    """Return angle and speed one step later, without torque."""
    angle, speed = state[..., 0], state[..., 1]
    speed = np.clip(speed + SECONDS * gravity * PULL * np.sin(angle), -TOP_SPEED, TOP_SPEED)
    return np.stack([angle + SECONDS * speed, speed], axis=-1)


def observed(state: np.ndarray) -> np.ndarray:
    """Return cosine, sine and speed."""
    return np.stack([np.cos(state[..., 0]), np.sin(state[..., 0]), state[..., 1]], axis=-1)


def estimated(run: Run, scale: float) -> np.ndarray:
    """Return the gap u on the grid at a `gap_scale`, by the last discriminators of member 0."""
    gravity = run.config.sim.gravity
    obs, next_obs = (
        jnp.float32(observed(x)).reshape(1, -1, 3) for x in (states(), after(states(), gravity))
    )
    action, flags = jnp.zeros((*obs.shape[:2], 1)), jnp.ones(obs.shape[:2], bool)
    step = Transition(obs, action, jnp.zeros(flags.shape), next_obs, ~flags, ~flags, {})
    previous = Previous(action[0], jnp.zeros(flags.shape[1]))
    batch = Trajectory(step, flags, flags, flags, None, previous)
    agent = jax.tree.map(lambda x: x[0], run.state("last").agent)
    config = replace(run.config.agent, gap_samples=100, gap_scale=scale)
    _, gap = h2o.judge(config, run.env.spec, agent, batch, jax.random.key(0))
    return np.asarray(gap).reshape(POINTS, POINTS)


def draw(run: Run, out: Path) -> None:
    """Draw the estimated gap beside the true difference."""
    true = np.abs(after(states(), run.config.sim.gravity) - after(states(), 1.0))[..., 1]
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    pictures = {
        "gap u, spread σ": estimated(run, 1.0),
        "gap u, spread σ / 20": estimated(run, 0.05),
        "true difference of next speeds": true,
    }
    for axes, (title, values) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        extent = (-np.pi, np.pi, -TOP_SPEED, TOP_SPEED)
        image = axes.imshow(values, origin="lower", extent=extent, aspect="auto")
        figure.colorbar(image, ax=axes)
        axes.set(title=title, xlabel="angle, 0 upright", ylabel="speed")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/h2o-gap"))
    parser.add_argument("--out", type=Path, default=Path("results/h2o/pendulum-gap.png"))
    parser.add_argument("--steps", type=int, default=6000)
    args = parser.parse_args()
    config = RunConfig(
        EnvConfig("dataset"), AGENT, "pendulum/mixed", SimulatorConfig(gravity=2.0), args.steps
    )
    draw(fit(config, args.run, progress=False), args.out)
    print(f"drawn to {args.out}")
