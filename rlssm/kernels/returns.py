"""Returns and advantages over `[T, B]` arrays of experience that may hold many episodes.

`terminated` cuts the bootstrap. `truncated` ends the episode and bootstraps, as does the end of
the arrays. `next_value[t]` is the value of the true successor of step t, which row t + 1 is not
where an episode ended; where `terminated` its entry is never read. Nothing is summed across an
episode's end. Scalars may be traced, so that a sweep can vmap over them.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.kernels.linear_scan import linear_scan

Scalar = float | int | Float[Array, ""]
Values = Float[Array, "T B"]
Flags = Bool[Array, "T B"]


def gae(
    reward: Values,
    value: Values,
    next_value: Values,
    terminated: Flags,
    truncated: Flags,
    discount: Scalar,
    lam: Scalar,
) -> Values:
    """Return generalised advantage estimates.

        delta_t = r_t + discount (1 - terminated_t) next_value_t - value_t
        A_t = delta_t + discount lam (1 - last_t) A_{t+1},    A_T = 0

    with last = terminated or truncated. `lam = 0` gives delta_t; `lam = 1` the return, bootstrapped
    where the episode or the arrays end, minus value_t.

    Source: "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (arXiv
    1506.02438), equation 16, with an end of episode at every truncation.
    """
    delta = reward + discount * jnp.where(terminated, 0, next_value) - value
    none = jnp.zeros_like(delta[0])
    return _sum_backwards(discount * lam, delta, terminated | truncated, none)


def lambda_returns(
    reward: Values,
    next_value: Values,
    terminated: Flags,
    truncated: Flags,
    discount: Scalar,
    lam: Scalar,
) -> Values:
    """Return lambda returns.

        G_t = r_t + discount (1 - terminated_t) ((1 - lam) next_value_t + lam G_{t+1})

    with G_{t+1} replaced by next_value_t where the episode is truncated or the arrays end.

    Source: Sutton and Barto, "Reinforcement Learning: An Introduction" (2nd edition), equation
    12.18, in recursive form.
    """
    last = terminated | truncated
    bootstrap = jnp.where(terminated, 0, next_value)
    step = reward + discount * jnp.where(last, bootstrap, (1 - lam) * bootstrap)
    return _sum_backwards(discount * lam, step, last, bootstrap[-1])


def n_step_returns(
    reward: Values,
    next_value: Values,
    terminated: Flags,
    truncated: Flags,
    discount: Scalar,
    n: int,
) -> Values:
    """Return n-step returns, shortened where the episode or the arrays end first.

        G_t = sum_{k < m} discount^k r_{t+k} + discount^m (1 - terminated_s) next_value_s

    with s = t + m - 1 and m the least of n, the steps left in the episode and those in the arrays.

    Raises:
      UserError: unless n >= 1.

    Source: Sutton and Barto, equation 7.1.
    """
    require(n >= 1, "n", n, "at least 1")
    last = (terminated | truncated).at[-1].set(True)
    bootstrap = jnp.where(terminated, 0, next_value)

    def lengthen(_: Array, returns: Array) -> Array:
        return reward + discount * jnp.where(last, bootstrap, jnp.roll(returns, -1, axis=0))

    return lax.fori_loop(1, n, lengthen, reward + discount * bootstrap)


def discounted_returns(
    reward: Values, terminated: Flags, truncated: Flags, discount: Scalar
) -> Values:
    """Return the rewards to go, G_t = r_t + discount (1 - last_t) G_{t+1} with G_T = 0.

    Nothing is bootstrapped: a truncated episode counts what it earned.
    """
    return _sum_backwards(discount, reward, terminated | truncated, jnp.zeros_like(reward[0]))


def _sum_backwards(decay: Scalar, step: Array, last: Array, end: Array) -> Array:
    decay = jnp.asarray(decay, step.dtype)
    return linear_scan(decay, step, last, end, reverse=True)[1]
