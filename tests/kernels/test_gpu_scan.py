"""The scan kernel against a float64 loop: in the interpreter here, on the chip under `-m gpu`."""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.kernels import gpu_scan
from rlssm.kernels.gpu_scan import Plan, choose_plan
from rlssm.kernels.linear_scan import linear_scan
from rlssm.kernels.pair import Pair

GPU = [False, pytest.param(True, marks=pytest.mark.gpu)]


class Case(NamedTuple):
    kind: str
    varies: bool
    reverse: bool
    plan: Plan
    shape: tuple[int, ...] = (13, 3, 6)  # nothing is a multiple of a tile, a chunk or an unroll


CASES = [
    Case("pair", False, False, Plan(8, 1, 2)),
    Case("pair", False, False, Plan(8, 1, 2, chunk=4)),
    Case("pair", False, True, Plan(8, 1, 2, chunk=4), (12, 2, 4)),
    Case("pair", True, False, Plan(4, 1, 2, chunk=6)),
    Case("complex", True, True, Plan(8, 1, 2)),
    Case("real", False, True, Plan(8, 1, 2, ahead=True)),
    Case("real", True, False, Plan(8, 1, 1, chunk=3), (7, 5)),
]


@pytest.fixture(params=GPU, ids=["interpreter", "gpu"])
def on_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    if request.param and jax.default_backend() != "gpu":
        pytest.skip("needs a GPU that Triton compiles for")
    monkeypatch.setattr(gpu_scan, "INTERPRET", not request.param)
    yield request.param


