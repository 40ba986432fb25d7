"""Gymnasium's MuJoCo tasks on MJX, MuJoCo written in JAX, behind this library's contract.

Ids `mjx/<task>` use Gymnasium's model files with the solver settings in them. Ids `mjx-fast/<task>`
stop the solver after 4 Newton iterations of 4 line-search iterations each: several times faster on
a GPU, at an error that `results/benchmark/mjx-accuracy.json` tables against Gymnasium.

The state is what MuJoCo carries from one physics step to the next, the solver's warm start
included, so that rollouts behave like Gymnasium's; everything else is rebuilt within a step.
One departure: where MuJoCo restarts a simulation that diverged, here the episode terminates.
Source: MuJoCo MJX (Todorov et al. 2012; DeepMind), Gymnasium's -v5 environments.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs import mjx_model, mjx_physics
from rlssm.envs.base import Step
from rlssm.envs.locomotion import TASKS, Physics, Task
from rlssm.envs.mjx_model import real
from rlssm.types import Box, Key, Spec

if TYPE_CHECKING:
    from rlssm.envs.perturbed import Scales

FAMILIES: dict[str, int | None] = {"mjx": None, "mjx-fast": 4}  # iterations, None: the file's
IDS: tuple[str, ...] = tuple(f"{family}/{task}" for family in FAMILIES for task in TASKS)

DIVERGED = 1e10  # MuJoCo's own bound on positions and velocities


class MjxParams(NamedTuple):
    """The fields of a MuJoCo model that a perturbation may change, under MuJoCo's names.

    The two inverse weights follow from the masses; `scaled` keeps them in step.
    """

    gravity: Float[Array, "3"]
    geom_friction: Float[Array, "ngeom 3"]
    body_mass: Float[Array, " nbody"]
    body_inertia: Float[Array, "nbody 3"]
    actuator_gear: Float[Array, "nu 6"]
    body_invweight0: Float[Array, "nbody 2"]
    dof_invweight0: Float[Array, " nv"]


class MjxState(NamedTuple):
    """Positions, velocities, the solver's warm start, and what episodes are measured by.

    `position` is the coordinate that progress is measured from; `time` counts steps.
    """

    qpos: Float[Array, " nq"]
    qvel: Float[Array, " nv"]
    qacc_warmstart: Float[Array, " nv"]
    position: Float[Array, ""]
    time: Int[Array, ""]


class Outcome(NamedTuple):
    """What an action led to, in the precision of the physics; not `sane` where it diverged."""

    obs: Float[Array, " D"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    sane: Bool[Array, ""]


@dataclass(frozen=True)
class MjxEnvironment:
    """One of `locomotion.TASKS` on MJX; `iterations` of the solver, None for the model file's.

    Observations and rewards are float32; the physics is float64 where JAX is set to it.
    """

    name: str
    iterations: int | None = None
    hurdles: tuple[float, ...] = ()
    """Places of bars across the way; see `mjx_model.c_model`."""

    @property
    def task(self) -> Task:
        return TASKS[self.name]

    @property
    def spec(self) -> Spec:
        task = self.task
        return Spec(Box((task.obs_size,)), Box((task.action_size,)), task.max_steps)

    @property
    def params(self) -> MjxParams:
        model = self._c_model
        fields = {name: getattr(model, name) for name in MjxParams._fields[1:]}
        return jax.tree.map(real, MjxParams(model.opt.gravity, **fields))

    def scaled(self, params: MjxParams, scales: "Scales") -> MjxParams:
        """Return `params` with gravity, friction, mass and actuator strength multiplied.

        Moments of inertia scale with the masses. The inverse weights, by which MuJoCo scales the
        stiffness of its constraints, are recomputed as its `mj_setConst` does.
        """
        mass = params.body_mass * scales.mass
        inertia = params.body_inertia * scales.mass
        body, dof = mjx_model.inverse_weights(self.task.xml, mass, inertia)
        same = jnp.asarray(scales.mass) == 1  # then not even rounding may change anything
        return MjxParams(
            gravity=params.gravity * scales.gravity,
            geom_friction=params.geom_friction * scales.friction,
            body_mass=mass,
            body_inertia=inertia,
            actuator_gear=params.actuator_gear * scales.actuator,
            body_invweight0=jnp.where(same, params.body_invweight0, body),
            dof_invweight0=jnp.where(same, params.dof_invweight0, dof),
        )

    def reset(self, key: Key, params: MjxParams) -> tuple[MjxState, Array]:
        mjx, model, data = self._model()
        qpos, qvel = self.task.start(key, real(model.qpos0))
        data = mjx.kinematics(model, data.replace(qpos=qpos))  # compiled only if the task looks
        physics = mjx_physics.read(model, data)._replace(qpos=qpos, qvel=qvel)
        state = MjxState(qpos, qvel, jnp.zeros_like(qvel), qpos[0], jnp.zeros((), jnp.int32))
        return state, self.task.observe(physics).astype(jnp.float32)

    def step(
        self, key: Key, state: MjxState, action: Array, params: MjxParams
    ) -> tuple[MjxState, Step]:
        state, outcome = self.advance(state, action, params)
        return state, Step(
            obs=outcome.obs.astype(jnp.float32),
            reward=outcome.reward.astype(jnp.float32),
            terminated=outcome.terminated,
            truncated=(state.time >= self.task.max_steps) & ~outcome.terminated,
            info={},
        )

    def advance(
        self, state: MjxState, action: Array, params: MjxParams
    ) -> tuple[MjxState, Outcome]:
        """Return the state after an action, and its outcome before any rounding to float32.

        Where the simulation diverges positions and velocities stay as they were, and nothing is
        paid.
        """
        control = self._control(action)
        with jax.default_matmul_precision("highest"):
            physics, warmstart = self._simulate(state, control, params)
        moved = jnp.concatenate([physics.qpos, physics.qvel, warmstart])
        sane = jnp.all(jnp.abs(moved) < DIVERGED)
        blank = jax.tree.map(jnp.zeros_like, physics)._replace(qpos=state.qpos, qvel=state.qvel)
        physics = jax.tree.map(lambda new, old: jnp.where(sane, new, old), physics, blank)
        position = self.task.position(physics)
        velocity = (position - state.position) / self._seconds
        reward, terminated = self.task.judge(physics, control, velocity)
        next_state = MjxState(
            qpos=physics.qpos,
            qvel=physics.qvel,
            qacc_warmstart=jnp.where(sane, warmstart, 0),
            position=position,
            time=state.time + 1,
        )
        reward = jnp.where(sane, reward, 0)
        return next_state, Outcome(self.task.observe(physics), reward, terminated | ~sane, sane)

    def _simulate(
        self, state: MjxState, control: Array, params: MjxParams
    ) -> tuple[Physics, Array]:
        # The loop carries only what MuJoCo carries and what tasks read: a whole `Data` would be
        # written to memory after every physics step.
        _, model, data = self._model()
        changed = params._asdict()
        model = model.tree_replace({"opt.gravity": changed.pop("gravity")}).replace(**changed)
        data = data.replace(ctrl=control)

        def advance(_: Any, carry: tuple[Physics, Array]) -> tuple[Physics, Array]:
            return mjx_physics.step(model, data, *carry)

        start = mjx_physics.read(model, data)._replace(qpos=state.qpos, qvel=state.qvel)
        carry = (start, state.qacc_warmstart)
        return jax.lax.fori_loop(0, self.task.frame_skip, advance, carry)

    def places(self, state: MjxState) -> Float[Array, "nbody 3"]:
        """Return where the bodies of a state are, in m."""
        mjx, model, data = self._model()
        with jax.default_matmul_precision("highest"):
            return mjx.kinematics(model, data.replace(qpos=state.qpos)).xpos

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """What -1 and 1 stand for."""
        low, high = self._c_model.actuator_ctrlrange.T
        return low, high

    def _control(self, action: Array) -> Array:
        low, high = self.bounds
        return real(low) + (jnp.clip(action, -1.0, 1.0) + 1) / 2 * real(high - low)

    def _model(self) -> tuple[Any, Any, Any]:
        dtype = jnp.result_type(float).name
        found = mjx_model.on_device(self.task.xml, self.iterations, self.hurdles, dtype)
        return mjx_model.mjx(), *found

    @property
    def _c_model(self) -> Any:
        return mjx_model.c_model(self.task.xml, self.iterations, self.hurdles)

    @property
    def _seconds(self) -> float:
        return self._c_model.opt.timestep * self.task.frame_skip


def make(env_id: str) -> MjxEnvironment:
    """Return the environment with one of `IDS`.

    Raises:
        UserError: if MuJoCo or MJX is not installed.
    """
    family, name = env_id.split("/")
    mjx_model.mjx()
    return MjxEnvironment(name, FAMILIES[family])
