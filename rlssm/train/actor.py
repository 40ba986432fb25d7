"""A trained policy to call from ordinary Python: it keeps its own memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rlssm.errors import UserError
from rlssm.types import Inputs, Params, Policy, Previous, Spec, clear_at_start, zeros


class Actor:
    """A policy, its weights, and the memory of the episodes it is in.

    `actor(obs, reward, first)` takes one step in every environment of the batch and returns the
    actions `[batch, ...]`. With `batch=None` there is one environment and no batch axis.
    """

    def __init__(
        self, policy: Policy, params: Params, spec: Spec, *, batch: int | None = None, seed: int = 0
    ) -> None:
        self.spec = spec
        self._policy, self._params, self._batch = policy, params, batch
        self._key = jax.random.key(seed)
        self._act = jax.jit(policy.act, static_argnums=5)
        self.forget()

    def forget(self) -> None:
        """Drop all memory: the next call starts an episode in every environment."""
        size = 1 if self._batch is None else self._batch
        self._carry = self._policy.initial_carry(size)
        self._action = zeros(self.spec.action, (size,))
        self._first = jnp.ones(size, bool)

    def __call__(
        self,
        obs: Any,
        reward: Any = 0.0,
        first: Any = None,
        reset: Any = None,
        *,
        greedy: bool = True,
    ) -> np.ndarray:
        """Return the action for `obs`.

        Args:
            obs: the observation `[batch, ...]`, or `[...]` when there is no batch.
            reward: what the previous action earned, `[batch]` or a number.
            first: True where `obs` starts an episode. Default: after `forget()` all, else none.
            reset: True where memory is dropped before `obs` is seen. Default: where `first`. In a
                trial, memory is kept: False at the episodes after its first one.
            greedy: whether to take the most likely action in place of a sample.

        Raises:
            UserError: if `obs` does not have the shape this policy was trained on.
        """
        size = self._first.shape[0]
        obs = self._convert(obs, size)
        first = self._first if first is None else jnp.broadcast_to(jnp.asarray(first, bool), size)
        reset = first if reset is None else jnp.broadcast_to(jnp.asarray(reset, bool), size)
        reward = jnp.broadcast_to(jnp.asarray(reward, jnp.float32), size)
        previous = clear_at_start(Previous(self._action, reward), first & reset)
        self._key, key = jax.random.split(self._key)
        self._action, self._carry = self._act(
            self._params, Inputs(obs, previous, first), reset, self._carry, key, greedy
        )
        self._first = jnp.zeros(size, bool)
        return np.asarray(self._action if self._batch is not None else self._action[0])

    def _convert(self, obs: Any, size: int) -> Any:
        """Return `obs` as arrays of the space's dtypes with a batch axis."""
        lead = () if self._batch is None else (size,)
        expected = zeros(self.spec.obs, lead)
        known, found = (tree.keys() if isinstance(tree, dict) else None for tree in (expected, obs))
        if known != found:
            raise UserError(f"obs must have the entries {_names(known)}, got {_names(found)}")

        def convert(expected: Array, x: Any) -> Array:
            if np.shape(x) != expected.shape:
                raise UserError(f"obs must have shape {expected.shape}, got {np.shape(x)}")
            array = jnp.asarray(x, expected.dtype)
            return array if lead else array[None]

        if known is None:
            return convert(expected, obs)
        return {name: convert(expected[name], obs[name]) for name in known}


def _names(entries: Any) -> str:
    return "of one array" if entries is None else ", ".join(sorted(entries))
