"""An id becomes a dataset: a local one, a made one, a downloaded one, or one sentence."""

import importlib.util
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import jax
import minari
import numpy as np
import pytest

from rlssm.data import minari_io, minari_store
from rlssm.data.dataset import DatasetInfo, Episode, OfflineDataset, from_episodes
from rlssm.data.scores import D4RL_SOURCE, Reference
from rlssm.envs import registry
from rlssm.envs.perturbed import DynamicsConfig
from rlssm.envs.probes import ConstantReward
from rlssm.errors import UserError
from rlssm.train import datasets, recipes
from rlssm.types import Box, Discrete, Spec

OWN = Reference(-3.0, 7.0, "measured")


@pytest.fixture(autouse=True)
def datasets_root(tmp_path, monkeypatch):
    root = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


def make_info(dataset_id="aa/b-v0", env="Pendulum-v1", action=None, obs=None) -> DatasetInfo:
    return DatasetInfo(dataset_id, Spec(obs or Box((3,)), action or Box((1,)), 5), env=env)


def make_dataset(dataset_id="aa/b-v0", reference=OWN) -> OfflineDataset:
    """Return two episodes with returns 1 and 3."""
    ends = np.array([False, True])
    episodes = [
        Episode(
            obs=np.full((3, 3), total, np.float32),
            action=np.zeros((2, 1), np.float32),
            reward=np.array([0, total], np.float32),
            terminated=ends & (total == 1),
            truncated=ends & (total != 1),
        )
        for total in (1, 3)
    ]
    info = DatasetInfo(
        id=dataset_id,
        spec=make_info().spec,
        action_bounds=((-2.0,), (2.0,)),
        env="Pendulum-v1",
        reference=reference,
        provenance=(("author", "somebody"),),
    )
    return from_episodes(episodes, info)


@pytest.fixture
def recipe(monkeypatch):
    """Have a recipe `aa/made` that costs nothing, and return the calls made of it."""
    calls = []

    def build(name, steps, seed, progress):
        calls.append((name, steps, seed, progress))
        return make_dataset(f"{name}-v0")

    monkeypatch.setitem(recipes.RECIPES, "aa/made", recipes.Recipe("", 4, build))
    return calls


# --- Finding ----------------------------------------------------------------------------------


def test_local_datasets_are_loaded_and_nothing_is_said(recipe, capfd):
    for version in (0, 2, 10):
        minari_io.write(make_dataset(f"aa/made-v{version}"))
    assert datasets.locate("aa/made") == "aa/made-v10"
    assert datasets.locate("aa/made-v2") == "aa/made-v2"
    found = datasets.load("aa/made-v0")
    assert found.info == make_dataset("aa/made-v0").info
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    assert recipe == [] and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dataset_id", ["aa/made", "aa/made-v0"])
def test_recipes_make_what_is_missing_once(recipe, datasets_root, capfd, dataset_id):
    assert datasets.load(dataset_id).info.id == "aa/made-v0"
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == f"rlssm: dataset aa/made-v0 is not in {datasets_root}: making 4 steps\n"
    datasets.load(dataset_id)
    assert recipe == [("aa/made", 4, 0, True)] and capfd.readouterr() == ("", "")


def test_quiet_making_says_nothing(recipe, capfd):
    datasets.load("aa/made", progress=False)
    assert recipe == [("aa/made", 4, 0, False)] and capfd.readouterr() == ("", "")


def test_what_may_not_be_made_is_not(recipe, datasets_root):
    with pytest.raises(UserError) as caught:
        datasets.locate("aa/made-v0", make=False)
    assert str(caught.value) == (
        f"dataset aa/made-v0 is not in {datasets_root}; make it with: rlssm data make aa/made"
    )
    assert recipe == []


def test_a_quicker_process_is_no_mistake(recipe, monkeypatch):
    def late(name, **_):
        minari_io.write(make_dataset("aa/made-v0"))
        raise UserError("dataset aa/made-v0 is taken")

    monkeypatch.setattr(recipes, "make", late)
    assert datasets.load("aa/made").info.id == "aa/made-v0"


