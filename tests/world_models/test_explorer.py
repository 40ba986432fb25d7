"""The explorer lives one life, reproducibly, and learns from nothing but what it sees."""

from collections import Counter

import numpy as np
import pytest
from crafter_starts import meadow

from rlssm.errors import UserError
from rlssm.world_models.crafter import transition
from rlssm.world_models.explorer import Experience, Explorer, bag_of, live
from rlssm.world_models.schema import MATERIAL_INDEX, Zombie
from rlssm.world_models.schema_json import state_to_json
from rlssm.world_models.walking import Walk


def test_a_life_is_one_chain_of_true_transitions_and_the_same_again():
    life = list(live(3, steps=60, size=(32, 32)))
    again = list(live(3, steps=60, size=(32, 32)))
    assert [action for _, action, _ in life] == [action for _, action, _ in again]
    assert len(life) == 60 or life[-1][2].player.health == 0
    for (state, action, after), (following, _, _) in zip(life, life[1:], strict=False):
        assert state_to_json(after) == state_to_json(following)
        assert state_to_json(transition(state, action)[0]) == state_to_json(after)
    assert life[0][0].step_count == 1  # after a first noop


def test_curiosity_spreads_over_actions_and_finds_what_works():
    life = list(live(5, steps=250))
    actions = Counter(action for _, action, _ in life)
    assert len(actions) >= 16
    assert sum(a.startswith("make") for a in actions) == 6
    done = [name for name, count in life[-1][2].player.achievements.items() if count]
    assert {"collect_wood", "collect_drink"} <= set(done)


def test_instincts_drink_eat_and_fight():
    state = meadow()
    x, y = state.player.position
    state.objects = [state.player]
    state.materials[:] = MATERIAL_INDEX["grass"]
    state.materials[x + 3, y] = MATERIAL_INDEX["water"]
    state.player.inventory["drink"] = 2
    explorer = Explorer(np.random.default_rng(0))
    for expected in ("move_right", "move_right", "do"):
        assert explorer.act(state) == expected
        state, _ = transition(state, expected)
        state.objects = [state.player]
    assert state.player.inventory["drink"] == 3
    state = meadow()
    state.objects = [state.player, Zombie(2, (x + 1, y))]
    assert Explorer(np.random.default_rng(0)).act(state) == "move_right"
    state.player.facing = (1, 0)
    assert Explorer(np.random.default_rng(0)).act(state) == "do"


def test_a_burrow_is_dug_into_stone_and_closed():
    state = meadow()
    x, y = state.player.position
    state.objects = [state.player]
    state.materials[x + 1 :, :] = MATERIAL_INDEX["stone"]
    state.player.inventory["wood_pickaxe"] = 1
    state.player.inventory["energy"] = 2
    explorer = Explorer(np.random.default_rng(0))
    for _ in range(14):
        action = explorer.act(state)
        state, _ = transition(state, action)
        state.objects = [state.player]
        if action == "sleep":
            break
    assert state.player.sleeping and Walk(state).enclosed


def test_a_shelter_is_built_in_the_open_where_there_are_stones_for_it():
    state = meadow()
    state.objects = [state.player]
    state.materials[:] = MATERIAL_INDEX["grass"]
    state.player.inventory |= {"stone": 9, "energy": 1}
    explorer = Explorer(np.random.default_rng(0))
    for _ in range(40):
        action = explorer.act(state)
        state, _ = transition(state, action)
        state.objects = [state.player]
        if action == "sleep":
            break
    assert state.player.sleeping and Walk(state).enclosed
    assert (state.materials == MATERIAL_INDEX["stone"]).sum() <= 8


def test_what_failed_is_tried_again_with_more_in_hand():
    state = meadow()
    player, experience = state.player, Experience()
    none = bag_of(player)
    player.inventory["wood"] = 3
    some = bag_of(player)
    experience.note(none, effect=False)
    assert experience.promises(some) and not experience.promises(none)
    experience.note(some, effect=True)
    assert experience.enough == some
    assert experience.attraction(some, player) > experience.attraction(none, player)


def test_what_is_had_by_chance_is_hoarded_for_as_many_tries_as_it_takes():
    player, experience = meadow().player, Experience()
    for number in range(10):
        experience.note(bag_of(player), effect=number == 0)
    experience.gained["sapling"] = 1
    wanted = experience.attraction(bag_of(player), player)
    player.inventory["sapling"] = 6
    assert 0.5 < wanted < 1.5 and experience.attraction(bag_of(player), player) < 0.1


def test_lava_is_not_walked_into():
    state = meadow()
    x, y = state.player.position
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        state.materials[x + dx, y + dy] = MATERIAL_INDEX["lava"]
    explorer = Explorer(np.random.default_rng(0))
    for _ in range(40):
        state, _ = transition(state, explorer.act(state))
        assert state.player.position == (x, y)


def test_a_life_has_at_least_one_step():
    with pytest.raises(UserError, match="steps must be positive, got 0"):
        next(live(0, steps=0))
