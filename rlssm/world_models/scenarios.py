"""The 23 test scenarios of Crafter, 15 of them once more set up to fail: 38 in all.

All play on nine by nine tiles with the player at (5, 5). A scenario gives a start, what the player
does there, and what is true of the states passed through when it went as intended.

Source: One Life to Learn (arXiv 2510.12088), released code. There, a scenario and its failing
variant share one name and the latter's results replace the former's; here both are kept.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from rlssm.errors import unknown_name
from rlssm.world_models.crafter import initial_state, transition
from rlssm.world_models.crafter_player import COLLECT, PLACE
from rlssm.world_models.object_view import MOVE_NAMES
from rlssm.world_models.schema import (
    MATERIAL_INDEX,
    RIPE_AFTER,
    Cow,
    Entity,
    GeneratorState,
    Plant,
    Position,
    Skeleton,
    WorldState,
    Zombie,
    distance,
    toward,
)

SIZE = (9, 9)
SEED = 1
HERE: Position = (5, 5)
TARGET: Position = (6, 5)
LEFT: Position = (4, 5)

# What to do in a state after so many steps; None ends the scenario.
Script: TypeAlias = Callable[[WorldState, int, np.random.Generator], str | None]
Goal: TypeAlias = Callable[[Sequence[WorldState]], bool]


class Transition(NamedTuple):
    """One step of the true world."""

    state: WorldState
    action: str
    after: WorldState


@dataclass(frozen=True)
class Scenario:
    """A start, a way to act there and what it should come to.

    Attributes:
      name: as published, such as `collect_coal`.
      variant: "success", "failure", or "only" where there is no second one.
      group: the kind of mechanics it is about.
      deterministic: whether one step, without creatures, decides it.
      succeeds: whether the goal is reached; False in the failing variants.
    """

    name: str
    variant: str
    group: str
    start: Callable[[], WorldState]
    script: Script
    steps: int
    goal: Goal
    deterministic: bool = True

    @property
    def id(self) -> str:
        return self.name if self.variant == "only" else f"{self.name} ({self.variant})"

    @property
    def succeeds(self) -> bool:
        return self.variant != "failure"


def play(scenario: Scenario, seed: int) -> list[Transition]:
    """Return the transitions of one run in the true world, whose chances `seed` draws."""
    state = scenario.start()
    state.random = GeneratorState.of(np.random.RandomState(seed))
    rng = np.random.default_rng(seed)
    passed: list[Transition] = []
    while len(passed) < scenario.steps:
        action = scenario.script(state, len(passed), rng)
        if action is None:
            break
        after, _ = transition(state, action)
        passed.append(Transition(state, action, after))
        state = after
    return passed


def reached(scenario: Scenario, transitions: Sequence[Transition]) -> bool:
    """Return whether a run came to the scenario's goal."""
    return scenario.goal([transitions[0].state, *(step.after for step in transitions)])


def chosen(which: str) -> tuple[Scenario, ...]:
    """Return the scenarios of a set: "all", "success", or "failure", as the published code scores.

    Raises:
      UserError: on another name.
    """
    if which not in ("all", "success", "failure"):
        raise unknown_name("set of scenarios", which, ("all", "success", "failure"))
    return tuple(s for s in SCENARIOS if which == "all" or s.variant in (which, "only"))


# --- Starts -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What a scenario's start differs in from the world that its seed makes."""

    target: str | None = None  # with it, all other tiles are grass and the player faces this one
    others: Sequence[Entity] = ()
    left: str | None = None  # the material on the player's other side
    inventory: Mapping[str, int] = field(default_factory=dict)
    alone: bool = False  # whether the animals of the world are taken away

    def __call__(self) -> WorldState:
        state = initial_state(SIZE, SIZE, SEED)
        player = state.player
        player.position = HERE
        if self.target is not None:
            state.materials[:] = MATERIAL_INDEX["grass"]
            state.materials[TARGET] = MATERIAL_INDEX[self.target]
            player.facing = (1, 0)
        if self.left is not None:
            state.materials[LEFT] = MATERIAL_INDEX[self.left]
        if self.alone:
            state.objects = [player]
        for entity in map(copy.copy, self.others):
            entity.entity_id = state.next_id
            state.next_id += 1
            state.objects.append(entity)
        player.inventory.update(self.inventory)
        return state


def _tired() -> WorldState:
    state = Setting(inventory={"energy": 8})()
    state.player.fatigue = 0.0
    return state


# --- Scripts and goals ------------------------------------------------------------------------


def _always(action: str) -> Script:
    return lambda state, step, rng: action


def _wander(state: WorldState, step: int, rng: np.random.Generator) -> str:
    return f"move_{('left', 'right', 'up', 'down')[int(rng.integers(4))]}"


def _hunt(kind: str, chase: bool = True) -> Script:
    """Return a script that turns to the nearest creature of a kind, follows and strikes it."""

    def script(state: WorldState, step: int, rng: np.random.Generator) -> str | None:
        player = state.player
        prey = [entity for entity in state.objects if entity.kind == kind]
        if not prey:
            return None
        nearest = min(prey, key=lambda entity: distance(entity.position, player.position))
        if not chase or nearest.position == player.target:
            return "do"
        return f"move_{MOVE_NAMES[toward(player.position, nearest.position)]}"

    return script


