"""The player's and the clock's part of the hand-written laws. Source: `crafter_player`."""

from collections.abc import Iterable, Iterator

from rlssm.world_models.crafter_player import COLLECT, MAKE, PLACE, SWORD_DAMAGE
from rlssm.world_models.law_writing import both, write_law
from rlssm.world_models.laws import Add, Law, Read, Set, Step
from rlssm.world_models.schema import ACTIONS, DIRECTIONS

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


def _clock() -> Iterator[Law]:
    yield write_law("time passes", "world", "world.step_count", Add(1))
    yield write_law("light changes", "world", "world.daylight", Read("daylight.next"))


def _walking() -> Iterator[Law]:
    moves = [f"move_{direction}" for direction in _STEPS]
    yield write_law("turning", "player", "self.facing", Read("action.direction"), _AWAKE, moves)
    yield write_law(
        "walking", "player", "self.displacement", Step("action.direction"), _AWAKE, moves
    )
    for action in ACTIONS:
        yield write_law(f"doing {action}", "player", "self.action", Set(action), "", (action,))
    lava = both("target.material == lava and target.object == none", _AWAKE)
    for name in _STEPS:
        straight = both(lava, f"player.facing == {name}")
        action = (f"move_{name}",)
        yield write_law(f"lava kills ({name})", "player", "self.health", Set(0), straight, action)
    # The memory of one's own health, without this step's blows, which come later.
    yield write_law("remembering health", "player", "self.last_health", Read("player.health"))


def _collecting() -> Iterator[Law]:
    for material, (tool, item, left) in COLLECT.items():
        when = both(
            f"target.material == {material} and target.object == none",
            f"player.inventory.{tool} >= 1" if tool else "",
            _AWAKE,
        )
        chance = 0.1 if material == "grass" else 1.0
        for observable in (f"inventory.{item}", f"achievements.collect_{item}"):
            outcomes = [(Add(1), chance), *([(Add(0), 1 - chance)] if chance < 1 else [])]
            yield write_law(
                f"{material} gives {observable}", "player", f"self.{observable}", outcomes, when,
                ("do",),
            )  # fmt: skip
        if left != material:
            name = f"{material} leaves {left}"
            yield write_law(name, "player", "target.material", Set(left), when, ("do",))


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
            when = both(free, f"player.inventory.{item} >= {cost}", _AWAKE)
            action = (f"place_{thing}",)
            name = f"placing a {thing} on {place}"
            costs, counts = f"self.inventory.{item}", f"self.achievements.place_{thing}"
            yield write_law(f"{name} costs", "player", costs, Add(-cost), when, action)
            yield write_law(f"{name} counts", "player", counts, Add(1), when, action)
            what = ("birth.plant", "new") if thing == "plant" else ("material", thing)
            yield write_law(name, "player", f"target.{what[0]}", Set(what[1]), when, action)


def _making() -> Iterator[Law]:
    for thing, (near, uses) in MAKE.items():
        when = both(
            *(f"near.{place} == true" for place in near),
            *(f"player.inventory.{item} >= 1" for item in uses),
            _AWAKE,
        )
        effects = {f"inventory.{thing}": 1, f"achievements.make_{thing}": 1}
        effects |= {f"inventory.{item}": -1 for item in uses}
        for observable, amount in effects.items():
            yield write_law(
                f"making a {thing}: {observable}", "player", f"self.{observable}", Add(amount),
                when, (f"make_{thing}",),
            )  # fmt: skip


def _blows() -> Iterator[tuple[str, int, str]]:
    """Yield (weapon, damage, guard) of each way to strike; exactly one holds."""
    better = ""
    for sword, damage in sorted(SWORD_DAMAGE.items(), key=lambda pair: -pair[1]):
        yield sword, damage, both(f"player.inventory.{sword} >= 1", better)
        better = both(better, f"player.inventory.{sword} == 0")
    yield "bare hands", 1, better


def _striking() -> Iterator[Law]:
    for kind in ("cow", "zombie", "skeleton"):
        counter = "eat_cow" if kind == "cow" else f"defeat_{kind}"
        for weapon, damage, armed in _blows():
            hit = both(f"target.object == {kind}", armed, _AWAKE)
            name = f"striking a {kind} with {weapon}"
            yield write_law(name, "player", "target.health", Add(-damage), hit, ("do",))
            # A blow that kills: the dead vanish within the same step.
            kills = both(hit, f"target.health <= {damage}")
            yield write_law(f"{name} kills", "player", "target.alive", Set(False), kills, ("do",))
            counts = f"self.achievements.{counter}"
            yield write_law(f"{name} counts", "player", counts, Add(1), kills, ("do",))
            if kind == "cow":
                food = "self.inventory.food"
                yield write_law(f"{name} feeds", "player", food, Add(6), kills, ("do",))
                yield write_law(f"{name} sates", "player", "self.hunger", Set(0), kills, ("do",))


