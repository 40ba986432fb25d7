"""The point worlds: moves against a loop, walls, and what roaming is counted and judged by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.envs.coverage import SIDE, Visits
from rlssm.envs.points import FOUR_ROOMS, WORLDS, PointWorld, _walls
from rlssm.evaluation.skills import Roamed, covered, explained, of_reaching, of_roaming


def walk(env, actions, seed=0):
    """Return positions `[T + 1, 2]` and the steps' outputs."""
    state, obs = env.reset(jax.random.key(seed), env.params)

    def step(state, action):
        state, out = env.step(jax.random.key(0), state, action, env.params)
        return state, (state.position, out)

    _, (position, out) = jax.jit(lambda s, a: jax.lax.scan(step, s, a))(state, actions)
    return np.concatenate([np.asarray(state.position)[None], position]), out


@pytest.mark.parametrize("round_action", [True, False])
def test_the_plane_moves_as_its_formula_says(round_action):
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(9, 2)).astype(np.float32)
    env = PointWorld(round=round_action, max_steps=9)
    position, out = walk(env, actions)
    at = position[0].astype(np.float64)
    assert (np.abs(at) <= 0.1).all()
    for t, a in enumerate(actions):
        at = at + 0.5 * (a / max(1, np.hypot(*a)) if round_action else np.clip(a, -1, 1))
        np.testing.assert_allclose(position[t + 1], at, atol=1e-5)
        np.testing.assert_allclose(out.obs[t], at / 3, atol=1e-5)
    far = np.linalg.norm(position[-1] - position[0])
    assert out.reward.sum() == pytest.approx(far, rel=1e-4)
    assert not out.terminated.any()
    np.testing.assert_array_equal(out.truncated, np.arange(9) == 8)
    np.testing.assert_array_equal(out.info["position"], position[1:])


def test_walls_are_never_entered_and_four_rooms_have_68_cells():
    assert (~_walls(FOUR_ROOMS)).sum() == 68
    rng = np.random.default_rng(1)
    for name in ("point/four-rooms", "point/u-maze", "point/large-maze"):
        env = WORLDS[name]
        position, _ = walk(env, rng.normal(size=(600, 2)).astype(np.float32) * 2 + 0.2)
        x, y = np.floor(position).astype(int).T
        assert not _walls(env.layout)[x, y].any()
        assert covered(position) > 3
        gx, gy = np.floor(env.goals(jax.random.key(0), 200)).astype(int).T
        assert not _walls(env.layout)[gx, gy].any() and len(set(zip(gx, gy, strict=True))) > 9


def test_visits_count_cells_ever_and_lately_and_those_beyond(monkeypatch):
    monkeypatch.setattr("rlssm.envs.coverage.QUEUE", 6)
    visits, rng, cells = Visits.start(2), np.random.default_rng(2), []
    for _ in range(8):
        position = rng.uniform(-3, 3, (2, 2))
        cells.append({tuple(c) for c in np.floor(position).astype(int)})
        visits = visits.update(jnp.asarray(position, jnp.float32))
    found = visits.metrics()
    assert found["coverage/total"] == len(set().union(*cells))
    assert found["coverage/queue"] == len(set().union(*cells[-3:]))
    found = visits.update(jnp.array([[SIDE, 0.0], [0.0, -SIDE]])).metrics()
    assert found["coverage/outside"] == 2
    assert found["coverage/total"] == len(set().union(*cells))


def test_measures_of_known_walks():
    t = np.arange(11.0)
    position = np.stack([np.stack([t, 0 * t], 1), np.stack([0 * t, -t], 1)], 1)
    embedding = position @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 5
    found = of_roaming(Roamed(position, embedding))
    assert found["coverage"] == 21 and found["displacement"] == 10
    assert found["squared_step"] == pytest.approx(1) and found["long_steps"] == 0
    assert found["explained"] == pytest.approx(1)
    assert explained(position, np.random.default_rng(0).normal(size=(11, 2, 2))) < 0.4
    reached = of_reaching(Roamed(position, embedding), np.array([[10.0, 0.0], [0.0, -5.0]]))
    assert reached["distance"] == 2.5
    assert (reached["hit_1"], reached["end_1"], reached["end_3"]) == (1, 0.5, 0.5)
    assert reached["stay_1"] == pytest.approx((2 / 10 + 3 / 10) / 2)