def _holds(item: str, amount: int = 1) -> Goal:
    return lambda states: states[-1].player.inventory[item] == amount


def _tile(material: str) -> Goal:
    return lambda states: states[-1].materials[TARGET] == MATERIAL_INDEX[material]


def _gone(kind: str) -> Goal:
    return lambda states: all(entity.kind != kind for entity in states[-1].objects)


def _planted(states: Sequence[WorldState]) -> bool:
    return any(isinstance(e, Plant) and e.position == TARGET for e in states[-1].objects)


def _ate_plant(states: Sequence[WorldState]) -> bool:
    plants = [entity for entity in states[-1].objects if isinstance(entity, Plant)]
    return states[-1].player.inventory["food"] == 4 and [plant.grown for plant in plants] == [1]


def _slept_and_woke(states: Sequence[WorldState]) -> bool:
    return states[1].player.sleeping and not states[-1].player.sleeping and len(states) == 13


def _cow_moved(states: Sequence[WorldState]) -> bool:
    return any(states[0].objects[1].position != e.position for s in states for e in s.objects[1:2])


def _player_moved(states: Sequence[WorldState]) -> bool:
    return any(state.player.position != states[0].player.position for state in states)


# --- The scenarios ----------------------------------------------------------------------------


def _pair(
    name: str, group: str, action: str, goal: Goal, works: Setting, fails: Setting
) -> list[Scenario]:
    return [
        Scenario(name, variant, group, setting, _always(action), 1, goal)
        for variant, setting in (("success", works), ("failure", fails))
    ]


def _collecting() -> list[Scenario]:
    lesser = {
        "wood_pickaxe": {},
        "stone_pickaxe": {"wood_pickaxe": 1},
        "iron_pickaxe": {"wood_pickaxe": 1, "stone_pickaxe": 1},
    }
    made = []
    for material in ("coal", "diamond", "iron", "stone"):
        tool = COLLECT[material][0] or ""
        works, fails = (Setting(material, inventory=items) for items in ({tool: 1}, lesser[tool]))
        made += _pair(f"collect_{material}", "collection", "do", _holds(material), works, fails)
    for name, material, item, inventory in (
        ("collect_drink", "water", "drink", {"drink": 0}), ("collect_wood", "tree", "wood", {})
    ):  # fmt: skip
        setting = Setting(material, inventory=inventory)
        made.append(Scenario(name, "only", "collection", setting, _always("do"), 1, _holds(item)))
    return made


def _crafting() -> list[Scenario]:
    uses = {
        "iron": {"wood": 1, "coal": 1, "iron": 1},
        "stone": {"wood": 1, "stone": 1},
        "wood": {"wood": 1},
    }
    made = []
    for material, items in uses.items():
        for tool in ("pickaxe", "sword"):
            furnace = "furnace" if material == "iron" else None
            works, fails = (
                Setting("table", left=furnace, inventory={**items, "wood": wood}) for wood in (1, 0)
            )
            thing = f"{material}_{tool}"
            name = f"craft_{'wooden' if material == 'wood' else material}_{tool}"
            made += _pair(name, "tools", f"make_{thing}", _holds(thing), works, fails)
    return made


def _placing() -> list[Scenario]:
    made = []
    for thing in ("furnace", "plant", "stone", "table"):
        item, enough, _ = PLACE[thing]
        works, fails = (Setting("grass", inventory={item: n}) for n in (enough, enough - 1))
        goal = _planted if thing == "plant" else _tile(thing)
        made += _pair(f"place_{thing}", "manipulation", f"place_{thing}", goal, works, fails)
    return made


def _living() -> list[Scenario]:
    ripe, unripe = (
        Setting("grass", (Plant(0, TARGET, grown=grown),), inventory={"food": 0})
        for grown in (RIPE_AFTER + 1, 100)
    )
    cow = Setting("grass", (Cow(0, TARGET),))
    return [
        *_pair("eat_plant", "health", "do", _ate_plant, ripe, unripe),
        Scenario("eat_cow", "only", "health", cow, _hunt("cow"), 15, _gone("cow"), False),
        Scenario("wake_up", "only", "health", _tired, _always("sleep"), 12, _slept_and_woke, False),
    ]


def _meeting() -> list[Scenario]:
    skeleton = Setting("grass", (Skeleton(0, TARGET),))
    zombie = Setting("grass", (Zombie(0, TARGET),), inventory={"wood_sword": 1}, alone=True)
    cow = Setting("grass", (Cow(0, (6, 6)),), alone=True)
    return [
        Scenario(
            "defeat_skeleton", "only", "combat", skeleton, _hunt("skeleton"), 10,
            _gone("skeleton"), False,
        ),
        Scenario(
            "zombie_defeat", "only", "combat", zombie, _hunt("zombie", chase=False), 5,
            _gone("zombie"), False,
        ),
        Scenario("cow_movement", "only", "movement", cow, _always("noop"), 30, _cow_moved, False),
        Scenario(
            "random_movement", "only", "movement", Setting(), _wander, 10, _player_moved, False
        ),
    ]  # fmt: skip


SCENARIOS: tuple[Scenario, ...] = (
    *_collecting(), *_crafting(), *_placing(), *_living(), *_meeting()
)  # fmt: skip
