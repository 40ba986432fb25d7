"""Random linear maps between what an agent sees and does and what a task shows and takes.

Tasks behind random projections cannot be told apart by which entry means what, so that an agent
has to find out within a trial. Matrices have as many rows or columns on the agent's side as the
largest task needs, which also brings tasks of different sizes to one shape.

Source: "Structured State Space Models for In-Context Reinforcement Learning" (arXiv 2303.03982).
The paper does not say from which distribution its matrices are; see `Distribution` for ours.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlssm.types import Key

Distribution = Literal["identity", "permutation", "orthogonal", "gaussian"]
"""How matrices are drawn, from none to the widest.

identity: padding alone. permutation: entries change places and signs. orthogonal: orthonormal
columns (of observations) or rows (of actions), uniform among such. gaussian: independent normal
entries. All but the last lose nothing, and the last loses nothing with probability 1; but under
it some actions of a task may be out of reach (`action_matrix`).
"""


def observation_matrix(
    kind: Distribution, key: Key, size: int, task_size: int
) -> Float[Array, "size task_size"]:
    """Return a matrix from a task's observations to an agent's, of at least their size.

    Observations of unit variance stay of unit variance: orthogonal columns have length
    sqrt(size / task_size), normal entries variance 1 / task_size.
    """
    match kind:
        case "identity":
            return jnp.eye(size, task_size)
        case "permutation":
            return _signed_permutation(key, size)[:, :task_size]
        case "orthogonal":
            return (size / task_size) ** 0.5 * orthonormal_rows(key, task_size, size).T
        case "gaussian":
            return jax.random.normal(key, (size, task_size)) / task_size**0.5


def action_matrix(
    kind: Distribution, key: Key, task_size: int, size: int
) -> Float[Array, "task_size size"]:
    """Return a matrix from an agent's actions, of at least their size, to a task's.

    Orthogonal rows have length sqrt(task_size), so that every action in [-1, 1]^task_size is the
    image of one in [-1, 1]^size. Normal entries have variance 1 / size, and then it need not be.
    """
    match kind:
        case "identity":
            return jnp.eye(task_size, size)
        case "permutation":
            return _signed_permutation(key, size)[:task_size]
        case "orthogonal":
            return task_size**0.5 * orthonormal_rows(key, task_size, size)
        case "gaussian":
            return jax.random.normal(key, (task_size, size)) / size**0.5


def action_table(kind: Distribution, key: Key, task_size: int, size: int) -> Int[Array, " size"]:
    """Return which of a task's discrete actions each of an agent's stands for; all are there.

    Where the agent has more than the task, the rest stand for the same ones again.
    """
    order = jnp.arange(size, dtype=jnp.int32)
    if kind != "identity":
        order = jax.random.permutation(key, order)
    return order % task_size


def orthonormal_rows(key: Key, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """Return orthonormal rows, uniform among all such matrices, `rows <= columns`.

    By Gram and Schmidt, each row twice for float32's sake: on an accelerator a few small products
    are far cheaper than a call of its solver's QR.
    """
    drawn = jax.random.normal(key, (rows, columns))
    basis: list[Array] = []
    for row in drawn:
        for _ in range(2):
            for other in basis:
                row = row - jnp.sum(row * other) * other
        basis.append(row / jnp.sqrt(jnp.sum(row * row)))
    return jnp.stack(basis)


def _signed_permutation(key: Key, size: int) -> Float[Array, "size size"]:
    order_key, sign_key = jax.random.split(key)
    sign = jax.random.rademacher(sign_key, (size,), jnp.float32)
    return sign[:, None] * jnp.eye(size)[jax.random.permutation(order_key, size)]
