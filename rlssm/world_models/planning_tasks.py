"""The three published planning tasks: a start, a reward and two plans, the better one first.

Source: One Life to Learn (arXiv 2510.12088), planning experiments. Its plans are not released;
these have the same ingredients and tell the same story.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlssm.world_models.crafter import initial_state
from rlssm.world_models.planning import (
    Dynamics,
    Estimate,
    Life,
    Plan,
    Reward,
    Subroutine,
    estimate,
    rollouts,
)
from rlssm.world_models.scenarios import SEED, SIZE
from rlssm.world_models.schema import MATERIAL_INDEX, Position, WorldState, Zombie, chunk_of

SWORDS = ("wood_sword", "stone_sword", "iron_sword")


@dataclass(frozen=True)
class Task:
    """What to reach from a start, and two ways to go about it.

    `shootable` are the subroutines that random shooting may string together.
    """

    name: str
    start: Callable[[], WorldState]
    reward: Reward
    plans: dict[str, Plan]  # the better one first
    shootable: tuple[Subroutine, ...]


def compare(
    task: Task, dynamics: Dynamics, count: int, seed: int = 0, progress: bool = False
) -> dict[str, Estimate]:
    """Return what each plan of a task comes to, from `count` rollouts."""
    start = task.start()
    return {
        name: estimate(
            rollouts(dynamics, start, [plan] * count, seed + i, progress=progress), task.reward
        )
        for i, (name, plan) in enumerate(task.plans.items())
    }


def is_right(estimates: dict[str, Estimate]) -> bool:
    """Return whether the plan named first comes out ahead by more than two standard errors."""
    better, worse = estimates.values()
    return better.mean - worse.mean > 2 * (better.error**2 + worse.error**2) ** 0.5


# --- Starts and rewards -----------------------------------------------------------------------


def _land(
    position: Position,
    tiles: dict[str, Sequence[Position]],
    zombies: Sequence[Position] = (),
    health: int = 9,
    wood: int = 0,
) -> WorldState:
    state = initial_state(SIZE, SIZE, SEED)
    state.materials[:] = MATERIAL_INDEX["grass"]
    for material, places in tiles.items():
        for place in places:
            state.materials[place] = MATERIAL_INDEX[material]
    player = state.player
    player.position, player.health, player.last_health = position, health, health
    player.inventory["wood"] = wood
    state.objects = [player]
    for place in zombies:
        state.objects.append(Zombie(state.next_id, place))
        state.next_id += 1
    state.known_chunks = [chunk_of(SIZE, position)]
    return state


def _damage_per_strike(life: Life) -> float:
    """Return the health that zombies lost over the steps spent striking one."""
    damage = strikes = 0
    for before, after, action in zip(life.states, life.states[1:], life.actions, strict=False):
        struck = next((e for e in before.objects if e.position == before.player.target), None)
        if action != "do" or not isinstance(struck, Zombie) or struck.health == 0:
            continue
        left = next((e.health for e in after.objects if e.entity_id == struck.entity_id), 0)
        # A blow that kills shows only what was left; it counts as if there had been enough.
        damage += _blow(before) if left == 0 else struck.health - left
        strikes += 1
    return damage / strikes if strikes else 0.0


def _blow(state: WorldState) -> int:
    return 2 if state.player.inventory["wood_sword"] else 1


def _stone(life: Life) -> float:
    return float(life.states[-1].player.inventory["stone"])


def _swords(life: Life) -> float:
    return float(sum(life.states[-1].player.inventory[sword] for sword in SWORDS))


# --- The tasks --------------------------------------------------------------------------------

_FELL = Subroutine("do", "tree")
_TABLE = Subroutine("place_table")
_SWORD = Subroutine("make_wood_sword")
_PICKAXE = Subroutine("make_wood_pickaxe")
_FIGHT = Subroutine("do", "zombie", times=6, most=16)
_MINE = Subroutine("do", "stone", times=3, most=12)
_NEXT = Subroutine("move_left")

TASKS: dict[str, Task] = {
    "zombie fighter": Task(
        "zombie fighter",
        lambda: _land(
            (2, 2), {"tree": [(1, 2), (2, 1), (3, 2), (1, 1)]}, zombies=[(8, 8), (7, 8)], health=5
        ),
        _damage_per_strike,
        {
            "wood, table, sword, fight": (_FELL, _FELL, _FELL, _TABLE, _SWORD, _FIGHT),
            "fight at once": (_FIGHT,),
        },
        (_FELL, _TABLE, _SWORD, _FIGHT),
    ),
    "stone miner": Task(
        "stone miner",
        lambda: _land(
            (4, 4),
            {"tree": [(1, 4), (1, 5), (2, 2), (1, 3)], "stone": [(7, 3), (7, 4), (7, 5), (8, 4)]},
        ),
        _stone,
        {
            "wood, table, pickaxe, mine": (_FELL, _FELL, _FELL, _TABLE, _PICKAXE, _MINE),
            "mine at once": (_MINE,),
        },
        (_FELL, _TABLE, _PICKAXE, _MINE),
    ),
    "sword maker": Task(
        "sword maker",
        lambda: _land((6, 4), {}, wood=6),
        _swords,
        {
            "one table": (_TABLE, _SWORD, _SWORD, _SWORD, _SWORD),
            "a table for each sword": (_TABLE, _SWORD, _NEXT, _NEXT, _NEXT) * 2,
        },
        (_TABLE, _SWORD, _NEXT),
    ),
}
