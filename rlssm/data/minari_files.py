"""The files of a Minari dataset: columns of one episode at a time, and whether they are unharmed.

    <root>/<id>/data/metadata.json                 counts, spaces as JSON text, provenance
    <root>/<id>/data/main_data.hdf5                episode_<i>/observations/..., actions, ...
    <root>/<id>/data/<i>/part-0.arrow              one row for each observation (or .parquet)

Nothing here trusts what a file says. Files written by this library carry checksums, so that any
change to them is found before the HDF5 or Arrow library meets it.
"""

import hashlib
import io
import json
import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlssm.data.spaces import Leaf
from rlssm.errors import UserError

CHECKSUMS = "rlssm_checksums"  # entry of metadata.json
MOST_COMPRESSED = 1100  # no filter of HDF5 shrinks data further (deflate: 1032 times)
FORMATS = ("hdf5", "arrow", "parquet")


@contextmanager
def naming(where: str) -> Generator[None]:
    """Put a place before the sentence of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@contextmanager
def readable(what: str) -> Generator[None]:
    """Turn whatever a library raises on a damaged file into one sentence about `what`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # HDF5 and Arrow raise almost anything on a damaged file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{what} cannot be read ({reason}); the file is truncated or damaged: get it again"
        ) from None


# --- Columns ----------------------------------------------------------------------------------


class Hdf5Folder:
    """The episodes of an open HDF5 file, by column path such as `observations/position`."""

    def __init__(self, file: Any, jpeg: bool) -> None:
        self._file, self._jpeg = file, jpeg
        self._open: tuple[int, Any] = (-1, None)

    def count(self) -> int:
        """Return the number of episodes."""
        return len(self._file)

    def length(self, episode: int) -> int:
        """Return the number of steps of an episode."""
        return self._dataset(episode, "rewards").shape[0]

    def column(self, episode: int, path: str, leaf: Leaf) -> np.ndarray:
        """Return a column as stored, with a row for each step (or observation)."""
        import h5py

        dataset = self._dataset(episode, path)
        if self._jpeg and leaf.is_image:
            return _decode_images(h5py.Dataset(dataset)[()], leaf.space.shape)
        return read_hdf5(dataset, path.rpartition("/")[2])

    def _dataset(self, episode: int, path: str) -> Any:
        # HDF5's own handles: a set may have 45,000 episodes, and h5py's objects take most of the
        # time then.
        from h5py import h5d

        try:
            if self._open[0] != episode:
                self._open = episode, self._file[f"episode_{episode}"].id
            return h5d.open(self._open[1], path.encode())
        except KeyError:
            raise UserError(f"{path} is missing") from None


def read_hdf5(dataset: Any, name: str) -> np.ndarray:
    """Return the values of an HDF5 dataset, if the file can hold as many as it claims.

    HDF5 itself would make up zeros for what was never written.

    Args:
        dataset: HDF5's own handle, an `h5py.h5d.DatasetID`.
        name: what error messages call it.

    Raises:
        UserError: if it is a claim only, or its values are not numbers.
    """
    from h5py import h5s

    dtype, shape = dataset.dtype, dataset.shape
    if dtype.kind not in "fiub":
        raise UserError(f"{name} has dtype {dtype}, numbers are expected")
    size = math.prod(shape) * dtype.itemsize
    if size > dataset.get_storage_size():
        filtered = dataset.get_create_plist().get_nfilters() > 0
        if not filtered or size > dataset.get_storage_size() * MOST_COMPRESSED:
            raise UserError(f"{name} has shape {shape}, more than the file holds")
    values = np.empty(shape, dtype)
    if size:
        dataset.read(h5s.ALL, h5s.ALL, values)
    return values


class ArrowFolder:
    """The episodes of Arrow or Parquet files, by column path such as `observations/position`."""

    def __init__(self, path: Path, data_format: str, jpeg: bool) -> None:
        self._path, self._format, self._jpeg = path, data_format, jpeg
        self._open: tuple[int, Any] = (-1, None)

    def count(self) -> int:
        """Return the number of episodes."""
        return sum(1 for entry in self._path.iterdir() if entry.is_dir())

    def length(self, episode: int) -> int:
        """Return the number of steps of an episode."""
        return self._dataset(episode).count_rows() - 1

    def column(self, episode: int, path: str, leaf: Leaf) -> np.ndarray:
        """Return a column as stored, with a row for each step (or observation)."""
        name, *parts = path.split("/")
        table = self._table(episode)
        if name not in table.column_names:
            raise UserError(f"{path} is missing")
        values = table[name].combine_chunks()
        for part in parts:
            index = values.type.get_field_index(part)
            if index < 0:
                raise UserError(f"{path} is missing")
            values = values.flatten()[index]
        if values.null_count:
            raise UserError(f"{path} has no value at {values.null_count} steps")
        if self._jpeg and leaf.is_image:
            return _decode_images(values.to_pylist(), leaf.space.shape)
        rows = _to_numpy(values, path, leaf.space.shape)
        # Every column has a row for each observation; but for observations the last one is padding.
        return rows if name == "observations" else rows[:-1]

    def _dataset(self, episode: int) -> Any:
        from pyarrow import dataset

        folder = self._path / str(episode)
        ignored = ["_", ".", "metadata.json"]
        return dataset.dataset(folder, format=self._format, ignore_prefixes=ignored)

    def _table(self, episode: int) -> Any:
        if self._open[0] != episode:
            table = self._dataset(episode).to_table()
            table.validate(full=True)
            self._open = (episode, table)
        return self._open[1]


