"""Gymnasium environments on the host, a batch at a time: what the compiled code calls back to.

A host is handed NumPy arrays for `N` environments and returns NumPy arrays. It holds no state that
a result depends on: environments, models and results are kept only to save time, so that a
callback may be repeated, left out or run in another process. Nothing here calls jax, which
would wait for the computation that is waiting for the callback.
"""

import copy
import functools
import hashlib
import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8, UInt32

from rlssm.envs.gymnasium_make import (
    actions,
    element,
    empty,
    make_bare,
    named,
    observation,
    write,
)

UNLIMITED = 1000  # steps after which an episode is truncated where Gymnasium names no limit
MIN_ROWS = 4  # environments that are worth a thread of their own
SPARE = 64  # environments kept alive beside twice the largest batch
REMEMBERED_MODELS = 64
REMEMBERED_RESETS = 1024


class Outcome(NamedTuple):
    """What the environments say of a step; leaves `[N, ...]`."""

    obs: Any
    reward: Float32[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]
    success: Bool[np.ndarray, " N"]


class Host:
    """One Gymnasium id: its spaces and its steps, without Gymnasium's own time limit."""

    def __init__(self, name: str, env: Any, limit: int | None) -> None:
        self.name = name
        self.limit = limit or UNLIMITED
        self.obs = observation(env.observation_space, name)
        self.action, self.bounds = actions(env.action_space, name)
        self._dtype = env.action_space.dtype
        self._lock = threading.Lock()  # one batch at a time: they share environments
        with named(name, "its first step"):
            env.reset(seed=0)
            centre = 0 if self.bounds is None else (self.bounds[0] + self.bounds[1]) / 2
            info = env.step(self._to_gymnasium(np.asarray(centre)))[4]
        self.tells_success = _SUCCESS.intersection(info) != set()

    def blank(self, rows: int) -> Outcome:
        """Return what `rows` environments say whose episodes are over: they stand still."""
        return Outcome(
            obs=empty(self.obs, rows),
            reward=np.zeros(rows, np.float32),
            terminated=np.ones(rows, bool),
            truncated=np.zeros(rows, bool),
            success=np.zeros(rows, bool),
        )

    def _step(self, env: Any, action: np.ndarray, out: Outcome, row: int) -> None:
        """Take one step and write what `env` says into a row of `out`."""
        obs, reward, terminated, truncated, info = env.step(self._to_gymnasium(action))
        write(self.obs, out.obs, row, obs)
        out.reward[row] = reward
        out.terminated[row] = terminated
        out.truncated[row] = truncated
        out.success[row] = any(bool(info.get(name, False)) for name in _SUCCESS)

    def _to_gymnasium(self, action: np.ndarray) -> Any:
        return int(action) if self.bounds is None else action.astype(self._dtype, copy=False)


_SUCCESS = frozenset(("success", "is_success"))


# --- MuJoCo: the state is an array -------------------------------------------------------------


