"""One life in Crafter, led by curiosity: no reward, no goal, only what is not known yet.

What came of an action is remembered by situation: the action, what stood in front (for making: what
was near), and what was held. Holding more never hurts, it is assumed, so that an action that failed
is worth another try where more of something is held than at each failure; one that worked is worth
a few repetitions, and whatever yields things to hold is worth doing until some are held. The
explorer goes where the most attractive try is, the nearer the better; now and then it does anything
at all. With instincts it also looks after food, drink, sleep and danger.

Source: One Life to Learn (arXiv 2510.12088), the setting: one episode of at most 2,000 steps
without reward. There a language model acts; this explorer is ours.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from rlssm.errors import require
from rlssm.world_models.crafter import initial_state, is_over, transition
from rlssm.world_models.instincts import Instincts
from rlssm.world_models.record import Transition
from rlssm.world_models.schema import (
    ACTIONS,
    DIRECTIONS,
    ITEMS,
    VITALS,
    Player,
    Position,
    WorldState,
    material_at,
    nearby_materials,
    shift,
)
from rlssm.world_models.walking import STATIONS, Walk, in_front

LIFE = 2_000  # steps, at most
RANDOM_ACTION = 0.05
REACH = 15.0  # steps of walking that make a try half as attractive as it would be at hand
LEVELS = (1, 3, 5)  # how much of an item makes a difference
STORE = 6  # how many of a thing are worth having

# How attractive a try is.
NEW = 1.0  # of what may work and never did
REPEAT = 0.9  # of what worked once; after n times, a power of n less
REPEAT_POWER = 0.7
HOARD = 1.5  # of what yields a thing of which nothing is held yet
FAIL = 0.3  # of what works, where it should not
RESOLVE = 3.0  # of where one is going already
FUTILE = 0.08  # of what failed with as much in hand
ALSO = 0.3  # share of what else is worth trying in the same place
DOUBTFUL = 0.2  # of what is new here and failed elsewhere with as much in hand

TRIES = tuple(action for action in ACTIONS if not action.startswith("move"))
HELD = tuple(item for item in ITEMS if item not in VITALS)
Situation: TypeAlias = tuple[str, str]  # an action, and what it is tried on or near
Bag: TypeAlias = tuple[int, ...]  # the level of each item held


@dataclass
class Experience:
    """What came of an action in a situation.

    Attributes:
      tries, hits: how often it was tried, and had an effect.
      failed: what was held when it had none, as far as no other failure held as much.
      enough: of each item, the least that was held when it had an effect.
      gained: what is held more of after it, by how much in all.
    """

    tries: int = 0
    hits: int = 0
    failed: list[Bag] = field(default_factory=list)
    enough: Bag | None = None
    gained: Counter[str] = field(default_factory=Counter)

    def note(self, bag: Bag, effect: bool) -> None:
        """Remember a try, by what was held."""
        self.tries += 1
        self.hits += effect
        if effect:
            self.enough = bag if self.enough is None else tuple(map(min, bag, self.enough))
        elif not any(_covers(other, bag) for other in self.failed):
            self.failed = [other for other in self.failed if not _covers(bag, other)] + [bag]

    def promises(self, bag: Bag) -> bool:
        """Return whether nothing speaks against an effect with so much in hand."""
        if self.enough is not None:
            return _covers(bag, self.enough)
        return not any(_covers(other, bag) for other in self.failed)

    def attraction(self, bag: Bag, player: Player) -> float:
        """Return how attractive another try is."""
        if self.enough is None:
            return (NEW if self.promises(bag) else FUTILE) / (1 + 0.5 * self.tries) ** 0.7
        if not self.promises(bag):
            return FAIL / (1 + self.tries - self.hits)
        lack = [1 - player.inventory[item] / _store(item) for item in self.gained if item in HELD]
        chance = self.hits / self.tries
        # What works now and then takes that many tries, each of which is a step like those there.
        wanted = HOARD * max([0.0, *lack]) / (1 + (1 / chance - 1) / REACH)
        return max(REPEAT / self.hits**REPEAT_POWER * chance, wanted)


class _Try(NamedTuple):
    before: WorldState
    situation: Situation
    bag: Bag


def live(
    seed: int,
    steps: int = LIFE,
    instincts: bool = True,
    size: tuple[int, int] = (64, 64),
) -> Iterator[Transition]:
    """Yield the transitions of one life, until it ends or `steps` are over.

    Args:
      seed: of the world and of the explorer.
      steps: at most this many.
      instincts: whether to look after food, drink, sleep and danger.
      size: of the map.

    Raises:
      UserError: if `steps` is not positive.
    """
    require(steps > 0, "steps", steps, "positive")
    explorer = Explorer(np.random.default_rng(seed), instincts)
    state, _ = transition(initial_state(size, seed=seed), "noop")
    for _ in range(steps):
        if is_over(state):
            return
        action = explorer.act(state)
        after, _ = transition(state, action)
        yield state, action, after
        state = after


class Explorer:
    """What has been tried so far, and the way to the next try.

    Args:
      rng: where chance comes from.
      instincts: as in `live`.
    """

    def __init__(self, rng: np.random.Generator, instincts: bool = True) -> None:
        self.rng = rng
        self.instincts = Instincts(rng) if instincts else None
        self.known: dict[Situation, Experience] = {}
        self.anywhere: dict[str, Experience] = {}
        self._last: _Try | None = None
        self._goal: Position | None = None

    def act(self, state: WorldState) -> str:
        """Return the next action, having looked at what the one before did."""
        if self._last is not None:
            self._learn(self._last, state)
        action = self._choose(state)
        near = nearby_materials(state, state.player.position)
        stations = " ".join(name for name in STATIONS if name in near)
        tried = situation(action, in_front(state, state.player.target), stations)
        self._last = _Try(state, tried, bag_of(state.player))
        return action

    def _learn(self, last: _Try, after: WorldState) -> None:
        effect = _effect(last.before, after)
        experience = self.known.setdefault(last.situation, Experience())
        experience.note(last.bag, effect)
        self.anywhere.setdefault(last.situation[0], Experience()).note(last.bag, effect)
        old, new = last.before.player.inventory, after.player.inventory
        for item in ITEMS:
            if new[item] > old[item]:
                experience.gained[item] += new[item] - old[item]

    def _choose(self, state: WorldState) -> str:
        if state.player.sleeping:
            return "noop"
        walk = Walk(state)
        action = self.instincts.act(state, walk) if self.instincts else None
        may_sleep = self.instincts is None or self.instincts.may_sleep(state, walk)
        if action is None and self.rng.random() < RANDOM_ACTION:
            action = str(self.rng.choice([a for a in ACTIONS if may_sleep or a != "sleep"]))
        if action is None:
            action = self._curious(state, walk, may_sleep)
        into = shift(state.player.position, DIRECTIONS.get(action.removeprefix("move_"), (0, 0)))
        deadly = self.instincts is not None and material_at(state, into) == "lava"
        return "noop" if deadly else action

    def _curious(self, state: WorldState, walk: Walk, may_sleep: bool) -> str:
        bag = bag_of(state.player)
        tries = [action for action in TRIES if may_sleep or action != "sleep"]
        best, chosen = -1.0, ("noop", state.player.target)
        for (thing, near), (steps, place) in walk.by_station.items():
            if self.instincts is not None and self.instincts.fears(state, thing, steps, place):
                continue
            values = [self._attraction(situation(a, thing, near), bag, state) for a in tries]
            value = max(values) + ALSO * sum(v for v in values if v > FAIL)
            value *= (1 + 0.05 * self.rng.random()) / (1 + steps / REACH)
            if place == self._goal:
                value *= RESOLVE
            if value > best:
                best, chosen = value, (tries[int(np.argmax(values))], place)
        action, self._goal = chosen
        return action if self._goal == state.player.target else walk.first_step(self._goal)

    def _attraction(self, situation: Situation, bag: Bag, state: WorldState) -> float:
        action = situation[0]
        elsewhere = self.anywhere.get(action)
        if elsewhere is None:
            return NEW
        here = self.known.get(situation, Experience())
        doubt = 1.0 if here.hits or elsewhere.promises(bag) or action == "do" else DOUBTFUL
        if action.startswith("make"):  # a station may help where nothing else did
            doubt = 1.0 if situation[1] else DOUBTFUL
        return doubt * here.attraction(bag, state.player)


def situation(action: str, thing: str, near: str) -> Situation:
    """Return what is remembered of an action tried on a thing, with stations near."""
    if action.startswith("make"):
        return action, near
    if action in ("noop", "sleep"):
        return action, ""
    if action.removeprefix("place_") in STATIONS and near:
        return action, f"{thing} near {near}"
    return action, thing


def bag_of(player: Player) -> Bag:
    """Return the level of each item held: how many of `LEVELS` are reached; of a tool, of one."""
    held = player.inventory
    return tuple(
        sum(held[item] >= least for least in LEVELS[: 1 if "_" in item else None]) for item in HELD
    )


def _covers(bag: Bag, other: Bag) -> bool:
    return all(a >= b for a, b in zip(bag, other, strict=True))


def _store(item: str) -> int:
    return 1 if "_" in item else STORE


def _effect(before: WorldState, after: WorldState) -> bool:
    """Return whether what is held changed, but for needs, or what is in front."""
    old, new = before.player.inventory, after.player.inventory
    held = any(new[item] != old[item] for item in HELD)
    fed = any(new[item] > old[item] for item in ("food", "drink"))
    place = before.player.target
    tile = material_at(before, place) != material_at(after, place)
    return held or fed or tile or _health_at(after, place) < _health_at(before, place)


def _health_at(state: WorldState, place: tuple[int, int]) -> int:
    return next((e.health for e in state.objects if e.position == place), 0)
