"""The probes have the values and best actions their docstrings state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import play, quick_jit, random_discrete

from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.probes import (
    ConstantReward,
    DelayedReward,
    ForbiddenAction,
    NanReward,
    RewardFromAction,
    RewardFromBoth,
    RewardFromObservation,
    TerminatedStream,
    TruncatedStream,
)
from rlssm.envs.user import check
from rlssm.errors import UserError
from rlssm.types import Box, Discrete

GAMMA = 0.9
ONE_STEP = (ConstantReward, RewardFromObservation, RewardFromAction, RewardFromBoth)
ANY_ACTION = (*ONE_STEP, DelayedReward, TruncatedStream, TerminatedStream, NanReward)


def discounted(reward):
    return (np.asarray(reward, np.float64) * GAMMA ** np.arange(reward.shape[-1])).sum(-1)


def rewards(env, seed, action):
    """Return (sign shown, reward) of one-step probes for one action, 8 environments."""
    keys = jax.random.split(jax.random.key(seed), 8)

    def one(key):
        state, obs = env.reset(key, ())
        _, step = env.step(key, state, jnp.asarray(action), ())
        assert step.terminated
        return obs[0], step.reward

    signs, pays = zip(*map(one, keys), strict=True)
    assert set(map(float, signs)) == {-1.0, 1.0}
    return np.asarray(signs), np.asarray(pays)


@pytest.mark.parametrize("probe", ANY_ACTION)
@pytest.mark.parametrize("action", [Discrete(2), Box((1,)), Discrete(5), Box((3,))])
def test_probes_take_any_action_space(probe, action):
    env = probe(action=action)
    check(env, probe.__name__)
    assert env.spec.action == action and env == probe(action=action)


def test_one_step_probes_pay_for_what_they_are_named_after():
    for action in (0, 1):
        assert (rewards(ConstantReward(), 0, action)[1] == 1).all()
        signs, pays = rewards(RewardFromObservation(), 0, action)
        np.testing.assert_array_equal(pays, signs)
        assert (rewards(RewardFromAction(), 0, action)[1] == (1 if action else -1)).all()
        signs, pays = rewards(RewardFromBoth(), 0, action)
        np.testing.assert_array_equal(pays, signs * (1 if action else -1))


def test_continuous_one_step_probes_peak_where_they_say():
    alone, both = RewardFromAction(Box((2,))), RewardFromBoth(Box((2,)))
    np.testing.assert_allclose(rewards(alone, 0, [0.5, 0.5])[1], 1.0)
    np.testing.assert_allclose(rewards(alone, 0, [0.5, -0.5])[1], 0.5)
    signs, pays = rewards(both, 0, [0.5, 0.5])
    np.testing.assert_allclose(pays, np.where(signs > 0, 1.0, 0.0))
    assert (rewards(both, 0, [0.0, 0.0])[1] == 0.75).all()


def test_delayed_reward():
    shown, _, step = play(DelayedReward(), random_discrete(2), 2, batch=1)
    np.testing.assert_array_equal(shown[0, :, 0], [0, 1])
    np.testing.assert_array_equal(step.reward[0], [0, 1])
    np.testing.assert_array_equal(step.terminated[0], [False, True])
    assert discounted(step.reward[0]) == pytest.approx(GAMMA)


def test_streams_differ_in_how_they_end_and_in_value():
    _, _, cut = play(TruncatedStream(steps=4), random_discrete(2), 4, batch=1)
    shown, _, end = play(TerminatedStream(steps=4), random_discrete(2), 4, batch=1)
    np.testing.assert_array_equal(cut.truncated[0], [0, 0, 0, 1])
    np.testing.assert_array_equal(end.terminated[0], [0, 0, 0, 1])
    assert not cut.terminated.any() and not end.truncated.any()
    np.testing.assert_allclose(shown[0, :, 0], [0, 0.25, 0.5, 0.75])
    bootstrapped = discounted(cut.reward[0]) + GAMMA**4 / (1 - GAMMA)
    assert bootstrapped == pytest.approx(1 / (1 - GAMMA))
    assert discounted(end.reward[0]) == pytest.approx((1 - GAMMA**4) / (1 - GAMMA))


def test_memory_probe_shows_the_same_before_both_answers():
    def recall(lane, key, state, obs):
        return state.cue

    shown, _, step = play(MemoryChain(length=1), recall, 2, batch=16)
    assert len(np.unique(shown[:, 0], axis=0)) == 2 and len(np.unique(shown[:, 1], axis=0)) == 1
    assert discounted(step.reward) == pytest.approx(np.full(16, GAMMA))


def test_forbidden_action_pays_most_and_is_masked():
    env = ForbiddenAction()
    check(env, "mask")

    def try_all(key):
        state, obs = env.reset(key, ())
        steps = jax.vmap(lambda action: env.step(key, state, action, ())[1])(jnp.arange(3))
        return obs, steps.reward, steps.info["violation"]

    keys = jax.random.split(jax.random.key(0), 12)
    obs, reward, violation = jax.tree.map(np.asarray, quick_jit(jax.vmap(try_all))(keys))
    forbidden = obs["forbidden"].argmax(-1)
    assert set(forbidden) == {0, 1, 2}
    for row, f in enumerate(forbidden):
        taken = np.arange(3)
        np.testing.assert_array_equal(obs["action_mask"][row], taken != f)
        np.testing.assert_array_equal(violation[row], taken == f)
        np.testing.assert_array_equal(reward[row, (f + taken) % 3], [10, 1, 0])


def test_nan_reward_breaks_on_time():
    _, _, step = play(NanReward(healthy=3), random_discrete(2), 5, batch=1)
    np.testing.assert_array_equal(step.reward[0], [1, 1, 1, np.nan, np.nan])
    assert not (step.terminated | step.truncated).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TruncatedStream(steps=0), "steps must be at least 1, got 0"),
        (lambda: TerminatedStream(steps=0), "steps must be at least 1, got 0"),
        (lambda: NanReward(healthy=-1), "healthy must be at least 0, got -1"),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message
