"""Behaviour cloning: a policy that does what a dataset does.

Sources: Pomerleau 1991, "Efficient Training of Artificial Neural Networks for Autonomous
Navigation"; the "BC" of CORL (arXiv 2210.07105) and of d3rlpy for the losses and sizes. The
parent is rlssm.algorithms.sac.

Equations, with h_t the history at t (the observation itself without memory), of one of

    L = mean over t and the entries of a of (π(h_t) - a_t)²      deterministic, the default
    L = -mean log π(a_t | h_t)                                   gaussian, or discrete actions

A Gaussian policy has mean tanh(f(h)) and a standard deviation of its own per action, its samples
clipped to [-1, 1]; a categorical one is restricted to the allowed actions where the environment
says which. Rewards and ends of episodes are not used; what the agent itself does in a run that
goes on in the environment is not cloned.

Departures from CORL: the last layer starts small; observations are standardised only if asked
for. Measured scores: docs/bc.md.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool

from rlssm.algorithms.sac import masked_mean, normalized
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import UserError, require
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import Actor, History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.heads import CategoricalHead, DeterministicHead, TanhMeanHead
from rlssm.nn.mlp import MLPConfig, Precision, require_choices
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.torso import TorsoConfig
from rlssm.types import (
    Box,
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
    inputs,
    zeros,
)

SWEPT = ("learning_rate", "ssm_lr_factor")


@dataclass(frozen=True)
class BCConfig:
    """Hyper-parameters of behaviour cloning; docs/bc.md explains each at length."""

    name: Literal["bc"] = "bc"
    policy: Literal["deterministic", "gaussian"] = "deterministic"
    """What continuous actions are: an action that squares are taken to, or a Gaussian whose
    likelihood is maximised. Discrete actions are categorical."""
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the head reads the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of the policy head."""
    experience: ExperienceConfig = field(default_factory=ExperienceConfig)
    """How experience is collected, kept and drawn."""
    learning_rate: float = 3e-4
    """Adam step size, above 0."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    max_grad_norm: float | None = None
    """Norm that gradients are clipped to; default none."""
    normalize_obs: bool = False
    """Whether observations are standardised by the dataset's mean and deviation. CORL: yes."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        require_choices(self)
        for name in SWEPT:
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        require_torso_fits(self.torso, self.core)
        batch_spec(self)


class BCState(PyTreeNode):
    """Everything behaviour cloning learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" with normalize_obs
    opt_state: Any
    hyper: dict[str, Array]
    key: Key  # never consumed: an update draws nothing


# --- Networks ---------------------------------------------------------------------------------


def networks(config: BCConfig, spec: Spec) -> Actor:
    """Return the actor for an environment.

    Raises:
        UserError: if behaviour cloning cannot serve the environment's spaces.
    """
    match spec.action:
        case Discrete(n):
            head = CategoricalHead(n, config.actor, config.precision)
        case Box((size,)):
            kind = DeterministicHead if config.policy == "deterministic" else TanhMeanHead
            head = kind(size, config.actor, config.precision)
        case other:
            raise UserError(f"bc needs discrete or continuous actions (a vector), got {other}")
    if config.normalize_obs and not isinstance(spec.obs, Box):
        raise UserError("normalize_obs needs array observations; leave it out for this environment")
    return Actor(History(spec, config.torso, config.core, config.precision), head)


def optimizer(config: BCConfig, hyper: dict[str, Array]) -> optax.GradientTransformation:
    """Return the optimiser for these (possibly traced) hyper-parameters."""
    factor = hyper["ssm_lr_factor"]
    norm = config.max_grad_norm
    return make_optimizer(hyper["learning_rate"], ssm_lr_factor=factor, max_grad_norm=norm)


def init(config: BCConfig, spec: Spec, key: Key) -> BCState:
    """Return the state before the first update."""
    actor_key, key = jax.random.split(key)
    actor = networks(config, spec)
    params = {"actor": actor.init(actor_key, actor.initial_carry(1), *example_inputs(spec))}
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    opt_state = optimizer(config, hyper).init(params["actor"])
    if config.normalize_obs:
        params["statistics"] = normalizers.init(zeros(spec.obs))
    return BCState(params, opt_state, hyper, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: BCConfig,
    spec: Spec,
    params: Params,
    seen: Inputs,
    reset: Bool[Array, " B"],
    carry: Carry,
    key: Key,
    *,
    greedy: bool,
) -> tuple[Array, Carry, dict[str, Array]]:
    """Choose one action per environment: (action `[B, *A]`, next carry, nothing else).

    Args:
        seen: leaves `[B, ...]`.
        reset: where memory is dropped before `seen` is consumed.
        carry: the actor's memory, leaves `[B, ...]`.
        greedy: whether to take the mode in place of a sample; a deterministic policy has no other.
    """
    seen, reset = jax.tree.map(lambda x: x[None], (normalized(config, params, seen), reset))
    actor = networks(config, spec)
    carry, policy = apply(actor, params["actor"], carry, seen, reset)
    if isinstance(actor.head, DeterministicHead):
        return policy[0], carry, {}
    action = (policy.mode() if greedy else policy.sample(key))[0]
    return action if isinstance(spec.action, Discrete) else jnp.clip(action, -1, 1), carry, {}


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: BCConfig, spec: Spec, state: BCState, batch: Trajectory
) -> tuple[BCState, Metrics]:
    """Make one step of the actor on windows `[T, B, ...]`."""
    actor, action = networks(config, spec), batch.step.action
    seen = normalized(config, state.params, inputs(batch))
    memory = actor.initial_carry(batch.mask.shape[1]) if batch.carry is None else batch.carry
    mask = batch.mask & (batch.step.extras["source"] == 0)  # the agent's own steps teach nothing

    def loss_of(params: Params) -> Array:
        _, policy = apply(actor, params, memory, seen, batch.reset)
        if isinstance(actor.head, DeterministicHead):
            return masked_mean(jnp.square(policy - action).mean(-1), mask)
        return -masked_mean(policy.log_prob(action), mask)

    weights = state.params["actor"]
    loss, grad = jax.value_and_grad(loss_of)(weights)
    change, opt_state = optimizer(config, state.hyper).update(grad, state.opt_state, weights)
    params = state.params | {"actor": optax.apply_updates(weights, change)}
    return state.replace(params=params, opt_state=opt_state), {"actor/loss": loss}


def batch_spec(config: BCConfig) -> Windows:
    """Return what the loop must supply."""
    return wish(config.experience, memory=has_memory(config.core), offline_first=True)


PRESETS: dict[str, BCConfig] = {
    "default": BCConfig(),
    "corl": BCConfig(normalize_obs=True),
}
