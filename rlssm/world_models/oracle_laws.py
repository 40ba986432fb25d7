"""Crafter's rules written as laws: the best that this formalism can say about the true world.

What it cannot say stays out, and is why these laws are a ceiling and not the world: an object
sees where others stood before the step, not after; a guard is a conjunction, so that a rule with
an "or" takes a law for each case; the first step awake still counts as sleep for actions.

Source: the rules in `crafter_player` and `crafter_creatures`.
"""

import json
import math
from collections.abc import Iterable, Iterator

from rlssm.world_models.crafter_creatures import POPULATIONS, Population
from rlssm.world_models.crafter_player import COLLECT, MAKE, PLACE, SWORD_DAMAGE
from rlssm.world_models.crafter_view import CrafterView
from rlssm.world_models.laws import Add, Law, Outcome, Read, Set, Step, Term, Test
from rlssm.world_models.likelihood import Model
from rlssm.world_models.object_view import Observable, Value
from rlssm.world_models.schema import ACTIONS, DIRECTIONS

CHANCE = 1.0  # the weight at which logits are log probabilities, and all unnamed has e^-10
CERTAIN = 2.0  # of laws with one outcome: among ten thousand counts e^-10 each would be much

_AWAKE = "player.sleeping == false"
_STEPS = tuple(DIRECTIONS)
_BUT_SLEEP = tuple(action for action in ACTIONS if action != "sleep")
_TIRED = "player.inventory.energy <= 8"

# Whether a step is slept through: (how to say it, guard, actions). Exactly one holds.
_AWAKE_CASES = (
    ("rested", "player.inventory.energy >= 9", None),
    ("awake", f"{_TIRED} and {_AWAKE}", _BUT_SLEEP),
)
_ASLEEP_CASES = (
    ("asleep", f"{_TIRED} and player.sleeping == true", None),
    ("falling asleep", f"{_TIRED} and {_AWAKE}", ("sleep",)),
)


def oracle_model(reference: bool = False) -> Model:
    """Return the hand-written laws as a model, weighted so that their probabilities are exact."""
    laws = oracle_laws()
    weights = tuple(CERTAIN if len(law.outcomes) == 1 else CHANCE for law in laws)
    return Model(CrafterView(reference), laws, weights)


def oracle_laws() -> tuple[Law, ...]:
    """Return the laws of Crafter, about 340."""
    return (
        *_clock(),
        *_walking(),
        *_collecting(),
        *_placing(),
        *_making(),
        *_striking(),
        *_eating(),
        *_sleeping(),
        *_wearing(),
        *_recovering(),
        *_cows_and_plants(),
        *_zombies(),
        *_skeletons(),
        *_arrows(),
        *(law for population in POPULATIONS for law in _population(population)),
    )


def _law(
    name: str,
    scope: str,
    observable: str,
    outcomes: Term | Iterable[tuple[Term, float]],
    when: str = "",
    actions: Iterable[str] | None = None,
) -> Law:
    of, _, attribute = observable.partition(".")
    pairs = [(outcomes, 1.0)] if isinstance(outcomes, Set | Add | Read | Step) else outcomes
    return Law(
        name,
        scope,
        Observable(of, attribute),
        tuple(Outcome(term, math.log(probability)) for term, probability in pairs),
        tuple(_test(clause) for clause in when.split(" and ") if clause),
        None if actions is None else frozenset(actions),
    )


def _test(clause: str) -> Test:
    """Read `feature comparison value`; a value that is not JSON is a name."""
    feature, comparison, text = clause.split(" ")
    value: Value
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return Test(feature, comparison, value)


def _both(*clauses: str) -> str:
    return " and ".join(clause for clause in clauses if clause)


# --- The player -------------------------------------------------------------------------------


def _clock() -> Iterator[Law]:
    yield _law("time passes", "world", "world.step_count", Add(1))
    yield _law("light changes", "world", "world.daylight", Read("daylight.next"))


