"""What an update of TRPO and HNPG is made of: sources side by side, the critic's fit, the step.

An update learns from one source of steps or more. They are laid side by side as one batch, in which
every row counts by a share of its own, so that networks run once however many sources there are:
with w_i the weight, n_i the valid rows and m the mask of source i, a row of it has the share

    w_i m / n_i             where each source has a mean of its own: the critic's errors
    w_i m / sum_j w_j n_j   where there is one mean over all rows: surrogate and divergence

Parent of `rlssm.algorithms.trpo`, whose head has the equations.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from rlssm.nn.actor_critic import Actor, Critic, apply
from rlssm.nn.distributions import Categorical, Distribution
from rlssm.nn.natural_gradient import Trust, natural_step
from rlssm.types import Carry, Inputs, Metrics, Params, Trajectory

Weight = Array | float

UNROLL = 10  # of the critic's steps on a GPU, which then launches many kernels at once


class Method(NamedTuple):
    """What an update goes by, beside numbers that may be traced."""

    actor: Actor
    critic: Critic
    clip: bool  # whether actions are clipped to [-1, 1]
    critic_steps: int
    value_samples: int
    cg_iterations: int
    halvings: int  # of the line search


# --- Sources ----------------------------------------------------------------------------------


class Part(NamedTuple):
    """Steps of one source, `[T, B]`; `carry` of the steps is that of `Networks`.

    `sample` are the policy's own actions, unclipped; None where others took them. Then the value
    is learnt by its own bootstrap, and the policy from actions that it draws anew.
    """

    steps: Trajectory
    sample: Array | None
    weight: Weight


def beside(sources: list[Any]) -> Any:
    """Return trees with leaves `[T_i, B_i, ...]` as one `[max T_i, sum B_i, ...]`, padded by 0."""

    def join(*leaves: Array) -> Array:
        longest = max(map(len, leaves))
        pad = lambda x: jnp.pad(x, [(0, longest - len(x)), *[(0, 0)] * (x.ndim - 1)])  # noqa: E731
        return jnp.concatenate([pad(x) for x in leaves], axis=1)

    return jax.tree.map(join, *sources)


def apart(joined: Any, parts: list[Part], more: int = 0) -> list[Any]:
    """Return each source's block of what `beside` joined, with `more` rows than it has steps."""
    blocks, start = [], 0
    for part in parts:
        length, width = part.steps.mask.shape
        cut = lambda x, t=length + more, b=start, w=width: x[:t, b : b + w]  # noqa: E731
        blocks.append(jax.tree.map(cut, joined))
        start += width
    return blocks


def shares_of_means(parts: list[Part], axis: int | None = None) -> Float[Array, "T B"]:
    """Return what each row counts where every source's mean counts by its weight.

    Args:
        axis: 1 for means of each step of its own, else they are over all steps.
    """
    return beside([p.weight * p.steps.mask / jnp.maximum(_valid(p, axis), 1) for p in parts])


def shares_of_all(parts: list[Part], axis: int | None = None) -> Float[Array, "T B"]:
    """Return what each row counts in one mean, where every row counts by its source's weight."""
    total = jnp.maximum(sum(part.weight * _valid(part, axis) for part in parts), 1)
    return beside([part.weight * part.steps.mask / total for part in parts])


def _valid(part: Part, axis: int | None) -> Array:
    return jnp.sum(part.steps.mask, axis, keepdims=True)


def mean_of(values: Float[Array, "T B"], part: Part) -> Float[Array, ""]:
    """Return the mean over a source's valid rows."""
    mask = part.steps.mask
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


# --- Values -----------------------------------------------------------------------------------


class Choices(NamedTuple):
    """Actions of each row, as the environment is given them, and how much each counts."""

    action: Array  # [T, B, V, *A]
    odds: Float[Array, "T B V"]


def choices(method: Method, policy: Distribution, key: Array) -> Choices:
    """Return what a state's value is the mean over: every discrete action, or samples."""
    if isinstance(policy, Categorical):
        every = jnp.broadcast_to(jnp.arange(policy.logits.shape[-1]), policy.logits.shape)
        return Choices(every, jax.nn.softmax(policy.logits))
    keys = jax.random.split(key, method.value_samples)
    drawn = as_taken(method.clip, jax.vmap(policy.sample, out_axes=2)(keys))
    return Choices(drawn, jnp.full(drawn.shape[:3], 1 / method.value_samples))


def as_taken(clip: bool, sample: Array) -> Array:
    """Return what the environment is given for a sample of the policy."""
    return jnp.clip(sample, -1.0, 1.0) if clip else sample


