"""Implicit Q-learning: values of the best actions in a dataset, without asking for any other.

Sources: Kostrikov, Nair and Levine 2021, "Offline Reinforcement Learning with Implicit
Q-Learning" (arXiv 2110.06169), equations 5 to 7; code ikostrikov/implicit_q_learning and CORL.
The parent is rlssm.algorithms.sac.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated,
and all of V, Q, Q̄ as they were before the update:

    A_t = min_k Q̄_k(h_t, a_t) - V(h_t)
    L_V = mean |τ - 1(A_t < 0)| A_t²                               τ the expectile
    L_Q = mean over k, t of (Q_k(h_t, a_t) - r_t - γ m_t V(h_{t+1}))²
    Q̄   ← Q̄ + polyak (Q - Q̄)
    L_π = mean min(exp(β A_t), 100) (-log π(a_t | h_t))

where a deterministic policy has |π(h_t) - a_t|² in place of -log π. No action is ever sampled and
no step needs the action of the next. The policy is a Gaussian with mean tanh(f(h)) and a standard
deviation of its own per action, its samples clipped to [-1, 1]; with discrete actions it is
categorical and Q reads a one-hot action.

The two codes differ, and this file follows CORL: the official one takes A_t for the policy and
V(h_{t+1}) from the V just updated, sums L_Q over k, bounds the log standard deviation by -5 and not
-20, and does not standardise observations. Departures from both: no dropout in the actor (Adroit
has 0.1; CORL's Gaussian policy ignores the setting), a small last layer of the actor, and a fixed
share of the dataset in each batch once there are steps of the environment. With memory, V, Q and π
each remember on their own. Measured scores: docs/iql.md.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool

from rlssm.algorithms.sac import masked_mean, normalized
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import UserError, require
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import (
    Actor,
    Critic,
    History,
    StateValue,
    apply,
    has_memory,
    require_torso_fits,
)
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.heads import CategoricalHead, DeterministicHead, TanhMeanHead
from rlssm.nn.mlp import MLPConfig, Precision
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
    unrolled,
    zeros,
)

SWEPT = (
    "learning_rate", "critic_learning_rate", "ssm_lr_factor", "discount", "polyak", "expectile",
    "beta",
)  # fmt: skip
MAX_WEIGHT = 100.0  # of a step in the policy's loss


@dataclass(frozen=True)
class IQLConfig:
    """Hyper-parameters of IQL; docs/iql.md explains each at length."""

    name: Literal["iql"] = "iql"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor and, with their own weights, of the critics and the value."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of each critic's head and of the value's."""
    critics: int = 2
    """Critics, at least 1; the smallest of their values counts."""
    experience: ExperienceConfig = field(default_factory=ExperienceConfig)
    """How experience is collected, kept and drawn."""
    expectile: float = 0.7
    """Which expectile of Q over the dataset's actions V stands for, in (0, 1): 0.5 their mean,
    near 1 the best. The paper has 0.7 for locomotion, 0.9 for antmaze."""
    beta: float = 3.0
    """Inverse temperature of the policy's weights, at least 0: 0 imitates, larger is greedier.
    The paper has 3 for locomotion, 10 for antmaze."""
    deterministic: bool = False
    """Whether the policy is deterministic and learns by weighted squares; it explores nothing.
    CORL: yes for hopper-medium and hopper-medium-replay."""
    learning_rate: float = 3e-4
    """Adam step size of the actor at first, above 0."""
    actor_decay_steps: int | None = 1_000_000
    """Updates over which the actor's step size falls to 0 along half a cosine, and stays there;
    left out, it is kept, as a run that goes on in the environment needs."""
    critic_learning_rate: float = 3e-4
    """Adam step size of the critics and of the value, above 0."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    max_grad_norm: float | None = None
    """Norm that the gradients of actor, critics and value are each clipped to; default none."""
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
        for name in ("learning_rate", "critic_learning_rate", "ssm_lr_factor"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        require(0 < self.expectile < 1, "expectile", self.expectile, "in (0, 1)")
        require(0 <= self.beta < math.inf, "beta", self.beta, "at least 0")
        steps, norm = self.actor_decay_steps, self.max_grad_norm
        require(steps is None or steps >= 1, "actor_decay_steps", steps, "at least 1, or left out")
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        require(0 <= self.discount <= 1, "discount", self.discount, "in [0, 1]")
        require(0 < self.polyak <= 1, "polyak", self.polyak, "in (0, 1]")
        require(self.critics >= 1, "critics", self.critics, "at least 1")
        require_torso_fits(self.torso, self.core)
        batch_spec(self)


class IQLState(PyTreeNode):
    """Everything IQL learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" with normalize_obs
    critic: Params
    target: Params
    value: Params
    opt_state: dict[str, Any]
    hyper: dict[str, Array]
    key: Key  # never consumed: an update draws nothing


