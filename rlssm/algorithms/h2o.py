"""H2O: learning from a real dataset and an imperfect simulator that may be acted in freely.

Source: Niu et al. 2022, "When to Trust Your Simulator: Dynamics-Aware Hybrid Offline-and-Online
Reinforcement Learning" (arXiv 2206.13464), and the released code, which the constants are from.
Parents: `rlssm.algorithms.sac`; `rlssm.algorithms.cql`, whose actor and critics these are; and
`rlssm.algorithms.dynamics_gap`, which computes L_D, w and u.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated,
means over the real or the simulated steps of a batch, and D₁, D₂ of `rlssm.nn.discriminators`:

    L_D     = mean_real -log p[0] + mean_sim -log p[1],   of p(· | h, a) and of p(· | h, a, o')
    w       = clip(P_real / P_sim (o' | h, a), 1e-5, 1)
    u       = clip(mean_n log P_sim / P_real (o'_n | h, a), 1e-30, 10),   o'_n = o' + σ ε_n
    ω_i     = u_i / Σ_k u_k                                               over the simulated steps

    y_t     = r_t + γ m_t min_k Q̄_k(h_{t+1}, a'),                         a' ~ π(· | h_{t+1})
    R_k     = clip(log Σ_i ω_i exp Q_k(h_i, a_i) - mean_real Q_k, -1000, 1000)
    L_Q     = Σ_k mean_real (Q_k - y)² + mean_sim w (Q_k - y)² + β R_k
    L_π     = mean (α log π(a | h_t) - min_k Q_k(h_t, a)),                a ~ π(· | h_t)
    L_α     = -mean log α (log π(a | h_t) + H̄),                           H̄ = -dim(a)
    Q̄       ← Q̄ + τ (Q - Q̄)

An update steps the discriminators on batches of their own, with Gaussian noise on what they see;
then critics, actor and temperature along gradients that are all taken at the same parameters; then
the targets. No gradient reaches the discriminators through w and u.

Departures from the released code. Collection: `num_envs` copies of the simulator take
`rollout_length` steps each between two rounds of as many updates, in place of one copy that takes
a thousand; the counts are the same, while the first steps kept are of the beginnings of episodes.
The first `warmup` steps are uniformly random. σ is the deviation of the dataset itself
(the paper's; the code's is in `deviation`). The floor of u is 1e-30, not the denormal 1e-45, which
a compiler may flush to 0. One Adam serves both discriminators, which is the same as two: D₂ is not
in the loss of D₁. The log standard deviation is clipped to [-5, 2]; kernels are orthogonal.

With memory, discriminators remember on their own, as actor and critics do, and judge every step of
a window by what was seen up to it; noise then falls on actions and successors, never on the
history. The ratio is of one step: ratios are not multiplied along time. Scores: docs/h2o.md.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float

from rlssm.algorithms import cql, dynamics_gap
from rlssm.algorithms.cql import act
from rlssm.algorithms.dynamics_gap import GAP_RANGE, Networks, judge, spread_of
from rlssm.algorithms.sac import masked_mean, normalized
from rlssm.data.mixing import ExperienceConfig, columns, side_by_side, wish
from rlssm.errors import UserError, require
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.mlp import MLPConfig, Precision, require_choices
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.s5 import S5Config
from rlssm.nn.torso import TorsoConfig
from rlssm.types import (
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

__all__ = [
    "PRESETS", "SWEPT", "H2OConfig", "H2OState", "act", "batch_spec", "init", "judge", "networks",
    "spread_of", "update",
]  # fmt: skip

SWEPT = (
    "learning_rate", "critic_learning_rate", "temperature_learning_rate",
    "discriminator_learning_rate", "ssm_lr_factor", "discount", "polyak", "penalty",
)  # fmt: skip

PENALTY_LIMIT = 1000.0  # of |R|
NOWHERE = -1e9  # in place of log ω where a step does not count


@dataclass(frozen=True)
class H2OConfig:
    """Hyper-parameters of H2O; docs/h2o.md explains each at length."""

    name: Literal["h2o"] = "h2o"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor, of the critics and of the discriminators, with weights for
    each of the three."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of each critic's head."""
    discriminator: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of each discriminator."""
    critics: int = 2
    """Critics, at least 1; the smallest of their values counts."""
    experience: ExperienceConfig = field(
        default_factory=lambda: ExperienceConfig(num_envs=10, rollout_length=100)
    )
    """How experience is collected, kept and drawn; `prior` is the share of real steps."""
    discriminator_batches: int = 2
    """Further batches that only the discriminators learn from, at least 0; 0 gives them that of
    the critics. Code: 2, which is 256 real and 256 simulated steps. D2C: 0."""
    noise: float = 0.1
    """Deviation of the noise on what the discriminators learn from, at least 0."""
    noise_in_place: bool = False
    """Whether actor and temperature learn at observations with that noise, too. D2C: yes, as its
    code overwrites them. Without memory only."""
    use_ratio: bool = True
    """Whether simulated steps count by w; without, each counts 1."""
    use_gap: bool = True
    """Whether values are pushed down by the gap u; without, evenly."""
    gap_samples: int = 10
    """Successors n that a gap is estimated from, at least 1."""
    gap_scale: float = 1.0
    """Deviation of these successors over that of the data, above 0."""
    deviation: Literal["true", "diluted"] = "true"
    """Whether σ is the dataset's deviation per entry, or that with ten rows of zeros for each of
    its rows, which the released code comes to."""
    soft_maximum: bool = True
    """Whether R has the soft maximum log Σ ω exp Q; without, Σ ω Q, a variant in the code."""
    penalty: float = 0.01
    """Weight β of R, at least 0; 0 leaves it out."""
    learning_rate: float = 3e-4
    """Adam step size of the actor, above 0."""
    critic_learning_rate: float = 3e-4
    """Adam step size of the critics, above 0."""
    discriminator_learning_rate: float = 3e-4
    """Adam step size of the discriminators, above 0."""
    temperature_learning_rate: float = 3e-4
    """Adam step size of the log temperature, at least 0; 0 keeps it."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    max_grad_norm: float | None = None
    """Norm that the gradients of actor, critics and discriminators are clipped to; default none."""
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
    normalize_obs: bool = False
    """Whether observations are standardised by the dataset's mean and standard deviation."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        require_choices(self)
        for name in (
            "learning_rate", "critic_learning_rate", "discriminator_learning_rate",
            "ssm_lr_factor", "init_temperature", "gap_scale",
        ):  # fmt: skip
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        for name in ("temperature_learning_rate", "penalty", "noise"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "max_grad_norm", norm, "above 0, or left out")
        require(0 <= self.discount <= 1, "discount", self.discount, "in [0, 1]")
        require(0 < self.polyak <= 1, "polyak", self.polyak, "in (0, 1]")
        for name in ("critics", "gap_samples"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        further = self.discriminator_batches
        require(further >= 0, "discriminator_batches", further, "at least 0")
        target = self.target_entropy
        require(target is None or math.isfinite(target), "target_entropy", target, "finite")
        require_torso_fits(self.torso, self.core)
        if self.noise_in_place and has_memory(self.core):
            raise UserError(
                "noise_in_place must be False with a memory, whose history it would spoil"
            )
        dynamics_gap.require_both(self.experience, batch_spec(self))


class H2OState(PyTreeNode):
    """Everything H2O learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" of the dataset's observations
    critic: Params
    target: Params
    discriminators: Params
    log_alpha: Float[Array, ""]
    opt_state: dict[str, Any]
    hyper: dict[str, Array]
    key: Key


