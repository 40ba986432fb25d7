"""The memory suite against recorded play of the package `popgym`, and its best and random play."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import record_popgym
from env_play import play, quick_jit

from rlssm.envs import counting
from rlssm.envs.battleship import SHIPS, Battleship, BattleshipState
from rlssm.envs.concentration import Concentration, ConcentrationState
from rlssm.envs.counting import CountRecall, CountRecallState, HigherLower, HigherLowerState
from rlssm.envs.labyrinth import Labyrinth, LabyrinthEscape, LabyrinthState
from rlssm.envs.memory_suite import FAMILIES, MEMORY_TASKS, PUBLISHED, SUITE
from rlssm.envs.minesweeper import Minesweeper, MinesweeperState
from rlssm.envs.stateless import CartPoleState, VelocityOnlyCartPole
from rlssm.errors import UserError

RECORDED = json.loads(gzip.decompress(record_popgym.DATA.read_bytes()))
RANDOM = json.loads(
    (Path(__file__).parents[2] / "results" / "benchmark" / "memory-suite.json").read_text()
)["tasks"]
ZERO = np.int32(0)


def test_the_suite_has_its_families():
    assert len(FAMILIES) == 16 and len(SUITE) == 48 and set(SUITE) < set(MEMORY_TASKS)
    assert len(PUBLISHED) == 39 and not any("Labyrinth" in x or "Velocity" in x for x in PUBLISHED)
    assert set(RECORDED) == {n for n, env in SUITE.items() if isinstance(env, tuple(STARTS))}
    assert set(RANDOM) == set(SUITE)


# --- The same moves ---------------------------------------------------------------------------


def start_counting(env, episode):
    (card, asked), full = episode["start"], np.full(env.kinds, env.copies, np.int32)
    cards, questions = (full - (np.arange(env.kinds) == x) for x in (card, asked))
    return CountRecallState(cards, questions, np.int32(asked), ZERO, ZERO)


def start_guessing(env, episode):
    first, second = episode["start"], episode["obs"][0]
    left = np.full(13, env.cards // 13, np.int32)
    np.subtract.at(left, [first, second], 1)
    return HigherLowerState(np.int32(first), np.int32(second), left, ZERO, ZERO)


def start_pairing(env, episode):
    deck = np.array(episode["hidden"], np.int32)
    return ConcentrationState(deck, np.zeros(len(deck), bool), np.int32(-1), ZERO)


def start_board(env, episode):
    board = np.array(episode["hidden"]).ravel() == 1
    state = BattleshipState if isinstance(env, Battleship) else MinesweeperState
    return state(board, np.zeros_like(board), ZERO)


def start_labyrinth(env, episode):
    grid, place = (np.array(episode["hidden"][x], np.int32) for x in ("grid", "place"))
    seen = np.zeros(grid.shape, bool)
    seen[tuple(place)] = True
    return LabyrinthState(grid, place, seen, ZERO)


def start_pole(env, episode):
    return CartPoleState(*np.float32(episode["hidden"]), time=ZERO)


STARTS = {
    CountRecall: start_counting,
    HigherLower: start_guessing,
    Concentration: start_pairing,
    Battleship: start_board,
    Minesweeper: start_board,
    Labyrinth: start_labyrinth,
    VelocityOnlyCartPole: start_pole,
}


def dealt(env, episode):
    """Return what is drawn at each step, in the order of the draws."""
    obs = np.array(episode["obs"])
    if isinstance(env, HigherLower):  # one step ahead
        return np.append(obs[1:], 13)[:, None]
    return obs if isinstance(env, CountRecall) else np.zeros((len(obs), 0), int)


def shown(env, obs, state):
    """Return popgym's observation in our form."""
    obs = np.array(obs)
    if isinstance(env, CountRecall):
        return {"card": obs[..., 0], "asked": obs[..., 1]}
    if isinstance(env, Concentration):
        return np.eye(env.kinds + 1, dtype=bool)[obs]
    if isinstance(env, Labyrinth):  # recentred, where popgym shifts its view at the border
        views = obs[..., :9].reshape(-1, 3, 3)
        for view, (row, column) in zip(views, state.place, strict=True):
            for axis, at in ((0, row), (1, column)):
                if at == 0:
                    view[...] = np.roll(view, 1, axis)
                    view[(slice(None),) * axis + (0,)] = 1
        return np.eye(4, dtype=bool)[views.reshape(-1, 9)]
    return obs


@pytest.mark.parametrize("name", RECORDED)
def test_the_same_moves_lead_to_the_same(name, monkeypatch):
    env = MEMORY_TASKS[name]
    start = next(make for kind, make in STARTS.items() if isinstance(env, kind))

    @quick_jit
    def replay(state, actions, cards):
        def body(state, row):
            action, cards = row
            pile = iter(cards)
            monkeypatch.setattr(counting, "draw", lambda key, left: next(pile))
            state, step = env.step(jax.random.key(0), state, action, env.params)
            return state, (state, step)

        return jax.lax.scan(body, state, (actions, cards))[1]

    for episode in RECORDED[name]:
        actions = np.array(episode["actions"], np.int32)
        if actions.ndim == 2:
            actions = actions @ np.int32([int(env.spec.action.n**0.5), 1])
        count = len(actions)
        filled = np.resize(actions, longest(name))  # so that both episodes compile once
        cards = np.resize(dealt(env, episode), (len(filled), dealt(env, episode).shape[1]))
        played = replay(start(env, episode), filled, cards)
        state, step = jax.tree.map(lambda x: np.asarray(x)[:count], played)  # noqa: B023
        np.testing.assert_allclose(step.reward, episode["reward"], rtol=1e-5)
        np.testing.assert_array_equal(step.terminated, episode["terminated"])
        ended = step.terminated | step.truncated
        if isinstance(env, Labyrinth) and episode["truncated"][-1]:
            ended[-1] = True  # one step earlier there
        np.testing.assert_array_equal(
            ended, np.logical_or(episode["terminated"], episode["truncated"])
        )
        expected = shown(env, episode["obs"], state)
        exact = jnp.result_type(jax.tree.leaves(step.obs)[0]) != jnp.float32
        compare = np.testing.assert_array_equal if exact else close
        jax.tree.map(compare, step.obs, expected)


