"""The Gymnasium adapter against Gymnasium itself, in plain loops."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import cache

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_play import quick_jit
from gymnasium import spaces

from rlssm.envs import gymnasium_host, gymnax_env
from rlssm.envs.base import Vectorized
from rlssm.envs.gymnasium_env import IDS, MujocoEnvironment, ReplayedEnvironment, make
from rlssm.envs.gymnasium_host import MujocoHost, ReplayHost, host
from rlssm.envs.gymnasium_make import make_bare
from rlssm.envs.mjx_model import quiet_mujoco
from rlssm.envs.user import check
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate, evaluate_seeds
from rlssm.train.collect import rollout, start
from rlssm.types import Box, DictSpace, Discrete, Inputs, Policy, Rollout

MUJOCO = [env_id for env_id in IDS if env_id.endswith("-v5")]
ONES = np.ones(4, np.float32)


def plain(name):
    """Return the environment that anybody would make, without its time limit."""
    with quiet_mujoco():
        return gymnasium.make(name).unwrapped


def seed_of(key):
    return int(jax.random.bits(key, (), jnp.uint32))


def fresh(env):
    """Return the same environment on a host that has seen nothing yet, as after a restart."""
    return dataclasses.replace(env, host=type(env.host)(env.name, *make_bare(env.name)))


def test_listed_ids_are_registered():
    assert set(IDS) <= set(gymnasium.registry)


# --- The host, against Gymnasium ---------------------------------------------------------------


@pytest.mark.parametrize("name", MUJOCO)
def test_mujoco_continues_from_an_array_bit_for_bit(name):
    """Two episodes are played alternately in one environment; neither notices the other."""
    ours = host(name)
    assert isinstance(ours, MujocoHost)
    seeds = np.array([3, 2**32 - 1], np.uint32)
    theirs = [plain(name) for _ in seeds]
    obs, physics = ours.reset(seeds, np.stack([ONES, ONES]))
    for row, env in enumerate(theirs):
        np.testing.assert_array_equal(obs[row], np.float32(env.reset(seed=int(seeds[row]))[0]))
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 2, *ours.action.shape))
    going = np.ones(1, bool)
    for t, action in enumerate(actions.astype(np.float32)):
        for row in (t % 2, 1 - t % 2):
            one = slice(row, row + 1)
            physics[one], out = ours.step(physics[one], ~going, action[one], ONES[None])
            obs, reward, terminated, _, _ = theirs[row].step(action[row])
            np.testing.assert_array_equal(out.obs[0], np.float32(obs))
            assert out.reward[0] == np.float32(reward) and out.terminated[0] == terminated


def test_threads_change_nothing(monkeypatch):
    def play(processors):
        monkeypatch.setattr(gymnasium_host, "_processors", lambda: processors)
        ours = MujocoHost("Hopper-v5", *make_bare("Hopper-v5"))
        scales = np.ones((16, 4), np.float32)
        scales[::3, 0] = 2
        obs, physics = ours.reset(np.arange(16, dtype=np.uint32), scales)
        action = np.random.default_rng(0).uniform(-1, 1, (16, 3)).astype(np.float32)
        for _ in range(5):
            physics, out = ours.step(physics, np.arange(16) == 7, action, scales)
        return obs, physics, *out, len(ours._copies)

    *alone, one = play(1)
    *spread, copies = play(3)
    assert (one, copies) == (1, 3)
    for x, y in zip(alone, spread, strict=True):
        np.testing.assert_array_equal(x, y)


class Counter(gymnasium.Env):
    """Counts what it was given, from a number that its seed decides; truncates by itself at 5."""

    observation_space = spaces.Dict(
        {
            "total": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "image": spaces.Box(0, 255, (2, 2), np.uint8),
            "steps": spaces.Discrete(9),
        }
    )
    action_space = spaces.Box(np.float32([-2, 1]), np.float32([6, 2]))
    resets = 0

    def _obs(self):
        image = np.full((2, 2), 200, np.uint8)
        return {"total": self.total, "image": image, "steps": np.int64(self.time)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Counter.resets += 1
        self.total, self.time = self.np_random.uniform(size=2), 0
        return self._obs(), {}

    def step(self, action):
        assert action.dtype == np.float32
        self.time += 1
        self.total = self.total + action + self.np_random.uniform(size=2)
        success = np.bool_(self.time >= 3)
        return self._obs(), self.time, False, self.time >= 5, {"is_success": success}


class Wrong(Counter):
    fault = "none"

    def step(self, action):
        if Wrong.fault == "step" and self.time == 1:
            raise ValueError("the arm broke\nbadly")
        return super().step(action)

    def reset(self, *, seed=None, options=None):
        if Wrong.fault == "reset":
            raise RuntimeError("no room")
        return super().reset(seed=seed)


class Unbounded(Counter):
    action_space = spaces.Box(-np.inf, np.inf, (1,))


class Tuples(Counter):
    observation_space = spaces.Tuple((spaces.Discrete(3),))


gymnasium.register("Counter-v0", Counter)
gymnasium.register("CounterLimited-v0", Counter, max_episode_steps=4)
gymnasium.register("Wrong-v0", Wrong)
gymnasium.register("Unbounded-v0", Unbounded)
gymnasium.register("Tuples-v0", Tuples)


def test_a_history_is_played_once_while_it_is_alive():
    """Asked again for the same step, or for another after it, nothing is played twice."""
    env = fresh(make("Counter-v0"))
    reset, step = quick_jit(env.reset), quick_jit(env.step)
    key, action = jax.random.key(0), jnp.zeros(2)
    state, _ = reset(key, ())
    before = Counter.resets
    after, out = step(key, state, action, ())
    again, same = step(key, state, action, ())
    step(key, after, action, ())
    assert Counter.resets - before == 1
    jax.tree.map(np.testing.assert_array_equal, (after, out), (again, same))
    other = step(key, state, action + 0.5, ())[1]
    assert Counter.resets - before == 2 and (other.obs["total"] > out.obs["total"]).all()


def test_a_history_that_is_not_alive_is_played_again(monkeypatch):
    """With room for two of five episodes, and on a host that has seen none of them."""

    def play(env, moved=None):
        step = quick_jit(env.step)
        states = [quick_jit(env.reset)(jax.random.key(i), ())[0] for i in range(5)]
        seen = []
        for t in range(5):
            for i in range(5):
                action = jnp.array([0.1 * i, -0.1 * t])
                if moved is not None and t == 3:
                    step = quick_jit(moved.step)
                states[i], out = step(jax.random.key(0), states[i], action, ())
                seen.append(out)
        return seen

    env = make("Counter-v0")
    plenty = play(fresh(env))
    jax.tree.map(np.testing.assert_array_equal, plenty, play(fresh(env), fresh(env)))
    monkeypatch.setattr(gymnasium_host, "SPARE", 0)
    before = Counter.resets
    jax.tree.map(np.testing.assert_array_equal, plenty, play(fresh(env)))
    assert Counter.resets - before > 20


# --- The contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "CartPole-v1", "Counter-v0", "Taxi-v4"])
def test_contract(name, x64):
    with jax.enable_x64(x64):
        check(make(name), name)


@pytest.mark.parametrize(
    ("name", "obs", "action", "limit"),
    [
        ("InvertedPendulum-v5", Box((4,)), Box((1,)), 1000),
        ("Reacher-v5", Box((10,)), Box((2,)), 50),
        ("Pendulum-v1", Box((3,)), Box((1,)), 200),
        ("CartPole-v1", Box((4,)), Discrete(2), 500),
        ("FrozenLake-v1", Discrete(16), Discrete(4), 100),
        ("CounterLimited-v0", make("Counter-v0").spec.obs, Box((2,)), 4),
    ],
)
def test_spec(name, obs, action, limit):
    spec = make(name).spec
    assert (spec.obs, spec.action, spec.max_episode_steps) == (obs, action, limit)
    assert spec.truncates


def test_dicts_sort_their_parts_and_keep_images():
    assert make("Counter-v0").spec.obs == DictSpace(
        (("image", Box((2, 2), "uint8")), ("steps", Discrete(9)), ("total", Box((2,))))
    )


def test_equality_is_by_id():
    hopper, pendulum = make("Hopper-v5"), make("Pendulum-v1")
    assert isinstance(hopper, MujocoEnvironment) and isinstance(pendulum, ReplayedEnvironment)
    assert hopper == make("Hopper-v5") and hash(hopper) == hash(fresh(hopper))
    assert pendulum == fresh(pendulum) and pendulum != make("CartPole-v1")


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Pendulum-v1"])
def test_the_key_decides_the_start(name):
    env = make(name)
    starts = [env.reset(jax.random.key(i), env.params)[1] for i in (5, 5, 6)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert (starts[0] != starts[2]).any()
    theirs = plain(name).reset(seed=seed_of(jax.random.key(5)))[0]
    np.testing.assert_array_equal(starts[0], np.float32(theirs))


@pytest.mark.parametrize(
    ("name", "length"), [("Counter-v0", 5), ("CounterLimited-v0", 4), ("Taxi-v4", 200)]
)
def test_truncation_is_the_environments_own_or_at_its_limit(name, length):
    """After it the episode stands still: no reward, nothing to see, no success."""
    env = make(name)
    key = jax.random.key(1)
    action = jnp.zeros(2) if name != "Taxi-v4" else jnp.int32(0)

    def run(key):
        state = env.reset(key, ())[0]
        return jax.lax.scan(lambda s, _: env.step(key, s, action, ()), state, None, length + 2)[1]

    out = quick_jit(run)(key)
    ended = np.arange(length + 2) >= length
    np.testing.assert_array_equal(out.terminated, ended)
    np.testing.assert_array_equal(out.truncated, np.arange(length + 2) == length - 1)
    assert (np.asarray(out.reward)[ended] == 0).all()
    assert all((np.asarray(x)[ended] == 0).all() for x in jax.tree.leaves(out.obs))
    if name != "Taxi-v4":
        np.testing.assert_array_equal(out.reward[:length], np.arange(length) + 1)
        expected = (np.arange(length + 2) >= 2) & ~ended
        np.testing.assert_array_equal(out.info["success"], expected)
    else:
        assert out.info == {}


def test_actions_are_rescaled_and_clipped():
    env = make("Counter-v0")
    state, _ = env.reset(jax.random.key(0), ())
    seen = [
        env.step(jax.random.key(0), state, jnp.array(action), ())[1].obs["total"]
        for action in ([-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [3.0, -2.0])
    ]
    moved = np.array(seen) - np.array(seen[0])
    np.testing.assert_allclose(moved, [[0, 0], [4, 0.5], [8, 1], [8, 0]], atol=1e-6)


# --- Compiled, against plain loops -------------------------------------------------------------


def act_linearly(params, obs):
    """A policy whose rounding does not depend on the batch: -1 to 1, one number."""
    return jnp.tanh(jnp.sum(params * obs, -1, keepdims=True))


def as_policy():
    def act(params, inputs, reset, carry, key, greedy):
        return act_linearly(params, inputs.obs), carry

    return Policy(lambda batch: (), act)


@cache
def loop(name, seed, weights, steps):
    """Return the rewards of one episode in a plain Gymnasium loop."""
    env = plain(name)
    obs, _ = env.reset(seed=seed)
    rewards = []
    for _ in range(steps):
        action = act_linearly(np.float32(weights), np.float32(obs))
        obs, reward, terminated, _, _ = env.step(env.action_space.high * np.asarray(action))
        rewards.append(reward)
        if terminated:
            break
    return rewards


WEIGHTS = {
    "InvertedPendulum-v5": ((0.5, 3.0, 0.3, 0.6), (-0.2, 1.0, 0.0, 0.1)),
    "Pendulum-v1": ((0.1, 1.0, 0.3), (-0.5, -1.0, 0.2)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_evaluation_is_that_of_a_plain_loop(name):
    """Also for several members at once, of which some are done before the others."""
    env, policy, key, episodes = make(name), as_policy(), jax.random.key(4), 3
    params = jnp.array(WEIGHTS[name])
    found = evaluate_seeds(env, policy, params, key, episodes=episodes, max_steps=200)
    one = evaluate(env, policy, params[1], key, episodes=episodes, max_steps=200)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1], y), found, one)
    seeds = [seed_of(k) for k in jax.random.split(jax.random.split(key)[0], episodes)]
    for member, weights in enumerate(WEIGHTS[name]):
        rewards = [loop(name, seed, weights, 200) for seed in seeds]
        np.testing.assert_array_equal(found.length[member], [len(r) for r in rewards])
        expected = [sum(r) for r in rewards]
        np.testing.assert_allclose(found.episode_return[member], expected, rtol=1e-4)


def hand_rolled(name, env_key, key, weights, batch, steps):
    """Return obs, rewards, flags and successors of a batch that resets itself, `[T, B, ...]`."""
    envs = [plain(name) for _ in range(batch)]
    limit = gymnasium.spec(name).max_episode_steps
    starts = jax.random.split(env_key, batch)
    obs = [env.reset(seed=seed_of(k))[0] for env, k in zip(envs, starts, strict=True)]
    ages, rows = [0] * batch, []
    for _ in range(steps):
        key, _, step_key = jax.random.split(key, 3)
        keys = jax.random.split(step_key, batch)
        action = np.asarray(act_linearly(np.float32(weights), np.float32(obs)))
        row = []
        for i, env in enumerate(envs):
            seen = obs[i]
            after, reward, terminated, _, _ = env.step(env.action_space.high * action[i])
            ages[i] += 1
            truncated = ages[i] >= limit and not terminated
            row.append((seen, reward, terminated, truncated, after))
            obs[i] = after
            if terminated or truncated:
                obs[i], ages[i] = env.reset(seed=seed_of(jax.random.split(keys[i])[1]))[0], 0
        rows.append([np.stack(column) for column in zip(*row, strict=True)])
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    ("name", "weights", "steps", "ends"),
    [
        ("InvertedPendulum-v5", (0.0, -5.0, 0.0, 0.0), 60, "terminated"),
        ("Pendulum-v1", (0.1, 1.0, 0.3), 210, "truncated"),
    ],
)
def test_rollout_is_that_of_a_plain_loop(name, weights, steps, ends):
    batch = 3
    envs = Vectorized(make(name), batch)

    def act(inputs: Inputs, reset, carry, key):
        return act_linearly(jnp.array(weights), inputs.obs), carry, {}

    key = jax.random.key(9)
    runner = quick_jit(lambda key: start(envs, (), key))(key)
    wish = Rollout(length=steps, num_envs=batch)
    _, found = quick_jit(lambda runner: rollout(envs, act, runner, wish))(runner)
    expected = hand_rolled(name, *jax.random.split(key), weights, batch, steps)
    step = found.step
    ours = (step.obs, step.reward, step.terminated, step.truncated, step.next_obs)
    for x, y in zip(ours, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)
    assert np.asarray(getattr(step, ends)).sum() >= batch


def test_pendulum_is_that_of_gymnax():
    env, theirs = make("Pendulum-v1"), gymnax_env.make("Pendulum-v1")
    state, obs = env.reset(jax.random.key(0), ())
    step = quick_jit(theirs.env.step_env)
    blank = theirs.reset(jax.random.key(0), theirs.params)[0]
    for action in np.random.default_rng(0).uniform(-1.2, 1.2, 12):
        angle = jnp.arctan2(obs[1], obs[0])
        before = blank.replace(theta=angle, theta_dot=obs[2])
        action = jnp.array([action], jnp.float32)
        torque = 2 * jnp.clip(action, -1, 1)
        seen, _, reward, _, _ = step(jax.random.key(0), before, torque, theirs.params)
        state, out = env.step(jax.random.key(0), state, action, ())
        np.testing.assert_allclose(out.obs, seen, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.reward, reward, rtol=1e-4, atol=1e-5)
        obs = out.obs


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "CartPole-v1"])
def test_nested_vmaps_are_one_call(name, monkeypatch):
    """Seeds by batch, in a while loop, are the same as one at a time; the host is called once."""
    env = make(name)
    sizes = []
    whole = type(env.host).step

    def counted(self, first, *rest):
        sizes.append(len(first))
        return whole(self, first, *rest)

    monkeypatch.setattr(type(env.host), "step", counted)

    def run(key):
        state, obs = env.reset(key, env.params)

        def body(loop):
            t, state, obs, total = loop
            action = act_linearly(1.0, obs)
            action = action if env.host.bounds else jnp.int32(action[0] > 0)
            state, out = env.step(key, state, action, env.params)
            return t + 1, state, out.obs, total + out.reward

        return jax.lax.while_loop(lambda x: x[0] < 6, body, (0, state, obs, jnp.float32(0)))

    keys = jax.random.split(jax.random.key(0), (2, 3))
    together = jax.block_until_ready(quick_jit(jax.vmap(jax.vmap(run)))(keys))
    assert sizes == [6] * 6
    alone = quick_jit(run)(keys[1, 2])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[1, 2], y), together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Pendulum-v1"])
def test_thousands_of_steps(name):
    """No callback waits for the computation that waits for it, however long it runs."""
    envs = Vectorized(make(name), 16)

    def run(key):
        state, _ = envs.reset(key)

        def body(loop):
            t, state, count = loop
            step_key = jax.random.fold_in(key, t)
            action = jax.random.uniform(step_key, (16, 1), minval=-1, maxval=1)
            state, out = envs.step(step_key, state, action)
            return t + 1, state, count + out.first.sum()

        return jax.lax.while_loop(lambda x: x[0] < 3000, body, (0, state, 0))[2]

    counts = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
    assert (counts >= 16 * 15).all()


RESUMED = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from rlssm.envs.gymnasium_env import make
for name, state in json.load(sys.stdin).items():
    env = make(name)
    empty, _ = jax.eval_shape(env.reset, jax.random.key(0), env.params)
    state = type(empty)(*(jnp.array(x, like.dtype) for x, like in zip(state, empty)))
    _, out = env.step(jax.random.key(0), state, jnp.array([0.25]), env.params)
    print(np.asarray(out.obs).tolist(), float(out.reward))
"""