def draw(case: Case, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return a, b, reset, carry and a cotangent, in float64."""
    rng, shape = np.random.default_rng(seed), case.shape

    def normal(*shape: int) -> np.ndarray:
        re, im = rng.normal(size=(2, *shape))
        return re if case.kind == "real" else re + 1j * im

    a = normal(*(shape if case.varies else shape[2:]))
    a = a / np.abs(a) * rng.uniform(0.5, 1.0, a.shape)
    reset = rng.random(shape[:2]) < 0.2
    return a, normal(*shape), reset, normal(*shape[1:]), normal(*shape)


def solve(
    a: np.ndarray, b: np.ndarray, reset: np.ndarray, carry: np.ndarray, g: np.ndarray, reverse: bool
) -> tuple[np.ndarray, ...]:
    """Return the states and the gradients d/d re + i d/d im of sum Re(conj(g) x), by two loops."""
    decay = np.broadcast_to(a, b.shape)
    order = list(reversed(range(len(b)))) if reverse else list(range(len(b)))
    cut = reset.reshape(reset.shape + (1,) * (b.ndim - 2))
    before, states, x = np.empty_like(b), np.empty_like(b), carry
    for t in order:
        before[t] = np.where(cut[t], 0, x)
        states[t] = x = np.where(cut[t], 0, decay[t] * x) + b[t]
    d_a, d_b, later = np.empty_like(b), np.empty_like(b), np.zeros_like(carry)
    for t in reversed(order):
        d_b[t] = later = later + g[t]
        d_a[t] = later * before[t].conj()
        later = np.where(cut[t], 0, decay[t].conj() * later)
    return states, d_a if case_varies(a, b) else d_a.sum((0, 1)), d_b, later


def case_varies(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ndim == b.ndim


def to_kind(kind: str, value: np.ndarray) -> Any:
    if kind == "pair":
        return Pair(jnp.float32(value.real), jnp.float32(value.imag))
    return jnp.asarray(value, jnp.float32 if kind == "real" else jnp.complex64)


def to_numpy(value: Any, conjugate: bool = False) -> np.ndarray:
    if isinstance(value, Pair):
        return np.asarray(value.re) + 1j * np.asarray(value.im)
    return np.conj(value) if conjugate else np.asarray(value)


_COMPILED: dict[Any, Any] = {}


def compiled(case: Case, on_gpu: bool) -> Any:
    def run(a: Any, b: Any, reset: Any, carry: Any, g: Any) -> Any:
        def states(a: Any, b: Any, carry: Any) -> Any:
            return linear_scan(a, b, reset, carry, implementation="kernel", reverse=case.reverse)[1]

        x, pull = jax.vjp(states, a, b, carry)
        return x, *pull(g)

    return _COMPILED.setdefault((case, on_gpu), jax.jit(run))


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, [*case[:3], case.plan.chunk])))
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Return the case, whose plan is taken for the scan, and the default for its chunks."""

    def plan(length: int, states: int) -> Plan:
        whole = length == request.param.shape[0]
        return request.param.plan if whole else Plan(4, 1, 1)

    monkeypatch.setattr(gpu_scan, "choose_plan", plan)
    return request.param


def evaluate(case: Case, on_gpu: bool, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    a, b, reset, carry, g = inputs
    # JAX's cotangents of complex arrays are conjugate to those of pairs, going in and out.
    g = g.conj() if case.kind == "complex" else g
    values = [to_kind(case.kind, v) for v in (a, b, carry, g)]
    x, *gradients = compiled(case, on_gpu)(values[0], values[1], jnp.asarray(reset), *values[2:])
    return [to_numpy(x), *(to_numpy(d, conjugate=True) for d in gradients)]


def test_values_and_gradients_equal_a_float64_loop(case: Case, on_gpu: bool) -> None:
    for seed in range(3):
        inputs = draw(case, seed)
        found, wanted = evaluate(case, on_gpu, inputs), solve(*inputs, case.reverse)
        for f, w in zip(found, wanted, strict=True):
            assert f.shape == w.shape
            assert np.abs(f - w).max() < 2e-6 * max(1.0, np.abs(w).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_behind_a_reset_reaches_past_it(case: Case, on_gpu: bool, bad: float) -> None:
    a, b, reset, carry, g = draw(case)
    length = len(b)
    at = length // 2
    order = np.arange(length)[::-1] if case.reverse else np.arange(length)
    reset[order[at], 0], reset[order[0], 1] = True, True
    reset[order[1:at], 0] = False
    spoilt_b, spoilt_carry, g = b.copy(), carry.copy(), g.copy()
    spoilt_b[order[at - 1], 0], spoilt_carry[1] = bad, bad
    g[order[:at], 0] = 0  # only what comes after the reset enters the loss
    x, *gradients = evaluate(case, on_gpu, (a, spoilt_b, reset, spoilt_carry, g))
    clean, *expected = evaluate(case, on_gpu, (a, b, reset, carry, g))
    assert not np.isfinite(x[order[at - 1], 0]).any()
    np.testing.assert_array_equal(x[:, 1:], clean[:, 1:])
    np.testing.assert_array_equal(x[order[at:], 0], clean[order[at:], 0])
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_vmap_equals_its_members(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("real", False, False, Plan(4, 1, 1, chunk=2), (5, 1, 3))
    monkeypatch.setattr(
        gpu_scan, "choose_plan", lambda length, _: case.plan if length == 5 else Plan(4, 1, 1)
    )
    members = [draw(case, seed) for seed in range(2)]
    stacked = [jnp.stack([jnp.asarray(m[i], jnp.float32) for m in members]) for i in (0, 1, 3, 4)]
    resets = jnp.stack([jnp.asarray(m[2]) for m in members])
    together = jax.jit(jax.vmap(compiled(case, on_gpu)))(*stacked[:2], resets, *stacked[2:])
    for i, member in enumerate(members):
        for found, wanted in zip(together, solve(*member, False), strict=True):
            np.testing.assert_allclose(found[i], wanted, rtol=1e-5, atol=2e-6)


def test_second_derivatives_equal_those_of_the_portable_form(on_gpu: bool) -> None:
    case = Case("real", False, False, Plan(), (3, 1, 2))
    a, b, reset, carry, g = (jnp.asarray(v, jnp.float32) for v in draw(case))

    def curvature(implementation: str) -> Any:
        def loss(a: Any, b: Any) -> Any:
            x = linear_scan(a, b, reset > 0, carry, implementation=implementation)[1]
            return jnp.sum(jnp.sin(g * x))

        def slope(a: Any, b: Any) -> Any:
            d_a, d_b = jax.grad(loss, (0, 1))(a, b)
            return jnp.sum(d_a**2) + jnp.sum(d_b**3)

        return jax.jit(jax.grad(slope, (0, 1)))(a, b)

    for found, wanted in zip(curvature("kernel"), curvature("sequential"), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_plan_cuts_time_only_where_few_states_meet_many_steps() -> None:
    assert choose_plan(128, 4).chunk is None
    assert choose_plan(1024, 64 * 128).chunk is None
    for length, states in [(16384, 512), (1_000_000, 64), (1001, 100)]:
        plan = choose_plan(length, states)
        assert plan.chunk is not None
        assert plan.chunk % plan.unroll == 0
        assert plan.chunk < length
    plan = choose_plan(16384, 512)
    assert plan.chunk is not None and 16384 % plan.chunk == 0


def test_the_kernel_lowers_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's lowering refuses what it cannot compile, and needs no GPU for that."""
    monkeypatch.setattr(
        gpu_scan, "choose_plan", lambda length, _: Plan(8, 1, 2, chunk=40 if length > 99 else None)
    )

    def run(a: Any, b: Any, reset: Any, carry: Any, g: Any) -> Any:
        x = gpu_scan.scan(a, b, reset, carry)
        return gpu_scan.backward(a, x, reset, carry, g)

    a, b, reset, carry, g = draw(Case("pair", False, False, Plan(), (100, 3, 5)))
    values = [to_kind("pair", v) for v in (a, b, carry, g)]
    traced = jax.jit(run).trace(*values[:2], jnp.asarray(reset), *values[2:])
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("scan_effect") and text.count("scan_states")


def test_without_a_gpu_the_portable_form_runs_and_a_log_line_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu_scan._say_once.cache_clear()
    case = Case("real", False, False, Plan())
    a, b, reset, carry, _ = (jnp.asarray(v) for v in draw(case))
    with caplog.at_level(logging.INFO, logger=gpu_scan.__name__):
        for _ in range(2):
            assert not gpu_scan.runs("cpu", b.shape, b.dtype)
    assert [record.getMessage() for record in caplog.records] == [
        "no GPU kernel for backend 'cpu': scans take their portable form"
    ]
    if jax.default_backend() == "cpu":
        wanted = linear_scan(a, b, reset, carry, implementation="sequential")[1]
        found = linear_scan(a, b, reset, carry, implementation="kernel")[1]
        np.testing.assert_array_equal(found, wanted)
