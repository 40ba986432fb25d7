"""LSD: skills that move far in a representation that may not stretch the state space.

Source: Park et al. 2022, "Lipschitz-constrained Unsupervised Skill Discovery" (arXiv 2202.00914),
as a rival in the released code of METRA. Parent: `rlssm.algorithms.sac`; what is shared with its
rivals is in `rlssm.algorithms.skilled`.

Equations, with a skill z per episode, z̃ its direction and Δ = φ(s') - φ(s):

    L_φ     = -mean Δ·z̃,           φ of matrices W / σ(W), so that |φ(x) - φ(y)| <= |x - y|
    r       = Δ·z̃,                 from the new φ, no gradient

and SAC from r, as in METRA. σ(W), the largest singular value, is that of power iteration (Miyato et
al. 2018, arXiv 1802.05957): u ← unit(W'unit(Wu)) once before every step, σ = unit(Wu)'W u, with u
kept from step to step and gradients through W alone. Since relu is 1-Lipschitz, so is φ of vectors,
up to how near the power iteration has come.

The matrices before division are `raw`; what acting and reaching goals need, and `params` has, is φ
with its matrices divided. Departure from the code: one power iteration per update where it makes
one per forward pass.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rlssm.algorithms import skilled
from rlssm.algorithms.sac import masked_mean
from rlssm.algorithms.skilled import (
    SWEPT,
    SkilledConfig,
    SkilledState,
    act,
    batch_spec,
    change,
    descend,
    embed,
    follow,
    networks,
    presets,
    reward,
    skill_towards,
    step_policy,
)
from rlssm.errors import require
from rlssm.nn import skills
from rlssm.nn.skills import SKILL
from rlssm.types import Key, Metrics, Params, Spec, Trajectory

__all__ = [
    "PRESETS", "SWEPT", "LSDConfig", "LSDState", "act", "batch_spec", "embed", "follow", "init",
    "networks", "skill_towards", "update",
]  # fmt: skip


@dataclass(frozen=True)
class LSDConfig(SkilledConfig):
    """Hyper-parameters of LSD, all of them those of every learner of skills."""

    name: Literal["lsd"] = "lsd"  # ty: ignore[incompatible-attribute-override]
    """The algorithm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.representation
        good = layers.activation not in ("silu", "gelu")
        expected = "one that stretches nothing: relu, leaky_relu, tanh or elu"
        require(good, "representation.activation", layers.activation, expected)
        stretches = layers.layer_norm
        require(not stretches, "representation.layer_norm", stretches, "False, as it stretches")


class LSDState(SkilledState):
    """Everything LSD learns; `params` has the representation with its matrices divided."""

    raw: Params
    left: Params  # of each matrix the left singular vector u; None for biases


def init(config: LSDConfig, spec: Spec, key: Key) -> LSDState:
    """Return the state before the first update."""
    state = skilled.init(config, spec, key)
    raw = state.params["representation"]
    left = jax.tree.map(lambda w: _unit(jnp.ones(w.shape[-1])) if _is_matrix(w) else None, raw)
    state = state.replace(params=state.params | {"representation": divided(raw, left)})
    return LSDState(**vars(state), raw=jax.tree.map(jnp.copy, raw), left=left)


def update(
    config: LSDConfig, spec: Spec, state: LSDState, batch: Trajectory
) -> tuple[LSDState, Metrics]:
    """Make one step of the representation, then of SAC, on windows `[T, B, ...]`."""
    direction = skills.direction(config.skill, batch.step.extras[SKILL])
    left = iterated(state.raw, state.left)

    def loss(raw: Params) -> tuple[Array, Metrics]:
        delta = change(config, spec, divided(raw, left), batch)
        square = jnp.square(delta).sum(-1)
        return -masked_mean(reward(delta, direction), batch.mask), {
            "representation/squared_step": masked_mean(square, batch.mask)
        }

    raw, representation_opt, metrics = descend(state, state.raw, loss)
    weights = divided(raw, left)
    state = state.replace(
        params=state.params | {"representation": weights},
        representation_opt=representation_opt,
        raw=raw,
        left=left,
    )
    paid = reward(change(config, spec, weights, batch), direction)
    state, of_policy = step_policy(config, spec, state, batch, paid)
    return state, metrics | of_policy | {"skill/reward": masked_mean(paid, batch.mask)}


# --- Spectral normalisation -------------------------------------------------------------------


def iterated(raw: Params, left: Params) -> Params:
    """Return the left singular vectors after one more power iteration."""
    return _matrices(lambda w, u: _unit(_unit(_matrix(w) @ u) @ _matrix(w)), raw, left)


def divided(raw: Params, left: Params) -> Params:
    """Return weights with every matrix divided by its largest singular value."""

    def divide(w: Array, u: Array) -> Array:
        v = jax.lax.stop_gradient(_unit(_matrix(w) @ u))
        return w / (v @ _matrix(w) @ u)

    return _matrices(divide, raw, left, others=lambda w: w)


def _matrices(function: Any, raw: Params, left: Params, others: Any = lambda w: None) -> Params:
    """Return `function(w, u)` of all kernels, and `others(w)` of the rest."""
    return jax.tree.map(lambda w, u: others(w) if u is None else function(w, u), raw, left)


def _is_matrix(w: Array) -> bool:
    return w.ndim > 1


def _matrix(w: Array) -> Array:
    """Return a kernel, that of a convolution included, as a matrix `[in, out]`."""
    return w.reshape(-1, w.shape[-1])


def _unit(x: Array) -> Array:
    return x / jnp.linalg.norm(x)


PRESETS: dict[str, LSDConfig] = presets(LSDConfig())
