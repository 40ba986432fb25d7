"""Soft actor-critic, from an environment, from a dataset, or from both.

Sources: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905),
equations 5 to 9 and 18; Fujimoto et al. 2018 (arXiv 1802.09477) for the pair of critics.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated:

    y_t     = r_t + γ m_t (min_k Q̄_k(h_{t+1}, a') - α log π(a' | h_{t+1})),   a' ~ π(· | h_{t+1})
    L_Q     = Σ_k mean (Q_k(h_t, a_t) - y_t)²
    L_π     = mean (α log π(a | h_t) - min_k Q_k(h_t, a)),                     a ~ π(· | h_t)
    L_α     = -mean log α (log π(a | h_t) + H̄),                               H̄ = -dim(a)
    Q̄       ← Q̄ + τ (Q - Q̄)

One update steps the critics, then the actor against the new critics, then the temperature (both
with α as it was), then the targets: the order of Stable-Baselines3.

Departures from the paper: the temperature loss is on log α, as in the released code; the log
standard deviation is clipped to [-5, 2] by default, not to [-20, 2]; kernels are orthogonal. With
memory, actor and critics each remember on their own, targets are computed from the target critics'
own memory, and windows warm the memory up for `burn_in` steps. Measured scores: docs/sac.md.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float

from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import UserError, require
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import Actor, Critic, History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.heads import POLICY_SCALE, TanhGaussianHead
from rlssm.nn.mlp import MLPConfig, Precision
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.s5 import S5Config
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
    "learning_rate", "critic_learning_rate", "temperature_learning_rate", "ssm_lr_factor",
    "discount", "polyak",
)  # fmt: skip


@dataclass(frozen=True)
class SACConfig:
    """Hyper-parameters of SAC; docs/sac.md explains each at length."""

    name: Literal["sac"] = "sac"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor and, with its own weights, of the critics."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of each critic's head."""
    critics: int = 2
    """Critics, at least 1; the smallest of their values counts."""
    experience: ExperienceConfig = field(default_factory=ExperienceConfig)
    """How experience is collected, kept and drawn."""
    learning_rate: float = 3e-4
    """Adam step size of the actor, above 0."""
    critic_learning_rate: float = 3e-4
    """Adam step size of the critics, above 0."""
    temperature_learning_rate: float = 3e-4
    """Adam step size of the log temperature, at least 0; 0 keeps it."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    max_grad_norm: float | None = None
    """Norm that the gradients of the actor and of the critics are clipped to; default none."""
    discount: float = 0.99
    """Discount per step, in [0, 1]."""
    polyak: float = 0.005
    """Share of the critics that the targets take over in each update, in (0, 1]."""
    init_temperature: float = 1.0
    """First value of the entropy temperature α, above 0."""
    target_entropy: float | None = None
    """Entropy that the temperature holds the policy to; default minus the size of the action."""
    backup_entropy: bool = True
    """Whether the target counts the entropy of the next action. The CQL family: no."""
    log_std_min: float = -5.0
    """Lowest log standard deviation of the policy, below 2. Released code: -20."""
    policy_scale: float = POLICY_SCALE
    """Gain of the policy's last kernel, above 0; small ones start near a mean of 0. METRA: 0.1."""
    normalize_obs: bool = False
    """Whether observations are standardised by the dataset's mean and variance."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        above_0 = ("learning_rate", "critic_learning_rate", "ssm_lr_factor", "init_temperature")
        for name in (*above_0, "policy_scale"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        rate = self.temperature_learning_rate
        require(0 <= rate < math.inf, "temperature_learning_rate", rate, "at least 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        require(0 <= self.discount <= 1, "discount", self.discount, "in [0, 1]")
        require(0 < self.polyak <= 1, "polyak", self.polyak, "in (0, 1]")
        require(self.critics >= 1, "critics", self.critics, "at least 1")
        target = self.target_entropy
        require(target is None or math.isfinite(target), "target_entropy", target, "finite")
        lowest = self.log_std_min
        require(-math.inf < lowest < 2, "log_std_min", lowest, "finite and below 2")
        require_torso_fits(self.torso, self.core)
        batch_spec(self)


class SACState(PyTreeNode):
    """Everything SAC learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" with normalize_obs
    critic: Params
    target: Params
    log_alpha: Float[Array, ""]
    opt_state: dict[str, Any]
    hyper: dict[str, Array]
    key: Key


