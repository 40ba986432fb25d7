"""What laws may say about Crafter: attributes and features with their domains, by scope."""

from collections.abc import Mapping

from rlssm.world_models.crafter import DAY_LENGTH, EPISODE_LENGTH, daylight
from rlssm.world_models.object_view import (
    BOOLEAN,
    DIRECTIONS_ONLY,
    MOVE_NAMES,
    MOVES,
    STEPS,
    Choices,
    Domain,
    Numbers,
    Observable,
    Value,
    Vocabulary,
)
from rlssm.world_models.schema import (
    ACHIEVEMENTS,
    ACTIONS,
    CHUNK_SIZE,
    ITEMS,
    KINDS,
    MATERIALS,
    MAX_ITEM,
    WALKABLE,
    Entity,
)

AMOUNT = Numbers(0, MAX_ITEM)
COUNT = Numbers(0, EPISODE_LENGTH)
REFERENCE_NUMBER = Numbers(0, 100)  # of every published observable but the next two
REFERENCE_COUNT = Numbers(0, 49)
REFERENCE_EXISTS = Choices((0, 1))

# What can be observed of an object, beside where it moved and whether it is still there.
ATTRIBUTES: dict[str, dict[str, Domain]] = {kind: {"health": AMOUNT} for kind in KINDS}
ATTRIBUTES["player"] |= {
    "facing": DIRECTIONS_ONLY,
    "action": Choices(ACTIONS),
    "sleeping": BOOLEAN,
    "last_health": AMOUNT,
    "hunger": Numbers(0, 25, 0.5),
    "thirst": Numbers(0, 20, 0.5),
    "fatigue": Numbers(-10, 30),
    "recover": Numbers(-15, 25, 0.5),
    **{f"inventory.{item}": AMOUNT for item in ITEMS},
    **{f"achievements.{name}": COUNT for name in ACHIEVEMENTS},
}
ATTRIBUTES["zombie"]["cooldown"] = Numbers(0, 5)
ATTRIBUTES["skeleton"]["reload"] = Numbers(0, 4)
ATTRIBUTES["arrow"]["facing"] = DIRECTIONS_ONLY
ATTRIBUTES["plant"]["grown"] = COUNT

CREATURES = tuple(kind for kind in KINDS if kind != "player")
BORN = tuple(kind for kind in CREATURES if kind != "fence")

# A newborn arrow is described by where it flies, any other by being there.
BIRTHS: dict[str, Domain] = {
    f"birth.{kind}": Choices(("none", *(DIRECTIONS_ONLY.values if kind == "arrow" else ("new",))))
    for kind in BORN
}
TILE: dict[str, Domain] = {"material": Choices(MATERIALS), **BIRTHS}
DAYLIGHT_DIGITS = 9
WORLD: dict[str, Domain] = {
    "step_count": COUNT,
    "daylight": Choices(tuple(round(daylight(t), DAYLIGHT_DIGITS) for t in range(DAY_LENGTH))),
}


def read_attribute(entity: Entity, attribute: str) -> Value:
    """Return an attribute of an object; directions go by their names."""
    name, _, item = attribute.partition(".")
    value = getattr(entity, name)
    if name == "facing":
        return MOVE_NAMES[value]
    return value[item] if item else value


def write_attribute(entity: Entity, attribute: str, value: Value) -> None:
    """Set an attribute of an object, as the type it has."""
    name, _, item = attribute.partition(".")
    old = getattr(entity, name)
    if name == "facing":
        setattr(entity, name, MOVES[str(value)])
    elif item:
        old[item] = type(old[item])(value)
    else:
        setattr(entity, name, type(old)(value))


def observed_domains(kind: str) -> dict[str, Domain]:
    """Return the domain of everything that is observed of an object of a kind."""
    alive = {} if kind == "player" else {"alive": BOOLEAN}
    return {"displacement": STEPS, **ATTRIBUTES[kind], **alive}


# --- Scopes -----------------------------------------------------------------------------------

_OBJECT = Choices(("none", *KINDS))
_AREA = Numbers(0, CHUNK_SIZE[0] * CHUNK_SIZE[1])
_FREE = {f"self.free.{direction}": BOOLEAN for direction in DIRECTIONS_ONLY.values}
_CHUNK = {f"chunk.{name}": _AREA for name in ("zombie", "skeleton", "cow", "grass", "path")}


def _everywhere() -> dict[str, Domain]:
    return {
        "action.name": Choices(ACTIONS),
        "action.direction": DIRECTIONS_ONLY,
        "step.count": COUNT,
        "step.phase": Numbers(0, 9),
        "daylight.now": WORLD["daylight"],
        "daylight.next": WORLD["daylight"],
        "darkness": Numbers(0, 3),
        "near.table": BOOLEAN,
        "near.furnace": BOOLEAN,
        **{f"player.{name}": domain for name, domain in ATTRIBUTES["player"].items()},
        **_tile("target"),
    }


def _tile(name: str) -> dict[str, Domain]:
    return {
        f"{name}.material": Choices(MATERIALS),
        f"{name}.object": _OBJECT,
        f"{name}.free": BOOLEAN,
        f"{name}.health": AMOUNT,
        f"{name}.ripe": BOOLEAN,
    }


def _creature(kind: str) -> dict[str, Domain]:
    return {
        **{f"self.{name}": domain for name, domain in ATTRIBUTES[kind].items()},
        **_FREE,
        **_CHUNK,
        **({"self.ripe": BOOLEAN} if kind == "plant" else {}),
        "self.distance": COUNT,
        "self.material": Choices(MATERIALS),
        "self.beside_mob": BOOLEAN,
        "self.toward_long": DIRECTIONS_ONLY,
        "self.toward_short": STEPS,
        "self.away_long": DIRECTIONS_ONLY,
        "self.away_short": STEPS,
        **(_tile("front") if kind == "arrow" else {}),
    }


def _observables(of: str, domains: Mapping[str, Domain]) -> dict[Observable, Domain]:
    return {Observable(of, name): domain for name, domain in domains.items()}


def _vocabulary(scope: str) -> Vocabulary:
    features, observables = _everywhere(), {}
    if scope == "world":
        return Vocabulary(features, _observables("world", WORLD))
    if scope == "chunk":
        for material in sorted(WALKABLE):
            observables |= _observables(f"{material} tiles", BIRTHS)
        return Vocabulary(features | _CHUNK, observables)
    for of in ("self", "player") if scope == "player" else ("player",):
        observables |= _observables(of, observed_domains("player"))
        observables[Observable(of, "inventory.health")] = AMOUNT
    struck = {"health": AMOUNT, "grown": COUNT, "alive": BOOLEAN, **TILE}
    if scope == "player":
        return Vocabulary(features | _FREE, observables | _observables("target", struck))
    observables |= _observables("self", observed_domains(scope))
    observables |= _observables("toward", BIRTHS)
    if scope == "arrow":
        observables |= _observables("front", struck)
    return Vocabulary(features | _creature(scope), observables)


SCOPES: dict[str, Vocabulary] = {scope: _vocabulary(scope) for scope in (*KINDS, "chunk", "world")}
