"""The diagonal linear recurrence with resets that every linear sequence core stands on.

    x_t = a_t * where(reset_t, 0, x_{t-1}) + b_t,    x_{-1} = carry

Three implementations stand behind one signature and one custom VJP:

- `sequential`: one step after another; the least arithmetic, T steps deep.
- `associative`: neighbouring steps are composed, then their neighbours; 2 log2(T) deep.
- `chunked`: about sqrt(T) chunks advance side by side from a zero state, then each adds what it
  inherits; 2 sqrt(T) deep.

A reset is a selection, never a product with zero, so nothing behind it, NaN and Inf included,
reaches past it. The VJP is a linear scan in the other direction, so the same holds for
gradients; all it stores is `a`, `x`, `reset` and `carry`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from rlssm.errors import UserError, unknown_name


class Pair(NamedTuple):
    """Complex numbers as two real arrays of one shape."""

    re: Float[Array, "..."]
    im: Float[Array, "..."]


Number = Inexact[Array, "..."] | Pair


def linear_scan(
    a: Number,
    b: Number,
    reset: Bool[Array, "T B"],
    carry: Number,
    *,
    implementation: str = "auto",
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Return the last state and all states of a diagonal linear recurrence with resets.

        x_t = a_t * where(reset_t, 0, x_{t-1}) + b_t,    x_{-1} = carry

    With `reverse`, time runs from T - 1 down to 0: `carry` is the state before x_{T-1}, and the
    last state is x_0.

    Args:
      a: decay, `[*F]` if constant or `[T, B, *F]` if it varies; told apart by rank.
      b: input, `[T, B, *F]`.
      reset: `[T, B]`, True where the state is dropped before step t.
      carry: state before the first step, `[B, *F]`.
      implementation: "sequential", "associative", "chunked", or "auto" for the one measured to
        be fastest on this backend.
      reverse: whether time runs backwards.

    `a`, `b` and `carry` are all real arrays, all complex arrays or all a `Pair`; their dtypes
    are promoted to a common one. Only reverse-mode derivatives exist, of any order.

    Returns:
      The last state `[B, *F]` and the states `[T, B, *F]`, of the kind of `b`.

    Raises:
      UserError: for an unknown implementation, mixed kinds, or shapes that do not fit.

    Source: "Simplified State Space Layers for Sequence Modeling" (arXiv 2208.04933), section
    2.2. Resets follow "Structured State Space Models for In-Context Reinforcement Learning"
    (arXiv 2303.03982), with a selection where its code multiplies by the flag.
    """
    _check(a, b, reset, carry)
    if implementation == "auto":
        implementation = _fastest(jax.default_backend(), reset.shape[0])
    if implementation not in IMPLEMENTATIONS:
        raise unknown_name("implementation", implementation, ["auto", *IMPLEMENTATIONS])
    dtype = jnp.result_type(*jax.tree.leaves((a, b, carry)))
    a, b, carry = _tree(lambda v: v.astype(dtype), (a, b, carry))
    x = _scan(implementation, reverse, a, b, reset, carry)
    return _tree(lambda v: v[0 if reverse else -1], x), x


def _fastest(backend: str, length: int) -> str:
    # Measured by scripts/benchmark/scan.py on two CPU cores and an H100, with a constant decay and
    # pairs. On a CPU the least arithmetic wins, 2 to 5 times over (but for states of about sixteen
    # numbers over thousands of steps, where chunks win by a third); on the GPU depth decides.
    return "sequential" if backend == "cpu" or length == 1 else "associative"


# --- Arguments --------------------------------------------------------------------------------


def _kind(value: Number) -> str:
    if isinstance(value, Pair):
        return "Pair"
    return "complex" if jnp.iscomplexobj(value) else "real"


def _shape(value: Number) -> tuple[int, ...]:
    return value.re.shape if isinstance(value, Pair) else value.shape


def _check(a: Number, b: Number, reset: Array, carry: Number) -> None:
    kinds = [_kind(value) for value in (a, b, carry)]
    if len(set(kinds)) > 1:
        raise UserError(
            f"a, b and carry must all be real, all complex or all a Pair, got {', '.join(kinds)}"
        )
    shape = _shape(b)
    if len(shape) < 2 or shape[0] < 1:
        raise UserError(f"b must have shape (T, B, *F) with T >= 1, got {shape}")
    for name, found, allowed in (
        ("a", _shape(a), (shape[2:], shape)),
        ("reset", reset.shape, (shape[:2],)),
        ("carry", _shape(carry), (shape[1:],)),
    ):
        if found not in allowed:
            expected = " or ".join(map(str, allowed))
            raise UserError(f"{name} must have shape {expected} to fit b {shape}, got {found}")


# --- Arithmetic on arrays and on pairs of arrays ----------------------------------------------

_tree = jax.tree.map


def _mul(x: Any, y: Any) -> Any:
    if isinstance(x, Pair):
        return Pair(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re)
    return x * y


