"""Raw D4RL files give the transitions that D4RL's own rules give."""

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_datasets import assert_identical

from rlssm.data.d4rl_io import import_d4rl, qlearning_transitions, read_d4rl
from rlssm.data.dataset import to_episodes, transitions
from rlssm.data.minari_io import read
from rlssm.data.scores import D4RL_SOURCE
from rlssm.errors import UserError

COLUMNS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


def make_columns(ends, *, successors=False, seed=0, tail=0):
    """Return the table of a file whose episodes have (length, how it ends), and `tail` more rows.

    How it ends is "terminal", "timeout" or "both".
    """
    rng = np.random.default_rng(seed)
    rows, finals = [], []
    terminals, timeouts = [], []
    for length, how in [*ends, (tail, "nothing")]:
        if not length:
            continue
        path = rng.normal(size=(length + 1, 3)).astype(np.float32)
        rows.append(path[:-1])
        finals.append(path[1:])
        last = np.arange(length) == length - 1
        terminals.append(last & (how in ("terminal", "both")))
        timeouts.append(last & (how in ("timeout", "both")))
    observations = np.concatenate(rows)
    count = len(observations)
    columns = {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": np.concatenate(terminals),
        "timeouts": np.concatenate(timeouts),
    }
    if successors:
        columns["next_observations"] = np.concatenate(finals)
    return columns


def save(path, columns, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, compression="gzip")
        for name, value in metadata.items():
            file[f"metadata/{name}"] = value
    return path


def by_d4rls_rules(columns, limit=None):
    """Walk through the rows as D4RL does: one transition for each row but the last.

    A row with a timeout is passed over. Where the file has no timeouts, a counter stands in for
    them: 0 in the first row and after a row that it passed over, else one more for each row, and
    1 after a terminal.
    """
    found, counter = [], 0
    for row in range(len(columns["rewards"]) - 1):
        cut = columns["timeouts"][row] if "timeouts" in columns else counter == limit - 1
        if cut:
            counter = 0
            continue
        terminal = columns["terminals"][row]
        counter = 1 if terminal else counter + 1
        found.append(
            {
                "obs": columns["observations"][row],
                "action": columns["actions"][row],
                "reward": columns["rewards"][row],
                "next_obs": columns["observations"][row + 1],
                "terminated": terminal,
            }
        )
    return found


def assert_transitions(
    found, expected, names=("obs", "action", "reward", "next_obs", "terminated")
):
    assert len(found.reward) == len(expected)
    for name in names:
        wanted = np.array([row[name] for row in expected])
        assert_identical(getattr(found, name), wanted)


episodes = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["terminal", "timeout", "both"])),
    min_size=1,
    max_size=6,
)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# --- D4RL's transitions -----------------------------------------------------------------------


@quick
@given(episodes, st.integers(0, 3), st.integers(0, 5))
def test_transitions_are_those_of_d4rl(tmp_path, ends, tail, seed):
    columns = make_columns(ends, tail=tail, seed=seed)
    file = read_d4rl(save(tmp_path / "a.hdf5", columns))
    found = qlearning_transitions(file)
    expected = by_d4rls_rules(columns)
    if expected:
        assert_transitions(found, expected)
    assert len(found.reward) == len(expected)
    assert not found.truncated.any()


@quick
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(2, 5))
def test_without_timeouts_d4rl_counts(tmp_path, lengths, limit):
    columns = make_columns([(n, "terminal") for n in lengths])
    del columns["timeouts"]
    file = read_d4rl(save(tmp_path / "a.hdf5", columns))
    found = qlearning_transitions(file, limit)
    expected = by_d4rls_rules(columns, limit)
    assert len(found.reward) == len(expected)
    if expected:
        assert_transitions(found, expected)


# --- Import -----------------------------------------------------------------------------------


