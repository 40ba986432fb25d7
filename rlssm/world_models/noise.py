"""OpenSimplex noise in three dimensions: smooth, and the same for the same seed everywhere.

Space is cut into a lattice that is the cubic one squeezed along its main diagonal. Every lattice
point p carries a gradient g(p), chosen by hashing p, and contributes where it is near:

    noise(x) = (1 / 103) sum_p max(0, 2 - |x - p|^2)^4  g(p) . (x - p)

The sum runs over the corners of the cell's piece that holds x (a tetrahedron at either end of the
diagonal, an octahedron between them) and two further points. More may be within reach, by a
little; they are left out so that the values equal those of the original. The order of every sum
is the original's too: on the lattice itself the noise is zero but for rounding, and terrain is
cut where it changes sign.

Source: OpenSimplex, the original form of 2014 (public domain), as package `opensimplex` has it.
"""

from itertools import product

import numpy as np
from jaxtyping import Float, Int

_SQUEEZE = 1 / 3  # lattice point (i, j, k) lies at (i, j, k) + (i + j + k) / 3
_STRETCH = -1 / 6  # the inverse
_SCALE = 103
_MASK_64 = 2**64 - 1
_AXES = np.eye(3, dtype=np.int64)
_ONES = np.ones(3, np.int64)
_OUT_OF_REACH = np.full(3, 9)

# The 24 directions to the corners of a rhombicuboctahedron.
_GRADIENTS = np.array(
    [
        np.where(np.arange(3) == axis, 11, 4) * (sx, sy, sz)
        for sz, sy, sx in product((1, -1), (1, -1), (-1, 1))
        for axis in range(3)
    ]
)

_NEAR_TETRAHEDRON = np.stack([0 * _ONES, *_AXES, _OUT_OF_REACH, _OUT_OF_REACH])
_FAR_TETRAHEDRON = np.stack([*(_ONES - _AXES[::-1]), _ONES, _OUT_OF_REACH, _OUT_OF_REACH])
_OCTAHEDRON = np.concatenate([_AXES, _ONES - _AXES])


class OpenSimplex:
    """A noise function drawn by `seed`, an integer of at most 64 bits."""

    def __init__(self, seed: int) -> None:
        self._hash = _permutation(seed)

    def __call__(
        self, x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], z: float
    ) -> Float[np.ndarray, " N"]:
        """Return the noise, about -1 to 1, at the points `(x, y, z)`, float64."""
        point = np.stack(np.broadcast_arrays(x, y, np.float64(z)), -1)
        stretched = point + _STRETCH * _sum(point)[:, None]
        cell = np.floor(stretched)
        inside = point - (cell + _SQUEEZE * _sum(cell)[:, None])
        offsets = _contributors(stretched - cell)
        away = inside[:, None] - offsets - _SQUEEZE * offsets.sum(-1, keepdims=True)
        squares = away**2
        reach = np.maximum(0.0, 2.0 - squares[..., 0] - squares[..., 1] - squares[..., 2]) ** 2
        slope = self._gradients(cell[:, None].astype(np.int64) + offsets) * away
        terms = reach * reach * (slope[..., 0] + slope[..., 1] + slope[..., 2])
        return np.add.accumulate(terms, -1)[:, -1] / _SCALE

    def _gradients(self, corners: Int[np.ndarray, "N P 3"]) -> Int[np.ndarray, "N P 3"]:
        code = np.zeros(corners.shape[:-1], np.int64)
        for axis in range(3):
            code = self._hash[(code + corners[..., axis]) & 255]
        return _GRADIENTS[code % len(_GRADIENTS)]


def _sum(point: np.ndarray) -> np.ndarray:
    # In this order, so that rounding, and with it the choice among equals, is the original's.
    return point[:, 0] + point[:, 1] + point[:, 2]


