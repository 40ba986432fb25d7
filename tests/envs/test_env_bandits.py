"""Bandits: pay by the drawn arms, nothing else to see; and noise on the pendulum."""

import jax.numpy as jnp
import numpy as np
import pytest
from env_play import assert_one_episode, play

from rlssm.envs.bandits import BernoulliBandit, GaussianBandit
from rlssm.envs.registry import MEMORY_TASKS
from rlssm.envs.stateless import StatelessPendulum


def best_arm(lane, key, state, obs):
    return jnp.argmax(state.arms)


@pytest.mark.parametrize(
    ("name", "arms", "length"),
    [
        ("MultiArmedBanditEasy", 10, 200),
        pytest.param("MultiArmedBanditMedium", 20, 400, marks=pytest.mark.slow),
        ("MultiArmedBanditHard", 30, 600),
    ],
)
def test_the_bandit_of_the_memory_suite_pays_by_what_it_shows(name, arms, length):
    env = MEMORY_TASKS[name]
    assert env.spec.action.n == arms and env.spec.max_episode_steps == length
    shown, _, step = play(env, best_arm, length, batch=64)
    assert (shown[:, 0] == 0).all()
    np.testing.assert_array_equal(step.obs[:, :-1], shown[:, 1:])
    paid = np.where(step.obs == 1, 1, -1) / length
    np.testing.assert_allclose(step.reward, paid, rtol=1e-6)
    assert_one_episode(step, terminated=False, truncated=True)
    expected = 2 * arms / (arms + 1) - 1  # the greatest of `arms` uniform numbers
    assert abs(step.reward.sum(1).mean() - expected) < 0.1


@pytest.mark.parametrize("env", [BernoulliBandit(5, 20), GaussianBandit(5, 20)])
def test_classic_bandits_pay_what_the_arm_does(env):
    _, _, step = play(env, best_arm, 20, batch=512)
    expected = 5 / 6 if type(env) is BernoulliBandit else 1.16296
    assert abs(step.reward.mean() - expected) < 0.06
    assert_one_episode(step, terminated=False, truncated=True)


def test_noise_on_the_pendulum_has_its_deviation_and_stays_in_bounds():
    assert MEMORY_TASKS["NoisyStatelessPendulumHard"] == StatelessPendulum(200, 0.3)
    noisy, clean = StatelessPendulum(50, 0.1), StatelessPendulum(50)
    steps = [play(env, lambda *_: jnp.zeros(1), 50, batch=64)[2] for env in (noisy, clean)]
    np.testing.assert_array_equal(steps[0].reward, steps[1].reward)
    assert np.abs(steps[0].obs).max() <= 1
    inside = np.abs(steps[1].obs) < 0.6  # far enough from the bounds not to be clipped
    assert abs((steps[0].obs - steps[1].obs)[inside].std() - 0.1) < 0.01
