"""Commands on datasets: `rlssm data make`, `describe`, `score`, `import-d4rl`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlssm.cli.parse import parse, say, wants_help
from rlssm.cli.report import use_compilation_cache
from rlssm.errors import UserError, require, unknown_name

USAGE = """\
usage: rlssm data COMMAND ...

  make NAME                    build a dataset here, without a network
  describe ID                  counts, returns, lengths and scores of a dataset, and a picture
  score ID RETURN [RETURN ...] returns on the scale from a random policy (0) to an expert (100)
  import-d4rl FILE             write a raw D4RL file as a Minari dataset

  rlssm data COMMAND --help explains a command."""


DatasetId = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]


def data(words: list[str]) -> None:
    """`rlssm data COMMAND ...`."""
    known: dict[str, Callable[[list[str]], None]] = {
        "make": make,
        "describe": describe,
        "score": score,
        "import-d4rl": import_d4rl,
    }
    if not words or wants_help(words[:1]):
        return say(USAGE)
    if words[0] not in known:
        raise unknown_name("data command", words[0], known)
    known[words[0]](words[1:])


@dataclass(frozen=True)
class Make:
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Recipe, such as pendulum/medium."""
    steps: int | None = None
    """Steps to make, at least; whole episodes are kept. Default: 100,000 for pendulum, 1,000,000
    for MuJoCo, twice that for medium-expert, and 50,000 episodes for locks (10,000 with images)."""
    seed: int = 0
    """Seed of the start states and of the actions."""
    force: bool = False
    """Whether to replace a dataset that is there already."""
    quiet: bool = False
    """Whether to leave out the progress bar."""


def make(words: list[str]) -> None:
    """`rlssm data make NAME`."""
    from rlssm.train import recipes

    args = parse(
        Make,
        words,
        command="rlssm data make",
        description="Build a Minari dataset here, without a network. Recipes, which rlssm list "
        f"datasets explains: {', '.join(recipes.RECIPES)}.",
    )
    from rlssm.data.describe import describe
    from rlssm.data.minari_store import root

    use_compilation_cache()
    dataset = recipes.make(
        args.name, steps=args.steps, seed=args.seed, force=args.force, progress=not args.quiet
    )
    say(describe(dataset))
    say(f"wrote {root() / dataset.info.id}")


@dataclass(frozen=True)
class Describe:
    id: DatasetId
    """Minari id; without a version the newest local one."""
    download: bool = False
    """Whether to look for it in the network if it is not local."""
    out: Path | None = None
    """Picture to write (.png, .pdf or .svg); default <ID>.png here, with - for /."""


def describe(words: list[str]) -> None:
    """`rlssm data describe ID`."""
    args = parse(
        Describe, words, command="rlssm data describe", description="What a dataset holds."
    )
    from rlssm.data import describe as pictures
    from rlssm.data.minari_io import read
    from rlssm.train.datasets import locate

    dataset = read(locate(args.id, make=False, download=args.download))
    say(pictures.describe(dataset))
    out = args.out or Path(f"{dataset.info.id.replace('/', '-')}.png")
    pictures.picture(out, dataset)
    say(f"wrote {out}")


@dataclass(frozen=True)
class Score:
    id: DatasetId
    """Minari id of a local dataset, or D4RL's name of one, such as hopper-medium-v2."""
    returns: Annotated[tuple[float, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RETURN")]
    """Undiscounted returns."""


def score(words: list[str]) -> None:
    """`rlssm data score ID RETURN [RETURN ...]`."""
    args = parse(
        Score,
        words,
        command="rlssm data score",
        description="Returns on the scale from a random policy (0) to an expert (100).",
    )
    from rlssm.data.minari_io import read_info
    from rlssm.data.minari_store import find_local
    from rlssm.data.scores import d4rl_reference, normalise, references
    from rlssm.train.datasets import locate

    if not args.returns:
        raise UserError("RETURN is missing; see rlssm data score --help")
    for value in args.returns:
        require(math.isfinite(value), "RETURN", value, "finite")
    constants = d4rl_reference(args.id) if "/" not in args.id else None
    if constants is not None and find_local(args.id) is None:
        known = (constants,)
    else:
        info = read_info(locate(args.id, make=False, download=False))
        known = references(info.id, info.env, info.reference)
    if not known:
        raise UserError(
            f"dataset {args.id} has no reference returns, and D4RL has none for its task"
        )
    for reference in known:
        scores = ", ".join(f"{normalise(value, reference):.1f}" for value in args.returns)
        say(
            f"{scores} by {reference.source}: 0 is {reference.low:.6g}, 100 is {reference.high:.6g}"
        )


@dataclass(frozen=True)
class ImportD4RL:
    file: tyro.conf.Positional[Path]
    """The HDF5 file; it is not changed."""
    id: str | None = None
    """Id of the new dataset; default d4rl/<file name>-v<version>."""
    task: str | None = None
    """D4RL's name of the data, such as hopper-medium-v2, for the reference scores; default from
    the file name."""
    env: str | None = None
    """Id of the environment to evaluate in."""
    max_episode_steps: int | None = None
    """Time limit of the task; needed if the file has neither timeouts nor next_observations."""
    action_bound: float = 1.0
    """Actions lie in [-action_bound, action_bound]."""


def import_d4rl(words: list[str]) -> None:
    """`rlssm data import-d4rl FILE`."""
    args = parse(
        ImportD4RL,
        words,
        command="rlssm data import-d4rl",
        description="Write a raw D4RL file as a Minari dataset.",
    )
    from rlssm.data import d4rl_io
    from rlssm.data.describe import describe
    from rlssm.data.minari_store import root

    done = d4rl_io.import_d4rl(
        args.file,
        args.id,
        task=args.task,
        env=args.env,
        max_episode_steps=args.max_episode_steps,
        action_bound=args.action_bound,
    )
    say(describe(done.dataset))
    left_out = {
        "rows after the last end of an episode": done.tail,
        "last rows of timed-out episodes, whose successor is unknown": done.without_successor,
        "episodes of one step": done.single,
    }
    for what, count in left_out.items():
        if count:
            say(f"  left out: {count:,} {what}")
    if done.displaced:
        say(f"  in {done.displaced:,} rows next_observations was not the next row, which is kept")
    say(f"wrote {root() / done.dataset.info.id}")
