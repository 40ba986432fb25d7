"""Finding a dataset by its id, and whether it fits what it is to be used for.

An id is looked for among the local datasets, then among the recipes, then on Minari's server.
"""

import difflib
import importlib.util
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from rlssm.data import minari_io, minari_store
from rlssm.data.dataset import DatasetInfo, OfflineDataset
from rlssm.data.describe import in_words, summarise
from rlssm.data.scores import references
from rlssm.envs import gymnasium_make, registry
from rlssm.envs.base import Environment, action_bounds
from rlssm.envs.perturbed import DynamicsConfig
from rlssm.errors import UserError, unknown_name
from rlssm.train import recipes

PATIENCE = 4.0  # seconds for a server to answer; its client would try for up to a minute and a half

# Environments of this library with the name and the dynamics of Gymnasium's.
SAME_IN_GYMNASIUM = ("Pendulum-v1",)

# Minari's kinds of server: the package that talks to it, and where it is.
_SERVERS = {
    "hf": ("huggingface_hub", "https://huggingface.co"),
    "gcp": ("google", "https://storage.googleapis.com"),
}


# --- Finding ----------------------------------------------------------------------------------


def load(dataset_id: str, *, progress: bool = True) -> OfflineDataset:
    """Return a dataset on the host, checked; one that is not local is made or downloaded.

    Args:
        dataset_id: with or without its version; see `locate`.
        progress: whether to say on stderr what is made or downloaded, and how far it is.

    Raises:
        UserError: if there is none, or naming dataset, episode and field of what is wrong.
    """
    return minari_io.read(locate(dataset_id, progress=progress))


def locate(
    dataset_id: str, *, make: bool = True, download: bool = True, progress: bool = True
) -> str:
    """Return the full id of a dataset that is local, if need be after making or downloading it.

    Args:
        dataset_id: such as `pendulum/medium-v0`. Without a version it is the newest local one, or
            else a recipe; only ids with a version are downloaded.
        make: whether a recipe is used.
        download: whether the network is used.
        progress: whether to say on stderr what is done.

    Raises:
        UserError: if there is none; the nearest is named, and what to do.
    """
    found = minari_store.find_local(dataset_id)
    if found is not None:
        return found
    recipe = recipes.find(dataset_id)
    if recipe is not None:
        if not make:
            raise UserError(
                f"dataset {dataset_id} is not in {minari_store.root()}; make it with: rlssm data "
                f"make {recipe}"
            )
        return _make(recipe, progress)
    if download and minari_store.split_id(dataset_id)[1] is not None:
        _download(dataset_id, progress)
        return dataset_id
    raise UserError(
        f"{unknown_name('dataset', dataset_id, _known(dataset_id))}; looked in "
        f"{minari_store.root()}; rlssm data make and rlssm data import-d4rl add to it, and an id "
        "with its version is downloaded"
    )


def _make(recipe: str, progress: bool) -> str:
    dataset_id = f"{recipe}-v0"
    if progress and recipes.available(recipe):
        steps = recipes.RECIPES[recipe].steps
        _say(f"dataset {dataset_id} is not in {minari_store.root()}: making {steps:,} steps")
    try:
        recipes.make(recipe, progress=progress)
    except UserError:
        if minari_store.find_local(dataset_id) is None:  # else another process was quicker
            raise
    return dataset_id


def _download(dataset_id: str, progress: bool) -> None:
    try:
        if _require_network(dataset_id) and progress:
            _say(f"dataset {dataset_id} is not in {minari_store.root()}: asking Minari's server")
        minari_store.download(dataset_id)
    except UserError as error:
        near = difflib.get_close_matches(dataset_id, _known(dataset_id), n=1)
        hint = f"perhaps {near[0]!r} was meant; " if near else ""
        raise UserError(
            f"{error}; {hint}without a network, rlssm data make builds datasets and rlssm data "
            "import-d4rl reads files"
        ) from None


def _require_network(dataset_id: str) -> bool:
    """Return whether there is a client to download with.

    Raises:
        UserError: if there is, but the server does not answer soon, whatever it says.
    """
    kind = os.environ.get("MINARI_REMOTE", "hf").partition("://")[0]
    client, server = _SERVERS.get(kind, ("", ""))
    if not client or importlib.util.find_spec(client) is None:
        return False  # the download itself says what is missing
    if kind == "hf":
        server = os.environ.get("HF_ENDPOINT") or server
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(server, timeout=PATIENCE).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError):
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up may hang for longer
    asking.start()
    asking.join(PATIENCE)
    if not answered.is_set():
        raise UserError(
            f"dataset {dataset_id} is not in {minari_store.root()}, and {server}, where it might "
            "be, does not answer"
        )
    return True


