"""A run directory: what was asked for, how far it is, and what came out.

config.json        the whole configuration; round-trips
environment.json   versions, devices, git revision
dataset.json       what the dataset is and what its episodes earned, in a run that has one
metrics.jsonl      one row per log point, a value per member; TensorBoard files beside it
evaluations.jsonl  one row per evaluation
checkpoints/       the last ones and the best one
skills/            the skills that are the actions, in a run that acts by them
plots/             pictures
result.json        scores of the last and the best weights; exists once the run is complete
"""

import dataclasses
import json
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jaxtyping import Array, Float, Int

from rlssm.data import replay
from rlssm.data.dataset import OfflineDataset, with_hidden, with_returns, with_rewards
from rlssm.data.scores import Reference, normalise
from rlssm.envs.base import Environment
from rlssm.envs.registry import FROM_DATASET, SimulatorConfig, is_suite, make
from rlssm.envs.trials import Suite
from rlssm.errors import UserError, require
from rlssm.evaluation.evaluate import Episodes, evaluate_seeds
from rlssm.evaluation.plots import Curve, adaptation_curves, learning_curves
from rlssm.evaluation.trials import Adaptation, Played, adaptation, by_episode, play_trials
from rlssm.evaluation.trials import scores as trial_scores
from rlssm.io import config as config_io
from rlssm.io.checkpoint import Checkpoints
from rlssm.io.logging import read_metric
from rlssm.nn import normalizers
from rlssm.train import datasets, hierarchy
from rlssm.train.actor import Actor
from rlssm.train.adapting import own_suite
from rlssm.train.config import RunConfig
from rlssm.train.devices import make_mesh
from rlssm.train.hierarchy import LearntSkills
from rlssm.train.program import (
    LoopState,
    Program,
    collected,
    make_program,
    unit_of,
    wish_of,
)
from rlssm.train.skills import read_skill, require_skills, with_skill
from rlssm.types import Params, Policy, Rollout, Windows, zeros

Which = int | Literal["last", "best"]  # a checkpoint: its steps, the newest, or the best
RESULT = "result.json"
SKILLS = "skills"  # the folder of the skills that are the actions
AGENT = "agent"  # where a checkpoint of the loop's state has it
PARAMS = f"{AGENT}/params"
STARTS_AFRESH = ("opt_state", "hyper", "updates", "online_updates", "key")  # with init_from
FINAL = 0x66696E61  # folded into the evaluation key of the last step
EVALUATION_STREAM = (
    0x6576616C  # folded into the seed's key, so that evaluation never touches training
)


class Best(PyTreeNode):
    """The weights with the highest mean evaluation return so far, per member."""

    params: Params  # leaves [S, ...]
    score: Float[Array, " S"]
    steps: Int[Array, " S"]


