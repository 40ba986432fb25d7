"""The package `crafter` (version 1.8.3) with any state put in and every field read out."""

from collections import defaultdict
from typing import Any

import numpy as np

from rlssm.world_models.schema import (
    ACTIONS,
    KINDS,
    Entity,
    GeneratorState,
    Player,
    WorldState,
)

_COUNTERS = ("hunger", "thirst", "fatigue", "recover")
_OWN = {"zombie": "cooldown", "skeleton": "reload", "plant": "grown"}


class _Members(dict):
    """A set of objects in order of birth; the package's own sets have no fixed order."""

    def add(self, obj: Any) -> None:
        self[id(obj)] = obj

    def remove(self, obj: Any) -> None:
        del self[id(obj)]

    def __iter__(self):
        return iter(sorted(self.values(), key=lambda obj: obj.birth))


class PackageWorld:
    """One world of the package, without pictures (they consume random numbers).

    With a `seed` it stands at the start of the first episode, without at nothing: `install` first.
    """

    def __init__(
        self, size: tuple[int, int], view: tuple[int, int] = (9, 9), seed: int | None = None
    ):
        import crafter

        crafter.engine.Textures = lambda _: None
        self._env = crafter.Env(area=size, view=view, seed=seed)
        self._env.render = self._env._sem_view = lambda *_: None
        world = self.world = self._env._world
        add, reset = world.add, world.reset

        def add_numbered(obj: Any) -> None:
            obj.birth = len(world._objects)
            add(obj)

        def reset_ordered(seed: int | None = None) -> None:
            reset(seed)
            world._chunks = defaultdict(_Members)

        world.add, world.reset = add_numbered, reset_ordered
        if seed is not None:
            self._env.reset()

    def step(self, action: str) -> tuple[float, bool]:
        """Return reward and whether the life is over."""
        _, reward, over, _ = self._env.step(ACTIONS.index(action))
        return float(reward), bool(over)

    # --- In -----------------------------------------------------------------------------------

    def install(self, state: WorldState) -> None:
        """Make the package's world equal to `state`."""
        env, world = self._env, self.world
        world.reset()
        world.random = state.random.generator()
        world.daylight = state.daylight
        world._mat_map[...] = state.materials + 1
        for chunk in state.known_chunks:
            world._chunks[chunk]  # a defaultdict: touching a key makes it known
        for entity in state.objects:
            world._objects += [None] * (entity.entity_id - len(world._objects))
            world.add(self._object(entity))
        world._objects += [None] * (state.next_id - len(world._objects))
        env._step = state.step_count
        env._last_health = state.player.health
        env._unlocked = {name for name, n in state.player.achievements.items() if n > 0}

    def _object(self, entity: Entity) -> Any:
        from crafter import objects

        cls = getattr(objects, type(entity).__name__)
        match entity.kind:
            case "player":
                obj = self._env._player = cls(self.world, entity.position)
                self._fill_player(obj, entity)
            case "zombie" | "skeleton":
                obj = cls(self.world, entity.position, self._env._player)
            case "arrow":
                obj = cls(self.world, entity.position, np.array(entity.facing))
            case _:
                obj = cls(self.world, entity.position)
        obj.health = entity.health
        if entity.kind in _OWN:
            setattr(obj, _OWN[entity.kind], getattr(entity, _OWN[entity.kind]))
        return obj

    def _fill_player(self, obj: Any, player: Player) -> None:
        obj.facing, obj.action, obj.sleeping = player.facing, player.action, player.sleeping
        obj.achievements.update(player.achievements)
        obj.inventory.update(player.inventory)
        obj._last_health = player.last_health
        for name in _COUNTERS:
            setattr(obj, f"_{name}", getattr(player, name))

    # --- Out ----------------------------------------------------------------------------------

    @property
    def state(self) -> WorldState:
        """Every field the package holds."""
        world = self.world
        return WorldState(
            materials=world._mat_map.astype(np.int8) - 1,
            objects=[self._entity(index, obj) for index, obj in enumerate(world._objects) if obj],
            known_chunks=[tuple(map(int, chunk)) for chunk in world._chunks],
            next_id=len(world._objects),
            view=tuple(int(side) for side in self._env._view),
            random=GeneratorState.of(world.random),
            step_count=self._env._step,
            daylight=float(world.daylight),
        )

    def _entity(self, entity_id: int, obj: Any) -> Entity:
        kind = type(obj).__name__.lower()
        entity = KINDS[kind](entity_id, tuple(map(int, obj.pos)), int(obj.health))
        if kind in _OWN:
            setattr(entity, _OWN[kind], int(getattr(obj, _OWN[kind])))
        if kind in ("arrow", "player"):
            entity.facing = tuple(map(int, obj.facing))
        if isinstance(entity, Player):
            entity.action, entity.sleeping = obj.action, obj.sleeping
            entity.achievements = dict(obj.achievements)
            entity.inventory = {k: int(v) for k, v in obj.inventory.items() if k != "health"}
            entity.last_health = int(obj._last_health)
            for name in _COUNTERS:
                setattr(entity, name, float(getattr(obj, f"_{name}")))
        return entity
