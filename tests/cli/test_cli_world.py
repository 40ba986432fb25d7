"""`rlssm world explore`, `learn`, `evaluate`, `plan` and `show`."""

import json

import pytest
from command_line import mistake, rlssm

from rlssm.cli import world
from rlssm.world_models import planning
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.law_json import load_model, save_model
from rlssm.world_models.likelihood import Model
from rlssm.world_models.oracle_laws import oracle_laws
from rlssm.world_models.scenarios import SCENARIOS

FEW = tuple(
    law for law in oracle_laws() if law.name in ("time passes", "cows wander", "tree leaves grass")
)


@pytest.fixture
def laws(tmp_path):
    """Return a file of three laws."""
    path = tmp_path / "laws.json"
    save_model(Model(CrafterView(), FEW, (2.0, 0.5, 1.0)), path)
    return path


def test_without_a_command_it_says_what_there_is():
    done = rlssm("world")
    assert done.code == 0 and done.out == world.USAGE + "\n" == rlssm("world", "--help").out
    assert mistake("world", "evalute", "oracle") == (
        "unknown world command 'evalute', perhaps 'evaluate' was meant; known: "
        "evaluate, explore, learn, plan, show"
    )


def test_a_life_is_lived_and_learned_from(tmp_path):
    life, model = tmp_path / "life.json", tmp_path / "laws.json"
    done = rlssm("world", "explore", life, "--steps", 40, "--seed", 3, "--quiet", "True")
    assert done.code == 0 and "40 steps, still alive" in done.out
    learned = rlssm("world", "learn", life, model)
    assert learned.code == 0 and "step_count: 1 laws" in learned.out
    laws = load_model(model, CrafterView()).laws
    assert f"{len(laws)} laws from 40 steps" in learned.out


def test_mistakes_in_living_and_learning_are_one_sentence(tmp_path):
    life, nowhere = tmp_path / "life.json", tmp_path / "no" / "laws.json"
    assert mistake("world", "explore", life, "--steps", 0) == "steps must be positive, got 0"
    assert mistake("world", "learn", life, nowhere) == (
        f"model must be a file in a folder that exists, got {str(nowhere)!r}"
    )
    life.write_text("{}")
    assert mistake("world", "learn", life, tmp_path / "laws.json") == (
        "life.json lacks 'format'; it needs format, version, start, actions"
    )
    half = ("--proposer-url", "http://localhost:1/v1")
    assert mistake("world", "learn", life, tmp_path / "laws.json", *half) == (
        "proposer-url and proposer-model must be given together"
    )


def test_evaluate_tables_every_scenario_and_writes_every_figure(laws, tmp_path):
    out = tmp_path / "figures.json"
    words = ("--scenarios", "success", "--trials", 1, "--quiet", "True", "--out", out)
    done = rlssm("world", "evaluate", laws, *words)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["scenario", "steps", "n", "R@1", "MRR", "edits"]
    assert [line[:34].rstrip() for line in lines[1:24]] == [
        scenario.id for scenario in SCENARIOS if scenario.variant != "failure"
    ]
    figures = json.loads(out.read_text())
    names = ["unfitted", "PoE-World", "null", "constant", "random", "true"]
    assert list(figures["contenders"]) == [str(laws), *names]
    true = figures["contenders"]["true"]
    assert true["overall"]["r_at_1"] == {"mean": 1, "deviation": 0, "low": 1, "high": 1}
    assert true["scenarios"]["collect_drink"]["edits"] == {"mean": 0, "deviation": 0}
    assert len(true["scenarios"]) == 23
    assert "  true        R@1 1.000 0.000 [1.000, 1.000]   MRR 1.000" in done.out
    assert done.out.endswith(f"wrote {out}\n")


def test_show_speaks_in_sentences_with_weights_and_counts(laws):
    done = rlssm("world", "show", laws)
    assert done.code == 0, done.err
    head, *lines = done.out.splitlines()
    assert head == "3 laws: weight, how often right of how often active, what it says"
    by_name = {line.split(maxsplit=2)[2].partition(":")[0]: line for line in lines}
    assert by_name["time passes"].startswith("  2.000 ")
    assert by_name["time passes"].endswith("for the world: world.step_count + 1")
    assert by_name["tree leaves grass"].endswith(
        "for the player, when the action is do and target.material == tree and target.object == "
        "none and player.sleeping == False: target.material becomes grass"
    )
    assert "1/1" in by_name["tree leaves grass"]  # of one run of every scenario, collect_wood
    cows = "self.displacement becomes stay (50 %), or a step left if it is free (12.5 %)"
    assert cows in by_name["cows wander"]


def test_show_gives_the_evidence_for_a_law(laws):
    done = rlssm("world", "show", laws, "--law", "tree leaves grass")
    assert done.code == 0, done.err
    assert "  weight 0.500, source handwritten\n" in done.out
    assert "  spoke 1 times in one run of every scenario\n" in done.out
    assert "  do: tile (6, 5) material tree -> grass, by the model " in done.out
    assert mistake("world", "show", laws, "--law", "tree leaves gras") == (
        "unknown law 'tree leaves gras', perhaps 'tree leaves grass' was meant; "
        "known: cows wander, time passes, tree leaves grass"
    )


def test_show_draws_states_and_what_will_change(laws, tmp_path):
    picture = tmp_path / "wood.png"
    done = rlssm("world", "show", laws, "--scenario", "collect_wood", "--out", picture)
    assert done.code == 0, done.err
    assert ". . . . . > T . .\n" in done.out and ". . . . . > . . .\n" in done.out
    assert "  tile (6, 5) material: tree -> grass 9" in done.out
    assert "  world step_count: 0 -> 1 100 %" in done.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert mistake("world", "show", laws, "--out", picture) == (
        f"out must be given together with scenario, got '{picture}'"
    )
    wrong = tmp_path / "wood.gif"
    words = ("--scenario", "collect_wood", "--out", wrong)
    assert mistake("world", "show", laws, *words) == f"out must be a .png file, got '{wrong}'"


def test_plan_compares_model_and_truth(laws, monkeypatch):
    def in_turn(seed, states, actions):
        return [transition(state, action)[0] for state, action in zip(states, actions, strict=True)]

    # The compiled world is not what this is about.
    monkeypatch.setattr(planning, "true_dynamics", lambda: planning.Dynamics(list, in_turn, list))
    words = ("--reference", "True", "--rollouts", 4, "--task", "sword maker", "--quiet", "True")
    done = rlssm("world", "plan", "oracle", *words, "--shoot", 4)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "sword maker: mean reward and standard error of 4 rollouts"
    assert lines[1].split() == ["true", "one", "table", "4.000", "+-", "0.000", "5.0", "steps"]
    assert lines[3] == "  true  ranking right" and lines[6] == "  model ranking right"
    assert lines[7].startswith("  best of 4 random plans, 1 rollouts each: ")
    assert mistake("world", "plan", laws, "--task", "mining") == (
        "unknown task 'mining', perhaps 'zombie fighter' was meant; "
        "known: all, stone miner, sword maker, zombie fighter"
    )
    assert mistake("world", "plan", laws, "--rollouts", 1) == "rollouts must be at least 2, got 1"


def test_a_wrong_file_ends_in_one_sentence(tmp_path):
    path = tmp_path / "laws.json"
    path.write_text('{"format": "something else"}')
    assert mistake("world", "show", path).startswith("laws.json lacks 'version'")
    assert "absent.json" in mistake("world", "plan", tmp_path / "absent.json")
