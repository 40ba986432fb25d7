"""One file per algorithm, each with the same public names.

A module here offers `<Name>Config`, `<Name>State`, and

    networks(config, spec) -> linen module with `initial_carry(batch)`
    init(config, spec, key) -> state
    act(config, spec, params, inputs, reset, carry, key, *, greedy) -> (action, carry, extras)
    update(config, spec, state, batch) -> (state, metrics)
    batch_spec(config) -> what the loop must supply

`state.params` is the part of the state that acting needs: what a best checkpoint or an exported
policy holds. `state.hyper` holds the scalars a sweep may replace, by name.
"""

from types import ModuleType

from rlssm.algorithms import ppo
from rlssm.algorithms.ppo import PPOConfig

AgentConfig = PPOConfig  # the union of the configurations in `ALGORITHMS`
ALGORITHMS: dict[str, ModuleType] = {"ppo": ppo}
