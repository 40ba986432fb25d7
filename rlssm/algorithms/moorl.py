"""MOORL: one meta-policy for a dataset and the agent's own steps; SAC inside, Reptile outside.

Sources: MOORL (arXiv 2506.09574), algorithm 1; Nichol et al. 2018, "On First-Order Meta-Learning
Algorithms" (arXiv 1803.02999), for Reptile. Parent: `rlssm.algorithms.sac`, whose update is the
inner step.

One meta-iteration, with meta-parameters φ of the actor, θ of the critics and log α of the
temperature, D_off the dataset, D_on the agent's own steps, p = `offline_probability`:

    D = D_off with probability p, otherwise D_on       D_off while D_on holds less than a batch
    φ_0, θ_0, log α_0 = φ, θ, log α
    for k = 0 .. K - 1:
        φ_{k+1}, θ_{k+1}, log α_{k+1} = one step of SAC on a batch of D, against the targets θ̄
    φ ← φ + ε (φ_K - φ),  and so θ and log α           ε = `meta_rate`
    θ̄ ← θ̄ + (1 - (1 - τ)^K) (θ - θ̄)

An inner step moves the critics, then the actor against the new critics, then the temperature. The
meta-parameters act. With ε = 1 this is SAC on batches of alternating sources, without a meta-step.
State-space parameters are averaged as they are stored, that is without constraints: the logarithm
of the step, and that of -Re Λ with stability "exp".

No code was released, and of the paper only summaries and the algorithm's box were at hand: K, ε, p,
τ, how long to learn offline first and what becomes of the inner optimiser are not established, and
each is a setting. The box writes the meta-step as a gradient step, the text names Reptile: so does
this file. Ours is that τ counts gradient steps, so that targets follow as fast whatever K is.
Measured scores: docs/moorl.md.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rlssm.algorithms import sac
from rlssm.algorithms.sac import SACConfig, SACState, act, networks, optimizers
from rlssm.data.mixing import ExperienceConfig, wish
from rlssm.errors import require
from rlssm.nn.actor_critic import has_memory
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.s5 import S5Config
from rlssm.nn.torso import TorsoConfig
from rlssm.types import Key, Metrics, Spec, Trajectory, Windows

__all__ = [
    "PRESETS", "SWEPT", "MOORLConfig", "MOORLState", "act", "batch_spec", "init", "networks",
    "update",
]  # fmt: skip

SWEPT = (*sac.SWEPT, "meta_rate", "offline_probability")

MOORLState = SACState  # the meta-parameters


@dataclass(frozen=True)
class MOORLConfig(SACConfig):
    """Hyper-parameters of MOORL, those of SAC among them; docs/moorl.md explains each at length."""

    name: Literal["moorl"] = "moorl"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""
    inner_steps: int = 10
    """K, steps of SAC from the meta-parameters on before each meta-step, at least 1; not
    established."""
    meta_rate: float = 0.5
    """ε, how far the meta-parameters go towards where the inner steps ended, in (0, 1]; 1 is SAC on
    alternating batches. Not established."""
    offline_probability: float = 0.5
    """p, how often the inner steps learn from the dataset and not from the agent's own steps, in
    [0, 1]; not established."""
    keep_optimizer: bool = True
    """Whether Adam's moments live on from one meta-iteration to the next; without, each starts
    afresh. Not established."""
    experience: ExperienceConfig = field(
        default_factory=lambda: ExperienceConfig(rollout_length=10)
    )
    """How experience is collected, kept and drawn: as many environment steps come before a
    meta-iteration as it has inner steps. `prior` stays 0.5, see `offline_probability`."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        require(self.inner_steps >= 1, "inner_steps", self.inner_steps, "at least 1")
        require(0 < self.meta_rate <= 1, "meta_rate", self.meta_rate, "in (0, 1]")
        probability, prior = self.offline_probability, self.experience.prior
        require(0 <= probability <= 1, "offline_probability", probability, "in [0, 1]")
        require(prior == 0.5, "prior", prior, "left out: offline_probability takes its place")
        super().__post_init__()
        batch_spec(self)


def init(config: MOORLConfig, spec: Spec, key: Key) -> MOORLState:
    """Return the state before the first update."""
    state = sac.init(config, spec, key)
    ours = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    return state.replace(hyper=ours)


def update(
    config: MOORLConfig, spec: Spec, state: MOORLState, batches: Trajectory
) -> tuple[MOORLState, Metrics]:
    """Make one meta-iteration.

    Args:
        batches: windows `[2, K, T, B, ...]`, of the dataset and of the agent's own steps.
    """
    hyper = state.hyper
    key, source_key = jax.random.split(state.key)
    own = jax.random.uniform(source_key) >= hyper["offline_probability"]
    chosen = jax.tree.map(lambda x: x[own.astype(int)], batches)

    def step(inner: MOORLState, batch: Trajectory) -> tuple[MOORLState, Metrics]:
        inner, metrics = sac.update(config, spec, inner, batch)
        return inner.replace(target=state.target), metrics

    start = state.replace(key=key, opt_state=_moments(config, state))
    inner, metrics = jax.lax.scan(step, start, chosen)

    before, after = _learnt(state), _learnt(inner)
    meta: Any = optax.incremental_update(after, before, hyper["meta_rate"])
    share = -jnp.expm1(config.inner_steps * jnp.log1p(-hyper["polyak"]))
    state = inner.replace(
        params=state.params | {"actor": meta["actor"]},
        critic=meta["critic"],
        log_alpha=meta["temperature"],
        target=optax.incremental_update(meta["critic"], state.target, share),
    )
    of_dataset = (chosen.step.extras["source"] == 0).mean()
    drift = optax.tree.norm(jax.tree.map(jnp.subtract, after["critic"], before["critic"]))
    return state, jax.tree.map(lambda x: x.mean(0), metrics) | {
        "meta/dataset": of_dataset,
        "meta/critic_drift": drift,
    }


def _learnt(state: MOORLState) -> dict[str, Any]:
    """Return what the meta-step averages, under the optimisers' names."""
    return {
        "actor": state.params["actor"], "critic": state.critic, "temperature": state.log_alpha,
    }  # fmt: skip


def _moments(config: MOORLConfig, state: MOORLState) -> dict[str, Any]:
    """Return the optimisers' state that the inner steps start from."""
    if config.keep_optimizer:
        return state.opt_state
    learnt = _learnt(state)
    return {name: opt.init(learnt[name]) for name, opt in optimizers(config, state.hyper).items()}


def batch_spec(config: MOORLConfig) -> Windows:
    """Return what the loop must supply: per meta-iteration K batches of either source."""
    memory = has_memory(config.core)
    return wish(config.experience, memory=memory, stack=config.inner_steps, apart=True)


_SMALL = MOORLConfig(
    actor=MLPConfig((64, 64), "relu"),
    critic=MLPConfig((64, 64), "relu"),
    experience=ExperienceConfig(rollout_length=10, capacity=100_000),
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    temperature_learning_rate=1e-3,
)

# "small" and "small-s5" are for tasks the size of Pendulum; "antmaze" for goals that pay once.
PRESETS: dict[str, MOORLConfig] = {
    "default": MOORLConfig(),
    "small": _SMALL,
    "small-s5": replace(
        _SMALL,
        core=S5Config(layers=1, state_size=32),
        torso=TorsoConfig(width=64, hidden=()),
        experience=replace(_SMALL.experience, length=20, burn_in=4),
    ),
}
