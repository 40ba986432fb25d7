"""Gated recurrent cores: GRU and LSTM, step by step, and minGRU, a linear scan.

In all of them the state is as wide as the features, and the products with the inputs are taken
for all steps at once before time is walked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels.linear_scan import linear_scan
from rlssm.nn.mlp import Precision, orthogonal, require_choices


@dataclass(frozen=True)
class GRUConfig:
    """Gated recurrent unit: one step after another, each layer fed by the one before."""

    name: Literal["gru"] = "gru"
    """Kind of core."""
    layers: int = 1
    """Number of layers, at least 1. popjaxrl's GRU agent: 1 (of width 256)."""

    def __post_init__(self) -> None:
        require(self.layers >= 1, "core.layers", self.layers, "at least 1")


@dataclass(frozen=True)
class LSTMConfig:
    """Long short-term memory: one step after another, each layer fed by the one before."""

    name: Literal["lstm"] = "lstm"
    """Kind of core."""
    layers: int = 1
    """Number of layers, at least 1. R2D2: 1 (of width 512)."""

    def __post_init__(self) -> None:
        require(self.layers >= 1, "core.layers", self.layers, "at least 1")


@dataclass(frozen=True)
class MinGRUConfig:
    """Minimal GRU: gates read the input alone, so that time is a linear scan; residual layers."""

    name: Literal["mingru"] = "mingru"
    """Kind of core."""
    layers: int = 2
    """Number of residual layers, at least 1. "Were RNNs All We Needed?": 3."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How the recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        require(self.layers >= 1, "core.layers", self.layers, "at least 1")


class GRU(nn.Module):
    """One GRU layer.

    r = sigmoid(W_r x + U_r h), z = sigmoid(W_z x + U_z h), n = tanh(W_n x + r * (U_n h + c)),
    h' = (1 - z) * n + z * h, with biases in W.

    Source: "Learning Phrase Representations using RNN Encoder-Decoder" (arXiv 1406.1078), with
    the reset gate after the product, as in cuDNN and flax.
    """

    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Float[Array, "B H"]:
        return jnp.zeros((batch, self.features), jnp.float32)

    @nn.compact
    def __call__(
        self, carry: Float[Array, "B H"], x: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "B H"], Float[Array, "T B H"]]:
        gates = nn.Dense(3 * self.features, precision=self.precision, name="input")(x)
        kernel = self.param("recurrent", _orthogonal_gates, (self.features, 3 * self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))

        def step(h: Array, gates: Array) -> tuple[Array, Array]:
            r_x, z_x, n_x = jnp.split(gates, 3, axis=-1)
            recurrent = jnp.matmul(h, kernel, precision=self.precision)
            r_h, z_h, n_h = jnp.split(recurrent, 3, axis=-1)
            r, z = nn.sigmoid(r_x + r_h), nn.sigmoid(z_x + z_h)
            h = (1 - z) * jnp.tanh(n_x + r * (n_h + bias)) + z * h
            return h, h

        return _walk(step, carry, gates, reset)


class LSTMState(NamedTuple):
    """Output h and cell c, `[B, H]`."""

    h: Float[Array, "B H"]
    c: Float[Array, "B H"]


class LSTM(nn.Module):
    """One LSTM layer; the bias of the forget gate starts at 1.

    i, f, o = sigmoid(W x + U h), g = tanh(W_g x + U_g h), c' = f * c + i * g, h' = o * tanh(c').

    Source: "Learning to Forget" (Gers et al., 2000); the bias from "An Empirical Exploration of
    Recurrent Network Architectures" (Jozefowicz et al., 2015).
    """

    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> LSTMState:
        h, c = (jnp.zeros((batch, self.features), jnp.float32) for _ in range(2))
        return LSTMState(h, c)

    @nn.compact
    def __call__(
        self, carry: LSTMState, x: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[LSTMState, Float[Array, "T B H"]]:
        width = 4 * self.features
        project = nn.Dense(
            width, bias_init=_open_forget_gate, precision=self.precision, name="input"
        )
        gates = project(x)
        kernel = self.param("recurrent", _orthogonal_gates, (self.features, width))

        def step(state: LSTMState, gates: Array) -> tuple[LSTMState, Array]:
            gates = gates + jnp.matmul(state.h, kernel, precision=self.precision)
            i, f, o, g = jnp.split(gates, 4, axis=-1)
            c = nn.sigmoid(f) * state.c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return LSTMState(h, c), h

        return _walk(step, carry, gates, reset)


class MinGRU(nn.Module):
    """One minimal GRU layer between a LayerNorm and a residual connection.

    u = norm(x), z = sigmoid(W_z u), h_t = (1 - z_t) * h_{t-1} + z_t * (W_h u_t), y = x + h, with
    biases in both W.

    Source: "Were RNNs All We Needed?" (arXiv 2410.01201), section 3.1.2.
    """

    config: MinGRUConfig
    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Float[Array, "B H"]:
        return jnp.zeros((batch, self.features), jnp.float32)

    @nn.compact
    def __call__(
        self, carry: Float[Array, "B H"], x: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "B H"], Float[Array, "T B H"]]:
        u = nn.LayerNorm(name="norm")(x)
        gate = nn.Dense(self.features, precision=self.precision, name="gate")(u)
        candidate = nn.Dense(self.features, precision=self.precision, name="candidate")(u)
        b = nn.sigmoid(gate) * candidate
        scan = self.config.scan
        carry, h = linear_scan(nn.sigmoid(-gate), b, reset, carry, implementation=scan)
        return carry, x + h


def _walk(
    step: Callable[[Any, Array], tuple[Any, Array]], carry: Any, gates: Array, reset: Array
) -> tuple[Any, Array]:
    """Run `step` over time with the state cleared first where `reset` says so."""

    def cleared_step(state: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
        gates_t, reset_t = inputs
        return step(jax.tree.map(lambda s: jnp.where(reset_t[:, None], 0, s), state), gates_t)

    if len(reset) == 1:  # acting: no loop around a single step
        carry, y = cleared_step(carry, (gates[0], reset[0]))
        return carry, y[None]
    return lax.scan(cleared_step, carry, (gates, reset))


def _orthogonal_gates(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Draw an orthogonal `[H, H]` matrix per gate and join them to `[H, gates * H]`."""
    size, joined = shape
    draw = orthogonal()
    keys = jax.random.split(key, joined // size)
    matrices = jax.vmap(lambda key: draw(key, (size, size), dtype))(keys)
    return jnp.moveaxis(matrices, 0, 1).reshape(shape)


def _open_forget_gate(key: Array, shape: tuple[int], dtype: Any = jnp.float32) -> Array:
    """Return the bias of the gates i, f, o, g: 1 for f, 0 for the others."""
    size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[size : 2 * size].set(1)
