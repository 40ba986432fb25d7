"""Advantage-weighted actor-critic: imitate what was done, the more the better it turned out.

Sources: Nair, Gupta, Dalal and Levine 2020, "AWAC: Accelerating Online Reinforcement Learning with
Offline Datasets" (arXiv 2006.09359), equations 8 and 13; code CORL. The parent is
rlssm.algorithms.sac.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated:

    y_t     = r_t + γ m_t min_k Q̄_k(h_{t+1}, a'),                      a' ~ π(· | h_{t+1})
    L_Q     = Σ_k mean (Q_k(h_t, a_t) - y_t)²
    A_t     = min_k Q_k(h_t, a_t) - min_k Q_k(h_t, a),                  a ~ π(· | h_t)
    L_π     = mean min(exp(A_t / λ), 100) (-log π(a_t | h_t))
    Q̄       ← Q̄ + polyak (Q - Q̄)

One update steps the critics, then the actor with A from the new critics, then the targets. No
gradient passes through A. The policy is a Gaussian with an unbounded mean and a standard deviation
of its own per action; what it samples is clipped to [-1, 1], what it scores is not. All this, and
a target without entropy, is as in CORL.

Departures: the authors' code normalises the weights over the batch, CORL and this file clip them
in place of that; the last layer of the actor starts small; once there are steps of the environment
each batch has a fixed share of the dataset. With memory, actor and critics each remember on their
own. Measured scores: docs/awac.md.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float

from rlssm.algorithms.sac import Networks, masked_mean, normalized
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import UserError, require
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import Actor, Critic, History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.distributions import Gaussian
from rlssm.nn.heads import FREE_LOG_STD_RANGE, GaussianHead
from rlssm.nn.mlp import MLPConfig, Precision
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.torso import TorsoConfig
from rlssm.types import (
    Box,
    Carry,
    Inputs,
    Key,
    Metrics,
    Params,
    Spec,
    Trajectory,
    Windows,
    example_inputs,
    unrolled,
    zeros,
)

SWEPT = (
    "learning_rate", "critic_learning_rate", "ssm_lr_factor", "discount", "polyak", "temperature",
)  # fmt: skip
MAX_WEIGHT = 100.0  # of a step in the policy's loss


@dataclass(frozen=True)
class AWACConfig:
    """Hyper-parameters of AWAC; docs/awac.md explains each at length."""

    name: Literal["awac"] = "awac"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor and, with its own weights, of the critics."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256, 256), "relu"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256, 256), "relu"))
    """The hidden layers of each critic's head."""
    critics: int = 2
    """Critics, at least 1; the smallest of their values counts."""
    experience: ExperienceConfig = field(default_factory=ExperienceConfig)
    """How experience is collected, kept and drawn."""
    temperature: float = 0.3333
    """λ of the policy's weights exp(A / λ), above 0: smaller is greedier. CORL: 0.3333 for
    locomotion, 0.1 for antmaze and Adroit."""
    learning_rate: float = 3e-4
    """Adam step size of the actor, above 0."""
    critic_learning_rate: float = 3e-4
    """Adam step size of the critics, above 0."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    max_grad_norm: float | None = None
    """Norm that the gradients of the actor and of the critics are clipped to; default none."""
    discount: float = 0.99
    """Discount per step, in [0, 1]."""
    polyak: float = 0.005
    """Share of the critics that the targets take over in each update, in (0, 1]."""
    normalize_obs: bool = False
    """Whether observations are standardised by the dataset's mean and deviation. CORL: yes."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        for name in ("learning_rate", "critic_learning_rate", "ssm_lr_factor", "temperature"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        require(0 <= self.discount <= 1, "discount", self.discount, "in [0, 1]")
        require(0 < self.polyak <= 1, "polyak", self.polyak, "in (0, 1]")
        require(self.critics >= 1, "critics", self.critics, "at least 1")
        require_torso_fits(self.torso, self.core)
        batch_spec(self)