def _adjoint(x: Any) -> Any:
    # The cotangent of a pair is a plain gradient, so the transpose of a product conjugates;
    # JAX's cotangent of a complex array is conjugated already.
    return Pair(x.re, -x.im) if isinstance(x, Pair) else x


def _ones(like: Any) -> Any:
    if isinstance(like, Pair):
        return Pair(jnp.ones_like(like.re), jnp.zeros_like(like.im))
    return jnp.ones_like(like)


def _is_zero(x: Any) -> Array:
    return (x.re == 0) & (x.im == 0) if isinstance(x, Pair) else x == 0


def _clear(mask: Array, x: Any) -> Any:
    def clear(v: Array) -> Array:
        return jnp.where(jnp.reshape(mask, mask.shape + (1,) * (v.ndim - mask.ndim)), 0, v)

    return _tree(clear, x)


def _step(a: Any, x: Any, reset: Array, b: Any) -> Any:
    # The product is cleared, not x: composed steps multiply by powers of `a`, and one that
    # overflowed would turn a cleared x into NaN.
    return _tree(jnp.add, _clear(reset, _mul(a, x)), b)


# --- Time -------------------------------------------------------------------------------------


def _varies(a: Any, b: Any) -> bool:
    return len(_shape(a)) == len(_shape(b))


