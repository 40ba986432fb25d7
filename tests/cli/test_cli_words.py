"""Words that make no sense end in exit code 2 and one sentence, and change nothing."""

import contextlib
import io

import jax
import pytest
from command_line import TINY, files, mistake

from rlssm.algorithms import ALGORITHMS
from rlssm.cli.main import commands, main
from rlssm.nn.cores import CORES

TRAIN = ["train", "ppo", "--env", "CartPole-v1"]
SEE = "; see rlssm train ppo --help"
SEE_EVALUATE = "; see rlssm evaluate --help"

WORDS = [
    (
        ["tran"],
        "unknown command 'tran', perhaps 'train' was meant; known: "
        f"{', '.join(sorted(commands()))}",
    ),
    (
        ["train"],
        "usage: rlssm train ALGO [--env ID] [--dataset ID] [options], ALGO one of: "
        + ", ".join(ALGORITHMS),
    ),
    (["train", "pp"], "unknown algorithm 'pp', perhaps 'ppo' was meant; the nearest: ..."),
    (
        ["train", "ppo"],
        "--env is missing (rlssm list envs shows the environments), or --dataset (rlssm list "
        "datasets), which names its own",
    ),
    (["train", "bc", "--env", "Pendulum-v1"], "bc learns from a dataset; name one with dataset"),
    (
        ["train", "ppo", "--dataset", "pendulum/medium"],
        "dataset must be left out: ppo takes none, got 'pendulum/medium'",
    ),
    (["train", "iql", "--dataset", "pendulum/medum"], "unknown dataset 'pendulum/medum', ..."),
    (["train", "ppo", "--env"], "--env needs a value"),
    (["train", "ppo", "--env", "--seed", "1"], "--env needs a value"),
    (
        ["train", "ppo", "--env", "CartPol-v1"],
        "unknown environment 'CartPol-v1', perhaps 'CartPole-v1' was meant; the nearest: "
        "CartPole-v1, ...",
    ),
    (
        ["train", "ppo", "--env", "MemoryChain-x"],
        "MemoryChain-<length> needs a whole number of steps, at least 1, got 'x'; write for "
        "example MemoryChain-100",
    ),
    (
        [*TRAIN, "--core", "s6"],
        f"unknown core 's6', perhaps 's5' was meant; known: {', '.join(sorted(CORES))}",
    ),
    (
        [*TRAIN, "--preset", "popjax"],
        "unknown preset 'popjax', perhaps 'popjaxrl' was meant; known: default, popjaxrl, skills",
    ),
    (
        [*TRAIN, "--core", "gru", "--core.layer", "2"],
        "unknown option '--core.layer', perhaps '--core.layers' was meant; the nearest: "
        "--core.layers, ...",
    ),
    ([*TRAIN, "--sim", "gravity"], "--sim takes NAME=VALUE, got 'gravity'"),
    ([*TRAIN, "--sim", "gravity=0"], f"gravity must be finite and above 0, got 0.0{SEE}"),
    (
        [*TRAIN, "--sim", "gravty=2"],
        "unknown option '--sim.gravty', perhaps '--sim.gravity' was meant; the nearest: "
        "--sim.gravity, ...",
    ),
    ([*TRAIN, "extra"], f"no option takes extra{SEE}"),
    ([*TRAIN, "--seeds", "2", "3"], f"no option takes 3{SEE}"),
    # Values out of range.
    ([*TRAIN, "--discount", "1.5"], "discount must be in [0, 1], got 1.5"),
    ([*TRAIN, "--clip", "-0.1"], "clip must be above 0, got -0.1"),
    ([*TRAIN, "--learning-rate", "nan"], "learning_rate must be above 0, got nan"),
    ([*TRAIN, "--num-envs", "0"], "num_envs must be at least 1, got 0"),
    ([*TRAIN, "--steps", "0"], "steps must be at least 1, got 0"),
    ([*TRAIN, "--steps", "3000000000"], "steps must be at most 2000000000, got 3000000000"),
    ([*TRAIN, "--seed", "-1"], "seed must be from 0 to 2147483647, got -1"),
    (
        [*TRAIN, "--seed", "2147483647", "--seeds", "2"],
        "seed + seeds - 1 must be at most 2147483647, got 2147483648",
    ),
    (
        [*TRAIN, "--num-envs", "10", "--minibatches", "4"],
        "num_envs must be a multiple of minibatches = 4 because minibatches are whole environment "
        "sequences, got 10",
    ),
    (
        [*TRAIN, "--core", "s5", "--core.state-size", "63"],
        "core.state_size must be a multiple of 2 * core.blocks = 2 because eigenvalues come in "
        f"pairs, got 63; use 64{SEE}",
    ),
    ([*TRAIN, "--core.layers", "0"], f"core.layers must be at least 1, got 0{SEE}"),
    ([*TRAIN, "--env.time-limit", "0"], f"time_limit must be at least 1, got 0{SEE}"),
    (
        [*TRAIN, "--env.hide", "7"],
        "hide must be distinct indices from 0 to 3 that leave something to see, got (7,)",
    ),
    # Values of another type.
    ([*TRAIN, "--num-envs", "ten"], f"--num-envs takes whole numbers, got 'ten'{SEE}"),
    ([*TRAIN, "--seeds", "1.5"], f"--seeds takes whole numbers, got '1.5'{SEE}"),
    ([*TRAIN, "--clip", "big"], f"--clip takes numbers, got 'big'{SEE}"),
    ([*TRAIN, "--clip-value", "yes"], f"--clip-value takes 'True', 'False', got 'yes'{SEE}"),
    (
        [*TRAIN, "--precision", "low"],
        f"--precision takes 'default', 'high', 'highest', got 'low'{SEE}",
    ),
    ([*TRAIN, "--torso.hidden", "8", "x"], f"--torso.hidden does not take '8', 'x'{SEE}"),
    ([*TRAIN, "--anneal-steps", "x"], f"--anneal-steps does not take 'x'{SEE}"),
    ([*TRAIN, "--num-envs"], f"--num-envs needs a value{SEE}"),
    # Sweeps.
    ([*TRAIN, "--sweep", "clip"], f"--sweep: expected NAME=VALUE,VALUE, got 'clip'{SEE}"),
    ([*TRAIN, "--sweep", "clip=0.1,-1"], "sweep: clip must be above 0, got -1.0"),
    ([*TRAIN, "--init-from", "nowhere"], "nowhere is not a run directory: it has no config.json"),
    # Other commands.
    (["evaluate"], f"RUN is missing{SEE_EVALUATE}"),
    (["evaluate", "nowhere"], "nowhere is not a run directory: it has no config.json"),
    (["resume", "nowhere"], "nowhere is not a run directory: it has no config.json"),
    (["plot"], "RUN is missing; see rlssm plot --help"),
    (["plot", "nowhere"], "nowhere is not a run directory: it has no config.json"),
    (["render", "nowhere"], "nowhere is not a run directory: it has no config.json"),
    (["export", "nowhere"], "nowhere is not a run directory: it has no config.json"),
    (
        ["evaluate", "RUN", "--episode", "3"],
        "unknown option '--episode', perhaps '--episodes' was meant; known: --checkpoint, "
        "--episodes, --out, --seed, --skill, --stochastic",
    ),
    (["evaluate", "RUN", "--episodes", "0"], "episodes must be at least 1, got 0"),
    (
        ["evaluate", "RUN", "--episodes", "1e3"],
        f"--episodes takes whole numbers, got '1e3'{SEE_EVALUATE}",
    ),
    (
        ["evaluate", "RUN", "--checkpoint", "newest"],
        "checkpoint must be last, best or a number of steps, got 'newest'",
    ),
    (
        ["evaluate", "RUN", "--checkpoint", "64"],
        "RUN has no checkpoint of step 64; there are: 192, 256",
    ),
    (
        ["plot", "RUN", "--metric", "episode/retrun"],
        "unknown metric 'episode/retrun', perhaps 'episode/return' was meant; known: ...",
    ),
    (["plot", "RUN", "--smooth", "2"], "smooth must be odd and at least 1, got 2"),
    (["render", "RUN", "--member", "1"], "member must be from 0 to 0, got 1"),
    (["export", "RUN", "--member", "-1"], "member must be from 0 to 0, got -1"),
    (["resume", "RUN", "--steps", "32"], "steps must be at least 256, as before, got 32"),
    (["resume", "RUN", "--steps", "x"], "--steps does not take 'x'; see rlssm resume --help"),
    (["resume", "RUN", "--checkpoint", "3"], "checkpoint must be one of [192, 256], got 3"),
    (
        ["list", "env"],
        "unknown kind of thing to list 'env', perhaps 'envs' was meant; known: algos, "
        "cores, datasets, envs",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), WORDS, ids=[" ".join(w[-3:]) for w, _ in WORDS])
