"""What the commands print."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rlssm.errors import UserError
from rlssm.evaluation.statistics import bootstrap_interval, iqm, mean


def use_compilation_cache() -> None:
    """Keep compiled code between commands, where the user's caches are kept."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(caches / "rlssm" / "xla"))


def describe_result(run: Any) -> str:
    """Return what a complete run came to, one line for each setting and kind of weights."""
    from rlssm.train.program import collected

    config, result = run.config, run.result
    lines = [
        f"{run.path} is complete: {config.agent.name} with core {config.agent.core.name} on "
        f"{config.env.id}, {config.cadence.total * collected(config.agent).steps:,} steps, "
        f"{config.seeds} seed{'s' * (config.seeds > 1)}",
        *describe_dataset(run.dataset),
        *describe_simulator(run),
        *describe_scores(config, {name: result[name] for name in ("last", "best")}),
    ]
    curve = run.path / "plots" / "return.png"
    if curve.exists():
        lines.append(f"  curve: {curve}")
    return "\n".join(lines)


def describe_dataset(dataset: dict[str, Any] | None) -> list[str]:
    """Return one line on what a run's dataset is and earned, if it has one."""
    if dataset is None:
        return []
    reference = dataset["reference"]
    scale = "" if reference is None else f"; scores by {reference['source']}"
    return [
        f"  dataset {dataset['id']}: return {dataset['return_mean']:.4g}, "
        f"{dataset['episodes']:,} episodes{scale}"
    ]


def describe_simulator(run: Any) -> list[str]:
    """Return one line on a run's simulator, and on how far off its learner found it, if it did."""
    from rlssm.io.logging import read_metric
    from rlssm.train.run import in_words

    if not run.config.simulated:
        return []
    found = []
    for words, name in _JUDGEMENTS.items():
        with suppress(UserError):  # not every learner judges
            found.append(
                f"{words} {read_metric(run.path / 'metrics.jsonl', name)[1][-1].mean():.3g}"
            )
    return [f"  acted in {in_words(run.config.sim)}{': ' * bool(found)}{', '.join(found)}"]


# What the last log point says of the simulator, in words. See docs/h2o.md.
_JUDGEMENTS = {
    "weight w": "simulator/ratio",
    "gap u": "simulator/gap",
    "correction": "simulator/correction",
    "told apart by their start": "discriminator/start_accuracy",
    "by the step": "discriminator/step_accuracy",
}


def describe_scores(config: Any, scores: dict[str, dict[str, list[Any]]]) -> list[str]:
    """Return one line for each setting and kind of weights, with intervals over seeds."""
    lines = []
    for i, setting in enumerate(config.settings):
        seeds = slice(i * config.seeds, (i + 1) * config.seeds)
        label = " ".join(f"{name}={value:g}" for name, value in setting.items())
        for name, values in scores.items():
            returns = np.array(values["eval/return"][seeds])
            line = f"  {label} {name}: return {_interval(returns)}".replace("   ", "  ")
            if "eval/score" in values:
                line += f", score {_interval(np.array(values['eval/score'][seeds]))}"
            if "eval/success" in values:
                line += f", success {100 * np.mean(values['eval/success'][seeds]):.1f} %"
            unfinished = 1 - np.mean(values["eval/finished"][seeds])
            if unfinished:
                line += f", {100 * unfinished:.1f} % of episodes given up unfinished"
            lines.append(line)
    return lines


def _interval(returns: np.ndarray) -> str:
    if len(returns) == 1:
        return f"{returns[0]:.4g}"
    low, high = bootstrap_interval(mean, returns)
    return f"{mean(returns):.4g} [{low:.4g}, {high:.4g}] (IQM {iqm(returns):.4g})"
