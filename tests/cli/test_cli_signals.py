"""What a stop from outside leaves: a saved run, how to go on with it, and no traceback."""

import os
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
from command_line import ENV, TINY, rlssm

from rlssm.train.run import Run

STEPS = 32_000
LONG = [*ENV, *TINY, "--steps", STEPS, "--log-every", 320, "--eval-every", STEPS]


def start(*words: object, **streams) -> subprocess.Popen[str]:
    """Start a command in a process of its own, with this one's compiled code."""
    cache = str(jax.config.values["jax_compilation_cache_dir"])
    return subprocess.Popen(
        [sys.executable, "-m", "rlssm.cli.main", *map(str, words)],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        text=True,
        **streams,
    )


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    run = tmp_path / "run"
    words = ["train", "ppo", *LONG, "--checkpoint-every", STEPS, "--out", run]
    process = start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 100
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, f"stopped; go on with: rlssm resume {run}\n"), err
    assert "Traceback" not in err
    stopped = Run(run)
    saved = stopped.checkpoints.latest()
    assert saved is not None and 320 <= saved < STEPS and not stopped.complete
    command = re.sub(r".*: rlssm ", "", out).split()
    done = rlssm(*command, "--quiet")
    assert done.code == 0 and done.out.startswith(f"{run} is complete: ")
    assert stopped.checkpoints.latest() == STEPS


def test_interrupted_elsewhere(monkeypatch):
    """Where there is nothing to save a command just ends, as shells expect of it."""

    def interrupt(words):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlssm.cli.inspect.list_names", interrupt)
    assert rlssm("list") == (130, "", "rlssm: interrupted\n")


def test_a_reader_that_has_seen_enough():
    """As in `rlssm list | head`: no traceback."""
    process = start("list", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
