"""Hy-Q: Q-learning in which half of every batch comes from a dataset.

Source: Song et al. 2023, "Hybrid RL: Using Both Offline and Online Data Can Make RL Efficient"
(arXiv 2210.06718), algorithm 1, and the released programs. Discrete actions.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated,
of a batch one half from the dataset and one from the agent's own steps (`experience.prior`):

    y_t = r_t + γ m_t max_a Q̄(h_{t+1}, a)
    L   = mean (Q(h_t, a_t) - y_t)²
    Q̄   ← Q̄ + τ (Q - Q̄)

The agent takes argmax_a Q(h_t, a), or with probability ε any allowed action.

Departures: the paper fits Q anew to all steps so far in each iteration, the program of its
combination lock one function per step of an episode, with a random action at one step of each;
here, as in its program for Atari, one network and a slow target learn from batches. That program
also has Rainbow's additions (double, duelling, prioritised, n-step), this one none. A memory
explores as it acts. Measured: docs/hyq.md.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float, Int

from rlssm.algorithms.sac import masked_mean
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import UserError, require
from rlssm.nn.actor_critic import History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.encoders import action_mask
from rlssm.nn.mlp import MLP, MLPConfig, Precision
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.torso import TorsoConfig
from rlssm.types import (
    Carry,
    Discrete,
    Inputs,
    Key,
    Metrics,
    Params,
    Spec,
    Trajectory,
    Windows,
    example_inputs,
    unrolled,
)

SWEPT = ("learning_rate", "ssm_lr_factor", "discount", "polyak")


@dataclass(frozen=True)
class HyQConfig:
    """Hyper-parameters of Hy-Q; docs/hyq.md explains each at length."""

    name: Literal["hyq"] = "hyq"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the network."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the head reads the observation itself."""
    critic: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of the head."""
    experience: ExperienceConfig = field(default_factory=ExperienceConfig)
    """How experience is collected, kept and drawn."""
    epsilon: float = 0.05
    """How often a random action is taken while learning, in [0, 1]. Hy-Q on locks: one over the
    horizon."""
    learning_rate: float = 3e-4
    """Adam step size, above 0."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    max_grad_norm: float | None = None
    """Norm that the gradient is clipped to; default none."""
    discount: float = 0.99
    """Discount per step, in [0, 1]."""
    polyak: float = 0.005
    """Share of the network that the target takes over in each update, in (0, 1]."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        for name in ("learning_rate", "ssm_lr_factor"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        for name in ("epsilon", "discount"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        require(0 < self.polyak <= 1, "polyak", self.polyak, "in (0, 1]")
        require_torso_fits(self.torso, self.core)
        batch_spec(self)


class HyQState(PyTreeNode):
    """Everything Hy-Q learns; `params` is what acting needs."""

    params: Params
    target: Params
    opt_state: Any
    hyper: dict[str, Array]
    key: Key


# --- Network ----------------------------------------------------------------------------------


class QNetwork(nn.Module):
    """A history under one value per action; forbidden actions have the lowest float."""

    history: History
    mlp: MLPConfig
    num_actions: int

    def setup(self) -> None:
        self.values = MLP(self.mlp, self.num_actions, precision=self.history.precision)

    def __call__(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"], skip: int = 0
    ) -> tuple[Carry, Float[Array, "T2 B A"]]:
        """Return (carry, values) of all rows but the first `skip`."""
        carry, features = self.history(carry, seen, reset, skip)
        values, mask = self.values(features), action_mask(seen.obs)
        if mask is not None:
            values = jnp.where(mask[skip:], values, jnp.finfo(values.dtype).min)
        return carry, values

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        return self.history.initial_carry(batch)


def networks(config: HyQConfig, spec: Spec) -> QNetwork:
    """Return the network for an environment, without parameters.

    Raises:
        UserError: if the actions are not discrete.
    """
    if not isinstance(spec.action, Discrete):
        raise UserError(f"hyq needs discrete actions, got {spec.action}")
    history = History(spec, config.torso, config.core, config.precision)
    return QNetwork(history, config.critic, spec.action.n)


def optimizer(config: HyQConfig, hyper: dict[str, Array]) -> Any:
    """Return the optimiser for these (possibly traced) hyper-parameters."""
    return make_optimizer(
        hyper["learning_rate"], ssm_lr_factor=hyper["ssm_lr_factor"],
        max_grad_norm=config.max_grad_norm,
    )  # fmt: skip


def init(config: HyQConfig, spec: Spec, key: Key) -> HyQState:
    """Return the state before the first update."""
    net, (net_key, key) = networks(config, spec), jax.random.split(key)
    params = net.init(net_key, net.initial_carry(1), *example_inputs(spec))
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    opt_state = optimizer(config, hyper).init(params)
    return HyQState(params, jax.tree.map(jnp.copy, params), opt_state, hyper, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: HyQConfig,
    spec: Spec,
    params: Params,
    seen: Inputs,
    reset: Bool[Array, " B"],
    carry: Carry,
    key: Key,
    *,
    greedy: bool,
) -> tuple[Int[Array, " B"], Carry, dict[str, Array]]:
    """Choose one action per environment: (action `[B]`, next carry, nothing else).

    Args:
        seen: leaves `[B, ...]`.
        reset: where memory is dropped before `seen` is consumed.
        carry: the memory, leaves `[B, ...]`.
        greedy: whether never to explore.
    """
    seen, reset = jax.tree.map(lambda x: x[None], (seen, reset))
    carry, values = apply(networks(config, spec), params, carry, seen, reset)
    values = values[0]
    action = values.argmax(-1).astype(jnp.int32)
    if greedy:
        return action, carry, {}
    where_key, which_key = jax.random.split(key)
    allowed = jnp.where(values > jnp.finfo(values.dtype).min, 0.0, -jnp.inf)
    random = jax.random.categorical(which_key, allowed).astype(jnp.int32)
    explores = jax.random.uniform(where_key, action.shape) < config.epsilon
    return jnp.where(explores, random, action), carry, {}


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: HyQConfig, spec: Spec, state: HyQState, batch: Trajectory
) -> tuple[HyQState, Metrics]:
    """Make one step on windows `[T, B, ...]`."""
    net, hyper, step = networks(config, spec), state.hyper, batch.step
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank = net.initial_carry(reset.shape[1])
    memory = blank if batch.carry is None else batch.carry
    _, following = apply(net, state.target, blank, rows, reset, skip=1)
    bootstrap = jnp.where(step.terminated, 0.0, following.max(-1))
    target = config.experience.reward(step.reward) + hyper["discount"] * bootstrap

    def loss_of(params: Params) -> tuple[Array, Array]:
        values = apply(net, params, memory, seen, reset[:-1])[1]
        value = jnp.take_along_axis(values, step.action[..., None], -1)[..., 0]
        return masked_mean(jnp.square(value - target), batch.mask), value

    (loss, value), grad = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    change, opt_state = optimizer(config, hyper).update(grad, state.opt_state, state.params)
    params = optax.apply_updates(state.params, change)
    state = state.replace(
        params=params,
        target=optax.incremental_update(params, state.target, hyper["polyak"]),
        opt_state=opt_state,
    )
    value_mean = masked_mean(value, batch.mask)
    return state, {"critic/loss": loss, "critic/value_mean": value_mean}


def batch_spec(config: HyQConfig) -> Windows:
    """Return what the loop must supply."""
    return wish(config.experience, memory=has_memory(config.core))


_SMALL = HyQConfig(
    critic=MLPConfig((64, 64), "relu"),
    learning_rate=1e-3,
    polyak=0.01,
    experience=ExperienceConfig(batch=128, capacity=100_000, num_envs=10),
)
# Both are ours; "lock" explores as the program does on the lock of horizon 10.
PRESETS: dict[str, HyQConfig] = {
    "default": HyQConfig(),
    "small": _SMALL,
    "lock": replace(_SMALL, epsilon=0.1, discount=1.0),
}