def longest(name):
    return max(len(episode["actions"]) for episode in RECORDED[name])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_recordings_are_of_the_package():
    pytest.importorskip("popgym", reason="needs pip install popgym mazelib")
    name = "BattleshipHard"
    assert [record_popgym.record_episode(name, x, x) for x in (0, 1)] == RECORDED[name]


# --- Best and random play ---------------------------------------------------------------------

ORACLES = {  # from the hidden state
    CountRecall: lambda env, s: env.copies - s.cards[s.asked],
    HigherLower: lambda env, s: (s.following < s.card).astype(jnp.int32),
    Concentration: lambda env, s: jnp.argmax(
        ~s.found
        & ((s.first < 0) | (s.deck == s.deck[s.first]))
        & (jnp.arange(env.cards) != s.first)
    ),
    Battleship: lambda env, s: jnp.argmax(s.ships & ~s.tried),
    Minesweeper: lambda env, s: jnp.argmax(~s.mines & ~s.opened),
    VelocityOnlyCartPole: lambda env, s: (
        s.theta + s.theta_dot + 0.1 * s.x + 0.2 * s.x_dot > 0
    ).astype(jnp.int32),
}
LANES = 64  # at random, and a tenth of them knowing everything


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith("Medium") else name
        for name, env in SUITE.items()
        if type(env) in ORACLES
    ],
)
def test_best_play_returns_the_most_and_random_play_what_is_stated(name):
    env = SUITE[name]
    oracle = ORACLES[type(env)]

    def players(lane, key, state, obs):
        guess = jax.random.randint(key, (), 0, env.spec.action.n)
        return jnp.where(lane < LANES, guess, oracle(env, state))

    length = getattr(env, "steps", env.spec.max_episode_steps) or env.cards - 1
    seen, _, step = play(env, players, length, batch=LANES + 6)
    last = step.terminated | step.truncated
    assert last.any(1).all() and not (step.terminated & step.truncated).any()
    before = np.cumsum(last, 1) - last == 0  # up to the first end
    returns = np.where(before, step.reward, 0).sum(1, dtype=np.float64)

    stated = RANDOM[name]
    error = (stated["std"] ** 2 * (1 / LANES + 1 / stated["episodes"])) ** 0.5
    assert abs(returns[:LANES].mean() - stated["mean"]) < 4 * error + 1e-6

    best, paid = before[LANES:], step.reward[LANES:]
    good, least = best_play(env, seen, step.obs)
    np.testing.assert_array_equal((best & (paid == np.float32(good))).sum(1), least)
    assert not (best & (paid != np.float32(good)) & (paid != 0)).any()
    assert step.info["success"][LANES:][last[LANES:] & best].all()


def best_play(env, seen, obs):
    """Return what a good move pays, and how many of them the best play has."""
    match env:
        case CountRecall():
            return 1 / (52 * env.decks - 1), 52 * env.decks - 1
        case HigherLower():
            ranks = np.append(seen, obs[:, -1:], axis=1)[LANES:]
            return 1 / (52 * env.decks), (np.diff(ranks, axis=1) != 0).sum(1)
        case Concentration():
            return 1 / (26 * env.decks), 26 * env.decks
        case Battleship():
            return 1 / 12, sum(SHIPS)
        case Minesweeper():
            return 1 / (env.side**2 - env.mines), env.side**2 - env.mines
    return 1 / env.max_steps, env.max_steps


@pytest.mark.parametrize("env", [Battleship(8), Minesweeper(4, 2), Concentration(1, 13)])
def test_hidden_things_are_drawn_as_they_should_be(env):
    """Every ship fits, every place is as likely as its mirror image, every pair is there."""
    keys = jax.random.split(jax.random.key(0), 4000)
    state = jax.tree.map(np.asarray, quick_jit(jax.vmap(env.reset, (0, None)))(keys, ()))[0]
    if isinstance(env, Concentration):
        assert (np.sort(state.deck) == np.sort(np.arange(52) % 13)).all()
        agree = (state.deck[:, 0] == state.deck[:, 1]).mean()
        assert abs(agree - 3 / 51) < 4 * (3 / 51 / 4000) ** 0.5
        return
    board = state.ships if isinstance(env, Battleship) else state.mines
    assert (board.sum(1) == (12 if isinstance(env, Battleship) else 2)).all()
    share = board.mean(0).reshape(int(env.squares**0.5), -1)
    for same in (share.T, share[::-1], share[:, ::-1]):
        assert np.abs(share - same).max() < 5 * (2 * share.max() / 4000) ** 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CountRecall(kinds=3), "kinds must be 2, 4 or 13, got 3"),
        (lambda: HigherLower(decks=0), "decks must be at least 1, got 0"),
        (lambda: Concentration(kinds=4), "kinds must be 2 or 13, got 4"),
        (lambda: Battleship(4), "board must be at least 5, so that all ships fit, got 4"),
        (lambda: Minesweeper(4, 14), "mines must be from 1 to 13, got 14"),
        (lambda: LabyrinthEscape(1), "rooms must be at least 2, got 1"),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message
