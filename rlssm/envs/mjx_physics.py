"""One physics step of MuJoCo on MJX, as MuJoCo's own C code takes it.

MJX's building blocks are called in MuJoCo's order rather than through `mjx.step`, because MJX 3.17
departs from MuJoCo 4.0 in two ways: it turns the friction axes away from a steep capsule on a
plane, and its Runge-Kutta method averages the angular velocities of a free joint as if rotations
commuted. After one action that put Ant's velocities wrong by 0.9 and by 0.002 (99th percentiles).
Also, the four evaluations of a Runge-Kutta step are one compiled loop body here, not four copies,
which divides the time to compile by three.
Source: MuJoCo 4.0, chapter "Computation" of its documentation (Todorov et al. 2012).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rlssm.envs import mjx_model
from rlssm.envs.locomotion import Physics

# What a stage of the Runge-Kutta method starts from the stage before with, and counts for.
STAGES = np.array([[0, 1 / 6], [1 / 2, 1 / 3], [1 / 2, 1 / 3], [1, 1 / 6]])
SMALL_ANGLE = 0.1  # rad; below it a series is exact, and the formula would cancel
SHORT = 1e-6  # below it a capsule stands upright, and has no direction along the plane


def step(model: Any, data: Any, physics: Physics, warmstart: Array) -> tuple[Physics, Array]:
    """Return the state and the solver's warm start after one time step of the model.

    `data` supplies the control and everything that MuJoCo overwrites.
    """
    data = data.replace(qacc_warmstart=warmstart)
    if int(model.opt.integrator) == int(mjx_model.c_mujoco().mjtIntegrator.mjINT_RK4):
        return _runge_kutta(model, data, physics)
    after = _forward(model, data.replace(qpos=physics.qpos, qvel=physics.qvel))
    moved = mjx_model.mjx().euler(model, after)
    return read(model, after)._replace(qpos=moved.qpos, qvel=moved.qvel), after.qacc


def read(model: Any, data: Any) -> Physics:
    """Return what tasks read of MJX's data."""
    return Physics(
        qpos=data.qpos,
        qvel=data.qvel,
        xpos=data.xpos,
        site_xpos=data.site_xpos,
        qfrc_constraint=data.qfrc_constraint,
        cfrc_ext=mjx_model.mjx().rne_postconstraint(model, data)._impl.cfrc_ext,
    )


def _runge_kutta(model: Any, data: Any, physics: Physics) -> tuple[Physics, Array]:
    """Return the state after a step of order 4; forces and bodies are those of its last stage.

    Positions are integrated in the space of displacements from the first, in which a free joint's
    rotation advances at `_rates`, not at its angular velocity (Munthe-Kaas 1998).
    """
    qpos, qvel, dt = physics.qpos, physics.qvel, model.opt.timestep

    def stage(carry: Any, weights: Array) -> tuple[Any, None]:
        mean_rate, mean_acceleration, rate, acceleration, _ = carry
        start, share = weights
        shift = dt * start * rate
        velocity = qvel + dt * start * acceleration
        after = _forward(model, data.replace(qpos=_displaced(qpos, shift), qvel=velocity))
        rate = velocity if qpos.size == qvel.size else _rates(shift, velocity)
        mean_rate += share * rate
        mean_acceleration += share * after.qacc
        return (mean_rate, mean_acceleration, rate, after.qacc, read(model, after)), None

    zero = jnp.zeros_like(qvel)
    stages = jnp.asarray(STAGES, qvel.dtype)
    out, _ = jax.lax.scan(stage, (zero, zero, zero, zero, physics), stages)
    rate, acceleration, _, warmstart, seen = out
    moved = _displaced(qpos, dt * rate)
    return seen._replace(qpos=moved, qvel=qvel + dt * acceleration), warmstart


def _forward(model: Any, data: Any) -> Any:
    """Return data with the accelerations and forces that belong to its positions and velocities."""
    mjx = mjx_model.mjx()
    data = mjx.com_pos(model, mjx.kinematics(model, data))
    data = mjx.factor_m(model, mjx.crb(model, mjx.tendon(model, data)))
    data = _along_capsules(model, mjx.collision(model, data))
    data = mjx.transmission(model, mjx.make_constraint(model, data))
    data = mjx.fwd_actuation(model, mjx.fwd_velocity(model, data))
    return mjx.solve(model, mjx.fwd_acceleration(model, data))


def _along_capsules(model: Any, data: Any) -> Any:
    """Turn the first friction axis of every contact of a capsule with a plane along the capsule."""
    kinds = mjx_model.c_mujoco().mjtGeom
    contact = data._impl.contact
    if contact.dim.size == 0:
        return data
    kind = jnp.asarray(model.geom_type)[contact.geom]
    lying = (kind[:, 0] == int(kinds.mjGEOM_PLANE)) & (kind[:, 1] == int(kinds.mjGEOM_CAPSULE))
    normal = contact.frame[:, 0]
    axis = data.geom_xmat[contact.geom[:, 1], :, 2]
    along = axis - normal * jnp.sum(normal * axis, axis=1, keepdims=True)
    length = jnp.linalg.norm(along, axis=1, keepdims=True)
    first = along / jnp.maximum(length, SHORT)
    frame = jnp.stack([normal, first, jnp.cross(normal, first)], axis=1)
    turn = lying & (length[:, 0] > SHORT)
    frame = jnp.where(turn[:, None, None], frame, contact.frame)
    return data.tree_replace({"_impl.contact.frame": frame})


def _displaced(qpos: Array, by: Array) -> Array:
    """Return positions moved by a velocity times a duration; a free joint may only come first."""
    if qpos.size == by.size:
        return qpos + by
    body, turn, joints = qpos[:7], by[3:6], qpos[7:] + by[6:]
    return jnp.concatenate([body[:3] + by[:3], _turned(body[3:], turn), joints])


def _rates(shift: Array, velocity: Array) -> Array:
    """Return the rates at which displacements from a pose grow where they have reached `shift`.

    With the rotation vector u and the angular velocity w of a free joint, in its own frame,
        du/dt = w + u x w / 2 + g u x (u x w),  g = (1 - |u|/2 cot(|u|/2)) / |u|^2
    """
    u, w = shift[3:6], velocity[3:6]
    square = jnp.sum(u**2)
    half = jnp.sqrt(jnp.maximum(square, SMALL_ANGLE**2)) / 2
    series = 1 / 12 + square / 720 + square**2 / 30240
    exact = (1 - half / jnp.tan(half)) / (4 * half**2)
    g = jnp.where(square < SMALL_ANGLE**2, series, exact)
    across = jnp.cross(u, w)
    rate = w + across / 2 + g * jnp.cross(u, across)
    return jnp.concatenate([velocity[:3], rate, velocity[6:]])


def _turned(quaternion: Array, by: Array) -> Array:
    """Return a unit quaternion turned by a rotation vector in its own frame."""
    angle = jnp.linalg.norm(by)
    w = jnp.cos(angle / 2)
    x, y, z = by / 2 * jnp.sinc(angle / 2 / jnp.pi)
    a, b, c, d = quaternion
    product = jnp.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ]
    )
    return product / jnp.linalg.norm(product)
