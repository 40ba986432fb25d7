"""Perturbed dynamics: nothing where nothing is asked for, and exactly that which is."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
import tyro
from env_play import quick_jit

from rlssm.envs import EnvConfig, gymnasium_env, gymnax_env, make
from rlssm.envs.base import Step
from rlssm.envs.gymnasium_make import make_bare
from rlssm.envs.perturbed import (
    DynamicsConfig,
    Perturbed,
    PerturbedParams,
    Scales,
    scalable,
    scaled,
)
from rlssm.envs.registry import MEMORY_TASKS
from rlssm.envs.user import check
from rlssm.envs.wrappers import HideObservation, TimeLimit
from rlssm.errors import UserError
from rlssm.io import config as config_io
from rlssm.types import Box, Spec

KEY = jax.random.key(3)
SCALE_BATCH = PerturbedParams(None, Scales(0, 0, 0, 0), None)


def with_scales(env, **scales):
    """Return the parameters of a perturbed environment with some scales replaced."""
    changed = {name: jnp.asarray(value, jnp.float32) for name, value in scales.items()}
    return env.params._replace(scales=env.params.scales._replace(**changed))


def actions_for(env, steps):
    rng = np.random.default_rng(0)
    if isinstance(env.spec.action, Box):
        return jnp.array(rng.uniform(-1, 1, (steps, *env.spec.action.shape)), jnp.float32)
    return jnp.array(rng.integers(0, env.spec.action.n, steps), jnp.int32)


def roll(env, actions, params=None):
    """Return the observations of one episode `[T, ...]` and the rewards `[T]`."""
    params = env.params if params is None else params

    def body(state, inputs):
        key, action = inputs
        state, step = env.step(key, state, action, params)
        return state, (step.obs, step.reward)

    keys = jax.random.split(KEY, len(actions))
    return jax.lax.scan(body, env.reset(KEY, params)[0], (keys, actions))[1]


@dataclass(frozen=True)
class Echo:
    """Shows the action that reached it, and as many numbers of its own randomness."""

    @property
    def spec(self):
        return Spec(Box((4,)), Box((2,)))

    @property
    def params(self):
        return ()

    def reset(self, key, params):
        return jnp.zeros(()), jnp.zeros(4)

    def step(self, key, state, action, params):
        obs = jnp.append(action, jax.random.normal(jax.random.split(key)[0], (2,)))
        none = jnp.zeros((), bool)
        return state, Step(obs, jnp.float32(0), none, none, {})


# --- Nothing asked for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "gym/Hopper-v5", "gym/Pendulum-v1"]
)
def test_unchanged_dynamics_change_no_bit(env_id):
    env = make(env_id)
    assert make(EnvConfig(env_id, dynamics=DynamicsConfig())) == env
    wrapped = Perturbed(env)
    check(wrapped, env_id)
    ours, theirs = wrapped.reset(KEY, wrapped.params)[0], env.reset(KEY, env.params)[0]
    for action in actions_for(env, 4):  # not compiled: a compiler may round as it sees fit
        ours, same = wrapped.step(KEY, ours, action, wrapped.params)
        theirs, bare = env.step(KEY, theirs, action, env.params)
        jax.tree.map(np.testing.assert_array_equal, (ours.inner, same), (theirs, bare))


# --- Scales ------------------------------------------------------------------------------------


def cart_pole(state, action, gravity=1.0, mass=1.0, actuator=1.0):
    """One step of the textbook's cart-pole in float64; Barto, Sutton and Anderson (1983)."""
    x, v, angle, spin = state
    cart, pole, half, g = 1.0 * mass, 0.1 * mass, 0.5, 9.8 * gravity
    force = 10.0 * actuator * (2 * action - 1)
    push = (force + pole * half * spin**2 * math.sin(angle)) / (cart + pole)
    inertia = half * (4 / 3 - pole * math.cos(angle) ** 2 / (cart + pole))
    turn = (g * math.sin(angle) - math.cos(angle) * push) / inertia
    move = push - pole * half * turn * math.cos(angle) / (cart + pole)
    return [x + 0.02 * v, v + 0.02 * move, angle + 0.02 * spin, spin + 0.02 * turn]


