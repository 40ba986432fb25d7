"""What a run reports: JSON lines, TensorBoard curves and a progress bar.

    RUN/metrics.jsonl        one row per log point, a list of per-member values for each metric
    RUN/evaluations.jsonl    one row per evaluation
    RUN/tensorboard/<i>/     the same as curves, one TensorBoard run per member

A metric is an array `[S]`, a value per member (seed and sweep setting), or a scalar. What has no
value, such as the mean return of no episode at all, is masked (`numpy.ma`) and written as null;
any other NaN or infinity stops the run. Metrics below `time/` hold the clock and are the only
ones that differ between two equal runs.

Log before you save: a row is on the disk before the checkpoint of its step is, so a resumed run
drops the rows after its checkpoint and misses none.
"""

import json
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from rlssm.errors import UserError, require, unknown_name

Values = Mapping[str, Any]  # name to array [S] or scalar, NumPy or JAX, masked where undefined


class NonFinite(UserError):
    """A metric became NaN or infinite."""


def check_finite(step: int, metrics: Values) -> None:
    """Raise `NonFinite`, naming metric, member and step, unless every unmasked value is finite."""
    for name, value in metrics.items():
        values = np.ma.atleast_1d(np.ma.asarray(value))
        bad = np.ma.filled(~np.isfinite(values), False)
        if bad.any():
            member = int(np.argmax(bad))
            raise NonFinite(
                f"{name} became {values[member]} at step {step} in member {member}; the last "
                "checkpoint is from before: start a run from it with --init-from and a lower "
                "learning rate, or resume it with JAX_DEBUG_NANS=1 to find the operation"
            )


def read_metric(path: Path, name: str) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N S"]]:
    """Return the steps and the values of one metric in a JSON-lines file, null as NaN.

    Rows without the metric, and a last row that was cut short, are passed over.

    Raises:
        UserError: if there is no such file or metric, or a line is not a row.
    """
    require(path.is_file(), "the file of metrics", str(path), "one that exists")
    rows = [row for _, row in _rows(path)]
    found = [row for row in rows if name in row]
    if not found:
        raise unknown_name("metric", name, {key for row in rows for key in row} - {"step"})
    values = [np.atleast_1d(np.array(row[name], np.float64)) for row in found]
    return np.array([row["step"] for row in found]), np.stack(values)


