"""Recipes: the data are what the simulators give, and the players are as good as they are said."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import gymnasium
import jax
import minari
import numpy as np
import pytest
from scipy.linalg import hadamard

from rlssm.data import minari_io, minari_store
from rlssm.data.check import check
from rlssm.data.dataset import to_episodes, transitions
from rlssm.data.describe import summarise
from rlssm.data.scores import normalise
from rlssm.envs import make
from rlssm.envs.point_maze import PointMazeState
from rlssm.errors import UserError
from rlssm.train import (
    datasets,
    policy_file,
    recipes,
    recipes_lock,
    recipes_mujoco,
    recipes_pendulum,
    recipes_point_maze,
)
from rlssm.train.mujoco_worker import Job, play
from rlssm.train.policy_file import Actor, Policy, load_policies, save_policies

EPISODES = 120  # one size for all levels, so that the players are compiled once


@pytest.fixture(autouse=True)
def datasets_root(tmp_path, monkeypatch):
    root = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.chdir(tmp_path)  # where MuJoCo leaves its log
    return root


# --- Pendulum ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pendulum():
    """Return the data of every level."""
    steps = EPISODES * recipes_pendulum.LENGTH
    return {
        level: recipes_pendulum.build(f"pendulum/{level}", steps, 0, False)
        for level in recipes_pendulum.LEVELS
    }


def mean_return(dataset) -> float:
    return float(summarise(dataset).returns.mean())


def test_transitions_are_those_of_gymnasium(pendulum):
    """From the recorded state, Gymnasium's own Pendulum-v1 goes where the data say."""
    env = gymnasium.make("Pendulum-v1").unwrapped
    dataset = pendulum["mixed"]
    rows = np.random.default_rng(0).choice(dataset.num_steps, 1000, replace=False)
    found = transitions(dataset, rows)
    obs, reward = [], []
    for (cos, sin, speed), action in zip(found.obs, found.action, strict=True):
        env.state = np.array([np.arctan2(sin, cos), speed], np.float64)  # ty: ignore[unresolved-attribute]
        there, earned, *_ = env.step(2 * action)
        obs.append(there)
        reward.append(earned)
    np.testing.assert_allclose(found.next_obs, obs, rtol=0, atol=5e-6)
    np.testing.assert_allclose(found.reward, reward, rtol=0, atol=2e-5)
    assert np.ptp(found.reward) > 10  # both hanging and standing


def test_episodes_start_and_end_as_gymnasiums(pendulum):
    spec = gymnasium.spec("Pendulum-v1")
    for level, dataset in pendulum.items():
        check(dataset)
        summary = summarise(dataset)
        assert dataset.num_episodes == EPISODES and summary.terminated == 0
        assert set(summary.lengths) == {spec.max_episode_steps}, level
        first = dataset.obs[dataset.start + np.arange(EPISODES)]
        assert np.abs(first[:, 2]).max() <= 1 and np.abs(first[:, 0]).max() > 0.9
    assert recipes_pendulum.ENV == spec.id and recipes_pendulum.LENGTH == spec.max_episode_steps
    assert pendulum["random"].info.spec.max_episode_steps == spec.max_episode_steps


def test_levels_are_as_good_as_they_are_said(pendulum):
    reference = pendulum["medium"].info.reference
    scores = {level: normalise(mean_return(data), reference) for level, data in pendulum.items()}
    assert -1300 < reference.low < -1100 and -200 < reference.high < -130
    assert -5 < scores["random"] < 5
    assert 40 < scores["medium"] < 60
    assert 95 < scores["expert"] < 105
    assert scores["random"] + 10 < scores["replay"] < scores["medium"] - 5
    assert scores["mixed"] == pytest.approx(50, abs=10)


def test_replay_rises_and_mixed_is_in_equal_shares(pendulum):
    rising = summarise(pendulum["replay"]).returns.reshape(4, -1).mean(1)
    assert all(a < b for a, b in pairwise(rising))
    shares = summarise(pendulum["mixed"]).returns.reshape(3, -1).mean(1)
    for level, share in zip(("random", "medium", "expert"), shares, strict=True):
        assert share == pytest.approx(mean_return(pendulum[level]), abs=100)


