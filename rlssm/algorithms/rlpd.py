"""RLPD: soft actor-critic that learns online with a dataset at its side, many updates per step.

Source: Ball et al. 2023, "Efficient Online Reinforcement Learning with Offline Data" (arXiv
2302.02948), algorithm 1, and the released JAX code. Parent: `rlssm.algorithms.sac`.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated,
E critics with LayerNorm and Z a random choice of `min_critics` of them:

    y_t     = r_t + γ m_t (min_{k ∈ Z} Q̄_k(h_{t+1}, a') - α log π(a' | h_{t+1})),
              a' ~ π(· | h_{t+1})
    L_Q     = mean_k mean (Q_k(h_t, a_t) - y_t)²
    Q̄       ← Q̄ + τ (Q - Q̄)
    L_π     = mean (α log π(a | h_t) - mean_k Q_k(h_t, a)),                   a ~ π(· | h_t)
    L_α     = α mean (-log π(a | h_t) - H̄),                                  H̄ = -dim(a) / 2

One update is handed `utd` batches, each half from the dataset and half from the agent's own steps
(`experience.prior`). It steps critics and targets on each of them in turn, every time with a new
Z, then the actor on the last batch against the newest critics, then α, by the entropy of that
actor before its step. There is no phase of offline learning.

Departures from the released code: the log standard deviation is clipped to [-5, 2] rather than
[-20, 2]; kernels are orthogonal rather than Xavier-uniform, and a new policy is near its mean 0.
With memory, actor and critics each remember on their own, the members of an ensemble share one
memory, and Z chooses among their heads. Measured scores: docs/rlpd.md.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float

from rlssm.algorithms.sac import Networks, masked_mean
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import UserError, require
from rlssm.nn.actor_critic import Actor, Critic, History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.heads import TanhGaussianHead
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
    "learning_rate", "critic_learning_rate", "temperature_learning_rate", "ssm_lr_factor",
    "discount", "polyak",
)  # fmt: skip


def _critic(hidden: tuple[int, ...]) -> MLPConfig:
    return MLPConfig(hidden, "relu", layer_norm=True)


@dataclass(frozen=True)
class RLPDConfig:
    """Hyper-parameters of RLPD; docs/rlpd.md explains each at length."""

    name: Literal["rlpd"] = "rlpd"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor and, with its own weights, of the critics."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: _critic((256, 256)))
    """The hidden layers of each critic's head. The LayerNorm is part of the method."""
    critics: int = 10
    """Critics, at least 1; the actor follows their mean."""
    min_critics: int = 2
    """How many of them, chosen at random, a target is the smallest of. Antmaze: 1."""
    utd: int = 20
    """Steps of the critics per environment step, each on a batch of its own, at least 1. Actor and
    temperature make one."""
    experience: ExperienceConfig = field(default_factory=lambda: ExperienceConfig(warmup=5000))
    """How experience is collected, kept and drawn; `update_ratio` stays 1, see `utd`."""
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
    """Share of the critics that the targets take over in each of their steps, in (0, 1]."""
    init_temperature: float = 1.0
    """First value of the entropy temperature α, above 0."""
    target_entropy: float | None = None
    """Entropy that the temperature holds the policy to; default minus half the size of the
    action."""
    backup_entropy: bool = True
    """Whether the target counts the entropy of the next action. Antmaze and Adroit: no."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        for name in ("learning_rate", "critic_learning_rate", "ssm_lr_factor", "init_temperature"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        rate = self.temperature_learning_rate
        require(0 <= rate < math.inf, "temperature_learning_rate", rate, "at least 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        require(0 <= self.discount <= 1, "discount", self.discount, "in [0, 1]")
        require(0 < self.polyak <= 1, "polyak", self.polyak, "in (0, 1]")
        for name in ("critics", "utd"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        chosen, limit = self.min_critics, f"from 1 to critics = {self.critics}"
        require(1 <= chosen <= self.critics, "min_critics", chosen, limit)
        target = self.target_entropy
        require(target is None or math.isfinite(target), "target_entropy", target, "finite")
        ratio = self.experience.update_ratio
        require(ratio == 1, "update_ratio", ratio, "1: utd counts the updates of the critics")
        require_torso_fits(self.torso, self.core)
        batch_spec(self)


class RLPDState(PyTreeNode):
    """Everything RLPD learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor"
    critic: Params
    target: Params
    log_alpha: Float[Array, ""]
    opt_state: dict[str, Any]
    hyper: dict[str, Array]
    key: Key


