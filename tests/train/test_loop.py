"""Runs that finish, resume bit for bit, stop on signals and on NaN, and refuse what won't fit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small_runs import AGENT, PER_UPDATE, rows, small

import rlssm
from rlssm.envs.registry import EnvConfig
from rlssm.errors import UserError
from rlssm.train import loop
from rlssm.train.loop import fit
from rlssm.train.run import Run


def same(a, b):
    for ours, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def same_runs(a: Run, b: Run):
    """Assert that two finished runs hold the same numbers, the clock aside."""
    same(a.state("last"), b.state("last"))
    same(a.best(), b.best())
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert rows(a.path / name) == rows(b.path / name)
    assert a.result == b.result


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a run that was never interrupted."""
    return fit(small(seeds=2), tmp_path_factory.mktemp("runs") / "whole", progress=False)


def test_a_finished_run_holds_what_it_should(whole):
    assert whole.complete
    metrics = rows(whole.path / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [PER_UPDATE * i for i in range(1, 9)]
    assert all(len(row["actor/loss"]) == 2 for row in metrics), "a value per seed"
    assert metrics[-1]["actor/loss"][0] != metrics[-1]["actor/loss"][1]
    assert [row["step"] for row in rows(whole.path / "evaluations.jsonl")] == [
        4 * PER_UPDATE, 8 * PER_UPDATE,
    ]  # fmt: skip
    assert whole.checkpoints.steps() == [6 * PER_UPDATE, 8 * PER_UPDATE]
    assert whole.result["members"] == [{"seed": 0}, {"seed": 1}]
    assert len(whole.result["last"]["eval/return"]) == 2
    assert (whole.path / "plots" / "return.png").stat().st_size > 1000
    assert list((whole.path / "tensorboard" / "1").glob("events*"))
    assert json.loads((whole.path / "environment.json").read_text())["packages"]["jax"]


def test_best_weights_are_those_of_the_best_evaluation(whole):
    scores = np.array([row["eval/return"] for row in rows(whole.path / "evaluations.jsonl")])
    best = whole.best()
    np.testing.assert_allclose(best.score, scores.max(0))
    np.testing.assert_array_equal(best.steps, np.array([4, 8])[scores.argmax(0)] * PER_UPDATE)
    final = whole.state("last").agent.params
    for member in range(2):
        if best.steps[member] == 8 * PER_UPDATE:
            same(*(jax.tree.map(lambda x, m=member: x[m], tree) for tree in (best.params, final)))


def test_a_complete_run_is_left_alone(whole):
    before = (whole.path / "metrics.jsonl").stat().st_mtime_ns
    again = fit(whole.config, whole.path, progress=False)
    assert again.complete and (whole.path / "metrics.jsonl").stat().st_mtime_ns == before


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("kept", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_resuming_is_bit_identical(whole, tmp_path, kept, monkeypatch):
    """Cut a run short between a checkpoint and the next, as a kill would."""
    logged = loop.Logger.metrics

    def log_then_die(self, step, metrics, **clock):
        logged(self, step, metrics, **clock)
        if step == (kept + 1) * PER_UPDATE:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.Logger, "metrics", log_then_die)
        with pytest.raises(Killed):
            fit(small(seeds=2), tmp_path, progress=False)
    assert Run(tmp_path).checkpoints.latest() == kept * PER_UPDATE
    assert len(rows(tmp_path / "metrics.jsonl")) == kept + 1
    same_runs(whole, fit(small(seeds=2), tmp_path, progress=False))


@pytest.mark.slow
def test_a_signal_saves_and_stops(whole, tmp_path, monkeypatch):
    logged = loop.Logger.metrics

    def log_then_signal(self, step, metrics, **clock):
        logged(self, step, metrics, **clock)
        if step == 3 * PER_UPDATE:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Logger, "metrics", log_then_signal)
        stopped = fit(small(seeds=2), tmp_path, progress=False)
    assert not stopped.complete and stopped.checkpoints.latest() == 3 * PER_UPDATE
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    same_runs(whole, fit(small(seeds=2), tmp_path, progress=False))


