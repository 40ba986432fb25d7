"""Minari datasets go in and out without a changed bit."""

import dataclasses
import subprocess
import sys

import jax
import minari
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from minari.namespace import list_local_namespaces
from small_datasets import BOUNDS, SPACES, assert_identical, edit_metadata, make_dataset

from rlssm.data import minari_io, minari_store
from rlssm.data.dataset import to_episodes
from rlssm.data.minari_io import load, read, write
from rlssm.data.spaces import from_unit, to_unit
from rlssm.errors import UserError
from rlssm.types import Box, DictSpace, Discrete

CASES = [
    *(("hdf5", kind, False) for kind in SPACES),
    ("hdf5", "box", True),
    *(("arrow", kind, False) for kind in ("box", "discrete", "dict", "image")),
    ("arrow", "box", True),
    ("parquet", "dict", False),
]


# --- There and back ---------------------------------------------------------------------------


@pytest.mark.parametrize(("data_format", "obs", "discrete"), CASES)
def test_what_is_written_is_read_to_the_last_bit(data_format, obs, discrete):
    dataset = make_dataset(obs, discrete=discrete)
    folder = write(dataset, data_format)
    assert folder == minari_store.root() / "box/test-v0"
    again = read("box/test-v0")
    assert again.info == dataset.info
    assert_identical(again, dataset)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_minari_itself_reads_what_was_written(data_format):
    dataset = make_dataset("dict")
    write(dataset, data_format)
    theirs = minari.load_dataset("box/test-v0")
    assert theirs.total_steps == dataset.num_steps
    assert theirs.env_spec.id == "Pendulum-v1"
    assert minari.list_local_datasets().keys() == {"box/test-v0"}
    assert "box" in list_local_namespaces()
    assert minari.get_normalized_score(theirs, -150.5) == 1.0
    half = np.array(BOUNDS[1])
    for ours, episode in zip(to_episodes(dataset), theirs.iterate_episodes(), strict=True):
        theirs_obs = jax.tree.map(  # Arrow files hold choices as int64
            lambda x: x.astype(np.int32) if x.dtype == np.int64 else x, episode.observations
        )
        assert_identical(theirs_obs, ours.obs)
        np.testing.assert_array_equal(episode.actions, ours.action.astype(np.float64) * half)
        assert_identical(episode.rewards, ours.reward)
        assert_identical(episode.terminations, ours.terminated)
        assert_identical(episode.truncations, ours.truncated)
        assert all(map(theirs.action_space.contains, episode.actions))


def test_load_gives_device_arrays_and_finds_the_newest_version():
    for version in (0, 2, 10):
        write(make_dataset(seed=version, dataset_id=f"box/test-v{version}"))
    loaded = load("box/test")
    assert loaded.info.id == "box/test-v10"
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert_identical(loaded, make_dataset(seed=10, dataset_id="box/test-v10"))
    assert_identical(load("box/test-v2"), make_dataset(seed=2, dataset_id="box/test-v2"))


unit_actions = arrays(
    np.float32, (6, 1), elements=st.floats(-1, 1, width=32, allow_subnormal=False)
)


@given(unit_actions, st.floats(1e-3, 1e3))
def test_actions_survive_any_symmetric_bounds(action, bound):
    low, high = np.array([-bound]), np.array([bound])
    stored = from_unit(action, low, high)
    assert np.all(np.abs(stored) <= bound)
    np.testing.assert_array_equal(to_unit(stored, low, high).astype(np.float32), action)


def test_actions_are_scaled_from_centre_and_half_width():
    low, high = np.array([-2.0, 0.0]), np.array([2.0, 1.0])
    stored = np.array([[2.0, 0.0], [-1.0, 0.75], [0.0, 0.5]])
    np.testing.assert_array_equal(
        to_unit(stored, low, high), [[1.0, -1.0], [-0.5, 0.5], [0.0, 0.0]]
    )
    assert from_unit(np.float32([[0.3, -0.7]]), low, high).dtype == np.float32


# --- Datasets that Minari made ----------------------------------------------------------------