def _walking() -> Iterator[Law]:
    moves = [f"move_{direction}" for direction in _STEPS]
    yield _law("turning", "player", "self.facing", Read("action.direction"), _AWAKE, moves)
    yield _law("walking", "player", "self.displacement", Step("action.direction"), _AWAKE, moves)
    for action in ACTIONS:
        yield _law(f"doing {action}", "player", "self.action", Set(action), "", (action,))
    lava = _both("target.material == lava and target.object == none", _AWAKE)
    for name in _STEPS:
        straight = _both(lava, f"player.facing == {name}")
        action = (f"move_{name}",)
        yield _law(f"lava kills ({name})", "player", "self.health", Set(0), straight, action)
    # The memory of one's own health, without this step's blows, which come later.
    yield _law("remembering health", "player", "self.last_health", Read("player.health"))


def _collecting() -> Iterator[Law]:
    for material, (tool, item, left) in COLLECT.items():
        when = _both(
            f"target.material == {material} and target.object == none",
            f"player.inventory.{tool} >= 1" if tool else "",
            _AWAKE,
        )
        chance = 0.1 if material == "grass" else 1.0
        for observable in (f"inventory.{item}", f"achievements.collect_{item}"):
            outcomes = [(Add(1), chance), *([(Add(0), 1 - chance)] if chance < 1 else [])]
            yield _law(
                f"{material} gives {observable}", "player", f"self.{observable}", outcomes, when,
                ("do",),
            )  # fmt: skip
        if left != material:
            name = f"{material} leaves {left}"
            yield _law(name, "player", "target.material", Set(left), when, ("do",))


_BARE = "target.object == none"
_SOLID_GROUND = "target.free == true and target.material != lava"
_PLACES = {
    "stone": {"land": "target.free == true", "water": f"target.material == water and {_BARE}"},
    "table": {"land": _SOLID_GROUND},
    "furnace": {"land": _SOLID_GROUND},
    "plant": {"grass": f"target.material == grass and {_BARE}"},
}


def _placing() -> Iterator[Law]:
    for thing, places in _PLACES.items():
        item, cost, _ = PLACE[thing]
        for place, free in places.items():
            when = _both(free, f"player.inventory.{item} >= {cost}", _AWAKE)
            action = (f"place_{thing}",)
            name = f"placing a {thing} on {place}"
            costs, counts = f"self.inventory.{item}", f"self.achievements.place_{thing}"
            yield _law(f"{name} costs", "player", costs, Add(-cost), when, action)
            yield _law(f"{name} counts", "player", counts, Add(1), when, action)
            what = ("birth.plant", "new") if thing == "plant" else ("material", thing)
            yield _law(name, "player", f"target.{what[0]}", Set(what[1]), when, action)


def _making() -> Iterator[Law]:
    for thing, (near, uses) in MAKE.items():
        when = _both(
            *(f"near.{place} == true" for place in near),
            *(f"player.inventory.{item} >= 1" for item in uses),
            _AWAKE,
        )
        effects = {f"inventory.{thing}": 1, f"achievements.make_{thing}": 1}
        effects |= {f"inventory.{item}": -1 for item in uses}
        for observable, amount in effects.items():
            yield _law(
                f"making a {thing}: {observable}", "player", f"self.{observable}", Add(amount),
                when, (f"make_{thing}",),
            )  # fmt: skip


def _blows() -> Iterator[tuple[str, int, str]]:
    """Yield (weapon, damage, guard) of each way to strike; exactly one holds."""
    better = ""
    for sword, damage in sorted(SWORD_DAMAGE.items(), key=lambda pair: -pair[1]):
        yield sword, damage, _both(f"player.inventory.{sword} >= 1", better)
        better = _both(better, f"player.inventory.{sword} == 0")
    yield "bare hands", 1, better


def _striking() -> Iterator[Law]:
    for kind in ("cow", "zombie", "skeleton"):
        counter = "eat_cow" if kind == "cow" else f"defeat_{kind}"
        for weapon, damage, armed in _blows():
            hit = _both(f"target.object == {kind}", armed, _AWAKE)
            name = f"striking a {kind} with {weapon}"
            yield _law(name, "player", "target.health", Add(-damage), hit, ("do",))
            # A blow that kills: the dead vanish within the same step.
            kills = _both(hit, f"target.health <= {damage}")
            yield _law(f"{name} kills", "player", "target.alive", Set(False), kills, ("do",))
            counts = f"self.achievements.{counter}"
            yield _law(f"{name} counts", "player", counts, Add(1), kills, ("do",))
            if kind == "cow":
                food = "self.inventory.food"
                yield _law(f"{name} feeds", "player", food, Add(6), kills, ("do",))
                yield _law(f"{name} sates", "player", "self.hunger", Set(0), kills, ("do",))