class MujocoHost(Host):
    """One of Gymnasium's own MuJoCo environments, whose state fits into an array.

    `physics` holds the bits of float64 numbers: everything that MuJoCo integrates, warm start
    included, then `xpos` and `xipos`, which Ant and Humanoid read before they step and which lag
    one MuJoCo step behind. Continuing from it is bit for bit what Gymnasium would have done.
    """

    def __init__(self, name: str, env: Any, limit: int | None) -> None:
        super().__init__(name, env, limit)
        self._mujoco: Any = importlib.import_module("mujoco")
        self._kept = self._mujoco.mjtState.mjSTATE_INTEGRATION
        self._model = env.model
        self._copies = [env]  # one for each thread
        self._models: OrderedDict[bytes, Any] = OrderedDict()
        self._resets: OrderedDict[bytes, tuple[Any, np.ndarray]] = OrderedDict()
        self._size = self._mujoco.mj_stateSize(env.model, self._kept)
        self.words = 2 * (self._size + env.data.xpos.size + env.data.xipos.size)

    def reset(
        self, seeds: UInt32[np.ndarray, " N"], scales: Float32[np.ndarray, "N 4"]
    ) -> tuple[Any, UInt32[np.ndarray, "N words"]]:
        """Return first observations and `physics`, one start for each seed."""
        obs = empty(self.obs, len(seeds))
        physics = np.empty((len(seeds), self.words), np.uint32)
        names = [
            seed.tobytes() + scale.tobytes() for seed, scale in zip(seeds, scales, strict=True)
        ]

        def start(env: Any, rows: Sequence[int]) -> None:
            for row in rows:
                env.model = models[row]
                first, _ = env.reset(seed=int(seeds[row]))
                write(self.obs, obs, row, first)
                physics[row] = self._read(env)

        with self._lock, named(self.name, "reset"):
            models = self._scaled(scales)
            new = {name: row for row, name in enumerate(names) if name not in self._resets}
            self._spread(start, list(new.values()))
            for name, row in new.items():
                self._resets[name] = element(self.obs, obs, row), physics[row].copy()
            for row, name in enumerate(names):
                first, physics[row] = self._resets[name]
                write(self.obs, obs, row, first)
                self._resets.move_to_end(name)
            _forget(self._resets, REMEMBERED_RESETS)
        return obs, physics

    def step(
        self,
        physics: UInt32[np.ndarray, "N words"],
        over: Bool[np.ndarray, " N"],
        action: np.ndarray,
        scales: Float32[np.ndarray, "N 4"],
    ) -> tuple[UInt32[np.ndarray, "N words"], Outcome]:
        """Return `physics` after one step of the environments that are not `over`."""
        out, after = self.blank(len(over)), physics.copy()

        def go(env: Any, rows: Sequence[int]) -> None:
            for row in rows:
                env.model = models[row]
                self._write(env, physics[row])
                self._step(env, action[row], out, row)
                after[row] = self._read(env)

        with self._lock, named(self.name, "step"):
            models = self._scaled(scales)
            self._spread(go, np.flatnonzero(~over).tolist())
        return after, out

    def _read(self, env: Any) -> np.ndarray:
        state = np.empty(self.words // 2, np.float64)
        self._mujoco.mj_getState(env.model, env.data, state[: self._size], self._kept)
        bodies = env.data.xpos.size
        state[self._size : self._size + bodies] = env.data.xpos.ravel()
        state[self._size + bodies :] = env.data.xipos.ravel()
        return state.view(np.uint32)

    def _write(self, env: Any, words: np.ndarray) -> None:
        state = words.view(np.float64)
        self._mujoco.mj_setState(env.model, env.data, state[: self._size], self._kept)
        bodies = env.data.xpos.size
        env.data.xpos.flat = state[self._size : self._size + bodies]
        env.data.xipos.flat = state[self._size + bodies :]

    def _scaled(self, scales: Float32[np.ndarray, "N 4"]) -> list[Any]:
        """Return models with scaled dynamics; where all scales are 1 it is the original one."""
        if (scales == 1).all():
            return [self._model] * len(scales)
        models = []
        for row in scales:
            name = row.tobytes()
            if name not in self._models:
                self._models[name] = self._scale(*row.tolist())
            self._models.move_to_end(name)
            models.append(self._models[name])
        _forget(self._models, REMEMBERED_MODELS)
        return models

    def _scale(self, gravity: float, friction: float, mass: float, actuator: float) -> Any:
        if gravity == friction == mass == actuator == 1:
            return self._model
        model = copy.copy(self._model)
        model.opt.gravity[:] *= gravity
        model.geom_friction[:] *= friction
        model.actuator_gear[:] *= actuator
        if mass != 1:
            model.body_mass[:] *= mass
            model.body_inertia[:] *= mass
            self._mujoco.mj_setConst(model, self._mujoco.MjData(model))
        return model

    def _spread(self, work: Callable[[Any, Sequence[int]], None], rows: list[int]) -> None:
        """Call `work(env, rows)` for shares of `rows`, each in a thread of its own.

        MuJoCo computes without Python's lock, so that the shares do run side by side.
        """
        shares = _shares(rows)
        while len(self._copies) < len(shares):
            self._copies.append(make_bare(self.name)[0])
        if len(shares) == 1:
            work(self._copies[0], rows)
        else:
            list(_threads().map(work, self._copies, shares))


# --- All others: the state is the seed and the actions so far ----------------------------------


class ReplayHost(Host):
    """Any other environment: its state is the seed of its reset and the actions taken since.

    That is enough to find it again, since Gymnasium asks that an environment reset with a seed
    plays the same episode for the same actions. `digest` names such a history. The environment
    that stands at its end is kept alive, and is only reset and led there again where it is
    not, as after a run was resumed.
    """

    def __init__(self, name: str, env: Any, limit: int | None) -> None:
        super().__init__(name, env, limit)
        self._idle = [env]
        self._alive: OrderedDict[bytes, Any] = OrderedDict()
        self._said: OrderedDict[bytes, Outcome] = OrderedDict()
        self._firsts: OrderedDict[bytes, Any] = OrderedDict()
        self._largest = 1

    def reset(self, seeds: UInt32[np.ndarray, " N"]) -> tuple[Any, UInt8[np.ndarray, "N 16"]]:
        """Return first observations, and the digests of histories without an action."""
        obs = empty(self.obs, len(seeds))
        digests = np.empty((len(seeds), 16), np.uint8)
        with self._lock, named(self.name, "reset"):
            for row, seed in enumerate(seeds):
                digest = _digest(seed.tobytes())
                if digest not in self._firsts:
                    env = self._take()
                    first, _ = env.reset(seed=int(seed))
                    self._idle.append(env)
                    write(self.obs, obs, row, first)
                    self._firsts[digest] = element(self.obs, obs, row)
                write(self.obs, obs, row, self._firsts[digest])
                self._firsts.move_to_end(digest)
                digests[row] = np.frombuffer(digest, np.uint8)
            _forget(self._firsts, REMEMBERED_RESETS)
        return obs, digests

    def step(
        self,
        seeds: UInt32[np.ndarray, " N"],
        actions: np.ndarray,
        digests: UInt8[np.ndarray, "N 16"],
        time: Int32[np.ndarray, " N"],
        over: Bool[np.ndarray, " N"],
        action: np.ndarray,
    ) -> tuple[UInt8[np.ndarray, "N 16"], Outcome]:
        """Return digests and outcomes after one more action.

        Args:
            seeds, actions, time: the histories; of `actions` `[N, limit, ...]` the first `time`.
            digests: the names of these histories.
            over: which episodes are.
            action: the new ones, `[N, ...]`.
        """
        out, after = self.blank(len(over)), digests.copy()
        with self._lock, named(self.name, "step"):
            self._largest = max(self._largest, len(over))
            for row in np.flatnonzero(~over).tolist():
                before = digests[row].tobytes()
                name = _digest(before + action[row].tobytes())
                after[row] = np.frombuffer(name, np.uint8)
                if name not in self._said:
                    env = self._alive.pop(before, None)
                    if env is None:
                        env = self._lead(int(seeds[row]), actions[row, : time[row]])
                    said = self.blank(1)
                    self._step(env, action[row], said, 0)
                    ends = said.terminated[0] or said.truncated[0] or time[row] + 1 >= self.limit
                    if ends:
                        self._idle.append(env)
                    else:
                        self._alive[name] = env
                    self._said[name] = said
                self._said.move_to_end(name)
                self._copy_outcome(self._said[name], out, row)
            self._clear_up()
        return after, out

    def _lead(self, seed: int, actions: np.ndarray) -> Any:
        """Return an environment that stands where these actions lead."""
        env = self._take()
        env.reset(seed=seed)
        for action in actions:
            env.step(self._to_gymnasium(action))
        return env

    def _take(self) -> Any:
        return self._idle.pop() if self._idle else make_bare(self.name)[0]

    def _copy_outcome(self, said: Outcome, out: Outcome, row: int) -> None:
        write(self.obs, out.obs, row, element(self.obs, said.obs, 0))
        for column, value in zip(out[1:], said[1:], strict=True):
            column[row] = value[0]

    def _clear_up(self) -> None:
        """Let go what no batch will ask for: a batch that rests is untouched by a larger one."""
        room = 2 * self._largest + SPARE
        _forget(self._said, room)
        while len(self._alive) > room:
            self._idle.append(self._alive.popitem(last=False)[1])
        while len(self._idle) > room:
            self._idle.pop().close()


def _digest(history: bytes) -> bytes:
    return hashlib.blake2b(history, digest_size=16).digest()


# --- Batches -----------------------------------------------------------------------------------


def _shares(rows: list[int]) -> list[list[int]]:
    """Return `rows` in as many parts as there are processors to make use of, one at least."""
    parts = max(1, min(_processors(), len(rows) // MIN_ROWS))
    return [share.tolist() for share in np.array_split(np.asarray(rows, int), parts)]


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_processors(), thread_name_prefix="gymnasium")


def _forget(remembered: OrderedDict[bytes, Any], room: int) -> None:
    while len(remembered) > room:
        remembered.popitem(last=False)


@functools.cache  # environments and models are kept for as long as the process lives
def host(name: str) -> MujocoHost | ReplayHost:
    """Return the host of a Gymnasium id.

    Raises:
        UserError: if there is no such id, or it cannot be made, or its spaces cannot be served.
    """
    env, limit = make_bare(name)
    own = type(env).__module__.startswith("gymnasium.envs.mujoco.")
    return (MujocoHost if own else ReplayHost)(name, env, limit)
