"""Proximal policy optimisation with a recurrent (or feed-forward) actor-critic.

Sources: Schulman et al. 2017 (arXiv 1707.06347), equations 7 and 9; Schulman et al. 2016
(arXiv 1506.02438), equations 11 to 16, for the advantage; the recurrent update order of
luchris429/popjaxrl (arXiv 2303.03982).

Equations, with r_t(θ) = π_θ(a_t | s_t) / π_old(a_t | s_t) and s_t the core's output:

    δ_t = reward_t + γ (1 - terminated_t) V(s'_t) - V(s_t)            s'_t the true successor
    A_t = δ_t + γ λ (1 - last_t) A_{t+1}
    L_policy  = -mean min(r_t A_t, clip(r_t, 1 - ε, 1 + ε) A_t)
    L_value   = ½ mean max((V - R_t)², (V_old + clip(V - V_old, -ε, ε) - R_t)²),  R_t = A_t + V_old
    L         = L_policy + c_value L_value - c_entropy mean entropy

Departures from the paper: none in the losses. With `clip_value` the value loss is clipped as in
the published implementations, else it is the plain squared error; advantages are normalised
per minibatch; and minibatches are whole environment sequences: time is never shuffled, so the
core is unrolled over the rollout from the memory it started with.

Departures from popjaxrl: a time limit is not a death (`bootstrap_truncation`), the first-step
flag and the previous action are right after the first episode as well, and the reward may be
shown to the agent. `PRESETS["popjaxrl"]` restores the published setting, its treatment of
time limits included. Measured scores and their commands: docs/ppo.md.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float

from rlssm.errors import UserError, require
from rlssm.kernels.returns import gae
from rlssm.nn import normalizers
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.distributions import Distribution
from rlssm.nn.encoders import action_mask
from rlssm.nn.heads import CategoricalHead, ValueHead, policy_head
from rlssm.nn.mlp import MLPConfig, Precision
from rlssm.nn.optimizers import SSMGroup, make_optimizer
from rlssm.nn.s5 import S5Config
from rlssm.nn.torso import Torso, TorsoConfig
from rlssm.types import (
    Box,
    Carry,
    Inputs,
    Key,
    Metrics,
    Params,
    Rollout,
    Spec,
    Trajectory,
    example_inputs,
    inputs,
    zeros,
)

SWEPT = (
    "learning_rate", "reward_scale", "discount", "gae_lambda", "clip", "entropy_coef", "value_coef",
    "max_grad_norm", "ssm_lr_factor", "weight_decay",
)  # fmt: skip


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters of PPO; docs/ppo.md explains each at length."""

    name: Literal["ppo"] = "ppo"
    core: CoreConfig = field(default_factory=S5Config)
    """The sequence core: the agent's memory."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What the core is fed."""
    heads: MLPConfig = field(default_factory=lambda: MLPConfig((128,)))
    """The hidden layers of the policy head and of the value head."""
    num_envs: int = 64
    """Parallel environments, at least 1."""
    rollout_length: int = 128
    """Steps per environment and update; the gradient reaches this far back in time."""
    epochs: int = 4
    """Passes over each rollout, at least 1. PPO paper: 3 to 15."""
    minibatches: int = 4
    """Gradient steps per pass; each takes `num_envs / minibatches` whole environment sequences."""
    learning_rate: float = 3e-4
    """Adam step size, above 0. PPO paper: 3e-4 (popjaxrl 5e-5)."""
    anneal_steps: int | None = None
    """Environment steps over which the learning rate falls linearly to 0; None keeps it."""
    adam_eps: float = 1e-5
    """Adam's epsilon, above 0. popjaxrl: 1e-5."""
    max_grad_norm: float = 0.5
    """Global norm that gradients are clipped to, above 0. popjaxrl: 0.5."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    ssm_group: SSMGroup = "standard"
    """Which parameters count as the state space's, by lindermanlab/S5's names for the choices."""
    weight_decay: float = 0.0
    """AdamW decay of all but the state-space parameters, at least 0."""
    reward_scale: float = 1.0
    """Factor of every reward before learning, above 0; reported returns are never scaled."""
    discount: float = 0.99
    """Discount per step, in [0, 1]."""
    gae_lambda: float = 0.95
    """Decay of the advantage estimate, in [0, 1]. PPO paper: 0.95 (popjaxrl 1.0)."""
    clip: float = 0.2
    """Clip range of the probability ratio, and of the value with `clip_value`; above 0."""
    clip_value: bool = False
    """Whether the value moves at most `clip` per update, in units of return. popjaxrl: yes."""
    value_coef: float = 0.5
    """Weight of the value loss, at least 0. popjaxrl: 1.0."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, at least 0."""
    normalize_advantage: bool = True
    """Whether advantages are standardised within a minibatch."""
    normalize_obs: bool = False
    """Whether flat observations are standardised by their running mean and variance."""
    bootstrap_truncation: bool = True
    """Whether a time limit bootstraps from the final observation; False treats it as a death."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    @property
    def steps_per_update(self) -> int:
        """Environment steps that one update consumes."""
        return self.num_envs * self.rollout_length

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollout_length", "epochs", "minibatches"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in (
            "learning_rate",
            "adam_eps",
            "max_grad_norm",
            "ssm_lr_factor",
            "clip",
            "reward_scale",
        ):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        for name in ("weight_decay", "value_coef", "entropy_coef"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0")
        for name in ("discount", "gae_lambda"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        require(
            self.anneal_steps is None or self.anneal_steps >= 1,
            "anneal_steps", self.anneal_steps, "at least 1, or left out",
        )  # fmt: skip
        if self.num_envs % self.minibatches:
            raise UserError(
                f"num_envs must be a multiple of minibatches = {self.minibatches} because "
                f"minibatches are whole environment sequences, got {self.num_envs}"
            )


class PPOState(PyTreeNode):
    """Everything PPO learns; `params` holds the network and the observation statistics."""

    params: dict[str, Any]
    opt_state: Any
    hyper: dict[str, Array]
    updates: Array
    key: Key


# --- Networks ---------------------------------------------------------------------------------


def _torso(spec: Spec, config: PPOConfig) -> Torso:
    return Torso(spec, config.torso, config.core, config.precision)


class ActorCritic(nn.Module):
    """A torso with memory under a policy head and a value head."""

    spec: Spec
    config: PPOConfig

    def setup(self) -> None:
        config = self.config
        self.torso = _torso(self.spec, config)
        self.actor = policy_head(self.spec.action, config.heads, config.precision, squashed=False)
        self.critic = ValueHead(config.heads, config.precision)

    def __call__(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"]
    ) -> tuple[Carry, Distribution, Float[Array, "T B"]]:
        """Return (carry, action distribution, value), from inputs `[T, B, ...]`."""
        carry, y = self.torso(carry, seen, reset)
        masked = isinstance(self.actor, CategoricalHead)
        policy = self.actor(y, action_mask(seen.obs)) if masked else self.actor(y)
        return carry, policy, self.critic(y)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        """Return the memory before the first step."""
        return _torso(self.spec, self.config).initial_carry(batch)


def networks(config: PPOConfig, spec: Spec) -> ActorCritic:
    """Return the actor-critic for an environment, without parameters.

    Raises:
        UserError: if PPO cannot serve the environment's spaces.
    """
    policy_head(spec.action, config.heads, squashed=False)
    if config.normalize_obs and not isinstance(spec.obs, Box):
        raise UserError("normalize_obs needs array observations; leave it out for this environment")
    return ActorCritic(spec, config)


def unroll(
    config: PPOConfig, spec: Spec, params: Params, seen: Inputs, reset: Array, carry: Carry
) -> tuple[Carry, Distribution, Float[Array, "T B"]]:
    """Return (carry, action distribution, value) for inputs `[T, B, ...]`."""
    if config.normalize_obs:
        seen = seen._replace(obs=normalizers.normalize(params["statistics"], seen.obs))
    outputs: Any = networks(config, spec).apply(params["network"], carry, seen, reset)
    return outputs


def optimizer(config: PPOConfig, hyper: dict[str, Array], updates: Array) -> Any:
    """Return Adam for these (possibly traced) hyper-parameters."""
    learning_rate = hyper["learning_rate"]
    if config.anneal_steps is not None:
        progress = updates * (config.steps_per_update / config.anneal_steps)
        learning_rate = learning_rate * jnp.maximum(0.0, 1.0 - progress)
    return make_optimizer(
        learning_rate,
        ssm_lr_factor=hyper["ssm_lr_factor"],
        ssm_group=config.ssm_group,
        weight_decay=hyper["weight_decay"],
        max_grad_norm=hyper["max_grad_norm"],
        eps=config.adam_eps,
    )


def init(config: PPOConfig, spec: Spec, key: Key) -> PPOState:
    """Return the state before the first update."""
    network_key, key = jax.random.split(key)
    network = networks(config, spec)
    variables = network.init(network_key, network.initial_carry(1), *example_inputs(spec))
    params: dict[str, Any] = {"network": variables}
    if config.normalize_obs:
        params["statistics"] = normalizers.init(zeros(spec.obs))
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    updates = jnp.int32(0)
    opt_state = optimizer(config, hyper, updates).init(variables)
    return PPOState(params, opt_state, hyper, updates, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: PPOConfig,
    spec: Spec,
    params: Params,
    seen: Inputs,
    reset: Bool[Array, " B"],
    carry: Carry,
    key: Key,
    *,
    greedy: bool,
) -> tuple[Array, Carry, dict[str, Array]]:
    """Choose one action per environment.

    Args:
        seen: leaves `[B, ...]`.
        reset: where memory is dropped before `seen` is consumed.
        carry: the core's memory, leaves `[B, ...]`.
        greedy: whether to take the mode in place of a sample.

    Returns:
        The action `[B, ...]` (a continuous one clipped to [-1, 1]), the next carry, and the
        unclipped `sample`, its `log_prob` and the `value`, each leading with `[B]`.
    """
    one_step = jax.tree.map(lambda x: x[None], (seen, reset))
    carry, policy, value = unroll(config, spec, params, *one_step, carry)
    sample = policy.mode() if greedy else policy.sample(key)
    log_prob = policy.log_prob(sample)
    action = jnp.clip(sample, -1.0, 1.0) if isinstance(spec.action, Box) else sample
    extras = {"sample": sample[0], "log_prob": log_prob[0], "value": value[0]}
    return action[0], carry, extras


# --- Learning ---------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What the losses need of a trajectory; leaves `[T, B, ...]` but for the carry's `[B, ...]`."""

    seen: Inputs
    reset: Bool[Array, "T B"]
    mask: Bool[Array, "T B"]
    sample: Array
    log_prob: Float[Array, "T B"]
    value: Float[Array, "T B"]
    advantage: Float[Array, "T B"]
    carry: Carry


