"""Goal tasks: what is paid and shown, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.envs import downstream
from rlssm.envs.downstream import GoalTask
from rlssm.envs.points import WORLDS, PointWorld
from rlssm.envs.registry import make
from rlssm.envs.roaming import RoamingBody
from rlssm.envs.user import check
from rlssm.errors import UserError

PLANE = PointWorld(max_steps=12)


def played(env, steps, seed=0, towards=True):
    """Return the first state and observation, and states and steps under a policy, on the host.

    It goes for its goal, or away from it.
    """

    def step(loop, key):
        state, obs = loop
        way = obs["goal"] * (1 if towards else -1)
        state, out = env.step(key, state, way / jnp.linalg.norm(way), env.params)
        return (state, out.obs), (state, out)

    start = env.reset(jax.random.key(seed), env.params)
    keys = jax.random.split(jax.random.key(seed + 1), steps)
    states, out = jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(start)
    return start, jax.device_get(states), jax.device_get(out)


def test_a_step_pays_within_the_radius_and_the_way_is_shown():
    env = GoalTask(PLANE, reach=4.0, radius=1.0, near=True)
    (state, obs), states, out = played(env, 12)
    goal, position = np.asarray(state.goal), np.asarray(state.inner.position)
    assert (np.abs(goal - position) <= 4).all() and np.abs(goal - position).max() > 1
    np.testing.assert_allclose(obs["goal"], (goal - position) / 4, rtol=1e-5)
    np.testing.assert_allclose(obs["obs"], position / 3, rtol=1e-5)
    ever = False
    for t in range(12):
        position = states.inner.position[t]
        inside = np.hypot(*(position - goal)) <= 1.0
        ever = ever or inside
        assert out.reward[t] == inside and out.info["success"][t] == ever
        np.testing.assert_array_equal(states.goal[t], goal)
        np.testing.assert_allclose(out.obs["goal"][t], (goal - position) / 4, atol=1e-5)
    assert 0 < out.reward.sum() < 12
    np.testing.assert_array_equal(out.truncated, np.arange(12) == 11)
    assert not played(env, 12, towards=False)[2].info["success"].any()


def test_goals_follow_each_other_and_all_of_them_make_a_success():
    env = GoalTask(PLANE, reach=0.8, radius=0.9, near=True, every=4)
    _, states, out = played(env, 12)
    goals = states.goal
    changed = (goals[1:] != goals[:-1]).any(1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [2, 6])  # after 4 and 8 steps
    assert (np.abs(goals[3] - states.inner.position[3]) <= 0.8).all()
    assert out.info["success"][-1]
    away = played(env, 12, towards=False)[2]
    assert not away.info["success"][-1]
    missed, _ = env.reset(jax.random.key(0), env.params)
    missed = missed._replace(before=jnp.bool_(False), goal=missed.inner.position)
    _, step = env.step(jax.random.key(0), missed, jnp.zeros(2), env.params)
    assert step.reward == 1 and not step.info["success"]


def test_a_maze_has_goals_in_its_free_cells():
    env = make("downstream/u-maze-goal")
    keys = jax.random.split(jax.random.key(0), 200)
    states, _ = jax.jit(jax.vmap(lambda key: env.reset(key, env.params)))(keys)
    x, y = np.floor(states.goal).astype(int).T
    assert not np.asarray(env.world.in_wall(states.goal[:, 0], states.goal[:, 1])).any()
    assert len(set(zip(x, y, strict=True))) == 21  # every free cell


@pytest.mark.parametrize("env_id", [x for x in downstream.IDS if x[11:] in downstream.POINTS])
def test_point_tasks_keep_the_contract(env_id):
    env = make(env_id)
    check(env, env_id)
    assert env == make(env_id) and not env.spec.located
    assert dict(env.spec.obs.spaces)["obs"] == env.world.spec.obs


def test_bodies_have_the_published_goals():
    cheetah, ant = (make(f"downstream/{x}") for x in ("halfcheetah-goal", "ant-goals"))
    assert isinstance(cheetah.world, RoamingBody) and cheetah.spec.max_episode_steps == 200
    assert (cheetah.reach, cheetah.radius, cheetah.near) == (100, 3, False)
    assert (ant.reach, ant.radius, ant.near, ant.every) == (7.5, 3, True, 50)
    assert make("downstream/ant-goal").every is None
    hurdles = make("downstream/halfcheetah-hurdle")
    assert hurdles.spec == cheetah.spec and hurdles != cheetah


def test_tasks_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match=r"radius must be above 0, got 0\.0"):
        GoalTask(WORLDS["point/plane"], 1.0, 0.0)
    with pytest.raises(UserError, match="every must be at least 1, got 0"):
        GoalTask(WORLDS["point/plane"], 1.0, 1.0, every=0)


def test_hurdles_pay_when_the_rear_foot_has_passed_them_and_take_it_back():
    """The body is put in front of the first hurdle, behind it, and behind the last."""
    env = make("downstream/halfcheetah-hurdle")
    state, _ = jax.jit(env.reset)(jax.random.key(0), env.params)
    assert state.passed == 0
    foot_of = jax.jit(env._foot)
    model = env.world.env._c_model
    boxes = model.geom_pos[model.geom_type == 6]  # mjGEOM_BOX
    np.testing.assert_array_equal(boxes[:, 0], downstream.HURDLES)
    assert model.body(downstream.REAR_FOOT).name == "bfoot"
    plain = make("mjx-fast/HalfCheetah-v5")._c_model
    for name in ("body_mass", "body_inertia", "dof_invweight0"):
        np.testing.assert_allclose(getattr(model, name), getattr(plain, name), rtol=1e-12)

    def at(x):
        inner = state.inner.inner
        moved = inner._replace(qpos=inner.qpos.at[0].set(x))
        return state.inner._replace(inner=moved)

    seen = {}
    for x in (0.0, 4.5, 40.0):
        foot = foot_of(at(x))
        assert foot == pytest.approx(x - 0.6, abs=0.3)
        seen[x] = env._passed(foot), env._observe(state.inner, foot)["goal"] * 4
        following = [h for h in downstream.HURDLES if h >= foot][:1] or [27.0]
        np.testing.assert_allclose(seen[x][1], [following[0], abs(following[0] - foot)], rtol=1e-5)
    assert [int(seen[x][0]) for x in (0.0, 4.5, 40.0)] == [0, 1, 7]


@pytest.mark.slow
def test_a_hurdle_stops_a_body_that_would_go_through_it():
    env = make("downstream/halfcheetah-hurdle")
    state, _ = jax.jit(env.reset)(jax.random.key(0), env.params)
    step = jax.jit(env.step)
    start = state.inner.inner
    qpos = jnp.zeros_like(start.qpos).at[0].set(1.9)
    qvel = jnp.zeros_like(start.qvel).at[0].set(3.0)  # its feet on the ground, sliding
    inner = state.inner._replace(inner=start._replace(qpos=qpos, qvel=qvel))
    state, free = state._replace(inner=inner), start._replace(qpos=qpos, qvel=qvel)
    world = RoamingBody(make("mjx-fast/HalfCheetah-v5"))
    free, glide = state.inner._replace(inner=free), jax.jit(world.step)
    total = 0.0
    for _ in range(20):
        state, out = step(jax.random.key(0), state, jnp.zeros(6), env.params)
        free, _ = glide(jax.random.key(0), free, jnp.zeros(6), world.params)
        total += float(out.reward)
    assert np.isfinite(out.obs["obs"]).all() and not out.terminated
    assert state.inner.inner.qpos[0] < free.inner.qpos[0] - 0.1
    assert total == state.passed
