"""Running mean and variance of a stream of arrays, as pure state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class RunningStats(NamedTuple):
    """What has been seen so far; `mean` and `m2` are trees like one element of the stream."""

    count: Float[Array, ""]  # number of elements
    mean: Any
    m2: Any  # sum of squared deviations from the mean


def init(element: Any) -> RunningStats:
    """Return empty statistics for a stream of trees shaped like `element`."""

    def zeros() -> Any:  # made twice, since donated buffers must not be shared
        return jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), element)

    return RunningStats(jnp.zeros((), jnp.float32), zeros(), zeros())


def update(
    stats: RunningStats, batch: Any, mask: Bool[Array, "*lead"] | None = None
) -> RunningStats:
    """Return the statistics of everything seen before together with a batch.

    With n, m the counts before and in the batch and d the difference of their means:
    mean += d m / (n + m), m2 += m2_batch + d^2 n m / (n + m).

    Args:
        stats: the statistics so far.
        batch: a tree with leaves `[*lead, ...]`, any number of leading axes.
        mask: True where an element counts; all do where it is None. What a masked element
            holds, NaN included, has no effect.

    Source: Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for
    computing sample variances", equations 2.1.
    """
    mean, leaf = jax.tree.leaves(stats.mean)[0], jax.tree.leaves(batch)[0]
    if mask is None:
        mask = jnp.ones(leaf.shape[: leaf.ndim - mean.ndim], bool)
    added = jnp.sum(mask, dtype=stats.count.dtype)
    total = stats.count + added
    share = added / jnp.maximum(total, 1)

    def batch_mean(mean: Array, x: Array) -> Array:
        return _masked_sum(x - mean, mask) / jnp.maximum(added, 1)

    def batch_m2(mean: Array, delta: Array, x: Array) -> Array:
        return _masked_sum(jnp.square(x - mean - delta), mask)

    delta = jax.tree.map(batch_mean, stats.mean, batch)
    m2 = jax.tree.map(batch_m2, stats.mean, delta, batch)
    return RunningStats(
        count=total,
        mean=jax.tree.map(lambda mean, d: mean + share * d, stats.mean, delta),
        m2=jax.tree.map(
            lambda old, new, d: old + new + jnp.square(d) * stats.count * share,
            stats.m2,
            m2,
            delta,
        ),
    )


def variance(stats: RunningStats) -> Any:
    """Return the population variance of each component; 1 before anything was seen."""
    seen = stats.count > 0
    return jax.tree.map(lambda m2: jnp.where(seen, m2 / jnp.maximum(stats.count, 1), 1.0), stats.m2)


def normalize(stats: RunningStats, x: Any, *, clip: float = 10.0, eps: float = 1e-8) -> Any:
    """Return `(x - mean) / sqrt(variance + eps)` within [-clip, clip], leaves `[..., *shape]`."""
    return jax.tree.map(
        lambda x, mean, var: jnp.clip((x - mean) * jax.lax.rsqrt(var + eps), -clip, clip),
        x,
        stats.mean,
        variance(stats),
    )


def standardize(stats: RunningStats, x: Any) -> Any:
    """Return `(x - mean) / (standard deviation + 1e-3)`, leaves `[..., *shape]`.

    The form published with agents that learn from fixed datasets. Source: TD3+BC and CORL.
    """
    return jax.tree.map(
        lambda x, mean, var: (x - mean) / (jnp.sqrt(var) + 1e-3), x, stats.mean, variance(stats)
    )


def _masked_sum(x: Array, mask: Array) -> Array:
    """Sum over the leading axes that `mask` has."""
    inner = (1,) * (x.ndim - mask.ndim)
    return jnp.sum(jnp.where(mask.reshape(*mask.shape, *inner), x, 0), axis=range(mask.ndim))
