"""What learners of skills have in common: soft actor-critic that is shown the skill it follows.

Parent: `rlssm.algorithms.sac`. Actor and critics see the skill beside every observation; what is
paid is computed anew in every update, from the representation as it is then, and nothing of it is
stored. With memory, the skill enters with the observation at every step, and the environment's
reward is kept out. The representation has no memory: one that remembered actions could tell the
skill from them alone, and be paid for a body that stands still.

A memory's windows may have two skills in them where `skill.resample` is above 0. The last step of
the old skill would have to be valued under the new one, and is not learnt from; single steps are
valued under their own skill at both ends.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rlssm.algorithms import sac
from rlssm.algorithms.sac import SACConfig, SACState
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import require
from rlssm.nn import skills
from rlssm.nn.actor_critic import Actor, Critic, apply, has_memory
from rlssm.nn.encoders import Encoder
from rlssm.nn.mlp import MLP, Kernel, MLPConfig, Precision
from rlssm.nn.optimizers import make_optimizer
from rlssm.nn.s5 import S5Config
from rlssm.nn.skills import SKILL, SkillConfig, Skilled
from rlssm.nn.torso import TorsoConfig
from rlssm.types import (
    Box,
    Carry,
    Inputs,
    Key,
    Metrics,
    Params,
    Space,
    Spec,
    Trajectory,
    Windows,
    zeros,
)

SWEPT = (*sac.SWEPT, "representation_learning_rate")
WIDE = (1024, 1024)


def layers(
    hidden: tuple[int, ...],
    activation: Literal["relu", "tanh"] = "relu",
    kernel: Kernel = "xavier",
) -> MLPConfig:
    """Return hidden layers as METRA starts them; its critics are "xavier-normal"."""
    return MLPConfig(hidden, activation, kernel_scale=1.0, kernel=kernel)


@dataclass(frozen=True)
class SkilledConfig(SACConfig):
    """Hyper-parameters of every learner of skills, beside those of SAC."""

    actor: MLPConfig = field(default_factory=lambda: layers(WIDE, "tanh"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(default_factory=lambda: layers(WIDE, kernel="xavier-normal"))
    """The hidden layers of each critic's head."""
    representation: MLPConfig = field(default_factory=lambda: layers(WIDE))
    """The hidden layers of the representation of observations."""
    skill: SkillConfig = field(default_factory=SkillConfig)
    """The skills that are learnt."""
    experience: ExperienceConfig = field(
        default_factory=lambda: ExperienceConfig(
            num_envs=8, rollout_length=200, update_ratio=1 / 32, warmup=9600
        )
    )
    """How experience is collected, kept and drawn. METRA: 8 episodes of 200 steps and 50 updates,
    from 10,000 stored steps on; the policy acts from the first step."""
    terminal_on_timeout: bool = False
    """Whether the end of an episode cuts the bootstrap, time limits included. Released code of
    METRA: yes."""
    learning_rate: float = 1e-4
    """Adam step size of the actor, above 0."""
    critic_learning_rate: float = 1e-4
    """Adam step size of the critics, above 0."""
    temperature_learning_rate: float = 1e-4
    """Adam step size of the log temperature, at least 0; 0 keeps it."""
    representation_learning_rate: float = 1e-4
    """Adam step size of the representation, at least 0; 0 keeps it."""
    init_temperature: float = 0.01
    """First value of the entropy temperature α, above 0."""
    target_entropy: float | None = None
    """Entropy that the temperature holds the policy to; default minus half the size of the
    action."""
    log_std_min: float = math.log(1e-6)
    """Lowest log standard deviation of the policy, below 2."""
    policy_scale: float = 0.1
    """Gain of the policy's last kernel, above 0."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "representation_learning_rate"
        require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0")


class SkilledState(SACState):
    """Everything a learner of skills learns; `params` has the representation beside the actor."""

    representation_opt: Any


# --- Networks ---------------------------------------------------------------------------------


class Representation(nn.Module):
    """Observations as vectors, without memory, action or skill."""

    space: Space
    mlp: MLPConfig
    size: int
    precision: Precision = "default"

    @nn.compact
    def __call__(self, obs: Any) -> Float[Array, "*batch K"]:
        features = Encoder(self.space, self.precision, name="encoder")(obs)
        return MLP(self.mlp, self.size, precision=self.precision, name="mlp")(features)


class Networks(NamedTuple):
    """The modules of an agent, without parameters."""

    actor: Actor
    critic: Critic
    representation: Representation
    skill: SkillConfig

    def initial_carry(self, batch: int) -> Skilled:
        """Return the memory before the first step, and no skill yet."""
        return Skilled(self.actor.initial_carry(batch), jnp.zeros((batch, self.skill.size)))


def networks(config: SkilledConfig, spec: Spec) -> Networks:
    """Return the networks for an environment.

    Raises:
        UserError: if the environment's actions are not a vector.
    """
    actor, critic = sac.networks(config, skills.shown_spec(config.skill, spec))
    return Networks(actor, critic, representation_of(config, spec), config.skill)


def representation_of(config: SkilledConfig, spec: Spec) -> Representation:
    """Return the network of the representation."""
    return Representation(spec.obs, config.representation, config.skill.size, config.precision)


def init(config: Any, spec: Spec, key: Key) -> SkilledState:
    """Return the state before the first update."""
    sac_key, key = jax.random.split(key)
    state = sac.init(config, skills.shown_spec(config.skill, spec), sac_key)
    weights = representation_of(config, spec).init(key, zeros(spec.obs, (1,)))
    hyper = {name: jnp.float32(getattr(config, name)) for name in config.swept}
    state = state.replace(params=state.params | {"representation": weights}, hyper=hyper)
    opt = make_optimizer(hyper["representation_learning_rate"]).init(weights)
    return SkilledState(**vars(state), representation_opt=opt)


def embed(config: SkilledConfig, spec: Spec, weights: Params, obs: Any) -> Float[Array, "*batch K"]:
    """Return the representation φ of observations `[*batch, ...]`."""
    return apply(representation_of(config, spec), weights, obs)


def change(
    config: SkilledConfig, spec: Spec, weights: Params, batch: Trajectory
) -> Float[Array, "T B K"]:
    """Return Δ, how far each step moved the representation."""
    step = batch.step
    return embed(config, spec, weights, step.next_obs) - embed(config, spec, weights, step.obs)


def reward(
    delta: Float[Array, "*batch K"], direction: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Return Δ·z̃, which is what a skill is paid for a step."""
    return (delta * direction).sum(-1)


