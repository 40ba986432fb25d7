"""The diagonal scan with resets as a GPU kernel: forward, and backward in one pass.

    x_t = a_t where(reset_t, 0, x_{t-1}) + b_t,    x_{-1} = carry

A scan moves bytes, it hardly computes, so the kernel is built to read b once, write x once and
keep many loads in flight. One program advances a tile of states, a few rows of the batch by a few
features, one step after another; it loads the inputs of several steps before it uses the first.
Where batch and features alone fill the chip that is all, one pass. Where they do not, time is cut
into chunks that advance side by side, in two passes: the first reads b and writes what each chunk
does to the state it is given (x -> A x + q, or x -> q after a reset), but for the last; a short
scan over the chunks, by the same kernels, finds the state before each; the second runs each chunk
from there.

The backward kernel runs the other way over g, reads x beside it, and sums the gradient of a
constant `a` in registers. Only Triton lowers these kernels; elsewhere they run in an interpreter,
for tests.
"""

import logging
import math
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool

from rlssm.kernels.pair import (
    Pair,
    adjoint_of,
    advance,
    clear,
    delay,
    is_zero,
    mul,
    ones,
    shape_of,
    take_step,
    tree,
    varies_in_time,
)


class Plan(NamedTuple):
    """How a scan is cut into programs. Measured by scripts/benchmark/kernels.py."""

    lanes: int = 32
    """States a program advances, a power of two."""
    warps: int = 1
    """Warps of 32 threads that share a program's states."""
    unroll: int = 32
    """Steps whose inputs are loaded together."""
    ahead: bool = False
    """Whether the next `unroll` inputs are loaded before the present ones are used."""
    chunk: int | None = None
    """Steps of a chunk, a multiple of `unroll`; None for one pass over all."""


FULL_CHIP = 4096
"""States at which one pass is as fast as two."""
SHORT = 256
"""Steps up to which one pass is as fast as two, however few the states."""
ENOUGH = 65536
"""States over all chunks that two passes aim at."""


