"""Ranks and edit distances by hand, and what each contender must reach."""

import copy

import jsonpatch
import numpy as np
import pytest
from crafter_starts import meadow, random_actions, random_start

from rlssm.errors import UserError
from rlssm.world_models import contenders
from rlssm.world_models.crafter import transition
from rlssm.world_models.fidelity import comparable, fidelity, leaves, operations, same
from rlssm.world_models.likelihood import score, score_each
from rlssm.world_models.mutators import MUTATORS
from rlssm.world_models.oracle_laws import oracle_model
from rlssm.world_models.ranking import METRICS, chance, evaluate, judge, overall, rank, wins
from rlssm.world_models.scenarios import SCENARIOS, play
from rlssm.world_models.schema import Cow

ORACLE, REFERENCE = oracle_model(), oracle_model(reference=True)
DETERMINISTIC = [scenario for scenario in SCENARIOS if scenario.deterministic]


# --- Fidelity ---------------------------------------------------------------------------------


def test_operations_lead_from_one_state_to_the_other():
    for seed in range(5):
        state = random_start(seed)
        for action in random_actions(seed, 3):
            after, _ = transition(state, action)
            source, target = comparable(state), comparable(after)
            patched = jsonpatch.apply_patch(copy.deepcopy(source), operations(source, target))
            assert patched == target
            state = after


def test_the_edits_of_who_expects_nothing_are_the_leaves_that_changed():
    state = meadow(Cow(2, (1, 1)), hunger=3.0)
    after, _ = transition(state, "noop")
    before, now = comparable(state), comparable(after)
    changed = {"step_count", "daylight"} & {k for k in now if now[k] != before[k]}
    counters = [name for name in now["player"] if now["player"][name] != before["player"][name]]
    moved = now["objects"][0]["position"] != before["objects"][0]["position"]
    result = fidelity(state, state, after)
    assert result.edits == len(changed) + len(counters) + moved
    assert result.normalised == result.edits / leaves(now)
    assert result.overlap == 0
    assert fidelity(state, after, after) == (0, 0.0, 1.0)


def test_leaves_are_counted():
    assert leaves({"a": [1, {"b": None}], "c": {}, "d": "x"}) == 3


def test_states_are_the_same_whatever_their_generators():
    state = random_start(0)
    other = state.copy()
    other.random = random_start(1).random
    assert same(state, other)
    for change in (
        lambda s: s.player.inventory.update(wood=8 - s.player.inventory["wood"]),
        lambda s: s.objects.pop(),
        lambda s: s.materials.__setitem__((0, 0), (s.materials[0, 0] + 1) % 12),
        lambda s: setattr(s, "step_count", s.step_count + 1),
        lambda s: setattr(s, "daylight", s.daylight + 0.1),
    ):
        changed = state.copy()
        change(changed)
        assert not same(state, changed)


# --- Ranks ------------------------------------------------------------------------------------


def test_the_best_of_several_true_candidates_counts():
    rng = np.random.default_rng(0)
    assert rank([1.0, 3.0, 2.0], [True, False, False], rng) == 3
    assert rank([1.0, 3.0, 2.0], [True, False, True], rng) == 2
    assert rank([-np.inf, 0.0, -np.inf], [False, True, False], rng) == 1
    with pytest.raises(UserError, match="a score must be a number"):
        rank([0.0, np.nan], [True, False], rng)


@pytest.mark.parametrize("n", [6, 7, 8, 9])
def test_equal_scores_give_chance_level(n):
    rng = np.random.default_rng(n)
    ranks = [rank([0.0] * n, [True] + [False] * (n - 1), rng) for _ in range(4_000)]
    r_at_1, mrr = chance(n)
    assert np.mean(np.equal(ranks, 1)) == pytest.approx(r_at_1, abs=0.025)
    assert np.mean(1 / np.array(ranks)) == pytest.approx(mrr, abs=0.025)
    assert mrr == pytest.approx({6: 0.408, 7: 0.370, 8: 0.340, 9: 0.314}[n], abs=5e-4)


