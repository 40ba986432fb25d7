"""Crafter seen by laws: features, changes, and true laws against the true world."""

import math

import numpy as np
import pytest
from crafter_laws import LAWS
from crafter_starts import meadow, put, random_actions, random_start

from rlssm.errors import UserError
from rlssm.world_models.crafter import transition
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.laws import Law, Outcome, Set
from rlssm.world_models.likelihood import Model, log_prob, predict, sample, score
from rlssm.world_models.object_view import STEPS, Displacements, Key, Observable, vector_of
from rlssm.world_models.schema import (
    ACTIONS,
    MATERIAL_INDEX,
    Arrow,
    Cow,
    Skeleton,
    Zombie,
    shift,
)
from rlssm.world_models.schema_json import state_to_json

WORLD = CrafterView()
REFERENCE = CrafterView(reference=True)
BY_NAME = {law.name: law for law in LAWS}


def model_of(*names: str, weight: float = 2.0, world: CrafterView = WORLD) -> Model:
    return Model(world, tuple(BY_NAME[name] for name in names), (weight,) * len(names))


def distribution(model: Model, state, action: str, family: str) -> dict:
    """Return the named part of the only predicted observable of a family."""
    predictions = predict(model, model.world.scene(state, action))
    (found,) = [d for key, d in predictions.items() if key.family == family]
    return {v: math.exp(p) for v, p in found.log_probs.items() if p > math.log(1e-4)}


# --- Features and changes ---------------------------------------------------------------------


def test_every_feature_can_be_read_wherever_it_is_known_and_lies_in_its_domain():
    read: set[tuple[str, str]] = set()
    for seed in range(120):
        scene = WORLD.scene(random_start(seed), ACTIONS[seed % len(ACTIONS)])
        for scope, vocabulary in WORLD.scopes.items():
            for binding in scene.bindings(scope)[:2]:
                for feature, domain in vocabulary.features.items():
                    value = scene.read(binding, feature)
                    if value is not None:
                        assert domain.contains(value), (seed, scope, feature, value)
                        read.add((scope, feature))
    known = {(s, f) for s, v in WORLD.scopes.items() for f in v.features if s != "fence"}
    assert read == known


def test_every_observable_has_keys_with_old_values_in_their_domains():
    for seed in range(60):
        scene = WORLD.scene(random_start(seed), "noop")
        for scope, vocabulary in WORLD.scopes.items():
            for binding in scene.bindings(scope)[:2]:
                for observable, domain in vocabulary.observables.items():
                    for key in scene.keys(binding, observable):
                        assert scene.domain(key).contains(scene.old(key)), (seed, key)
                        same = STEPS if isinstance(scene.domain(key), Displacements) else domain
                        assert domain == same


def comparable(state):
    fields = state_to_json(state)
    return {name: fields[name] for name in fields.keys() - {"serialized_random_state", "daylight"}}


def test_writing_every_change_gives_the_next_state():
    for seed in range(150):
        state = random_start(seed)
        for action in random_actions(seed, 4):
            after, _ = transition(state, action)
            scene = WORLD.scene(state, action)
            changes = WORLD.changes(scene, after)
            assert comparable(WORLD.apply(scene, changes.values)) == comparable(after), seed
            state = after


def test_every_observable_is_counted_once():
    model = Model(WORLD, LAWS, (1.0,) * len(LAWS), dict.fromkeys(["x"], 0.5))
    for seed in range(20):
        state = random_start(seed)
        after, _ = transition(state, "do")
        scene = WORLD.scene(state, "do")
        changes = WORLD.changes(scene, after)
        parts = score(model, state, "do", after)
        kept = sum(round(part / math.log1p(-1e-3)) for part in parts.persisted.values())
        assert len(parts.explained) + len(parts.unexplained) + kept == changes.totals.total()


def test_without_laws_every_change_costs_its_share():
    state = meadow(Cow(2, (1, 1)))
    after = state.copy()
    after.objects[1].position = (1, 2)
    after.player.inventory["wood"] = 1
    empty = Model(WORLD, (), (), {"cow.displacement": 0.2})
    parts = score(empty, state, "noop", after)
    assert parts.unexplained == pytest.approx(
        {
            Key("cow", 2, "displacement"): math.log(0.2 / 80),
            Key("player", 1, "inventory.wood"): math.log(1e-3 / 9),
        }
    )
    assert parts.persisted["tile.material"] == pytest.approx(81 * math.log1p(-1e-3))
    after.player.inventory["wood"] = 10
    assert log_prob(empty, state, "noop", after) == -math.inf


# --- True laws --------------------------------------------------------------------------------


def test_one_law_gives_the_whole_chase():
    state = meadow(Zombie(2, (1, 2)))  # the player stands three right and two down of it
    chase = distribution(
        model_of("zombie chases", weight=1.0), state, "noop", "zombie.displacement"
    )
    assert chase == pytest.approx({"right": 0.745, "down": 0.205, "left": 0.025, "up": 0.025}, 0.01)
    # A stone in the way turns that move into staying.
    blocked = put(state.copy(), "stone", (2, 2))
    chase = distribution(
        model_of("zombie chases", weight=1.0), blocked, "noop", "zombie.displacement"
    )
    assert chase == pytest.approx({"stay": 0.745, "down": 0.205, "left": 0.025, "up": 0.025}, 0.01)


