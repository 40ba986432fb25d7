import shutil
from pathlib import Path

import pytest
from command_line import ENV, TINY, rlssm


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Return a complete run that no test may change."""
    path = tmp_path_factory.mktemp("cli") / "run"
    done = rlssm("train", "ppo", *ENV, *TINY, "--out", path)
    assert done.code == 0, done.err
    return path


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """Return a copy of the complete run."""
    return shutil.copytree(trained, tmp_path / "run")
