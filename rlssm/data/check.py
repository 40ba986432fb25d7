"""Whether a dataset's values are sound; the first that is not is named with episode and field.

Fields are called as Minari calls them: observations, actions, rewards, terminations, truncations.
While a file is read, the shapes and dtypes of each episode were compared with its spaces already.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from rlssm.data.dataset import DatasetInfo, OfflineDataset
from rlssm.errors import UserError
from rlssm.types import Box, DictSpace, Discrete, Space

TOLERANCE = 1e-5  # of half the action range: bounds kept in another precision than the actions
MEND = "remove the episode or mend the file"


def check(dataset: OfflineDataset) -> None:
    """Raise unless every value of a dataset can be learnt from.

    Episodes have 2 steps or more and end, at their last step only, in a termination or a
    truncation. Observations and rewards are finite. Actions lie in [-1, 1], or are known choices.

    Raises:
        UserError: naming dataset, episode, field and step of the first value that is wrong.
    """
    data = jax.device_get(dataset)
    _check_forms(data)
    _check_lengths(data)
    _check_ends(data)
    steps = np.asarray(data.start)
    rows = steps + np.arange(len(steps), dtype=steps.dtype)
    for path, values, space in _columns(data.obs, data.info.spec.obs, "observations"):
        _check_values(data.info, path, values, space, rows)
    _check_finite(data.info, "rewards", data.reward, steps)
    _check_values(data.info, "actions", data.action, data.info.spec.action, steps)
    if isinstance(data.info.spec.action, Box):
        _check_action_range(data.info, data.action, steps)


def _check_forms(data: OfflineDataset) -> None:
    """Raise unless every array has the shape and dtype that its space says."""
    steps, spec = data.num_steps, data.info.spec
    columns = _columns(data.obs, spec.obs, "observations")
    forms = [
        *((path, x, steps + data.num_episodes, space) for path, x, space in columns),
        ("actions", data.action, steps, spec.action),
        ("rewards", data.reward, steps, Box(())),
        ("terminations", data.terminated, steps, Box((), "bool")),
        ("truncations", data.truncated, steps, Box((), "bool")),
    ]
    for path, values, rows, space in forms:
        shape = (rows, *space.shape)
        dtypes = ("int32", "int64") if isinstance(space, Discrete) else (space.dtype,)
        if values.shape != shape or values.dtype.name not in dtypes:
            raise UserError(
                f"dataset {data.info.id}: {path} has shape {values.shape} and dtype "
                f"{values.dtype}, {shape} and {dtypes[0]} are expected"
            )


def _check_lengths(data: OfflineDataset) -> None:
    lengths = np.diff(data.start, append=data.num_steps)
    short = np.flatnonzero(lengths < 2)
    if len(short):
        steps = "1 step" if lengths[short[0]] == 1 else "0 steps"
        raise UserError(
            f"dataset {data.info.id}, episode {short[0]}: rewards has {steps}, at "
            f"least 2 are needed; {MEND}"
        )


def _check_ends(data: OfflineDataset) -> None:
    last = data.terminated | data.truncated
    ends = np.zeros_like(last)
    ends[np.append(data.start[1:], data.num_steps) - 1] = True
    wrong = np.flatnonzero(last != ends)
    if not len(wrong):
        return
    where = _where(data.info, np.asarray(data.start), wrong[0])
    if ends[wrong[0]]:
        raise UserError(
            f"{where}: neither terminations nor truncations is True at the last step; mark how "
            "the episode ended"
        )
    field = "terminations" if data.terminated[wrong[0]] else "truncations"
    raise UserError(f"{where}: {field} is True before the last step; split the episode there")


def _check_values(
    info: DatasetInfo, path: str, values: np.ndarray, space: Box | Discrete, start: np.ndarray
) -> None:
    if isinstance(space, Box):
        return _check_finite(info, path, values, start)
    wrong = np.flatnonzero((values < 0) | (values >= space.n))
    if len(wrong):
        raise UserError(
            f"{_where(info, start, wrong[0])}: {path} is {values[wrong[0]]}, outside "
            f"[0, {space.n - 1}]; {MEND}"
        )


def _check_finite(
    info: DatasetInfo, path: str, values: Shaped[np.ndarray, "N ..."], start: np.ndarray
) -> None:
    if values.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore", over="ignore"):
        total = values.sum(dtype=np.float64)  # finite only if every term is; needs no memory
    if np.isfinite(total):
        return
    bad = ~np.isfinite(values.reshape(len(values), -1))
    wrong = np.flatnonzero(bad.any(axis=1))
    value = values.reshape(len(values), -1)[wrong[0]][bad[wrong[0]]][0]
    raise UserError(f"{_where(info, start, wrong[0])}: {path} is {value}; {MEND}")


def _check_action_range(info: DatasetInfo, action: np.ndarray, start: np.ndarray) -> None:
    if max(action.max(), -action.min()) <= 1 + TOLERANCE:
        return
    flat = action.reshape(len(action), -1)
    wrong = np.flatnonzero((np.abs(flat) > 1 + TOLERANCE).any(axis=1))
    entry = int(np.argmax(np.abs(flat[wrong[0]])))
    low, high = (bound[entry] for bound in info.bounds)
    value = low + (float(flat[wrong[0], entry]) + 1) / 2 * (high - low)
    raise UserError(
        f"{_where(info, start, wrong[0])}: actions[{entry}] is {value:.6g}, outside "
        f"[{low:g}, {high:g}]; {MEND}"
    )


def _where(info: DatasetInfo, start: np.ndarray, row: np.integer) -> str:
    """Return the place of a row in words; `start` holds the first row of each episode."""
    episode = int(np.searchsorted(start, row, side="right")) - 1
    return f"dataset {info.id}, episode {episode}, step {row - start[episode]}"


def _columns(values: Any, space: Space, path: str) -> list[tuple[str, np.ndarray, Box | Discrete]]:
    if isinstance(space, DictSpace):
        return [
            leaf
            for name, part in space.spaces
            for leaf in _columns(values[name], part, f"{path}/{name}")
        ]
    return [(path, values, space)]
