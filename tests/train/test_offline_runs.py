"""Runs that learn from a dataset, from stored experience, or from both."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_runs import rows

from rlssm.algorithms.awac import AWACConfig
from rlssm.algorithms.bc import BCConfig
from rlssm.algorithms.h2o import H2OConfig
from rlssm.algorithms.iql import IQLConfig
from rlssm.algorithms.moorl import MOORLConfig
from rlssm.algorithms.ppo import PPOConfig
from rlssm.algorithms.sac import SACConfig
from rlssm.data import minari_io
from rlssm.data.dataset import DatasetInfo, Episode, from_episodes
from rlssm.data.mixing import ExperienceConfig
from rlssm.data.scores import Reference
from rlssm.envs.perturbed import DynamicsConfig
from rlssm.envs.registry import EnvConfig, SimulatorConfig, make
from rlssm.errors import UserError
from rlssm.evaluation.evaluate import evaluate_seeds
from rlssm.nn.cores import GRUConfig
from rlssm.nn.mlp import MLPConfig
from rlssm.nn.torso import TorsoConfig
from rlssm.train.config import RunConfig
from rlssm.train.loop import fit
from rlssm.train.run import EVALUATION_STREAM, Run
from rlssm.types import Box, Discrete, Spec

SMALL = {"actor": MLPConfig((8,), "relu"), "critic": MLPConfig((8,), "relu")}
EXPERIENCE = ExperienceConfig(batch=16, num_envs=2, rollout_length=5, warmup=30, capacity=200)
AGENT = SACConfig(**SMALL, experience=EXPERIENCE)
RECURRENT = replace(
    AGENT,
    core=GRUConfig(),
    torso=TorsoConfig(width=8, hidden=()),
    experience=replace(EXPERIENCE, length=6, burn_in=2, store_carry=True),
)


@pytest.fixture(autouse=True)
def dataset(tmp_path, monkeypatch):
    """Write ten random episodes that pass for Pendulum's; returns their mean return."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    rng = np.random.default_rng(0)
    made = []
    for _ in range(10):
        obs = rng.normal(size=(13, 3)).astype(np.float32)
        last = np.arange(12) == 11
        made.append(
            Episode(obs, rng.uniform(-1, 1, (12, 1)).astype(np.float32),
                    rng.normal(size=12).astype(np.float32), np.zeros(12, bool), last)
        )  # fmt: skip
    spec = Spec(Box((3,)), Box((1,)), max_episode_steps=15)
    info = DatasetInfo(
        "test/small-v0",
        spec,
        ((-2.0,), (2.0,)),
        "Pendulum-v1",
        Reference(-1200.0, -150.0, "a test"),
    )
    minari_io.write(from_episodes(made, info))
    return np.mean([episode.reward.sum() for episode in made])


def config(agent=AGENT, **changes):
    settings = {
        "env": EnvConfig("dataset", time_limit=15),
        "agent": agent,
        "dataset": "test/small",
        "steps": 100,
        "log_every": 20,
        "eval_every": 40,
        "checkpoint_every": 20,
        "eval_episodes": 2,
        "final_episodes": 2,
    }
    return RunConfig(**{**settings, **changes})


def test_phases():
    online = config(dataset=None, env=EnvConfig("Pendulum-v1"))
    assert online.schedule == (("random", 3), ("online", 10))
    assert config().schedule == (("random", 3), ("online", 10))
    pretrained = config(offline_steps=40)
    assert pretrained.schedule == (("offline", 4), ("fill", 7), ("online", 10))
    offline = config(IQLConfig())
    assert offline.schedule == (("offline", 100),) and not offline.online
    assert config(IQLConfig(experience=EXPERIENCE), offline_steps=0).schedule[0] == ("random", 3)
    assert config(PPOConfig(), dataset=None).schedule == (("online", 1),)


META = MOORLConfig(**SMALL, inner_steps=5, experience=EXPERIENCE)


