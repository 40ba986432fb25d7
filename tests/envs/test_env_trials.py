"""Trials: what projections lose, what memory keeps and drops, and which tasks are ever met."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlssm.algorithms import meta_ppo
from rlssm.algorithms.meta_ppo import MetaPPOConfig
from rlssm.envs import suites
from rlssm.envs.base import Step
from rlssm.envs.projections import action_matrix, action_table, observation_matrix
from rlssm.envs.registry import EnvConfig
from rlssm.envs.tasks import Reference, Task
from rlssm.envs.trials import Suite, TrialConfig
from rlssm.errors import UserError
from rlssm.evaluation.trials import play_trials
from rlssm.nn.cores import GRUConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.collect import rollout, start
from rlssm.types import Box, Discrete, Policy, Spec, inputs

KINDS = ["identity", "permutation", "orthogonal", "gaussian"]


@dataclass(frozen=True)
class Marked:
    """Shows a number drawn at the reset at the first step alone; pays `pay` at every step."""

    steps: int = 3
    size: int = 1
    pay: float = 1.0
    truncates: bool = False

    @property
    def spec(self):
        return Spec(Box((self.size,)), Discrete(2), max_episode_steps=self.steps)

    @property
    def params(self):
        return ()

    def reset(self, key, params):
        mark = jax.random.normal(key)
        return (mark, jnp.int32(0)), jnp.full(self.size, mark)

    def step(self, key, state, action, params):
        mark, time = state
        last = time + 1 >= self.steps
        ends = (jnp.zeros_like(last), last) if self.truncates else (last, jnp.zeros_like(last))
        return (mark, time + 1), Step(jnp.zeros(self.size), jnp.float32(self.pay), *ends, {})


PLAIN = TrialConfig(episodes=2, observations="identity", actions="identity", squash="clip")
SHORT, LONG = Marked(3, pay=2.0), Marked(4, size=2)
TASKS = (Task("short", SHORT, Reference(0.0, 2.0)), Task("long", LONG, same_start=True))
HELD_OUT = (Task("other", Marked(5)),)


def stepped(suite, num_envs, steps):
    """Return first observations and steps `[T, B]` of trials in which action 0 is taken."""
    trials = suite.training(num_envs)
    state, obs = trials.reset(jax.random.key(0))

    def step(state, key):
        return trials.step(key, state, jnp.zeros(num_envs, jnp.int32))

    keys = jax.random.split(jax.random.key(1), steps)
    return trials, obs, jax.jit(partial(jax.lax.scan, step))(state, keys)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_projections_lose_nothing(kind):
    key = jax.random.key(3)
    seen = np.asarray(observation_matrix(kind, key, 5, 3))
    done = np.asarray(action_matrix(kind, key, 2, 4))
    np.testing.assert_allclose(np.linalg.pinv(seen) @ seen, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(done @ np.linalg.pinv(done), np.eye(2), atol=1e-4)
    assert set(np.asarray(action_table(kind, key, 3, 5)).tolist()) == {0, 1, 2}
    if kind == "orthogonal":
        np.testing.assert_allclose(seen.T @ seen, 5 / 3 * np.eye(3), atol=1e-5)
        corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        assert (np.abs(corners @ np.linalg.pinv(done).T) <= 1 + 1e-6).all(), "out of reach"


def test_episodes_and_trials_end_where_they_should():
    trials, _, out = stepped(Suite("two", TASKS, HELD_OUT, PLAIN), 3, 13)
    assert trials.groups == (2, 1)
    first, reset = np.asarray(out.first), np.asarray(out.reset)
    for column, length in ((0, 3), (1, 3), (2, 4)):
        t = np.arange(1, 14)
        np.testing.assert_array_equal(first[:, column], t % length == 0)
        np.testing.assert_array_equal(reset[:, column], t % (2 * length) == 0)
    np.testing.assert_array_equal(reset, out.info["trial_end"])
    np.testing.assert_allclose(out.reward, 1.0)  # 2 and 1, by their references


def test_starts_and_projections_last_for_a_trial():
    config = TrialConfig(episodes=2, observations="gaussian", actions="identity", squash="clip")
    _, start, out = stepped(Suite("two", TASKS, HELD_OUT, config), 2, 16)
    shown = np.concatenate([start[None], out.obs])
    long = shown[0::4, 1]  # first observations of the five episodes that begin in 16 steps
    np.testing.assert_array_equal(long[0], long[1])
    np.testing.assert_array_equal(long[2], long[3])
    assert not np.allclose(long[0], long[2])
    short = shown[0:12:3, 0]  # the same projection of another start: one line through the origin
    assert not np.allclose(short[0], short[1])
    np.testing.assert_allclose(short[0] / short[0, 0], short[1] / short[1, 0], rtol=1e-4)
    assert not np.allclose(short[0] / short[0, 0], short[2] / short[2, 0], rtol=1e-2)


# --- Memory -----------------------------------------------------------------------------------


def recalling(batch):
    """A policy that remembers the first number it saw since its memory was dropped."""
    return jnp.full((batch, 1), jnp.nan)


def recall(params, seen, reset, carry, key, greedy):
    carry = jnp.where(reset[:, None], seen.obs[:, :1], carry)
    return jnp.zeros(len(reset), jnp.int32), carry


@pytest.mark.parametrize("keep", [True, False])
def test_memory_lives_through_a_trial_and_not_beyond(keep):
    trial = TrialConfig(2, "identity", "identity", "clip", keep_memory=keep)
    envs = Suite("one", (Task("marked", Marked(3)),), trial=trial).training(1)
    state, obs = envs.reset(jax.random.key(0))
    reset, carry, known, marks = jnp.ones(1, bool), recalling(1), [], []
    for t in range(12):
        marks.append(float(state[0].inner[0][0]))
        seen = type("Seen", (), {"obs": obs})
        action, carry = recall(None, seen, reset, carry, None, True)
        known.append(float(carry[0, 0]))
        state, out = envs.step(jax.random.key(t), state, action)
        obs, reset = out.obs, out.reset
    length = 6 if keep else 3
    np.testing.assert_array_equal(known, np.repeat(marks[::length], length))
    assert len(set(marks)) == 4 and set(known) == set(marks[::length])


AGENT = MetaPPOConfig(
    core=GRUConfig(), torso=TorsoConfig(width=8, hidden=()), heads=MLPConfig(()), num_envs=2,
    rollout_length=16, minibatches=1, epochs=1, precision="highest",
)  # fmt: skip


def test_the_learner_sees_a_trial_as_one_episode():
    """Values follow the memory across episodes, the last reward is seen, trials are kept apart."""
    tasks = (Task("a", Marked(3, truncates=True)), Task("b", Marked(4)))
    suite = Suite("two", tasks, trial=PLAIN)
    envs, spec = suite.training(2), suite.spec
    agent = meta_ppo.init(AGENT, spec, jax.random.key(0))
    act = partial(meta_ppo.act, AGENT, spec, agent.params, greedy=False)
    carry = meta_ppo.networks(AGENT, spec).initial_carry(2)
    runner = start(envs, carry, jax.random.key(1))
    _, batch = jax.jit(lambda r: rollout(envs, act, r, meta_ppo.batch_spec(AGENT)))(runner)
    step, extras = batch.step, batch.step.extras
    np.testing.assert_array_equal(extras["next_value"][:-1], extras["value"][1:])
    np.testing.assert_array_equal(extras["trial_end"][:-1], batch.reset[1:])
    whole = meta_ppo.as_one_episode(batch).step
    np.testing.assert_array_equal(whole.terminated, extras["trial_end"])
    assert not whole.truncated.any() and np.asarray(step.truncated)[:, 0].any()
    seen = inputs(batch)
    inner = np.asarray(batch.first & ~batch.reset)
    assert inner.sum() >= 4 and (np.asarray(seen.previous.reward)[inner] == 1).all()
    assert (np.asarray(seen.previous.reward)[np.asarray(batch.first & batch.reset)] == 0).all()
    # A reward of another trial changes no advantage of this one: the planted constant is lost.
    hyper = agent.hyper
    clean = meta_ppo.ppo.advantages(AGENT, hyper, meta_ppo.as_one_episode(batch))
    end = int(np.flatnonzero(np.asarray(extras["trial_end"])[:, 0])[0])
    planted = batch._replace(step=step._replace(reward=step.reward.at[end + 1].add(100.0)))
    found = meta_ppo.ppo.advantages(AGENT, hyper, meta_ppo.as_one_episode(planted))
    np.testing.assert_array_equal(found[: end + 1, 0], clean[: end + 1, 0])
    within = batch._replace(step=step._replace(reward=step.reward.at[end - 1].add(100.0)))
    found = meta_ppo.ppo.advantages(AGENT, hyper, meta_ppo.as_one_episode(within))
    assert (np.asarray(found - clean)[: end - 2, 0] > 1).all(), "the episode before counts too"


def test_trials_are_counted_by_episode():
    suite = Suite("two", TASKS, HELD_OUT, PLAIN)
    played = play_trials(
        suite.training(3), Policy(recalling, recall), jnp.zeros(1), jax.random.key(0)
    )
    np.testing.assert_array_equal(played.episode_return[0], [[3, 3], [3, 3], [4, 4]])
    np.testing.assert_array_equal(played.length[0], [[3, 3], [3, 3], [4, 4]])
    assert played.finished.all()


# --- Suites -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", suites.SUITES)
def test_held_out_tasks_are_not_among_those_learnt_from(name):
    suite = suites.make(f"tasks/{name}")
    trained, tested = suite.training(64).tasks, suite.testing(64).tasks
    assert suite.held_out and trained == suite.train and tested == suite.held_out
    assert not {task.env for task in trained} & {task.env for task in tested}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Suite("s", TASKS, (Task("x", SHORT),)), "x is held out and trained on"),
        (lambda: Suite("s", TASKS, (TASKS[0],)), "each named once"),
        (lambda: Suite("s", TASKS, trial=TrialConfig(obs_size=1)), "obs_size must be at least 2"),
        (lambda: Suite("s", TASKS).training(1), "num_envs must be at least 2"),
        (lambda: EnvConfig("tasks/clasic"), "classic"),
        (lambda: EnvConfig("tasks/classic", noise=0.1), "left out with a suite of tasks"),
        (lambda: EnvConfig("CartPole-v1", trial=PLAIN), "left out where there is a single task"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert words in str(error.value)


def test_the_best_normal_arm_is_known():
    draws = np.random.default_rng(0).normal(size=(200_000, 10))
    for arms, known in suites.GREATEST_NORMAL.items():
        assert abs(draws[:, :arms].max(1).mean() - known) < 0.01
