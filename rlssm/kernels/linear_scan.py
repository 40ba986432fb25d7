"""The diagonal linear recurrence with resets that every linear sequence core stands on.

    x_t = a_t * where(reset_t, 0, x_{t-1}) + b_t,    x_{-1} = carry

Four implementations stand behind one signature and one custom VJP:

- `sequential`: one step after another; the least arithmetic, T steps deep.
- `associative`: neighbouring steps are composed, then their neighbours; 2 log2(T) deep.
- `chunked`: about sqrt(T) chunks advance side by side from a zero state, then each adds what it
  inherits; 2 sqrt(T) deep.
- `kernel`: one GPU kernel (`gpu_scan.py`) that reads b once and writes x once; "chunked" in two
  passes where the batch is small. Its backward pass is a kernel too.

A reset is a selection, never a product with zero, so nothing behind it, NaN and Inf included,
reaches past it. The VJP is a linear scan in the other direction, so the same holds for
gradients; all it stores is `a`, `x`, `reset` and `carry`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from rlssm.errors import UserError, unknown_name
from rlssm.kernels import gpu_scan
from rlssm.kernels.pair import (
    Number,
    adjoint_of,
    advance,
    at_time,
    clear,
    delay,
    flip,
    is_zero,
    kind_of,
    mul,
    ones,
    put_at,
    shape_of,
    take_step,
    tree,
    varies_in_time,
)


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
      implementation: "sequential", "associative", "chunked", "kernel", or "auto" for the portable
        one measured to be fastest on this backend, for the states alone or, where gradients are
        asked for, for both. Where there is no GPU, or the numbers are not 32 bits wide, "kernel"
        means "auto".
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
    if implementation not in ("auto", *IMPLEMENTATIONS):
        raise unknown_name("implementation", implementation, ["auto", *IMPLEMENTATIONS])
    dtype = jnp.result_type(*jax.tree.leaves((a, b, carry)))
    a, b, carry = tree(lambda v: v.astype(dtype), (a, b, carry))
    backend, length = jax.default_backend(), shape_of(b)[0]
    if implementation == "kernel" and (
        length == 1 or not gpu_scan.runs(backend, shape_of(b), jax.tree.leaves(b)[0].dtype)
    ):
        implementation = "auto"
    x = _scan(implementation, reverse, a, b, reset, carry)
    return tree(lambda v: v[0 if reverse else -1], x), x


# On a CPU the least arithmetic wins, 2 to 5 times over, but in one corner: a loop over a state of
# more than 20 numbers costs some three times as much per step, which chunks pay sqrt(T) times
# instead of T times, until there are too many numbers. A gradient, which is two scans and a sum,
# gets there sooner. From how many steps on, a state of how many real numbers is scanned in chunks
# (scripts/benchmark/scan.py, medians over processes on two cores):
_CHUNKED_ALONE = ((896, 44, 56), (1536, 21, 64), (2048, 21, 96), (4096, 21, 128))
_CHUNKED_GRADIENT = ((384, 44, 64), (640, 40, 64), (1536, 21, 64), (2048, 21, 96), (4096, 21, 128))


def fastest(backend: str, a: Any, b: Any, *, gradient: bool) -> str:
    """Return what "auto" means for a scan, with or without its gradient."""
    length = shape_of(b)[0]
    if length == 1:
        return "sequential"
    if backend != "cpu":  # the kernel takes 40 s to compile with its gradient: it must be asked for
        return "associative"
    numbers = math.prod(shape_of(b)[1:]) * (1 if kind_of(b) == "real" else 2)
    table = _CHUNKED_GRADIENT if gradient else _CHUNKED_ALONE
    fewest, most = next(((n, m) for steps, n, m in reversed(table) if length >= steps), (0, -1))
    chunks = fewest <= numbers <= most and not varies_in_time(a, b)
    return "chunked" if chunks else "sequential"


# --- Arguments --------------------------------------------------------------------------------


def _check(a: Number, b: Number, reset: Array, carry: Number) -> None:
    kinds = [kind_of(value) for value in (a, b, carry)]
    if len(set(kinds)) > 1:
        raise UserError(
            f"a, b and carry must all be real, all complex or all a Pair, got {', '.join(kinds)}"
        )
    shape = shape_of(b)
    if len(shape) < 2 or shape[0] < 1:
        raise UserError(f"b must have shape (T, B, *F) with T >= 1, got {shape}")
    for name, found, allowed in (
        ("a", shape_of(a), (shape[2:], shape)),
        ("reset", reset.shape, (shape[:2],)),
        ("carry", shape_of(carry), (shape[1:],)),
    ):
        if found not in allowed:
            expected = " or ".join(map(str, allowed))
            raise UserError(f"{name} must have shape {expected} to fit b {shape}, got {found}")


# --- Implementations: (a, b, reset, carry, reverse) -> x --------------------------------------


def _sequential(a: Any, b: Any, reset: Array, carry: Any, reverse: bool = False) -> Any:
    length = reset.shape[0]
    if length == 1:
        return take_step(a, tree(lambda v: v[None], carry), reset, b)
    varies = varies_in_time(a, b)

    def body(i: Any, state: Any) -> Any:
        x, buffer = state
        t = length - 1 - i if reverse else i
        x = take_step(at_time(a, t) if varies else a, x, at_time(reset, t), at_time(buffer, t))
        return x, put_at(buffer, x, t)

    # x_t overwrites the b_t it came from, which spares a buffer and a pass over memory.
    return lax.fori_loop(0, length, body, (carry, b))[1]


def _either_way(forward: Any) -> Any:
    def scan(a: Any, b: Any, reset: Array, carry: Any, reverse: bool) -> Any:
        if not reverse:
            return forward(a, b, reset, carry)
        a = flip(a) if varies_in_time(a, b) else a
        return flip(forward(a, flip(b), flip(reset), carry))

    return scan


def _associative(a: Any, b: Any, reset: Array, carry: Any) -> Any:
    """Compose steps 2k and 2k + 1, solve for the odd ones, then step to the even ones.

    A constant `a` stays one value at every level, where `lax.associative_scan` would carry its
    products along with the states.
    """
    length = reset.shape[0]
    if length == 1:
        return _sequential(a, b, reset, carry)
    half, varies = length // 2, varies_in_time(a, b)
    a_even, a_odd = (tree(lambda v, i=i: v[i::2], a) if varies else a for i in (0, 1))
    b_even, b_odd = (tree(lambda v, i=i: v[i::2], b) for i in (0, 1))
    reset_even, reset_odd = reset[::2], reset[1::2]

    a_pairs = mul(a_odd, tree(lambda v: v[:half], a_even) if varies else a)
    b_pairs = take_step(a_odd, tree(lambda v: v[:half], b_even), reset_odd, b_odd)
    x_odd = _associative(a_pairs, b_pairs, reset_even[:half] | reset_odd, carry)
    x_before = tree(lambda c, v: jnp.concatenate([c[None], v])[: length - half], carry, x_odd)
    x_even = take_step(a_even, x_before, reset_even, b_even)
    return tree(_interleave, x_even, x_odd)


def _interleave(even: Array, odd: Array) -> Array:
    half = odd.shape[0]
    pairs = jnp.stack([even[:half], odd], axis=1).reshape((2 * half, *odd.shape[1:]))
    return jnp.concatenate([pairs, even[half:]])


def _chunked(a: Any, b: Any, reset: Array, carry: Any) -> Any:
    length, varies = reset.shape[0], varies_in_time(a, b)
    # Odd, since equal addresses of many chunks modulo a page make their steps wait for each other.
    size = min(length, 2 ** ((length - 1).bit_length() // 2) + 1)

    def cut(v: Array) -> Array:  # [T, ...] to [size, chunks, ...]
        padded = jnp.pad(v, [(0, -length % size)] + [(0, 0)] * (v.ndim - 1))
        return jnp.swapaxes(padded.reshape((-1, size, *v.shape[1:])), 0, 1)

    def join(v: Array) -> Array:
        return jnp.swapaxes(v, 0, 1).reshape((-1, *v.shape[2:]))[:length]

    b, reset, a = tree(cut, b), cut(reset), tree(cut, a) if varies else a
    local = _sequential(a, b, reset, tree(lambda v: jnp.zeros_like(v[0]), b))
    seen = jnp.cumsum(reset, axis=0) > 0
    # Products of `a` from the start of a chunk: a scan from one with no input.
    still = tree(lambda v: jnp.zeros((size, *v.shape[varies:]), v.dtype), a)
    one = ones(tree(lambda v: v[0], still))
    decay = _sequential(a, still, jnp.zeros(size, bool), one)

    a_chunk, x_chunk, seen_chunk = tree(lambda v: v[-1], (decay, local, seen))
    inherited = delay(_sequential(a_chunk, x_chunk, seen_chunk, carry), carry)
    decay = decay if varies else tree(lambda v: v[:, None, None], decay)
    x = take_step(decay, tree(lambda v: v[None], inherited), seen, local)
    return tree(join, x)


IMPLEMENTATIONS = {
    "sequential": _sequential,
    "associative": _either_way(_associative),
    "chunked": _either_way(_chunked),
    "kernel": gpu_scan.scan,
}


# --- One VJP for all --------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(implementation: str, reverse: bool, a: Any, b: Any, reset: Array, carry: Any) -> Any:
    if implementation == "auto":
        implementation = fastest(jax.default_backend(), a, b, gradient=False)
    return IMPLEMENTATIONS[implementation](a, b, reset, carry, reverse)


def _scan_forward(
    implementation: str, reverse: bool, a: Any, b: Any, reset: Array, carry: Any
) -> tuple[Any, Any]:
    x = _differentiable(implementation, reverse, a, b, reset, carry)
    return x, (a, x, reset, carry)


def _differentiable(
    implementation: str, reverse: bool, a: Any, b: Any, reset: Array, carry: Any
) -> Any:
    # Within its own rules a scan is what it is made of, so that a gradient can be differentiated
    # forwards; but JAX cannot see into the kernel, which has no derivative beside these rules.
    if implementation == "auto":
        implementation = fastest(jax.default_backend(), a, b, gradient=True)
    if implementation == "kernel":
        return _scan(implementation, reverse, a, b, reset, carry)
    return IMPLEMENTATIONS[implementation](a, b, reset, carry, reverse)


def _scan_backward(implementation: str, reverse: bool, residuals: Any, g: Any) -> Any:
    """Scan the other way: with g_t the cotangent of x_t and a* the adjoint of a,

    lambda_t = g_t + where(reset_{t+1}, 0, a*_{t+1} lambda_{t+1}),    d b_t = lambda_t
    d a_t = lambda_t where(reset_t, 0, x*_{t-1}),    d carry = where(reset_0, 0, a*_0 lambda_0)
    """
    a, x, reset, carry = residuals
    if implementation == "auto":
        implementation = fastest(jax.default_backend(), a, x, gradient=True)
    if implementation == "kernel":
        d_a, d_b = _kernel_gradients(reverse, a, x, reset, carry, g)
    else:
        d_a, d_b = _gradients(implementation, reverse, a, x, reset, carry, g)
    start = -1 if reverse else 0
    a_start, d_start = tree(lambda v: v[start], (a if varies_in_time(a, x) else (), d_b))
    a_start = a_start if varies_in_time(a, x) else a
    d_carry = clear(reset[start], mul(adjoint_of(a_start), d_start))
    return d_a, d_b, None, d_carry


def _gradients(
    implementation: str, reverse: bool, a: Any, x: Any, reset: Array, carry: Any, g: Any
) -> tuple[Any, Any]:
    """Return the gradients of a and b by a scan of the same implementation."""
    varies = varies_in_time(a, x)
    earlier, later = (advance, delay) if reverse else (delay, advance)

    a_after = adjoint_of(later(a, tree(lambda v: v[0], a)) if varies else a)
    reset_after = later(reset, jnp.ones_like(reset[0]))
    rest = tree(jnp.zeros_like, carry)
    adjoint = _differentiable(implementation, not reverse, a_after, g, reset_after, rest)

    if varies:
        d_a = _decay_gradient(adjoint, earlier(x, carry), reset)
    elif implementation == "sequential":
        d_a = _summed_decay_gradient(adjoint, x, reset, carry, reverse)
    else:
        d_a = _decay_gradient(adjoint, earlier(x, carry), reset)
        d_a = tree(lambda v: v.sum((0, 1)), d_a)
    return d_a, adjoint


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradients(
    reverse: bool, a: Any, x: Any, reset: Array, carry: Any, g: Any
) -> tuple[Any, Any]:
    return gpu_scan.backward(a, x, reset, carry, g, reverse)


def _kernel_gradients_forward(reverse: bool, *inputs: Any) -> tuple[Any, Any]:
    return _kernel_gradients(reverse, *inputs), inputs


def _kernel_gradients_backward(reverse: bool, inputs: Any, g: Any) -> Any:
    # Second derivatives are rare: those of the same gradients, composed of a scan and products.
    return jax.vjp(partial(_gradients, "kernel", reverse), *inputs)[1](g)


_kernel_gradients.defvjp(_kernel_gradients_forward, _kernel_gradients_backward)


def _decay_gradient(adjoint: Any, x_before: Any, reset: Array) -> Any:
    # Where the adjoint is zero the state had no part in the loss, and may be NaN or Inf.
    product = mul(adjoint, adjoint_of(clear(reset, x_before)))
    return clear(is_zero(adjoint), product)


def _summed_decay_gradient(adjoint: Any, x: Any, reset: Array, carry: Any, reverse: bool) -> Any:
    """Accumulate step by step: twice as fast on a CPU as summing over an array of all steps."""
    length = reset.shape[0]

    def body(i: Any, total: Any) -> Any:
        t, before = (length - 1 - i, length - i) if reverse else (i, i - 1)
        term = _decay_gradient(at_time(adjoint, t), at_time(x, before), at_time(reset, t))
        return tree(jnp.add, total, term)

    start = length - 1 if reverse else 0
    first = _decay_gradient(at_time(adjoint, start), carry, at_time(reset, start))
    return tree(lambda v: v.sum(0), lax.fori_loop(1, length, body, first))


_scan.defvjp(_scan_forward, _scan_backward)
