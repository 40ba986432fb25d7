"""How far a simulator is off, by discriminators: what H2O and DARC have in common.

Two classifiers D₁, D₂ (`rlssm.nn.discriminators`) learn to tell real from simulated steps. D₂ is
then log P_sim / P_real of what a step led to: DARC pays for it, H2O makes of it the weight w and
the gap u of a simulated step, by the equations at the head of `rlssm.algorithms.h2o`.

A configuration has `core`, `torso`, `precision`, `normalize_obs`, `discriminator`, `noise` and
`max_grad_norm`. With memory every step is judged by what was seen up to it, and noise falls on
actions and successors, never on the history.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rlssm.algorithms.sac import normalized
from rlssm.data.mixing import ExperienceConfig
from rlssm.errors import UserError
from rlssm.nn import normalizers
from rlssm.nn.actor_critic import Actor, Critic, History, apply, has_memory
from rlssm.nn.discriminators import Discriminators, classification, log_ratio
from rlssm.nn.optimizers import make_optimizer
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
    inputs,
    zeros,
)

RATIO_RANGE = (1e-5, 1.0)  # of w
GAP_RANGE = (1e-30, 10.0)  # of u
EMPTY_ROWS = 10  # of zeros per row of the dataset, in the buffer that the code takes σ from


class Networks(NamedTuple):
    """The actor, the critics and the discriminators."""

    actor: Actor
    critic: Critic
    discriminators: Discriminators

    def initial_carry(self, batch: int) -> Carry:
        """Return the memory that acting starts from."""
        return self.actor.initial_carry(batch)


def require_both(experience: ExperienceConfig, windows: Windows) -> None:
    """Raise a `UserError` unless each batch has real and simulated windows."""
    if not 0 < windows.offline < windows.batch:
        raise UserError(
            f"prior must leave each batch of {windows.batch} windows one real and one simulated or "
            f"more, got {experience.prior}"
        )


def discriminators_of(config: Any, spec: Spec) -> Discriminators:
    """Return the discriminators for an environment.

    Raises:
        UserError: if its observations are not vectors.
    """
    if not (isinstance(spec.obs, Box) and len(spec.obs.shape) == 1):
        raise UserError(f"{config.name} needs observations that are a vector, got {spec.obs}")
    history = History(spec, config.torso, config.core, config.precision)
    return Discriminators(history, config.discriminator)


def init(config: Any, spec: Spec, key: Key) -> Params:
    """Return weights of the discriminators before the first step."""
    discriminators, (seen, reset) = discriminators_of(config, spec), example_inputs(spec)
    blank, action = discriminators.initial_carry(1), zeros(spec.action, (1, 1))
    return discriminators.init(key, blank, seen, reset, action, seen.obs)


def optimizer(config: Any, hyper: dict[str, Array]) -> optax.GradientTransformation:
    """Return the one optimiser of both."""
    return make_optimizer(
        hyper["discriminator_learning_rate"],
        ssm_lr_factor=hyper["ssm_lr_factor"],
        max_grad_norm=config.max_grad_norm,
    )


# --- Learning to tell -------------------------------------------------------------------------


def step(
    config: Any,
    spec: Spec,
    hyper: dict[str, Array],
    before: tuple[Params, Any],
    params: Params,
    batch: Trajectory,
    key: Key,
) -> tuple[tuple[Params, Any], Metrics]:
    """Make one step on windows `[T, B, ...]`.

    Args:
        before: the weights, and the state of `optimizer`.
        params: the agent's, for the statistics of observations.
    """
    weights, opt_state = before
    grad_of = jax.value_and_grad(loss, has_aux=True)
    (value, metrics), grad = grad_of(weights, config, spec, params, batch, key)
    change, opt_state = optimizer(config, hyper).update(grad, opt_state, weights)
    after = optax.apply_updates(weights, change), opt_state
    return after, metrics | {"discriminator/loss": value}


def loss(
    weights: Params, config: Any, spec: Spec, params: Params, batch: Trajectory, key: Key
) -> tuple[Float[Array, ""], Metrics]:
    """Return L_D on windows `[T, B, ...]`, and the accuracies."""
    discriminators = discriminators_of(config, spec)
    seen, next_obs = _as_judged(config, params, batch)
    obs_key, action_key, next_key = jax.random.split(key, 3)

    def noisy(x: Array, key: Key) -> Array:
        return x + config.noise * jax.random.normal(key, x.shape, x.dtype)

    if not has_memory(config.core):
        seen = seen._replace(obs=noisy(seen.obs, obs_key))
    logits = apply(
        discriminators, weights, discriminators.initial_carry(batch.first.shape[1]), seen,
        batch.reset, noisy(batch.step.action, action_key), noisy(next_obs, next_key),
    )  # fmt: skip
    return classification(logits, batch.step.extras["source"] == 1, batch.mask)


def _as_judged(config: Any, params: Params, batch: Trajectory) -> tuple[Inputs, Array]:
    """Return inputs and successors `[T, B, ...]` as networks see them."""
    seen = inputs(batch)
    after = normalized(config, params, seen._replace(obs=batch.step.next_obs))
    return normalized(config, params, seen), after.obs


# --- Judging ----------------------------------------------------------------------------------


def log_ratios(
    config: Any, spec: Spec, state: Any, batch: Trajectory
) -> tuple[Callable[[Array], Array], Array]:
    """Return log P_sim / P_real as a function of successors, and the true successors.

    Args:
        state: an agent's, with `discriminators` and `params`.
        batch: windows `[T, B, ...]`, whose successors the function takes, with leading axes or not.
    """
    discriminators = discriminators_of(config, spec)
    seen, next_obs = _as_judged(config, state.params, batch)
    blank = discriminators.initial_carry(batch.first.shape[1])
    features = apply(
        discriminators, state.discriminators, blank, seen, batch.reset, method="features"
    )

    def ratio_of(next_obs: Array) -> Array:
        args = features, batch.step.action, next_obs
        return log_ratio(apply(discriminators, state.discriminators, *args, method="successor"))

    return ratio_of, next_obs


def judge(
    config: Any, spec: Spec, state: Any, batch: Trajectory, key: Key
) -> tuple[Float[Array, "T B"], Float[Array, "T B"]]:
    """Return the weight w and the gap u of each step of windows `[T, B, ...]`.

    Args:
        config: one that says, beside the above, how a gap is estimated: H2O's.
        state: with `discriminators` and, in its `params`, the `statistics` of the dataset.
    """
    ratio_of, next_obs = log_ratios(config, spec, state, batch)
    spread = spread_of(config, state.params["statistics"])
    noise = jax.random.normal(key, (config.gap_samples, *next_obs.shape), next_obs.dtype)
    ratio = jnp.clip(jnp.exp(-ratio_of(next_obs)), *RATIO_RANGE)
    gap = jnp.clip(ratio_of(next_obs + spread * noise).mean(0), *GAP_RANGE)
    return ratio, gap


def spread_of(config: Any, statistics: normalizers.RunningStats) -> Float[Array, " D"]:
    """Return the deviation of the successors that a gap is estimated from, σ times its scale."""
    variance, mean = normalizers.variance(statistics), statistics.mean
    deviation = jnp.sqrt(variance)
    if config.deviation == "diluted":
        rows = 1 + EMPTY_ROWS
        deviation = jnp.sqrt((variance + mean**2) / rows - (mean / rows) ** 2) + 1e-3
    if config.normalize_obs:
        deviation /= jnp.sqrt(variance) + 1e-3
    return config.gap_scale * deviation