# --- Networks ---------------------------------------------------------------------------------


class Networks(NamedTuple):
    """The modules of an agent, without parameters."""

    actor: Actor
    critic: Critic
    value: StateValue

    def initial_carry(self, batch: int) -> Carry:
        """Return the memory before the first step."""
        return self.actor.initial_carry(batch)


def networks(config: IQLConfig, spec: Spec) -> Networks:
    """Return the actor, the critics and the value for an environment.

    Raises:
        UserError: if IQL cannot serve the environment's spaces.
    """
    match spec.action:
        case Discrete(n) if not config.deterministic:
            head = CategoricalHead(n, config.actor, config.precision)
        case Box((size,)):
            kind = DeterministicHead if config.deterministic else TanhMeanHead
            head = kind(size, config.actor, config.precision)
        case other:
            kinds = "" if config.deterministic else "discrete or "
            raise UserError(f"iql needs {kinds}continuous actions (a vector), got {other}")
    if config.normalize_obs and not isinstance(spec.obs, Box):
        raise UserError("normalize_obs needs array observations; leave it out for this environment")
    history = History(spec, config.torso, config.core, config.precision)
    return Networks(
        Actor(history, head),
        Critic(history.clone(), config.critic, config.critics),
        StateValue(history.clone(), config.critic),
    )


def optimizers(config: IQLConfig, hyper: dict[str, Array]) -> dict[str, Any]:
    """Return the optimisers for these (possibly traced) hyper-parameters."""
    rate, steps = hyper["learning_rate"], config.actor_decay_steps

    def adam(learning_rate: Any) -> Any:
        factor = hyper["ssm_lr_factor"]
        return make_optimizer(
            learning_rate, ssm_lr_factor=factor, max_grad_norm=config.max_grad_norm
        )

    return {
        "actor": adam(rate if steps is None else lambda t: rate * cosine(t / steps)),
        "critic": adam(hyper["critic_learning_rate"]),
        "value": adam(hyper["critic_learning_rate"]),
    }


def cosine(done: Array) -> Array:
    """Return a factor that falls from 1 to 0 as `done` goes from 0 to 1, and stays there."""
    return (1 + jnp.cos(jnp.pi * jnp.minimum(done, 1))) / 2


