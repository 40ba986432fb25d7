"""Sampling from laws, compiled: the `likelihood.sample` of the default semantics on arrays.

    draw = compile_laws(model.laws)
    after = draw(jnp.array(model.weights), key, states, actions)      states as in crafter_jax

One call draws a next state for each of a batch: what laws set is drawn from their product, what
they add is drawn law by law and added up, everything else stays. Then the dead vanish, objects
move one after another (the player first, then in order of birth; who finds a tile taken stays),
and newborns take empty slots, as `CrafterView.apply` has it.

Departures: daylight is a function of the clock, so laws about it are left out and no law may
compare it; scores below that of noise count as noise; births that find no slot are counted in
`lost`; of two births drawn for one tile the first of (target, other fronts, chunks) lives.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from rlssm.errors import UserError
from rlssm.types import Key
from rlssm.world_models.crafter_slots import CrafterArrays
from rlssm.world_models.laws import Law
from rlssm.world_models.laws_jax_heard import Channel, Heard
from rlssm.world_models.laws_jax_next import Moved, finish, next_state
from rlssm.world_models.laws_jax_scene import ArrayScene, group_of
from rlssm.world_models.laws_jax_votes import Adders, Guards, Uniforms
from rlssm.world_models.object_view import Observable

Draw: TypeAlias = Callable[
    [Float[Array, " L"], Key, CrafterArrays, Int[Array, " B"]], CrafterArrays
]


def compile_laws(laws: Sequence[Law]) -> Draw:
    """Return a function that draws next states of batches; see the head of this file.

    It may be called inside other compiled functions.

    Raises:
      UserError: if a law sets the step count; and, when called, if one compares daylight.
    """
    for law in laws:
        if law.observable == Observable("world", "step_count") and not law.adds:
            raise UserError(f"law {law.name!r} must add to world.step_count to be compiled")
    program = _Program(tuple(laws))

    def sample(
        weights: Float[Array, " L"], key: Key, states: CrafterArrays, actions: Int[Array, " B"]
    ) -> CrafterArrays:
        keys = jax.random.split(key, (actions.shape[0], 2))
        moved = jax.vmap(program.move, (None, 0, 0, 0))(weights, keys[:, 0], states, actions)
        end = jax.vmap(finish, (0, 0, 0, None))
        if not moved.appearing:
            return end(keys[:, 1], states, moved, False)
        # Births anywhere in a chunk are looked at tile by tile, but seldom due.
        return lax.cond(
            jnp.any(jnp.stack([one.spoken.any() for one in moved.appearing.values()])),
            lambda: end(keys[:, 1], states, moved, True),
            lambda: end(keys[:, 1], states, moved, False),
        )

    return sample


class _Scope(NamedTuple):
    name: str
    rows: np.ndarray  # places of its laws among all
    guards: Guards
    setters: list[Channel]
    adders: list[tuple[str, Adders, np.ndarray]]  # (whose, laws, their places in the scope)


class _Program:
    """Laws sorted by scope and by what they speak about."""

    def __init__(self, laws: tuple[Law, ...]) -> None:
        kept = [i for i, law in enumerate(laws) if law.observable.attribute != "daylight"]
        by_scope: dict[str, list[int]] = defaultdict(list)
        for index in kept:
            by_scope[group_of(laws[index].scope)].append(index)
        self.scopes = [
            _scope(name, np.array(rows), [laws[row] for row in rows])
            for name, rows in by_scope.items()
        ]

    def move(
        self, weights: Float[Array, " L"], key: Key, state: CrafterArrays, action: Int[Array, ""]
    ) -> Moved:
        """Return a state with everything but births drawn."""
        scene, uniforms = ArrayScene(state, action), Uniforms(key)
        drawn = Heard(scene, uniforms)
        for scope in self.scopes:
            active = scope.guards.active(scene)
            own = weights[scope.rows]
            for channel in scope.setters:
                drawn.hear(scope.name, channel, own[channel.rows], active[channel.rows])
            for of, adders, rows in scope.adders:
                drawn.add(scope.name, of, adders, own[rows], active[rows])
        return next_state(drawn)


def _scope(name: str, rows: np.ndarray, laws: list[Law]) -> _Scope:
    setters: dict[tuple[str, str], list[int]] = defaultdict(list)
    adders: dict[str, list[int]] = defaultdict(list)
    for row, law in enumerate(laws):
        if law.adds:
            adders[law.observable.of].append(row)
        else:
            setters[law.observable.of, law.observable.attribute].append(row)
    return _Scope(
        name,
        rows,
        Guards(name, laws),
        [
            Channel(of, attribute, tuple(laws[row] for row in own), np.array(own))
            for (of, attribute), own in setters.items()
        ],
        [(of, Adders([laws[row] for row in own]), np.array(own)) for of, own in adders.items()],
    )
