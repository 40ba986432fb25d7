"""Probe environments: the smallest tasks that tell one kind of mistake in an algorithm apart.

Their values and best actions are known in closed form, so a test can ask for numbers instead of
a rising curve. `gamma` below is the discount. Most take any action space: `Discrete(2)` unless
another is passed, `Box((1,))` for algorithms with continuous actions. The probe of memory is
`MemoryChain(length=1)`: acting best, V = gamma at its first step and +1 or -1 at its second, but
the mean return without memory is 0.
Source: the idea is that of Rejax's test environments; those from `TruncatedStream` on are ours.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import Step
from rlssm.errors import require
from rlssm.types import Box, DictSpace, Discrete, Key, Spec

Params = tuple[()]
Time = Int[Array, ""]
Sign = Float[Array, "1"]


@dataclass(frozen=True)
class Probe:
    """What the probes below share: one number to see, no parameters, any action space."""

    action: Discrete | Box = Discrete(2)

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((1,)), action=self.action, truncates=False)

    @property
    def params(self) -> Params:
        return ()


# --- One step: does the critic see the reward, the observation, the action, both? -------------


@dataclass(frozen=True)
class OneStepProbe(Probe, ABC):
    """Show -1 or +1 with equal odds, pay for one action, and terminate."""

    @abstractmethod
    def pay(self, sign: Sign, action: Array) -> Float[Array, ""]:
        """Return the reward of an action."""

    def reset(self, key: Key, params: Params) -> tuple[Sign, Sign]:
        sign = jax.random.rademacher(key, (1,), jnp.float32)
        return sign, sign

    def step(self, key: Key, state: Sign, action: Array, params: Params) -> tuple[Sign, Step]:
        return state, _step(jnp.zeros(1), self.pay(state, action), terminated=True)


@dataclass(frozen=True)
class ConstantReward(OneStepProbe):
    """Pays 1 whatever is seen or done: V = Q = 1."""

    def pay(self, sign: Sign, action: Array) -> Float[Array, ""]:
        return jnp.ones(())


@dataclass(frozen=True)
class RewardFromObservation(OneStepProbe):
    """Pays what is seen: V(o) = Q(o, a) = o."""

    def pay(self, sign: Sign, action: Array) -> Float[Array, ""]:
        return sign[0]


@dataclass(frozen=True)
class RewardFromAction(OneStepProbe):
    """Pays for the action alone.

    Discrete actions pay 1 for action 1 and -1 for any other, continuous ones
    `1 - mean((a - 1/2)^2)`. The best action is 1, or 1/2 in every entry; then V = 1.
    """

    def pay(self, sign: Sign, action: Array) -> Float[Array, ""]:
        if isinstance(self.action, Discrete):
            return jnp.where(action == 1, 1.0, -1.0)
        return 1 - jnp.mean((action - 0.5) ** 2)


@dataclass(frozen=True)
class RewardFromBoth(OneStepProbe):
    """Pays for the action that fits what is seen.

    Discrete actions pay 1 for action 1 at o = +1 and for any other at o = -1, otherwise -1;
    continuous ones `1 - mean((a - o/2)^2)`. Acting best, V(o) = 1; the best that takes no notice
    of o gets 0 and 3/4 on average.
    """

    def pay(self, sign: Sign, action: Array) -> Float[Array, ""]:
        if isinstance(self.action, Discrete):
            return jnp.where((action == 1) == (sign[0] > 0), 1.0, -1.0)
        return 1 - jnp.mean((action - sign / 2) ** 2)


# --- Several steps: does the value look ahead, and stop where it must? ------------------------


@dataclass(frozen=True)
class DelayedReward(Probe):
    """Two steps seen as 0 and 1, of which the second pays 1: V(0) = gamma, V(1) = 1."""

    def reset(self, key: Key, params: Params) -> tuple[Time, Float[Array, "1"]]:
        return jnp.zeros((), jnp.int32), jnp.zeros(1, jnp.float32)

    def step(self, key: Key, state: Time, action: Array, params: Params) -> tuple[Time, Step]:
        time = state + 1
        return time, _step(time[None], reward=state, terminated=time == 2)


@dataclass(frozen=True)
class TruncatedStream(Probe):
    """Pays 1 for ever, cut off every `steps` steps but never terminated: V = 1/(1 - gamma).

    An algorithm that takes the cut for an end finds less than `(1 - gamma^steps)/(1 - gamma)`.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((1,)), action=self.action, max_episode_steps=self.steps)

    def reset(self, key: Key, params: Params) -> tuple[Time, Float[Array, "1"]]:
        return jnp.zeros((), jnp.int32), jnp.ones(1, jnp.float32)

    def step(self, key: Key, state: Time, action: Array, params: Params) -> tuple[Time, Step]:
        time = state + 1
        return time, _step(jnp.ones(1), reward=1.0, truncated=time >= self.steps)