class AWACState(PyTreeNode):
    """Everything AWAC learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" with normalize_obs
    critic: Params
    target: Params
    opt_state: dict[str, Any]
    hyper: dict[str, Array]
    key: Key


# --- Networks ---------------------------------------------------------------------------------


def networks(config: AWACConfig, spec: Spec) -> Networks:
    """Return the actor and the critics for an environment.

    Raises:
        UserError: if AWAC cannot serve the environment's spaces.
    """
    if not (isinstance(spec.action, Box) and len(spec.action.shape) == 1):
        raise UserError(f"awac needs continuous actions (a vector), got {spec.action}")
    if config.normalize_obs and not isinstance(spec.obs, Box):
        raise UserError("normalize_obs needs array observations; leave it out for this environment")
    history = History(spec, config.torso, config.core, config.precision)
    head = GaussianHead(spec.action.shape[0], config.actor, config.precision)
    return Networks(Actor(history, head), Critic(history.clone(), config.critic, config.critics))


def optimizers(config: AWACConfig, hyper: dict[str, Array]) -> dict[str, Any]:
    """Return the optimisers for these (possibly traced) hyper-parameters."""
    rates = {"actor": hyper["learning_rate"], "critic": hyper["critic_learning_rate"]}
    factor, norm = hyper["ssm_lr_factor"], config.max_grad_norm
    return {
        name: make_optimizer(rate, ssm_lr_factor=factor, max_grad_norm=norm)
        for name, rate in rates.items()
    }


def init(config: AWACConfig, spec: Spec, key: Key) -> AWACState:
    """Return the state before the first update."""
    actor_key, critic_key, key = jax.random.split(key, 3)
    actor, critic = networks(config, spec)
    seen, reset = example_inputs(spec)
    carry = actor.initial_carry(1)
    learnt = {
        "actor": actor.init(actor_key, carry, seen, reset),
        "critic": critic.init(critic_key, carry, seen, reset, zeros(spec.action, (1, 1))),
    }
    params = {"actor": learnt["actor"]}
    if config.normalize_obs:
        params["statistics"] = normalizers.init(zeros(spec.obs))
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    opt_state = {name: opt.init(learnt[name]) for name, opt in optimizers(config, hyper).items()}
    target = jax.tree.map(jnp.copy, learnt["critic"])
    return AWACState(params, learnt["critic"], target, opt_state, hyper, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: AWACConfig,
    spec: Spec,
    params: Params,
    seen: Inputs,
    reset: Bool[Array, " B"],
    carry: Carry,
    key: Key,
    *,
    greedy: bool,
) -> tuple[Array, Carry, dict[str, Array]]:
    """Choose one action per environment: (action `[B, A]`, next carry, nothing else).

    Args:
        seen: leaves `[B, ...]`.
        reset: where memory is dropped before `seen` is consumed.
        carry: the actor's memory, leaves `[B, ...]`.
        greedy: whether to take the mean in place of a sample, clipped to [-1, 1].
    """
    seen, reset = jax.tree.map(lambda x: x[None], (normalized(config, params, seen), reset))
    carry, policy = apply(networks(config, spec).actor, params["actor"], carry, seen, reset)
    return (jnp.clip(policy.mode(), -1, 1) if greedy else sample(policy, key))[0], carry, {}


def bounded(policy: Gaussian) -> Gaussian:
    """Return the policy with its log standard deviation within limits."""
    return policy._replace(log_std=jnp.clip(policy.log_std, *FREE_LOG_STD_RANGE))


def sample(policy: Gaussian, key: Key) -> Float[Array, "*batch A"]:
    """Return a sample of the policy, clipped to [-1, 1]."""
    return jnp.clip(bounded(policy).sample(key), -1, 1)


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: AWACConfig, spec: Spec, state: AWACState, batch: Trajectory
) -> tuple[AWACState, Metrics]:
    """Make one step of critics, actor and targets on windows `[T, B, ...]`."""
    actor, critic = networks(config, spec)
    hyper, step, mask = state.hyper, batch.step, batch.mask
    optimizer = optimizers(config, hyper)
    key, next_key, action_key = jax.random.split(state.key, 3)
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    rows = normalized(config, state.params, rows)
    seen, reset_seen = jax.tree.map(lambda x: x[:-1], (rows, reset))
    blank = critic.initial_carry(mask.shape[1])
    memory = blank if batch.carry is None else batch.carry

    _, next_policy = apply(actor, state.params["actor"], memory, rows, reset, skip=1)
    next_action = sample(next_policy, next_key)
    next_value = apply(critic, state.target, blank, rows, reset, next_action, skip=1).min(0)
    next_value = jnp.where(step.terminated, 0.0, next_value)
    target = config.experience.reward(step.reward) + hyper["discount"] * next_value

    def critic_loss(params: Params) -> tuple[Array, Array]:
        values = apply(critic, params, blank, seen, reset_seen, step.action)
        return masked_mean(jnp.square(values - target), mask).sum(), values

    (q_loss, values), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    change, critic_opt = optimizer["critic"].update(grad, state.opt_state["critic"], state.critic)
    critics = optax.apply_updates(state.critic, change)
    features = apply(critic, critics, blank, seen, reset_seen, method="features")
    q = apply(critic, critics, features, step.action, method="value").min(0)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, policy = apply(actor, params, memory, seen, reset_seen)
        action = jax.lax.stop_gradient(sample(policy, action_key))
        v = apply(critic, critics, features, action, method="value").min(0)
        weight = jnp.minimum(jnp.exp((q - v) / hyper["temperature"]), MAX_WEIGHT)
        error = -bounded(policy).log_prob(step.action)
        return masked_mean(weight * error, mask), masked_mean(weight, mask)

    weights = state.params["actor"]
    (pi_loss, weight), grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    change, actor_opt = optimizer["actor"].update(grad, state.opt_state["actor"], weights)
    state = state.replace(
        params=state.params | {"actor": optax.apply_updates(weights, change)},
        critic=critics,
        target=optax.incremental_update(critics, state.target, hyper["polyak"]),
        opt_state={"actor": actor_opt, "critic": critic_opt},
        key=key,
    )
    return state, {
        "actor/loss": pi_loss,
        "actor/weight_mean": weight,
        "critic/loss": q_loss,
        "critic/value_mean": masked_mean(values, mask).mean(),
    }


def batch_spec(config: AWACConfig) -> Windows:
    """Return what the loop must supply."""
    return wish(config.experience, memory=has_memory(config.core), offline_first=True)


# Those of CORL, which standardises observations throughout.
PRESETS: dict[str, AWACConfig] = {
    "default": AWACConfig(),
    "mujoco": AWACConfig(normalize_obs=True),
    "antmaze": AWACConfig(
        temperature=0.1, experience=ExperienceConfig(reward_shift=-1.0), normalize_obs=True
    ),
    "adroit": AWACConfig(temperature=0.1, normalize_obs=True),
}
