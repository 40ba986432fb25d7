"""The torso of every agent: inputs to features to memory."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import require
from rlssm.nn.cores import CoreConfig, make_core
from rlssm.nn.encoders import Encoder, encode_vector
from rlssm.nn.mlp import MLP, Activation, MLPConfig, Precision, require_choices
from rlssm.types import Carry, Inputs, Spec


@dataclass(frozen=True)
class TorsoConfig:
    """How an agent's inputs become the features its memory reads.

    The published S5 agent of popjaxrl: hidden (128,), width 256, leaky_relu, no reward.
    """

    width: int = 128
    """Features H that enter and leave the memory, at least 1. popjaxrl: 256."""
    hidden: tuple[int, ...] = (128,)
    """Width of each dense layer before the one of `width`; may be empty. popjaxrl: (128,)."""
    activation: Activation = "leaky_relu"
    """Nonlinearity after every dense layer. popjaxrl: leaky_relu."""
    observe_action: bool = True
    """Whether the previous action is an input. popjaxrl: yes."""
    observe_reward: bool = True
    """Whether the previous reward is an input. popjaxrl: no; RL^2 and its kin: yes."""
    observe_first: bool = True
    """Whether the flag of an episode's first step is an input. popjaxrl: yes."""

    def __post_init__(self) -> None:
        require_choices(self, "torso.")
        require(self.width >= 1, "torso.width", self.width, "at least 1")
        good = all(width >= 1 for width in self.hidden)
        require(good, "torso.hidden", self.hidden, "a tuple of widths of at least 1")


class Torso(nn.Module):
    """Encodes observation, previous action, previous reward and first flag, then remembers.

    The features of one step pass through dense layers (orthogonal, gain sqrt 2) and the
    sequence core. The core alone obeys `reset`; where an episode starts without memory the
    previous action is encoded as zeros, so that "none" differs from action 0.
    """

    spec: Spec
    config: TorsoConfig
    core_config: CoreConfig
    precision: Precision = "default"

    def setup(self) -> None:
        config = self.config
        widths = (*config.hidden, config.width)
        self.encoder = Encoder(self.spec.obs, self.precision)
        self.dense = MLP(MLPConfig(widths, config.activation), precision=self.precision)
        self.core = make_core(self.core_config, config.width, self.precision)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        core = make_core(self.core_config, self.config.width, self.precision)
        return core.initial_carry(batch)

    def __call__(
        self, carry: Carry, inputs: Inputs, reset: Bool[Array, "T B"]
    ) -> tuple[Carry, Float[Array, "T B H"]]:
        return self.core(carry, self.dense(self._features(inputs, reset)), reset)

    def _features(self, inputs: Inputs, reset: Bool[Array, "T B"]) -> Float[Array, "T B D"]:
        config, first = self.config, inputs.first[..., None]
        parts = [self.encoder(inputs.obs)]
        if config.observe_action:
            action = encode_vector(self.spec.action, inputs.previous.action)
            parts.append(jnp.where(first & reset[..., None], 0, action))
        if config.observe_reward:
            parts.append(inputs.previous.reward[..., None])
        if config.observe_first:
            parts.append(first.astype(parts[0].dtype))
        return jnp.concatenate(parts, axis=-1)
