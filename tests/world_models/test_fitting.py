"""The compiled likelihood against scores one by one and enumeration; fits, known optima."""

import math
from dataclasses import replace

import numpy as np
import pytest
from crafter_laws import LAWS
from crafter_starts import random_start

from rlssm.errors import UserError
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.evidence import Evidence
from rlssm.world_models.fitting import fit, log_probs, prune
from rlssm.world_models.laws import Add, Law, Outcome, Set, Test, evaluate
from rlssm.world_models.likelihood import Model, fit_persistence, log_prob, predict, sample
from rlssm.world_models.object_view import Observable
from rlssm.world_models.record import Record
from rlssm.world_models.schema import ACTIONS
from rlssm.world_models.small_laws import deterministic_laws, lit_walk_laws, mixed_laws
from rlssm.world_models.small_worlds import deterministic_switches, lit_walk, mixed_switches

SMALL = [
    (deterministic_switches, tuple(deterministic_laws().values())),
    (mixed_switches, tuple(mixed_laws().values())),
    (lit_walk, tuple(lit_walk_laws().values())),
]
EACH = pytest.mark.parametrize(("make", "laws"), SMALL, ids=["deterministic", "mixed", "walk"])
BOTH = pytest.mark.parametrize("reference", [False, True])


def walk(world, actions, seed=42):
    rng, state, transitions = np.random.RandomState(seed), world.initial, []
    for action in actions:
        after = world.step(state, action, rng)
        transitions.append((state, action, after))
        state = after
    return transitions


def random_walk(world, steps, seed=42):
    choices = np.random.RandomState(seed + 1).randint(0, len(world.actions), steps)
    return walk(world, [world.actions[i] for i in choices], seed)


def crafter_record(reference, count=60):
    world, transitions = CrafterView(reference), []
    for seed in range(count):
        state, action = random_start(seed), ACTIONS[seed % len(ACTIONS)]
        transitions.append((state, action, transition(state, action)[0]))
    return Record(world, transitions)


# --- Likelihoods ------------------------------------------------------------------------------


def doubled(laws):
    """Return laws and some that disagree with them: set and add, several ways to one number."""
    more = (
        Law("hops", "walker", Observable("self", "position"),
            (Outcome(Add(2), -0.3), Outcome(Add(1), -1.5), Outcome(Add(-4), -2.0))),
        Law("starts anew", "walker", Observable("self", "position"),
            (Outcome(Set(3), -0.2), Outcome(Set(11), -1.0)), actions=frozenset({"stay"})),
    )  # fmt: skip
    return (*laws, *more) if any(law.scope == "walker" for law in laws) else laws


@BOTH
@EACH
def test_compiled_likelihood_equals_scores_and_enumeration(make, laws, reference):
    world, laws = make(reference), doubled(laws)
    rng = np.random.default_rng(0)
    record = Record(world, random_walk(world, 60))
    for _ in range(3):
        weights = tuple(rng.uniform(0, 1.5, len(laws)))
        persistence = {} if reference else {"machine.switch_a": 0.2, "light.on": 0.3}
        model = Model(world, laws, weights, persistence)
        ours = log_probs(model, record)
        assert ours == pytest.approx([log_prob(model, *t) for t in record.transitions])
    # Over every value of every observable the compiled probabilities add up to one.
    state = world.initial
    for action in world.actions:
        for key, dist in predict(model, world.scene(state, action)).items():
            index = [thing.id for thing in state].index(key.owner)
            nexts = [
                tuple(t.set(key.attribute, v) if i == index else t for i, t in enumerate(state))
                for v in dist.domain
            ]
            other = Record(world, [(state, action, after) for after in nexts])
            evidence = Evidence(other, laws)
            found = evidence.item_log_probs(np.array(weights), evidence.logits())
            keyed = [k for _, k in other.votes(laws)]
            mine = [found[i] for (_, i), k in zip(evidence.where, keyed, strict=True) if k == key]
            assert sum(map(math.exp, mine)) == pytest.approx(1)


@BOTH
def test_compiled_likelihood_equals_scores_in_crafter(reference):
    record = crafter_record(reference)
    weights = tuple(np.random.default_rng(1).uniform(0.2, 2, len(LAWS)))
    model = Model(record.world, LAWS, weights, {} if reference else {"cow.health": 0.01})
    expected = [log_prob(model, *transition) for transition in record.transitions]
    assert log_probs(model, record) == pytest.approx(expected)
    if not reference:
        fitted = Evidence(record, LAWS).unspoken.persistence()
        assert fitted == pytest.approx(fit_persistence(model, record.transitions))


