"""Raw D4RL files: flat HDF5 tables with one row for each step, and no final observations.

Every row has an observation, an action, a reward and two flags: `terminals` (a true end) and
`timeouts` (cut by the time limit; missing in old files). The observation after the last step of
an episode is only there if the file has `next_observations`. D4RL itself reads such a file in two
ways (d4rl/__init__.py), both of which are here:

- `qlearning_transitions`, its `qlearning_dataset`: the successor is the next row, rows with a
  timeout are left out, and so is the file's last row.
- `import_d4rl`, its `sequence_dataset`: an episode ends at a terminal or a timeout, and an
  unfinished tail is left out. The result is a Minari dataset.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rlssm.data.dataset import DatasetInfo, Episode, OfflineDataset, from_episodes
from rlssm.data.minari_files import naming, read_hdf5, readable
from rlssm.data.minari_io import write
from rlssm.data.scores import d4rl_reference
from rlssm.data.spaces import to_unit
from rlssm.errors import UserError, require
from rlssm.types import Box, Spec, Transition

_REQUIRED = ("observations", "actions", "rewards", "terminals")
SAME = 1e-6  # Euclidean distance under which two observations are one; RLPD's threshold


class D4RLFile(NamedTuple):
    """The columns of a raw file, N rows."""

    name: str
    observations: Float[np.ndarray, "N ..."]
    actions: Float[np.ndarray, "N A"]
    rewards: Float[np.ndarray, " N"]
    terminals: Bool[np.ndarray, " N"]
    timeouts: Bool[np.ndarray, " N"] | None
    next_observations: Float[np.ndarray, "N ..."] | None
    metadata: dict[str, str]


class Imported(NamedTuple):
    """What became of a raw file."""

    dataset: OfflineDataset
    tail: int  # rows after the last episode's end, left out
    without_successor: int  # last rows of timed-out episodes, left out
    single: int  # episodes left with one step, left out
    displaced: int  # rows in kept episodes whose `next_observations` is not the next row


# --- Reading ----------------------------------------------------------------------------------


def read_d4rl(path: Path) -> D4RLFile:
    """Return the columns of a raw D4RL file, as float32 and bool.

    Raises:
        UserError: naming file, field and row of what is missing, misshapen or not finite.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with naming(f"D4RL file {path.name}"):
        columns, metadata = _read(path)
        _check_shapes(columns)
        flags = {
            name: _flags(name, columns.pop(name).reshape(-1))
            for name in ("terminals", "timeouts")
            if name in columns
        }
        reals = {name: _reals(name, column) for name, column in columns.items()}
    return D4RLFile(
        name=path.name,
        observations=reals["observations"],
        actions=reals["actions"],
        rewards=reals["rewards"].reshape(-1),
        terminals=flags["terminals"],
        timeouts=flags.get("timeouts"),
        next_observations=reals.get("next_observations"),
        metadata=metadata,
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    import h5py

    with readable("its data"), h5py.File(path, "r") as file:
        optional = [name for name in ("timeouts", "next_observations") if name in file]
        columns = {name: _column(file, name) for name in (*_REQUIRED, *optional)}
        return columns, _metadata(file.get("metadata"))


def _column(file: Any, name: str) -> np.ndarray:
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{name} is missing; it needs {', '.join(_REQUIRED)}")
    return read_hdf5(found.id, name)


def _metadata(group: Any) -> dict[str, str]:
    """Return the single values of a file's metadata, such as the algorithm's name, as text."""
    words = {}
    for name in group if hasattr(group, "keys") else ():
        value = group[name]
        if getattr(value, "shape", None) == ():
            raw = value[()]
            text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
            words[f"d4rl_{name}"] = " ".join(text.split())[:200]
    return words


def _check_shapes(columns: dict[str, np.ndarray]) -> None:
    observations, actions = columns["observations"], columns["actions"]
    if observations.ndim < 2 or actions.ndim != 2 or 0 in observations.shape + actions.shape:
        raise UserError(
            f"observations has shape {observations.shape} and actions {actions.shape}; "
            "(N, ...) and (N, A) are expected"
        )
    rows = len(observations)
    shapes = {
        "observations": [observations.shape],
        "actions": [(rows, actions.shape[1])],
        "next_observations": [observations.shape],
    }
    for name, column in columns.items():
        allowed = shapes.get(name, [(rows,), (rows, 1)])
        if column.shape not in allowed:
            raise UserError(f"{name} has shape {column.shape}, {allowed[0]} is expected")


def _reals(name: str, column: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = column.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        row = values[bad[0]].reshape(-1)
        raise UserError(f"{name} is {row[~np.isfinite(row)][0]} at row {bad[0]}; mend the file")
    return values


def _flags(name: str, column: np.ndarray) -> np.ndarray:
    bad = np.flatnonzero((column != 0) & (column != 1))
    if len(bad):
        raise UserError(f"{name} is {column[bad[0]]} at row {bad[0]}, not 0 or 1")
    return column.astype(bool)


# --- D4RL's transitions -----------------------------------------------------------------------


def qlearning_transitions(file: D4RLFile, max_episode_steps: int | None = None) -> Transition:
    """Return the transitions of D4RL's `qlearning_dataset`, to the row, leaves `[M, ...]`.

    After a terminal, `next_obs` is the first observation of another episode; it must not be read.
    Without `timeouts`, D4RL counts to `max_episode_steps`, from 0 at the start of the file and
    after a cut, but from 1 after a terminal; this is done here as well.

    Raises:
        UserError: if the file has no `timeouts` and no length is given.
    """
    cut = file.timeouts
    if cut is None:
        cut = _count_to(_given(file, max_episode_steps), file.terminals, after_terminal=1)
    kept = ~cut[:-1]
    terminated = file.terminals[:-1][kept]
    return Transition(
        obs=file.observations[:-1][kept],
        action=file.actions[:-1][kept],
        reward=file.rewards[:-1][kept],
        next_obs=file.observations[1:][kept],
        terminated=terminated,
        truncated=np.zeros_like(terminated),
        extras={},
    )


def _given(file: D4RLFile, max_episode_steps: int | None) -> int:
    if max_episode_steps is None:
        raise UserError(
            f"D4RL file {file.name} does not say where episodes were cut; give max_episode_steps, "
            "the time limit of its task (1000 for locomotion)"
        )
    require(max_episode_steps >= 2, "max_episode_steps", max_episode_steps, "at least 2")
    return max_episode_steps


def _count_to(limit: int, terminals: np.ndarray, after_terminal: int) -> np.ndarray:
    """Return where a step counter that restarts at ends of episodes reaches the limit."""
    reached, count = np.zeros(len(terminals), bool), 0
    for row, terminal in enumerate(terminals.tolist()):
        reached[row] = count == limit - 1
        count = 0 if reached[row] else after_terminal if terminal else count + 1
    return reached


# --- Import -----------------------------------------------------------------------------------


def import_d4rl(
    path: Path,
    dataset_id: str | None = None,
    *,
    task: str | None = None,
    env: str | None = None,
    max_episode_steps: int | None = None,
    action_bound: float = 1.0,
) -> Imported:
    """Write a raw D4RL file as a Minari dataset.

    Episodes end at terminals and timeouts; without `timeouts`, where `next_observations` is not
    the next row; without either, after `max_episode_steps`. The final observation is the last row
    of `next_observations`. Without that column a terminal's is its own observation repeated
    (nothing bootstraps from it), and the last step of a timed-out episode is left out, as by
    D4RL: so the transitions are those of `qlearning_transitions`, but for the unfinished tail,
    a terminal in the file's last row, and a row that is both terminal and timeout, which D4RL drops
    and which is a termination here.

    Args:
        path: the HDF5 file, which is not changed.
        dataset_id: id of the new dataset, `d4rl/<file name>-v<version>` by default.
        task: D4RL's name of the data, such as `hopper-medium-v2`, for the reference scores; taken
            from the file name by default.
        env: id of the environment to evaluate in.
        max_episode_steps: time limit of the task.
        action_bound: actions lie in [-action_bound, action_bound].

    Raises:
        UserError: naming file, field and row of what is wrong, or if the dataset exists already.
    """
    require(0 < action_bound < np.inf, "action_bound", action_bound, "positive")
    file = read_d4rl(path)
    name = re.sub(r"[^-a-zA-Z0-9]+", "-", path.stem).strip("-") or "data"
    versioned = name if re.search(r"-v\d+$", name) else f"{name}-v0"
    size = file.actions.shape[1]
    spec = Spec(Box(file.observations.shape[1:]), Box((size,)), max_episode_steps)
    info = DatasetInfo(
        id=f"d4rl/{versioned}" if dataset_id is None else dataset_id,
        spec=spec,
        action_bounds=((-action_bound,) * size, (action_bound,) * size),
        env=env,
        reference=d4rl_reference(task or name),
        provenance=tuple(sorted({**file.metadata, "d4rl_file": path.name}.items())),
    )
    if task is not None and info.reference is None:
        raise UserError(
            f"task {task!r} has no D4RL constants; give a name such as hopper-medium-v2"
        )
    imported = to_dataset(file, info)
    write(imported.dataset)
    return imported


def to_dataset(file: D4RLFile, info: DatasetInfo) -> Imported:
    """Return the whole episodes of a raw file as a dataset, and what was left out.

    Raises:
        UserError: if no episode of 2 steps or more is left.
    """
    last = _last_rows(file, info.spec.max_episode_steps)
    stops = np.flatnonzero(last) + 1
    starts = np.append(0, stops)[:-1]
    found = [_episode(file, int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
    kept = [episode for episode in found if len(episode.reward) > 1]
    if not kept:
        raise UserError(
            f"D4RL file {file.name}: no episode of 2 steps or more ends in terminals or timeouts"
        )
    low, high = info.bounds
    unit = [e._replace(action=to_unit(e.action, low, high).astype(np.float32)) for e in kept]
    tail = len(last) - int(stops[-1])
    steps = sum(len(episode.reward) for episode in found)
    return Imported(
        dataset=from_episodes(unit, info),
        tail=tail,
        without_successor=len(last) - tail - steps,
        single=sum(len(episode.reward) == 1 for episode in found),
        displaced=int(np.sum(_jumps(file) & ~last)),
    )


def _last_rows(file: D4RLFile, max_episode_steps: int | None) -> np.ndarray:
    if file.timeouts is not None:
        return file.terminals | file.timeouts
    if file.next_observations is not None:
        last = file.terminals | _jumps(file)
        last[-1] = True  # its successor is known, so the episode was cut there
        return last
    limit = _given(file, max_episode_steps)
    return file.terminals | _count_to(limit, file.terminals, after_terminal=0)


def _jumps(file: D4RLFile) -> np.ndarray:
    """Return where `next_observations` is known not to be the next row's observation."""
    jumps = np.zeros(len(file.rewards), bool)
    if file.next_observations is not None:
        gap = file.observations[1:] - file.next_observations[:-1]
        jumps[:-1] = np.linalg.norm(gap.reshape(len(gap), -1), axis=1) > SAME
    return jumps


def _episode(file: D4RLFile, start: int, stop: int) -> Episode:
    """Return the rows of one episode with its final observation."""
    terminal = bool(file.terminals[stop - 1])
    if file.next_observations is not None:
        final = file.next_observations[stop - 1 : stop]
    elif terminal:
        final = file.observations[stop - 1 : stop]
    else:  # the last row's successor is unknown: it only serves as that of the row before
        stop -= 1
        final = file.observations[stop : stop + 1]
    ends = np.arange(start, stop) == stop - 1
    return Episode(
        np.concatenate([file.observations[start:stop], final]),
        file.actions[start:stop],
        file.rewards[start:stop],
        ends & terminal,
        ends & (not terminal),
    )
