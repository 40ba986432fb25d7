"""From continuous to discrete time, x'(t) = lambda x(t) + u(t) with u held for one step delta.

    x_t = lambda_bar * x_{t-1} + gain * u_t

`lam` is a real array, a complex array or a `Pair`, and so are both results. To read a policy at
another sampling rate, multiply `delta` by the ratio of the time steps.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from rlssm.errors import require
from rlssm.kernels.pair import Number, Pair
from rlssm.types import Key

Real = Float[Array, "..."]


def zoh(lam: Number, delta: Real) -> tuple[Any, Any]:
    """Discretise exactly for inputs held constant over a step (zero-order hold).

        lambda_bar = exp(lam delta),    gain = (exp(lam delta) - 1) / lam

    The gain is computed as `delta * phi(lam delta)`, which is accurate in value and gradient at
    and near lam delta = 0, where it tends to delta.

    Source: "Simplified State Space Layers for Sequence Modeling" (arXiv 2208.04933), equation 6.
    """
    if isinstance(lam, Pair):
        return _as_pairs(zoh(lax.complex(lam.re, lam.im), delta))
    z = lam * delta
    return jnp.exp(z), delta * _phi(z)


def bilinear(lam: Number, delta: Real) -> tuple[Any, Any]:
    """Discretise by the trapezoidal rule (Tustin's method).

        lambda_bar = (1 + z / 2) / (1 - z / 2),    gain = delta / (1 - z / 2),    z = lam delta

    Source: arXiv 2208.04933, appendix; lindermanlab/S5, `discretize_bilinear`.
    """
    if isinstance(lam, Pair):
        return _as_pairs(bilinear(lax.complex(lam.re, lam.im), delta))
    half = 0.5 * lam * delta
    return (1 + half) / (1 - half), delta / (1 - half)


def init_log_step(
    key: Key,
    shape: tuple[int, ...],
    dt_min: float = 1e-3,
    dt_max: float = 1e-1,
    dtype: Any = jnp.float32,
) -> Real:
    """Draw log(delta) uniformly between log(dt_min) and log(dt_max).

    A state with step delta remembers about 1 / delta steps.

    Raises:
      UserError: unless 0 < dt_min <= dt_max.
    """
    require(0 < dt_min <= dt_max, "dt_min", dt_min, "in (0, dt_max]")
    low, high = math.log(dt_min), math.log(dt_max)
    return low + (high - low) * jax.random.uniform(key, shape, dtype)


def _as_pairs(values: tuple[Array, Array]) -> tuple[Pair, Pair]:
    decay, gain = values
    return Pair(decay.real, decay.imag), Pair(gain.real, gain.imag)


def _phi(z: Array) -> Array:
    """Return (exp(z) - 1) / z.

    Differentiating the quotient loses digits as eps / |z|, so the series takes over well before
    the value itself suffers. Its thirteen terms are exact to float64 for |z| < 1/4.
    """
    small = jnp.abs(z) < 0.25
    inside = jnp.where(small, z, 0)
    series = jnp.zeros_like(z)
    for k in reversed(range(1, 14)):
        series = series * inside + 1 / math.factorial(k)
    outside = jnp.where(small, 1, z)
    return jnp.where(small, series, jnp.expm1(outside) / outside)