def _eating() -> Iterator[Law]:
    ripe = _both("target.object == plant and target.ripe == true", _AWAKE)
    yield _law("eating a plant feeds", "player", "self.inventory.food", Add(4), ripe, ("do",))
    counts = "self.achievements.eat_plant"
    yield _law("eating a plant counts", "player", counts, Add(1), ripe, ("do",))
    yield _law("an eaten plant grows anew", "player", "target.grown", Set(0), ripe, ("do",))


def _sleeping() -> Iterator[Law]:
    tired = _both(_TIRED, _AWAKE, "player.health >= 1")
    yield _law("going to sleep", "player", "self.sleeping", Set(True), tired, ("sleep",))
    rested = "player.sleeping == true and player.inventory.energy >= 9"
    yield _law("waking rested", "player", "self.sleeping", Set(False), rested)
    yield _law("waking counts", "player", "self.achievements.wake_up", Add(1), rested)
    for health in range(9):
        hurt = f"player.sleeping == true and {_TIRED} and player.health == {health}"
        hurt = _both(hurt, f"player.last_health >= {health + 1}")
        yield _law(f"waking hurt at {health}", "player", "self.sleeping", Set(False), hurt)


def _wearing() -> Iterator[Law]:
    for name, when, actions in _AWAKE_CASES:
        yield from _needing("hunger", "food", 25, 1.0, name, when, actions)
        # Drinking sets thirst to zero first, so that it cannot run over in the same step.
        others = [action for action in actions or ACTIONS if action != "do"]
        yield from _needing("thirst", "drink", 20, 1.0, name, when, others)
        dry = _both(when, "target.material != water")
        yield from _needing("thirst", "drink", 20, 1.0, f"{name} doing", dry, ["do"])
        wet = _both(when, "target.material == water")
        thirst = "self.thirst"
        yield _law(f"thirst after drinking {name}", "player", thirst, Set(1), wet, ["do"])
        yield from _tiring("self.fatigue", name, when, actions)
    for name, when, actions in _ASLEEP_CASES:
        yield from _needing("hunger", "food", 25, 0.5, name, when, actions)
        yield from _needing("thirst", "drink", 20, 0.5, name, when, actions)
        yield from _resting("self.fatigue", name, when, actions)


def _needing(
    counter: str,
    item: str,
    limit: int,
    pace: float,
    name: str,
    when: str,
    actions: Iterable[str] | None,
) -> Iterator[Law]:
    under = _both(when, f"player.{counter} <= {limit - pace}")
    over = _both(when, f"player.{counter} > {limit - pace}")
    here = f"self.{counter}"
    yield _law(f"{counter} grows {name}", "player", here, Add(pace), under, actions)
    yield _law(f"{counter} runs over {name}", "player", here, Set(0), over, actions)
    cost = f"self.inventory.{item}"
    yield _law(f"{counter} costs {item} {name}", "player", cost, Add(-1), over, actions)


def _tiring(fatigue: str, name: str, when: str, actions: Iterable[str] | None) -> Iterator[Law]:
    under, over = _both(when, "player.fatigue <= 29"), _both(when, "player.fatigue >= 30")
    energy = "self.inventory.energy"
    yield _law(f"fatigue grows {name}", "player", fatigue, Add(1), under, actions)
    yield _law(f"fatigue runs over {name}", "player", fatigue, Set(0), over, actions)
    yield _law(f"fatigue costs energy {name}", "player", energy, Add(-1), over, actions)


def _resting(fatigue: str, name: str, when: str, actions: Iterable[str] | None) -> Iterator[Law]:
    rests = _both(when, "player.fatigue >= -9 and player.fatigue <= 0")
    fresh, over = _both(when, "player.fatigue >= 1"), _both(when, "player.fatigue <= -10")
    energy = "self.inventory.energy"
    yield _law(f"rest {name}", "player", fatigue, Add(-1), rests, actions)
    yield _law(f"rest begins {name}", "player", fatigue, Set(0), fresh, actions)
    yield _law(f"rest runs over {name}", "player", fatigue, Set(0), over, actions)
    yield _law(f"rest gives energy {name}", "player", energy, Add(1), over, actions)


