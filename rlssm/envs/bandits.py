"""Bandits: arms of unknown pay, to be found out by pulling them.

The arms are drawn at the reset and never shown. `MultiArmedBandit` is that of the memory suite;
the other two are the classic tests of meta-learning. An episode is truncated after `length` pulls.

Sources: POPGym (Morad et al. 2023); "RL^2" (Duan et al. 2016, arXiv 1611.02779), section 3.1, for
Bernoulli arms uniform in [0, 1]; "Learning to reinforcement learn" (Wang et al. 2016) for the task.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlssm.envs.base import Step
from rlssm.errors import require
from rlssm.types import Box, Discrete, Key, Spec


class BanditState(NamedTuple):
    """What each arm pays on average, and the pulls so far."""

    arms: Float[Array, " arms"]
    time: Int[Array, ""]


@dataclass(frozen=True)
class BernoulliBandit:
    """Arms pay 1 with a probability of their own, uniform in [0, 1], and else 0.

    There is nothing to see but the share of the episode that is over.
    """

    arms: int = 5
    length: int = 20

    def __post_init__(self) -> None:
        require(self.arms >= 2, "arms", self.arms, "at least 2")
        require(self.length >= 1, "length", self.length, "at least 1")

    @property
    def spec(self) -> Spec:
        return Spec(Box((1,)), Discrete(self.arms), max_episode_steps=self.length)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[BanditState, Float[Array, "1"]]:
        return BanditState(self.draw(key), jnp.zeros((), jnp.int32)), jnp.zeros(1, jnp.float32)

    def draw(self, key: Key) -> Float[Array, " arms"]:
        """Return the arms of an episode."""
        return jax.random.uniform(key, (self.arms,), jnp.float32)

    def pay(self, key: Key, arm: Float[Array, ""]) -> Float[Array, ""]:
        """Return what a pull of an arm pays."""
        return jax.random.bernoulli(key, arm).astype(jnp.float32)

    def step(
        self, key: Key, state: BanditState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[BanditState, Step]:
        time = state.time + 1
        return BanditState(state.arms, time), Step(
            obs=(time / self.length).astype(jnp.float32)[None],
            reward=self.pay(key, state.arms[action]),
            terminated=jnp.zeros((), bool),
            truncated=time >= self.length,
            info={},
        )


@dataclass(frozen=True)
class GaussianBandit(BernoulliBandit):
    """Arms pay a mean of their own, standard normal, under noise of deviation `noise`."""

    noise: float = 1.0

    def draw(self, key: Key) -> Float[Array, " arms"]:
        return jax.random.normal(key, (self.arms,), jnp.float32)

    def pay(self, key: Key, arm: Float[Array, ""]) -> Float[Array, ""]:
        return arm + self.noise * jax.random.normal(key, (), jnp.float32)


@dataclass(frozen=True)
class MultiArmedBandit:
    """Arms pay `1/length` with a probability of their own, uniform in [0, 1], and else `-1/length`.

    The observation says whether the last pull paid, 0 or 1; it is 0 at the start.
    """

    arms: int = 10
    length: int = 200

    def __post_init__(self) -> None:
        require(self.arms >= 2, "arms", self.arms, "at least 2")
        require(self.length >= 1, "length", self.length, "at least 1")

    @property
    def spec(self) -> Spec:
        return Spec(Discrete(2), Discrete(self.arms), max_episode_steps=self.length)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[BanditState, Int[Array, ""]]:
        none = jnp.zeros((), jnp.int32)
        return BanditState(jax.random.uniform(key, (self.arms,), jnp.float32), none), none

    def step(
        self, key: Key, state: BanditState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[BanditState, Step]:
        paid = jax.random.bernoulli(key, state.arms[action])
        time = state.time + 1
        return BanditState(state.arms, time), Step(
            obs=paid.astype(jnp.int32),
            reward=(jnp.where(paid, 1.0, -1.0) / self.length).astype(jnp.float32),
            terminated=jnp.zeros((), bool),
            truncated=time >= self.length,
            info={},
        )
