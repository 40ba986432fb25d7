"""Skills as actions: a decision against a loop of steps, and runs that act by another's skills."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_skills import SMALL, with_memory

from rlssm.algorithms import ALGORITHMS
from rlssm.algorithms.ppo import PPOConfig
from rlssm.algorithms.sac import SACConfig
from rlssm.data.mixing import ExperienceConfig
from rlssm.envs.downstream import GoalTask
from rlssm.envs.points import PointWorld
from rlssm.envs.registry import EnvConfig, make
from rlssm.envs.user import check
from rlssm.errors import UserError
from rlssm.nn.cores import NoneConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.skills import SkillConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.config import RunConfig
from rlssm.train.hierarchy import LearntSkills, SkillActions, SkillActionsConfig
from rlssm.train.loop import fit
from rlssm.train.run import Run
from rlssm.train.skills import skill_as_weight
from rlssm.types import Box, Discrete, Inputs, Previous

ROOT = Path(__file__).parents[2]
PLANE = EnvConfig("point/plane")
TASK = GoalTask(PointWorld(max_steps=7), reach=2.0, radius=3.0, near=True)
SPHERE = replace(SMALL, skill=SkillConfig())


def learnt(agent, seed=0):
    algorithm, spec = ALGORITHMS[agent.name], make(PLANE).spec
    init = jax.jit(partial(algorithm.init, agent, spec))
    return LearntSkills(agent, PLANE, jax.device_get(init(jax.random.key(seed)).params))


def by_loop(agent, weights, actions, hold):
    """Yield (reward, position, over, success) of each decision, taken step by step."""
    told = skill_as_weight(agent, make(PLANE).spec)

    @jax.jit
    def advance(skill, state, seen, memory):
        motion, memory = told.act(
            (weights, skill), seen, seen.first, memory, jax.random.key(0), True
        )
        state, step = TASK.step(jax.random.key(0), state, motion[0], TASK.params)
        previous = Previous(motion, step.reward[None])
        return state, step, Inputs(step.obs["obs"][None], previous, jnp.zeros(1, bool)), memory

    state, obs = TASK.reset(jax.random.key(5), TASK.params)
    nothing = Previous(jnp.zeros((1, 2)), jnp.zeros(1))
    seen, memory = Inputs(obs["obs"][None], nothing, jnp.ones(1, bool)), told.initial_carry(1)
    over = False
    for action in actions:
        discrete = agent.skill.kind == "discrete"
        skill = jnp.eye(3)[int(action)] if discrete else jnp.asarray(direction(action))
        total = 0.0
        for _ in range(hold):
            if not over:
                state, step, seen, memory = advance(skill, state, seen, memory)
                total, over = total + float(step.reward), bool(step.truncated)
        yield total, np.asarray(state.inner.position), over, bool(step.info["success"])


def direction(action):
    return (action / np.linalg.norm(action)).astype(np.float32)


@pytest.mark.parametrize(
    "agent",
    [SMALL, pytest.param(with_memory(SPHERE), marks=pytest.mark.slow)],
    ids=["discrete", "sphere-s5"],
)
def test_a_decision_is_as_many_steps_under_its_skill(agent):
    found = learnt(agent)
    env = SkillActions(TASK, found, 3)
    actions = [2, 0, 1] if agent is SMALL else np.array([[0.6, -0.2], [-1.0, 0.3], [0.1, 0.1]])
    state, obs = env.reset(jax.random.key(5), env.params)
    np.testing.assert_array_equal(obs["obs"][None], state.seen.obs)
    step = jax.jit(env.step)
    paid = 0.0
    for action, expected in zip(actions, by_loop(agent, found.weights, actions, 3), strict=True):
        state, out = step(jax.random.key(9), state, jnp.asarray(action, env_dtype(env)), env.params)
        reward, position, over, success = expected
        assert out.reward == pytest.approx(reward) and out.info["success"] == success
        np.testing.assert_allclose(state.inner.inner.position, position, atol=1e-5)
        assert out.truncated == over
        paid += reward
    assert over and 0 < paid <= 7


def env_dtype(env):
    return jnp.int32 if isinstance(env.spec.action, Discrete) else jnp.float32


def test_the_environment_says_what_choosing_a_skill_is():
    discrete, sphere = (SkillActions(TASK, learnt(agent), 3) for agent in (SMALL, SPHERE))
    assert discrete.spec.action == Discrete(3) and sphere.spec.action == Box((2,))
    assert discrete.spec.max_episode_steps == 3  # the last decision is for one step alone
    for env in (discrete, sphere):
        check(env, "skills")
    same, other = (SkillActions(TASK, learnt(SMALL, seed), 3) for seed in (0, 1))
    assert same == discrete and hash(same) == hash(discrete) and other != discrete
    plain = SkillActions(PointWorld(), learnt(SMALL), 3)  # sees nothing but what the body does
    check(plain, "plain")
    assert plain.spec.obs == Box((2,)) and not plain.spec.located


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of two seeds stopped before its first update."""
    config = RunConfig(PLANE, SPHERE, steps=48, seeds=2)
    run = Run.create(tmp_path_factory.mktemp("skills") / "source", config)
    run.checkpoints.save(0, run.initial_state())
    return run