def test_another_process_goes_on_bit_for_bit():
    states, expected = {}, []
    for name in ("InvertedPendulum-v5", "Pendulum-v1"):
        env = make(name)
        state, _ = env.reset(jax.random.key(0), env.params)
        for value in (0.1, -0.3, 0.2):
            state, _ = env.step(jax.random.key(0), state, jnp.array([value]), env.params)
        states[name] = [np.asarray(x).tolist() for x in state]
        out = env.step(jax.random.key(0), state, jnp.array([0.25]), env.params)[1]
        expected.append(f"{np.asarray(out.obs).tolist()} {float(out.reward)}")
    done = subprocess.run(
        [sys.executable, "-c", RESUMED],
        input=json.dumps(states),
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.splitlines() == expected, done.stderr


# --- Mistakes ----------------------------------------------------------------------------------


@pytest.fixture
def fault():
    yield lambda kind: setattr(Wrong, "fault", kind)
    Wrong.fault = "none"


def test_an_exception_in_a_compiled_step_is_told(fault):
    env = make("Wrong-v0")
    fault("step")
    with pytest.raises((RuntimeError, ValueError)) as error:
        state = env.reset(jax.random.key(0), ())[0]
        step = jax.jit(jax.vmap(env.step, (0, 0, 0, None)))
        states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
        keys = jax.random.split(jax.random.key(0), 2)
        for _ in range(2):
            states, _ = jax.block_until_ready(step(keys, states, jnp.zeros((2, 2)), ()))
    said = "UserError: env gym/Wrong-v0: step failed with ValueError: the arm broke\n"
    assert said in f"{error.value}\n"
    fault("none")  # and the host is as it was: a step works again
    jax.block_until_ready(step(keys, states, jnp.ones((2, 2)), ()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Unbounded-v0",
            "env gym/Unbounded-v0 has actions Box(-inf, inf, (1,), float32), which cannot be "
            "served; use Discrete from 0 on, or a bounded Box of floats",
        ),
        (
            "Tuples-v0",
            "env gym/Tuples-v0 has observations Tuple(Discrete(3)), which cannot be served; use "
            "Box, Discrete from 0 on, or Dict",
        ),
        (
            "no_such_package:Maze-v0",
            "env gym/no_such_package:Maze-v0: making it failed with ModuleNotFoundError: No "
            "module named 'no_such_package'. Environment registration via importing a module "
            "failed. Check whether 'no_such_package' contains env registration and can be "
            "imported.",
        ),
    ],
)
def test_mistakes(name, message):
    with pytest.raises(UserError) as error:
        make(name)
    assert str(error.value) == message


def test_an_environment_that_fails_at_once_is_told(fault):
    fault("reset")
    with pytest.raises(UserError) as error:
        ReplayHost("Wrong-v0", *make_bare("Wrong-v0"))
    assert str(error.value) == (
        "env gym/Wrong-v0: its first step failed with RuntimeError: no room"
    )


def test_unknown_ids_get_the_nearest():
    with pytest.raises(UserError, match="perhaps 'gym/HalfCheetah-v5' was meant; the nearest: "):
        make("HalfCheeta-v5")
