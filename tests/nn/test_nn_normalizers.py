import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlssm.nn import normalizers


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([0.0, 1e3]))
def test_batches_together_equal_one_pass_over_everything(seed, offset):
    rng = np.random.default_rng(seed)
    batches = rng.normal(offset, 3, (3, 4, 5, 2)).astype(np.float32)
    masks = rng.random((3, 4, 5)) < 0.6
    masks[0] = False  # an empty batch first
    stats = normalizers.init(jnp.zeros(2))
    for batch, mask in zip(batches, masks, strict=True):
        stats = normalizers.update(stats, jnp.asarray(batch), jnp.asarray(mask))
    seen = batches[masks].astype(np.float64)
    np.testing.assert_allclose(stats.count, len(seen))
    np.testing.assert_allclose(stats.mean, seen.mean(0), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(normalizers.variance(stats), seen.var(0), rtol=1e-4)


def test_a_long_stream_far_from_zero_keeps_its_variance():
    rng = np.random.default_rng(0)
    stats = normalizers.init(jnp.zeros(()))
    update = jax.jit(normalizers.update)
    for _ in range(300):
        stats = update(stats, jnp.asarray(rng.normal(1000, 0.5, 1000), jnp.float32))
    np.testing.assert_allclose(stats.mean, 1000, atol=0.01)
    np.testing.assert_allclose(normalizers.variance(stats), 0.25, rtol=0.01)


def test_masked_elements_have_no_effect_even_if_nan():
    batch = jnp.array([[1.0, jnp.nan], [3.0, jnp.inf]])
    mask = jnp.array([[True, False], [True, False]])
    stats = normalizers.update(normalizers.init(jnp.zeros(())), batch, mask)
    assert (float(stats.count), float(stats.mean), float(stats.m2)) == (2, 2, 2)


def test_trees_are_normalised_leaf_by_leaf_and_clipped():
    batch = {"a": jnp.array([[0.0], [2.0]]), "b": jnp.array([[1.0, 5.0], [1.0, 9.0]])}
    element = jax.tree.map(lambda x: x[0], batch)
    stats = normalizers.update(normalizers.init(element), batch)
    found = normalizers.normalize(stats, {"a": jnp.array([4.0]), "b": jnp.array([2.0, 8.0])})
    np.testing.assert_allclose(found["a"], [3.0], rtol=1e-6)
    np.testing.assert_allclose(found["b"], [10.0, 0.5], rtol=1e-6)  # no variance: clipped


def test_standardising_adds_to_the_deviation_and_never_clips():
    batch = jnp.array([[1.0, 0.0], [1.0, 4.0]])
    stats = normalizers.update(normalizers.init(batch[0]), batch)
    found = normalizers.standardize(stats, jnp.array([2.0, -2.0]))
    np.testing.assert_allclose(found, [1 / 1e-3, -4 / 2.001], rtol=1e-5)


def test_nothing_seen_leaves_inputs_unchanged():
    stats = normalizers.init(jnp.zeros(2))
    np.testing.assert_allclose(normalizers.normalize(stats, jnp.array([1.0, -2.0])), [1, -2])


def test_statistics_vmap_over_seeds():
    batch = jnp.arange(12.0).reshape(2, 3, 2)
    start = jax.vmap(lambda x: normalizers.init(x))(batch[:, 0])
    stats = jax.vmap(normalizers.update)(start, batch)
    np.testing.assert_allclose(stats.mean, batch.mean(1))
    assert stats.count.shape == (2,)


def test_a_mask_with_the_wrong_axes_is_refused():
    with pytest.raises((ValueError, TypeError)):
        normalizers.update(
            normalizers.init(jnp.zeros(2)), jnp.zeros((4, 5, 2)), jnp.ones((3, 5), bool)
        )
