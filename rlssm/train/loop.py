"""The loop over compiled chunks: log, evaluate, save, and stop when asked to.

Between two log points everything happens on the device, in one compiled function with donated
state. A run directory holds all that is needed to go on from its last checkpoint, and the same
computations follow in the same order, so an interrupted run ends bit for bit like one that was
not (on one CPU device).
"""

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlssm.envs.statistics import with_means
from rlssm.evaluation.evaluate import Episodes
from rlssm.io.logging import Logger
from rlssm.train.config import RunConfig
from rlssm.train.devices import make_mesh, replicated, split_envs
from rlssm.train.program import LoopState
from rlssm.train.run import Best, Run, scores
from rlssm.types import Metrics

Chunk = Callable[[LoopState, Any], tuple[LoopState, Metrics]]


def fit(config: RunConfig, directory: str | Path, *, progress: bool = True) -> Run:
    """Train until `config.steps`, from scratch or from the directory's last checkpoint.

    Args:
        config: the whole run.
        directory: the run directory; made if missing. One that holds the same configuration is
            resumed, one that is complete is left alone.
        progress: whether to show a progress bar.

    Returns:
        The run: complete, unless SIGINT or SIGTERM stopped it.

    Raises:
        UserError: for a directory that cannot be used, a damaged checkpoint, an environment the
            algorithm cannot serve, or a metric that became NaN or infinite.
    """
    run = Run.create(directory, config)
    if run.complete:
        return run
    state, chunk = compile_chunk(run, _restore_or_start(run))
    best = run.best() if run.checkpoints.best() is not None else None
    cadence, per_update = config.cadence, config.agent.steps_per_update
    update = int(state.updates[0])
    frames = len(config.members) * per_update  # environment steps per update, members together
    total = cadence.total * per_update
    with (
        Logger(run.path, total=total, start=update * per_update, show=progress) as log,
        stop_on_signal() as stop,
    ):
        while update < cadence.total and not stop.requested:
            count = min(cadence.log - update % cadence.log, cadence.total - update)
            started = time.perf_counter()
            state, metrics = jax.block_until_ready(chunk(state, jnp.int32(count)))
            seconds = time.perf_counter() - started
            update += count
            steps = update * per_update
            row = with_means(jax.device_get(metrics))
            log.metrics(steps, row, frames=count * frames, seconds=seconds)
            if cadence.due(cadence.evaluate, update):
                params = run.program.params(state)
                played = run.play(params, run.evaluation_key(steps), config.eval_episodes)
                log.evaluation(steps, scores(played))
                best = _keep_better(run, best, params, played, steps)
            if cadence.due(cadence.checkpoint, update) or stop.requested:
                run.checkpoints.save(steps, state)
        if update >= cadence.total:
            run.finish()
    return run


def compile_chunk(run: Run, state: LoopState) -> tuple[LoopState, Chunk]:
    """Return the state on its devices, and the chunk over all members with donated state.

    The environments of each member are spread over the devices; everything else is copied to
    each of them.
    """
    mesh = make_mesh(run.config.devices, run.config.agent.num_envs)
    shardings = replicated(mesh, state)
    shardings = shardings.replace(runner=split_envs(mesh, state.runner))
    chunk = jax.jit(
        jax.vmap(run.program.chunk, (0, None)),
        in_shardings=(shardings, None),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
    return jax.device_put(state, shardings), chunk


def _restore_or_start(run: Run) -> LoopState:
    if run.checkpoints.latest() is None:
        return run.initial_state()
    return run.state("last")


def _keep_better(run: Run, best: Best | None, params: Any, played: Episodes, steps: int) -> Best:
    """Return the better weights of each member, saved if any of them are new."""
    score = np.asarray(played.episode_return).mean(1)
    copy = jax.tree.map(jnp.copy, params)  # the state these belong to is about to be donated
    new = Best(copy, jnp.asarray(score), jnp.full(score.shape, steps, jnp.int32))
    if best is not None:
        improved = jnp.asarray(score > np.asarray(best.score))
        if not improved.any():
            return best
        new = jax.tree.map(lambda ours, theirs: _select(improved, ours, theirs), new, best)
    run.checkpoints.save_best(steps, new)
    return new


def _select(mask: Any, ours: Any, theirs: Any) -> Any:
    return jnp.where(mask.reshape(-1, *(1,) * (ours.ndim - 1)), ours, theirs)


# --- Stopping ---------------------------------------------------------------------------------


class Stop:
    """Whether a signal asked to stop; a second signal stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signal() -> Generator[Stop]:
    """Let SIGINT and SIGTERM ask for a stop at the next log point, where that can be arranged."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
