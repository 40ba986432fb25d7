"""The MJX environments against Gymnasium's, which run MuJoCo's C code."""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from env_play import quick_jit

from rlssm.envs import mjx_model
from rlssm.envs.base import Vectorized
from rlssm.envs.locomotion import TASKS, Physics
from rlssm.envs.mjx_env import IDS, MjxEnvironment, MjxState, make
from rlssm.envs.user import check
from rlssm.errors import UserError
from rlssm.train.policy_file import Actor, load_policies, path_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark" / "mjx.py"
CHEAP = ["InvertedPendulum-v5", "Reacher-v5"]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_mjx", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def in_gymnasium(benchmark, task):
    return benchmark.make_gymnasium(task)


def scales(gravity=1.0, friction=1.0, mass=1.0, actuator=1.0):
    factors = {"gravity": gravity, "friction": friction, "mass": mass, "actuator": actuator}
    return SimpleNamespace(**jax.tree.map(jnp.asarray, factors))


# --- What there is ----------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_spaces_and_limits_are_those_of_gymnasium(benchmark, task):
    theirs, spec = in_gymnasium(benchmark, task), make(f"mjx/{task}").spec
    assert spec.obs.shape == theirs.observation_space.shape
    assert spec.action.shape == theirs.action_space.shape
    assert spec.max_episode_steps == theirs.spec.max_episode_steps
    assert theirs.unwrapped.frame_skip == TASKS[task].frame_skip
    assert Path(theirs.unwrapped.fullpath).name == TASKS[task].xml


@pytest.mark.parametrize("x64", [False, True])
def test_the_contract_is_kept(x64):
    with jax.enable_x64(x64):
        check(make("mjx/InvertedPendulum-v5"), "mjx/InvertedPendulum-v5")


def test_ids_name_two_settings_of_the_solver():
    assert len(IDS) == len(set(IDS)) == 2 * len(TASKS)
    exact, fast = make("mjx/Hopper-v5"), make("mjx-fast/Hopper-v5")
    assert exact == MjxEnvironment("Hopper-v5") and hash(exact) == hash(make("mjx/Hopper-v5"))
    assert exact != fast and exact != make("mjx/Ant-v5")
    options = [env._model()[1].opt for env in (exact, fast)]
    assert [(o.iterations, o.ls_iterations) for o in options] == [(100, 50), (4, 4)]


def test_importing_the_module_is_light():
    script = (
        "import sys, rlssm.envs.mjx_env;"
        "print([m for m in ('mujoco', 'gymnasium') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_is_printed(capfd, tmp_path, monkeypatch):
    """MJX reports missing Warp, MuJoCo an attribute of HalfCheetah's file, there and in a log."""
    monkeypatch.chdir(tmp_path)
    mjx_model.c_model.__wrapped__("half_cheetah.xml", None)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_without_mujoco_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco.mjx", None)
    mjx_model.mjx.cache_clear()
    with pytest.raises(UserError, match="pip install mujoco mujoco-mjx"):
        make("mjx/Hopper-v5")


# --- How episodes start -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "task", ["Ant-v5", "Hopper-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Swimmer-v5"]
)
def test_first_observations_are_those_of_gymnasium(benchmark, task):
    """Also Reacher's, which holds the place of the fingertip."""
    with jax.enable_x64(True):
        env, inner = make(f"mjx/{task}"), in_gymnasium(benchmark, task).unwrapped
        state, obs = quick_jit(env.reset)(jax.random.key(3), env.params)
    inner.reset(seed=0)
    inner.set_state(np.array(state.qpos), np.array(state.qvel))
    np.testing.assert_allclose(obs, inner._get_obs(), rtol=1e-6, atol=1e-7)
    position = TASKS[task].position(Physics(*(getattr(inner.data, f) for f in Physics._fields)))
    assert abs(float(state.position) - position) < 1e-12