def test_laws_agree_with_the_true_frequencies():
    state = meadow(Zombie(2, (1, 2)), Cow(3, (7, 1)))
    model = model_of("zombie chases", "cow wanders", weight=1.0)
    predictions = predict(model, WORLD.scene(state, "noop"))
    counts = {key: dict.fromkeys(STEPS.values, 0) for key in predictions}
    for _ in range(2_000):
        after, _ = transition(state, "noop")
        changes = WORLD.changes(WORLD.scene(state, "noop"), after)
        for key, count in counts.items():
            count[changes.values.get(key, "stay")] += 1
        state.random = after.random
    for key, count in counts.items():
        for move, seen in count.items():
            expected = math.exp(predictions[key].log_prob(move))
            assert seen / 2_000 == pytest.approx(expected, abs=0.04)


def test_the_blows_of_two_zombies_add_up():
    state = meadow(Zombie(2, (4, 5)), Zombie(3, (3, 4)), health=8)
    health = distribution(model_of("zombie hits"), state, "noop", "player.health")
    assert health[4] == pytest.approx(1, abs=1e-6)
    assert transition(state, "noop")[0].player.health == 4


def test_a_meal_and_hunger_add_up_and_nothing_goes_over_nine():
    state = meadow(Cow(2, (4, 5), health=1), hunger=25.0, inventory={"food": 2})
    food = distribution(
        model_of("eating", "hunger costs food"), state, "do", "player.inventory.food"
    )
    assert food[7] == pytest.approx(1, abs=1e-6)
    state.player.inventory["food"] = 8
    food = distribution(
        model_of("eating", "hunger costs food"), state, "do", "player.inventory.food"
    )
    assert food[9] == pytest.approx(1, abs=1e-6)


def test_arrows_are_born_on_one_of_the_tiles_with_a_direction():
    state = meadow(Skeleton(2, (1, 3)))  # at distance four
    born = distribution(model_of("skeleton shoots"), state, "noop", "tile.birth.arrow")
    assert born == pytest.approx({"none": 0.5, "right": 0.5}, abs=1e-4)
    rng = np.random.default_rng(0)
    samples = [sample(model_of("skeleton shoots"), state, "noop", rng) for _ in range(200)]
    arrows = [after.objects[2] for after in samples if len(after.objects) == 3]
    assert 70 < len(arrows) < 130
    assert all(arrow == Arrow(3, (2, 3), facing=(1, 0)) for arrow in arrows)
    assert {after.next_id for after in samples} == {3, 4}


def test_a_birth_somewhere_in_the_chunk_is_shared_by_its_tiles():
    state = meadow()
    state.step_count = 209
    scene = WORLD.scene(state, "noop")
    predictions = predict(model_of("zombies appear", weight=1.0), scene)
    assert len(predictions) == 80  # all grass but under the player
    odds = [d.log_prob("new") - d.log_prob("none") for d in predictions.values()]
    assert odds == pytest.approx([math.log(0.3 / 0.7 / 80)] * 80)


def test_deaths_and_tiles_are_predicted_and_sampled():
    state = put(meadow(Zombie(2, (1, 1), health=0)), "tree")
    model = model_of("the dead vanish", "felling leaves grass", "felling gives wood")
    after = sample(model, state, "do", np.random.default_rng(0))
    assert [entity.kind for entity in after.objects] == ["player"]
    assert after.materials[4, 5] == MATERIAL_INDEX["grass"]
    assert after.player.inventory["wood"] == 1
    truth, _ = transition(state, "do")
    assert score(model, state, "do", truth).explained == pytest.approx(
        {
            Key("zombie", 2, "alive"): 0,
            Key("tile", (4, 5), "material"): 0,
            Key("player", 1, "inventory.wood"): 0,
        },
        abs=1e-6,
    )


def test_what_became_of_the_dead_is_not_scored():
    state = meadow(Zombie(2, (1, 2)))
    after = state.copy()
    del after.objects[1]
    parts = score(model_of("zombie chases"), state, "noop", after)
    assert parts.explained == {}
    assert list(parts.unexplained) == [Key("zombie", 2, "alive")]


def test_objects_that_want_one_tile_get_it_in_order_of_birth():
    state = meadow(Cow(2, (1, 1)), Cow(3, (1, 3)))
    scene = WORLD.scene(state, "noop")
    both = {Key("cow", 2, "displacement"): "down", Key("cow", 3, "displacement"): "up"}
    after = WORLD.apply(scene, both)
    assert [entity.position for entity in after.objects[1:]] == [(1, 2), (1, 3)]


