import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlssm.errors import UserError
from rlssm.io.logging import JsonLines, Logger, NonFinite, check_finite, read_metric


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def open_logger(run: Path, **options) -> Logger:
    return Logger(run, **{"total": 100, "tensorboard": False, "show": False} | options)


# --- Rows -------------------------------------------------------------------------------------


def test_rows_hold_a_value_per_member(tmp_path):
    loss = jnp.asarray([0.1, 1 / 3], jnp.float32)
    returns = np.ma.masked_array([2.5, np.nan], mask=[False, True])
    with open_logger(tmp_path) as log:
        log.metrics(10, {"loss": loss, "episode/return": returns, "n": 3}, frames=40, seconds=0.5)
        log.evaluation(10, {"evaluation/return": np.float64([1.0, 2.0])})
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert row.pop("time/elapsed_seconds") > 0
    assert row == {
        "step": 10,
        "loss": [0.10000000149011612, 0.3333333432674408],
        "episode/return": [2.5, None],
        "n": 3,
        "time/steps_per_second": 80.0,
    }
    assert rows(tmp_path / "evaluations.jsonl") == [{"step": 10, "evaluation/return": [1.0, 2.0]}]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=4),
    st.sampled_from(["float32", "float64", "bfloat16", "float16"]),
)
def test_floats_come_back_exactly(tmp_path_factory, values, dtype):
    with np.errstate(over="ignore"):
        array = np.asarray(values).astype(jnp.dtype(dtype))
    if not np.isfinite(array).all():
        return
    path = tmp_path_factory.mktemp("floats")
    with open_logger(path) as log:
        log.evaluation(1, {"x": array})
    again = np.asarray(rows(path / "evaluations.jsonl")[0]["x"]).astype(array.dtype)
    assert again.tobytes() == array.tobytes()


def test_metrics_are_read_back(tmp_path):
    with open_logger(tmp_path) as log:
        log.evaluation(1, {"a": np.array([1, 2])})
        log.evaluation(2, {"b": np.array([1, 2])})
        log.evaluation(3, {"a": np.ma.masked_array([5.5, 0.0], [False, True])})
    path = tmp_path / "evaluations.jsonl"
    steps, values = read_metric(path, "a")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [[1, 2], [5.5, np.nan]])
    with pytest.raises(UserError, match="unknown metric 'aa', .*'a'.*; known: a, b"):
        read_metric(path, "aa")
    with pytest.raises(UserError, match="nowhere"):
        read_metric(tmp_path / "nowhere", "a")


# --- NaN --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_stops_before_anything_is_written(tmp_path, bad):
    metrics = {"fine": np.ones(3), "critic/loss": np.array([1.0, 2.0, bad])}
    with open_logger(tmp_path) as log:
        with pytest.raises(NonFinite, match=f"critic/loss became {bad} at step 7 in member 2; "):
            log.metrics(7, metrics, frames=1, seconds=1)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert issubclass(NonFinite, UserError)


def test_what_is_masked_may_be_nan():
    check_finite(1, {"x": np.ma.masked_invalid([np.nan, 1.0]), "n": np.int32(3), "b": True})
    check_finite(1, {"x": jnp.asarray([1.0], jnp.bfloat16)})
    with pytest.raises(NonFinite, match="x became nan at step 1 in member 1"):
        check_finite(1, {"x": np.ma.masked_array([np.nan, np.nan], [True, False])})
    with pytest.raises(NonFinite, match="x became nan at step 1 in member 0"):
        check_finite(1, {"x": jnp.nan})


# --- Resuming ---------------------------------------------------------------------------------


def test_resumed_run_drops_later_rows_and_no_others(tmp_path):
    for name, start, steps in (("a", 0, (10, 20, 30)), ("b", 20, (30, 40)), ("c", 35, (40,))):
        with open_logger(tmp_path, start=start) as log:
            for step in steps:
                log.metrics(step, {name: np.ones(1)}, frames=1, seconds=1)
                log.evaluation(step, {name: np.ones(1)})
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        found = [(row["step"], *(row.keys() & set("abc"))) for row in rows(tmp_path / file)]
        assert found == [(10, "a"), (20, "a"), (30, "b"), (40, "c")]
    with open_logger(tmp_path):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("cut", range(1, 14))
def test_torn_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b'{"step": 1}\n{'[:cut])
    file = JsonLines(path, start=1)
    file.write({"step": 2})
    file.close()
    assert [row["step"] for row in rows(path)] == [1] * (1 + cut // 12) + [2]


@pytest.mark.parametrize("line", ["x", "3", "[]", '{"stop": 1}', '"step"', "[" * 10_000, "\udcff"])
def test_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'.encode(errors="surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(UserError, match="metrics.jsonl is damaged: line 2 is not a row of metrics"):
        JsonLines(path, start=3)
    with pytest.raises(UserError, match="line 2"):
        read_metric(path, "x")
    assert path.read_bytes() == before


# --- Disks that do not write ------------------------------------------------------------------


def test_read_only_directory(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()  # root may write into a read-only directory
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: Is a directory"):
        open_logger(tmp_path)


def test_full_disk(tmp_path):
    log = open_logger(tmp_path)
    log._metrics._file.close()
    log._metrics._file = open("/dev/full", "ab", buffering=0)
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        log.metrics(1, {}, frames=1, seconds=1)
    log.close()


# --- TensorBoard and the bar ------------------------------------------------------------------


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Return what TensorBoard shows: events from a purge step on replace earlier ones."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars: dict[str, dict[int, float]] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.session_log.status == SessionLog.START:
                for values in scalars.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def test_tensorboard_has_a_run_per_member(tmp_path):
    for start, steps in ((0, (10, 20, 30)), (20, (40,))):
        with open_logger(tmp_path, start=start, tensorboard=True) as log:
            for step in steps:
                some = np.ma.masked_array([step, 2.0 * step], [False, step == 10])
                log.evaluation(step, {"some": some})
    one, two = (read_scalars(tmp_path / "tensorboard" / str(i)) for i in range(2))
    assert one["some"] == {10: 10.0, 20: 20.0, 40: 40.0}
    assert two["some"] == {20: 40.0, 40: 80.0}


def test_bar_shows_pace_and_latest_return_on_a_terminal_only(tmp_path, capsys, monkeypatch):
    def run(**options) -> str:
        with open_logger(tmp_path, start=20, **options) as log:
            metrics = {"episode/return": np.array([1.0, 2.0])}
            log.metrics(50, metrics, frames=1, seconds=1)
            nothing = {"episode/return": np.ma.masked_all(2)}
            log.metrics(60, nothing, frames=1, seconds=1)
        return capsys.readouterr().err

    assert run(show=True) == run(show=False) == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(show=False) == ""
    shown = run(show=True)
    assert "60.0/100" in shown and "step/s" in shown and "episode/return 1.5" in shown
