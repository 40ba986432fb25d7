"""Damaged run directories and full disks end in one sentence, and nothing good is lost."""

import errno
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from command_line import ENV, TINY, files, mistake, rlssm

from rlssm.io.logging import JsonLines
from rlssm.train.run import Run

# --- Run directories --------------------------------------------------------------------------


def change(config: Path, *names: str, value: object) -> None:
    """Set one field of a configuration file; None removes it."""
    data = json.loads(config.read_text())
    inner = data
    for name in names[:-1]:
        inner = inner[name]
    if value is None:
        del inner[names[-1]]
    else:
        inner[names[-1]] = value
    config.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("names", "value", "sentence"),
    [
        (
            ["setps"], 3,
            "unknown field 'setps', perhaps 'steps' was meant; the nearest: steps, sweep, seeds, "
            "dataset, agent.epochs",
        ),
        (["seed"], None, "field 'seed' is missing; the default is 0"),
        (["agent", "clip"], "big", 'agent.clip: must be a valid number, found "big"'),
        (["agent", "clip"], -1.0, "agent: clip must be above 0, got -1.0"),
        (["steps"], 256.0, "steps: must be a valid integer, found 256.0"),
        (
            ["agent", "core", "name"], "gruu",
            "agent.core.name: must be 'none' or 's5' or 'lru' or 'gru' or 'lstm' or 'mingru' or "
            "'s4d' or 'linear-attention' or 'mamba' or 'ffm' or 's5-attention' or 'transformer', "
            'found "gruu"',
        ),
    ],
)  # fmt: skip
def test_damaged_configuration(run, names, value, sentence):
    change(run / "config.json", *names, value=value)
    for command in ("resume", "evaluate"):
        assert mistake(command, run) == f"{run}/config.json: {sentence}"


def test_configuration_that_is_not_json(run):
    before = files(run / "checkpoints")
    (run / "config.json").write_text("{")
    for words in (["resume", run], ["train", "ppo", *ENV, *TINY, "--out", run]):
        assert mistake(*words) == (
            f"{run}/config.json is not JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)"
        )
    (run / "config.json").unlink()
    assert mistake("resume", run) == f"{run} is not a run directory: it has no config.json"
    assert files(run / "checkpoints") == before


def test_directory_of_another_run(trained):
    before = files(trained)
    words = ["train", "ppo", *ENV, *TINY, "--seed", "1", "--clip", "0.3", "--out", trained]
    assert mistake(*words) == (
        f"{trained} holds a run of another configuration (agent.clip: 0.2 != 0.3; seed: 0 != 1); "
        "name another directory"
    )
    assert files(trained) == before


def test_damaged_result(run):
    told = rlssm("resume", run)
    for text in ("{", "[]", '{"last": 3}'):
        (run / "result.json").write_text(text)
        assert mistake("resume", run) == (
            f"{run}/result.json is damaged; remove it, and rlssm resume {run} writes it again"
        )
    (run / "result.json").unlink()
    assert rlssm("resume", run) == told


def test_damaged_metrics(run):
    (run / "metrics.jsonl").write_text('{"step": 32}\n{}\n')
    assert mistake("plot", run) == (
        f"{run}/metrics.jsonl is damaged: line 2 is not a row of metrics; mend or remove that line"
    )


# --- Checkpoints ------------------------------------------------------------------------------


