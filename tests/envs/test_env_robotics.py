"""Gymnasium-Robotics through the Gymnasium adapter: AntMaze and Adroit, where it is installed."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.envs import make

pytest.importorskip("gymnasium_robotics", reason="needs the extra: pip install 'rlssm[robotics]'")


@pytest.mark.parametrize("name", ["AntMaze_UMaze-v5", "AdroitHandPen-v1"])
def test_episodes_are_gymnasiums(name):
    env = make(f"gym/{name}")
    key = jax.random.key(1)
    state, obs = jax.jit(env.reset)(key, env.params)
    plain = gymnasium.make(name).unwrapped
    theirs, _ = plain.reset(seed=int(jax.random.bits(key, (), jnp.uint32)))
    step = jax.jit(env.step)
    for t in range(6):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
                     obs, dict(theirs) if isinstance(theirs, dict) else theirs)  # fmt: skip
        action = np.random.default_rng(t).uniform(-1, 1, env.spec.action.shape).astype(np.float32)
        state, out = step(key, state, action, env.params)
        theirs, reward, terminated, _, info = plain.step(action)
        assert float(out.reward) == pytest.approx(float(reward), abs=1e-5)
        assert bool(out.terminated) == terminated
        assert bool(out.info["success"]) == info["success"]
        obs = out.obs
    assert env.spec.max_episode_steps == gymnasium.spec(name).max_episode_steps
