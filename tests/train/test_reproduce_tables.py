"""The tables of memory and meta-learning, made tiny: every run trains, is tabulated and drawn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.learning

ROOT = Path(__file__).parents[2]
TABLES = {
    "memory_suite": (4, "RepeatFirstEasy", ("suite.md",)),
    "memory_chain": (5, "3-", ("solved.md",)),
    "meta": (
        4,
        "meta-cartpole",
        ("adaptation.md", "curves.json", "meta-cartpole-train.png", "meta-cartpole-held-out.png"),
    ),
}


@pytest.mark.parametrize("script", TABLES)
def test_a_tiny_table_is_made_and_kept(script, tmp_path):
    runs, only, files = TABLES[script]
    words = ["--smoke", "--only", only, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]

    def call(*more):
        command = [sys.executable, f"scripts/reproduce/{script}.py", *words, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = call()
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{runs} runs left")
    for name in ("table.md", "results.json", *files):
        assert (tmp_path / name).stat().st_size > 0
    for row in (tmp_path / "table.md").read_text().splitlines()[2:]:
        assert row.startswith(f"| {only}")
    assert call("--plan").stdout.startswith("0 runs left")
