"""Actors and critics over a shared idea of history, for learners from stored experience.

Without memory (core `none`) the history is the observation itself, so that an actor is
`head(obs)` and a critic `head(obs, action)`: the textbook networks. With memory it is what the
torso remembers of everything seen since the last reset. An actor and a critic each have their own.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import UserError
from rlssm.nn.cores import CoreConfig, NoneConfig
from rlssm.nn.encoders import Encoder, action_mask, encode_vector
from rlssm.nn.heads import CategoricalHead, ValueHead
from rlssm.nn.mlp import Ensemble, MLPConfig, Precision
from rlssm.nn.torso import Torso, TorsoConfig
from rlssm.types import Carry, Inputs, Params, Spec


class History(nn.Module):
    """Features of what an agent has seen, `[T, B, H]`."""

    spec: Spec
    torso: TorsoConfig
    core: CoreConfig
    precision: Precision = "default"

    def setup(self) -> None:
        if isinstance(self.core, NoneConfig):
            self.encoder = Encoder(self.spec.obs, self.precision)
        else:
            self.memory = Torso(self.spec, self.torso, self.core, self.precision)

    def __call__(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"], skip: int = 0
    ) -> tuple[Carry, Float[Array, "T2 B H"]]:
        """Return the carry and the features of all rows but the first `skip`."""
        if isinstance(self.core, NoneConfig):
            return carry, self.encoder(jax.tree.map(lambda x: x[skip:], seen.obs))
        carry, features = self.memory(carry, seen, reset)
        return carry, features[skip:]

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        """Return empty memory."""
        if isinstance(self.core, NoneConfig):
            return ()
        return Torso(self.spec, self.torso, self.core, self.precision).initial_carry(batch)


class Actor(nn.Module):
    """A history under a policy head; returns what the head does."""

    history: History
    head: nn.Module

    def __call__(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"], skip: int = 0
    ) -> tuple[Carry, Any]:
        """Return (carry, policy) of all rows but the first `skip`."""
        carry, features = self.history(carry, seen, reset, skip)
        if isinstance(self.head, CategoricalHead):
            mask = action_mask(seen.obs)
            return carry, self.head(features, None if mask is None else mask[skip:])
        return carry, self.head(features)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        return self.history.initial_carry(batch)


class Critic(nn.Module):
    """A history under an ensemble of action values, each a dense network of (features, action).

    With `vector` K a value is a vector, and results have one more axis, K, at their end.
    """

    history: History
    mlp: MLPConfig
    size: int = 2
    vector: int | None = None

    def setup(self) -> None:
        head = ValueHead(self.mlp, self.history.precision, self.vector)
        self.values = Ensemble(head, self.size)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        return self.history.initial_carry(batch)

    def features(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"], skip: int = 0
    ) -> Float[Array, "T2 B H"]:
        """Return the features of all rows but the first `skip`."""
        return self.history(carry, seen, reset, skip)[1]

    def value(self, features: Float[Array, "*inner H"], action: Array) -> Float[Array, "E ..."]:
        """Return the value of an action under each member of the ensemble.

        `features` may lack leading axes that `action` has: several actions per step.
        """
        vector = encode_vector(self.history.spec.action, action)
        features = jnp.broadcast_to(features, (*vector.shape[:-1], features.shape[-1]))
        return self.values(jnp.concatenate([features, vector], axis=-1))

    def __call__(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"], action: Array, skip: int = 0
    ) -> Float[Array, "E T2 B ..."]:
        """Return the values of one action per row, all rows but the first `skip`."""
        return self.value(self.features(carry, seen, reset, skip), action)


class StateValue(nn.Module):
    """A history under a single state value."""

    history: History
    mlp: MLPConfig

    def setup(self) -> None:
        self.head = ValueHead(self.mlp, self.history.precision)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        return self.history.initial_carry(batch)

    def __call__(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"], skip: int = 0
    ) -> Float[Array, "T2 B"]:
        """Return the values of all rows but the first `skip`."""
        return self.head(self.history(carry, seen, reset, skip)[1])


def apply(module: nn.Module, params: Params, *args: Any, **options: Any) -> Any:
    """Return `module.apply(params, ...)`, whose declared type is too wide to be of use."""
    return module.apply(params, *args, **options)


def has_memory(core: CoreConfig) -> bool:
    """Return whether a core remembers anything."""
    return not isinstance(core, NoneConfig)


def require_torso_fits(torso: TorsoConfig, core: CoreConfig) -> None:
    """Raise a `UserError` for torso settings without the memory they would feed."""
    if not has_memory(core) and torso != TorsoConfig():
        raise UserError(
            "torso feeds the memory, and core none has none: set the sizes of the networks, or "
            "choose a core"
        )
