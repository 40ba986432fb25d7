"""A run directory: what was asked for, how far it is, and what came out.

config.json        the whole configuration; round-trips
environment.json   versions, devices, git revision
metrics.jsonl      one row per log point, a value per member; TensorBoard files beside it
evaluations.jsonl  one row per evaluation
checkpoints/       the last ones and the best one
plots/             pictures
result.json        scores of the last and the best weights; exists once the run is complete
"""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.struct import PyTreeNode
from jaxtyping import Array, Float, Int

from rlssm.envs.base import Environment
from rlssm.envs.registry import make
from rlssm.errors import UserError, require
from rlssm.evaluation.evaluate import Episodes, evaluate_seeds
from rlssm.evaluation.plots import Curve, learning_curves
from rlssm.io import config as config_io
from rlssm.io.checkpoint import Checkpoints
from rlssm.io.logging import read_metric
from rlssm.train.actor import Actor
from rlssm.train.config import RunConfig
from rlssm.train.devices import make_mesh
from rlssm.train.program import LoopState, Program, on_policy
from rlssm.types import Params

Which = int | Literal["last", "best"]  # a checkpoint: its steps, the newest, or the best
RESULT = "result.json"
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

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> "Run":
        """Make a run directory, or open the one that is there if it has the same configuration."""
        path = Path(path)
        if (path / "config.json").exists():
            run = cls(path)
            changes = config_io.difference(run.config, config)
            if changes:
                raise UserError(
                    f"{path} holds a run of another configuration ({'; '.join(changes[:3])}"
                    f"{', ...' if len(changes) > 3 else ''}); name another directory"
                )
            return run
        _refuse(config)
        config_io.make_directory(path)
        config_io.save_json(path / "environment.json", config_io.environment())
        config_io.save(path / "config.json", config)
        return cls(path)

    # --- What runs ----------------------------------------------------------------------------

    @cached_property
    def env(self) -> Environment:
        return make(self.config.env)

    @cached_property
    def program(self) -> Program:
        return on_policy(self.config.agent, self.env)

    def initial_state(self) -> LoopState:
        """Return the state before the first update, leaves `[S, ...]`."""
        state = jax.jit(jax.vmap(self.program.init))(*self._members())
        if self.config.init_from is None:
            return state
        weights = Run(self.config.init_from).params("last")
        return _with_weights(state, weights, self.config.init_from)

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
        return self.best().params if which == "best" else self.program.params(self.state(which))

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
        if steps > self.config.steps:
            (self.path / RESULT).unlink(missing_ok=True)
            config_io.save(self.path / "config.json", replace(self.config, steps=steps))
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
            values = {"steps": at, **scores(played)}
            result[name] = {k: np.ma.asarray(v).tolist() for k, v in values.items()}
        self._draw()
        config_io.save_json(self.path / RESULT, result)

    def _draw(self) -> None:
        """Draw the return over training, of the settings in which an episode ended."""
        if not read_metric(self.path / "metrics.jsonl", "episode/count")[1].any():
            return
        curves = {name: c for name, c in self.curves().items() if np.isfinite(c.values).any()}
        config_io.make_directory(self.path / "plots")
        learning_curves(
            self.path / "plots" / "return.png", curves, metric="episode/return",
            title=f"{self.config.env.id}: {self.config.agent.name}, {self.config.agent.core.name}",
        )  # fmt: skip

    # --- What comes out -----------------------------------------------------------------------

    def evaluate(
        self,
        which: Which = "last",
        *,
        episodes: int = 128,
        greedy: bool = True,
        seed: int = 0,
    ) -> Episodes:
        """Play whole episodes with the weights of a checkpoint; leaves `[S, episodes]`."""
        require(0 <= seed < 2**31, "seed", seed, "from 0 to 2147483647")
        key = jax.random.fold_in(jax.random.key(seed), EVALUATION_STREAM)
        return self.play(self.params(which), key, episodes, greedy=greedy)

    def play(self, params: Params, key: Array, episodes: int, *, greedy: bool = True) -> Episodes:
        """Play whole episodes with weights `[S, ...]`; the same starts for every member."""
        return evaluate_seeds(
            self.env, self.program.policy, params, key, episodes=episodes, greedy=greedy
        )

    def evaluation_key(self, steps: int) -> Array:
        """Return the key of the evaluation after `steps`."""
        stream = jax.random.fold_in(jax.random.key(self.config.seed), EVALUATION_STREAM)
        return jax.random.fold_in(stream, steps)

    def curves(self, metric: str = "episode/return") -> dict[str, Curve]:
        """Return a logged metric over time, one curve for each setting of a sweep."""
        steps, values = read_metric(self.path / "metrics.jsonl", metric)
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


def _refuse(config: RunConfig) -> None:
    """Raise a `UserError` for a run that cannot start, before anything of it is written."""
    on_policy(config.agent, make(config.env))
    make_mesh(config.devices, config.agent.num_envs)
    if config.init_from is not None:
        Run(config.init_from)


def scores(played: Episodes) -> dict[str, np.ma.MaskedArray]:
    """Return the means over episodes `[S]`; success is left out where it is not defined."""
    means = {
        "return": np.asarray(played.episode_return).mean(1),
        "length": np.asarray(played.length).mean(1),
        "success": np.asarray(played.success).mean(1),
        "finished": np.asarray(played.finished).mean(1),
    }
    if np.isnan(means["success"]).all():
        del means["success"]
    return {f"eval/{name}": np.ma.asarray(x) for name, x in means.items()}


def _with_weights(state: LoopState, weights: Params, source: str) -> LoopState:
    """Return `state` with the weights of another run, its members taken in turn."""

    def place(path: Any, ours: Array, theirs: Array) -> Array:
        if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
            raise UserError(
                f"init_from {source} does not fit: {jax.tree_util.keystr(path)} has shape "
                f"{theirs.shape[1:]} there and {ours.shape[1:]} here"
            )
        return theirs[np.arange(ours.shape[0]) % theirs.shape[0]]

    params = state.agent.params
    if jax.tree.structure(params) != jax.tree.structure(weights):
        raise UserError(f"init_from {source} does not fit: it was trained with another network")
    params = jax.tree_util.tree_map_with_path(place, params, weights)
    return state.replace(agent=state.agent.replace(params=params))
