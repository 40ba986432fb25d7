"""Minari datasets, read into flat arrays and written from them.

Reading checks everything and changes nothing:

- Observations become float32 (`bool` and `uint8` stay), or int32 choices from 0 on.
- Box actions become float32 in [-1, 1], `a = (x - centre) / half` with centre and half width of
  the action space; `DatasetInfo.action_bounds` keeps the bounds.
- An episode's final observation is kept; what Minari calls infos is not read.

Writing inverts this: what was written is read back to the last bit. (Where action bounds are not
symmetric about zero, actions nearer to zero than 1e-8 are rounded.) Minari's own storage classes
do the writing. Source: minari 0.5.4.
"""

import os
import tempfile
from pathlib import Path

import jax
import numpy as np

from rlssm.data import minari_files, minari_store
from rlssm.data.check import check
from rlssm.data.dataset import DatasetInfo, OfflineDataset, index_episodes, to_episodes
from rlssm.data.minari_files import Folder, naming, readable
from rlssm.data.minari_metadata import Layout, parse_layout, to_metadata
from rlssm.data.spaces import Leaf, assemble, from_unit, to_gymnasium, to_unit
from rlssm.errors import UserError, unknown_name
from rlssm.types import Box, Discrete

_BLOCK = 2**24  # bytes, at least, that are converted together

# --- Reading ----------------------------------------------------------------------------------


def load(
    dataset_id: str,
    *,
    download: bool = False,
    device: jax.Device | jax.sharding.Sharding | None = None,
) -> OfflineDataset:
    """Return a dataset on a device, checked.

    Args:
        dataset_id: Minari id; without a `-v<number>`, the newest local version.
        download: whether to look for it in the network if it is not local.
        device: where its arrays go; the default device if None.

    Raises:
        UserError: naming dataset, episode and field of what is wrong.
    """
    if download and minari_store.find_local(dataset_id) is None:
        minari_store.download(dataset_id)
    leaves, structure = jax.tree.flatten(read(dataset_id))
    for i, leaf in enumerate(leaves):  # one by one, so that few arrays exist twice
        leaves[i] = jax.block_until_ready(jax.device_put(leaf, device))
        del leaf
    return jax.tree.unflatten(structure, leaves)


def read(dataset_id: str) -> OfflineDataset:
    """Return a local dataset on the host, as NumPy arrays, checked.

    Raises:
        UserError: naming dataset, episode and field of what is wrong.
    """
    dataset_id = minari_store.resolve(dataset_id)
    path = minari_store.root() / dataset_id / "data"
    with naming(f"dataset {dataset_id}"):
        metadata = minari_files.read_metadata(path)
        minari_files.verify(path, metadata)
        layout = parse_layout(dataset_id, metadata)
        with minari_files.open_folder(path, layout.data_format, layout.jpeg) as folder:
            lengths = _lengths(folder, layout)
            arrays = _read_columns(folder, layout, lengths)
    dataset = _as_dataset(arrays, layout, lengths)
    check(dataset)
    return _settle(dataset)


def read_info(dataset_id: str) -> DatasetInfo:
    """Return what a local dataset's metadata say of it; its values are not looked at.

    Raises:
        UserError: naming dataset and entry of what is wrong.
    """
    dataset_id = minari_store.resolve(dataset_id)
    with naming(f"dataset {dataset_id}"):
        metadata = minari_files.read_metadata(minari_store.root() / dataset_id / "data")
        return parse_layout(dataset_id, metadata).info


def _lengths(folder: Folder, layout: Layout) -> list[int]:
    """Return the steps of each episode, if they are what the metadata promise."""
    with readable("its data"):
        count = folder.count()
    if count != layout.episodes:
        raise UserError(f"metadata.json promises {layout.episodes} episodes, the data hold {count}")
    lengths = []
    for episode in range(layout.episodes):
        with naming(f"episode {episode}"), readable("rewards"):
            lengths.append(folder.length(episode))
    if sum(lengths) != layout.steps:
        raise UserError(f"metadata.json promises {layout.steps} steps, rewards has {sum(lengths)}")
    return lengths


