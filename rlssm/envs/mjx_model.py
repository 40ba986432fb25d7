"""Gymnasium's MuJoCo model files: loaded once, in C and on the device, and their inverse weights.

MuJoCo, MJX and Gymnasium are imported where they are used.
"""

import contextlib
import functools
import importlib
import io
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rlssm.errors import UserError

HURDLE = (0.1, 2.0, 0.1)  # m, along the way, across it, and in height


def real(x: Any) -> Array:
    """Return an array of float32, or float64 where JAX is set to it."""
    return jnp.asarray(x, float)


@functools.cache
def mjx() -> Any:
    """Return the module `mujoco.mjx`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports that Warp is not installed
            return importlib.import_module("mujoco.mjx")
    except ImportError as error:
        raise UserError(
            f"environments mjx/... need MuJoCo and MJX ({error}); "
            "install them with: pip install mujoco mujoco-mjx"
        ) from error


def c_mujoco() -> Any:
    """Return the module `mujoco`, whose names no type checker sees: they are compiled."""
    return importlib.import_module("mujoco")


@contextlib.contextmanager
def quiet_mujoco() -> Generator[None, None, None]:
    """Drop MuJoCo's warnings, which it else prints and writes to a file in the current folder."""
    mujoco = c_mujoco()
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)


@functools.cache
def c_model(xml: str, iterations: int | None, hurdles: tuple[float, ...] = ()) -> Any:
    """Return MuJoCo's model of one of Gymnasium's files, not to be changed.

    `hurdles` are places on the x-axis of bars across the way, `HURDLE` in size.
    """
    import gymnasium

    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / xml
    with quiet_mujoco():
        model = _with_hurdles(path, hurdles)
    if iterations is not None:
        model.opt.iterations = model.opt.ls_iterations = iterations
    return model


def _with_hurdles(path: Path, hurdles: tuple[float, ...]) -> Any:
    """Return a file's model, with bars at some places if there are any."""
    mujoco = c_mujoco()
    if not hurdles:
        return mujoco.MjModel.from_xml_path(str(path))
    spec = mujoco.MjSpec.from_file(str(path))
    for x in hurdles:
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[x, 0, HURDLE[2] / 2],
            size=[side / 2 for side in HURDLE],
            contype=0,  # met by bodies alone, not by each other
            conaffinity=1,
        )
    with warnings.catch_warnings():  # the file sets its total mass, which MuJoCo deprecates
        warnings.simplefilter("ignore")
        return spec.compile()


@functools.cache
def on_device(
    xml: str, iterations: int | None, hurdles: tuple[float, ...], dtype: str
) -> tuple[Any, Any]:
    """Return MJX's model and the data of its initial state; `dtype` is what JAX is set to."""
    model = c_model(xml, iterations, hurdles)
    with jax.ensure_compile_time_eval():  # cached values must not belong to one trace
        return mjx().put_model(model), mjx().make_data(model)


# --- Inverse weights --------------------------------------------------------------------------


def inverse_weights(xml: str, mass: Array, inertia: Array) -> tuple[Array, Array]:
    """Return `body_invweight0` and `dof_invweight0` for other masses and moments of inertia.

    With J the Jacobian of a body's inertial frame at the initial positions and D the armature,
        M = sum over bodies of m Jt' Jt + Jr' diag(I) Jr, plus D
    and a body's weights are the means of the diagonals of Jt M^-1 Jt' and Jr M^-1 Jr', a joint's
    are those of its degrees of freedom in M^-1, averaged where they belong together.

    Source: `mj_setConst` of MuJoCo, but for bodies on slides alone, which no task's contacts meet.
    """
    shift, turn, armature, groups, moving = (real(x) for x in _jacobians(xml))
    total = jnp.einsum("b,bik,bil->kl", mass, shift, shift, precision="highest")
    total += jnp.einsum("bi,bik,bil->kl", inertia, turn, turn, precision="highest")
    inverse = jnp.linalg.inv(total + jnp.diag(armature))

    def weights(jacobian: Array) -> Array:
        spread = jnp.einsum("bik,kl,bil->b", jacobian, inverse, jacobian, precision="highest")
        return spread / 3 * moving

    body = jnp.stack([weights(shift), weights(turn)], axis=1)
    return body, jnp.matmul(groups, jnp.diag(inverse), precision="highest")


@functools.cache
def _jacobians(xml: str) -> tuple[np.ndarray, ...]:
    """Return what `inverse_weights` needs of a model.

    Jacobians of positions and of rotations in inertial axes `[nbody, 3, nv]`, the armature `[nv]`,
    the averaging of degrees of freedom `[nv, nv]`, and which bodies can move `[nbody]`.
    """
    mujoco = c_mujoco()
    model = c_model(xml, None)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    shift, turn = np.zeros((2, model.nbody, 3, model.nv))
    for body in range(model.nbody):
        mujoco.mj_jacBodyCom(model, data, shift[body], turn[body], body)
    turn = np.einsum("bij,bik->bjk", data.ximat.reshape(-1, 3, 3), turn)
    groups = np.eye(model.nv)
    for joint, first in zip(model.jnt_type, model.jnt_dofadr, strict=True):
        if int(joint) == int(mujoco.mjtJoint.mjJNT_FREE):
            for three in (slice(first, first + 3), slice(first + 3, first + 6)):
                groups[three, three] = 1 / 3
    return shift, turn, model.dof_armature, groups, model.body_weldid > 0
