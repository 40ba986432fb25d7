"""A pytree of arrays as a directory: written whole, and trusted only after it was checked.

    manifest.json    leaf names, shapes and dtypes, and the SHA-256 of every file
    arrays/          the arrays, written by orbax

The manifest carries its own checksum. When read, every file is compared with the manifest and
every leaf's name, shape and dtype with the tree it is to become. Nothing is pickled.
"""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.errors import UserError

_FORMAT = 1


class Damaged(Exception):
    """What is wrong with the files of a saved tree."""


class _Leaf(NamedTuple):
    """What is known of an array without its contents; typed keys have a dtype of their own."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


# --- Writing ----------------------------------------------------------------------------------


def save(path: Path, tree: Any) -> None:
    """Write a tree into an empty directory; at the return all of it is on the disk.

    Args:
        path: the directory.
        tree: a pytree of JAX or NumPy arrays, typed keys and zero-size arrays included.

    Raises:
        OSError: where it cannot be written; orbax turns some into RuntimeError or ValueError.
        TypeError: if a leaf is not an array.
    """
    leaves = _flatten(tree)
    arrays = {name: _to_host(leaf) for name, leaf in leaves.items() if leaf.size}
    _reserve(path, sum(array.nbytes + 4096 for array in arrays.values()))
    if arrays:
        _orbax_save(path / "arrays", arrays)
    body = {
        "format": _FORMAT,
        "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
        "keys": {name: _key_impl(leaf) for name, leaf in leaves.items() if _is_key(leaf)},
        "files": {name: _sha256(path / name) for name in _files(path)},
    }
    (path / "manifest.json").write_text(json.dumps({"checksum": _checksum(body), **body}, indent=1))
    for written in (path, *path.rglob("*")):
        sync(written)


def _reserve(path: Path, size: int) -> None:
    """Raise the `OSError` of a full disk now, before orbax meets it in its threads."""
    if not size or not hasattr(os, "posix_fallocate"):
        return
    space = path / "space"
    with space.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
    space.unlink()


def sync(path: Path) -> None:
    """Make a file's contents, or a directory's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Reading ----------------------------------------------------------------------------------


def restore(path: Path, template: Any, prefix: str = "") -> Any:
    """Return the tree saved in a directory.

    Args:
        path: the directory.
        template: a pytree with the shapes, dtypes and shardings wanted, of arrays or
            `jax.ShapeDtypeStruct`. NumPy leaves come back as NumPy arrays.
        prefix: where in the saved tree the template hangs, such as `"agent/params"`; all of
            the saved tree by default.

    Raises:
        Damaged: if the files are not what was written.
        UserError: if they hold something else than the template.
    """
    manifest = verify(path)
    saved = {n: _Leaf(tuple(shape), dtype) for n, (shape, dtype) in manifest["leaves"].items()}
    wanted = _flatten(template, prefix)
    below = {n: leaf for n, leaf in saved.items() if not prefix or f"{n}/".startswith(f"{prefix}/")}
    _compare(path, below, {name: _describe(leaf) for name, leaf in wanted.items()})
    arrays = _orbax_restore(path / "arrays", [name for name, leaf in wanted.items() if leaf.size])
    keys = manifest["keys"]
    restored = {n: _from_host(arrays.get(n), leaf, keys.get(n)) for n, leaf in wanted.items()}
    for name, leaf in restored.items():
        if _describe(leaf) != saved[name]:
            raise UserError(
                f"checkpoint {path}: {name} is {saved[name]} there and would become "
                f"{_describe(leaf)} here; set JAX_ENABLE_X64 as it was when it was written"
            )
    return jax.tree.unflatten(jax.tree.structure(template), restored.values())


def verify(path: Path) -> dict[str, Any]:
    """Return the manifest, once every file has the checksum listed there.

    Raises:
        Damaged: naming the file that has not.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except OSError as error:
        raise Damaged(f"manifest.json cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise Damaged("manifest.json is not JSON") from None
    if not isinstance(manifest, dict) or manifest.pop("checksum", None) != _checksum(manifest):
        raise Damaged("manifest.json does not have the checksum it states")
    if manifest.get("format") != _FORMAT:
        raise Damaged(f"format {manifest.get('format')!r} was found, {_FORMAT} expected")
    for name, expected in manifest["files"].items():
        try:
            found = _sha256(path / name)
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from None
        if found != expected:
            raise Damaged(f"{name} has SHA-256 {found[:12]}, the manifest says {expected[:12]}")
    return manifest


def _compare(path: Path, found: dict[str, _Leaf], expected: dict[str, _Leaf]) -> None:
    """Raise a `UserError` naming the first leaf that differs."""
    differing = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    if differing:
        name = differing[0]
        more = f" ({len(differing) - 1} more leaves differ)" if differing[1:] else ""
        raise UserError(
            f"checkpoint {path} holds another state: {name} is {found.get(name, 'missing')} there, "
            f"{expected.get(name, 'nothing')} was expected{more}; use the configuration that "
            "wrote it"
        )


# --- Leaves and files -------------------------------------------------------------------------


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a pytree by name, such as `agent/params/dense/kernel`."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        inner = jax.tree_util.keystr(path, simple=True, separator="/")
        name = "/".join(filter(None, (prefix, inner))) or "."
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"a checkpoint holds arrays only, {name} is {leaf!r}")
        if name in leaves:
            raise TypeError(f"two leaves of the state are called {name}")
        leaves[name] = leaf
    return leaves


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> str:
    return str(jax.random.key_impl(leaf))


def _describe(leaf: Any) -> _Leaf:
    return _Leaf(tuple(leaf.shape), str(leaf.dtype))


def _to_host(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_host(array: np.ndarray | None, template: Any, key_impl: str | None) -> Any:
    """Return an array in the template's form; None stands for one of size zero."""
    if array is None:
        stored = jax.eval_shape(jax.random.key_data, template) if key_impl else template
        array = np.zeros(stored.shape, stored.dtype)
    if isinstance(template, np.ndarray | np.generic):
        return array
    value = jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl) if key_impl else array
    return jax.device_put(value, template.sharding)


def _files(path: Path) -> list[str]:
    return sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# --- Orbax ------------------------------------------------------------------------------------


def _orbax_save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(arrays))


def _orbax_restore(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    import orbax.checkpoint as ocp

    wanted = ocp.args.PyTreeRestore({name: np.zeros(()) for name in names}, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path.absolute(), args=wanted)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise Damaged(f"orbax cannot read it ({str(error)[:200]})") from None