def over(source, **changes):
    agent = SACConfig(
        actor=MLPConfig((8,), "relu"), critic=MLPConfig((8,), "relu"),
        experience=ExperienceConfig(batch=8, num_envs=2, rollout_length=2, warmup=4, capacity=100),
    )  # fmt: skip
    settings = {
        "env": EnvConfig("downstream/plane-goal", time_limit=7), "agent": agent, "steps": 12,
        "log_every": 4, "eval_every": 12, "checkpoint_every": 4,
        "eval_episodes": 128, "final_episodes": 128,
        "skills": SkillActionsConfig(str(source.path), member=1, hold=3),
    }  # fmt: skip
    return RunConfig(**(settings | changes))


@pytest.mark.slow
def test_a_run_by_skills_keeps_them_frozen_and_is_judged_without_their_source(source, tmp_path):
    copy = Run(shutil.copytree(source.path, tmp_path / "copy"))
    run = fit(over(copy), tmp_path / "run", progress=False)
    shutil.rmtree(copy.path)
    again = Run(run.path)
    assert again.env.spec.max_episode_steps == 3 and again.env.hold == 3
    theirs = jax.device_get(source.member_params("last", 1))
    jax.tree.map(np.testing.assert_array_equal, again.skills.weights, theirs)
    assert again.evaluate(episodes=128).length.max() == 3


@pytest.mark.slow
def test_an_interrupted_run_by_skills_ends_as_one_that_was_not(source, tmp_path):
    whole = fit(over(source), tmp_path / "whole", progress=False)
    run = fit(over(source), tmp_path / "cut", progress=False)
    run.go_back(8)
    again = fit(over(source), tmp_path / "cut", progress=False)
    assert again.result == whole.result
    jax.tree.map(np.testing.assert_array_equal, again.params("last"), whole.params("last"))


@pytest.mark.slow
def test_on_policy_learners_choose_skills_too(source, tmp_path):
    agent = PPOConfig(
        core=NoneConfig(), torso=TorsoConfig(8, ()), heads=MLPConfig(()), num_envs=2,
        rollout_length=3, epochs=1, minibatches=1,
    )  # fmt: skip
    run = fit(over(source, agent=agent), tmp_path / "ppo", progress=False)
    assert run.complete and np.isfinite(run.result["last"]["eval/return"]).all()


def test_what_does_not_fit_together_is_refused(source, tmp_path):
    def refused(message, **changes):
        with pytest.raises(UserError, match=message):
            Run.create(tmp_path / "refused", over(source, **changes))
        assert not (tmp_path / "refused").exists()

    held = over(source).skills
    refused(
        "skills.run learnt in point/plane, where observations are", env=EnvConfig("Pendulum-v1")
    )
    refused("is not a run directory", skills=replace(held, run=str(tmp_path / "nowhere")))
    refused("member must be from 0 to 1, got 2", skills=replace(held, member=2))
    refused("has no checkpoint of step 7", skills=replace(held, checkpoint=7))
    with pytest.raises(UserError, match="dataset must be left out: its actions are none"):
        over(source, dataset="pendulum/medium")
    with pytest.raises(UserError, match="skills.hold must be at least 1, got 0"):
        replace(held, hold=0)
    with pytest.raises(UserError, match="skills.run is missing; name the run"):
        SkillActionsConfig(hold=3)
    alone = {"skills": SkillActionsConfig(), "env": EnvConfig("point/plane", time_limit=7)}
    plain = Run.create(tmp_path / "plain", over(source, **alone))
    refused("sac learns no skills", skills=replace(held, run=str(plain.path)))


def benchmark(folder, *words):
    """Run the benchmark's script in a folder of its own."""
    words = [sys.executable, "scripts/reproduce/downstream.py", *words]
    words += ["--runs", str(folder / "runs"), "--out", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.learning
def test_skills_beat_learning_from_scratch_at_equal_steps_on_the_plane(tmp_path):
    benchmark(tmp_path, "--only", "plane")
    found = json.loads((tmp_path / "plane.json").read_text())
    assert set(found) == {"plane-goal", "plane-goals"}
    for name, task in found.items():
        at = np.searchsorted(task["scratch"]["steps"], task["steps"], side="right") - 1
        scratch = np.mean(task["scratch"]["return"][at])
        for kind, better in (("metra", True), ("untrained", False)):
            assert (np.mean(task[kind]["return"][-1]) > scratch) == better, (name, kind)


@pytest.mark.slow
def test_a_tiny_benchmark_is_run_tabled_and_drawn(tmp_path):
    benchmark(tmp_path, "--smoke", "--only", "plane-goals")
    rows = (tmp_path / "plane-goals.md").read_text().splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["metra", "untrained", "scratch", "scratch"]
    assert (tmp_path / "plane-goals.png").stat().st_size > 0