def test_random_torques_are_uniform(pendulum):
    action = np.sort(pendulum["random"].action.ravel())
    uniform = np.linspace(-1, 1, len(action))
    assert np.abs(action - uniform).max() < 0.02


def test_law_is_that_of_its_docstring():
    rng = np.random.default_rng(0)
    angle, speed = rng.uniform(-np.pi, np.pi, 500), rng.uniform(-8, 8, 500)
    obs = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
    found = np.asarray(jax.vmap(recipes_pendulum.torque)(obs))
    for th, w, u in zip(angle, speed, found, strict=True):
        energy = 0.5 * w * w + 15 * (np.cos(th) - 1)
        if abs(th) < 0.5:
            assert u == pytest.approx(-10 * th - 2.5 * w, rel=1e-4, abs=1e-4)
        else:
            assert u == pytest.approx(-energy * np.sign(w), rel=1e-4, abs=1e-4)
            assert energy * 3 * u * w <= 0  # it goes towards the energy of standing upright


def test_data_follow_from_the_seed_and_references_do_not(pendulum):
    steps = EPISODES * recipes_pendulum.LENGTH
    again = recipes_pendulum.build("pendulum/medium", steps, 0, False)
    other = recipes_pendulum.build("pendulum/medium", steps, 1, False)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(pendulum["medium"]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.info == pendulum["medium"].info
    assert np.abs(other.obs[0] - again.obs[0]).max() > 1e-3
    assert {data.info.reference for data in (*pendulum.values(), other)} == {other.info.reference}


def test_a_made_dataset_is_read_back_and_is_minaris(pendulum, monkeypatch):
    build = lambda *_: pendulum["medium"]  # noqa: E731
    recipe = recipes.RECIPES["pendulum/medium"]._replace(build=build)
    monkeypatch.setitem(recipes.RECIPES, "pendulum/medium", recipe)
    made = recipes.make("pendulum/medium-v0")
    read = minari_io.read("pendulum/medium")
    assert read.info == made.info == minari_io.read_info("pendulum/medium")
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(a, b)
    theirs = minari.load_dataset("pendulum/medium-v0")
    assert theirs.spec.env_spec.id == "Pendulum-v1"
    assert (theirs.action_space.low, theirs.action_space.high) == (-2, 2)
    episode = next(theirs.iterate_episodes())
    assert np.abs(episode.actions).max() > 1.5
    score = minari.get_normalized_score(theirs, np.array([episode.rewards.sum()]))
    assert 100 * score[0] == pytest.approx(
        normalise(summarise(made).returns[0], made.info.reference), rel=1e-4
    )


# --- Locks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [5, 10, 15, 30, 50])
def test_locks_open_as_often_as_published(horizon):
    """The authors' generator opened 0.371, 0.387, 0.390, 0.398 and 0.394 of its locks."""
    name, episodes = f"lock/h{horizon}", 8000
    lock = make(name)
    keys = jax.random.split(jax.random.key(0), episodes)
    played = recipes_lock.play(lock, keys, 1 / horizon)
    opened = np.asarray(played.reward[:, -1] == 1).mean()
    expected = (1 - 0.9 / horizon) ** horizon
    assert 0.36 < expected < 0.41
    assert opened == pytest.approx(expected, abs=4 * np.sqrt(0.24 / episodes))
    published = {5: 0.371, 10: 0.387, 15: 0.390, 30: 0.398, 50: 0.394}[horizon]
    assert opened == pytest.approx(published, abs=0.025)


@pytest.mark.parametrize(
    "name", ["lock/h5", pytest.param("lock/h5-images", marks=pytest.mark.slow), "lock/h5-discrete"]
)
def test_lock_data_are_whole_episodes_of_an_expert_that_errs(name, datasets_root):
    made = recipes.make(name, steps=998)
    read = minari_io.read(name)
    assert read.info == made.info and read.num_episodes == 200
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(a, b)
    assert datasets.environment(read.info) == name and read.info.spec.obs == make(name).spec.obs
    reference = read.info.reference
    assert reference.high > 0.99 and reference.low < 0.06
    assert read.terminated.reshape(200, 5)[:, -1].all() and read.terminated.sum() == 200
    if name == "lock/h5-discrete":
        assert set(read.action.tolist()) <= set(range(10))
        return
    assert read.action.min() >= 0 and read.action.max() <= 1
    one_hot = (np.sort(read.action, 1)[:, :-1] == 0).all(1) & (read.action.max(1) == 1)
    assert one_hot.mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / 1000))
    latent = made.obs.reshape(200, 6, -1)[:, :5].reshape(1000, -1)
    if name == "lock/h5":  # the state can be read off, and the expert's choice depends on it
        latent = (latent @ hadamard(16))[:, :3].argmax(1)
        wanted = np.asarray(make(name).params)[latent % 2, np.tile(np.arange(5), 200)]
        assert (read.action.argmax(1) == wanted)[one_hot].all()