def truncate(checkpoint: Path) -> str:
    file = max((checkpoint / "arrays").rglob("*"), key=lambda f: f.is_file() and f.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    return f"{file.relative_to(checkpoint)} has SHA-256 "


def flip(checkpoint: Path) -> str:
    file = max((checkpoint / "arrays").rglob("*"), key=lambda f: f.is_file() and f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return f"{file.relative_to(checkpoint)} has SHA-256 "


def lose(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").unlink()
    return "manifest.json cannot be read (No such file or directory)"


def replace(checkpoint: Path) -> str:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    return "manifest.json does not have the checksum it states"


@pytest.mark.parametrize("damage", [truncate, flip, lose, replace])
def test_damaged_checkpoint(run, damage):
    """The newest is refused by name; the older one and the best still play."""
    reason = damage(run / "checkpoints" / "256")
    for words in (["evaluate"], ["resume", "--steps", "320"]):
        said = mistake(*words, run)
        assert said.startswith(f"checkpoint {run}/checkpoints/256 is damaged: {reason}")
        assert said.endswith("; step 192 can be restored; to resume there, remove 256")
    for which in ("192", "best"):
        done = rlssm("evaluate", run, "--checkpoint", which, "--episodes", 4)
        assert done.code == 0 and f"  {which}: return " in done.out


def test_resuming_from_the_older_checkpoint(run, trained):
    truncate(run / "checkpoints" / "256")
    assert rlssm("resume", run, "--checkpoint", 192, "--quiet").code == 0
    assert Run(run).result == Run(trained).result


def test_checkpoint_of_another_network(run):
    change(run / "config.json", "agent", "torso", "width", value=16)
    assert mistake("evaluate", run) == (
        f"checkpoint {run}/checkpoints/256 holds another state: "
        "agent/params/network/params/actor/logits/out/kernel is float32[1,8,2] there, "
        "float32[1,16,2] was expected (7 more leaves differ); use the configuration that wrote it"
    )


def test_missing_checkpoints(run):
    shutil.rmtree(run / "checkpoints" / "best")
    for command in ("evaluate", "render", "export"):
        said = mistake(command, run, "--checkpoint", "best")
        assert said == f"{run} has no best checkpoint; none was saved yet"
    assert rlssm("evaluate", run, "--episodes", 4).code == 0
    shutil.rmtree(run / "checkpoints")
    assert mistake("evaluate", run) == f"{run} has no last checkpoint; none was saved yet"
    assert mistake("evaluate", run, "--checkpoint", "64") == (
        f"{run} has no checkpoint of step 64; there are: none"
    )


# --- Disks that do not write ------------------------------------------------------------------


def test_files_in_the_way(trained, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way: root may write into a read-only directory")
    words = ["train", "ppo", *ENV, *TINY, "--out"]
    assert mistake(*words, file) == f"cannot make the directory {file}: File exists"
    below = file / "x"
    assert mistake(*words, below) == f"cannot make the directory {below}: Not a directory"
    assert mistake("export", trained, "--out", below) == f"cannot write {below}: Not a directory"
    for command in ("plot", "render"):
        said = mistake(command, trained, "--out", below)
        assert said == f"cannot make the directory {file}: File exists"
    done = rlssm("evaluate", trained, "--episodes", 4, "--out", below)
    assert done.code == 2 and done.err == f"rlssm: cannot write {below}: Not a directory\n"
    assert mistake("plot", trained, "--out", tmp_path / "x.txt").startswith(
        f"cannot write {tmp_path}/x.txt: Format 'txt' is not supported"
    )
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_read_only_disk(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = mistake("train", "ppo", *ENV, *TINY, "--out", tmp_path / "run")
    assert said == f"cannot make the directory {tmp_path}/run: Read-only file system"


def full(*_, **__) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_file(name: str, patch) -> None:
    """Let no text be written to a file of this name."""
    written = Path.write_text

    def write(path: Path, text: str) -> int:
        return full() if path.name.startswith(name) else written(path, text)

    patch.setattr(Path, "write_text", write)


def no_metrics(patch) -> None:
    """From step 96 on the file is one that is always full."""
    write = JsonLines.write

    def fill(lines: JsonLines, row) -> None:
        if row["step"] == 96:
            lines._file.close()
            lines._file = open("/dev/full", "ab", buffering=0)
        write(lines, row)

    patch.setattr(JsonLines, "write", fill)


def no_checkpoint(patch) -> None:
    patch.setattr(os, "posix_fallocate", full)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_nothing_but_time(trained, tmp_path, monkeypatch):
    """Wherever the disk is full, the same command goes on later, and ends as if it never was."""
    run = tmp_path / "run"
    words = ["train", "ppo", *ENV, *TINY, "--out", run]
    story = [
        (partial(no_file, "config.json"), "config.json: ", []),
        (no_checkpoint, "checkpoints/64: ", []),
        (no_metrics, "metrics.jsonl: ", [64]),
        (partial(no_file, "result.json"), "result.json: ", [192, 256]),
    ]
    for fill, file, saved in story:
        with monkeypatch.context() as patch:
            fill(patch)
            said = mistake(*words)
        assert f"{run}/{file}No space left on device" in said
        if saved:
            assert Run(run).checkpoints.steps() == saved
    assert rlssm(*words).code == 0
    assert Run(run).result == Run(trained).result
    for name in ("config.json", "evaluations.jsonl"):
        assert (run / name).read_text() == (trained / name).read_text()
    steps = [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(32, 257, 32))
