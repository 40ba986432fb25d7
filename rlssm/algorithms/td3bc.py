"""TD3 with a behaviour-cloning term: the plainest learner of values from a dataset.

Sources: Fujimoto and Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning" (arXiv
2106.06860), equations 3 to 5, code sfujim/TD3_BC; Fujimoto et al. 2018 (arXiv 1802.09477) for TD3.
The parent is rlssm.algorithms.sac.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated:

    a'    = clip(π̄(h_{t+1}) + ε, -1, 1),   ε = clip(σ N(0, 1), -c, c)
    y_t   = r_t + γ m_t min_k Q̄_k(h_{t+1}, a')
    L_Q   = Σ_k mean (Q_k(h_t, a_t) - y_t)²
    L_π   = -λ mean Q_1(h_t, π(h_t)) + mean (π(h_t) - a_t)²,   λ = α / mean |Q_1(h_t, π(h_t))|

where the last mean is over the entries of the action too and λ carries no gradient. Every update
steps the critics. Every `policy_delay`-th then steps the actor against the new critics, and after
it moves all targets, those of critics and actor, by `polyak` towards what was just learnt.

The delay is a count in the state. Runs are vmapped over seeds, where a `cond` computes both
branches, so every update computes the actor's step and keeps it when it is due; docs/td3bc.md has
what that costs. In the environment the actor explores as TD3 does, with Gaussian noise.

Departures from the released code: kernels are orthogonal and the last layer of the actor starts
small; the mean |Q_1| is held above 1e-8. With memory, actor and critics each remember on their
own, their targets from memory of their own. Measured scores: docs/td3bc.md.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float, Int

from rlssm.algorithms.sac import masked_mean, normalized
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import UserError, require
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import Actor, Critic, History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.heads import DeterministicHead
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
    "learning_rate", "critic_learning_rate", "ssm_lr_factor", "discount", "polyak", "alpha",
)  # fmt: skip
SMALLEST_VALUE = 1e-8  # what values are divided by at least


@dataclass(frozen=True)
class TD3BCConfig:
    """Hyper-parameters of TD3+BC; docs/td3bc.md explains each at length."""

    name: Literal["td3bc"] = "td3bc"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor and, with its own weights, of the critics."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of each of the two critics' heads."""
    experience: ExperienceConfig = field(default_factory=ExperienceConfig)
    """How experience is collected, kept and drawn."""
    alpha: float = 2.5
    """Weight of the value against the cloning term in the actor's loss, at least 0; 0 clones."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on the target's action, at least 0."""
    noise_clip: float = 0.5
    """Largest magnitude of that noise, at least 0."""
    policy_delay: int = 2
    """Updates of the critics to one of the actor and of all targets, at least 1."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on actions taken to learn from, at least 0."""
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
    """Share of what was learnt that the targets take over when they move, in (0, 1]."""
    normalize_obs: bool = True
    """Whether observations are standardised by the dataset's mean and deviation."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        require(0 <= self.alpha < math.inf, "alpha", self.alpha, "at least 0")
        require_td3(self)
        batch_spec(self)


def require_td3(config: Any) -> None:
    """Raise a `UserError` for settings that TD3 cannot run with; those of `TD3BCConfig`."""
    for name in ("learning_rate", "critic_learning_rate", "ssm_lr_factor"):
        require(0 < getattr(config, name) < math.inf, name, getattr(config, name), "above 0")
    for name in ("policy_noise", "noise_clip", "exploration_noise"):
        require(0 <= getattr(config, name) < math.inf, name, getattr(config, name), "at least 0")
    norm = config.max_grad_norm
    require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
    require(config.policy_delay >= 1, "policy_delay", config.policy_delay, "at least 1")
    require(0 <= config.discount <= 1, "discount", config.discount, "in [0, 1]")
    require(0 < config.polyak <= 1, "polyak", config.polyak, "in (0, 1]")
    require_torso_fits(config.torso, config.core)


class TD3BCState(PyTreeNode):
    """Everything TD3+BC learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" with normalize_obs
    critic: Params
    target: dict[str, Params]  # of "actor" and "critic"
    opt_state: dict[str, Any]
    updates: Int[Array, ""]
    hyper: dict[str, Array]
    key: Key


# --- Networks ---------------------------------------------------------------------------------
# Where a configuration is `Any`, it is one with the fields of `TD3BCConfig`.


class Networks(NamedTuple):
    """The modules of an agent, without parameters."""

    actor: Actor
    critic: Critic

    def initial_carry(self, batch: int) -> Carry:
        """Return the memory before the first step."""
        return self.actor.initial_carry(batch)


def networks(config: Any, spec: Spec) -> Networks:
    """Return the actor and the critics for an environment.

    Raises:
        UserError: if TD3 cannot serve the environment's spaces.
    """
    if not (isinstance(spec.action, Box) and len(spec.action.shape) == 1):
        raise UserError(f"{config.name} needs continuous actions (a vector), got {spec.action}")
    if config.normalize_obs and not isinstance(spec.obs, Box):
        raise UserError("normalize_obs needs array observations; set it to False here")
    history = History(spec, config.torso, config.core, config.precision)
    head = DeterministicHead(spec.action.shape[0], config.actor, config.precision)
    return Networks(Actor(history, head), Critic(history.clone(), config.critic))


def optimizers(config: Any, hyper: dict[str, Array]) -> dict[str, optax.GradientTransformation]:
    """Return the optimisers for these (possibly traced) hyper-parameters."""
    factor, norm = hyper["ssm_lr_factor"], config.max_grad_norm
    rates = {"actor": hyper["learning_rate"], "critic": hyper["critic_learning_rate"]}
    return {
        name: make_optimizer(rate, ssm_lr_factor=factor, max_grad_norm=norm)
        for name, rate in rates.items()
    }


