"""One observable's distribution, against sums written out over every value."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlssm.world_models.likelihood import (
    NOISE,
    Distribution,
    Model,
    add_one,
    add_up,
    fit_persistence,
    multiply,
    score,
)
from rlssm.world_models.object_view import Choices, Displacements, Numbers
from rlssm.world_models.small_laws import deterministic_laws
from rlssm.world_models.small_worlds import deterministic_switches

COUNT = Numbers(0, 9)
HALVES = Numbers(-1, 3, 0.5)

scores = st.floats(-4, 4)
weights = st.floats(0, 2)


def softmax(logits: dict) -> dict:
    """Return the normalised exponentials, term by term."""
    total = sum(math.exp(value) for value in logits.values())
    return {key: math.exp(value) / total for key, value in logits.items()}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.dictionaries(st.integers(-2, 11), scores), weights), max_size=4))
def test_sparse_products_equal_dense_ones(votes):
    dense = {
        value: sum(weight * vote.get(value, NOISE) for vote, weight in votes) for value in COUNT
    }
    ours = multiply(COUNT, [vote for vote, _ in votes], [weight for _, weight in votes])
    assert ours.table() == pytest.approx(softmax(dense))
    assert ours.log_prob(10) == -math.inf


def cause_table(domain: Numbers, old: float, cause: dict, weight: float) -> dict:
    """Return the distribution of one cause's amount: what it names, and what leads inside."""
    logits = {value - old: 0.0 for value in domain}
    logits |= {amount: weight * (score - NOISE) for amount, score in cause.items()}
    return softmax(logits)


def summed(domain, starts: dict, amounts: list[dict]) -> dict:
    """Return the distribution of the clamped sum, over every combination."""
    result = dict.fromkeys(domain, 0.0)
    for (start, p), *rest in itertools.product(starts.items(), *(a.items() for a in amounts)):
        value = domain.clamp(start + sum(amount for amount, _ in rest))
        result[value] += p * math.prod(q for _, q in rest)
    return result


causes_of_counts = st.lists(
    st.tuples(st.dictionaries(st.integers(-12, 12), scores, min_size=1, max_size=3), weights),
    min_size=1,
    max_size=2,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), causes_of_counts)
def test_causes_add_up_as_their_sums_do(old, causes):
    tables = [cause_table(COUNT, old, *cause) for cause in causes]
    ours = add_up(COUNT, old, None, *zip(*causes, strict=True))
    assert ours.table() == pytest.approx(summed(COUNT, {old: 1.0}, tables), abs=1e-12)
    if len(causes) == 1:
        assert add_one(COUNT, old, *causes[0]).table() == pytest.approx(ours.table(), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(COUNT)), causes_of_counts, st.dictionaries(st.integers(0, 9), scores))
def test_causes_add_to_what_other_laws_set(old, causes, setter):
    base = multiply(COUNT, [setter], [0.7])
    tables = [cause_table(COUNT, old, *cause) for cause in causes]
    ours = add_up(COUNT, old, base, *zip(*causes, strict=True))
    assert ours.table() == pytest.approx(summed(COUNT, base.table(), tables), abs=1e-12)


def test_half_steps_add_up_too():
    causes = [({0.5: 0.0, -1.5: 1.0}, 1.2), ({2.0: 0.3}, 0.4)]
    tables = [cause_table(HALVES, 1.5, *cause) for cause in causes]
    ours = add_up(HALVES, 1.5, None, *zip(*causes, strict=True))
    assert ours.table() == pytest.approx(summed(HALVES, {1.5: 1.0}, tables), abs=1e-12)
    single = add_one(HALVES, 1.5, *causes[0])
    assert single.table() == pytest.approx(summed(HALVES, {1.5: 1.0}, tables[:1]), abs=1e-12)


def test_two_hits_and_a_meal_are_exact_at_full_weight():
    # Health 8 under two zombies: 4. Food 9, six more and one less: still 9, not 8.
    health = add_up(COUNT, 8, None, [{-2: 0.0}, {-2: 0.0}], [10.0, 10.0])
    assert health.table()[4] == pytest.approx(1)
    food = add_up(COUNT, 9, None, [{6: 0.0}, {-1: 0.0}], [10.0, 10.0])
    assert food.table()[9] == pytest.approx(1)


def test_samples_follow_the_table_named_or_not():
    distribution = Distribution(COUNT, {3: math.log(0.5)}, math.log(0.5 / 9))
    rng = np.random.default_rng(0)
    drawn = [distribution.sample(rng) for _ in range(4_000)]
    for value, probability in distribution.table().items():
        assert drawn.count(value) / len(drawn) == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    "domain",
    [COUNT, HALVES, Choices(("a", "b")), Displacements((1, 2), (4, 3))],
    ids=["count", "halves", "choices", "displacements"],
)
def test_domains_hold_what_they_list(domain):
    values = list(domain)
    assert len(values) == len(set(values)) == domain.size
    assert all(domain.contains(value) for value in values)


def test_domains_refuse_what_they_do_not_list():
    assert not any(map(COUNT.contains, (-1, 10, 0.5, "a", (0, 0))))
    assert not HALVES.contains(0.25)
    moves = Displacements((1, 2), (4, 3))
    assert moves.contains("left") and moves.contains((2, -2))
    assert not moves.contains("down") and not moves.contains((-2, 0))


def test_persistence_is_fitted_to_what_no_law_explains():
    world = deterministic_switches()
    law = deterministic_laws()["right: toggle_a flips a"]
    model = Model(world, (law,), (1.0,))
    rng, state, transitions = np.random.default_rng(0), world.initial, []
    for action in ["toggle_a"] * 8 + ["toggle_b"] * 3:
        after = world.step(state, action, rng)
        transitions.append((state, action, after))
        state = after
    fitted = fit_persistence(model, transitions)
    # Switch a: 3 uncovered items, none changed. Switch b: 11, of which 3 changed.
    assert fitted == pytest.approx({"machine.switch_a": 0.5 / 4, "machine.switch_b": 3.5 / 12})
    parts = score(Model(world, (law,), (1.0,), fitted), *transitions[-1])
    assert list(parts.unexplained.values()) == pytest.approx([math.log(3.5 / 12)])
    assert parts.persisted == pytest.approx({"machine.switch_a": math.log(1 - 0.5 / 4)})
