"""The brax adapter against brax itself. Compilation takes most of the time: few programs."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import quick_jit

from rlssm.envs import brax_env
from rlssm.envs.base import Vectorized
from rlssm.envs.brax_env import BACKENDS, FIELDS, IDS, make
from rlssm.envs.perturbed import Perturbed, PerturbedParams, Scales, scalable
from rlssm.envs.user import check
from rlssm.errors import UserError
from rlssm.types import Box

PENDULUM = "inverted_pendulum:spring"  # of all the quickest to compile
STEPS = 25


def test_ids_are_brax_environments():
    from brax import envs

    assert set(envs._envs) - set(IDS) == {"fast", "swimmer"}


@pytest.mark.parametrize("name", [PENDULUM, "inverted_pendulum:mjx"])
def test_contract_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        brax_env._make.cache_clear()
        check(make(name), name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", IDS)
def test_every_contract(name, backend):
    check(make(f"{name}:{backend}"), name)


def test_spec_and_equality():
    env = make("inverted_pendulum")
    assert env.backend == "generalized" and env == make("inverted_pendulum:generalized")
    assert hash(env) == hash(make("inverted_pendulum:generalized")) and env != make(PENDULUM)
    assert (env.spec.obs, env.spec.action) == (Box((4,)), Box((1,)))
    assert env.spec.max_episode_steps == 1000 and env.spec.truncates


LIMIT = 9


@pytest.fixture(scope="module")
def rolled():
    """A batch of two that resets itself, under a time limit of 9: one is pushed until it falls.

    Beside each step what brax itself says of the same state and action.
    """
    env = make(PENDULUM)
    vector = Vectorized(env, 2)
    keys = jax.random.split(jax.random.key(0), STEPS + 1)
    theirs = jax.vmap(env.env.step)

    @quick_jit
    def run(keys):
        start = vector.reset(keys[0])

        def body(carry, key):
            state, obs = carry
            after, out = vector.step(key, state, jnp.array([[0.05], [-2.0]]))
            own = theirs(state.inner, jnp.array([[0.05], [-1.0]]))
            return (after, out.obs), (obs, out, own)

        return jax.lax.scan(body, start, keys[1:])[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brax_env, "MAX_STEPS", LIMIT)
        return jax.tree.map(np.asarray, run(keys))


def test_steps_are_those_of_brax(rolled):
    obs, out, own = rolled
    np.testing.assert_allclose(out.next_obs, own.obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.reward, own.reward, rtol=1e-5)
    np.testing.assert_array_equal(out.terminated, own.done > 0.5)
    np.testing.assert_array_equal(obs[1:], out.obs[:-1])


def test_the_final_observation_is_kept_and_every_start_is_new(rolled):
    _, out, _ = rolled
    fallen, late = out.terminated, out.truncated
    np.testing.assert_array_equal(out.first, fallen | late)
    assert fallen[:, 1].sum() >= 3 and not fallen[:, 0].any() and not late[:, 1].any()
    np.testing.assert_array_equal(late[:, 0], np.arange(1, STEPS + 1) % LIMIT == 0)
    assert (np.abs(out.next_obs[fallen][:, 1]) > 0.2).all()  # which no first observation is
    starts = out.obs[out.first]
    assert (np.abs(starts[:, 1]) < 0.02).all() and len(np.unique(starts[:, 1])) == len(starts)


def roll(env, params):
    """Return where an episode of `Perturbed` leads in a few steps."""
    key = jax.random.key(0)
    state, _ = env.reset(key, params)
    body = lambda s, _: env.step(key, s, jnp.array([0.2]), params)  # noqa: E731
    return jax.lax.scan(body, state, None, 6)[1].obs


FACTORS = np.float32([[1, 1, 1, 1], [2, 1, 1, 1], [1, 1, 1.5, 1], [1, 1, 1, 0.5]])


@pytest.fixture(scope="module")
def together():
    """Pendulums with the scales `FACTORS`, played together."""
    env = Perturbed(make(PENDULUM))
    axes = PerturbedParams(None, Scales(0, 0, 0, 0), None)
    params = env.params._replace(scales=Scales(*map(jnp.asarray, FACTORS.T)))
    run = quick_jit(jax.vmap(lambda params: roll(env, params), (axes,)))
    return np.asarray(run(params))


@pytest.mark.slow
def test_scales_change_the_motion(together):
    moved = np.abs(together - together[0]).max((1, 2))
    assert moved[0] == 0 and (moved[1:] > 1e-3).all(), moved


@pytest.mark.slow
def test_a_batch_of_simulators_is_each_of_them(together):
    env = Perturbed(make(PENDULUM))
    run = quick_jit(lambda params: roll(env, params))
    for row, factors in zip(together, FACTORS, strict=True):
        single = run(env.params._replace(scales=Scales(*map(jnp.asarray, factors))))
        np.testing.assert_allclose(row, single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scales_of_one_change_no_bit_and_others_every_spelling(backend):
    env = make(f"inverted_pendulum:{backend}")
    params = env.params
    same = env.scaled(params, Scales.unchanged())
    jax.tree.map(np.testing.assert_array_equal, params, same)
    factors = Scales(*map(jnp.float32, (2.0, 0.5, 4.0, 3.0)))
    changed = env.scaled(params, factors)
    for scale, names in FIELDS.items():
        for name, power in names.items():
            if name == "link.inertia.i" and backend in ("spring", "positional"):
                power = 0
            factor = getattr(factors, scale) ** power
            np.testing.assert_allclose(changed[name], params[name] * factor, rtol=1e-6)


def test_masses_that_a_backend_ignores_cannot_be_scaled():
    assert scalable(make("hopper:spring")) == ("gravity", "friction", "actuator")
    assert scalable(make("hopper:generalized")) == Scales._fields
    cheetah = make("halfcheetah:spring")  # which raises masses to the power of 0.7
    heavy = cheetah.scaled(cheetah.params, Scales.unchanged()._replace(mass=jnp.float32(2)))
    before, after = (x["link.inertia.mass"] ** 0.7 for x in (cheetah.params, heavy))
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_scale_moves_a_hopper(backend):
    """Where it stands on its foot, so that friction matters too."""
    env = Perturbed(make(f"hopper:{backend}"))
    key = jax.random.key(0)

    @jax.jit
    def run(params):
        state, _ = env.reset(key, params)
        body = lambda s, _: env.step(key, s, jnp.array([0.3, -0.5, 0.8]), params)  # noqa: E731
        return jax.lax.scan(body, state, None, 60)[1].obs

    base = run(env.params)
    for name in scalable(env.env):
        scales = env.params.scales._replace(**{name: jnp.float32(1.5)})
        moved = np.abs(run(env.params._replace(scales=scales)) - base).max()
        assert moved > 1e-3, (name, moved)
    assert np.isfinite(base).all()


def test_params_hold_what_a_system_does():
    env = make(PENDULUM)
    assert dataclasses.is_dataclass(env) and set(env.params) == {
        name for names in FIELDS.values() for name in names
    }
    for name, value in env.params.items():
        assert value.dtype == jnp.float32 and value.size > 0, name


@pytest.mark.parametrize("name", ["hoper", "hopper:sprng"])
def test_unknown_names_get_the_nearest(name):
    with pytest.raises(UserError, match=f"unknown brax environment '{name}', perhaps 'hopper"):
        make(name)
