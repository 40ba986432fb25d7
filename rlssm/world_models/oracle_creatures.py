"""The creatures' part of the hand-written laws. Source: `crafter_creatures`."""

from collections.abc import Iterator

from rlssm.world_models.crafter_creatures import POPULATIONS, Population
from rlssm.world_models.law_writing import both, write_law
from rlssm.world_models.laws import Add, Law, Read, Set, Step
from rlssm.world_models.schema import DIRECTIONS

_STEPS = tuple(DIRECTIONS)


def _cows_and_plants() -> Iterator[Law]:
    wander = [(Set("stay"), 0.5), *((Step(direction), 0.125) for direction in _STEPS)]
    yield write_law("cows wander", "cow", "self.displacement", wander)
    yield write_law("plants grow", "plant", "self.grown", Add(1))
    eaten = "self.beside_mob == true"
    tramples = [(Set(False), 0.6), (Set(True), 0.4)]  # whoever was beside it may have gone
    yield write_law("plants are trampled", "plant", "self.alive", tramples, eaten)
    for kind in ("cow", "zombie", "skeleton", "plant"):
        dead = "self.health == 0"
        yield write_law(f"a dead {kind} vanishes", kind, "self.alive", Set(False), dead)


def _zombies() -> Iterator[Law]:
    chase = [(Step("self.toward_long"), 0.72), (Step("self.toward_short"), 0.18)]
    anywhere = [Step(direction) for direction in _STEPS]
    yield write_law(
        "zombies chase", "zombie", "self.displacement",
        [*chase, *((step, 0.025) for step in anywhere)], "self.distance <= 8",
    )  # fmt: skip
    yield write_law(
        "zombies wander", "zombie", "self.displacement", [(step, 0.25) for step in anywhere],
        "self.distance > 8",
    )  # fmt: skip
    # A zombie beside the player keeps its place with probability 0.925, unless something blocks it.
    near, stays = "self.distance <= 1", 0.925
    ready = both(near, "self.cooldown == 0")
    for name, asleep, damage in (("", "false", -2), (" a sleeper", "true", -7)):
        hit = both(ready, f"player.sleeping == {asleep}")
        outcomes = [(Add(damage), stays), (Add(0), 1 - stays)]
        yield write_law(f"zombies hit{name}", "zombie", "player.health", outcomes, hit)
    rest = [(Set(5), stays), (Set(0), 1 - stays)]
    yield write_law("zombies rest after a hit", "zombie", "self.cooldown", rest, ready)
    waits = [(Add(-1), stays), (Add(0), 1 - stays)]
    tired = both(near, "self.cooldown >= 1")
    yield write_law("zombies get ready", "zombie", "self.cooldown", waits, tired)
    arrives = "self.distance == 2 and self.cooldown == 0"
    for name, asleep, damage in (("", "false", -2), (" a sleeper", "true", -7)):
        outcomes = [(Add(0), 0.25), (Add(damage), 0.75)]
        hit = both(arrives, f"player.sleeping == {asleep}")
        yield write_law(f"zombies arrive and hit{name}", "zombie", "player.health", outcomes, hit)
    outcomes = [(Set(0), 0.25), (Set(5), 0.75)]
    yield write_law("zombies rest after arriving", "zombie", "self.cooldown", outcomes, arrives)
    outcomes = [(Add(0), 0.25), (Add(-1), 0.75)]
    comes = "self.distance == 2 and self.cooldown >= 1"
    yield write_law("zombies get ready arriving", "zombie", "self.cooldown", outcomes, comes)


def _skeletons() -> Iterator[Law]:
    anywhere = [Step(direction) for direction in _STEPS]
    flee = [(Step("self.away_long"), 0.6), (Step("self.away_short"), 0.4)]
    yield write_law("skeletons flee", "skeleton", "self.displacement", flee, "self.distance <= 3")
    for name, when, approach, wander in (
        ("at shooting distance", "self.distance >= 4 and self.distance <= 5", 0.15, 0.07),
        ("in sight", "self.distance >= 6 and self.distance <= 8", 0.3, 0.14),
        ("far away", "self.distance >= 9", 0.0, 0.2),
    ):
        toward = [(Step("self.toward_long"), 0.6 * approach)]
        toward += [(Step("self.toward_short"), 0.4 * approach)]
        outcomes = [
            (Set("stay"), 1 - approach - wander),
            *(toward if approach else []),
            *((step, wander / 4) for step in anywhere),
        ]
        yield write_law(f"skeletons move {name}", "skeleton", "self.displacement", outcomes, when)
    shot = [(Set("none"), 0.5), (Read("self.toward_long"), 0.5)]
    range_ = "self.distance >= 4 and self.distance <= 5 and self.reload <= 1"
    yield write_law("skeletons shoot", "skeleton", "toward.birth.arrow", shot, range_)
    used = [(Set(4), 0.5), (Set(0), 0.5)]
    yield write_law("shooting takes a reload", "skeleton", "self.reload", used, range_)
    for name, when in (("loading", "self.reload >= 2"), ("loaded", "self.reload == 1")):
        for place, where in (("near", "self.distance <= 3"), ("far", "self.distance >= 6")):
            at = both(when, where)
            yield write_law(f"{name} {place}", "skeleton", "self.reload", Add(-1), at)
    middle = "self.reload >= 2 and self.distance >= 4 and self.distance <= 5"
    yield write_law("loading at shooting distance", "skeleton", "self.reload", Add(-1), middle)


def _arrows() -> Iterator[Law]:
    yield write_law("arrows fly", "arrow", "self.displacement", Step("self.facing"))
    blocked = "front.free == false"
    yield write_law("arrows end", "arrow", "self.alive", Set(False), blocked)
    yield write_law("arrows strike", "arrow", "front.health", Add(-2), "front.object != none")
    for thing in ("table", "furnace"):
        hit = f"front.material == {thing} and front.object == none"
        yield write_law(f"arrows break a {thing}", "arrow", "front.material", Set("path"), hit)


def _population(population: Population) -> Iterator[Law]:
    """Yield a law for each darkness in which a kind of creature appears."""
    kind, material = population.kind.kind, population.material
    chance = population.spawn_probability
    born = [(Set("none"), 1 - chance), (Set("new"), chance)]
    observable = f"{material} tiles.birth.{kind}"
    space = next(n for n in range(200) if population.target(n, 0.0)[0] > 0)
    due = f"step.phase == 9 and chunk.{material} >= {space}"
    if kind == "zombie":
        for darkness in (1, 2, 3):
            when = both(due, f"darkness == {darkness} and chunk.zombie <= {darkness - 1}")
            yield write_law(f"zombies appear at {darkness}", "chunk", observable, born, when)
    else:
        when = both(due, f"chunk.{kind} == 0")
        yield write_law(f"{kind}s appear", "chunk", observable, born, when)


def creature_laws() -> Iterator[Law]:
    """Yield the laws of everything but the player."""
    for part in (_cows_and_plants, _zombies, _skeletons, _arrows):
        yield from part()
    for population in POPULATIONS:
        yield from _population(population)