def remember(critic: Critic, params: Params, carry: Carry, seen: Inputs, reset: Array) -> Any:
    """Return (carry, features) of the critic's history."""
    return apply(critic, params, carry, seen, reset, method=lambda m, *rows: m.history(*rows))


def q_value(critic: Critic, params: Params, features: Array, action: Array) -> Array:
    """Return the value of actions `[*N, T, B, *A]` at features `[T, B, H]`."""
    return apply(critic, params, features, action, method=Critic.value)[0]


def state_value(critic: Critic, params: Params, features: Array, made: Choices) -> Array:
    """Return the mean value `[T, B]` of choices at features `[T, B, H]`."""
    action, odds = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), made)
    return jnp.sum(odds * q_value(critic, params, features, action), 0)


class Targets(NamedTuple):
    """What the critic is fitted to, `[T, B]`; `carry` is its own."""

    carry: Carry
    seen: Inputs
    reset: Bool[Array, "T B"]
    action: Array
    target: Float[Array, "T B"]
    share: Float[Array, "T B"]


class Learner(NamedTuple):
    """A critic between two steps of its Adam, which sees all parameters as one vector."""

    params: Params
    opt_state: Any


def learner_of(params: Params, rate: Array) -> Learner:
    """Return a critic before the first step of a new Adam."""
    return Learner(params, optax.adam(rate).init(ravel_pytree(params)[0]))


def regress(
    critic: Critic, rate: Array, learner: Learner, steps: int, rows: Targets
) -> tuple[Learner, Float[Array, ""]]:
    """Take steps of Adam towards targets; return the learner and the last step's loss."""
    flat, unflatten = ravel_pytree(learner.params)

    def loss_of(flat: Array) -> Array:
        params = unflatten(flat)
        features = remember(critic, params, rows.carry, rows.seen, rows.reset)[1]
        error = q_value(critic, params, features, rows.action) - rows.target
        return jnp.sum(rows.share * jnp.square(error))

    def step(loop: tuple[Learner, Array], _: None) -> tuple[tuple[Learner, Array], None]:
        (flat, opt_state), _loss = loop
        loss, grad = jax.value_and_grad(loss_of)(flat)
        change, opt_state = optax.adam(rate).update(grad, opt_state)
        return (Learner(optax.apply_updates(flat, change), opt_state), loss), None

    start = learner._replace(params=flat), jnp.zeros(())
    unroll = min(UNROLL, steps) if jax.default_backend() == "gpu" else 1  # a CPU loses by it
    (learner, loss), _ = jax.lax.scan(step, start, None, steps, unroll=unroll)
    return learner._replace(params=unflatten(learner.params)), loss


# --- The policy's step ------------------------------------------------------------------------


class Sample(NamedTuple):
    """Actions of the old policy and how good they were, `[T, B]`."""

    seen: Inputs
    reset: Bool[Array, "T B"]
    carry: Carry  # the actor's, leaves [B, ...]
    action: Array  # unclipped
    advantage: Float[Array, "T B"]
    share: Float[Array, "T B"]


def improve(
    method: Method, hyper: dict[str, Array], params: Params, sample: Sample
) -> tuple[Params, Metrics]:
    """Take one step up the surrogate within the bound on the mean KL divergence."""
    old = policy_of(method.actor, params, sample)
    trust = Trust(hyper["max_kl"], hyper["damping"], method.cg_iterations, method.halvings)
    params, step = natural_step(
        lambda params: surrogate(method.actor, params, sample, old),
        lambda params: divergence(method.actor, params, sample, old),
        params,
        trust,
    )
    return params, {f"actor/{name}": x for name, x in step.items()}


def policy_of(actor: Actor, params: Params, sample: Sample) -> Any:
    """Return the policy of every row."""
    return apply(actor, params, sample.carry, sample.seen, sample.reset)[1]


def surrogate(actor: Actor, params: Params, sample: Sample, old: Any) -> Float[Array, ""]:
    """Return the mean of advantage times probability ratio (1502.05477, equation 14)."""
    now, action = policy_of(actor, params, sample), sample.action
    ratio = jnp.exp(now.log_prob(action) - old.log_prob(action))
    return jnp.sum(sample.share * ratio * sample.advantage)


def divergence(actor: Actor, params: Params, sample: Sample, old: Any) -> Float[Array, ""]:
    """Return the mean KL divergence from the old policies."""
    return jnp.sum(sample.share * old.kl(policy_of(actor, params, sample)))
