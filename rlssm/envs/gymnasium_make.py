"""Making Gymnasium environments, and their observations and actions in this library's terms."""

import importlib.util
from collections.abc import Collection, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from rlssm.errors import UserError, unknown_name
from rlssm.types import Box, DictSpace, Discrete, Space

PLUGINS = ("gymnasium_robotics",)  # packages that bring ids, tried where an id is not known


def registered(name: str) -> bool:
    """Return whether an id is known; the module of `module:id` is only imported to make it."""
    if ":" in name or name in ids():
        return True
    for plugin in PLUGINS:
        if importlib.util.find_spec(plugin) is not None:
            importlib.import_module(plugin)
    return name in ids()


def ids() -> Collection[str]:
    """Return the ids that Gymnasium knows by now.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import gymnasium
    except ModuleNotFoundError as error:
        raise UserError(
            f"environments gym/... need Gymnasium ({error}); install it with: "
            "pip install 'gymnasium[mujoco]'"
        ) from error
    return gymnasium.registry


def make_bare(name: str) -> tuple[Any, int | None]:
    """Return an environment without the wrappers that Gymnasium itself puts on, and its limit.

    Raises:
        UserError: if there is no such id, or it cannot be made.
    """
    if not registered(name):
        raise unknown_name("environment", f"gym/{name}", [f"gym/{known}" for known in ids()])
    import gymnasium
    from gymnasium import wrappers

    with named(name, "making it"), _quiet():
        env: Any = gymnasium.make(name, disable_env_checker=True)
    limit = env.spec.max_episode_steps
    while isinstance(env, wrappers.TimeLimit | wrappers.OrderEnforcing):
        env = env.env
    return env, limit


def _quiet() -> AbstractContextManager[None]:
    """Drop what MuJoCo says while it compiles a model, such as HalfCheetah's outdated setting."""
    if importlib.util.find_spec("mujoco") is None:
        return nullcontext()
    from rlssm.envs.mjx_model import quiet_mujoco

    return quiet_mujoco()


@contextmanager
def named(name: str, action: str) -> Generator[None]:
    """Say of an exception, in one sentence, in which environment it was raised."""
    try:
        yield
    except Exception as error:
        kind, summary = type(error).__name__, str(error).partition("\n")[0]
        raise UserError(f"env gym/{name}: {action} failed with {kind}: {summary}") from error


# --- Spaces ------------------------------------------------------------------------------------


def observation(space: Any, name: str) -> Space:
    """Return our space of observations.

    Raises:
        UserError: if it has no counterpart here.
    """
    from gymnasium import spaces

    match space:
        case spaces.Discrete(n=n, start=0):
            return Discrete(int(n))
        case spaces.Box(shape=shape, dtype=dtype):
            kept = str(dtype) in ("bool", "uint8")
            return Box(tuple(shape), str(dtype) if kept else "float32")
        case spaces.Dict():
            parts = sorted(space.spaces.items())
            return DictSpace(tuple((key, observation(part, name)) for key, part in parts))
    raise UserError(
        f"env gym/{name} has observations {space}, which cannot be served; use Box, Discrete "
        "from 0 on, or Dict"
    )


def actions(space: Any, name: str) -> tuple[Discrete | Box, tuple[np.ndarray, np.ndarray] | None]:
    """Return our space of actions, and the bounds of a box, float32.

    Raises:
        UserError: if it has no counterpart here.
    """
    from gymnasium import spaces

    match space:
        case spaces.Discrete(n=n, start=0):
            return Discrete(int(n)), None
        case spaces.Box(low=low, high=high, dtype=dtype) if (
            np.isfinite(low).all() and np.isfinite(high).all() and dtype.kind == "f"
        ):
            bounds = low.astype(np.float32), high.astype(np.float32)
            return Box(tuple(space.shape)), bounds
    raise UserError(
        f"env gym/{name} has actions {space}, which cannot be served; use Discrete from 0 on, or a "
        "bounded Box of floats"
    )


# --- Batches of observations -------------------------------------------------------------------


def empty(space: Space, rows: int) -> Any:
    """Return zeros, leaves `[rows, ...]`."""
    match space:
        case Discrete():
            return np.zeros(rows, np.int32)
        case Box(shape, dtype):
            return np.zeros((rows, *shape), dtype)
        case DictSpace(parts):
            return {name: empty(part, rows) for name, part in parts}


def write(space: Space, batch: Any, row: int, value: Any) -> None:
    """Write an observation as Gymnasium gives it into a row."""
    if isinstance(space, DictSpace):
        for name, part in space.spaces:
            write(part, batch[name], row, value[name])
    else:
        batch[row] = value


def element(space: Space, batch: Any, row: int) -> Any:
    """Return a copy of one row."""
    if isinstance(space, DictSpace):
        return {name: element(part, batch[name], row) for name, part in space.spaces}
    return batch[row].copy()
