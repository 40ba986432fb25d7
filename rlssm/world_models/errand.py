"""An errand in Crafter as an environment: fetch wood, water and a sapling, in truth or in a model.

The same task, starts and observations, whichever dynamics it has: a policy trained inside laws can
be tested in the true world. To train in a model of your own, name a factory on the command line:

    # my_world.py
    from rlssm.world_models.errand import in_model_file
    def learned():
        return in_model_file("model.json")

    rlssm train ppo --env my_world:learned
    rlssm train ppo --env rlssm.world_models.errand:true_world

Laws are compiled, so their model must have the default reading.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import Step
from rlssm.errors import UserError, require
from rlssm.types import Box, Discrete, Key, Spec
from rlssm.world_models import crafter_jax
from rlssm.world_models.contenders import UNFITTED_WEIGHT
from rlssm.world_models.crafter import initial_state
from rlssm.world_models.crafter_jax_step import begin, look
from rlssm.world_models.crafter_slots import FREE, CrafterArrays, stack, to_arrays
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.law_json import load_model
from rlssm.world_models.laws import Law
from rlssm.world_models.laws_jax import Draw, compile_laws
from rlssm.world_models.likelihood import Model
from rlssm.world_models.oracle_laws import oracle_model
from rlssm.world_models.schema import ACTIONS, ITEMS, MATERIAL_INDEX, Cow, Position, WorldState

WANTED = ("wood", "drink", "sapling")
CAPACITY = 16

_SIZE = (12, 12)
_SIGHT = 3  # tiles seen in every direction
_SEEN = ("grass", "water", "tree", "path")
_WANTED = np.array([ITEMS.index(item) for item in WANTED])
_STREWN = {"tree": 0.12, "water": 0.06}
_THIRST = 5  # what there is left to drink at the start


class ErrandState(NamedTuple):
    """The world, which items were fetched, and the steps taken."""

    world: CrafterArrays
    fetched: Bool[Array, " 3"]
    time: Int[Array, ""]


class ErrandParams(NamedTuple):
    """The worlds that episodes start in, leaves `[W, ...]`, and the weights of the laws."""

    starts: CrafterArrays
    weights: Float[Array, " L"]


@dataclass(frozen=True)
class Errand:
    """Fetch each of `WANTED` once, within `steps` steps: +1 for each, done with all three.

    The observation has the 7 by 7 tiles around the player (which of `_SEEN`, anything else, and
    whether somebody stands there), the direction faced, vitals and items over 9, and what was
    fetched. Actions are Crafter's. `info["success"]` says at the last step whether all was fetched.

    Attributes:
      laws: of the model that moves the world; None for the true rules.
      weights: one for each law.
      steps: length of an episode.
      worlds: how many worlds episodes start in, made from `seed` on.
    """

    laws: tuple[Law, ...] | None = None
    weights: tuple[float, ...] = ()
    steps: int = 60
    worlds: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.worlds >= 1, "worlds", self.worlds, "at least 1")

    @property
    def spec(self) -> Spec:
        tiles = (2 * _SIGHT + 1) ** 2 * (len(_SEEN) + 2)
        size = tiles + 4 + 1 + len(ITEMS) + len(WANTED)
        return Spec(Box((size,)), Discrete(len(ACTIONS)), max_episode_steps=self.steps)

    @property
    def params(self) -> ErrandParams:
        starts = jax.tree.map(jnp.asarray, _starts(self.worlds, self.seed))
        return ErrandParams(starts, jnp.array(self.weights, jnp.float32))

    def reset(self, key: Key, params: ErrandParams) -> tuple[ErrandState, Float[Array, " D"]]:
        chosen = jax.random.randint(key, (), 0, params.starts.next_id.shape[0])
        world = jax.tree.map(lambda leaf: leaf[chosen], params.starts)
        state = ErrandState(world, jnp.zeros(len(WANTED), bool), jnp.zeros((), jnp.int32))
        return state, _observe(state)

    def step(
        self, key: Key, state: ErrandState, action: Int[Array, ""], params: ErrandParams
    ) -> tuple[ErrandState, Step]:
        before, world = state.world, self._move(key, state.world, action, params)
        gained = (world.player.inventory > before.player.inventory)[_WANTED]
        fetched = state.fetched | gained
        after = ErrandState(world, fetched, state.time + 1)
        terminated = jnp.all(fetched) | (world.player.health <= 0)
        return after, Step(
            obs=_observe(after),
            reward=jnp.sum(fetched & ~state.fetched).astype(jnp.float32),
            terminated=terminated,
            truncated=(after.time >= self.steps) & ~terminated,
            info={"success": jnp.all(fetched)},
        )

    def _move(
        self, key: Key, world: CrafterArrays, action: Int[Array, ""], params: ErrandParams
    ) -> CrafterArrays:
        worlds, actions = jax.tree.map(lambda leaf: leaf[None], (world, action))
        if self.laws is None:
            after, _ = crafter_jax.step(key, worlds, actions)
        else:
            after = _drawer(self.laws)(params.weights, key, worlds, actions)
        return jax.tree.map(lambda leaf: leaf[0], after)


def _observe(state: ErrandState) -> Float[Array, " D"]:
    world, player = state.world, state.world.player
    around = np.stack(np.meshgrid(*(np.arange(-_SIGHT, _SIGHT + 1),) * 2, indexing="ij"), -1)
    places = player.position + jnp.asarray(around.reshape(-1, 2))
    material = look(world.materials, places, -1)
    seen = jnp.stack([material == MATERIAL_INDEX[name] for name in _SEEN])
    other = ~jnp.any(seen, 0)
    taken = look(begin(world).occupied, places, FREE) != FREE
    return jnp.concatenate(
        [
            jnp.concatenate([seen, other[None], taken[None]]).ravel().astype(jnp.float32),
            jax.nn.one_hot(player.facing, 4),
            player.health[None] / 9,
            player.inventory / 9,
            state.fetched,
        ]
    ).astype(jnp.float32)


@cache
def _drawer(laws: tuple[Law, ...]) -> Draw:
    return compile_laws(laws)


# --- Starts -----------------------------------------------------------------------------------


@cache
def _starts(worlds: int, seed: int) -> CrafterArrays:
    # Kept, so it must not be made of what a function that is being compiled traces.
    with jax.ensure_compile_time_eval():
        made = stack([to_arrays(garden(seed + i), CAPACITY) for i in range(worlds)])
    return jax.tree.map(np.asarray, made)


def garden(seed: int) -> WorldState:
    """Return a small world of grass with trees, ponds and two cows, and a thirsty player in it."""
    rng = np.random.default_rng(seed)
    state = _bare().copy()
    drawn, below = rng.uniform(size=_SIZE), 0.0
    for material, share in _STREWN.items():
        state.materials[(drawn >= below) & (drawn < below + share)] = MATERIAL_INDEX[material]
        below += share
    free = np.argwhere(state.materials == MATERIAL_INDEX["grass"]).tolist()
    places: list[Position] = [(x, y) for x, y in rng.permutation(free)[:3].tolist()]
    state.player.position = places[0]
    state.player.inventory["drink"] = _THIRST
    state.objects = [state.player, *(Cow(2 + i, place) for i, place in enumerate(places[1:]))]
    state.next_id = 2 + len(places[1:])
    return state


@cache
def _bare() -> WorldState:
    state = initial_state(_SIZE, seed=0)
    state.materials[:] = MATERIAL_INDEX["grass"]
    return state


# --- Factories --------------------------------------------------------------------------------

HELD_OUT = 10**6  # seed of the worlds to test in


def true_world() -> Errand:
    """Return the errand in the true world."""
    return Errand()


def held_out() -> Errand:
    """Return the errand in the true world, in worlds that no training has seen."""
    return Errand(seed=HELD_OUT)


def in_model(model: Model) -> Errand:
    """Return the errand inside a model.

    Raises:
      UserError: if the model has the reference reading, in which tiles never change.
    """
    if model.world.reference:
        raise UserError("reference must be False for a model to be an environment, got True")
    return Errand(model.laws, model.weights)


def in_model_file(path: str | Path) -> Errand:
    """Return the errand inside the model in a file.

    Raises:
      UserError: naming the file and the first thing wrong with it.
    """
    return in_model(load_model(path, CrafterView()))


def in_oracle_laws() -> Errand:
    """Return the errand inside the hand-written laws."""
    return in_model(oracle_model())


def in_unfitted_laws() -> Errand:
    """Return the errand inside the hand-written laws with the weights that fitting starts from."""
    model = oracle_model()
    return in_model(replace(model, weights=(UNFITTED_WEIGHT,) * len(model.laws)))
