"""Every command does what it says, on one small run."""

import json
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import ENV, TINY, mistake, rlssm
from PIL import Image

from rlssm.algorithms import ALGORITHMS
from rlssm.algorithms.sac import SACConfig
from rlssm.cli.main import USAGE, commands
from rlssm.cli.parse import options
from rlssm.cli.report import describe_scores, describe_simulator
from rlssm.cli.train import default_name
from rlssm.envs import EnvConfig, names
from rlssm.envs.registry import SimulatorConfig
from rlssm.io import export as export_io
from rlssm.nn.cores import CORES, S5Config
from rlssm.train.config import RunConfig
from rlssm.train.run import Run


def complete(path, last, best):
    """Return what is printed of a complete run."""
    return (
        f"{path} is complete: ppo with core gru on MemoryChain-2, 256 steps, 1 seed\n"
        f"  last: return {last['eval/return'][0]:.4g}, "
        f"success {100 * last['eval/success'][0]:.1f} %\n"
        f"  best: return {best['eval/return'][0]:.4g}, "
        f"success {100 * best['eval/success'][0]:.1f} %\n"
        f"  curve: {path}/plots/return.png\n"
    )


# --- Training ---------------------------------------------------------------------------------


def test_training_leaves_a_run_directory(trained):
    assert {file.name for file in trained.iterdir()} == {
        "checkpoints", "config.json", "environment.json", "evaluations.jsonl", "metrics.jsonl",
        "plots", "result.json", "tensorboard",
    }  # fmt: skip
    run = Run(trained)
    assert run.checkpoints.steps() == [192, 256]
    assert (run.config.agent.core.name, run.config.agent.torso.width) == ("gru", 8)
    assert run.config.agent.torso.hidden == run.config.agent.heads.hidden == ()


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_complete_run_says_so(trained, command):
    words = ("resume", trained) if command == "resume" else ("train", "ppo", *ENV, *TINY, "--out")
    words = words if command == "resume" else (*words, trained)
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    done = rlssm(*words)
    result = Run(trained).result
    assert done == (0, complete(trained, result["last"], result["best"]), "")
    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*")} == before