def test_lock_data_follow_from_the_seed_and_references_do_not():
    first, again, other = (recipes_lock.build("lock/h5", 1000, s, False) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.obs, again.obs)
    assert np.abs(first.obs - other.obs).max() > 1
    assert first.info.reference == other.info.reference


# --- What can be made -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("pendulum/medum",), "unknown recipe 'pendulum/medum', perhaps 'pendulum/medium' was"),
        (("pendulum/medium-v1",), "unknown recipe 'pendulum/medium-v1', perhaps 'pendulum/medium'"),
        (("pendulum/medium", 0), "steps must be from 1 to 50000000, got 0"),
        (("pendulum/medium", 10**9), "steps must be from 1 to 50000000, got 1000000000"),
        (("pendulum/medium", 1, -1), "seed must be from 0 to 2147483647, got -1"),
        (("pendulum medium",), "dataset id must be words of letters"),
    ],
)
def test_mistakes_are_named_and_nothing_is_made(words, sentence, datasets_root):
    name, steps, seed = (*words, None, 0)[:3] if len(words) < 3 else words
    with pytest.raises(UserError) as caught:
        recipes.make(name, steps=steps, seed=seed or 0)
    assert str(caught.value).startswith(sentence)
    assert not datasets_root.exists()


def test_force_replaces_and_nothing_else_does(pendulum, datasets_root, monkeypatch):
    monkeypatch.setitem(
        recipes.RECIPES,
        "pendulum/expert",
        recipes.Recipe("", 1, lambda name, steps, seed, progress: made[seed]),
    )
    first = pendulum["expert"]
    later = first.replace(info=replace(first.info, transforms=("later",)))
    made = [first, later]
    recipes.make("pendulum/expert")
    with pytest.raises(UserError) as caught:
        recipes.make("pendulum/expert", seed=1)
    assert str(caught.value) == (
        f"dataset pendulum/expert-v0 is in {datasets_root} already; --force True makes it anew"
    )
    assert minari_io.read_info("pendulum/expert").transforms == ()
    recipes.make("pendulum/expert", seed=1, force=True)
    assert minari_io.read_info("pendulum/expert").transforms == ("later",)
    assert [path.name for path in datasets_root.iterdir() if path.is_dir()] == ["pendulum"]


# --- Policy files -----------------------------------------------------------------------------


def make_policy(seed=0, sizes=(11, 8, 8, 6), step=1000, scale=1.0) -> Policy:
    rng = np.random.default_rng(seed)
    layers = tuple(
        ((scale * rng.normal(size=(a, b))).astype(np.float16), rng.normal(size=b) * scale)
        for a, b in pairwise(sizes)
    )
    return Policy(tuple((k, b.astype(np.float16)) for k, b in layers), step, 12.5)


def test_an_actor_is_its_network():
    policy, rng = make_policy(), np.random.default_rng(1)
    obs = rng.normal(size=(5, 11))
    best = Actor(policy)(obs)
    for row, action in zip(obs, best, strict=True):
        x = row
        for i, (kernel, bias) in enumerate(policy.layers):
            x = kernel.astype(np.float64).T @ x + bias.astype(np.float64)
            x = x if i == 2 else np.maximum(x, 0)
        np.testing.assert_allclose(action, np.tanh(x[:3]), rtol=1e-4, atol=1e-5)
    assert best.dtype == np.float32


