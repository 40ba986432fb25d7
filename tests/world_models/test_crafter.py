"""The rules of Crafter against the package, recorded and live, and against closed forms."""

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from crafter_starts import digest, meadow, put, random_actions, random_start

from rlssm.errors import UserError
from rlssm.world_models.crafter import daylight, initial_state, is_over, transition
from rlssm.world_models.noise import OpenSimplex
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    MATERIAL_INDEX,
    Arrow,
    Cow,
    Entity,
    Plant,
    Skeleton,
    WorldState,
    Zombie,
)
from rlssm.world_models.schema_json import state_to_json

RECORDED = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "crafter.json.gz").read_bytes())
)
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("crafter") is None,
    reason="package crafter is not installed (pip install crafter==1.8.3)",
)


# --- Against the package ----------------------------------------------------------------------


def live(state: WorldState, actions) -> list[tuple[WorldState, float]]:
    steps = []
    for action in actions:
        state, reward = transition(state, action)
        steps.append((state, reward))
        if is_over(state):
            break
    return steps


def test_ten_thousand_recorded_transitions_are_equal_in_every_field():
    total = 0
    for seed, recorded in enumerate(RECORDED["starts"]):
        ours = [digest(*step) for step in live(random_start(seed), random_actions(seed))]
        theirs = [recorded[i : i + 16] for i in range(0, len(recorded), 16)]
        assert ours == theirs, f"start {seed} differs from step {_first_difference(ours, theirs)}"
        total += len(ours)
    assert total > 10_000


