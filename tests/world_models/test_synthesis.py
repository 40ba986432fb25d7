"""Laws found from records alone, against the worlds that made them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from crafter_starts import meadow
from test_fitting import random_walk

from rlssm.world_models import cases
from rlssm.world_models.cases import Question, Questions, action_sets, names_of
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.explorer import live
from rlssm.world_models.fitting import fit, log_probs
from rlssm.world_models.guards import Judge, tallies
from rlssm.world_models.law_json import load_model, save_model
from rlssm.world_models.law_writing import write_law
from rlssm.world_models.laws import Add, Set, Step, Test
from rlssm.world_models.likelihood import predict
from rlssm.world_models.object_view import BOOLEAN, Choices, Numbers, Observable
from rlssm.world_models.record import Record
from rlssm.world_models.schema import ACTIONS, MATERIAL_INDEX, Cow, Zombie
from rlssm.world_models.small_worlds import deterministic_switches, lit_walk, mixed_switches
from rlssm.world_models.synthesis import Search, named, once_each, synthesise


def exact_log_prob(record):
    world = record.world
    return [math.log(world.enumerate_step(s, a)[after]) for s, a, after in record.transitions]


@pytest.mark.parametrize(
    ("make", "steps", "slack"),
    [(deterministic_switches, 80, 0.05), (mixed_switches, 300, 0.1), (lit_walk, 1200, 0.1)],
    ids=["deterministic", "mixed", "walk"],
)
def test_small_worlds_are_found_out(make, steps, slack):
    world = make()
    record = Record(world, random_walk(world, steps))
    model = synthesise(record).model
    held_out = Record(world, random_walk(world, 300, seed=9))
    loss = np.mean(exact_log_prob(held_out)) - log_probs(model, held_out).mean()
    assert -1e-9 <= loss < slack
    null = fit(record, ()).model
    assert log_probs(null, held_out).mean() < log_probs(model, held_out).mean() - 0.2


def test_the_walk_is_known_to_turn_round_at_the_switch_point():
    world = lit_walk()
    model = synthesise(Record(world, random_walk(world, 1200))).model
    for position, likely in ((3, 4), (8, 7)):
        state = (world.initial[0].set("position", position), *world.initial[1:])
        found = predict(model, world.scene(state, "right"))
        (dist,) = [d for key, d in found.items() if key.attribute == "position"]
        assert dist.table()[likely] == pytest.approx(0.9, abs=0.06)
    assert sum(law.observable.attribute == "position" for law in model.laws) <= 7


def scenes_of_work():
    """A player who fells, drinks and strikes a zombie in turn, now with wood and now without."""
    rng, transitions = np.random.default_rng(0), []
    for number in range(240):
        state = meadow()
        x, y = state.player.position
        near = Zombie(2, (x, y - 1), cooldown=int(rng.integers(6))) if number % 3 == 0 else None
        far = Cow(3, (x + 4, y + 4))
        state.objects = [state.player, *([near] if near else []), far]
        state.materials[:] = MATERIAL_INDEX["grass"]
        front = ("tree", "water", "stone", "grass")[number % 4]
        state.materials[state.player.target] = MATERIAL_INDEX[front]
        state.player.health = 4 + number % 5
        state.step_count = number
        state.player.inventory.update(
            wood=int(rng.integers(4)), drink=3, wood_pickaxe=int(rng.integers(2))
        )
        action = str(rng.choice(("do", "do", "do", "noop", "place_table", "move_left")))
        transitions.append((state, action, transition(state, action)[0]))
    return Record(CrafterView(), transitions)


@pytest.fixture(scope="module")
def worked():
    record = scenes_of_work()
    return record, synthesise(record).model


def find(model, attribute, term):
    return [
        law
        for law in model.laws
        if law.observable.attribute == attribute
        and any(outcome.term == term and outcome.logit > -1 for outcome in law.outcomes)
    ]


def test_laws_of_work_are_found_with_their_guards(worked):
    _, model = worked
    (felling,) = find(model, "inventory.wood", Add(1))
    assert felling.actions == {"do"} and felling.tests == (Test("target.material", "==", "tree"),)
    (table, *alike) = find(model, "inventory.wood", Add(-2))
    assert {law.source for law in alike} <= {"analogy"}
    assert table.actions == {"place_table"}
    assert Test("player.inventory.wood", ">=", 2) in table.tests
    (digging,) = find(model, "inventory.stone", Add(1))
    assert Test("target.material", "==", "stone") in digging.tests
    assert any(test.feature == "player.inventory.wood_pickaxe" for test in digging.tests)
    assert find(model, "displacement", Step("action.direction")) or find(
        model, "displacement", Step("left")
    )
    assert find(model, "step_count", Add(1))
    assert find(model, "material", Set("grass")) and find(model, "material", Set("path"))


def test_who_hits_is_asked_beyond_the_player(worked):
    _, model = worked
    hits = find(model, "health", Add(-2))
    assert any(law.scope == "zombie" and law.observable.of == "player" for law in hits)


def test_found_laws_are_data_like_any_other(worked, tmp_path):
    record, model = worked
    save_model(model, tmp_path / "laws.json")
    again = load_model(tmp_path / "laws.json", CrafterView())
    assert log_probs(again, record) == pytest.approx(log_probs(model, record))
    assert {law.source for law in model.laws} <= {"enumerated", "analogy"}
    assert len({law.name for law in model.laws}) == len(model.laws)


class OneLaw:
    """A proposer that knows one thing, and something false."""

    def __init__(self, law, false):
        self.laws = [law, false]

    def propose(self, record, transition, keys):
        return self.laws


def test_weights_stay_with_their_laws_where_two_have_become_one(worked):
    record, model = worked
    first, second = model.laws[:2]
    laws = [first, replace(first, name="again"), second]
    kept = named(record.world, laws)
    assert [replace(law, name="") for law in kept] == [replace(x, name="") for x in (first, second)]
    assert once_each(laws, [1.0, 2.0, 3.0]) == [1.0, 3.0]


def test_proposals_are_fitted_and_pruned_with_the_rest(worked):
    from crafter_laws import law

    record, _ = worked
    small = Record(record.world, record.transitions[:40])
    false = law(
        "felling costs wood", "player", "player.inventory.wood", [(Add(-1), 1.0)],
        ("target.material", "==", "tree"), actions=("do",),
    )  # fmt: skip
    true = law(
        "felling", "player", "player.inventory.wood", [(Add(1), 1.0)],
        ("target.material", "==", "tree"), actions=("do",),
    )  # fmt: skip
    lines = []
    model = synthesise(small, lines.append, OneLaw(true, false)).model
    assert not find(model, "inventory.wood", Add(-1))
    assert find(model, "inventory.wood", Add(1))
    assert any("laws kept" in line for line in lines)


# --- Questions --------------------------------------------------------------------------------


def test_questions_come_from_what_was_seen():
    yes = np.array([True, False, None], dtype=object)
    assert cases.tests_of("f", BOOLEAN, yes) == [Test("f", "==", False), Test("f", "==", True)]
    ab = cases.tests_of("f", Choices(("a", "b", "c")), np.array(["a", "b", None], dtype=object))
    assert {(t.comparison, t.value) for t in ab} == {
        ("==", "a"), ("!=", "a"), ("==", "b"), ("!=", "b"),
    }  # fmt: skip
    numbers = cases.tests_of("f", Numbers(0, 9), np.array([1, 3, 5], dtype=object))
    assert {(t.comparison, t.value) for t in numbers} == {
        ("<=", 1), ("<=", 3), (">=", 3), (">=", 5),
    }  # fmt: skip
    many = cases.tests_of("f", Numbers(0, 999), np.arange(500).astype(object))
    assert {("<=", 0), (">=", 499), ("<=", 3)} <= {(t.comparison, t.value) for t in many}
    assert len(many) < 50


def test_answers_are_those_of_the_tests():
    record = scenes_of_work()
    questions = Questions(record, "player")
    for question, answer in zip(questions.asked, questions.answers, strict=True):
        tests = () if question.test is None else (question.test,)
        assert (record.active("player", tests, question.actions) == answer).all()
        assert 0 < answer.sum() < len(answer)
    assert frozenset({"do"}) in action_sets(record)
    steps = Record(CrafterView(), [(s, "move_up", s) for s, _, _ in record.transitions[:1]])
    steps = Record(CrafterView(), [*record.transitions, *steps.transitions])
    moves = frozenset(action for action in ACTIONS if action.startswith("move"))
    assert moves in action_sets(steps)


def test_near_questions_are_cheap_and_those_about_the_same_thing_cheaper():
    questions = Questions(scenes_of_work(), "player")

    def price(test, about=frozenset()):
        return questions.price(test, about)

    deed = Question(None, frozenset({"place_table"}))
    faced, held = (
        Question(Test("target.material", "==", "tree")),
        Question(Test("player.inventory.wood", ">=", 2)),
    )
    late = Question(Test("step.phase", ">=", 9))
    assert price(deed) < price(faced) < price(held) < price(late)
    assert price(deed, {"table"}) < price(deed) and price(held, {"wood"}) < price(held)
    full = Question(Test("player.inventory.wood", "<=", 2))  # to hold more seldom hurts
    assert price(full, {"wood"}) > price(held)
    drink = names_of(Observable("self", "achievements.collect_drink"), [Add(1)])
    assert drink == {"collect_drink", "drink"}


def test_what_is_true_where_a_question_is_not_is_found_for_thresholds_too():
    questions = Questions(scenes_of_work(), "player")
    for index, question in enumerate(questions.asked):
        turned = questions.opposite(index)
        if question.test is not None and question.test.feature == "player.inventory.wood":
            assert turned is not None
            assert (questions.answers[turned] == ~questions.answers[index]).all()


def test_gains_of_all_questions_at_once_are_those_of_one_at_a_time():
    record = scenes_of_work()
    questions, wood = Questions(record, "player"), Observable("self", "inventory.wood")
    rows, keys, among = cases.collect_keys(record, "player", wood)
    items = cases.Items.of(record, {key: number for number, key in enumerate(keys)})
    rng = np.random.default_rng(0)
    items.log_prob[:] = -rng.exponential(2.0, len(keys))
    table = cases.Cases(
        "player", wood, items.domain[0], rows, np.arange(len(rows)), np.ones(len(rows)), among
    )
    asked = questions.answers[:, rows]
    judges = [Judge(questions, items, table, lens) for lens in cases.lenses(record, table, items)]
    everywhere = np.ones(len(rows), bool)
    for mask in (everywhere, rng.random(len(rows)) < 0.3):
        for judge, tally in tallies([(j, mask) for j in judges], asked.T.astype(np.float32)):
            for question in range(0, len(asked), 7):
                bits = 5.0 + judge.bits((question,))
                yes, no = mask & asked[question], mask & ~asked[question]
                for here, counted in ((yes, tally), (no, judge.others(mask, tally))):
                    gains = judge.gains(*counted, 5.0)
                    assert gains[question] == pytest.approx(judge.gain(here, bits), abs=2e-3)


def test_a_guard_asked_before_is_written_down_once():
    search = Search(scenes_of_work())
    felling = write_law(
        "felling", "player", "self.inventory.wood", Add(1), "target.material == tree", ["do"]
    )
    counting = replace(felling, observable=Observable("self", "achievements.collect_wood"))
    assert search.cost(counting, shared=True) < search.cost(counting)
    both = search.costs([felling, counting])
    assert both == pytest.approx(search.cost(felling) + search.cost(counting, shared=True))


@pytest.mark.slow
def test_a_life_is_better_explained_than_by_nothing():
    """About twenty seconds on a busy core."""
    record = Record(CrafterView(), live(9, steps=600))
    model = synthesise(record).model
    held_out = Record(CrafterView(), live(109, steps=300))
    null = fit(record, ()).model
    assert log_probs(model, held_out).mean() > log_probs(null, held_out).mean() + 40
