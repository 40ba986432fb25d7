"""Some true laws of Crafter, one or more of every form that laws can have."""

import math

from rlssm.world_models.laws import Add, Law, Outcome, Read, Set, Step, Term, Test
from rlssm.world_models.object_view import Observable

DIRECTIONS = ("left", "right", "up", "down")


def law(name, scope, observable, outcomes, *tests, actions=None) -> Law:
    of, _, attribute = observable.partition(".")
    return Law(
        name,
        scope,
        Observable(of, attribute),
        tuple(Outcome(term, math.log(p)) for term, p in outcomes),
        tuple(Test(*test) for test in tests),
        None if actions is None else frozenset(actions),
    )


def certainly(term: Term) -> list[tuple[Term, float]]:
    return [(term, 1.0)]


MOVES = frozenset(f"move_{direction}" for direction in DIRECTIONS)
IN_SIGHT, ADJACENT = ("self.distance", "<=", 8), ("self.distance", "<=", 1)
READY = ("self.cooldown", "==", 0)

LAWS = (
    law("time passes", "world", "world.step_count", certainly(Add(1))),
    law("light changes", "world", "world.daylight", certainly(Read("daylight.next"))),
    law("walking", "player", "self.displacement", certainly(Step("action.direction")),
        ("player.sleeping", "==", False), actions=MOVES),
    law("facing", "player", "self.facing", certainly(Read("action.direction")),
        ("player.sleeping", "==", False), actions=MOVES),
    law("cow wanders", "cow", "self.displacement",
        [(Set("stay"), 0.5), *((Step(d), 0.125) for d in DIRECTIONS)], ("self.health", ">", 0)),
    law("zombie chases", "zombie", "self.displacement",
        [(Step("self.toward_long"), 0.72), (Step("self.toward_short"), 0.18),
         *((Step(d), 0.025) for d in DIRECTIONS)], IN_SIGHT, ("self.health", ">", 0)),
    law("zombie hits", "zombie", "player.health", certainly(Add(-2)), ADJACENT, READY,
        ("player.sleeping", "==", False)),
    law("zombie hits a sleeper", "zombie", "player.health", certainly(Add(-7)), ADJACENT, READY,
        ("player.sleeping", "==", True)),
    law("zombie rests", "zombie", "self.cooldown", certainly(Add(-1)), ADJACENT,
        ("self.cooldown", ">", 0)),
    law("the dead vanish", "zombie", "self.alive", certainly(Set(False)),
        ("self.health", "==", 0)),
    law("skeleton shoots", "skeleton", "toward.birth.arrow",
        [(Set("none"), 0.5), (Read("self.toward_long"), 0.5)],
        ("self.distance", ">", 3), ("self.distance", "<=", 5), ("self.reload", "<=", 1)),
    law("arrow flies", "arrow", "self.displacement", certainly(Step("self.facing"))),
    law("arrow breaks a table", "arrow", "front.material", certainly(Set("path")),
        ("front.material", "==", "table")),
    law("arrow strikes", "arrow", "front.health", certainly(Add(-2))),
    law("felling gives wood", "player", "player.inventory.wood", certainly(Add(1)),
        ("target.material", "==", "tree"), ("target.object", "==", "none"), actions=("do",)),
    law("felling leaves grass", "player", "target.material", certainly(Set("grass")),
        ("target.material", "==", "tree"), ("target.object", "==", "none"), actions=("do",)),
    law("grass gives saplings", "player", "player.inventory.sapling",
        [(Add(0), 0.9), (Add(1), 0.1)], ("target.material", "==", "grass"),
        ("target.object", "==", "none"), actions=("do",)),
    law("planting", "player", "target.birth.plant", certainly(Set("new")),
        ("target.material", "==", "grass"), ("target.free", "==", True),
        ("player.inventory.sapling", ">=", 1), actions=("place_plant",)),
    law("hunger grows", "player", "player.hunger", certainly(Add(1)),
        ("player.sleeping", "==", False), ("player.hunger", "<=", 24)),
    law("hunger runs over", "player", "player.hunger", certainly(Set(0)),
        ("player.sleeping", "==", False), ("player.hunger", ">", 24)),
    law("hunger costs food", "player", "player.inventory.food", certainly(Add(-1)),
        ("player.sleeping", "==", False), ("player.hunger", ">", 24)),
    law("eating", "player", "player.inventory.food", certainly(Add(6)),
        ("target.object", "==", "cow"), ("target.health", "<=", 1), actions=("do",)),
    law("zombies appear", "chunk", "grass tiles.birth.zombie",
        [(Set("none"), 0.7), (Set("new"), 0.3)], ("step.phase", "==", 9),
        ("darkness", ">=", 1), ("chunk.zombie", "==", 0), ("chunk.grass", ">=", 50)),
)  # fmt: skip