def _known(dataset_id: str) -> set[str]:
    """Return the ids that are local or a recipe's, with versions if the one asked for has one."""
    versioned = minari_store.split_id(dataset_id)[1] is not None
    made = [f"{name}-v0" if versioned else name for name in recipes.RECIPES]
    here = minari_store.local_ids()
    if not versioned:
        here = [minari_store.split_id(local)[0] for local in here]
    return {*here, *made}


def _say(text: str) -> None:
    print(f"rlssm: {text}", file=sys.stderr, flush=True)


# --- Use --------------------------------------------------------------------------------------


def environment(info: DatasetInfo) -> str | None:
    """Return the id of the environment to evaluate in, None if the dataset does not say.

    A Gymnasium id `X` is `gym/X`, but for those whose dynamics this library has on the device.

    Raises:
        UserError: if it was made with other arguments than the id stands for.
    """
    env = info.env
    if env is None:
        return None
    if gymnasium_make.registered(env):
        _require_plain(info, env)
        return env if env in SAME_IN_GYMNASIUM else f"gym/{env}"
    try:
        return registry.EnvConfig(env).id
    except UserError:  # not one of this library's: perhaps of a package that Gymnasium loads
        return f"gym/{env}"


def _require_plain(info: DatasetInfo, env: str) -> None:
    """Raise unless a dataset's Gymnasium environment is what its id alone makes."""
    import gymnasium

    made = json.loads(info.env_arguments)
    plain = json.loads(json.dumps(gymnasium.spec(env).kwargs))
    for arguments in (made, plain):
        arguments.pop("render_mode", None)
    if made != plain:
        raise UserError(
            f"dataset {info.id} is from {env} made with {info.env_arguments}, its id alone "
            f"makes it with {json.dumps(plain)}; name one like it with env, as module:factory"
        )


def check_fits(info: DatasetInfo, env: Environment) -> None:
    """Raise unless a dataset's observations and actions are those of an environment.

    Raises:
        UserError: naming the first of them that differs, be it by the units of the actions.
    """
    for name, ours, theirs in (
        ("observations", info.spec.obs, env.spec.obs),
        ("actions", info.spec.action, env.spec.action),
    ):
        if ours != theirs:
            raise UserError(
                f"dataset {info.id} does not fit the environment: its {name} are "
                f"{in_words(ours)}, the environment's are {in_words(theirs)}"
            )
    bounds = action_bounds(env)
    if bounds is not None and not np.allclose(info.bounds, bounds, rtol=1e-6):
        (low, high), (their_low, their_high) = info.bounds, bounds
        raise UserError(
            f"dataset {info.id} does not fit the environment: its actions are from {low.tolist()} "
            f"to {high.tolist()}, the environment's from {their_low.tolist()} to "
            f"{their_high.tolist()}"
        )


def summary(dataset: OfflineDataset, env: registry.EnvConfig) -> dict[str, Any]:
    """Return what a run evaluated in `env` says of its dataset, in types JSON can hold.

    `reference` is the one that scores are by: the dataset's own, else that of D4RL, else None. It
    is None, too, where `env` is another task than the dataset's, whose returns do not compare.
    """
    info, found = dataset.info, summarise(dataset)
    known = references(info.id, info.env, info.reference) if _same_task(info, env) else ()
    return {
        "id": info.id,
        "env": info.env,
        "steps": dataset.num_steps,
        "episodes": dataset.num_episodes,
        "terminated": found.terminated,
        "return_mean": float(found.returns.mean()),
        "return_min": float(found.returns.min()),
        "return_max": float(found.returns.max()),
        "reference": known[0]._asdict() if known else None,
        "provenance": dict(info.provenance),
    }


def _same_task(info: DatasetInfo, env: registry.EnvConfig) -> bool:
    """Return whether returns in `env` are of the dataset's task; how it is observed is free."""
    limits = (None, info.spec.max_episode_steps)
    named = info.env is None or env.id.rpartition("/")[2] == info.env.rpartition("/")[2]
    return named and env.dynamics == DynamicsConfig() and env.time_limit in limits
