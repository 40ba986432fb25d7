"""Combination locks: hard to open without a hint, behind observations that hide the state.

A lock of horizon H has two good states and a dead one, and ten latent actions, of which one is
right in each good state at each step. The right one leads to a good state, to either with equal
odds; any other leads to the dead state, which is never left. Right at the last step pays 1. A
distracting reward of 0.1 is paid half of the time,

- in mode "code": at the last step of every episode that failed, so that failing late costs
  nothing; this is what the authors' program does, although it means to do the next;
- in mode "paper": when a good state is left for the dead one, at whatever step.

Uniformly random actions open the lock with probability 10^-H. There are

- `ContinuousLock`: ten preferences, of which the latent action is drawn with probabilities
  softmax(action / temperature). Any numbers will do; those of its datasets are in [-1, 1]. The
  paper writes a temperature of 1, with which the best action in [-1, 1] is right with probability
  0.45 and a one-hot one with 0.23; the program has 0.1.
- `ImageLock`: the same, seen through features as of a random image of class 3 h + s.
- `DiscreteLock`: the latent action itself, and mode "paper": Hy-Q's lock.

Sources: Zhou et al. 2023 (arXiv 2311.08384), experiments and appendix, and their program; Song et
al. 2022 (arXiv 2210.06718) for the discrete lock. Departure: Gaussian clusters stand for the
images' features.
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlssm.envs.base import Step
from rlssm.errors import UserError, require, unknown_name
from rlssm.types import Box, Discrete, Key, Spec

RewardMode = Literal["code", "paper"]
ACTIONS = 10  # latent ones
DEAD = 2  # after the good states 0 and 1
STATES = DEAD + 1
ANTI_REWARD, ANTI_PROBABILITY = 0.1, 0.5
NOISE = 0.1  # standard deviation of an observation's entries before the Hadamard matrix

CLASSES, FEATURES = 100, 512
DECODABILITY = 0.75  # how often the best decoder names the class, of all 100
FEATURE_NOISE = 0.30931  # standard deviation that gives this with orthonormal class means


class LockState(NamedTuple):
    """The latent state, 0, 1 or 2, and the steps taken, both int32."""

    latent: Int[Array, ""]
    time: Int[Array, ""]


@dataclass(frozen=True)
class Lock(ABC):
    """What the locks have in common; each says how actions are read and what is seen.

    `params` is the combination, the right latent action by good state and step, int32 `[2, H]`.
    An episode has H steps and terminates; `info["success"]` is True at its last step if the lock
    opened.
    """

    horizon: int
    reward_mode: RewardMode = "code"
    combination: int = 0
    """Seed of the combination."""

    def __post_init__(self) -> None:
        require(self.horizon >= 1, "horizon", self.horizon, "at least 1")
        require(0 <= self.combination < 2**31, "combination", self.combination, "at least 0")
        if self.reward_mode not in get_args(RewardMode):
            raise unknown_name("reward_mode", self.reward_mode, get_args(RewardMode))

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((dimension(self.horizon),)), action=self._space, truncates=False)

    @property
    def params(self) -> Any:
        return jnp.asarray(_combination(self.horizon, self.combination))

    @property
    @abstractmethod
    def _space(self) -> Discrete | Box:
        """The actions."""

    @abstractmethod
    def _latent_action(self, key: Key, action: Array) -> Int[Array, ""]:
        """Return what an action does."""

    def right_action(self, state: LockState, params: Any) -> Int[Array, ""]:
        """Return the latent action that opens the lock; as in state 0 where it is dead."""
        return params[state.latent % DEAD, jnp.minimum(state.time, self.horizon - 1)]

    def reset(self, key: Key, params: Any) -> tuple[LockState, Array]:
        latent_key, obs_key = jax.random.split(key)
        latent = jax.random.bernoulli(latent_key).astype(jnp.int32)
        state = LockState(latent, jnp.zeros((), jnp.int32))
        return state, self._observe(obs_key, state)

    def step(
        self, key: Key, state: LockState, action: Array, params: Any
    ) -> tuple[LockState, Step]:
        action_key, switch_key, reward_key, obs_key = jax.random.split(key, 4)
        alive, last = state.latent != DEAD, state.time == self.horizon - 1
        chosen = self._latent_action(action_key, action)
        right = alive & (chosen == self.right_action(state, params))
        good = jax.random.bernoulli(switch_key).astype(jnp.int32)
        latent = jnp.where(right, jnp.where(last, state.latent, good), DEAD)

        opened = last & right
        distracting = last & ~right if self.reward_mode == "code" else alive & ~right
        anti = ANTI_REWARD * jax.random.bernoulli(reward_key, ANTI_PROBABILITY)
        reward = jnp.where(opened, 1.0, jnp.where(distracting, anti, 0.0))
        state = LockState(latent, state.time + 1)
        return state, Step(
            obs=self._observe(obs_key, state),
            reward=reward.astype(jnp.float32),
            terminated=last,
            truncated=jnp.zeros((), bool),
            info={"success": opened},
        )

    def _observe(self, key: Key, state: LockState) -> Float[Array, " D"]:
        """Return Hadamard (one-hot s, one-hot h, zeros, plus noise on all but the last entries)."""
        size, shown = dimension(self.horizon), self.horizon + STATES
        place = jnp.arange(size)
        one_hot = (place == state.latent) | (place == STATES + state.time)
        noise = NOISE * jax.random.normal(key, (size,), jnp.float32)
        hidden = one_hot + jnp.where(place < shown, noise, 0)
        return jnp.matmul(_hadamard(size), hidden, precision="highest").astype(jnp.float32)


@dataclass(frozen=True)
class ContinuousLock(Lock):
    """A lock whose actions are preferences among the latent ones."""

    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        good = 0 < self.temperature < math.inf
        require(good, "temperature", self.temperature, "above 0")

    @property
    def _space(self) -> Box:
        return Box((ACTIONS,))

    def _latent_action(self, key: Key, action: Float[Array, "10"]) -> Int[Array, ""]:
        return jax.random.categorical(key, action / self.temperature).astype(jnp.int32)


@dataclass(frozen=True)
class ImageLock(ContinuousLock):
    """A continuous lock seen through frozen features of unit length, one class per (h, s).

    The feature of a class is its mean, one of 100 orthonormal vectors, plus Gaussian noise, over
    its length. The best decoder, the nearest mean, is right 75 % of the time among all classes;
    CLIP's features of CIFAR-100, which these stand for, are decoded 78 % (training) and 72 %
    (test).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = CLASSES // STATES - 1
        require(self.horizon <= longest, "horizon", self.horizon, f"at most {longest} with images")

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((FEATURES,)), action=self._space, truncates=False)

    def _observe(self, key: Key, state: LockState) -> Float[Array, " D"]:
        noise = jax.random.normal(key, (FEATURES,), jnp.float32)
        mean = jnp.asarray(class_means())[STATES * state.time + state.latent]
        image = mean + FEATURE_NOISE * noise
        return image / jnp.linalg.norm(image)


