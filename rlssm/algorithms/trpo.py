"""Trust-region policy optimisation, and the natural policy gradient, with any core.

Sources: Schulman et al. 2015 (arXiv 1502.05477), sections 5 and 6 and appendix C; Kakade 2001 for
the natural gradient; Schulman et al. 2016 (arXiv 1506.02438), equation 16, for the advantage; Zhou
et al. 2023 (arXiv 2311.08384), algorithms 4 and 5, whose on-policy half this is.

One update learns from one rollout of the old policy μ. With Q the critic, V(s) = E_{a~μ} Q(s, a)
(exact where actions are discrete, else the mean over `value_samples` of them) and s_t the history:

    Q     <-  critic_steps of a new Adam on mean (Q(s_t, a_t) - G_t)²,   G_t the λ-return
    A_t    =  δ_t + γ λ (1 - last_t) A_{t+1},   δ_t = r_t + γ (1 - terminated_t) V(s'_t) - V(s_t)
    π     <-  one step up mean A_t π(a_t | s_t) / μ(a_t | s_t) within mean KL(μ || π) <= max_kl

by `nn.natural_gradient`, with `line_search`, or the whole natural-gradient step without.

With `per_step` the horizon is finite: every step of an episode has networks of its own, stacked on
a leading axis; G_t is the Monte-Carlo return, the critics are fitted from the last step to the
first, and each policy takes a step of its own. A counter is then the agent's memory.

Departures from the TRPO paper: the critic is an action value, because HNPG, which builds on this
file, needs one; the divergence's Hessian is taken over all steps rather than a tenth; and damping
also counts in the step's length, as in the HNPG program. Measured: docs/trpo.md.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float

from rlssm.data.mixing import bootstrap_rows
from rlssm.errors import require
from rlssm.kernels.returns import discounted_returns, gae, lambda_returns
from rlssm.nn.actor_critic import Actor, Critic, History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.distributions import Categorical, Distribution
from rlssm.nn.heads import policy_head
from rlssm.nn.mlp import MLPConfig, Precision
from rlssm.nn.natural_gradient import Trust, natural_step
from rlssm.nn.torso import TorsoConfig
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
    unrolled,
    zeros,
)

SWEPT = ("critic_learning_rate", "discount", "gae_lambda", "max_kl", "damping")


@dataclass(frozen=True)
class TRPOConfig:
    """Hyper-parameters of TRPO; docs/trpo.md explains each at length."""

    name: Literal["trpo"] = "trpo"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor and, with its own weights, of the critic."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((64, 64), "tanh"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: MLPConfig((64, 64), "tanh"))
    """The hidden layers of the critic's head."""
    per_step: bool = False
    """Whether every step of an episode has networks of its own. All episodes must then have
    exactly `rollout_length` steps."""
    num_envs: int = 16
    """Parallel environments, at least 1."""
    rollout_length: int = 128
    """Steps per environment and update, at least 1."""
    critic_steps: int = 30
    """Adam's steps on the whole rollout per update, at least 1. HNPG: 30."""
    critic_learning_rate: float = 1e-3
    """Adam step size of the critic, above 0."""
    value_samples: int = 10
    """Continuous actions whose values are averaged to a state's, at least 1. HNPG: 10."""
    discount: float = 0.99
    """Discount per step, in [0, 1]."""
    gae_lambda: float = 0.97
    """Decay of the advantage estimate, in [0, 1]. HNPG: 0.97."""
    max_kl: float = 0.01
    """Bound on the mean KL divergence of a step, above 0. TRPO and HNPG: 0.01."""
    damping: float = 0.1
    """What is added to the Fisher matrix's diagonal, at least 0. HNPG: 0.1."""
    cg_iterations: int = 10
    """Iterations of conjugate gradient, at least 1. TRPO and HNPG: 10."""
    line_search: bool = True
    """Whether a step is halved, up to ten times, until it improves and stays within the bound;
    without, it is the natural policy gradient's."""
    precision: Precision = "highest"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        for name in (
            "num_envs", "rollout_length", "critic_steps", "value_samples", "cg_iterations",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("critic_learning_rate", "max_kl"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        require(0 <= self.damping < math.inf, "damping", self.damping, "at least 0")
        for name in ("discount", "gae_lambda"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        require_torso_fits(self.torso, self.core)
        memory = has_memory(self.core)
        require(not (self.per_step and memory), "per_step", True, "False with a memory")


class TRPOState(PyTreeNode):
    """Everything TRPO learns; with `per_step` the networks' leaves lead with the step.

    `params` is what acting needs: the actor, and the critic for the memory it keeps.
    """

    params: dict[str, Any]  # "actor" and "critic"
    hyper: dict[str, Array]
    key: Key


# --- Networks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Networks:
    """The actor and the critic of one step, and for how many steps there are parameters."""

    actor: Actor
    critic: Critic
    horizon: int | None

    def initial_carry(self, batch: int) -> Carry:
        """Return the memories of actor and critic before the first step, or the step's number."""
        if self.horizon is not None:
            return jnp.zeros(batch, jnp.int32)
        return self.actor.initial_carry(batch), self.critic.initial_carry(batch)


def networks(config: TRPOConfig, spec: Spec) -> Networks:
    """Return the networks for an environment, without parameters.

    Raises:
        UserError: if TRPO cannot serve the environment's spaces.
    """
    history = History(spec, config.torso, config.core, config.precision)
    head = policy_head(spec.action, config.actor, config.precision, squashed=False)
    horizon = config.rollout_length if config.per_step else None
    return Networks(Actor(history, head), Critic(history, config.critic, size=1), horizon)


def init(config: TRPOConfig, spec: Spec, key: Key) -> TRPOState:
    """Return the state before the first update."""
    nets, (actor_key, critic_key, key) = networks(config, spec), jax.random.split(key, 3)
    rows, action = example_inputs(spec), zeros(spec.action, (1, 1))

    def draw(module: nn.Module, key: Key, *more: Array) -> Params:
        start = module.initial_carry(1)
        one = lambda key: module.init(key, start, *rows, *more)  # noqa: E731
        if nets.horizon is None:
            return one(key)
        return jax.vmap(one)(jax.random.split(key, nets.horizon))

    params = {
        "actor": draw(nets.actor, actor_key),
        "critic": draw(nets.critic, critic_key, action),
    }
    hyper = {name: jnp.float32(getattr(config, name)) for name in config.swept}
    return TRPOState(params, hyper, key)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: TRPOConfig,
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
        carry: the memory, leaves `[B, ...]`.
        greedy: whether to take the mode in place of a sample.

    Returns:
        The action `[B, *A]` (a continuous one clipped to [-1, 1]), the next carry, and the
        unclipped `sample`.
    """
    nets = networks(config, spec)
    rows = jax.tree.map(lambda x: x[None], (seen, reset))
    if nets.horizon is None:
        actor_carry, policy = apply(nets.actor, params["actor"], carry[0], *rows)
        carry = actor_carry, _remember(nets.critic, params["critic"], carry[1], *rows)[0]
    else:
        step = jnp.minimum(jnp.where(reset, 0, carry), nets.horizon - 1)
        own = jax.tree.map(lambda x: x[step], params["actor"])
        one = lambda p, *row: apply(nets.actor, p, (), *row)[1]  # noqa: E731
        policy = jax.vmap(one, (0, 1, 1), 1)(own, *jax.tree.map(lambda x: x[:, :, None], rows))
        policy = jax.tree.map(lambda x: x[:, :, 0], policy)
        carry = step + 1
    sample = policy.mode() if greedy else policy.sample(key)
    return as_taken(spec, sample)[0], carry, {"sample": sample[0]}


def as_taken(spec: Spec, sample: Array) -> Array:
    """Return what the environment is given for a sample of the policy."""
    return jnp.clip(sample, -1.0, 1.0) if isinstance(spec.action, Box) else sample


def _remember(critic: Critic, params: Params, carry: Carry, seen: Inputs, reset: Array) -> Any:
    """Return (carry, features) of the critic's history."""
    return apply(critic, params, carry, seen, reset, method=lambda m, *rows: m.history(*rows))


# --- What is learnt from ----------------------------------------------------------------------


class Part(NamedTuple):
    """Steps of one source, `[T, B]`; `carry` of the steps is that of `Networks`.

    `sample` are the policy's own actions, unclipped; None where others took them. Then the value
    is learnt by its own bootstrap, and the policy from actions that it draws anew.
    """

    steps: Trajectory
    sample: Array | None
    weight: Array | float


class Sample(NamedTuple):
    """Actions of the old policy and how good they were, `[T, B]`."""

    seen: Inputs
    reset: Bool[Array, "T B"]
    carry: Carry  # the actor's, leaves [B, ...]
    action: Array  # unclipped
    advantage: Float[Array, "T B"]
    mask: Bool[Array, "T B"]


def own_part(config: TRPOConfig, spec: Spec, batch: Trajectory) -> Part:
    """Return the agent's own rollout as a part, with a row for the end of each cut episode."""
    if spec.truncates and not config.per_step:
        batch = bootstrap_rows(_with_room(spec, batch))
    return Part(batch, batch.step.extras["sample"], 1.0)


def _with_room(spec: Spec, batch: Trajectory) -> Trajectory:
    """Return a rollout with as many masked rows behind it as it may hold truncations."""
    length, limit = len(batch.first), spec.max_episode_steps
    room = length if limit is None else length // limit + 1
    step = batch.step
    blank = jax.tree.map(lambda x: jnp.zeros((room, *x.shape[1:]), x.dtype), (step, batch.first))
    final = jax.tree.map(lambda x: jnp.repeat(x[-1:], room, 0), step.next_obs)
    rows = blank[0]._replace(obs=final, next_obs=final)
    longer = lambda x, y: jnp.concatenate([x, y])  # noqa: E731
    first, reset, mask = (longer(x, blank[1]) for x in (batch.first, batch.reset, batch.mask))
    step = jax.tree.map(longer, step, rows)
    return batch._replace(step=step, first=first, reset=reset, mask=mask)


def weighted_mean(terms: list[tuple[Array, Array, Array | float]]) -> Array:
    """Return the mean over all valid entries, from (values, mask, weight) of each source."""
    total = sum(weight * jnp.sum(jnp.where(mask, x, 0)) for x, mask, weight in terms)
    count = sum(weight * jnp.sum(mask) for _, mask, weight in terms)
    return jnp.asarray(total / jnp.maximum(count, 1))


# --- Values -----------------------------------------------------------------------------------


def q_value(critic: Critic, params: Params, features: Array, action: Array) -> Array:
    """Return the value of actions `[*N, T, B, *A]` at features `[T, B, H]`."""
    return apply(critic, params, features, action, method=Critic.value)[0]


def state_value(
    config: TRPOConfig, spec: Spec, params: Params, features: Array, policy: Distribution, key: Key
) -> Float[Array, "T B"]:
    """Return the policy's mean value at features `[T, B, H]`."""
    critic = networks(config, spec).critic
    if isinstance(policy, Categorical):
        choices = jnp.arange(policy.logits.shape[-1])[:, None, None]
        every = jnp.broadcast_to(choices, (len(choices), *features.shape[:-1]))
        odds = jnp.moveaxis(jax.nn.softmax(policy.logits), -1, 0)
        return jnp.sum(odds * q_value(critic, params, features, every), 0)
    drawn = jax.vmap(policy.sample)(jax.random.split(key, config.value_samples))
    return q_value(critic, params, features, as_taken(spec, drawn)).mean(0)


def regress(
    critic: Critic, rate: Array, learner: tuple[Params, Any], steps: int, data: list
) -> tuple[tuple[Params, Any], Array]:
    """Take steps of Adam towards targets; return (critic, Adam's state) and the last loss.

    `data` holds (carry, seen, reset, action, target, mask, weight) of each source; each source's
    mean squared error counts by its weight.
    """

    def loss_of(params: Params) -> Array:
        total = jnp.zeros(())
        for carry, seen, reset, action, target, mask, weight in data:
            features = _remember(critic, params, carry, seen, reset)[1]
            error = jnp.square(q_value(critic, params, features, action) - target)
            total += weight * weighted_mean([(error, mask, 1.0)])
        return total

    def step(learner: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], Array]:
        params, opt_state = learner
        loss, grad = jax.value_and_grad(loss_of)(params)
        change, opt_state = optax.adam(rate).update(grad, opt_state, params)
        return (optax.apply_updates(params, change), opt_state), loss

    learner, losses = jax.lax.scan(step, learner, None, steps)
    return learner, losses[-1]


# --- One network for all steps ----------------------------------------------------------------


def learn(
    config: TRPOConfig, spec: Spec, state: TRPOState, parts: list[Part], sweeps: int = 1
) -> tuple[TRPOState, Metrics]:
    """Fit the critic to all parts, judge their actions by it, and take one step of the policy.

    Args:
        parts: the agent's own steps first.
        sweeps: how often the bootstrapped targets of others' steps are computed anew.
    """
    if config.per_step:
        return learn_backwards(config, spec, state, parts)
    nets, hyper, params = networks(config, spec), state.hyper, state.params
    key, fit_key, judge_key, act_key = jax.random.split(state.key, 4)
    rate = hyper["critic_learning_rate"]
    rows = [unrolled(part.steps) for part in parts]
    memories = [part.steps.carry for part in parts]
    policies = [
        apply(nets.actor, params["actor"], memory[0], *row)[1]
        for memory, row in zip(memories, rows, strict=True)
    ]

    def values(critic: Params, key: Key) -> list[Array]:
        """Return the value of every row, one more than there are steps."""
        return [
            state_value(
                config, spec, critic, _remember(nets.critic, critic, memory[1], *row)[1], policy,
                jax.random.fold_in(key, i),
            )
            for i, (memory, row, policy) in enumerate(zip(memories, rows, policies, strict=True))
        ]  # fmt: skip

    learner, targets = (params["critic"], optax.adam(rate).init(params["critic"])), []
    loss = jnp.zeros(())
    for sweep in range(sweeps):
        following = [v[1:] for v in values(learner[0], jax.random.fold_in(fit_key, sweep))]
        fresh = [_target(hyper, *pair) for pair in zip(parts, following, strict=True)]
        targets = [targets[0] if sweep else fresh[0], *fresh[1:]]
        data = [
            (memory[1], *jax.tree.map(lambda x: x[:-1], row), part.steps.step.action, target,
             part.steps.mask, part.weight)
            for part, memory, row, target in zip(parts, memories, rows, targets, strict=True)
        ]  # fmt: skip
        learner, loss = regress(nets.critic, rate, learner, config.critic_steps // sweeps, data)

    critic = learner[0]
    samples, judged = [], values(critic, judge_key)
    for i, part in enumerate(parts):
        seen, reset = jax.tree.map(lambda x: x[:-1], rows[i])
        policy = jax.tree.map(lambda x: x[:-1], policies[i])
        if part.sample is None:
            action = policy.sample(jax.random.fold_in(act_key, i))
            features = _remember(nets.critic, critic, memories[i][1], seen, reset)[1]
            value = q_value(nets.critic, critic, features, as_taken(spec, action))
            advantage = value - judged[i][:-1]
        else:
            action, step = part.sample, part.steps.step
            ended = step.truncated | _last_valid(part.steps.mask)
            advantage = gae(
                step.reward, judged[i][:-1], judged[i][1:], step.terminated, ended,
                hyper["discount"], hyper["gae_lambda"],
            )  # fmt: skip
        samples.append(Sample(seen, reset, memories[i][0], action, advantage, part.steps.mask))
    weights = [part.weight for part in parts]
    actor, metrics = improve(config, nets.actor, hyper, weights, params["actor"], samples)
    metrics |= {"critic/loss": loss, "critic/value_mean": _mean_value(judged[0][:-1], parts[0])}
    return state.replace(params={"actor": actor, "critic": critic}, key=key), metrics


def _target(hyper: dict[str, Array], part: Part, following: Array) -> Array:
    """Return the λ-return of own steps, the one-step target of others'."""
    step, mask = part.steps.step, part.steps.mask
    lam = jnp.float32(0) if part.sample is None else hyper["gae_lambda"]
    ended = step.truncated | _last_valid(mask)
    return lambda_returns(step.reward, following, step.terminated, ended, hyper["discount"], lam)


def _last_valid(mask: Bool[Array, "T B"]) -> Bool[Array, "T B"]:
    """Return the valid rows that no valid row follows."""
    return mask & ~jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])


def _mean_value(value: Array, part: Part) -> Array:
    return weighted_mean([(value, part.steps.mask, 1.0)])


# --- A network for each step ------------------------------------------------------------------


def learn_backwards(
    config: TRPOConfig, spec: Spec, state: TRPOState, parts: list[Part]
) -> tuple[TRPOState, Metrics]:
    """Do the same with a network per step, on parts of whole episodes: row h is step h.

    The critic of step h is fitted after that of step h + 1, whose value of the next observation
    others' steps bootstrap from; nothing follows the last.
    """
    nets, hyper, params = networks(config, spec), state.hyper, state.params
    key, fit_key, act_key = jax.random.split(state.key, 3)
    rate = hyper["critic_learning_rate"]
    keys = jax.random.split(fit_key, config.rollout_length)
    rows = [
        jax.tree.map(lambda x: x[:, None], (inputs(part.steps), part.steps.reset)) for part in parts
    ]
    one = lambda p, *row: apply(nets.actor, p, (), *row)[1]  # noqa: E731
    policies = [jax.vmap(one)(params["actor"], *row) for row in rows]
    earned = [_earned(hyper, part) for part in parts]
    steps = [(part.steps.step.action, part.steps.step.reward, part.steps.mask) for part in parts]

    def fit(following: list[Array], at: Any) -> tuple[list[Array], tuple]:
        critic, key, rows, policies, earned, steps = at
        data = [
            ((), *rows[i], action[None], reward + hyper["discount"] * following[i]
             if earned[i] is None else earned[i][None], mask[None], part.weight)
            for i, (part, (action, reward, mask)) in enumerate(zip(parts, steps, strict=True))
        ]  # fmt: skip
        fresh = critic, optax.adam(rate).init(critic)
        (critic, _), loss = regress(nets.critic, rate, fresh, config.critic_steps, data)
        values = [
            state_value(
                config, spec, critic, _remember(nets.critic, critic, (), *row)[1], policy,
                jax.random.fold_in(key, i),
            )
            for i, (row, policy) in enumerate(zip(rows, policies, strict=True))
        ]  # fmt: skip
        return values, (critic, values, loss)

    nothing = [jnp.zeros((1, part.steps.mask.shape[1])) for part in parts]
    along = (params["critic"], keys, rows, policies, earned, steps)
    _, (critic, values, loss) = jax.lax.scan(fit, nothing, along, reverse=True)

    samples = []
    for i, part in enumerate(parts):
        step, value = part.steps.step, values[i][:, 0]
        if part.sample is None:
            action = policies[i].sample(jax.random.fold_in(act_key, i))
            judge = lambda p, row, a: q_value(  # noqa: E731
                nets.critic, p, _remember(nets.critic, p, (), *row)[1], as_taken(spec, a)
            )
            advantage = jax.vmap(judge)(critic, rows[i], action) - values[i]
        else:
            action = part.sample[:, None]
            following = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
            advantage = gae(
                step.reward, value, following, step.terminated, step.truncated,
                hyper["discount"], hyper["gae_lambda"],
            )[:, None]  # fmt: skip
        samples.append(Sample(*rows[i], (), action, advantage, part.steps.mask[:, None]))
    weights = [part.weight for part in parts]
    step_up = partial(improve, config, nets.actor, hyper, weights)
    actor, metrics = jax.vmap(step_up)(params["actor"], samples)
    metrics = jax.tree.map(jnp.mean, metrics)
    first = parts[0].steps.first
    whole = first[0].all() & ~first[1:].any()
    metrics |= {
        "critic/loss": loss.mean(),
        "critic/value_mean": _mean_value(values[0][:, 0], parts[0]),
        # Not a number, which stops the run, where episodes have another length.
        "episode/one_per_rollout": jnp.where(whole, 1.0, jnp.nan),
    }
    return state.replace(params={"actor": actor, "critic": critic}, key=key), metrics


def _earned(hyper: dict[str, Array], part: Part) -> Array | None:
    """Return the Monte-Carlo return of own steps."""
    if part.sample is None:
        return None
    step = part.steps.step
    return discounted_returns(step.reward, step.terminated, step.truncated, hyper["discount"])


# --- The policy's step ------------------------------------------------------------------------


def improve(
    config: TRPOConfig,
    actor: Actor,
    hyper: dict[str, Array],
    weights: list[Array | float],
    params: Params,
    samples: list[Sample],
) -> tuple[Params, Metrics]:
    """Take one step up the surrogate within the bound on the mean KL divergence.

    Both are means over all samples, those of each source counting by its weight.
    """
    old = policies(actor, params, samples)
    trust = Trust(
        hyper["max_kl"], hyper["damping"], config.cg_iterations, 10 if config.line_search else 0
    )
    params, step = natural_step(
        lambda params: surrogate(actor, params, samples, weights, old),
        lambda params: divergence(actor, params, samples, weights, old),
        params,
        trust,
    )
    entropy = weighted_mean([(old[0].entropy(), samples[0].mask, 1.0)])
    return params, {f"actor/{name}": x for name, x in step.items()} | {"actor/entropy": entropy}


def policies(actor: Actor, params: Params, samples: list[Sample]) -> list[Any]:
    """Return the policy of each source's samples."""
    return [apply(actor, params, s.carry, s.seen, s.reset)[1] for s in samples]


def surrogate(actor: Actor, params: Params, samples: list, weights: list, old: list) -> Array:
    """Return the mean of advantage times probability ratio (1502.05477, equation 14)."""
    terms = []
    for policy, before, s in zip(policies(actor, params, samples), old, samples, strict=True):
        ratio = jnp.exp(policy.log_prob(s.action) - before.log_prob(s.action))
        terms.append((ratio * s.advantage, s.mask))
    return weighted_mean([(*term, weight) for term, weight in zip(terms, weights, strict=True)])


def divergence(actor: Actor, params: Params, samples: list, weights: list, old: list) -> Array:
    """Return the mean KL divergence from the old policies."""
    now = zip(policies(actor, params, samples), old, samples, weights, strict=True)
    return weighted_mean([(before.kl(policy), s.mask, w) for policy, before, s, w in now])


# --- The contract -----------------------------------------------------------------------------


def update(
    config: TRPOConfig, spec: Spec, state: TRPOState, batch: Trajectory
) -> tuple[TRPOState, Metrics]:
    """Make one update from one rollout `[T, B, ...]`."""
    return learn(config, spec, state, [own_part(config, spec, batch)])


def batch_spec(config: TRPOConfig) -> Rollout:
    """Return what the loop must supply: a fresh rollout."""
    return Rollout(config.rollout_length, config.num_envs)


PRESETS: dict[str, TRPOConfig] = {
    "default": TRPOConfig(),
    "natural": TRPOConfig(line_search=False),
}