@BOTH
def test_votes_by_column_are_those_of_each_scene(reference):
    record = crafter_record(reference, 40)
    votes = record.votes(LAWS)
    for t, (scene, changes) in enumerate(zip(record.scenes, record.changes, strict=True)):
        said = {k: v for k, v in evaluate(LAWS, scene, reference).items() if changes.observed(k)}
        assert said == {key: v for (at, key), v in votes.items() if at == t}


def test_tiles_of_which_the_same_is_said_count_as_often_as_they_are():
    record = crafter_record(reference=False)
    none, born = Outcome(Set("none"), -0.1), Outcome(Set("new"), -2.0)
    births = [
        Law(kind, "chunk", Observable(f"{tile} tiles", f"birth.{kind}"), (none, born))
        for tile in ("grass", "sand") for kind in ("zombie", "plant")
    ]  # fmt: skip
    again = replace(births[0], tests=(Test("chunk.grass", ">=", 20),))
    laws = (*LAWS, *births, again)  # "planting" among the first is about one of the tiles
    expanded, gathered = record.votes(laws), record.gathered(laws)
    assert len(gathered.votes) < len(expanded) / 3 and max(gathered.times.values()) > 20
    slow, fast = Evidence(record, laws, expanded), Evidence(record, laws)
    assert fast.times.sum() == len(expanded) == slow.times.sum()
    weights = np.random.default_rng(4).uniform(0.2, 1.5, len(laws))
    persistence = {"cow.health": 0.01, "tile.birth.cow": 0.002}
    ours = fast.log_probs(weights, persistence)
    assert ours == pytest.approx(slow.log_probs(weights, persistence))
    value, slope, _ = fast.gradient(weights, fast.logits())
    other, other_slope, _ = slow.gradient(weights, slow.logits())
    assert value == pytest.approx(other) and slope == pytest.approx(other_slope)
    assert fast.unspoken.persistence() == pytest.approx(slow.unspoken.persistence())
    born_here = [key for t, c in enumerate(record.changes) for key in c.values if "birth" in key[2]]
    assert born_here


@BOTH
@EACH
def test_gradients_equal_finite_differences(make, laws, reference):
    world, laws = make(reference), doubled(laws)
    evidence = Evidence(Record(world, random_walk(world, 40)), laws)
    rng = np.random.default_rng(2)
    weights, logits = rng.uniform(0.1, 0.8, len(laws)), evidence.logits() - rng.uniform(0, 1)
    _, by_weight, by_logit = evidence.gradient(weights, logits)

    def value(w, logit):
        return evidence.gradient(w, logit)[0]

    eps = 1e-6
    for i, step in enumerate(np.eye(len(weights)) * eps):
        slope = (value(weights + step, logits) - value(weights - step, logits)) / (2 * eps)
        assert by_weight[i] == pytest.approx(slope, rel=1e-5, abs=1e-5)
    if not reference:
        for i, step in enumerate(np.eye(len(logits)) * eps):
            slope = (value(weights, logits + step) - value(weights, logits - step)) / (2 * eps)
            assert by_logit[i] == pytest.approx(slope, rel=1e-5, abs=1e-5)


@BOTH
@EACH
def test_parts_are_the_whole(make, laws, reference):
    world, laws = make(reference), doubled(laws)
    evidence = Evidence(Record(world, random_walk(world, 40)), laws)
    rng = np.random.default_rng(3)
    weights, logits = rng.uniform(0.1, 0.8, len(laws)), evidence.logits() - rng.uniform(0, 1)
    value, by_weight, by_logit = evidence.gradient(weights, logits)
    total, at_weight, at_logit = 0.0, np.zeros(len(weights)), np.zeros(len(logits))
    for part in evidence.parts:
        own, slope, logit_slope = part.items.gradient(
            weights[part.laws], logits[part.logits], evidence.count[part.numbers]
        )
        total += own
        at_weight[part.laws] += slope
        at_logit[part.logits] += logit_slope
    assert len(evidence.parts) > 1 or reference or make is lit_walk
    assert total == pytest.approx(value)
    assert at_weight == pytest.approx(by_weight, abs=1e-9)
    assert at_logit == pytest.approx(by_logit, abs=1e-9)


