"""The gymnax adapter: every id, and what gymnax mixes up kept apart."""

import dataclasses
from urllib.error import URLError

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import quick_jit
from flax import struct
from gymnax.environments import environment, spaces

from rlssm.envs import gymnax_env
from rlssm.envs.base import Vectorized
from rlssm.envs.gymnax_env import IDS, adapt, make
from rlssm.envs.user import check
from rlssm.errors import UserError
from rlssm.types import Box, DictSpace, Discrete, zeros

ALONE = [env_id for env_id in IDS if env_id != "MNISTBandit-bsuite"]


def test_ids_are_those_that_gymnax_registers():
    assert list(IDS) == list(gymnax.registered_envs)


@pytest.mark.parametrize("env_id", ALONE)
def test_every_id_resets_and_steps(env_id):
    """Under jit and vmap, with the dtypes and shapes of its spec, for three steps."""
    env = make(env_id)
    check(env, env_id)
    reset = quick_jit(jax.vmap(env.reset, (0, None)))
    step = quick_jit(jax.vmap(env.step, (0, 0, 0, None)))
    keys = jax.random.split(jax.random.key(0), 2)
    state, obs = reset(keys, env.params)
    for _ in range(3):
        before = state
        state, out = step(keys, state, zeros(env.spec.action, (2,)), env.params)
        assert jax.tree.map(jnp.shape, out.obs) == jax.tree.map(jnp.shape, obs)
        assert jax.tree.map(lambda x: x.aval, state) == jax.tree.map(lambda x: x.aval, before)
        assert np.isfinite(out.reward).all() and out.reward.dtype == jnp.float32
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out.obs))


@pytest.mark.parametrize(
    ("env_id", "obs", "action", "limit"),
    [
        ("CartPole-v1", Box((4,)), Discrete(2), 500),
        ("Pendulum-v1", Box((3,)), Box((1,)), 200),
        ("FrozenLake-misc", Discrete(16), Discrete(4), 100),
        ("Breakout-MinAtar", Box((10, 10, 4)), Discrete(3), 1000),
        ("Catch-bsuite", Box((10, 5)), Discrete(3), 1000),
        ("BernoulliBandit-misc", Box((4,)), Discrete(2), 100),
    ],
)
def test_spec(env_id, obs, action, limit):
    spec = make(env_id).spec
    assert (spec.obs, spec.action, spec.max_episode_steps) == (obs, action, limit)


def test_equality_is_by_id_and_parameters():
    cart_pole = make("CartPole-v1")
    assert cart_pole == make("CartPole-v1") and hash(cart_pole) == hash(make("CartPole-v1"))
    assert cart_pole != make("Pendulum-v1")
    moon = adapt(cart_pole.env, cart_pole.defaults.replace(gravity=1.62), name="CartPole-v1")
    assert cart_pole != moon and moon.params.gravity == np.float32(1.62)
    chain = make("DiscountingChain-bsuite")  # its parameters hold an array
    assert chain == make("DiscountingChain-bsuite")
    rewards = chain.defaults.replace(reward_timestep=jnp.arange(5))
    assert chain != adapt(chain.env, rewards, name=chain.name)


def test_equal_environments_share_compiled_code():
    traces = []

    def first_obs(env, key):
        traces.append(env.name)
        return env.reset(key, env.params)[1]

    compiled = jax.jit(first_obs, static_argnums=0)
    for env_id in ("CartPole-v1", "CartPole-v1", "Pendulum-v1"):
        compiled(make(env_id), jax.random.key(0))
    assert traces == ["CartPole-v1", "Pendulum-v1"]


# --- The ends of episodes ---------------------------------------------------------------------


