"""Card games for those who count: CountRecall and HigherLower.

Cards are drawn from what is left of a pile one step at a time (`piles.py`). Episodes have a fixed
length, one step less than there are cards, and end by termination; `info["success"]` is True at
the last step of a faultless one.

Source: POPGym (Morad et al. 2023), whose moves, pay and lengths these are.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rlssm.envs.base import Step
from rlssm.envs.cards import CARDS_PER_DECK
from rlssm.envs.piles import draw
from rlssm.errors import require
from rlssm.types import DictSpace, Discrete, Key, Spec

RANKS = 13


class CountRecallState(NamedTuple):
    """Where CountRecall stands.

    Attributes:
        cards: cards of each kind still in the pile that is dealt from, int32 `[kinds]`.
        questions: those in the pile that is asked from.
        asked: the kind asked for, int32.
        time: steps taken, int32.
        correct: right answers so far, int32.
    """

    cards: Int[Array, " kinds"]
    questions: Int[Array, " kinds"]
    asked: Int[Array, ""]
    time: Int[Array, ""]
    correct: Int[Array, ""]


@dataclass(frozen=True)
class CountRecall:
    """Say how many cards of a kind were dealt so far, the one on the table included.

    Every step shows a card of one pile and asks for the kind of a card of another. An answer pays
    `+1/n` or `-1/n`, `n` being the number of answers in an episode, so that a faultless one
    returns 1. Cards are told apart by `kinds`: 2 colours, 4 suits or 13 ranks.
    """

    decks: int = 1
    kinds: int = 2

    def __post_init__(self) -> None:
        require(self.decks >= 1, "decks", self.decks, "at least 1")
        require(self.kinds in (2, 4, 13), "kinds", self.kinds, "2, 4 or 13")

    @property
    def copies(self) -> int:
        """Cards of one kind in a full pile, and the greatest answer."""
        return CARDS_PER_DECK * self.decks // self.kinds

    @property
    def steps(self) -> int:
        """Length of an episode."""
        return CARDS_PER_DECK * self.decks - 1

    @property
    def spec(self) -> Spec:
        kind = Discrete(self.kinds)
        shown = DictSpace((("asked", kind), ("card", kind)))
        return Spec(shown, Discrete(self.copies + 1), truncates=False)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[CountRecallState, dict[str, Array]]:
        full = jnp.full(self.kinds, self.copies, jnp.int32)
        none = jnp.zeros((), jnp.int32)
        return self._deal(key, CountRecallState(full, full, none, none, none))

    def step(
        self, key: Key, state: CountRecallState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[CountRecallState, Step]:
        right = action == self.copies - state.cards[state.asked]
        reward = jnp.where(right, 1.0, -1.0) / self.steps
        time, correct = state.time + 1, state.correct + right
        state, obs = self._deal(key, state._replace(time=time, correct=correct))
        terminated = time >= self.steps
        return state, Step(
            obs=obs,
            reward=reward.astype(jnp.float32),
            terminated=terminated,
            truncated=jnp.zeros((), bool),
            info={"success": terminated & (correct == self.steps)},
        )

    def _deal(self, key: Key, state: CountRecallState) -> tuple[CountRecallState, dict[str, Array]]:
        card_key, question_key = jax.random.split(key)
        card, asked = draw(card_key, state.cards), draw(question_key, state.questions)
        state = state._replace(
            cards=state.cards.at[card].add(-1),
            questions=state.questions.at[asked].add(-1),
            asked=asked,
        )
        return state, {"asked": asked, "card": card}


class HigherLowerState(NamedTuple):
    """Where HigherLower stands, all int32.

    Attributes:
        card: rank of the card on the table.
        following: rank of the card on top of the pile, which nobody sees.
        left: cards of each rank below that one, `[13]`.
        time: steps taken.
        wrong: wrong guesses so far.
    """

    card: Int[Array, ""]
    following: Int[Array, ""]
    left: Int[Array, "13"]
    time: Int[Array, ""]
    wrong: Int[Array, ""]


@dataclass(frozen=True)
class HigherLower:
    """Guess whether the next card is higher (action 0) or lower (1) than the one on the table.

    A right guess pays `1/cards`, a wrong one `-1/cards`, and an equal card nothing, so that no
    return exceeds `1 - 1/cards`.
    """

    decks: int = 1

    def __post_init__(self) -> None:
        require(self.decks >= 1, "decks", self.decks, "at least 1")

    @property
    def cards(self) -> int:
        return CARDS_PER_DECK * self.decks

    @property
    def spec(self) -> Spec:
        return Spec(Discrete(RANKS), Discrete(2), truncates=False)

    @property
    def params(self) -> tuple[()]:
        return ()

    def reset(self, key: Key, params: tuple[()]) -> tuple[HigherLowerState, Int[Array, ""]]:
        first_key, second_key = jax.random.split(key)
        left = jnp.full(RANKS, self.cards // RANKS, jnp.int32)
        first = draw(first_key, left)
        left = left.at[first].add(-1)
        second = draw(second_key, left)
        none = jnp.zeros((), jnp.int32)
        return HigherLowerState(first, second, left.at[second].add(-1), none, none), first

    def step(
        self, key: Key, state: HigherLowerState, action: Int[Array, ""], params: tuple[()]
    ) -> tuple[HigherLowerState, Step]:
        guessed = jnp.where(action == 0, 1, -1)
        outcome = guessed * jnp.sign(state.following - state.card)
        following = draw(key, state.left)
        state = HigherLowerState(
            card=state.following,
            following=following,
            left=state.left.at[following].add(-1, mode="drop"),  # the pile may be used up
            time=state.time + 1,
            wrong=state.wrong + (outcome < 0),
        )
        terminated = state.time >= self.cards - 1
        return state, Step(
            obs=state.card,
            reward=(outcome / self.cards).astype(jnp.float32),
            terminated=terminated,
            truncated=jnp.zeros((), bool),
            info={"success": terminated & (state.wrong == 0)},
        )
