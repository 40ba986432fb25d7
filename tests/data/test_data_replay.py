"""The replay against a list of steps that is fed the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from small_datasets import SPACES, assert_identical

from rlssm.data import replay as replays
from rlssm.data.replay import add, draw, init, num_bytes, require_fits, size
from rlssm.errors import UserError
from rlssm.types import Box, Discrete, Previous, Spec, Trajectory, Transition, inputs, unrolled

SPEC = Spec(Box((2,)), Discrete(5))
MOST = 24  # steps of the longest streams below
BATCH = 64
# The functions compiled here run for microseconds, so compiling is what takes the time.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def stream(steps: int, num_envs: int, seed: int = 0, ending: float = 0.4) -> Trajectory:
    """Return side-by-side streams of episodes; (1000 b + i, 1 at a final one) is an observation."""
    rng = np.random.default_rng(seed)
    shape = (steps, num_envs)
    number = 1000 * np.arange(num_envs) + np.arange(steps + 1)[:, None]
    last = rng.random(shape) < ending
    kind = rng.integers(3, size=shape)
    final = np.stack([number[:-1], np.ones(shape)], axis=-1)
    obs = np.stack([number, np.zeros_like(number)], axis=-1).astype(np.float32)
    first = np.concatenate([np.ones((1, num_envs), bool), last[:-1]])
    step = Transition(
        obs=obs[:-1],
        action=rng.integers(1, 5, size=shape).astype(np.int32),
        reward=rng.normal(size=shape).astype(np.float32),
        next_obs=np.where(last[..., None], final, obs[1:]).astype(np.float32),
        terminated=last & (kind != 0),  # both at once, now and then
        truncated=last & (kind != 1),
        extras={},
    )
    previous = Previous(np.zeros(num_envs, np.int32), np.zeros(num_envs, np.float32))
    return Trajectory(step, first, first.copy(), np.ones(shape, bool), None, previous)


def cut(tree, start, stop):
    """Return some steps of a stream."""
    return tree._replace(
        **{
            name: jax.tree.map(lambda x: x[start:stop], getattr(tree, name))
            for name in ("step", "first", "reset", "mask")
        }
    )


compiled_init = jit(init, static_argnums=(0, 1, 2))
compiled_add = jit(add)
compiled_draw = jit(draw, static_argnums=(2, 3))


def filled(tape, length, adds, capacity, carries=None):
    num_envs = tape.first.shape[1]
    example_carry = None if carries is None else carries[0]
    replay = compiled_init(SPEC, num_envs, capacity * num_envs, example_carry)
    for i in range(adds):
        rows = slice(i * length, (i + 1) * length)
        given = () if carries is None else (carries[rows],)
        replay = compiled_add(replay, cut(tape, rows.start, rows.stop), *given)
    return replay


def valid_starts(steps: int, capacity: int, length: int) -> range:
    """Return the steps of a stream that a window may start with, of which `previous` is known."""
    oldest = 0 if steps < capacity else steps - capacity + 1
    return range(oldest, steps - length + 1)


def places(window) -> np.ndarray:
    """Return the environment and number of the first step of each window, `[B, 2]`."""
    number = np.asarray(window.step.obs)[0, :, 0].astype(int)
    return np.stack([number // 1000, number % 1000], axis=1)


def assert_window_is(window, b, tape, env, start, stored_carry=False):
    rows = slice(start, start + len(window.first))
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        found = np.asarray(getattr(window.step, name))[:, b]
        np.testing.assert_array_equal(found, getattr(tape.step, name)[rows, env], err_msg=name)
    first = tape.first[rows, env]
    np.testing.assert_array_equal(window.first[:, b], first)
    dropped = first if stored_carry else np.concatenate([[True], first[1:]])
    np.testing.assert_array_equal(window.reset[:, b], dropped)
    assert np.asarray(window.mask).all() and window.step.extras == {}
    for name, found in window.previous._asdict().items():
        expected = 0 if first[0] else getattr(tape.step, name)[start - 1, env]
        assert found[b] == expected


# T, B and C of the rings; adds are compiled once for each.
SHAPES = [(1, 1, 5), (3, 2, 7), (4, 2, 4), (2, 3, 6)]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    adds=st.integers(1, 6),
    length=st.sampled_from([1, 3]),
    seed=st.integers(0, 10**6),
    ending=st.sampled_from([0.0, 0.3, 1.0]),
)
@example(shape=(2, 3, 6), adds=3, length=3, seed=0, ending=0.3)  # full to the last step
@example(shape=(1, 1, 5), adds=5, length=3, seed=0, ending=0.3)
def test_every_window_is_a_slice_of_the_list(shape, adds, length, seed, ending):
    steps, num_envs, capacity = shape
    tape = stream(MOST, num_envs, seed, ending)
    starts = valid_starts(steps * adds, capacity, length)
    if not starts:
        return
    replay = filled(tape, steps, adds, capacity)
    assert size(replay) == min(steps * adds, capacity)
    window = compiled_draw(replay, jax.random.key(seed), BATCH, length)
    for b, (env, start) in enumerate(places(window)):
        assert start in starts
        assert_window_is(window, b, tape, env, start)


@pytest.mark.parametrize("adds", [2, 3, 5])  # not full, just full, wrapped around
def test_all_valid_starts_are_equally_likely(adds):
    tape, draws, length = stream(MOST, 2), 6400, 2
    replay = filled(tape, 3, adds, 9)
    drawn = places(compiled_draw(replay, jax.random.key(adds), draws, length))
    starts = valid_starts(3 * adds, 9, length)
    counts = np.zeros((2, MOST))
    np.add.at(counts, tuple(drawn.T), 1)
    assert counts[:, starts].sum() == draws
    expected = draws / (2 * len(starts))
    statistic = ((counts[:, starts] - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(0.999, 2 * len(starts) - 1)


def test_the_row_after_a_step_is_its_successor_inside_an_episode():
    replay = filled(stream(MOST, 2, ending=0.0), 3, 5, 7)
    rows, reset = unrolled(compiled_draw(replay, jax.random.key(0), BATCH, 3))
    number = np.asarray(rows.obs)[..., 0]
    np.testing.assert_array_equal(np.diff(number, axis=0), np.ones((3, BATCH)))
    np.testing.assert_array_equal(reset, np.arange(4)[:, None] == np.zeros(BATCH))


def test_stored_memory_is_that_before_the_window_and_is_kept():
    tape = stream(MOST, 2)
    carries = np.random.default_rng(1).normal(size=(MOST, 2, 3)).astype(np.float32)
    window = compiled_draw(filled(tape, 3, 5, 7, carries), jax.random.key(0), BATCH, 3)
    for b, (env, start) in enumerate(places(window)):
        assert_window_is(window, b, tape, env, start, stored_carry=True)
        np.testing.assert_array_equal(window.carry[b], carries[start, env])
    assert not np.asarray(window.reset[0]).all()


def test_memory_that_lives_across_episodes_is_dropped_only_where_it_was_in_acting():
    tape = stream(MOST, 1, ending=1.0)
    tape = tape._replace(reset=np.arange(MOST)[:, None] % 4 == 0)
    window = compiled_draw(filled(tape, 3, 5, 7), jax.random.key(0), BATCH, 3)
    assert np.asarray(window.first).all()
    expected = (places(window)[:, 1] + np.arange(3)[:, None]) % 4 == 0
    np.testing.assert_array_equal(window.reset[1:], expected[1:])
    assert np.asarray(window.reset[0]).all()


def test_members_are_as_alone():
    keys = jax.random.split(jax.random.key(0), 2)
    tapes = [jax.tree.map(jnp.asarray, stream(6, 2, seed)) for seed in (0, 1)]

    def run(key, tape):
        replay = init(SPEC, 2, 8)
        for start in (0, 3):
            replay = add(replay, cut(tape, start, start + 3))
        return draw(replay, key, 8, 2)

    together = jit(jax.vmap(run))(keys, jax.tree.map(lambda *x: jnp.stack(x), *tapes))
    alone = jit(run)
    for i, tape in enumerate(tapes):
        assert_identical(jax.tree.map(lambda x, i=i: x[i], together), alone(keys[i], tape))


# --- Memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("obs", ["box", "discrete", "image", "dict"])
@pytest.mark.parametrize("carry", [None, (), {"h": np.zeros((3, 4), np.float32)}])
def test_num_bytes_is_what_is_allocated_and_no_buffer_is_shared(obs, carry):
    spec = Spec(SPACES[obs], Box((2,)))
    expected = num_bytes(spec, 3, 20, carry)
    assert expected > 18 * 4
    members = jax.vmap(lambda _: init(spec, 3, 20, carry))
    for replay, copies in (
        (init(spec, 3, 20, carry), 1),
        (jax.jit(lambda: init(spec, 3, 20, carry))(), 1),
        (jax.jit(members)(jnp.arange(2)), 2),
    ):
        leaves = jax.tree.leaves(replay)
        assert sum(x.nbytes for x in leaves) == copies * expected
        assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


@pytest.mark.parametrize("members", [None, 2])
def test_nothing_is_copied_when_the_state_is_donated(members):
    tape = cut(stream(3, 2), 0, 3)
    start = partial(init, SPEC, 2, 40_000)

    def loop(replay, key, count):
        def body(i, loop):
            replay, total = loop
            replay = add(replay, tape)
            window = draw(replay, jax.random.fold_in(key, i), 16, 4)
            return replay, total + inputs(window).previous.reward.sum()

        return jax.lax.fori_loop(0, count, body, (replay, 0.0))

    key = jax.random.key(0)
    if members is None:
        replay = jax.jit(start)()
    else:
        key = jax.random.split(key, members)
        replay = jax.jit(jax.vmap(lambda _: start()))(jnp.arange(members))
        loop = jax.vmap(loop, (0, 0, None))
    compiled = jax.jit(loop, donate_argnums=0).lower(replay, key, 5).compile()
    ring = replay.storage.experience.reward.nbytes  # the smallest but for the flags
    assert compiled.memory_analysis().temp_size_in_bytes < ring / 10
    before = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(replay.storage.experience)]
    after, _ = compiled(replay, key, 5)
    assert before == [x.unsafe_buffer_pointer() for x in jax.tree.leaves(after.storage.experience)]


def test_a_replay_that_cannot_fit_is_refused(monkeypatch):
    one = num_bytes(SPEC, 2, 1000)
    monkeypatch.setattr(replays, "_memory", lambda: (3 * one, "gpu:0"))
    require_fits(SPEC, 2, 1000, members=3)
    with pytest.raises(UserError, match=r"capacity 1000 with 4 members needs .* try 675") as error:
        require_fits(SPEC, 2, 1000, members=4)
    assert str(error.value).count("GiB") == 2 and "gpu:0 has" in str(error.value)
    require_fits(SPEC, 2, int(str(error.value).split()[-1]), members=4)


def test_more_than_this_machine_has_is_refused_without_allocating():
    with pytest.raises(UserError, match="capacity 1000000000000 with 1 member needs"):
        require_fits(SPEC, 1000, 10**12)
    require_fits(SPEC, 1, 1000)


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match=r"capacity must be at least 2 \* num_envs = 6, got 5"):
        init(SPEC, 3, 5)
    replay = init(SPEC, 2, 8)
    with pytest.raises(UserError, match=r"rollout_length must be at most .* = 4, got 5"):
        add(replay, cut(stream(5, 2), 0, 5))
    for length in (0, 4):
        with pytest.raises(UserError, match=rf"length must be in \[1, 4\), got {length}"):
            draw(replay, jax.random.key(0), 1, length)
