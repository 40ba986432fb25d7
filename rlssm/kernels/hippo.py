"""Where the states of a linear core start: named systems, diagonalised in float64 NumPy.

A real system x'(t) = A x(t) of even size N has N / 2 pairs of conjugate eigenvalues; one of each
pair is kept. With its vectors V `[N, N/2]` and the matching rows W of the inverse `[N/2, N]`,

    A = 2 Re(V diag(Lambda) W).

| name       | Lambda_n, n = 0 .. N/2 - 1                                                   |
|------------|------------------------------------------------------------------------------|
| `legs`     | normal part of HiPPO-LegS, Re = -1/2, Im < 0                                 |
| `legs-ptd` | HiPPO-LegS short of a tenth of its low-rank term, Im < 0; N >= 4              |
| `legt`     | normal part of HiPPO-LegT, minus 1/2, Im < 0                                 |
| `fout`     | normal part of HiPPO-FouT, minus 1/2: -1/2 + i pi n                          |
| `foud`     | diagonal Fourier: -1/2 + 2 i pi n                                            |
| `s4d-lin`  | -1/2 + i pi n                                                                |
| `s4d-inv`  | -1/2 + i (N / pi) (N / (2 n + 1) - 1), close to `legs`                       |
| `s4d-quad` | -1/2 + i (1 + 2 n)^2 / pi                                                    |
| `s4d-real` | -(n + 1)                                                                     |

Source: "Simplified State Space Layers for Sequence Modeling" (arXiv 2208.04933) for `legs` and
blocks; "On the Parameterization and Initialization of Diagonal State Space Models" (2206.11893)
for `s4d-*`; "How to Train Your HiPPO" (2206.12037) for `legt`, `fout`, `foud`; "Robustifying
State-space Models for Long Sequences via Approximate Diagonalization" (2310.01698) for
`legs-ptd`; "Resurrecting Recurrent Neural Networks for Long Sequences" (2303.06349) for `lru`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from rlssm.errors import UserError, require, unknown_name
from rlssm.types import Key

PTD_SHARE = 0.1
"""Share of the low-rank term that `legs-ptd` takes away; ||E|| / ||A|| is then about 0.08."""


class System(NamedTuple):
    """A diagonalised system with P stored states of a real state of size N."""

    eigenvalues: Complex[np.ndarray, " P"]
    vectors: Complex[np.ndarray, "N P"]
    inverse: Complex[np.ndarray, "P N"]


def initial_system(name: str, state_size: int, blocks: int = 1, *, conj_sym: bool = True) -> System:
    """Return a named initial system of `blocks` equal parts side by side, in complex128.

    With `conj_sym` the P = N / 2 states of the table above are kept. Without it P = N: their
    conjugates follow, block by block; `s4d-real`, which needs none, then has the eigenvalues
    -(n + 1), n = 0 .. N - 1, and identity vectors.

    Args:
      name: one of `SYSTEMS`.
      state_size: real size N of the whole state, over all blocks.
      blocks: number of equal systems; more of them means lower greatest frequencies.
      conj_sym: whether one of each conjugate pair is left out.

    Raises:
      UserError: for an unknown name or a size that cannot be divided so.
    """
    if name not in SYSTEMS:
        raise unknown_name("initialisation", name, SYSTEMS)
    require(blocks >= 1, "blocks", blocks, "at least 1")
    if name == "s4d-real" and not conj_sym:
        _require_multiple(state_size, blocks, "blocks", "blocks are of equal size")
        block = _real(state_size // blocks)
    else:
        reason = "stored once" if conj_sym else "kept together"
        _require_multiple(state_size, 2 * blocks, "2 * blocks", f"conjugate pairs are {reason}")
        block = SYSTEMS[name](state_size // blocks)
        block = block if conj_sym else _with_conjugates(block)
    return System(
        np.tile(block.eigenvalues, blocks),
        np.kron(np.eye(blocks), block.vectors),
        np.kron(np.eye(blocks), block.inverse),
    )


def _require_multiple(size: int, unit: int, formula: str, reason: str) -> None:
    if size < 1 or size % unit:
        nearest = unit * max(1, round(size / unit))
        raise UserError(
            f"state_size must be a multiple of {formula} = {unit} because {reason}, "
            f"got {size}; use {nearest}"
        )


def _with_conjugates(half: System) -> System:
    eigenvalues, vectors, inverse = half
    return System(
        np.concatenate([eigenvalues, eigenvalues.conj()]),
        np.concatenate([vectors, vectors.conj()], axis=1),
        np.concatenate([inverse, inverse.conj()], axis=0),
    )


# --- Systems given by a matrix ----------------------------------------------------------------


def legs_matrix(size: int) -> Float[np.ndarray, "N N"]:
    """Return HiPPO-LegS: A_nk = -sqrt((2n+1)(2k+1)) for n > k, -(n+1) for n = k, else 0."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    return -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0)


def legt_matrix(size: int) -> Float[np.ndarray, "N N"]:
    """Return HiPPO-LegT: A_nk = -1/2 sqrt((2n+1)(2k+1)) (1 if k <= n else (-1)^(n-k))."""
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    sign = np.where(n <= n[:, None], 1.0, (-1.0) ** (n[:, None] - n))
    return -0.5 * np.outer(root, root) * sign


