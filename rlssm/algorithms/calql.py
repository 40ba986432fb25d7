"""Calibrated Q-learning: CQL that never pushes a policy's value below what the data earned.

Source: Nakamoto et al. 2023, "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online
Fine-Tuning" (arXiv 2303.05479), section 5; the released JAX code and CORL's version of it. Parent:
`rlssm.algorithms.cql`, which has the equations and all the code. The one difference: with
G_t = Σ_i γ^i r_{t+i} until the episode ends, of rewards as the learner sees them,

    max(Q_k(h_t, a_i), G_t)   takes the place of   Q_k(h_t, a_i)

in the soft maximum S_k, for the 2n proposals a_i of the policy; not for the uniform ones, nor for
the stored action.

In the online phase the agent's own steps have no G and stay uncalibrated, while the dataset's half
of each batch keeps it: the released code takes returns of finished episodes online too, CORL's
switches the calibration off altogether.

Departure: an episode that was cut off counts what it earned until then. The released code gives
episodes of sparse tasks that never succeed G = r_negative / (1 - γ) at every step instead.
Measured scores: docs/calql.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

from rlssm.algorithms import cql
from rlssm.algorithms.cql import CQLConfig, CQLState, act, init, networks, update
from rlssm.data.mixing import ExperienceConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.types import Windows

__all__ = [
    "PRESETS", "SWEPT", "CalQLConfig", "CalQLState", "act", "batch_spec", "init", "networks",
    "update",
]  # fmt: skip

SWEPT = tuple(name for name in cql.SWEPT if name != "discount")  # which G depends on

CalQLState = CQLState


@dataclass(frozen=True)
class CalQLConfig(CQLConfig):
    """Hyper-parameters of Cal-QL, those of CQL; docs/calql.md gives what is published for it."""

    name: Literal["calql"] = "calql"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""
    learning_rate: float = 1e-4
    """Adam step size of the actor, above 0."""
    temperature_learning_rate: float = 1e-4
    """Adam step size of the log temperature, at least 0; 0 keeps it."""
    cql_alpha: float = 5.0
    """Weight of the conservative term, at least 0; 0 is SAC."""
    max_target_backup: bool = True
    """Whether the target is of the best of `cql_actions` next actions."""
    normalize_obs: bool = False
    """Whether observations are standardised by the dataset's mean and standard deviation."""

    @property
    def swept(self) -> tuple[str, ...]:
        """The scalars that a sweep may vary within one compiled program."""
        return SWEPT


def batch_spec(config: CalQLConfig) -> Windows:
    """Return what the loop must supply."""
    return replace(cql.batch_spec(config), returns=config.discount)


_ANTMAZE = CalQLConfig(
    critic=MLPConfig((256,) * 4, "relu"),
    experience=ExperienceConfig(reward_scale=10.0, reward_shift=-5.0),
    lagrange_gap=0.8,
)
_CLONED = CalQLConfig(cql_alpha=1.0, clip_min=-200.0)
_BINARY = CalQLConfig(
    actor=MLPConfig((512, 512), "relu"),
    critic=MLPConfig((512,) * 3, "relu"),
    experience=ExperienceConfig(reward_scale=10.0, reward_shift=5.0),
    cql_alpha=1.0,
)

# "antmaze" and "adroit-binary" are the authors' settings, the others those of CORL.
PRESETS: dict[str, CalQLConfig] = {
    "default": CalQLConfig(),
    "antmaze": _ANTMAZE,
    "antmaze-corl": replace(_ANTMAZE, critic=MLPConfig((256,) * 5, "relu"), clip_min=-200.0),
    "adroit-binary": _BINARY,
    "adroit-cloned": _CLONED,
}
