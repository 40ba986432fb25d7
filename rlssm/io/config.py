"""Configurations as JSON, and what a run was made with.

A configuration is a tree of frozen dataclasses. It is written complete, and read back exactly or
not at all: an unknown key, a missing key, a value of another type are errors, none is mended.
"""

import json
import os
import platform
import subprocess
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from rlssm.errors import UserError, unknown_name

T = TypeVar("T")

_PACKAGES = ("rlssm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gymnax")


def save(path: Path, config: Any) -> None:
    """Write a dataclass as JSON; the file appears complete or not at all.

    Raises:
        UserError: if a field holds what its annotation does not allow, so that it could not be
            read back, or if the file cannot be written.
    """
    data = _dump(config)
    again = _parse(str(path), data, type(config))
    lost = [f.name for f in fields(config) if getattr(again, f.name) != getattr(config, f.name)]
    if lost:
        value = getattr(config, lost[0])
        raise UserError(f"{path}: {lost[0]} holds what JSON cannot give back exactly: {value!r}")
    save_json(path, data)


def load(path: Path, kind: type[T]) -> T:
    """Return the dataclass of type `kind` written in a JSON file.

    Raises:
        UserError: naming file, field, what was found and what was expected.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return _parse(str(path), data, kind)


def difference(a: Any, b: Any) -> list[str]:
    """Return `"field: value in a != value in b"` for every field in which two configs differ."""
    left, right = (
        {name: json.dumps(value) for name, value in _fields(_dump(config)).items()}
        for config in (a, b)
    )
    return [
        f"{name}: {left.get(name, 'absent')} != {right.get(name, 'absent')}"
        for name in {**left, **right}
        if left.get(name) != right.get(name)
    ]


def environment() -> dict[str, Any]:
    """Return what a result may depend on beside the configuration: versions, devices, source."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "git_revision": _git_revision(),
    }


def make_directory(path: Path) -> None:
    """Make a directory and its parents, if missing.

    Raises:
        UserError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the directory {path}: {error.strerror}") from error


def save_json(path: Path, data: Any) -> None:
    """Write a JSON file that appears complete or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(json.dumps(data, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the commit this source was checked out from, "+" if changed; None if installed."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):  # a site-packages inside another repository
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "..") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# --- Between dataclasses and JSON -------------------------------------------------------------


@cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def _dump(config: Any) -> Any:
    try:
        return _adapter(type(config)).dump_python(config, mode="json", warnings="none")
    except PydanticSerializationError as error:
        raise UserError(f"{type(config).__name__} cannot be written as JSON: {error}") from None


def _parse(source: str, data: Any, kind: type[T]) -> T:
    try:
        config = _adapter(kind).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error.errors(), data)}") from None
    _same_fields(source, _fields(data), _fields(_dump(config)))
    return config


def _same_fields(source: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise unless both have the same fields: pydantic passes over unknown and absent ones."""
    for name in found:
        if name not in expected:
            raise UserError(f"{source}: {unknown_name('field', name, expected)}")
    for name, default in expected.items():
        if name not in found:
            raise UserError(
                f"{source}: field {name!r} is missing; the default is {json.dumps(default)}"
            )


def _fields(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested objects by dotted name; lists and empty objects are values."""
    if not isinstance(data, dict) or (prefix and not data):
        return {prefix: data}
    found: dict[str, Any] = {}
    for name, value in data.items():
        found |= _fields(value, f"{prefix}.{name}" if prefix else name)
    return found


def _sentence(errors: list[ErrorDetails], data: Any) -> str:
    """Return the first error in words.

    In a union of dataclasses pydantic reports the errors of every member; those of members whose
    `name` is not the one found are left out, from the outermost union to the innermost.
    """
    misnamed = [e for e in errors if e["type"] == "literal_error" and e["loc"][-1:] == ("name",)]
    for union in sorted({e["loc"][:-2] for e in misnamed}, key=len):
        here = [e for e in misnamed if e["loc"][:-2] == union and e in errors]
        members = {e["loc"][:-1] for e in here}
        others = [e for e in errors if all(e["loc"][: len(m)] != m for m in members)]
        if here and not others:
            field, found = _locate(data, here[0]["loc"])
            known = " or ".join(e["ctx"]["expected"] for e in here)
            return f"{field}: must be {known}, found {json.dumps(found)[:80]}"
        errors = others
    error = errors[0]
    field, found = _locate(data, error["loc"])
    shown = json.dumps(found)[:80]
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}" if field else str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{'.'.join(filter(None, (field, str(error['loc'][-1]))))} is missing"
    expected = error["msg"].replace("Input should be", "must be")
    return f"{field or 'the configuration'}: {expected}, found {shown}"


def _locate(data: Any, loc: tuple[int | str, ...]) -> tuple[str, Any]:
    """Return the dotted name and the value at pydantic's location, less names of union members."""
    names = []
    for part in loc:
        match data, part:
            case dict(), str() if part in data:
                data = data[part]
            case list(), int() if part < len(data):
                data = data[part]
            case _:
                continue
        names.append(str(part))
    return ".".join(names), data
