"""One life in Crafter, led by curiosity: no reward, no goal, only what was tried least.

What has been tried is counted by situations: an action with what lies in front (for making: with
what is near), and the same together with how much of one item is held. The explorer walks to where
an action is newest, the nearer the better, and tries it, rather what has had some effect before;
now and then it does anything at all. With instincts it also eats, drinks and sleeps when in need,
fights or flees what is close, and spends the night between stones.

Source: One Life to Learn (arXiv 2510.12088), the setting: one episode of at most 2,000 steps
without reward. There a language model acts; this explorer is ours.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rlssm.errors import require
from rlssm.world_models.crafter import initial_state, is_over, transition
from rlssm.world_models.record import Transition
from rlssm.world_models.schema import (
    ACTIONS,
    DIRECTIONS,
    ITEMS,
    MAX_ITEM,
    VITALS,
    WALKABLE,
    Entity,
    Player,
    Position,
    WorldState,
    distance,
    material_at,
    nearby_materials,
    shift,
)
from rlssm.world_models.walking import MOVES, Walk, difference, in_front

LIFE = 2_000  # steps, at most
RANDOM_ACTION = 0.08
REACH = 12.0  # steps of walking that make a try half as attractive as it would be at hand
FADING = 0.4  # how fast what is tried becomes old: as its count to minus this power
FUTILE = 0.05  # how attractive an action is that never had an effect, beside one that always has
NEED = 4  # a vital below or at this much calls for action
FLEE_BELOW = 3
NIGHT = 0.65  # daylight
LEVELS = (1, 2, 4)  # how much of an item makes a difference

TRIES = tuple(action for action in ACTIONS if not action.startswith("move"))
NO_SLEEP = tuple(action for action in TRIES if action != "sleep")
AWAKE = tuple(action for action in ACTIONS if action != "sleep")
FIERCE = ("zombie", "skeleton")


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


@dataclass
class Explorer:
    """What has been tried so far, and the way to the next try.

    Attributes:
      rng: where chance comes from.
      instincts: as in `live`.
      tried: how often each situation occurred.
      moved: how often each situation was followed by a change of what is held or of what is near.
      burrow: the tile in front of a shelter being dug, and the direction it leads in.
    """

    rng: np.random.Generator
    instincts: bool = True
    tried: Counter[tuple] = field(default_factory=Counter)
    moved: Counter[tuple] = field(default_factory=Counter)
    burrow: tuple[Position, Position] | None = None
    _last: tuple[WorldState, list[tuple]] | None = None

    def act(self, state: WorldState) -> str:
        """Return the next action, having looked at what the one before did."""
        if self._last is not None:
            before, known = self._last
            self.moved.update(known if _effect(before, state) else ())
        action = self._choose(state)
        known = situations(state, action, in_front(state, state.player.target))
        known.append((action,))
        self.tried.update(known)
        self._last = state, known
        return action

    def _choose(self, state: WorldState) -> str:
        if state.player.sleeping:
            return "noop"
        walk = Walk(state)
        action = self._instinct(state, walk) if self.instincts else None
        if action is None and self.rng.random() < RANDOM_ACTION:
            action = str(self.rng.choice(ACTIONS if self._may_sleep(state, walk) else AWAKE))
        if action is None:
            action = self._curious(state, walk)
        into = shift(state.player.position, DIRECTIONS.get(action.removeprefix("move_"), (0, 0)))
        deadly = self.instincts and material_at(state, into) == "lava"
        return "noop" if deadly else action

    # --- Curiosity ----------------------------------------------------------------------------

    def _curious(self, state: WorldState, walk: Walk) -> str:
        places = walk.nearest
        best, move = -1.0, "noop"
        tries = TRIES if self._may_sleep(state, walk) else NO_SLEEP
        for thing, (steps, place) in places.items():
            if thing == "lava" and self.instincts and steps > 0:
                continue
            nearness = 1 / (1 + steps / REACH)
            for action in tries:
                value = nearness * self._novelty(state, action, thing)
                value *= 1 + 0.05 * self.rng.random()
                if value > best:
                    best = value
                    move = action if steps == 0 else walk.first_step(place)
        return move

    def _novelty(self, state: WorldState, action: str, thing: str) -> float:
        first, *more = situations(state, action, thing)
        value = (1 + self.tried[first]) ** -FADING
        value += sum((1 + self.tried[known]) ** -FADING for known in more) / len(more)
        often = (self.moved[action,] + 1) / (self.tried[action,] + 1)
        effect = (self.moved[first] + often) / (self.tried[first] + 1)
        # With more in hand, what failed may work.
        hopes = [(self.moved[known] + 0.5) / (self.tried[known] + 1) for known in more]
        effect = max(effect, *hopes)
        return value * (FUTILE + (1 - FUTILE) * effect)

    def _may_sleep(self, state: WorldState, walk: Walk) -> bool:
        close = (e for e in state.objects if e.kind in FIERCE)
        safe = all(distance(e.position, state.player.position) > 8 for e in close)
        spent = state.player.inventory["energy"] == 0
        return not self.instincts or walk.enclosed or (safe and spent)

    # --- Instincts ----------------------------------------------------------------------------

    def _instinct(self, state: WorldState, walk: Walk) -> str | None:
        player = state.player
        vitals = player.inventory
        weak = player.health <= FLEE_BELOW + 2
        tired = vitals["energy"] <= NEED or state.daylight < NIGHT or weak
        wanting = min(vitals["food"], vitals["drink"])
        if walk.enclosed and tired and wanting > (1 if state.daylight < NIGHT else 2):
            self.burrow = None
            return "sleep" if vitals["energy"] < MAX_ITEM else "noop"
        threat = _nearest(state, "zombie", 2) or _nearest(state, "skeleton", 4)
        if threat is not None and not walk.enclosed:
            self.burrow = None
            return self._face_danger(state, threat, walk)
        if wanting <= NEED - 1:
            first, second = ("water", "cow") if vitals["drink"] == wanting else ("cow", "water")
            return walk.toward(first) or (walk.toward(second) if wanting > 0 else None)
        if tired and vitals["wood_pickaxe"]:
            shelter = self._shelter(walk)
            if shelter is not None:
                return shelter
        if vitals["energy"] == 0 and self._may_sleep(state, walk):
            return "sleep"
        return None

    def _shelter(self, walk: Walk) -> str | None:
        """Dig two tiles into stone, go in, come back one, and close the way out with a stone."""
        if self.burrow is None:
            self.burrow = walk.burrow()
        if self.burrow is None:
            return None
        state, (mouth, inward) = walk.state, self.burrow
        here, first = state.player.position, shift(mouth, inward)
        second = shift(first, inward)
        ahead = {mouth: first, first: second}.get(here)
        if here == first and state.player.target == mouth:
            self.burrow = None
            return "place_stone"
        if here == second:
            return MOVES[difference(second, first)]
        if ahead is None:
            return walk.first_step(mouth) if mouth in walk.steps else self._give_up()
        dig = material_at(state, ahead) == "stone" and state.player.target == ahead
        return "do" if dig else MOVES[inward]

    def _give_up(self) -> None:
        self.burrow = None

    def _face_danger(self, state: WorldState, threat: Entity, walk: Walk) -> str | None:
        player = state.player
        away = distance(threat.position, player.position)
        if player.health <= FLEE_BELOW + 1 and away > 1:
            return _flee(state, threat, self.rng)
        if player.target == threat.position:
            return "do"
        if away == 1:
            return MOVES[difference(player.position, threat.position)]
        return walk.toward(threat.kind)


def situations(state: WorldState, action: str, thing: str) -> list[tuple]:
    """Return what is counted when an action is tried on a thing: by itself, and by each item."""
    player = state.player
    what = thing
    if action.startswith("make"):
        around = nearby_materials(state, player.position)
        what = " ".join(name for name in ("table", "furnace") if name in around)
        if thing in ("table", "furnace"):
            what = what or thing
    elif action in ("noop", "sleep"):
        what = ""
    held = [(item, level(player, item)) for item in ITEMS if item not in VITALS]
    if action == "sleep":
        held = [("energy", player.inventory["energy"])]
    return [(action, what), *((action, what, item, amount) for item, amount in held)]


def _effect(before: WorldState, after: WorldState) -> bool:
    """Return whether what is held grew or shrank, but for needs, or a tile changed."""
    old, new = before.player.inventory, after.player.inventory
    held = any(new[item] != old[item] for item in ITEMS if item not in VITALS)
    fed = any(new[item] > old[item] for item in VITALS)
    return held or fed or bool((before.materials != after.materials).any())


def level(player: Player, item: str) -> int:
    """Return how many of `LEVELS` are reached; of a tool, whether there is one."""
    return sum(player.inventory[item] >= least for least in LEVELS[: 1 if "_" in item else None])


def _nearest(state: WorldState, kind: str, within: int) -> Entity | None:
    close = [
        entity
        for entity in state.objects
        if entity.kind == kind and distance(entity.position, state.player.position) <= within
    ]
    return min(close, key=lambda e: distance(e.position, state.player.position), default=None)


def _flee(state: WorldState, threat: Entity, rng: np.random.Generator) -> str:
    occupied = {entity.position for entity in state.objects}
    ways = []
    for direction, action in MOVES.items():
        there = shift(state.player.position, direction)
        if there not in occupied and material_at(state, there) in WALKABLE:
            ways.append((distance(there, threat.position) + rng.random(), action))
    return max(ways)[1] if ways else "do"