def _at(values: Any, t: Any) -> Any:
    pick = partial(lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
    return _tree(lambda v: pick(v, t), values)


def _put(values: Any, new: Any, t: Any) -> Any:
    put = partial(lax.dynamic_update_index_in_dim, axis=0, allow_negative_indices=False)
    return _tree(lambda v, n: put(v, n, t), values, new)


def _flip(x: Any) -> Any:
    return _tree(lambda v: v[::-1], x)


def _delay(x: Any, first: Any) -> Any:
    return _tree(lambda v, f: jnp.concatenate([f[None], v[:-1]]), x, first)


def _advance(x: Any, last: Any) -> Any:
    return _tree(lambda v, e: jnp.concatenate([v[1:], e[None]]), x, last)


# --- Implementations: (a, b, reset, carry, reverse) -> x --------------------------------------


def _sequential(a: Any, b: Any, reset: Array, carry: Any, reverse: bool = False) -> Any:
    length = reset.shape[0]
    if length == 1:
        return _step(a, _tree(lambda v: v[None], carry), reset, b)
    varies = _varies(a, b)

    def body(i: Any, state: Any) -> Any:
        x, buffer = state
        t = length - 1 - i if reverse else i
        x = _step(_at(a, t) if varies else a, x, _at(reset, t), _at(buffer, t))
        return x, _put(buffer, x, t)

    # x_t overwrites the b_t it came from, which spares a buffer and a pass over memory.
    return lax.fori_loop(0, length, body, (carry, b))[1]


def _either_way(forward: Any) -> Any:
    def scan(a: Any, b: Any, reset: Array, carry: Any, reverse: bool) -> Any:
        if not reverse:
            return forward(a, b, reset, carry)
        a = _flip(a) if _varies(a, b) else a
        return _flip(forward(a, _flip(b), _flip(reset), carry))

    return scan


def _associative(a: Any, b: Any, reset: Array, carry: Any) -> Any:
    """Compose steps 2k and 2k + 1, solve for the odd ones, then step to the even ones.

    A constant `a` stays one value at every level, where `lax.associative_scan` would carry its
    products along with the states.
    """
    length = reset.shape[0]
    if length == 1:
        return _sequential(a, b, reset, carry)
    half, varies = length // 2, _varies(a, b)
    a_even, a_odd = (_tree(lambda v, i=i: v[i::2], a) if varies else a for i in (0, 1))
    b_even, b_odd = (_tree(lambda v, i=i: v[i::2], b) for i in (0, 1))
    reset_even, reset_odd = reset[::2], reset[1::2]

    a_pairs = _mul(a_odd, _tree(lambda v: v[:half], a_even) if varies else a)
    b_pairs = _step(a_odd, _tree(lambda v: v[:half], b_even), reset_odd, b_odd)
    x_odd = _associative(a_pairs, b_pairs, reset_even[:half] | reset_odd, carry)
    x_before = _tree(lambda c, v: jnp.concatenate([c[None], v])[: length - half], carry, x_odd)
    x_even = _step(a_even, x_before, reset_even, b_even)
    return _tree(_interleave, x_even, x_odd)


def _interleave(even: Array, odd: Array) -> Array:
    half = odd.shape[0]
    pairs = jnp.stack([even[:half], odd], axis=1).reshape((2 * half, *odd.shape[1:]))
    return jnp.concatenate([pairs, even[half:]])


def _chunked(a: Any, b: Any, reset: Array, carry: Any) -> Any:
    length, varies = reset.shape[0], _varies(a, b)
    size = 2 ** ((length - 1).bit_length() // 2)

    def cut(v: Array) -> Array:  # [T, ...] to [size, chunks, ...]
        padded = jnp.pad(v, [(0, -length % size)] + [(0, 0)] * (v.ndim - 1))
        return jnp.swapaxes(padded.reshape((-1, size, *v.shape[1:])), 0, 1)

    def join(v: Array) -> Array:
        return jnp.swapaxes(v, 0, 1).reshape((-1, *v.shape[2:]))[:length]

    b, reset, a = _tree(cut, b), cut(reset), _tree(cut, a) if varies else a
    local = _sequential(a, b, reset, _tree(lambda v: jnp.zeros_like(v[0]), b))
    seen = jnp.cumsum(reset, axis=0) > 0
    # Products of `a` from the start of a chunk: a scan from one with no input.
    still = _tree(lambda v: jnp.zeros((size, *v.shape[varies:]), v.dtype), a)
    one = _ones(_tree(lambda v: v[0], still))
    decay = _sequential(a, still, jnp.zeros(size, bool), one)

    a_chunk, x_chunk, seen_chunk = _tree(lambda v: v[-1], (decay, local, seen))
    inherited = _delay(_sequential(a_chunk, x_chunk, seen_chunk, carry), carry)
    decay = decay if varies else _tree(lambda v: v[:, None, None], decay)
    x = _step(decay, _tree(lambda v: v[None], inherited), seen, local)
    return _tree(join, x)


IMPLEMENTATIONS = {
    "sequential": _sequential,
    "associative": _either_way(_associative),
    "chunked": _either_way(_chunked),
}


# --- One VJP for all --------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(implementation: str, reverse: bool, a: Any, b: Any, reset: Array, carry: Any) -> Any:
    return IMPLEMENTATIONS[implementation](a, b, reset, carry, reverse)


def _scan_forward(
    implementation: str, reverse: bool, a: Any, b: Any, reset: Array, carry: Any
) -> tuple[Any, Any]:
    # The implementation itself here and below, so that a gradient can be differentiated forwards.
    x = IMPLEMENTATIONS[implementation](a, b, reset, carry, reverse)
    return x, (a, x, reset, carry)


def _scan_backward(implementation: str, reverse: bool, residuals: Any, g: Any) -> Any:
    """Scan the other way: with g_t the cotangent of x_t and a* the adjoint of a,

    lambda_t = g_t + where(reset_{t+1}, 0, a*_{t+1} lambda_{t+1}),    d b_t = lambda_t
    d a_t = lambda_t where(reset_t, 0, x*_{t-1}),    d carry = where(reset_0, 0, a*_0 lambda_0)
    """
    a, x, reset, carry = residuals
    varies = _varies(a, x)
    earlier, later = (_advance, _delay) if reverse else (_delay, _advance)
    start = -1 if reverse else 0

    a_after = _adjoint(later(a, _tree(lambda v: v[0], a)) if varies else a)
    reset_after = later(reset, jnp.ones_like(reset[0]))
    rest = _tree(jnp.zeros_like, carry)
    adjoint = IMPLEMENTATIONS[implementation](a_after, g, reset_after, rest, not reverse)

    if varies:
        d_a = _decay_gradient(adjoint, earlier(x, carry), reset)
    elif implementation == "sequential":
        d_a = _summed_decay_gradient(adjoint, x, reset, carry, reverse)
    else:
        d_a = _decay_gradient(adjoint, earlier(x, carry), reset)
        d_a = _tree(lambda v: v.sum((0, 1)), d_a)
    a_start, adjoint_start = _tree(lambda v: v[start], (a if varies else (), adjoint))
    d_carry = _clear(reset[start], _mul(_adjoint(a_start if varies else a), adjoint_start))
    return d_a, adjoint, None, d_carry


def _decay_gradient(adjoint: Any, x_before: Any, reset: Array) -> Any:
    # Where the adjoint is zero the state had no part in the loss, and may be NaN or Inf.
    product = _mul(adjoint, _adjoint(_clear(reset, x_before)))
    return _clear(_is_zero(adjoint), product)


def _summed_decay_gradient(adjoint: Any, x: Any, reset: Array, carry: Any, reverse: bool) -> Any:
    """Accumulate step by step: twice as fast on a CPU as summing over an array of all steps."""
    length = reset.shape[0]

    def body(i: Any, total: Any) -> Any:
        t, before = (length - 1 - i, length - i) if reverse else (i, i - 1)
        term = _decay_gradient(_at(adjoint, t), _at(x, before), _at(reset, t))
        return _tree(jnp.add, total, term)

    start = length - 1 if reverse else 0
    first = _decay_gradient(_at(adjoint, start), carry, _at(reset, start))
    return _tree(lambda v: v.sum(0), lax.fori_loop(1, length, body, first))


_scan.defvjp(_scan_forward, _scan_backward)
