"""The optimiser of every agent: clipped Adam with its own learning rate for state-space cores."""

from typing import Literal

import jax
import optax
from jax.tree_util import keystr
from jaxtyping import Array

from rlssm.errors import unknown_name
from rlssm.types import Params

Scalar = float | Array  # traced scalars included

SSMGroup = Literal["standard", "BandCdecay", "BfastandCdecay", "noBCdecay"]

_DYNAMICS = {"Lambda_re", "Lambda_im", "log_step", "nu", "theta", "gamma", "alpha", "omega"}

SSM_GROUPS: dict[SSMGroup, tuple[set[str], set[str]]] = {
    "standard": (_DYNAMICS | {"B"}, _DYNAMICS | {"B"}),
    "BandCdecay": (_DYNAMICS | {"B"}, _DYNAMICS),
    "BfastandCdecay": (_DYNAMICS, _DYNAMICS),
    "noBCdecay": (_DYNAMICS | {"B", "C", "D"}, _DYNAMICS | {"B", "C", "D"}),
}
"""Per scheme, the parameters that learn at the rate of the state space and those among them that
never decay. Source: lindermanlab/S5, `s5/train_helpers.py`; nu, theta and gamma are LRU's, alpha
and omega FFM's."""

_NEVER_DECAY = {"bias", "scale", "log_std"}  # biases, gains of LayerNorm, policy spread


def make_optimizer(
    learning_rate: Scalar | optax.Schedule,
    *,
    ssm_lr_factor: Scalar = 1.0,
    ssm_group: str = "standard",
    weight_decay: Scalar | None = None,
    max_grad_norm: Scalar | None = None,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformation:
    """Return global-norm clipping, then AdamW with a learning rate per parameter group.

        g <- g min(1, max_grad_norm / |g|)
        p <- p - lr_group (adam(g) + weight_decay p)

    where lr_group is `learning_rate`, times `ssm_lr_factor` for the parameters that shape a
    linear recurrence, told by their names. Numbers may be traced scalars, so that a sweep can
    `vmap` over them; the state holds the moments and a step count and nothing else.

    Args:
        learning_rate: step size, or a function of the update count.
        ssm_lr_factor: 1 in published RL agents; 0.25 is worth trying.
        ssm_group: which parameters count as the state space's, a key of `SSM_GROUPS`.
        weight_decay: decoupled decay, never of the state space's dynamics, biases or norms;
            None for none.
        max_grad_norm: limit of the norm of all gradients together; None for no limit.
        b1, b2, eps: as in Adam. popjaxrl has eps 1e-5.

    Raises:
        UserError: on an unknown `ssm_group`.
    """
    if ssm_group not in SSM_GROUPS:
        raise unknown_name("ssm_group", ssm_group, SSM_GROUPS)
    ssm, undecayed = SSM_GROUPS[ssm_group]
    steps = [optax.scale_by_adam(b1, b2, eps)]
    if max_grad_norm is not None:
        steps.insert(0, optax.clip_by_global_norm(max_grad_norm))
    if weight_decay is not None:
        steps.append(_decay(weight_decay, undecayed | _NEVER_DECAY))
    steps.append(_scale_named(ssm_lr_factor, ssm))
    steps.append(optax.scale_by_learning_rate(learning_rate))
    return optax.chain(*steps)


def _decay(rate: Scalar, exempt: set[str]) -> optax.GradientTransformation:
    def add(updates: Params, params: Params | None) -> Params:
        return jax.tree.map_with_path(
            lambda path, u, p: u if keystr(path[-1:], simple=True) in exempt else u + rate * p,
            updates,
            params,
        )

    return optax.stateless(add)


def _scale_named(factor: Scalar, names: set[str]) -> optax.GradientTransformation:
    def scale(updates: Params, params: Params | None) -> Params:
        return jax.tree.map_with_path(
            lambda path, u: factor * u if keystr(path[-1:], simple=True) in names else u, updates
        )

    return optax.stateless(scale)
