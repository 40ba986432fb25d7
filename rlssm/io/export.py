"""A policy as one file that runs without this library.

The file is a zip of `jax.export` artefacts (StableHLO with the weights inside) and a description:

    description.json    names, shapes and dtypes of what goes in and comes out
    initial_carry       first -> carry
    greedy              obs, previous_action, previous_reward, first, reset, carry -> action, carry
    sample              the same with `key_data` in front, uint32 [2]

`carry` is a flat tuple of arrays, the policy's memory. `first` is True at the first step of an
episode, where the previous action and reward are zero; `reset` is True where the memory is to be
dropped, which is the same except in trials. This is all it takes to use the file:

    import json, zipfile
    import jax, numpy as np
    from jax import export

    with zipfile.ZipFile("policy.zip") as archive:
        description = json.loads(archive.read("description.json"))
        step = export.deserialize(bytearray(archive.read("greedy"))).call
        start = export.deserialize(bytearray(archive.read("initial_carry"))).call
    first = np.ones(1, bool)
    carry = start(first)
    action, carry = step(obs, previous_action, previous_reward, first, first, carry)
"""

import io
import json
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Bool, Float, UInt32

from rlssm.errors import UserError, require
from rlssm.types import Inputs, Key, Params, Policy, Previous, Spec, zeros

PLATFORMS = ("cpu", "cuda")

Memory = tuple[Array, ...]


class Exported(NamedTuple):
    """The functions and the description in a file, as said at the module's head."""

    initial_carry: Callable[..., Memory]
    greedy: Callable[..., tuple[Array, Memory]]
    sample: Callable[..., tuple[Array, Memory]]
    description: dict[str, Any]


def export_policy(
    path: Path,
    policy: Policy,
    params: Params,
    spec: Spec,
    *,
    batch: int | None = None,
    platforms: tuple[str, ...] = PLATFORMS,
) -> None:
    """Write a policy with its weights and memory as one file.

    Args:
        path: where to write it; the file appears complete or not at all.
        policy: how to act.
        params: the weights, of one member.
        spec: what the environment shows and accepts.
        batch: how many environments it will act in at once; None for any number.
        platforms: where it will run, as JAX names them.

    Raises:
        UserError: if the policy cannot be lowered for that, or the file cannot be written.
    """
    require(batch is None or batch >= 1, "batch", batch, "at least 1, or left out")
    size = export.symbolic_shape("batch")[0] if batch is None else batch
    arguments = _arguments(policy, spec, size)
    key_data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    functions = {
        "initial_carry": (partial(_initial_carry, policy), (arguments["first"],)),
        "greedy": (partial(_greedy, policy, params), tuple(arguments.values())),
        "sample": (partial(_sample, policy, params), (key_data, *arguments.values())),
    }
    description = {
        "batch": batch or "any",
        "platforms": platforms,
        "jax": jax.__version__,
        "arguments": {name: jax.tree.map(_shape, tree) for name, tree in arguments.items()},
    }
    members = {"description.json": json.dumps(description, indent=2).encode()}
    for name, (function, example) in functions.items():
        members[name] = _lower(function, example, platforms)
    _write_zip(path, members)


def load_exported(path: Path) -> Exported:
    """Return the functions of a file that `export_policy` wrote.

    Raises:
        UserError: if there is no such file, or if it is damaged or of another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        functions = {
            name: export.deserialize(bytearray(members[name])).call
            for name in ("initial_carry", "greedy", "sample")
        }
        return Exported(**functions, description=json.loads(members["description.json"]))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # zip and flatbuffers raise all kinds on a damaged file
        raise UserError(
            f"{path} is damaged or is not an exported policy ({type(error).__name__}: {error})"
        ) from None


# --- The functions in the file ----------------------------------------------------------------


def _initial_carry(policy: Policy, first: Bool[Array, " B"]) -> Memory:
    return tuple(
        jnp.broadcast_to(x, (*first.shape, *x.shape[1:]))
        for x in jax.tree.leaves(policy.initial_carry(1))
    )


def _greedy(policy: Policy, params: Params, *arguments: Any) -> tuple[Array, Memory]:
    return _act(policy, params, jax.random.key(0), True, *arguments)


def _sample(
    policy: Policy, params: Params, key_data: UInt32[Array, "2"], *arguments: Any
) -> tuple[Array, Memory]:
    return _act(policy, params, jax.random.wrap_key_data(key_data), False, *arguments)


def _act(
    policy: Policy,
    params: Params,
    key: Key,
    greedy: bool,
    obs: Any,
    previous_action: Array,
    previous_reward: Float[Array, " B"],
    first: Bool[Array, " B"],
    reset: Bool[Array, " B"],
    carry: Memory,
) -> tuple[Array, Memory]:
    structure = jax.tree.structure(policy.initial_carry(1))
    inputs = Inputs(obs, Previous(previous_action, previous_reward), first)
    action, after = policy.act(
        params, inputs, reset, jax.tree.unflatten(structure, carry), key, greedy
    )
    return action, tuple(jax.tree.leaves(after))


def _arguments(policy: Policy, spec: Spec, size: Any) -> dict[str, Any]:
    """Return shapes and dtypes of what `greedy` takes, in order; `size` may be symbolic."""
    one = {
        "obs": zeros(spec.obs, (1,)),
        "previous_action": zeros(spec.action, (1,)),
        "previous_reward": jnp.zeros(1, jnp.float32),
        "first": jnp.zeros(1, bool),
        "reset": jnp.zeros(1, bool),
        "carry": tuple(jax.tree.leaves(policy.initial_carry(1))),
    }
    return {
        name: jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), tree)
        for name, tree in one.items()
    }


def _shape(array: jax.ShapeDtypeStruct) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in array.shape]
    return {"shape": shape, "dtype": str(array.dtype)}


# --- The file ---------------------------------------------------------------------------------


def _lower(function: Callable, example: tuple, platforms: tuple[str, ...]) -> bytes:
    try:
        return bytes(export.export(jax.jit(function), platforms=platforms)(*example).serialize())
    except Exception as error:  # whatever a core's operations have against it
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"the policy cannot be exported for {' and '.join(platforms)} with this batch "
            f"({type(error).__name__}: {reason}); try a fixed batch, such as 1, or one platform"
        ) from error


def _write_zip(path: Path, members: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
