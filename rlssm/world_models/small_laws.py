"""Right and wrong laws for the small worlds, by name."""

import math

from rlssm.world_models.laws import Add, Law, Outcome, Read, Set, Term, Test
from rlssm.world_models.object_view import Observable
from rlssm.world_models.small_worlds import (
    SLIP_PROBABILITY,
    SWITCH_POINT,
    TOGGLE_PROBABILITY,
)


def deterministic_laws() -> dict[str, Law]:
    """Return laws of `deterministic_switches`; the first two are right."""
    return _by_name(
        _switch("right: toggle_a flips a", "toggle_a", "switch_a", _flipped("switch_a")),
        _switch("right: toggle_b flips b", "toggle_b", "switch_b", _flipped("switch_b")),
        _switch("wrong: a stays", "toggle_a", "switch_a", _kept("switch_a")),
        _switch("wrong: b stays", "toggle_b", "switch_b", _kept("switch_b")),
        _switch("wrong: toggle_a flips b", "toggle_a", "switch_b", _flipped("switch_b")),
        _switch("wrong: toggle_b flips a", "toggle_b", "switch_a", _flipped("switch_a")),
    )


def mixed_laws() -> dict[str, Law]:
    """Return laws of `mixed_switches`; the first three are right."""
    coin = Outcome(Set(0)), Outcome(Set(1))
    return _by_name(
        _switch("right: flip", "flip", "deterministic", _flipped("deterministic")),
        _switch("right: redraw", "redraw", "stochastic", *coin),
        _switch("right: nothing", "nothing", "static", _kept("static")),
        _switch("wrong: flip does nothing", "flip", "deterministic", _kept("deterministic")),
        _switch("wrong: flip redraws", "flip", "deterministic", *coin),
        _switch("wrong: redraw does nothing", "redraw", "stochastic", _kept("stochastic")),
        _switch("wrong: redraw flips", "redraw", "stochastic", _flipped("stochastic")),
        _switch("wrong: nothing flips", "nothing", "static", _flipped("static")),
        _switch("wrong: nothing redraws", "nothing", "static", *coin),
    )


def lit_walk_laws() -> dict[str, Law]:
    """Return laws of `lit_walk`; those named right are, and exact at weight 1."""
    slips = ((1, 1 - SLIP_PROBABILITY), (-1, SLIP_PROBABILITY))
    right = [
        _walk(f"right: {action} {half} the switch point", action, sign, half, slips)
        for action, sign in (("right", 1), ("left", -1))
        for half in ("before", "behind")
    ]
    wrong = [
        *(
            _walk(f"wrong: {action} everywhere", action, sign, None, slips)
            for action, sign in (("right", 1), ("left", -1))
        ),
        *(
            _walk(f"wrong: {action} {half} without slips", action, sign, half, ((1, 1.0),))
            for action, sign in (("right", 1), ("left", -1))
            for half in ("before", "behind")
        ),
    ]
    flicker = (
        Outcome(Read("self.on.flipped"), math.log(TOGGLE_PROBABILITY)),
        Outcome(Read("self.on"), math.log(1 - TOGGLE_PROBABILITY)),
    )
    light = Observable("self", "on")
    return _by_name(
        *right,
        Law("right: lights flicker", "light", light, flicker),
        *wrong,
        Law("wrong: lights alternate", "light", light, (_flipped("on"),)),
    )


def _by_name(*laws: Law) -> dict[str, Law]:
    return {law.name: law for law in laws}


def _switch(name: str, action: str, switch: str, *outcomes: Outcome) -> Law:
    return Law(name, "machine", Observable("self", switch), outcomes, actions=frozenset({action}))


def _flipped(switch: str) -> Outcome:
    return Outcome(Read(f"self.{switch}.flipped"))


def _kept(switch: str) -> Outcome:
    return Outcome(Read(f"self.{switch}"))


def _walk(
    name: str,
    action: str,
    sign: int,
    half: str | None,
    steps: tuple[tuple[int, float], ...],
) -> Law:
    behind = half == "behind"
    comparison = ">=" if behind else "<"
    tests = () if half is None else (Test("self.position", comparison, SWITCH_POINT),)
    turned = -sign if behind else sign
    terms: list[tuple[Term, float]] = [(Add(turned * step), p) for step, p in steps]
    return Law(
        name=name,
        scope="walker",
        observable=Observable("self", "position"),
        outcomes=tuple(Outcome(term, math.log(probability)) for term, probability in terms),
        tests=tests,
        actions=frozenset({action}),
    )
