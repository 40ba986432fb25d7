"""Fast and forgetful memory: traces of what was let in, that fade and turn at learned speeds."""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels.linear_scan import linear_scan
from rlssm.kernels.pair import Pair
from rlssm.nn.mlp import Precision, require_choices
from rlssm.types import Key

# Rates of decay and greatest period in steps at the start. Source: proroklab/memory-monoids.
SLOWEST, FASTEST, LONGEST = 1e-6, 0.5, 1000.0


@dataclass(frozen=True)
class FFMConfig:
    """Fast and forgetful memory: decaying, turning sums of gated inputs, gated when read.

    A rollout keeps `2 * traces * contexts` numbers for each step of each layer.
    """

    name: Literal["ffm"] = "ffm"
    """Kind of core."""
    layers: int = 1
    """Number of layers, at least 1. Memoroids paper: 1."""
    traces: int = 32
    """Inputs that are remembered, each with a decay of its own, at least 1. FFM's m."""
    contexts: int = 4
    """Frequencies under which each of them is remembered, at least 1. FFM's c."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How the recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        for name in ("layers", "traces", "contexts"):
            require(getattr(self, name) >= 1, f"core.{name}", getattr(self, name), "at least 1")


class FFM(nn.Module):
    """One layer of fast and forgetful memory; with s = sigmoid, all W with biases,

        S_t = S_{t-1} * exp(-|alpha_j| + i omega_k) + (W_1 u_t)_j s(W_2 u_t)_j,
        y = norm(W_3 [Re S, Im S]) * s(W_4 u) + (W_5 u) * (1 - s(W_4 u)),

    where norm is a LayerNorm without gains. The carry is S, `[B, traces, contexts]`.

    Source: "Reinforcement Learning with Fast and Forgetful Memory" (arXiv 2310.04128), as a
    recurrence, where its code multiplies by powers of the decay, which overflow.
    """

    config: FFMConfig
    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Pair:
        shape = (batch, self.config.traces, self.config.contexts)
        re, im = (jnp.zeros(shape, jnp.float32) for _ in range(2))  # may be donated: no sharing
        return Pair(re, im)

    @nn.compact
    def __call__(
        self, carry: Pair, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Pair, Float[Array, "T B H"]]:
        config = self.config

        def dense(name: str, size: int, v: Array) -> Array:
            return nn.Dense(size, precision=self.precision, name=name)(v)

        alpha = self.param("alpha", _init_alpha, config.traces)
        omega = self.param("omega", _init_omega, config.contexts)
        modulus = jnp.exp(-jnp.abs(alpha))[:, None]
        decay = Pair(modulus * jnp.cos(omega), modulus * jnp.sin(omega))

        added = dense("added", config.traces, u) * nn.sigmoid(dense("added_gate", config.traces, u))
        added = jnp.broadcast_to(added[..., None], (*added.shape, config.contexts))
        b = Pair(added, jnp.zeros_like(added))
        carry, traces = linear_scan(decay, b, reset, carry, implementation=config.scan)

        seen = jnp.concatenate([part.reshape(*reset.shape, -1) for part in traces], axis=-1)
        read = nn.LayerNorm(use_bias=False, use_scale=False)(dense("read", self.features, seen))
        gate = nn.sigmoid(dense("gate", self.features, u))
        return carry, read * gate + dense("skip", self.features, u) * (1 - gate)


def _init_alpha(key: Key, traces: int) -> Float[Array, " m"]:
    return jnp.linspace(SLOWEST, FASTEST, traces, dtype=jnp.float32)


def _init_omega(key: Key, contexts: int) -> Float[Array, " c"]:
    return 2 * math.pi / jnp.linspace(1.0, LONGEST, contexts, dtype=jnp.float32)
