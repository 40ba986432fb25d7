"""Card games that are pure tests of memory: RepeatPrevious, RepeatFirst and Autoencode.

A pile of shuffled decks is dealt card by card. The observation is the suit of the card on the
table, one-hot, and all zero once the pile is used up; the action names the suit of an earlier
card. Every answer asked for pays `+1/n` or `-1/n`, `n` being the number of answers in an
episode, so that returns lie in [-1, 1] and perfect recall returns 1. Episodes have a fixed
length and end by termination. `info["success"]` is True at the last step of a faultless episode.

Source: POPGym (Morad et al. 2023) and its JAX port popjaxrl (Lu et al. 2023). The games follow
the port in what is dealt and paid, with four departures: RepeatFirst asks `cards - 1` questions
rather than `cards` for `1/(cards - 1)` each; Autoencode ends after `2 cards` steps, not one later;
Autoencode shows the cards while they are dealt and nothing while they are recited (the port has
the two phases exchanged, so that its game cannot be won); and the suits are drawn from what is
left of the pile one step at a time, which has the same distribution as shuffling it first and
spares the shuffle at each of the resets that auto-reset computes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlssm.envs.base import Step
from rlssm.envs.piles import draw
from rlssm.errors import require
from rlssm.types import Box, Discrete, Key, Spec

SUITS = 4
CARDS_PER_DECK = 52


class CardState(NamedTuple):
    """Where a card game stands.

    Attributes:
        deck: suits in the order they were dealt, -1 for cards still in the pile, int32 `[cards]`.
        left: cards of each suit still in the pile, int32 `[4]`.
        time: steps taken, int32.
        correct: right answers so far, int32.
    """

    deck: Int[Array, " cards"]
    left: Int[Array, "4"]
    time: Int[Array, ""]
    correct: Int[Array, ""]


@dataclass(frozen=True)
class CardGame(ABC):
    """What the card games have in common; a game says how long it is and what it asks."""

    decks: int = 1

    def __post_init__(self) -> None:
        require(self.decks >= 1, "decks", self.decks, "at least 1")

    @property
    def cards(self) -> int:
        return CARDS_PER_DECK * self.decks

    @property
    def steps(self) -> int:
        """Length of an episode."""
        return self.cards

    @property
    @abstractmethod
    def first_question(self) -> int:
        """Step from which on every action is an answer."""

    @abstractmethod
    def asked(self, time: Int[Array, ""]) -> Int[Array, ""]:
        """Return the position in the deck of the card whose suit is asked for."""

    @property
    def spec(self) -> Spec:
        return Spec(obs=Box((SUITS,)), action=Discrete(SUITS), truncates=False)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[CardState, Float[Array, "4"]]:
        pile = CardState(
            deck=jnp.full(self.cards, -1, jnp.int32),
            left=jnp.full(SUITS, self.cards // SUITS, jnp.int32),
            time=jnp.zeros((), jnp.int32),
            correct=jnp.zeros((), jnp.int32),
        )
        return _deal(key, pile)

    def step(
        self, key: Key, state: CardState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[CardState, Step]:
        answers = self.steps - self.first_question
        due = state.time >= self.first_question
        correct = due & (action == state.deck[self.asked(state.time)])
        reward = jnp.where(correct, 1.0, -1.0) / answers
        state, obs = _deal(
            key, state._replace(time=state.time + 1, correct=state.correct + correct)
        )
        terminated = state.time >= self.steps
        return state, Step(
            obs=obs,
            reward=jnp.where(due, reward, 0.0).astype(jnp.float32),
            terminated=terminated,
            truncated=jnp.zeros((), bool),
            info={"success": terminated & (state.correct == answers)},
        )


@dataclass(frozen=True)
class RepeatPrevious(CardGame):
    """Name the suit of the card `k` steps ago, from step `k` on."""

    k: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.k < self.cards, "k", self.k, f"from 1 to {self.cards - 1}")

    @property
    def first_question(self) -> int:
        return self.k

    def asked(self, time: Int[Array, ""]) -> Int[Array, ""]:
        return time - self.k


@dataclass(frozen=True)
class RepeatFirst(CardGame):
    """Name the suit of the first card, from the step after it on."""

    @property
    def first_question(self) -> int:
        return 1

    def asked(self, time: Int[Array, ""]) -> Int[Array, ""]:
        return jnp.zeros_like(time)


@dataclass(frozen=True)
class Autoencode(CardGame):
    """Watch the whole pile being dealt, then recite the suits from the last card to the first."""

    @property
    def steps(self) -> int:
        return 2 * self.cards

    @property
    def first_question(self) -> int:
        return self.cards

    def asked(self, time: Int[Array, ""]) -> Int[Array, ""]:
        return 2 * self.cards - 1 - time


def _deal(key: Key, state: CardState) -> tuple[CardState, Float[Array, "4"]]:
    """Deal the card of step `state.time` and return it one-hot, zeros if the pile is used up."""
    suit = draw(key, state.left)
    face = jax.nn.one_hot(suit, SUITS, dtype=jnp.float32)  # an empty pile gives suit 4: all zero
    dealt = state._replace(
        deck=state.deck.at[state.time].set(suit, mode="drop"),
        left=state.left - face.astype(jnp.int32),
    )
    return dealt, face