def test_an_actor_samples_with_clipped_deviations():
    (kernel, bias), small = (np.zeros((11, 6)), np.array([0.3, 0, 0, -9.0, -1.0, 5.0])), 20_000
    actor = Actor(Policy(((kernel, bias),), 0, 0.0))
    action = actor(np.zeros((small, 11)), np.random.default_rng(0)).astype(np.float64)
    drawn = np.arctanh(action[:, :2])
    np.testing.assert_allclose(drawn.mean(0), [0.3, 0], atol=0.02)
    np.testing.assert_allclose(drawn.std(0), np.exp([-5, -1]), rtol=0.02)
    # Of a normal with standard deviation e^2, not e^5, this part is within 1.
    assert np.mean(np.abs(action[:, 2]) < np.tanh(1)) == pytest.approx(0.1077, abs=0.01)


def test_policy_files_round_trip(tmp_path):
    policies = {"medium": make_policy(1), "expert": make_policy(2, step=5)}
    save_policies(tmp_path / "hopper.npz", policies, {"commit": "abc", "seeds": 3})
    again = load_policies(tmp_path / "hopper.npz")
    assert again.metadata == {"commit": "abc", "seeds": 3}
    assert list(again.policies) == ["medium", "expert"]
    for name, policy in policies.items():
        found = again.policies[name]
        assert (found.step, found.mean_return) == (policy.step, policy.mean_return)
        for a, b in zip(jax.tree.leaves(found.layers), jax.tree.leaves(policy.layers), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_damaged_policy_files_are_refused(tmp_path):
    path = tmp_path / "hopper.npz"
    with pytest.raises(UserError, match="there is no policy file"):
        load_policies(path)
    save_policies(path, {"medium": make_policy()}, {})
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="hopper.npz is damaged"):
            load_policies(path)
    np.savez(path, levels=np.array([{}], object))
    with pytest.raises(UserError, match="allow_pickle"):
        load_policies(path)
    broken = make_policy()._replace(layers=make_policy().layers[::-1])
    with pytest.raises(UserError, match="policy 'medium': shapes must be"):
        save_policies(path, {"medium": broken}, {})
    (kernel, bias), *rest = make_policy().layers
    nan = Policy(((kernel, np.full_like(bias, np.nan)), *rest), 0, 0.0)
    with pytest.raises(UserError, match="weights must be finite"):
        save_policies(path, {"medium": nan}, {})


def test_shipped_policies_are_small_and_sound():
    sizes = [path.stat().st_size for path in policy_file.FOLDER.glob("*.npz")]
    assert sum(sizes) < 10_000_000
    for name, env in recipes_mujoco.ENVS.items():
        path = policy_file.path_of(name)
        if path.is_file():
            found = load_policies(path).policies
            assert {"medium", "expert"} <= set(found)
            fewest = 7 if name == "halfcheetah" else 10  # it was `medium` that soon
            assert sum(x.step <= found["medium"].step for x in found.values()) >= fewest, env


# --- Point mazes ------------------------------------------------------------------------------


@pytest.mark.slow
def test_wanderers_move_as_the_maze_does_and_find_the_goal_by_chance():
    name = "pointmaze/medium"
    maze = make(name)
    dataset = recipes_point_maze.build(name, 6000, 0, False)
    check(dataset)
    assert dataset.num_steps >= 6000 > dataset.num_steps - 200
    rows = np.random.default_rng(0).choice(dataset.num_steps, 200, replace=False)
    found = transitions(dataset, rows)
    centre = np.array(maze.walls.shape, np.float32) / 2
    state = PointMazeState(found.obs[:, :2] + centre, found.obs[:, 2:], np.zeros(200, np.int32))
    _, out = jax.jit(jax.vmap(maze.step, (None, 0, 0, None)))(
        jax.random.key(0), state, found.action, maze.params
    )
    np.testing.assert_allclose(found.next_obs, out.obs, atol=2e-5)
    np.testing.assert_allclose(found.reward, out.reward, atol=2e-5)
    np.testing.assert_array_equal(found.terminated, out.terminated)
    reference, summary = dataset.info.reference, summarise(dataset)
    assert 0.1 < summary.terminated / dataset.num_episodes < 0.95
    assert reference.low < summary.returns.mean() < reference.high
    assert reference[:2] == (0, 1)
    visited = {tuple(cell) for cell in (dataset.obs[:, :2] + centre).astype(int).tolist()}
    free = {tuple(cell) for cell in np.argwhere(~maze.walls).tolist()}
    assert len(visited & free) > 0.9 * len(free)


