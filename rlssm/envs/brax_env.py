"""brax environments behind this library's contract.

brax's own wrappers are not used: they lose the final observation and restart every episode in the
same state. Time limits are counted here, and every reset draws a new start. brax calls its systems
and environments unmaintained; `fast` and `swimmer` no longer run and are left out.

Source: brax 0.14 (Freeman et al. 2021).
"""

import contextlib
import copy
import functools
import io
import warnings
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rlssm.envs.base import Step
from rlssm.errors import UserError, unknown_name
from rlssm.types import Box, Key, Spec

if TYPE_CHECKING:
    from rlssm.envs.perturbed import Scales

IDS = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "walker2d",
)
BACKENDS = ("generalized", "spring", "positional", "mjx")  # the first is brax's default
MAX_STEPS = 1000

# Where a quantity stands in a system, and the power its scale enters with. Each backend reads one
# of two spellings and passes over the other without a word, so both are changed.
FIELDS: dict[str, dict[str, int]] = {
    "gravity": {"gravity": 1, "opt.gravity": 1},
    "friction": {"geom_friction": 1},
    "mass": {
        "link.inertia.mass": 1,
        "link.inertia.i": 1,
        "link.invweight": -1,
        "dof.invweight": -1,
        "body_mass": 1,
        "body_inertia": 1,
        "body_invweight0": -1,
        "dof_invweight0": -1,
    },
    "actuator": {"actuator.gear": 1, "actuator_gear": 1},
}

# `spring` and `positional` raise these to the power of 1 less a setting of the model.
SOFTENINGS = {"link.inertia.mass": "spring_mass_scale", "link.inertia.i": "spring_inertia_scale"}


class BraxState(NamedTuple):
    """brax's own state and the steps taken since its reset."""

    inner: Any
    time: Int[Array, ""]


@dataclass(frozen=True)
class BraxEnvironment:
    """One brax environment on one backend; build it with `make`.

    `params` are the arrays of brax's system that `scaled` changes, by name.
    """

    name: str
    backend: str
    env: Any = field(repr=False, compare=False)
    spec: Spec

    @property
    def params(self) -> dict[str, Array]:
        names = [name for change in FIELDS.values() for name in change]
        return {name: _get(self.env.sys, name) for name in names}

    @property
    def scalable(self) -> tuple[str, ...]:
        """The scales that have an effect: `spring` and `positional` may take all masses for 1."""
        has_mass = self._power("link.inertia.mass") != 0
        return tuple(name for name in FIELDS if has_mass or name != "mass")

    def scaled(self, params: dict[str, Array], scales: "Scales") -> dict[str, Array]:
        """Return `params` with gravity, friction, masses and actuator strength multiplied.

        Inverse weights, which say how stiff contacts are, are taken to go with 1/mass; that is
        exact but for the armature. Where `spring` and `positional` take moments of inertia for
        1, they stay so.
        """
        return {
            name: params[name] * getattr(scales, scale) ** (power * self._power(name))
            for scale, change in FIELDS.items()
            for name, power in change.items()
        }

    def reset(self, key: Key, params: dict[str, Array]) -> tuple[BraxState, Array]:
        with _quiet():
            state = _strong(self._with(params).reset(key))
        return BraxState(state, jnp.zeros((), jnp.int32)), state.obs.astype(jnp.float32)

    def step(
        self, key: Key, state: BraxState, action: Array, params: dict[str, Array]
    ) -> tuple[BraxState, Step]:
        action = jnp.clip(action, -1.0, 1.0)  # brax rescales it to the actuators' range itself
        with _quiet():
            inner = _strong(self._with(params).step(state.inner, action))
        time = state.time + 1
        terminated = inner.done > 0.5
        return BraxState(inner, time), Step(
            obs=inner.obs.astype(jnp.float32),
            reward=inner.reward.astype(jnp.float32),
            terminated=terminated,
            truncated=(time >= MAX_STEPS) & ~terminated,
            info={},
        )

    def _power(self, name: str) -> float:
        """Return what undoes the power to which the backend raises a quantity; 0 if that is 0."""
        softening = SOFTENINGS.get(name)
        if softening is None or self.backend not in ("spring", "positional"):
            return 1.0
        power = 1 - float(_get(self.env.sys, softening))
        return 1 / power if power else 0.0

    def _with(self, params: dict[str, Array]) -> Any:
        env = copy.copy(self.env)  # setting the system of a shared one would outlive this trace
        env.sys = env.sys.tree_replace(params)
        return env


def make(name: str) -> BraxEnvironment:
    """Return the brax environment `name`, or `name:backend` for another backend than the default.

    Raises:
        UserError: if there is no such environment or backend, or brax is not installed.
    """
    if not exists(name):
        known = [f"{env_id}:{backend}" for env_id in IDS for backend in BACKENDS]
        raise unknown_name("brax environment", name, [*IDS, *known])
    name, _, backend = name.partition(":")
    return _make(name, backend or BACKENDS[0])


def exists(name: str) -> bool:
    """Return whether `make` takes a name."""
    name, colon, backend = name.partition(":")
    return name in IDS and (not colon or backend in BACKENDS)


@functools.cache  # a system takes a second to load
def _make(name: str, backend: str) -> BraxEnvironment:
    from rlssm.envs.mjx_model import quiet_mujoco

    nowhere = io.StringIO()  # brax reports there that another simulator is not installed
    with _quiet(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            from brax import envs
        except ImportError as error:
            raise UserError(
                f"environments brax/... need brax ({error}); install it with: pip install brax"
            ) from error
        with quiet_mujoco():
            env = envs.get_environment(name, backend=backend)
        obs = jax.eval_shape(env.reset, jax.random.key(0)).obs
    spec = Spec(Box(obs.shape), Box((env.action_size,)), MAX_STEPS)
    return BraxEnvironment(name, backend, env, spec)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Drop brax's warnings that it is unmaintained, and JAX's and MJX's of what it still uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _get(system: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), system)


def _strong(tree: Any) -> Any:
    # brax returns Python numbers and weakly typed arrays, which a scan's carry must not be.
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)
