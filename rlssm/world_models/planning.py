"""Plans made of subroutines, rolled out in the true world or in a model of it, many at a time.

A subroutine walks to the nearest of what it is after, faces it and acts, until it is done. A plan
is a list of them. The dynamics step all rollouts together; what each does next is decided by the
state it is in. Plans compare by the mean reward of their rollouts, with standard errors.

Source: One Life to Learn (arXiv 2510.12088), planning experiments; random shooting is ours.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from rlssm.errors import require
from rlssm.types import Key
from rlssm.world_models import crafter_jax
from rlssm.world_models.crafter import is_over
from rlssm.world_models.crafter_slots import CrafterArrays, from_arrays, stack, to_arrays
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.laws_jax import compile_laws
from rlssm.world_models.likelihood import Model, sample
from rlssm.world_models.schema import (
    ACTIONS,
    DIRECTIONS,
    MATERIALS,
    PLAYER_WALKABLE,
    Position,
    WorldState,
    inside,
    material_at,
    shift,
)

CAPACITY = 32
BATCH = 128  # rollouts that step together
LONGEST = 40


# --- Dynamics ---------------------------------------------------------------------------------


class Dynamics(NamedTuple):
    """A world to plan in, for up to `BATCH` states held in whatever form it likes."""

    begin: Callable[[Sequence[WorldState]], Any]
    step: Callable[[int, Any, Sequence[str]], Any]  # seed, states, actions
    look: Callable[[Any], list[WorldState]]


def true_dynamics(capacity: int = CAPACITY) -> Dynamics:
    """Return the true world, compiled."""
    return _compiled(
        lambda key, states, actions: crafter_jax.step(key, states, actions)[0], capacity
    )


def model_dynamics(model: Model, capacity: int = CAPACITY) -> Dynamics:
    """Return the world of a model: compiled, or state by state in the reference reading.

    The latter is shown where the player faces and the tile there: without them nobody could turn,
    and nothing that is mined or placed would show.
    """
    if model.world.reference:
        return _one_by_one(replace(model, world=CrafterView(reference=True, facing=True)))
    draw, weights = compile_laws(model.laws), jnp.array(model.weights)
    return _compiled(lambda key, states, actions: draw(weights, key, states, actions), capacity)


def _compiled(
    step: Callable[[Key, CrafterArrays, Array], CrafterArrays], capacity: int
) -> Dynamics:
    jitted = jax.jit(step)

    # Always as many rows, so that there is one program.
    def begin(states: Sequence[WorldState]) -> tuple[CrafterArrays, list[WorldState]]:
        rows = [*states, *[states[-1]] * (BATCH - len(states))]
        return stack([to_arrays(state, capacity) for state in rows]), list(states)

    def forward(seed: int, held: Any, actions: Sequence[str]) -> Any:
        arrays, starts = held
        rows = [*actions, *["noop"] * (BATCH - len(actions))]
        numbers = jnp.array([ACTIONS.index(action) for action in rows], jnp.int32)
        return jitted(jax.random.key(seed), arrays, numbers), starts

    def look(held: Any) -> list[WorldState]:
        arrays, starts = jax.device_get(held[0]), held[1]
        return [
            from_arrays(jax.tree.map(lambda leaf, i=i: leaf[i], arrays), start.view, start.random)
            for i, start in enumerate(starts)
        ]

    return Dynamics(begin, forward, look)


def _one_by_one(model: Model) -> Dynamics:
    def forward(seed: int, states: list[WorldState], actions: Sequence[str]) -> list[WorldState]:
        rng = np.random.default_rng(seed)
        return [
            state if is_over(state) else sample(model, state, action, rng)
            for state, action in zip(states, actions, strict=True)
        ]

    return Dynamics(list, forward, list)


# --- Subroutines ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subroutine:
    """Go to the nearest of something, face it and act; or act at once if it is after nothing.

    Attributes:
      action: what to do there.
      target: a material or a kind of object; None to act wherever the player is.
      times: how often to act; None for as long as there is such a target.
      most: steps after which it gives up.
    """

    action: str
    target: str | None = None
    times: int | None = 1
    most: int = LONGEST

    def __str__(self) -> str:
        where = f" at {self.target}" if self.target else ""
        return f"{self.action}{where}" + (f" x{self.times}" if self.times != 1 else "")


Plan: TypeAlias = tuple[Subroutine, ...]


def next_action(state: WorldState, routine: Subroutine) -> tuple[str, bool] | None:
    """Return what a subroutine does now and whether that is its act; None if it has no target."""
    if routine.target is None:
        return routine.action, True
    player, occupied = state.player, {entity.position for entity in state.objects}
    goals = _places(state, routine.target)
    if player.target in goals:
        return routine.action, True
    for direction, vector in DIRECTIONS.items():
        place = shift(player.position, vector)
        walkable = place not in occupied and material_at(state, place) in PLAYER_WALKABLE
        if place in goals and not walkable:  # a step towards it only turns the player
            return f"move_{direction}", False
    step = _first_step(state, goals, occupied)
    return None if step is None else (f"move_{step}", False)


def _places(state: WorldState, target: str) -> set[Position]:
    if target in MATERIALS:
        tiles = np.argwhere(state.materials == MATERIALS.index(target)).tolist()
        return {(x, y) for x, y in tiles}
    return {entity.position for entity in state.objects if entity.kind == target}


def _first_step(state: WorldState, goals: set[Position], occupied: set[Position]) -> str | None:
    """Return the first step of a shortest way to the side of a goal, None without one."""
    start = state.player.position
    queue, came_by = deque([start]), {start: ""}
    while queue:
        here = queue.popleft()
        for direction, vector in DIRECTIONS.items():
            place = shift(here, vector)
            if place in goals and here != start:
                return came_by[here]
            if place in came_by or not inside(state.size, place) or place in occupied:
                continue
            material = material_at(state, place)
            if material in PLAYER_WALKABLE and material != "lava":
                came_by[place] = came_by[here] or direction
                queue.append(place)
    return None


class _Executor:
    """Where one rollout stands in its plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._index = self._acted = self._steps = 0

    def act(self, state: WorldState) -> str | None:
        """Return the next action, None at the end of the plan."""
        while self._index < len(self._plan):
            routine = self._plan[self._index]
            done = routine.times is not None and self._acted >= routine.times
            chosen = None if done or self._steps >= routine.most else next_action(state, routine)
            if chosen is not None:
                self._steps += 1
                self._acted += chosen[1]
                return chosen[0]
            self._index, self._acted, self._steps = self._index + 1, 0, 0
        return None


