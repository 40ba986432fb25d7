"""The scenarios come to what they are for, and the mutators make what did not come about."""

import numpy as np
import pytest
from crafter_starts import meadow, random_start

from rlssm.errors import UserError
from rlssm.world_models.fidelity import comparable, same
from rlssm.world_models.mutators import MUTATORS, PUBLISHED, distractors
from rlssm.world_models.scenarios import SCENARIOS, chosen, play, reached
from rlssm.world_models.schema import ACTIONS, ITEMS, Cow, Plant, Zombie, distance

RUNS = {scenario.id: play(scenario, 0) for scenario in SCENARIOS}


def test_there_are_23_scenarios_15_of_them_twice():
    assert len(SCENARIOS) == len(RUNS) == 38
    assert len({scenario.name for scenario in SCENARIOS}) == 23
    for which, count in (("all", 38), ("success", 23), ("failure", 23)):
        assert len(chosen(which)) == count
    assert {s.variant for s in chosen("failure")} == {"failure", "only"}
    with pytest.raises(UserError, match="unknown set of scenarios 'both'"):
        chosen("both")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
def test_a_scenario_reaches_its_goal_unless_it_is_to_fail(scenario):
    run = RUNS[scenario.id]
    assert 1 <= len(run) <= scenario.steps
    assert reached(scenario, run) == scenario.succeeds
    state = run[0].state
    assert state.size == (9, 9) and state.view == (9, 9)
    assert state.player.position == (5, 5)
    assert state.next_id > max(entity.entity_id for entity in state.objects)


def test_runs_depend_on_their_seed_and_share_nothing():
    (wander,) = (s for s in SCENARIOS if s.name == "random_movement")
    again, other = play(wander, 0), play(wander, 1)
    assert [step.action for step in again] == [step.action for step in RUNS["random_movement"]]
    assert [step.action for step in other] != [step.action for step in again]
    (cow,) = (s for s in SCENARIOS if s.name == "eat_cow")
    assert cow.start().objects[1] is not cow.start().objects[1]


# --- Mutators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MUTATORS)
def test_mutators_leave_their_input_and_return_something_else(name):
    rng = np.random.default_rng(0)
    applied, kept = 0, 0
    for seed in range(60):
        state, action = random_start(seed), ACTIONS[seed % len(ACTIONS)]
        untouched = state.copy()
        changed = MUTATORS[name](state, action, rng)
        assert same(state, untouched)
        if changed is not None:
            applied += 1
            kept += same(changed, state)
            assert changed.player.inventory is not state.player.inventory
    assert applied >= 3
    # A health may change by 0, there may be no creature, and what is placed may be there already.
    assert kept <= {"player health": 25, "place illegal item": 3}.get(
        name, 6 if name.startswith("entity") else 0
    )


def test_mutators_change_what_they_are_named_after():
    rng = np.random.default_rng(1)
    state = meadow(Cow(2, (1, 1)), Zombie(3, (7, 7)), inventory={"diamond": 2})
    for _ in range(40):
        healths = MUTATORS["entity health"](state, "noop", rng).objects
        assert all(
            abs(a.health - b.health) > 1
            for a, b in zip(healths[1:], state.objects[1:], strict=True)
        )
        moved = MUTATORS["entity position"](state, "noop", rng)
        for ours, theirs in zip(moved.objects[1:], state.objects[1:], strict=True):
            dx, dy = np.abs(np.subtract(ours.position, theirs.position))
            assert 2 <= max(dx, dy) <= 10 and (dx in (0, dy) or dy == 0)
        assert 6 <= MUTATORS["player health"](state, "noop", rng).player.health <= 10
        held = MUTATORS["inventory"](state, "noop", rng).player.inventory
        assert held["diamond"] >= 2 and max(held.values()) <= 102
        pushed = MUTATORS["illegal movement"](state, "noop", rng).player
        assert distance(pushed.position, state.player.position) == 1
        got = MUTATORS["collect illegal material"](state, "do", rng).player.inventory
        (item,) = (item for item in ITEMS if got[item] > state.player.inventory[item])
        assert item != "sapling"  # which the grass in front may give
        made = MUTATORS["craft illegal item"](state, "make_wood_sword", rng).player.inventory
        assert made["wood_sword"] == 0 and sum(made.values()) == 30
        placed = MUTATORS["place illegal item"](state, "place_stone", rng)
        assert isinstance(placed.objects[-1], Plant) != (placed.materials != state.materials).any()
        comparable(placed)


@pytest.mark.parametrize(
    ("action", "seven", "eight"),
    [("move_left", 4, 4), ("noop", 5, 5), ("sleep", 5, 5), ("do", 6, 6),
     ("make_wood_sword", 6, 6), ("place_stone", 5, 6)],
)  # fmt: skip
def test_how_many_distractors_an_action_has(action, seven, eight):
    rng = np.random.default_rng(0)
    assert len(distractors(meadow(), action, rng)) == seven
    assert len(distractors(meadow(), action, rng, tuple(MUTATORS))) == eight
    assert len(distractors(meadow(), action, rng, PUBLISHED, most=3)) == 3
