"""Conservative Q-learning from a dataset, and then from an environment too.

Source: Kumar et al. 2020, "Conservative Q-Learning for Offline Reinforcement Learning" (arXiv
2006.04779), equation 4 with the KL regulariser, CQL(H), and appendix F for the samples; the
JAX-CQL code and CORL's version of it. Parents: `rlssm.algorithms.sac`, for its arithmetic.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated,
and N = 3n proposals a_i of density q_i, all at h_t: n uniform in [-1, 1], n from π(· | h_t), n from
π(· | h_{t+1}):

    y_t     = r_t + γ m_t min_k Q̄_k(h_{t+1}, a'),   a' ~ π(· | h_{t+1})
    S_k     = T log Σ_i exp((Q_k(h_t, a_i) - log q_i) / T)
    D_k     = mean clip(S_k - Q_k(h_t, a_t), clip_min, clip_max)
    L_Q     = Σ_k mean (Q_k(h_t, a_t) - y_t)² + w (D_k - gap)
    L_π     = mean (α log π(a | h_t) - min_k Q_k(h_t, a)),   a ~ π(· | h_t)
    L_α     = -mean log α (log π(a | h_t) + H̄),             H̄ = -dim(a)
    Q̄       ← Q̄ + τ (Q - Q̄)

The weight w is `cql_alpha`, and gap 0, or with `lagrange_gap` w = α' cql_alpha, where
α' = clip(exp l, 0, 1e6) and l descends -mean_k w (D_k - gap). With `max_target_backup` a' is the
best of n under min_k Q̄_k. S_k has no constant -log N, and a_t is not among the a_i.

All losses of one update are taken at the same parameters, then everything steps: the order of
CORL. Its warm start of the policy by cloning, which is off by default, is left out.

`rlssm.algorithms.calql` is the same code: where a batch comes with Monte-Carlo returns G, it is
max(Q_k, G) in place of Q_k at the proposals of the policy.

Departures from the code: the log standard deviation is clipped to [-5, 2] rather than [-20, 2];
kernels are orthogonal in both networks, and the last one of a critic has gain 1. With memory,
actor and critics each remember on their own, and all proposals share the critics' memory of h_t;
where an episode ends inside a window the π(· | h_{t+1}) above is that of the next episode's first
step, which is as good a proposal, since S_k divides by its density. Measured scores: docs/cql.md.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

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
from rlssm.nn.distributions import TanhGaussian
from rlssm.nn.heads import ScaledTanhGaussianHead
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

T = TypeVar("T")

SWEPT = (
    "learning_rate", "critic_learning_rate", "temperature_learning_rate", "ssm_lr_factor",
    "discount", "polyak", "cql_alpha",
)  # fmt: skip

MULTIPLIER_CAP = 1e6  # of α'


@dataclass(frozen=True)
class CQLConfig:
    """Hyper-parameters of CQL; docs/cql.md explains each at length."""

    name: Literal["cql"] = "cql"
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
    learning_rate: float = 3e-5
    """Adam step size of the actor, above 0."""
    critic_learning_rate: float = 3e-4
    """Adam step size of the critics and of the multiplier of `lagrange_gap`, above 0."""
    temperature_learning_rate: float = 3e-5
    """Adam step size of the log temperature, at least 0; 0 keeps it. CORL: that of the actor."""
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
    backup_entropy: bool = False
    """Whether the target counts the entropy of the next action. SAC: yes."""
    cql_alpha: float = 10.0
    """Weight of the conservative term, at least 0; 0 is SAC."""
    cql_actions: int = 10
    """Actions n from each of the three proposals, and of `max_target_backup`, at least 1."""
    cql_temperature: float = 1.0
    """Temperature T of the soft maximum over actions, above 0."""
    clip_min: float | None = None
    """Lower limit of how far the soft maximum may lie from the value of the stored action, per
    step; default none. CORL's antmaze: -200."""
    clip_max: float | None = None
    """Upper limit of the same; default none."""
    lagrange_gap: float | None = None
    """Where given, a multiplier of `cql_alpha` is learnt that holds the conservative term at this
    gap. Antmaze: 0.8."""
    max_target_backup: bool = False
    """Whether the target is of the best of `cql_actions` next actions. Antmaze: yes."""
    normalize_obs: bool = True
    """Whether observations are standardised by the dataset's mean and standard deviation."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        for name in (
            "learning_rate", "critic_learning_rate", "ssm_lr_factor", "init_temperature",
            "cql_temperature",
        ):  # fmt: skip
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        for name in ("temperature_learning_rate", "cql_alpha"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        require(0 <= self.discount <= 1, "discount", self.discount, "in [0, 1]")
        require(0 < self.polyak <= 1, "polyak", self.polyak, "in (0, 1]")
        for name in ("critics", "cql_actions"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("target_entropy", "clip_min", "clip_max", "lagrange_gap"):
            value = getattr(self, name)
            require(value is None or math.isfinite(value), name, value, "finite, or left out")
        if self.clip_min is not None and self.clip_max is not None:
            limit = f"below clip_max = {self.clip_max:g}"
            require(self.clip_min < self.clip_max, "clip_min", self.clip_min, limit)
        require_torso_fits(self.torso, self.core)
        batch_spec(self)


class CQLState(PyTreeNode):
    """Everything CQL learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" with normalize_obs
    critic: Params
    target: Params
    log_alpha: Float[Array, ""]
    log_multiplier: Float[Array, ""]  # l, which moves with lagrange_gap only
    opt_state: dict[str, Any]
    hyper: dict[str, Array]
    key: Key


