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
from rlssm.io.logging import Logger
from rlssm.train.config import RunConfig
from rlssm.train.devices import make_mesh, replicated, split_envs
from rlssm.train.program import Chunk, Data, LoopState, PhaseName, collected, unit_of
from rlssm.train.run import Best, Run


def fit(
    config: RunConfig,
    directory: str | Path,
    *,
    progress: bool = True,
    enough: Callable[[Run], bool] | None = None,
) -> Run:
    """Train until `config.steps`, from scratch or from the directory's last checkpoint.

    Args:
        config: the whole run.
        directory: the run directory; made if missing. One that holds the same configuration is
            resumed, one that is complete is left alone.
        progress: whether to show a progress bar.
        enough: asked at every log point, after its metrics were written; where it says so, the
            run ends there and is complete. Also asked before going on with a run, from which a
            kill may have taken its end.

    Returns:
        The run: complete, unless SIGINT or SIGTERM stopped it.

    Raises:
        UserError: for a directory that cannot be used, a damaged checkpoint, an environment the
            algorithm cannot serve, or a metric that became NaN or infinite.
    """
    run = Run.create(directory, config)
    if run.complete:
        return run
    state, data, chunks = compile_chunks(run, _restore_or_start(run))
    best = run.best() if run.checkpoints.best() is not None else None
    cadence, per_round = config.cadence, collected(config.agent).steps
    done = int(state.rounds[0])
    frames = len(config.members) * per_round  # steps per round, members together
    total = cadence.total * per_round
    with (
        Logger(
            run.path,
            total=total,
            start=done * per_round,
            show=progress,
            headline=config.headline,
        ) as log,
        stop_on_signal() as stop,
    ):
        last = done >= cadence.total or (done > 0 and enough is not None and enough(run))
        while not (last or stop.requested):
            phase, until = next(x for x in config.schedule if done < x[1])
            count = min(cadence.log - done % cadence.log, until - done)
            started = time.perf_counter()
            state, metrics = jax.block_until_ready(chunks[phase](state, data, jnp.int32(count)))
            seconds = time.perf_counter() - started
            done += count
            steps = done * per_round
            row = with_means(jax.device_get(metrics))
            log.metrics(steps, row, frames=count * frames, seconds=seconds)
            last = done >= cadence.total or (enough is not None and enough(run))
            if last or cadence.due(cadence.evaluate, done):
                params = run.program.params(state)
                played = run.play(params, run.evaluation_key(steps), config.eval_episodes)
                log.evaluation(steps, run.scores(played))
                best = _keep_better(run, best, params, played, steps)
            if last or cadence.due(cadence.checkpoint, done) or stop.requested:
                run.checkpoints.save(steps, state)
        if last:
            run.finish()
    return run


def compile_chunks(run: Run, state: LoopState) -> tuple[LoopState, Data, dict[PhaseName, Chunk]]:
    """Return state and data on their devices, and the chunks over all members with donated state.

    The environments of each member, and what is stored of them, are spread over the devices;
    everything else is copied to each of them.
    """
    mesh = make_mesh(run.config.devices, unit_of(run.env, collected(run.config.agent).num_envs))
    shardings = replicated(mesh, state)
    shardings = shardings.replace(
        runner=split_envs(mesh, state.runner), replay=split_envs(mesh, state.replay)
    )
    data = run.data
    on_devices = replicated(mesh, data)
    chunks: dict[PhaseName, Chunk] = {
        phase: jax.jit(
            jax.vmap(chunk, (0, None, None)),
            in_shardings=(shardings, on_devices, None),
            out_shardings=(shardings, None),
            donate_argnums=0,
        )
        for phase, chunk in run.program.chunks.items()
    }
    state, data = jax.device_put((state, data), (shardings, on_devices))
    return state, data, chunks


def _restore_or_start(run: Run) -> LoopState:
    if run.checkpoints.latest() is None:
        return run.initial_state()
    return run.state("last")


def _keep_better(run: Run, best: Best | None, params: Any, played: Any, steps: int) -> Best:
    """Return the better weights of each member, saved if any of them are new."""
    score = np.asarray(run.scores(played)["eval/return"])
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
