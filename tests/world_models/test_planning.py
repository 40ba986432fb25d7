"""Subroutines by hand, rollouts in the true world, and the published rankings."""

import numpy as np
import pytest
from crafter_starts import meadow, put

from rlssm.errors import UserError
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.likelihood import sample
from rlssm.world_models.oracle_laws import oracle_model
from rlssm.world_models.planning import (
    Dynamics,
    Subroutine,
    estimate,
    model_dynamics,
    next_action,
    rollouts,
    shoot,
)
from rlssm.world_models.planning_tasks import TASKS, compare, is_right
from rlssm.world_models.schema import Cow, GeneratorState, Zombie

REFERENCE = oracle_model(reference=True)


def host_step(seed, states, actions):
    """Step the true world, with the generator of each state drawn anew."""
    after = []
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        state = state.copy()
        state.random = GeneratorState.of(np.random.RandomState([seed % 2**32, row]))
        after.append(transition(state, action)[0])
    return after


TRUE = Dynamics(list, host_step, list)  # spares the tests the compilation of the true world


# --- Subroutines ------------------------------------------------------------------------------


def walk(state, routine, steps: int = 30) -> tuple[list[str], object]:
    taken = []
    for _ in range(steps):
        chosen = next_action(state, routine)
        if chosen is None:
            return taken, state
        taken.append(chosen[0])
        state, _ = transition(state, chosen[0])
        if chosen[1]:
            return taken, state
    raise AssertionError(taken)


def test_a_subroutine_goes_the_shortest_way_round_and_turns_before_it_acts():
    state = put(meadow(), "tree", (7, 4))
    for y in range(2, 7):  # a wall, open at both ends
        put(state, "water", (6, y))
    taken, after = walk(state, Subroutine("do", "tree"))
    assert taken[-2:] == ["move_right", "do"] or taken[-2].startswith("move_")
    assert after.player.inventory["wood"] == 1
    # Around the nearer end: two right (one up), at most twelve steps in all.
    assert len(taken) <= 12


def test_a_subroutine_acts_at_once_where_it_may():
    assert next_action(meadow(), Subroutine("place_table")) == ("place_table", True)
    assert next_action(put(meadow(), "tree"), Subroutine("do", "tree")) == ("do", True)
    beside = put(meadow(), "tree", (3, 4))
    assert next_action(beside, Subroutine("do", "tree")) == ("move_left", False)


def test_a_subroutine_follows_creatures_and_ends_without_a_target():
    assert next_action(meadow(Cow(2, (4, 1))), Subroutine("do", "cow")) == ("move_up", False)
    assert next_action(meadow(), Subroutine("do", "zombie")) is None
    walled = put(meadow(), "tree", (0, 0))
    put(put(walled, "water", (0, 1)), "water", (1, 0))
    assert next_action(walled, Subroutine("do", "tree")) is None


def test_lava_is_walked_around():
    state = put(put(meadow(), "lava", (4, 3)), "tree", (4, 1))
    taken, after = walk(state, Subroutine("do", "tree"))
    assert after.player.health == 9 and after.player.inventory["wood"] == 1
    assert taken[0] in ("move_left", "move_right")


# --- Rollouts ---------------------------------------------------------------------------------


def test_rollouts_end_with_the_plan_the_life_or_the_limit():
    start = put(meadow(Zombie(2, (4, 3)), health=1), "stone")
    (life,) = rollouts(TRUE, start, [(Subroutine("noop", times=30),)], seed=0)
    assert life.states[-1].player.health == 0 and len(life.actions) < 8
    plan = (Subroutine("noop", times=2), Subroutine("do", "cow"), Subroutine("move_left"))
    (life,) = rollouts(TRUE, meadow(), [plan], seed=0)
    assert life.actions == ["noop", "noop", "move_left"]
    assert len(life.states) == 4
    (life,) = rollouts(TRUE, meadow(), [plan], seed=0, longest=1)
    assert life.actions == ["noop"]
    tired = Subroutine("do", "water", most=3)
    (life,) = rollouts(TRUE, put(meadow(), "water", (0, 4)), [(tired, plan[0])], seed=0)
    assert life.actions == ["move_left"] * 3 + ["noop"] * 2


def test_rollouts_of_one_plan_differ_by_chance_alone():
    start = meadow(Cow(2, (4, 7)))
    lives = rollouts(TRUE, start, [(Subroutine("noop", times=3),)] * 8, seed=1)
    again = rollouts(TRUE, start, [(Subroutine("noop", times=3),)] * 8, seed=1)
    ends = [life.states[-1].objects[1].position for life in lives]
    assert len(set(ends)) > 1
    assert ends == [life.states[-1].objects[1].position for life in again]


def test_the_true_world_ranks_the_plans_as_published():
    means = {}
    for name, task in TASKS.items():
        found = compare(task, TRUE, 12)
        means[name] = tuple(e.mean for e in found.values())
        assert is_right(found), name
    assert means["zombie fighter"] == (2.0, 1.0)
    assert means["stone miner"] == (3.0, 0.0)
    assert means["sword maker"] == (4.0, 2.0)


def test_reference_models_can_turn_and_mine_in_plans_only():
    held = model_dynamics(REFERENCE)
    start = put(meadow(inventory={"wood_pickaxe": 1}), "stone", (4, 3))
    plan = (Subroutine("do", "stone"),)
    (life,) = rollouts(held, start, [plan], seed=0)
    assert life.actions == ["move_up", "do"]
    assert life.states[-1].player.inventory["stone"] == 1
    assert not (life.states[-1].materials == start.materials).all()
    # The published reading sees neither.
    after = sample(REFERENCE, start, "move_up", np.random.default_rng(0))
    assert after.player.facing == start.player.facing
    facing = CrafterView(reference=True, facing=True)
    scene = facing.scene(start, "move_up")
    changed = facing.changes(scene, transition(start, "move_up")[0]).values
    assert {key.attribute for key in changed} & {"facing"} == {"facing"}


# --- Shooting ---------------------------------------------------------------------------------


def test_random_shooting_finds_a_way_to_make_swords():
    task = TASKS["sword maker"]
    shots = shoot(
        TRUE, task.start(), task.shootable, task.reward, length=5, candidates=40, count=1, seed=0
    )
    assert len({shot.plan for shot in shots}) == len(shots) == 40
    means = [shot.promise.mean for shot in shots]
    assert means == sorted(means, reverse=True)
    assert means[0] >= 2
    best = rollouts(TRUE, task.start(), [shots[0].plan], seed=1)
    assert estimate(best, task.reward).mean == means[0]
    for name in ("length", "candidates", "count"):
        numbers = {"length": 2, "candidates": 2, "count": 2, name: 0}
        with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
            shoot(TRUE, task.start(), task.shootable, task.reward, seed=0, **numbers)


def test_estimates_by_hand():
    lives = rollouts(TRUE, meadow(), [(Subroutine("noop", times=n),) for n in (1, 2, 3)], seed=0)
    found = estimate(lives, lambda life: float(len(life.actions)))
    assert found == pytest.approx((2.0, 1 / np.sqrt(3), 2.0, 3))
