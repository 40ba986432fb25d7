"""`rlssm list`: what there is."""

from collections.abc import Callable

from rlssm.cli.parse import say, wants_help
from rlssm.errors import unknown_name


def list_names(words: list[str]) -> None:
    """`rlssm list [envs|algos|datasets|cores]`."""
    kinds: dict[str, Callable[[], str]] = {
        "envs": _envs,
        "algos": _algos,
        "datasets": _datasets,
        "cores": _cores,
    }
    if wants_help(words):
        return say(f"usage: rlssm list [{'|'.join(kinds)}]")
    for word in words:
        if word not in kinds:
            raise unknown_name("kind of thing to list", word, kinds)
    say("\n\n".join(kinds[word]() for word in words or kinds))


def _envs() -> str:
    from rlssm.envs import names

    groups = [f"envs, {family}:\n  " + "\n  ".join(ids) for family, ids in names().items()]
    besides = (
        "besides: MemoryChain-<length>, gym/<any id of Gymnasium>, brax/<name>:<backend>, and your "
        "own as module:factory"
    )
    return "\n".join([*groups, besides])


def _algos() -> str:
    from rlssm.algorithms import ALGORITHMS

    lines = [
        f"  {name}: {(module.__doc__ or '').splitlines()[0]} Presets: {', '.join(module.PRESETS)}."
        for name, module in ALGORITHMS.items()
    ]
    return "\n".join(["algos:", *lines])


def _datasets() -> str:
    from rlssm.data.minari_store import local_ids, root
    from rlssm.train.recipes import RECIPES, available

    made = (
        f"  {name}: {recipe.text}{'' if available(name) else ' (its policies do not ship yet)'}"
        for name, recipe in RECIPES.items()
    )
    return "\n".join(
        [
            f"datasets, in {root()}:",
            *(f"  {name}" for name in local_ids() or ["none"]),
            "datasets, made by rlssm data make, or when first used:",
            *made,
        ]
    )


def _cores() -> str:
    from rlssm.nn.cores import CORES

    return "\n".join(
        [
            "cores:",
            *(f"  {name}: {(kind.__doc__ or '').splitlines()[0]}" for name, kind in CORES.items()),
        ]
    )
