"""What Gymnasium's MuJoCo tasks show, pay and end at, as pure functions of physical state.

A task says which model file it runs on and for how many physics steps an action holds, how an
episode starts, what the agent sees, what an action pays and whether the episode is over. How the
physics moves is not its business. Positions of bodies and sites, and forces, are those of
MuJoCo's last evaluation of the dynamics, which lies before the state it ended in: Gymnasium reads
them so, and its observations and rewards are reproduced here.
Source: Gymnasium 1.3 (Towers et al. 2024), the -v5 environments with their default settings.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.types import Key

Scalar = Float[Array, ""]
Inside = Callable[["Physics"], Bool[Array, ""]]


class Physics(NamedTuple):
    """What tasks read of a MuJoCo state, under MuJoCo's names and in SI units."""

    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    xpos: Float[Array, "nbody 3"]
    site_xpos: Float[Array, "nsite 3"]
    qfrc_constraint: Float[Array, " nv"]
    cfrc_ext: Float[Array, "nbody 6"]  # contact forces, without gravity


class Task(NamedTuple):
    """One task: a model file, the physics steps an action holds for, and four functions.

    `start(key, qpos)` draws positions and velocities around the model's initial positions.
    `observe(physics)` is what the agent sees. `position(physics)` is the coordinate whose change
    over an action, per second, is the velocity that `judge(physics, control, velocity)` is given;
    it returns the reward and whether the episode terminates.
    """

    xml: str
    frame_skip: int
    obs_size: int
    action_size: int
    start: Callable[[Key, Array], tuple[Array, Array]]
    observe: Callable[[Physics], Array]
    judge: Callable[[Physics, Array, Scalar], tuple[Scalar, Bool[Array, ""]]]
    position: Callable[[Physics], Scalar] = lambda p: p.qpos[0]
    max_steps: int = 1000


# --- How an episode starts --------------------------------------------------------------------


def _start(key: Key, qpos: Array, nv: int, noise: float, normal: bool) -> tuple[Array, Array]:
    """Return the initial pose under uniform noise, and velocities that are noise alone."""
    pose_key, speed_key = jax.random.split(key)
    pose = qpos + jax.random.uniform(pose_key, qpos.shape, qpos.dtype, -noise, noise)
    if normal:
        return pose, noise * jax.random.normal(speed_key, (nv,), qpos.dtype)
    return pose, jax.random.uniform(speed_key, (nv,), qpos.dtype, -noise, noise)


def _start_reacher(key: Key, qpos: Array) -> tuple[Array, Array]:
    """Return an arm near its initial pose, and a target anywhere in a disc of radius 0.2 m."""
    arm_key, speed_key, radius_key, angle_key = jax.random.split(key, 4)
    arm = qpos[:2] + jax.random.uniform(arm_key, (2,), qpos.dtype, -0.1, 0.1)
    radius = 0.2 * jnp.sqrt(jax.random.uniform(radius_key, (), qpos.dtype))
    angle = 2 * jnp.pi * jax.random.uniform(angle_key, (), qpos.dtype)
    target = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    speed = jax.random.uniform(speed_key, (2,), qpos.dtype, -0.005, 0.005)
    return jnp.concatenate([arm, target]), jnp.concatenate([speed, jnp.zeros(2, qpos.dtype)])


# --- Running: HalfCheetah, Hopper, Walker2d, Swimmer, Ant ---------------------------------------


def _see_body(physics: Physics, skip: int = 1, clip: float = jnp.inf) -> Array:
    """Return positions without the first `skip`, which say where the body is, and velocities."""
    return jnp.concatenate([physics.qpos[skip:], jnp.clip(physics.qvel, -clip, clip)])


def _see_ant(physics: Physics) -> Array:
    return jnp.concatenate([_see_body(physics, skip=2), _pressure(physics)[1:].ravel()])


def _pressure(physics: Physics) -> Array:
    return jnp.clip(physics.cfrc_ext, -1.0, 1.0)


def _run(
    physics: Physics, control: Array, velocity: Scalar, cost: float, healthy: Inside | None = None
) -> tuple[Scalar, Bool[Array, ""]]:
    """Pay the velocity less `cost |control|^2`, and 1 while healthy; end when not healthy."""
    reward = velocity - cost * jnp.sum(control**2)
    if healthy is None:
        return reward, jnp.zeros((), bool)
    alive = healthy(physics)
    return reward + alive, ~alive


def _run_ant(physics: Physics, control: Array, velocity: Scalar) -> tuple[Scalar, Bool[Array, ""]]:
    reward, terminated = _run(physics, control, velocity, 0.5, _ant_stands)
    return reward - 5e-4 * jnp.sum(_pressure(physics) ** 2), terminated


def _hopper_stands(p: Physics) -> Bool[Array, ""]:
    rest = jnp.concatenate([p.qpos[2:], p.qvel])
    return (p.qpos[1] > 0.7) & (jnp.abs(p.qpos[2]) < 0.2) & jnp.all(jnp.abs(rest) < 100)