# --- Rollouts ---------------------------------------------------------------------------------


class Life(NamedTuple):
    """One rollout: states, one more than actions."""

    states: list[WorldState]
    actions: list[str]


Reward: TypeAlias = Callable[[Life], float]


def rollouts(
    dynamics: Dynamics,
    start: WorldState,
    plans: Sequence[Plan],
    seed: int,
    longest: int = LONGEST,
    progress: bool = False,
) -> list[Life]:
    """Return one rollout from `start` for each of `plans`, `BATCH` of them stepping together.

    A rollout ends with its plan, with the player's life or after `longest` steps.
    """
    lives: list[Life] = []
    batches = range(0, len(plans), BATCH)
    for number in tqdm(batches, desc="rollouts", disable=not progress, leave=False):
        lives += _batch(dynamics, start, plans[number : number + BATCH], seed + number, longest)
    return lives


def _batch(
    dynamics: Dynamics, start: WorldState, plans: Sequence[Plan], seed: int, longest: int
) -> list[Life]:
    lives = [Life([start], []) for _ in plans]
    executors = [_Executor(plan) for plan in plans]
    seeds = np.random.SeedSequence(seed).generate_state(longest).tolist()
    held = dynamics.begin([start] * len(plans))
    going = [True] * len(plans)
    for step in range(longest):
        chosen: list[str | None] = [None] * len(plans)
        for row, life in enumerate(lives):
            if going[row] and not is_over(life.states[-1]):
                chosen[row] = executors[row].act(life.states[-1])
            going[row] = chosen[row] is not None
        if not any(going):
            break
        held = dynamics.step(seeds[step], held, [action or "noop" for action in chosen])
        for row, state in enumerate(dynamics.look(held)):
            action = chosen[row]
            if action is not None:
                lives[row].states.append(state)
                lives[row].actions.append(action)
    return lives


class Estimate(NamedTuple):
    """The mean reward of a plan's rollouts, its standard error, and their mean length."""

    mean: float
    error: float
    steps: float
    rollouts: int


def estimate(lives: Sequence[Life], reward: Reward) -> Estimate:
    """Return the mean reward of rollouts with its standard error."""
    rewards = np.array([reward(life) for life in lives])
    error = float(rewards.std(ddof=1) / np.sqrt(len(rewards))) if len(rewards) > 1 else 0.0
    steps = float(np.mean([len(life.actions) for life in lives]))
    return Estimate(float(rewards.mean()), error, steps, len(lives))


class Shot(NamedTuple):
    """A plan that was tried, and what it promises."""

    plan: Plan
    promise: Estimate


def shoot(
    dynamics: Dynamics,
    start: WorldState,
    routines: Sequence[Subroutine],
    reward: Reward,
    *,
    length: int,
    candidates: int,
    count: int,
    seed: int,
    progress: bool = False,
) -> list[Shot]:
    """Return random plans of `length` subroutines, the most promising first.

    Each of `candidates` different plans is rolled out `count` times.

    Raises:
      UserError: unless all numbers are positive.
    """
    for name, value in (("length", length), ("candidates", candidates), ("count", count)):
        require(value >= 1, name, value, "at least 1")
    tried = list(_random_plans(routines, length, candidates, np.random.default_rng(seed)))
    rows = [plan for plan in tried for _ in range(count)]
    lives = rollouts(dynamics, start, rows, seed, progress=progress)
    shots = [
        Shot(plan, estimate(lives[i * count : (i + 1) * count], reward))
        for i, plan in enumerate(tried)
    ]
    return sorted(shots, key=lambda shot: -shot.promise.mean)


def _random_plans(
    routines: Sequence[Subroutine], length: int, candidates: int, rng: np.random.Generator
) -> Iterator[Plan]:
    seen: set[Plan] = set()
    for _ in range(20 * candidates):  # where there are fewer different plans than asked for
        plan = tuple(routines[i] for i in rng.integers(len(routines), size=length).tolist())
        if plan not in seen and len(seen) < candidates:
            seen.add(plan)
            yield plan
