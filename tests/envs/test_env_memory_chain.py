"""MemoryChain: what is shown, when it pays, at any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import assert_one_episode, play

from rlssm.envs.memory_chain import MemoryChain
from rlssm.errors import UserError


@pytest.mark.parametrize("length", [1, 7, 500])
def test_only_the_last_action_counts(length):
    """Even lanes answer right, odd ones wrong, all act at random before."""

    def policy(lane, key, state, obs):
        answer = jnp.where(lane % 2 == 0, state.cue, 1 - state.cue)
        return jnp.where(state.time == length, answer, jax.random.randint(key, (), 0, 2))

    shown, actions, step = play(MemoryChain(length), policy, length + 1, batch=16)
    right = np.arange(16) % 2 == 0
    countdown = np.tile(np.arange(length, -1, -1) / length, (16, 1))
    np.testing.assert_allclose(shown[:, :, 0], countdown, rtol=1e-6)
    assert set(shown[:, 0, 1]) == {-1.0, 1.0} and not shown[:, 1:, 1].any()
    named = 2.0 * actions[:, -1] - 1
    np.testing.assert_array_equal(step.reward[:, -1], named * shown[:, 0, 1])
    np.testing.assert_array_equal(step.reward[:, -1], np.where(right, 1, -1))
    np.testing.assert_array_equal(step.info["success"][:, -1], right)
    assert not step.reward[:, :-1].any() and not step.info["success"][:, :-1].any()
    assert_one_episode(step, terminated=True, truncated=False)


def test_length_is_at_least_one():
    with pytest.raises(UserError) as error:
        MemoryChain(0)
    assert str(error.value) == "length must be at least 1, got 0"