def advantages(config: PPOConfig, hyper: dict[str, Array], batch: Trajectory) -> Array:
    """Return the generalised advantage estimate `[T, B]` (1506.02438, equation 16)."""
    step = batch.step
    terminated = step.terminated
    if not config.bootstrap_truncation:
        terminated = terminated | step.truncated
    return gae(
        hyper["reward_scale"] * step.reward, step.extras["value"], step.extras["next_value"],
        terminated, step.truncated, hyper["discount"], hyper["gae_lambda"],
    )  # fmt: skip


def policy_loss(
    log_prob: Array, batch: Batch, advantage: Array, clip: Array
) -> tuple[Array, Metrics]:
    """Return the clipped surrogate (1707.06347, equation 7), negated, and its diagnostics."""
    log_ratio = log_prob - batch.log_prob
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
    return -_mean(surrogate, batch.mask), {
        "actor/approx_kl": _mean(ratio - 1.0 - log_ratio, batch.mask),
        "actor/clip_fraction": _mean(jnp.abs(ratio - 1.0) > clip, batch.mask),
    }


def value_loss(value: Array, batch: Batch, clip: Array | None) -> Array:
    """Return half the squared error to the return, the worse of clipped and unclipped."""
    target = batch.value + batch.advantage
    error = jnp.square(value - target)
    if clip is not None:
        clipped = batch.value + jnp.clip(value - batch.value, -clip, clip)
        error = jnp.maximum(error, jnp.square(clipped - target))
    return 0.5 * _mean(error, batch.mask)