def test_a_run_ends_where_it_is_enough(whole, tmp_path):
    """At the third of eight log points, with an evaluation and a checkpoint of its own."""
    three = lambda run: len(rows(run.path / "metrics.jsonl")) == 3  # noqa: E731
    run = fit(small(seeds=2), tmp_path, progress=False, enough=three)
    assert run.complete and run.checkpoints.latest() == 3 * PER_UPDATE
    assert run.result["last"]["steps"] == [3 * PER_UPDATE] * 2
    assert [row["step"] for row in rows(run.path / "evaluations.jsonl")] == [3 * PER_UPDATE]
    assert rows(run.path / "metrics.jsonl") == rows(whole.path / "metrics.jsonl")[:3]


def test_members_do_not_depend_on_their_company(whole, tmp_path):
    """The second seed alone learns what it learns beside the first."""
    alone = fit(small(seed=1), tmp_path, progress=False)
    ours, theirs = rows(alone.path / "metrics.jsonl")[-1], rows(whole.path / "metrics.jsonl")[-1]
    for name, values in ours.items():
        if name != "step" and values[0] is not None:
            np.testing.assert_allclose(values[0], theirs[name][1], rtol=1e-3, atol=1e-5)


def test_sweep_trains_every_combination(tmp_path):
    config = small(2, seeds=2, sweep={"learning_rate": (1e-3, 0.0001), "clip": (0.1, 0.2)})
    run = fit(config, tmp_path, progress=False)
    assert run.result["members"][2:4] == [
        {"learning_rate": 1e-3, "clip": 0.2, "seed": 0},
        {"learning_rate": 1e-3, "clip": 0.2, "seed": 1},
    ]
    hyper = run.state("last").agent.hyper
    np.testing.assert_allclose(hyper["learning_rate"], [1e-3] * 4 + [1e-4] * 4)
    np.testing.assert_allclose(hyper["clip"], [0.1, 0.1, 0.2, 0.2] * 2)
    alone = fit(
        small(2, agent=rlssm.PPOConfig(**{**vars(AGENT), "learning_rate": 1e-4, "clip": 0.1})),
        tmp_path / "alone",
        progress=False,
    )
    for a, b in zip(
        jax.tree.leaves(run.params("last")), jax.tree.leaves(alone.params("last")), strict=True
    ):
        np.testing.assert_allclose(a[4], b[0], rtol=1e-4, atol=1e-6)
    assert list(run.curves()) == [
        "learning_rate=0.001 clip=0.1", "learning_rate=0.001 clip=0.2",
        "learning_rate=0.0001 clip=0.1", "learning_rate=0.0001 clip=0.2",
    ]  # fmt: skip


def test_init_from_starts_with_the_weights_of_another_run(whole, tmp_path):
    config = small(2, seeds=3, init_from=str(whole.path))
    start = Run.create(tmp_path / "next", config).initial_state()
    for ours, theirs in zip(
        jax.tree.leaves(start.agent.params), jax.tree.leaves(whole.params("last")), strict=True
    ):
        np.testing.assert_array_equal(ours, np.asarray(theirs)[[0, 1, 0]])
    with pytest.raises(UserError, match="init_from .* does not fit: .*kernel.* has shape"):
        other = small(2, env="CartPole-v1", init_from=str(whole.path))
        Run.create(tmp_path / "misfit", other).initial_state()


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    (tmp_path / "nan_env.py").write_text(
        "from rlssm.envs.probes import NanReward\ndef make():\n    return NanReward(healthy=20)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        config = small(8, env="nan_env:make", eval_every=10**9)
        with pytest.raises(UserError) as error:
            fit(config, tmp_path / "run", progress=False)
    finally:
        sys.path.remove(str(tmp_path))
    assert "became nan at step" in str(error.value) and "in member 0" in str(error.value)
    run = Run(tmp_path / "run")
    assert run.checkpoints.latest() == 2 * PER_UPDATE and not run.complete
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.params("last")))


def test_a_directory_of_another_run_is_refused(whole):
    with pytest.raises(UserError) as error:
        fit(small(seeds=2, seed=7), whole.path, progress=False)
    assert str(error.value) == (
        f"{whole.path} holds a run of another configuration (seed: 0 != 7); name another directory"
    )