class Run:
    """A handle on a run directory; `Run(path)` opens one that exists."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file = self.path / "config.json"
        if not file.is_file():
            raise UserError(f"{self.path} is not a run directory: it has no config.json")
        self.config: RunConfig = config_io.load(file, RunConfig)
        self.checkpoints = Checkpoints(self.path, keep=self.config.keep)
        self.loaded: OfflineDataset | None = None  # on the host, until `data` takes it

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> "Run":
        """Make a run directory, or open the one that is there if it has the same configuration."""
        path = Path(path)
        dataset = None if config.dataset is None else datasets.load(config.dataset)
        if dataset is not None:  # by its full id, so that a newer version is not taken later
            config = replace(config, dataset=dataset.info.id)
        config = _with_env(config, dataset)
        if (path / "config.json").exists():
            run = cls(path)
            changes = config_io.difference(run.config, config)
            if changes:
                raise UserError(
                    f"{path} holds a run of another configuration ({'; '.join(changes[:3])}"
                    f"{', ...' if len(changes) > 3 else ''}); name another directory"
                )
            run.loaded = dataset
            return run
        learnt = _learnt_skills(config)
        _refuse(config, dataset, learnt)
        config_io.make_directory(path)
        config_io.save_json(path / "environment.json", config_io.environment())
        if dataset is not None:
            config_io.save_json(path / "dataset.json", datasets.summary(dataset, config.env))
        if learnt is not None:
            learnt.save(path / SKILLS)
        config_io.save(path / "config.json", config)
        run = cls(path)
        run.loaded = dataset
        return run

    # --- What runs ----------------------------------------------------------------------------

    @cached_property
    def env(self) -> Environment | Suite:
        """The environment, or the tasks, to evaluate in."""
        return hierarchy.over(make(self.config.env), self.skills, self.config.skills.hold)

    @cached_property
    def skills(self) -> LearntSkills | None:
        """The skills that are the actions, in a run that acts by some."""
        acts_by_them = self.config.skills.run is not None
        return LearntSkills.load(self.path / SKILLS) if acts_by_them else None

    @cached_property
    def program(self) -> Program:
        env = hierarchy.over(make(self.config.acting), self.skills, self.config.skills.hold)
        return make_program(self.config.agent, env, online=self.config.online)

    @cached_property
    def data(self) -> OfflineDataset | None:
        """The dataset as the learner sees it, on the device."""
        if self.config.dataset is None:
            return None
        loaded, self.loaded = self.loaded or datasets.load(self.config.dataset), None
        found = json.loads(json.dumps(datasets.summary(loaded, self.config.env)))
        for name, before in (self.dataset or {}).items():
            if found.get(name) != before:
                raise UserError(
                    f"dataset {loaded.info.id} is not the one that {self.path} learns from: its "
                    f"{name} was {before}, now {found.get(name)}"
                )
        dataset = jax.device_put(_as_seen(self.config, loaded))
        wish = wish_of(self.config.agent)
        if not isinstance(wish, Windows) or wish.returns is None:
            return dataset
        seen = with_rewards(dataset, wish.reward_scale, wish.reward_shift)
        return dataset.replace(extras=with_returns(seen, wish.returns).extras)

    def initial_state(self) -> LoopState:
        """Return the state before the first update, leaves `[S, ...]`."""
        state = jax.jit(jax.vmap(self.program.init))(*self._members())
        if self.data is not None and "statistics" in state.agent.params:
            seen = normalizers.update(normalizers.init(zeros(self.env.spec.obs)), self.data.obs)
            seen = jax.tree.map(lambda x: jnp.repeat(x[None], state.rounds.shape[0], 0), seen)
            params = state.agent.params | {"statistics": seen}
            state = state.replace(agent=state.agent.replace(params=params))
        if self.config.init_from is None:
            return state
        return _with_learnt(state, self.config, Run(self.config.init_from))

    def _members(self) -> tuple[Array, dict[str, Array]]:
        members = self.config.members
        keys = jax.vmap(jax.random.key)(jnp.array([int(member["seed"]) for member in members]))
        swept = {
            name: jnp.array([m[name] for m in members], jnp.float32) for name in self.config.sweep
        }
        return keys, swept

    # --- What is saved ------------------------------------------------------------------------

    def state(self, which: Which = "last") -> LoopState:
        """Return the loop state of a checkpoint: "last", or a number of steps."""
        template = jax.eval_shape(jax.vmap(self.program.init), *self._members())
        return self.checkpoints.restore(which, template)

    def best(self) -> Best:
        """Return the best weights so far, with their scores."""

        def template(keys: Array, swept: dict[str, Array]) -> Best:
            state = jax.vmap(self.program.init)(keys, swept)
            zeros = jnp.zeros(keys.shape)
            return Best(self.program.params(state), zeros, zeros.astype(jnp.int32))

        return self.checkpoints.restore("best", jax.eval_shape(template, *self._members()))

    def params(self, which: Which = "last") -> Params:
        """Return the weights of a checkpoint ("last", "best" or steps), leaves `[S, ...]`."""
        if which == "best":
            return self.best().params
        template = jax.eval_shape(jax.vmap(self.program.init), *self._members())
        return self.checkpoints.restore(which, self.program.params(template), PARAMS)

    def learnt(self) -> Any:
        """Return the agent of the newest checkpoint, leaves `[S, ...]`."""
        template = jax.eval_shape(jax.vmap(self.program.init), *self._members())
        return self.checkpoints.restore("last", template.agent, AGENT)

    def member_params(self, which: Which, member: int) -> Params:
        """Return the weights of one member."""
        members = len(self.config.members)
        require(0 <= member < members, "member", member, f"from 0 to {members - 1}")
        return jax.tree.map(lambda x: x[member], self.params(which))

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step and was evaluated."""
        return (self.path / RESULT).exists()

    @property
    def result(self) -> dict[str, Any]:
        """What came out, as in result.json."""
        if not self.complete:
            raise UserError(f"{self.path} is not complete; go on with: rlssm resume {self.path}")
        file = self.path / RESULT
        try:
            result = json.loads(file.read_bytes())
            return {name: result[name] for name in ("members", "last", "best")}
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{file} is damaged; remove it, and rlssm resume {self.path} writes it again"
            ) from None

    @property
    def adapts(self) -> bool:
        """Whether the agent was trained on trials of a suite of tasks."""
        return isinstance(self.env, Suite)

    def adaptation(self, which: Literal["last", "best"] = "last") -> dict[str, np.ndarray]:
        """Return the scores by the episode of a trial, `[S, K]`, of either part of the suite."""
        if not self.adapts:
            raise UserError(f"{self.path} was not trained on tasks, so there is no adaptation")
        curves = self.result[which]["adaptation"]
        return {part.replace("_", " "): np.array(x["mean"]) for part, x in curves.items()}

    def go_back(self, steps: int) -> None:
        """Make an older checkpoint the newest one; the run is no longer complete."""
        known = self.checkpoints.steps()
        require(steps in known, "checkpoint", steps, f"one of {known}")
        if steps != known[-1]:
            (self.path / RESULT).unlink(missing_ok=True)
            self.checkpoints.discard_after(steps)

    def extend(self, steps: int) -> "Run":
        """Return this run with a larger number of steps to train for; it is no longer complete."""
        require(
            steps >= self.config.steps, "steps", steps, f"at least {self.config.steps}, as before"
        )
        longer = replace(self.config, steps=steps)
        if longer.online != self.config.online:
            raise UserError(
                f"{self.path} learnt from its dataset alone and kept no place for steps of the "
                "environment; start a new run with --init-from, or with --steps and "
                "--offline-steps as they are to be"
            )
        if steps > self.config.steps:
            (self.path / RESULT).unlink(missing_ok=True)
            config_io.save(self.path / "config.json", longer)
        return Run(self.path)

    def finish(self) -> None:
        """Evaluate the last and the best weights, draw the curve, and mark the run complete."""
        steps = self.checkpoints.latest()
        best = self.best()
        candidates = {
            "last": (self.params("last"), np.full(len(self.config.members), steps)),
            "best": (best.params, np.asarray(best.steps)),
        }
        result: dict[str, Any] = {"members": self.config.members}
        for name, (params, at) in candidates.items():
            key = jax.random.fold_in(self.evaluation_key(int(steps or 0)), FINAL)
            played = self.play(params, key, self.config.final_episodes)
            values = {"steps": at, **self.scores(played)}
            result[name] = {k: np.ma.asarray(v).tolist() for k, v in values.items()}
            if isinstance(played, Adaptation):
                result[name]["adaptation"] = by_episode(played)
        self._draw()
        config_io.save_json(self.path / RESULT, result)
        if self.adapts:
            config_io.make_directory(self.path / "plots")
            picture = self.path / "plots" / "adaptation.png"
            adaptation_curves(picture, self.adaptation(), title=describe(self.config))

    def _draw(self) -> None:
        """Draw the return over training."""
        metric = self.config.headline
        if metric == "episode/return":
            if not read_metric(self.path / "metrics.jsonl", "episode/count")[1].any():
                return
        curves = {name: c for name, c in self.curves(metric).items() if np.isfinite(c.values).any()}
        if not curves:
            return
        lines = {} if self.dataset is None else {"dataset": self.dataset["return_mean"]}
        config_io.make_directory(self.path / "plots")
        learning_curves(
            self.path / "plots" / "return.png", curves, metric=metric, lines=lines,
            title=describe(self.config),
        )  # fmt: skip

    # --- What comes out -----------------------------------------------------------------------

    def evaluate(
        self,
        which: Which = "last",
        *,
        episodes: int = 128,
        greedy: bool | None = None,
        seed: int = 0,
        skill: str | None = None,
    ) -> Any:
        """Play whole episodes with the weights of a checkpoint; leaves `[S, episodes]`.

        On a suite of tasks, trials; see `play`.
        """
        require(0 <= seed < 2**31, "seed", seed, "from 0 to 2147483647")
        key = jax.random.fold_in(jax.random.key(seed), EVALUATION_STREAM)
        policy = self.policy(skill)
        return self.play(self.params(which), key, episodes, greedy=greedy, policy=policy)

    def policy(self, skill: str | None = None) -> Policy:
        """Return how the agent acts, under one of the skills it learnt where `skill` names one.

        Raises:
            UserError: if it learnt none, or none of that name; see `read_skill`.
        """
        if skill is None:
            return self.program.policy
        agent = self.config.agent
        return with_skill(agent, self.env.spec, read_skill(agent, skill))

    def play(
        self,
        params: Params,
        key: Array,
        episodes: int,
        *,
        greedy: bool | None = None,
        policy: Policy | None = None,
    ) -> Episodes | Adaptation:
        """Play whole episodes with weights `[S, ...]`; the same starts for every member.

        On a suite of tasks, as many trials. Actions are the most likely ones, in trials sampled,
        unless `greedy` says.
        """
        env, policy = self.env, policy or self.program.policy
        if isinstance(env, Suite):
            return adaptation(env, policy, params, key, trials=episodes, greedy=bool(greedy))
        greedy = True if greedy is None else greedy
        return evaluate_seeds(env, policy, params, key, episodes=episodes, greedy=greedy)

    def adapt(
        self,
        env: Any,
        *,
        which: Which = "best",
        episodes: int | None = None,
        trials: int = 32,
        span: float | None = None,
        seed: int = 0,
    ) -> Played:
        """Let the agent adapt to another environment, without learning: trials of it.

        Args:
            env: a gymnax environment, one of this library, or an id; its observations and actions
                may not be larger than the agent's.
            which: which weights.
            episodes: of a trial; default as many as in training.
            trials: how many, each under a projection of its own.
            span: how much more a good policy earns than a random one, for rewards on the scale of
                training. Default: the size of the mean random return, or its deviation if larger.
            seed: of everything random.

        Returns:
            Returns in the environment's own units, lengths and ends, leaves `[S, trials, K]`.

        Raises:
            UserError: if the run was not trained on trials, or the environment does not fit.
        """
        if not isinstance(self.env, Suite):
            raise UserError(f"{self.path} was not trained on tasks; adapt needs a meta-ppo run")
        measure_key, play_key = jax.random.split(jax.random.key(seed))
        suite = own_suite(self.env, env, measure_key, episodes, span)
        played = play_trials(
            suite.training(trials), self.program.policy, self.params(which), play_key
        )
        scale = suite.train[0].reference.span
        return played._replace(episode_return=played.episode_return * scale)

    def scores(self, played: Any) -> dict[str, np.ma.MaskedArray]:
        """Return the means over episodes `[S]`; what is not defined is left out.

        The normalised score is by the reference in dataset.json.
        """
        if isinstance(played, Adaptation):
            return {name: np.ma.asarray(x) for name, x in trial_scores(played).items()}
        means = {
            "return": np.asarray(played.episode_return).mean(1),
            "length": np.asarray(played.length).mean(1),
            "success": np.asarray(played.success).mean(1),
            "finished": np.asarray(played.finished).mean(1),
        }
        if np.isnan(means["success"]).all():
            del means["success"]
        if self.dataset is not None and self.dataset["reference"] is not None:
            means["score"] = normalise(means["return"], Reference(**self.dataset["reference"]))
        return {f"eval/{name}": np.ma.asarray(x) for name, x in means.items()}

    @cached_property
    def dataset(self) -> dict[str, Any] | None:
        """What dataset.json says, None in a run without a dataset."""
        if self.config.dataset is None:
            return None
        file = self.path / "dataset.json"
        try:
            return json.loads(file.read_bytes())
        except (OSError, ValueError):
            raise UserError(f"{file} is missing or damaged; make the run again") from None

    def evaluation_key(self, steps: int) -> Array:
        """Return the key of the evaluation after `steps`."""
        stream = jax.random.fold_in(jax.random.key(self.config.seed), EVALUATION_STREAM)
        return jax.random.fold_in(stream, steps)

    def curves(self, metric: str = "episode/return") -> dict[str, Curve]:
        """Return a logged metric over time, one curve for each setting of a sweep."""
        file = "evaluations.jsonl" if metric.startswith("eval/") else "metrics.jsonl"
        steps, values = read_metric(self.path / file, metric)
        seeds = self.config.seeds
        return {
            " ".join(f"{name}={value:g}" for name, value in setting.items()) or self.path.name:
                Curve(steps, values[:, i * seeds : (i + 1) * seeds])
            for i, setting in enumerate(self.config.settings)
        }  # fmt: skip

    def actor(self, which: Which = "best", *, member: int = 0, batch: int | None = None) -> Actor:
        """Return the policy of one member to call from ordinary Python."""
        params = self.member_params(which, member)
        return Actor(self.program.policy, params, self.env.spec, batch=batch)