def loss(
    params: Params, config: PPOConfig, spec: Spec, hyper: dict[str, Array], batch: Batch
) -> tuple[Array, Metrics]:
    """Return the whole loss of a minibatch and its metrics."""
    _, policy, value = unroll(config, spec, params, batch.seen, batch.reset, batch.carry)
    advantage = batch.advantage
    if config.normalize_advantage:
        centred = advantage - _mean(advantage, batch.mask)
        advantage = centred / (jnp.sqrt(_mean(jnp.square(centred), batch.mask)) + 1e-8)
    actor, metrics = policy_loss(policy.log_prob(batch.sample), batch, advantage, hyper["clip"])
    critic = value_loss(value, batch, hyper["clip"] if config.clip_value else None)
    entropy = _mean(policy.entropy(), batch.mask)
    total = actor + hyper["value_coef"] * critic - hyper["entropy_coef"] * entropy
    return total, metrics | {
        "actor/loss": actor,
        "actor/entropy": entropy,
        "critic/loss": critic,
        "critic/value_mean": _mean(value, batch.mask),
    }


def update(
    config: PPOConfig, spec: Spec, state: PPOState, batch: Trajectory
) -> tuple[PPOState, Metrics]:
    """Make `epochs` passes over one rollout `[T, B, ...]`, in minibatches of whole sequences."""
    key, epochs_key = jax.random.split(state.key)
    hyper, extras = state.hyper, batch.step.extras
    advantage = advantages(config, hyper, batch)
    data = Batch(
        inputs(batch), batch.reset, batch.mask, extras["sample"], extras["log_prob"],
        extras["value"], advantage, batch.carry,
    )  # fmt: skip
    adam = optimizer(config, hyper, state.updates)

    def gradient_step(learner: tuple[Params, Any], chosen: Array) -> tuple[Any, Metrics]:
        network, opt_state = learner
        part = _take_envs(data, chosen)
        grad, metrics = jax.grad(
            lambda network: loss(state.params | {"network": network}, config, spec, hyper, part),
            has_aux=True,
        )(network)
        updates, opt_state = adam.update(grad, opt_state, network)
        metrics["grad/norm"] = optax.tree.norm(grad)
        return (optax.apply_updates(network, updates), opt_state), metrics

    def epoch(learner: tuple[Params, Any], key: Key) -> tuple[Any, Metrics]:
        order = jax.random.permutation(key, config.num_envs).reshape(config.minibatches, -1)
        return jax.lax.scan(gradient_step, learner, order)

    (network, opt_state), metrics = jax.lax.scan(
        epoch,
        (state.params["network"], state.opt_state),
        jax.random.split(epochs_key, config.epochs),
    )
    metrics = jax.tree.map(jnp.mean, metrics)
    target = extras["value"] + advantage
    metrics["critic/explained_variance"] = 1.0 - jnp.var(advantage) / (jnp.var(target) + 1e-8)
    params = state.params | {"network": network}
    if config.normalize_obs:
        statistics = params["statistics"]
        params["statistics"] = normalizers.update(statistics, batch.step.obs, batch.mask)
    return PPOState(params, opt_state, hyper, state.updates + 1, key), metrics


