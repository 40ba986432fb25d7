"""Bodies that roam: what they see and where they are, against MuJoCo's own; through wrappers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.envs import roaming
from rlssm.envs.perturbed import DynamicsConfig
from rlssm.envs.points import PointWorld
from rlssm.envs.registry import EnvConfig, make
from rlssm.envs.roaming import BODIES, RoamingBody, scales
from rlssm.envs.wrappers import HideObservation, ObservationNoise, TimeLimit
from rlssm.errors import UserError

SIZES = {"HalfCheetah-v5": 18, "Ant-v5": 29, "Hopper-v5": 12, "Walker2d-v5": 18}


@pytest.mark.parametrize(
    "name", [x if x == "Ant-v5" else pytest.param(x, marks=pytest.mark.slow) for x in BODIES]
)
def test_a_body_sees_all_positions_and_velocities_standardised(name):
    env = make(EnvConfig(f"mjx-fast/{name}", roam=True))
    assert isinstance(env, RoamingBody)
    assert env.spec.obs.shape == (SIZES[name],) and env.spec.located
    assert env.spec.max_episode_steps == 200
    state, obs = jax.jit(env.reset)(jax.random.key(0), env.params)
    mean, std = scales(name)
    seen = np.concatenate([state.inner.qpos, state.inner.qvel])
    np.testing.assert_allclose(obs * std + mean, seen, rtol=1e-4, atol=1e-5)
    assert (std > 0).all() and std[0] < 3


def test_a_goal_is_a_start_elsewhere():
    for name, axes, reach in (("HalfCheetah-v5", 1, 100), ("Ant-v5", 2, 50)):
        env = RoamingBody(make(f"mjx-fast/{name}"))
        goals = np.asarray(env.goals(jax.random.key(0), 400))
        assert np.abs(goals).max() <= reach and np.abs(goals[:, :axes]).max(0).min() > 0.9 * reach
        assert (goals[:, axes:] == 0).all()
        mean, std = scales(name)
        obs = jax.jit(env.at)(jax.random.key(1), jnp.array([7.0, -3.0]), env.params) * std + mean
        np.testing.assert_allclose(obs[:axes], [7, -3][:axes], rtol=1e-4)
        assert np.abs(obs[axes : len(mean) // 2]).max() < 1.5  # as at a start


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_a_body_moves_as_the_task_does_and_goes_on_when_it_falls(name):
    task = make(f"mjx-fast/{name}")
    env = RoamingBody(task, max_steps=3)
    state, _ = env.reset(jax.random.key(0), env.params)
    if name == "Ant-v5":  # on its back, which ends the task
        state = state._replace(inner=state.inner._replace(qpos=state.inner.qpos.at[2].set(0.1)))
    inner, step = state.inner, jax.jit(env.step)
    other = jax.jit(partial(task.step, jax.random.key(0)))
    action, returns = 0.3 * jnp.ones(env.spec.action.shape), 0.0
    for t in range(3):
        state, out = step(jax.random.key(0), state, action, env.params)
        inner, reference = other(inner, action, task.params)
        np.testing.assert_array_equal(state.inner.qpos, inner.qpos)
        place = np.pad(np.asarray(inner.qpos[: BODIES[name].axes]), (0, 2 - BODIES[name].axes))
        np.testing.assert_array_equal(out.info["position"], place)
        assert not out.terminated and bool(out.truncated) == (t == 2)
        returns += out.reward
        if name == "Ant-v5" and t == 0:
            assert reference.terminated
    far = np.linalg.norm(np.asarray(out.info["position"] - state.start))
    assert returns == pytest.approx(far, abs=1e-5)


def test_places_are_told_through_wrappers():
    plane = PointWorld(max_steps=9)
    env = TimeLimit(ObservationNoise(HideObservation(plane, (0,)), 0.5), 4)
    state, _ = env.reset(jax.random.key(0), env.params)
    np.testing.assert_array_equal(roaming.position(env, state), state.inner.position)
    goal = roaming.at(env, jax.random.key(0), jnp.array([3.0, 6.0]), env.params)
    np.testing.assert_allclose(goal, [2.0])
    assert roaming.world(env) == plane


@pytest.mark.slow
def test_places_are_told_under_changed_dynamics():
    changed = make(EnvConfig("mjx-fast/Hopper-v5", roam=True, dynamics=DynamicsConfig(gravity=2)))
    state, _ = jax.jit(changed.reset)(jax.random.key(0), changed.params)
    np.testing.assert_allclose(roaming.position(changed, state), [state.inner.inner.qpos[0], 0])
    at = jax.jit(partial(roaming.at, changed))
    goal = at(jax.random.key(0), jnp.array([3.0, 0.0]), changed.params)
    assert goal.shape == (12,)


def test_what_cannot_roam_is_refused():
    with pytest.raises(UserError, match="roam must be left out: it is for mjx/HalfCheetah-v5"):
        make(EnvConfig("mjx/Reacher-v5", roam=True))
    with pytest.raises(UserError, match="does not say where one is"):
        roaming.world(make("Pendulum-v1"))