# --- Networks ---------------------------------------------------------------------------------


class Networks(NamedTuple):
    """The modules of an agent, without parameters."""

    actor: Actor
    critic: Critic

    def initial_carry(self, batch: int) -> Carry:
        """Return the memory before the first step."""
        return self.actor.initial_carry(batch)


def networks(config: SACConfig, spec: Spec) -> Networks:
    """Return the actor and the critics for an environment.

    Raises:
        UserError: if SAC cannot serve the environment's spaces.
    """
    if not (isinstance(spec.action, Box) and len(spec.action.shape) == 1):
        raise UserError(f"{config.name} needs continuous actions (a vector), got {spec.action}")
    if config.normalize_obs and not isinstance(spec.obs, Box):
        raise UserError("normalize_obs needs array observations; leave it out for this environment")
    history = History(spec, config.torso, config.core, config.precision)
    size = spec.action.shape[0]
    head = TanhGaussianHead(
        size, config.actor, config.precision, config.log_std_min, config.policy_scale
    )
    return Networks(Actor(history, head), Critic(history.clone(), config.critic, config.critics))


def optimizers(config: SACConfig, hyper: dict[str, Array]) -> dict[str, Any]:
    """Return the optimisers for these (possibly traced) hyper-parameters."""

    def adam(learning_rate: Array, max_grad_norm: float | None = None) -> Any:
        factor = hyper["ssm_lr_factor"]
        return make_optimizer(learning_rate, ssm_lr_factor=factor, max_grad_norm=max_grad_norm)

    return {
        "actor": adam(hyper["learning_rate"], config.max_grad_norm),
        "critic": adam(hyper["critic_learning_rate"], config.max_grad_norm),
        "temperature": adam(hyper["temperature_learning_rate"]),
    }


def init(config: SACConfig, spec: Spec, key: Key) -> SACState:
    """Return the state before the first update."""
    actor_key, critic_key, key = jax.random.split(key, 3)
    actor, critic = networks(config, spec)
    seen, reset = example_inputs(spec)
    params = {"actor": actor.init(actor_key, actor.initial_carry(1), seen, reset)}
    if config.normalize_obs:
        params["statistics"] = normalizers.init(zeros(spec.obs))
    carry = critic.initial_carry(1)
    critics = critic.init(critic_key, carry, seen, reset, zeros(spec.action, (1, 1)))
    log_alpha = jnp.log(jnp.float32(config.init_temperature))
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    learnt = {"actor": params["actor"], "critic": critics, "temperature": log_alpha}
    opt_state = {name: opt.init(learnt[name]) for name, opt in optimizers(config, hyper).items()}
    return SACState(
        params, critics, jax.tree.map(jnp.copy, critics), log_alpha, opt_state, hyper, key
    )


# --- Acting -----------------------------------------------------------------------------------


def normalized(config: Any, params: Params, seen: Inputs) -> Inputs:
    """Return inputs with their observations standardised, where `config.normalize_obs` asks."""
    if not config.normalize_obs:
        return seen
    return seen._replace(obs=normalizers.standardize(params["statistics"], seen.obs))


