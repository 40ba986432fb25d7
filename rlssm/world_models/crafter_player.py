"""What the player's action does, and what living costs. Source: Crafter 1.8.3."""

from rlssm.world_models.crafter_step import Step
from rlssm.world_models.schema import (
    DIRECTIONS,
    MAX_ITEM,
    PLAYER_WALKABLE,
    WALKABLE,
    Cow,
    Entity,
    Plant,
    Player,
    Skeleton,
    Zombie,
    material_at,
    nearby_materials,
)

SAPLING_PROBABILITY = 0.1

# Material in front: (what is needed, what is gained, what is left behind).
COLLECT: dict[str, tuple[str | None, str, str]] = {
    "tree": (None, "wood", "grass"),
    "stone": ("wood_pickaxe", "stone", "path"),
    "coal": ("wood_pickaxe", "coal", "path"),
    "iron": ("stone_pickaxe", "iron", "path"),
    "diamond": ("iron_pickaxe", "diamond", "path"),
    "water": (None, "drink", "water"),
    "grass": (None, "sapling", "grass"),
}

# What is placed: (what it costs, how much of it, where it may stand).
PLACE: dict[str, tuple[str, int, frozenset[str]]] = {
    "stone": ("stone", 1, WALKABLE | {"water", "lava"}),
    "table": ("wood", 2, WALKABLE),
    "furnace": ("stone", 4, WALKABLE),
    "plant": ("sapling", 1, frozenset({"grass"})),
}

# What is made: (what must be near, one of each of these is used).
MAKE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    f"{material}_{tool}": (near, uses)
    for material, near, uses in (
        ("wood", ("table",), ("wood",)),
        ("stone", ("table",), ("wood", "stone")),
        ("iron", ("table", "furnace"), ("wood", "coal", "iron")),
    )
    for tool in ("pickaxe", "sword")
}

SWORD_DAMAGE = {"wood_sword": 2, "stone_sword": 3, "iron_sword": 5}


def update_player(step: Step, player: Player) -> None:
    action = player.action
    if player.sleeping:
        if player.inventory["energy"] < MAX_ITEM:
            action = "sleep"
        else:
            player.sleeping = False
            player.achievements["wake_up"] += 1
    _act(step, player, action)
    _wear(player)
    _recover(player)
    player.health = min(player.health, MAX_ITEM)
    for item, amount in player.inventory.items():
        player.inventory[item] = max(0, min(amount, MAX_ITEM))
    if player.health < player.last_health:
        player.sleeping = False
    player.last_health = player.health


def _act(step: Step, player: Player, action: str) -> None:
    verb, _, what = action.partition("_")
    match verb:
        case "move":
            player.facing = DIRECTIONS[what]
            step.move(player, player.facing, PLAYER_WALKABLE)
            if material_at(step.state, player.position) == "lava":
                player.health = 0
        case "do":
            entity = step.occupants.get(player.target)
            if entity is None:
                _collect(step, player)
            else:
                _strike(step, player, entity)
        case "sleep":
            if player.inventory["energy"] < MAX_ITEM:
                player.sleeping = True
        case "place":
            _place(step, player, what)
        case "make":
            _make(step, player, what)


def _strike(step: Step, player: Player, entity: Entity) -> None:
    if isinstance(entity, Plant) and entity.ripe:
        entity.grown = 0
        player.inventory["food"] += 4
        player.achievements["eat_plant"] += 1
    if isinstance(entity, Zombie | Skeleton | Cow):
        swords = (damage for sword, damage in SWORD_DAMAGE.items() if player.inventory[sword])
        step.hurt(entity, max(swords, default=1))
        if entity.health == 0 and isinstance(entity, Cow):
            player.inventory["food"] += 6
            player.hunger = 0.0
            player.achievements["eat_cow"] += 1
        elif entity.health == 0:
            player.achievements[f"defeat_{entity.kind}"] += 1


def _collect(step: Step, player: Player) -> None:
    material = material_at(step.state, player.target)
    if material == "water":
        player.thirst = 0.0
    if material is None or material not in COLLECT:
        return
    tool, item, left_behind = COLLECT[material]
    if tool is not None and player.inventory[tool] < 1:
        return
    step.set_material(player.target, left_behind)
    # The draw is made for every material, although only grass leaves anything to chance.
    draw = step.draws.uniform(player.entity_id, "collect")
    if material != "grass" or draw <= SAPLING_PROBABILITY:
        player.inventory[item] += 1
        player.achievements[f"collect_{item}"] += 1


def _place(step: Step, player: Player, what: str) -> None:
    item, cost, where = PLACE[what]
    if not step.is_free(player.target, where) or player.inventory[item] < cost:
        return
    player.inventory[item] -= cost
    player.achievements[f"place_{what}"] += 1
    if what == "plant":
        step.add(Plant(entity_id=step.state.next_id, position=player.target))
    else:
        step.set_material(player.target, what)


def _make(step: Step, player: Player, what: str) -> None:
    needed, uses = MAKE[what]
    if not nearby_materials(step.state, player.position).issuperset(needed):
        return
    if any(player.inventory[item] < 1 for item in uses):
        return
    for item in uses:
        player.inventory[item] -= 1
    player.inventory[what] += 1
    player.achievements[f"make_{what}"] += 1


def _wear(player: Player) -> None:
    """Hunger, thirst and fatigue run on and cost (sleep: give) a point where they run over."""
    pace = 0.5 if player.sleeping else 1.0
    player.hunger += pace
    if player.hunger > 25:
        player.hunger = 0.0
        player.inventory["food"] -= 1
    player.thirst += pace
    if player.thirst > 20:
        player.thirst = 0.0
        player.inventory["drink"] -= 1
    player.fatigue = min(player.fatigue - 1, 0.0) if player.sleeping else player.fatigue + 1
    if player.fatigue < -10:
        player.fatigue = 0.0
        player.inventory["energy"] += 1
    if player.fatigue > 30:
        player.fatigue = 0.0
        player.inventory["energy"] -= 1


def _recover(player: Player) -> None:
    """Health comes back while every need is met, faster asleep, and wears off otherwise."""
    inventory = player.inventory
    rested = inventory["energy"] > 0 or player.sleeping
    if inventory["food"] > 0 and inventory["drink"] > 0 and rested:
        player.recover += 2 if player.sleeping else 1
    else:
        player.recover -= 0.5 if player.sleeping else 1
    if player.recover > 25:
        player.recover = 0.0
        player.health += 1
    if player.recover < -15:
        player.recover = 0.0
        player.health = max(0, player.health - 1)