def _walker_stands(p: Physics) -> Bool[Array, ""]:
    return (p.qpos[1] > 0.8) & (p.qpos[1] < 2.0) & (jnp.abs(p.qpos[2]) < 1.0)


def _ant_stands(p: Physics) -> Bool[Array, ""]:
    finite = jnp.isfinite(p.qpos).all() & jnp.isfinite(p.qvel).all()
    return finite & (p.qpos[2] >= 0.2) & (p.qpos[2] <= 1.0)


# --- Balancing and reaching: the pendulums, Reacher ---------------------------------------------


def _see_all(physics: Physics) -> Array:
    return jnp.concatenate([physics.qpos, physics.qvel])


def _balance(physics: Physics, control: Array, velocity: Scalar) -> tuple[Scalar, Bool[Array, ""]]:
    upright = jnp.isfinite(_see_all(physics)).all() & (jnp.abs(physics.qpos[1]) <= 0.2)
    return upright.astype(physics.qpos.dtype), ~upright


def _see_double(physics: Physics) -> Array:
    cart, angles = physics.qpos[:1], physics.qpos[1:]
    speed = jnp.clip(physics.qvel, -10, 10)
    force = jnp.clip(physics.qfrc_constraint[:1], -10, 10)  # of the rail's ends on the cart
    return jnp.concatenate([cart, jnp.sin(angles), jnp.cos(angles), speed, force])


def _balance_double(
    physics: Physics, control: Array, velocity: Scalar
) -> tuple[Scalar, Bool[Array, ""]]:
    """Pay 10 while the tip is above 1 m, less its distance from upright and the joint speeds."""
    x, _, height = physics.site_xpos[0]
    _, first, second = physics.qvel
    fallen = height <= 1
    cost = 0.01 * x**2 + (height - 2) ** 2 + 1e-3 * first**2 + 5e-3 * second**2
    return jnp.where(fallen, 0.0, 10.0) - cost, fallen


def _see_reacher(physics: Physics) -> Array:
    angles, target = physics.qpos[:2], physics.qpos[2:]
    gap = _gap(physics)[:2]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles), target, physics.qvel[:2], gap])


def _reach(physics: Physics, control: Array, velocity: Scalar) -> tuple[Scalar, Bool[Array, ""]]:
    distance = jnp.linalg.norm(_gap(physics))
    return -distance - jnp.sum(control**2), jnp.zeros((), bool)


def _gap(physics: Physics) -> Array:
    return physics.xpos[3] - physics.xpos[4]  # from the target to the fingertip


TASKS: dict[str, Task] = {
    "HalfCheetah-v5": Task(
        "half_cheetah.xml",
        frame_skip=5,
        obs_size=17,
        action_size=6,
        start=partial(_start, nv=9, noise=0.1, normal=True),
        observe=_see_body,
        judge=partial(_run, cost=0.1),
    ),
    "Hopper-v5": Task(
        "hopper.xml",
        frame_skip=4,
        obs_size=11,
        action_size=3,
        start=partial(_start, nv=6, noise=5e-3, normal=False),
        observe=partial(_see_body, clip=10.0),
        judge=partial(_run, cost=1e-3, healthy=_hopper_stands),
    ),
    "Walker2d-v5": Task(
        "walker2d_v5.xml",
        frame_skip=4,
        obs_size=17,
        action_size=6,
        start=partial(_start, nv=9, noise=5e-3, normal=False),
        observe=partial(_see_body, clip=10.0),
        judge=partial(_run, cost=1e-3, healthy=_walker_stands),
    ),
    "Ant-v5": Task(
        "ant.xml",
        frame_skip=5,
        obs_size=105,
        action_size=8,
        start=partial(_start, nv=14, noise=0.1, normal=True),
        observe=_see_ant,
        judge=_run_ant,
        position=lambda p: p.xpos[1, 0],
    ),
    "InvertedPendulum-v5": Task(
        "inverted_pendulum.xml",
        frame_skip=2,
        obs_size=4,
        action_size=1,
        start=partial(_start, nv=2, noise=0.01, normal=False),
        observe=_see_all,
        judge=_balance,
    ),
    "InvertedDoublePendulum-v5": Task(
        "inverted_double_pendulum.xml",
        frame_skip=5,
        obs_size=9,
        action_size=1,
        start=partial(_start, nv=3, noise=0.1, normal=True),
        observe=_see_double,
        judge=_balance_double,
    ),
    "Reacher-v5": Task(
        "reacher.xml",
        frame_skip=2,
        obs_size=10,
        action_size=2,
        start=_start_reacher,
        observe=_see_reacher,
        judge=_reach,
        max_steps=50,
    ),
    "Swimmer-v5": Task(
        "swimmer.xml",
        frame_skip=4,
        obs_size=8,
        action_size=2,
        start=partial(_start, nv=5, noise=0.1, normal=False),
        observe=partial(_see_body, skip=2),
        judge=partial(_run, cost=1e-4),
    ),
}