@pytest.mark.parametrize(
    ("task", "noise", "normal"),
    [("HalfCheetah-v5", 0.1, True), ("Hopper-v5", 5e-3, False), ("Swimmer-v5", 0.1, False)],
)
def test_starts_spread_as_in_gymnasium(task, noise, normal):
    model = mjx_model.c_model(TASKS[task].xml, None)
    keys = jax.random.split(jax.random.key(0), 4000)
    start = quick_jit(jax.vmap(lambda key: TASKS[task].start(key, jnp.asarray(model.qpos0))))
    qpos, qvel = map(np.asarray, start(keys))
    uniform = [qpos - model.qpos0] if normal else [qpos - model.qpos0, qvel]
    for x in uniform:
        assert noise * 0.99 < np.abs(x).max() < noise * 1.001
        np.testing.assert_allclose(x.std(axis=0), noise / 3**0.5, rtol=0.05)
        assert np.abs(x.mean(axis=0)).max() < noise * 0.05
    if normal:
        np.testing.assert_allclose(qvel.std(axis=0), noise, rtol=0.07)
        assert np.abs(qvel).max() > 3 * noise


def test_reacher_starts_with_a_target_in_reach():
    keys = jax.random.split(jax.random.key(0), 4000)
    start = quick_jit(jax.vmap(lambda key: TASKS["Reacher-v5"].start(key, jnp.zeros(4))))
    qpos, qvel = map(np.asarray, start(keys))
    distance = np.linalg.norm(qpos[:, 2:], axis=1)
    assert 0.195 < distance.max() < 0.2
    assert abs((distance < 0.1).mean() - 1 / 4) < 0.03  # uniform over the disc
    assert np.abs(qpos[:, 2:].mean(axis=0)).max() < 0.01
    assert 0.099 < np.abs(qpos[:, :2]).max() <= 0.1
    assert not qvel[:, 2:].any() and 0.0049 < np.abs(qvel[:, :2]).max() <= 0.005


# --- When episodes end ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("Hopper-v5", {1: 0.69}), ("Hopper-v5", {1: 0.71}), ("Hopper-v5", {2: 0.19}),
        ("Hopper-v5", {2: -0.21}), ("Hopper-v5", {7: 99.0}), ("Hopper-v5", {8: -101.0}),
        ("Walker2d-v5", {1: 0.79}), ("Walker2d-v5", {1: 0.81}), ("Walker2d-v5", {1: 2.01}),
        ("Walker2d-v5", {2: 0.99}), ("Walker2d-v5", {2: -1.01}), ("Walker2d-v5", {12: 101.0}),
        ("Ant-v5", {2: 0.19}), ("Ant-v5", {2: 0.21}), ("Ant-v5", {2: 1.01}),
        ("Ant-v5", {20: np.inf}), ("Ant-v5", {2: np.nan}),
    ],
)  # fmt: skip
def test_falls_end_where_gymnasium_says(benchmark, task, change):
    """`change` sets entries of positions followed by velocities."""
    inner = in_gymnasium(benchmark, task).unwrapped
    inner.reset(seed=0)
    values = np.concatenate([inner.data.qpos, inner.data.qvel])
    values[list(change)] = list(change.values())
    qpos, qvel = np.split(values, [inner.model.nq])
    inner.data.qpos[:], inner.data.qvel[:] = qpos, qvel
    seen = {name: jnp.zeros_like(getattr(inner.data, name)) for name in Physics._fields}
    physics = Physics(**{**seen, "qpos": jnp.asarray(qpos), "qvel": jnp.asarray(qvel)})
    control = jnp.zeros(TASKS[task].action_size)
    reward, terminated = TASKS[task].judge(physics, control, jnp.asarray(0.25))
    assert terminated == (not inner.is_healthy)
    assert reward == 0.25 + inner.is_healthy