def _hand_rolled(env, keys, actions):
    """Step gymnax itself, resetting by hand, with the keys that `Vectorized` uses."""
    params = env.params
    reset, step = quick_jit(env.env.reset_env), quick_jit(env.env.step_env)
    split = quick_jit(lambda key: jax.random.split(jax.random.split(key, 1)[0]))
    obs, state = reset(jax.random.split(keys[0], 1)[0], params)
    rows = []
    for key, action in zip(keys[1:], actions, strict=True):
        step_key, reset_key = split(key)
        next_obs, state, reward, terminated, _ = step(step_key, state, action, params)
        truncated = state.time >= params.max_steps_in_episode and not terminated
        last = bool(terminated or truncated)
        obs = next_obs
        if last:
            obs, state = reset(reset_key, params)
        rows.append((obs, last, reward, bool(terminated), bool(truncated), next_obs))
    return [np.asarray(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("env_id", "limit", "ends"),
    [("CartPole-v1", 500, "terminated"), ("GaussianBandit-misc", 12, "truncated")],
)
def test_auto_reset_keeps_the_true_final_observation(env_id, limit, ends):
    steps = 30
    bare = make(env_id)
    env = adapt(bare.env, bare.defaults.replace(max_steps_in_episode=limit))
    assert env.spec.max_episode_steps == limit
    vector = Vectorized(env, 1)
    keys = jax.random.split(jax.random.key(3), steps + 1)
    actions = jnp.zeros(steps, jnp.int32)
    state, _ = quick_jit(vector.reset)(keys[0])

    def body(state, inputs):
        key, action = inputs
        return vector.step(key, state, action[None])

    _, out = quick_jit(lambda s: jax.lax.scan(body, s, (keys[1:], actions)))(state)
    obs, last, reward, terminated, truncated, next_obs = _hand_rolled(env, keys, actions)
    np.testing.assert_allclose(out.obs[:, 0], obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.next_obs[:, 0], next_obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.reward[:, 0], reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out.terminated[:, 0], terminated)
    np.testing.assert_array_equal(out.truncated[:, 0], truncated)
    np.testing.assert_array_equal(out.first[:, 0], last)
    np.testing.assert_array_equal(out.reset[:, 0], last)
    assert last.sum() >= 2 and {"terminated": terminated, "truncated": truncated}[ends][last].all()
    assert (np.abs(obs - next_obs).max(-1) > 0)[last].all()  # a new episode, not the old one's end
    np.testing.assert_array_equal(out.obs[:, 0][~last], out.next_obs[:, 0][~last])


def test_a_step_that_terminates_at_the_limit_is_not_truncated():
    """DeepSea reaches its bottom row exactly at its limit of 8 steps."""
    env = make("DeepSea-bsuite")
    step = quick_jit(env.step)
    state, _ = quick_jit(env.reset)(jax.random.key(0), env.params)
    flags = []
    for key in jax.random.split(jax.random.key(1), 8):
        state, out = step(key, state, jnp.int32(0), env.params)
        flags.append((bool(out.terminated), bool(out.truncated)))
    assert flags == [(False, False)] * 7 + [(True, False)]


# --- Spaces -----------------------------------------------------------------------------------


@struct.dataclass
class SliderParams(environment.EnvParams):
    max_steps_in_episode: int = 10


class Slider(environment.Environment):
    """Adds its action to a number; its spaces can be chosen."""

    def __init__(self, action=None, obs=None):
        self._action = action or spaces.Box(jnp.array([-3.0, 0.0]), jnp.array([1.0, 10.0]), (2,))
        self._obs = obs or spaces.Box(-jnp.inf, jnp.inf, (2,))

    @property
    def default_params(self):
        return SliderParams()

    def reset_env(self, key, params):
        state = environment.EnvState(time=0)
        return self._see(jnp.zeros(2)), state

    def step_env(self, key, state, action, params):
        state = environment.EnvState(time=state.time + 1)
        return self._see(action), state, 1, jnp.array(False), {}

    def _see(self, values):
        if isinstance(self._obs, spaces.Dict):
            return {"b": values, "action_mask": values > 0, "a": jnp.int32(3)}
        return values

    def action_space(self, params=None):
        return self._action

    def observation_space(self, params):
        return self._obs


def test_actions_are_rescaled_to_the_bounds():
    env = adapt(Slider())
    assert env.spec.action == Box((2,))
    state, _ = env.reset(jax.random.key(0), env.params)
    for action, expected in (
        ([-1.0, -1.0], [-3.0, 0.0]),
        ([1.0, 1.0], [1.0, 10.0]),
        ([0.0, 0.5], [-1.0, 7.5]),
        ([-2.0, 9.0], [-3.0, 10.0]),
    ):
        _, out = env.step(jax.random.key(0), state, jnp.asarray(action), env.params)
        np.testing.assert_array_equal(out.obs, expected)
        assert out.reward == 1.0 and out.reward.dtype == jnp.float32


def test_full_torque_reaches_the_pendulum():
    env = make("Pendulum-v1")
    state, _ = quick_jit(env.reset)(jax.random.key(0), env.params)
    after, _ = quick_jit(env.step)(jax.random.key(0), state, jnp.ones(1), env.params)
    assert after.last_u == 2.0


def test_dict_observations_become_sorted_named_spaces():
    children = {
        "b": spaces.Box(-1, 1, (2,)),
        "action_mask": spaces.Box(0, 1, (2,), jnp.bool_),
        "a": spaces.Discrete(5),
    }
    env = adapt(Slider(obs=spaces.Dict(children)))
    assert env.spec.obs == DictSpace(
        (("a", Discrete(5)), ("action_mask", Box((2,), "bool")), ("b", Box((2,))))
    )
    check(env, "Slider")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            spaces.Box(-jnp.inf, jnp.inf, (1,)),
            "env Slider has actions Box(low=-inf, high=inf, shape=(1,), dtype=float32), which "
            "cannot be served; use Discrete or a bounded Box",
        ),
        (
            spaces.Tuple([spaces.Discrete(2)]),
            "env Slider has actions Tuple((Discrete(2, dtype=int32),)), which cannot be served; "
            "use Discrete or a bounded Box",
        ),
    ],
)
def test_unserved_actions(action, message):
    with pytest.raises(UserError) as error:
        adapt(Slider(action=action))
    assert str(error.value) == message


