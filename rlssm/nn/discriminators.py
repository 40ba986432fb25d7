"""Two classifiers that tell real steps from simulated ones, by what they start with and lead to.

Source: Eysenbach et al. 2020 (arXiv 2006.13916), section 4.2, in the form of H2O's released code,
where the second adds to the first:

    p(· | h, a)      = softmax D₁(h, a)
    p(· | h, a, o')  = softmax (D₁(h, a) + D₂(h, a, o'))

By Bayes' rule D₁ cancels, and the dynamics alone are left:

    log P_sim(o' | h, a) / P_real(o' | h, a) = D₂(h, a, o')[1] - D₂(h, a, o')[0]
"""

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rlssm.nn.actor_critic import History
from rlssm.nn.encoders import as_float, encode_vector
from rlssm.nn.mlp import MLP, MLPConfig
from rlssm.types import Carry, Inputs, Metrics

LOGIT_LIMIT = 2.0
"""Largest absolute logit, as in H2O's code: a log ratio of dynamics lies within ±4."""


class Discriminators(nn.Module):
    """A history under two classifiers; logit 0 is for real steps, logit 1 for simulated ones.

    Both share one memory. Observations are vectors.
    """

    history: History
    mlp: MLPConfig

    def setup(self) -> None:
        precision = self.history.precision
        self.of_start = MLP(self.mlp, 2, precision=precision)
        self.of_step = MLP(self.mlp, 2, precision=precision)

    @nn.nowrap
    def initial_carry(self, batch: int) -> Carry:
        return self.history.initial_carry(batch)

    def features(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"]
    ) -> Float[Array, "T B H"]:
        """Return what is known of each row before it acts."""
        return self.history(carry, seen, reset)[1]

    def start(self, features: Float[Array, "*batch H"], action: Array) -> Float[Array, "*batch 2"]:
        """Return D₁, of history and action."""
        return _bounded(self.of_start(self._joined(features, action)))

    def successor(
        self, features: Float[Array, "*inner H"], action: Array, next_obs: Array
    ) -> Float[Array, "*batch 2"]:
        """Return D₂, which the successor adds; it may have leading axes that the rest lacks."""
        after = as_float(next_obs)
        before = self._joined(features, action)
        before = jnp.broadcast_to(before, (*after.shape[:-1], before.shape[-1]))
        return _bounded(self.of_step(jnp.concatenate([before, after], axis=-1)))

    def __call__(
        self, carry: Carry, seen: Inputs, reset: Bool[Array, "T B"], action: Array, next_obs: Array
    ) -> tuple[Float[Array, "T B 2"], Float[Array, "T B 2"]]:
        """Return the logits of (history, action) and of (history, action, successor)."""
        features = self.features(carry, seen, reset)
        first = self.start(features, action)
        return first, first + self.successor(features, action, next_obs)

    def _joined(self, features: Array, action: Array) -> Array:
        return jnp.concatenate([features, encode_vector(self.history.spec.action, action)], axis=-1)


def log_ratio(residual: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """Return log P_sim / P_real of successors, from D₂ of them."""
    return residual[..., 1] - residual[..., 0]


def classification(
    logits: tuple[Float[Array, "T B 2"], Float[Array, "T B 2"]],
    source: Bool[Array, "T B"],
    mask: Bool[Array, "T B"],
) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of both classifiers, and how often each is right.

    Each source weighs the same, however many steps are of it; chance is an accuracy of 0.5.

    Args:
        logits: of (history, action) and of (history, action, successor).
        source: where a step is simulated.
        mask: where it counts.
    """
    loss, metrics = jnp.zeros(()), {}
    for name, logit in zip(("start", "step"), logits, strict=True):
        labels = source.astype(jnp.int32)
        error = optax.softmax_cross_entropy_with_integer_labels(logit, labels)
        right = jnp.argmax(logit, axis=-1) == labels
        halves = [mask & source, mask & ~source]
        loss += sum(_mean(error, half) for half in halves)
        metrics[f"discriminator/{name}_accuracy"] = sum(_mean(right, half) for half in halves) / 2
    return loss, metrics


def _mean(x: Array, mask: Array) -> Array:
    return jnp.where(mask, x, 0).sum() / jnp.maximum(mask.sum(), 1)


def _bounded(logits: Array) -> Array:
    return LOGIT_LIMIT * jnp.tanh(logits)