# --- Networks ---------------------------------------------------------------------------------


def networks(config: CQLConfig, spec: Spec) -> Networks:
    """Return the actor and the critics for an environment.

    Raises:
        UserError: if CQL cannot serve the environment's spaces.
    """
    if not (isinstance(spec.action, Box) and len(spec.action.shape) == 1):
        raise UserError(f"{config.name} needs continuous actions (a vector), got {spec.action}")
    if config.normalize_obs and not isinstance(spec.obs, Box):
        raise UserError("normalize_obs needs array observations; set it to False here")
    history = History(spec, config.torso, config.core, config.precision)
    head = ScaledTanhGaussianHead(spec.action.shape[0], config.actor, config.precision)
    return Networks(Actor(history, head), Critic(history.clone(), config.critic, config.critics))


def optimizers(config: CQLConfig, hyper: dict[str, Array]) -> dict[str, Any]:
    """Return the optimisers for these (possibly traced) hyper-parameters."""

    def adam(learning_rate: Array, max_grad_norm: float | None = None) -> Any:
        factor = hyper["ssm_lr_factor"]
        return make_optimizer(learning_rate, ssm_lr_factor=factor, max_grad_norm=max_grad_norm)

    return {
        "actor": adam(hyper["learning_rate"], config.max_grad_norm),
        "critic": adam(hyper["critic_learning_rate"], config.max_grad_norm),
        "temperature": adam(hyper["temperature_learning_rate"]),
        "multiplier": adam(hyper["critic_learning_rate"]),
    }


