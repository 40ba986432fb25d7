"""Compiled sampling against the distributions that the NumPy form of the same laws predicts."""

import math
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crafter_starts import meadow, put, random_start

from rlssm.errors import UserError
from rlssm.world_models.crafter_slots import from_arrays, stack, to_arrays
from rlssm.world_models.law_writing import write_law
from rlssm.world_models.laws import Law, Outcome, Read, Set, Test
from rlssm.world_models.laws_jax import compile_laws
from rlssm.world_models.likelihood import predict
from rlssm.world_models.object_view import Observable
from rlssm.world_models.oracle_laws import oracle_model
from rlssm.world_models.schema import ACTIONS, Arrow, Cow, Plant, Skeleton, WorldState, Zombie

SIZE, CAPACITY, REPEATS = (9, 9), 24, 64
BATCH = 66 * REPEATS
CREATURES = (Cow, Zombie, Skeleton, Arrow, Plant)

ORACLE = oracle_model()
# Weights low enough for noise to be seen, and all different.
NOISY = replace(
    ORACLE, weights=tuple(np.random.default_rng(0).uniform(0.4, 1.1, len(ORACLE.laws)).tolist())
)
draw = jax.jit(compile_laws(ORACLE.laws))


def samples(starts: list[WorldState], actions: list[str]) -> list[list[WorldState]]:
    """Return draws for every start and action, as many as make one batch."""
    repeats = BATCH // len(starts)
    states = stack([to_arrays(start, CAPACITY) for start in starts])
    index = np.minimum(np.arange(BATCH) // repeats, len(starts) - 1)
    batch = jax.tree.map(lambda leaf: leaf[index], states)
    numbers = jnp.array([ACTIONS.index(action) for action in actions])[index]
    after = jax.device_get(draw(jnp.array(NOISY.weights), jax.random.key(1), batch, numbers))
    assert not after.lost.any()
    made: list[list[WorldState]] = [[] for _ in starts]
    for i, owner in enumerate(index):
        one, start = jax.tree.map(lambda leaf, i=i: leaf[i], after), starts[owner]
        made[owner].append(from_arrays(one, start.view, start.random))
    return made


def sparse_start(seed: int) -> WorldState:
    """Return a random start with the player and one creature, apart from one another."""
    state = random_start(seed, SIZE)
    away = [e for e in state.objects[1:] if math.dist(e.position, state.player.position) > 1.5]
    state.objects = [state.player, *away[:1]]
    return state


def test_frequencies_are_those_that_are_predicted():
    """Every observable of many states, by the number of standard errors that it is off."""
    starts = [random_start(s, SIZE) for s in range(24)] + [sparse_start(s) for s in range(24, 56)]
    starts += [tick(put(meadow(cls(2, (4, 6))), "water")) for cls in CREATURES]
    starts += [tick(put(meadow(cls(2, (4, 5))), "tree", (4, 6))) for cls in CREATURES]
    rng = np.random.default_rng(2)
    actions = ["do" if rng.uniform() < 0.4 else ACTIONS[rng.integers(17)] for _ in starts]
    off: list[float] = []
    families: Counter[str] = Counter()
    for number, (start, action, drawn) in enumerate(
        zip(starts, actions, samples(starts, actions), strict=True)
    ):
        scene = NOISY.world.scene(start, action)
        changes = [NOISY.world.changes(scene, after) for after in drawn]
        for key, distribution in predict(NOISY, scene).items():
            if key.attribute == "daylight":
                continue
            # Who moves may find the way barred by others, and births need a tile left free.
            crowded = number < 24 or (action.startswith("move") and key.kind != "player")
            if crowded and (key.attribute == "displacement" or key.kind == "tile"):
                continue
            if not any(change.observed(key) for change in changes):
                continue
            seen = [c.values.get(key, scene.old(key)) for c in changes if c.observed(key)]
            likely = max(distribution.log_probs, key=distribution.log_prob)
            p = math.exp(distribution.log_prob(likely))
            error = math.sqrt(max(p * (1 - p), 0.5 / REPEATS) / len(seen))
            off.append((np.mean([value == likely for value in seen]) - p) / error)
            families[key.family] += 1
            assert abs(off[-1]) < 6, (number, action, key, likely, p)
    assert len(off) > 1_500 and len(families) > 40
    assert np.mean(off) == pytest.approx(0, abs=0.1)
    assert 0.4 < np.std(off) < 1.2


def tick(state: WorldState) -> WorldState:
    """Return a state just before creatures may appear, in the dark."""
    state.step_count = 209
    return state


def test_what_nobody_speaks_about_stays():
    state = tick(put(meadow(Cow(2, (1, 1)), Arrow(3, (7, 7), facing=(0, 1))), "tree"))
    noting = write_law("noting", "player", "self.action", Read("action.name"))
    silent = jax.jit(compile_laws([ORACLE.laws[0], noting]))
    batch = jax.tree.map(lambda leaf: leaf[None], to_arrays(state, CAPACITY))
    after = silent(jnp.array([1.0, 9.0]), jax.random.key(0), batch, jnp.array([5]))
    state.player.action = ACTIONS[5]
    same = from_arrays(jax.tree.map(lambda leaf: leaf[0], after), state.view, state.random)
    assert same.step_count == state.step_count + 1
    assert same.objects == state.objects and same.next_id == state.next_id
    assert (same.materials == state.materials).all()


def test_newborns_get_ids_slots_and_chunks():
    state = tick(meadow(Zombie(2, (1, 1), health=0)))
    (drawn,) = samples([state], ["noop"])
    born = [after for after in drawn if len(after.objects) > 1]
    assert 0.1 < len(born) / BATCH < 0.8  # a chance of 0.3, and of noise on 80 tiles
    for after in born:
        ids = [entity.entity_id for entity in after.objects]
        assert ids == sorted(set(ids)) and after.next_id == ids[-1] + 1
        assert len({entity.position for entity in after.objects}) == len(after.objects)


def test_laws_that_cannot_be_compiled_are_named():
    dark = Test("daylight.now", "==", 0.0)
    law = Law("night", "player", Observable("self", "sleeping"), (Outcome(Set(True)),), (dark,))
    batch = jax.tree.map(lambda leaf: leaf[None], to_arrays(meadow(), CAPACITY))
    with pytest.raises(UserError, match="feature daylight.now is not compiled"):
        compile_laws([law])(jnp.ones(1), jax.random.key(0), batch, jnp.array([0]))
    clock = Law("jump", "world", Observable("world", "step_count"), (Outcome(Set(7)),))
    with pytest.raises(UserError, match=r"law 'jump' must add to world.step_count"):
        compile_laws([clock])
