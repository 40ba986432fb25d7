"""Returns and lengths of the episodes that end while a batch of environments is stepped.

`EpisodeStatistics` is carried through the compiled loop and gives sums and counts;
`with_means` divides them on the host, where a mean over no episode is masked, not 0/0.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import VectorStep
from rlssm.types import Metrics

# Each sum with the number of episodes it is over.
SUMS = {
    "episode/return": ("episode/return_sum", "episode/count"),
    "episode/length": ("episode/length_sum", "episode/count"),
    "episode/success": ("episode/success_sum", "episode/judged"),
}


class EpisodeStatistics(NamedTuple):
    """Episode statistics of `B` environments that reset themselves.

    Attributes:
        running_return: undiscounted return of the episode under way, float32 `[B]`.
        running_length: its steps so far, int32 `[B]`.
        last_return: return of the episode that ended last, zero before the first end, `[B]`.
        last_length: its length, `[B]`.
        count: episodes that ended since the last `clear`, int32.
        judged: those among them whose environment says whether they succeeded, int32.
        return_sum: sum of the returns of the `count` episodes, float32.
        length_sum: sum of their lengths, float32.
        success_sum: how many of the `judged` episodes succeeded, float32.
    """

    running_return: Float[Array, " B"]
    running_length: Int[Array, " B"]
    last_return: Float[Array, " B"]
    last_length: Int[Array, " B"]
    count: Int[Array, ""]
    judged: Int[Array, ""]
    return_sum: Float[Array, ""]
    length_sum: Float[Array, ""]
    success_sum: Float[Array, ""]

    @classmethod
    def start(cls, num_envs: int) -> "EpisodeStatistics":
        """Return the statistics of `num_envs` environments that were just reset."""
        return cls(
            running_return=jnp.zeros(num_envs, jnp.float32),
            running_length=jnp.zeros(num_envs, jnp.int32),
            last_return=jnp.zeros(num_envs, jnp.float32),
            last_length=jnp.zeros(num_envs, jnp.int32),
            count=jnp.zeros((), jnp.int32),
            judged=jnp.zeros((), jnp.int32),
            return_sum=jnp.zeros((), jnp.float32),
            length_sum=jnp.zeros((), jnp.float32),
            success_sum=jnp.zeros((), jnp.float32),
        )

    def update(self, step: VectorStep) -> "EpisodeStatistics":
        """Count one step of every environment."""
        last = step.terminated | step.truncated
        running_return = self.running_return + step.reward
        running_length = self.running_length + 1
        judged = last if "success" in step.info else jnp.zeros_like(last)
        success = step.info.get("success", judged)
        return EpisodeStatistics(
            running_return=jnp.where(last, 0.0, running_return),
            running_length=jnp.where(last, 0, running_length),
            last_return=jnp.where(last, running_return, self.last_return),
            last_length=jnp.where(last, running_length, self.last_length),
            count=self.count + jnp.sum(last, dtype=jnp.int32),
            judged=self.judged + jnp.sum(judged, dtype=jnp.int32),
            return_sum=self.return_sum + _sum_where(last, running_return),
            length_sum=self.length_sum + _sum_where(last, running_length),
            success_sum=self.success_sum + _sum_where(last, success),
        )

    def clear(self) -> "EpisodeStatistics":
        """Return the statistics with sums and counts at zero; episodes under way go on."""
        return self._replace(
            count=jnp.zeros_like(self.count),
            judged=jnp.zeros_like(self.judged),
            return_sum=jnp.zeros_like(self.return_sum),
            length_sum=jnp.zeros_like(self.length_sum),
            success_sum=jnp.zeros_like(self.success_sum),
        )

    def metrics(self) -> Metrics:
        """Return the sums and counts since the last `clear`; `with_means` divides them."""
        return {
            "episode/count": self.count,
            "episode/judged": self.judged,
            "episode/return_sum": self.return_sum,
            "episode/length_sum": self.length_sum,
            "episode/success_sum": self.success_sum,
        }


def with_means(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics, on the host, with means in place of the sums of `EpisodeStatistics.metrics`.

    Leaves are scalars or `[S]`, a value per member. A member in which no episode ended is masked
    in `episode/return` and its like, and a mean that no member has is left out, as
    `episode/success` is for environments that do not define it. Other metrics pass unchanged.
    """
    means = {}
    for name, (total, count) in SUMS.items():
        if count not in metrics:  # nothing is stepped while a dataset alone is learnt from
            continue
        number = np.asarray(metrics[count])
        if number.any():
            mean = np.asarray(metrics[total]) / np.maximum(number, 1)
            means[name] = np.ma.masked_where(number == 0, mean)
    spent = {"episode/judged", *(total for total, _ in SUMS.values())}
    return {name: value for name, value in metrics.items() if name not in spent} | means


def _sum_where(mask: Bool[Array, " B"], values: Array) -> Float[Array, ""]:
    return jnp.sum(jnp.where(mask, values, 0), dtype=jnp.float32)
