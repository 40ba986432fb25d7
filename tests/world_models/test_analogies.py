"""Laws by analogy: what names promise, less what was seen to be otherwise."""

import pytest
from crafter_starts import meadow

from rlssm.world_models.analogies import analogies
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.deeds import needing
from rlssm.world_models.fitting import fit, weight_of
from rlssm.world_models.law_writing import write_law
from rlssm.world_models.laws import Add, Set, Test
from rlssm.world_models.likelihood import predict
from rlssm.world_models.record import Record
from rlssm.world_models.schema import MATERIAL_INDEX

TABLE = "near.table == true and player.thirst <= 4"
DEED = ["make_wood_pickaxe"]
MAKING = [
    write_law("makes", "player", "self.inventory.wood_pickaxe", Add(1), TABLE, DEED),
    write_law("uses", "player", "self.inventory.wood", Add(-1), TABLE, DEED),
]
STONE = "target.material == stone"
DIGGING = [
    write_law("gives", "player", "self.inventory.stone", Add(1), STONE, ["do"]),
    write_law("leaves", "player", "target.material", Set("path"), STONE, ["do"]),
]


def scene(action: str, front: str = "table", **held: int):
    state = meadow()
    state.objects = [state.player]
    state.materials[:] = MATERIAL_INDEX["grass"]
    state.materials[state.player.target] = MATERIAL_INDEX[front]
    state.player.inventory.update(held)
    return state, action, transition(state, action)[0]


def record(*scenes) -> Record:
    return Record(CrafterView(), scenes)


def by_effect(laws):
    return {(*sorted(law.actions), law.observable.attribute): law for law in laws}


def test_a_word_in_place_of_another_gives_the_laws_of_deeds_never_done():
    found = analogies(record(scene("noop")), MAKING)
    laws = by_effect(found.laws)
    made = {
        (f"make_{material}_{tool}", f"inventory.{item}")
        for material in ("wood", "stone", "iron") for tool in ("pickaxe", "sword")
        for item in (f"{material}_{tool}", material)
    }  # fmt: skip
    assert laws.keys() == {(deed, item) for deed, item in made if deed != DEED[0]}
    sword = laws["make_stone_sword", "inventory.stone_sword"]
    # What is used up must be held, and thirst, which names do not speak of, is left out.
    assert set(sword.tests) == {
        Test("near.table", "==", True), Test("player.inventory.stone", ">=", 1),
        Test("player.inventory.wood", ">=", 1),
    }  # fmt: skip
    assert found.confirmed == found.refuted == 0 and found.trust == 0.5
    assert {law.source for law in found.laws} == {"analogy"}


def test_all_that_comes_of_a_deed_is_carried_over_but_only_where_the_word_is_known():
    laws = by_effect(analogies(record(scene("noop")), DIGGING[:1]).laws)
    assert laws.keys() == {("do", f"inventory.{ore}") for ore in ("coal", "iron", "diamond")}
    both = analogies(record(scene("noop")), DIGGING).laws
    dug = {law.tests[0].value for law in both if law.observable.attribute == "material"}
    assert dug == {"coal", "iron", "diamond"}  # not grass or water, which nobody holds
    assert analogies(record(scene("noop")), DIGGING[1:]).laws == []


def test_what_was_seen_refutes_or_confirms():
    pickaxe = {"wood_pickaxe": 1, "wood": 1}
    seen = record(scene("do", "coal", **pickaxe), scene("do", "iron", **pickaxe))
    found = analogies(seen, DIGGING)
    laws = {law.observable.attribute for law in found.laws}
    assert {"inventory.coal", "inventory.diamond"} <= laws and "inventory.iron" not in laws
    assert (found.confirmed, found.refuted) == (2, 2)


def test_what_is_spoken_of_already_is_not_said_twice():
    known = write_law(
        "digs", "player", "target.material", Set("path"), "target.object == none", ["do"]
    )
    laws = analogies(record(scene("noop")), [*DIGGING, known]).laws
    assert {law.observable.attribute for law in laws} == {
        "inventory.coal", "inventory.iron", "inventory.diamond",
    }  # fmt: skip


def test_laws_ask_for_what_their_deed_needs():
    """Who always had wood at the table has not seen that a pickaxe takes both."""
    made = write_law("makes", "player", "self.inventory.wood_pickaxe", Add(1), "", DEED)
    count = write_law("counts", "player", "self.achievements.make_wood_pickaxe", Add(1), "", DEED)
    uses = write_law("uses", "player", "self.inventory.wood", Add(-1), "near.table == true", DEED)
    other = write_law("digs", "player", "self.inventory.stone", Add(1), STONE, ["do"])
    asked = needing(record(scene(DEED[0], wood=3)), [made, other, count, uses])
    needs = {Test("near.table", "==", True), Test("player.inventory.wood", ">=", 1)}
    assert [set(law.tests) for law in asked] == [needs, {*other.tests}, needs, needs]
    assert [law.name for law in asked] == ["makes", "digs", "counts", "uses"]


def test_laws_do_not_ask_for_what_was_not_needed():
    near = f"{STONE} and near.table == true"
    digging = [
        write_law("gives", "player", "self.inventory.stone", Add(1), near, ["do"]), DIGGING[1]
    ]  # fmt: skip
    far = record(scene("do", "stone", wood_pickaxe=1))
    assert needing(far, digging) == digging
    assert len(needing(record(scene("noop")), digging)[1].tests) == 2


@pytest.mark.parametrize("trust", [0.5, 0.9])
def test_a_law_that_never_spoke_is_believed_as_far_as_it_is_trusted(trust):
    coal = by_effect(analogies(record(scene("noop")), DIGGING[:1]).laws)["do", "inventory.coal"]
    model = fit(record(scene("noop")), [coal], trust=trust).model
    assert model.weights == (weight_of(coal, CrafterView(), trust),)
    state, action, _ = scene("do", "coal")
    (said,) = predict(model, CrafterView().scene(state, action)).values()
    assert said.table()[1] == pytest.approx(trust)
