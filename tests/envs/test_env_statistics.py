"""Episode statistics against a loop over environments and steps."""

import jax
import jax.numpy as jnp
import numpy as np
from env_play import quick_jit
from hypothesis import given, settings
from hypothesis import strategies as st

from rlssm.envs.base import Vectorized, VectorStep
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.statistics import EpisodeStatistics, with_means

T, B = 12, 3


def vector_step(reward, terminated, truncated, info):
    last = terminated | truncated
    nothing = jnp.zeros(B)
    return VectorStep(nothing, last, last, reward, terminated, truncated, nothing, info)


@jax.jit
def scan(statistics, reward, terminated, truncated, success):
    def body(statistics, row):
        *flags, success = row
        statistics = statistics.update(vector_step(*flags, {"success": success}))
        return statistics, None

    return jax.lax.scan(body, statistics, (reward, terminated, truncated, success))[0]


def oracle(reward, terminated, truncated, success):
    """Return the (return, length, success) of every episode, per environment, and the rests."""
    episodes, rests = [], []
    for b in range(B):
        total, length, ended = 0.0, 0, []
        for t in range(T):
            total, length = total + reward[t, b], length + 1
            if terminated[t, b] or truncated[t, b]:
                ended.append((total, length, success[t, b]))
                total, length = 0.0, 0
        episodes.append(ended)
        rests.append((total, length))
    return episodes, rests


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rate=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_sums_are_those_of_the_episodes_that_ended(seed, rate):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(T, B)).astype(np.float32)
    terminated, truncated = rng.random((2, T, B)) < rate / 2
    success = rng.random((T, B)) < 0.5
    statistics = scan(EpisodeStatistics.start(B), reward, terminated, truncated, success)
    per_env, rests = oracle(reward, terminated, truncated, success)
    ended = [episode for episodes in per_env for episode in episodes]
    assert statistics.count == statistics.judged == len(ended)
    np.testing.assert_allclose(statistics.return_sum, sum(e[0] for e in ended), atol=1e-4)
    assert statistics.length_sum == sum(e[1] for e in ended)
    assert statistics.success_sum == sum(e[2] for e in ended)
    np.testing.assert_allclose(statistics.running_return, [r[0] for r in rests], atol=1e-5)
    np.testing.assert_array_equal(statistics.running_length, [r[1] for r in rests])
    newest = [episodes[-1] if episodes else (0.0, 0, False) for episodes in per_env]
    np.testing.assert_allclose(statistics.last_return, [e[0] for e in newest], atol=1e-5)
    np.testing.assert_array_equal(statistics.last_length, [e[1] for e in newest])


def test_clear_forgets_what_ended_and_keeps_what_is_under_way():
    reward = np.ones((T, B), np.float32)
    ends = np.zeros((T, B), bool)
    ends[4] = True
    statistics = scan(EpisodeStatistics.start(B), reward, ends, ~ends & False, ends)
    assert statistics.count == B and statistics.return_sum == 5 * B
    cleared = statistics.clear()
    assert not any(float(value) for value in cleared.metrics().values())
    np.testing.assert_array_equal(cleared.running_length, [T - 5] * B)
    np.testing.assert_array_equal(cleared.last_return, [5.0] * B)
    ends = np.zeros((T, B), bool)
    ends[0] = True
    after = scan(cleared, reward, ends & False, ends, ends)
    assert after.count == B and after.length_sum == (T - 5 + 1) * B


def test_auto_reset_episodes_of_memory_chain():
    """Chains of 4 steps, answered at random: returns are +1 or -1 and success says which."""
    env = Vectorized(MemoryChain(3), 50)

    @quick_jit
    def run(key):
        state, _ = env.reset(key)

        def body(carry, key):
            state, statistics = carry
            action = jax.random.randint(key, (50,), 0, 2)
            state, out = env.step(key, state, action)
            return (state, statistics.update(out)), None

        keys = jax.random.split(key, 10)
        return jax.lax.scan(body, (state, EpisodeStatistics.start(50)), keys)[0][1]

    statistics = run(jax.random.key(0))
    assert statistics.count == statistics.judged == 100
    assert statistics.length_sum == 400 and (statistics.running_length == 2).all()
    assert statistics.return_sum == 2 * statistics.success_sum - 100
    assert set(np.asarray(statistics.last_return)) == {-1.0, 1.0}


def test_means_are_masked_where_nothing_ended():
    metrics = {
        "episode/count": np.array([4, 0]),
        "episode/judged": np.array([2, 0]),
        "episode/return_sum": np.array([6.0, 0.0]),
        "episode/length_sum": np.array([20.0, 0.0]),
        "episode/success_sum": np.array([1.0, 0.0]),
        "actor/loss": np.array([0.1, 0.2]),
    }
    means = with_means(metrics)
    assert set(means) == {
        "episode/count",
        "episode/return",
        "episode/length",
        "episode/success",
        "actor/loss",
    }
    for name, value in (("return", 1.5), ("length", 5.0), ("success", 0.5)):
        mean = means[f"episode/{name}"]
        assert mean[0] == value and mean.mask.tolist() == [False, True]
    np.testing.assert_array_equal(means["actor/loss"], [0.1, 0.2])


def test_means_over_no_episode_and_undefined_success_are_left_out():
    start = EpisodeStatistics.start(B)
    assert with_means(start.metrics()) == {"episode/count": 0}
    ones = jnp.ones(B, bool)
    statistics = start.update(vector_step(jnp.ones(B), ones, ~ones, {}))
    means = with_means(statistics.metrics())
    assert set(means) == {"episode/count", "episode/return", "episode/length"}
    assert means["episode/return"] == 1.0