def test_unserved_observations():
    with pytest.raises(UserError) as error:
        adapt(Slider(obs=spaces.Tuple([spaces.Discrete(2)])))
    assert str(error.value) == (
        "env Slider has observations Tuple((Discrete(2, dtype=int32),)), which cannot be served; "
        "use Box, Discrete or Dict"
    )


class Drifter(Slider):
    """Its clock starts as an integer and goes on as a fraction, beside a key."""

    def reset_env(self, key, params):
        return jnp.zeros(2), {"time": self.start, "key": key}

    def step_env(self, key, state, action, params):
        state = {"time": state["time"] + 0.5, "key": key}
        return action, state, 1.0, jnp.array(False), {}

    def is_truncated(self, state, params):
        return state["time"] >= params.max_steps_in_episode


def test_states_are_not_rounded_to_fit():
    env = Drifter()
    env.start = 0.0
    check(adapt(env), "Drifter")
    env.start = 0
    with pytest.raises(UserError) as error:
        check(adapt(env), "Drifter")
    assert str(error.value) == (
        "env Drifter: step's state must be {'key': 'key<fry>[]', 'time': 'int32[]'}, got "
        "{'key': 'key<fry>[]', 'time': 'float32[]'}"
    )


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "BernoulliBandit-misc", "Pong-misc"])
def test_states_keep_their_width_under_x64(env_id):
    with jax.enable_x64(True):
        check(make(env_id), env_id)


def test_mnist_says_that_it_must_download(monkeypatch):
    def fail():
        raise URLError("Name or service not known")

    monkeypatch.setattr("gymnax.environments.bsuite.mnist.load_mnist.load_mnist", fail)
    gymnax_env._registered.cache_clear()
    with pytest.raises(UserError) as error:
        make("MNISTBandit-bsuite")
    assert str(error.value) == (
        "env MNISTBandit-bsuite must download its data the first time, and that failed (<urlopen "
        "error Name or service not known>); connect to the network and try again, or choose "
        "another environment"
    )


def test_mnist_with_its_data(monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.random((20, 28, 28)).astype(np.float32), np.arange(20) % 10
    monkeypatch.setattr(
        "gymnax.environments.bsuite.mnist.load_mnist.load_mnist",
        lambda: ((images, labels), (images, labels)),
    )
    gymnax_env._registered.cache_clear()
    env = make("MNISTBandit-bsuite")
    gymnax_env._registered.cache_clear()
    assert (env.spec.obs, env.spec.action) == (Box((28, 28)), Discrete(10))
    check(env, env.name)


def test_adapters_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make("CartPole-v1").name = "other"
