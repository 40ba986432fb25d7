"""The `rlssm` command, run inside the test's own process, and a run small enough for tests."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

from rlssm.cli.main import main

ENV = ["--env", "MemoryChain-2"]
TINY = [
    *("--core", "gru", "--torso.width", "8", "--torso.hidden", "--heads.hidden"),
    *("--num-envs", "4", "--rollout-length", "8", "--minibatches", "1", "--epochs", "1"),
    *("--steps", "256", "--log-every", "32", "--eval-every", "128", "--checkpoint-every", "64"),
    *("--eval-episodes", "4", "--final-episodes", "4", "--quiet"),
]


class Done(NamedTuple):
    """What a command came to: its exit code, and what it wrote on the two streams."""

    code: int
    out: str
    err: str


def rlssm(*words: object) -> Done:
    """Run one command."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
    return Done(code, out.getvalue(), err.getvalue())


def mistake(*words: object) -> str:
    """Run a command that must end in exit code 2, and return the sentence it says."""
    done = rlssm(*words)
    assert done.code == 2, done
    assert done.err.startswith("rlssm: ") and done.err.count("\n") == 1, done.err
    return done.err.removeprefix("rlssm: ").removesuffix("\n")


def files(folder: Path) -> dict[Path, bytes]:
    """Return the contents of every file below a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