def _legs(size: int) -> System:
    # A + p p^T is -1/2 plus a skew matrix.
    p = np.sqrt(np.arange(size) + 0.5)
    return _from_skew(legs_matrix(size) + np.outer(p, p) + 0.5 * np.eye(size))


def _legt(size: int) -> System:
    # A + p p^T is skew with p in two parts, on the odd and on the even states.
    n = np.arange(size)
    p = np.sqrt(n + 0.5) * (n % 2 == [[0], [1]])
    return _from_skew(legt_matrix(size) + p.T @ p)


def _from_skew(skew: Float[np.ndarray, "N N"]) -> System:
    """Diagonalise -1/2 + skew; its vectors are orthonormal."""
    half = len(skew) // 2
    frequencies, vectors = np.linalg.eigh(-1j * skew)
    vectors = vectors[:, :half]
    return System(-0.5 + 1j * frequencies[:half], vectors, vectors.conj().T)


def _legs_ptd(size: int) -> System:
    """Perturb, then diagonalise A + E with its true inverse.

    The perturbation is E = s p p^T with p of `_legs`. It is real, and A + E is -1/2 plus a skew
    matrix minus (1 - s) p p^T, so no real part exceeds -1/2 and nothing needs clamping. The paper
    finds E by gradient descent; at its size this one leaves the vectors better conditioned than
    random ones do (18 against about 100 for N = 64).
    """
    if size < 4:
        raise UserError(
            "legs-ptd needs at least 4 states in a block because fewer have real eigenvalues, "
            f"got {size}; use fewer blocks"
        )
    p = np.sqrt(np.arange(size) + 0.5)
    eigenvalues, vectors = np.linalg.eig(legs_matrix(size) + PTD_SHARE * np.outer(p, p))
    keep = np.argsort(eigenvalues.imag)[: size // 2]
    return System(eigenvalues[keep], vectors[:, keep], np.linalg.inv(vectors)[keep])


# --- Systems given by their eigenvalues -------------------------------------------------------


def _rotations(eigenvalues: Complex[np.ndarray, " P"]) -> System:
    """Return a state of planes that each turn on their own, [[Re, -Im], [Im, Re]]."""
    vectors = np.kron(np.eye(len(eigenvalues)), [[1.0], [-1.0j]]) / np.sqrt(2)
    return System(eigenvalues, vectors, vectors.conj().T)


def _fout(size: int) -> System:
    return _rotations(-0.5 + 1j * np.pi * np.arange(size // 2))


def _foud(size: int) -> System:
    return _rotations(-0.5 + 2j * np.pi * np.arange(size // 2))


def _s4d_lin(size: int) -> System:
    return _rotations(-0.5 + 1j * np.pi * np.arange(size // 2))


def _s4d_inv(size: int) -> System:
    n = np.arange(size // 2)
    return _rotations(-0.5 + 1j * size / np.pi * (size / (2 * n + 1) - 1))


def _s4d_quad(size: int) -> System:
    return _rotations(-0.5 + 1j / np.pi * (1 + 2 * np.arange(size // 2)) ** 2)


def _s4d_real(size: int) -> System:
    return _rotations(-1.0 - np.arange(size // 2) + 0j)


def _real(size: int) -> System:
    identity = np.eye(size, dtype=complex)
    return System(-1.0 - np.arange(size) + 0j, identity, identity)


SYSTEMS: dict[str, Callable[[int], System]] = {
    "legs": _legs,
    "legs-ptd": _legs_ptd,
    "legt": _legt,
    "fout": _fout,
    "foud": _foud,
    "s4d-lin": _s4d_lin,
    "s4d-inv": _s4d_inv,
    "s4d-quad": _s4d_quad,
    "s4d-real": _s4d_real,
}


# --- Discrete from the start ------------------------------------------------------------------


class LRUInitial(NamedTuple):
    """Stored parameters of `lambda = exp(-exp(nu) + i exp(theta))` and its input gain `gamma`."""

    nu: Float[Array, " P"]
    theta: Float[Array, " P"]
    gamma: Float[Array, " P"]


def lru_initial(
    key: Key, state_size: int, r_min: float = 0.0, r_max: float = 1.0, max_phase: float = 6.28
) -> LRUInitial:
    """Draw LRU eigenvalues uniformly by area on a ring, `P = state_size` of them.

        nu = log(-1/2 log(u (r_max^2 - r_min^2) + r_min^2)),    theta = log(max_phase u'),
        gamma = log(sqrt(1 - |lambda|^2))

    with u and u' uniform on (0, 1).

    Raises:
      UserError: unless 0 <= r_min < r_max <= 1 and max_phase > 0.

    Source: arXiv 2303.06349, section 3 and appendix A. All three are logarithms, gamma too.
    """
    require(0 <= r_min < r_max, "r_min", r_min, "in [0, r_max)")
    require(r_max <= 1, "r_max", r_max, "in (r_min, 1]")
    require(max_phase > 0, "max_phase", max_phase, "above 0")
    tiny = jnp.finfo(jnp.float32).eps
    area, phase = jax.random.uniform(key, (2, state_size), minval=tiny, maxval=1 - tiny)
    nu = jnp.log(-0.5 * jnp.log(area * (r_max**2 - r_min**2) + r_min**2))
    gamma = 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu)))
    return LRUInitial(nu, jnp.log(max_phase * phase), gamma)
