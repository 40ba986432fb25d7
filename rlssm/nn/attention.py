"""Softmax attention to the last steps of an episode, with a rolling cache in place of a state."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlssm.nn.blocks import since_reset
from rlssm.nn.mlp import Precision

BASE = 10_000.0  # the slowest rotation takes 2 pi BASE steps, the fastest 2 pi. RoFormer: the same
BLOCK = 256  # queries whose weights are in memory at once


class Cache(NamedTuple):
    """What the last C steps left to read, oldest first; `held` is above 0 where there was one."""

    key: Float[Array, "B N C D"]
    value: Float[Array, "B N C D"]
    held: Float[Array, "B C"]


class Attention(nn.Module):
    """Attention of every step to itself and to the `context` steps before it since the last reset.

    Keys and queries are turned by angles that grow with time, so that their products tell only how
    far apart they are. The carry holds keys before they are turned: a step costs O(context), and
    says what it would in one call with those before it.

    Source: "Attention Is All You Need" (arXiv 1706.03762), section 3.2; rotations from "RoFormer"
    (arXiv 2104.09864), section 3.2.2.
    """

    features: int
    heads: int  # N
    head_size: int  # D, even
    context: int  # C
    precision: Precision = "default"

    @nn.nowrap
    def initial_carry(self, batch: int) -> Cache:
        shape = (batch, self.heads, self.context, self.head_size)
        key, value = (jnp.zeros(shape, jnp.float32) for _ in range(2))  # may be donated
        return Cache(key, value, jnp.zeros((batch, self.context), jnp.float32))

    @nn.compact
    def __call__(
        self, carry: Cache, u: Float[Array, "T B H"], reset: Bool[Array, "T B"]
    ) -> tuple[Cache, Float[Array, "T B H"]]:
        length, batch = reset.shape
        size = self.heads * self.head_size

        def project(name: str) -> Array:
            flat = nn.Dense(size, use_bias=False, precision=self.precision, name=name)(u)
            return flat.reshape(length, batch, self.heads, -1).transpose(1, 2, 0, 3)

        key = jnp.concatenate([carry.key, project("key")], axis=2)
        value = jnp.concatenate([carry.value, project("value")], axis=2)
        held = jnp.concatenate([carry.held, jnp.ones((batch, length), carry.held.dtype)], axis=1)
        since = since_reset(reset, self.context).T
        first = jnp.maximum(since, jnp.arange(length))
        read = attend(project("query"), key, value, held > 0, first, self.precision)
        read = read.transpose(2, 0, 1, 3).reshape(length, batch, size)
        y = nn.Dense(self.features, precision=self.precision, name="output")(read)

        kept = jnp.arange(length, length + self.context) >= since[:, -1:]
        keys, values = (
            jnp.where(kept[:, None, :, None], v[:, :, length:], 0) for v in (key, value)
        )
        return Cache(keys, values, jnp.where(kept, held[:, length:], 0)), y


def attend(
    query: Float[Array, "B N T D"],
    key: Float[Array, "B N S D"],
    value: Float[Array, "B N S D"],
    held: Bool[Array, "B S"],
    first: Int[Array, "B T"],
    precision: Precision = "default",
    block: int = BLOCK,
) -> Float[Array, "B N T D"]:
    """Return what every query reads in the last T of S steps.

    Args:
        query: of the last T steps.
        key, value: of all S.
        held: whether there was such a step; there were the last T.
        first: index among the S of the first step that a query may read, at most S - T before its
            own. The last is its own.
        block: queries taken at once; their weights are made again in the backward pass.
    """
    length, behind = query.shape[2], key.shape[2] - query.shape[2]
    # A weight of 0 would turn NaN and Inf into NaN where they must not be seen, so the products
    # are taken of finite numbers, and what has read another is NaN by selection.
    broken, lost = ~(_is_finite(key) & _is_finite(value)), ~_is_finite(query)
    query, key, value = (jnp.where(jnp.isfinite(v), v, 0) for v in (query, key, value))
    query = _turn(query * query.shape[-1] ** -0.5, behind)
    key = _turn(key, 0)

    def read(query: Array, first: Array, lost: Array, start: Any) -> Array:
        size = query.shape[2]

        def near(v: Array, axis: int) -> Array:
            return lax.dynamic_slice_in_dim(v, start, size + behind, axis)

        index, own = start + jnp.arange(size + behind), start + behind + jnp.arange(size)
        seen = near(held, 1)[:, None] & (index >= first[..., None]) & (index <= own[:, None])
        scores = jnp.einsum("bntd,bnsd->bnts", query, near(key, 2), precision=precision)
        weights = nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf))
        y = jnp.einsum("bnts,bnsd->bntd", weights, near(value, 2), precision=precision)
        lost = lost | (seen & near(broken, 1)[:, None]).any(-1)
        return jnp.where(lost[:, None, :, None], jnp.nan, y)

    if length <= block:
        return read(query, first, lost, 0)

    count = -(-length // block)
    rest = count * block - length

    def pad(v: Array, axis: int, **how: Any) -> Array:
        return jnp.pad(v, [(0, rest if i == axis else 0) for i in range(v.ndim)], **how)

    def cut(v: Array, axis: int) -> Array:
        return jnp.moveaxis(v.reshape(*v.shape[:axis], count, block, *v.shape[axis + 1 :]), axis, 0)

    key, value, broken = pad(key, 2), pad(value, 2), pad(broken, 1)
    held = pad(held, 1, constant_values=True)
    queries, lost = cut(pad(query, 2), 2), cut(pad(lost, 1), 1)
    firsts = cut(pad(first, 1, mode="edge"), 1)
    starts = jnp.arange(count) * block
    again = jax.checkpoint(read)  # else the weights of all blocks would be stored
    _, y = lax.scan(lambda _, part: (None, again(*part)), None, (queries, firsts, lost, starts))
    return jnp.moveaxis(y, 0, 2).reshape(*query.shape[:2], count * block, -1)[:, :, :length]


def _is_finite(v: Float[Array, "B N S D"]) -> Bool[Array, "B S"]:
    return jnp.isfinite(v).all((1, 3))


def _turn(v: Float[Array, "B N S D"], start: int) -> Float[Array, "B N S D"]:
    """Turn the pairs (v_i, v_{i + D/2}) by their speeds times the position, from `start` on."""
    half = v.shape[-1] // 2
    speed = BASE ** (-jnp.arange(half, dtype=v.dtype) / half)
    angle = (start + jnp.arange(v.shape[2], dtype=v.dtype))[:, None] * speed
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = v[..., :half], v[..., half:]
    return jnp.concatenate([x * cos - y * sin, x * sin + y * cos], axis=-1)