def choose_plan(length: int, states: int) -> Plan:
    """Return the plan for so many steps of so many states (batch times features)."""
    plan = Plan(unroll=4) if INTERPRET else Plan()  # the interpreter compiles each load
    if states >= FULL_CHIP or length <= SHORT:
        return plan
    chunks = -(-ENOUGH // states)
    least = plan.unroll * max(2, -(-length // (chunks * plan.unroll)))
    if least >= length:
        return plan
    even = (size for size in range(least, 2 * least, plan.unroll) if length % size == 0)
    return plan._replace(chunk=next(even, least))


INTERPRET = False
"""Whether the kernels run in the interpreter, on any backend; set by tests."""

LARGEST = 2**31
"""Elements of an array from which the kernel's 32-bit offsets overflow."""


def runs(backend: str, shape: tuple[int, ...], dtype: Any) -> bool:
    """Return whether the kernel can run a scan of this shape; say it once if it never can."""
    if INTERPRET:
        return True
    if backend != "gpu":
        _say_once(f"no GPU kernel for backend {backend!r}: scans take their portable form")
        return False
    return jnp.dtype(dtype) in (jnp.float32, jnp.complex64) and 0 < math.prod(shape) < LARGEST


@cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).info(message)


# --- Scan and adjoint -------------------------------------------------------------------------


def scan(
    a: Any,
    b: Any,
    reset: Bool[Array, "T B"],
    carry: Any,
    reverse: bool = False,
    *,
    plan: Plan | None = None,
) -> Any:
    """Return the states; arguments as in `linear_scan`, all of one kind and dtype."""
    if jnp.iscomplexobj(b):
        pairs = _split(a), _split(b), reset, _split(carry)
        x = scan(*pairs, reverse, plan=plan)
        return lax.complex(x.re, x.im)
    shape = shape_of(b)
    a, b, carry = _flatten(a, b, carry)
    x, _ = _advance_all(a, b, reset, carry, reverse, None, 0, plan)
    return tree(lambda v: v.reshape(shape), x)


def backward(
    a: Any,
    x: Any,
    reset: Bool[Array, "T B"],
    carry: Any,
    g: Any,
    reverse: bool = False,
    *,
    plan: Plan | None = None,
) -> tuple[Any, Any]:
    """Return the gradients (d_a, d_b) of a scan with states x and cotangent g of the states."""
    if jnp.iscomplexobj(x):
        # JAX's cotangents of complex arrays are conjugate to those of pairs, going in and out.
        pairs = [_split(v) for v in (a, x, carry, g)]
        pairs[3] = adjoint_of(pairs[3])
        gradients = backward(pairs[0], pairs[1], reset, *pairs[2:], reverse, plan=plan)
        d_a, d_b = (lax.complex(d.re, -d.im) for d in gradients)
        return d_a, d_b
    shapes = shape_of(a), shape_of(x)
    varies = varies_in_time(a, x)
    _, g, _ = _flatten(a, g, carry)
    a, x, carry = _flatten(a, x, carry)
    rest = tree(jnp.zeros_like, carry)
    later = advance if not reverse else delay
    reset_after = later(reset, jnp.ones_like(reset[0]))
    d_b, d_a = _advance_all(
        a if varies else adjoint_of(a),
        g,
        reset_after,
        rest,
        not reverse,
        (x, reset, carry),
        -1 if reverse else 1,
        plan,
    )
    d_a = d_a if varies else tree(lambda v: v.sum((0, 1)), d_a)
    return tree(lambda v: v.reshape(shapes[0]), d_a), tree(lambda v: v.reshape(shapes[1]), d_b)


def _split(value: Array) -> Pair:
    return Pair(value.real, value.imag)


def _flatten(a: Any, b: Any, carry: Any) -> tuple[Any, Any, Any]:
    """Return the arguments with one axis of features."""
    length, batch = shape_of(b)[:2]
    features = math.prod(shape_of(b)[2:])
    a_shape = (length, batch, features) if varies_in_time(a, b) else (1, features)
    return (
        tree(lambda v: v.reshape(a_shape), a),
        tree(lambda v: v.reshape(length, batch, features), b),
        tree(lambda v: v.reshape(batch, features), carry),
    )


def _advance_all(
    a: Any,
    b: Any,
    reset: Array,
    carry: Any,
    reverse: bool,
    primal: Any,
    shift: int,
    plan: Plan | None,
) -> tuple[Any, Any]:
    """Return all states and, where the primal (x, reset, carry) is given, the gradient of `a`.

    Step t decays by `a[t + shift]`; `shift` is 0 but in the backward scan of a varying `a`, which
    also conjugates it.
    """
    length, batch, features = shape_of(b)
    plan = plan or choose_plan(length, batch * features)
    call = partial(_launch, a=a, b=b, reset=reset, reverse=reverse, shift=shift, plan=plan)
    if plan.chunk is None or plan.chunk >= length:
        start = tree(lambda v: v[None], carry)
    else:
        decay, pushed = call("effect", start=None, primal=None)
        ordered = reset[::-1] if reverse else reset
        whole = (length - 1) // plan.chunk  # chunks before the last, whose effect nobody needs
        seen = ordered[: whole * plan.chunk].reshape(whole, plan.chunk, batch).any(1)
        ends, _ = _advance_all(decay, pushed, seen, carry, False, None, 0, None)
        start = tree(lambda first, later: jnp.concatenate([first[None], later]), carry, ends)
    return call("states", start=start, primal=primal)


# --- The kernel -------------------------------------------------------------------------------


class _Inputs(NamedTuple):
    """What a program reads; `x`, `x_reset` and `x_start` only where it finds a gradient."""

    a: Any
    b: Any
    reset: Any
    start: Any
    x: Any
    x_reset: Any
    x_start: Any


def _launch(
    result: str,
    *,
    a: Any,
    b: Any,
    reset: Array,
    start: Any,
    primal: Any,
    reverse: bool,
    shift: int,
    plan: Plan,
) -> tuple[Any, Any]:
    """Run every chunk of every tile.

    The result is "states", (x, d_a or None), or "effect", the (A, q) of every chunk but the last.
    """
    length, batch, features = shape_of(b)
    chunk = length if plan.chunk is None else min(plan.chunk, length)
    width = min(plan.lanes, pl.next_power_of_2(features))
    rows = min(max(1, plan.lanes // width), pl.next_power_of_2(batch))
    chunks = -(-length // chunk) - (result == "effect")
    grid = (-(-features // width), -(-batch // rows), chunks)  # neighbours in memory run together
    whole = pl.BlockSpec((length, rows, width), lambda j, i, c: (0, i, j))
    flags = pl.BlockSpec((length, rows), lambda j, i, c: (0, i))
    at_chunk = pl.BlockSpec((None, rows, width), lambda j, i, c: (c, i, j))
    at_start = pl.BlockSpec((rows, width), lambda j, i, c: (i, j))
    constant = pl.BlockSpec((1, width), lambda j, i, c: (0, j))
    x, x_reset, x_start = primal or (None, None, None)
    inputs = _Inputs(a, b, reset, start, x, x_reset, x_start)
    varies = varies_in_time(a, b)
    specs = _Inputs(
        tree(lambda _: whole if varies else constant, a),
        tree(lambda _: whole, b),
        flags,
        tree(lambda _: at_chunk, start),
        tree(lambda _: whole, x),
        None if primal is None else flags,
        tree(lambda _: at_start, x_start),
    )
    per_step = tree(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), b)
    per_chunk = tree(lambda v: jax.ShapeDtypeStruct((chunks, batch, features), v.dtype), b)
    if result == "effect":
        kinds = (per_chunk, at_chunk), (per_chunk, at_chunk)
    elif primal is None:
        kinds = (per_step, whole), (None, None)
    else:
        kinds = (per_step, whole), (per_step, whole) if varies else (per_chunk, at_chunk)
    shapes = tuple(shape for shape, _ in kinds)
    out_specs = [spec for shape, spec in kinds for _ in jax.tree.leaves(shape)]
    body = partial(
        _program,
        result=result,
        sizes=(length, batch, features),
        tile=(chunk, rows, width),
        reverse=reverse,
        shift=shift,
        unroll=min(plan.unroll, chunk),
        ahead=plan.ahead,
    )
    structure = jax.tree.structure((inputs, shapes))

    def kernel(*refs: Any) -> None:
        body(*jax.tree.unflatten(structure, refs))

    leaves = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=jax.tree.leaves(specs),
        out_specs=out_specs,
        out_shape=jax.tree.leaves(shapes),
        compiler_params=plgpu.CompilerParams(num_warps=plan.warps, num_stages=1),
        interpret=INTERPRET,
        name=f"scan_{result}",
    )(*jax.tree.leaves(inputs))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _program(
    inputs: _Inputs,
    outputs: Any,
    *,
    result: str,
    sizes: tuple[int, int, int],
    tile: tuple[int, int, int],
    reverse: bool,
    shift: int,
    unroll: int,
    ahead: bool,
) -> None:
    length, (chunk, rows, width) = sizes[0], tile
    first = pl.program_id(2) * chunk  # steps are counted in the direction of the scan
    row_inside, column_inside, inside = _inside(sizes, tile)
    varies = jax.tree.leaves(inputs.a)[0].ndim == 3
    differentiates = inputs.x is not None
    ragged = length % chunk != 0 or chunk % unroll != 0  # the last loads pass the end

    def time(step: Any) -> Any:
        return length - 1 - step if reverse else step

    def within(step: Any, end: Any = None) -> Any:
        if not ragged and end is None:
            return inside
        alive = jnp.broadcast_to(step < (length if end is None else end), (rows, width))
        return alive if inside is None else inside & alive

    def read_flag(ref: Any, t: Any) -> Array:
        other = None if row_inside is None else False
        return plgpu.load(ref.at[t, :], mask=row_inside, other=other)[:, None]

    def read(step: Any) -> Any:
        """Return a, b, reset and, for a gradient, x and reset of the step before in the primal."""
        t = time(step)
        mask = within(step, jnp.minimum(first + chunk, length) if ahead else None)
        t = jnp.clip(t, 0, length - 1) if ragged or ahead else t
        a = constant
        if varies:
            moved = jnp.clip(t + shift, 0, length - 1) if shift else t
            a = _load(inputs.a, moved, mask)
            a = adjoint_of(a) if shift else a
        b, reset = _load(inputs.b, t, mask), read_flag(inputs.reset, t)
        if not differentiates:
            return a, b, reset
        before = t + (-1 if reverse else 1)
        at_edge = (before < 0) | (before > length - 1)
        x = _load(inputs.x, jnp.clip(before, 0, length - 1), mask)
        x = tree(partial(jnp.where, at_edge), x_start, x)
        return a, b, reset, x, read_flag(inputs.x_reset, t)

    def use(step: Any, state: Any, read_values: Any) -> Any:
        x, extra = state
        a, b, reset, *primal = read_values
        x = take_step(a, x, reset, b)
        if result == "effect":
            return x, tree(lambda v: jnp.where(reset, 0, v), mul(a, extra))
        _store(outputs[0], time(step), x, within(step))
        if not differentiates:
            return x, extra
        product = mul(x, adjoint_of(clear(primal[1], primal[0])))
        gradient = clear(is_zero(x), product)
        if varies:
            _store(outputs[1], time(step), gradient, within(step))
            return x, extra
        mask = within(step)
        if mask is not None:
            gradient = clear(~mask, gradient)
        return x, tree(jnp.add, extra, gradient)

    constant = None if varies else _load(inputs.a, None, column_inside)
    x_start = _load(inputs.x_start, None, inside) if differentiates else None
    nothing = tree(lambda ref: jnp.zeros((rows, width), ref.dtype), inputs.b)
    if result == "effect":
        state = nothing, ones(nothing)
    else:
        start = _load(inputs.start, None, inside)
        state = start, nothing if differentiates and not varies else ()

    def read_several(i: Any) -> Any:
        return [read(first + i * unroll + u) for u in range(unroll)]

    def use_several(i: Any, state: Any, values: Any) -> Any:
        for u, value in enumerate(values):
            state = use(first + i * unroll + u, state, value)
        return state

    turns = -(-chunk // unroll)
    if ahead:

        def prefetch_and_use(i: Any, loop: Any) -> Any:
            state, values = loop
            following = read_several(i + 1)
            return use_several(i, state, values), following

        state, _ = lax.fori_loop(0, turns, prefetch_and_use, (state, read_several(0)))
    else:
        state = lax.fori_loop(0, turns, lambda i, s: use_several(i, s, read_several(i)), state)

    x, extra = state
    if result == "effect":
        _store(outputs[0], None, extra, inside)
        _store(outputs[1], None, x, inside)
    elif differentiates and not varies:
        _store(outputs[1], None, extra, inside)


def _inside(sizes: tuple[int, int, int], tile: tuple[int, int, int]) -> tuple[Any, Any, Any]:
    """Return which rows, columns and places of a program's tile lie in the array.

    All are None where every tile is whole.
    """
    (_, batch, features), (_, rows, width) = sizes, tile
    if batch % rows == 0 and features % width == 0:
        return None, None, None
    row, column = pl.program_id(1) * rows, pl.program_id(0) * width

    def below(limit: int, start: Any, shape: tuple[int, ...], axis: int) -> Array:
        return start + lax.broadcasted_iota(jnp.int32, shape, axis) < limit

    return (
        below(batch, row, (rows,), 0),
        below(features, column, (1, width), 1),
        below(batch, row, (rows, width), 0) & below(features, column, (rows, width), 1),
    )


def _part(ref: Any, t: Any) -> Any:
    return ref.at[:, :] if t is None else ref.at[t, :, :]


def _load(refs: Any, t: Any, mask: Any) -> Any:
    other = None if mask is None else 0.0
    return tree(lambda ref: plgpu.load(_part(ref, t), mask=mask, other=other), refs)


def _store(refs: Any, t: Any, values: Any, mask: Any) -> None:
    tree(lambda ref, value: plgpu.store(_part(ref, t), value, mask=mask), refs, values)