def _with_env(config: RunConfig, dataset: OfflineDataset | None) -> RunConfig:
    """Return the configuration with its environment named, that of the dataset if need be."""
    if config.env.id != FROM_DATASET:
        return config
    if dataset is None:
        raise UserError("env is missing; name an environment, or a dataset that is from one")
    env = datasets.environment(dataset.info)
    if env is None:
        raise UserError(
            f"dataset {dataset.info.id} does not say which environment it is from; name it with env"
        )
    chosen = replace(config.env, id=env)
    limit, own = dataset.info.spec.max_episode_steps, make(env).spec.max_episode_steps
    if chosen.time_limit is None and limit is not None and (own is None or limit < own):
        chosen = replace(chosen, time_limit=limit)  # as the data were recorded
    return replace(config, env=chosen)


def _as_seen(config: RunConfig, dataset: OfflineDataset) -> OfflineDataset:
    """Return the dataset with what the environment hides hidden."""
    return with_hidden(dataset, config.env.hide) if config.env.hide else dataset


def _learnt_skills(config: RunConfig) -> LearntSkills | None:
    """Return the skills that a run is to act by, from the run that learnt them."""
    chosen = config.skills
    if chosen.run is None:
        return None
    source = Run(chosen.run)
    try:
        require_skills(source.config.agent)
    except UserError as error:
        raise UserError(f"skills.run {source.path}: {error}; name a run that learnt some") from None
    if source.config.skills.run is not None:
        raise UserError(f"skills.run {source.path} acts by skills itself; name one that does not")
    which: Which = "last" if chosen.checkpoint is None else chosen.checkpoint
    weights = jax.device_get(source.member_params(which, chosen.member))
    return LearntSkills(source.config.agent, source.config.env, weights)


