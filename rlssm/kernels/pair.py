"""Complex numbers as pairs of real arrays, and arithmetic that takes either kind of number.

A value is a real array, a complex array, or a `Pair`. Time is the leading axis.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact


class Pair(NamedTuple):
    """Complex numbers as two real arrays of one shape."""

    re: Float[Array, "..."]
    im: Float[Array, "..."]


Number = Inexact[Array, "..."] | Pair


def kind_of(value: Number) -> str:
    if isinstance(value, Pair):
        return "Pair"
    return "complex" if jnp.iscomplexobj(value) else "real"


def shape_of(value: Number) -> tuple[int, ...]:
    return value.re.shape if isinstance(value, Pair) else value.shape


# --- Arithmetic on arrays and on pairs of arrays ----------------------------------------------

tree = jax.tree.map


def mul(x: Any, y: Any) -> Any:
    if isinstance(x, Pair):
        return Pair(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re)
    return x * y


def adjoint_of(x: Any) -> Any:
    # The cotangent of a pair is a plain gradient, so the transpose of a product conjugates;
    # JAX's cotangent of a complex array is conjugated already.
    return Pair(x.re, -x.im) if isinstance(x, Pair) else x


def ones(like: Any) -> Any:
    if isinstance(like, Pair):
        return Pair(jnp.ones_like(like.re), jnp.zeros_like(like.im))
    return jnp.ones_like(like)


def is_zero(x: Any) -> Array:
    return (x.re == 0) & (x.im == 0) if isinstance(x, Pair) else x == 0


def clear(mask: Array, x: Any) -> Any:
    def cleared(v: Array) -> Array:
        return jnp.where(jnp.reshape(mask, mask.shape + (1,) * (v.ndim - mask.ndim)), 0, v)

    return tree(cleared, x)


def take_step(a: Any, x: Any, reset: Array, b: Any) -> Any:
    # The product is cleared, not x: composed steps multiply by powers of `a`, and one that
    # overflowed would turn a cleared x into NaN.
    return tree(jnp.add, clear(reset, mul(a, x)), b)


# --- Time -------------------------------------------------------------------------------------


def varies_in_time(a: Any, b: Any) -> bool:
    return len(shape_of(a)) == len(shape_of(b))


def at_time(values: Any, t: Any) -> Any:
    pick = partial(lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
    return tree(lambda v: pick(v, t), values)


def put_at(values: Any, new: Any, t: Any) -> Any:
    put = partial(lax.dynamic_update_index_in_dim, axis=0, allow_negative_indices=False)
    return tree(lambda v, n: put(v, n, t), values, new)


def flip(x: Any) -> Any:
    return tree(lambda v: v[::-1], x)


def delay(x: Any, first: Any) -> Any:
    return tree(lambda v, f: jnp.concatenate([f[None], v[:-1]]), x, first)


def advance(x: Any, last: Any) -> Any:
    return tree(lambda v, e: jnp.concatenate([v[1:], e[None]]), x, last)
