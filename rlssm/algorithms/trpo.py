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
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jaxtyping import Array, Bool, Float

from rlssm.algorithms.backward_update import learn_backwards
from rlssm.algorithms.natural_update import (
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
from rlssm.data.mixing import bootstrap_rows
from rlssm.errors import require
from rlssm.kernels.returns import gae, lambda_returns
from rlssm.nn.actor_critic import Actor, Critic, History, apply, has_memory, require_torso_fits
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.distributions import Distribution
from rlssm.nn.heads import policy_head
from rlssm.nn.mlp import MLPConfig, Precision
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
    clip_actions: bool = True
    """Whether continuous actions are clipped to [-1, 1] before environment and critic see them.
    HNPG on locks, which take any: no."""
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
        The action `[B, *A]` (a continuous one clipped to [-1, 1] with `clip_actions`), the next
        carry, and the unclipped `sample`.
    """
    nets = networks(config, spec)
    rows = jax.tree.map(lambda x: x[None], (seen, reset))
    if nets.horizon is None:
        actor_carry, policy = apply(nets.actor, params["actor"], carry[0], *rows)
        carry = actor_carry, remember(nets.critic, params["critic"], carry[1], *rows)[0]
    else:
        step = jnp.minimum(jnp.where(reset, 0, carry), nets.horizon - 1)
        own = jax.tree.map(lambda x: x[step], params["actor"])
        one = lambda p, *row: apply(nets.actor, p, (), *row)[1]  # noqa: E731
        policy = jax.vmap(one, (0, 1, 1), 1)(own, *jax.tree.map(lambda x: x[:, :, None], rows))
        policy = jax.tree.map(lambda x: x[:, :, 0], policy)
        carry = step + 1
    sample = policy.mode() if greedy else policy.sample(key)
    return as_taken(clips(config, spec), sample)[0], carry, {"sample": sample[0]}


def clips(config: TRPOConfig, spec: Spec) -> bool:
    """Return whether samples are clipped on their way to the environment."""
    return config.clip_actions and isinstance(spec.action, Box)


# --- What is learnt from ----------------------------------------------------------------------


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


# --- Learning ---------------------------------------------------------------------------------


def learn(
    config: TRPOConfig, spec: Spec, state: TRPOState, parts: list[Part], sweeps: int = 1
) -> tuple[TRPOState, Metrics]:
    """Fit the critic to all parts, judge their actions by it, and take one step of the policy.

    Args:
        parts: the agent's own steps first.
        sweeps: how often the bootstrapped targets of others' steps are computed anew, where one
            network serves all steps.
    """
    nets = networks(config, spec)
    method = Method(
        nets.actor, nets.critic, clips(config, spec), config.critic_steps, config.value_samples,
        config.cg_iterations, halvings=10 if config.line_search else 0,
    )  # fmt: skip
    if config.per_step:
        key, *keys = jax.random.split(state.key, 3)
        params, metrics = learn_backwards(method, state.hyper, state.params, keys, parts)
    else:
        key, *keys = jax.random.split(state.key, 4)
        params, metrics = _learn_at_once(method, state.hyper, state.params, keys, parts, sweeps)
    return state.replace(params=params, key=key), metrics


class Seen(NamedTuple):
    """What was seen before and after every step of all parts, and the old policy there."""

    rows: tuple[Inputs, Bool[Array, "T1 B"]]
    memory: tuple[Carry, Carry]  # of actor and critic, leaves [B, ...]
    policies: list[Distribution]  # of each part, [T_i + 1, B_i]


def _learn_at_once(
    method: Method,
    hyper: dict[str, Array],
    params: dict[str, Any],
    keys: list[Key],
    parts: list[Part],
    sweeps: int,
) -> tuple[dict[str, Any], Metrics]:
    """Return new params and metrics, from one network for all steps."""
    fit_key, judge_key, act_key = keys
    rows = beside([unrolled(part.steps) for part in parts])
    memory = jax.tree.map(lambda *x: jnp.concatenate(x), *[part.steps.carry for part in parts])
    policy = apply(method.actor, params["actor"], memory[0], *rows)[1]
    seen = Seen(rows, memory, apart(policy, parts, 1))
    critic, loss = _fit(method, hyper, params["critic"], seen, fit_key, parts, sweeps)
    values = _values(method, critic, seen, judge_key, parts)
    rows, policies = jax.tree.map(lambda x: x[:-1], (rows, seen.policies))

    features = apart(remember(method.critic, critic, memory[1], *rows)[1], parts)
    judged = []
    for i, part in enumerate(parts):
        if part.sample is None:
            action = policies[i].sample(jax.random.fold_in(act_key, i))
            taken = as_taken(method.clip, action)
            value = q_value(method.critic, critic, features[i], taken)
            judged.append((action, value - values[i][:-1]))
        else:
            judged.append((part.sample, _own_advantage(hyper, part, values[i])))
    sample = Sample(*rows, memory[0], *beside(judged), shares_of_all(parts))
    actor, metrics = improve(method, hyper, params["actor"], sample)
    metrics |= {
        "actor/entropy": mean_of(policies[0].entropy(), parts[0]),
        "critic/loss": loss,
        "critic/value_mean": mean_of(values[0][:-1], parts[0]),
    }
    return {"actor": actor, "critic": critic}, metrics


def _fit(
    method: Method,
    hyper: dict[str, Array],
    critic: Params,
    seen: Seen,
    key: Key,
    parts: list[Part],
    sweeps: int,
) -> tuple[Params, Float[Array, ""]]:
    """Return the critic fitted to all parts, and the last loss.

    Own steps keep the targets of the first sweep.
    """
    rate = hyper["critic_learning_rate"]
    rows = jax.tree.map(lambda x: x[:-1], seen.rows)
    action, share = beside([part.steps.step.action for part in parts]), shares_of_means(parts)
    learner, targets = learner_of(critic, rate), []
    loss = jnp.zeros(())
    for sweep in range(sweeps):
        values = _values(method, learner.params, seen, jax.random.fold_in(key, sweep), parts)
        fresh = [_target(hyper, part, v[1:]) for part, v in zip(parts, values, strict=True)]
        targets = [targets[0] if sweep else fresh[0], *fresh[1:]]
        data = Targets(seen.memory[1], *rows, action, beside(targets), share)
        steps = method.critic_steps // sweeps
        learner, loss = regress(method.critic, rate, learner, steps, data)
    return learner.params, loss


def _values(
    method: Method, critic: Params, seen: Seen, key: Key, parts: list[Part]
) -> list[Float[Array, "T1 B"]]:
    """Return the values of every part's rows, one more than it has steps."""
    features = remember(method.critic, critic, seen.memory[1], *seen.rows)[1]
    made = beside([
        choices(method, policy, jax.random.fold_in(key, i))
        for i, policy in enumerate(seen.policies)
    ])  # fmt: skip
    return apart(state_value(method.critic, critic, features, made), parts, 1)


def _target(hyper: dict[str, Array], part: Part, following: Array) -> Array:
    """Return the λ-return of own steps, the one-step target of others'."""
    step, mask = part.steps.step, part.steps.mask
    lam = jnp.float32(0) if part.sample is None else hyper["gae_lambda"]
    ended = step.truncated | _last_valid(mask)
    return lambda_returns(step.reward, following, step.terminated, ended, hyper["discount"], lam)


def _own_advantage(hyper: dict[str, Array], part: Part, value: Array) -> Array:
    """Return the generalised estimate of own steps, from values of one row more."""
    step = part.steps.step
    ended = step.truncated | _last_valid(part.steps.mask)
    return gae(
        step.reward, value[:-1], value[1:], step.terminated, ended, hyper["discount"],
        hyper["gae_lambda"],
    )  # fmt: skip


def _last_valid(mask: Bool[Array, "T B"]) -> Bool[Array, "T B"]:
    """Return the valid rows that no valid row follows."""
    return mask & ~jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])


# --- The contract -----------------------------------------------------------------------------


def update(
    config: TRPOConfig, spec: Spec, state: TRPOState, batch: Trajectory
) -> tuple[TRPOState, Metrics]:
    """Make one update from one rollout `[T, B, ...]`."""
    return learn(config, spec, state, [own_part(config, spec, batch)])


def batch_spec(config: TRPOConfig) -> Rollout:
    """Return what the loop must supply: a fresh rollout."""
    return Rollout(config.rollout_length, config.num_envs)


# "small" is ours, for tasks the size of Pendulum.
PRESETS: dict[str, TRPOConfig] = {
    "default": TRPOConfig(),
    "natural": TRPOConfig(line_search=False),
    "small": TRPOConfig(
        actor=MLPConfig((32, 32), "tanh"),
        critic=MLPConfig((32, 32), "tanh"),
        num_envs=8,
        rollout_length=64,
        critic_learning_rate=1e-2,
        discount=0.9,
        gae_lambda=0.95,
    ),
}