def test_parts_fitted_apart_are_a_minimum_of_the_whole():
    """No weight, and no log probability of an outcome, can be changed to the better."""
    record = crafter_record(reference=False)
    evidence = Evidence(record, LAWS)
    assert len(evidence.parts) > 5
    found = fit(record, LAWS, l1=0.5, evidence=evidence).model
    logits = np.array([o.logit for law in found.laws for o in law.outcomes])
    weights = np.array(found.weights)
    _, by_weight, by_logit = evidence.gradient(weights, logits)
    heard = sorted({saying.law for saying in evidence.sayings})
    slope = (0.5 - by_weight)[heard]
    free = (weights[heard] > 0) & (weights[heard] < 10)
    assert free.any()
    assert slope[free] == pytest.approx(0, abs=1e-3)
    assert (slope[weights[heard] == 0] > -1e-3).all()
    for number in heard:
        if len(found.laws[number].outcomes) > 1:
            own = evidence.of_law(number)
            pull = by_logit[own] + 0.5  # half a count for each outcome
            tangent = pull - np.exp(logits[own]) * pull.sum()
            assert tangent == pytest.approx(0, abs=1e-3)


def test_a_fit_that_starts_elsewhere_ends_alike():
    record = crafter_record(reference=False)
    once = fit(record, LAWS)
    again = fit(record, once.model.laws, start=once.model.weights)
    assert again.objective == pytest.approx(once.objective, rel=1e-6)
    assert again.evaluations < once.evaluations / 2


def test_silent_laws_have_no_gradient():
    world = deterministic_switches()
    evidence = Evidence(Record(world, walk(world, ["toggle_a"] * 5)), SMALL[0][1])
    _, slope, _ = evidence.gradient(np.full(6, 0.5), evidence.logits())
    assert (slope[[1, 3, 5]] == 0).all() and (slope[[0, 2, 4]] != 0).all()


# --- Known optima -----------------------------------------------------------------------------


def test_the_deterministic_optimum_is_found():
    world = deterministic_switches(reference=True)
    record = Record(world, walk(world, ["toggle_a"] * 43 + ["toggle_b"] * 32))
    found = fit(record, SMALL[0][1])
    assert found.model.weights == pytest.approx([1.296, 1.268, 0, 0, 0, 0], abs=0.002)
    assert found.objective == pytest.approx(51.99, abs=0.005)
    pruned = prune(found.model)
    assert [law.name[:5] for law in pruned.laws] == ["right", "right"]
    rng = np.random.default_rng(0)
    for _ in range(100):
        after = sample(pruned, world.initial, "toggle_a", rng)
        assert after[0].attributes == (("switch_a", 1), ("switch_b", 1))


def test_the_mixed_optimum_is_found():
    """32 flips, 25 nothings and 18 redraws of which 10 kept the value, as in the published run."""
    world = mixed_switches(reference=True)
    keeps = iter([True] * 10 + [False] * 8)
    state, transitions = world.initial, []
    for action in ["flip"] * 32 + ["redraw"] * 18 + ["nothing"] * 25:
        options = list(world.enumerate_step(state, action))
        after = options[0] if len(options) == 1 else None
        if after is None:
            keep = next(keeps)
            after = next(o for o in options if (o == state) == keep)
        transitions.append((state, action, after))
        state = after
    found = fit(Record(world, transitions), SMALL[1][1])
    weights = dict(zip([law.name for law in SMALL[1][1]], found.model.weights, strict=True))
    assert weights["right: flip"] == pytest.approx(1.268, abs=0.002)
    assert weights["right: nothing"] == pytest.approx(1.243, abs=0.002)
    assert weights["right: redraw"] == pytest.approx(0, abs=1e-6)
    assert weights["wrong: redraw does nothing"] == pytest.approx(0.022, abs=0.001)
    wrong = [w for name, w in weights.items() if "wrong" in name and "redraw does" not in name]
    assert max(wrong) == pytest.approx(0, abs=1e-6)
    assert found.objective == pytest.approx(12.37, abs=0.01)


def table(model, action, attribute):
    (dist,) = [
        d
        for key, d in predict(model, model.world.scene(model.world.initial, action)).items()
        if key.attribute == attribute
    ]
    return dist.table()


