"""`rlssm list`: what there is."""

from collections.abc import Callable

from rlssm.cli.parse import say, wants_help
from rlssm.errors import unknown_name


def list_names(words: list[str]) -> None:
    """`rlssm list [envs|algos|cores]`."""
    kinds: dict[str, Callable[[], str]] = {"envs": _envs, "algos": _algos, "cores": _cores}
    if wants_help(words):
        return say(f"usage: rlssm list [{'|'.join(kinds)}]")
    for word in words:
        if word not in kinds:
            raise unknown_name("kind of thing to list", word, kinds)
    say("\n\n".join(kinds[word]() for word in words or kinds))


def _envs() -> str:
    from rlssm.envs import names

    groups = [f"envs, {family}:\n  " + "\n  ".join(ids) for family, ids in names().items()]
    return "\n".join([*groups, "besides: MemoryChain-<length>, and your own as module:factory"])


def _algos() -> str:
    from rlssm.algorithms import ALGORITHMS

    lines = [
        f"  {name}: {(module.__doc__ or '').splitlines()[0]} Presets: {', '.join(module.PRESETS)}."
        for name, module in ALGORITHMS.items()
    ]
    return "\n".join(["algos:", *lines])


def _cores() -> str:
    from rlssm.nn.cores import CORES

    return "\n".join(
        [
            "cores:",
            *(f"  {name}: {(kind.__doc__ or '').splitlines()[0]}" for name, kind in CORES.items()),
        ]
    )
