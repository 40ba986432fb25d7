"""MemoryChain: remember one bit for any number of steps.

Source: bsuite's memory length experiment (Osband et al. 2020). Two departures, neither of which
changes what has to be remembered: the cue is shown once, where bsuite returns it again from the
first step; and the observation drops bsuite's query entry, which is always zero with one bit.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlssm.envs.base import Step
from rlssm.errors import require
from rlssm.types import Box, Discrete, Key, Spec


class MemoryChainState(NamedTuple):
    """The bit to remember, 0 or 1, and the steps taken, both int32."""

    cue: Int[Array, ""]
    time: Int[Array, ""]


@dataclass(frozen=True)
class MemoryChain:
    """See a cue at step 0 and name it `length` steps later.

    An episode has `length + 1` steps. The observation is `(1 - t/length, c)`, where `c` is -1 or
    +1 for cue 0 or 1 at `t = 0` and 0 afterwards. Only the last action counts: it pays +1 if it
    equals the cue and -1 otherwise, and `info["success"]` is True at that step if it does.
    """

    length: int

    def __post_init__(self) -> None:
        require(self.length >= 1, "length", self.length, "at least 1")

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((2,)), action=Discrete(2), truncates=False)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[MemoryChainState, Float[Array, "2"]]:
        state = MemoryChainState(
            cue=jax.random.bernoulli(key).astype(jnp.int32), time=jnp.zeros((), jnp.int32)
        )
        return state, self._observe(state)

    def step(
        self, key: Key, state: MemoryChainState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[MemoryChainState, Step]:
        last = state.time >= self.length
        correct = action == state.cue
        state = state._replace(time=state.time + 1)
        return state, Step(
            obs=self._observe(state),
            reward=jnp.where(last, jnp.where(correct, 1.0, -1.0), 0.0).astype(jnp.float32),
            terminated=last,
            truncated=jnp.zeros((), bool),
            info={"success": last & correct},
        )

    def _observe(self, state: MemoryChainState) -> Float[Array, "2"]:
        remaining = (self.length - state.time) / self.length  # 0 at the question, to the last bit
        cue = jnp.where(state.time == 0, 2 * state.cue - 1, 0)
        return jnp.stack([remaining, cue]).astype(jnp.float32)
