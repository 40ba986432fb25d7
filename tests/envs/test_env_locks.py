"""Locks against their tables: dynamics and rewards by enumeration, observations by their law."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import assert_one_episode, play, quick_jit, random_discrete
from scipy.linalg import hadamard
from scipy.stats import norm

from rlssm.envs import make
from rlssm.envs.base import Vectorized
from rlssm.envs.locks import (
    DECODABILITY,
    FEATURE_NOISE,
    IDS,
    ContinuousLock,
    DiscreteLock,
    ImageLock,
    LockState,
    class_means,
    dimension,
)
from rlssm.envs.user import check
from rlssm.errors import UserError

H = 3
MODES = ("code", "paper")


def outcomes(lock, latent, time, action):
    """Return {(next latent state, reward): probability} of a latent action, from the rules."""
    right = latent < 2 and action == np.asarray(lock.params)[latent, time]
    last = time == lock.horizon - 1
    if right:
        return {(latent, 1.0): 1.0} if last else {(0, 0.0): 0.5, (1, 0.0): 0.5}
    distracted = last if lock.reward_mode == "code" else latent < 2
    return {(2, 0.1): 0.5, (2, 0.0): 0.5} if distracted else {(2, 0.0): 1.0}


def value(lock, policy, latent=None, time=0):
    """Return the expected return of `policy(latent, time)`, probabilities of the latent actions."""
    if time == lock.horizon:
        return 0.0
    if latent is None:
        return (value(lock, policy, 0) + value(lock, policy, 1)) / 2
    return sum(
        chosen * chance * (reward + value(lock, policy, after, time + 1))
        for action, chosen in enumerate(policy(latent, time))
        if chosen > 0
        for (after, reward), chance in outcomes(lock, latent, time, action).items()
    )


# --- Dynamics and rewards ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_transition_has_its_probability(mode):
    """Each of 90 (state, step, action) is taken 400 times."""
    lock, draws = DiscreteLock(H, reward_mode=mode), 400
    cases = list(itertools.product(range(3), range(H), range(10)))
    latent, time, action = (jnp.array(column, jnp.int32) for column in zip(*cases, strict=True))

    def step(key, latent, time, action):
        after, out = lock.step(key, LockState(latent, time), action, lock.params)
        return after, out._replace(obs=0)

    keys = jax.random.split(jax.random.key(0), (len(cases), draws))
    many = jax.vmap(jax.vmap(step, (0, None, None, None)))
    after, out = jax.device_get(quick_jit(many)(keys, latent, time, action))
    for i, case in enumerate(cases):
        expected = outcomes(lock, *case)
        reward = out.reward[i].astype(np.float64).round(6).tolist()
        pairs = list(zip(after.latent[i].tolist(), reward, strict=True))
        assert set(pairs) == set(expected), case
        for pair, chance in expected.items():
            spread = np.sqrt(chance * (1 - chance) / draws)
            assert abs(pairs.count(pair) / draws - chance) <= 4.5 * spread, case
        opened = case[1] == H - 1 and (case[0], 1.0) in expected
        assert (out.info["success"][i] == opened).all()
        assert (after.time[i] == case[1] + 1).all()
        assert (out.terminated[i] == (case[1] == H - 1)).all() and not out.truncated[i].any()


@pytest.mark.parametrize(
    "lock",
    [ContinuousLock(H), ContinuousLock(H, reward_mode="paper", temperature=1.0), ContinuousLock(5)],
    ids=str,
)
def test_returns_are_those_of_enumeration(lock):
    """Half of the lanes act at random, half take the one-hot right action."""
    batch = 20_000

    def policy(lane, key, state, obs):
        random = jax.random.uniform(key, (10,), minval=-1)
        right = jax.nn.one_hot(lock.right_action(state, lock.params), 10)
        return jnp.where(lane % 2 == 0, random, right)

    _, _, step = play(lock, policy, lock.horizon, batch=batch)
    assert_one_episode(step, terminated=True, truncated=False)
    earned = step.reward.sum(1).reshape(-1, 2)
    hit = np.exp(1 / lock.temperature)
    odds = np.full(10, 1 / (hit + 9))

    def right(latent, time):
        p = odds.copy()
        p[np.asarray(lock.params)[latent % 2, time]] *= hit
        return p

    for returns, law in ((earned[:, 0], lambda *_: np.full(10, 0.1)), (earned[:, 1], right)):
        spread = max(returns.std(), 0.01) / np.sqrt(len(returns))
        assert abs(returns.mean() - value(lock, law)) < 4 * spread
    if lock == ContinuousLock(5):
        assert earned[:, 0].mean() == pytest.approx(0.05, abs=0.0015)
        assert earned[:, 1].mean() > 0.99
        assert not step.reward[:, :-1].any()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_latent_actions_are_drawn_by_softmax(temperature):
    lock, draws = ContinuousLock(H, temperature=temperature), 20_000
    action = np.linspace(-1, 1, 10, dtype=np.float32)
    action[9] = action[8]
    keys = jax.random.split(jax.random.key(1), draws)
    chosen = quick_jit(jax.vmap(lambda key: lock._latent_action(key, action)))(keys)
    weights = np.exp(action.astype(np.float64) / temperature)
    expected = weights / weights.sum()
    spread = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(np.bincount(chosen, minlength=10) / draws - expected) <= 4.5 * spread).all()


def test_starts_are_even_and_combinations_follow_the_seed():
    lock = ContinuousLock(50)
    state, _ = quick_jit(Vectorized(lock, 4000).reset)(jax.random.key(0))
    assert set(np.asarray(state.latent)) == {0, 1} and not np.asarray(state.time).any()
    assert abs(state.latent.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert lock.params.shape == (2, 50) and set(np.asarray(lock.params).ravel()) == set(range(10))
    assert (lock.params == ContinuousLock(50).params).all()
    assert (lock.params != ContinuousLock(50, combination=1).params).any()


# --- Observations -----------------------------------------------------------------------------


@pytest.mark.parametrize(("horizon", "size"), [(5, 16), (10, 16), (12, 16), (13, 32), (50, 64)])
def test_observation_is_the_hadamard_of_noisy_one_hots(horizon, size):
    """Its inverse shows the state and the step, with noise of 0.1 on all but the last entries."""
    lock, draws = ContinuousLock(horizon), 2000
    assert dimension(horizon) == size and lock.spec.obs.shape == (size,)
    for latent, time in ((0, 0), (1, horizon // 2), (2, horizon)):
        state = LockState(jnp.int32(latent), jnp.int32(time))
        keys = jax.random.split(jax.random.key(time), draws)
        obs = np.asarray(jax.vmap(lambda key, state=state: lock._observe(key, state))(keys))
        hidden = obs.astype(np.float64) @ hadamard(size) / size
        mean = np.zeros(size)
        mean[[latent, 3 + time]] = 1
        shown = np.arange(size) < horizon + 3
        exact = np.broadcast_to(mean[~shown], (draws, size - shown.sum()))
        np.testing.assert_allclose(hidden[:, ~shown], exact, atol=1e-6)
        np.testing.assert_allclose(hidden.mean(0), mean, atol=5 * 0.1 / np.sqrt(draws))
        np.testing.assert_allclose(hidden[:, shown].std(0), 0.1, atol=5 * 0.1 / np.sqrt(2 * draws))
        correlation = np.corrcoef(hidden[:, shown].T) - np.eye(shown.sum())
        assert np.abs(correlation).max() < 6 / np.sqrt(draws)
    norms = {16: 6.0, 32: 7.3, 64: 12.2}  # for H = 5, 15 and 50
    if horizon in (5, 50):
        assert np.linalg.norm(obs, axis=1).mean() == pytest.approx(norms[size], rel=0.05)


def test_image_features_are_decoded_as_stated():
    """By the best decoder, and by the integral that the noise was chosen from."""
    z = np.linspace(-8, 8, 4001)
    best = np.trapezoid(norm.pdf(z) * norm.cdf(z + 1 / FEATURE_NOISE) ** 99, z)
    assert best == pytest.approx(DECODABILITY, abs=1e-4)

    lock, means = ImageLock(32), class_means()
    np.testing.assert_allclose(means @ means.T, np.eye(100), atol=1e-5)
    label = np.repeat(np.arange(99), 80)
    state = LockState(jnp.asarray(label % 3, jnp.int32), jnp.asarray(label // 3, jnp.int32))
    keys = jax.random.split(jax.random.key(0), len(label))
    obs = np.asarray(quick_jit(jax.vmap(lock._observe))(keys, state))
    np.testing.assert_allclose(np.linalg.norm(obs, axis=1), 1, rtol=1e-5)
    found = np.mean((obs @ means.T).argmax(1) == label)
    assert found == pytest.approx(DECODABILITY, abs=4 * np.sqrt(0.75 * 0.25 / len(label)))


# --- Names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_listed_locks_keep_the_contract(env_id):
    env = make(env_id)
    assert env == make(env_id) and hash(env) == hash(make(env_id))
    assert f"lock/h{env.horizon}" == env_id.rpartition("-")[0] or env_id == f"lock/h{env.horizon}"
    check(env, env_id)


def test_contract_holds_in_float64():
    with jax.enable_x64(True):
        for env_id in ("lock/h5", "lock/h5-images", "lock/h5-discrete"):
            check(make(env_id), env_id)


def test_ids_say_what_differs():
    assert make("lock/h7") == ContinuousLock(7)
    assert make("lock/h7-images-code3") == ImageLock(7, combination=3)
    assert make("lock/h7-discrete") == DiscreteLock(7)
    assert make("lock/h7-discrete").reward_mode == "paper"
    assert make("lock/h7-paper-soft") == ContinuousLock(7, reward_mode="paper", temperature=1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make("lock/h0"), "horizon must be at least 1, got 0"),
        (lambda: make("lock/h33-images"), "horizon must be at most 32 with images, got 33"),
        (
            lambda: make("lock/h5-soft-paper"),
            "a lock's id must be lock/h<horizon>[-images|-discrete][-paper][-soft][-code<seed>], "
            "for example lock/h10, got 'lock/h5-soft-paper'",
        ),
        (lambda: ContinuousLock(5, temperature=0.0), "temperature must be above 0, got 0.0"),
        (
            lambda: ContinuousLock(5, reward_mode="both"),
            "unknown reward_mode 'both'; known: code, paper",
        ),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message


def test_random_play_of_the_discrete_lock_is_distracted_early():
    """In the paper's mode the first mistake pays 0.1 half of the time, and the end nothing."""
    _, _, step = play(DiscreteLock(5), random_discrete(10), 5, batch=4000)
    first = step.reward[:, 0]
    assert set(np.round(np.unique(first), 6)) == {0.0, np.float32(0.1).round(6)}
    assert first.mean() == pytest.approx(0.9 * 0.05, abs=4 * 0.05 / np.sqrt(4000))
    assert ((step.reward > 0).sum(1) <= 1).all()