def test_a_recipe_that_fails_says_why(recipe, monkeypatch):
    def fail(name, **_):
        raise UserError("no policies")

    monkeypatch.setattr(recipes, "make", fail)
    with pytest.raises(UserError, match="^no policies$"):
        datasets.load("aa/made")


def test_unknown_ids_name_the_nearest(datasets_root):
    minari_io.write(make_dataset("mine/best-v3"))
    for typo, meant in (("pendulum/medum", "pendulum/medium"), ("mine/bets", "mine/best")):
        with pytest.raises(UserError) as caught:
            datasets.load(typo)
        said = str(caught.value)
        assert said.startswith(f"unknown dataset {typo!r}, perhaps {meant!r} was meant; ")
        assert said.endswith(
            f"; looked in {datasets_root}; rlssm data make and rlssm data import-d4rl add to it, "
            "and an id with its version is downloaded"
        )


def test_malformed_ids_are_refused():
    with pytest.raises(UserError, match="dataset id must be words of letters"):
        datasets.load("pendulum medium")


# --- Downloading ------------------------------------------------------------------------------


@contextmanager
def server(status: int):
    """Answer every request with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def remote(monkeypatch):
    """Have a client and no proxy; return where the server is said to be."""
    monkeypatch.setattr(datasets, "_SERVERS", {"hf": ("minari", "")})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("MINARI_REMOTE", raising=False)
    return lambda url: monkeypatch.setenv("HF_ENDPOINT", url)


REMEDY = "without a network, rlssm data make builds datasets and rlssm data import-d4rl reads files"


@pytest.mark.parametrize("status", [200, 404])
def test_what_a_server_has_is_downloaded(remote, monkeypatch, capfd, datasets_root, status):
    monkeypatch.setattr(
        minari, "download_dataset", lambda wanted: minari_io.write(make_dataset(wanted))
    )
    with server(status) as url:
        remote(url)
        assert datasets.load("far/away-v3").info.id == "far/away-v3"
    assert capfd.readouterr().err == (
        f"rlssm: dataset far/away-v3 is not in {datasets_root}: asking Minari's server\n"
    )


def test_without_a_network_it_is_given_up_at_once(remote, monkeypatch, datasets_root, capfd):
    monkeypatch.setattr(minari, "download_dataset", lambda _: pytest.fail("was asked"))
    remote("http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        datasets.load("pendulum/medum-v0")
    assert str(caught.value) == (
        f"dataset pendulum/medum-v0 is not in {datasets_root}, and http://127.0.0.1:9, where it "
        f"might be, does not answer; perhaps 'pendulum/medium-v0' was meant; {REMEDY}"
    )
    assert capfd.readouterr() == ("", "")


def test_a_server_that_never_answers_is_not_waited_for(remote, monkeypatch):
    monkeypatch.setattr(datasets, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(UserError, match="does not answer"):
            datasets.load("far/away-v3")
        assert time.monotonic() - started < 5


def test_a_dataset_the_server_lacks_is_one_sentence(remote, monkeypatch, datasets_root):
    def fail(wanted):
        raise ValueError("Couldn't find any version")

    monkeypatch.setattr(minari, "download_dataset", fail)
    with server(200) as url:
        remote(url)
        with pytest.raises(UserError) as caught:
            datasets.load("qq/zz-v3", progress=False)
    assert str(caught.value) == (
        f"dataset qq/zz-v3 is not in {datasets_root}, and could not be downloaded (Couldn't find "
        f"any version); check the id and the network, or copy the dataset there; {REMEDY}"
    )
    assert minari_store.local_ids() == []


def test_a_missing_client_is_named_without_asking(monkeypatch):
    def fail(wanted):
        raise ImportError("huggingface_hub is not installed")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(UserError, match=r"install it with: pip install 'minari\[hf\]'; without"):
        datasets.load("qq/zz-v3")


# --- Use --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "found"),
    [
        (None, None),
        ("Pendulum-v1", "Pendulum-v1"),
        ("Hopper-v5", "gym/Hopper-v5"),
        ("CartPole-v1", "gym/CartPole-v1"),
        ("AdroitHandDoor-v1", "gym/AdroitHandDoor-v1"),
        ("RepeatFirstEasy", "RepeatFirstEasy"),
        ("MemoryChain-7", "MemoryChain-7"),
        ("Catch-bsuite", "Catch-bsuite"),
    ],
)
def test_environments_of_datasets(env, found):
    assert datasets.environment(make_info(env=env)) == found


def test_an_environment_made_with_other_arguments_is_not_taken_for_the_plain_one():
    plain = replace(make_info(env="Hopper-v5"), env_arguments='{"render_mode": "human"}')
    assert datasets.environment(plain) == "gym/Hopper-v5"
    with pytest.raises(UserError) as caught:
        datasets.environment(replace(plain, env_arguments='{"ctrl_cost_weight": 0.5}'))
    assert str(caught.value) == (
        'dataset aa/b-v0 is from Hopper-v5 made with {"ctrl_cost_weight": 0.5}, its id alone makes '
        "it with {}; name one like it with env, as module:factory"
    )


@dataclass(frozen=True)
class Shown(ConstantReward):
    """An environment of any spaces, in no units of its own."""

    shown: Spec = Spec(Box((3,)), Box((1,)))

    @property
    def spec(self) -> Spec:
        return self.shown


@pytest.mark.parametrize("env", ["Pendulum-v1", "gym/Pendulum-v1"])
def test_actions_in_other_units_do_not_fit(env):
    fits = make_dataset().info
    hidden = registry.make(registry.EnvConfig(env, noise=0.1))
    datasets.check_fits(fits, hidden)
    with pytest.raises(UserError) as caught:
        datasets.check_fits(replace(fits, action_bounds=((-1.0,), (1.0,))), hidden)
    assert str(caught.value) == (
        "dataset aa/b-v0 does not fit the environment: its actions are from [-1.0] to [1.0], the "
        "environment's from [-2.0] to [2.0]"
    )


def test_what_fits_and_what_does_not():
    info = make_info()
    datasets.check_fits(make_dataset().info, registry.make("Pendulum-v1"))
    datasets.check_fits(info, Shown(shown=Spec(Box((3,)), Box((1,)), 99, truncates=False)))
    floats, one = Box((3,)), Box((1,))
    for obs, action, name, ours, theirs in (
        (Box((2,)), one, "observations", "float32[3]", "float32[2]"),
        (Box((3,), "uint8"), one, "observations", "float32[3]", "uint8[3]"),
        (Discrete(3), one, "observations", "float32[3]", "one of 3"),
        (floats, Box((2,)), "actions", "float32[1]", "float32[2]"),
        (floats, Discrete(4), "actions", "float32[1]", "one of 4"),
    ):
        with pytest.raises(UserError) as caught:
            datasets.check_fits(info, Shown(shown=Spec(obs, action)))
        assert str(caught.value) == (
            f"dataset aa/b-v0 does not fit the environment: its {name} are {ours}, the "
            f"environment's are {theirs}"
        )


HERE = registry.EnvConfig("Pendulum-v1")


def test_summary_is_json_and_names_its_reference():
    found = datasets.summary(make_dataset(), HERE)
    assert json.loads(json.dumps(found)) == found == {
        "id": "aa/b-v0", "env": "Pendulum-v1", "steps": 4, "episodes": 2, "terminated": 1,
        "return_mean": 2.0, "return_min": 1.0, "return_max": 3.0,
        "reference": {"low": -3.0, "high": 7.0, "source": "measured"},
        "provenance": {"author": "somebody"},
    }  # fmt: skip
    assert datasets.summary(make_dataset(reference=None), HERE)["reference"] is None
    borrowed = datasets.summary(make_dataset("hopper/x-v0", reference=None), HERE)["reference"]
    assert borrowed["source"].startswith(f"{D4RL_SOURCE} borrowed")


@pytest.mark.parametrize(
    ("env", "compares"),
    [
        (HERE, True),
        (replace(HERE, id="gym/Pendulum-v1", hide=(2,), time_limit=5), True),
        (replace(HERE, time_limit=4), False),
        (replace(HERE, dynamics=DynamicsConfig(gravity=2.0)), False),
        (replace(HERE, id="MountainCarContinuous-v0"), False),
    ],
)
def test_there_are_no_scores_for_another_task(env, compares):
    assert (datasets.summary(make_dataset(), env)["reference"] is not None) == compares