def _by_minari(root, observation_space, action_space, observations, actions, **options):
    path = root / "theirs-v0" / "data"
    path.parent.mkdir(parents=True)
    storage = MinariStorage.new(path, observation_space, action_space, **options)
    steps = len(actions)
    ends = np.arange(steps) == steps - 1
    rewards = np.arange(steps) / 8
    flags = {"terminations": ends, "truncations": ~ends & False}
    storage.update_metadata({"dataset_id": "theirs-v0", "minari_version": minari.__version__})
    storage.update_episodes(
        [EpisodeBuffer(observations=observations, actions=actions, rewards=rewards, **flags)]
    )


def test_float64_choices_from_one_and_text_are_taken_in(datasets_root):
    from gymnasium import spaces

    observation_space = spaces.Dict(
        {
            "z": spaces.Discrete(4, start=2),
            "a": spaces.Box(-1, 1, (2,), np.float64),
            "mission": spaces.Text(9),
        }
    )
    observations = {
        "z": np.array([2, 5, 3]),
        "a": np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]),
        "mission": ["go", "go", "stop"],
    }
    actions = np.array([1, 3])
    _by_minari(datasets_root, observation_space, spaces.Discrete(3, start=1), observations, actions)
    dataset = read("theirs-v0")
    assert dataset.info.spec.obs == DictSpace((("a", Box((2,))), ("z", Discrete(4))))
    assert dataset.info.spec.action == Discrete(3)
    assert dataset.info.transforms == ("observation_space/mission left out",)
    assert_identical(dataset.obs["a"], observations["a"].astype(np.float32))
    assert_identical(dataset.obs["z"], np.int32([0, 3, 1]))
    assert_identical(dataset.action, np.int32([0, 2]))
    assert_identical(dataset.reward, np.float32([0, 0.125]))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_jpeg_images_are_read_as_minari_reads_them(datasets_root, data_format):
    from gymnasium import spaces

    space = spaces.Box(0, 255, (40, 32, 3), np.uint8)
    images = np.random.default_rng(0).integers(256, size=(3, 40, 32, 3)).astype(np.uint8)
    box = spaces.Box(-1, 1, (1,), np.float32)
    _by_minari(
        datasets_root, space, box, images, np.zeros((2, 1), np.float32), data_format=data_format
    )
    expected = minari.load_dataset("theirs-v0")[0].observations
    assert not np.array_equal(expected, images)  # JPEG loses something
    assert_identical(read("theirs-v0").obs, expected)


def test_actions_a_rounding_error_outside_their_bounds_are_taken_to_the_bounds(datasets_root):
    from gymnasium import spaces

    box = spaces.Box(-1, 1, (1,), np.float32)
    actions = np.float32([[1 + 5e-6], [-1 - 5e-6]])
    _by_minari(datasets_root, box, box, np.zeros((3, 1), np.float32), actions)
    assert_identical(read("theirs-v0").action, np.float32([[1], [-1]]))


def test_the_environment_and_reference_of_minari_metadata_are_kept():
    spec = '{"id": "Hopper-v5", "max_episode_steps": 1000, "entry_point": "nowhere:Nothing"}'
    folder = write(make_dataset())
    edit_metadata(folder, rlssm=None, env_spec=spec)
    info = read("box/test-v0").info
    assert (info.env, info.spec.max_episode_steps) == ("Hopper-v5", 1000)
    assert info.reference == (-1200.0, -150.5, "Minari metadata of box/test-v0")
    assert info.provenance == (("algorithm_name", "SAC"), ("author", "A. Person, B. Person"))


# --- Ids, writing, downloading ----------------------------------------------------------------


def test_unknown_ids_name_the_nearest(datasets_root):
    with pytest.raises(UserError) as none:
        read("box/test-v0")
    write(make_dataset())
    write(make_dataset(dataset_id="other/set-v1"))
    with pytest.raises(UserError) as typo:
        read("box/tset-v0")
    assert str(none.value) == (
        f"unknown dataset 'box/test-v0': there is none in {datasets_root}; make, import or "
        "download it"
    )
    assert str(typo.value) == (
        "unknown dataset 'box/tset-v0', perhaps 'box/test-v0' was meant; known: box/test-v0, "
        f"other/set-v1; looked in {datasets_root}"
    )