def _eating() -> Iterator[Law]:
    ripe = both("target.object == plant and target.ripe == true", _AWAKE)
    yield write_law("eating a plant feeds", "player", "self.inventory.food", Add(4), ripe, ("do",))
    counts = "self.achievements.eat_plant"
    yield write_law("eating a plant counts", "player", counts, Add(1), ripe, ("do",))
    yield write_law("an eaten plant grows anew", "player", "target.grown", Set(0), ripe, ("do",))


def _sleeping() -> Iterator[Law]:
    tired = both(_TIRED, _AWAKE, "player.health >= 1")
    yield write_law("going to sleep", "player", "self.sleeping", Set(True), tired, ("sleep",))
    rested = "player.sleeping == true and player.inventory.energy >= 9"
    yield write_law("waking rested", "player", "self.sleeping", Set(False), rested)
    yield write_law("waking counts", "player", "self.achievements.wake_up", Add(1), rested)
    for health in range(9):
        hurt = f"player.sleeping == true and {_TIRED} and player.health == {health}"
        hurt = both(hurt, f"player.last_health >= {health + 1}")
        yield write_law(f"waking hurt at {health}", "player", "self.sleeping", Set(False), hurt)


def _wearing() -> Iterator[Law]:
    for name, when, actions in _AWAKE_CASES:
        yield from _needing("hunger", "food", 25, 1.0, name, when, actions)
        # Drinking sets thirst to zero first, so that it cannot run over in the same step.
        others = [action for action in actions or ACTIONS if action != "do"]
        yield from _needing("thirst", "drink", 20, 1.0, name, when, others)
        dry = both(when, "target.material != water")
        yield from _needing("thirst", "drink", 20, 1.0, f"{name} doing", dry, ["do"])
        wet = both(when, "target.material == water")
        thirst = "self.thirst"
        yield write_law(f"thirst after drinking {name}", "player", thirst, Set(1), wet, ["do"])
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
    under = both(when, f"player.{counter} <= {limit - pace}")
    over = both(when, f"player.{counter} > {limit - pace}")
    here = f"self.{counter}"
    yield write_law(f"{counter} grows {name}", "player", here, Add(pace), under, actions)
    yield write_law(f"{counter} runs over {name}", "player", here, Set(0), over, actions)
    cost = f"self.inventory.{item}"
    yield write_law(f"{counter} costs {item} {name}", "player", cost, Add(-1), over, actions)


def _tiring(fatigue: str, name: str, when: str, actions: Iterable[str] | None) -> Iterator[Law]:
    under, over = both(when, "player.fatigue <= 29"), both(when, "player.fatigue >= 30")
    energy = "self.inventory.energy"
    yield write_law(f"fatigue grows {name}", "player", fatigue, Add(1), under, actions)
    yield write_law(f"fatigue runs over {name}", "player", fatigue, Set(0), over, actions)
    yield write_law(f"fatigue costs energy {name}", "player", energy, Add(-1), over, actions)


def _resting(fatigue: str, name: str, when: str, actions: Iterable[str] | None) -> Iterator[Law]:
    rests = both(when, "player.fatigue >= -9 and player.fatigue <= 0")
    fresh, over = both(when, "player.fatigue >= 1"), both(when, "player.fatigue <= -10")
    energy = "self.inventory.energy"
    yield write_law(f"rest {name}", "player", fatigue, Add(-1), rests, actions)
    yield write_law(f"rest begins {name}", "player", fatigue, Set(0), fresh, actions)
    yield write_law(f"rest runs over {name}", "player", fatigue, Set(0), over, actions)
    yield write_law(f"rest gives energy {name}", "player", energy, Add(1), over, actions)


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
        met = [(need, both(when, guard), those) for need, guard, those in _MET]
        unmet = [(need, both(when, guard), those) for need, guard, those in _UNMET]
        if name == "awake":
            energy = "player.inventory.energy"
            met = [(need, both(guard, f"{energy} >= 1"), those) for need, guard, those in met]
            unmet.append(("weary", both(when, _FED, f"{energy} == 0"), ACTIONS))
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
    grows, runs_over = (both(when, f"player.recover {test}") for test in (under, over))
    yield write_law(f"recovery {name}", "player", "self.recover", Add(amount), grows, actions)
    name = f"recovery {name} runs over"
    yield write_law(name, "player", "self.recover", Set(0), runs_over, actions)
    for health in ("health", "last_health"):
        shown = f"self.{health}"
        yield write_law(f"{name}: {health}", "player", shown, Add(effect), runs_over, actions)


def player_laws() -> Iterator[Law]:
    """Yield the laws of the clock and of the player."""
    for part in (
        _clock, _walking, _collecting, _placing, _making, _striking, _eating, _sleeping, _wearing,
        _recovering,
    ):  # fmt: skip
        yield from part()