def _refuse(config: RunConfig, dataset: OfflineDataset | None, learnt: LearntSkills | None) -> None:
    """Raise a `UserError` for a run that cannot start, before anything of it is written."""
    _refuse_tasks(config)
    hold = config.skills.hold
    env, agent = hierarchy.over(make(config.env), learnt, hold), config.agent
    if dataset is not None:
        datasets.check_fits(_as_seen(config, dataset).info, env)
        require(config.env.noise == 0, "env.noise", config.env.noise,
                "0 with a dataset, which it would not reach")  # fmt: skip
    simulator = hierarchy.over(make(config.acting), learnt, hold)
    for name in ("obs", "action"):
        ours, theirs = getattr(simulator.spec, name), getattr(env.spec, name)
        require(ours == theirs, f"the {name} space of sim.env", ours, f"that of env, {theirs}")
    program = make_program(agent, simulator, online=config.online)
    wish = wish_of(agent)
    if isinstance(wish, Windows) and wish.both and not config.simulated:
        raise UserError(
            f"{agent.name} acts in a simulator; name one with sim, such as gravity=2, or another "
            "program with sim.env"
        )
    if dataset is not None and isinstance(wish, Rollout) and wish.offline == "episodes":
        lengths = np.diff(dataset.start, append=dataset.num_steps)
        found = f"from {lengths.min()} to {lengths.max()}"
        even = (lengths == wish.length).all()
        require(even, f"the length of episodes in {dataset.info.id}", found,
                f"rollout_length = {wish.length}")  # fmt: skip
    make_mesh(config.devices, unit_of(env, collected(agent).num_envs))
    if isinstance(wish, Windows) and config.online:
        num_envs = wish.collect.num_envs
        carry = program.policy.initial_carry(num_envs) if wish.store_carry else None
        members = len(config.members)
        capacity, kept = wish.capacity, wish.kept
        replay.require_fits(env.spec, num_envs, capacity, carry, kept, members=members)
    if config.init_from is not None:
        Run(config.init_from)