def init(config: CQLConfig, spec: Spec, key: Key) -> CQLState:
    """Return the state before the first update."""
    actor_key, critic_key, key = jax.random.split(key, 3)
    actor, critic = networks(config, spec)
    seen, reset = example_inputs(spec)
    params = {"actor": actor.init(actor_key, actor.initial_carry(1), seen, reset)}
    if config.normalize_obs:
        params["statistics"] = normalizers.init(zeros(spec.obs))
    carry = critic.initial_carry(1)
    critics = critic.init(critic_key, carry, seen, reset, zeros(spec.action, (1, 1)))
    log_alpha, log_multiplier = jnp.log(jnp.float32(config.init_temperature)), jnp.float32(1)
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    learnt = {
        "actor": params["actor"], "critic": critics, "temperature": log_alpha,
        "multiplier": log_multiplier,
    }  # fmt: skip
    opt_state = {name: opt.init(learnt[name]) for name, opt in optimizers(config, hyper).items()}
    target = jax.tree.map(jnp.copy, critics)
    return CQLState(params, critics, target, log_alpha, log_multiplier, opt_state, hyper, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: CQLConfig,
    spec: Spec,
    params: Params,
    seen: Inputs,
    reset: Bool[Array, " B"],
    carry: Carry,
    key: Key,
    *,
    greedy: bool,
) -> tuple[Array, Carry, dict[str, Array]]:
    """Choose one action per environment as `sac.act` does."""
    seen, reset = jax.tree.map(lambda x: x[None], (normalized(config, params, seen), reset))
    carry, policy = apply(networks(config, spec).actor, params["actor"], carry, seen, reset)
    return (policy.mode() if greedy else policy.sample(key))[0], carry, {}


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: CQLConfig, spec: Spec, state: CQLState, batch: Trajectory
) -> tuple[CQLState, Metrics]:
    """Make one step of critics, actor, temperature and multiplier on windows `[T, B, ...]`."""
    actor, critic = networks(config, spec)
    hyper, step, mask = state.hyper, batch.step, batch.mask
    key, next_key, proposal_key, action_key = jax.random.split(state.key, 4)
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    rows = normalized(config, state.params, rows)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank = critic.initial_carry(reset.shape[1])
    memory = actor.initial_carry(reset.shape[1]) if batch.carry is None else batch.carry
    alpha = jnp.exp(state.log_alpha)
    weights = state.params["actor"]

    _, policy = apply(actor, weights, memory, rows, reset)
    now, successor = jax.tree.map(lambda x: x[:-1], policy), jax.tree.map(lambda x: x[1:], policy)
    features = apply(critic, state.target, blank, rows, reset, skip=1, method="features")
    next_value = backup(config, critic, state.target, features, successor, alpha, next_key)
    reward = config.experience.reward(step.reward)
    target = reward + hyper["discount"] * jnp.where(step.terminated, 0.0, next_value)

    action, log_density = proposals(now, successor, config.cql_actions, proposal_key)
    action = jnp.concatenate([step.action[None], action])
    returns = step.extras.get("mc_return")  # Cal-QL's batches have them, and no others
    multiplier = jnp.minimum(jnp.exp(state.log_multiplier), MULTIPLIER_CAP)
    weight = hyper["cql_alpha"] * (1 if config.lagrange_gap is None else multiplier)

    def critic_loss(params: Params) -> tuple[Array, tuple[Array, Array, Metrics]]:
        features = apply(critic, params, blank, seen, reset[:-1], method="features")
        values = apply(critic, params, several(features, len(action)), action, method="value")
        value, proposed = values[:, 0], values[:, 1:]
        error = masked_mean(jnp.square(value - target), mask)
        uniform, drawn = jnp.split(proposed, [config.cql_actions], axis=1)
        if returns is not None:
            proposed = jnp.concatenate([uniform, jnp.maximum(drawn, returns)], axis=1)
        high = soft_maximum(proposed, log_density, config.cql_temperature)
        gap = masked_mean(jnp.clip(high - value, config.clip_min, config.clip_max), mask)
        excess = gap - (config.lagrange_gap or 0.0)
        metrics = {
            "critic/bellman_error": error.sum(),
            "critic/gap": gap.mean(),
            "critic/value_mean": masked_mean(value, mask).mean(),
        }
        if returns is not None:
            known = mask & (returns > jnp.finfo(returns.dtype).min)
            metrics["critic/bound_active"] = masked_mean((drawn < returns).mean((0, 1)), known)
        return (error + weight * excess).sum(), (features, excess, metrics)

    grad_of = jax.value_and_grad(critic_loss, has_aux=True)
    (q_loss, (features, excess, metrics)), critic_grad = grad_of(state.critic)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, policy = apply(actor, params, memory, seen, reset[:-1])
        action, log_prob = policy.sample_and_log_prob(action_key)
        value = apply(critic, state.critic, features, action, method="value").min(0)
        return masked_mean(alpha * log_prob - value, mask), masked_mean(log_prob, mask)

    (pi_loss, log_prob), actor_grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    goal = -spec.action.shape[0] if config.target_entropy is None else config.target_entropy
    grads = {
        "actor": actor_grad,
        "critic": critic_grad,
        "temperature": -(log_prob + goal),  # of -log α (log π + H̄) in log α
        "multiplier": jnp.where(multiplier < MULTIPLIER_CAP, -(weight * excess).mean(), 0.0),
    }
    if config.lagrange_gap is not None:
        metrics["critic/multiplier"] = multiplier
    metrics |= {"actor/loss": pi_loss, "actor/entropy": -log_prob, "actor/temperature": alpha}
    return _stepped(config, state.replace(key=key), grads), metrics | {"critic/loss": q_loss}