class JsonLines:
    """A file of JSON objects, one a line, each with a `step` that never decreases."""

    def __init__(self, path: Path, *, start: int = 0) -> None:
        """Open for appending after the rows up to step `start`; 0 empties the file."""
        self.path = path
        with _writing(path):
            self._file = path.open("ab", buffering=0)
            self._truncate(start)

    def _truncate(self, step: int) -> None:
        # One truncation in place: no moment without the file, no need for space to copy it.
        end = 0
        for end_of_row, row in _rows(self.path):
            if step == 0 or row["step"] > step:
                break
            end = end_of_row
        self._file.truncate(end)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; when this returns, a kill of the process cannot lose it."""
        rest = (json.dumps(row, allow_nan=False) + "\n").encode()
        with _writing(self.path):
            while rest:  # a nearly full disk takes a part before it refuses the next
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()


class Logger:
    """Everything a run reports, in one place; a context manager."""

    def __init__(
        self,
        run: Path,
        *,
        total: int,
        start: int = 0,
        show: bool = True,
        tensorboard: bool = True,
        headline: str = "episode/return",
    ) -> None:
        """Open the files of a run directory.

        Args:
            run: the run directory; it exists.
            total: steps of the whole run, for the time it will still take.
            start: step of the checkpoint resumed from, whose later rows are dropped; 0 begins
                anew.
            show: whether to show a progress bar where there is a terminal to show it on.
            tensorboard: whether to write TensorBoard files too.
            headline: the metric shown beside the progress bar.
        """
        self._metrics = JsonLines(run / "metrics.jsonl", start=start)
        self._evaluations = JsonLines(run / "evaluations.jsonl", start=start)
        self._curves = _Curves(run / "tensorboard", start) if tensorboard else None
        self._headline = headline
        self._opened = time.perf_counter()
        hidden = None if show else True  # None: hidden unless standard error is a terminal
        self._bar = tqdm(total=total, initial=start, disable=hidden, unit="step", unit_scale=True)

    def metrics(self, step: int, metrics: Values, *, frames: int, seconds: float) -> None:
        """Report a log point, with the pace `frames / seconds`.

        Raises:
            NonFinite: before anything is written, if a value is NaN or infinite.
            UserError: if the disk is full or read-only.
        """
        pace = {
            "time/elapsed_seconds": time.perf_counter() - self._opened,
            "time/steps_per_second": frames / seconds,
        }
        self._report(self._metrics, step, {**metrics, **pace})
        self._bar.update(step - self._bar.n)
        if self._headline in metrics:
            latest = np.ma.mean(np.ma.asarray(metrics[self._headline]))
            if latest is not np.ma.masked:
                self._bar.set_postfix_str(f"{self._headline} {latest:.4g}", refresh=True)

    def evaluation(self, step: int, metrics: Values) -> None:
        """Report an evaluation; raises as `metrics` does."""
        self._report(self._evaluations, step, metrics)

    def _report(self, file: JsonLines, step: int, metrics: Values) -> None:
        check_finite(step, metrics)
        file.write({"step": step, **{name: _plain(value) for name, value in metrics.items()}})
        if self._curves is not None:
            self._curves.add(step, metrics)

    def close(self) -> None:
        self._bar.close()
        self._metrics.close()
        self._evaluations.close()
        if self._curves is not None:
            self._curves.close()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Curves:
    """TensorBoard files, one run per member so that equal tags lie over each other."""

    def __init__(self, folder: Path, start: int) -> None:
        self._folder = folder
        self._purge = start + 1 if start else 0  # TensorBoard hides what a killed run wrote after
        self._writers: list[Any] = []

    def add(self, step: int, metrics: Values) -> None:
        from tensorboardX.summary import scalar

        with _writing(self._folder):
            for name, value in metrics.items():
                for member, x in enumerate(np.ma.atleast_1d(np.ma.asarray(value))):
                    if x is not np.ma.masked:
                        self._write(member, step=step, summary=scalar(name, float(x)))
            for writer in self._writers:
                writer.flush()

    def _write(self, member: int, **event: Any) -> None:
        # Written here and now, and not through tensorboardX's own thread: where the disk is full
        # that thread dies unheard and leaves its queue to block the run.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        protobuf: Any = event_pb2  # its classes are made at import, unseen by type checkers

        while len(self._writers) <= member:
            folder = self._folder / str(len(self._writers))
            folder.mkdir(parents=True, exist_ok=True)
            writer = EventsWriter(str(folder / "events"), f".from-{self._purge}")
            self._writers.append(writer)
            if self._purge:
                start = protobuf.SessionLog(status=protobuf.SessionLog.START)
                self._write(len(self._writers) - 1, step=self._purge, session_log=start)
        self._writers[member].write_event(protobuf.Event(wall_time=time.time(), **event))

    def close(self) -> None:
        for writer in self._writers:
            with suppress(OSError):  # what could be written was, at the last log point
                writer.close()


def _rows(path: Path) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Yield each row with the position of its end, up to a last line that was cut short."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line)
                row["step"]
            except (ValueError, TypeError, KeyError, RecursionError):
                raise UserError(
                    f"{path} is damaged: line {number} is not a row of metrics; mend or remove "
                    "that line"
                ) from None
            yield end, row


def _plain(value: Any) -> Any:
    """Return numbers that JSON holds exactly: float32 as the double it equals, masked as None."""
    array = np.ma.asarray(value)
    if array.dtype.kind not in "fiub":  # bfloat16 and its like
        array = array.astype(np.float32)
    return array.tolist()


@contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