def _refuse_tasks(config: RunConfig) -> None:
    """Raise a `UserError` where trials and the algorithm do not go together."""
    name = config.agent.name
    if is_suite(config.env.id) and name != "meta-ppo":
        raise UserError(f"{config.env.id} is a suite of tasks, which {name} does not take; use "
                        "meta-ppo")  # fmt: skip
    if name == "meta-ppo" and not is_suite(config.env.id):
        raise UserError(
            f"meta-ppo learns across tasks, and {config.env.id} is one environment; name a suite "
            "with --tasks, or use ppo"
        )
    if is_suite(config.env.id) and config.simulated:
        raise UserError("sim has no use with a suite of tasks; leave it out")
    if is_suite(config.env.id) and config.skills.run is not None:
        raise UserError("skills has no use with a suite of tasks; leave it out")


def describe(config: RunConfig) -> str:
    """Return what a run is about, in a few words."""
    where = config.env.id if config.dataset is None else f"{config.dataset} in {config.env.id}"
    if config.skills.run is not None:
        where += f" by the skills of {Path(config.skills.run).name}"
    if config.simulated:
        where += f" with {in_words(config.sim)}"
    return f"{where}: {config.agent.name}, {config.agent.core.name}"


def in_words(sim: SimulatorConfig) -> str:
    """Return what sets a simulator apart, such as "a simulator of gravity 2"."""
    plain = asdict(SimulatorConfig())
    found = {name: x for name, x in asdict(sim).items() if x != plain[name]}
    parts = [f"{name.replace('_', ' ')} {x}" for name, x in found.items()]
    return f"a simulator of {', '.join(parts)}"