def _contributors(inner: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N 8 3"]:
    """Return the lattice points, relative to the cell, that count at `inner`, in [0, 1)^3."""
    total = _sum(inner)
    near, far = total <= 1, total >= 2
    # The far tetrahedron is the near one mirrored: every comparison turns round.
    scores = np.where(far[:, None], -inner, inner)
    beyond_end = _beyond_tetrahedron(scores, np.where(far, total - 3, 1 - total))
    beyond_end = np.where(far[:, None, None], 1 - beyond_end, beyond_end)
    corners = np.where(far[:, None, None], _FAR_TETRAHEDRON, _NEAR_TETRAHEDRON)
    ends = np.concatenate([corners, beyond_end], 1)
    beyond_middle = _beyond_octahedron(total[:, None] - inner)
    octahedron = np.broadcast_to(_OCTAHEDRON, corners.shape)
    middle = np.concatenate([octahedron, beyond_middle], 1)
    return np.where((near | far)[:, None, None], ends, middle)


def _beyond_tetrahedron(scores: np.ndarray, origin_score: np.ndarray) -> np.ndarray:
    """Return the two further points `[N, 2, 3]`, from the closeness of the four corners."""
    x, y, z = scores.T
    out = np.where((x >= y) & (z > y), 1, np.where((x < y) & (z > x), 0, 2))  # the least of three
    first, second = np.array([2, 0, 0])[out], np.array([1, 2, 1])[out]
    rows = np.arange(len(out))
    first_score, second_score = scores[rows, first], scores[rows, second]
    best = np.where(second_score > first_score, second, first)
    others = np.array([[1, 2], [0, 2], [0, 1]])[best]
    beside_best = _AXES[best][:, None] - _AXES[others]
    edge = _AXES[first] + _AXES[second]
    beside_edge = np.stack([edge, edge - _AXES[out]], 1)
    origin_counts = (origin_score > first_score) | (origin_score > second_score)
    return np.where(origin_counts[:, None, None], beside_best, beside_edge)


def _beyond_octahedron(others: np.ndarray) -> np.ndarray:
    """Return the two further points `[N, 2, 3]`; `others[:, k]` adds the coordinates but k's.

    Each axis k stands for two opposite corners: k itself, and the sum of the other two axes,
    which is the closer one where `others[:, k] > 1`.
    """
    upper = others > 1
    x, y, z = np.abs(others - 1).T
    out = np.where((z <= y) & (z < x), 2, np.where((z > y) & (y < x), 1, 0))  # the least of three
    first, second = np.array([1, 0, 0])[out], np.array([2, 2, 1])[out]
    rows = np.arange(len(out))
    double, opposite = 2 * _AXES, _ONES - 2 * _AXES
    first_upper, second_upper = upper[rows, first][:, None], upper[rows, second][:, None]
    both_upper = np.stack([np.broadcast_to(_ONES, (len(out), 3)), double[out]], 1)
    both_lower = np.stack([np.zeros((len(out), 3), np.int64), opposite[out]], 1)
    mixed = np.stack(
        [
            np.where(first_upper, opposite[first], double[first]),
            np.where(second_upper, opposite[second], double[second]),
        ],
        1,
    )
    same = np.where(first_upper[..., None], both_upper, both_lower)
    return np.where((first_upper == second_upper)[..., None], same, mixed)


def _permutation(seed: int) -> Int[np.ndarray, " 256"]:
    """Return 0 .. 255 shuffled by a 64-bit linear congruential generator."""
    source = list(range(256))
    shuffled = np.zeros(256, np.int64)
    for _ in range(3):
        seed = _congruential(seed)
    for i in reversed(range(256)):
        seed = _congruential(seed)
        signed = seed - 2**64 if seed >= 2**63 else seed
        chosen = (signed + 31) % (i + 1)
        shuffled[i] = source[chosen]
        source[chosen] = source[i]
    return shuffled


def _congruential(seed: int) -> int:
    return (seed * 6364136223846793005 + 1442695040888963407) & _MASK_64