@pytest.fixture(scope="module")
def pendulum():
    """Step copies of InvertedPendulum, each from its angle, speed of the cart, time and scales."""
    env = make("mjx/InvertedPendulum-v5")
    advance = quick_jit(jax.vmap(env.step, (None, 0, None, 0)))

    def step(angle, speed, time, changes, push=0.0):
        qpos = jnp.stack([jnp.zeros(len(angle)), jnp.asarray(angle)], axis=1)
        qvel = jnp.stack([jnp.asarray(speed), jnp.zeros(len(angle))], axis=1)
        zeros = jnp.zeros_like(qvel), jnp.zeros(len(angle))
        state = MjxState(qpos, qvel, *zeros, time=jnp.asarray(time, jnp.int32))
        params = stacked([env.scaled(env.params, scales(**change)) for change in changes])
        return advance(jax.random.key(0), state, jnp.full(1, push), params)

    return step


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def test_the_time_limit_truncates(pendulum):
    """Step 1000 does, unless the pole falls there."""
    state, step = pendulum([0.0, 0.0, 0.3, 0.0], [0.0] * 4, [998, 999, 999, 0], [{}] * 4)
    assert state.time.tolist() == [999, 1000, 1000, 1]
    assert step.truncated.tolist() == [False, True, False, False]
    assert step.terminated.tolist() == [False, False, True, False]
    assert step.reward.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_a_simulation_that_diverges_ends(pendulum):
    state, step = pendulum([0.0] * 4, [1.0, 1e20, np.nan, 0.0], [0] * 4, [{}] * 4)
    assert step.terminated.tolist() == [False, True, True, False]
    assert step.reward.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert np.isfinite(step.obs[:2]).all() and np.isfinite(state.qacc_warmstart).all()


# --- What an action does ----------------------------------------------------------------------


def assert_alike(benchmark, task, samples):
    with jax.enable_x64(True):
        data = benchmark.collect(task, samples)
        errors = benchmark.transition_errors(make(f"mjx/{task}"), data, quick_jit)
    assert not errors.pop("terminated").any()
    for name, error in errors.items():
        assert error[~data.touching].max(initial=0) < 1e-6, name
        if data.touching.any():
            assert np.percentile(error[data.touching], 99) < 1e-3, name


@pytest.mark.parametrize("task", CHEAP)
def test_transitions_are_those_of_gymnasium(benchmark, task):
    assert_alike(benchmark, task, samples=100)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_thousand_transitions_are_those_of_gymnasium(benchmark, task):
    assert_alike(benchmark, task, samples=1000)


@pytest.mark.slow
@pytest.mark.parametrize("task", [*CHEAP, "Swimmer-v5", "InvertedDoublePendulum-v5"])
def test_a_policy_earns_what_it_does_in_gymnasium(benchmark, task):
    found = benchmark.compare_returns(task)
    theirs = found["gymnasium"]["mean"]
    assert abs(found["mjx"]["mean"] / theirs - 1) < 0.03
    assert abs(found["mjx-fast"]["mean"] / theirs - 1) < 0.03


def test_the_shipped_expert_acts_as_it_was_written_down(benchmark):
    obs = np.random.default_rng(0).normal(size=(4, 11)).astype(np.float32)
    expected = Actor(load_policies(path_of("hopper")).policies["expert"])(obs)
    np.testing.assert_allclose(benchmark.POLICIES["Hopper-v5"](obs, 0), expected, atol=1e-5)


@pytest.mark.slow
def test_auto_reset_starts_new_episodes():
    """Hoppers under random actions fall within 100 steps, and stand again after."""
    env = Vectorized(make("mjx-fast/Hopper-v5"), 8)

    def body(state, key):
        action = jax.random.uniform(key, (8, 3), minval=-1.0, maxval=1.0)
        state, step = env.step(key, state, action)
        return state, (step, state)

    state = env.reset(jax.random.key(0))[0]
    keys = jax.random.split(jax.random.key(1), 100)
    _, (step, state) = jax.jit(lambda s: jax.lax.scan(body, s, keys))(state)
    last = np.asarray(step.terminated)
    assert last.any(axis=0).all() and not step.truncated.any()
    np.testing.assert_allclose(state.qpos[last][:, 1], 1.25, atol=0.006)
    assert not state.qacc_warmstart[last].any() and not state.time[last].any()
    np.testing.assert_array_equal(step.obs[~last], step.next_obs[~last])