def _first_difference(ours: list[str], theirs: list[str]) -> int:
    pairs = list(zip(ours, theirs, strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def test_recorded_last_states_are_equal_field_by_field():
    for seed, expected in enumerate(RECORDED["examples"]):
        state, _ = live(random_start(seed), random_actions(seed))[-1]
        ours = state_to_json(state)
        for field in expected.keys() - {"daylight"}:
            assert ours[field] == expected[field], (seed, field)
        assert ours["daylight"] == pytest.approx(expected["daylight"], abs=1e-12)


def test_recorded_lives_from_generated_worlds_are_equal():
    for seed, recorded in enumerate(RECORDED["lives"]):
        start = initial_state(seed=seed)
        steps = live(start, random_actions(seed, len(recorded) // 16 - 1))
        assert "".join([digest(start, 0.0), *(digest(*step) for step in steps)]) == recorded


@needs_package
@pytest.mark.parametrize(
    "seeds", [range(2_000, 2_150), pytest.param(range(2_150, 3_500), marks=pytest.mark.slow)]
)
def test_every_field_equals_the_package_on_random_transitions(seeds):
    from crafter_package import PackageWorld

    for seed in seeds:
        state = random_start(seed)
        world = PackageWorld(state.size, state.view)
        world.install(state)
        assert state_to_json(world.state) == state_to_json(state)
        for action in random_actions(seed):
            state, reward = transition(state, action)
            their_reward, over = world.step(action)
            theirs = state_to_json(world.state)
            for field, value in state_to_json(state).items():
                assert value == theirs[field], (seed, action, field)
            assert (reward, is_over(state)) == (pytest.approx(their_reward), over)
            if over:
                break


@needs_package
def test_first_states_equal_the_package():
    from crafter_package import PackageWorld

    for seed, size in ((5, (64, 64)), (6, (9, 9)), (7, (30, 17))):
        theirs = PackageWorld(size, seed=seed).state
        assert state_to_json(initial_state(size, seed=seed)) == state_to_json(theirs)


def test_noise_equals_the_recorded_values():
    for seed in {row[0] for row in RECORDED["noise"]}:
        rows = np.array([row[1:] for row in RECORDED["noise"] if row[0] == seed])
        noise = OpenSimplex(seed)
        ours = [noise(rows[i : i + 1, 0], rows[i : i + 1, 1], z) for i, z in enumerate(rows[:, 2])]
        np.testing.assert_allclose(np.concatenate(ours), rows[:, 3], rtol=1e-12, atol=1e-14)


# --- Against closed forms ---------------------------------------------------------------------


def do(state: WorldState, action: str) -> WorldState:
    return transition(state, action)[0]


def test_a_step_leaves_its_input_as_it_was():
    state = random_start(3)
    before = json.dumps(state_to_json(state))
    for action in ACTIONS:
        transition(state, action)
    assert json.dumps(state_to_json(state)) == before


def test_daylight_has_the_published_values():
    assert daylight(0) == pytest.approx(0.7969, abs=1e-4)
    assert daylight(210) == pytest.approx(0, abs=1e-12)
    assert {t for t in range(300) if daylight(t) < 0.5} == set(range(148, 273))


@pytest.mark.parametrize(("item", "period"), [("food", 26), ("drink", 21), ("energy", 31)], ids=str)
def test_needs_grow_at_their_own_pace(item, period):
    state = meadow(inventory={"food": 9, "drink": 9, "energy": 9})
    amounts = []
    for _ in range(2 * period):
        state = do(state, "noop")
        amounts.append(state.player.inventory[item])
    falls = [step for step in range(1, len(amounts)) if amounts[step] < amounts[step - 1]]
    assert [step + 1 for step in falls] == [period, 2 * period]


def quiet(**player) -> list[int]:
    """Return the health after each of 40 steps without any creature."""
    state = meadow(**player)
    healths = []
    for _ in range(40):
        state = do(state, "noop")
        state.objects = state.objects[:1]
        healths.append(state.player.health)
    return healths


def test_health_returns_and_wears_off_at_their_own_pace():
    assert quiet(health=5).index(6) + 1 == 26
    asleep = quiet(health=5, sleeping=True, inventory={"energy": 1})
    assert asleep.index(6) + 1 == 13
    starving = quiet(health=5, inventory={"food": 0})
    assert [starving.index(4) + 1, starving.index(3) + 1] == [16, 32]


def test_sleep_restores_energy_and_ends_by_itself():
    state = meadow(inventory={"energy": 8})
    for step in range(1, 13):
        state = do(state, "sleep")
        state.objects = state.objects[:1]
        assert (state.player.inventory["energy"] == 9) == (step >= 11)
    assert not state.player.sleeping
    assert state.player.achievements["wake_up"] == 1


@pytest.mark.parametrize(
    ("creature", "swords", "hits"),
    [
        (Zombie, ("wood_sword",), 3), (Cow, ("wood_sword",), 2), (Skeleton, ("wood_sword",), 2),
        (Zombie, (), 5), (Cow, (), 3), (Skeleton, (), 3),
        (Zombie, ("wood_sword", "iron_sword"), 1),
    ],
)  # fmt: skip
def test_swords_shorten_fights(creature, swords, hits):
    state = meadow(creature(2, (4, 5)), inventory=dict.fromkeys(swords, 1))
    for _ in range(hits):
        assert len(state.objects) == 2
        state.objects[1].position = (4, 5)
        state = do(state, "do")
    assert len(state.objects) == 1


def test_a_ripe_plant_feeds_and_starts_again_and_an_unripe_one_only_grows():
    for grown, food, after in ((301, 4, 1), (100, 0, 101)):
        state = do(meadow(Plant(2, (4, 5), grown=grown), inventory={"food": 0}), "do")
        assert state.player.inventory["food"] == food
        assert state.objects[1].grown == after


def test_an_arrow_breaks_a_table():
    state = meadow(Arrow(2, (2, 2), facing=(1, 0)))
    state = do(put(state, "table", (3, 2)), "noop")
    assert len(state.objects) == 1
    assert state.materials[3, 2] == MATERIAL_INDEX["path"]


@pytest.mark.parametrize("material", ["water", "lava"])
def test_stone_but_no_table_can_be_placed_on_liquids(material):
    state = put(meadow(inventory={"stone": 1, "wood": 2}), material)
    assert do(state, "place_stone").materials[4, 5] == MATERIAL_INDEX["stone"]
    assert do(state, "place_table").materials[4, 5] == MATERIAL_INDEX[material]


def test_costs_are_those_of_this_version():
    assert do(meadow(inventory={"stone": 3}), "place_furnace").player.inventory["stone"] == 3
    assert do(meadow(inventory={"stone": 4}), "place_furnace").player.inventory["stone"] == 0
    both = put(put(meadow(inventory={"wood": 1, "coal": 1, "iron": 1}), "table"), "furnace", (3, 4))
    assert do(both, "make_iron_pickaxe").player.inventory["iron_pickaxe"] == 1


def test_nothing_can_be_made_at_the_near_edges():
    for position, made in (((0, 4), 0), ((4, 0), 0), ((8, 4), 1)):
        state = meadow(inventory={"wood": 1}, position=position)
        state = put(state, "table", (min(position[0] + 1, 7), max(position[1], 1)))
        assert do(state, "make_wood_pickaxe").player.inventory["wood_pickaxe"] == made


def test_lava_kills():
    state, reward = transition(put(meadow(), "lava"), "move_down")
    assert state.player.position == (4, 5)
    assert is_over(state)
    assert reward == pytest.approx(-0.9)


def test_beyond_the_edge_there_is_nothing():
    state = meadow(position=(0, 0), facing=(-1, 0))
    assert do(state, "move_left").player.position == (0, 0)
    assert do(state, "do").player.inventory == state.player.inventory


def test_saplings_come_from_a_tenth_of_the_grass():
    state, found = meadow(), 0
    for _ in range(2_000):
        state.player.inventory["sapling"] = 0
        state.player.health = 9
        state.objects = state.objects[:1]
        state = do(state, "do")
        found += state.player.inventory["sapling"]
    assert abs(found / 2_000 - 0.1) < 0.02


def test_two_things_achieved_at_once_earn_one_bonus():
    # Waking up and drinking in the same step.
    state = put(meadow(sleeping=True), "water")
    after, reward = transition(state, "do")
    gained = [name for name in ACHIEVEMENTS if after.player.achievements[name]]
    assert gained == ["collect_drink", "wake_up"]
    assert reward == 1.0


def test_an_adjacent_zombie_hits_every_sixth_step():
    state = meadow(Zombie(2, (4, 5)), inventory={"food": 9})
    # Walled in, so that it stays where it is.
    for at in ((3, 5), (5, 5), (4, 6)):
        put(state, "stone", at)
    hits = []
    for step in range(1, 20):
        before = state.player.health
        state.step_count = 0  # never a tenth step: nothing appears or vanishes
        state = do(state, "noop")
        hits += [step] if state.player.health <= before - 2 else []
        state.player.health = state.player.last_health = 9
    assert hits == [1, 7, 13, 19]


def frequencies(creature: Entity, draws: int = 4_000) -> dict:
    counts: dict = {}
    state = meadow(creature)
    for _ in range(draws):
        fresh = meadow(type(creature)(2, creature.position))
        fresh.random = state.random
        state = do(fresh, "noop")
        moved = next(e for e in state.objects if e.entity_id == 2).position
        key = (moved[0] - creature.position[0], moved[1] - creature.position[1])
        key = "shot" if len(state.objects) > 2 else key
        counts[key] = counts.get(key, 0) + 1 / draws
    return counts


def test_creatures_move_with_the_derived_probabilities():
    cow = frequencies(Cow(2, (1, 1)))
    assert cow[0, 0] == pytest.approx(0.5, abs=0.03)
    assert cow[1, 0] == pytest.approx(0.125, abs=0.02)
    zombie = frequencies(Zombie(2, (1, 2)))  # three tiles right and two down of it is the player
    assert zombie[1, 0] == pytest.approx(0.745, abs=0.03)
    assert zombie[0, 1] == pytest.approx(0.205, abs=0.03)
    assert zombie[-1, 0] == pytest.approx(0.025, abs=0.01)


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match=r"unknown action 'jump'"):
        transition(meadow(), "jump")
    with pytest.raises(UserError, match=r"size must be at least \(3, 3\), got \(2, 9\)"):
        initial_state((2, 9))
