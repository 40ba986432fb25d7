"""The source is formatted, linted and typed, and every import goes the way it should."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sysconfig.get_path("scripts"))


def run(program: str, *words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAMS / program), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "words",
    [
        ("ruff", "check", "--no-cache"),
        ("ruff", "format", "--check", "--no-cache"),
        ("ty", "check", "--python", sys.prefix),
        ("lint-imports", "--no-cache", "--no-logo"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_source_passes(words):
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "line", "complaint"),
    [
        (("ruff", "check", "--no-cache"), "import os\n", "F401"),
        (("ruff", "format", "--check", "--no-cache"), "x = [1,2]\n", "reformatted"),
        (("ty", "check", "--python", sys.prefix), 'x: int = "one"\n', "invalid-assignment"),
    ],
    ids=["ruff check", "ruff format", "ty"],
)
def test_linters_see_the_package(tmp_path, words, line, complaint):
    """A settings file that leaves the package out would pass everything."""
    copy(tmp_path)
    (tmp_path / "rlssm" / "wrong.py").write_text(line)
    done = run(*words, folder=tmp_path)
    assert done.returncode == 1
    assert complaint in done.stdout and "rlssm/wrong.py" in done.stdout


# --- Imports ----------------------------------------------------------------------------------

FORBIDDEN = {
    "errors": ["types"],
    "types": ["kernels"],
    "kernels": ["nn", "envs"],
    "nn": ["envs", "data", "algorithms"],
    "envs": ["nn", "data", "algorithms"],
    "data": ["nn", "envs", "algorithms"],
    "algorithms": ["envs", "data", "world_models", "evaluation", "io", "train", "cli"],
    "evaluation": ["kernels", "nn", "algorithms", "world_models", "io", "train"],
    "world_models": ["nn", "data", "algorithms", "evaluation", "io", "train"],
    "io": ["kernels", "nn", "envs", "data", "algorithms", "evaluation", "train"],
    "train": ["cli"],
}
FORBIDDEN_ELSEWHERE = [
    ("io", "orbax"),
    ("train", "orbax"),
    ("nn", "distrax"),
    ("train", "flashbax"),
    ("train", "rlssm"),
]


def test_every_contract_can_be_broken(tmp_path):
    """Each forbidden import, put into a copy of the package, is found and named."""
    copy(tmp_path)
    inside = [(package, f"rlssm.{name}") for package in FORBIDDEN for name in FORBIDDEN[package]]
    added = [add(tmp_path, package, name) for package, name in inside + FORBIDDEN_ELSEWHERE]
    add(tmp_path, "nn", "rlssm.nn.cycle_b", name="cycle_a")
    add(tmp_path, "nn", "rlssm.nn.cycle_a", name="cycle_b")
    (tmp_path / "rlssm" / "elsewhere.py").write_text("")
    done = run("lint-imports", "--no-cache", "--no-logo", folder=tmp_path)
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "Contracts: 0 kept" in said
    assert [wrong for wrong in added if f"{wrong} (l." not in said] == []
    assert "- rlssm.elsewhere" in said, "a module in no layer"


def test_algorithms_may_mix_data(tmp_path):
    copy(tmp_path)
    (tmp_path / "rlssm" / "data" / "mixing.py").write_text("import rlssm.data.dataset\n")
    add(tmp_path, "algorithms", "rlssm.data.mixing")
    done = run("lint-imports", "--no-cache", "--no-logo", folder=tmp_path)
    assert done.returncode == 0, done.stdout


def copy(folder: Path) -> None:
    """Put the package and its settings into a folder of their own."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rlssm", folder / "rlssm", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)


def add(folder: Path, importer: str, imported: str, name: str | None = None) -> str:
    """Add an import to a package of the copy, as a module of its own, or to a module."""
    file = folder / "rlssm" / f"{importer}.py"
    if not file.exists():
        importer = f"{importer}.{name or 'imports_' + imported.replace('.', '_')}"
        file = folder / "rlssm" / f"{importer.replace('.', '/')}.py"
    with file.open("a") as lines:
        lines.write(f"import {imported}\n")
    return f"rlssm.{importer} -> {imported}"
