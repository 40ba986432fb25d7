"""What the comparison with other packages hands to them (scripts/reproduce)."""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.algorithms import ALGORITHMS
from rlssm.data.dataset import DatasetInfo, Episode, from_episodes
from rlssm.nn.actor_critic import apply
from rlssm.types import Box, Inputs, Previous, Spec

SCRIPTS = Path(__file__).parents[2] / "scripts" / "reproduce"
SEEDS, UPDATES = 2, 50


@pytest.fixture(scope="module")
def oracles():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module("oracles_learning")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            obs=rng.normal(2, 3, (6, 3)).astype(np.float32),
            action=rng.uniform(-1, 1, (5, 1)).astype(np.float32),
            reward=rng.normal(size=5).astype(np.float32),
            terminated=np.arange(5) == (4 if number % 2 else 5),
            truncated=np.arange(5) == (5 if number % 2 else 4),
        )
        for number in range(4)
    ]
    spec = Spec(Box((3,)), Box((1,)), max_episode_steps=200)
    return from_episodes(
        episodes, DatasetInfo("test/small-v0", spec, ((-2.0,), (2.0,)), "Pendulum-v1")
    )


def part(given, seed):
    prefix = f"weight/{seed}/"
    return {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}


def network(given, name, x):
    """Return what a network of weights `<name>.<layer>.weight` makes of rows, in NumPy."""
    layers = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in given)
    for i in range(layers):
        x = x @ given[f"{name}.{i}.weight"].T + given[f"{name}.{i}.bias"]
        x = np.maximum(x, 0) if i < layers - 1 else x
    return x


@pytest.fixture(scope="module", params=["iql", "td3bc"])
def handed(request, oracles, data, tmp_path_factory):
    """Return the pair of an algorithm and the data, and what the other side is given."""
    pair = oracles.Pair(request.param, data, tmp_path_factory.mktemp("policies"))
    return pair, oracles.given_to_learn(pair, SEEDS, UPDATES)


def standardized(data):
    """Return the observation of every step, standardised by those of all steps and ends."""
    rows = data.obs[np.arange(20) + np.arange(20) // 5]
    return (rows - data.obs.mean(0)) / (data.obs.std(0) + 1e-3)


def test_the_other_side_sees_the_same_transitions(data, handed):
    _, given = handed
    np.testing.assert_allclose(given["obs"], standardized(data), atol=1e-5)
    np.testing.assert_array_equal(given["action"], data.action)
    assert given["terminated"].sum() == 2  # and no end by the clock among them


def test_the_other_side_starts_where_ours_does(oracles, data, handed):
    pair, given = handed
    config, spec = pair.case(UPDATES).config, data.info.spec
    learner, standard = ALGORITHMS[config.name], standardized(data).astype(np.float32)
    _, state = oracles.started(pair, list(range(SEEDS)), UPDATES)
    seen = Inputs(standard, Previous(data.action, data.reward), np.ones(20, bool))
    seen, reset = jax.tree.map(lambda x: jnp.asarray(x)[None], (seen, np.ones(20, bool)))
    actor, critic = learner.networks(config, spec)[:2]
    for seed in range(SEEDS):
        agent = jax.tree.map(lambda x, seed=seed: x[seed], state.agent)
        theirs = part(given, seed)
        _, policy = apply(actor, agent.params["actor"], (), seen, reset)
        mode = policy if config.name == "td3bc" else policy.mode()
        np.testing.assert_allclose(np.tanh(network(theirs, "actor", standard)), mode[0], atol=1e-5)
        values = apply(critic, agent.critic, (), seen, reset, jnp.asarray(data.action)[None])
        both = np.concatenate([standard, data.action], -1)
        for k in range(2):
            for name in ("critic", "target"):
                value = network(theirs, f"{name}.{k}", both)[:, 0]
                np.testing.assert_allclose(value, values[k, 0], atol=1e-4)
        if config.name == "iql":
            share = 1 / (1 + np.exp(-theirs["actor.log_std"]))
            np.testing.assert_allclose(-5 + 7 * share[0], policy.log_std[0, 0], atol=1e-5)
    assert not np.array_equal(given["weight/0/actor.0.weight"], given["weight/1/actor.0.weight"])


def test_settings_agree_over_a_whole_run(handed):
    pair, given = handed
    settings = json.loads(str(given["settings"]))
    assert settings["batch"] == 256
    assert settings["hidden"] == [256, 256]
    assert settings["decay"] == (UPDATES if pair.algorithm == "iql" else None)
    options = {
        "iql": {"expectile": 0.7, "weight_temp": 3.0, "max_weight": 100.0},
        "td3bc": {"alpha": 2.5, "update_actor_interval": 2, "target_smoothing_clip": 0.5},
    }[pair.algorithm]
    assert options.items() <= settings["options"].items()