def batch_spec(config: PPOConfig) -> Rollout:
    """Return what the loop must supply: a fresh rollout."""
    return Rollout(config.rollout_length, config.num_envs, next_value=True)


def _take_envs(data: Batch, chosen: Array) -> Batch:
    """Return the sequences of the chosen environments."""
    sequences = jax.tree.map(lambda x: jnp.take(x, chosen, axis=1), data._replace(carry=None))
    return sequences._replace(carry=jax.tree.map(lambda x: x[chosen], data.carry))


def _mean(x: Array, mask: Array) -> Array:
    """Return the mean of `x` over the valid entries."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)


# The setting of popjaxrl's POPGym runs: one for all tasks (see docs/ppo.md, "Presets").
# "skills" is METRA's for choosing among discrete skills: an epoch has 64 episodes of 8 decisions,
# and 10 updates from 256 of them.
PRESETS: dict[str, PPOConfig] = {
    "default": PPOConfig(),
    "skills": PPOConfig(
        core=NoneConfig(),
        torso=TorsoConfig(1024, (), "relu", observe_action=False, observe_reward=False),
        heads=MLPConfig((1024,), "relu"),
        rollout_length=8,
        epochs=5,
        minibatches=2,
        learning_rate=1e-4,
        entropy_coef=0.01,
    ),
    "popjaxrl": PPOConfig(
        core=S5Config(
            layers=4, state_size=256, blocks=1, c_init="lecun_normal", gate="full_glu", norm="none"
        ),
        torso=TorsoConfig(hidden=(128,), width=256, activation="leaky_relu", observe_reward=False),
        heads=MLPConfig((128, 128), kernel_scale=2.0),
        num_envs=64,
        rollout_length=1024,
        epochs=30,
        minibatches=8,
        learning_rate=5e-5,
        gae_lambda=1.0,
        value_coef=1.0,
        clip_value=True,
        bootstrap_truncation=False,
    ),
}
