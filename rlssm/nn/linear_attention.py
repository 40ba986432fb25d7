"""Linear attention: a matrix that keys and values are added to and queries read from."""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels.linear_scan import linear_scan
from rlssm.nn.blocks import Gate, Norm
from rlssm.nn.mlp import Precision, require_choices

LEAST_WEIGHT = 1e-6  # what the weights of all that was seen are taken to sum to at least


@dataclass(frozen=True)
class LinearAttentionConfig:
    """Attention to everything since the last reset, without softmax, in residual blocks.

    Nothing decays: a step weighs as much after an hour as at once, and in float32 the sums take in
    no more after some ten million steps without a reset. A rollout keeps
    `key_size * (value_size + 1)` numbers for each step of each layer.
    """

    name: Literal["linear-attention"] = "linear-attention"
    """Kind of core."""
    layers: int = 2
    """Number of residual blocks, at least 1."""
    key_size: int = 16
    """Entries of a key and of a query, at least 1. Memoroids paper: 16."""
    value_size: int = 16
    """Entries of a value, at least 1. Memoroids paper: 16."""
    gate: Gate = "full_glu"
    """Nonlinearity after the memory."""
    norm: Norm = "pre"
    """Where a LayerNorm stands in a block."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How the recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        for name in ("layers", "key_size", "value_size"):
            require(getattr(self, name) >= 1, f"core.{name}", getattr(self, name), "at least 1")


class LinearAttention(nn.Module):
    """One layer of linear attention with one head.

        S_t = S_{t-1} + phi(k_t) [v_t, 1]^T,    [n_t, w_t] = S_t^T phi(q_t),    y_t = W n_t / w_t,

    with k, q, v linear in u and phi(x) = elu(x) + 1, above 0. The carry is S, `[B, K, V + 1]`; the
    last column holds the weights.

    Source: "Transformers are RNNs" (Katharopoulos et al. 2020, arXiv 2006.16236), equations 16 to
    20; with resets "Recurrent Reinforcement Learning with Memoroids" (arXiv 2402.09900).
    """

    config: LinearAttentionConfig
    features: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Float[Array, "B K V1"]:
        return jnp.zeros((batch, self.config.key_size, self.config.value_size + 1), jnp.float32)

    @nn.compact
    def __call__(
        self, carry: Float[Array, "B K V1"], u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Float[Array, "B K V1"], Float[Array, "T B H"]]:
        config = self.config

        def project(name: str, size: int) -> Array:
            return nn.Dense(size, use_bias=False, precision=self.precision, name=name)(u)

        key = nn.elu(project("key", config.key_size)) + 1
        query = nn.elu(project("query", config.key_size)) + 1
        value = project("value", config.value_size)
        value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
        added = key[..., :, None] * value[..., None, :]
        keep = jnp.ones(added.shape[2:], added.dtype)
        carry, memory = linear_scan(keep, added, reset, carry, implementation=config.scan)
        read = jnp.einsum("tbk,tbkv->tbv", query, memory, precision=self.precision)
        y = read[..., :-1] / jnp.maximum(read[..., -1:], LEAST_WEIGHT)
        return carry, nn.Dense(self.features, precision=self.precision, name="output")(y)