def test_the_same_command_finds_its_run_again(trained, tmp_path, monkeypatch):
    """Without --out the directory is named after environment, algorithm, core and seed."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "MemoryChain-2-ppo-gru-0").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    done = rlssm("train", "ppo", *ENV, *TINY)
    assert done.out.startswith("runs/MemoryChain-2-ppo-gru-0 is complete: ")
    own = RunConfig(SimpleNamespace(id="my/envs:make"), seed=3)  # ty: ignore[invalid-argument-type]
    assert default_name(own) == "my-envs-make-ppo-s5-3"


def test_resume_with_more_steps(run):
    done = rlssm("resume", run, "--steps", 320, "--quiet")
    assert done.code == 0 and done.out.startswith(f"{run} is complete: ")
    assert Run(run).checkpoints.latest() == 320
    assert (
        mistake("resume", run, "--steps", 256) == "steps must be at least 320, as before, got 256"
    )


def test_presets_and_cores_are_what_the_options_adjust(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("rlssm.cli.train._fit", lambda config, out, quiet: made.append(config))
    words = ["train", "ppo", *ENV, "--preset", "popjaxrl", "--clip", "0.1", "--core.layers", "2"]
    words += ["--sweep", "gae_lambda=0.9,1", "discount=0.5", "--env.noise=0.1"]
    assert rlssm(*words).code == rlssm("train", "ppo", "--core=lru", *ENV).code == 0
    preset = ALGORITHMS["ppo"].PRESETS["popjaxrl"]
    agent = made[0].agent
    assert (agent.clip, agent.core.layers, agent.core.state_size) == (0.1, 2, 256)
    assert agent.rollout_length == preset.rollout_length == 1024
    assert made[0].sweep == {"gae_lambda": (0.9, 1.0), "discount": (0.5,)}
    assert made[0].env == EnvConfig("MemoryChain-2", noise=0.1)
    assert made[1].agent.core == CORES["lru"]()


def test_a_simulator_is_named_in_short_or_at_length(monkeypatch):
    made = []
    monkeypatch.setattr("rlssm.cli.train._fit", lambda *words: made.append(words))
    words = ["train", "h2o", "--dataset", "pendulum/mixed"]
    assert rlssm(*words, "--sim", "gravity=2", "joint-noise=0.5", "--seed", "1").code == 0
    assert rlssm(*words, "--sim.gravity=2", "--sim.joint-noise", "0.5", "--seed", "1").code == 0
    (short, out, _), (long, _, _) = made
    assert short == long and short.sim == SimulatorConfig(gravity=2.0, joint_noise=0.5)
    assert str(out) == "runs/pendulum-mixed-sim-h2o-none-1"


def test_a_report_tells_how_far_off_the_simulator_was_found(tmp_path):
    config = RunConfig(EnvConfig("Pendulum-v1"), SACConfig(), sim=SimulatorConfig(gravity=2.0))
    run = SimpleNamespace(config=config, path=tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "actor/loss": [1.0, 2.0]}\n')
    assert describe_simulator(run) == ["  acted in a simulator of gravity 2.0"]
    row = '{"step": 2, "simulator/ratio": [0.2, 0.4], "simulator/gap": [2.0, 3.0]}\n'
    (tmp_path / "metrics.jsonl").write_text(row)
    assert describe_simulator(run) == [
        "  acted in a simulator of gravity 2.0: weight w 0.3, gap u 2.5"
    ]


def test_scores_are_told_with_their_spread():
    config = RunConfig(EnvConfig("MemoryChain-2"), seeds=2, sweep={"clip": (0.1, 0.2)})
    scores = {
        "eval/return": [1.0, 3.0, 2.0, 2.0],
        "eval/success": [0.5, 0.25, 1.0, 1.0],
        "eval/finished": [1.0, 1.0, 0.5, 1.0],
    }
    assert describe_scores(config, {"last": scores}) == [
        "  clip=0.1 last: return 2 [1, 3] (IQM 2), success 37.5 %",
        "  clip=0.2 last: return 2 [2, 2] (IQM 2), success 100.0 %, "
        "25.0 % of episodes given up unfinished",
    ]


# --- Evaluating, drawing, exporting -----------------------------------------------------------


@pytest.mark.parametrize("which", ["last", "best", "192"])
def test_evaluate(trained, tmp_path, which):
    out = tmp_path / "episodes.json"
    words = ("evaluate", trained, "--checkpoint", which, "--episodes", 16, "--seed", 3)
    done = rlssm(*words, "--out", out)
    episodes = json.loads(out.read_text())
    played = Run(trained).evaluate(int(which) if which == "192" else which, episodes=16, seed=3)  # ty: ignore[invalid-argument-type]
    assert episodes == {
        "checkpoint": which, "seed": 3,
        "episode_return": played.episode_return.tolist(), "length": [[3] * 16],
        "success": played.success.tolist(), "finished": [[True] * 16],
    }  # fmt: skip
    assert done == (
        0,
        "MemoryChain-2, 16 episodes per member, greedy actions\n"
        f"  {which}: return {np.mean(played.episode_return):.4g}, "
        f"success {100 * np.mean(played.success):.1f} %\n",
        "",
    )


def test_evaluate_samples_where_asked(trained, tmp_path):
    for name, stochastic in (("greedy", "False"), ("sampled", "True")):
        done = rlssm(
            "evaluate", trained, "--stochastic", stochastic, "--out", tmp_path / f"{name}.json"
        )
        assert f"{name} actions" in done.out
    greedy, sampled = ((tmp_path / f"{name}.json").read_text() for name in ("greedy", "sampled"))
    assert greedy != sampled


def test_plot_one_run_and_several(trained, run, tmp_path):
    assert rlssm("plot", run) == (0, f"wrote {run}/plots/episode-return.png\n", "")
    with Image.open(run / "plots" / "episode-return.png") as picture:
        picture.verify()
    out = tmp_path / "new" / "several.svg"
    words = ("plot", trained, run, "--metric", "actor/entropy", "--smooth", 3, "--out", out)
    assert rlssm(*words) == (0, f"wrote {out}\n", "")
    assert out.read_text().count("<svg") == 1 and "actor/entropy" in out.read_text()


def test_render(run, tmp_path):
    done = rlssm("render", run)
    assert re.fullmatch(rf"wrote {run}/plots/episode.gif: 3 steps, return -?[01]\n", done.out)
    with Image.open(run / "plots" / "episode.gif") as gif:
        assert gif.format == "GIF" and gif.n_frames == 4
        frames = [np.array(gif.convert("RGB")) for t in range(4) if gif.seek(t) is None]
    assert all((a != b).any() for a, b in zip(frames, frames[1:], strict=False))


LOAD = """
import sys
sys.modules["rlssm"] = None
{example}
actions = []
for t, one_obs in enumerate({observations}):
    obs = np.array([one_obs], "float32")
    first = np.array([t == 0])
    previous_action = np.array([actions[-1] if actions else 0], "int32")
    previous_reward = np.zeros(1, "float32")
    action, carry = step(obs, previous_action, previous_reward, first, first, carry)
    actions.append(int(action[0]))
