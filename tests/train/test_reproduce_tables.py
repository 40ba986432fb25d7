"""The tables of memory and meta-learning, made tiny: every run trains, is tabulated and drawn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.learning

ROOT = Path(__file__).parents[2]


def meta_files(suite):
    pictures = (f"{suite}-{part}.png" for part in ("train", "held-out"))
    return "adaptation.md", "curves.json", *pictures


TABLES = [  # script, which runs, how many, what is written beside the table
    ("memory_suite", "RepeatFirstEasy", 4, ("suite.md",)),
    ("memory_chain", "3-", 5, ("solved.md",)),
    ("meta", "meta-cartpole", 4, meta_files("meta-cartpole")),
    ("meta", "classic", 4, meta_files("classic")),
    ("meta", "control.none", 1, meta_files("control")),  # bodies take minutes to compile
]


@pytest.mark.parametrize(("script", "only", "count", "files"), TABLES)
def test_a_tiny_table_is_made_and_kept(script, only, count, files, tmp_path):
    words = ["--smoke", "--only", only, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]

    def call(*more):
        command = [sys.executable, f"scripts/reproduce/{script}.py", *words, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    done = call()
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{count} runs left")
    for name in ("table.md", "results.json", *files):
        assert (tmp_path / name).stat().st_size > 0
    for row in (tmp_path / "table.md").read_text().splitlines()[2:]:
        assert row.startswith(f"| {only}")
    assert call("--plan").stdout.startswith("0 runs left")


def test_what_length_costs_is_timed_and_gone_on_with(tmp_path):
    script = ROOT / "scripts/reproduce/memory_chain.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), "--smoke", "--time"]
    for _ in range(2):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert "compile_seconds" not in done.stdout  # the second call found all rows
    table = (tmp_path / "results/memory-chain-smoke/length.md").read_text().splitlines()
    assert len(table) == 2 + 2 * 5
