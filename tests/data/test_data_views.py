"""Views and transforms against lists of episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import make_dataset

from rlssm.data.dataset import (
    from_episodes,
    to_episodes,
    transitions,
    windows,
    with_hidden,
    with_returns,
    with_rewards,
)
from rlssm.errors import UserError
from rlssm.types import Box, inputs

MOST = 12  # steps in the datasets below


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(windows, static_argnums=(2, 3))


def steps_of(dataset):
    """Return every step of every episode as a dict, from a list of episodes."""
    rows = []
    for episode in to_episodes(dataset):
        for t in range(len(episode.reward)):
            rows.append(
                {
                    "obs": episode.obs[t],
                    "next_obs": episode.obs[t + 1],
                    "action": episode.action[t],
                    "reward": episode.reward[t],
                    "terminated": episode.terminated[t],
                    "truncated": episode.truncated[t],
                    "first": t == 0,
                }
            )
    return rows


# One episode, or three: few shapes are compiled.
lengths_of_twelve_steps = st.one_of(
    st.just([MOST]),
    st.integers(2, 8).flatmap(lambda a: st.integers(2, 10 - a).map(lambda b: [a, b, 12 - a - b])),
)


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths_of_twelve_steps,
    shape=st.sampled_from([(1, 0), (5, 0), (5, 2), (5, 4), (30, 3)]),
    starts=st.lists(st.integers(0, MOST - 1), min_size=3, max_size=3),
    seed=st.integers(0, 9),
)
def test_windows_are_what_a_list_of_steps_gives(compiled, lengths, shape, starts, seed):
    length, burn_in = shape
    dataset = make_dataset(lengths=lengths, seed=seed)
    rows = steps_of(dataset)
    window = compiled(dataset, jnp.array(starts), length, burn_in)
    seen = inputs(window)
    for b, start in enumerate(starts):
        for t in range(length):
            row, before = rows[(start + t) % MOST], rows[(start + t - 1) % MOST]
            for name in ("obs", "next_obs", "action", "reward", "terminated", "truncated"):
                found = np.asarray(getattr(window.step, name)[t, b])
                np.testing.assert_array_equal(found, row[name], err_msg=name)
            assert window.first[t, b] == row["first"]
            assert window.reset[t, b] == (row["first"] or t == 0)
            assert window.mask[t, b] == (t >= burn_in)
            previous = (0 if row["first"] else before[name] for name in ("action", "reward"))
            for found, expected in zip(seen.previous, previous, strict=True):
                np.testing.assert_array_equal(
                    found[t, b], np.broadcast_to(expected, found.shape[2:])
                )
    assert window.carry is None


def test_every_step_is_learnt_from_equally_often(compiled):
    dataset = make_dataset(lengths=(2, 7, 3))
    numbered = dataset.replace(extras={"number": np.arange(MOST)})
    window = compiled(numbered, jnp.arange(MOST), 5, 2)
    learnt = np.asarray(window.step.extras["number"])[np.asarray(window.mask)]
    np.testing.assert_array_equal(np.bincount(learnt), np.full(MOST, 3))


def test_the_next_observation_is_the_final_one_at_an_end_and_the_next_elsewhere(compiled):
    dataset = make_dataset(lengths=(5, 7))
    window = compiled(dataset, jnp.array([0, 2, 9]), 5, 0)
    last = np.asarray(window.step.terminated | window.step.truncated)[:-1]
    following = np.asarray(window.step.obs)[1:]
    successor = np.asarray(window.step.next_obs)[:-1]
    same = np.all(successor == following, axis=-1)
    np.testing.assert_array_equal(same, ~last)
    assert last.any()


@pytest.mark.parametrize("obs", ["box", "discrete", "dict"])
def test_transitions_are_those_of_the_episodes(obs):
    dataset = make_dataset(obs, lengths=(3, 2, 7), discrete=obs == "discrete")
    found = jax.jit(transitions)(dataset, jnp.arange(MOST).reshape(3, 4))
    for i, row in enumerate(steps_of_any(dataset)):
        for name, expected in row.items():
            at = jax.tree.map(
                lambda x, i=i: np.asarray(x).reshape(MOST, *x.shape[2:])[i], getattr(found, name)
            )
            jax.tree.map(np.testing.assert_array_equal, at, expected)


def steps_of_any(dataset):
    for episode in to_episodes(dataset):
        for t in range(len(episode.reward)):
            yield {
                "obs": jax.tree.map(lambda x, t=t: x[t], episode.obs),
                "next_obs": jax.tree.map(lambda x, t=t: x[t + 1], episode.obs),
                "action": episode.action[t],
                "reward": episode.reward[t],
            }


@pytest.mark.parametrize(
    ("length", "burn_in", "sentence"),
    [
        (0, 0, "length must be at least 1, got 0"),
        (4, 4, "burn_in must be in [0, 4), got 4"),
        (4, -1, "burn_in must be in [0, 4), got -1"),
    ],
)
def test_impossible_windows_are_refused(length, burn_in, sentence):
    with pytest.raises(UserError) as caught:
        windows(make_dataset(), jnp.array([0]), length, burn_in)
    assert str(caught.value) == sentence


# --- Transforms -------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(lengths_of_twelve_steps, st.sampled_from([0.0, 0.9, 1.0]))
def test_monte_carlo_returns_are_sums_within_an_episode(lengths, discount):
    dataset = make_dataset(lengths=lengths)
    result = with_returns(dataset, discount)
    expected = []
    for episode in to_episodes(dataset):
        rewards = episode.reward.astype(np.float64)
        for t in range(len(rewards)):
            expected.append(sum(discount**k * r for k, r in enumerate(rewards[t:])))
    np.testing.assert_allclose(result.extras["mc_return"], expected, rtol=1e-5, atol=1e-5)
    assert result.info.transforms[-1] == f"mc_return with discount {discount:g}"
    taken = transitions(result, jnp.arange(MOST))
    np.testing.assert_array_equal(taken.extras["mc_return"], result.extras["mc_return"])


def test_rewards_are_scaled_once_and_before_returns():
    dataset = make_dataset()
    scaled = with_rewards(dataset, 10.0, -5.0)
    np.testing.assert_array_equal(scaled.reward, dataset.reward * np.float32(10) - np.float32(5))
    assert scaled.reward.dtype == np.float32
    assert scaled.info.transforms == ("reward * 2 + 1", "reward * 10 + -5")
    with pytest.raises(UserError) as caught:
        with_rewards(with_returns(dataset, 0.9), 10.0)
    assert str(caught.value) == "rewards must be scaled before mc_return is computed from them"


def test_hidden_entries_are_gone_from_observations_and_space():
    dataset = make_dataset()
    hidden = with_hidden(dataset, (1,))
    np.testing.assert_array_equal(hidden.obs, dataset.obs[:, [0, 2]])
    assert hidden.info.spec.obs == Box((2,))
    assert hidden.info.transforms[-1] == "observation entries [1] hidden"


@pytest.mark.parametrize(
    ("obs", "hide", "sentence"),
    [
        ("box", (3,), "hide must be some but not all of 0 to 2, got (3,)"),
        ("box", (0, 1, 2), "hide must be some but not all of 0 to 2, got (0, 1, 2)"),
        ("discrete", (0,), "hide needs flat observations, those of box/test-v0 are Discrete(n=5)"),
    ],
)
def test_hiding_what_is_not_there_is_refused(obs, hide, sentence):
    with pytest.raises(UserError) as caught:
        with_hidden(make_dataset(obs), hide)
    assert str(caught.value) == sentence


def test_views_keep_their_dtypes_under_x64():
    with jax.enable_x64(True):
        dataset = jax.device_put(with_returns(make_dataset(), 0.99))
        window = windows(dataset, jnp.array([1, 3], jnp.int32), 4, 1)
        assert window.step.obs.dtype == window.step.reward.dtype == jnp.float32
        assert window.step.extras["mc_return"].dtype == jnp.float32


def test_episodes_whose_arrays_differ_in_length_are_refused():
    good, _, bad = to_episodes(make_dataset())
    with pytest.raises(UserError) as caught:
        from_episodes([good, bad._replace(obs=bad.obs[:-1])], make_dataset().info)
    assert str(caught.value) == (
        "dataset box/test-v0, episode 1: T steps need T + 1 rows of observations and T of "
        "everything else, got {'obs': 7, 'action': 7, 'reward': 7, 'terminated': 7, "
        "'truncated': 7}"
    )
    with pytest.raises(UserError, match="^episodes must be one or more, got "):
        from_episodes([], make_dataset().info)


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_returns_with_impossible_discounts_are_refused(discount):
    with pytest.raises(UserError) as caught:
        with_returns(make_dataset(), discount)
    assert str(caught.value) == f"discount must be in [0, 1], got {discount}"