def pendulum(obs, action, gravity=1.0, mass=1.0, actuator=1.0):
    """One step of the textbook's pendulum in float64: a rod of mass m and length 1."""
    angle, spin = math.atan2(obs[1], obs[0]), obs[2]
    torque = 2 * actuator * action[0]
    turn = 3 / 2 * 10 * gravity * math.sin(angle) + 3 / mass * torque
    spin = min(max(spin + 0.05 * turn, -8), 8)
    return [math.cos(angle + 0.05 * spin), math.sin(angle + 0.05 * spin), spin]


FACTORS = [{"gravity": 2.0}, {"mass": 1.5}, {"actuator": 0.4}, {"mass": 0.7, "actuator": 3.0}]


@pytest.mark.parametrize(("env_id", "law"), [("CartPole-v1", cart_pole), ("Pendulum-v1", pendulum)])
def test_scales_are_those_of_the_equations(env_id, law):
    env = Perturbed(make(env_id))
    actions = actions_for(env, 12)
    run = quick_jit(lambda params: roll(env, actions, params))
    start = env.reset(KEY, env.params)[1]
    base = run(env.params)[0]
    for factors in FACTORS:
        obs, reward = run(with_scales(env, **factors))
        seen = np.concatenate([[start], obs[:-1]]).astype(np.float64)
        actions_taken = np.asarray(actions, np.float64)
        expected = [law(s, a, **factors) for s, a in zip(seen, actions_taken, strict=True)]
        np.testing.assert_allclose(obs, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(obs - base).max() > 1e-3
        if env_id == "Pendulum-v1":  # a stronger motor costs what a weaker one does
            angle = np.arctan2(seen[:, 1], seen[:, 0])
            cost = angle**2 + 0.1 * seen[:, 2] ** 2 + 0.001 * (2 * actions_taken[:, 0]) ** 2
            np.testing.assert_allclose(reward, -cost, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"])
def test_every_known_scale_moves_a_gymnax_task(env_id):
    env = Perturbed(make(env_id))
    actions = actions_for(env, 15)
    run = quick_jit(lambda params: roll(env, actions, params)[0])
    base = run(env.params)
    assert len(scalable(env.env)) >= 2
    for name in scalable(env.env):
        changed = run(with_scales(env, **{name: 1.5}))
        assert np.abs(changed - base).max() > 1e-4, name


def scale_model(env, gravity=1.0, friction=1.0, mass=1.0, actuator=1.0):
    model = env.model
    model.opt.gravity[:] *= gravity
    model.geom_friction[:] *= friction
    model.actuator_gear[:] *= actuator
    if mass != 1:
        model.body_mass[:] *= mass
        model.body_inertia[:] *= mass
        mujoco.mj_setConst(model, mujoco.MjData(model))


HOPPERS = [{}, {"gravity": 2.0}, {"friction": 0.25}, {"mass": 1.5}, {"actuator": 0.5}]


@pytest.fixture(scope="module")
def hoppers():
    """The episodes of five hoppers that differ, played together."""
    env = Perturbed(make("gym/Hopper-v5"))
    actions = jnp.full((30, 3), 0.3)
    columns = {name: [f.get(name, 1.0) for f in HOPPERS] for name in Scales._fields}
    params = with_scales(env, **columns)
    run = quick_jit(jax.vmap(lambda p: roll(env, actions, p), (SCALE_BATCH,)))
    return env, actions, run(params)


def test_hoppers_are_those_of_edited_models(hoppers):
    """Bit for bit, until they fall; and no two of them alike."""
    _, actions, (obs, reward) = hoppers
    seed = int(jax.random.bits(KEY, (), jnp.uint32))
    for row, factors in enumerate(HOPPERS):
        theirs = make_bare("Hopper-v5")[0]
        scale_model(theirs, **factors)
        theirs.reset(seed=seed)
        for t, action in enumerate(np.asarray(actions)):
            expected, paid, terminated, _, _ = theirs.step(action)
            np.testing.assert_array_equal(obs[row, t], np.float32(expected))
            assert reward[row, t] == np.float32(paid)
            if terminated:
                break
        assert t >= 10
    apart = np.abs(obs[:, None, 10] - obs[None, :, 10]).max(-1)
    assert (apart[~np.eye(len(HOPPERS), dtype=bool)] > 1e-4).all(), apart


def test_a_batch_of_simulators_is_each_of_them(hoppers):
    """In any order: models are made anew from the original, never from one another."""
    env, actions, together = hoppers
    run = quick_jit(lambda params: roll(env, actions, params))
    for row in (3, 0, 4, 0, 1):
        alone = run(with_scales(env, **HOPPERS[row]))
        jax.tree.map(
            lambda x, y, row=row: np.testing.assert_array_equal(x[row], y), together, alone
        )


def test_a_batch_of_pendulums_is_each_of_them():
    env = Perturbed(make("Pendulum-v1"))
    actions = actions_for(env, 10)
    gravity = np.array([0.5, 1.0, 2.0])
    batch = with_scales(env, gravity=gravity, **{n: np.ones(3) for n in Scales._fields[1:]})
    obs = quick_jit(jax.vmap(lambda p: roll(env, actions, p)[0], (SCALE_BATCH,)))(batch)
    run = quick_jit(lambda params: roll(env, actions, params)[0])
    for row, g in zip(obs, gravity, strict=True):
        np.testing.assert_allclose(row, run(with_scales(env, gravity=g)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_every_scale_moves_an_mjx_hopper():
    env = Perturbed(make("mjx-fast/Hopper-v5"))
    actions = jnp.full((20, 3), 0.3)
    run = jax.jit(lambda params: roll(env, actions, params)[0])
    base = run(env.params)
    params = env.env.params
    same = scaled(env.env, params, Scales.unchanged())
    jax.tree.map(np.testing.assert_array_equal, params, same)
    for name in Scales._fields:
        assert np.abs(run(with_scales(env, **{name: 0.6})) - base).max() > 1e-2, name


# --- Joint noise and latency -------------------------------------------------------------------


def test_joint_noise_is_added_to_what_is_executed():
    noisy = Perturbed(Echo(), DynamicsConfig(joint_noise=0.5))
    actions = jnp.zeros((4000, 2)) + jnp.array([0.25, 1.0])
    bare, heard = (
        np.asarray(quick_jit(lambda e=e: roll(e, actions))()[0]) for e in (Echo(), noisy)
    )
    noise = heard[:, :2] - bare[:, :2]
    assert np.abs(noise.mean(0)).max() < 0.03 and np.abs(noise.std(0) - 0.5).max() < 0.03
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.06
    assert abs(np.corrcoef(noise[:, 0], bare[:, 2])[0, 1]) < 0.06
    assert heard[:, 1].max() > 1.5, "clipping is the environment's"
    np.testing.assert_array_equal(heard[:, 2:], bare[:, 2:])  # whose randomness is as it was


def test_joint_noise_is_clipped_with_the_action():
    """A pendulum told to push with all its strength can only be weakened."""
    env = Perturbed(make("Pendulum-v1"), DynamicsConfig(joint_noise=1.0))
    bare, noisy = (
        np.asarray(quick_jit(lambda p=p: roll(env, jnp.ones((1, 1)), p))()[0])[0, 2]
        for p in (env.params._replace(joint_noise=jnp.float32(0)), env.params)
    )
    assert noisy <= bare
    weak = replace(env, config=DynamicsConfig(joint_noise=1e6))
    push = np.asarray(quick_jit(lambda: roll(weak, jnp.ones((40, 1))))()[0])
    assert np.isfinite(push).all() and (np.abs(push[:, 2]) <= 8).all()


@pytest.mark.parametrize("latency", [1, 3])
def test_latency_delays_actions_by_as_many_steps(latency):
    late = Perturbed(Echo(), DynamicsConfig(latency=latency))
    check(late, "late")
    actions = actions_for(late, 10)
    heard = np.asarray(quick_jit(lambda: roll(late, actions))()[0])[:, :2]
    assert (heard[:latency] == 0).all()
    np.testing.assert_array_equal(heard[latency:], actions[:-latency])


def test_noise_acts_behind_the_delay():
    both = Perturbed(Echo(), DynamicsConfig(latency=2, joint_noise=0.1))
    noisy = Perturbed(Echo(), DynamicsConfig(joint_noise=0.1))
    actions = actions_for(both, 10)
    delayed = jnp.concatenate([jnp.zeros((2, 2)), actions[:-2]])
    heard, expected = (roll(e, a)[0] for e, a in ((both, actions), (noisy, delayed)))
    np.testing.assert_array_equal(heard, expected)


def test_discrete_actions_are_delayed_too():
    env = Perturbed(make("CartPole-v1"), DynamicsConfig(latency=2))
    actions = jnp.array([1, 1, 0, 1, 1, 1, 0, 1], jnp.int32)
    late = quick_jit(lambda: roll(env, actions))()[0]
    shifted = jnp.concatenate([jnp.zeros(2, jnp.int32), actions[:-2]])
    np.testing.assert_array_equal(late, quick_jit(lambda: roll(env.env, shifted))()[0])


# --- Configuration -----------------------------------------------------------------------------


def test_dynamics_are_innermost_and_compare_by_value():
    dynamics = DynamicsConfig(gravity=2.0, latency=1)
    config = EnvConfig("Pendulum-v1", dynamics=dynamics, hide=(2,), time_limit=9)
    env = make(config)
    bare = make("Pendulum-v1")
    assert env == TimeLimit(HideObservation(Perturbed(bare, dynamics), (2,)), 9)
    assert hash(env) == hash(make(config))
    assert env.params.scales.gravity == 2 and Perturbed(bare, dynamics) != Perturbed(bare)
    assert scaled(bare, bare.params, env.params.scales).g == 20


def test_configs_come_from_json_and_from_the_command_line(tmp_path):
    config = EnvConfig("gym/Hopper-v5", dynamics=DynamicsConfig(friction=0.3, joint_noise=1.0))
    config_io.save(tmp_path / "env.json", config)
    assert config_io.load(tmp_path / "env.json", EnvConfig) == config
    words = ["--id", "gym/Hopper-v5", "--dynamics.friction", "0.3", "--dynamics.joint-noise", "1"]
    assert tyro.cli(EnvConfig, args=words) == config


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DynamicsConfig(gravity=0.0), "gravity must be finite and above 0, got 0.0"),
        (lambda: DynamicsConfig(mass=-1.0), "mass must be finite and above 0, got -1.0"),
        (lambda: DynamicsConfig(friction=math.inf), "friction must be finite and above 0, got inf"),
        (lambda: DynamicsConfig(actuator=math.nan), "actuator must be finite and above 0, got nan"),
        (
            lambda: DynamicsConfig(joint_noise=-0.1),
            "joint_noise must be finite and at least 0, got -0.1",
        ),
        (lambda: DynamicsConfig(latency=-1), "latency must be at least 0, got -1"),
        (
            lambda: Perturbed(gymnax_env.make("CartPole-v1"), DynamicsConfig(friction=0.5)),
            "dynamics.friction must be 1, because this environment's friction cannot be changed, "
            "got 0.5",
        ),
        (
            lambda: Perturbed(gymnax_env.make("Acrobot-v1"), DynamicsConfig(gravity=2.0)),
            "dynamics.gravity must be 1, because this environment's gravity cannot be changed, "
            "got 2.0",
        ),
        (
            lambda: Perturbed(gymnasium_env.make("Pendulum-v1"), DynamicsConfig(mass=2.0)),
            "dynamics.mass must be 1, because this environment's mass cannot be changed, got 2.0",
        ),
        (
            lambda: Perturbed(MEMORY_TASKS["RepeatFirstEasy"], DynamicsConfig(joint_noise=0.5)),
            "dynamics.joint_noise needs continuous actions, the environment's are Discrete(n=4); "
            "leave it at 0",
        ),
    ],
)
def test_mistakes(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message