_FED = "player.inventory.food >= 1 and player.inventory.drink >= 1"
_STARVED = "player.inventory.food == 0"
_PARCHED = "player.inventory.food >= 1 and player.inventory.drink == 0"
_BUT_DO = tuple(action for action in ACTIONS if action != "do")

# (how to say it, guard, actions): what is eaten or drunk counts in the same step.
_MET = (
    ("fed", _FED, None),
    ("eating", f"{_STARVED} and player.inventory.drink >= 1 and target.ripe == true", ("do",)),
    ("drinking", f"{_PARCHED} and target.material == water", ("do",)),
)
_UNMET = (
    ("starved", _STARVED, _BUT_DO),
    ("starved doing", f"{_STARVED} and target.object != plant", ("do",)),
    ("starved at a sapling", f"{_STARVED} and target.ripe == false", ("do",)),
    ("parched", _PARCHED, _BUT_DO),
    ("parched doing", f"{_PARCHED} and target.material != water", ("do",)),
)


def _recovering() -> Iterator[Law]:
    for name, when, actions in (*_AWAKE_CASES, *_ASLEEP_CASES):
        asleep = (name, when, actions) in _ASLEEP_CASES
        met = [(need, _both(when, guard), those) for need, guard, those in _MET]
        unmet = [(need, _both(when, guard), those) for need, guard, those in _UNMET]
        if name == "awake":
            energy = "player.inventory.energy"
            met = [(need, _both(guard, f"{energy} >= 1"), those) for need, guard, those in met]
            unmet.append(("weary", _both(when, _FED, f"{energy} == 0"), ACTIONS))
        for need, guard, those in met:
            allowed = _shared(actions, those)
            yield from _recovery(f"{name} {need}", guard, allowed, 2.0 if asleep else 1.0)
        for need, guard, those in unmet:
            allowed = _shared(actions, those)
            yield from _recovery(f"{name} {need}", guard, allowed, -0.5 if asleep else -1.0)


