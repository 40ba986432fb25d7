"""Trials with a fixed policy: what each of their episodes earns, and so whether it adapts."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlssm.envs.base import VectorStep
from rlssm.envs.trials import Suite, Trials
from rlssm.errors import require
from rlssm.evaluation.evaluate import UNLIMITED
from rlssm.types import Inputs, Key, Params, Policy, Previous, clear_at_start, zeros


class Played(NamedTuple):
    """The outcome of `N` trials of `K` episodes; leaves `[N, K]`, `[S, N, K]` for several members.

    Episodes that were not over when the trial was given up are not `finished`; their returns are
    those so far.
    """

    episode_return: Float[Array, "N K"]
    length: Int[Array, "N K"]
    finished: Bool[Array, "N K"]


class Adaptation(NamedTuple):
    """Trials of the tasks of a suite that were learnt from, and of those held out, if any.

    In `episode_return` are scores: 0 for the return of random actions, 1 for a good policy's.
    """

    suite: Suite
    train: Played
    held_out: Played | None


class _Player(NamedTuple):
    """Where `N` trials stand; leaves lead with [N]."""

    env_state: Any
    inputs: Inputs
    reset: Bool[Array, " N"]
    carry: Any
    episode: Int[Array, " N"]
    over: Bool[Array, " N"]


def play_trials(
    trials: Trials, policy: Policy, params: Params, key: Key, *, greedy: bool = False
) -> Played:
    """Play exactly one trial in each environment of the batch, for every member.

    Actions are sampled unless `greedy`: within a trial the policy explores by them.

    Args:
        trials: the batch; its rewards are what is summed.
        policy: how to act.
        params: leaves `[S, ...]`.
        key: one for all members, so that they meet the same trials.

    Returns:
        The outcomes, leaves `[S, N, K]`.
    """
    return _play(trials, policy, greedy, params, key)


@partial(jax.jit, static_argnums=range(3))
def _play(trials: Trials, policy: Policy, greedy: bool, params: Params, key: Key) -> Played:
    one = partial(_play_one, trials, policy, greedy)
    return jax.vmap(one, (0, None))(params, key)


def _play_one(trials: Trials, policy: Policy, greedy: bool, params: Params, key: Key) -> Played:
    size, episodes = trials.num_envs, trials.suite.episodes
    limits = [task.env.spec.max_episode_steps or UNLIMITED for task in trials.tasks]
    reset_key, steps_key = jax.random.split(key)

    def unfinished(loop: tuple[_Player, Played, Array]) -> Bool[Array, ""]:
        player, _, t = loop
        return (t < episodes * max(limits)) & ~jnp.all(player.over)

    def body(loop: tuple[_Player, Played, Array]) -> tuple[_Player, Played, Array]:
        player, played, t = loop
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, t))
        action, carry = policy.act(
            params, player.inputs, player.reset, player.carry, act_key, greedy
        )
        action = action.astype(player.inputs.previous.action.dtype)
        env_state, out = trials.step(env_key, player.env_state, action)
        played = _count(played, player, out)
        previous = clear_at_start(Previous(action, out.reward), out.first & out.reset)
        return (
            _Player(
                env_state,
                Inputs(out.obs, previous, out.first),
                out.reset,
                carry,
                player.episode + out.first,
                player.over | out.info["trial_end"],
            ),
            played,
            t + 1,
        )

    env_state, obs = trials.reset(reset_key)
    ones = jnp.ones(size, bool)
    nothing = Previous(zeros(trials.spec.action, (size,)), jnp.zeros(size, jnp.float32))
    start = _Player(
        env_state, Inputs(obs, nothing, ones), ones, policy.initial_carry(size),
        jnp.zeros(size, jnp.int32), ~ones,
    )  # fmt: skip
    none = jnp.zeros((size, episodes), jnp.int32)
    played = Played(none.astype(jnp.float32), none, none.astype(bool))
    return jax.lax.while_loop(unfinished, body, (start, played, jnp.int32(0)))[1]


def _count(played: Played, player: _Player, out: VectorStep) -> Played:
    """Return the outcome after one more step of the trials that are not over."""
    rows = jnp.arange(len(player.over))
    going = ~player.over
    return Played(
        played.episode_return.at[rows, player.episode].add(jnp.where(going, out.reward, 0)),
        played.length.at[rows, player.episode].add(going),
        played.finished.at[rows, player.episode].max(going & out.first),
    )


# --- Suites -----------------------------------------------------------------------------------


def adaptation(
    suite: Suite, policy: Policy, params: Params, key: Key, *, trials: int, greedy: bool = False
) -> Adaptation:
    """Play about `trials` trials of either part of a suite, as many of each task, at least one.

    Args:
        suite, policy, key, greedy: as in `play_trials`.
        params: leaves `[S, ...]`.
        trials: how many of each part, rounded to a multiple of its tasks.
    """
    require(trials >= 1, "episodes", trials, "at least 1")

    def part(batch: Trials) -> Played:
        played = jax.device_get(play_trials(batch, policy, params, key, greedy=greedy))
        lows = np.array([task.reference.low / task.reference.span for task in batch.tasks])
        score = played.episode_return - lows[batch.task_of][:, None]
        return played._replace(episode_return=score.astype(np.float32))

    def size(tasks: tuple[Any, ...]) -> int:
        return len(tasks) * max(1, round(trials / len(tasks)))

    train = part(suite.training(size(suite.train)))
    held_out = part(suite.testing(size(suite.held_out))) if suite.held_out else None
    return Adaptation(suite, train, held_out)


def scores(found: Adaptation) -> dict[str, Any]:
    """Return the mean scores `[S]`: of all episodes of a trial, of its first, and of its last."""
    means: dict[str, Any] = {}
    for prefix, played in (("", found.train), ("held_out_", found.held_out)):
        if played is None:
            continue
        by_episode = played.episode_return.mean(1)
        means |= {
            f"eval/{prefix}return": by_episode.mean(1),
            f"eval/{prefix}first_episode": by_episode[:, 0],
            f"eval/{prefix}last_episode": by_episode[:, -1],
        }
    means["eval/length"] = found.train.length.mean((1, 2))
    means["eval/finished"] = found.train.finished.mean((1, 2))
    return means


def by_episode(found: Adaptation) -> dict[str, Any]:
    """Return scores `[S][K]` by the number of the episode: all tasks of a part, and each task."""
    suite = found.suite
    curves: dict[str, Any] = {}
    parts = (("train", suite.train, found.train), ("held_out", suite.held_out, found.held_out))
    for part, tasks, played in parts:
        if played is None:
            continue
        members, trials, episodes = played.episode_return.shape
        table = played.episode_return.reshape(members, len(tasks), -1, episodes).mean(2)
        assert trials % len(tasks) == 0
        curves[part] = {
            "mean": table.mean(1).tolist(),
            "tasks": {task.name: table[:, i].tolist() for i, task in enumerate(tasks)},
        }
    return curves