def init(config: IQLConfig, spec: Spec, key: Key) -> IQLState:
    """Return the state before the first update."""
    actor_key, critic_key, value_key, key = jax.random.split(key, 4)
    actor, critic, value = networks(config, spec)
    seen, reset = example_inputs(spec)
    carry = actor.initial_carry(1)
    learnt = {
        "actor": actor.init(actor_key, carry, seen, reset),
        "critic": critic.init(critic_key, carry, seen, reset, zeros(spec.action, (1, 1))),
        "value": value.init(value_key, carry, seen, reset),
    }
    params = {"actor": learnt["actor"]}
    if config.normalize_obs:
        params["statistics"] = normalizers.init(zeros(spec.obs))
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    opt_state = {name: opt.init(learnt[name]) for name, opt in optimizers(config, hyper).items()}
    target = jax.tree.map(jnp.copy, learnt["critic"])
    return IQLState(params, learnt["critic"], target, learnt["value"], opt_state, hyper, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: IQLConfig,
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
        greedy: whether to take the mode in place of a sample, clipped to [-1, 1].
    """
    seen, reset = jax.tree.map(lambda x: x[None], (normalized(config, params, seen), reset))
    carry, policy = apply(networks(config, spec).actor, params["actor"], carry, seen, reset)
    if config.deterministic:
        return policy[0], carry, {}
    action = (policy.mode() if greedy else policy.sample(key))[0]
    return action if isinstance(spec.action, Discrete) else jnp.clip(action, -1, 1), carry, {}


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: IQLConfig, spec: Spec, state: IQLState, batch: Trajectory
) -> tuple[IQLState, Metrics]:
    """Make one step of value, critics, targets and actor on windows `[T, B, ...]`."""
    actor, critic, value = networks(config, spec)
    hyper, step, mask = state.hyper, batch.step, batch.mask
    optimizer = optimizers(config, hyper)
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    rows = normalized(config, state.params, rows)
    seen, reset_seen = jax.tree.map(lambda x: x[:-1], (rows, reset))
    blank = critic.initial_carry(mask.shape[1])
    memory = blank if batch.carry is None else batch.carry
    q = apply(critic, state.target, blank, seen, reset_seen, step.action).min(0)

    def value_loss(params: Params) -> tuple[Array, Array]:
        v = apply(value, params, blank, rows, reset)
        advantage = q - v[:-1]
        weight = jnp.abs(hyper["expectile"] - (advantage < 0))
        return masked_mean(weight * jnp.square(advantage), mask), v

    (v_loss, v), v_grad = jax.value_and_grad(value_loss, has_aux=True)(state.value)
    next_value = jnp.where(step.terminated, 0.0, v[1:])
    target = config.experience.reward(step.reward) + hyper["discount"] * next_value

    def critic_loss(params: Params) -> tuple[Array, Array]:
        values = apply(critic, params, blank, seen, reset_seen, step.action)
        return masked_mean(jnp.square(values - target), mask).mean(), values

    (q_loss, values), q_grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    weight = jnp.minimum(jnp.exp(hyper["beta"] * (q - v[:-1])), MAX_WEIGHT)

    def actor_loss(params: Params) -> Array:
        _, policy = apply(actor, params, memory, seen, reset_seen)
        if config.deterministic:
            error = jnp.square(policy - step.action).sum(-1)
        else:
            error = -policy.log_prob(step.action)
        return masked_mean(weight * error, mask)

    pi_loss, pi_grad = jax.value_and_grad(actor_loss)(state.params["actor"])
    learnt = {"actor": state.params["actor"], "critic": state.critic, "value": state.value}
    opt_state = dict(state.opt_state)
    for name, grad in (("value", v_grad), ("critic", q_grad), ("actor", pi_grad)):
        change, opt_state[name] = optimizer[name].update(grad, opt_state[name], learnt[name])
        learnt[name] = optax.apply_updates(learnt[name], change)
    state = state.replace(
        params=state.params | {"actor": learnt["actor"]},
        critic=learnt["critic"],
        target=optax.incremental_update(learnt["critic"], state.target, hyper["polyak"]),
        value=learnt["value"],
        opt_state=opt_state,
    )
    return state, {
        "actor/loss": pi_loss,
        "actor/weight_mean": masked_mean(weight, mask),
        "critic/loss": q_loss,
        "critic/value_mean": masked_mean(values, mask).mean(),
        "value/loss": v_loss,
        "value/value_mean": masked_mean(v[:-1], mask),
    }


def batch_spec(config: IQLConfig) -> Windows:
    """Return what the loop must supply."""
    return wish(config.experience, memory=has_memory(config.core), offline_first=True)


_MUJOCO = IQLConfig(normalize_obs=True)
_ANTMAZE = IQLConfig(
    expectile=0.9, beta=10.0, experience=ExperienceConfig(reward_shift=-1.0), normalize_obs=True
)

# Those of CORL; the default and antmaze-online are those of the official code.
PRESETS: dict[str, IQLConfig] = {
    "default": IQLConfig(),
    "mujoco": _MUJOCO,
    "hopper-medium": replace(_MUJOCO, deterministic=True, polyak=0.001),  # and -medium-replay
    "hopper-medium-expert": replace(_MUJOCO, expectile=0.5, beta=6.0),
    "antmaze": _ANTMAZE,
    "antmaze-online": replace(_ANTMAZE, normalize_obs=False, actor_decay_steps=None),
    "adroit": replace(_MUJOCO, expectile=0.8),
}
