"""A step along the natural gradient within a bound on the mean KL divergence.

With objective L, mean divergence D from the old policy, g = grad L and F = Hessian of D, both at
the old parameters, and d the damping:

    x = (F + d I)^-1 g                             by conjugate gradient
    p = sqrt(2 max_kl / (x^T (F + d I) x)) x       so that the quadratic model of D is max_kl

Trust region (TRPO): the first of p, p/2, p/4, ... that improves L by more than a tenth of what its
gradient promises while D stays within max_kl; none if there is no such. Natural gradient: p.

Sources: Schulman et al. 2015 (arXiv 1502.05477), appendix C; Kakade 2001.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from rlssm.types import Metrics, Params

Vector = Float[Array, " N"]
Product = Callable[[Vector], Vector]

TOLERANCE = 1e-10  # of b's squared length: a squared residual that conjugate gradient stops at
ACCEPT = 0.1  # least share of the promised improvement


class Trust(NamedTuple):
    """How far and how a step goes; numbers may be traced."""

    max_kl: float | Float[Array, ""]
    damping: float | Float[Array, ""]
    iterations: int  # of conjugate gradient
    halvings: int  # steps that the line search tries; 0 takes the whole step unseen


def conjugate_gradient(product: Product, b: Vector, iterations: int) -> Vector:
    """Return x with `product(x)` near b, for a symmetric positive definite product.

    Once the squared residual is below 1e-10 of b's own nothing changes any more.

    Source: Hestenes and Stiefel 1952.
    """

    def iterate(_: Array, state: tuple[Vector, Vector, Vector, Array]) -> tuple:
        x, residual, direction, squared = state
        along = product(direction)
        going = squared > TOLERANCE * (b @ b)
        length = jnp.where(going, squared / jnp.where(going, direction @ along, 1), 0)
        x, residual = x + length * direction, residual - length * along
        now = residual @ residual
        direction = residual + jnp.where(going, now / jnp.where(going, squared, 1), 0) * direction
        return x, residual, direction, now

    start = jnp.zeros_like(b), b, b, b @ b
    return jax.lax.fori_loop(0, iterations, iterate, start)[0]


def natural_step(
    objective: Callable[[Params], Float[Array, ""]],
    divergence: Callable[[Params], Float[Array, ""]],
    params: Params,
    trust: Trust,
) -> tuple[Params, Metrics]:
    """Return parameters one step up the objective, and how the step went.

    Args:
        objective: what to raise.
        divergence: mean KL from the old policy, zero with zero gradient at `params`.
        params: the old parameters, a pytree of floats.
        trust: the bound and the search.

    Returns:
        The new parameters, the old ones where the line search finds none; and the metrics `kl`,
        `improvement` of the objective and `accepted` (0 or 1) of the step, and `grad_norm`.
    """
    flat, unflatten = ravel_pytree(params)
    bend = jax.linearize(jax.grad(lambda x: divergence(unflatten(x))), flat)[1]

    def product(vector: Vector) -> Vector:
        return bend(vector) + trust.damping * vector

    before, gradient = jax.value_and_grad(lambda x: objective(unflatten(x)))(flat)
    direction = conjugate_gradient(product, gradient, trust.iterations)
    curvature = direction @ product(direction)
    tiny = jnp.finfo(flat.dtype).tiny
    whole = jnp.sqrt(2 * trust.max_kl / jnp.maximum(curvature, tiny)) * direction
    whole = jnp.where(curvature > 0, whole, 0)

    def judge(scale: Array) -> tuple[Array, Array, Array]:
        moved = unflatten(flat + scale * whole)
        improvement, kl = objective(moved) - before, divergence(moved)
        enough = improvement > ACCEPT * scale * (gradient @ whole)
        return (improvement > 0) & enough & (kl <= trust.max_kl), improvement, kl

    one = jnp.ones((), flat.dtype)
    if trust.halvings == 0:
        scale, accepted = one, curvature > 0
    else:

        def searching(state: tuple[Array, Array, Array]) -> Array:
            tried, _, accepted = state
            return (tried < trust.halvings) & ~accepted

        def halve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            tried, scale, _ = state
            scale = jnp.where(tried > 0, scale / 2, scale)
            return tried + 1, scale, judge(scale)[0]

        start = jnp.int32(0), one, jnp.zeros((), bool)
        _, scale, accepted = jax.lax.while_loop(searching, halve, start)
    scale = jnp.where(accepted, scale, 0)
    _, improvement, kl = judge(scale)
    return unflatten(flat + scale * whole), {
        "kl": kl,
        "improvement": improvement,
        "accepted": accepted.astype(flat.dtype),
        "grad_norm": jnp.linalg.norm(gradient),
    }
