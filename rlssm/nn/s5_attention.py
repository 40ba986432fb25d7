"""S5 for what is long ago, attention for what is near: one block of both."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels.pair import Pair
from rlssm.nn.attention import Attention, Cache
from rlssm.nn.blocks import ResidualBlock
from rlssm.nn.mlp import Precision, require_choices
from rlssm.nn.s5 import S5, S5Config


@dataclass(frozen=True)
class S5AttentionConfig:
    """S5, then attention to the last `context` steps since a reset, then a dense layer, in blocks.

    Memory holds `state_size + 2 * context * heads * head_size` numbers for each layer.
    """

    name: Literal["s5-attention"] = "s5-attention"
    """Kind of core."""
    layers: int = 2
    """Number of blocks, at least 1."""
    state_size: int = 64
    """Real size of S5's state, even, at least 2."""
    dt_min: float = 1e-3
    """Least step of S5 at the start, above 0; about 1 / the longest dependency in steps."""
    dt_max: float = 1e-1
    """Greatest step of S5 at the start, at least dt_min."""
    heads: int = 2
    """Heads of attention, at least 1."""
    head_size: int = 32
    """Entries of a key, query or value of a head, even, at least 2."""
    context: int = 16
    """Steps before the present one that attention reads, at least 1."""
    expansion: int = 2
    """Width of the dense layer over the features, at least 1."""
    scan: Literal["auto", "sequential", "associative", "chunked", "kernel"] = "auto"
    """How S5's recurrence is computed; auto takes the fastest measured on the backend."""

    def __post_init__(self) -> None:
        require_choices(self, "core.")
        for name in ("layers", "heads", "context", "expansion"):
            require(getattr(self, name) >= 1, f"core.{name}", getattr(self, name), "at least 1")
        for name in ("state_size", "head_size"):
            value = getattr(self, name)
            even = value >= 2 and value % 2 == 0
            require(even, f"core.{name}", value, "even and at least 2")
        require(0 < self.dt_min <= self.dt_max, "core.dt_min", self.dt_min, "in (0, dt_max]")

    @property
    def s5(self) -> S5Config:
        """The S5 layer of a block."""
        return S5Config(
            layers=1,
            state_size=self.state_size,
            dt_min=self.dt_min,
            dt_max=self.dt_max,
            scan=self.scan,
        )


class S5AttentionState(NamedTuple):
    """The state of S5 and what attention can read."""

    x: Pair
    cache: Cache


class S5AttentionBlock(nn.Module):
    """S5, attention and two dense layers, each after a LayerNorm and added to what it was given.

        a = u + full_glu(s5(norm(u))),    b = a + attention(norm(a)),
        y = b + W2 gelu(W1 norm(b) + b1) + b2.

    The recurrence carries what is old, and attention recalls what is new to the letter.

    Source: "Griffin" (arXiv 2402.19427) mixes recurrence and local attention, in separate blocks;
    the layers are those of `S5` and `Attention`.
    """

    state: ResidualBlock
    attention: Attention
    expansion: int
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> S5AttentionState:
        state, attention = self.state, self.attention
        return S5AttentionState(state.initial_carry(batch), attention.initial_carry(batch))

    @nn.compact
    def __call__(
        self, carry: S5AttentionState, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[S5AttentionState, Float[Array, "T B H"]]:
        width = u.shape[-1]
        x, u = self.state(carry.x, u, reset)
        cache, y = self.attention(carry.cache, nn.LayerNorm(name="norm")(u), reset)
        u = u + y
        wide = nn.Dense(self.expansion * width, precision=self.precision, name="wide")
        narrow = nn.Dense(width, precision=self.precision, name="narrow")
        u = u + narrow(nn.gelu(wide(nn.LayerNorm(name="dense_norm")(u))))
        return S5AttentionState(x, cache), u


def s5_attention(
    config: S5AttentionConfig, features: int, precision: Precision
) -> S5AttentionBlock:
    """Return one block."""
    gate, norm = config.s5.gate, config.s5.norm
    state = ResidualBlock(S5(config.s5, features, precision), gate, norm, precision=precision)
    sizes = config.heads, config.head_size, config.context
    return S5AttentionBlock(
        state, Attention(features, *sizes, precision), config.expansion, precision
    )
