"""Every kind of bad file ends in one sentence that names dataset, episode and field."""

import json

import h5py
import numpy as np
import pytest
from small_datasets import contents, edit_metadata, make_dataset

from rlssm.data.check import check
from rlssm.data.minari_io import load, read, write
from rlssm.errors import UserError

GET_AGAIN = "the file is truncated or damaged: get it again"
MEND = "remove the episode or mend the file"


def replace(file, path, values) -> None:
    del file[path]
    file[path] = values


def put(path, index, value):
    def edit(file):
        file[path][index] = value

    return edit


def changed(path, change):
    return lambda file: replace(file, path, change(file[path][()]))


def empty_episode(file) -> None:
    for path in ("rewards", "actions", "terminations", "truncations"):
        replace(file, f"episode_1/{path}", file[f"episode_1/{path}"][:0])
    replace(file, "episode_1/observations", file["episode_1/observations"][:1])


def single_step(file) -> None:
    for path in ("rewards", "actions", "terminations", "truncations"):
        replace(file, f"episode_1/{path}", file[f"episode_1/{path}"][-1:])
    replace(file, "episode_1/observations", file["episode_1/observations"][-2:])


def without_ends(file) -> None:
    for episode in file.values():
        for path in ("terminations", "truncations"):
            episode[path][:] = False


def far_more_than_there_is(file) -> None:
    del file["episode_0/observations"]
    shape, chunks = (2**40, 3), (1024, 3)
    file.create_dataset("episode_0/observations", shape=shape, dtype="f4", chunks=chunks)


def never_written(file) -> None:
    del file["episode_2/rewards"]
    file.create_dataset("episode_2/rewards", shape=(7,), dtype="f4", chunks=(4,))[:4] = 1


# The dataset has episodes of 4, 2 and 7 steps, observations [3], actions [2] in ±0.4 and ±3.
BAD_FILES = [
    (put("episode_2/observations", (3, 1), np.nan), 13,
     f", episode 2, step 3: observations is nan; {MEND}"),
    (put("episode_1/observations", (2, 0), -np.inf), 13,
     f", episode 1, step 2: observations is -inf; {MEND}"),
    (put("episode_0/rewards", 0, np.inf), 13, f", episode 0, step 0: rewards is inf; {MEND}"),
    (changed("episode_0/rewards", lambda x: x.astype(float) + 1e300), 13,
     f", episode 0, step 0: rewards is inf; {MEND}"),
    (put("episode_0/actions", (1, 0), np.nan), 13,
     f", episode 0, step 1: actions is nan; {MEND}"),
    (put("episode_2/actions", (6, 1), 3.5), 13,
     f", episode 2, step 6: actions[1] is 3.5, outside [-3, 3]; {MEND}"),
    (put("episode_2/actions", (6, 0), -0.401), 13,
     f", episode 2, step 6: actions[0] is -0.401, outside [-0.4, 0.4]; {MEND}"),
    (changed("episode_1/observations", lambda x: x[:, :2]), 13,
     ": episode 1: observations has shape (3, 2), (3, 3) is expected"),
    (changed("episode_1/observations", lambda x: x[:-1]), 13,
     ": episode 1: observations has shape (2, 3), (3, 3) is expected"),
    (changed("episode_2/actions", lambda x: x[:-1]), 13,
     ": episode 2: actions has shape (6, 2), (7, 2) is expected"),
    (changed("episode_2/truncations", lambda x: x[:, None]), 13,
     ": episode 2: truncations has shape (7, 1), (7,) is expected"),
    (changed("episode_2/terminations", lambda x: x.astype(float)), 13,
     ": episode 2: terminations has dtype float64, bool is expected"),
    (changed("episode_0/observations", lambda x: x.astype("S4")), 13,
     ": episode 0: observations has dtype |S4, numbers are expected"),
    (changed("episode_0/rewards", lambda x: x.astype(complex)), 13,
     ": episode 0: rewards has dtype complex128, numbers are expected"),
    (changed("episode_0/rewards", lambda x: x > 0), 13,
     ": episode 0: rewards has dtype bool, numbers are expected"),
    (lambda file: file.pop("episode_1/terminations"), 13,
     ": episode 1: terminations is missing"),
    (lambda file: file.pop("episode_1"), 13,
     ": metadata.json promises 3 episodes, the data hold 2"),
    (lambda file: file.move("episode_1", "episode_7"), 13,
     ": episode 1: rewards is missing"),
    (empty_episode, 11, f", episode 1: rewards has 0 steps, at least 2 are needed; {MEND}"),
    (single_step, 12, f", episode 1: rewards has 1 step, at least 2 are needed; {MEND}"),
    (single_step, 13, ": metadata.json promises 13 steps, rewards has 12"),
    (without_ends, 13,
     ", episode 0, step 3: neither terminations nor truncations is True at the last step; mark "
     "how the episode ended"),
    (put("episode_2/terminations", 4, True), 13,
     ", episode 2, step 4: terminations is True before the last step; split the episode there"),
    (put("episode_2/truncations", 0, True), 13,
     ", episode 2, step 0: truncations is True before the last step; split the episode there"),
    (far_more_than_there_is, 13,
     ": episode 0: observations has shape (1099511627776, 3), more than the file holds"),
    (never_written, 13, ": episode 2: rewards has shape (7,), more than the file holds"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "steps", "sentence"), BAD_FILES)
