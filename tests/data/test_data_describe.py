"""What a dataset is said to hold, in words and as a picture, and the commands that say it."""

import numpy as np
import pytest
from PIL import Image
from small_datasets import make_dataset
from test_data_d4rl import make_columns, save

from rlssm.cli.data import data
from rlssm.data.dataset import to_episodes
from rlssm.data.describe import describe, picture, summarise
from rlssm.data.minari_io import read, write
from rlssm.errors import UserError


def whole_returns(dataset):
    """Give episodes the returns 1, 2, 3, all of it in the last step."""
    ends = dataset.terminated | dataset.truncated
    reward = np.where(ends, np.cumsum(ends), 0).astype(np.float32)
    return dataset.replace(reward=reward)


def test_summary_counts_each_episode():
    dataset = make_dataset()
    summary = summarise(dataset)
    totals = [episode.reward.astype(float).sum() for episode in to_episodes(dataset)]
    np.testing.assert_allclose(summary.returns, totals, rtol=1e-12)
    np.testing.assert_array_equal(summary.lengths, [4, 2, 7])
    assert summary.terminated == 2


DESCRIPTION = """\
box/test-v0: 13 steps in 3 episodes, 2 terminated, 1 truncated
  observations: float32[3]
  actions: float32[2], [-1, 1] stands for [-0.4, 0.4] [-3, 3]
  return: mean 2, min 1, 25 % 1.5, median 2, 75 % 2.5, max 3
  length: mean 4.33333, min 2, 25 % 3, median 4, 75 % 5.5, max 7
  mean return normalised: 114.5 by measured over 100 episodes
  environment: Pendulum-v1
  algorithm_name: SAC
  author: A. Person, B. Person
  seed: 3
  transform: reward * 2 + 1"""


def test_description_says_everything():
    assert describe(whole_returns(make_dataset())) == DESCRIPTION


def test_description_of_choices_and_dictionaries():
    lines = describe(make_dataset("dict", discrete=True)).splitlines()
    assert lines[1] == (
        "  observations: goal x float32[2], y one of 3, mask bool[2], position float32[3]"
    )
    assert lines[2] == "  actions: one of 3"


def test_describe_command_prints_and_draws(tmp_path, capsys, monkeypatch):
    write(whole_returns(make_dataset()))
    monkeypatch.chdir(tmp_path)
    data(["describe", "box/test"])
    assert capsys.readouterr().out == f"{DESCRIPTION}\nwrote box-test-v0.png\n"
    with Image.open("box-test-v0.png") as image:
        assert np.asarray(image.convert("L")).std() > 10  # something is drawn
    data(["describe", "box/test-v0", "--out", "there.svg"])
    assert (tmp_path / "there.svg").read_text().startswith("<?xml")


def test_pictures_of_equal_episodes_and_bad_paths(tmp_path):
    dataset = make_dataset(lengths=(3, 3))
    still = dataset.replace(reward=np.ones_like(dataset.reward))
    picture(tmp_path / "still.png", still)
    with pytest.raises(UserError, match="cannot write .*nowhere"):
        picture(tmp_path / "nowhere" / "a.png", dataset)


def test_import_command_says_what_became_of_the_file(tmp_path, datasets_root, capsys):
    columns = make_columns([(4, "terminal"), (1, "terminal"), (3, "timeout")], tail=2)
    path = save(tmp_path / "hopper_medium-v2.hdf5", columns)
    data(["import-d4rl", str(path), "--env", "Hopper-v5", "--max-episode-steps", "1000"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "d4rl/hopper-medium-v2: 6 steps in 2 episodes, 1 terminated, 1 truncated"
    assert lines[-4:] == [
        "  left out: 2 rows after the last end of an episode",
        "  left out: 1 last rows of timed-out episodes, whose successor is unknown",
        "  left out: 1 episodes of one step",
        f"wrote {datasets_root / 'd4rl/hopper-medium-v2'}",
    ]
    assert read("d4rl/hopper-medium").info.spec.max_episode_steps == 1000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["descrbe", "x"], "unknown data command 'descrbe', perhaps 'describe' was meant; known: "
         "describe, import-d4rl"),
        (["describe", "x-v0", "--outt", "y"], "unknown option '--outt', perhaps '--out' was meant"),
        (["import-d4rl", "nothing.hdf5"], "there is no file nothing.hdf5"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line_are_named(words, sentence):
    with pytest.raises(UserError) as caught:
        data(words)
    assert str(caught.value).startswith(sentence)


def test_help_names_the_commands(capsys):
    data([])
    assert "import-d4rl FILE" in capsys.readouterr().out
