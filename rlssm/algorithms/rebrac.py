"""ReBRAC: TD3+BC with a penalty in the critics' targets beside the actor's, and deeper networks.

Sources: Tarasov et al. 2023, "Revisiting the Minimalist Approach to Offline Reinforcement
Learning" (arXiv 2305.09836), equations 2 to 4; code of the authors in CORL, which the presets are
from. The parent is rlssm.algorithms.td3bc: networks, noise, delay and memory are the same.

Equations, with h_t the history at t (the observation itself without memory), m = 1 - terminated,
a' = clip(π̄(h_{t+1}) + ε, -1, 1) as in TD3, and sums over the entries of an action:

    y_t   = r_t + γ m_t (min_k Q̄_k(h_{t+1}, a') - β₂ Σ (a' - a_{t+1})²)
    L_Q   = Σ_k mean (Q_k(h_t, a_t) - y_t)²
    L_π   = mean (β₁ Σ (π(h_t) - a_t)² - λ min_k Q_k(h_t, π(h_t))),
            λ = 1 / mean |min_k Q_k(h_t, π(h_t))|, without a gradient

The next action a_{t+1} is the one the dataset took in the row after, so windows are one row longer
than what is learnt from: that last row shows an observation and an action and is in no loss.
Where the data were cut off there is no next action, and the critics leave the step out, as the
authors' reader of datasets does; the actor learns from it all the same.

In the environment, that is in updates whose batch holds any of the agent's own steps, β₂ is 0 and
β₁ falls linearly to half over `online_decay_updates` of them: the paper's fine-tuning. No next
action is needed then, and truncated steps count for the critics too.

Departures from the released code: it moves the actor's target towards the actor before its step,
TD3 and this file towards the one after; it makes the actor's steps in the first, third, ... update
and this file in the second, fourth, ...; its LayerNorm follows the activation and ours precedes
it; kernels are orthogonal and biases 0. Measured scores: docs/rebrac.md.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jaxtyping import Array, Int

from rlssm.algorithms.sac import masked_mean, normalized
from rlssm.algorithms.td3bc import (
    Networks,
    act,
    delayed,
    first_state,
    mean_magnitude,
    networks,
    noisy,
    optimizers,
    require_td3,
)
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import require
from rlssm.nn.actor_critic import apply, has_memory
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.mlp import MLPConfig, Precision
from rlssm.nn.torso import TorsoConfig
from rlssm.types import Key, Metrics, Params, Spec, Trajectory, Windows, inputs

__all__ = [
    "PRESETS", "SWEPT", "Networks", "ReBRACConfig", "ReBRACState", "act", "batch_spec", "init",
    "networks", "update",
]  # fmt: skip

SWEPT = (
    "learning_rate", "critic_learning_rate", "ssm_lr_factor", "discount", "polyak",
    "actor_penalty", "critic_penalty",
)  # fmt: skip


@dataclass(frozen=True)
class ReBRACConfig:
    """Hyper-parameters of ReBRAC; docs/rebrac.md explains each at length."""

    name: Literal["rebrac"] = "rebrac"
    core: CoreConfig = field(default_factory=NoneConfig)
    """The sequence core of the actor and, with its own weights, of the critics."""
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    """What a memory is fed; without one the heads read the observation itself."""
    actor: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256, 256), "relu"))
    """The hidden layers of the policy head."""
    critic: MLPConfig = field(
        default_factory=lambda: MLPConfig((256, 256, 256), "relu", layer_norm=True)
    )
    """The hidden layers of each of the two critics' heads."""
    experience: ExperienceConfig = field(default_factory=lambda: ExperienceConfig(batch=1024))
    """How experience is collected, kept and drawn; windows are drawn with one row more."""
    actor_penalty: float = 0.01
    """Weight β₁ of the squared distance of the actor from the dataset's action, at least 0. Every
    dataset has its own: see the presets."""
    critic_penalty: float = 0.01
    """Weight β₂ of the squared distance of the target's action from the dataset's next action,
    at least 0. Every dataset has its own: see the presets."""
    online_decay_updates: int = 1_000_000
    """Updates with steps of the environment over which β₁ falls linearly to half, at least 1."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on the target's action, at least 0."""
    noise_clip: float = 0.5
    """Largest magnitude of that noise, at least 0."""
    policy_delay: int = 2
    """Updates of the critics to one of the actor and of all targets, at least 1."""
    exploration_noise: float = 0.1
    """Standard deviation of the noise on actions taken to learn from, at least 0; TD3's."""
    learning_rate: float = 1e-3
    """Adam step size of the actor, above 0."""
    critic_learning_rate: float = 1e-3
    """Adam step size of the critics, above 0."""
    ssm_lr_factor: float = 1.0
    """Learning rate of the state-space parameters over that of all others, above 0."""
    max_grad_norm: float | None = None
    """Norm that the gradients of the actor and of the critics are clipped to; default none."""
    discount: float = 0.99
    """Discount per step, in [0, 1]."""
    polyak: float = 0.005
    """Share of what was learnt that the targets take over when they move, in (0, 1]."""
    normalize_obs: bool = False
    """Whether observations are standardised by the dataset's mean and deviation."""
    precision: Precision = "default"
    """Matmul precision of the networks; on a GPU "default" is TF32 and "highest" float32."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        for name in ("actor_penalty", "critic_penalty"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "at least 0")
        decay = self.online_decay_updates
        require(decay >= 1, "online_decay_updates", decay, "at least 1")
        require_td3(self)
        batch_spec(self)


class ReBRACState(PyTreeNode):
    """Everything ReBRAC learns; `params` is what acting needs."""

    params: dict[str, Any]  # "actor", and "statistics" with normalize_obs
    critic: Params
    target: dict[str, Params]  # of "actor" and "critic"
    opt_state: dict[str, Any]
    updates: Int[Array, ""]
    online_updates: Int[Array, ""]  # those among them with steps of the environment
    hyper: dict[str, Array]
    key: Key


def init(config: ReBRACConfig, spec: Spec, key: Key) -> ReBRACState:
    """Return the state before the first update."""
    return ReBRACState(online_updates=jnp.int32(0), **first_state(config, spec, key))


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: ReBRACConfig, spec: Spec, state: ReBRACState, batch: Trajectory
) -> tuple[ReBRACState, Metrics]:
    """Make one step of critics and, when due, of actor and targets on windows `[T, B, ...]`.

    The last of the T rows is only the successor of the one before.
    """
    actor, critic = networks(config, spec)
    hyper, optimizer = state.hyper, optimizers(config, state.hyper)
    key, noise_key = jax.random.split(state.key)
    rows, reset = normalized(config, state.params, inputs(batch)), batch.reset
    step, seen, reset_seen, mask = jax.tree.map(
        lambda x: x[:-1], (batch.step, rows, reset, batch.mask)
    )
    blank = critic.initial_carry(mask.shape[1])
    memory = blank if batch.carry is None else batch.carry
    online = jnp.any(step.extras["source"] == 1)
    actor_penalty, critic_penalty = penalties(config, state, online)

    _, next_action = apply(actor, state.target["actor"], memory, rows, reset, skip=1)
    next_action = noisy(next_action, noise_key, config.policy_noise, config.noise_clip)
    next_value = apply(critic, state.target["critic"], blank, rows, reset, next_action, skip=1)
    distance = jnp.square(next_action - batch.step.action[1:]).sum(-1)
    next_value = next_value.min(0) - critic_penalty * distance
    next_value = jnp.where(step.terminated, 0.0, next_value)
    target = config.experience.reward(step.reward) + hyper["discount"] * next_value
    cut_off = step.truncated & ~step.terminated
    valued = mask & (online | ~cut_off)  # the others have no next action

    def critic_loss(params: Params) -> tuple[Array, Array]:
        values = apply(critic, params, blank, seen, reset_seen, step.action)
        return masked_mean(jnp.square(values - target), valued).sum(), values

    (q_loss, values), grad = jax.value_and_grad(critic_loss, has_aux=True)(state.critic)
    change, critic_opt = optimizer["critic"].update(grad, state.opt_state["critic"], state.critic)
    critics = optax.apply_updates(state.critic, change)

    def actor_loss(params: Params) -> tuple[Array, Array]:
        _, action = apply(actor, params, memory, seen, reset_seen)
        value = apply(critic, critics, blank, seen, reset_seen, action).min(0)
        error = jnp.square(action - step.action)
        value /= mean_magnitude(value, mask)
        loss = masked_mean(actor_penalty * error.sum(-1) - value, mask)
        return loss, masked_mean(error.mean(-1), mask)

    weights = state.params["actor"]
    (pi_loss, error), grad = jax.value_and_grad(actor_loss, has_aux=True)(weights)
    change, actor_opt = optimizer["actor"].update(grad, state.opt_state["actor"], weights)
    state = state.replace(critic=critics, opt_state=state.opt_state | {"critic": critic_opt})
    state = delayed(config, state, optax.apply_updates(weights, change), actor_opt)
    return state.replace(online_updates=state.online_updates + online, key=key), {
        "actor/loss": pi_loss,
        "actor/bc_error": error,
        "actor/penalty": actor_penalty,
        "critic/loss": q_loss,
        "critic/value_mean": masked_mean(values, mask).mean(),
        "critic/distance": masked_mean(distance, valued & ~step.terminated),
    }


def penalties(config: ReBRACConfig, state: ReBRACState, online: Array) -> tuple[Array, Array]:
    """Return (β₁, β₂) of an update, `online` if its batch has steps of the environment."""
    progress = jnp.minimum(state.online_updates / config.online_decay_updates, 1)
    actor_penalty = state.hyper["actor_penalty"] * (1 - progress / 2)
    return actor_penalty, jnp.where(online, 0.0, state.hyper["critic_penalty"])


def batch_spec(config: ReBRACConfig) -> Windows:
    """Return what the loop must supply: windows with one row after the last one learnt from."""
    memory = has_memory(config.core)
    learnt = wish(config.experience, memory=memory, offline_first=True)
    longer = replace(config.experience, length=learnt.length + 1, burn_in=learnt.burn_in + 1)
    return replace(wish(longer, memory=memory, offline_first=True), burn_in=learnt.burn_in)


# --- Published settings -----------------------------------------------------------------------

_ADROIT = ReBRACConfig(
    learning_rate=3e-4, critic_learning_rate=3e-4, experience=ExperienceConfig(batch=256)
)
_ANTMAZE = replace(
    _ADROIT, critic_learning_rate=5e-5, discount=0.999,
    experience=ExperienceConfig(batch=256, reward_scale=100.0),
)  # fmt: skip

# Dataset: β₁, β₂. From the configurations in CORL, which names versions v2 of locomotion and
# antmaze, v1 of the others.
_PENALTIES: dict[str, tuple[ReBRACConfig, dict[str, tuple[float, float]]]] = {
    "halfcheetah": (ReBRACConfig(), {
        "random": (0.001, 0.1), "medium": (0.001, 0.01), "expert": (0.01, 0.01),
        "medium-expert": (0.01, 0.1), "medium-replay": (0.01, 0.001), "full-replay": (0.001, 0.1),
    }),
    "hopper": (ReBRACConfig(), {
        "random": (0.001, 0.01), "medium": (0.01, 0.01), "expert": (0.1, 0.1),
        "medium-expert": (0.1, 0.01), "medium-replay": (0.05, 0.5), "full-replay": (0.01, 0.01),
    }),
    "walker2d": (ReBRACConfig(), {
        "random": (0.01, 0.0), "medium": (0.05, 0.1), "expert": (0.01, 0.5),
        "medium-expert": (0.01, 0.01), "medium-replay": (0.05, 0.01), "full-replay": (0.01, 0.01),
    }),
    "antmaze": (_ANTMAZE, {
        "umaze": (0.003, 0.002), "umaze-diverse": (0.003, 0.001), "medium-play": (0.001, 0.0005),
        "medium-diverse": (0.001, 0.0), "large-play": (0.002, 0.001),
        "large-diverse": (0.002, 0.002),
    }),
    "maze2d": (_ADROIT, {  # with the settings of Adroit
        "umaze": (0.003, 0.001), "medium": (0.003, 0.001), "large": (0.003, 0.001),
    }),
    "pen": (_ADROIT, {"human": (0.1, 0.5), "cloned": (0.05, 0.5), "expert": (0.01, 0.01)}),
    "door": (_ADROIT, {"human": (0.1, 0.1), "cloned": (0.01, 0.1), "expert": (0.05, 0.01)}),
    "hammer": (_ADROIT, {"human": (0.01, 0.5), "cloned": (0.1, 0.5), "expert": (0.01, 0.01)}),
    "relocate": (_ADROIT, {"human": (0.1, 0.01), "cloned": (0.1, 0.01), "expert": (0.05, 0.01)}),
}  # fmt: skip

PRESETS: dict[str, ReBRACConfig] = {"default": ReBRACConfig()} | {
    f"{env}-{data}": replace(base, actor_penalty=beta_1, critic_penalty=beta_2)
    for env, (base, datasets) in _PENALTIES.items()
    for data, (beta_1, beta_2) in datasets.items()
}
