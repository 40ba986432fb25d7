"""Pruning, which looks at what is alike once, against the whole record scored anew for each law."""

from dataclasses import replace

import numpy as np
import pytest
from crafter_laws import LAWS
from test_fitting import crafter_record, lit_walk, random_walk

from rlssm.world_models.fitting import fit, log_probs
from rlssm.world_models.laws import Add, Law, Outcome, Set
from rlssm.world_models.likelihood import Model
from rlssm.world_models.object_view import Observable
from rlssm.world_models.pruning import guard_of, worth_keeping
from rlssm.world_models.record import Record
from rlssm.world_models.small_laws import lit_walk_laws


def kept_slowly(record, model, cost):
    """Drop one law after the other, and score every transition with and without it."""

    def total(kept):
        some = replace(
            model,
            laws=tuple(model.laws[i] for i in kept),
            weights=tuple(model.weights[i] for i in kept),
        )
        return log_probs(some, record).sum()

    kept = list(range(len(model.laws)))
    for law in sorted(kept, key=lambda index: model.weights[index]):
        rest = [index for index in kept if index != law]
        alike = [guard_of(model.laws[i]) == guard_of(model.laws[law]) for i in rest]
        if total(kept) - total(rest) < cost(model.laws[law], any(alike)):
            kept = rest
    return kept


def walking():
    """Laws that set and that add to one number, some of them of no use."""
    more = (
        Law("hops", "walker", Observable("self", "position"), (Outcome(Add(2), -0.3),)),
        Law("starts anew", "walker", Observable("self", "position"),
            (Outcome(Set(3), -0.2), Outcome(Set(11), -1.0)), actions=frozenset({"stay"})),
    )  # fmt: skip
    record = Record(lit_walk(), random_walk(lit_walk(), 60))
    return record, (*lit_walk_laws().values(), *more)


def crafting():
    return crafter_record(reference=False), LAWS


@pytest.mark.parametrize("make", [walking, crafting])
@pytest.mark.parametrize("price", [0.5, 4.0])
def test_laws_are_kept_that_pay_for_their_length(make, price):
    record, laws = make()
    rng = np.random.default_rng(1)
    model = Model(record.world, laws, tuple(rng.uniform(0.0, 1.2, len(laws))), {"cow.health": 0.01})

    def cost(law, shared):
        return price * (1 + len(law.tests)) - shared

    kept = worth_keeping(record, model, record.gathered(laws), cost)
    assert kept == kept_slowly(record, model, cost)
    assert 0 < len(kept) < len(laws)


def test_of_two_laws_that_say_the_same_one_is_kept():
    record, laws = walking()
    (right,) = [law for law in laws if law.name == "right: movement"][:1] or laws[:1]
    twice = (right, replace(right, name="again"))
    model = fit(record, twice).model
    kept = worth_keeping(record, model, record.gathered(model.laws), lambda law, shared: 3.0)
    assert len(kept) == 1