# --- Networks ---------------------------------------------------------------------------------


def networks(config: RLPDConfig, spec: Spec) -> Networks:
    """Return the actor and the critics for an environment.

    Raises:
        UserError: if RLPD cannot serve the environment's actions.
    """
    if not (isinstance(spec.action, Box) and len(spec.action.shape) == 1):
        raise UserError(f"{config.name} needs continuous actions (a vector), got {spec.action}")
    history = History(spec, config.torso, config.core, config.precision)
    head = TanhGaussianHead(spec.action.shape[0], config.actor, config.precision)
    return Networks(Actor(history, head), Critic(history.clone(), config.critic, config.critics))


def optimizers(config: RLPDConfig, hyper: dict[str, Array]) -> dict[str, Any]:
    """Return the optimisers for these (possibly traced) hyper-parameters."""

    def adam(learning_rate: Array, max_grad_norm: float | None = None) -> Any:
        factor = hyper["ssm_lr_factor"]
        return make_optimizer(learning_rate, ssm_lr_factor=factor, max_grad_norm=max_grad_norm)

    return {
        "actor": adam(hyper["learning_rate"], config.max_grad_norm),
        "critic": adam(hyper["critic_learning_rate"], config.max_grad_norm),
        "temperature": adam(hyper["temperature_learning_rate"]),
    }


def init(config: RLPDConfig, spec: Spec, key: Key) -> RLPDState:
    """Return the state before the first update."""
    actor_key, critic_key, key = jax.random.split(key, 3)
    actor, critic = networks(config, spec)
    seen, reset = example_inputs(spec)
    weights = actor.init(actor_key, actor.initial_carry(1), seen, reset)
    carry = critic.initial_carry(1)
    critics = critic.init(critic_key, carry, seen, reset, zeros(spec.action, (1, 1)))
    log_alpha = jnp.log(jnp.float32(config.init_temperature))
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    learnt = {"actor": weights, "critic": critics, "temperature": log_alpha}
    opt_state = {name: opt.init(learnt[name]) for name, opt in optimizers(config, hyper).items()}
    target = jax.tree.map(jnp.copy, critics)
    return RLPDState({"actor": weights}, critics, target, log_alpha, opt_state, hyper, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: RLPDConfig,
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
    seen, reset = jax.tree.map(lambda x: x[None], (seen, reset))
    carry, policy = apply(networks(config, spec).actor, params["actor"], carry, seen, reset)
    return (policy.mode() if greedy else policy.sample(key))[0], carry, {}


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: RLPDConfig, spec: Spec, state: RLPDState, batch: Trajectory
) -> tuple[RLPDState, Metrics]:
    """Make `utd` steps of the critics and one of actor and temperature.

    Args:
        batch: windows `[utd, T, B, ...]`.
    """

    def step(state: RLPDState, batch: Trajectory) -> tuple[RLPDState, Metrics]:
        return update_critic(config, spec, state, batch)

    state, critic_metrics = jax.lax.scan(step, state, batch)
    last = jax.tree.map(lambda x: x[-1], batch)
    state, actor_metrics = update_actor(config, spec, state, last)
    return state, actor_metrics | jax.tree.map(lambda x: x.mean(0), critic_metrics)