@pytest.mark.parametrize(
    "agent",
    [
        pytest.param(AGENT, id="none"),
        pytest.param(RECURRENT, id="gru", marks=pytest.mark.slow),
        pytest.param(META, id="moorl", marks=pytest.mark.slow),
    ],
)
def test_offline_then_online_goes_on_bit_for_bit(tmp_path, agent):
    """The replay is in the checkpoint; every phase is cut short once."""
    whole = config(agent, offline_steps=40, seeds=2, keep=20)
    fit(whole, tmp_path / "whole", progress=False)
    interrupted = Run.create(tmp_path / "cut", whole)
    for steps in (20, 60, 80):
        (tmp_path / "cut").mkdir(exist_ok=True)
        source = Run(tmp_path / "whole").state(steps)
        interrupted.checkpoints.save(steps, source)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            lines = (tmp_path / "whole" / name).read_text().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= steps]
            (tmp_path / "cut" / name).write_text("".join(kept))
    fit(whole, tmp_path / "cut", progress=False)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert rows(tmp_path / "cut" / name)[1:] == rows(tmp_path / "whole" / name)[1:]
    states = [Run(tmp_path / name).state("last") for name in ("cut", "whole")]
    data = [jax.tree.map(_plain, state) for state in states]
    jax.tree.map(np.testing.assert_array_equal, *data)
    replay = states[0].replay.storage.experience
    assert replay.reward.shape == (2, 2, 100) and np.any(np.asarray(replay.reward) != 0)


IMPERFECT = SimulatorConfig(gravity=2.0)
TRUSTING = H2OConfig(
    **SMALL, discriminator=MLPConfig((8,), "relu"), experience=EXPERIENCE, gap_samples=2
)


def test_a_run_with_a_simulator_acts_there_and_is_judged_in_the_environment(tmp_path):
    run = fit(config(TRUSTING, sim=IMPERFECT), tmp_path / "run", progress=False)
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert all(len(last[f"simulator/{name}"]) == 1 for name in ("ratio", "gap"))

    stored = run.state().replay.storage.experience  # it moved as the simulator moves
    obs, action, after = (
        np.asarray(x)[0, :, :10] for x in (stored.obs, stored.action, stored.next_obs)
    )
    speed = obs[..., 2] + 0.05 * (15 * 2 * obs[..., 1] + 3 * 2 * action[..., 0])
    np.testing.assert_allclose(after[..., 2], np.clip(speed, -8, 8), atol=1e-4)

    real = make(EnvConfig("Pendulum-v1", time_limit=15))
    key = jax.random.fold_in(jax.random.key(3), EVALUATION_STREAM)
    found = run.evaluate(episodes=2, seed=3).episode_return
    expected = evaluate_seeds(real, run.program.policy, run.params(), key, episodes=2)
    np.testing.assert_array_equal(found, expected.episode_return)


@pytest.mark.slow
def test_a_run_with_a_simulator_goes_on_bit_for_bit(tmp_path):
    whole = config(TRUSTING, sim=IMPERFECT, seeds=2, keep=20)
    run = fit(whole, tmp_path / "whole", progress=False)
    cut = Run.create(tmp_path / "cut", whole)
    cut.checkpoints.save(60, run.state(60))
    fit(whole, tmp_path / "cut", progress=False)
    states = [jax.tree.map(_plain, Run(tmp_path / x).state("last")) for x in ("cut", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_simulator_of_a_task():
    gravity = SimulatorConfig(gravity=2.0)
    cheetah = EnvConfig("gym/HalfCheetah-v5", hide=(8,), time_limit=100)
    found = gravity.of(cheetah)
    assert found.id == "mjx-fast/HalfCheetah-v5" and found.dynamics == DynamicsConfig(gravity=2.0)
    assert (found.hide, found.time_limit) == ((8,), 100)
    named = SimulatorConfig(env="mjx/HalfCheetah-v5").of(cheetah)
    assert named.id == "mjx/HalfCheetah-v5" and named.dynamics == DynamicsConfig()
    assert gravity.of(EnvConfig("Pendulum-v1")).id == "Pendulum-v1"
    assert gravity.of(EnvConfig("gym/Pendulum-v1")).id == "gym/Pendulum-v1"
    plain = config()
    assert plain.acting is plain.env and not plain.simulated


def _plain(x):
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_a_dataset_run_says_what_it_learnt_from(tmp_path, dataset):
    run = fit(config(BCConfig(experience=EXPERIENCE)), tmp_path / "run", progress=False)
    assert run.config.env.id == "Pendulum-v1" and run.state().replay is None
    summary = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert summary["return_mean"] == pytest.approx(dataset, rel=1e-5)
    returns, scores = (run.result["last"][f"eval/{name}"] for name in ("return", "score"))
    assert scores == pytest.approx(100 * (np.array(returns) + 1200) / 1050, rel=1e-5)
    assert (tmp_path / "run" / "plots" / "return.png").is_file()
    assert run.config.dataset == "test/small-v0"
    again = fit(config(BCConfig(experience=EXPERIENCE)), tmp_path / "run", progress=False)
    assert again.result == run.result


def test_an_offline_run_cannot_go_on_in_the_environment(tmp_path):
    run = Run.create(tmp_path / "run", config(offline_steps=100))
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(UserError, match="learnt from its dataset alone"):
        run.extend(200)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_another_dataset_of_the_same_name_is_noticed(tmp_path):
    run = Run.create(tmp_path / "run", config())
    file = tmp_path / "run" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"steps": 119}))
    with pytest.raises(UserError, match="is not the one .*: its steps was 119, now 120"):
        fit(run.config, tmp_path / "run", progress=False)