def _shared(ours: tuple[str, ...] | None, theirs: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if ours is None or theirs is None:
        return ours or theirs
    return tuple(action for action in ours if action in theirs)


def _recovery(
    name: str, when: str, actions: tuple[str, ...] | None, amount: float
) -> Iterator[Law]:
    if actions == ():
        return
    if amount > 0:
        under, over, effect = f"<= {25 - amount}", f"> {25 - amount}", 1
    else:
        under, over, effect = f">= {-15 - amount}", f"< {-15 - amount}", -1
    grows, runs_over = (_both(when, f"player.recover {test}") for test in (under, over))
    yield _law(f"recovery {name}", "player", "self.recover", Add(amount), grows, actions)
    name = f"recovery {name} runs over"
    yield _law(name, "player", "self.recover", Set(0), runs_over, actions)
    for health in ("health", "last_health"):
        shown = f"self.{health}"
        yield _law(f"{name}: {health}", "player", shown, Add(effect), runs_over, actions)


# --- Everything else --------------------------------------------------------------------------


def _cows_and_plants() -> Iterator[Law]:
    wander = [(Set("stay"), 0.5), *((Step(direction), 0.125) for direction in _STEPS)]
    yield _law("cows wander", "cow", "self.displacement", wander)
    yield _law("plants grow", "plant", "self.grown", Add(1))
    eaten = "self.beside_mob == true"
    tramples = [(Set(False), 0.6), (Set(True), 0.4)]  # whoever was beside it may have gone
    yield _law("plants are trampled", "plant", "self.alive", tramples, eaten)
    for kind in ("cow", "zombie", "skeleton", "plant"):
        dead = "self.health == 0"
        yield _law(f"a dead {kind} vanishes", kind, "self.alive", Set(False), dead)


def _zombies() -> Iterator[Law]:
    chase = [(Step("self.toward_long"), 0.72), (Step("self.toward_short"), 0.18)]
    anywhere = [Step(direction) for direction in _STEPS]
    yield _law(
        "zombies chase", "zombie", "self.displacement",
        [*chase, *((step, 0.025) for step in anywhere)], "self.distance <= 8",
    )  # fmt: skip
    yield _law(
        "zombies wander", "zombie", "self.displacement", [(step, 0.25) for step in anywhere],
        "self.distance > 8",
    )  # fmt: skip
    # A zombie beside the player keeps its place with probability 0.925, unless something blocks it.
    near, stays = "self.distance <= 1", 0.925
    ready = _both(near, "self.cooldown == 0")
    for name, asleep, damage in (("", "false", -2), (" a sleeper", "true", -7)):
        hit = _both(ready, f"player.sleeping == {asleep}")
        outcomes = [(Add(damage), stays), (Add(0), 1 - stays)]
        yield _law(f"zombies hit{name}", "zombie", "player.health", outcomes, hit)
    rest = [(Set(5), stays), (Set(0), 1 - stays)]
    yield _law("zombies rest after a hit", "zombie", "self.cooldown", rest, ready)
    waits = [(Add(-1), stays), (Add(0), 1 - stays)]
    tired = _both(near, "self.cooldown >= 1")
    yield _law("zombies get ready", "zombie", "self.cooldown", waits, tired)
    arrives = "self.distance == 2 and self.cooldown == 0"
    for name, asleep, damage in (("", "false", -2), (" a sleeper", "true", -7)):
        outcomes = [(Add(0), 0.25), (Add(damage), 0.75)]
        hit = _both(arrives, f"player.sleeping == {asleep}")
        yield _law(f"zombies arrive and hit{name}", "zombie", "player.health", outcomes, hit)
    outcomes = [(Set(0), 0.25), (Set(5), 0.75)]
    yield _law("zombies rest after arriving", "zombie", "self.cooldown", outcomes, arrives)
    outcomes = [(Add(0), 0.25), (Add(-1), 0.75)]
    comes = "self.distance == 2 and self.cooldown >= 1"
    yield _law("zombies get ready arriving", "zombie", "self.cooldown", outcomes, comes)


def _skeletons() -> Iterator[Law]:
    anywhere = [Step(direction) for direction in _STEPS]
    flee = [(Step("self.away_long"), 0.6), (Step("self.away_short"), 0.4)]
    yield _law("skeletons flee", "skeleton", "self.displacement", flee, "self.distance <= 3")
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
        yield _law(f"skeletons move {name}", "skeleton", "self.displacement", outcomes, when)
    shot = [(Set("none"), 0.5), (Read("self.toward_long"), 0.5)]
    range_ = "self.distance >= 4 and self.distance <= 5 and self.reload <= 1"
    yield _law("skeletons shoot", "skeleton", "toward.birth.arrow", shot, range_)
    used = [(Set(4), 0.5), (Set(0), 0.5)]
    yield _law("shooting takes a reload", "skeleton", "self.reload", used, range_)
    for name, when in (("loading", "self.reload >= 2"), ("loaded", "self.reload == 1")):
        for place, where in (("near", "self.distance <= 3"), ("far", "self.distance >= 6")):
            at = _both(when, where)
            yield _law(f"{name} {place}", "skeleton", "self.reload", Add(-1), at)
    middle = "self.reload >= 2 and self.distance >= 4 and self.distance <= 5"
    yield _law("loading at shooting distance", "skeleton", "self.reload", Add(-1), middle)


def _arrows() -> Iterator[Law]:
    yield _law("arrows fly", "arrow", "self.displacement", Step("self.facing"))
    blocked = "front.free == false"
    yield _law("arrows end", "arrow", "self.alive", Set(False), blocked)
    yield _law("arrows strike", "arrow", "front.health", Add(-2), "front.object != none")
    for thing in ("table", "furnace"):
        hit = f"front.material == {thing} and front.object == none"
        yield _law(f"arrows break a {thing}", "arrow", "front.material", Set("path"), hit)


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
            when = _both(due, f"darkness == {darkness} and chunk.zombie <= {darkness - 1}")
            yield _law(f"zombies appear at {darkness}", "chunk", observable, born, when)
    else:
        when = _both(due, f"chunk.{kind} == 0")
        yield _law(f"{kind}s appear", "chunk", observable, born, when)
