"""One learner in several settings as one compiled program.

A grid is a table of run configurations that share all but their dataset, one for each row, and the
dynamics of their simulator. Its members are the settings times their seeds; state leads with
`[R, M]`, a row for each dataset, and everything is vmapped over both axes: simulators differ in
traced parameters, datasets are padded to one length. Each member computes what a run of its own
would. Members are logged in this order, side by side.

A directory holds grid.json, environment.json, metrics.jsonl, evaluations.jsonl, checkpoints/ and,
once it is complete, datasets.json, result.json and the last weights as the best checkpoint. A
checkpoint to go on from is written where a signal asks to stop, and removed in the end: with every
replay inside it may have gigabytes.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from rlssm import RunConfig, UserError, make
from rlssm.data.dataset import OfflineDataset
from rlssm.envs.base import Environment
from rlssm.envs.registry import on_device
from rlssm.envs.statistics import with_means
from rlssm.evaluation.evaluate import evaluate_seeds
from rlssm.io.checkpoint import Checkpoints
from rlssm.io.config import environment, make_directory, save_json
from rlssm.io.logging import Logger, read_metric
from rlssm.nn import normalizers
from rlssm.train import datasets
from rlssm.train.loop import stop_on_signal
from rlssm.train.program import LoopState, PhaseName, Program, collected, make_program
from rlssm.types import Key, Params, Spec, zeros

Rows = Sequence[Sequence[RunConfig]]
EVALUATION_KEY = 0x6576616C


class Padded(OfflineDataset):
    """A dataset with rows behind its end, which are never drawn."""

    count: Int[Array, ""]

    @property
    def num_steps(self) -> Any:
        return self.count


def padded(parts: Sequence[OfflineDataset]) -> Padded:
    """Return datasets as one tree, leaves `[R, ...]`, rows of zeros behind the shorter ones."""

    def stack(*columns: np.ndarray) -> np.ndarray:
        longest = max(map(len, columns))
        rest = [(0, 0)] * (columns[0].ndim - 1)
        return np.stack([np.pad(x, [(0, longest - len(x)), *rest]) for x in columns])

    alike = [part.replace(info=parts[0].info, extras={}) for part in parts]
    counts = jnp.array([part.num_steps for part in parts], jnp.int32)
    return Padded(**vars(jax.tree.map(stack, *alike)), count=counts)


@dataclass(frozen=True)
class Varied:
    """An environment with parameters of its own, which may be traced."""

    env: Environment
    params: Params

    @property
    def spec(self) -> Spec:
        return self.env.spec

    def reset(self, key: Key, params: Params) -> tuple[Any, Any]:
        return self.env.reset(key, params)

    def step(self, key: Key, state: Any, action: Array, params: Params) -> tuple[Any, Any]:
        return self.env.step(key, state, action, params)


class Grid:
    """A table of run configurations, and the directory that they are trained in together."""

    def __init__(self, path: Path, rows: Rows) -> None:
        self.path, self.rows = path, rows
        self.first = rows[0][0]
        for row in rows:
            for config in row:
                alike = replace(config, dataset=self.first.dataset, sim=self.first.sim)
                assert alike == self.first and config.dataset == row[0].dataset
        self.checkpoints = Checkpoints(path, keep=1)

    @property
    def settings(self) -> list[RunConfig]:
        """The configurations, row by row."""
        return [config for row in self.rows for config in row]

    @property
    def complete(self) -> bool:
        return (self.path / "result.json").exists()

    def of(self, setting: RunConfig) -> slice:
        """Return where the seeds of a setting are among the members."""
        at = self.settings.index(setting) * setting.seeds
        return slice(at, at + setting.seeds)

    def seconds(self) -> float:
        """Return how long training took, without compilation and evaluations."""
        steps, pace = read_metric(self.path / "metrics.jsonl", "time/steps_per_second")
        members = len(self.settings) * self.first.seeds
        return float((members * np.diff(steps, prepend=0) / pace[:, 0]).sum())

    # --- What runs ----------------------------------------------------------------------------

    @cached_property
    def program(self) -> Program:
        """The program of the first setting: how all of them act, and where their weights are."""
        return self._program(make(self.first.acting).params)

    def _program(self, params: Params) -> Program:
        env = Varied(make(self.first.acting), params)
        return make_program(self.first.agent, env, online=self.first.online)

    def members(self) -> tuple[Params, Key]:
        """Return parameters of simulators, and keys; leaves `[R, M, ...]`."""
        params = [
            [make(config.acting).params for config in row for _ in range(config.seeds)]
            for row in self.rows
        ]
        stacked = [jax.tree.map(lambda *x: jnp.stack(x), *row) for row in params]
        seeds = [[member["seed"] for config in row for member in config.members]
                 for row in self.rows]  # fmt: skip
        keys = jax.vmap(jax.vmap(jax.random.key))(jnp.array(seeds, jnp.int32))
        return jax.tree.map(lambda *x: jnp.stack(x), *stacked), keys

    def start(self, params: Params, keys: Key) -> LoopState:
        """Return the state of all members before the first update."""
        return jax.vmap(jax.vmap(lambda params, key: self._program(params).init(key, {})))(
            params, keys
        )

    def chunk(self, phase: PhaseName) -> Callable[..., Any]:
        """Return the chunk of a phase, of (parameters, state, data, count)."""

        def one(params: Params, state: LoopState, data: Any, count: Array) -> Any:
            return self._program(params).chunks[phase](state, data, count)

        return jax.vmap(jax.vmap(one, (0, 0, None, None)), (0, 0, 0, None))

    # --- Training -----------------------------------------------------------------------------

    def train(self, load: Callable[[str], OfflineDataset]) -> bool:
        """Train from the last checkpoint on, and return whether the end was reached.

        Args:
            load: returns a dataset on the host by its id.
        """
        self._claim()
        if self.complete:
            return True
        names = [row[0].dataset for row in self.rows]
        shown = [load(name) for name in names if name is not None]
        data = jax.device_put(padded(shown)) if shown else None
        params, keys = self.members()
        latest = self.checkpoints.latest()
        if latest is None:
            state = with_statistics(jax.jit(self.start)(params, keys), shown)
        else:
            state = self.checkpoints.restore("last", jax.eval_shape(self.start, params, keys))
        state = self._learn(state, params, data)
        if int(state.rounds[0, 0]) < self.first.cadence.total:
            return False
        self._finish(state, shown)
        return True

    def _learn(self, state: LoopState, params: Params, data: Any) -> LoopState:
        cadence, per_round = self.first.cadence, collected(self.first.agent).steps
        done, frames = int(state.rounds[0, 0]), per_round * state.rounds.size
        chunks: dict[str, Any] = {}
        total, at = cadence.total * per_round, done * per_round
        with (
            Logger(self.path, total=total, start=at, show=False, tensorboard=False) as log,
            stop_on_signal() as stop,
        ):
            while done < cadence.total and not stop.requested:
                phase, until = next(x for x in self.first.schedule if done < x[1])
                if phase not in chunks:
                    chunks[phase] = compiled(self.chunk(phase), phase, params, state, data)
                count = min(cadence.log - done % cadence.log, until - done)
                started = time.perf_counter()
                after = chunks[phase](params, state, data, jnp.int32(count))
                state, metrics = jax.block_until_ready(after)
                seconds = time.perf_counter() - started
                done += count
                row = with_means(jax.tree.map(np.ravel, jax.device_get(metrics)))
                log.metrics(done * per_round, row, frames=count * frames, seconds=seconds)
                if cadence.due(cadence.evaluate, done):
                    log.evaluation(done * per_round, self._evaluated(state, done * per_round))
        if done < cadence.total:
            self.checkpoints.save(done * per_round, state)
        return state

    def _evaluated(self, state: LoopState, steps: int) -> dict[str, Any]:
        """Return mean returns of every member in reality, and in the undisturbed simulator."""
        weights = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.program.params(state))
        key = jax.random.fold_in(jax.random.key(EVALUATION_KEY), steps)
        real = self.first.env
        found = {}
        for name, env in (("return", real), ("copy", replace(real, id=on_device(real.id)))):
            started = time.perf_counter()
            played = evaluate_seeds(
                make(env), self.program.policy, weights, key, episodes=self.first.eval_episodes
            )
            found[f"eval/{name}"] = np.asarray(played.episode_return).mean(1)
            found[f"time/{name}_seconds"] = time.perf_counter() - started
        return found

    # --- What is written ----------------------------------------------------------------------

    def _claim(self) -> None:
        """Make the directory, or see that the one that is there is of the same grid."""
        mine = json.dumps([[asdict(config) for config in row] for row in self.rows], indent=1)
        file = self.path / "grid.json"
        make_directory(self.path)
        if not file.exists():
            save_json(self.path / "environment.json", environment())
            file.write_text(mine)
        if file.read_text() != mine:
            raise UserError(f"{self.path} holds another grid; move it away")

    def _finish(self, state: LoopState, shown: Sequence[OfflineDataset]) -> None:
        save_json(
            self.path / "datasets.json",
            [datasets.summary(dataset, self.first.env) for dataset in shown],
        )
        steps = self.first.cadence.total * collected(self.first.agent).steps
        self.checkpoints.save_best(steps, self.program.params(state))
        save_json(self.path / "result.json", {"steps": steps, "seconds": self.seconds()})
        latest = self.checkpoints.latest()  # until here a call that is cut off can go on from it
        if latest is not None:
            shutil.rmtree(self.checkpoints.folder / str(latest))


def with_statistics(state: LoopState, shown: Sequence[OfflineDataset]) -> LoopState:
    """Return the state with the statistics of each row's dataset, where the agent keeps any."""
    if "statistics" not in state.agent.params:
        return state
    empty = normalizers.init(zeros(shown[0].info.spec.obs))
    each = [normalizers.update(empty, jnp.asarray(dataset.obs)) for dataset in shown]
    members = state.rounds.shape[1]
    seen = jax.tree.map(lambda *x: jnp.repeat(jnp.stack(x)[:, None], members, 1), *each)
    agent = state.agent.replace(params=state.agent.params | {"statistics": seen})
    return state.replace(agent=agent)


def compiled(chunk: Callable[..., Any], phase: str, *args: Any) -> Callable[..., Any]:
    """Return a chunk compiled for its arguments, the state donated; say how long it took."""
    started = time.perf_counter()
    lowered = jax.jit(chunk, donate_argnums=1).lower(*args, jnp.int32(1))
    done = lowered.compile()
    print(f"compiled {phase} in {time.perf_counter() - started:.0f} s", flush=True)
    return done
