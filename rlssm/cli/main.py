"""The `rlssm` command: parses, calls the library, and turns a user's mistake into one sentence."""

import os
import sys
from collections.abc import Callable, Sequence

from rlssm.errors import UserError, unknown_name

USAGE = """\
usage: rlssm COMMAND ...

  train ALGO --env ID     train an agent; ends with an evaluation and a picture of the curve
  train meta-ppo --tasks SUITE    train across tasks, over trials of several episodes
  train ALGO --dataset ID     the same from a dataset, alone or together with its environment
  resume RUN              go on with a run that was stopped
  evaluate RUN            play whole episodes with the weights of a checkpoint
  plot RUN [RUN ...]      draw learning curves
  render RUN              draw an episode as a GIF
  export RUN              write the policy as a file that loads without this library
  skills RUN              draw and score the skills that a run found
  list [envs|algos|datasets|cores]    what there is
  data make|describe|score|import-d4rl    build and look at offline datasets; normalised scores;
                          read a D4RL file into a Minari dataset
  world evaluate|plan|show    symbolic world models of Crafter: how good, plans in them, their laws

  rlssm COMMAND --help explains a command; rlssm train ALGO --help every hyper-parameter."""


def commands() -> dict[str, Callable[[list[str]], None]]:
    """Return the commands by name."""
    from rlssm.cli import data, inspect, runs, skills, train, world

    return {
        "train": train.train,
        "resume": train.resume,
        "evaluate": runs.evaluate,
        "plot": runs.plot,
        "render": runs.render,
        "export": runs.export,
        "skills": skills.skills,
        "list": inspect.list_names,
        "data": data.data,
        "world": world.world,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits 2 with one sentence on a user's mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    try:
        known = commands()
        if words[0] not in known:
            raise unknown_name("command", words[0], known)
        known[words[0]](words[1:])
    except UserError as error:
        print(f"rlssm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("rlssm: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as in `rlssm list | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(141)


if __name__ == "__main__":
    main()
