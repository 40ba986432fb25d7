"""Concentration: find pairs among cards that lie face down, two at a time.

Source: POPGym (Morad et al. 2023), whose moves, pay and length these are.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rlssm.envs.base import Step
from rlssm.envs.cards import CARDS_PER_DECK
from rlssm.errors import require
from rlssm.types import Box, Discrete, Key, Spec

NOBODY = -1


class ConcentrationState(NamedTuple):
    """Where the game stands.

    Attributes:
        deck: kind of the card at each place, int32 `[cards]`.
        found: which ones lie face up for good, `[cards]`.
        first: place of the card turned first, -1 where the next one is the first, int32.
        time: steps taken, int32.
    """

    deck: Int[Array, " cards"]
    found: Bool[Array, " cards"]
    first: Int[Array, ""]
    time: Int[Array, ""]


@dataclass(frozen=True)
class Concentration:
    """Turn a card, then another one: those that match stay face up.

    The observation says of every place which kind lies there face up, or, in the last column, that
    it lies face down; a card just turned is seen, also where it is turned back at once. A pair pays
    2 over the cards, so that all of them pay 1. Two cards that do not match, or are one and the
    same, cost 2 over the length of an episode, which is twice the cards. Turning a card that
    lies face up already ends the try and costs 1 over the length for each card in it.
    Finding the last pair terminates (and is success), reaching the length truncates. Cards are told
    apart by `kinds`, 2 colours or 13 ranks.
    """

    decks: int = 1
    kinds: int = 2

    def __post_init__(self) -> None:
        require(self.decks >= 1, "decks", self.decks, "at least 1")
        require(self.kinds in (2, 13), "kinds", self.kinds, "2 or 13")

    @property
    def cards(self) -> int:
        return CARDS_PER_DECK * self.decks

    @property
    def steps(self) -> int:
        """Greatest length of an episode."""
        return 2 * self.cards

    @property
    def spec(self) -> Spec:
        shown = Box((self.cards, self.kinds + 1), "bool")
        return Spec(shown, Discrete(self.cards), max_episode_steps=self.steps)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[ConcentrationState, Array]:
        deck = jax.random.permutation(key, jnp.arange(self.cards, dtype=jnp.int32) % self.kinds)
        down, none = jnp.zeros(self.cards, bool), jnp.zeros((), jnp.int32)
        state = ConcentrationState(deck, down, none + NOBODY, none)
        return state, self._show(deck, down)

    def step(
        self, key: Key, state: ConcentrationState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[ConcentrationState, Step]:
        places = jnp.arange(self.cards)
        turned = (places == action) | (places == state.first)
        known, second = state.found[action], state.first != NOBODY
        same = state.deck[state.first] == state.deck[action]
        pair = second & ~known & same & (state.first != action)
        failed = known | (second & ~pair)
        cost = jnp.where(failed, 1 + second, 0) / self.steps
        found = state.found | (turned & pair)
        time = state.time + 1
        terminated = jnp.all(found)
        first = jnp.where(second | known, NOBODY, action).astype(jnp.int32)
        return ConcentrationState(state.deck, found, first, time), Step(
            obs=self._show(state.deck, state.found | turned),
            reward=(jnp.where(pair, 2 / self.cards, 0.0) - cost).astype(jnp.float32),
            terminated=terminated,
            truncated=(time >= self.steps) & ~terminated,
            info={"success": terminated},
        )

    def _show(self, deck: Array, up: Array) -> Bool[Array, "cards shown"]:
        return jnp.where(up, deck, self.kinds)[:, None] == jnp.arange(self.kinds + 1)
