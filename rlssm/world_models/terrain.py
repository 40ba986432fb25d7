"""The world a Crafter life starts in: noise makes the terrain, chance the ores, trees and animals.

Source: `crafter.worldgen` of Crafter 1.8.3. The numbers are its own; the noise fields are computed
for the whole map at once, the random draws in its order, so that equal seeds give equal worlds.
"""

import numpy as np
from jaxtyping import Float

from rlssm.world_models.noise import OpenSimplex
from rlssm.world_models.schema import (
    MATERIAL_INDEX,
    MATERIALS,
    WALKABLE,
    Cow,
    Entity,
    Position,
    Skeleton,
    Zombie,
)

Field = Float[np.ndarray, "X Y"]


def terrain(
    size: tuple[int, int], start: Position, generator: np.random.RandomState
) -> tuple[np.ndarray, list[Entity]]:
    """Return materials, int8 `[X, Y]`, and animals with ids from 2 on, drawn by `generator`.

    `start` is where the player will stand: the land is mild around it.
    """
    noise = OpenSimplex(int(generator.randint(0, 2**31 - 1)))
    fields = _Fields(size, start, noise)
    materials = np.zeros(size, np.int8)
    tunnels = np.zeros(size, bool)
    for position in np.ndindex(*size):
        material, tunnels[position] = _material(fields, position, generator)
        materials[position] = MATERIAL_INDEX[material]
    animals: list[Entity] = []
    for position in np.ndindex(*size):
        kind = _animal(
            MATERIALS[materials[position]], fields.away[position], tunnels[position], generator
        )
        if kind is not None:
            animals.append(kind(entity_id=len(animals) + 2, position=position))
    return materials, animals


class _Fields:
    """Every smooth field the terrain is cut from, `[X, Y]` each."""

    def __init__(self, size: tuple[int, int], start: Position, noise: OpenSimplex) -> None:
        x, y = np.indices(size).astype(float)

        def layered(z: int, sizes: dict[int, float], sx: Field = x, sy: Field = y) -> Field:
            layers = [
                weight * noise((sx / scale).ravel(), (sy / scale).ravel(), z).reshape(size)
                for scale, weight in sizes.items()
            ]
            return np.sum(layers, axis=0)

        self.away = np.sqrt((x - start[0]) ** 2 + (y - start[1]) ** 2)
        mild = 4 - self.away + 2 * layered(8, {3: 1.0})
        self.mild = 1 / (1 + np.exp(-mild))
        self.water = layered(3, {15: 1.0, 5: 0.15}) + 0.1 - 2 * self.mild
        self.mountain = layered(0, {15: 1.0, 5: 0.3}) / 1.3 - (4 * self.mild + 0.3 * self.water)
        self.cave = layered(6, {7: 1.0})
        self.tunnel_x = layered(7, {3: 1.0}, 2 * x, y / 5)
        self.tunnel_y = layered(7, {3: 1.0}, x / 5, 2 * y)
        self.coal = layered(1, {8: 1.0})
        self.iron = layered(2, {6: 1.0})
        self.lava = layered(6, {5: 1.0})
        self.beach = layered(4, {9: 1.0})
        self.forest = layered(5, {7: 1.0})


def _material(f: _Fields, at: Position, generator: np.random.RandomState) -> tuple[str, bool]:
    """Return the material of a tile and whether it belongs to a tunnel."""
    if f.mild[at] > 0.5:
        return "grass", False
    if f.mountain[at] > 0.15:
        return _rock(f, at, generator)
    if 0.25 < f.water[at] <= 0.35 and f.beach[at] > -0.2:
        return "sand", False
    if f.water[at] > 0.3:
        return "water", False
    if f.forest[at] > 0 and generator.uniform() > 0.8:
        return "tree", False
    return "grass", False


def _rock(f: _Fields, at: Position, generator: np.random.RandomState) -> tuple[str, bool]:
    if f.cave[at] > 0.15 and f.mountain[at] > 0.3:
        return "path", False
    if f.tunnel_x[at] > 0.4 or f.tunnel_y[at] > 0.4:
        return "path", True
    if f.coal[at] > 0 and generator.uniform() > 0.85:
        return "coal", False
    if f.iron[at] > 0.4 and generator.uniform() > 0.75:
        return "iron", False
    if f.mountain[at] > 0.18 and generator.uniform() > 0.994:
        return "diamond", False
    if f.mountain[at] > 0.3 and f.lava[at] > 0.35:
        return "lava", False
    return "stone", False


def _animal(
    material: str, away: float, tunnel: bool, generator: np.random.RandomState
) -> type[Entity] | None:
    """Return which animal starts on a tile, if any; each condition draws only when it may hold."""
    if material not in WALKABLE:
        return None
    if away > 3 and material == "grass" and generator.uniform() > 0.985:
        return Cow
    if away > 10 and generator.uniform() > 0.993:
        return Zombie
    if material == "path" and tunnel and generator.uniform() > 0.95:
        return Skeleton
    return None
