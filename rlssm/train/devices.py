"""Spreading the environment axis over devices."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlssm.errors import UserError


def make_mesh(num_devices: int | None, num_envs: int) -> Mesh:
    """Return a one-axis mesh of the first `num_devices` devices.

    None stands for as many as there are and as divide `num_envs`.

    Raises:
        UserError: if there are fewer devices, or if they do not divide `num_envs`.
    """
    available = jax.devices()
    count = num_devices
    if count is None:
        count = next(n for n in range(len(available), 0, -1) if num_envs % n == 0)
    if not 1 <= count <= len(available):
        raise UserError(
            f"devices must be from 1 to {len(available)}, the number of {available[0].platform} "
            f"devices here, got {count}"
        )
    if num_envs % count:
        raise UserError(
            f"num_envs must be a multiple of the {count} devices it is spread over, got "
            f"{num_envs}; set devices=1 or num_envs={-(-num_envs // count) * count}"
        )
    return jax.make_mesh(
        (count,), ("env",), (jax.sharding.AxisType.Auto,), devices=available[:count]
    )


def replicated(mesh: Mesh, tree: Any) -> Any:
    """Return the sharding of every leaf of `tree` that keeps a full copy on each device."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda _: sharding, tree)


def split_envs(mesh: Mesh, tree: Any) -> Any:
    """Return shardings that cut axis 1 of every `[S, B, ...]` leaf of `tree` over the mesh.

    Leaves without a batch axis, `[S]`, are copied to each device.
    """

    def sharding(leaf: Any) -> NamedSharding:
        axes = (None, "env") if leaf.ndim > 1 else ()
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(sharding, tree)
