"""Small worlds: their steps against exact enumeration, and laws against both."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from rlssm.errors import UserError
from rlssm.world_models.laws import Law, Outcome, Read
from rlssm.world_models.likelihood import Model, log_prob, predict, sample, score
from rlssm.world_models.small_laws import deterministic_laws, lit_walk_laws, mixed_laws
from rlssm.world_models.small_worlds import (
    deterministic_switches,
    lit_walk,
    mixed_switches,
)

WORLDS = (deterministic_switches(), mixed_switches(), lit_walk())


def reachable(world, steps: int = 30):
    rng = np.random.default_rng(0)
    state = world.initial
    for _ in range(steps):
        yield state
        state = world.step(state, world.actions[rng.integers(len(world.actions))], rng)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_enumeration_is_a_distribution_and_steps_follow_it(world):
    rng = np.random.default_rng(1)
    for state, action in zip(reachable(world, 6), itertools.cycle(world.actions), strict=False):
        exact = world.enumerate_step(state, action)
        assert sum(exact.values()) == pytest.approx(1)
        drawn = [world.step(state, action, rng) for _ in range(2_000)]
        for after, probability in exact.items():
            share = sum(state == after for state in drawn) / len(drawn)
            assert share == pytest.approx(probability, abs=0.05)
        assert set(drawn) <= set(exact)


def positions(world, state, action):
    exact: dict[int, float] = {}
    for after, probability in world.enumerate_step(state, action).items():
        position = after[0].get("position")
        exact[position] = exact.get(position, 0) + probability
    return exact


def test_the_walk_turns_round_at_the_switch_point_and_stays_on_the_line():
    world = lit_walk()

    def at(position):
        return (world.initial[0].set("position", position), *world.initial[1:])

    assert positions(world, at(5), "right") == pytest.approx({6: 0.9, 4: 0.1})
    assert positions(world, at(6), "right") == pytest.approx({5: 0.9, 7: 0.1})
    assert positions(world, at(0), "left") == pytest.approx({0: 0.9, 1: 0.1})
    assert positions(world, at(7), "stay") == pytest.approx({7: 1.0})
    lights = world.enumerate_step(at(3), "stay")
    assert sorted(lights.values()) == pytest.approx([0.04, 0.16, 0.16, 0.64])


# --- Laws against enumeration -----------------------------------------------------------------


def right(laws):
    return tuple(law for name, law in laws.items() if name.startswith("right"))


def certain(world, laws):
    """Return a model whose noise is next to nothing: logits are scaled with the weight."""
    return Model(world, laws, (1.0,) * len(laws), dict.fromkeys(families(world), 1e-9))


def families(world):
    return [f"{kind}.{name}" for kind, names in world.kinds.items() for name in names]


def noise_of(world, model, state, action):
    """Return how much probability noise may take: e^-10 for each value of each key."""
    scene = world.scene(state, action)
    return sum(dist.domain.size for dist in predict(model, scene).values()) * math.exp(-10) * 2


@pytest.mark.parametrize(
    ("world", "laws"),
    [
        (deterministic_switches(), deterministic_laws()),
        (mixed_switches(), mixed_laws()),
        (lit_walk(), lit_walk_laws()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_right_laws_give_the_exact_distribution_of_the_next_state(world, laws):
    model = certain(world, right(laws))
    for state in itertools.islice(reachable(world), 20):
        for action in world.actions:
            bound = noise_of(world, model, state, action) + 1e-6
            for after, probability in world.enumerate_step(state, action).items():
                ours = math.exp(log_prob(model, state, action, after))
                assert ours == pytest.approx(probability, abs=bound)


def every_next_state(world, state):
    """Return every state whose attributes lie in their domains."""
    variants = []
    for thing in state:
        names = [name for name, _ in thing.attributes]
        values = itertools.product(*(world.kinds[thing.kind][name] for name in names))
        variants.append(
            [replace(thing, attributes=tuple(zip(names, v, strict=True))) for v in values]
        )
    return itertools.product(*variants)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(
    ("make", "laws"),
    [
        (deterministic_switches, deterministic_laws()),
        (mixed_switches, mixed_laws()),
        (lit_walk, lit_walk_laws()),
    ],
    ids=["deterministic", "mixed", "walk"],
)
def test_any_laws_with_any_weights_give_a_distribution(make, laws, reference):
    world = make(reference)
    rng = np.random.default_rng(2)
    laws = tuple(laws.values())
    for state in itertools.islice(reachable(world), 5):
        for action in world.actions:
            model = Model(world, laws, tuple(rng.uniform(0, 2, len(laws))))
            scene = world.scene(state, action)
            for distribution in predict(model, scene).values():
                assert sum(distribution.table().values()) == pytest.approx(1)
            if not reference:
                total = sum(
                    math.exp(log_prob(model, state, action, after))
                    for after in every_next_state(world, state)
                )
                assert total == pytest.approx(1)


@pytest.mark.parametrize("reference", [False, True])
def test_samples_follow_the_predicted_distribution(reference):
    world = lit_walk(reference)
    laws = tuple(lit_walk_laws().values())
    model = Model(world, laws, tuple(np.random.default_rng(3).uniform(0, 0.6, len(laws))))
    state, rng = world.initial, np.random.default_rng(4)
    drawn = [sample(model, state, "right", rng) for _ in range(1_500)]
    for key, distribution in predict(model, world.scene(state, "right")).items():
        index = [thing.id for thing in state].index(key.owner)
        for value, probability in distribution.table().items():
            share = sum(s[index].get(key.attribute) == value for s in drawn) / len(drawn)
            assert share == pytest.approx(probability, abs=0.04)


def test_what_no_law_speaks_about_stays_in_every_sample():
    world = deterministic_switches()
    model = Model(world, right(deterministic_laws()), (1.0, 1.0))
    rng = np.random.default_rng(5)
    for _ in range(100):
        after = sample(model, world.initial, "toggle_a", rng)
        assert after[0].attributes == (("switch_a", 1), ("switch_b", 1))


# --- The published numbers --------------------------------------------------------------------


def negative_log_likelihood(model, actions):
    world, rng = model.world, np.random.RandomState(42)
    state, total = world.initial, 0.0
    for action in actions:
        after = world.step(state, action, rng)
        total -= log_prob(model, state, action, after)
        state = after
    return total


def test_the_deterministic_optimum_has_the_known_objective():
    # 43 and 32 uses of the actions; the wrong laws at weight 0 leave both values equally likely.
    laws = deterministic_laws()
    weights = (1.296, 1.268, 0, 0, 0, 0)
    model = Model(deterministic_switches(reference=True), tuple(laws.values()), weights)
    actions = ["toggle_a"] * 43 + ["toggle_b"] * 32
    objective = negative_log_likelihood(model, actions) + 0.001 * sum(weights)
    assert objective == pytest.approx(51.99, abs=0.005)
    assert objective == pytest.approx(75 * math.log(2), abs=0.02)


def test_one_deterministic_law_has_the_closed_form():
    world = lit_walk(reference=True)
    law = lit_walk_laws()["wrong: right before without slips"]
    for weight in (0.1, 0.5, 1.0):
        model = Model(world, (law,), (weight,))
        (distribution,) = predict(model, world.scene(world.initial, "right")).values()
        hit = 1 / (1 + 11 * math.exp(-10 * weight))
        assert math.exp(distribution.log_prob(4)) == pytest.approx(hit)


def test_two_laws_make_a_light_that_toggles_with_probability_a_fifth():
    law = lit_walk_laws()["wrong: lights alternate"]
    stays = Law("stays", "light", law.observable, (Outcome(Read("self.on")),))
    world = lit_walk(reference=True)
    model = Model(world, (law, stays), (0.5, 0.5 + math.log(4) / 10))
    for distribution in predict(model, world.scene(world.initial, "stay")).values():
        assert distribution.table() == pytest.approx({0: 0.8, 1: 0.2})


def test_reference_scores_what_no_law_explains():
    world = deterministic_switches(reference=True)
    law = deterministic_laws()["right: toggle_a flips a"]
    before = world.initial
    both = (before[0].set("switch_a", 1).set("switch_b", 0),)
    parts = score(Model(world, (law,), (1.0,)), before, "toggle_a", both)
    assert list(parts.unexplained.values()) == [-1.0]
    assert parts.persisted == {}
    # With no law active, a change costs 1 and its absence nothing; with no law at all, 1000.
    assert log_prob(Model(world, (law,), (1.0,)), before, "toggle_b", both) == -2.0
    assert log_prob(Model(world, (law,), (1.0,)), before, "toggle_b", before) == 0.0
    assert log_prob(Model(world, (), ()), before, "toggle_b", before) == -1000.0


def test_wrong_arguments_are_named():
    world = mixed_switches()
    with pytest.raises(UserError, match="unknown action 'flop'.*'flip'"):
        world.step(world.initial, "flop", np.random.default_rng(0))
    with pytest.raises(UserError, match="weights must be one for each of 1 laws, got 0"):
        Model(world, right(mixed_laws())[:1], ())
    with pytest.raises(UserError, match=r"a weight must be in \[0, 100\], got -1"):
        Model(world, right(mixed_laws())[:1], (-1,))
    with pytest.raises(UserError, match=r"persistence of x must be in \(0, 1\), got 1"):
        Model(world, (), (), {"x": 1})
