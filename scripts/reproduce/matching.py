"""Agents whose memories differ and whose numbers of parameters do not."""

from bisect import bisect_left
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax

from rlssm.algorithms import ppo
from rlssm.types import Box, Discrete, Spec

WIDTHS = range(4, 2049, 4)


@cache
def parameters(agent: Any) -> int:
    """Return how many parameters an agent of PPO has for 4 observations and 4 actions."""
    spec = Spec(Box((4,)), Discrete(4))
    state = jax.eval_shape(partial(ppo.init, agent, spec), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def matched(agent: Any, core: Any) -> Any:
    """Return the agent with another core, as wide as brings its parameters nearest to the same."""

    def wide(width: int) -> Any:
        return replace(agent, core=core, torso=replace(agent.torso, width=width))

    wanted = parameters(agent)
    above = bisect_left(WIDTHS, wanted, key=lambda width: parameters(wide(width)))
    near = WIDTHS[max(above - 1, 0) : above + 1]
    return wide(min(near, key=lambda width: abs(parameters(wide(width)) - wanted)))