def _stepped(config: CQLConfig, state: CQLState, grads: dict[str, Any]) -> CQLState:
    """Return the state after one step along gradients that were all taken at it."""
    learnt = {
        "actor": state.params["actor"], "critic": state.critic, "temperature": state.log_alpha,
        "multiplier": state.log_multiplier,
    }  # fmt: skip
    opt_state = dict(state.opt_state)
    for name, optimizer in optimizers(config, state.hyper).items():
        if name == "multiplier" and config.lagrange_gap is None:
            continue
        change, opt_state[name] = optimizer.update(grads[name], opt_state[name], learnt[name])
        learnt[name] = optax.apply_updates(learnt[name], change)
    return state.replace(
        params=state.params | {"actor": learnt["actor"]},
        critic=learnt["critic"],
        target=optax.incremental_update(learnt["critic"], state.target, state.hyper["polyak"]),
        log_alpha=learnt["temperature"],
        log_multiplier=learnt["multiplier"],
        opt_state=opt_state,
    )


def several(tree: T, n: int) -> T:
    """Return a tree with leaves `[n, ...]`: features for n actions, a policy that draws them."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), tree)


def backup(
    config: CQLConfig,
    critic: Critic,
    params: Params,
    features: Float[Array, "T B H"],
    policy: TanhGaussian,
    alpha: Float[Array, ""],
    key: Key,
) -> Float[Array, "T B"]:
    """Return the value after each step: of one next action, or of the best of several.

    Args:
        critic, params: of the target critics.
        features: theirs of the successors.
        policy: at the successors.
    """
    draws = several(policy, config.cql_actions if config.max_target_backup else 1)
    action, log_prob = draws.sample_and_log_prob(key)
    value = apply(critic, params, several(features, len(action)), action, method="value").min(0)
    best = jnp.argmax(value, axis=0, keepdims=True)
    if config.backup_entropy:
        value -= alpha * log_prob
    return jnp.take_along_axis(value, best, axis=0)[0]


def proposals(
    now: TanhGaussian, successor: TanhGaussian, n: int, key: Key
) -> tuple[Float[Array, "N T B A"], Float[Array, "N T B"]]:
    """Return n uniform actions, n of the policy now, n of the next, and their log densities."""
    uniform_key, now_key, next_key = jax.random.split(key, 3)
    uniform = jax.random.uniform(uniform_key, (n, *now.mean.shape), now.mean.dtype, -1, 1)
    log_volume = now.mean.shape[-1] * math.log(2)
    action, log_prob = several(now, n).sample_and_log_prob(now_key)
    next_action, next_log_prob = several(successor, n).sample_and_log_prob(next_key)
    log_density = [jnp.full(uniform.shape[:-1], -log_volume), log_prob, next_log_prob]
    return jnp.concatenate([uniform, action, next_action]), jnp.concatenate(log_density)


def soft_maximum(
    values: Float[Array, "E N T B"], log_density: Float[Array, "N T B"], temperature: float
) -> Float[Array, "E T B"]:
    """Return T log Σ_i exp((Q_i - log q_i) / T)."""
    return temperature * jax.nn.logsumexp((values - log_density) / temperature, axis=1)


def batch_spec(config: CQLConfig) -> Windows:
    """Return what the loop must supply."""
    return wish(config.experience, memory=has_memory(config.core), offline_first=True)


# The default is CORL's setting of halfcheetah and walker2d. Its hopper differs in rewards scaled
# by 1000 / (largest - smallest return of the dataset).
PRESETS: dict[str, CQLConfig] = {
    "default": CQLConfig(),
    "antmaze": CQLConfig(
        critic=MLPConfig((256,) * 5, "relu"),
        experience=ExperienceConfig(reward_scale=10.0, reward_shift=-5.0),
        learning_rate=1e-4,
        temperature_learning_rate=1e-4,
        cql_alpha=5.0,
        clip_min=-200.0,
        lagrange_gap=0.8,
        max_target_backup=True,
        normalize_obs=False,
    ),
}
