"""The errand as an environment, whatever moves its world."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crafter_starts import put

from rlssm.envs import registry, user
from rlssm.errors import UserError
from rlssm.world_models.crafter_slots import stack, to_arrays
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.errand import (
    CAPACITY,
    HELD_OUT,
    WANTED,
    Errand,
    ErrandParams,
    garden,
    held_out,
    in_model,
    in_model_file,
    in_unfitted_laws,
    true_world,
)
from rlssm.world_models.law_json import save_model
from rlssm.world_models.likelihood import Model
from rlssm.world_models.oracle_laws import oracle_laws, oracle_model
from rlssm.world_models.schema import ACTIONS, MATERIAL_INDEX

FEW = tuple(law for law in oracle_laws() if law.name in ("turning", "walking")) + tuple(
    law for law in oracle_laws() if law.name.startswith(("tree", "water"))
)
IN_LAWS = in_model(Model(CrafterView(), FEW, (2.0,) * len(FEW)))


def start() -> ErrandParams:
    """Return one world: a tree ahead, water to the left, grass everywhere else, no cows."""
    state = garden(0)
    state.materials[:] = MATERIAL_INDEX["grass"]
    state.objects = [state.player]
    state.player.position, state.player.facing = (5, 5), (0, 1)
    put(put(state, "tree", (5, 6)), "water", (4, 5))
    return ErrandParams(stack([to_arrays(state, CAPACITY)]), jnp.array(IN_LAWS.weights))


def play(env, actions: list[str]):
    params = start()
    state, obs = jax.jit(env.reset)(jax.random.key(0), params)
    step, taken = jax.jit(env.step), []
    for turn, action in enumerate(actions):
        key, number = jax.random.key(turn), jnp.int32(ACTIONS.index(action))
        state, out = step(key, state, number, params)
        taken.append(out)
    return obs, taken


@pytest.mark.parametrize("env", [replace(true_world(), steps=5), replace(IN_LAWS, steps=5)])
def test_each_thing_pays_once_in_truth_and_in_laws(env):
    obs, steps = play(env, ["do", "move_left", "do", "do", "noop"])
    assert [float(step.reward) for step in steps] == [1, 0, 1, 0, 0]
    assert [bool(step.truncated) for step in steps] == [False] * 4 + [True]
    assert not any(bool(step.terminated) or bool(step.info["success"]) for step in steps)
    fetched = np.asarray(steps[-1].obs)[-len(WANTED) :]
    assert fetched.tolist() == [1, 1, 0] and np.asarray(obs)[-3:].tolist() == [0, 0, 0]
    assert obs.shape == env.spec.obs.shape


def test_it_keeps_the_contract_and_is_found_by_name():
    user.check(IN_LAWS, "laws")
    env = registry.make("rlssm.world_models.errand:held_out")  # which is checked in the same way
    assert env == held_out() and hash(env) == hash(held_out()) and env != true_world()
    assert in_unfitted_laws() == in_unfitted_laws() != true_world()


def test_starts_first_asked_for_while_compiling_are_not_traced():
    env = Errand(worlds=2, seed=77)
    for _ in range(2):
        _, obs = jax.jit(lambda key: env.reset(key, env.params))(jax.random.key(0))
        assert np.isfinite(obs).all()
    assert env.params.starts.next_id.shape == (2,)


def test_worlds_for_testing_are_others():
    seen = {garden(seed).materials.tobytes() for seed in range(64)}
    assert len(seen) == 64
    assert garden(HELD_OUT).materials.tobytes() not in seen
    for seed in range(20):
        world = garden(seed)
        assert {MATERIAL_INDEX[name] for name in ("tree", "water")} <= set(
            np.unique(world.materials)
        )
        assert world.player.inventory["drink"] < 9


def test_models_come_from_files_but_not_in_the_reference_reading(tmp_path):
    save_model(Model(CrafterView(), FEW, (2.0,) * len(FEW)), tmp_path / "laws.json")
    read = in_model_file(tmp_path / "laws.json")
    assert [law.name for law in read.laws] == [law.name for law in FEW]
    with pytest.raises(UserError, match="reference must be False for a model"):
        in_model(oracle_model(reference=True))
    with pytest.raises(UserError, match="steps must be at least 1, got 0"):
        Errand(steps=0)
    with pytest.raises(UserError, match="worlds must be at least 1, got 0"):
        Errand(worlds=0)
