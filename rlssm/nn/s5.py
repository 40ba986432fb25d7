"""S5: a diagonal state space, discretised with a learned step and scanned with resets."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from rlssm.errors import UserError, require
from rlssm.kernels import discretize, hippo
from rlssm.kernels.linear_scan import linear_scan
from rlssm.kernels.pair import Pair
from rlssm.nn.blocks import Gate, Norm, project_in, project_out, zero_state
from rlssm.nn.mlp import Precision, require_choices
from rlssm.types import Key

Stability = Literal["none", "clip", "exp", "softplus"]

MAX_REAL_PART = -1e-4
"""The bound of stability "clip". Source: lindermanlab/S5, `clip_eigs`."""


@dataclass(frozen=True)
class S5Config:
    """Simplified structured state space layers in residual blocks.

    popjaxrl's agent: 4 layers, state_size 256 and 256 features, c_init lecun_normal, norm none.

    The output matrix starts normal with variance 1 / state_size (truncated_normal, as each of its
    rows has that fan-in), with variance 1 / (features * state_size) (lecun_normal, which takes
    the whole array for one row's fan-in, so that a layer starts close to its skip D * u), or with
    variance 1 and without the change of basis (complex_normal).
    """

    name: Literal["s5"] = "s5"
    """Kind of core."""
    layers: int = 2
    """Number of residual blocks, at least 1. popjaxrl: 4."""
    state_size: int = 64
    """Real size of a layer's state over all blocks, a multiple of 2 * blocks. popjaxrl: 256."""
    blocks: int = 1
    """Number of equal systems that make up the state, at least 1. popjaxrl: 1; S5: 3 to 16."""
    init: Literal[
        "legs",
        "legs-ptd",
        "legt",
        "fout",
        "foud",
        "s4d-lin",
        "s4d-inv",
        "s4d-quad",
        "s4d-real",
    ] = "legs"
    """Eigenvalues at the start. S5: legs, the normal part of HiPPO-LegS."""
    discretization: Literal["zoh", "bilinear"] = "zoh"
    """From continuous to discrete time. S5: zoh; R2I: bilinear."""
    dt_min: float = 1e-3
    """Least step at the start, above 0; about 1 / the longest dependency in steps. S5."""
    dt_max: float = 1e-1
    """Greatest step at the start, at least dt_min; about 1 / the shortest dependency. S5."""
    conj_sym: bool = True
    """Whether one state of each conjugate pair is kept, half of state_size. S5: yes; R2I: no."""
    c_init: Literal["truncated_normal", "lecun_normal", "complex_normal"] = "truncated_normal"
    """Output matrix at the start, explained above. S5: truncated_normal; popjaxrl: lecun_normal."""
    gate: Gate = "full_glu"
    """Nonlinearity after the recurrence. popjaxrl: full_glu; S5: half_glu1."""
    norm: Norm = "pre"
    """Where a LayerNorm stands in a block. popjaxrl's published runs: none; S5: pre."""
    inner_norm: bool = False
    """Whether a LayerNorm stands between recurrence and nonlinearity. popjaxrl: no."""
    stability: Stability = "none"
    """How Re(Lambda) is kept below 0: not, clipped at -1e-4, or as -exp(p) or -softplus(p)."""
    step_rescale: float = 1.0
    """Factor of every step, above 0; 2 runs a trained core at half its sampling rate. S5: 1."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How the recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        require(self.layers >= 1, "core.layers", self.layers, "at least 1")
        require(self.blocks >= 1, "core.blocks", self.blocks, "at least 1")
        unit = 2 * self.blocks
        if self.state_size < 1 or self.state_size % unit:
            nearest = unit * max(1, round(self.state_size / unit))
            raise UserError(
                f"core.state_size must be a multiple of 2 * core.blocks = {unit} because "
                f"eigenvalues come in pairs, got {self.state_size}; use {nearest}"
            )
        require(0 < self.dt_min <= self.dt_max, "core.dt_min", self.dt_min, "in (0, dt_max]")
        require(self.step_rescale > 0, "core.step_rescale", self.step_rescale, "above 0")

    @property
    def stored_states(self) -> int:
        """Complex states P of one layer."""
        return self.state_size // 2 if self.conj_sym else self.state_size


class S5(nn.Module):
    """One S5 layer: a multi-input, multi-output system whose states all features share.

        x'(t) = Lambda x(t) + B u(t),    y(t) = c Re(C x(t)) + D * u(t),

    discretised with a step exp(log_step) per state; c is 2 where conjugates are left out and 1
    otherwise. Parameters, all real: `Lambda_re, Lambda_im, log_step [P]`, `B [P, H, 2]` and
    `C [H, P, 2]` (last axis: real, imaginary), `D [H]`. `Lambda_re` is stored as `stability`
    says. The carry is x, `[B, P]`.

    Source: "Simplified State Space Layers for Sequence Modeling" (arXiv 2208.04933), sections 3
    and 4; names and initial values from lindermanlab/S5, `s5/ssm.py`.
    """

    config: S5Config
    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Pair:
        return zero_state(batch, self.config.stored_states)

    @nn.compact
    def __call__(
        self, carry: Pair, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Pair, Float[Array, "T B H"]]:
        config, H, P = self.config, self.features, self.config.stored_states
        Lambda_re = self.param("Lambda_re", _init_lambda_re, config)
        Lambda_im = self.param("Lambda_im", _init_lambda_im, config)
        log_step = self.param(
            "log_step", discretize.init_log_step, (P,), config.dt_min, config.dt_max
        )
        B = _as_pair(self.param("B", _init_b, config, H))
        C = _as_pair(self.param("C", _init_c, config, H))
        D = self.param("D", nn.initializers.normal(1.0), (H,))

        Lambda = Pair(_real_part(Lambda_re, config.stability), Lambda_im)
        step = config.step_rescale * jnp.exp(log_step)
        decay, gain = DISCRETIZATIONS[config.discretization](Lambda, step)
        b = project_in(_scale_rows(gain, B), u, self.precision)
        carry, x = linear_scan(decay, b, reset, carry, implementation=config.scan)
        y = project_out(C, x, self.precision)
        return carry, (2 * y if config.conj_sym else y) + D * u


DISCRETIZATIONS = {"zoh": discretize.zoh, "bilinear": discretize.bilinear}


def _as_pair(stored: Float[Array, "*any 2"]) -> Pair:
    return Pair(stored[..., 0], stored[..., 1])


def _scale_rows(scale: Pair, matrix: Pair) -> Pair:
    re, im = scale.re[:, None], scale.im[:, None]
    return Pair(re * matrix.re - im * matrix.im, re * matrix.im + im * matrix.re)


def _real_part(stored: Float[Array, " P"], stability: Stability) -> Float[Array, " P"]:
    match stability:
        case "none":
            return stored
        case "clip":
            return jnp.minimum(stored, MAX_REAL_PART)
        case "exp":
            return -jnp.exp(stored)
        case "softplus":
            return -nn.softplus(stored)


# --- Initial values ---------------------------------------------------------------------------

# Linen evaluates initialisers, abstractly, each time it traces a layer.
_system = cache(hippo.initial_system)


def _initial(config: S5Config) -> hippo.System:
    return _system(config.init, config.state_size, config.blocks, conj_sym=config.conj_sym)


def _init_lambda_re(key: Key, config: S5Config) -> Float[Array, " P"]:
    real = _initial(config).eigenvalues.real
    match config.stability:
        case "exp":
            real = np.log(-real)
        case "softplus":
            real = np.log(np.expm1(-real))
    return jnp.asarray(real, jnp.float32)


def _init_lambda_im(key: Key, config: S5Config) -> Float[Array, " P"]:
    return _float32(_initial(config).eigenvalues).im


def _init_b(key: Key, config: S5Config, features: int) -> Float[Array, "P H 2"]:
    """Return V^-1 B with B `[N, H]` normal of variance 1 / N."""
    B = nn.initializers.lecun_normal()(key, (config.state_size, features))
    inverse = _float32(_initial(config).inverse)
    return jnp.stack([_matmul(inverse.re, B), _matmul(inverse.im, B)], axis=-1)


def _init_c(key: Key, config: S5Config, features: int) -> Float[Array, "H P 2"]:
    """Return C V with C `[H, N]` complex, or C `[H, P]` itself for `complex_normal`."""
    if config.c_init == "complex_normal":
        return nn.initializers.normal(0.5**0.5)(key, (features, config.stored_states, 2))
    if config.c_init == "truncated_normal":
        draw = nn.initializers.lecun_normal(batch_axis=0)  # each output's row on its own
    else:
        draw = nn.initializers.lecun_normal()
    C = _as_pair(draw(key, (features, config.state_size, 2)))
    V = _float32(_initial(config).vectors)
    re = _matmul(C.re, V.re) - _matmul(C.im, V.im)
    im = _matmul(C.re, V.im) + _matmul(C.im, V.re)
    return jnp.stack([re, im], axis=-1)


_matmul = partial(jnp.matmul, precision="highest")


def _float32(z: np.ndarray) -> Pair:
    return Pair(jnp.asarray(z.real, jnp.float32), jnp.asarray(z.imag, jnp.float32))
