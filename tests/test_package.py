"""What an installation brings, what importing it costs, and what the repository must not hold."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import rlssm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

HEAVY = {
    "brax", "craftax", "distrax", "flashbax", "flax", "gymnasium", "gymnax", "h5py", "matplotlib",
    "minari", "mujoco", "optax", "orbax", "PIL", "pydantic", "scipy", "tensorboardX",
    "tensorflow_probability", "tqdm", "tyro",
}  # fmt: skip

IMPORT = """
import json, os, sys
import jax
environment, config = dict(os.environ), dict(jax.config.values)
import rlssm
loaded = sorted({name.partition(".")[0] for name in sys.modules})
unresolved = [name for name in rlssm.__all__ if getattr(rlssm, name).__name__ != name]
same = [dict(jax.config.values) == config, dict(os.environ) == environment]
print(json.dumps([loaded, unresolved, *same]))
"""


def test_importing_is_light_and_changes_nothing():
    """Also once every name is loaded, JAX's settings and the environment are as before."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded, unresolved, same_config, same_environment = json.loads(done.stdout)
    assert "rlssm" in loaded and HEAVY.isdisjoint(loaded), HEAVY.intersection(loaded)
    assert unresolved == []
    assert same_config and same_environment
    assert done.stderr == ""


def test_names():
    assert rlssm.__all__ == sorted(rlssm.__all__)
    assert set(rlssm.__all__) <= set(dir(rlssm))
    with pytest.raises(AttributeError, match="module 'rlssm' has no attribute 'ppo'"):
        rlssm.ppo  # noqa: B018


def test_example_of_the_package_runs(tmp_path):
    """The example in the docstring, with fewer steps."""
    example = re.search(r"\n\n((?:    .*\n|\n)+)", str(rlssm.__doc__))
    assert example is not None
    code = re.sub(r"(?m)^    ", "", example[1])
    for exact, small in (
        ('"runs/', f'"{tmp_path}/'),
        ("S5Config(layers=2)", "S5Config(layers=1, state_size=4), num_envs=4, rollout_length=4"),
        ("steps=500_000", "steps=16, eval_episodes=2, final_episodes=2"),
        ("episodes=100", "episodes=2"),
    ):
        assert exact in code
        code = code.replace(exact, small)
    names: dict[str, Any] = {"obs": [1.0, 0.0, 0.0, 0.0]}
    exec(code, names)
    assert names["action"].shape == () and 0 <= names["action"] < 4


# --- Installation -----------------------------------------------------------------------------


def test_version_is_that_of_the_project():
    assert importlib.metadata.version("rlssm") == PROJECT["project"]["version"]


def test_only_one_package_is_installed_and_it_is_typed():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"] == {"include": ["rlssm*"]}
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["rlssm"]
    assert (ROOT / "rlssm" / "py.typed").is_file()
    folders = {file.parent for file in (ROOT / "rlssm").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", ["algorithms", "envs", "kernels"])
def test_links_lead_into_the_package(name):
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("rlssm") / name and link.is_dir()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_pins_name_exact_versions_and_nothing_else(python):
    lines = (ROOT / "constraints" / f"python{python}.txt").read_text().splitlines()
    assert lines == sorted(lines, key=str.lower)
    pinned = [re.fullmatch(r"([A-Za-z0-9_.-]+)==[0-9][0-9A-Za-z.]*", line) for line in lines]
    assert None not in pinned
    names = {normal(match[1]) for match in pinned if match}
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    assert {normal(re.split(r"[<>=\[;]", wish)[0]) for wish in wanted} <= names


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- Scripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train.py", "--help"], 0, "usage: rlssm train ALGO [--env ID]"),
        (["train.py", "ppo", "--help"], 0, "usage: rlssm train ppo"),
        (["evaluate.py", "--help"], 0, "usage: rlssm evaluate"),
        (["evaluate.py", "nowhere"], 2, "rlssm: nowhere is not a run directory"),
        (["bootstrap.py"], 1, "python3 scripts/bootstrap.py pytest"),
    ],
)
def test_scripts_run(words, code, said):
    command = [sys.executable, f"scripts/{words[0]}", *words[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


# --- What the repository must not hold --------------------------------------------------------

# A folder of one machine, or where one machine gets its packages from.
PRIVATE = re.compile(
    r"""(?<![\w.~-])/(?:root|home|work|opt|tmp|mnt|Users)/[\w.]
    | python(?:hosted)\. | pypi\.\w | npm(?:js)\. | index[_-](?:url) | find[_-](?:links) | file:(?://)""",
    re.VERBOSE,
)


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("open('/ro" + "ot/x')", True),
        ("--out=/ho" + "me/me/run", True),
        ("see https://py" + "pi.org/simple", True),
        ("--extra-index" + "-url x", True),
        ("#!/usr/bin/env bash", False),
        ("rlssm/envs and runs/ho" + "me/x, ~/wo" + "rk/x", False),
        ("https://arxiv.org/abs/1707.06347", False),
    ],
)
def test_private_lines_are_recognised(line, private):
    assert bool(PRIVATE.search(line)) == private


def test_no_machine_is_named():
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert len(files) > 50
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        if file.is_file()
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), start=1)
        if PRIVATE.search(line)
    ]
    assert found == []