def init(config: TD3BCConfig, spec: Spec, key: Key) -> TD3BCState:
    """Return the state before the first update."""
    return TD3BCState(**first_state(config, spec, key))


def first_state(config: Any, spec: Spec, key: Key) -> dict[str, Any]:
    """Return the fields of the state before the first update."""
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
    hyper = {name: jnp.float32(getattr(config, name)) for name in config.swept}
    return {
        "params": params,
        "critic": learnt["critic"],
        "target": jax.tree.map(jnp.copy, learnt),
        "opt_state": {n: opt.init(learnt[n]) for n, opt in optimizers(config, hyper).items()},
        "updates": jnp.int32(0),
        "hyper": hyper,
        "key": key,
    }


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: Any,
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
        greedy: whether to leave out the noise that explores.
    """
    seen, reset = jax.tree.map(lambda x: x[None], (normalized(config, params, seen), reset))
    carry, action = apply(networks(config, spec).actor, params["actor"], carry, seen, reset)
    if greedy:
        return action[0], carry, {}
    return noisy(action[0], key, config.exploration_noise), carry, {}


def noisy(
    action: Float[Array, "*batch A"], key: Key, scale: float, clip: float = math.inf
) -> Float[Array, "*batch A"]:
    """Return actions with Gaussian noise of at most `clip`, within [-1, 1]."""
    noise = scale * jax.random.normal(key, action.shape)
    return jnp.clip(action + jnp.clip(noise, -clip, clip), -1, 1)


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: TD3BCConfig, spec: Spec, state: TD3BCState, batch: Trajectory
) -> tuple[TD3BCState, Metrics]:
    """Make one step of critics and, when due, of actor and targets on windows `[T, B, ...]`."""
    actor, critic = networks(config, spec)
    hyper, step, mask = state.hyper, batch.step, batch.mask
    optimizer = optimizers(config, hyper)
    key, noise_key = jax.random.split(state.key)
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    rows = normalized(config, state.params, rows)
    seen, reset_seen = jax.tree.map(lambda x: x[:-1], (rows, reset))
    blank = critic.initial_carry(mask.shape[1])
    memory = blank if batch.carry is None else batch.carry

    _, next_action = apply(actor, state.target["actor"], memory, rows, reset, skip=1)
    next_action = noisy(next_action, noise_key, config.policy_noise, config.noise_clip)
    next_value = apply(critic, state.target["critic"], blank, rows, reset, next_action, skip=1)
    next_value = jnp.where(step.terminated, 0.0, next_value.min(0))
    target = config.experience.reward(step.reward) + hyper["discount"] * next_value

    def critic_loss(params: Params) -> tuple[Array, Array]:
        values = apply(critic, params, blank, seen, reset_seen, step.action)
        return masked_mean(jnp.square(values - target), mask).sum(), values

    (q_loss, values), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    change, critic_opt = optimizer["critic"].update(grad, state.opt_state["critic"], state.critic)
    critics = optax.apply_updates(state.critic, change)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, action = apply(actor, params, memory, seen, reset_seen)
        value = apply(critic, critics, blank, seen, reset_seen, action)[0]
        error = masked_mean(jnp.square(action - step.action).mean(-1), mask)
        weight = hyper["alpha"] / mean_magnitude(value, mask)
        return error - weight * masked_mean(value, mask), error

    weights = state.params["actor"]
    (pi_loss, error), grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    change, actor_opt = optimizer["actor"].update(grad, state.opt_state["actor"], weights)
    state = state.replace(critic=critics, opt_state=state.opt_state | {"critic": critic_opt})
    state = delayed(config, state, optax.apply_updates(weights, change), actor_opt)
    return state.replace(key=key), {
        "actor/loss": pi_loss,
        "actor/bc_error": error,
        "critic/loss": q_loss,
        "critic/value_mean": masked_mean(values, mask).mean(),
    }


def mean_magnitude(value: Float[Array, "T B"], mask: Bool[Array, "T B"]) -> Float[Array, ""]:
    """Return the mean |value| over the steps learnt from, without a gradient and never 0."""
    mean = masked_mean(jnp.abs(value), mask)
    return jax.lax.stop_gradient(jnp.maximum(mean, SMALLEST_VALUE))


def delayed(config: Any, state: Any, actor: Params, actor_opt: Any) -> Any:
    """Return the state one update on, with the actor's step and moved targets if they are due.

    Args:
        config: of TD3+BC or a child of it.
        state: a `TD3BCState` or one with its fields, whose critics have made their step.
        actor: what the actor's step leads to.
        actor_opt: its optimiser's state after that step.
    """
    updates = state.updates + 1
    due = updates % config.policy_delay == 0
    learnt = {"actor": actor, "critic": state.critic}
    target = optax.incremental_update(learnt, state.target, state.hyper["polyak"])
    now = (state.params["actor"], state.opt_state["actor"], state.target)
    actor, actor_opt, target = jax.tree.map(
        lambda new, old: jnp.where(due, new, old), (actor, actor_opt, target), now
    )
    return state.replace(
        params=state.params | {"actor": actor},
        target=target,
        opt_state=state.opt_state | {"actor": actor_opt},
        updates=updates,
    )


def batch_spec(config: TD3BCConfig) -> Windows:
    """Return what the loop must supply."""
    return wish(config.experience, memory=has_memory(config.core), offline_first=True)


# The published settings are the same for every dataset.
PRESETS: dict[str, TD3BCConfig] = {"default": TD3BCConfig()}
