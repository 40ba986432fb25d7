"""The update of TRPO and HNPG with networks of its own for each step of an episode.

Parent: `rlssm.algorithms.natural_update`. Source: Zhou et al. 2023 (arXiv 2311.08384), algorithms
4 and 5.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlssm.algorithms.natural_update import (
    Choices,
    Method,
    Part,
    Sample,
    Targets,
    apart,
    as_taken,
    beside,
    choices,
    improve,
    learner_of,
    mean_of,
    q_value,
    regress,
    remember,
    shares_of_all,
    shares_of_means,
    state_value,
)
from rlssm.kernels.returns import discounted_returns, gae
from rlssm.nn.actor_critic import apply
from rlssm.types import Inputs, Key, Metrics, inputs


def learn_backwards(
    method: Method,
    hyper: dict[str, Array],
    params: dict[str, Any],
    keys: list[Key],
    parts: list[Part],
) -> tuple[dict[str, Any], Metrics]:
    """Return new params and metrics, from parts of whole episodes in which row h is step h.

    Args:
        method: with memoryless networks.
        hyper: the numbers that may be swept.
        params: of actor and critic, the leaves `[H, ...]`.
        keys: two, consumed.
        parts: the agent's own steps first.
    """
    fit_key, act_key = keys
    seen, reset = by_step(beside([(inputs(part.steps), part.steps.reset) for part in parts]))
    act = lambda p, *row: apply(method.actor, p, (), *row)[1]  # noqa: E731
    policies = apart(without(jax.vmap(act)(params["actor"], seen, reset)), parts)
    critic, value, loss = _fit(
        method, hyper, params["critic"],
        _targets(hyper, seen, reset, parts),
        _onward(hyper, parts), _choices(method, policies, jax.random.split(fit_key, len(reset))),
    )  # fmt: skip

    view = lambda p, *row: remember(method.critic, p, (), *row)[1]  # noqa: E731
    features = apart(without(jax.vmap(view)(critic, seen, reset)), parts)
    values = apart(value, parts)
    judged = []
    for i, part in enumerate(parts):
        if part.sample is None:
            action = policies[i].sample(jax.random.fold_in(act_key, i))
            rows = by_step((features[i], as_taken(method.clip, action)))
            earned = jax.vmap(partial(q_value, method.critic))(critic, *rows)
            judged.append((action, without(earned) - values[i]))
        else:
            judged.append((part.sample, _own_advantage(hyper, part, values[i])))
    action, advantage = by_step(beside(judged))
    share = by_step(shares_of_all(parts, axis=1))
    sample = Sample(seen, reset, (), action, advantage, share)
    actor, metrics = jax.vmap(partial(improve, method, hyper))(params["actor"], sample)

    first = parts[0].steps.first
    whole = first[0].all() & ~first[1:].any()
    metrics = jax.tree.map(jnp.mean, metrics) | {
        "actor/entropy": mean_of(policies[0].entropy(), parts[0]),
        "critic/loss": loss.mean(),
        "critic/value_mean": mean_of(values[0], parts[0]),
        # Not a number, which stops the run, where episodes have another length.
        "episode/one_per_rollout": jnp.where(whole, 1.0, jnp.nan),
    }
    return {"actor": actor, "critic": critic}, metrics


def by_step(tree: Any) -> Any:
    """Return leaves `[H, B, ...]` as `[H, 1, B, ...]`: one row of each step's own."""
    return jax.tree.map(lambda x: x[:, None], tree)


def without(tree: Any) -> Any:
    """Undo `by_step`."""
    return jax.tree.map(lambda x: x[:, 0], tree)


# --- Critics ----------------------------------------------------------------------------------


def _fit(
    method: Method,
    hyper: dict[str, Array],
    critic: Any,
    rows: Targets,
    onward: Float[Array, "H 1 B"],
    made: Choices,
) -> tuple[Any, Float[Array, "H B"], Float[Array, " H"]]:
    """Return the critics fitted from the last step to the first, values of states, and losses."""
    rate = hyper["critic_learning_rate"]

    def fit(following: Array, at: Any) -> tuple[Array, tuple]:
        critic, rows, onward, made = at
        rows = rows._replace(target=rows.target + onward * following)
        fresh = learner_of(critic, rate)
        (critic, _), loss = regress(method.critic, rate, fresh, method.critic_steps, rows)
        features = remember(method.critic, critic, (), rows.seen, rows.reset)[1]
        value = state_value(method.critic, critic, features, made)
        return value, (critic, value, loss)

    nothing = jnp.zeros_like(rows.target[0])
    critic, value, loss = jax.lax.scan(
        fit, nothing, (critic, rows, onward, made), reverse=True
    )[1]  # fmt: skip
    return critic, without(value), loss


def _targets(hyper: dict[str, Array], seen: Inputs, reset: Array, parts: list[Part]) -> Targets:
    """Return the Monte-Carlo return of own steps, of others' the reward alone, for now."""
    targets = []
    for part in parts:
        step = part.steps.step
        ends = step.terminated, step.truncated
        own = part.sample is not None
        discount = hyper["discount"]
        targets.append(discounted_returns(step.reward, *ends, discount) if own else step.reward)
    action = beside([part.steps.step.action for part in parts])
    share = shares_of_means(parts, axis=1)
    return Targets((), seen, reset, *by_step((action, beside(targets), share)))


def _onward(hyper: dict[str, Array], parts: list[Part]) -> Float[Array, "H 1 B"]:
    """Return what the next step's value counts in each target: nothing in that of own steps."""
    factors = [0.0 if part.sample is not None else hyper["discount"] for part in parts]
    rows = [jnp.full(part.steps.mask.shape, x) for part, x in zip(parts, factors, strict=True)]
    return by_step(beside(rows))


def _choices(method: Method, policies: list[Any], keys: Key) -> Choices:
    """Return actions of every step to average values over, leaves `[H, 1, B, V, ...]`."""

    def of_step(key: Key, policies: list[Any]) -> Choices:
        rows = [jax.tree.map(lambda x: x[None], policy) for policy in policies]
        return beside([
            choices(method, row, jax.random.fold_in(key, i)) for i, row in enumerate(rows)
        ])  # fmt: skip

    return jax.vmap(of_step)(keys, policies)


def _own_advantage(
    hyper: dict[str, Array], part: Part, value: Float[Array, "H B"]
) -> Float[Array, "H B"]:
    """Return the generalised estimate of own steps."""
    step, following = part.steps.step, jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    return gae(
        step.reward, value, following, step.terminated, step.truncated, hyper["discount"],
        hyper["gae_lambda"],
    )  # fmt: skip