def skill_towards(
    config: SkilledConfig, spec: Spec, params: Params, obs: Any, goal: Any
) -> Float[Array, "*batch K"]:
    """Return the skill that leads from an observation to a goal, along φ(g) - φ(s).

    Discrete skills: the one of the largest component.
    """
    weights = params["representation"]
    wanted = embed(config, spec, weights, goal) - embed(config, spec, weights, obs)
    return skills.towards(config.skill, wanted)


# --- Acting -----------------------------------------------------------------------------------


def act(
    config: Any,
    spec: Spec,
    params: Params,
    seen: Inputs,
    reset: Bool[Array, " B"],
    carry: Skilled,
    key: Key,
    *,
    greedy: bool,
) -> tuple[Array, Skilled, dict[str, Array]]:
    """Choose one action per environment: (action `[B, A]`, next carry, the skills followed).

    A skill is drawn where an episode starts, which here is where memory is dropped; else as
    `skills.keep_or_draw` says.
    """
    skill_key, key = jax.random.split(key)
    skill = skills.keep_or_draw(config.skill, skill_key, carry.skill, reset)
    action, memory = follow(
        config, spec, params, seen, reset, carry.memory, skill, key, greedy=greedy
    )
    return action, Skilled(memory, skill), {SKILL: skill}


def follow(
    config: Any,
    spec: Spec,
    params: Params,
    seen: Inputs,
    reset: Bool[Array, " B"],
    memory: Carry,
    skill: Float[Array, "B K"],
    key: Key,
    *,
    greedy: bool,
) -> tuple[Array, Carry]:
    """Choose one action per environment under given skills: (action `[B, A]`, next memory)."""
    seen = skills.shown_inputs(seen, skill)
    shown = skills.shown_spec(config.skill, spec)
    return sac.act(config, shown, params, seen, reset, memory, key, greedy=greedy)[:2]


# --- Learning ---------------------------------------------------------------------------------


