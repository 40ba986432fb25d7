"""Commands on run directories: `rlssm evaluate`, `plot`, `render`, `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from rlssm.cli.parse import RunDirectory, parse, say
from rlssm.cli.report import describe_scores, use_compilation_cache
from rlssm.errors import UserError

Which = int | Literal["last", "best"]


@dataclass(frozen=True)
class Evaluate:
    run: RunDirectory
    """The run directory."""
    checkpoint: str = "last"
    """Which weights: last, best, or the steps of a checkpoint."""
    episodes: int = 128
    """Whole episodes per member, at least 1."""
    stochastic: bool | None = None
    """Whether actions are sampled in place of the most likely ones. Default: in trials alone."""
    seed: int = 0
    """Seed of the start states and of the environment's noise."""
    skill: str | None = None
    """Skill to follow, of a run that learnt some: its number, or its coordinates between commas.
    Default: ones drawn at random."""
    out: Path | None = None
    """File to write every episode's return, length and success to, as JSON."""


def evaluate(words: list[str]) -> None:
    """`rlssm evaluate RUN`."""
    args = parse(
        Evaluate, words, command="rlssm evaluate", description="Play whole episodes, no learning."
    )
    from rlssm.evaluation.trials import Adaptation, by_episode
    from rlssm.io.config import save_json
    from rlssm.train.run import Run

    use_compilation_cache()
    run = Run(args.run)
    played = run.evaluate(
        which_checkpoint(args.checkpoint),
        episodes=args.episodes,
        greedy=None if args.stochastic is None else not args.stochastic,
        seed=args.seed,
        skill=args.skill,
    )
    means = {name: values.tolist() for name, values in run.scores(played).items()}
    trials = isinstance(played, Adaptation)
    sampled = trials if args.stochastic is None else args.stochastic
    say(
        f"{run.config.env.id}, {args.episodes} {'trials' if trials else 'episodes'} per member, "
        f"{'sampled' if sampled else 'greedy'} actions"
    )
    say("\n".join(describe_scores(run.config, {args.checkpoint: means})))
    if args.out is not None:
        if isinstance(played, Adaptation):
            episodes = by_episode(played)
        else:
            episodes = {name: values.tolist() for name, values in played._asdict().items()}
        save_json(args.out, {"checkpoint": args.checkpoint, "seed": args.seed, **episodes})


@dataclass(frozen=True)
class Plot:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories; several are drawn over each other."""
    metric: str | None = None
    """Which metric of metrics.jsonl, or of evaluations.jsonl (eval/...), or adaptation: scores by
    the episode of a trial. Default: adaptation with a suite of tasks, eval/return with a dataset or
    a simulator, else episode/return."""
    smooth: int = 1
    """Log points that a centred running mean is taken over, odd."""
    out: Path | None = None
    """Picture to write (.png, .pdf or .svg); default plots/METRIC.png in the first run."""


def plot(words: list[str]) -> None:
    """`rlssm plot RUN [RUN ...]`."""
    args = parse(Plot, words, command="rlssm plot", description="Draw learning curves.")
    from rlssm.evaluation.plots import learning_curves
    from rlssm.io.config import make_directory
    from rlssm.train.run import Run

    if not args.runs:
        raise UserError("RUN is missing; see rlssm plot --help")
    if (args.metric or ("adaptation" if Run(args.runs[0]).adapts else None)) == "adaptation":
        return _plot_adaptation(args)
    curves = {}
    metric = args.metric or Run(args.runs[0]).config.headline
    for path in args.runs:
        for label, curve in Run(path).curves(metric).items():
            name = label if label == path.name or len(args.runs) == 1 else f"{path.name} {label}"
            curves[name if name not in curves else f"{path} {label}"] = curve
    out = args.out or args.runs[0] / "plots" / f"{metric.replace('/', '-')}.png"
    make_directory(out.parent)
    learning_curves(out, curves, metric=metric, smooth=args.smooth)
    say(f"wrote {out}")


def _plot_adaptation(args: Plot) -> None:
    from rlssm.evaluation.plots import adaptation_curves
    from rlssm.io.config import make_directory
    from rlssm.train.run import Run

    curves = {
        f"{path.name} {part}" if len(args.runs) > 1 else part: scores
        for path in args.runs
        for part, scores in Run(path).adaptation().items()
    }
    out = args.out or args.runs[0] / "plots" / "adaptation.png"
    make_directory(out.parent)
    adaptation_curves(out, curves)
    say(f"wrote {out}")


@dataclass(frozen=True)
class Render:
    run: RunDirectory
    """The run directory."""
    checkpoint: str = "best"
    """Which weights: last, best, or the steps of a checkpoint."""
    member: int = 0
    """Which member of the run, counted from 0."""
    seed: int = 0
    """Seed of the episode."""
    stochastic: bool = False
    """Whether actions are sampled in place of the most likely ones."""
    skill: str | None = None
    """Skill to follow, of a run that learnt some: its number, or its coordinates between commas.
    Default: ones drawn at random."""
    out: Path | None = None
    """GIF to write; default plots/episode.gif in the run."""


def render(words: list[str]) -> None:
    """`rlssm render RUN`."""
    args = parse(Render, words, command="rlssm render", description="Draw an episode as a GIF.")
    import jax

    from rlssm.envs.trials import Suite
    from rlssm.evaluation.evaluate import record
    from rlssm.evaluation.video import drawing_of, save_gif
    from rlssm.io.config import make_directory
    from rlssm.train.run import Run

    run = Run(args.run)
    if isinstance(run.env, Suite):
        raise UserError(f"{run.path} was trained on a suite of tasks, which has no drawing")
    drawing_of(run.env)
    use_compilation_cache()
    recording = record(
        run.env,
        run.policy(args.skill),
        run.member_params(which_checkpoint(args.checkpoint), args.member),
        jax.random.key(args.seed),
        greedy=not args.stochastic,
    )
    out = args.out or run.path / "plots" / "episode.gif"
    make_directory(out.parent)
    save_gif(out, run.env, recording)
    total = float(recording.reward.sum())
    say(f"wrote {out}: {len(recording.reward)} steps, return {total:.4g}")


@dataclass(frozen=True)
class Export:
    run: RunDirectory
    """The run directory."""
    checkpoint: str = "best"
    """Which weights: last, best, or the steps of a checkpoint."""
    member: int = 0
    """Which member of the run, counted from 0."""
    skill: str | None = None
    """Skill to follow, of a run that learnt some: its number, or its coordinates between commas.
    Default: ones drawn at random."""
    out: Path | None = None
    """File to write; default policy.zip in the run."""


def export(words: list[str]) -> None:
    """`rlssm export RUN`."""
    args = parse(
        Export,
        words,
        command="rlssm export",
        description="Write the policy as a file that loads with jax alone.",
    )
    from rlssm.io.export import export_policy
    from rlssm.train.run import Run

    run = Run(args.run)
    if run.skills is not None:
        raise UserError(
            f"{run.path} acts by the skills of another run, which export cannot write; evaluate it "
            "with rlssm evaluate"
        )
    params = run.member_params(which_checkpoint(args.checkpoint), args.member)
    out = args.out or run.path / "policy.zip"
    export_policy(out, run.policy(args.skill), params, run.env.spec)
    say(f"wrote {out}")


def which_checkpoint(text: str) -> Which:
    """Return "last", "best" or a number of steps."""
    if text == "last" or text == "best":
        return text
    try:
        return int(text.replace("_", "").replace(",", ""))
    except ValueError:
        raise UserError(
            f"checkpoint must be last, best or a number of steps, got {text!r}"
        ) from None