def update_critic(
    config: RLPDConfig, spec: Spec, state: RLPDState, batch: Trajectory
) -> tuple[RLPDState, Metrics]:
    """Make one step of critics and targets on windows `[T, B, ...]`."""
    actor, critic = networks(config, spec)
    hyper, step = state.hyper, batch.step
    key, action_key, subset_key = jax.random.split(state.key, 3)
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank = critic.initial_carry(reset.shape[1])

    memory = _memory(actor, batch)
    _, next_policy = apply(actor, state.params["actor"], memory, rows, reset, skip=1)
    next_action, next_log_prob = next_policy.sample_and_log_prob(action_key)
    chosen = some_critics(state.target, config.critics, config.min_critics, subset_key)
    few = critic.clone(size=config.min_critics)
    next_value = apply(few, chosen, blank, rows, reset, next_action, skip=1).min(0)
    if config.backup_entropy:
        next_value -= jnp.exp(state.log_alpha) * next_log_prob
    reward = config.experience.reward(step.reward)
    target = reward + hyper["discount"] * jnp.where(step.terminated, 0.0, next_value)

    def critic_loss(params: Params) -> tuple[Array, Array]:
        values = apply(critic, params, blank, seen, reset[:-1], step.action)
        return masked_mean(jnp.square(values - target), batch.mask).mean(), values

    (loss, values), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    optimizer = optimizers(config, hyper)["critic"]
    change, critic_opt = optimizer.update(grad, state.opt_state["critic"], state.critic)
    critics = optax.apply_updates(state.critic, change)
    state = state.replace(
        critic=critics,
        target=optax.incremental_update(critics, state.target, hyper["polyak"]),
        opt_state=state.opt_state | {"critic": critic_opt},
        key=key,
    )
    value_mean = masked_mean(values, batch.mask).mean()
    return state, {"critic/loss": loss, "critic/value_mean": value_mean}


def update_actor(
    config: RLPDConfig, spec: Spec, state: RLPDState, batch: Trajectory
) -> tuple[RLPDState, Metrics]:
    """Make one step of the actor and one of the temperature on windows `[T, B, ...]`."""
    actor, critic = networks(config, spec)
    optimizer, opt_state = optimizers(config, state.hyper), state.opt_state
    key, action_key = jax.random.split(state.key)
    rows, reset = unrolled(batch)
    seen, reset = jax.tree.map(lambda x: x[:-1], (rows, reset))
    memory, blank = _memory(actor, batch), critic.initial_carry(reset.shape[1])
    alpha = jnp.exp(state.log_alpha)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, policy = apply(actor, params, memory, seen, reset)
        action, log_prob = policy.sample_and_log_prob(action_key)
        value = apply(critic, state.critic, blank, seen, reset, action).mean(0)
        return masked_mean(alpha * log_prob - value, batch.mask), masked_mean(log_prob, batch.mask)

    weights = state.params["actor"]
    (loss, log_prob), grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    change, actor_opt = optimizer["actor"].update(grad, opt_state["actor"], weights)

    goal = config.target_entropy
    goal = -spec.action.shape[0] / 2 if goal is None else goal
    slope = alpha * (-log_prob - goal)  # of L_α in log α
    temperature_change, temperature_opt = optimizer["temperature"].update(
        slope, opt_state["temperature"]
    )
    state = state.replace(
        params={"actor": optax.apply_updates(weights, change)},
        log_alpha=state.log_alpha + temperature_change,
        opt_state=opt_state | {"actor": actor_opt, "temperature": temperature_opt},
        key=key,
    )
    return state, {"actor/loss": loss, "actor/entropy": -log_prob, "actor/temperature": alpha}


def some_critics(params: Params, size: int, chosen: int, key: Key) -> Params:
    """Return the parameters of a critic with `chosen` of its `size` members, drawn at random."""
    members = jax.random.choice(key, size, (chosen,), replace=False)
    critic = params["params"]
    heads = jax.tree.map(lambda x: x[members], critic["values"])
    return {"params": {**critic, "values": heads}}


def _memory(actor: Actor, batch: Trajectory) -> Carry:
    """Return the actor's memory before the first step of windows."""
    return actor.initial_carry(batch.first.shape[1]) if batch.carry is None else batch.carry


def batch_spec(config: RLPDConfig) -> Windows:
    """Return what the loop must supply: per environment step one call, with `utd` batches."""
    experience = replace(config.experience, update_ratio=config.utd)
    return wish(experience, memory=has_memory(config.core), stack=config.utd)


# The default is the setting of D4RL's locomotion tasks.
PRESETS: dict[str, RLPDConfig] = {
    "default": RLPDConfig(),
    "antmaze": RLPDConfig(
        actor=MLPConfig((256,) * 3, "relu"),
        critic=_critic((256,) * 3),
        min_critics=1,
        experience=ExperienceConfig(warmup=5000, reward_shift=-1.0),
        backup_entropy=False,
    ),
    "adroit": RLPDConfig(
        actor=MLPConfig((256,) * 3, "relu"), critic=_critic((256,) * 3), backup_entropy=False
    ),
}