@pytest.mark.parametrize(
    "name", ["", "../etc-v0", "a b-v0", "x/y-v0", "/abs-v0", "a//b-v0", "é-v0"]
)
def test_malformed_ids_are_refused(name):
    for use in (read, minari_store.download, lambda _: write(make_dataset(dataset_id=name))):
        with pytest.raises(UserError) as caught:
            use(name)
        assert str(caught.value) == (
            "dataset id must be words of letters, digits, '-' and '_' with '/' between them (two "
            "characters or more before the last '/') and a version, such as D4RL/door/human-v2, "
            f"got {name!r}"
        )


def test_writing_never_overwrites_and_leaves_nothing_half_done(datasets_root, monkeypatch):
    folder = write(make_dataset())
    with pytest.raises(UserError) as taken:
        write(make_dataset(seed=1))
    with pytest.raises(UserError) as unversioned:
        write(make_dataset(dataset_id="box/test"))
    with pytest.raises(UserError) as unknown:
        write(make_dataset(dataset_id="box/test-v1"), "hdf")
    assert str(taken.value) == (
        f"dataset box/test-v0 is taken; choose another id or remove {folder}"
    )
    assert str(unversioned.value) == "dataset id box/test needs a version, such as box/test-v0"
    assert str(unknown.value).startswith("unknown data_format 'hdf', perhaps 'hdf5' was meant")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(minari_io, "_write_data", full)
    with pytest.raises(UserError, match="cannot write .*box/test-v1: No space left on device"):
        write(make_dataset(dataset_id="box/test-v1"))
    assert minari_store.local_ids() == ["box/test-v0"]
    assert not list(datasets_root.glob(".*"))
    assert_identical(read("box/test-v0"), make_dataset())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ImportError("huggingface_hub"),
            "dataset aa/b-v0 is not in {root}, and downloading it needs huggingface_hub; install "
            "it with: pip install 'minari[hf]'",
        ),
        (
            ConnectionError("[Errno -3] Temporary failure in name resolution"),
            "dataset aa/b-v0 is not in {root}, and could not be downloaded ([Errno -3] Temporary "
            "failure in name resolution); check the id and the network, or copy the dataset there",
        ),
        (
            ValueError("Couldn't find any version for dataset aa/b in the remote Farama server."),
            "dataset aa/b-v0 is not in {root}, and could not be downloaded (Couldn't find any "
            "version for dataset aa/b in the remote Farama server.); check the id and the network, "
            "or copy the dataset there",
        ),
    ],
)
def test_a_failed_download_is_one_sentence_and_leaves_nothing(
    datasets_root, monkeypatch, error, sentence
):
    def fail(dataset_id):
        (datasets_root / dataset_id / "data").mkdir(parents=True)
        raise error

    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(UserError) as caught:
        load("aa/b-v0", download=True)
    assert str(caught.value) == sentence.format(root=datasets_root)
    assert minari_store.local_ids() == []


def test_download_is_for_what_is_missing_only(monkeypatch):
    fetched = []

    def fetch(dataset_id):
        fetched.append(dataset_id)
        write(make_dataset(dataset_id=dataset_id))

    monkeypatch.setattr(minari, "download_dataset", fetch)
    assert load("aa/b-v0", download=True).info.id == "aa/b-v0"
    assert load("aa/b", download=True).info.id == "aa/b-v0"
    assert fetched == ["aa/b-v0"]
    with pytest.raises(UserError) as caught:
        load("aa/c", download=True)
    assert str(caught.value) == "downloading dataset aa/c needs a version, such as aa/c-v0"


def test_extras_are_not_part_of_the_file():
    dataset = make_dataset()
    with_extras = dataset.replace(extras={"weight": dataset.reward})
    write(with_extras)
    assert_identical(read("box/test-v0"), dataset)


def test_importing_the_package_is_light():
    heavy = "minari", "h5py", "pyarrow", "gymnasium", "matplotlib", "PIL"
    code = f"import sys, rlssm.data; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_info_is_static_and_hashable():
    dataset = make_dataset()
    twin = dataset.replace(info=dataclasses.replace(dataset.info))
    assert jax.tree.structure(dataset) == jax.tree.structure(twin)
    assert hash(dataset.info) == hash(twin.info)
