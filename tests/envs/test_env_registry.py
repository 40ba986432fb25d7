"""Names, configs and a user's own environments: what works and how mistakes are told."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tyro

from rlssm.envs import EnvConfig, Vectorized, make, names
from rlssm.envs.memory_chain import MemoryChain
from rlssm.envs.probes import TerminatedStream
from rlssm.envs.registry import MEMORY_TASKS
from rlssm.envs.user import check
from rlssm.envs.wrappers import HideObservation, ObservationNoise, TimeLimit
from rlssm.errors import UserError


def test_names_are_grouped_and_can_be_made():
    families = names()
    assert list(families) == [
        "memory", "point", "downstream", "lock", "pointmaze", "gymnax", "gymnasium", "mjx",
        "mjx-fast", "tasks", "brax",
    ]  # fmt: skip
    assert len(families["gymnax"]) == 26
    assert "gym/HalfCheetah-v5" in families["gymnasium"] and "brax/ant" in families["brax"]
    assert families["mjx-fast"] == [f"mjx-fast/{name[4:]}" for name in families["mjx"]]
    for env_id in families["memory"]:
        assert make(env_id) is MEMORY_TASKS[env_id]


@pytest.mark.parametrize("env_id", MEMORY_TASKS)
@pytest.mark.parametrize("x64", [False, True])
def test_memory_tasks_keep_the_contract(env_id, x64):
    with jax.enable_x64(x64):
        check(make(env_id), env_id)


def test_memory_chain_has_any_length():
    assert make("MemoryChain-37") == MemoryChain(37)
    assert make("MemoryChain-bsuite").name == "MemoryChain-bsuite"


@pytest.mark.parametrize(
    "env_id",
    ["gym/Pendulum-v1", "gym/Taxi-v4", "mjx/Hopper-v5", "mjx-fast/Hopper-v5", "brax/ant:spring"],
)
def test_every_family_makes_what_it_is_asked_for(env_id):
    env = make(env_id)
    assert env == make(env_id) and hash(env) == hash(make(env_id))
    assert env_id.partition("/")[2].partition(":")[0] == env.name


def test_options_become_wrappers():
    config = EnvConfig("CartPole-v1", time_limit=50, hide=(1, 3), noise=0.1)
    bare = make("CartPole-v1")
    assert make(config) == TimeLimit(ObservationNoise(HideObservation(bare, (1, 3)), 0.1), 50)
    assert make(config) == make(config) and hash(make(config)) == hash(make(config))
    assert make(EnvConfig("CartPole-v1")) == bare


def test_config_comes_from_the_command_line(capsys):
    config = tyro.cli(EnvConfig, args=["--id", "MemoryChain-9", "--hide", "0", "--time-limit", "5"])
    assert config == EnvConfig("MemoryChain-9", hide=(0,), time_limit=5)
    with pytest.raises(SystemExit):
        tyro.cli(EnvConfig, args=["--help"])
    assert "Steps after which an episode is truncated" in capsys.readouterr().out


def test_importing_envs_imports_none_of_their_packages():
    heavy = ("gymnax", "flax", "gymnasium", "mujoco", "brax")
    script = f"import sys, rlssm.envs; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: EnvConfig("MemoryChain-0"),
            "MemoryChain-<length> needs a whole number of steps, at least 1, got '0'; write for "
            "example MemoryChain-100",
        ),
        (
            lambda: make("MemoryChain-long"),
            "MemoryChain-<length> needs a whole number of steps, at least 1, got 'long'; write "
            "for example MemoryChain-100",
        ),
        (
            lambda: EnvConfig("CartPole-v1", time_limit=0),
            "time_limit must be at least 1, got 0",
        ),
        (
            lambda: make(EnvConfig("CartPole-v1", time_limit=501)),
            "time_limit must be from 1 to 500, the environment's own limit, got 501",
        ),
        (
            lambda: EnvConfig("CartPole-v1", hide=(0, -1)),
            "hide must be indices from 0 on, got (0, -1)",
        ),
        (
            lambda: EnvConfig("CartPole-v1", noise=float("inf")),
            "noise must be finite and at least 0, got inf",
        ),
    ],
)
def test_mistakes_in_a_config(build, message):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("CartPole-v2", "CartPole-v1"),
        ("cartpole", "CartPole-v1"),
        ("RepeatFirstEsy", "RepeatFirstEasy"),
        ("statelesspendulumhard", "StatelessPendulumHard"),
        ("Breakout", "Breakout-MinAtar"),
        ("gym/HalfCheeta-v5", "gym/HalfCheetah-v5"),
        ("gym/LunarLandr-v3", "gym/LunarLander-v3"),
        ("mjx/hopper", "mjx/Hopper-v5"),
        ("brax/hopper:sprung", "brax/hopper"),
        ("gymnasium/Hopper-v5", "gym/Hopper-v5"),
    ],
)
def test_unknown_ids_get_the_nearest(wrong, right):
    with pytest.raises(UserError) as error:
        make(wrong)
    assert str(error.value).startswith(
        f"unknown environment {wrong!r}, perhaps {right!r} was meant; "
    )


# --- A user's own -----------------------------------------------------------------------------

MODULE = """
from dataclasses import dataclass
import jax.numpy as jnp
import gymnax
from rlssm.envs.base import Step
from rlssm.envs.probes import ConstantReward, TerminatedStream
from rlssm.types import Box, Discrete, Spec

def ours(): return TerminatedStream(steps=3)
def theirs(): return gymnax.make("CartPole-v1")[0]
def pair():
    env, params = gymnax.make("CartPole-v1")
    return env, params.replace(max_steps_in_episode=7)