# --- Perturbed dynamics -----------------------------------------------------------------------


def test_scales_of_one_change_nothing():
    env = make("mjx/HalfCheetah-v5")
    for x, y in zip(env.params, env.scaled(env.params, scales()), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("task", TASKS)
def test_inverse_weights_follow_the_mass(benchmark, task):
    """As `mj_setConst` computes them, apart from bodies that nothing can touch."""
    model = perturbed_model(benchmark, task, mass=1.7)
    with jax.enable_x64(True):
        env = make(f"mjx/{task}")
        params = env.scaled(env.params, scales(mass=1.7))
    np.testing.assert_allclose(params.body_mass, model.body_mass)
    np.testing.assert_allclose(params.body_inertia, model.body_inertia)
    np.testing.assert_allclose(params.dof_invweight0, model.dof_invweight0, rtol=1e-10)
    if task != "Reacher-v5":
        body = model.body_invweight0
        np.testing.assert_allclose(params.body_invweight0, body, rtol=1e-10, atol=1e-12)


def perturbed_model(benchmark, task, gravity=1.0, friction=1.0, mass=1.0, actuator=1.0):
    """Return a new C model of a task, changed the way its documentation says."""
    model = benchmark.make_gymnasium(task).unwrapped.model
    model.opt.gravity *= gravity
    model.geom_friction *= friction
    model.actuator_gear *= actuator
    model.body_mass *= mass
    model.body_inertia *= mass
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def test_perturbed_dynamics_are_those_of_a_perturbed_model(benchmark, pendulum):
    changes = [{}, {"gravity": 2.0}, {"mass": 1.5}, {"actuator": 0.5}]
    state, _ = pendulum([0.1] * 4, [1.0] * 4, [0] * 4, changes, push=0.2)
    ours = np.concatenate([state.qpos, state.qvel], axis=1)
    theirs = []
    for change in changes:
        model = perturbed_model(benchmark, "InvertedPendulum-v5", **change)
        data = mujoco.MjData(model)
        data.qpos[1], data.qvel[0], data.ctrl[0] = 0.1, 1.0, 0.6
        mujoco.mj_step(model, data, 2)
        theirs.append(np.concatenate([data.qpos, data.qvel]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.abs(np.subtract(theirs[1:], theirs[0])).max(axis=1).min() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Hopper-v5", "HalfCheetah-v5"])
def test_perturbed_runners_are_those_of_a_perturbed_model(benchmark, task):
    """Long enough to land, so that friction and the inverse weights count."""
    changes = [{}, {"gravity": 2.0}, {"friction": 0.3}, {"mass": 1.5}, {"actuator": 0.5}]
    actions = np.random.default_rng(0).uniform(-1, 1, (40, TASKS[task].action_size))
    theirs = []
    for change in changes:
        model = perturbed_model(benchmark, task, **change)
        data = mujoco.MjData(model)
        for action in actions:
            data.ctrl = action
            mujoco.mj_step(model, data, TASKS[task].frame_skip)
        theirs.append(np.concatenate([data.qpos, data.qvel]))
    with jax.enable_x64(True):
        env = make(f"mjx/{task}")
        params = stacked([env.scaled(env.params, scales(**change)) for change in changes])
        qpos = jnp.asarray(model.qpos0)
        zeros = jnp.zeros(model.nv)
        start = MjxState(qpos, zeros, zeros, jnp.zeros(()), jnp.zeros((), jnp.int32))

        def play(params):
            after, _ = jax.lax.scan(
                lambda state, action: (env.advance(state, action, params)[0], None),
                start,
                jnp.asarray(actions),
            )
            return jnp.concatenate([after.qpos, after.qvel])

        ours = np.asarray(jax.jit(jax.vmap(play))(params))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert np.abs(np.subtract(theirs[1:], theirs[0])).max(axis=1).min() > 1e-2