@quick
@given(
    st.lists(
        st.tuples(st.integers(3, 6), st.sampled_from(["terminal", "timeout"])),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_an_imported_file_has_d4rls_transitions(tmp_path, ends, tail, seed):
    columns = make_columns(ends, tail=tail, seed=seed)
    path = save(tmp_path / f"{seed}" / "halfcheetah_medium-v2.hdf5", columns)
    imported = import_d4rl(path, f"d4rl/case{len(list(tmp_path.glob('datasets/d4rl/*')))}-v0")
    dataset = read(imported.dataset.info.id)
    assert_identical(dataset, imported.dataset)
    found = transitions(dataset, np.arange(dataset.num_steps))
    # D4RL drops the file's last row, and keeps rows of an episode that never ended.
    whole = {name: values[: len(values) - tail] for name, values in columns.items()}
    again = {name: np.concatenate([values, values[:1]]) for name, values in whole.items()}
    expected = by_d4rls_rules(again)
    assert_transitions(found, expected, ("obs", "action", "reward", "terminated"))
    ongoing = ~np.asarray(found.terminated)
    wanted = np.array([row["next_obs"] for row in expected])
    np.testing.assert_array_equal(np.asarray(found.next_obs)[ongoing], wanted[ongoing])
    assert imported.tail == tail
    assert imported.without_successor == sum(how == "timeout" for _, how in ends)
    assert imported.single == imported.displaced == 0


def test_with_next_observations_timed_out_steps_keep_their_successor(tmp_path):
    columns = make_columns([(4, "timeout"), (3, "terminal"), (2, "both")], successors=True, tail=2)
    imported = import_d4rl(save(tmp_path / "pen-human-v1.hdf5", columns))
    dataset = imported.dataset
    found = transitions(dataset, np.arange(9))
    for name, column in (
        ("obs", "observations"),
        ("next_obs", "next_observations"),
        ("action", "actions"),
        ("reward", "rewards"),
        ("terminated", "terminals"),
    ):
        assert_identical(getattr(found, name), columns[column][:9])
    np.testing.assert_array_equal(np.flatnonzero(found.truncated), [3])
    assert imported[1:] == (2, 0, 0, 0)


def test_episodes_of_one_step_are_left_out_and_counted(tmp_path):
    ends = [(1, "terminal"), (4, "terminal"), (2, "timeout"), (1, "timeout"), (3, "timeout")]
    imported = import_d4rl(save(tmp_path / "hopper-medium-v2.hdf5", make_columns(ends)))
    assert [len(episode.reward) for episode in to_episodes(imported.dataset)] == [4, 2]
    assert imported[1:] == (0, 3, 2, 0)


def test_without_timeouts_a_jump_is_the_end_of_an_episode(tmp_path):
    columns = make_columns([(4, "timeout"), (3, "terminal")], successors=True, tail=5)
    del columns["timeouts"]
    dataset = import_d4rl(save(tmp_path / "a.hdf5", columns)).dataset
    np.testing.assert_array_equal(dataset.start, [0, 4, 7])
    np.testing.assert_array_equal(np.flatnonzero(dataset.truncated), [3, 11])
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminated), [6])


def test_without_either_episodes_have_the_length_given(tmp_path):
    columns = make_columns([(5, "terminal"), (8, "timeout"), (8, "timeout")])
    del columns["timeouts"]
    path = save(tmp_path / "a.hdf5", columns)
    imported = import_d4rl(path, max_episode_steps=8)
    np.testing.assert_array_equal(imported.dataset.start, [0, 5, 12])
    assert imported.without_successor == 2
    assert imported.dataset.info.spec.max_episode_steps == 8
    for use in (
        lambda: import_d4rl(path, "d4rl/b-v0"),
        lambda: qlearning_transitions(read_d4rl(path)),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value) == (
            "D4RL file a.hdf5 does not say where episodes were cut; give max_episode_steps, the "
            "time limit of its task (1000 for locomotion)"
        )


def test_rows_that_do_not_follow_each_other_are_counted(tmp_path):
    columns = make_columns([(6, "timeout")], successors=True)
    columns["next_observations"][2] += 1
    imported = import_d4rl(save(tmp_path / "a.hdf5", columns))
    assert imported.displaced == 1
    np.testing.assert_array_equal(imported.dataset.obs[3], columns["observations"][3])


def test_columns_may_have_one_entry_and_flags_may_be_numbers(tmp_path):
    columns = make_columns([(4, "terminal"), (3, "timeout")])
    plain = read_d4rl(save(tmp_path / "a.hdf5", columns))
    columns["rewards"] = columns["rewards"][:, None].astype(np.float64)
    columns["terminals"] = columns["terminals"][:, None].astype(np.uint8)
    columns["timeouts"] = columns["timeouts"].astype(np.float32)
    again = read_d4rl(save(tmp_path / "b.hdf5", columns))
    for name in COLUMNS[:-1]:
        assert_identical(getattr(again, name), getattr(plain, name))


