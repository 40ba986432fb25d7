"""The linear recurrent unit: a diagonal complex recurrence parameterised in discrete time."""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels.hippo import lru_initial
from rlssm.kernels.linear_scan import linear_scan
from rlssm.kernels.pair import Pair
from rlssm.nn.blocks import Gate, Norm, project_in, project_out, zero_state
from rlssm.nn.mlp import Precision, require_choices
from rlssm.types import Key


@dataclass(frozen=True)
class LRUConfig:
    """Linear recurrent unit in residual blocks; stable by construction."""

    name: Literal["lru"] = "lru"
    """Kind of core."""
    layers: int = 2
    """Number of residual blocks, at least 1. LRU paper: 6."""
    state_size: int = 64
    """Complex states P of a layer, at least 1. LRU paper: 128 to 384."""
    r_min: float = 0.0
    """Least |lambda| at the start, in [0, r_max). LRU paper: 0 to 0.9; 0.9 for long memory."""
    r_max: float = 1.0
    """Greatest |lambda| at the start, in (r_min, 1]. LRU paper: 0.99 to 1."""
    max_phase: float = 2 * math.pi
    """Greatest phase of lambda at the start in radians per step, in (0, 2 pi]. LRU paper."""
    gate: Gate = "full_glu"
    """Nonlinearity after the recurrence. LRU paper: full_glu."""
    norm: Norm = "pre"
    """Where a LayerNorm stands in a block. LRU paper: pre (BatchNorm or LayerNorm)."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How the recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        require(self.layers >= 1, "core.layers", self.layers, "at least 1")
        require(self.state_size >= 1, "core.state_size", self.state_size, "at least 1")
        require(0 <= self.r_min < self.r_max, "core.r_min", self.r_min, "in [0, r_max)")
        require(self.r_max <= 1, "core.r_max", self.r_max, "in (r_min, 1]")
        good_phase = 0 < self.max_phase <= 2 * math.pi
        require(good_phase, "core.max_phase", self.max_phase, "in (0, 2 pi]")


class LRU(nn.Module):
    """One LRU layer: a diagonal complex recurrence that no parameter can make unstable.

        x_t = lambda * x_{t-1} + exp(gamma) * (B u_t),    y_t = Re(C x_t) + D * u_t,
        lambda = exp(-exp(nu) + i exp(theta))

    Parameters, all real: `nu, theta, gamma [P]`, `B [P, H, 2]` and `C [H, P, 2]` (last axis: real,
    imaginary), `D [H]`. The carry is x, `[B, P]`.

    Source: "Resurrecting Recurrent Neural Networks for Long Sequences" (arXiv 2303.06349),
    section 3 and appendix A.
    """

    config: LRUConfig
    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Pair:
        return zero_state(batch, self.config.state_size)

    @nn.compact
    def __call__(
        self, carry: Pair, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Pair, Float[Array, "T B H"]]:
        config, H, P = self.config, self.features, self.config.state_size
        ring = self.param("ring", _init_ring, config)
        nu, theta, gamma = ring["nu"], ring["theta"], ring["gamma"]
        B = self.param("B", nn.initializers.normal((2 * H) ** -0.5), (P, H, 2))
        C = self.param("C", nn.initializers.normal(P**-0.5), (H, P, 2))
        D = self.param("D", nn.initializers.normal(1.0), (H,))

        modulus, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
        decay = Pair(modulus * jnp.cos(phase), modulus * jnp.sin(phase))
        B = jnp.exp(gamma)[:, None, None] * B
        b = project_in(Pair(B[..., 0], B[..., 1]), u, self.precision)
        carry, x = linear_scan(decay, b, reset, carry, implementation=config.scan)
        return carry, project_out(Pair(C[..., 0], C[..., 1]), x, self.precision) + D * u


def _init_ring(key: Key, config: LRUConfig) -> dict[str, Array]:
    limits = config.r_min, config.r_max, config.max_phase
    return lru_initial(key, config.state_size, *limits)._asdict()