def test_bad_values_and_shapes_are_named(damage, steps, sentence):
    folder = write(make_dataset())
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        damage(file)
    edit_metadata(folder, total_steps=steps)
    before = contents(folder)
    for use in (read, load):
        with pytest.raises(UserError) as caught:
            use("box/test-v0")
        assert str(caught.value) == f"dataset box/test-v0{sentence}"
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("episode_1/observations/goal/y", 3, "observations/goal/y is 3, outside [0, 2]"),
        ("episode_1/actions", -1, "actions is -1, outside [0, 2]"),
        ("episode_1/actions", 2**32, "actions is 4294967296, outside [0, 2]"),
    ],
)
def test_choices_that_do_not_exist_are_named(path, value, sentence):
    folder = write(make_dataset("dict", discrete=True))
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        replace(file, path, file[path][()].astype(np.int64))
        file[path][0] = value
    edit_metadata(folder)
    with pytest.raises(UserError) as caught:
        read("box/test-v0")
    assert str(caught.value) == f"dataset box/test-v0, episode 1, step 0: {sentence}; {MEND}"


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_a_truncated_file_is_named(data_format):
    folder = write(make_dataset(), data_format)
    edit_metadata(folder)
    file = max((folder / "data").rglob("*"), key=lambda f: f.stat().st_size * f.is_file())
    file.write_bytes(file.read_bytes()[:-1000])
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        read("box/test-v0")
    what = "main_data.hdf5" if data_format == "hdf5" else "episode 2: rewards"
    assert str(caught.value).startswith(f"dataset box/test-v0: {what} cannot be read (")
    assert str(caught.value).endswith(f"); {GET_AGAIN}")
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}
BAD_METADATA = [
    ({"total_steps": "13"}, "total_steps in metadata.json must be a number from 1 on, got 13"),
    ({"total_episodes": 0}, "total_episodes in metadata.json must be a number from 1 on, got 0"),
    ({"total_episodes": 4}, "metadata.json promises 4 episodes, the data hold 3"),
    ({"data_format": "hdf6"},
     "unknown data_format 'hdf6', perhaps 'hdf5' was meant; known: arrow, hdf5, parquet"),
    ({"observation_space": 3}, "observation_space is not a space in JSON"),
    ({"observation_space": "{"}, "observation_space is not a space in JSON"),
    ({"observation_space": json.dumps({"type": "Box", "shape": [3]})},
     "observation_space is a damaged Box space"),
    ({"observation_space": json.dumps({**BOX, "low": [2, 2]})},
     "observation_space is a damaged Box space"),
    ({"observation_space": json.dumps({"type": "Tuple", "subspaces": []})},
     "observation_space is a 'Tuple' space, which cannot be served; use Box, Discrete or Dict"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": {"a/b": BOX}})},
     "observation_space has a part called 'a/b'; a name needs letters and no '/'"),
    ({"observation_space": json.dumps({"type": "Dict", "subspaces": {"a": {"type": "Text"}}})},
     "observation_space has no part that can be served; use Box, Discrete or Dict"),
    ({"observation_space": json.dumps(BOX)},
     "episode 0: observations has shape (5, 3), (5, 2) is expected"),
    ({"action_space": json.dumps({**BOX, "high": [1, float("inf")]})},
     "action_space cannot be served; use Discrete or a Box of bounded real numbers"),
    ({"action_space": json.dumps({"type": "Dict", "subspaces": {"a": BOX}})},
     "action_space cannot be served; use Discrete or a Box of bounded real numbers"),
    ({"action_space": json.dumps({"type": "Discrete", "n": 2, "start": 0})},
     "episode 0: actions has shape (4, 2), (4,) is expected"),
    ({"ref_max_score": None},
     "ref_min_score and ref_max_score in metadata.json must be two numbers, the smaller first, "
     "got -1200.0 and None"),
    ({"ref_min_score": 7}, "ref_min_score and ref_max_score in metadata.json must be two numbers, "
     "the smaller first, got 7 and -150.5"),
    ({"author": 3}, "author in metadata.json must be text, got 3"),
    ({"rlssm": []}, "rlssm in metadata.json is damaged"),
    ({"rlssm": {"env": 3}}, "env_spec in metadata.json is damaged"),
    ({"rlssm": {"provenance": 3}}, "provenance in metadata.json is damaged"),
    ({"rlssm": {"transforms": [3]}}, "transforms in metadata.json is damaged"),
    ({"rlssm": {"reference_source": 3}}, "reference_source in metadata.json is damaged"),
    ({"rlssm": None, "env_spec": "["}, "env_spec in metadata.json is damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "sentence"), BAD_METADATA)
def test_bad_metadata_is_named(entries, sentence):
    folder = write(make_dataset())
    edit_metadata(folder, **entries)
    with pytest.raises(UserError) as caught:
        read("box/test-v0")
    assert str(caught.value) == f"dataset box/test-v0: {sentence}"


def test_missing_and_broken_metadata_is_named():
    path = write(make_dataset()) / "data" / "metadata.json"
    for text in (b"", b"[]", b"\xff", b"{" * 100_000):
        path.write_bytes(text)
        with pytest.raises(UserError) as caught:
            read("box/test-v0")
        assert str(caught.value) == (
            "dataset box/test-v0: metadata.json is not a JSON object; get it again"
        )
    path.unlink()
    with pytest.raises(UserError) as caught:
        read("box/test-v0")
    assert str(caught.value) == (
        "dataset box/test-v0: metadata.json cannot be read (No such file or directory); get it "
        "again"
    )


@pytest.mark.parametrize(("name", "what"), [("main_data.hdf5", "its data"), ("metadata.json",) * 2])
def test_a_change_since_it_was_written_is_found(name, what):
    path = write(make_dataset()) / "data" / name
    text = path.read_bytes()
    changed = text.replace(b"SAC", b"SAD") if name == "metadata.json" else text[:-1] + b"\x01"
    path.write_bytes(changed)
    with pytest.raises(UserError) as caught:
        read("box/test-v0")
    assert str(caught.value) == (
        f"dataset box/test-v0: {what} changed since it was written: make or get it again, or "
        "remove 'rlssm_checksums' from metadata.json if the change was meant"
    )


def test_nothing_unsound_is_written(datasets_root):
    dataset = make_dataset()
    broken = dataset.replace(reward=np.where(np.arange(13) == 5, np.nan, dataset.reward))
    with pytest.raises(UserError) as caught:
        write(broken)
    assert str(caught.value) == f"dataset box/test-v0, episode 1, step 1: rewards is nan; {MEND}"
    assert not datasets_root.exists()


@pytest.mark.parametrize(
    ("field", "change", "sentence"),
    [
        ("obs", lambda x: x[:, :2],
         "observations has shape (16, 2) and dtype float32, (16, 3) and float32 are expected"),
        ("obs", lambda x: x[:-1],
         "observations has shape (15, 3) and dtype float32, (16, 3) and float32 are expected"),
        ("action", lambda x: x.astype(float),
         "actions has shape (13, 2) and dtype float64, (13, 2) and float32 are expected"),
        ("terminated", lambda x: x * 1,
         "terminations has shape (13,) and dtype int64, (13,) and bool are expected"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_their_spaces_are_named(field, change, sentence):
    dataset = make_dataset()
    with pytest.raises(UserError) as caught:
        check(dataset.replace(**{field: change(getattr(dataset, field))}))
    assert str(caught.value) == f"dataset box/test-v0: {sentence}"


def test_spaces_nested_too_deeply_are_refused():
    folder = write(make_dataset())
    for depth in (300, 600, 20_000):
        opening, closing = '{"type": "Dict", "subspaces": {"a": ', "}}"
        edit_metadata(folder, observation_space=opening * depth + "0" + closing * depth)
        with pytest.raises(UserError, match="^dataset box/test-v0: observation_space.* is "):
            read("box/test-v0")


def test_both_flags_at_the_end_are_sound():
    dataset = make_dataset()
    check(dataset.replace(truncated=dataset.truncated | dataset.terminated))


@pytest.mark.parametrize(
    ("obs", "dtype", "sentence"),
    [
        ("discrete", "f8", "observations has dtype float64, integers are expected"),
        ("image", "i8", "observations has dtype int64, uint8 is expected"),
        ("flags", "u1", "observations has dtype uint8, bool is expected"),
    ],
)
def test_values_of_another_kind_are_named(obs, dtype, sentence):
    folder = write(make_dataset(obs))
    with h5py.File(folder / "data" / "main_data.hdf5", "r+") as file:
        changed("episode_2/observations", lambda x: x.astype(dtype))(file)
    edit_metadata(folder)
    with pytest.raises(UserError) as caught:
        read("box/test-v0")
    assert str(caught.value) == f"dataset box/test-v0: episode 2: {sentence}"