# --- Networks ---------------------------------------------------------------------------------


def networks(config: H2OConfig, spec: Spec) -> Networks:
    """Return the actor, the critics, both as CQL's, and the discriminators for an environment.

    Raises:
        UserError: if H2O cannot serve the environment's spaces.
    """
    discriminators = dynamics_gap.discriminators_of(config, spec)
    actor, critic = cql.networks(config, spec)  # ty: ignore[invalid-argument-type]
    return Networks(actor, critic, discriminators)


def optimizers(config: H2OConfig, hyper: dict[str, Array]) -> dict[str, Any]:
    """Return the optimisers for these (possibly traced) hyper-parameters."""

    def adam(name: str, max_grad_norm: float | None = None) -> Any:
        factor = hyper["ssm_lr_factor"]
        return make_optimizer(hyper[name], ssm_lr_factor=factor, max_grad_norm=max_grad_norm)

    return {
        "actor": adam("learning_rate", config.max_grad_norm),
        "critic": adam("critic_learning_rate", config.max_grad_norm),
        "temperature": adam("temperature_learning_rate"),
        "discriminators": dynamics_gap.optimizer(config, hyper),
    }


def init(config: H2OConfig, spec: Spec, key: Key) -> H2OState:
    """Return the state before the first update."""
    actor_key, critic_key, discriminator_key, key = jax.random.split(key, 4)
    actor, critic, _ = networks(config, spec)
    seen, reset = example_inputs(spec)
    action, blank = zeros(spec.action, (1, 1)), actor.initial_carry(1)
    learnt = {
        "actor": actor.init(actor_key, blank, seen, reset),
        "critic": critic.init(critic_key, blank, seen, reset, action),
        "temperature": jnp.log(jnp.float32(config.init_temperature)),
        "discriminators": dynamics_gap.init(config, spec, discriminator_key),
    }
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    opt_state = {name: opt.init(learnt[name]) for name, opt in optimizers(config, hyper).items()}
    return H2OState(
        params={"actor": learnt["actor"], "statistics": normalizers.init(zeros(spec.obs))},
        critic=learnt["critic"],
        target=jax.tree.map(jnp.copy, learnt["critic"]),
        discriminators=learnt["discriminators"],
        log_alpha=learnt["temperature"],
        opt_state=opt_state,
        hyper=hyper,
        key=key,
    )


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: H2OConfig, spec: Spec, state: H2OState, batches: Trajectory
) -> tuple[H2OState, Metrics]:
    """Make one step of discriminators, critics, actor and temperature.

    Args:
        batches: windows `[1 + discriminator_batches, T, B, ...]`, of which the first is the
            critics' and the actor's; in each the real windows come first.
    """
    actor, critic, _ = networks(config, spec)
    hyper, share = state.hyper, batch_spec(config).offline
    key, noise_key, gap_key, next_key, action_key, actor_noise_key = jax.random.split(state.key, 6)
    batch = jax.tree.map(lambda x: x[0], batches)
    further = jax.tree.map(lambda x: x[1:] if config.discriminator_batches else x, batches)
    state, metrics = step_discriminators(config, spec, state, side_by_side(further), noise_key)

    simulated = columns(batch, slice(share, None))
    ratio, gap = judge(config, spec, state, simulated, gap_key)
    weight = ratio if config.use_ratio else jnp.ones_like(ratio)
    log_omega = log_shares(gap if config.use_gap else jnp.ones_like(gap), simulated.mask)

    step, mask = batch.step, batch.mask
    rows, reset = unrolled(batch)  # T + 1 of them: row t + 1 is the successor of step t
    rows = normalized(config, state.params, rows)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank = critic.initial_carry(reset.shape[1])
    memory = actor.initial_carry(reset.shape[1]) if batch.carry is None else batch.carry
    alpha, weights = jnp.exp(state.log_alpha), state.params["actor"]

    _, next_policy = apply(actor, weights, memory, rows, reset, skip=1)
    next_action, next_log_prob = next_policy.sample_and_log_prob(next_key)
    next_value = apply(critic, state.target, blank, rows, reset, next_action, skip=1).min(0)
    if config.backup_entropy:
        next_value -= alpha * next_log_prob
    reward = config.experience.reward(step.reward)
    target = reward + hyper["discount"] * jnp.where(step.terminated, 0.0, next_value)

    def critic_loss(params: Params) -> tuple[Array, Metrics]:
        values = apply(critic, params, blank, seen, reset[:-1], step.action)
        error = jnp.square(values - target)
        real = masked_mean(error[..., :share], mask[:, :share])
        simulation = masked_mean(weight * error[..., share:], simulated.mask)
        low = masked_mean(values[..., :share], mask[:, :share])
        high = upper(config, values[..., share:], log_omega)
        excess = jnp.clip(high - low, -PENALTY_LIMIT, PENALTY_LIMIT)
        return (real + simulation + hyper["penalty"] * excess).sum(), {
            "critic/real_error": real.sum(),
            "critic/simulated_error": simulation.sum(),
            "critic/excess": excess.mean(),
            "critic/value_mean": masked_mean(values, mask).mean(),
        }

    (q_loss, of_critic), critic_grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)

    if config.noise_in_place:
        noise = config.noise * jax.random.normal(actor_noise_key, seen.obs.shape, seen.obs.dtype)
        seen = seen._replace(obs=seen.obs + noise)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, policy = apply(actor, params, memory, seen, reset[:-1])
        action, log_prob = policy.sample_and_log_prob(action_key)
        value = apply(critic, state.critic, blank, seen, reset[:-1], action).min(0)
        return masked_mean(alpha * log_prob - value, mask), masked_mean(log_prob, mask)

    (pi_loss, log_prob), actor_grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    goal = -spec.action.shape[0] if config.target_entropy is None else config.target_entropy
    grads = {
        "actor": actor_grad,
        "critic": critic_grad,
        "temperature": -(log_prob + goal),  # of -log α (log π + H̄) in log α
    }
    metrics |= of_critic | {
        "actor/loss": pi_loss,
        "actor/entropy": -log_prob,
        "actor/temperature": alpha,
        "critic/loss": q_loss,
        "simulator/ratio": masked_mean(ratio, simulated.mask),
        "simulator/gap": masked_mean(gap, simulated.mask),
    }
    return _stepped(config, state.replace(key=key), grads), metrics


