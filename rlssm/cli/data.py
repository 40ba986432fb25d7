"""Commands on datasets: `rlssm data describe`, `import-d4rl`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from rlssm.cli.parse import parse, say, wants_help
from rlssm.errors import unknown_name

USAGE = """\
usage: rlssm data COMMAND ...

  describe ID        counts, returns, lengths and scores of a dataset, and a picture of them
  import-d4rl FILE   write a raw D4RL file as a Minari dataset

  rlssm data COMMAND --help explains a command."""


def data(words: list[str]) -> None:
    """`rlssm data COMMAND ...`."""
    known: dict[str, Callable[[list[str]], None]] = {
        "describe": describe,
        "import-d4rl": import_d4rl,
    }
    if not words or wants_help(words[:1]):
        return say(USAGE)
    if words[0] not in known:
        raise unknown_name("data command", words[0], known)
    known[words[0]](words[1:])


@dataclass(frozen=True)
class Describe:
    id: tyro.conf.Positional[str]
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
    from rlssm.data.minari_io import load

    dataset = load(args.id, download=args.download)
    say(pictures.describe(dataset))
    out = args.out or Path(f"{dataset.info.id.replace('/', '-')}.png")
    pictures.picture(out, dataset)
    say(f"wrote {out}")


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
