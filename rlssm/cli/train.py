"""`rlssm train` and `rlssm resume`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlssm.cli.parse import RunDirectory, parse, say, spelt_out, take, wants_help
from rlssm.cli.report import describe_result, use_compilation_cache
from rlssm.errors import UserError, unknown_name


def train(words: list[str]) -> None:
    """`rlssm train ALGO [--env ID] [--dataset ID] [--sim NAME=VALUE ...] [options]`."""
    from rlssm.algorithms import ALGORITHMS
    from rlssm.envs.registry import FROM_DATASET, EnvConfig
    from rlssm.nn.cores import CORES
    from rlssm.train.config import RunConfig
    from rlssm.train.program import wish_of
    from rlssm.types import Windows

    if not words or words[0].startswith("-"):
        usage = (
            "usage: rlssm train ALGO [--env ID] [--dataset ID] [options], ALGO one of: "
            f"{', '.join(ALGORITHMS)}"
        )
        if words and wants_help(words):
            return say(usage)
        raise UserError(usage)
    name, words = words[0], words[1:]
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    presets = ALGORITHMS[name].PRESETS
    preset, words = take(words, "--preset")
    core, words = take(words, "--core")
    env, words = take(words, "--env")
    tasks, words = take(words, "--tasks")
    if tasks is not None:
        env = f"tasks/{tasks}"
    if (preset or "default") not in presets:
        raise unknown_name("preset", str(preset), presets)
    agent = presets[preset or "default"]
    if core is not None and core not in CORES:
        raise unknown_name("core", core, CORES)
    if core is not None and core != agent.core.name:
        agent = dataclasses.replace(agent, core=CORES[core]())
    dataset, words = take(words, "--dataset")
    if env is None and dataset is None and not wants_help(words):
        raise UserError(
            "--env is missing (rlssm list envs shows the environments), or --dataset (rlssm list "
            "datasets), which names its own"
        )
    wish = wish_of(agent)
    if wants_help(words) and isinstance(wish, Windows) and (wish.offline_first or wish.both):
        dataset = dataset or "pendulum/medium"
    where = env or ("RepeatFirstEasy" if dataset is None else FROM_DATASET)
    if env is None and name == "meta-ppo":
        where = "tasks/meta-cartpole"

    @dataclass(frozen=True)
    class Train:
        run: Annotated[RunConfig, tyro.conf.arg(name="")]
        out: Path | None = None
        """Run directory; default runs/ENV-ALGO-CORE-SEED, with the dataset, where there is one, in
        place of the environment, -sim where there is a simulator, and -skills where actions are
        skills. One that exists is resumed."""
        quiet: bool = False
        """Whether to leave out the progress bar."""

    parsed = parse(
        Train,
        spelt_out(words, "--sim"),
        command=f"rlssm train {name}",
        description=(
            "Train an agent. --env ID (or module:factory), --tasks SUITE, --dataset ID, --core "
            f"NAME ({', '.join(CORES)}) and --preset NAME ({', '.join(presets)}) choose what the "
            "options below then adjust. --sim gravity=2 friction=0.3 is short for --sim.gravity 2 "
            "--sim.friction 0.3."
        ),
        default=Train(RunConfig(EnvConfig(where), agent, dataset)),
    )
    out = parsed.out or Path("runs") / default_name(parsed.run)
    _fit(parsed.run, out, parsed.quiet)


def resume(words: list[str]) -> None:
    """`rlssm resume RUN [--steps N]`."""
    from rlssm.train.run import Run

    @dataclass(frozen=True)
    class Resume:
        run: RunDirectory
        """The run directory."""
        steps: int | None = None
        """A new, larger number of environment steps to train for."""
        checkpoint: int | None = None
        """Steps of the checkpoint to go on from; later ones are removed. Default: the newest."""
        quiet: bool = False
        """Whether to leave out the progress bar."""

    parsed = parse(Resume, words, command="rlssm resume", description="Go on with a run.")
    run = Run(parsed.run)
    if parsed.checkpoint is not None:
        run.go_back(parsed.checkpoint)
    if parsed.steps is not None:
        run = run.extend(parsed.steps)
    _fit(run.config, run.path, parsed.quiet)


def default_name(config: Any) -> str:
    """Return the name of the run directory that a configuration gets by default."""
    source = (config.dataset or config.env.id).replace(":", "-").replace("/", "-")
    source += "-sim" if config.simulated else ""
    source += "-skills" if config.skills.run is not None else ""
    return f"{source}-{config.agent.name}-{config.agent.core.name}-{config.seed}"


def _fit(config: Any, out: Path, quiet: bool) -> None:
    from rlssm.train.loop import fit

    use_compilation_cache()
    run = fit(config, out, progress=not quiet)
    if run.complete:
        say(describe_result(run))
    else:
        say(f"stopped; go on with: rlssm resume {out}")