def test_samples_of_many_laws_are_states_and_follow_the_true_world():
    rng = np.random.default_rng(0)
    model = Model(WORLD, LAWS, (3.0,) * len(LAWS))
    for seed in range(40):
        state = random_start(seed)
        after = sample(model, state, "do", rng)
        positions = [entity.position for entity in after.objects]
        assert len(set(positions)) == len(positions)
        assert after.step_count == state.step_count + 1
        assert after.daylight == pytest.approx(transition(state, "do")[0].daylight)


# --- The reference reading --------------------------------------------------------------------


def test_reference_splits_positions_and_lets_every_law_vote_on_existence():
    state = meadow(Cow(2, (1, 1)), Zombie(3, (7, 7)))
    model = model_of("cow wanders", "time passes", weight=0.3, world=REFERENCE)
    predictions = predict(model, REFERENCE.scene(state, "noop"))
    counts = {f"world.count.{k}" for k in ("cow", "zombie", "skeleton", "arrow", "plant", "fence")}
    assert {key.family for key in predictions} == counts | {
        "cow.position_x", "cow.position_y", "cow.exists", "zombie.exists",
    }  # fmt: skip
    # By hand: x in {0, 1, 2} named with the best of the outcomes that lead there.
    for axis, family in enumerate("xy"):
        (x,) = [d for key, d in predictions.items() if key.family == f"cow.position_{family}"]
        raised = [math.exp(0.3 * (math.log(p) + 10)) for p in (0.125, 0.5, 0.125)]
        total = sum(raised) + 98
        expected = dict(zip((0, 1, 2), [r / total for r in raised], strict=True))
        assert {v: x.table()[v] for v in expected} == pytest.approx(expected), axis
        assert x.table()[77] == pytest.approx(1 / total)
    # Both laws vote that the zombie exists: two times 0.3 times ten.
    (exists,) = [d for key, d in predictions.items() if key.family == "zombie.exists"]
    assert exists.table()[1] == pytest.approx(1 / (1 + math.exp(-6)))


def test_reference_scores_by_hand():
    state = meadow(Zombie(2, (4, 5)), health=9)
    after = state.copy()
    after.player.health = 7
    after.objects.append(Cow(3, (0, 0)))
    model = model_of("zombie hits", weight=1.0, world=REFERENCE)
    parts = score(model, state, "noop", after)
    hit = -math.log(1 + 100 * math.exp(-10))
    kept, added = -math.log(1 + 49 * math.exp(-10)), -10 - math.log(1 + 49 * math.exp(-10))
    assert parts.explained == pytest.approx(
        {
            Key("player", 1, "health"): hit,
            Key("zombie", 2, "exists"): -math.log(1 + math.exp(-10)),
            **{
                Key("world", 0, f"count.{kind}"): added if kind == "cow" else kept
                for kind in ("cow", "zombie", "skeleton", "arrow", "plant", "fence")
            },
        }
    )
    # The other health, and every observable of the cow nobody foresaw.
    assert parts.unexplained == {
        Key("player", 1, "inventory.health"): -1.0,
        **{Key("cow", 3, name): -1.0 for name in ("position_x", "position_y", "health", "exists")},
    }
    assert parts.persisted == {}


def test_reference_laws_have_one_voice_and_do_not_add_up():
    state = meadow(Zombie(2, (4, 5)), Zombie(3, (3, 4)), health=8)
    model = model_of("zombie hits", world=REFERENCE)
    health = distribution(model, state, "noop", "player.health")
    assert health[6] == pytest.approx(1, abs=1e-5)


def test_reference_samples_neither_bear_nor_kill_nor_change_tiles():
    state = put(meadow(Zombie(2, (1, 1), health=0), Skeleton(3, (1, 3))), "tree")
    model = Model(REFERENCE, LAWS, (3.0,) * len(LAWS))
    rng = np.random.default_rng(0)
    for _ in range(20):
        after = sample(model, state, "do", rng)
        assert [e.entity_id for e in after.objects] == [1, 2, 3]
        assert (after.materials == state.materials).all()
        assert after.player.inventory["wood"] == 1
        assert after.step_count == state.step_count


def test_reference_samples_move_diagonally_where_the_default_cannot():
    start = (2, 2)
    law = Law(
        "two ways", "cow", Observable("self", "displacement"),
        (Outcome(Set("right")), Outcome(Set("down"))),
    )  # fmt: skip
    state = meadow(Cow(2, start))
    ends = {}
    for world in (WORLD, REFERENCE):
        rng = np.random.default_rng(0)
        model = Model(world, (law,), (3.0,))
        ends[world.reference] = {
            sample(model, state, "noop", rng).objects[1].position for _ in range(100)
        }
    assert ends[False] == {shift(start, vector_of("right")), shift(start, vector_of("down"))}
    assert ends[True] == {(2, 2), (3, 2), (2, 3), (3, 3)}


def test_unknown_actions_are_named():
    with pytest.raises(UserError, match="unknown action 'fly'"):
        WORLD.scene(meadow(), "fly")