@dataclass(frozen=True)
class DiscreteLock(Lock):
    """Hy-Q's lock: the action is the latent one."""

    reward_mode: RewardMode = "paper"

    @property
    def _space(self) -> Discrete:
        return Discrete(ACTIONS)

    def _latent_action(self, key: Key, action: Int[Array, ""]) -> Int[Array, ""]:
        return action


def dimension(horizon: int) -> int:
    """Return the size of an observation, 2^ceil(log2(H + 4))."""
    return 1 << (horizon + STATES).bit_length()


@functools.cache
def _combination(horizon: int, seed: int) -> Int[np.ndarray, "2 H"]:
    return np.random.default_rng(seed).integers(ACTIONS, size=(2, horizon), dtype=np.int32)


@functools.cache
def _hadamard(size: int) -> Float[np.ndarray, "D D"]:
    """Return Sylvester's matrix, entries +-1, not normalised."""
    row = np.arange(size)
    return (1 - 2 * (np.bitwise_count(row[:, None] & row) % 2.0)).astype(np.float32)


@functools.cache
def class_means() -> Float[np.ndarray, "100 512"]:
    """Return the frozen class means of `ImageLock`, orthonormal rows."""
    drawn = np.random.default_rng(0).normal(size=(FEATURES, CLASSES))
    return np.linalg.qr(drawn)[0].T.astype(np.float32)


# --- Ids --------------------------------------------------------------------------------------

IDS = (
    *(f"lock/h{horizon}" for horizon in (5, 10, 15, 30, 50)),
    *(f"lock/h{horizon}-images" for horizon in (5, 10, 15, 30)),
    *(f"lock/h{horizon}-discrete" for horizon in (5, 10, 15, 30, 50)),
)
FORM = "lock/h<horizon>[-images|-discrete][-paper][-soft][-code<seed>]"


def exists(env_id: str) -> bool:
    """Return whether an id is meant to be a lock's."""
    return env_id.startswith("lock/h")


def make(env_id: str) -> Lock:
    """Return the lock of an id: `lock/h10`, `lock/h10-images`, `lock/h10-discrete`, any horizon.

    Behind these may stand, in this order, `-paper` for the paper's reward, `-soft` for its
    temperature of 1, and `-code<seed>` for another combination than that of seed 0.

    Raises:
        UserError: if the id is no such thing, or the horizon is out of range.
    """
    first, *words = env_id.removeprefix("lock/").split("-")
    options: dict[str, Any] = {"horizon": _number(env_id, first, "h")}
    kind: type[Lock] = ContinuousLock
    if words and words[0] in ("images", "discrete"):
        kind = ImageLock if words.pop(0) == "images" else DiscreteLock
    if words and words[0] == "paper":
        options["reward_mode"] = words.pop(0)
    if words and words[0] == "soft" and kind is not DiscreteLock:
        options["temperature"] = 1.0
        words.pop(0)
    if words:
        options["combination"] = _number(env_id, words.pop(0), "code")
    if words:
        raise _malformed(env_id)
    return kind(**options)


def _number(env_id: str, word: str, prefix: str) -> int:
    digits = word.removeprefix(prefix)
    if not (word.startswith(prefix) and digits.isascii() and digits.isdigit()):
        raise _malformed(env_id)
    return int(digits)


def _malformed(env_id: str) -> UserError:
    return UserError(f"a lock's id must be {FORM}, for example lock/h10, got {env_id!r}")
