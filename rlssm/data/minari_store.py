"""Where local Minari datasets are, what they are called, and how one gets here from the network.

A dataset is a folder `<root>/<id>`; the root is the environment variable `MINARI_DATASETS_PATH`
or `~/.minari/datasets`. An id is a name such as `D4RL/door/human-v2`, version included; left
out, the newest local version is meant.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from rlssm.errors import UserError, unknown_name

# As Minari has it; a namespace of one character is malformed there.
_ID = re.compile(
    r"(?P<name>(?![-\w]/[-\w]*$)(?:[-\w]+/)*[-\w]+?)(?:-v(?P<version>\d{1,9}))?", re.ASCII
)


def root() -> Path:
    """Return the folder that local datasets are in, as Minari finds it."""
    path = os.environ.get("MINARI_DATASETS_PATH")
    return Path.home() / ".minari" / "datasets" if path is None else Path(path)


def split_id(dataset_id: str) -> tuple[str, int | None]:
    """Return an id's name and its version, None where it is left out.

    Raises:
        UserError: if the id is malformed.
    """
    match = _ID.fullmatch(dataset_id)
    if match is None:
        raise UserError(
            "dataset id must be words of letters, digits, '-' and '_' with '/' between them (two "
            "characters or more before the last '/') and a version, such as D4RL/door/human-v2, "
            f"got {dataset_id!r}"
        )
    return match["name"], None if match["version"] is None else int(match["version"])


def local_ids() -> list[str]:
    """Return the ids of all local datasets, sorted."""
    found = []
    for folder, names, _ in os.walk(root()):
        if "data" in names:
            found.append(Path(folder).relative_to(root()).as_posix())
            names.clear()
        names[:] = [name for name in names if not name.startswith(".")]
    return sorted(found)


def find_local(dataset_id: str) -> str | None:
    """Return the full id of a local dataset, the newest version unless one is given, or None.

    Raises:
        UserError: if the id is malformed.
    """
    name, version = split_id(dataset_id)
    if version is not None:
        return dataset_id if (root() / dataset_id / "data").is_dir() else None
    found = [
        local for local in local_ids() if re.fullmatch(rf"{re.escape(name)}-v\d{{1,9}}", local)
    ]
    return max(found, key=lambda local: split_id(local)[1] or 0, default=None)


def resolve(dataset_id: str) -> str:
    """Return the full id of a local dataset.

    Raises:
        UserError: if the id is malformed or there is no such dataset; the nearest are named.
    """
    found = find_local(dataset_id)
    if found is not None:
        return found
    known = local_ids()
    if not known:
        raise UserError(
            f"unknown dataset {dataset_id!r}: there is none in {root()}; make, import or download "
            "it"
        )
    raise UserError(f"{unknown_name('dataset', dataset_id, known)}; looked in {root()}")


def download(dataset_id: str) -> None:
    """Fetch a dataset from Minari's server into the local folder.

    Raises:
        UserError: if the id is malformed or has no version, if there is no such dataset there, if
            the network or the package that downloads is missing.
    """
    _, version = split_id(dataset_id)
    if version is None:
        raise UserError(
            f"downloading dataset {dataset_id} needs a version, such as {dataset_id}-v0"
        )
    import minari

    existed = (root() / dataset_id).exists()
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # every server's client raises errors of its own
        if not existed:
            shutil.rmtree(root() / dataset_id, ignore_errors=True)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = (
            "and downloading it needs huggingface_hub; install it with: pip install 'minari[hf]'"
            if isinstance(error, ImportError)
            else f"and could not be downloaded ({reason}); check the id and the network, or copy "
            "the dataset there"
        )
        raise UserError(f"dataset {dataset_id} is not in {root()}, {remedy}") from None


def remove(dataset_id: str) -> None:
    """Remove a local dataset, if it is there; it is gone at once, never half there.

    Raises:
        UserError: if the id is malformed or the folder cannot be removed.
    """
    split_id(dataset_id)
    folder = root() / dataset_id
    if not folder.exists():
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=root()) as scratch:
            os.replace(folder, Path(scratch) / "removed")
    except OSError as error:
        raise UserError(f"cannot remove {folder}: {error.strerror or error}") from None