def descend(
    state: Any, weights: Params, loss: Callable[[Params], tuple[Array, Metrics]]
) -> tuple[Params, Any, Metrics]:
    """Return what one step of Adam makes of a representation's weights, its state, and metrics."""
    (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(weights)
    optimizer = make_optimizer(state.hyper["representation_learning_rate"])
    move, opt_state = optimizer.update(grad, state.representation_opt, weights)
    metrics = {"representation/loss": value, **metrics}
    return optax.apply_updates(weights, move), opt_state, metrics


def step_policy(
    config: Any, spec: Spec, state: Any, batch: Trajectory, reward: Float[Array, "T B"]
) -> tuple[Any, Metrics]:
    """Make one update of SAC that is shown the skills and paid `reward`."""
    shown = skills.shown_spec(config.skill, spec)
    config = replace(config, target_entropy=target_entropy(config, spec))
    return sac.update(config, shown, state, as_shown(config, batch), reward)


def target_entropy(config: SkilledConfig, spec: Spec) -> float:
    """Return the entropy that the temperature holds the policy to."""
    assert isinstance(spec.action, Box)
    default = -spec.action.shape[0] / 2
    return default if config.target_entropy is None else config.target_entropy


def as_shown(config: SkilledConfig, batch: Trajectory) -> Trajectory:
    """Return a batch as actor and critics see it: with skills, and with rewards of zero."""
    step = batch.step
    skill = step.extras[SKILL]
    terminated = step.terminated
    if config.terminal_on_timeout:
        terminated |= step.truncated
    return batch._replace(
        step=step._replace(
            obs=skills.shown(step.obs, skill),
            next_obs=skills.shown(step.next_obs, skill),
            reward=jnp.zeros_like(step.reward),
            terminated=terminated,
        ),
        mask=batch.mask & ~_switches(skill, terminated),
        carry=None if batch.carry is None else batch.carry.memory,
        previous=batch.previous._replace(reward=jnp.zeros_like(batch.previous.reward)),
    )


def _switches(skill: Float[Array, "T B K"], terminated: Bool[Array, "T B"]) -> Bool[Array, "T B"]:
    """Return where the row after a step, from which it bootstraps, has another skill."""
    other = jnp.any(skill[1:] != skill[:-1], axis=-1)
    return jnp.concatenate([other, jnp.zeros_like(terminated[:1])]) & ~terminated


def batch_spec(config: SkilledConfig) -> Windows:
    """Return what the loop must supply: single steps or windows, with the skills followed."""
    kept = ((SKILL, Box((config.skill.size,))),)
    memory = has_memory(config.core)
    return wish(config.experience, memory=memory, kept=kept, random_warmup=False)


# --- Presets ----------------------------------------------------------------------------------

C = TypeVar("C", bound=SkilledConfig)
SIXTEEN = SkillConfig("discrete", 16)


def small(config: C) -> C:
    """Return a configuration for tasks the size of the point mass."""
    rates = [name for name in config.swept if name.endswith("learning_rate")]
    return replace(
        config,
        actor=layers((64, 64)),
        critic=layers((64, 64), kernel="xavier-normal"),
        representation=layers((64, 64)),
        experience=ExperienceConfig(
            num_envs=8, rollout_length=50, update_ratio=1 / 8, warmup=0, capacity=20_000
        ),
        init_temperature=0.1,  # 2,000 updates are too few for α to get there from 0.01
        **dict.fromkeys(rates, 3e-4),
    )


def remembering(config: C) -> C:
    """Return a small configuration with a memory, whose skills change within an episode."""
    return replace(
        config,
        core=S5Config(layers=1, state_size=32),
        torso=TorsoConfig(width=64, hidden=()),
        skill=replace(config.skill, resample=0.04),
        experience=replace(config.experience, length=50, burn_in=0, batch=800),
    )


def presets(config: C, of_cheetah: SkillConfig = SIXTEEN) -> dict[str, C]:
    """Return the presets that all have: METRA's for Ant and HalfCheetah, ours for the point mass.

    `of_cheetah` are the skills of HalfCheetah.
    """
    return {
        "default": config,
        "ant": config,
        "halfcheetah": replace(config, skill=of_cheetah),
        "point": small(config),
        "point-s5": remembering(small(config)),
        "point-pixels": small(config),
    }
