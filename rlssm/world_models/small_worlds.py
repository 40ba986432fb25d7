"""Three worlds small enough to enumerate: two switchboards and a walk between lights.

Each is the same kind of thing: objects with a few numbers, and a step written with coin flips.
`step` flips them with a random generator; `enumerate_step` follows every way they can fall, which
gives the exact distribution of the next state.

Source: the test environments of One Life to Learn's released code.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from rlssm.errors import unknown_name
from rlssm.world_models.object_view import (
    Changes,
    Choices,
    Domain,
    Key,
    Numbers,
    Observable,
    Value,
    Vocabulary,
    number_of,
)

SWITCH = Choices((0, 1))


@dataclass(frozen=True)
class Thing:
    """One object: its kind, its id, and its attributes as sorted pairs."""

    kind: str
    id: int
    attributes: tuple[tuple[str, int], ...]

    def get(self, attribute: str) -> int:
        return dict(self.attributes)[attribute]

    def set(self, attribute: str, value: int) -> "Thing":
        return replace(self, attributes=tuple({**dict(self.attributes), attribute: value}.items()))


State: TypeAlias = tuple[Thing, ...]
Flip: TypeAlias = Callable[[float], bool]  # True with the given probability


@dataclass(frozen=True)
class SmallWorld:
    """A small world and how laws see it.

    Features are `self.NAME`, the same of every kind that has one object as `KIND.NAME`, and for
    switches `....flipped`, the value it would have after a flip. Observables go likewise.
    """

    name: str
    actions: tuple[str, ...]
    kinds: Mapping[str, Mapping[str, Domain]]
    initial: State
    rule: Callable[[State, str, Flip], State]
    reference: bool = False

    @property
    def scopes(self) -> Mapping[str, Vocabulary]:
        return {kind: self._vocabulary(kind) for kind in self.kinds}

    def _vocabulary(self, scope: str) -> Vocabulary:
        features: dict[str, Domain] = {}
        observables: dict[Observable, Domain] = {}
        singles = [kind for kind in self.kinds if sum(t.kind == kind for t in self.initial) == 1]
        for owner, kind in [("self", scope), *((kind, kind) for kind in singles)]:
            for attribute, domain in self.kinds[kind].items():
                features[f"{owner}.{attribute}"] = domain
                observables[Observable(owner, attribute)] = domain
                if domain == SWITCH:
                    features[f"{owner}.{attribute}.flipped"] = domain
        return Vocabulary(features, observables)

    def step(
        self, state: State, action: str, rng: np.random.Generator | np.random.RandomState
    ) -> State:
        """Return a next state; every coin is one `rng.uniform()` below its probability."""
        self._check(action)
        return self.rule(state, action, lambda probability: rng.uniform() < probability)

    def enumerate_step(self, state: State, action: str) -> dict[State, float]:
        """Return every possible next state with its exact probability."""
        self._check(action)
        outcomes: dict[State, float] = {}
        unfinished: list[tuple[bool, ...]] = [()]
        while unfinished:
            falls = unfinished.pop()
            coins = _Coins(falls)
            try:
                after = self.rule(state, action, coins)
            except _OneMore:
                unfinished += [(*falls, True), (*falls, False)]
            else:
                outcomes[after] = outcomes.get(after, 0.0) + coins.probability
        return outcomes

    def _check(self, action: str) -> None:
        if action not in self.actions:
            raise unknown_name("action", action, self.actions)

    # --- As laws see it ---------------------------------------------------------------------------

    def scene(self, state: State, action: str) -> "SmallScene":
        self._check(action)
        return SmallScene(self, state, action)

    def changes(self, scene: "SmallScene", after: State) -> Changes:
        values: dict[Key, Value] = {}
        totals: Counter[str] = Counter()
        for old, new in zip(scene.state, after, strict=True):
            for (attribute, before), (_, now) in zip(old.attributes, new.attributes, strict=True):
                key = Key(old.kind, old.id, attribute)
                totals[key.family] += 1
                if now != before:
                    values[key] = now
        return Changes(values, totals=totals)

    def apply(self, scene: "SmallScene", values: Mapping[Key, Value]) -> State:
        things = {thing.id: thing for thing in scene.state}
        for key, value in values.items():
            if isinstance(key.owner, int):
                things[key.owner] = things[key.owner].set(key.attribute, int(number_of(value)))
        return tuple(things.values())


class _OneMore(Exception):
    """A coin was flipped for which no fall is given yet."""


class _Coins:
    def __init__(self, falls: tuple[bool, ...]) -> None:
        self._falls: Iterator[bool] = iter(falls)
        self.probability = 1.0

    def __call__(self, probability: float) -> bool:
        for fall in self._falls:
            self.probability *= probability if fall else 1 - probability
            return fall
        raise _OneMore


@dataclass(frozen=True)
class SmallScene:
    """A state of a small world and an action, as laws see them."""

    world: SmallWorld
    state: State
    action: str

    def bindings(self, scope: str) -> Sequence[Thing]:
        return [thing for thing in self.state if thing.kind == scope]

    def read(self, binding: Thing, feature: str) -> Value | None:
        owner, _, attribute = feature.partition(".")
        attribute, flipped, _ = attribute.partition(".flipped")
        value = self._owner(binding, owner).get(attribute)
        return 1 - value if flipped else value

    def keys(self, binding: Thing, observable: Observable) -> Sequence[Key]:
        owner = self._owner(binding, observable.of)
        return [Key(owner.kind, owner.id, observable.attribute)]

    def old(self, key: Key) -> Value:
        return next(t for t in self.state if t.id == key.owner).get(key.attribute)

    def domain(self, key: Key) -> Domain:
        return self.world.kinds[key.kind][key.attribute]

    def clamp(self, key: Key, number: float) -> float:
        domain = self.domain(key)
        return domain.clamp(number) if isinstance(domain, Numbers) else number

    def translate(self, key: Key, value: Value) -> Value:
        return value

    def bystanders(self) -> Mapping[Key, Value]:
        return {}

    def _owner(self, binding: Thing, name: str) -> Thing:
        return binding if name == "self" else self.bindings(name)[0]


# --- The worlds -------------------------------------------------------------------------------


def deterministic_switches(reference: bool = False) -> SmallWorld:
    """Two switches, each flipped by an action of its own; the second starts on."""
    machine = Thing("machine", 1, (("switch_a", 0), ("switch_b", 1)))

    def rule(state: State, action: str, flip: Flip) -> State:
        switch = {"toggle_a": "switch_a", "toggle_b": "switch_b"}[action]
        return (state[0].set(switch, 1 - state[0].get(switch)),)

    return SmallWorld(
        name="deterministic switches",
        actions=("toggle_a", "toggle_b"),
        kinds={"machine": {"switch_a": SWITCH, "switch_b": SWITCH}},
        initial=(machine,),
        rule=rule,
        reference=reference,
    )


def mixed_switches(reference: bool = False) -> SmallWorld:
    """Three switches: one flips, one is drawn anew by a fair coin, one never changes."""
    names = "deterministic", "stochastic", "static"

    def rule(state: State, action: str, flip: Flip) -> State:
        machine = state[0]
        match action:
            case "flip":
                machine = machine.set("deterministic", 1 - machine.get("deterministic"))
            case "redraw":
                machine = machine.set("stochastic", int(flip(0.5)))
        return (machine,)

    return SmallWorld(
        name="mixed switches",
        actions=("flip", "redraw", "nothing"),
        kinds={"machine": dict.fromkeys(names, SWITCH)},
        initial=(Thing("machine", 1, tuple((name, 0) for name in names)),),
        rule=rule,
        reference=reference,
    )


WIDTH = 12
SWITCH_POINT = 6  # from here on left is right and right is left
SLIP_PROBABILITY = 0.1
TOGGLE_PROBABILITY = 0.2


def lit_walk(reference: bool = False) -> SmallWorld:
    """A walker on a line whose far half turns directions round, and two lights that flicker."""

    def rule(state: State, action: str, flip: Flip) -> State:
        walker, *lights = state
        position = walker.get("position")
        direction = {"left": -1, "right": 1, "stay": 0}[action]
        if position >= SWITCH_POINT:
            direction = -direction
        if direction and flip(SLIP_PROBABILITY):
            direction = -direction
        moved = walker.set("position", min(max(position + direction, 0), WIDTH - 1))
        flickered = [
            light.set("on", 1 - light.get("on")) if flip(TOGGLE_PROBABILITY) else light
            for light in lights
        ]
        return (moved, *flickered)

    return SmallWorld(
        name="lit walk",
        actions=("left", "right", "stay"),
        kinds={"walker": {"position": Numbers(0, WIDTH - 1)}, "light": {"on": SWITCH}},
        initial=(
            Thing("walker", 1, (("position", 3),)),
            Thing("light", 2, (("on", 0),)),
            Thing("light", 3, (("on", 0),)),
        ),
        rule=rule,
        reference=reference,
    )
