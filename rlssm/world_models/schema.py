"""What a Crafter world is made of: its vocabulary, its objects and its whole state, as data.

Coordinates are `(x, y)`, x to the right and y down, and arrays over the map are indexed
`[x, y]`. The random state is part of the state, so that a step is a deterministic function;
chance exists only for who does not see it.

Source: Crafter 1.8.3 (arXiv 2109.06780), seen through the object-oriented schema of One Life to
Learn (arXiv 2510.12088). `player.health` and `inventory.health` of that schema are one quantity:
it is kept as `Player.health` and appears twice only in JSON.
"""

import copy
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import numpy as np

Position: TypeAlias = tuple[int, int]
ChunkKey: TypeAlias = tuple[int, int, int, int]  # x start, x end, y start, y end; ends exclusive

MATERIALS = (
    "water", "grass", "stone", "path", "sand", "tree",
    "lava", "coal", "iron", "diamond", "table", "furnace",
)  # fmt: skip
MATERIAL_INDEX = {name: index for index, name in enumerate(MATERIALS)}
NO_MATERIAL = -1

VITALS = ("food", "drink", "energy")
ITEMS = (
    *VITALS, "sapling", "wood", "stone", "coal", "iron", "diamond",
    "wood_pickaxe", "stone_pickaxe", "iron_pickaxe", "wood_sword", "stone_sword", "iron_sword",
)  # fmt: skip
MAX_ITEM = 9  # of every item, and of the player's health

ACHIEVEMENTS = (
    "collect_coal", "collect_diamond", "collect_drink", "collect_iron", "collect_sapling",
    "collect_stone", "collect_wood", "defeat_skeleton", "defeat_zombie", "eat_cow", "eat_plant",
    "make_iron_pickaxe", "make_iron_sword", "make_stone_pickaxe", "make_stone_sword",
    "make_wood_pickaxe", "make_wood_sword", "place_furnace", "place_plant", "place_stone",
    "place_table", "wake_up",
)  # fmt: skip

ACTIONS = (
    "noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep",
    "place_stone", "place_table", "place_furnace", "place_plant",
    "make_wood_pickaxe", "make_stone_pickaxe", "make_iron_pickaxe",
    "make_wood_sword", "make_stone_sword", "make_iron_sword",
)  # fmt: skip

DIRECTIONS: dict[str, Position] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

WALKABLE = frozenset({"grass", "path", "sand"})
PLAYER_WALKABLE = WALKABLE | {"lava"}
ARROW_WALKABLE = WALKABLE | {"water", "lava"}

RIPE_AFTER = 300  # steps a plant grows before it can be eaten
CHUNK_SIZE = (12, 12)


@dataclass
class Entity:
    """Something that stands on a tile; no two stand on the same one."""

    kind: ClassVar[str]
    full_health: ClassVar[int] = 0

    entity_id: int
    position: Position
    health: int = -1  # -1 stands for full health

    def __post_init__(self) -> None:
        if self.health == -1:
            self.health = self.full_health


@dataclass
class Player(Entity):
    """The one who acts. Counters run up to a threshold, then cost or give one vital point."""

    kind = "player"
    full_health = MAX_ITEM

    facing: Position = (0, 1)
    action: str = "noop"
    sleeping: bool = False
    achievements: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACHIEVEMENTS, 0))
    inventory: dict[str, int] = field(
        default_factory=lambda: {item: MAX_ITEM if item in VITALS else 0 for item in ITEMS}
    )
    hunger: float = 0.0
    thirst: float = 0.0
    fatigue: float = 0.0
    recover: float = 0.0
    last_health: int = MAX_ITEM  # at the end of the player's own previous update

    @property
    def target(self) -> Position:
        """The tile in front."""
        return shift(self.position, self.facing)


@dataclass
class Cow(Entity):
    """Wanders; food."""

    kind = "cow"
    full_health = 3


@dataclass
class Zombie(Entity):
    """Chases the player and hits when adjacent and `cooldown` is 0."""

    kind = "zombie"
    full_health = 5

    cooldown: int = 0


@dataclass
class Skeleton(Entity):
    """Lives in tunnels, keeps its distance and shoots when `reload` is 0."""

    kind = "skeleton"
    full_health = 3

    reload: int = 0


@dataclass
class Arrow(Entity):
    """Flies one tile a step until it meets something."""

    kind = "arrow"

    facing: Position = (0, 1)


@dataclass
class Plant(Entity):
    """A sapling in the ground; cattle and monsters beside it damage it."""

    kind = "plant"
    full_health = 1

    grown: int = 0

    @property
    def ripe(self) -> bool:
        return self.grown > RIPE_AFTER


