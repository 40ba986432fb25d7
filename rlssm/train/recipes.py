"""Datasets that can be made here, without a network: what there is, and making one.

A recipe called `pendulum/medium` makes the Minari dataset `pendulum/medium-v0`. Its metadata say
how: the command with steps and seed, players or policies, versions, and the measured returns that
stand for the scores 0 and 100.
"""

from collections.abc import Callable
from typing import NamedTuple

from rlssm.data import minari_io, minari_store
from rlssm.data.dataset import OfflineDataset
from rlssm.errors import UserError, require, unknown_name
from rlssm.train import recipes_lock, recipes_mujoco, recipes_pendulum, recipes_point_maze

MAX_STEPS = 50_000_000  # some 10 GB


class Recipe(NamedTuple):
    """One dataset: what it is, its steps by default, and `build(name, steps, seed, progress)`."""

    text: str
    steps: int
    build: Callable[[str, int, int, bool], OfflineDataset]


RECIPES: dict[str, Recipe] = {
    **{
        f"pendulum/{level}": Recipe(recipes_pendulum.TEXTS[level], 100_000, recipes_pendulum.build)
        for level in recipes_pendulum.LEVELS
    },
    **{
        f"{env}/{level}": Recipe(
            recipes_mujoco.TEXTS[level],
            2_000_000 if level == "medium-expert" else 1_000_000,
            recipes_mujoco.build,
        )
        for env in recipes_mujoco.ENVS
        for level in recipes_mujoco.LEVELS
    },
    **{
        name: Recipe(recipes_lock.text(name), recipes_lock.default_steps(name), recipes_lock.build)
        for name in recipes_lock.IDS
    },
    **{
        name: Recipe(
            recipes_point_maze.text(name),
            recipes_point_maze.default_steps(name),
            recipes_point_maze.build,
        )
        for name in recipes_point_maze.IDS
    },
}


def find(dataset_id: str) -> str | None:
    """Return the name of the recipe that makes a dataset, with or without its `-v0`, or None.

    Raises:
        UserError: if the id is malformed.
    """
    name, version = minari_store.split_id(dataset_id)
    return name if name in RECIPES and version in (None, 0) else None


def available(name: str) -> bool:
    """Return whether a recipe has all it needs: the policies of some do not ship yet."""
    return RECIPES[name].build is not recipes_mujoco.build or recipes_mujoco.available(name)


def make(
    name: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> OfflineDataset:
    """Make a dataset and write it; it appears complete or not at all.

    Args:
        name: a recipe, such as `pendulum/medium`.
        steps: how many, at least; whole episodes are kept. Default: the recipe's own number.
        seed: of the start states and of the actions.
        force: whether to replace a dataset that is there already.
        progress: whether to show a progress bar, where it takes longer.

    Returns:
        The dataset, on the host.

    Raises:
        UserError: if there is no such recipe, a value is out of range, the dataset is there
            already, policies are missing, or a process failed.
    """
    found = find(name)
    if found is None:
        raise unknown_name("recipe", name, RECIPES)
    recipe = RECIPES[found]
    steps = recipe.steps if steps is None else steps
    require(1 <= steps <= MAX_STEPS, "steps", steps, f"from 1 to {MAX_STEPS}")
    require(0 <= seed < 2**31, "seed", seed, "from 0 to 2147483647")
    dataset_id = f"{found}-v0"
    if not force and minari_store.find_local(dataset_id) is not None:
        raise UserError(
            f"dataset {dataset_id} is in {minari_store.root()} already; --force True makes it anew"
        )
    dataset = recipe.build(found, steps, seed, progress)
    if force:
        minari_store.remove(dataset_id)
    minari_io.write(dataset)
    return dataset
