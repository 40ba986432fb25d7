"""CSF: contrastive skills, valued by the successor features of a representation.

Source: Zheng et al. 2025, "Can a MISL Fly? Analysis and Ingredients for Mutual Information Skill
Learning" (arXiv 2412.08021), and the released code. Parent: `rlssm.algorithms.sac`; what is shared
with its rivals is in `rlssm.algorithms.skilled`.

Equations, with a skill z per episode, Δ = φ(s') - φ(s), z_1 .. z_N fresh from the prior, and vector
critics ψ_k; m = 1 - terminated:

    L_φ     = -mean (Δ·z - ξ log Σ_j exp(Δ·z_j))
    y       = Δ + γ m ψ̄_j(s', a', z),     a' ~ π(· | s', z),   j = argmin_k ψ̄_k(s', a', z)·z
    L_ψ     = Σ_k mean |ψ_k(s, a, z) - y|² / K
    L_π     = mean (α log π(a | s, z) - min_k ψ_k(s, a, z)·z),  a ~ π(· | s, z)

with Δ in y from the new φ, without a gradient, and without entropy. ψ·z is the value of the reward
Δ·z that METRA has; the constraint there is the sum here. Temperature, targets and what a memory
sees are as in METRA.

Departure from the code: targets move after the actor's step, not before. Discrete skills are
refused, as the code has none.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rlssm.algorithms import sac, skilled
from rlssm.algorithms.sac import masked_mean
from rlssm.algorithms.skilled import (
    SWEPT,
    Networks,
    SkilledConfig,
    SkilledState,
    act,
    as_shown,
    batch_spec,
    change,
    descend,
    embed,
    follow,
    presets,
    reward,
    skill_towards,
    target_entropy,
)
from rlssm.errors import require
from rlssm.nn import skills
from rlssm.nn.actor_critic import apply
from rlssm.nn.skills import SKILL, SkillConfig
from rlssm.types import Key, Metrics, Params, Spec, Trajectory, example_inputs, unrolled, zeros

__all__ = [
    "PRESETS", "SWEPT", "CSFConfig", "act", "batch_spec", "embed", "follow", "init", "networks",
    "skill_towards", "update",
]  # fmt: skip


@dataclass(frozen=True)
class CSFConfig(SkilledConfig):
    """Hyper-parameters of CSF, beside those of every learner of skills."""

    name: Literal["csf"] = "csf"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""
    contrast: float = 5.0
    """Weight ξ of the term that tells a step's skill from others, above 0."""
    others: int = 256
    """How many skills N it is told from, at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.skill.kind
        require(kind != "discrete", "skill.kind", kind, "sphere or gaussian for csf")
        require(0 < self.contrast < math.inf, "contrast", self.contrast, "above 0")
        require(self.others >= 1, "others", self.others, "at least 1")
        scale, shift = self.experience.reward_scale, self.experience.reward_shift
        require(
            scale == 1, "experience.reward_scale", scale, "1 for csf, whose critics see no reward"
        )
        require(
            shift == 0, "experience.reward_shift", shift, "0 for csf, whose critics see no reward"
        )


def networks(config: CSFConfig, spec: Spec) -> Networks:
    """Return the networks for an environment; the critics' values are vectors `[K]`.

    Raises:
        UserError: if the environment's actions are not a vector.
    """
    found = skilled.networks(config, spec)
    return found._replace(critic=found.critic.clone(vector=config.skill.size))


def init(config: CSFConfig, spec: Spec, key: Key) -> SkilledState:
    """Return the state before the first update."""
    critic_key, key = jax.random.split(key)
    state = skilled.init(config, spec, key)
    shown = skills.shown_spec(config.skill, spec)
    critic = networks(config, spec).critic
    seen, reset = example_inputs(shown)
    action = zeros(spec.action, (1, 1))
    critics = critic.init(critic_key, critic.initial_carry(1), seen, reset, action)
    opt = sac.optimizers(config, state.hyper)["critic"].init(critics)
    return state.replace(
        critic=critics,
        target=jax.tree.map(jnp.copy, critics),
        opt_state=state.opt_state | {"critic": opt},
    )


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: CSFConfig, spec: Spec, state: SkilledState, batch: Trajectory
) -> tuple[SkilledState, Metrics]:
    """Make one step of representation, critics, actor and temperature, on windows `[T, B, ...]`."""
    key, draw_key = jax.random.split(state.key)
    skill = batch.step.extras[SKILL]
    others = skills.draw(config.skill, draw_key, config.others)

    def loss(weights: Params) -> tuple[Array, Metrics]:
        delta = change(config, spec, weights, batch)
        gain = reward(delta, skill)
        objective = gain - config.contrast * contrast(delta, others)
        return -masked_mean(objective, batch.mask), {
            "representation/gain": masked_mean(gain, batch.mask),
            "representation/squared_step": masked_mean(jnp.square(delta).sum(-1), batch.mask),
        }

    weights, representation_opt, metrics = descend(state, state.params["representation"], loss)
    state = state.replace(
        params=state.params | {"representation": weights},
        representation_opt=representation_opt,
        key=key,
    )
    delta = change(config, spec, weights, batch)
    state, of_policy = step_policy(config, spec, state, batch, delta)
    paid = masked_mean(reward(delta, skill), batch.mask)
    return state, metrics | of_policy | {"skill/reward": paid}


def contrast(
    delta: Float[Array, "*batch K"], others: Float[Array, "N K"]
) -> Float[Array, "*batch"]:
    """Return log Σ_j exp(Δ·z_j) over the other skills."""
    return jax.nn.logsumexp(delta @ others.T, axis=-1)


def step_policy(
    config: CSFConfig, spec: Spec, state: SkilledState, batch: Trajectory, delta: Array
) -> tuple[SkilledState, Metrics]:
    """Make one step of critics, actor and temperature, and move the targets."""
    modules, shown = networks(config, spec), as_shown(config, batch)
    actor, critic = modules.actor, modules.critic
    optimizer, discount = sac.optimizers(config, state.hyper), state.hyper["discount"]
    key, next_key, action_key = jax.random.split(state.key, 3)
    rows, reset = unrolled(shown)
    seen = jax.tree.map(lambda x: x[:-1], rows)
    blank = critic.initial_carry(reset.shape[1])
    memory = actor.initial_carry(reset.shape[1]) if shown.carry is None else shown.carry
    skill, mask = batch.step.extras[SKILL], shown.mask

    _, next_policy = apply(actor, state.params["actor"], memory, rows, reset, skip=1)
    next_action = next_policy.sample(next_key)
    following = apply(critic, state.target, blank, rows, reset, next_action, skip=1)
    following = smallest(following, rows.obs[SKILL][1:])
    terminated = shown.step.terminated[..., None]
    target = delta + discount * jnp.where(terminated, 0.0, following)

    def critic_loss(params: Params) -> tuple[Array, Array]:
        features = apply(critic, params, blank, seen, reset[:-1], shown.step.action)
        return masked_mean(jnp.square(features - target).mean(-1), mask).sum(), features

    (psi_loss, features), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    move, critic_opt = optimizer["critic"].update(grad, state.opt_state["critic"], state.critic)
    critics = optax.apply_updates(state.critic, move)
    alpha = jnp.exp(state.log_alpha)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, policy = apply(actor, params, memory, seen, reset[:-1])
        action, log_prob = policy.sample_and_log_prob(action_key)
        value = reward(apply(critic, critics, blank, seen, reset[:-1], action), skill).min(0)
        return masked_mean(alpha * log_prob - value, mask), masked_mean(log_prob, mask)

    weights = state.params["actor"]
    (pi_loss, log_prob), grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    move, actor_opt = optimizer["actor"].update(grad, state.opt_state["actor"], weights)
    grad = -(log_prob + target_entropy(config, spec))  # of -log α (log π + H̄) in log α
    warmer, temperature_opt = optimizer["temperature"].update(grad, state.opt_state["temperature"])
    state = state.replace(
        params=state.params | {"actor": optax.apply_updates(weights, move)},
        critic=critics,
        target=optax.incremental_update(critics, state.target, state.hyper["polyak"]),
        log_alpha=state.log_alpha + warmer,
        opt_state={"actor": actor_opt, "critic": critic_opt, "temperature": temperature_opt},
        key=key,
    )
    return state, {
        "actor/loss": pi_loss,
        "actor/entropy": -log_prob,
        "actor/temperature": alpha,
        "critic/loss": psi_loss,
        "critic/value_mean": masked_mean(reward(features, skill), mask).mean(),
    }


def smallest(
    features: Float[Array, "E *batch K"], skill: Float[Array, "*batch K"]
) -> Float[Array, "*batch K"]:
    """Return of each vector the member of the ensemble whose value ψ·z is smallest."""
    chosen = jnp.argmin(reward(features, skill), axis=0)
    return jnp.take_along_axis(features, chosen[None, ..., None], axis=0)[0]


PRESETS: dict[str, CSFConfig] = presets(CSFConfig(), SkillConfig("sphere", 2))
