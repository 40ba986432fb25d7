"""The card games against their rules, written as loops over what was shown and answered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import assert_one_episode, play, random_discrete

from rlssm.envs.cards import Autoencode, CardGame, RepeatFirst, RepeatPrevious
from rlssm.envs.registry import MEMORY_TASKS
from rlssm.errors import UserError

GAMES = {name: game for name, game in MEMORY_TASKS.items() if isinstance(game, CardGame)}
RULES = {  # decks, lag
    "RepeatPreviousEasy": (1, 4),
    "RepeatPreviousMedium": (2, 32),
    "RepeatPreviousHard": (3, 64),
    "RepeatFirstEasy": (1, None),
    "RepeatFirstMedium": (8, None),
    "RepeatFirstHard": (16, None),
    "AutoencodeEasy": (1, None),
    "AutoencodeMedium": (2, None),
    "AutoencodeHard": (3, None),
}


def questions(name):
    """Return (episode length, {step: position of the card asked for}) by the rules of a game."""
    decks, lag = RULES[name]
    cards = 52 * decks
    if name.startswith("RepeatPrevious"):
        return cards, {t: t - lag for t in range(lag, cards)}
    if name.startswith("RepeatFirst"):
        return cards, {t: 0 for t in range(1, cards)}
    return 2 * cards, {cards + i: cards - 1 - i for i in range(cards)}


def test_every_card_game_is_listed():
    assert set(GAMES) == set(RULES)


RANDOM, PERFECT, WRONG = 0, 1, 2


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n.endswith("Medium") else n for n in RULES],
)
def test_play_pays_by_the_rules(name):
    """One random player, one with perfect recall, one that is always wrong."""
    game = GAMES[name]
    length, asked = questions(name)
    cards = 52 * RULES[name][0]

    def players(lane, key, state, obs):
        answer = state.deck[game.asked(state.time)]
        guess = jax.random.randint(key, (), 0, 4)
        return jnp.where(lane == RANDOM, guess, (answer + (lane == WRONG)) % 4)

    shown, actions, step = play(game, players, length)
    for player in range(3):
        assert (shown[player, :cards].sum(-1) == 1).all() and not shown[player, cards:].any()
        suits = shown[player, :cards].argmax(-1)
        assert np.bincount(suits).tolist() == [cards // 4] * 4
        expected = np.zeros(length)
        for t, position in asked.items():
            expected[t] = (1 if actions[player, t] == suits[position] else -1) / len(asked)
        np.testing.assert_allclose(step.reward[player], expected, rtol=1e-6, atol=0)
    assert_one_episode(step, terminated=True, truncated=False)
    assert abs(step.reward[RANDOM].sum()) < 1

    # A perfect return is 1 up to how float32 adds: n times the float next to 1/n.
    paid = step.reward != 0
    assert paid.sum(-1).tolist() == [len(asked)] * 3
    assert (step.reward[PERFECT][paid[PERFECT]] == np.float32(1 / len(asked))).all()
    assert (step.reward[WRONG][paid[WRONG]] == np.float32(-1 / len(asked))).all()
    assert step.info["success"][:, -1].tolist() == [False, True, False]
    assert not step.info["success"][:, :-1].any()


def test_deal_is_a_shuffle():
    """Drawing from what is left is drawing without replacement: two cards agree 12 in 51 times."""
    game = RepeatFirst(decks=1)
    suits = play(game, random_discrete(4), 52, batch=2000)[0].argmax(-1)
    for first, second in ((0, 1), (0, 51), (25, 26)):
        agree = np.mean(suits[:, first] == suits[:, second])
        assert abs(agree - 12 / 51) < 4 * np.sqrt(12 / 51 * 39 / 51 / 2000)
    frequencies = np.bincount(suits[:, 30], minlength=4) / 2000
    assert np.abs(frequencies - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 2000)


def test_state_shows_the_deck_dealt_so_far():
    game = Autoencode(decks=1)
    state, obs = game.reset(jax.random.key(0), ())
    assert state.deck[0] == jnp.argmax(obs) and (state.deck[1:] == -1).all()
    assert state.left.sum() == 51


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RepeatFirst(decks=0), "decks must be at least 1, got 0"),
        (lambda: RepeatPrevious(decks=1, k=52), "k must be from 1 to 51, got 52"),
        (lambda: RepeatPrevious(decks=1, k=0), "k must be from 1 to 51, got 0"),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message
