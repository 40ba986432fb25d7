"""The compiled rules against the NumPy ones, given the same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crafter_starts import random_actions, random_start

from rlssm.errors import UserError
from rlssm.world_models import crafter
from rlssm.world_models.crafter import initial_state
from rlssm.world_models.crafter_jax import is_over, step, transition
from rlssm.world_models.crafter_jax_step import CHUNK_DRAWS, SLOT_DRAWS, sample_draws
from rlssm.world_models.crafter_slots import (
    KIND_CODE,
    CrafterArrays,
    chunk_index,
    from_arrays,
    stack,
    to_arrays,
)
from rlssm.world_models.schema import (
    ACTIONS,
    MATERIAL_INDEX,
    Cow,
    Skeleton,
    WorldState,
    chunk_of,
)
from rlssm.world_models.schema_json import state_to_json

SIZE, CAPACITY, BATCH, STEPS = (26, 19), 40, 128, 12

drawn = jax.jit(lambda key, states: jax.vmap(sample_draws)(key, states))


class ArrayDraws:
    """The draws of one compiled step, by their owners and names."""

    def __init__(self, draws, arrays: CrafterArrays, state: WorldState) -> None:
        self._draws, self._state = draws, state
        self._slot_of = {int(number): slot for slot, number in enumerate(arrays.slots.id)}

    def uniform(self, owner, name: str) -> float:
        if name == "collect":
            return float(self._draws.collect)
        if isinstance(owner, tuple):
            row, column = CHUNK_DRAWS[name]
            return float(self._draws.chunks[chunk_index(self._state.size, owner), row, column])
        return float(self._draws.slots[self._slot_of[owner], SLOT_DRAWS[name]])

    def integer(self, owner, name: str, below: int) -> int:
        return min(int(np.float32(self.uniform(owner, name)) * np.float32(below)), below - 1)


def index(tree, position: int):
    return jax.tree.map(lambda leaf: leaf[position], tree)


def check_equal_lives(starts: list[WorldState], capacity: int, actions: list[list[str]]) -> int:
    """Step all lives side by side and one by one; return how many transitions were compared."""
    states, arrays = list(starts), stack([to_arrays(start, capacity) for start in starts])
    alive, compared = [True] * len(starts), 0
    for turn in range(len(actions[0])):
        keys = jax.random.split(jax.random.key(turn), len(starts))
        draws = drawn(keys, arrays)
        numbers = jnp.array([ACTIONS.index(life[turn]) for life in actions])
        after, rewards = transition(arrays, numbers, draws)
        over = is_over(after)
        before, draws, now = jax.device_get((arrays, draws, after))
        for life, state in enumerate(states):
            if not alive[life]:
                continue
            named = ArrayDraws(index(draws, life), index(before, life), state)
            states[life], reward = crafter.transition(state, actions[life][turn], named)
            ours = from_arrays(index(now, life), state.view, state.random)
            assert state_to_json(ours) == state_to_json(states[life]), (life, turn)
            assert float(rewards[life]) == pytest.approx(reward)
            assert bool(over[life]) == crafter.is_over(states[life])
            alive[life] = not over[life]
            compared += 1
        arrays = after
    assert not np.any(arrays.lost)
    return compared


def test_every_field_equals_the_numpy_rules():
    starts = [random_start(seed, SIZE) for seed in range(5_000, 5_000 + BATCH)]
    actions = [list(random_actions(seed, STEPS)) for seed in range(BATCH)]
    assert check_equal_lives(starts, CAPACITY, actions) > 1_000


@pytest.mark.slow
def test_every_field_equals_the_numpy_rules_on_many_more_transitions():
    total = 0
    for first in range(6_000, 6_000 + 8 * BATCH, BATCH):
        starts = [random_start(seed, SIZE) for seed in range(first, first + BATCH)]
        actions = [list(random_actions(first + life, STEPS)) for life in range(BATCH)]
        total += check_equal_lives(starts, CAPACITY, actions)
    assert total > 8_000


@pytest.mark.slow
def test_lives_in_full_worlds_equal_the_numpy_rules():
    starts = [initial_state(seed=seed) for seed in range(4)]
    actions = [list(random_actions(seed, 250)) for seed in range(4)]
    assert check_equal_lives(starts, 128, actions) > 400


def test_states_come_back_as_they_were():
    for seed in range(20):
        state = random_start(seed)
        again = from_arrays(to_arrays(state), state.view, state.random)
        assert state_to_json(again) == state_to_json(state)


def test_a_batch_is_its_members():
    starts = stack([to_arrays(random_start(seed, SIZE), CAPACITY) for seed in range(BATCH)])
    actions = jnp.arange(BATCH) % len(ACTIONS)
    draws = drawn(jax.random.split(jax.random.key(0), BATCH), starts)
    together = transition(starts, actions, draws)
    backwards = jax.tree.map(lambda leaf: leaf[::-1], (starts, actions, draws))
    apart = jax.tree.map(lambda leaf: leaf[::-1], transition(*backwards))
    assert jax.tree.all(jax.tree.map(np.array_equal, together, apart))


def many_steps(state: WorldState, turns: int) -> CrafterArrays:
    arrays = stack([to_arrays(state, CAPACITY)] * BATCH)
    for turn in range(turns):
        draws = drawn(jax.random.split(jax.random.key(turn), BATCH), arrays)
        arrays, _ = transition(arrays, jnp.zeros(BATCH, jnp.int32), draws)
    return arrays


def test_fresh_random_numbers_differ_between_copies():
    arrays = many_steps(random_start(1, SIZE), 1)
    positions = np.asarray(arrays.slots.position)
    assert len(np.unique(positions.reshape(BATCH, -1), axis=0)) > 10


def test_births_without_a_slot_are_lost_and_counted():
    state = random_start(1, SIZE)
    state.materials[:] = MATERIAL_INDEX["path"]
    state.player.position, state.step_count = (4, 4), 0
    cows = [Cow(number, (number % 20 + 5, 18 - number // 20)) for number in range(2, CAPACITY + 1)]
    archer = Skeleton(CAPACITY + 1, (8, 4))
    state.objects = [state.player, *cows, archer]
    state.next_id = CAPACITY + 2
    state.known_chunks = list(dict.fromkeys(chunk_of(SIZE, e.position) for e in state.objects))
    arrays = many_steps(state, 1)
    assert 30 < int(jnp.sum(arrays.lost)) < 100  # it shoots half of the time
    assert not np.any(arrays.slots.kind == KIND_CODE["arrow"])
    with pytest.raises(UserError, match="capacity must be at least 40 for this state, got 39"):
        to_arrays(state, CAPACITY - 1)


def test_one_call_draws_and_steps():
    states = stack([to_arrays(random_start(1, SIZE), CAPACITY)] * BATCH)
    actions = jnp.full(BATCH, ACTIONS.index("do"), jnp.int32)
    keys = jax.random.split(jax.random.key(0), BATCH)
    ours, rewards = step(jax.random.key(0), states, actions)
    after, expected = transition(states, actions, drawn(keys, states))
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, after))
    assert np.array_equal(rewards, expected)