@dataclass(frozen=True)
class TerminatedStream(Probe):
    """The twin of `TruncatedStream`: pays 1 for `steps` steps, then terminates.

    The observation is `t/steps`, and V(t) = (1 - gamma^(steps - t))/(1 - gamma).
    """

    steps: int = 5

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")

    def reset(self, key: Key, params: Params) -> tuple[Time, Float[Array, "1"]]:
        return jnp.zeros((), jnp.int32), jnp.zeros(1, jnp.float32)

    def step(self, key: Key, state: Time, action: Array, params: Params) -> tuple[Time, Step]:
        time = state + 1
        return time, _step(time[None] / self.steps, reward=1.0, terminated=time >= self.steps)


# --- Masks and broken rewards -----------------------------------------------------------------


@dataclass(frozen=True)
class ForbiddenAction:
    """One step in which the best-paid of three actions is forbidden by `obs["action_mask"]`.

    One action f, drawn at random and shown one-hot in `obs["forbidden"]`, pays 10 and must never
    be taken; action f + 1 (modulo 3) pays 1, the third 0. Acting best within the mask, V = 1;
    where the mask is ignored the return is 10 and `info["violation"]` is True.
    """

    @property
    def spec(self) -> Spec:
        spaces = (("action_mask", Box((3,), "bool")), ("forbidden", Box((3,))))
        return Spec(obs=DictSpace(spaces), action=Discrete(3), truncates=False)

    @property
    def params(self) -> Params:
        return ()

    def reset(self, key: Key, params: Params) -> tuple[Int[Array, ""], dict[str, Array]]:
        forbidden = jax.random.randint(key, (), 0, 3, jnp.int32)
        return forbidden, self._observe(forbidden)

    def step(
        self, key: Key, state: Int[Array, ""], action: Int[Array, ""], params: Params
    ) -> tuple[Int[Array, ""], Step]:
        violation = action == state
        reward = jnp.where(violation, 10.0, jnp.where(action == (state + 1) % 3, 1.0, 0.0))
        step = _step(self._observe(state), reward, terminated=True)
        return state, step._replace(info={"violation": violation})

    def _observe(self, forbidden: Int[Array, ""]) -> dict[str, Array]:
        one_hot = jax.nn.one_hot(forbidden, 3, dtype=jnp.float32)
        return {"action_mask": one_hot == 0, "forbidden": one_hot}


@dataclass(frozen=True)
class NanReward(Probe):
    """Pays 1 for `healthy` steps and NaN from then on, in one episode that never ends."""

    healthy: int = 5

    def __post_init__(self) -> None:
        require(self.healthy >= 0, "healthy", self.healthy, "at least 0")

    def reset(self, key: Key, params: Params) -> tuple[Time, Float[Array, "1"]]:
        return jnp.zeros((), jnp.int32), jnp.ones(1, jnp.float32)

    def step(self, key: Key, state: Time, action: Array, params: Params) -> tuple[Time, Step]:
        reward = jnp.where(state < self.healthy, 1.0, jnp.nan)
        return state + 1, _step(jnp.ones(1), reward)


def _step(
    obs: Any,
    reward: Float[Array, ""] | float,
    terminated: Bool[Array, ""] | bool = False,
    truncated: Bool[Array, ""] | bool = False,
) -> Step:
    return Step(
        obs=jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), obs),
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated, bool),
        truncated=jnp.asarray(truncated, bool),
        info={},
    )