print(actions)
"""


def test_export_loads_without_this_library(trained, tmp_path):
    out = tmp_path / "policy.zip"
    assert rlssm("export", trained, "--out", out) == (0, f"wrote {out}\n", "")
    example = re.search(r"\n\n(    import json.*)action, carry", str(export_io.__doc__), re.DOTALL)
    assert example is not None
    code = textwrap.dedent(example[1]).replace('"policy.zip"', repr(str(out)))
    run = Run(trained)
    observations = np.random.default_rng(0).normal(size=(6, *run.env.spec.obs.shape)).tolist()  # ty: ignore[unresolved-attribute]
    program = LOAD.format(example=code, observations=observations)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    actor = run.actor("best")
    assert json.loads(done.stdout) == [int(actor(np.float32(obs))) for obs in observations]


# --- What there is ----------------------------------------------------------------------------


def test_list(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    everything = rlssm("list")
    kinds = [rlssm("list", kind) for kind in ("envs", "algos", "datasets", "cores")]
    assert everything == (0, "\n".join(kind.out for kind in kinds), "")
    envs, algos, _, cores = (kind.out.splitlines() for kind in kinds)
    assert {f"  {name}" for ids in names().values() for name in ids} < set(envs)
    assert envs[-1].endswith("and your own as module:factory")
    assert {line.split(":")[0].strip() for line in algos} == {"algos", *ALGORITHMS}
    assert {line.split(":")[0].strip() for line in cores} == {"cores", *CORES}
    assert rlssm("list", "cores", "algos").out == f"{kinds[3].out}\n{kinds[1].out}"


def test_help():
    for words in ([], ["-h"], ["--help"]):
        assert rlssm(*words) == (0, f"{USAGE}\n", "")
    assert set(re.findall(r"^  (\w+) ", USAGE, re.M)) == {*commands(), "rlssm"}
    for command in commands():
        done = rlssm(command, "--help")
        assert done.code == 0 and done.out.startswith(f"usage: rlssm {command}") and not done.err


def test_help_explains_every_hyper_parameter():
    """All options of the chosen core are there; --env may be missing when only help is wanted."""
    done = rlssm("train", "ppo", "--core", "s5", "--help")
    default = RunConfig(EnvConfig("MemoryChain-2"))
    assert default.agent.core == S5Config()
    wanted = [name.replace("--agent.", "--") for name in options(default)]
    assert [name for name in wanted if not re.search(rf"{re.escape(name)}\b", done.out)] == []
    for said in ("PPO paper", "popjaxrl", "--out", "--quiet", "none, s5, lru, gru, lstm, mingru"):
        assert said in done.out
