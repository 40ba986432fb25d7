"""Heads: from a feature vector to a policy distribution or a value."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlssm.errors import UserError
from rlssm.nn.distributions import Categorical, Gaussian, TanhGaussian, masked_categorical
from rlssm.nn.mlp import MLP, MLPConfig, Precision
from rlssm.types import Box, Discrete

POLICY_SCALE = 0.01
"""Gain of a policy's last layer: a new policy is close to uniform, or has its mean near zero."""

LOG_STD_RANGE = (-5.0, 2.0)
"""Limits of a state-dependent log standard deviation. SAC's code has (-20, 2); a lower limit of
-5 keeps the density of a stored action from overflowing."""


FREE_LOG_STD_RANGE = (-20.0, 2.0)
"""Limits of a log standard deviation that is a parameter of its own, as in CORL; IQL's code has
(-5, 2)."""


class CategoricalHead(nn.Module):
    """A categorical policy, restricted to the allowed actions where a mask is given."""

    num_actions: int
    mlp: MLPConfig
    precision: Precision = "default"

    @nn.compact
    def __call__(
        self, features: Float[Array, "*batch H"], mask: Bool[Array, "*batch A"] | None = None
    ) -> Categorical:
        network = MLP(self.mlp, self.num_actions, POLICY_SCALE, self.precision, name="logits")
        return masked_categorical(network(features), mask)


class GaussianHead(nn.Module):
    """A Gaussian policy whose log standard deviation is one parameter per action, 0 at first.

    Source: popjaxrl and PureJaxRL, `ActorCritic`.
    """

    action_size: int
    mlp: MLPConfig
    precision: Precision = "default"

    @nn.compact
    def __call__(self, features: Float[Array, "*batch H"]) -> Gaussian:
        mean = MLP(self.mlp, self.action_size, POLICY_SCALE, self.precision, name="mean")(features)
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_size,))
        return Gaussian(mean, jnp.broadcast_to(log_std.astype(mean.dtype), mean.shape))


class TanhGaussianHead(nn.Module):
    """A squashed Gaussian policy with mean and log standard deviation read from the features."""

    action_size: int
    mlp: MLPConfig
    precision: Precision = "default"
    log_std_min: float = LOG_STD_RANGE[0]
    scale: float = POLICY_SCALE

    @nn.compact
    def __call__(self, features: Float[Array, "*batch H"]) -> TanhGaussian:
        network = MLP(self.mlp, 2 * self.action_size, self.scale, self.precision, name="mean_std")
        mean, log_std = jnp.split(network(features), 2, axis=-1)
        return TanhGaussian(mean, jnp.clip(log_std, self.log_std_min, LOG_STD_RANGE[1]))


class ScaledTanhGaussianHead(nn.Module):
    """A squashed Gaussian policy with log standard deviation scale * f(features) + offset.

    The two scalars are learnt, from 1 and -1. Source: the JAX-CQL and CORL code.
    """

    action_size: int
    mlp: MLPConfig
    precision: Precision = "default"

    @nn.compact
    def __call__(self, features: Float[Array, "*batch H"]) -> TanhGaussian:
        network = MLP(self.mlp, 2 * self.action_size, POLICY_SCALE, self.precision, name="mean_std")
        mean, raw = jnp.split(network(features), 2, axis=-1)
        scale = self.param("scale", nn.initializers.ones, ())
        offset = self.param("offset", nn.initializers.constant(-1.0), ())
        return TanhGaussian(mean, jnp.clip(scale * raw + offset, *LOG_STD_RANGE))


class TanhMeanHead(nn.Module):
    """A Gaussian policy with mean tanh(f(features)) and a free log standard deviation per action.

    Its samples are not squashed. Source: IQL (arXiv 2110.06169), appendix B and released code.
    """

    action_size: int
    mlp: MLPConfig
    precision: Precision = "default"

    @nn.compact
    def __call__(self, features: Float[Array, "*batch H"]) -> Gaussian:
        mean = MLP(self.mlp, self.action_size, POLICY_SCALE, self.precision, name="mean")(features)
        log_std = self.param("log_std", nn.initializers.zeros, (self.action_size,))
        log_std = jnp.clip(log_std, *FREE_LOG_STD_RANGE).astype(mean.dtype)
        return Gaussian(jnp.tanh(mean), jnp.broadcast_to(log_std, mean.shape))


class DeterministicHead(nn.Module):
    """A deterministic policy, tanh(f(features)); returns the action itself."""

    action_size: int
    mlp: MLPConfig
    precision: Precision = "default"

    @nn.compact
    def __call__(self, features: Float[Array, "*batch H"]) -> Float[Array, "*batch A"]:
        network = MLP(self.mlp, self.action_size, POLICY_SCALE, self.precision, name="action")
        return jnp.tanh(network(features))


class ValueHead(nn.Module):
    """A scalar per feature vector: a state value, or an action value of joined features.

    With `size` a vector of that many values, on one more axis.
    """

    mlp: MLPConfig
    precision: Precision = "default"
    size: int | None = None

    @nn.compact
    def __call__(self, features: Float[Array, "*batch H"]) -> Float[Array, "..."]:
        value = MLP(self.mlp, self.size or 1, precision=self.precision, name="value")(features)
        return value.squeeze(-1) if self.size is None else value


def policy_head(
    action: Discrete | Box, mlp: MLPConfig, precision: Precision = "default", *, squashed: bool
) -> CategoricalHead | GaussianHead | TanhGaussianHead:
    """Return the policy head of an action space; a categorical one also takes a mask.

    Args:
        action: discrete, or a box of rank 1.
        squashed: whether continuous actions are squashed into (-1, 1) by the distribution
            (SAC and its kin) or left to the environment to clip (PPO).

    Raises:
        UserError: on a continuous action that is not a vector.
    """
    match action:
        case Discrete(n):
            return CategoricalHead(n, mlp, precision)
        case Box((size,)):
            return (TanhGaussianHead if squashed else GaussianHead)(size, mlp, precision)
        case Box(shape):
            raise UserError(
                f"a continuous action must be a vector, got shape {shape}; "
                "flatten it in the adapter"
            )