def _to_numpy(values: Any, path: str, shape: tuple[int, ...]) -> np.ndarray:
    import pyarrow as pa

    count = len(values)
    if pa.types.is_fixed_size_list(values.type):
        if values.type.list_size != math.prod(shape):
            raise UserError(
                f"{path} has {values.type.list_size} entries, {math.prod(shape)} are expected"
            )
        values = values.flatten()
        if values.null_count:
            raise UserError(f"{path} has entries without a value")
    elif shape:
        raise UserError(f"{path} has no entries, shape {shape} is expected")
    if not (pa.types.is_primitive(values.type) or pa.types.is_boolean(values.type)):
        raise UserError(f"{path} has type {values.type}, numbers are expected")
    return values.to_numpy(zero_copy_only=False).reshape(count, *shape)


def _decode_images(files: Any, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    images = np.empty((len(files), *shape), np.uint8)
    for i, file in enumerate(files):
        data = file if isinstance(file, bytes) else np.asarray(file, np.uint8).tobytes()
        image = np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]))
        if image.shape != shape:
            raise UserError(f"image {i} has shape {image.shape}, {shape} is expected")
        images[i] = image
    return images


Folder = Hdf5Folder | ArrowFolder


@contextmanager
def open_folder(path: Path, data_format: str, jpeg: bool) -> Generator[Folder]:
    """Open the data of a dataset for reading.

    Args:
        path: the `data` folder.
        data_format: one of `FORMATS`.
        jpeg: whether spaces of images are stored as JPEG.

    Raises:
        UserError: if the file cannot be opened; the methods of `Folder` raise anything.
    """
    if data_format != "hdf5":
        yield ArrowFolder(path, data_format, jpeg)
        return
    import h5py

    with readable("main_data.hdf5"):
        file = h5py.File(path / "main_data.hdf5", "r")
        _limit_metadata_cache(file, 2**22)
    with file:
        yield Hdf5Folder(file, jpeg)


def _limit_metadata_cache(file: Any, size: int) -> None:
    # Left alone it keeps a description of every column of every episode, 130 MB at 2,000 episodes.
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = config.max_size = size
    file.id.set_mdc_config(config)


# --- Metadata and checksums -------------------------------------------------------------------


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the contents of a data folder's metadata.json.

    Raises:
        UserError: if it is missing or not a JSON object.
    """
    try:
        metadata = json.loads((path / "metadata.json").read_bytes())
    except OSError as error:
        raise UserError(f"metadata.json cannot be read ({error.strerror}); get it again") from None
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise UserError("metadata.json is not a JSON object; get it again")
    return metadata


def checksums(path: Path, metadata: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of a data folder's metadata and of everything else in it."""
    told = {k: v for k, v in metadata.items() if k not in (CHECKSUMS, "dataset_size")}
    text = json.dumps(told, sort_keys=True)
    files = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file() and f != path / "metadata.json"):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files.update(f"{file.relative_to(path).as_posix()} {digest}\n".encode())
    return {"metadata": hashlib.sha256(text.encode()).hexdigest(), "files": files.hexdigest()}


def verify(path: Path, metadata: dict[str, Any]) -> None:
    """Raise a `UserError` if a folder that carries checksums was changed since it was written."""
    if CHECKSUMS not in metadata:
        return
    with readable("its data"):
        found = checksums(path, metadata)
    stated = metadata[CHECKSUMS]
    for name, what in (("metadata", "metadata.json"), ("files", "its data")):
        if not isinstance(stated, dict) or stated.get(name) != found[name]:
            raise UserError(
                f"{what} changed since it was written: make or get it again, or remove "
                f"{CHECKSUMS!r} from metadata.json if the change was meant"
            )
