"""`rlssm data make`, `score` and `rlssm list datasets`."""

import pytest
from command_line import files, mistake, rlssm

from rlssm.data import minari_io
from rlssm.data.describe import describe
from rlssm.data.minari_io import read, read_info
from rlssm.data.scores import normalise
from rlssm.train import policy_file
from rlssm.train.recipes import RECIPES

STEPS = ["--steps", "1000"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(policy_file, "FOLDER", tmp_path / "no-policies")
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a small `pendulum/medium`, and what making it printed."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("made")
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        done = rlssm("data", "make", "pendulum/medium", *STEPS)
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture
def medium(made, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made[0]))
    return made[0]


def test_make_says_what_it_made(medium, made):
    dataset = read("pendulum/medium")
    assert dataset.num_steps == 1000
    assert made[1].out == f"{describe(dataset)}\nwrote {medium / 'pendulum/medium-v0'}\n"
    assert made[1].err == ""
    assert "recipe: rlssm data make pendulum/medium --steps 1000 --seed 0" in made[1].out


def test_making_anew_must_be_asked_for(medium):
    before = files(medium)
    assert mistake("data", "make", "pendulum/medium-v0", *STEPS, "--seed", "3") == (
        f"dataset pendulum/medium-v0 is in {medium} already; --force True makes it anew"
    )
    assert files(medium) == before
    done = rlssm("data", "make", "pendulum/medium", *STEPS, "--force", "True")
    assert done.code == 0, done.err
    assert read_info("pendulum/medium").provenance[-2][1].endswith("--seed 0")


def test_scores_name_their_reference(medium):
    reference = read_info("pendulum/medium").reference
    done = rlssm("data", "score", "pendulum/medium", "-150", "-1.2e3")
    scores = ", ".join(f"{normalise(value, reference):.1f}" for value in (-150, -1200))
    assert done.code == 0
    assert done.out == (
        f"{scores} by {reference.source}: 0 is {reference.low:.6g}, 100 is {reference.high:.6g}\n"
    )


def test_scores_by_d4rls_names_need_no_dataset():
    assert rlssm("data", "score", "hopper-medium-v2", "3234.3").out == (
        "100.0 by D4RL constants (d4rl/infos.py): 0 is -20.2723, 100 is 3234.3\n"
    )


def test_a_dataset_without_reference_has_no_scores(medium, root, monkeypatch):
    dataset = read("pendulum/medium")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    info = dataset.info
    for name, env, count in (("mine/plain-v0", None, 0), ("mine/hop-v0", "Hopper-v5", 1)):
        changed = {"id": name, "env": env, "reference": None}
        minari_io.write(dataset.replace(info=type(info)(**{**vars(info), **changed})))
        done = rlssm("data", "score", name, "100")
        assert done.out.count("borrowed for Hopper-v5, not comparable with D4RL's") == count
    assert mistake("data", "score", "mine/plain", "3") == (
        "dataset mine/plain has no reference returns, and D4RL has none for its task"
    )


def test_list_shows_local_datasets_and_recipes(medium):
    lines = rlssm("list", "datasets").out.splitlines()
    assert lines[:2] == [f"datasets, in {medium}:", "  pendulum/medium-v0"]
    note = " (its policies do not ship yet)"
    listed = dict(line.strip().split(": ", 1) for line in lines[3:])
    assert {name: text.removesuffix(note) for name, text in listed.items()} == {
        name: recipe.text for name, recipe in RECIPES.items()
    }
    assert note in listed["hopper/medium"]
    assert note not in listed["hopper/random"] + listed["pendulum/medium"]


def test_list_without_any(root):
    assert rlssm("list", "datasets").out.startswith(f"datasets, in {root}:\n  none\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["make"], "NAME is missing; see rlssm data make --help"),
        (["make", "pendulum/medum"], "unknown recipe 'pendulum/medum', perhaps 'pendulum/medium'"),
        (["make", "pendulum/medium", "--steps", "ten"], "--steps does not take 'ten'; see rlssm"),
        (["make", "pendulum/medium", "--steps", "0"], "steps must be from 1 to 50000000, got 0"),
        (["make", "pendulum/medium", "--seed", "-1"], "seed must be from 0 to 2147483647, got -1"),
        (
            ["make", "hopper/medium"],
            "recipe hopper/medium needs trained policies for hopper, and none ship with this",
        ),
        (["score", "pendulum/medium"], "RETURN is missing; see rlssm data score --help"),
        (["score", "pendulum/medium", "x"], "RETURN does not take 'x'; see rlssm data score"),
        (["score", "hopper-medium-v2", "nan"], "RETURN must be finite, got nan"),
        (["score", "pendulum/medium", "3"], "dataset pendulum/medium is not in "),
        (["score", "pendulum/medum", "3"], "unknown dataset 'pendulum/medum', perhaps 'pendulum/"),
        (["describe", "pendulum/medium"], "dataset pendulum/medium is not in "),
        (["describe", "pendulum/medum-v0"], "unknown dataset 'pendulum/medum-v0', perhaps "),
        (["mak"], "unknown data command 'mak', perhaps 'make' was meant; known: describe, "),
    ],
)
def test_mistakes_are_one_sentence_and_make_nothing(root, words, sentence):
    assert mistake("data", *words).startswith(sentence)
    assert list(root.iterdir()) == []
