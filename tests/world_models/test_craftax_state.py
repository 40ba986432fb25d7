"""Craftax-Classic as objects: a state made by hand, and lives of the package where it is there."""

import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.world_models.craftax_state import (
    CRAFTAX_VIEW,
    Identities,
    from_craftax,
    load_craftax,
)
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.json_reader import Node
from rlssm.world_models.law_json import model_from_json, model_to_json
from rlssm.world_models.likelihood import Model, log_prob, sample
from rlssm.world_models.oracle_laws import oracle_laws
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    ITEMS,
    Arrow,
    Cow,
    Plant,
    Skeleton,
    Zombie,
)
from rlssm.world_models.schema_json import state_to_json

ROWS, COLUMNS = 13, 14


def mobs(*rows):
    """Return slots from (row, column, health, mask, cooldown)."""
    table = np.array(rows)
    return SimpleNamespace(
        position=table[:, :2], health=table[:, 2], mask=table[:, 3] > 0, attack_cooldown=table[:, 4]
    )


def state_by_hand(**changes):
    blocks = np.full((ROWS, COLUMNS), 2)
    blocks[3, 7], blocks[4, 7], blocks[5, 7], blocks[0, 0] = 5, 11, 16, 1
    done = np.zeros(22, bool)
    done[[0, 15]] = True  # collect_wood and wake_up
    fields = dict(
        map=blocks,
        player_position=np.array([6, 2]),
        player_direction=2,
        player_health=7, player_food=6, player_drink=5, player_energy=4,
        is_sleeping=False,
        player_recover=-2.5, player_hunger=3.0, player_thirst=1.5, player_fatigue=8.0,
        inventory=SimpleNamespace(**{item: i for i, item in enumerate(ITEMS[3:])}),
        zombies=mobs((1, 2, 5, 1, 3), (9, 9, 5, 0, 0), (2, 3, 4, 1, -1)),
        cows=mobs((8, 1, 3, 1, 0)),
        skeletons=mobs((5, 5, 3, 0, 0), (12, 13, 2, 1, 4)),
        arrows=mobs((4, 4, 0, 1, 0)),
        arrow_directions=np.array([[1, 0]]),
        growing_plants_positions=np.array([[5, 7], [1, 1]]),
        growing_plants_age=np.array([600, 599]),
        growing_plants_mask=np.array([True, True]),
        achievements=done,
        timestep=11,
    )  # fmt: skip
    return SimpleNamespace(**(fields | changes))


def test_every_field_has_its_place():
    identities = Identities()
    state = from_craftax(state_by_hand(), identities, "do")
    assert state.size == (COLUMNS, ROWS)
    names = state_to_json(state)["materials"]
    assert (names[7][3], names[7][4], names[7][5], names[0][0]) == ("tree", "table", "grass", None)
    player, *others = state.objects
    assert (player.position, player.facing, player.action) == ((2, 6), (1, 0), "do")
    assert (player.health, player.last_health, player.sleeping) == (7, 7, False)
    assert [player.inventory[item] for item in ITEMS] == [6, 5, 4, *range(12)]
    assert (player.hunger, player.thirst, player.fatigue, player.recover) == (3.0, 1.5, 8.0, -2.5)
    achieved = [name for name in ACHIEVEMENTS if player.achievements[name]]
    assert achieved == ["collect_wood", "wake_up"]
    assert others == [
        Zombie(2, (2, 1), 5, cooldown=3),
        Zombie(3, (3, 2), 4, cooldown=0),
        Cow(4, (1, 8), 3),
        Skeleton(5, (13, 12), 2, reload=4),
        Arrow(6, (4, 4), 0, facing=(0, 1)),
        Plant(7, (7, 5), grown=301),
        Plant(8, (1, 1), grown=300),
    ]
    assert [other.ripe for other in others[-2:]] == [True, False]
    assert (state.next_id, state.step_count) == (9, 11)
    assert state.known_chunks == [(0, 12, 0, 12), (12, 14, 12, 13)]


def test_slots_keep_their_ids_and_new_ones_get_new_ids():
    identities = Identities()
    from_craftax(state_by_hand(), identities)
    later = state_by_hand(zombies=mobs((1, 3, 5, 1, 3), (9, 9, 5, 1, 0), (2, 3, 4, 0, 0)))
    state = from_craftax(later, identities)
    ids = {entity.entity_id: entity.position for entity in state.objects if entity.kind == "zombie"}
    assert ids == {2: (3, 1), 9: (9, 9)}
    back = from_craftax(state_by_hand(), identities)
    assert [e.entity_id for e in back.objects if e.kind == "zombie"] == [2, 10]
    assert back.next_id == 11


def test_laws_speak_about_it_but_laws_of_crafter_are_refused_here():
    identities = Identities()
    before, after = (
        from_craftax(state_by_hand(timestep=t, player_hunger=float(t)), identities) for t in (3, 4)
    )
    laws = oracle_laws()
    model = Model(CRAFTAX_VIEW, laws, (1.0,) * len(laws))
    assert np.isfinite(log_prob(model, before, "noop", after))
    sample(model, before, "noop", np.random.default_rng(0))
    written = model_to_json(Model(CrafterView(), (), ()))
    with pytest.raises(UserError, match="world"):
        model_from_json(Node(written, "file"), CRAFTAX_VIEW)
    with pytest.raises(UserError, match="unknown action 'fly'"):
        from_craftax(state_by_hand(), identities, "fly")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "craftax", None)
    with pytest.raises(UserError, match=r"Craftax-Classic needs craftax; .*'rlssm\[craftax\]'"):
        load_craftax()


@pytest.mark.slow
def test_a_life_of_the_package_is_seen_whole():
    pytest.importorskip("craftax", reason="the package craftax is not installed")
    world, identities = load_craftax(), Identities()
    key = jax.random.key(0)
    inner = world.reset(key)
    state, rng = from_craftax(inner, identities), np.random.default_rng(0)
    for turn in range(60):
        action = int(rng.choice(len(ACTIONS)))
        inner, _ = world.step(jax.random.fold_in(key, turn), inner, action)
        after = from_craftax(jax.device_get(inner), identities, ACTIONS[action])
        scene = CRAFTAX_VIEW.scene(state, ACTIONS[action])
        again = CRAFTAX_VIEW.apply(scene, CRAFTAX_VIEW.changes(scene, after).values)
        assert again.player == after.player and (again.materials == after.materials).all()
        assert after.step_count == state.step_count + 1
        state = after
    assert len({entity.kind for entity in state.objects}) > 1