@pytest.mark.slow
def test_hidden_entries_are_hidden_in_both(tmp_path):
    hidden = config(env=EnvConfig("dataset", time_limit=15, hide=(2,)), offline_steps=20)
    run = Run.create(tmp_path / "run", hidden)
    assert run.data.obs.shape[-1] == 2 and run.env.spec.obs == Box((2,))
    fit(hidden, tmp_path / "run", progress=False)


def test_observation_statistics_are_those_of_the_dataset(tmp_path):
    run = Run.create(tmp_path / "run", config(replace(AGENT, normalize_obs=True), seeds=2))
    statistics = run.initial_state().agent.params["statistics"]
    obs = np.asarray(run.data.obs)
    np.testing.assert_allclose(statistics.mean, np.stack([obs.mean(0)] * 2), atol=1e-5)
    variance = statistics.m2 / statistics.count[:, None]
    np.testing.assert_allclose(variance, np.stack([obs.var(0)] * 2), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"agent": BCConfig(), "dataset": None}, "bc learns from a dataset; name one with dataset"),
        ({"agent": PPOConfig()}, "dataset must be left out: ppo takes none, got 'test/small'"),
        ({"offline_steps": 101}, "offline_steps must be from 0 to 100, got 101"),
        (
            {"offline_steps": 99},
            "offline_steps must leave room for a round of 10 environment steps before steps = 100",
        ),
        ({"env": EnvConfig("dataset", noise=0.1)}, "env.noise must be 0 with a dataset, which"),
        (
            {"dataset": None, "offline_steps": 10},
            "offline_steps must be left out where there is no dataset, got 10",
        ),
        (
            {"dataset": None, "agent": replace(AGENT, normalize_obs=True)},
            "normalize_obs must be False without a dataset, got True",
        ),
        (
            {"env": EnvConfig("CartPole-v1")},
            "dataset test/small-v0 does not fit the environment: its observations are .*",
        ),
        (
            {"steps": 30},
            r"steps must be above 30, those before the first update in the environment "
            r"\(offline_steps \+ warmup\), got 30",
        ),
        (
            {"agent": TRUSTING, "dataset": None},
            "h2o learns from a dataset and a simulator; name the former with dataset",
        ),
        (
            {"agent": TRUSTING},
            "h2o acts in a simulator; name one with sim, such as gravity=2, or another program",
        ),
        (
            {"agent": TRUSTING, "sim": IMPERFECT, "offline_steps": 20},
            "offline_steps must be left out: h2o always needs both, got 20",
        ),
        (
            {"agent": BCConfig(), "sim": IMPERFECT},
            "sim has no use where bc learns from the dataset alone; leave it out, or set",
        ),
        (
            {"sim": SimulatorConfig(friction=0.3)},
            "dynamics.friction must be 1, because this environment's friction cannot be changed",
        ),
        (
            {"sim": SimulatorConfig(env="CartPole-v1")},
            r"the obs space of sim.env must be that of env, Box\(.*\), got Box",
        ),
        ({"dataset": None}, "env is missing; name an environment, or a dataset that is from one"),
        (
            {"agent": replace(AGENT, experience=replace(EXPERIENCE, capacity=10**12))},
            r"capacity 1000000000000 with 1 member needs .* GiB",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        Run.create(tmp_path / "run", config(**changes))
    assert not (tmp_path / "run").exists()


def test_what_would_be_ignored_is_refused():
    with pytest.raises(UserError, match="store_carry must be False without a memory, got True"):
        replace(AGENT, experience=replace(EXPERIENCE, store_carry=True))
    uneven = replace(AGENT, experience=replace(EXPERIENCE, prior=0.01))
    config(uneven, dataset=None, env=EnvConfig("Pendulum-v1"))
    with pytest.raises(UserError) as caught:
        config(uneven)
    assert str(caught.value) == (
        "prior must be 0, 1 or leave each source at least one of the 16 windows of a batch, got "
        "0.01"
    )


def test_init_from_takes_every_network_of_the_same_algorithm_and_the_policy_of_another(tmp_path):
    agent = IQLConfig(**SMALL, experience=EXPERIENCE)
    source = fit(config(agent), tmp_path / "iql", progress=False)
    agent = replace(agent, learning_rate=1e-4)
    start = Run.create(tmp_path / "a", config(agent, init_from=str(source.path))).initial_state()
    learnt = source.state().agent
    for name in ("params", "critic", "target", "value"):
        here, there = getattr(start.agent, name), getattr(learnt, name)
        jax.tree.map(np.testing.assert_array_equal, here, there)
    assert start.agent.hyper["learning_rate"] == np.float32(1e-4)
    other = AWACConfig(**SMALL, experience=EXPERIENCE)
    start = Run.create(tmp_path / "b", config(other, init_from=str(source.path))).initial_state()
    jax.tree.map(np.testing.assert_array_equal, start.agent.params, learnt.params)
    assert np.any(jax.tree.leaves(start.agent.critic)[0] != jax.tree.leaves(learnt.critic)[0])


def test_episodes_are_cut_where_those_of_the_dataset_were(tmp_path):
    unlimited = EnvConfig("dataset")
    plain = Run.create(tmp_path / "plain", config(env=unlimited))
    assert plain.config.env == EnvConfig("Pendulum-v1", time_limit=15)
    dataset = minari_io.read("test/small-v0")
    spec = replace(dataset.info.spec, max_episode_steps=50)
    info = replace(dataset.info, id="test/short-v0", spec=spec)
    minari_io.write(dataset.replace(info=info))
    run = Run.create(tmp_path / "short", config(dataset="test/short", env=unlimited))
    assert run.env.spec.max_episode_steps == run.config.env.time_limit == 50
    assert run.config.dataset == "test/short-v0"


@pytest.fixture
def cart(tmp_path):
    """Write one random episode that passes for CartPole's."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(6, 4)).astype(np.float32)
    ends = np.arange(5) == 4
    one = Episode(
        obs, rng.integers(0, 2, 5).astype(np.int32), np.ones(5, np.float32), ends, ~ends & False
    )
    spec = Spec(Box((4,)), Discrete(2), max_episode_steps=500)
    minari_io.write(from_episodes([one], DatasetInfo("test/cart-v0", spec, env="CartPole-v1")))


def test_a_discrete_dataset_and_a_continuous_algorithm(tmp_path, cart):
    with pytest.raises(UserError, match="sac needs continuous actions"):
        Run.create(tmp_path / "run", config(dataset="test/cart", env=EnvConfig("CartPole-v1")))


@pytest.mark.slow
def test_discrete_actions_are_random_before_learning_starts(tmp_path, cart):
    agent = IQLConfig(**SMALL, experience=replace(EXPERIENCE, warmup=90))
    env = EnvConfig("CartPole-v1")
    run = fit(
        config(agent, dataset="test/cart", env=env, offline_steps=0), tmp_path / "run",
        progress=False,
    )  # fmt: skip
    stored = np.asarray(run.state().replay.storage.experience.action)[0, :, :45]
    assert set(np.unique(stored)) == {0, 1} and stored.mean() == pytest.approx(0.5, abs=0.2)


def test_actions_are_random_before_learning_starts(tmp_path):
    run = fit(
        config(dataset=None, env=EnvConfig("Pendulum-v1"), steps=40, final_episodes=1),
        tmp_path / "run", progress=False,
    )  # fmt: skip
    stored = np.asarray(run.state(20).replay.storage.experience.action)[0, :, :10]
    assert stored.std() == pytest.approx(3**-0.5, rel=0.35)
    start = run.initial_state().agent
    jax.tree.map(np.testing.assert_array_equal, start.params, run.state(20).agent.params)
