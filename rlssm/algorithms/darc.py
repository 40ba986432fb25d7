"""DARC: soft actor-critic in a simulator whose reward is corrected for what reality would not do.

Source: Eysenbach et al. 2020, "Off-Dynamics Reinforcement Learning: Training for Transfer with
Domain Classifiers" (arXiv 2006.13916), equation 5 and algorithm 1, and the released code. Parents:
`rlssm.algorithms.sac`, which makes the update, and `rlssm.algorithms.dynamics_gap`, for the
discriminators D₁ and D₂ that H2O has, too.

Equations, beside those of SAC, of which r̃ takes the place of r:

    Δr(h, a, o')  = log P_real(o' | h, a) - log P_sim(o' | h, a) = D₂[0] - D₂[1]
    r̃             = r + η Δr   at simulated steps

An update is SAC's on corrected simulated steps, then one step of the discriminators on as many
real and simulated ones: the order of the released code, whose η is 1.

What is established: the above, and that DARC meets real steps in the discriminators alone. DARC+
is a rival in H2O's paper (arXiv 2206.13464) by name and idea only: the real steps take part in
SAC's update, too. How many is ours (`real_steps`): the share `experience.prior` of its batch.

Departures: the real steps are a dataset, where DARC takes one for every ten simulated; by default
the discriminators and their noise are H2O's, so that the two differ in what they do with them
(preset "paper": 32 hidden units, noise of deviation 1, rewards times 0.1); logits are bounded by
2 as H2O's, so that |Δr| is at most 4. The code's delay of the correction, 0 there, is left out.
Measured scores: docs/darc.md.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rlssm.algorithms import dynamics_gap, sac
from rlssm.algorithms.dynamics_gap import Networks
from rlssm.algorithms.sac import SACConfig, SACState, act, masked_mean
from rlssm.data.mixing import ExperienceConfig, columns, side_by_side, wish
from rlssm.errors import require
from rlssm.nn.actor_critic import has_memory
from rlssm.nn.mlp import MLPConfig
from rlssm.types import Key, Metrics, Params, Spec, Trajectory, Windows

__all__ = [
    "PRESETS", "SWEPT", "DARCConfig", "DARCState", "act", "batch_spec", "init", "networks",
    "update",
]  # fmt: skip

SWEPT = (*sac.SWEPT, "discriminator_learning_rate", "correction")


@dataclass(frozen=True)
class DARCConfig(SACConfig):
    """Hyper-parameters of DARC, beside those of SAC; docs/darc.md explains each at length."""

    name: Literal["darc"] = "darc"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""
    experience: ExperienceConfig = field(
        default_factory=lambda: ExperienceConfig(num_envs=10, rollout_length=100)
    )
    """How experience is collected, kept and drawn; `prior` is the share of real steps."""
    correction: float = 1.0
    """Weight η of the correction, at least 0; 0 is SAC."""
    real_steps: bool = False
    """Whether SAC learns from real steps, too: DARC+."""
    discriminator: MLPConfig = field(default_factory=lambda: MLPConfig((256, 256), "relu"))
    """The hidden layers of each discriminator. Released code: one of 32."""
    discriminator_learning_rate: float = 3e-4
    """Adam step size of the discriminators, above 0."""
    noise: float = 0.1
    """Deviation of the noise on what the discriminators learn from, at least 0. Its code: 1."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.discriminator_learning_rate
        require(0 < rate < math.inf, "discriminator_learning_rate", rate, "above 0")
        for name in ("correction", "noise"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0")
        dynamics_gap.require_both(self.experience, batch_spec(self))


class DARCState(SACState):
    """Everything DARC learns; `params` is what acting needs."""

    discriminators: Params
    discriminator_opt: Any


def networks(config: DARCConfig, spec: Spec) -> Networks:
    """Return the networks for an environment.

    Raises:
        UserError: if DARC cannot serve the environment's spaces.
    """
    return Networks(*sac.networks(config, spec), dynamics_gap.discriminators_of(config, spec))


def init(config: DARCConfig, spec: Spec, key: Key) -> DARCState:
    """Return the state before the first update."""
    sac_key, key = jax.random.split(key)
    state = sac.init(config, spec, sac_key)
    weights = dynamics_gap.init(config, spec, key)
    hyper = {name: jnp.float32(getattr(config, name)) for name in SWEPT}
    return DARCState(
        **vars(state.replace(hyper=hyper)),
        discriminators=weights,
        discriminator_opt=dynamics_gap.optimizer(config, hyper).init(weights),
    )


# --- Learning ---------------------------------------------------------------------------------


def update(
    config: DARCConfig, spec: Spec, state: DARCState, batches: Trajectory
) -> tuple[DARCState, Metrics]:
    """Make an update of SAC, then a step of the discriminators.

    Args:
        batches: windows `[2, T, B, ...]`, in each of which the real ones come first. SAC learns
            from the simulated windows of both; with `real_steps` from the first, whole.
    """
    share = batch_spec(config).offline
    if config.real_steps:
        batch = jax.tree.map(lambda x: x[0], batches)
    else:
        simulated = jax.vmap(partial(columns, chosen=slice(share, None)))(batches)
        batch = side_by_side(simulated)
    ratio_of, next_obs = dynamics_gap.log_ratios(config, spec, state, batch)
    of_simulator = batch.step.extras["source"] == 1
    change = jnp.where(of_simulator, -ratio_of(next_obs), 0)
    correction = state.hyper["correction"] * change
    state, metrics = sac.update(config, spec, state, batch, correction)  # ty: ignore[invalid-assignment]
    metrics["simulator/correction"] = masked_mean(change, batch.mask & of_simulator)

    key, noise_key = jax.random.split(state.key)
    before = state.discriminators, state.discriminator_opt
    (weights, opt_state), judged = dynamics_gap.step(
        config, spec, state.hyper, before, state.params, side_by_side(batches), noise_key
    )
    state = state.replace(discriminators=weights, discriminator_opt=opt_state, key=key)
    return state, metrics | judged


def batch_spec(config: DARCConfig) -> Windows:
    """Return what the loop must supply: two batches per update."""
    experience = replace(config.experience, update_ratio=2 * config.experience.update_ratio)
    return wish(experience, memory=has_memory(config.core), stack=2, both=True)


# "small" is ours, for tasks the size of Pendulum.
_SMALL = DARCConfig(
    actor=MLPConfig((64, 64), "relu"),
    critic=MLPConfig((64, 64), "relu"),
    discriminator=MLPConfig((64, 64), "relu"),
    experience=ExperienceConfig(num_envs=10, rollout_length=10, capacity=100_000),
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    temperature_learning_rate=1e-3,
    discriminator_learning_rate=1e-3,
)
PRESETS: dict[str, DARCConfig] = {
    "default": DARCConfig(),
    "plus": DARCConfig(real_steps=True),
    "paper": DARCConfig(
        discriminator=MLPConfig((32,), "relu"),
        noise=1.0,
        experience=ExperienceConfig(
            num_envs=10, rollout_length=100, warmup=10_000, reward_scale=0.1
        ),
    ),
    "small": _SMALL,
    "small-plus": replace(_SMALL, real_steps=True),
}
