"""Dense networks: their initialisers and activations, the multilayer perceptron, ensembles."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlssm.errors import require, unknown_name

Precision = Literal["default", "high", "highest"]
"""Precision of every matrix product in a network; see `jax.lax.Precision`."""

Kernel = Literal["orthogonal", "xavier", "xavier-normal"]
"""How a kernel starts: orthogonal, or with variance 2 / (fan-in + fan-out), uniform or normal."""

Activation = Literal["relu", "leaky_relu", "tanh", "elu", "silu", "gelu"]

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "tanh": nn.tanh,
    "elu": nn.elu,
    "silu": nn.silu,
    "gelu": nn.gelu,
}


@dataclass(frozen=True)
class MLPConfig:
    """Hidden layers, each `activation(norm(W x + b))`."""

    hidden: tuple[int, ...] = (128, 128)
    """Width of each hidden layer, at least 1; may be empty. popjaxrl's heads: two of 128."""
    activation: Activation = "leaky_relu"
    """Nonlinearity of the hidden layers. popjaxrl: leaky_relu."""
    kernel_scale: float = math.sqrt(2)
    """Gain of the kernels, above 0. popjaxrl's heads: 2."""
    layer_norm: bool = False
    """Whether a LayerNorm precedes each activation. RLPD's critics: yes."""
    kernel: Kernel = "orthogonal"
    """How kernels start, before their gain. METRA: xavier, with a gain of 1."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(all(w >= 1 for w in self.hidden), "hidden", self.hidden, "widths of at least 1")
        require(self.kernel_scale > 0, "kernel_scale", self.kernel_scale, "above 0")


def require_choices(config: Any, prefix: str = "") -> None:
    """Raise a `UserError` where a field annotated `Literal[...]` holds something else."""
    for field, annotation in get_type_hints(type(config)).items():
        value = getattr(config, field)
        if get_origin(annotation) is Literal and value not in get_args(annotation):
            raise unknown_name(prefix + field, str(value), map(str, get_args(annotation)))


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """Return the initialiser of orthogonal matrices of this gain.

    Members and seeds are drawn one after the other: jaxlib's batched QR spreads a batch over the
    threads that wait for it, and several in one program can wait for each other for ever on a CPU.
    """
    draw = nn.initializers.orthogonal(scale)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        one = jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))
        return one(key)

    return init


def xavier(
    scale: float = 1.0, law: Literal["uniform", "normal"] = "uniform"
) -> Callable[..., Array]:
    """Return the initialiser of independent entries of this gain (Glorot and Bengio 2010)."""
    return nn.initializers.variance_scaling(scale**2, "fan_avg", law)


KERNELS: dict[Kernel, Callable[[float], Callable[..., Array]]] = {
    "orthogonal": orthogonal,
    "xavier": xavier,
    "xavier-normal": partial(xavier, law="normal"),
}


def dense(
    features: int, scale: float, precision: Precision, name: str, kernel: Kernel = "orthogonal"
) -> nn.Dense:
    """Return a dense layer with a kernel of gain `scale` and a zero bias."""
    kernel_init = KERNELS[kernel](scale)
    return nn.Dense(features, kernel_init=kernel_init, precision=precision, name=name)


class MLP(nn.Module):
    """The hidden layers of a config, then one linear layer of width `out` where it is given."""

    config: MLPConfig
    out: int | None = None
    out_scale: float = 1.0  # gain of the last kernel
    precision: Precision = "default"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch O"]:
        config = self.config
        for i, width in enumerate(config.hidden):
            x = dense(width, config.kernel_scale, self.precision, f"hidden_{i}", config.kernel)(x)
            if config.layer_norm:
                x = nn.LayerNorm(name=f"norm_{i}")(x)
            x = ACTIVATIONS[config.activation](x)
        if self.out is None:
            return x
        return dense(self.out, self.out_scale, self.precision, "out", config.kernel)(x)


class Ensemble(nn.Module):
    """`size` copies of a module, each with its own parameters, applied to the same arguments.

    Parameters and results gain a leading axis E; a pair of critics is `Ensemble(critic, 2)`.
    """

    member: nn.Module
    size: int

    @nn.compact
    def __call__(self, *args: Any) -> Any:
        apply_all = nn.vmap(
            lambda member, *inputs: member(*inputs),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=self.size,
        )
        return apply_all(self.member, *args)
