"""What the layers of every sequence core share: gates, the residual block, and the stack."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlssm.kernels.pair import Pair
from rlssm.nn.mlp import Precision
from rlssm.types import Carry

Gate = Literal["full_glu", "half_glu1", "half_glu2", "gelu"]
Norm = Literal["pre", "post", "none"]


class GatedActivation(nn.Module):
    """The nonlinearity after a linear recurrence; with g = gelu(z) and s = sigmoid(W2 g + b2):

    full_glu: (W1 g + b1) * s,  half_glu1: g * s,  half_glu2: z * s,  gelu: g.

    Source: lindermanlab/S5, `s5/layers.py`.
    """

    kind: Gate
    precision: Precision = "default"

    @nn.compact
    def __call__(self, z: Float[Array, "*batch H"]) -> Float[Array, "*batch H"]:
        width, g = z.shape[-1], nn.gelu(z)
        match self.kind:
            case "gelu":
                return g
            case "full_glu":
                value = nn.Dense(width, precision=self.precision, name="value")(g)
            case "half_glu1":
                value = g
            case "half_glu2":
                value = z
        return value * nn.sigmoid(nn.Dense(width, precision=self.precision, name="gate")(g))


class ResidualBlock(nn.Module):
    """`u + gate(inner_norm(memory(pre_norm(u))))`, with a LayerNorm wherever one is asked for.

    Source: lindermanlab/S5, `SequenceLayer`; `inner_norm` is popjaxrl's `do_gtrxl_norm`, which
    shares its parameters with the outer norm there and has its own here.
    """

    memory: nn.Module
    gate: Gate
    norm: Norm
    inner_norm: bool = False
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        return self.memory.initial_carry(batch)

    @nn.compact
    def __call__(
        self, carry: Carry, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        z = nn.LayerNorm(name="norm")(u) if self.norm == "pre" else u
        carry, z = self.memory(carry, z, reset)
        if self.inner_norm:
            z = nn.LayerNorm(name="inner_norm")(z)
        u = u + GatedActivation(self.gate, self.precision, name="activation")(z)
        return carry, nn.LayerNorm(name="norm")(u) if self.norm == "post" else u


class Stack(nn.Module):
    """`depth` copies of one layer, each fed by the one before and compiled once.

    Parameters gain a leading axis L; carries gain it after the batch, `[B, L, ...]`.
    """

    layer: nn.Module
    depth: int

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        carry = self.layer.initial_carry(batch)
        return jax.tree.map(lambda c: jnp.repeat(c[:, None], self.depth, axis=1), carry)

    @nn.compact
    def __call__(
        self, carry: Carry, x: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        def advance(layer: Any, x: Array, carry: Carry, reset: Array) -> tuple[Array, Carry]:
            carry, y = layer(carry, x, reset)
            return y, carry

        through = nn.scan(
            advance,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(1, nn.broadcast),
            out_axes=1,
            length=self.depth,
            unroll=self.depth if len(x) == 1 else 1,  # acting: no loop around a single step
        )
        y, carry = through(self.layer, x, carry, reset)
        return carry, y


def since_reset(reset: Bool[Array, "T B"], behind: int) -> Int[Array, "T B"]:
    """Return the index of the first step since the last reset, among `behind` earlier ones and T.

    Where there was no reset that is 0.
    """
    index = behind + jnp.arange(len(reset))[:, None]
    return lax.cummax(jnp.where(reset, index, 0), axis=0)


# --- Complex states as pairs of real arrays ---------------------------------------------------


def zero_state(batch: int, size: int) -> Pair:
    """Return a complex state of zeros, `[B, P]`."""
    re, im = (jnp.zeros((batch, size), jnp.float32) for _ in range(2))  # may be donated: no sharing
    return Pair(re, im)


def project_in(B: Pair, u: Float[Array, "T B H"], precision: Precision) -> Pair:
    """Return B u, `[T, B, P]`, for a complex `[P, H]` matrix: two real matrix products."""
    product = partial(jnp.einsum, "ph,tbh->tbp", precision=precision)
    return Pair(product(B.re, u), product(B.im, u))


def project_out(C: Pair, x: Pair, precision: Precision) -> Float[Array, "T B H"]:
    """Return Re(C x), `[T, B, H]`, for a complex `[H, P]` matrix: two real matrix products."""
    product = partial(jnp.einsum, "hp,tbp->tbh", precision=precision)
    return product(C.re, x.re) - product(C.im, x.im)