def test_what_is_known_of_a_file_goes_with_the_dataset(tmp_path):
    columns = make_columns([(4, "timeout")])
    columns["actions"] *= 2
    path = save(
        tmp_path / "halfcheetah_medium-v2.hdf5", columns, algorithm=np.bytes_("SAC"), iteration=3
    )
    import_d4rl(path, env="HalfCheetah-v5", action_bound=2.0)
    dataset = read("d4rl/halfcheetah-medium-v2")
    np.testing.assert_array_equal(dataset.action, columns["actions"][:3] / 2)
    assert dataset.info.action_bounds == ((-2.0, -2.0), (2.0, 2.0))
    assert dataset.info.env == "HalfCheetah-v5"
    assert dataset.info.reference == (-280.178953, 12135.0, D4RL_SOURCE)
    assert dataset.info.provenance == (
        ("d4rl_algorithm", "SAC"),
        ("d4rl_file", "halfcheetah_medium-v2.hdf5"),
        ("d4rl_iteration", "3"),
    )
    named = import_d4rl(
        save(tmp_path / "mine.hdf5", columns), task="pen-human-v1", action_bound=2.0
    )
    assert named.dataset.info.id == "d4rl/mine-v0"
    assert named.dataset.info.reference == (96.262799, 3076.8331017826877, D4RL_SOURCE)


# --- Bad files --------------------------------------------------------------------------------


def nan_at(name, row):
    def edit(columns):
        columns[name][row] = np.nan

    return edit


BAD_FILES = [
    (lambda c: c.pop("terminals"),
     ": terminals is missing; it needs observations, actions, rewards, terminals"),
    (nan_at("observations", 3), ": observations is nan at row 3; mend the file"),
    (nan_at("rewards", 0), ": rewards is nan at row 0; mend the file"),
    (nan_at("next_observations", 6), ": next_observations is nan at row 6; mend the file"),
    (lambda c: c.update(actions=c["actions"][:-1]),
     ": actions has shape (6, 2), (7, 2) is expected"),
    (lambda c: c.update(actions=c["actions"][:, 0]),
     ": observations has shape (7, 3) and actions (7,); (N, ...) and (N, A) are expected"),
    (lambda c: c.update(rewards=c["actions"]), ": rewards has shape (7, 2), (7,) is expected"),
    (lambda c: c.update(next_observations=c["actions"]),
     ": next_observations has shape (7, 2), (7, 3) is expected"),
    (lambda c: c.update(terminals=c["terminals"] * 2),
     ": terminals is 2 at row 3, not 0 or 1"),
    (lambda c: c.update(rewards=np.array([b"a"] * 7)),
     ": rewards has dtype |S1, numbers are expected"),
    (lambda c: c.update(terminals=c["terminals"] & False, timeouts=c["timeouts"] & False),
     ": no episode of 2 steps or more ends in terminals or timeouts"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "sentence"), BAD_FILES)
def test_bad_files_are_named_and_not_changed(tmp_path, datasets_root, damage, sentence):
    columns = make_columns([(4, "terminal"), (3, "timeout")], successors=True)
    damage(columns)
    path = save(tmp_path / "bad-v0.hdf5", columns)
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        import_d4rl(path)
    assert str(caught.value) == f"D4RL file bad-v0.hdf5{sentence}"
    assert path.read_bytes() == before
    assert not datasets_root.exists()


def test_actions_out_of_bounds_and_truncated_files_are_named(tmp_path):
    columns = make_columns([(4, "terminal"), (3, "timeout")])
    columns["actions"][1, 0] = 1.5
    path = save(tmp_path / "bad-v0.hdf5", columns)
    with pytest.raises(UserError) as caught:
        import_d4rl(path)
    assert str(caught.value) == (
        "dataset d4rl/bad-v0, episode 0, step 1: actions[0] is 1.5, outside [-1, 1]; remove the "
        "episode or mend the file"
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        import_d4rl(path)
    assert str(caught.value).startswith("D4RL file bad-v0.hdf5: its data cannot be read (")
    assert "\n" not in str(caught.value)
    missing = tmp_path / "nothing.hdf5"
    with pytest.raises(UserError) as caught:
        import_d4rl(missing)
    assert str(caught.value) == f"there is no file {missing}"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"action_bound": 0.0}, "action_bound must be positive, got 0.0"),
        ({"task": "hoper-v2"}, "task 'hoper-v2' has no D4RL constants; give a name such as "
         "hopper-medium-v2"),
        ({"max_episode_steps": 1}, "max_episode_steps must be at least 2, got 1"),
    ],
)  # fmt: skip
def test_bad_options_are_named(tmp_path, options, sentence):
    columns = make_columns([(4, "terminal")])
    del columns["timeouts"]
    with pytest.raises(UserError) as caught:
        import_d4rl(save(tmp_path / "a.hdf5", columns), **options)
    assert str(caught.value) == sentence