# --- MuJoCo -----------------------------------------------------------------------------------


# Does nothing, almost without noise, and so stands for longer than the others.
STILL = Policy(((np.zeros((11, 6)), np.repeat([0.0, -5.0], 3)),), 900, 0.0)


@pytest.fixture
def policies(tmp_path, monkeypatch):
    """Ship small policies."""
    monkeypatch.setattr(policy_file, "FOLDER", tmp_path)
    monkeypatch.setattr(recipes_mujoco, "REFERENCE_EPISODES", 6)
    monkeypatch.setattr(recipes_mujoco, "REFERENCE_JOBS", 2)
    found = {f"ckpt_{i:02d}": make_policy(i, step=100 * i) for i in range(4)}
    found |= {"medium": make_policy(9, step=250), "expert": STILL}
    save_policies(tmp_path / "hopper.npz", found, {"hardware": "none"})
    return tmp_path / "hopper.npz"


@pytest.fixture
def here(monkeypatch):
    """Play jobs in this process."""

    def run(jobs, progress, name):
        for job in jobs:
            np.savez(job.out, **play(job, lambda steps: None)._asdict())

    monkeypatch.setattr(recipes_mujoco, "run", run)


def make_job(policies, level="medium", **changes) -> Job:
    job = Job("Hopper-v5", policies and str(policies), level, False, 300, 0, [3, 1], "")
    return job._replace(**changes)


def test_played_episodes_are_gymnasiums(policies):
    """The recorded actions lead Gymnasium, from the recorded seeds, through the recorded states."""
    job = make_job(policies, steps=2000)
    played = play(job, lambda steps: None)
    seeds = np.random.default_rng(job.seed).integers(2**31, size=2).tolist()
    stops = np.cumsum(played.length)
    for i, seed in enumerate(seeds):
        env = gymnasium.make(job.env)
        start, stop = stops[i] - played.length[i], stops[i]
        obs = [env.reset(seed=seed)[0]]
        flags = (False, False)
        rewards = []
        for action in played.action[start:stop]:
            assert flags == (False, False)
            there, reward, *flags, _ = env.step(action)
            flags = tuple(flags)
            obs.append(there)
            rewards.append(reward)
        assert flags == (bool(played.terminated[i]), not played.terminated[i])
        np.testing.assert_array_equal(played.obs[start + i : stop + i + 1], np.float32(obs))
        np.testing.assert_array_equal(played.reward[start:stop], np.float32(rewards))


def test_the_first_whole_episodes_are_kept(policies):
    told = []
    played = play(make_job(policies, steps=2500), told.append)
    assert played.length.sum() >= 2500 > played.length[:-1].sum()
    assert sum(told) >= played.length.sum()
    counted = play(make_job(policies, steps=0, episodes=5), told.append)
    assert len(counted.length) == 5


def test_best_actions_have_no_noise_and_random_ones_no_policy(policies):
    actor = Actor(load_policies(policies).policies["medium"])
    best, drawn = (play(make_job(policies, greedy=g), lambda _: None) for g in (True, False))
    for played, same in ((best, True), (drawn, False)):
        rows = np.arange(len(played.action)) + np.repeat(
            np.arange(len(played.length)), played.length
        )
        close = np.allclose(actor(played.obs[rows]), played.action, atol=1e-5)
        assert close == same
    random = play(make_job(None, "random", steps=3000), lambda _: None)
    ordered = np.sort(random.action.ravel())
    assert np.abs(ordered - np.linspace(-1, 1, len(ordered))).max() < 0.03


