import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlssm.errors import UserError, require
from rlssm.io import config as config_io


@dataclass(frozen=True)
class Big:
    name: Literal["big"] = "big"
    size: int = 64

    def __post_init__(self) -> None:
        require(self.size > 0, "size", self.size, "at least 1")


@dataclass(frozen=True)
class Small:
    name: Literal["small"] = "small"
    width: int = 8


@dataclass(frozen=True)
class Config:
    env: str
    core: Big | Small = field(default_factory=Big)
    lr: float = 3e-4
    layers: tuple[int, ...] = (64, 64)
    pair: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    sweep: dict[str, tuple[float, ...]] = field(default_factory=dict)
    flag: bool = False
    mode: Literal["a", "b"] = "a"


GOOD = json.loads(
    """{"env": "x", "core": {"name": "small", "width": 8}, "lr": 0.0003, "layers": [64, 64],
    "pair": [0.0, 1.0], "limit": null, "sweep": {"lr": [0.1]}, "flag": false, "mode": "a"}"""
)

floats = st.floats(allow_nan=False)
configs = st.builds(
    Config,
    env=st.text(max_size=5),
    core=st.one_of(st.builds(Big, size=st.integers(1, 9)), st.builds(Small, width=st.integers())),
    lr=floats,
    layers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(tuple),
    pair=st.tuples(floats, floats),
    limit=st.none() | st.integers(),
    sweep=st.dictionaries(st.text(max_size=3), st.lists(floats, max_size=2).map(tuple), max_size=2),
    flag=st.booleans(),
    mode=st.sampled_from("ab"),
)


def load(tmp_path: Path, data: object) -> Config:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data))
    return config_io.load(path, Config)


# --- Round trip -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(configs)
def test_configs_come_back_exactly(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "config.json"
    config_io.save(path, config)
    again = config_io.load(path, Config)
    assert again == config and repr(again) == repr(config)  # repr tells 1 from 1.0
    assert config_io.difference(config, again) == []


def test_file_is_complete(tmp_path):
    config_io.save(tmp_path / "c.json", Config("x", Small(), sweep={"lr": (0.1,)}))
    assert json.loads((tmp_path / "c.json").read_text()) == GOOD
    assert [file.name for file in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config("x", layers=[64, 64]), r"layers holds what JSON cannot give back .*: \[64, 64\]"),  # ty: ignore[invalid-argument-type]
        (Config("x", lr=float("nan")), "lr holds what JSON cannot give back exactly: nan"),
        (Config("x", lr="fast"), 'lr: must be a valid number, found "fast"'),  # ty: ignore[invalid-argument-type]
        (Config("x", lr=object()), "Config cannot be written as JSON"),  # ty: ignore[invalid-argument-type]
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        config_io.save(tmp_path / "c.json", config)
    assert list(tmp_path.iterdir()) == []


# --- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "x"}, 'lr: must be a valid number, found "x"'),
        ({"lr": True}, "lr: must be a valid number, found true"),
        ({"lr": "0.1"}, 'lr: must be a valid number, found "0.1"'),
        ({"flag": 1}, "flag: must be a valid boolean, found 1"),
        ({"limit": 1.5}, "limit: must be a valid integer, found 1.5"),
        ({"limit": 1.0}, "limit: must be a valid integer, found 1.0"),
        ({"env": None}, "env: must be a valid string, found null"),
        ({"layers": 3}, "layers: must be a valid array, found 3"),
        ({"layers": [1, "b"]}, 'layers.1: must be a valid integer, found "b"'),
        ({"pair": [1.0]}, "pair.1 is missing"),
        ({"pair": [1.0] * 3}, "pair: Tuple should have at most 2 items"),
        ({"mode": "c"}, "mode: must be 'a' or 'b', found \"c\""),
        ({"sweep": {"lr": ["a"]}}, 'sweep.lr.0: must be a valid number, found "a"'),
        ({"core": {"name": "big", "size": -1}}, "core: size must be at least 1, got -1"),
        ({"core": {"name": "big", "size": "x"}}, 'core.size: must be a valid integer, found "x"'),
        ({"core": {"name": "tiny"}}, "core.name: must be 'big' or 'small', found \"tiny\""),
        ({"core": {"name": "big"}}, "field 'core.size' is missing; the default is 64"),
        ({"core": {"name": "small", "width": 8, "depth": 1}}, "unknown field 'core.depth'"),
        ({"core": 3}, "core: must be an object, found 3"),
        ({"lrr": 1}, "unknown field 'lrr', perhaps 'lr' was meant"),
    ],
)
def test_mistakes_are_named(tmp_path, change, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load(tmp_path, {**GOOD, **change})
    assert str(error.value).startswith(f"{tmp_path}/config.json: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", GOOD)
def test_missing_fields_are_named(tmp_path, field):
    without = {name: value for name, value in GOOD.items() if name != field}
    # An object that is missing altogether is missed at the first of the fields it should have.
    with pytest.raises(UserError, match=rf"{field}(\.name)?'? is missing"):
        load(tmp_path, without)


@pytest.mark.parametrize("data", [3, "x", None, [], [GOOD], {}])
def test_files_of_another_kind_are_refused(tmp_path, data):
    with pytest.raises(UserError, match=r"the configuration: must be an object|env is missing"):
        load(tmp_path, data)


@pytest.mark.parametrize("text", ["", "{", "[" * 10_000, "\x00", "1" * 5_000])
def test_files_that_are_not_json_are_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match="c.json is not JSON: "):
        config_io.load(tmp_path / "c.json", Config)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_mean_what_they_say(tmp_path_factory, data):
    text = json.dumps(GOOD).encode()
    at = data.draw(st.integers(0, len(text) - 1))
    inserted = data.draw(st.binary(max_size=2))
    removed = data.draw(st.integers(0, 3))
    damaged = text[:at] + inserted + text[at + removed :]
    path = tmp_path_factory.mktemp("fuzz") / "c.json"
    path.write_bytes(damaged)
    try:
        config = config_io.load(path, Config)
    except UserError as error:
        assert "c.json" in str(error)
    else:
        config_io.save(path, config)
        assert json.loads(path.read_bytes()) == json.loads(damaged)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*c.json: No such file or directory"):
        config_io.load(tmp_path / "c.json", Config)


