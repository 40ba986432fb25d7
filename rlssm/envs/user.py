"""A user's own environment, named `module:factory` on the command line.

The factory takes no arguments and returns an `Environment` of this library, a gymnax environment
or a pair (gymnax environment, parameters). Whatever is wrong with it is said in one sentence
before anything is compiled.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from rlssm.envs.base import Environment
from rlssm.envs.gymnax_env import adapt
from rlssm.errors import UserError, unknown_name
from rlssm.types import Box, DictSpace, Discrete, Spec, zeros


@functools.cache  # so that a gymnax environment, which compares by identity, is made once
def load(reference: str) -> Environment:
    """Return the environment that `module:factory` makes, checked against the contract.

    The module is looked up on the Python path and in the current folder. The factory is called
    once in a process.

    Raises:
        UserError: if there is no such module or factory, if either fails, or if what the factory
            returns is no environment.
    """
    module_name, _, factory_name = reference.partition(":")
    if not module_name or not factory_name:
        raise UserError(f"env must be module:factory with both parts named, got {reference!r}")
    factory = _factory(_module(module_name, reference), factory_name, reference)
    try:
        env = _environment(factory(), reference)
    except UserError:
        raise
    except Exception as error:
        raise _failed(reference, f"{factory_name}()", error) from error
    check(env, reference)
    return env


def check(env: Environment, name: str) -> None:
    """Trace one reset and one step and compare what comes back with the contract and `env.spec`.

    Raises:
        UserError: at the first thing that does not fit.
    """
    spec = env.spec
    if not isinstance(spec.action, Discrete | Box) or not isinstance(
        spec.obs, Discrete | Box | DictSpace
    ):
        raise UserError(f"env {name}: spec must name spaces of rlssm.types, got {spec}")
    try:
        hash(env)
    except TypeError as error:
        raise UserError(f"env {name}: it must be hashable; make it a frozen dataclass") from error
    key = jax.random.key(0)
    state, obs = _trace(name, "reset", env.reset, key, env.params)
    next_state, step = _trace(name, "step", env.step, key, state, zeros(spec.action), env.params)
    expected = jax.eval_shape(lambda: zeros(spec.obs))
    _same(name, "reset's observation", obs, expected)
    _same(name, "step's observation", step.obs, expected)
    _same(name, "step's state", next_state, state)
    _same(name, "reward", step.reward, jax.ShapeDtypeStruct((), jnp.float32))
    _same(name, "terminated", step.terminated, jax.ShapeDtypeStruct((), bool))
    _same(name, "truncated", step.truncated, jax.ShapeDtypeStruct((), bool))
    if "success" in step.info:
        _same(name, 'info["success"]', step.info["success"], jax.ShapeDtypeStruct((), bool))


def _module(name: str, reference: str) -> ModuleType:
    # An installed command does not look into the current folder by itself. The folder stays on
    # the path, behind everything else, because the module may import its neighbours later.
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(reference, f"importing {name}", error) from error
        raise UserError(
            f"env {reference}: there is no module {error.name!r} on the Python path or in "
            f"{folder}; name it as in an import statement, without .py"
        ) from error
    except Exception as error:
        raise _failed(reference, f"importing {name}", error) from error


def _factory(module: ModuleType, name: str, reference: str) -> Callable[[], Any]:
    public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    if not hasattr(module, name):
        raise unknown_name(f"factory in module {module.__name__}:", name, public)
    factory = getattr(module, name)
    if not callable(factory):
        raise UserError(
            f"env {reference}: {name} must be a function without arguments that returns an "
            f"environment, got {type(factory).__name__}"
        )
    return factory


def _environment(made: Any, reference: str) -> Environment:
    from gymnax.environments import environment

    if isinstance(getattr(made, "spec", None), Spec):
        return made
    env, params = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if isinstance(env, environment.Environment):
        return adapt(env, params, name=reference)
    raise UserError(
        f"env {reference}: the factory must return an rlssm Environment, a gymnax environment or "
        f"a pair (gymnax environment, parameters), got {type(made).__name__}"
    )


def _failed(reference: str, action: str, error: Exception) -> UserError:
    summary = str(error).partition("\n")[0]
    return UserError(f"env {reference}: {action} failed with {type(error).__name__}: {summary}")


def _trace(name: str, method: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        first, second = jax.eval_shape(function, *args)
    except Exception as error:
        raise _failed(name, method, error) from error
    return first, second


def _same(name: str, what: str, found: Any, expected: Any) -> None:
    if _shapes(found) != _shapes(expected):
        raise UserError(f"env {name}: {what} must be {_shapes(expected)}, got {_shapes(found)}")


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)
