"""A model has the laws it predicts like, in whatever words, and lacks those it does not know."""

from crafter_starts import meadow

from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.fitting import fit
from rlssm.world_models.oracle_laws import oracle_laws
from rlssm.world_models.record import Record
from rlssm.world_models.recovery import recovered


def test_known_laws_are_found_in_themselves_and_missed_where_left_out():
    state, life = meadow(), []
    for step in range(24):
        action = ("move_left", "move_right", "noop")[step % 3]
        after, _ = transition(state, action)
        life.append((state, action, after))
        state = after
    record = Record(CrafterView(), life)
    known = oracle_laws()
    whole = dict(recovered(fit(record, known).model, known, record))
    assert all(whole.values()) and "turning" in {law.name for law in whole}
    without = [law for law in known if law.name != "turning"]
    part = {law.name: has for law, has in recovered(fit(record, without).model, known, record)}
    assert not part.pop("turning") and all(part.values())