def _with_learnt(state: LoopState, config: RunConfig, source: Run) -> LoopState:
    """Return `state` with what another run has learnt, its members taken in turn.

    From the same algorithm that is every network, targets and temperature included; from another
    one the weights that act.
    """
    ours = state.agent
    if source.config.agent.name == config.agent.name:
        names = [f.name for f in dataclasses.fields(ours) if f.name not in STARTS_AFRESH]
        learnt = source.learnt()
        theirs = {name: getattr(learnt, name) for name in names}
    else:
        theirs = {"params": source.params("last")}
        if "actor" in getattr(ours, "target", {}):  # it starts where the actor does
            theirs["target"] = ours.target | {"actor": theirs["params"]["actor"]}

    def place(path: Any, ours: Array, theirs: Array) -> Array:
        if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
            raise UserError(
                f"init_from {source.path} does not fit: {jax.tree_util.keystr(path)} has shape "
                f"{theirs.shape[1:]} there and {ours.shape[1:]} here"
            )
        return theirs[np.arange(ours.shape[0]) % theirs.shape[0]]

    here = {name: getattr(ours, name) for name in theirs}
    if jax.tree.structure(here) != jax.tree.structure(theirs):
        raise UserError(
            f"init_from {source.path} does not fit: it was trained with another network"
        )
    return state.replace(
        agent=ours.replace(**jax.tree_util.tree_map_with_path(place, here, theirs))
    )