def number(): return 3
def needs(length): return TerminatedStream(length)
def breaks(): raise RuntimeError("no such map\\nand more")
constant = 5

@dataclass(frozen=True)
class Wrong(ConstantReward):
    fault: str = ""
    @property
    def spec(self):
        if self.fault == "spec": return Spec(obs=(3,), action=Discrete(2))
        return super().spec
    def reset(self, key, params):
        state, obs = super().reset(key, params)
        return state, jnp.zeros(3) if self.fault == "obs" else obs
    def step(self, key, state, action, params):
        state, step = super().step(key, state, action, params)
        match self.fault:
            case "reward": step = step._replace(reward=jnp.ones(1))
            case "flag": step = step._replace(truncated=jnp.zeros(()))
            case "state": state = jnp.zeros(1, jnp.int32)
            case "raises": jnp.zeros(2) + jnp.zeros(3)
        return state, step

@dataclass(frozen=True)
class Keyed(ConstantReward):
    def reset(self, key, params):
        return key, super().reset(key, params)[1]
    def step(self, key, state, action, params):
        return key, super().step(key, jnp.zeros(1), action, params)[1]

class Unhashable(Wrong):
    __hash__ = None

def obs(): return Wrong(fault="obs")
def reward(): return Wrong(fault="reward")
def flag(): return Wrong(fault="flag")
def state(): return Wrong(fault="state")
def raises(): return Wrong(fault="raises")
def spec(): return Wrong(fault="spec")
def unhashable(): return Unhashable()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("user")
    (path / "my_envs.py").write_text(MODULE)
    (path / "my_broken.py").write_text("1 / 0")
    (path / "my_missing.py").write_text("import no_such_library")
    return path


@pytest.fixture
def here(folder, monkeypatch):
    """Stand in the user's folder, which is not on the Python path."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def test_own_environments(here):
    assert make("my_envs:ours") == TerminatedStream(steps=3)
    theirs = make("my_envs:theirs")
    assert theirs.name == "my_envs:theirs" and theirs.spec == make("CartPole-v1").spec
    assert make("my_envs:theirs") == theirs
    assert make("my_envs:pair").spec.max_episode_steps == 7
    limited = make(EnvConfig("my_envs:ours", time_limit=2))
    assert limited == TimeLimit(TerminatedStream(steps=3), 2)


def test_a_key_may_live_in_the_state(here):
    vector = Vectorized(make("my_envs:Keyed"), 2)
    state, _ = vector.reset(jax.random.key(0))
    after, step = jax.jit(vector.step)(jax.random.key(1), state, jnp.zeros(2, jnp.int32))
    assert after.dtype == state.dtype and step.first.all() and (after != state).all()


OWN_MISTAKES = {
    ":ours": "env must be module:factory with both parts named, got ':ours'",
    "my_envs:": "env must be module:factory with both parts named, got 'my_envs:'",
    "my_envs.py:ours": (
        "env my_envs.py:ours: there is no module 'my_envs.py' on the Python path or in {here}; "
        "name it as in an import statement, without .py"
    ),
    "nowhere.envs:ours": (
        "env nowhere.envs:ours: there is no module 'nowhere' on the Python path or in {here}; "
        "name it as in an import statement, without .py"
    ),
    "my_missing:ours": (
        "env my_missing:ours: importing my_missing failed with ModuleNotFoundError: No module "
        "named 'no_such_library'"
    ),
    "my_broken:ours": (
        "env my_broken:ours: importing my_broken failed with ZeroDivisionError: division by zero"
    ),
    "my_envs:constant": (
        "env my_envs:constant: constant must be a function without arguments that returns an "
        "environment, got int"
    ),
    "my_envs:number": (
        "env my_envs:number: the factory must return an rlssm Environment, a gymnax environment "
        "or a pair (gymnax environment, parameters), got int"
    ),
    "my_envs:needs": (
        "env my_envs:needs: needs() failed with TypeError: needs() missing 1 required positional "
        "argument: 'length'"
    ),
    "my_envs:breaks": "env my_envs:breaks: breaks() failed with RuntimeError: no such map",
    "my_envs:obs": ("env my_envs:obs: reset's observation must be float32[1], got float32[3]"),
    "my_envs:reward": "env my_envs:reward: reward must be float32[], got float32[1]",
    "my_envs:flag": "env my_envs:flag: truncated must be bool[], got float32[]",
    "my_envs:state": "env my_envs:state: step's state must be float32[1], got int32[1]",
    "my_envs:raises": (
        "env my_envs:raises: step failed with TypeError: add got incompatible shapes for "
        "broadcasting: (2,), (3,)."
    ),
    "my_envs:unhashable": (
        "env my_envs:unhashable: it must be hashable; make it a frozen dataclass"
    ),
}


@pytest.mark.parametrize("env_id", OWN_MISTAKES)
def test_own_mistakes(env_id, here):
    with pytest.raises(UserError) as error:
        make(env_id)
    assert str(error.value) == OWN_MISTAKES[env_id].format(here=here)


def test_a_misspelt_factory_gets_the_nearest(here):
    with pytest.raises(UserError) as error:
        make("my_envs:outs")
    assert str(error.value).startswith(
        "unknown factory in module my_envs: 'outs', perhaps 'ours' was meant; "
    )


def test_a_spec_without_our_spaces(here):
    with pytest.raises(UserError) as error:
        make("my_envs:spec")
    assert str(error.value) == (
        "env my_envs:spec: spec must name spaces of rlssm.types, got Spec(obs=(3,), "
        "action=Discrete(n=2), max_episode_steps=None, truncates=True, located=False)"
    )
