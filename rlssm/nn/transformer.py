"""A Transformer whose memory is a rolling cache of keys and values, and a join that is gated."""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.nn.attention import Attention, Cache
from rlssm.nn.mlp import Precision, require_choices

GATE_BIAS = 2.0  # against letting anything in at the start. GTrXL: the same


@dataclass(frozen=True)
class TransformerConfig:
    """Causal softmax attention to the last `context` steps since a reset, in gated blocks.

    Nothing older than `context` steps times `layers` can be known. Memory holds `2 * layers *
    context * heads * head_size` numbers for each environment, all of which every step of acting
    moves and reads; learning from T steps takes O(T (context + 256)) at most and O(T) in memory.
    """

    name: Literal["transformer"] = "transformer"
    """Kind of core."""
    layers: int = 2
    """Number of blocks, at least 1. GTrXL: 12."""
    heads: int = 4
    """Heads of attention in a block, at least 1. GTrXL: 8."""
    head_size: int = 32
    """Entries of a key, query or value of a head, even, at least 2. GTrXL: 64."""
    context: int = 128
    """Steps before the present one that are read, at least 1. GTrXL: 512."""
    expansion: int = 4
    """Width of the dense layer of a block over the features, at least 1. Transformer: 4."""
    join: Literal["gru", "sum"] = "gru"
    """How what a layer says joins what it was told. GTrXL: a GRU's gates; TrXL-I: their sum."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        for name in ("layers", "heads", "context", "expansion"):
            require(getattr(self, name) >= 1, f"core.{name}", getattr(self, name), "at least 1")
        even = self.head_size >= 2 and self.head_size % 2 == 0
        require(even, "core.head_size", self.head_size, "even and at least 2")


class TransformerBlock(nn.Module):
    """Attention, then two dense layers, each after a LayerNorm and joined to what it was given.

        y = join(x, relu(attention(norm(x)))),    join(y, relu(W2 relu(W1 norm(y) + b1) + b2))

    with join(x, y) = x + y or, as `GatedJoin` says, through gates.

    Source: "Stabilizing Transformers for Reinforcement Learning" (GTrXL, arXiv 1910.06764),
    section 3, with rotary positions in place of Transformer-XL's and keys and values in the cache
    in place of features.
    """

    memory: Attention
    config: TransformerConfig
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Cache:
        return self.memory.initial_carry(batch)

    @nn.compact
    def __call__(
        self, carry: Cache, x: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Cache, Float[Array, "T B H"]]:
        features = x.shape[-1]

        def join(name: str, x: Array, y: Array) -> Array:
            if self.config.join == "sum":
                return x + nn.relu(y)
            return GatedJoin(self.precision, name=name)(x, nn.relu(y))

        carry, y = self.memory(carry, nn.LayerNorm(name="norm")(x), reset)
        x = join("join", x, y)
        wide = nn.Dense(self.config.expansion * features, precision=self.precision, name="wide")
        narrow = nn.Dense(features, precision=self.precision, name="narrow")
        y = narrow(nn.relu(wide(nn.LayerNorm(name="dense_norm")(x))))
        return carry, join("dense_join", x, y)


class GatedJoin(nn.Module):
    """The gates of a GRU with x for its state, which at the start lets almost all of x pass.

    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - b), h = tanh(W_h y + U_h (r * x)),
    (1 - z) * x + z * h.

    Source: GTrXL (arXiv 1910.06764), section 3.2, "Gated-Recurrent-Unit-type gating".
    """

    precision: Precision = "default"

    @nn.compact
    def __call__(self, x: Float[Array, "T B H"], y: Float[Array, "T B H"]) -> Float[Array, "T B H"]:
        width = x.shape[-1]

        def product(name: str, size: int, v: Array) -> Array:
            return nn.Dense(size, use_bias=False, precision=self.precision, name=name)(v)

        r_y, z_y, h_y = jnp.split(product("new", 3 * width, y), 3, axis=-1)
        r_x, z_x = jnp.split(product("old", 2 * width, x), 2, axis=-1)
        bias = self.param("bias", nn.initializers.constant(GATE_BIAS), (width,))
        r, z = nn.sigmoid(r_y + r_x), nn.sigmoid(z_y + z_x - bias)
        h = jnp.tanh(h_y + product("candidate", width, r * x))
        return (1 - z) * x + z * h