def step_discriminators(
    config: H2OConfig, spec: Spec, state: H2OState, batch: Trajectory, key: Key
) -> tuple[H2OState, Metrics]:
    """Return the state after one step of the discriminators on windows `[T, B, ...]`."""
    before = state.discriminators, state.opt_state["discriminators"]
    (weights, opt_state), metrics = dynamics_gap.step(
        config, spec, state.hyper, before, state.params, batch, key
    )
    opt_state = state.opt_state | {"discriminators": opt_state}
    return state.replace(discriminators=weights, opt_state=opt_state), metrics


def log_shares(gap: Float[Array, "T B"], mask: Bool[Array, "T B"]) -> Float[Array, "T B"]:
    """Return log ω, finite everywhere: gaps above 0 as shares of their sum over the mask."""
    total = jnp.where(mask, gap, 0).sum()
    log_share = jnp.log(gap) - jnp.log(jnp.maximum(total, GAP_RANGE[0]))
    return jnp.where(mask, log_share, NOWHERE)


def upper(
    config: H2OConfig, values: Float[Array, "E T B"], log_omega: Float[Array, "T B"]
) -> Float[Array, " E"]:
    """Return what R takes for the value of simulated steps: log Σ ω exp Q, or Σ ω Q."""
    if config.soft_maximum:
        return jax.nn.logsumexp(values + log_omega, axis=(-2, -1))
    return (jnp.exp(log_omega) * values).sum((-2, -1))