def test_a_constant_contender_is_at_chance_in_the_protocol():
    steps = [step for scenario in DETERMINISTIC[:8] for step in play(scenario, 0)]
    judged = [
        judge(contenders.constant(), step, np.random.default_rng([i, seed]))
        for seed in range(100)
        for i, step in enumerate(steps)
    ]
    assert {count for _, count in judged} == {8}
    for name, expected in zip(("r_at_1", "mrr"), chance(8), strict=True):
        assert np.mean([values[name] for values, _ in judged]) == pytest.approx(expected, abs=0.04)


def test_several_scores_are_those_of_one_at_a_time():
    (step, *_) = play(SCENARIOS[0], 0)
    afters = [step.after, step.state]
    each = score_each(ORACLE, step.state, step.action, afters)
    assert each == [score(ORACLE, step.state, step.action, after) for after in afters]


# --- Contenders -------------------------------------------------------------------------------


def test_the_true_world_is_always_first_and_exact():
    rows = evaluate(contenders.true_world(), SCENARIOS, trials=1, mutators=tuple(MUTATORS))
    for metric, expected in zip(METRICS, (1, 1, 1, 0, 0, 1), strict=True):
        assert {row.metric(metric).mean for row in rows} == {expected}


def test_oracle_laws_are_a_ceiling():
    rows = evaluate(contenders.of_model(ORACLE), SCENARIOS, trials=1)
    certain = [row for row in rows if row.scenario.deterministic]
    assert len(certain) == 32
    assert overall(certain, "r_at_1").mean > 0.9
    assert overall(rows, "mrr").mean > 0.9
    assert overall(rows, "edits").mean < 1.5


def test_what_others_reach():
    few = [s for s in DETERMINISTIC if s.variant != "failure"][::3]
    results = {
        contender.name: evaluate(contender, few, trials=4)
        for contender in (
            contenders.of_model(REFERENCE, "reference"),
            contenders.poe_world(REFERENCE),
            contenders.null(),
            contenders.random(),
        )
    }
    mrr = {name: overall(rows, "mrr").mean for name, rows in results.items()}
    edits = {name: overall(rows, "edits").mean for name, rows in results.items()}
    assert mrr["reference"] > mrr["PoE-World"]
    assert mrr["null"] < 0.5  # it prefers its own copy of the state before
    assert edits["random"] > 60 > 12 > edits["null"]
    assert wins(results["reference"], results["PoE-World"]) > len(few) / 2


def test_trials_give_means_deviations_and_an_interval():
    (wander,) = (s for s in SCENARIOS if s.name == "random_movement")
    rows = evaluate(contenders.constant(), [wander], trials=3)
    values = rows[0].trials["mrr"]
    assert rows[0].metric("mrr") == (values.mean(), values.std())
    result = overall(rows, "mrr")
    assert result.mean == pytest.approx(values.mean()) and result.deviation == values.std()
    assert values.min() <= result.low <= result.mean <= result.high <= values.max()
    again = evaluate(contenders.constant(), [wander], trials=3)
    assert (again[0].trials["mrr"] == values).all()


def test_the_eighth_mutator_matters_only_where_something_is_placed():
    """What scripts/reproduce/onelife.py relies on."""
    chosen = [s for s in SCENARIOS if s.name in ("craft_wooden_sword", "place_stone")]
    rows = [
        evaluate(contenders.of_model(ORACLE), chosen, trials=2, mutators=tuple(MUTATORS)[:count])
        for count in (7, 8)
    ]
    for seven, eight in zip(*rows, strict=True):
        placed = seven.scenario.name == "place_stone"
        assert eight.candidates - seven.candidates == placed
        if not placed:
            assert all((eight.trials[name] == seven.trials[name]).all() for name in METRICS)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="trials must be at least 1, got 0"):
        evaluate(contenders.null(), SCENARIOS, trials=0)
    with pytest.raises(UserError, match="reference must be True for PoE-World, got False"):
        contenders.poe_world(ORACLE)
