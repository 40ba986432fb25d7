"""`rlssm skills`, and `--skill` of the other commands, on one small run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import mistake, rlssm
from PIL import Image

from rlssm.io.export import load_exported
from rlssm.train.run import Run
from rlssm.train.skills import with_skill
from rlssm.types import Inputs, Previous

WORDS = [
    *("--env", "point/plane", "--env.time-limit", "6", "--preset", "point", "--seeds", "2"),
    *("--actor.hidden", "8", "--critic.hidden", "8", "--representation.hidden", "8"),
    *("--experience.num-envs", "4", "--experience.rollout-length", "6", "--experience.batch", "16"),
    *("--steps", "48", "--log-every", "24", "--eval-episodes", "2", "--final-episodes", "2"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return the run, and what `rlssm skills` printed of it."""
    path = tmp_path_factory.mktemp("skills") / "run"
    done = rlssm("train", "metra", *WORDS, "--out", path, "--quiet")
    assert done.code == 0, done.err
    done = rlssm("skills", path, "--count", 9, "--goals", 5, "--member", 1)
    assert done.code == 0, done.err
    return path, done.out


def test_skills_are_scored_by_member_and_drawn(found):
    path, out = found
    assert out.startswith("metra on point/plane, 9 skills, 5 goals\n  cells covered ")
    scores = json.loads((path / "plots" / "skills.json").read_text())
    assert [row["seed"] for row in scores["members"]] == [0, 1]
    for row in scores["members"]:
        near = row.pop("near_distance")  # of goals within reach, if there are any
        assert near is None if row["near"] == 0 else near >= 0
        assert np.isfinite(list(row.values())).all()
        assert 1 <= row["coverage"] <= 9 * 7 and 0 <= row["stay_3"] <= row["hit_3"] <= 1
    for name in ("skills.png", "representation.png"):
        assert np.asarray(Image.open(path / "plots" / name)).std() > 1
    gif = Image.open(path / "plots" / "skills.gif")
    assert (gif.n_frames, gif.size) == (7, (4 * 240, 2 * 160))


def test_a_skill_is_evaluated_rendered_and_exported_as_a_policy(found, tmp_path):
    path, _ = found
    returns = {}
    for skill in ("1,0", "-2,0"):
        words = ("--episodes", 2, "--skill", skill, "--out", tmp_path / "out.json")
        assert rlssm("evaluate", path, *words).code == 0
        returns[skill] = json.loads((tmp_path / "out.json").read_text())["episode_return"]
    assert returns["1,0"] != returns["-2,0"]
    assert rlssm("export", path, "--out", tmp_path / "drawn.zip").code == 0
    assert rlssm("render", path, "--skill", "0,1", "--out", tmp_path / "x.gif").code == 0
    done = rlssm("export", path, "--skill", "0,3", "--out", tmp_path / "policy.zip")
    assert done.code == 0, done.err
    file, run = load_exported(tmp_path / "policy.zip"), Run(path)
    obs, none, first = jnp.array([[0.2, -0.1]]), jnp.zeros((1, 2)), jnp.ones(1, bool)
    action, _ = file.greedy(obs, none, jnp.zeros(1), first, first, file.initial_carry(first))
    policy = with_skill(run.config.agent, run.env.spec, jnp.array([0.0, 1.0]))
    seen = Inputs(obs, Previous(none, jnp.zeros(1)), first)
    weights = run.member_params("best", 0)
    expected, _ = policy.act(weights, seen, first, (), jax.random.key(0), True)
    np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)


def test_mistakes_end_in_a_sentence(found, trained):
    path, _ = found
    assert mistake("skills", trained) == "ppo learns no skills"
    assert mistake("export", trained, "--skill", "1") == "ppo learns no skills"
    assert mistake("evaluate", path, "--skill", "1,2,3").startswith(
        "skill must be 2 numbers between commas, got '1,2,3'"
    )
    assert mistake("evaluate", path, "--skill", "north").startswith("skill must be 2 numbers")
    assert mistake("evaluate", path, "--skill", "0,0").startswith("skill must be a direction")
    assert mistake("skills", path, "--count", 0) == "count must be at least 1, got 0"
    assert mistake("skills", path, "--member", 2) == "member must be from 0 to 1, got 2"
    assert "mode" in mistake("skills", path, "--mode", "lost")


def test_actions_that_cannot_be_skills_are_refused_in_a_sentence(found, trained, tmp_path):
    path, _ = found
    words = ("train", "sac", "--env", "downstream/plane-goal", "--out", tmp_path / "run")
    said = mistake(*words, "--skills.run", trained)
    assert said == f"skills.run {trained}: ppo learns no skills; name a run that learnt some"
    said = mistake(*words, "--skills.run", path, "--skills.member", 2)
    assert said == "member must be from 0 to 1, got 2"
    said = mistake(*words, "--skills.run", path, "--skills.hold", 0)
    assert said.startswith("skills.hold must be at least 1, got 0")
    said = mistake(*words, "--skills.hold", 5)
    assert said.startswith("skills.run is missing; name the run whose skills are to be followed")
    pixels = ("train", "sac", "--env", "downstream/plane-goal-pixels", "--out", tmp_path / "run")
    said = mistake(*pixels, "--skills.run", path)
    assert said.startswith("skills.run learnt in point/plane, where observations are Box(shape=(2,")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_agent_acts_by_skills_from_the_command_line(found, tmp_path):
    path, _ = found
    done = rlssm(
        "train", "sac", "--env", "downstream/plane-goal", "--env.time-limit", "6", "--preset",
        "small", "--skills.run", path, "--skills.hold", "3", "--steps", "12", "--log-every", "6",
        "--experience.warmup", "4", "--experience.batch", "8", "--eval-episodes", "2",
        "--final-episodes", "2", "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert rlssm("evaluate", tmp_path / "run", "--episodes", 2).code == 0