def test_extending_a_run_equals_a_long_run(whole, tmp_path):
    fit(small(4, seeds=2), tmp_path, progress=False)
    longer = Run(tmp_path).extend(8 * PER_UPDATE)
    assert not longer.complete
    resumed = fit(longer.config, tmp_path, progress=False)
    same(whole.state("last"), resumed.state("last"))
    with pytest.raises(UserError, match="steps must be at least 256, as before, got 32"):
        resumed.extend(PER_UPDATE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seeds": -1}, "seeds must be at least 1, got -1"),
        ({"sweep": {"learning_rat": (1.0,)}}, "unknown swept hyper-parameter 'learning_rat'"),
        ({"sweep": {"clip": (0.1, -0.1)}}, "sweep: clip must be above 0, got -0.1"),
        ({"devices": 0}, "devices must be at least 1, or left out, got 0"),
    ],
)
def test_run_configurations_out_of_range(changes, message):
    with pytest.raises(UserError) as error:
        small(**changes)
    assert str(error.value).startswith(message)


def test_more_devices_than_there_are(tmp_path):
    with pytest.raises(UserError, match="devices must be from 1 to 1, the number of cpu devices"):
        fit(small(devices=8), tmp_path, progress=False)


DEVICES_SCRIPT = """
import sys; sys.path.insert(0, {here!r})
import jax, numpy as np
from pathlib import Path
from small_runs import small
from rlssm.train.loop import compile_chunks
from rlssm.train.run import Run
def final(devices):
    run = Run.create(Path({out!r}) / str(devices), small(1, devices=devices, seeds=2))
    state, data, chunks = compile_chunks(run, run.initial_state())
    state, metrics = chunks["online"](state, data, 1)
    obs = state.runner.obs
    assert len(obs.sharding.device_set) == devices and len(obs.addressable_shards) == devices
    if devices > 1:
        assert obs.addressable_shards[0].data.shape[1] * devices == obs.shape[1]
    return jax.device_get((state.agent.params, metrics))
one, four = final(1), final(4)
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
print("equal")
"""


@pytest.mark.slow
def test_one_update_on_one_device_equals_four(tmp_path):
    script = DEVICES_SCRIPT.format(here=str(Path(__file__).parent), out=str(tmp_path))
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


KILL_SCRIPT = """
import sys; sys.path.insert(0, {here!r})
from small_runs import small
from rlssm.train.loop import fit
fit(small(1000, seeds=2), {out!r}, progress=False)
"""


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path):
    """SIGKILL at random moments of starting, compiling, training and saving.

    Every second process lives until it has saved something and a random while longer, so that the
    run gets on however slow the machine is.
    """
    reference = fit(small(1000, seeds=2), tmp_path / "whole", progress=False)
    out = tmp_path / "killed"
    script = KILL_SCRIPT.format(here=str(Path(__file__).parent), out=str(out))
    cache = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    chance = random.Random(0)
    progress = []

    def saved():
        return Run(out).checkpoints.latest() or 0 if (out / "config.json").exists() else 0

    for kill in range(20):
        process, before = subprocess.Popen([sys.executable, "-c", script], env=cache), saved()
        if kill % 2:
            while saved() == before and process.poll() is None:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 1))
        else:
            time.sleep(chance.uniform(1, 12))
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        progress.append(saved())
    assert len(set(progress)) > 5 and not Run(out).complete
    done = subprocess.run([sys.executable, "-c", script], env=cache)
    assert done.returncode == 0
    same_runs(reference, Run(out))


@pytest.mark.slow
def test_environment_wrappers_reach_the_agent(tmp_path):
    hidden = EnvConfig("CartPole-v1", hide=(1, 3), noise=0.1, time_limit=7)
    config = small(1, agent=AGENT, env="CartPole-v1")
    run = Run.create(tmp_path, rlssm.RunConfig(**{**vars(config), "env": hidden}))
    assert run.env.spec.obs.shape == (2,) and run.env.spec.max_episode_steps == 7
    fit(run.config, tmp_path, progress=False)
    assert Run(tmp_path).config.env == hidden