def test_levels_are_made_of_their_policies(policies, here):
    dataset = recipes_mujoco.build("hopper/medium-replay", 500, 0, False)
    check(dataset)
    said = dict(dataset.info.provenance)
    shares = re.findall(r"(\w+) \(trained for (\d+) steps\): (\d+) steps", said["description"])
    assert [(name, int(step)) for name, step, _ in shares] == [
        ("ckpt_00", 0), ("ckpt_01", 100), ("ckpt_02", 200), ("medium", 250)
    ]  # fmt: skip
    assert "synthetic" in said["description"]
    assert all(125 <= int(steps) < 125 + 200 for *_, steps in shares)
    assert said["recipe"] == "rlssm data make hopper/medium-replay --steps 500 --seed 0"
    assert json.loads(said["policies"]) == {"hardware": "none"}
    reference = dataset.info.reference
    assert reference.low < reference.high and "Hopper-v5" in reference.source
    expert = recipes_mujoco.build("hopper/expert", 500, 1, False)
    assert expert.info.reference == reference
    assert mean_return(expert) == pytest.approx(reference.high, rel=0.1)  # but for its noise


def test_random_needs_no_policies(tmp_path, here, monkeypatch):
    monkeypatch.setattr(policy_file, "FOLDER", tmp_path)
    dataset = recipes_mujoco.build("walker2d/random", 200, 0, False)
    check(dataset)
    assert dataset.info.reference is None and dataset.info.env == "Walker2d-v5"
    assert dataset.info.spec.action.shape == (6,) and dataset.obs.shape[1:] == (17,)
    assert not recipes.available("hopper/medium") and recipes.available("hopper/random")
    with pytest.raises(UserError) as caught:
        recipes.make("hopper/medium-replay")
    assert str(caught.value) == (
        "recipe hopper/medium-replay needs trained policies for hopper, and none ship with this "
        "version; hopper/random needs none"
    )


def test_an_expert_must_be_better_than_chance(policies, here):
    found = load_policies(policies)
    flipped = found.policies | {"expert": make_policy(7)}
    save_policies(policies, flipped, {})
    with pytest.raises(UserError, match="no more than random actions .* train it again"):
        recipes_mujoco.build("hopper/expert", 50, 0, False)


def test_action_bounds_and_limits_are_gymnasiums():
    for env_id in recipes_mujoco.ENVS.values():
        env = gymnasium.make(env_id)
        assert env.spec.max_episode_steps == recipes_mujoco.MAX_EPISODE_STEPS
        assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()


def test_processes_play_what_one_process_plays(policies, monkeypatch, capfd):
    made = recipes_mujoco.build("hopper/medium-expert", 300, 4, True)
    parts = [
        play(make_job(policies, level, steps=150, seed=seed), lambda _: None)
        for level, seed in (
            ("medium", [4, crc32(b"medium"), 0]),
            ("expert", [4, crc32(b"expert"), 0]),
        )
    ]
    np.testing.assert_array_equal(made.obs, np.concatenate([part.obs for part in parts]))
    np.testing.assert_array_equal(made.action, np.concatenate([part.action for part in parts]))
    lengths = [len(episode.reward) for episode in to_episodes(made)]
    assert lengths == np.concatenate([part.length for part in parts]).tolist()
    assert "hopper/medium-expert: 100%" in capfd.readouterr().err


def test_a_process_that_fails_is_one_sentence(policies, tmp_path):
    job = make_job(policies, env="Hoper-v5", out=str(tmp_path / "a.npz"))
    with pytest.raises(UserError) as caught:
        recipes_mujoco.run([job], False, "")
    assert str(caught.value).startswith("playing medium in Hoper-v5 failed with exit code 1 (")
    assert "Hoper" in str(caught.value).partition("(")[2]


KILLED = """
from rlssm.train import recipes
recipes.make("hopper/random", steps=2_000_000)
"""


@pytest.mark.slow
def test_killed_it_leaves_no_dataset_and_no_process(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=environment)
    until(lambda: len(players(scratch)) > 0)
    time.sleep(2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert minari_store.local_ids() == []
    until(lambda: players(scratch) == [])


def until(condition, seconds=60) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.2)


def players(scratch: Path) -> list[str]:
    """Return the processes whose command names a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "mujoco_worker" in words and str(scratch) in words:
            found.append(words)
    return found
