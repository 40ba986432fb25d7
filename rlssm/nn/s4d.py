"""S4D: a diagonal state space of its own for every feature."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels import discretize, hippo
from rlssm.kernels.linear_scan import linear_scan
from rlssm.kernels.pair import Pair, mul
from rlssm.nn.blocks import Gate, Norm
from rlssm.nn.mlp import Precision, require_choices
from rlssm.types import Key


@dataclass(frozen=True)
class S4DConfig:
    """Diagonal state spaces with one input and one output each, in residual blocks.

    Memory holds `state_size / 2` complex numbers for each feature, and a rollout as many for each
    step: at equal width that is far more than S5's.
    """

    name: Literal["s4d"] = "s4d"
    """Kind of core."""
    layers: int = 2
    """Number of residual blocks, at least 1. S4D paper: 4 to 6."""
    state_size: int = 16
    """Real size of the state of one feature, even, at least 2. S4D paper: 64."""
    init: Literal["s4d-lin", "s4d-inv", "s4d-quad", "legs"] = "s4d-lin"
    """Eigenvalues at the start, the same for every feature. S4D paper: s4d-inv, s4d-lin or legs."""
    dt_min: float = 1e-3
    """Least step at the start, above 0; about 1 / the longest dependency in steps. S4D paper."""
    dt_max: float = 1e-1
    """Greatest step at the start, at least dt_min; about 1 / the shortest dependency. S4D paper."""
    gate: Gate = "full_glu"
    """Nonlinearity after the recurrence, the only place where features mix. S4D paper: a GLU."""
    norm: Norm = "pre"
    """Where a LayerNorm stands in a block."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How the recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        require(self.layers >= 1, "core.layers", self.layers, "at least 1")
        even = self.state_size >= 2 and self.state_size % 2 == 0
        require(even, "core.state_size", self.state_size, "even and at least 2")
        require(0 < self.dt_min <= self.dt_max, "core.dt_min", self.dt_min, "in (0, dt_max]")


class S4D(nn.Module):
    """One S4D layer: for each feature h, with a step exp(log_step_h) and zero-order hold,

        x_h'(t) = Lambda_h x_h(t) + u_h(t),    y_h(t) = 2 Re(C_h . x_h(t)) + D_h u_h(t),

    where the real part of Lambda is -exp(Lambda_re). B is one, since C can do what it would. The
    parameters, all real: `Lambda_re, Lambda_im [H, P]`, `log_step, D [H]` and `C [H, P, 2]` (real,
    imaginary). The carry is x, `[B, H, P]`.

    Source: "On the Parameterization and Initialization of Diagonal State Space Models" (arXiv
    2206.11893), sections 3 and 4.
    """

    config: S4DConfig
    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Pair:
        shape = (batch, self.features, self.config.state_size // 2)
        re, im = (jnp.zeros(shape, jnp.float32) for _ in range(2))  # may be donated: no sharing
        return Pair(re, im)

    @nn.compact
    def __call__(
        self, carry: Pair, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Pair, Float[Array, "T B H"]]:
        config, H, P = self.config, self.features, self.config.state_size // 2
        Lambda_re = self.param("Lambda_re", _init_lambda, config, H, True)
        Lambda_im = self.param("Lambda_im", _init_lambda, config, H, False)
        log_step = self.param(
            "log_step", discretize.init_log_step, (H,), config.dt_min, config.dt_max
        )
        C = self.param("C", nn.initializers.normal(0.5**0.5), (H, P, 2))
        D = self.param("D", nn.initializers.normal(1.0), (H,))

        Lambda = Pair(-jnp.exp(Lambda_re), Lambda_im)
        decay, gain = discretize.zoh(Lambda, jnp.exp(log_step)[:, None])
        b = Pair(*(part * u[..., None] for part in gain))
        carry, x = linear_scan(decay, b, reset, carry, implementation=config.scan)
        y = 2 * jnp.sum(mul(Pair(C[..., 0], C[..., 1]), x).re, -1)
        return carry, y + D * u


_system = cache(hippo.initial_system)  # linen evaluates initialisers each time it traces a layer


def _init_lambda(key: Key, config: S4DConfig, features: int, real: bool) -> Float[Array, "H P"]:
    """Return log(-Re) or Im of the initial eigenvalues for every feature."""
    values = _system(config.init, config.state_size).eigenvalues
    row = jnp.log(-values.real) if real else values.imag
    return jnp.tile(jnp.asarray(row, jnp.float32), (features, 1))
