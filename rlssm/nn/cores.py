"""The contract of a sequence core, and the cores that keep it."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from rlssm.errors import unknown_name
from rlssm.nn.attention import Attention
from rlssm.nn.blocks import ResidualBlock, Stack
from rlssm.nn.ffm import FFM, FFMConfig
from rlssm.nn.linear_attention import LinearAttention, LinearAttentionConfig
from rlssm.nn.lru import LRU, LRUConfig
from rlssm.nn.mamba import Mamba, MambaConfig
from rlssm.nn.mlp import Precision
from rlssm.nn.recurrent import GRU, LSTM, GRUConfig, LSTMConfig, MinGRU, MinGRUConfig
from rlssm.nn.s4d import S4D, S4DConfig
from rlssm.nn.s5 import S5, S5Config
from rlssm.nn.s5_attention import S5AttentionConfig, s5_attention
from rlssm.nn.transformer import TransformerBlock, TransformerConfig
from rlssm.types import Carry


@runtime_checkable
class SequenceCore(Protocol):
    """Memory: features in, features of the same width out, and a carry between calls.

    One call on T steps equals T calls on one step, and equals calls on the pieces between
    resets, in values and gradients. Where `reset[t]` is True the carry is dropped *before*
    `x[t]` is consumed, and nothing behind it, NaN and Inf included, reaches past it.
    """

    def initial_carry(self, batch: int) -> Carry:
        """Return empty memory, leaves `[B, ...]`; needs no parameters."""
        ...

    def __call__(
        self, carry: Carry, x: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        """Return the memory after the last step and the features of every step."""
        ...


@dataclass(frozen=True)
class NoneConfig:
    """No memory: features pass through unchanged."""

    name: Literal["none"] = "none"
    """Kind of core."""


class NoMemory(nn.Module):
    """The identity, for feed-forward agents."""

    features: int

    @nn.nowrap
    def initial_carry(self, batch: int) -> tuple[()]:
        return ()

    def __call__(
        self, carry: tuple[()], x: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[tuple[()], Float[Array, "T B H"]]:
        return carry, x


CoreConfig = (
    NoneConfig | S5Config | LRUConfig | GRUConfig | LSTMConfig | MinGRUConfig
    | S4DConfig | LinearAttentionConfig | MambaConfig | FFMConfig
    | S5AttentionConfig | TransformerConfig
)  # fmt: skip

CORES: dict[str, type[CoreConfig]] = {
    "none": NoneConfig,
    "s5": S5Config,
    "lru": LRUConfig,
    "gru": GRUConfig,
    "lstm": LSTMConfig,
    "mingru": MinGRUConfig,
    "s4d": S4DConfig,
    "linear-attention": LinearAttentionConfig,
    "mamba": MambaConfig,
    "ffm": FFMConfig,
    "s5-attention": S5AttentionConfig,
    "transformer": TransformerConfig,
}


def make_core(config: CoreConfig, features: int, precision: Precision = "default") -> SequenceCore:
    """Return the linen module of a core for inputs and outputs of width `features`.

    Raises:
        UserError: on a config that is not one of `CORES`.
    """
    match config:
        case NoneConfig():
            return NoMemory(features)
        case S5Config(gate=gate, norm=norm, inner_norm=inner_norm):
            memory = S5(config, features, precision)
            layer = ResidualBlock(memory, gate, norm, inner_norm, precision)
        case LRUConfig(gate=gate, norm=norm):
            memory = LRU(config, features, precision)
            layer = ResidualBlock(memory, gate, norm, precision=precision)
        case S4DConfig(gate=gate, norm=norm):
            memory = S4D(config, features, precision)
            layer = ResidualBlock(memory, gate, norm, precision=precision)
        case LinearAttentionConfig(gate=gate, norm=norm):
            memory = LinearAttention(config, features, precision)
            layer = ResidualBlock(memory, gate, norm, precision=precision)
        case MambaConfig():
            layer = Mamba(config, features, precision)
        case FFMConfig():
            layer = FFM(config, features, precision)
        case S5AttentionConfig():
            layer = s5_attention(config, features, precision)
        case TransformerConfig(heads=heads, head_size=head_size, context=context):
            memory = Attention(features, heads, head_size, context, precision)
            layer = TransformerBlock(memory, config, precision)
        case GRUConfig():
            layer = GRU(features, precision)
        case LSTMConfig():
            layer = LSTM(features, precision)
        case MinGRUConfig():
            layer = MinGRU(config, features, precision)
        case _:
            raise unknown_name("core", type(config).__name__, CORES)
    return Stack(layer, config.layers)
