"""Small policies that ship with the package, one file for each environment, read with NumPy.

A file is `<env>.npz` (such as `hopper.npz`), without pickled objects. For policies called
`medium`, `expert`, `ckpt_00`, ... it holds

    levels                     names of the policies
    <level>/kernel_<i>         `[in, out]` of layer i, float16 or float32
    <level>/bias_<i>           `[out]`
    steps                      environment steps that each policy was trained for
    returns                    mean return of each one's best actions, measured with the weights as
                               they are in the file (rounded, that is)
    metadata                   JSON text: how and on what they were trained

A policy is a dense network with ReLU on raw observations whose last layer gives (mean, log_std);
actions are `tanh(mean + std * noise)`, in [-1, 1], with log_std clipped to [-5, 2].
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlssm.errors import UserError, require

FOLDER = Path(__file__).parent / "policies"
LOG_STD_RANGE = (-5.0, 2.0)


class Policy(NamedTuple):
    """A trained network, and what is known of it."""

    layers: tuple[tuple[NDArray, NDArray], ...]  # (kernel [in, out], bias [out]), first to last
    step: int
    mean_return: float


class PolicyFile(NamedTuple):
    """The policies of an environment by name, and how they were made."""

    policies: dict[str, Policy]
    metadata: dict[str, Any]


class Actor:
    """A policy as a function on batches of observations."""

    def __init__(self, policy: Policy) -> None:
        self._layers = [tuple(x.astype(np.float32) for x in layer) for layer in policy.layers]

    def __call__(self, obs: NDArray, rng: np.random.Generator | None = None) -> NDArray:
        """Return actions `[N, A]`, float32, for observations `[N, D]`.

        They are sampled with `rng`, and without it the policy's best ones.
        """
        x = obs.astype(np.float32)
        *hidden, (kernel, bias) = self._layers
        for hidden_kernel, hidden_bias in hidden:
            x = np.maximum(x @ hidden_kernel + hidden_bias, 0)
        mean, log_std = np.split(x @ kernel + bias, 2, axis=-1)
        if rng is None:
            return np.tanh(mean)
        std = np.exp(np.clip(log_std, *LOG_STD_RANGE))
        return np.tanh(mean + std * rng.standard_normal(mean.shape, dtype=np.float32))


def path_of(env: str) -> Path:
    """Return where the policies of an environment such as `hopper` ship, if they do."""
    return FOLDER / f"{env}.npz"


def save_policies(path: Path, policies: Mapping[str, Policy], metadata: Mapping[str, Any]) -> None:
    """Write a file of policies.

    Args:
        path: the file, `<env>.npz`.
        policies: by name; kernels keep their dtype.
        metadata: anything that JSON can hold.

    Raises:
        UserError: if a policy is not one that an `Actor` can be.
    """
    arrays: dict[str, Any] = {
        "levels": np.array(list(policies)),
        "steps": np.array([policy.step for policy in policies.values()], np.int64),
        "returns": np.array([policy.mean_return for policy in policies.values()]),
        "metadata": np.array(json.dumps(dict(metadata), sort_keys=True)),
    }
    for name, policy in policies.items():
        _check(policy.layers, f"policy {name!r}")
        for i, (kernel, bias) in enumerate(policy.layers):
            arrays |= {f"{name}/kernel_{i}": kernel, f"{name}/bias_{i}": bias}
    np.savez_compressed(path, **arrays)


def load_policies(path: Path) -> PolicyFile:
    """Return what a file of policies holds.

    Raises:
        UserError: if there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no policy file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = [str(name) for name in arrays["levels"]]
        policies = {
            name: Policy(_layers(arrays, name), int(step), float(mean_return))
            for name, step, mean_return in zip(
                names, arrays["steps"], arrays["returns"], strict=True
            )
        }
        metadata = json.loads(str(arrays["metadata"]))
    except Exception as error:  # zipfile and NumPy raise almost anything on a damaged file
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"policy file {path} is damaged ({reason}); get it again") from None
    for name, policy in policies.items():
        _check(policy.layers, f"policy file {path}: policy {name!r}")
    return PolicyFile(policies, metadata)


def _layers(arrays: dict[str, NDArray], name: str) -> tuple[tuple[NDArray, NDArray], ...]:
    count = sum(key.startswith(f"{name}/kernel_") for key in arrays)
    return tuple((arrays[f"{name}/kernel_{i}"], arrays[f"{name}/bias_{i}"]) for i in range(count))


def _check(layers: Sequence[tuple[NDArray, NDArray]], where: str) -> None:
    """Raise a `UserError` unless the layers make a network with a mean and a log_std."""
    shapes = [(kernel.shape, bias.shape) for kernel, bias in layers]
    dense = bool(shapes) and all(len(k) == 2 and b == k[1:] for k, b in shapes)
    chained = dense and all(a[0][1] == b[0][0] for a, b in itertools.pairwise(shapes))
    expected = "[in, out] and [out] of layers that follow on each other, the last out being even"
    require(chained and shapes[-1][0][1] % 2 == 0, f"{where}: shapes", shapes, expected)
    for x in (x for layer in layers for x in layer):
        finite = x.dtype.kind == "f" and bool(np.isfinite(x).all())
        require(finite, f"{where}: weights", x.dtype.name, "finite float numbers")
