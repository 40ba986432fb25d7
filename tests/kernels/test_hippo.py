"""Every named system against its formula, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.kernels.hippo import (
    PTD_SHARE,
    SYSTEMS,
    initial_system,
    legs_matrix,
    legt_matrix,
    lru_initial,
)

SIZES = [4, 16, 64]


def rebuilt(name: str, size: int, blocks: int = 1) -> np.ndarray:
    """The real matrix A = 2 Re(V diag(Lambda) W) that a system stands for."""
    eigenvalues, vectors, inverse = initial_system(name, size, blocks)
    return 2 * ((vectors * eigenvalues) @ inverse).real


def planes(eigenvalues: np.ndarray) -> np.ndarray:
    """A block diagonal of [[Re, -Im], [Im, Re]]."""
    A = np.zeros((2 * len(eigenvalues), 2 * len(eigenvalues)))
    for n, value in enumerate(eigenvalues):
        A[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = [
            [value.real, -value.imag],
            [value.imag, value.real],
        ]
    return A


def formula(name: str, size: int) -> np.ndarray:
    """Closed forms, written state by state."""
    closed = {
        "s4d-lin": lambda n: -0.5 + 1j * np.pi * n,
        "s4d-inv": lambda n: -0.5 + 1j * (size / np.pi) * (size / (2 * n + 1) - 1),
        "s4d-quad": lambda n: -0.5 + 1j * (1 / np.pi) * (1 + 2 * n) ** 2,
        "s4d-real": lambda n: -(n + 1) + 0j,
        "fout": lambda n: -0.5 + 1j * np.pi * n,
        "foud": lambda n: -0.5 + 2j * np.pi * n,
    }
    return np.array([closed[name](n) for n in range(size // 2)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["s4d-lin", "s4d-inv", "s4d-quad", "s4d-real", "fout", "foud"])
def test_closed_forms(name: str, size: int) -> None:
    expected = formula(name, size)
    np.testing.assert_allclose(initial_system(name, size).eigenvalues, expected, rtol=1e-15)
    np.testing.assert_allclose(rebuilt(name, size), planes(expected), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_legs_is_the_normal_part_of_hippo_legs(size: int) -> None:
    A = np.zeros((size, size))
    for n in range(size):
        A[n, n] = -(n + 1)
        for k in range(n):
            A[n, k] = -np.sqrt(2 * n + 1) * np.sqrt(2 * k + 1)
    np.testing.assert_allclose(legs_matrix(size), A, rtol=1e-14)
    p = np.sqrt(np.arange(size) + 0.5)
    normal = A + np.outer(p, p)
    np.testing.assert_allclose(normal + normal.T, -np.eye(size), atol=1e-12)
    np.testing.assert_allclose(rebuilt("legs", size), normal, atol=1e-11)
    eigenvalues = initial_system("legs", size).eigenvalues
    assert (eigenvalues.real == -0.5).all()
    assert (eigenvalues.imag < 0).all()
    assert (np.diff(eigenvalues.imag) > 0).all()


def test_leading_frequencies_of_legs_and_its_closed_form() -> None:
    legs, close = (initial_system(name, 64).eigenvalues for name in ("legs", "s4d-inv"))
    np.testing.assert_allclose(-legs.imag[:4], [1303.3, 433.0, 258.2, 182.6], atol=0.06)
    np.testing.assert_allclose(close.imag[:4], [1283.4, 414.2, 240.4, 165.9], atol=0.06)


@pytest.mark.parametrize("size", SIZES)
def test_legt_is_the_skew_part_of_hippo_legt_less_a_half(size: int) -> None:
    A = np.zeros((size, size))
    odd, even = np.zeros(size), np.zeros(size)
    for n in range(size):
        (odd if n % 2 else even)[n] = np.sqrt((2 * n + 1) / 2)
        for k in range(size):
            sign = 1 if k <= n else (-1) ** (k - n)
            A[n, k] = -0.5 * np.sqrt(2 * n + 1) * np.sqrt(2 * k + 1) * sign
    np.testing.assert_allclose(legt_matrix(size), A, rtol=1e-14)
    skew = A + np.outer(odd, odd) + np.outer(even, even)
    np.testing.assert_allclose(skew, -skew.T, atol=1e-12)
    np.testing.assert_allclose(rebuilt("legt", size), skew - 0.5 * np.eye(size), atol=1e-11)
    assert (initial_system("legt", size).eigenvalues.imag < 0).all()


def test_slowest_decay_of_hippo_legt_itself() -> None:
    assert np.linalg.eigvals(legt_matrix(64)).real.max() == pytest.approx(-5.7, abs=0.06)


@pytest.mark.parametrize("size", range(4, 66, 2))
def test_legs_ptd_diagonalises_a_perturbed_hippo_legs(size: int) -> None:
    p = np.sqrt(np.arange(size) + 0.5)
    perturbed = legs_matrix(size) + PTD_SHARE * np.outer(p, p)
    eigenvalues, vectors, inverse = initial_system("legs-ptd", size)
    np.testing.assert_allclose(rebuilt("legs-ptd", size), perturbed, atol=1e-9)
    np.testing.assert_allclose(inverse @ vectors, np.eye(size // 2), atol=1e-11)
    assert (eigenvalues.real <= -0.5).all()
    assert (eigenvalues.imag < 0).all()
    assert np.linalg.cond(np.concatenate([vectors, vectors.conj()], axis=1)) < 20
    relative = PTD_SHARE * np.linalg.norm(np.outer(p, p), 2) / np.linalg.norm(legs_matrix(size), 2)
    assert 0.05 < relative < 0.1


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "legs-ptd"])
def test_vectors_of_normal_systems_are_orthonormal(name: str) -> None:
    _, vectors, inverse = initial_system(name, 16)
    np.testing.assert_array_equal(inverse, vectors.conj().T)
    both = np.concatenate([vectors, vectors.conj()], axis=1)
    np.testing.assert_allclose(both.conj().T @ both, np.eye(16), atol=1e-13)


@pytest.mark.parametrize("name", SYSTEMS)
def test_blocks_stand_side_by_side(name: str) -> None:
    whole, block = initial_system(name, 24, blocks=3), initial_system(name, 8)
    assert whole.eigenvalues.shape == (12,)
    assert whole.vectors.shape == (24, 12)
    assert whole.inverse.shape == (12, 24)
    expected = np.kron(np.eye(3), rebuilt(name, 8))
    np.testing.assert_allclose(rebuilt(name, 24, blocks=3), expected, atol=1e-12)
    np.testing.assert_array_equal(whole.eigenvalues[4:8], block.eigenvalues)
    assert all(part.dtype == np.complex128 for part in whole)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "s4d-real"])
def test_without_conjugate_symmetry_all_eigenvalues_are_kept(name: str) -> None:
    eigenvalues, vectors, inverse = initial_system(name, 16, blocks=2, conj_sym=False)
    assert eigenvalues.shape == (16,)
    np.testing.assert_allclose(inverse @ vectors, np.eye(16), atol=1e-12)
    full = (vectors * eigenvalues) @ inverse
    np.testing.assert_allclose(full, rebuilt(name, 16, blocks=2), atol=1e-11)


def test_real_states_need_no_conjugates() -> None:
    eigenvalues, vectors, inverse = initial_system("s4d-real", 9, blocks=3, conj_sym=False)
    np.testing.assert_array_equal(eigenvalues, -np.tile([1.0, 2.0, 3.0], 3))
    np.testing.assert_array_equal(vectors, np.eye(9))
    np.testing.assert_array_equal(inverse, np.eye(9))


def test_lru_eigenvalues_fill_their_ring_evenly() -> None:
    nu, theta, gamma = lru_initial(jax.random.key(0), 20_000, 0.4, 0.9, max_phase=2.0)
    assert nu.dtype == theta.dtype == gamma.dtype == jnp.float32
    modulus, phase = np.exp(-np.exp(np.float64(nu))), np.exp(np.float64(theta))
    assert modulus.min() == pytest.approx(0.4, abs=2e-3)
    assert modulus.max() == pytest.approx(0.9, abs=2e-3)
    area = (modulus**2 - 0.4**2) / (0.9**2 - 0.4**2)
    np.testing.assert_allclose(np.quantile(area, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)
    np.testing.assert_allclose(np.quantile(phase, [0.25, 0.5, 0.75]), [0.5, 1.0, 1.5], atol=0.04)
    np.testing.assert_allclose(gamma, np.log(np.sqrt(1 - modulus**2)), atol=1e-5)


def test_lru_equals_its_formula_for_the_same_draws_in_float64() -> None:
    with jax.enable_x64(True):
        nu, theta, gamma = lru_initial(jax.random.key(3), 8)
        eps = np.finfo(np.float32).eps
        draws = jax.random.uniform(jax.random.key(3), (2, 8), minval=eps, maxval=1 - eps)
        u1, u2 = np.asarray(draws)
        np.testing.assert_allclose(nu, np.log(-0.5 * np.log(u1)), rtol=1e-13)
        np.testing.assert_allclose(theta, np.log(u2 * 6.28), rtol=1e-13)
        modulus = np.exp(-np.exp(nu))
        np.testing.assert_allclose(gamma, np.log(np.sqrt(1 - modulus**2)), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "legs", "state_size": 63, "blocks": 8},
            "state_size must be a multiple of 2 * blocks = 16 because conjugate pairs are stored "
            "once, got 63; use 64",
        ),
        (
            {"name": "legs", "state_size": 5, "conj_sym": False},
            "state_size must be a multiple of 2 * blocks = 2 because conjugate pairs are kept "
            "together, got 5; use 4",
        ),
        (
            {"name": "s4d-real", "state_size": 7, "blocks": 2, "conj_sym": False},
            "state_size must be a multiple of blocks = 2 because blocks are of equal size, "
            "got 7; use 8",
        ),
        (
            {"name": "legs", "state_size": 0},
            "state_size must be a multiple of 2 * blocks = 2 because conjugate pairs are stored "
            "once, got 0; use 2",
        ),
        ({"name": "legs", "state_size": 4, "blocks": 0}, "blocks must be at least 1, got 0"),
        (
            {"name": "legs-ptd", "state_size": 8, "blocks": 4},
            "legs-ptd needs at least 4 states in a block because fewer have real eigenvalues, "
            "got 2; use fewer blocks",
        ),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        initial_system(**arguments)
    assert str(error.value) == message


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="^unknown initialisation 's4d-linear'") as error:
        initial_system("s4d-linear", 8)
    assert all(name in str(error.value) for name in SYSTEMS)


def test_lru_mistakes_are_named() -> None:
    key = jax.random.key(0)
    with pytest.raises(UserError, match=r"^r_min must be in \[0, r_max\), got 0.9$"):
        lru_initial(key, 4, 0.9, 0.5)
    with pytest.raises(UserError, match=r"^r_max must be in \(r_min, 1\], got 1.5$"):
        lru_initial(key, 4, 0.9, 1.5)
    with pytest.raises(UserError, match=r"^max_phase must be above 0, got 0.0$"):
        lru_initial(key, 4, max_phase=0.0)
