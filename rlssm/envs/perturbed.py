"""Perturbed dynamics: an environment that differs from the one it is made of.

Learning from a simulator that is not quite the real system needs both. `Perturbed` scales the
physics, disturbs what the joints execute and delays actions; how much is an array in its `params`,
so that a batch of different simulators is one `vmap` over parameters.

Source: the gaps of H2O (Niu et al. 2022), which are gravity x2, friction x0.3 and joint noise of
deviation 1; mass, actuator strength and latency are the further ones of sim-to-real work.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlssm.envs.base import Environment, Step
from rlssm.envs.gymnax_env import GymnaxEnvironment
from rlssm.errors import UserError, require
from rlssm.types import Box, Key, Params, Spec, zeros

# What a step's key is folded with for joint noise. `split(key)[i]` is `fold_in(key, i)`, so that a
# small number would give an environment that splits its key the same noise.
NOISE = 2**31 - 1


class Scales(NamedTuple):
    """What dynamics are multiplied by, float32; 1 leaves them unchanged, bit for bit."""

    gravity: Float[Array, ""]
    friction: Float[Array, ""]
    mass: Float[Array, ""]
    actuator: Float[Array, ""]

    @classmethod
    def unchanged(cls) -> "Scales":
        return cls(*(jnp.ones((), jnp.float32) for _ in cls._fields))


class Scalable(Environment, Protocol):
    """An environment whose dynamics can be scaled."""

    def scaled(self, params: Params, scales: Scales) -> Params:
        """Return `params` with the dynamics multiplied by `scales`."""
        ...


@dataclass(frozen=True)
class DynamicsConfig:
    """How the dynamics differ from those of the unperturbed environment."""

    gravity: float = 1.0
    """Factor of gravity, above 0. H2O: 2."""

    friction: float = 1.0
    """Factor of the friction of all contacts, above 0. H2O: 0.3."""

    mass: float = 1.0
    """Factor of all masses and moments of inertia, above 0."""

    actuator: float = 1.0
    """Factor of the force or torque that an action brings about, above 0."""

    joint_noise: float = 0.0
    """Deviation of Gaussian noise added to the executed action, at least 0, where actions lie in
    [-1, 1]; the sum is clipped. H2O: 1."""

    latency: int = 0
    """Steps until an action is executed, at least 0; till then an episode starts with zeros."""

    def __post_init__(self) -> None:
        for name in Scales._fields:
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "finite and above 0")
        noise = self.joint_noise
        require(0 <= noise < math.inf, "joint_noise", noise, "finite and at least 0")
        require(self.latency >= 0, "latency", self.latency, "at least 0")

    @property
    def scales(self) -> Scales:
        return Scales(*(jnp.float32(getattr(self, name)) for name in Scales._fields))


class PerturbedParams(NamedTuple):
    """What may differ from simulator to simulator of a batch.

    Attributes:
        inner: parameters of the unperturbed environment.
        scales: what its dynamics are multiplied by.
        joint_noise: deviation of the noise on executed actions, float32.
    """

    inner: Params
    scales: Scales
    joint_noise: Float[Array, ""]


class PerturbedState(NamedTuple):
    """The state of the perturbed environment, and the actions on their way.

    `waiting` is `[latency, ...]`, the next to be executed first; None without latency.
    """

    inner: Any
    waiting: Array | None


@dataclass(frozen=True)
class Perturbed:
    """An environment with perturbed dynamics.

    The agent's own action is what is observed and stored; noise and delay act behind it, the delay
    first. The environment's own randomness is the same with and without a perturbation.

    Raises:
        UserError: if the environment has no counterpart of something that is to change.
    """

    env: Environment
    config: DynamicsConfig = field(default_factory=DynamicsConfig)

    def __post_init__(self) -> None:
        known = scalable(self.env)
        for name in Scales._fields:
            value = getattr(self.config, name)
            allowed = f"1, because this environment's {name} cannot be changed"
            require(value == 1 or name in known, f"dynamics.{name}", value, allowed)
        if self.config.joint_noise > 0 and not isinstance(self.env.spec.action, Box):
            raise UserError(
                "dynamics.joint_noise needs continuous actions, the environment's are "
                f"{self.env.spec.action}; leave it at 0"
            )

    @property
    def spec(self) -> Spec:
        return self.env.spec

    @property
    def params(self) -> PerturbedParams:
        noise = jnp.float32(self.config.joint_noise)
        return PerturbedParams(self.env.params, self.config.scales, noise)

    def reset(self, key: Key, params: PerturbedParams) -> tuple[PerturbedState, Any]:
        inner, obs = self.env.reset(key, self.inner_params(params))
        latency = self.config.latency
        waiting = zeros(self.spec.action, (latency,)) if latency else None
        return PerturbedState(inner, waiting), obs

    def step(
        self, key: Key, state: PerturbedState, action: Array, params: PerturbedParams
    ) -> tuple[PerturbedState, Step]:
        waiting = state.waiting
        if waiting is not None:
            queue = jnp.concatenate([waiting, action[None].astype(waiting.dtype)])
            action, waiting = queue[0], queue[1:]
        if isinstance(self.spec.action, Box):
            noise_key = jax.random.fold_in(key, NOISE)  # `key` itself stays the environment's
            noise = jax.random.normal(noise_key, action.shape, action.dtype)
            action = action + params.joint_noise * noise
        inner, step = self.env.step(key, state.inner, action, self.inner_params(params))
        return PerturbedState(inner, waiting), step

    def inner_params(self, params: PerturbedParams) -> Params:
        """Return the parameters of the environment below, changed."""
        return scaled(self.env, params.inner, params.scales)


def scalable(env: Environment) -> tuple[str, ...]:
    """Return which of `Scales` an environment has a counterpart for."""
    if isinstance(env, GymnaxEnvironment):
        return tuple(_GYMNAX.get(env.env.name, {}))
    if _has_scaled(env):
        return tuple(getattr(env, "scalable", Scales._fields))
    return ()


def scaled(env: Environment, params: Params, scales: Scales) -> Params:
    """Return `params` with the dynamics multiplied; a scale without a counterpart has no effect."""
    if isinstance(env, GymnaxEnvironment):
        for name, change in _GYMNAX.get(env.env.name, {}).items():
            scale = getattr(scales, name)
            changed = {key: getattr(params, key) * scale**power for key, power in change.items()}
            params = params.replace(**changed)
        return params
    return env.scaled(params, scales) if _has_scaled(env) else params


def _has_scaled(env: Environment) -> TypeGuard[Scalable]:
    return hasattr(env, "scaled")


# Of gymnax tasks: for each scale the parameters it changes, and the power it enters with. In
# Pendulum a stronger motor is a lighter bob (gravity acts on it as before), so that the torque
# grows while the action and what it costs do not; a heavier MountainCar is one of weaker force.
_GYMNAX: dict[str, dict[str, dict[str, int]]] = {
    "CartPole-v1": {
        "gravity": {"gravity": 1},
        "mass": {"masscart": 1, "masspole": 1, "total_mass": 1, "polemass_length": 1},
        "actuator": {"force_mag": 1},
    },
    "Pendulum-v1": {"gravity": {"g": 1}, "mass": {"m": 1}, "actuator": {"m": -1}},
    "Acrobot-v1": {
        "mass": {"link_mass_1": 1, "link_mass_2": 1, "link_moi": 1},
        "actuator": {"available_torque": 1},
    },
    "MountainCar-v0": {
        "gravity": {"gravity": 1},
        "mass": {"force": -1},
        "actuator": {"force": 1},
    },
    "MountainCarContinuous-v0": {
        "gravity": {"gravity": 1},
        "mass": {"power": -1},
        "actuator": {"power": 1},
    },
}
