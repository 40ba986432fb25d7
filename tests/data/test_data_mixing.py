"""Batches of windows against loops over their steps, and against stepping a core by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from small_datasets import assert_identical, make_dataset

from rlssm.data.dataset import windows as dataset_windows
from rlssm.data.dataset import with_returns
from rlssm.data.mixing import ExperienceConfig, batch, bootstrap_rows, from_dataset, join, wish
from rlssm.data.replay import add, init
from rlssm.errors import UserError
from rlssm.nn.cores import GRUConfig, make_core
from rlssm.types import Previous, Trajectory, Transition, unrolled

LOWEST = np.finfo(np.float32).min
H = 5  # an observation, an action, a reward, and `first` side by side
CORE = make_core(GRUConfig(), H, "highest")
# The functions compiled here run for microseconds, so compiling is what takes the time.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def random_windows(length, columns, seed, terminating=0.3, truncating=0.3):
    """Return windows of experience in which every number is another one."""
    rng = np.random.default_rng(seed)
    shape = (length, columns)
    terminated, truncated = rng.random(shape) < terminating, rng.random(shape) < truncating
    last = terminated | truncated
    first = np.concatenate([rng.random((1, columns)) < 0.3, last[:-1]])
    obs = rng.normal(size=(length + 1, columns, 2)).astype(np.float32)
    final = rng.normal(size=(*shape, 2)).astype(np.float32)
    step = Transition(
        obs={"x": obs[:-1]},
        action=rng.normal(size=(*shape, 1)).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        next_obs={"x": np.where(last[..., None], final, obs[1:])},
        terminated=terminated,
        truncated=truncated,
        extras={"mc_return": rng.normal(size=shape).astype(np.float32)},
    )
    before = Previous(
        rng.normal(size=(columns, 1)).astype(np.float32),
        rng.normal(size=columns).astype(np.float32),
    )
    before = jax.tree.map(
        lambda x: np.where(first[0].reshape(-1, *[1] * (x.ndim - 1)), 0, x), before
    )
    reset = first | (np.arange(length) == 0)[:, None]
    mask = rng.random(shape) < 0.8
    window = Trajectory(step, first, reset, mask, None, before)
    return jax.tree.map(jnp.asarray, window)


# --- Rows after a truncation ------------------------------------------------------------------


compiled_rows = jit(bootstrap_rows)
patterns = given(
    length=st.sampled_from([2, 7]),
    seed=st.integers(0, 10**6),
    terminating=st.sampled_from([0.0, 0.3, 1.0]),
    truncating=st.sampled_from([0.0, 0.3, 1.0]),
)


def rows_of(window, b):
    """Return the rows of one window as dicts."""
    named = {
        "obs": window.step.obs["x"],
        "next_obs": window.step.next_obs["x"],
        "mc_return": window.step.extras["mc_return"],
        **{name: getattr(window, name) for name in ("first", "reset", "mask")},
        **{
            name: getattr(window.step, name)
            for name in ("action", "reward", "terminated", "truncated")
        },
    }
    columns = {name: np.asarray(x)[:, b] for name, x in named.items()}
    return [{name: x[t] for name, x in columns.items()} for t in range(len(window.first))]


@settings(max_examples=50, deadline=None)
@patterns
@example(length=7, seed=0, terminating=0.0, truncating=1.0)
def test_rows_are_what_a_walk_over_the_steps_gives(length, seed, terminating, truncating):
    window = random_windows(length, 3, seed, terminating, truncating)
    found = compiled_rows(window)
    for b in range(3):
        expected = []
        for row in rows_of(window, b):
            expected.append(row)
            if row["truncated"] and not row["terminated"]:
                blank = {name: np.zeros_like(x) for name, x in row.items()}
                shown = {"obs": row["next_obs"], "next_obs": row["next_obs"]}
                expected.append({**blank, **shown, "mc_return": row["mc_return"]})
        for one, other in zip(rows_of(found, b), expected[:length], strict=True):
            for name, value in one.items():
                np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert_identical((found.previous, found.carry), (window.previous, window.carry))


@settings(max_examples=50, deadline=None)
@patterns
def test_the_row_after_a_step_shows_its_successor(length, seed, terminating, truncating):
    found = compiled_rows(random_windows(length, 3, seed, terminating, truncating))
    rows, reset = unrolled(found)
    goes_on = np.asarray(found.mask & ~found.step.terminated)
    for name, after, value in (
        ("obs", rows.obs["x"], found.step.next_obs["x"]),
        ("action", rows.previous.action, found.step.action),
        ("reward", rows.previous.reward, found.step.reward),
    ):
        after, value = np.asarray(after)[1:], np.asarray(value)
        np.testing.assert_array_equal(after[goes_on], value[goes_on], err_msg=name)
    assert not np.asarray(reset)[1:][goes_on].any()
    assert not np.asarray(rows.first)[1:][goes_on].any()


def test_windows_of_one_step_stay_as_they_are():
    window = random_windows(1, 3, 0, truncating=1.0)
    assert bootstrap_rows(window) is window


def features(obs, action, reward, first):
    return jnp.concatenate([obs, action, reward[..., None], first[..., None]], axis=-1)


@pytest.fixture(scope="module")
def core():
    """A memory with random parameters, compiled."""
    carry, x = CORE.initial_carry(1), jnp.zeros((1, 1, H))
    params = CORE.init(jax.random.key(0), carry, x, jnp.zeros((1, 1), bool))
    return jit(partial(CORE.apply, params))


def test_recurrent_features_are_those_of_stepping_each_episode_by_hand(core):
    length, columns = 16, 4
    window = random_windows(length, columns, 3, terminating=0.15, truncating=0.3)
    found = bootstrap_rows(window)
    rows, reset = unrolled(found)
    x = features(rows.obs["x"], *rows.previous, rows.first)
    y = np.asarray(core(CORE.initial_carry(columns), x, reset)[1])

    def step(memory, obs, fed, first):
        x = features(obs, *fed, np.asarray(first)).astype(jnp.float32)
        memory, y = core(memory, x[None, None], np.zeros((1, 1), bool))
        return memory, np.asarray(y)[0, 0]

    cuts = 0
    for b in range(columns):
        at, memory = 0, CORE.initial_carry(1)
        fed = Previous(*(np.asarray(x[b]) for x in window.previous))
        for row in rows_of(window, b):
            if row["first"]:
                memory, fed = CORE.initial_carry(1), Previous(np.zeros(1), np.zeros(()))
            memory, now = step(memory, row["obs"], fed, row["first"])
            np.testing.assert_allclose(y[at, b], now, atol=1e-5)
            fed = Previous(row["action"], row["reward"])
            if not row["terminated"]:
                _, after = step(memory, row["next_obs"], fed, False)
                np.testing.assert_allclose(y[at + 1, b], after, atol=1e-5)
                cuts += row["truncated"]
            at += 1 + (row["truncated"] and not row["terminated"])
            if at >= length:  # the rest was cut off
                break
    assert cuts > 5


# --- Sources ----------------------------------------------------------------------------------


LENGTHS = (4, 2, 7, 3)
STEPS = sum(LENGTHS)


@pytest.fixture(scope="module")
def dataset():
    """Rewards number the steps 100, 101, ..., so that no other source has them."""
    made = make_dataset(lengths=LENGTHS)
    return made.replace(reward=100 + np.arange(STEPS, dtype=np.float32))


@pytest.fixture(scope="module")
def with_mc(dataset):
    made = with_returns(dataset, 0.9)
    return made.replace(extras={**made.extras, "other": np.zeros(STEPS)})


def own_steps(spec, steps=12, num_envs=2, carry=None):
    """Return a replay of episodes of 4 steps, truncated, with rewards -1, -2, ..."""
    rng = np.random.default_rng(0)
    time = np.arange(steps)[:, None] + np.zeros((1, num_envs), int)
    obs = rng.normal(size=(steps + 1, num_envs, 3)).astype(np.float32)
    step = Transition(
        obs=obs[:-1],
        action=rng.uniform(-1, 1, (steps, num_envs, 2)).astype(np.float32),
        reward=-1 - time.astype(np.float32),
        next_obs=obs[1:],
        terminated=np.zeros(time.shape, bool),
        truncated=time % 4 == 3,
        extras={},
    )
    first = time % 4 == 0
    tape = Trajectory(step, first, first, np.ones_like(first), None, Previous(None, None))
    carries = None
    if carry is not None:
        carries = jnp.broadcast_to(1.0 + time[..., None], (steps, num_envs, carry))
    example_carry = None if carry is None else carries[0]
    return add(init(spec, num_envs, 20 * num_envs, example_carry), tape, carries)


@pytest.fixture(scope="module")
def replay(dataset):
    return own_steps(dataset.info.spec)


def wanted(prior=0.5, windows=4, length=5, burn_in=2, stack=None, returns=None, **config):
    config = ExperienceConfig(
        batch=windows * (length - burn_in), length=length, burn_in=burn_in, prior=prior, **config
    )
    return wish(config, memory=True, stack=stack, returns=returns)


compiled_batch = jit(batch, static_argnums=0)


def is_offline(drawn):
    """Return which windows show rewards of the dataset; a row without an action has none."""
    return (np.asarray(drawn.step.reward) >= 100).any(-2)


def test_a_dataset_is_drawn_from_uniformly(with_mc):
    drawn = jit(from_dataset, static_argnums=(2, 3))(with_mc, jax.random.key(0), 3200, 3)
    start = np.asarray(drawn.step.reward)[0].astype(int) - 100
    assert_identical(
        drawn,
        dataset_windows(
            with_mc.replace(extras={"mc_return": with_mc.extras["mc_return"]}), jnp.array(start), 3
        ),
    )
    counts, expected = np.bincount(start, minlength=STEPS), 3200 / STEPS
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, STEPS - 1)


@pytest.mark.parametrize("prior, offline", [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_the_shares_are_exact_and_the_dataset_comes_first(dataset, replay, prior, offline):
    drawn = compiled_batch(wanted(prior), jax.random.key(0), dataset, replay)
    expected = np.arange(4) < offline
    np.testing.assert_array_equal(is_offline(drawn), expected)
    assert drawn.step.extras.keys() == {"source"}
    np.testing.assert_array_equal(drawn.step.extras["source"], np.tile(~expected, (5, 1)))
    assert drawn.first.shape == drawn.step.reward.shape == (5, 4)
    assert drawn.previous.reward.shape == (4,) and drawn.carry is None


def test_one_source_gives_all_where_there_is_no_other(dataset, replay):
    key = jax.random.key(0)
    assert is_offline(compiled_batch(wanted(), key, dataset, None)).all()
    assert not is_offline(compiled_batch(wanted(), key, None, replay)).any()
    with pytest.raises(ValueError, match="needs a dataset or a replay"):
        batch(wanted(), key, None, None)
    with pytest.raises(ValueError, match="needs a dataset or a replay"):
        join(None, None)


def test_a_batch_is_masked_over_burn_in_and_has_rows_after_truncations(dataset, replay):
    drawn = compiled_batch(wanted(windows=64), jax.random.key(0), dataset, replay)
    rows, _ = unrolled(drawn)
    assert not np.asarray(drawn.mask)[:2].any()
    goes_on = np.asarray(drawn.mask & ~drawn.step.terminated)
    after = np.asarray(rows.obs)[1:][goes_on]
    np.testing.assert_array_equal(after, np.asarray(drawn.step.next_obs)[goes_on])
    inserted = np.asarray(drawn.step.reward) == 0  # as no step's reward is
    assert inserted[2:].any(0)[:32].any() and inserted[2:].any(0)[32:].any()
    whole = np.asarray(drawn.mask)[:, ~inserted.any(0)]
    assert whole[2:].all() and whole.size


def test_returns_are_known_for_the_dataset_alone_and_only_if_wished_for(with_mc, dataset, replay):
    key, known = jax.random.key(0), set(np.asarray(with_mc.extras["mc_return"]).tolist())
    drawn = compiled_batch(wanted(returns=0.9), key, with_mc, replay)
    assert drawn.step.extras.keys() == {"source", "mc_return"}
    found = np.asarray(drawn.step.extras["mc_return"])
    assert (found[:, 2:] == LOWEST).all() and set(found[:, :2].ravel()) <= known | {0.0}
    alone = compiled_batch(wanted(returns=0.9), key, None, replay)
    assert (np.asarray(alone.step.extras["mc_return"]) == LOWEST).all()
    unasked = compiled_batch(wanted(), key, with_mc, replay)
    assert unasked.step.extras.keys() == {"source"}
    with pytest.raises(UserError, match="box/test-v0 needs mc_return"):
        batch(wanted(returns=0.9), key, dataset, replay)


def test_members_and_stacks_are_as_batches_alone(with_mc, replay):
    one, three = wanted(returns=0.9), wanted(returns=0.9, stack=3, update_ratio=3.0)
    keys = jax.random.split(jax.random.key(5), 2)
    replays = jax.tree.map(lambda x: jnp.stack([x, x]), replay)
    members = jit(jax.vmap(partial(batch, three), (0, None, 0)))  # all share the dataset
    drawn = members(keys, jax.tree.map(jnp.asarray, with_mc), replays)
    assert drawn.first.shape == (2, 3, 5, 4) and drawn.previous.reward.shape == (2, 3, 4)
    np.testing.assert_array_equal(is_offline(drawn), np.tile(np.arange(4) < 2, (2, 3, 1)))
    for member in range(2):
        for i, key in enumerate(jax.random.split(keys[member], 3)):
            alone = compiled_batch(one, key, with_mc, replay)
            at = jax.tree.map(lambda x, at=(member, i): x[at], drawn)
            assert_identical(at, alone)
    assert len(np.unique(np.asarray(drawn.step.obs)[:, :, 0].reshape(6, -1), axis=0)) == 6


def apart(windows=4, steps_learnt=3, stack=2):
    config = ExperienceConfig(batch=windows * steps_learnt, length=5, burn_in=2, update_ratio=stack)
    return wish(config, memory=True, stack=stack, apart=True)


def test_sources_apart_are_a_batch_of_each(dataset, replay):
    drawn = compiled_batch(apart(), jax.random.key(0), dataset, replay)
    assert drawn.first.shape == (2, 2, 5, 4) and drawn.previous.reward.shape == (2, 2, 4)
    assert is_offline(drawn)[0].all() and not is_offline(drawn)[1].any()
    np.testing.assert_array_equal(
        drawn.step.extras["source"], np.broadcast_to([[[[0]]], [[[1]]]], (2, 2, 5, 4))
    )
    for here, there, source in ((dataset, None, 0), (None, replay, 1)):  # one stands in for both
        alone = compiled_batch(apart(), jax.random.key(0), here, there)
        assert (np.asarray(alone.step.extras["source"]) == source).all()
        assert_identical(*(jax.tree.map(lambda x, i=i: x[i], alone) for i in (0, 1)))


@pytest.mark.parametrize("windows, ready", [(8, True), (9, False)])
def test_own_steps_are_not_read_before_there_is_a_batch_of_them(dataset, replay, windows, ready):
    """There are 24; a window is learnt from in 3. What is not to be read is not a number."""
    storage = replay.storage.replace(
        experience=jax.tree.map(
            lambda x: jnp.full_like(x, jnp.nan) if x.dtype == jnp.float32 else x,
            replay.storage.experience,
        )
    )
    drawn = compiled_batch(
        apart(windows), jax.random.key(0), dataset, replay.replace(storage=storage)
    )
    own = np.asarray(drawn.step.reward[1])
    assert np.isnan(own).any() == ready
    assert (np.asarray(drawn.step.extras["source"])[1] == ready).all()
    assert np.isfinite(drawn.step.reward[0]).all()


def test_in_a_union_every_step_is_as_likely_as_any_other(dataset, replay):
    drawn = compiled_batch(wanted(windows=4000, union=True), jax.random.key(0), dataset, replay)
    share = STEPS / (STEPS + 24)
    offline = is_offline(drawn)
    assert offline.shape == (4000,) and offline.mean() == pytest.approx(share, abs=0.03)
    np.testing.assert_array_equal(drawn.step.extras["source"], np.tile(~offline, (5, 1)))
    alone = compiled_batch(wanted(union=True), jax.random.key(0), None, replay)
    assert not is_offline(alone).any()
    with pytest.raises(UserError, match="prior must be left out: union takes its place, got 0.3"):
        ExperienceConfig(prior=0.3, union=True)
    with pytest.raises(UserError, match="union must be False for this algorithm, got True"):
        wish(ExperienceConfig(union=True), memory=False, both=True)


def test_windows_start_from_stored_memory_or_the_one_given(dataset):
    replay = own_steps(dataset.info.spec, carry=3)
    given_memory = -jnp.arange(4.0)[:, None] * jnp.ones(3)
    drawn = compiled_batch(
        wanted(store_carry=True), jax.random.key(0), dataset, replay, given_memory
    )
    np.testing.assert_array_equal(drawn.carry[:2], given_memory[:2])
    number = -np.asarray(drawn.step.reward)[0, 2:]
    np.testing.assert_array_equal(drawn.carry[2:], np.tile(number[:, None], 3))
    assert np.asarray(drawn.reset)[0, :2].all()
    np.testing.assert_array_equal(drawn.reset[0, 2:], drawn.first[0, 2:])
    without = own_steps(dataset.info.spec)
    drawn = compiled_batch(
        wanted(store_carry=True), jax.random.key(0), dataset, without, given_memory
    )
    np.testing.assert_array_equal(drawn.carry, given_memory)
    assert np.asarray(drawn.reset)[0].all()