def act(
    config: SACConfig,
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
        greedy: whether to take the mode, tanh of the mean, in place of a sample.
    """
    seen, reset = jax.tree.map(lambda x: x[None], (normalized(config, params, seen), reset))
    carry, policy = apply(networks(config, spec).actor, params["actor"], carry, seen, reset)
    return (policy.mode() if greedy else policy.sample(key))[0], carry, {}


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: SACConfig,
    spec: Spec,
    state: SACState,
    batch: Trajectory,
    correction: Float[Array, "T B"] | float = 0.0,
) -> tuple[SACState, Metrics]:
    """Make one step of critics, actor and temperature on windows `[T, B, ...]`.

    `correction` is added to the rewards of the target, not to those that a memory is fed.
    """
    actor, critic = networks(config, spec)
    hyper, step = state.hyper, batch.step
    optimizer = optimizers(config, hyper)
    key, next_key, action_key = jax.random.split(state.key, 3)
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    rows = normalized(config, state.params, rows)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank = critic.initial_carry(reset.shape[1])
    memory = actor.initial_carry(reset.shape[1]) if batch.carry is None else batch.carry
    alpha = jnp.exp(state.log_alpha)

    _, next_policy = apply(actor, state.params["actor"], memory, rows, reset, skip=1)
    next_action, next_log_prob = next_policy.sample_and_log_prob(next_key)
    next_value = apply(critic, state.target, blank, rows, reset, next_action, skip=1).min(0)
    if config.backup_entropy:
        next_value -= alpha * next_log_prob
    reward = config.experience.reward(step.reward + correction)
    target = reward + hyper["discount"] * jnp.where(step.terminated, 0.0, next_value)

    def critic_loss(params: Params) -> tuple[Array, Array]:
        values = apply(critic, params, blank, seen, reset[:-1], step.action)
        return masked_mean(jnp.square(values - target), batch.mask).sum(), values

    (q_loss, values), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    change, critic_opt = optimizer["critic"].update(grad, state.opt_state["critic"], state.critic)
    critics = optax.apply_updates(state.critic, change)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, policy = apply(actor, params, memory, seen, reset[:-1])
        action, log_prob = policy.sample_and_log_prob(action_key)
        value = apply(critic, critics, blank, seen, reset[:-1], action).min(0)
        return masked_mean(alpha * log_prob - value, batch.mask), masked_mean(log_prob, batch.mask)

    weights = state.params["actor"]
    (pi_loss, log_prob), grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    change, actor_opt = optimizer["actor"].update(grad, state.opt_state["actor"], weights)
    weights = optax.apply_updates(weights, change)

    goal = -spec.action.shape[0] if config.target_entropy is None else config.target_entropy
    grad = -(log_prob + goal)  # of -log α (log π + H̄) in log α
    change, temperature_opt = optimizer["temperature"].update(grad, state.opt_state["temperature"])
    state = state.replace(
        params=state.params | {"actor": weights},
        critic=critics,
        target=optax.incremental_update(critics, state.target, hyper["polyak"]),
        log_alpha=state.log_alpha + change,
        opt_state={"actor": actor_opt, "critic": critic_opt, "temperature": temperature_opt},
        key=key,
    )
    return state, {
        "actor/loss": pi_loss,
        "actor/entropy": -log_prob,
        "actor/temperature": alpha,
        "critic/loss": q_loss,
        "critic/value_mean": masked_mean(values, batch.mask).mean(),
    }


def masked_mean(x: Float[Array, "*E T B"], mask: Bool[Array, "T B"]) -> Float[Array, "*E"]:
    """Return the mean over the steps learnt from, of each leading entry."""
    return jnp.where(mask, x, 0).sum((-2, -1)) / jnp.maximum(mask.sum(), 1)


def batch_spec(config: SACConfig) -> Windows:
    """Return what the loop must supply."""
    return wish(config.experience, memory=has_memory(config.core))


_SMALL = SACConfig(
    actor=MLPConfig((64, 64), "relu"),
    critic=MLPConfig((64, 64), "relu"),
    experience=ExperienceConfig(capacity=100_000),
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    temperature_learning_rate=1e-3,
)

# The defaults are those of the CORL and SB3 implementations; "small" and "small-s5" are ours, for
# tasks the size of Pendulum. "skills" is METRA's for choosing among continuous skills: an epoch has
# 8 episodes of 8 decisions, and 50 updates.
PRESETS: dict[str, SACConfig] = {
    "default": SACConfig(),
    "small": _SMALL,
    "small-s5": replace(
        _SMALL,
        core=S5Config(layers=1, state_size=32),
        torso=TorsoConfig(width=64, hidden=()),
        experience=replace(_SMALL.experience, length=20, burn_in=4),
    ),
    "skills": SACConfig(
        actor=MLPConfig((1024, 1024), "relu"),
        critic=MLPConfig((1024, 1024), "relu"),
        experience=ExperienceConfig(
            num_envs=8, rollout_length=8, update_ratio=50 / 64, warmup=512, capacity=1_000_000
        ),
        learning_rate=1e-4,
        critic_learning_rate=1e-4,
        temperature_learning_rate=1e-4,
        init_temperature=0.1,
    ),
}