def _read_columns(folder: Folder, layout: Layout, lengths: list[int]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    stop = dict.fromkeys(layout.columns, 0)
    waiting: dict[str, list[np.ndarray]] = {path: [] for path in layout.columns}
    held = 0
    for episode, length in enumerate(lengths):
        for path, leaf in layout.columns.items():
            extra = path.split("/")[0] == "observations"
            with naming(f"episode {episode}"):
                with readable(path):
                    stored = folder.column(episode, path, leaf)
                _check_column(stored, path, leaf, length + extra)
            waiting[path].append(stored)
            held += stored.nbytes
        if held < _BLOCK and episode < len(lengths) - 1:
            continue
        held = 0  # short episodes are converted many at a time
        for path, leaf in layout.columns.items():
            values = _convert(np.concatenate(waiting[path]), path, leaf, layout)
            waiting[path].clear()
            if path not in arrays:
                total = sum(lengths) + (path.split("/")[0] == "observations") * len(lengths)
                arrays[path] = np.empty((total, *values.shape[1:]), _host_dtype(leaf))
            with np.errstate(over="ignore"):  # becomes infinite, and is found by `check`
                arrays[path][stop[path] : stop[path] + len(values)] = values
            stop[path] += len(values)
    return arrays


def _check_column(stored: np.ndarray, path: str, leaf: Leaf, rows: int) -> None:
    """Raise a `UserError` if a column has not the shape and kind that its space declares."""
    shape = (rows, *leaf.space.shape)
    if stored.shape != shape:
        raise UserError(f"{path} has shape {stored.shape}, {shape} is expected")
    match leaf.space:
        case Discrete():
            kinds, expected = "iu", "integers are"
        case Box(dtype="bool"):
            kinds, expected = "b", "bool is"
        case Box(dtype="uint8"):
            kinds, expected = "u" if stored.dtype == np.uint8 else "", "uint8 is"
        case Box():
            kinds, expected = "fiu", "numbers are"
    if stored.dtype.kind not in kinds:
        raise UserError(f"{path} has dtype {stored.dtype}, {expected} expected")


def _convert(stored: np.ndarray, path: str, leaf: Leaf, layout: Layout) -> np.ndarray:
    """Return choices counted from 0, and actions on [-1, 1]."""
    if isinstance(leaf.space, Discrete):
        return stored.astype(np.int64) - int(leaf.low)
    return to_unit(stored, *layout.info.bounds) if path == "actions" else stored


def _host_dtype(leaf: Leaf) -> np.dtype:
    # Choices are narrowed only after their range was checked: a cast would wrap around.
    return np.dtype(np.int64 if isinstance(leaf.space, Discrete) else leaf.space.dtype)


def _as_dataset(
    arrays: dict[str, np.ndarray], layout: Layout, lengths: list[int]
) -> OfflineDataset:
    episode, start = index_episodes(lengths)
    return OfflineDataset(
        obs=assemble(layout.obs, "observations", arrays),
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminated=arrays["terminations"],
        truncated=arrays["truncations"],
        episode=episode,
        start=start,
        extras={},
        info=layout.info,
    )


def _settle(dataset: OfflineDataset) -> OfflineDataset:
    """Return checked values in their final form: choices as int32, actions within [-1, 1]."""
    narrow = jax.tree.map(lambda x: x.astype(np.int32) if x.dtype == np.int64 else x, dataset)
    if isinstance(dataset.info.spec.action, Box):
        np.clip(narrow.action, -1, 1, out=narrow.action)
    return narrow


# --- Writing ----------------------------------------------------------------------------------


def write(dataset: OfflineDataset, data_format: str = "hdf5") -> Path:
    """Write a dataset under the id in its `info`, and return its folder.

    It appears complete or not at all. Images are stored without loss; `extras` are not stored.

    Args:
        dataset: what to write, on host or device.
        data_format: `hdf5` (the fastest), `arrow` or `parquet`.

    Raises:
        UserError: if `check` refuses it, if its id is malformed or taken, or if the folder cannot
            be written.
    """
    info = dataset.info
    folder = minari_store.root() / info.id
    if minari_store.split_id(info.id)[1] is None:
        raise UserError(f"dataset id {info.id} needs a version, such as {info.id}-v0")
    if data_format not in minari_files.FORMATS:
        raise unknown_name("data_format", data_format, minari_files.FORMATS)
    if folder.exists():
        raise UserError(f"dataset {info.id} is taken; choose another id or remove {folder}")
    check(dataset)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=minari_store.root()) as scratch:
            complete = Path(scratch) / "complete"
            complete.mkdir()
            _write_data(complete / "data", dataset, data_format)
            os.replace(complete, folder)
        _register_namespace(info.id)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    return folder


def _write_data(path: Path, dataset: OfflineDataset, data_format: str) -> None:
    from minari import __version__
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    info = dataset.info
    observations = to_gymnasium(info.spec.obs)
    actions, action_space = jax.device_get(dataset.action), to_gymnasium(info.spec.action)
    if isinstance(info.spec.action, Box):
        actions = from_unit(actions, *info.bounds)
        low, high = (bound.reshape(info.spec.action.shape) for bound in info.bounds)
        action_space = to_gymnasium(Box(low.shape, actions.dtype.name), (low, high))
    storage = MinariStorage.new(
        path, observations, action_space, data_format=data_format, jpeg_encoding=False
    )
    entries = {"dataset_id": info.id, "minari_version": __version__, **to_metadata(info)}
    storage.update_metadata(entries)
    stored = dataset.replace(action=actions)
    storage.update_episodes(
        EpisodeBuffer(
            observations=episode.obs,
            actions=episode.action,  # ty: ignore[invalid-argument-type]  # arrays are taken, too
            rewards=episode.reward,  # ty: ignore[invalid-argument-type]
            terminations=episode.terminated,  # ty: ignore[invalid-argument-type]
            truncations=episode.truncated,  # ty: ignore[invalid-argument-type]
        )
        for episode in to_episodes(stored)
    )
    sums = minari_files.checksums(path, minari_files.read_metadata(path))
    storage.update_metadata({minari_files.CHECKSUMS: sums})


def _register_namespace(dataset_id: str) -> None:
    from minari import namespace

    name = dataset_id.rpartition("/")[0]
    if name and name not in namespace.list_local_namespaces():
        namespace.create_namespace(name)