def _stepped(config: H2OConfig, state: H2OState, grads: dict[str, Any]) -> H2OState:
    """Return the state after one step along gradients that were all taken at it."""
    learnt = {
        "actor": state.params["actor"], "critic": state.critic, "temperature": state.log_alpha,
    }  # fmt: skip
    optimizer, opt_state = optimizers(config, state.hyper), dict(state.opt_state)
    for name, grad in grads.items():
        change, opt_state[name] = optimizer[name].update(grad, opt_state[name], learnt[name])
        learnt[name] = optax.apply_updates(learnt[name], change)
    return state.replace(
        params=state.params | {"actor": learnt["actor"]},
        critic=learnt["critic"],
        target=optax.incremental_update(learnt["critic"], state.target, state.hyper["polyak"]),
        log_alpha=learnt["temperature"],
        opt_state=opt_state,
    )


def batch_spec(config: Any) -> Windows:
    """Return what the loop must supply: per update a batch, and the discriminators' own."""
    stack = 1 + config.discriminator_batches
    ratio = stack * config.experience.update_ratio
    experience = replace(config.experience, update_ratio=ratio)
    return wish(experience, memory=has_memory(config.core), stack=stack, both=True)


_SMALL = H2OConfig(
    actor=MLPConfig((64, 64), "relu"),
    critic=MLPConfig((64, 64), "relu"),
    discriminator=MLPConfig((64, 64), "relu"),
    experience=ExperienceConfig(num_envs=10, rollout_length=10, capacity=100_000),
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    temperature_learning_rate=1e-3,
    discriminator_learning_rate=1e-3,
)

# "repository" has the deviation of the released code; "d2c" shares batches and noise as AIR-DI's
# D2C does, which the HalfCheetah figures known to us are from. The "small" ones are ours, for tasks
# the size of Pendulum.
PRESETS: dict[str, H2OConfig] = {
    "default": H2OConfig(),
    "repository": H2OConfig(deviation="diluted"),
    "d2c": H2OConfig(discriminator_batches=0, noise_in_place=True),
    "small": _SMALL,
    "small-s5": replace(
        _SMALL,
        core=S5Config(layers=1, state_size=32),
        torso=TorsoConfig(width=64, hidden=()),
        experience=replace(_SMALL.experience, length=20, burn_in=4),
    ),
}