@dataclass
class Fence(Entity):
    """Part of the schema, although no action makes one."""

    kind = "fence"


KINDS: dict[str, type[Entity]] = {
    cls.kind: cls for cls in (Player, Cow, Zombie, Skeleton, Arrow, Plant, Fence)
}


@dataclass(frozen=True)
class GeneratorState:
    """A Mersenne Twister between two draws: 624 little-endian words and the index of the next."""

    words: bytes
    position: int

    @staticmethod
    def of(generator: np.random.RandomState) -> "GeneratorState":
        """Return where a generator stands."""
        state = generator.get_state(legacy=False)["state"]
        return GeneratorState(np.asarray(state["key"], "<u4").tobytes(), int(state["pos"]))

    def generator(self) -> np.random.RandomState:
        """Return a new generator that goes on from here."""
        generator = np.random.RandomState(0)
        words = np.frombuffer(self.words, "<u4").astype(np.uint32)
        generator.set_state(("MT19937", words, self.position, 0, 0.0))
        return generator


@dataclass
class WorldState:
    """Everything there is between two steps.

    Attributes:
      materials: int8 `[X, Y]`, index into `MATERIALS` or `NO_MATERIAL`.
      objects: the player first, then in order of birth, which is the order of updates and of ids.
      known_chunks: the chunks that ever held an object, in the order they first did.
      next_id: the id of the next object to be born; ids are never used twice.
      view: width and height of what the player sees; it sets the range of updates.
      random: where the world's random generator stands.
    """

    materials: np.ndarray
    objects: list[Entity]
    known_chunks: list[ChunkKey]
    next_id: int
    view: tuple[int, int]
    random: GeneratorState
    step_count: int = 0
    daylight: float = 0.0

    @property
    def player(self) -> Player:
        player = self.objects[0]
        if not isinstance(player, Player):
            raise TypeError(f"the first object must be the player, got {player.kind}")
        return player

    @property
    def size(self) -> tuple[int, int]:
        return self.materials.shape[0], self.materials.shape[1]

    @property
    def update_range(self) -> int:
        """L1 distance to the player from which on objects stand still."""
        return 2 * max(self.view)

    def copy(self) -> "WorldState":
        """Return a state that shares nothing with this one that can change."""
        new = copy.copy(self)
        new.materials = self.materials.copy()
        new.objects = [copy.copy(entity) for entity in self.objects]
        new.known_chunks = list(self.known_chunks)
        new.player.inventory = dict(self.player.inventory)
        new.player.achievements = dict(self.player.achievements)
        return new


# --- Geometry ---------------------------------------------------------------------------------


def shift(position: Position, direction: Position) -> Position:
    """Return the tile one `direction` away."""
    return position[0] + direction[0], position[1] + direction[1]


def distance(a: Position, b: Position) -> int:
    """Return the L1 distance of two tiles."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def toward(origin: Position, target: Position, long_axis: bool = True) -> Position:
    """Return the step from `origin` to `target` along the longer or the shorter axis.

    Along an axis on which they are level it is `(0, 0)`.
    """
    dx, dy = target[0] - origin[0], target[1] - origin[1]
    along_x = abs(dx) > abs(dy) if long_axis else abs(dx) <= abs(dy)
    return ((dx > 0) - (dx < 0), 0) if along_x else (0, (dy > 0) - (dy < 0))


def inside(size: tuple[int, int], position: Position) -> bool:
    """Return whether a tile is on the map."""
    return 0 <= position[0] < size[0] and 0 <= position[1] < size[1]


def material_at(state: WorldState, position: Position) -> str | None:
    """Return the material of a tile, None outside the map."""
    if not inside(state.size, position):
        return None
    index = state.materials[position]
    return None if index == NO_MATERIAL else MATERIALS[index]


def nearby_materials(state: WorldState, position: Position) -> set[str]:
    """Return the materials of the 3 x 3 tiles around `position`.

    At x = 0 or y = 0 there are none: the package slices from -1, which is the far edge, and so
    nothing can be made there.
    """
    x, y = position
    around = state.materials[x - 1 : x + 2, y - 1 : y + 2]
    return {MATERIALS[index] for index in np.unique(around) if index != NO_MATERIAL}


def chunk_of(size: tuple[int, int], position: Position) -> ChunkKey:
    """Return the chunk a tile belongs to; those at the far edges may be smaller."""
    x = position[0] // CHUNK_SIZE[0] * CHUNK_SIZE[0]
    y = position[1] // CHUNK_SIZE[1] * CHUNK_SIZE[1]
    return x, min(x + CHUNK_SIZE[0], size[0]), y, min(y + CHUNK_SIZE[1], size[1])
