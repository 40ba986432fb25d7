"""Discretisation against closed forms in float64, at and near zero, in value and in gradient."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.kernels.discretize import bilinear, init_log_step, zoh
from rlssm.kernels.hippo import initial_system
from rlssm.kernels.pair import Pair

TERMS = 40


def phi(z: np.ndarray) -> np.ndarray:
    """(exp(z) - 1) / z: its series for small z, the quotient elsewhere."""
    series = sum(z**k / math.factorial(k + 1) for k in range(TERMS))
    safe = np.where(np.abs(z) < 1, 1, z)
    return np.where(np.abs(z) < 1, series, (np.exp(safe) - 1) / safe)


def phi_slope(z: np.ndarray) -> np.ndarray:
    series = sum(k * z ** max(k - 1, 0) / math.factorial(k + 1) for k in range(TERMS))
    safe = np.where(np.abs(z) < 1, 1, z)
    return np.where(np.abs(z) < 1, series, (np.exp(safe) * (safe - 1) + 1) / safe**2)


def left_half_plane(size: int = 400) -> np.ndarray:
    """Points with |z| from 1e-12 to 3 in every direction of decay, and zero itself."""
    rng = np.random.default_rng(0)
    modulus = 10 ** rng.uniform(-12, np.log10(3), size)
    z = modulus * np.exp(1j * rng.uniform(np.pi / 2, 3 * np.pi / 2, size))
    return np.append(z, 0).astype(np.complex64)


def pair(z: np.ndarray, dtype: Any) -> Pair:
    return Pair(jnp.asarray(z.real, dtype), jnp.asarray(z.imag, dtype))


def joined(value: Pair) -> np.ndarray:
    return np.asarray(value.re, np.float64) + 1j * np.asarray(value.im, np.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 2e-15)])
def test_zoh_keeps_its_digits_near_zero(dtype: str, tolerance: float) -> None:
    z = left_half_plane()
    delta = np.float64(0.125)  # a power of two, so that lam * delta is z exactly
    with jax.enable_x64(dtype == "float64"):
        decay, gain = jax.jit(zoh)(pair(z / delta, dtype), jnp.asarray(delta, dtype))
        z = z.astype(np.complex128)
        assert decay.re.dtype == gain.re.dtype == dtype
        assert np.abs(joined(decay) - np.exp(z)).max() < tolerance
        assert (np.abs(joined(gain) / delta - phi(z)) / np.abs(phi(z))).max() < tolerance
    assert joined(gain)[-1] == delta  # lam = 0 integrates


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("float64", 1e-14)])
def test_gradient_of_zoh_keeps_its_digits_near_zero(dtype: str, tolerance: float) -> None:
    z = left_half_plane()
    with jax.enable_x64(dtype == "float64"):

        def total_gain(lam: Pair) -> Any:
            return jnp.sum(zoh(lam, jnp.ones((), lam.re.dtype))[1].re)

        slope = jax.jit(jax.grad(total_gain))(pair(z, dtype))
        # d Re phi / d re = Re phi', d Re phi / d im = -Im phi'
        error = np.abs(joined(slope) - phi_slope(z.astype(np.complex128)).conj())
        assert error.max() < tolerance


def test_zoh_of_a_real_decay_follows_an_exact_solution() -> None:
    """x' = -2 x + 3 from x = 1: x(t) = 3/2 - exp(-2 t) / 2."""
    decay, gain = zoh(jnp.asarray(-2.0), jnp.asarray(0.25))
    x = 1.0
    for step in range(1, 9):
        x = float(decay) * x + float(gain) * 3.0
        assert x == pytest.approx(1.5 - math.exp(-0.5 * step) / 2, abs=1e-6)


def test_bilinear_equals_its_formula_and_keeps_stable_systems_stable() -> None:
    rng = np.random.default_rng(0)
    lam = -(10 ** rng.uniform(-6, 3, 200)) + 1j * rng.normal(size=200) * 100
    delta = 10 ** rng.uniform(-4, 0, 200)
    z = lam * delta
    with jax.enable_x64(True):
        decay, gain = bilinear(pair(lam, "float64"), jnp.asarray(delta))
        np.testing.assert_allclose(joined(decay), (1 + z / 2) / (1 - z / 2), rtol=1e-13)
        np.testing.assert_allclose(joined(gain), delta / (1 - z / 2), rtol=1e-13)
        assert (np.abs(joined(decay)) < 1).all()


@pytest.mark.parametrize("discretise", [zoh, bilinear])
def test_both_agree_to_the_order_of_the_rule(discretise: Callable[..., Any]) -> None:
    """Halving the step divides the distance to exp(lam delta) by 8 for the trapezoidal rule."""
    lam = np.array([-0.5 + 2j])
    with jax.enable_x64(True):
        errors = []
        for delta in (0.1, 0.05):
            decay, _ = discretise(pair(lam, "float64"), jnp.asarray(delta))
            errors.append(np.abs(joined(decay) - np.exp(lam * delta))[0])
    if discretise is zoh:
        assert max(errors) < 1e-15
    else:
        assert errors[0] / errors[1] == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("discretise", [zoh, bilinear])
def test_pairs_and_complex_arrays_give_the_same(discretise: Callable[..., Any]) -> None:
    lam = initial_system("legs", 16).eigenvalues
    delta = jnp.linspace(1e-3, 1e-1, 8)
    pairs = discretise(pair(lam, "float32"), delta)
    arrays = discretise(jnp.asarray(lam, jnp.complex64), delta)
    for found, expected in zip(pairs, arrays, strict=True):
        np.testing.assert_array_equal(found.re + 1j * found.im, expected)


def test_log_steps_are_uniform_between_the_logarithms() -> None:
    steps = np.asarray(init_log_step(jax.random.key(0), (4, 2500), 1e-3, 1e-1))
    assert steps.shape == (4, 2500)
    assert steps.dtype == np.float32
    low, high = math.log(1e-3), math.log(1e-1)
    assert low <= steps.min() < low + 0.01
    assert high - 0.01 < steps.max() <= high
    quartiles = np.quantile(steps, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(
        quartiles, low + (high - low) * np.array([0.25, 0.5, 0.75]), atol=0.1
    )
    with pytest.raises(UserError, match=r"^dt_min must be in \(0, dt_max\], got 0.2$"):
        init_log_step(jax.random.key(0), (2,), 0.2, 0.1)
