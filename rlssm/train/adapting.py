"""A user's own environment as the one task of a suite that an agent can be put to."""

import math
from dataclasses import replace
from typing import Any

from rlssm.envs import gymnax_env
from rlssm.envs.base import Environment
from rlssm.envs.registry import make
from rlssm.envs.tasks import Reference, Task, measure
from rlssm.envs.trials import Suite, TrialConfig
from rlssm.errors import UserError
from rlssm.types import Discrete, Key, Spec


def own_suite(suite: Suite, env: Any, key: Key, episodes: int | None, span: float | None) -> Suite:
    """Return the suite of one environment, shown as the tasks of `suite` were.

    Observations are standardised by what random actions meet, unless those of `suite` are left as
    they are.

    Args:
        suite: what the agent was trained on.
        env: a gymnax environment, one of this library, or an id.
        key: of the random actions.
        episodes: of a trial; None for as many as in training.
        span: of the rewards; None to take it from the returns of random actions.

    Raises:
        UserError: if the environment needs more than the agent sees or does.
    """
    env = _environment(env)
    measured = measure(env, key)
    if span is None:
        span = max(abs(float(measured.returns.mean())), float(measured.returns.std()), 1e-6)
    reference = Reference(0.0, span)
    if suite.train[0].reference.obs_mean is not None:
        reference = replace(
            reference,
            obs_mean=tuple(measured.obs_mean.tolist()),
            obs_std=tuple(measured.obs_std.tolist()),
        )
    same_start = any(task.same_start for task in suite.train)
    task = Task(getattr(env, "name", type(env).__name__), env, reference, same_start)
    sizes = TrialConfig(episodes=episodes, obs_size=suite.obs_size)
    own = Suite(suite.name, (task,), trial=sizes.over(suite.trial), action=suite.spec.action)
    _check_actions(own.spec, task)
    return own


def _environment(env: Any) -> Environment:
    if isinstance(env, str):
        return make(env)
    return env if isinstance(getattr(env, "spec", None), Spec) else gymnax_env.adapt(env)


def _check_actions(spec: Spec, task: Task) -> None:
    ours, theirs = spec.action, task.env.spec.action
    size = ours.n if isinstance(ours, Discrete) else math.prod(ours.shape)
    if task.action_size > size or (isinstance(ours, Discrete) and not isinstance(theirs, Discrete)):
        raise UserError(f"the agent's actions, {ours}, cannot stand for those of the "
                        f"environment, {theirs}")  # fmt: skip
