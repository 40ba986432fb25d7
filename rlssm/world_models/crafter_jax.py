"""The rules of Crafter compiled: the same step as `crafter.transition`, for batches of states.

Given the same random numbers, a step equals that of the NumPy rules in every field. Objects act
one after another, as there; what runs side by side is the batch. The loop over objects is as long
as the largest number of them in range of any player of the batch, and the tenth-step balance is
computed only when some state of the batch needs it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rlssm.types import Key
from rlssm.world_models.crafter import BALANCE_EVERY, EPISODE_LENGTH
from rlssm.world_models.crafter_jax_balance import balance
from rlssm.world_models.crafter_jax_creatures import update_creature, update_order
from rlssm.world_models.crafter_jax_player import update_player
from rlssm.world_models.crafter_jax_step import Draws, Step, begin, sample_draws
from rlssm.world_models.crafter_slots import CrafterArrays


def step(
    key: Key, states: CrafterArrays, actions: Int[Array, " B"]
) -> tuple[CrafterArrays, Float[Array, " B"]]:
    """Return the next states and the rewards, with fresh random numbers.

    Args:
      key: one key for the whole batch.
      states: leaves `[B, ...]`.
      actions: int32 `[B]`, index into `schema.ACTIONS`.
    """
    keys = jax.random.split(key, actions.shape[0])
    return transition(states, actions, jax.vmap(sample_draws)(keys, states))


@jax.jit
def transition(
    states: CrafterArrays, actions: Int[Array, " B"], draws: Draws
) -> tuple[CrafterArrays, Float[Array, " B"]]:
    """Return the next states and the rewards, given every random number.

    Args:
      states: leaves `[B, ...]`.
      actions: int32 `[B]`, index into `schema.ACTIONS`.
      draws: leaves `[B, ...]`, as from `sample_draws`.
    """
    begun = states._replace(step_count=states.step_count + 1)
    steps = jax.vmap(begin)(begun)
    steps = jax.vmap(update_player)(steps, actions.astype(jnp.int32), draws.collect)
    steps = _update_others(steps, states.next_id, draws)
    steps = _balance_where_due(steps, draws)
    after = steps.state
    return after, reward(states, after)


def _update_others(steps: Step, next_id: Int[Array, " B"], draws: Draws) -> Step:
    order, count = jax.vmap(update_order)(steps, next_id)

    def act(turn: Array, steps: Step) -> Step:
        return jax.vmap(update_creature)(steps, order[:, turn], draws, turn < count)

    return lax.fori_loop(0, jnp.max(count), act, steps)


def _balance_where_due(steps: Step, draws: Draws) -> Step:
    due = steps.state.step_count % BALANCE_EVERY == 0

    def balanced(steps: Step) -> Step:
        changed = jax.vmap(balance)(steps, draws)
        return jax.tree.map(
            lambda new, old: jnp.where(due.reshape(due.shape + (1,) * (old.ndim - 1)), new, old),
            changed,
            steps,
        )

    return lax.cond(jnp.any(due), balanced, lambda steps: steps, steps)


def reward(before: CrafterArrays, after: CrafterArrays) -> Float[Array, " B"]:
    """Return a tenth of the health gained, plus 1 if anything was achieved for the first time."""
    new = (after.player.achievements > 0) & (before.player.achievements == 0)
    gained = (after.player.health - before.player.health).astype(jnp.float32)
    return gained / 10 + jnp.any(new, -1)


def is_over(states: CrafterArrays) -> Bool[Array, " B"]:
    """Return whether lives have ended: by death or by their length."""
    return (states.player.health <= 0) | (states.step_count >= EPISODE_LENGTH)