def test_words(trained, tmp_path, monkeypatch, words, sentence):
    """RUN stands for a complete run, three dots for any more. Nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    words = [str(trained) if word == "RUN" else word for word in words]
    sentence = sentence.replace("RUN has", f"{trained} has")
    before = files(trained)
    said = mistake(*words)
    if sentence.endswith("..."):
        assert said.startswith(sentence.removesuffix("..."))
    else:
        assert said == sentence
    assert files(trained) == before and list(tmp_path.iterdir()) == []


def test_more_devices_than_there_are(tmp_path):
    there, kind = jax.device_count(), jax.devices()[0].platform
    assert mistake(*TRAIN, "--devices", there + 1, "--out", tmp_path / "run") == (
        f"devices must be from 1 to {there}, the number of {kind} devices here, got {there + 1}"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_the_same_sentence(monkeypatch):
    """On a terminal the parser's own messages are boxed and coloured."""

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    out, err = Terminal(), Terminal()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.raises(SystemExit):
            main([*TRAIN, "--num-envs", "ten"])
    assert err.getvalue() == f"rlssm: --num-envs takes whole numbers, got 'ten'{SEE}\n"
    assert out.getvalue() == ""


# --- Environments of one's own ----------------------------------------------------------------

MODULE = """
from dataclasses import dataclass
import jax.numpy as jnp
from rlssm.envs.base import Step
from rlssm.types import Box, Spec

@dataclass(frozen=True)
class Env:
    action: Box
    obs: Box = Box((3,))
    params = ()

    @property
    def spec(self):
        return Spec(self.obs, self.action, 5)

    def reset(self, key, params):
        return jnp.int32(0), jnp.zeros(3)

    def step(self, key, state, action, params):
        return state, Step(jnp.zeros(3), jnp.float32(0), state > 3, state < 0, {})

def matrix():
    return Env(Box((2, 2)))

def wrong_obs():
    return Env(Box((2,)), Box((4,)))

def number():
    return 3

def broken():
    return 1 / 0

thing = 4
"""


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        (
            "own_envs:matrix",
            "a continuous action must be a vector, got shape (2, 2); flatten it in the adapter",
        ),
        (
            "own_envs:wrong_obs",
            "env own_envs:wrong_obs: reset's observation must be float32[4], got float32[3]",
        ),
        (
            "own_envs:number",
            "env own_envs:number: the factory must return an rlssm Environment, a gymnax "
            "environment or a pair (gymnax environment, parameters), got int",
        ),
        (
            "own_envs:broken",
            "env own_envs:broken: broken() failed with ZeroDivisionError: division by zero",
        ),
        (
            "own_envs:thing",
            "env own_envs:thing: thing must be a function without arguments that returns an "
            "environment, got int",
        ),
        (
            "own_envs:matrx",
            "unknown factory in module own_envs: 'matrx', perhaps 'matrix' was meant; known: Box, "
            "Env, Spec, Step, broken, dataclass, matrix, number, wrong_obs",
        ),
        (
            "own_env:matrix",
            "env own_env:matrix: there is no module 'own_env' on the Python path or in FOLDER; "
            "name it as in an import statement, without .py",
        ),
        ("own_envs:", "env must be module:factory with both parts named, got 'own_envs:'"),
    ],
)
def test_own_environments(tmp_path_factory, tmp_path, monkeypatch, reference, sentence):
    (tmp_path_factory.getbasetemp() / "own_envs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path_factory.getbasetemp())
    monkeypatch.chdir(tmp_path)
    said = mistake("train", "ppo", "--env", reference, *TINY)
    assert said == sentence.replace("FOLDER", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