@pytest.mark.parametrize("schedule", ["converged", "published"])
@BOTH
def test_fitted_switches_behave_as_the_true_ones(reference, schedule):
    world = mixed_switches(reference)
    found = fit(Record(world, random_walk(world, 75)), SMALL[1][1], schedule).model
    assert table(found, "flip", "deterministic")[1] >= 0.9
    assert table(found, "nothing", "static")[0] >= 0.9
    assert max(table(found, "redraw", "stochastic").values()) <= 0.7
    world = deterministic_switches(reference)
    laws = SMALL[0][1]
    weights = fit(Record(world, random_walk(world, 75)), laws, schedule).model.weights
    assert np.mean(weights[:2]) > np.mean(weights[2:])


@BOTH
def test_a_fitted_walk_ranks_between_the_true_one_and_none(reference):
    world = lit_walk(reference)
    laws = SMALL[2][1]
    train = Record(world, random_walk(world, 750))
    learned = fit(train, laws, "published" if reference else "converged").model
    null = Model(world, (), ()) if not reference else Model(world, laws, (0.0,) * len(laws))
    ranks = {}
    rng = np.random.default_rng(0)
    for name, score in {
        "true": lambda s, a, after: math.log(world.enumerate_step(s, a).get(after, 1e-300)),
        "learned": lambda s, a, after: log_prob(learned, s, a, after),
        "null": lambda s, a, after: log_prob(null, s, a, after),
    }.items():
        ranks[name] = []
        for state, action, after in random_walk(world, 50, seed=7):
            others = [distracted(after, shift, rng) for shift in (2, -1, 12)]
            scores = [score(state, action, other) for other in others if other != after]
            mine = score(state, action, after)
            ranks[name].append(1 / (1 + sum(s > mine for s in scores) + 0.5 * scores.count(mine)))
    mean = {name: np.mean(found) for name, found in ranks.items()}
    assert mean["true"] >= mean["learned"] - 0.02 and mean["learned"] > mean["null"]
    assert mean["learned"] > 0.8


def distracted(state, shift, rng):
    walker, *lights = state
    moved = walker.set("position", min(max(walker.get("position") + shift, 0), 11))
    flipped = [t.set("on", 1 - t.get("on")) if rng.random() < 0.5 else t for t in lights]
    return (moved, *flipped)


def test_default_mode_learns_outcome_logits_and_persistence():
    world = lit_walk()
    # A toggle of 0.2 and a slip of 0.1 from laws that start with equal outcomes.
    laws = [law for name, law in lit_walk_laws().items() if name.startswith("right")]
    flat = [replace(x, outcomes=tuple(Outcome(o.term) for o in x.outcomes)) for x in laws]
    record = Record(world, random_walk(world, 1500))
    found = fit(record, flat).model
    steps = [
        after[0].get("position") - state[0].get("position")
        for state, action, after in record.transitions
        if action == "right" and 0 < state[0].get("position") < 6
    ]
    share = steps.count(1) / len(steps)
    assert table(found, "right", "position")[4] == pytest.approx(share, abs=0.02)
    on = predict(found, world.scene(world.initial, "stay"))
    for key, dist in on.items():
        if key.attribute == "on":
            assert dist.table()[1] == pytest.approx(0.2, abs=0.03)
    # Standing still: no law speaks about the position, which never changed.
    stays = sum(action == "stay" for action in record.actions)
    assert found.persistence["walker.position"] == pytest.approx(0.5 / (stays + 1))
    exact = 0.0
    for state, action, after in record.transitions:
        exact += math.log(world.enumerate_step(state, action)[after])
    assert log_probs(found, record).sum() == pytest.approx(exact, abs=12)


def test_a_certain_law_is_left_the_doubt_of_half_a_miss():
    world = deterministic_switches()
    record = Record(world, walk(world, ["toggle_a"] * 40))
    found = fit(record, SMALL[0][1][:1]).model
    assert table(found, "toggle_a", "switch_a")[0] == pytest.approx(0.5 / 40, rel=0.05)


def test_wrong_schedules_and_costs_are_named():
    record = Record(deterministic_switches(), [])
    with pytest.raises(UserError, match="schedule must be converged or published, got 'fast'"):
        fit(record, (), "fast")
    with pytest.raises(UserError, match="l1 must be at least 0, got -1"):
        fit(record, (), l1=-1)


def test_an_empty_record_fits():
    found = fit(Record(deterministic_switches(), []), SMALL[0][1])
    assert found.model.laws == SMALL[0][1]
    assert found.model.weights == (0.0,) * 6
