"""The scan against a float64 loop, finite differences, and what lies behind a reset."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlssm.errors import UserError
from rlssm.kernels.linear_scan import IMPLEMENTATIONS, fastest, linear_scan
from rlssm.kernels.pair import Pair, take_step

KINDS = ["real", "complex", "pair"]
PORTABLE = [name for name in IMPLEMENTATIONS if name != "kernel"]
NAMES = [*PORTABLE, pytest.param("kernel", marks=pytest.mark.gpu)]  # "auto" where there is no GPU
T, B, P = 13, 3, 4  # an odd length leaves a remainder in every implementation


# --- Oracle -----------------------------------------------------------------------------------


def loop(
    a: np.ndarray, b: np.ndarray, reset: np.ndarray, carry: np.ndarray, reverse: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Write the equation down as a loop."""
    a, x, states = np.broadcast_to(a, b.shape), carry, np.empty_like(b)
    for t in reversed(range(len(b))) if reverse else range(len(b)):
        dropped = np.reshape(reset[t], reset[t].shape + (1,) * (x.ndim - 1))
        states[t] = x = a[t] * np.where(dropped, 0, x) + b[t]
    return x, states


def loop_vjp(
    a: np.ndarray, b: np.ndarray, reset: np.ndarray, carry: np.ndarray, g: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differentiate sum_t Re(conj(g_t) x_t) by carrying the gradient of the state backwards."""
    states, decay = loop(a, b, reset, carry)[1], np.broadcast_to(a, b.shape)
    d_a, d_b, d_x = np.zeros_like(b), np.zeros_like(b), np.zeros_like(carry)
    for t in reversed(range(len(b))):
        d_b[t] = d_x = d_x + g[t]
        kept = ~reset[t][:, None]
        before = states[t - 1] if t else carry
        d_a[t] = kept * d_x * before.conj()
        d_x = kept * d_x * decay[t].conj()
    return d_a if a.ndim == b.ndim else d_a.sum((0, 1)), d_b, d_x


def problem(
    kind: str, varies: bool, length: int = T, seed: int = 0, rate: float = 0.2
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        re, im = rng.normal(size=(2, *shape))
        return re if kind == "real" else re + 1j * im

    a = draw(length, B, P) if varies else draw(P)
    a = a / np.abs(a) * rng.uniform(0.5, 1.0, a.shape)
    return a, draw(length, B, P), rng.random((length, B)) < rate, draw(B, P)


def to_kind(kind: str, value: np.ndarray) -> Any:
    if kind == "pair":
        return Pair(jnp.asarray(value.real), jnp.asarray(value.imag))
    return jnp.asarray(value)


def from_kind(value: Any) -> np.ndarray:
    if isinstance(value, Pair):
        return np.asarray(value.re) + 1j * np.asarray(value.im)
    return np.asarray(value)


def gradient_of(value: Any) -> np.ndarray:
    """Return d/d re + i d/d im; JAX gives a complex array the conjugate of that."""
    return from_kind(value) if isinstance(value, Pair) else np.conj(from_kind(value))


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


# --- Values and gradients ---------------------------------------------------------------------


@pytest.mark.parametrize("varies", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_equal_a_float64_loop(name: str, kind: str, varies: bool) -> None:
    a, b, reset, carry = problem(kind, varies)
    g = problem(kind, varies, seed=1)[1]
    with jax.enable_x64(True):

        @jax.jit
        def run(a: Any, b: Any, carry: Any, g: Any) -> Any:
            def states(a: Any, b: Any, carry: Any) -> Any:
                return linear_scan(a, b, jnp.asarray(reset), carry, implementation=name)

            (last, x), pull = jax.vjp(states, a, b, carry)
            return last, x, pull((jax.tree.map(jnp.zeros_like, last), g))

        # A complex cotangent is conjugated, that of a pair is not.
        cotangent = to_kind(kind, g) if kind == "pair" else to_kind(kind, g.conj())
        last, x, gradients = run(*(to_kind(kind, v) for v in (a, b, carry)), cotangent)
        expected_last, expected = loop(a, b, reset, carry)
        assert type(x) is type(to_kind(kind, b))
        assert_close(from_kind(x), expected, 1e-12)
        assert_close(from_kind(last), expected_last, 1e-12)
        for found, wanted in zip(gradients, loop_vjp(a, b, reset, carry, g), strict=True):
            assert_close(gradient_of(found), wanted, 1e-12)


@pytest.mark.parametrize("varies", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name: str, varies: bool) -> None:
    a, b, reset, carry = problem("real", varies, length=6)
    with jax.enable_x64(True):

        @jax.jit
        def loss(a: Any, b: Any, carry: Any) -> Any:
            last, x = linear_scan(a, b, jnp.asarray(reset), carry, implementation=name)
            return jnp.sum(jnp.sin(x)) + jnp.sum(last**2)

        inputs = tuple(jnp.asarray(v) for v in (a, b, carry))
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)
        rng, step = np.random.default_rng(2), 1e-6
        for i, gradient in enumerate(gradients):
            direction = rng.normal(size=gradient.shape)
            ends = []
            for sign in (1, -1):
                moved = list(inputs)
                moved[i] = moved[i] + sign * step * direction
                ends.append(float(loss(*moved)))
            difference = (ends[0] - ends[1]) / (2 * step)
            assert difference == pytest.approx(float(jnp.sum(gradient * direction)), rel=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_equal_finite_differences(name: str) -> None:
    a, b, reset, carry = problem("real", False, length=5)
    with jax.enable_x64(True):

        def loss(inputs: Any) -> Any:
            a, b, carry = inputs
            x = linear_scan(a, b, jnp.asarray(reset), carry, implementation=name)[1]
            return jnp.sum(jnp.sin(x))

        @jax.jit
        def slope(inputs: Any) -> Any:  # of the loss along a fixed direction
            gradients = jax.grad(loss)(inputs)
            return sum(jnp.vdot(g, d) for g, d in zip(gradients, direction, strict=True))

        inputs = tuple(jnp.asarray(v) for v in (a, b, carry))
        rng, step = np.random.default_rng(3), 1e-6
        direction, other = (tuple(rng.normal(size=v.shape) for v in inputs) for _ in range(2))
        ends = [
            float(slope(tuple(v + sign * step * o for v, o in zip(inputs, other, strict=True))))
            for sign in (1, -1)
        ]
        curvature = jax.jit(jax.grad(slope))(inputs)
        found = sum(float(jnp.vdot(c, o)) for c, o in zip(curvature, other, strict=True))
        assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
        other = tuple(jnp.asarray(o) for o in other)
        forwards = jax.jit(lambda inputs: jax.jvp(slope, (inputs,), (other,))[1])(inputs)
        assert found == pytest.approx(float(forwards), rel=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 257])
@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_float32_stays_close_to_the_loop_at_every_length(name: str, length: int) -> None:
    a, b, reset, carry = problem("pair", False, length=length, rate=0.1)
    reset[0, 0], reset[-1, 1] = True, True
    run = jax.jit(partial(linear_scan, implementation=name))
    float32 = [to_kind("pair", v.astype(np.complex64)) for v in (a, b, carry)]
    last, x = run(*float32[:2], jnp.asarray(reset), float32[2])
    assert x.re.dtype == jnp.float32
    expected_last, expected = loop(a, b, reset, carry)
    assert np.abs(from_kind(x) - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(from_kind(last) - expected_last).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("varies", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("name", NAMES)
def test_reverse_is_the_scan_of_the_flipped_sequence(name: str, varies: bool) -> None:
    a, b, reset, carry = problem("pair", varies)
    with jax.enable_x64(True):

        def loss(a: Any, b: Any, carry: Any, flip: bool) -> Any:
            order = slice(None, None, -1) if flip else slice(None)
            flipped = partial(jax.tree.map, lambda v: v[order])
            last, x = linear_scan(
                flipped(a) if varies else a,
                flipped(b),
                jnp.asarray(reset)[order],
                carry,
                implementation=name,
                reverse=not flip,
            )
            weights = jnp.arange(1.0, T + 1)[:, None, None]
            x = flipped(x)
            return jnp.sum(weights * x.re * x.im) + jnp.sum(last.re), x

        inputs = [to_kind("pair", v) for v in (a, b, carry)]
        value = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
        (_, x), gradients = value(*inputs, False)
        (_, expected), wanted = value(*inputs, True)
        assert_close(from_kind(x), loop(a, b, reset, carry, reverse=True)[1], 1e-12)
        assert_close(from_kind(x), from_kind(expected), 1e-12)
        for found, other in zip(gradients, wanted, strict=True):
            assert_close(from_kind(found), from_kind(other), 1e-12)


# --- Resets -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pattern=st.lists(st.booleans(), min_size=T * B, max_size=T * B))
@pytest.mark.parametrize("name", NAMES)
def test_any_pattern_of_resets(name: str, pattern: list[bool]) -> None:
    a, b, _, carry = problem("real", False)
    reset = np.reshape(np.array(pattern), (T, B))
    x, gradients = jitted(name)(a, b, reset, carry)
    g = np.cos(np.arange(T * B * P)).reshape(T, B, P)
    assert_close(np.asarray(x), loop(a, b, reset, carry)[1], 2e-6)
    for found, wanted in zip(gradients, loop_vjp(a, b, reset, carry, g), strict=True):
        assert_close(np.asarray(found), wanted, 1e-5)


_COMPILED: dict[str, Any] = {}


def jitted(name: str) -> Any:
    """Compile once for all examples of a property."""

    def run(a: Any, b: Any, reset: Any, carry: Any) -> Any:
        def states(a: Any, b: Any, carry: Any) -> Any:
            return linear_scan(a, b, reset, carry, implementation=name)[1]

        x, pull = jax.vjp(states, a, b, carry)
        return x, pull(jnp.cos(jnp.arange(T * B * P, dtype=x.dtype)).reshape(T, B, P))

    return _COMPILED.setdefault(name, jax.jit(run))


@pytest.mark.parametrize("name", NAMES)
def test_chaining_two_calls_at_any_point_changes_nothing(name: str) -> None:
    a, b, reset, carry = (jnp.asarray(v) for v in problem("real", True))
    run = jax.jit(partial(linear_scan, implementation=name))
    last, x = run(a, b, reset, carry)
    for cut in (1, 4, 7, 8, T - 1):
        middle, head = run(a[:cut], b[:cut], reset[:cut], carry)
        end, tail = run(a[cut:], b[cut:], reset[cut:], middle)
        assert_close(np.concatenate([head, tail]), np.asarray(x), 2e-6)
        assert_close(np.asarray(end), np.asarray(last), 2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_with_different_resets_equals_its_rows_and_its_vmap(name: str) -> None:
    a, b, reset, carry = problem("real", False, rate=0.4)
    run = partial(linear_scan, implementation=name)
    a, b, reset, carry = jnp.asarray(a), jnp.asarray(b), jnp.asarray(reset), jnp.asarray(carry)
    once = jax.jit(run)
    together = once(a, b, reset, carry)[1]
    rows = [once(a, b[:, i : i + 1], reset[:, i : i + 1], carry[i : i + 1])[1] for i in range(B)]
    assert_close(np.concatenate(rows, axis=1), np.asarray(together), 1e-6)

    def loss(a: Any, b: Any, reset: Any, carry: Any) -> Any:
        return jnp.sum(jnp.sin(run(a, b, reset, carry)[1]))

    seeds = [jnp.stack([v, 0.5 * v]) for v in (a, b, carry)]
    resets = jnp.stack([reset, ~reset])
    gradient = jax.jit(jax.grad(loss, (0, 1, 3)))
    batched = jax.jit(jax.vmap(gradient))(seeds[0], seeds[1], resets, seeds[2])
    for seed in range(2):
        alone = gradient(seeds[0][seed], seeds[1][seed], resets[seed], seeds[2][seed])
        for found, expected in zip(batched, alone, strict=True):
            assert_close(np.asarray(found[seed]), np.asarray(expected), 1e-6)


@pytest.mark.parametrize("varies", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["real", "pair"])
@pytest.mark.parametrize("name", [*NAMES, "auto"])
def test_nothing_behind_a_reset_reaches_past_it(
    name: str, kind: str, bad: float, varies: bool
) -> None:
    at = 6
    a, b, reset, carry = problem(kind, varies, rate=0.0)
    reset[at, 0], reset[0, 1] = True, True  # row 0: bad input before; row 1: bad carry
    spoilt_b, spoilt_carry = b.copy(), carry.copy()
    spoilt_b[at - 1, 0], spoilt_carry[1] = bad, bad
    counted = np.ones((T, B, 1), np.float32)
    counted[:at, 0] = 0  # only what comes after the reset enters the loss

    @jax.jit
    def run(a: Any, b: Any, carry: Any) -> Any:
        def loss(a: Any, b: Any, carry: Any) -> Any:
            _, x = linear_scan(a, b, jnp.asarray(reset), carry, implementation=name)
            kept = jax.tree.map(lambda v: jnp.where(counted == 1, v, 0), x)
            return sum(jnp.sum(jnp.sin(v)) for v in jax.tree.leaves(kept)), x

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(a, b, carry)

    def float32(*values: np.ndarray) -> list[Any]:
        return [jax.tree.map(lambda v: v.astype(jnp.float32), to_kind(kind, v)) for v in values]

    (_, x), gradients = run(*float32(a, spoilt_b, spoilt_carry))
    (_, clean), expected = run(*float32(a, b, carry))
    assert not np.isfinite(from_kind(x)[at - 1, 0]).any()
    seen = np.broadcast_to(counted == 1, (T, B, P))
    np.testing.assert_array_equal(from_kind(x)[seen], from_kind(clean)[seen])
    jax.tree.map(np.testing.assert_array_equal, gradients, expected)
    d_b, d_carry = from_kind(gradients[1]), from_kind(gradients[2])
    assert not d_b[:at, 0].any()
    assert d_b[at:, 0].all()
    assert not d_carry[:2].any()
    assert d_carry[2].all()


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_decay_behind_a_reset_does_not_reach_past_it(name: str) -> None:
    at = 6
    a, b, reset, carry = problem("real", True, rate=0.0)
    reset[at] = True
    spoilt = a.copy()
    spoilt[:at] = np.nan

    @jax.jit
    def run(a: Any) -> Any:
        def loss(a: Any, b: Any) -> Any:
            inputs = a, b, jnp.asarray(reset), jnp.asarray(carry)
            x = linear_scan(*inputs, implementation=name)[1][at:]
            return jnp.sum(jnp.sin(x)), x

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(a, jnp.asarray(b))

    (_, x), gradients = run(jnp.asarray(spoilt))
    (_, clean), expected = run(jnp.asarray(a))
    np.testing.assert_array_equal(x, clean)
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(found[at:], wanted[at:])


@pytest.mark.parametrize("name", NAMES)
def test_one_step_without_a_reset_ignores_a_bad_carry_that_has_no_part_in_the_loss(
    name: str,
) -> None:
    a, b, carry = jnp.full(P, 0.5), jnp.ones((1, B, P)), jnp.ones((B, P)).at[0].set(jnp.nan)

    def loss(a: Any) -> Any:
        return jnp.sum(linear_scan(a, b, jnp.zeros((1, B), bool), carry, implementation=name)[0][1])

    np.testing.assert_array_equal(jax.grad(loss)(a), np.ones(P))


@pytest.mark.parametrize("name", NAMES)
def test_a_growing_state_that_is_reset_in_time_does_not_overflow(name: str) -> None:
    length = 512
    reset = jnp.arange(length)[:, None] % 4 == 0
    a, b, carry = jnp.full(1, 2.0), jnp.ones((length, 1, 1)), jnp.ones((1, 1))
    x = jax.jit(partial(linear_scan, implementation=name))(a, b, reset, carry)[1]
    np.testing.assert_array_equal(x[:, 0, 0], np.tile([1.0, 3.0, 7.0, 15.0], length // 4))


def test_the_composition_of_steps_is_associative() -> None:
    """(a, b, reset) stands for x -> a where(reset, 0, x) + b; composing keeps the outer reset."""
    rng = np.random.default_rng(0)
    flags = np.array([[bool(code >> i & 1) for code in range(8)] for i in range(3)])
    a, b = rng.normal(size=(2, 3, 8))

    def compose(first: Any, second: Any) -> Any:
        (a1, b1, r1), (a2, b2, r2) = first, second
        return a2 * a1, take_step(a2, b1, r2, b2), r1 | r2

    x = jnp.asarray(rng.normal(size=8))
    one, two, three = (
        (jnp.asarray(a[i]), jnp.asarray(b[i]), jnp.asarray(flags[i])) for i in range(3)
    )
    left, right = compose(compose(one, two), three), compose(one, compose(two, three))
    stepped = x
    for a_i, b_i, r_i in (one, two, three):
        stepped = take_step(a_i, stepped, r_i, b_i)
    for a_i, b_i, r_i in (left, right):
        assert_close(np.asarray(take_step(a_i, x, r_i, b_i)), np.asarray(stepped), 1e-6)
    np.testing.assert_array_equal(left[2], right[2])


# --- Contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_features_may_have_any_rank(name: str) -> None:
    rng = np.random.default_rng(0)
    reset = rng.random((T, B)) < 0.3
    for features in ((), (2, 3)):
        a, b = rng.uniform(-1, 1, features), rng.normal(size=(T, B, *features))
        carry = rng.normal(size=(B, *features))
        inputs = [jnp.asarray(v, jnp.float32) for v in (a, b, carry)]
        run = jax.jit(partial(linear_scan, implementation=name))
        x = run(*inputs[:2], jnp.asarray(reset), inputs[2])[1]
        assert_close(np.asarray(x), loop(a, b, reset, carry)[1], 2e-6)


def test_a_single_step_has_no_loop_and_backward_keeps_only_what_it_needs() -> None:
    a, b, reset, carry = (jnp.asarray(v) for v in problem("real", False, length=1))
    for name in ("auto", *PORTABLE):
        text = (
            jax.jit(partial(linear_scan, implementation=name)).lower(a, b, reset, carry).as_text()
        )
        assert "while" not in text
    a, b, reset, carry = (jnp.asarray(v) for v in problem("real", False))
    _, pull = jax.vjp(lambda *args: linear_scan(args[0], args[1], reset, args[2])[1], a, b, carry)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size"))
    assert sum(sizes) <= a.size + b.size + reset.size + carry.size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"a": Pair(jnp.ones(P), jnp.ones(P))},
            "a, b and carry must all be real, all complex or all a Pair, got Pair, real, real",
        ),
        (
            {"a": jnp.ones((B, P))},
            "a must have shape (4,) or (13, 3, 4) to fit b (13, 3, 4), got (3, 4)",
        ),
        (
            {"carry": jnp.ones((B, 1))},
            "carry must have shape (3, 4) to fit b (13, 3, 4), got (3, 1)",
        ),
        (
            {"b": jnp.ones((0, B, P)), "reset": jnp.zeros((0, B), bool)},
            "b must have shape (T, B, *F) with T >= 1, got (0, 3, 4)",
        ),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    inputs = {
        "a": jnp.ones(P),
        "b": jnp.ones((T, B, P)),
        "reset": jnp.zeros((T, B), bool),
        "carry": jnp.ones((B, P)),
    }
    with pytest.raises(UserError) as error:
        linear_scan(**(inputs | change))
    assert str(error.value) == message


def test_an_unknown_implementation_lists_the_known_ones() -> None:
    zeros = jnp.zeros((T, B, P))
    with pytest.raises(UserError, match="^unknown implementation 'parallel'") as error:
        linear_scan(zeros[0, 0], zeros, zeros[..., 0] > 0, zeros[0], implementation="parallel")
    assert all(name in str(error.value) for name in ("auto", *IMPLEMENTATIONS))


@pytest.mark.parametrize(
    ("shape", "alone", "with_gradient"),
    [
        ((1, 16, 64), "sequential", "sequential"),
        ((4096, 1, 10), "sequential", "sequential"),  # the whole loop is one function
        ((383, 1, 24), "sequential", "sequential"),
        ((512, 1, 24), "sequential", "chunked"),
        ((512, 1, 20), "sequential", "sequential"),
        ((768, 1, 20), "sequential", "chunked"),
        ((1024, 4, 4), "sequential", "sequential"),
        ((1024, 2, 12), "chunked", "chunked"),
        ((1024, 1, 33), "sequential", "sequential"),  # arithmetic outweighs the price of a step
        ((1536, 1, 24), "chunked", "chunked"),
        ((2048, 1, 64), "sequential", "sequential"),
        ((4096, 1, 64), "chunked", "chunked"),
        ((16384, 1, 64), "chunked", "chunked"),
        ((16384, 1, 65), "sequential", "sequential"),
    ],
)
def test_on_a_cpu_chunks_are_for_long_scans_of_narrow_states(
    shape: tuple[int, ...], alone: str, with_gradient: str
) -> None:
    b = Pair(jnp.zeros(shape), jnp.zeros(shape))
    a = Pair(b.re[0, 0], b.im[0, 0])
    assert fastest("cpu", a, b, gradient=False) == alone
    assert fastest("cpu", a, b, gradient=True) == with_gradient


def test_auto_is_chosen_apart_for_the_states_alone_and_with_their_gradient() -> None:
    a, b = Pair(jnp.ones(24), jnp.ones(24)), Pair(jnp.ones((512, 1, 24)), jnp.ones((512, 1, 24)))
    reset, carry = jnp.zeros((512, 1), bool), jax.tree.map(lambda x: x[0], b)

    def program(implementation: str, gradient: bool) -> str:
        def states(b: Pair) -> Any:
            return linear_scan(a, b, reset, carry, implementation=implementation)[1]

        def both(b: Pair) -> Any:
            x, pull = jax.vjp(states, b)
            return x, pull(x)

        return jax.jit(both if gradient else states).lower(b).as_text()

    assert program("auto", gradient=False) == program("sequential", gradient=False)
    assert program("auto", gradient=True) == program("chunked", gradient=True)
