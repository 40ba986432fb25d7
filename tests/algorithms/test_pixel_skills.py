"""METRA on images: φ of bytes, encoders of their own, acting and unrolling, and goals reached."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_skills import BOUNDS, PIXELS, PIXELS_CONFIG, PIXELS_ROUNDS, judge, missed, train
from small_skills import SMALL, played, with_memory

from rlssm.algorithms import metra, skilled
from rlssm.envs.point_pixels import PixelWorld
from rlssm.envs.points import PointWorld
from rlssm.nn.actor_critic import apply
from rlssm.types import unrolled

SEEN = PixelWorld(PointWorld(max_steps=6))
GOALS = ("hit_1", "distance")


@pytest.mark.slow
def test_bytes_are_embedded_as_shares_and_a_memory_acts_step_by_step_as_it_unrolls():
    config = with_memory(SMALL)
    state, trajectory = played(config, env=SEEN)
    obs = trajectory.step.obs
    assert obs.dtype == jnp.uint8 and obs.shape == (13, 4, 16, 16, 3)
    weights = state.params["representation"]
    embed = partial(metra.embed, config, SEEN.spec, weights)
    np.testing.assert_allclose(embed(obs), embed(obs / jnp.float32(255)), rtol=1e-5)
    shown = skilled.as_shown(config, trajectory)
    seen, reset = jax.tree.map(lambda x: x[:-1], unrolled(shown))
    actor = metra.networks(config, SEEN.spec).actor
    policy = apply(actor, state.params["actor"], shown.carry, seen, reset)[1]
    np.testing.assert_allclose(policy.mode(), trajectory.step.action, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_actor_critics_and_representation_each_learn_to_see_for_themselves():
    config = replace(SMALL, precision="default")
    state, batch = played(config, env=SEEN)
    after, metrics = jax.jit(partial(metra.update, config, SEEN.spec))(state, batch)
    assert all(np.isfinite(x).all() for x in metrics.values())
    before = (state.params, state.critic, state.target)
    moved = jax.tree.map(
        lambda old, new: bool((old != new).any()),
        before, (after.params, after.critic, after.target),
    )  # fmt: skip
    kernels = [
        value
        for path, value in jax.tree_util.tree_leaves_with_path(moved)
        if "conv_" in jax.tree_util.keystr(path) and "kernel" in jax.tree_util.keystr(path)
    ]
    assert len(kernels) == 4 * 3 and all(kernels)  # actor, representation, critics, targets


@pytest.mark.learning
def test_goals_are_reached_from_images_as_well_as_from_positions():
    bounds = {name: BOUNDS[name] for name in GOALS}
    for seed in (200, 201, 202):
        state, metrics = train(PIXELS_CONFIG, [seed], PIXELS_ROUNDS, PIXELS)
        row = judge(state, metrics, PIXELS_CONFIG, PIXELS)[0]
        print(seed, row)
        assert not missed(row, bounds)
