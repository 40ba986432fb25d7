"""Classic control without velocities, or with nothing else: the rest is in the past.

Source: POPGym (Morad et al. 2023) over the equations of Gymnasium's CartPole-v1 and Pendulum-v1.
Returns lie in [-1, 1]. One departure from the JAX port popjaxrl (Lu et al. 2023), as in POPGym:
reaching the step limit truncates an episode, it does not terminate it.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlssm.envs.base import Step
from rlssm.errors import require
from rlssm.types import Box, Discrete, Key, Spec

if TYPE_CHECKING:
    from rlssm.envs.perturbed import Scales

Scalar = Float[Array, ""]

POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = math.radians(12)
LOWEST_PENDULUM_REWARD = -(math.pi**2 + 0.1 * 8.0**2 + 0.001 * 2.0**2)


class CartPoleParams(NamedTuple):
    """Physics of the cart-pole, SI units."""

    gravity: Scalar | float = 9.8
    cart_mass: Scalar | float = 1.0
    pole_mass: Scalar | float = 0.1
    half_length: Scalar | float = 0.5
    force: Scalar | float = 10.0
    dt: Scalar | float = 0.02


class CartPoleState(NamedTuple):
    """Cart position (m) and pole angle from upright (rad), their rates, and the steps taken."""

    x: Scalar
    x_dot: Scalar
    theta: Scalar
    theta_dot: Scalar
    time: Int[Array, ""]


@dataclass(frozen=True)
class StatelessCartPole:
    """Balance a pole, seeing only `(x, theta)`, under Gaussian noise of deviation `noise`.

    Action 1 pushes right, 0 left. Every step pays `1/max_steps`; falling terminates and reaching
    `max_steps` truncates, which is when `info["success"]` is True. The noisy observation is
    clipped to twice the limits at which an episode ends.
    """

    max_steps: int = 200
    noise: float = 0.0

    scalable: ClassVar[tuple[str, ...]] = ("gravity", "mass", "actuator")

    def __post_init__(self) -> None:
        require(self.max_steps >= 1, "max_steps", self.max_steps, "at least 1")
        require(0 <= self.noise < math.inf, "noise", self.noise, "finite and at least 0")

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((2,)), action=Discrete(2), max_episode_steps=self.max_steps)

    def scaled(self, params: CartPoleParams, scales: "Scales") -> CartPoleParams:
        """Return `params` with gravity, masses and force multiplied."""
        return params._replace(
            gravity=params.gravity * scales.gravity,
            cart_mass=params.cart_mass * scales.mass,
            pole_mass=params.pole_mass * scales.mass,
            force=params.force * scales.actuator,
        )

    @property
    def params(self) -> CartPoleParams:
        return jax.tree.map(jnp.asarray, CartPoleParams())

    def reset(self, key: Key, params: CartPoleParams) -> tuple[CartPoleState, Float[Array, "2"]]:
        state_key, noise_key = jax.random.split(key)
        start = jax.random.uniform(state_key, (4,), minval=-0.05, maxval=0.05)
        state = CartPoleState(*start, time=jnp.zeros((), jnp.int32))
        return state, self._observe(noise_key, state)

    def step(
        self, key: Key, state: CartPoleState, action: Int[Array, ""], params: CartPoleParams
    ) -> tuple[CartPoleState, Step]:
        state = _move_cart(state, action, params)
        terminated = (jnp.abs(state.x) > POSITION_LIMIT) | (jnp.abs(state.theta) > ANGLE_LIMIT)
        truncated = (state.time >= self.max_steps) & ~terminated
        return state, Step(
            obs=self._observe(key, state),
            reward=jnp.asarray(1 / self.max_steps, jnp.float32),
            terminated=terminated,
            truncated=truncated,
            info={"success": truncated},
        )

    def _observe(self, key: Key, state: CartPoleState) -> Float[Array, "2"]:
        limits = 2 * jnp.asarray([POSITION_LIMIT, ANGLE_LIMIT], jnp.float32)
        obs = jnp.stack([state.x, state.theta]).astype(jnp.float32)
        noise = self.noise * jax.random.normal(key, (2,), jnp.float32)
        return jnp.clip(obs + noise, -limits, limits)


@dataclass(frozen=True)
class VelocityOnlyCartPole(StatelessCartPole):
    """The same pole, of which only the rates `(x_dot, theta_dot)` are seen, under noise.

    One departure from POPGym, whose first observation of an episode is `(x, theta)`: here it is
    the rates as well.
    """

    def _observe(self, key: Key, state: CartPoleState) -> Float[Array, "2"]:
        rates = jnp.stack([state.x_dot, state.theta_dot]).astype(jnp.float32)
        return rates + self.noise * jax.random.normal(key, (2,), jnp.float32)


def _move_cart(state: CartPoleState, action: Int[Array, ""], p: CartPoleParams) -> CartPoleState:
    """Return the state one explicit Euler step later.

    With total mass M, pole mass m, half length l and push F,
        h       = (F + m l theta_dot^2 sin theta) / M
        theta'' = (g sin theta - h cos theta) / (l (4/3 - m cos^2 theta / M))
        x''     = h - m l theta'' cos theta / M
    """
    mass = p.cart_mass + p.pole_mass
    moment = p.pole_mass * p.half_length
    sin, cos = jnp.sin(state.theta), jnp.cos(state.theta)
    push = jnp.where(action == 1, p.force, -p.force)
    h = (push + moment * state.theta_dot**2 * sin) / mass
    inertia = p.half_length * (4 / 3 - p.pole_mass * cos**2 / mass)
    theta_acc = (p.gravity * sin - h * cos) / inertia
    x_acc = h - moment * theta_acc * cos / mass
    return CartPoleState(
        x=state.x + p.dt * state.x_dot,
        x_dot=state.x_dot + p.dt * x_acc,
        theta=state.theta + p.dt * state.theta_dot,
        theta_dot=state.theta_dot + p.dt * theta_acc,
        time=state.time + 1,
    )


class PendulumParams(NamedTuple):
    """Physics of the pendulum, SI units."""

    gravity: Scalar | float = 10.0
    mass: Scalar | float = 1.0
    length: Scalar | float = 1.0
    max_torque: Scalar | float = 2.0
    max_speed: Scalar | float = 8.0
    dt: Scalar | float = 0.05


class PendulumState(NamedTuple):
    """Angle from upright (rad), its rate, and the steps taken."""

    theta: Scalar
    theta_dot: Scalar
    time: Int[Array, ""]


@dataclass(frozen=True)
class StatelessPendulum:
    """Swing a pendulum up and hold it, seeing only `(cos theta, sin theta)`, under noise.

    The noise is Gaussian of deviation `noise`, and the noisy observation is clipped to [-1, 1].
    The action in [-1, 1] is a fraction of the largest torque. Pendulum-v1's reward
    `r = -(theta^2 + 0.1 theta_dot^2 + 0.001 torque^2)`, which lies in [-16.27, 0], pays
    `(r + 8.1368) / 8.1368 / max_steps`. Episodes are truncated after `max_steps`.
    """

    max_steps: int = 200
    noise: float = 0.0

    def __post_init__(self) -> None:
        require(self.max_steps >= 1, "max_steps", self.max_steps, "at least 1")
        require(0 <= self.noise < math.inf, "noise", self.noise, "finite and at least 0")

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((2,)), action=Box((1,)), max_episode_steps=self.max_steps)

    @property
    def params(self) -> PendulumParams:
        return jax.tree.map(jnp.asarray, PendulumParams())

    def reset(self, key: Key, params: PendulumParams) -> tuple[PendulumState, Float[Array, "2"]]:
        theta, theta_dot = jax.random.uniform(key, (2,), minval=-1.0) * jnp.asarray([jnp.pi, 1.0])
        state = PendulumState(theta, theta_dot, time=jnp.zeros((), jnp.int32))
        return state, self._observe(jax.random.fold_in(key, 1), state)

    def step(
        self, key: Key, state: PendulumState, action: Float[Array, "1"], params: PendulumParams
    ) -> tuple[PendulumState, Step]:
        torque = params.max_torque * jnp.clip(action[0], -1.0, 1.0)
        angle = (state.theta + jnp.pi) % (2 * jnp.pi) - jnp.pi
        reward = -(angle**2 + 0.1 * state.theta_dot**2 + 0.001 * torque**2)
        middle = -LOWEST_PENDULUM_REWARD / 2
        state = _swing(state, torque, params)
        return state, Step(
            obs=self._observe(key, state),
            reward=((reward + middle) / middle / self.max_steps).astype(jnp.float32),
            terminated=jnp.zeros((), bool),
            truncated=state.time >= self.max_steps,
            info={},
        )

    def _observe(self, key: Key, state: PendulumState) -> Float[Array, "2"]:
        obs = jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta)]).astype(jnp.float32)
        if self.noise == 0:
            return obs
        noise = self.noise * jax.random.normal(key, (2,), jnp.float32)
        return jnp.clip(obs + noise, -1.0, 1.0)


def _swing(state: PendulumState, torque: Scalar, p: PendulumParams) -> PendulumState:
    """Return the state one semi-implicit Euler step later.

    theta'' = 3 g sin(theta) / (2 l) + 3 torque / (m l^2)
    """
    acceleration = 1.5 * p.gravity / p.length * jnp.sin(state.theta)
    acceleration += 3 * torque / (p.mass * p.length**2)
    speed = jnp.clip(state.theta_dot + p.dt * acceleration, -p.max_speed, p.max_speed)
    return PendulumState(state.theta + p.dt * speed, speed, state.time + 1)
