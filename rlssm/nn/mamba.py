"""Mamba: a state space for every channel whose step, input and output depend on what is read."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels import discretize
from rlssm.kernels.linear_scan import linear_scan
from rlssm.nn.blocks import since_reset
from rlssm.nn.mlp import Precision, require_choices
from rlssm.types import Key

FEATURES_PER_RANK = 16  # features H over the rank of the map to the steps. Mamba: the same


@dataclass(frozen=True)
class MambaConfig:
    """Selective state spaces behind a short convolution, in residual blocks.

    What to keep is decided from the input, step by step. A rollout keeps `expand * features *
    state_size` numbers and their decays for each step of each layer: far more than S5.
    """

    name: Literal["mamba"] = "mamba"
    """Kind of core."""
    layers: int = 2
    """Number of residual blocks, at least 1. Mamba: 24 and more."""
    state_size: int = 16
    """States N of one channel, real, at least 1. Mamba: 16."""
    expand: int = 2
    """Channels over features, at least 1. Mamba: 2."""
    convolution: int = 4
    """Steps that the convolution reads, its own included, at least 2. Mamba: 4."""
    dt_min: float = 1e-3
    """Least step at the start, above 0. Mamba."""
    dt_max: float = 1e-1
    """Greatest step at the start, at least dt_min. Mamba."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How the recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        for name, least in (("layers", 1), ("state_size", 1), ("expand", 1), ("convolution", 2)):
            value = getattr(self, name)
            require(value >= least, f"core.{name}", value, f"at least {least}")
        require(0 < self.dt_min <= self.dt_max, "core.dt_min", self.dt_min, "in (0, dt_max]")


class MambaState(NamedTuple):
    """What the convolution read last, oldest first, and the states."""

    recent: Float[Array, "B K E"]
    x: Float[Array, "B E N"]


class Mamba(nn.Module):
    """One Mamba layer between a LayerNorm and a residual connection.

        v, z = split(W_in norm(u)),    v = silu(conv(v)),    y = u + W_out (s6(v) * silu(z)),
        x_t = exp(d_t Lambda) * x_{t-1} + (d_t * v_t) B_t^T,    s6_t = x_t C_t + D * v_t,
        B_t = W_B v_t,    C_t = W_C v_t,    d_t = softplus(W_up W_down v_t + b),

    with Lambda `[E, N]` = -exp(Lambda_re), the convolution apart for every channel, and Euler's
    step for the input, as in the released code, where the paper has a zero-order hold. A reset
    clears what the convolution reads as well.

    Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752),
    section 3, algorithm 2; initial Lambda, D and steps from state-spaces/mamba, `mamba_simple.py`.
    """

    config: MambaConfig
    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> MambaState:
        config, channels = self.config, self.config.expand * self.features
        recent = jnp.zeros((batch, config.convolution - 1, channels), jnp.float32)
        return MambaState(recent, jnp.zeros((batch, channels, config.state_size), jnp.float32))

    @nn.compact
    def __call__(
        self, carry: MambaState, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[MambaState, Float[Array, "T B H"]]:
        config, channels = self.config, self.config.expand * self.features

        def dense(name: str, size: int, **how: Any) -> nn.Dense:
            return nn.Dense(size, precision=self.precision, name=name, **how)

        inside = dense("input", 2 * channels, use_bias=False)(nn.LayerNorm(name="norm")(u))
        v, z = jnp.split(inside, 2, axis=-1)
        recent, v = self._convolve(carry.recent, v, reset)

        rank = math.ceil(self.features / FEATURES_PER_RANK)
        down = dense("step_down", rank, use_bias=False)(v)
        spread = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # within rank^-1/2
        step = dense("step", channels, kernel_init=spread, bias_init=_init_step(config))(down)
        step = nn.softplus(step)
        B = dense("B", config.state_size, use_bias=False)(v)
        C = dense("C", config.state_size, use_bias=False)(v)
        Lambda_re = self.param("Lambda_re", _init_lambda, (channels, config.state_size))
        D = self.param("D", nn.initializers.ones, (channels,))

        decay = jnp.exp(-jnp.exp(Lambda_re) * step[..., None])
        b = (step * v)[..., None] * B[..., None, :]
        last, x = linear_scan(decay, b, reset, carry.x, implementation=config.scan)
        y = jnp.einsum("tben,tbn->tbe", x, C, precision=self.precision) + D * v
        y = dense("output", self.features, use_bias=False)(y * nn.silu(z))
        return MambaState(recent, last), u + y

    def _convolve(self, recent: Array, v: Array, reset: Array) -> tuple[Array, Array]:
        """Return the last steps before the next, and silu of the convolution of each channel."""
        length, width = len(v), self.config.convolution
        spread = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", spread, (width, v.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (v.shape[-1],))
        since = since_reset(reset, width - 1)[..., None]
        steps = jnp.concatenate([jnp.swapaxes(recent, 0, 1), v])
        index = jnp.arange(len(steps))[:, None, None]
        total = bias + kernel[-1] * v
        for i in range(width - 1):
            tap = jnp.where(index[i : i + length] >= since, steps[i : i + length], 0)
            total = total + kernel[i] * tap
        kept = jnp.where(index[length:] >= since[-1], steps[length:], 0)
        return jnp.swapaxes(kept, 0, 1), nn.silu(total)


def _init_lambda(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Return log(1), ..., log(N) for every channel. Source: "S4D-Real", arXiv 2206.11893."""
    return jnp.tile(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), (shape[0], 1))


def _init_step(config: MambaConfig) -> Any:
    """Return the initialiser of b such that softplus(b) is log-uniform from dt_min to dt_max."""

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        step = jnp.exp(discretize.init_log_step(key, shape, config.dt_min, config.dt_max, dtype))
        return step + jnp.log(-jnp.expm1(-step))

    return init