# --- Comparison and surroundings --------------------------------------------------------------


def test_difference_names_each_field():
    a, b = Config("x", Big(size=3), lr=1.0), Config("y", Big(size=4), lr=1.0, layers=())
    assert config_io.difference(a, b) == [
        'env: "x" != "y"',
        "core.size: 3 != 4",
        "layers: [64, 64] != []",
    ]
    kinds = config_io.difference(a, Config("x", Small(), lr=1.0))
    assert kinds == [
        'core.name: "big" != "small"',
        "core.size: 3 != absent",
        "core.width: absent != 8",
    ]


def test_environment_says_what_a_result_depends_on():
    import jax

    environment = json.loads(json.dumps(config_io.environment()))
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["packages"]["rlssm"]
    assert environment["device_count"] == jax.device_count()
    assert environment["device_kind"] == jax.devices()[0].device_kind
    assert "host" not in json.dumps(environment)


@pytest.mark.parametrize("dirty", [False, True])
def test_git_revision_is_that_of_the_source(tmp_path, monkeypatch, dirty):
    source = tmp_path / "rlssm" / "io" / "config.py"
    source.parent.mkdir(parents=True)
    source.write_text("x")
    monkeypatch.setattr(config_io, "__file__", str(source))
    assert config_io._git_revision() is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert config_io._git_revision() is None  # there is a repository, but the source is not in it
    git("add", ".")
    git("commit", "-q", "-m", "x")
    if dirty:
        (source.parent / "other.py").write_text("y")
    assert config_io._git_revision() == git("rev-parse", "HEAD") + "+" * dirty


def test_disks_that_do_not_write(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot make the directory .*: Not a directory"):
        config_io.make_directory(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"cannot write .*c.json: Not a directory"):
        config_io.save(tmp_path / "file" / "c.json", Config("x"))
