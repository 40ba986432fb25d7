"""Checkpoints: the whole state of a run on disk, complete or not there at all.

    RUN/checkpoints/<step>/         the newest ones
    RUN/checkpoints/best/<step>/    the best one

A checkpoint is written beside its place and renamed into it, so a process killed at any moment
leaves whole checkpoints only. What a checkpoint consists of is said in `rlssm.io.arrays`.
"""

import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlssm.errors import UserError, require
from rlssm.io import arrays

_STEP = re.compile(r"(\d+)~?")  # "<step>~" is a former version whose replacement was cut short


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run directory: the newest `keep`, and the best one."""

    run: Path
    keep: int = 2

    def __post_init__(self) -> None:
        require(self.keep >= 1, "keep", self.keep, "at least 1")

    @property
    def folder(self) -> Path:
        return Path(self.run) / "checkpoints"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, oldest first."""
        return sorted(_find(self.folder))

    def latest(self) -> int | None:
        """Return the step of the newest checkpoint, None where there is none."""
        return max(_find(self.folder), default=None)

    def best(self) -> int | None:
        """Return the step of the best checkpoint, None where there is none."""
        return max(_find(self.folder / "best"), default=None)

    def save(self, step: int, state: Any) -> None:
        """Write `state` as the newest checkpoint, then remove all but the newest `keep`.

        Args:
            step: the number to find it by; checkpoints of later steps are removed.
            state: a pytree of JAX or NumPy arrays, typed keys and zero-size arrays included.

        Raises:
            UserError: where it cannot be written; the earlier checkpoints stay as they were.
        """
        _save(self.folder, step, state, self.keep)

    def save_best(self, step: int, state: Any) -> None:
        """Write `state` as the best checkpoint in place of the former one; see `save`."""
        _save(self.folder / "best", step, state, keep=1)

    def discard_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, because the run goes on from `step`."""
        with _writing(self.folder):
            _prune(self.folder, [earlier for earlier in self.steps() if earlier <= step])

    def restore(self, which: int | Literal["last", "best"], template: Any, prefix: str = "") -> Any:
        """Return the state saved in one checkpoint.

        Args:
            which: a step, or the newest or the best one.
            template, prefix: what is wanted of it, as in `rlssm.io.arrays.restore`.

        Raises:
            UserError: where there is no such checkpoint, where it is damaged, or where it holds
                something else than the template. A damaged newest checkpoint is never passed
                over in silence; the error names the older ones that are intact.
        """
        path = self._locate(which)
        try:
            return arrays.restore(path, template, prefix)
        except arrays.Damaged as damage:
            others = [_find(self.folder)[step] for step in self.steps()]
            intact = " and ".join(x.name for x in others if x != path and _is_intact(x))
            remedy = f"step {intact} can be restored; to resume there, remove {path.name}"
            remedy = remedy if intact else "no other is intact"
            raise UserError(f"checkpoint {path} is damaged: {damage}; {remedy}") from None

    def _locate(self, which: int | Literal["last", "best"]) -> Path:
        known = which in ("last", "best") or isinstance(which, int)
        require(known, "checkpoint", which, '"last", "best" or a number of steps')
        found = _find(self.folder / "best" if which == "best" else self.folder)
        step = which if isinstance(which, int) else max(found, default=None)
        if step is None:
            raise UserError(f"{self.run} has no {which} checkpoint; none was saved yet")
        if step not in found:
            there = ", ".join(map(str, sorted(found))) or "none"
            raise UserError(f"{self.run} has no checkpoint of step {step}; there are: {there}")
        return found[step]


# --- Writing ----------------------------------------------------------------------------------


def _save(folder: Path, step: int, state: Any, keep: int) -> None:
    final, temporary = folder / str(step), folder / f"{step}.tmp"
    with _writing(final):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.tmp"):
            shutil.rmtree(stale)
        temporary.mkdir()
        try:
            arrays.save(temporary, state)
            _publish(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        kept = sorted(earlier for earlier in _find(folder) if earlier <= step)
        _prune(folder, kept[-keep:])


def _publish(temporary: Path, final: Path) -> None:
    """Move a complete checkpoint to its place; `_find` knows the former one until it is gone."""
    former = final.with_name(final.name + "~")
    if final.exists():
        _remove(former)
        final.rename(former)
    temporary.rename(final)
    arrays.sync(final.parent)


def _prune(folder: Path, kept: list[int]) -> None:
    """Remove every checkpoint whose step is not in `kept`, and superseded versions."""
    current = set(_find(folder).values())
    for path in _versions(folder):
        if path not in current or int(path.name.rstrip("~")) not in kept:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; renamed first, so that half of one never passes for a whole one."""
    doomed = path.with_name(f"{path.name}.removed.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    if path.exists():
        shutil.rmtree(path.rename(doomed))


@contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    """Turn a failure to write into a `UserError`; orbax wraps some of them in other types."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]
        raise UserError(
            f"cannot write checkpoint {path}: {reason}; earlier checkpoints are unchanged"
        ) from error


# --- Reading ----------------------------------------------------------------------------------


def _is_intact(path: Path) -> bool:
    try:
        arrays.verify(path)
    except arrays.Damaged:
        return False
    return True


def _versions(folder: Path) -> list[Path]:
    """Return the directories of all whole checkpoints, superseded ones included."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if _STEP.fullmatch(path.name)]


def _find(folder: Path) -> dict[int, Path]:
    """Return the directory of each step's checkpoint."""
    found: dict[int, Path] = {}
    for path in _versions(folder):  # sorted: "10" before "10~", its former version
        found.setdefault(int(path.name.rstrip("~")), path)
    return found
