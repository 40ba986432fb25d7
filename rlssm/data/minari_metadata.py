"""What a Minari dataset's metadata.json says, read into this library's terms and written back.

Beside Minari's own entries there is one called "rlssm", for what Minari has no entry for: the
environment where Gymnasium does not know it, the reference scores' source, provenance, transforms.
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np

from rlssm.data.dataset import DatasetInfo
from rlssm.data.minari_files import FORMATS
from rlssm.data.scores import Reference
from rlssm.data.spaces import Leaf, SpaceTree, columns, parse_space, to_space
from rlssm.errors import UserError, unknown_name
from rlssm.types import Box, Discrete, Spec

OWN = "rlssm"
_SETS = ("author", "author_email")  # Minari keeps these as sets
_TEXTS = ("algorithm_name", "code_permalink", "description")
_REWARD = Leaf(Box(()), np.dtype(np.float32), np.array(-np.inf), np.array(np.inf))
_FLAG = Leaf(Box((), "bool"), np.dtype(bool), np.array(0.0), np.array(1.0))


class Layout(NamedTuple):
    """What the metadata promise about the data."""

    info: DatasetInfo
    obs: SpaceTree
    columns: dict[str, Leaf]  # by path, such as `observations/position`
    episodes: int
    steps: int
    data_format: str
    jpeg: bool


def parse_layout(dataset_id: str, metadata: dict[str, Any]) -> Layout:
    """Return what a dataset's metadata say.

    Raises:
        UserError: naming the entry that is missing, damaged or cannot be served.
    """
    episodes, steps = (_count(metadata, name) for name in ("total_episodes", "total_steps"))
    data_format = metadata.get("data_format", "hdf5")
    if data_format not in FORMATS:
        raise unknown_name("data_format", str(data_format)[:40], FORMATS)
    obs, left_out = parse_space(metadata.get("observation_space"), "observation_space")
    action = _served(parse_space(metadata.get("action_space"), "action_space")[0])
    own = metadata.get(OWN, {})
    if not isinstance(own, dict):
        raise UserError(f"{OWN} in metadata.json is damaged")
    env, max_episode_steps, env_arguments = _environment(metadata, own)
    info = DatasetInfo(
        id=dataset_id,
        spec=Spec(to_space(obs), action.space, max_episode_steps),
        action_bounds=_bounds(action),
        env=env,
        env_arguments=env_arguments,
        reference=_reference(dataset_id, metadata, own),
        provenance=_provenance(metadata, own),
        transforms=(*_texts(own, "transforms"), *(f"{path} left out" for path in left_out)),
    )
    leaves = {
        **columns(obs, "observations"),
        "actions": action,
        "rewards": _REWARD,
        "terminations": _FLAG,
        "truncations": _FLAG,
    }
    jpeg = metadata.get("jpeg_encoding", True) is True
    return Layout(info, obs, leaves, episodes, steps, data_format, jpeg)


def to_metadata(info: DatasetInfo) -> dict[str, Any]:
    """Return the entries that describe a dataset, in the types Minari wants."""
    own_words = {name: text for name, text in info.provenance if name not in (*_SETS, *_TEXTS)}
    entries: dict[str, Any] = {
        OWN: {
            "env": info.env,
            "max_episode_steps": info.spec.max_episode_steps,
            "provenance": own_words,
            "transforms": list(info.transforms),
        }
    }
    for name, text in info.provenance:
        if name not in own_words:
            entries[name] = {text} if name in _SETS else text
    if info.reference is not None:
        entries["ref_min_score"], entries["ref_max_score"], source = info.reference
        entries[OWN]["reference_source"] = source
    if info.env is not None:
        entries |= _env_spec(info.env)
    return entries


def _env_spec(env: str) -> dict[str, str]:
    from gymnasium import registry

    return {"env_spec": registry[env].to_json()} if env in registry else {}


# --- Entries ----------------------------------------------------------------------------------


def _count(metadata: dict[str, Any], name: str) -> int:
    value = metadata.get(name)
    if type(value) is not int or not 1 <= value < 2**31:
        raise UserError(
            f"{name} in metadata.json must be a number from 1 on, got {str(value)[:40]}"
        )
    return value


def _served(action: SpaceTree) -> Leaf:
    """Return the action space, if agents can act in it."""
    if isinstance(action, Leaf):
        floats = action.dtype.kind == "f" and np.isfinite([action.low, action.high]).all()
        if isinstance(action.space, Discrete) or (floats and np.all(action.low < action.high)):
            return action
    raise UserError("action_space cannot be served; use Discrete or a Box of bounded real numbers")


def _bounds(action: Leaf) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if isinstance(action.space, Discrete):
        return None
    low, high = (tuple(bound.ravel().tolist()) for bound in (action.low, action.high))
    return low, high


def _environment(
    metadata: dict[str, Any], own: dict[str, Any]
) -> tuple[str | None, int | None, str]:
    """Return the environment's id, step limit and keyword arguments; the rest is not used."""
    try:
        spec = own if own else json.loads(metadata.get("env_spec") or "{}")
        env, limit = spec.get("env" if own else "id"), spec.get("max_episode_steps")
        arguments = {} if own else spec.get("kwargs") or {}
    except (TypeError, ValueError, AttributeError, RecursionError):
        raise UserError("env_spec in metadata.json is damaged") from None
    kinds = (env, str | None), (arguments, dict), (limit, int | None)
    if type(limit) is bool or not all(isinstance(value, kind) for value, kind in kinds):
        raise UserError("env_spec in metadata.json is damaged")
    return env, limit, json.dumps(arguments, sort_keys=True)


def _reference(dataset_id: str, metadata: dict[str, Any], own: dict[str, Any]) -> Reference | None:
    scores = [metadata.get("ref_min_score"), metadata.get("ref_max_score")]
    if scores == [None, None]:
        return None
    low, high = map(_number, scores)
    if not -math.inf < low < high < math.inf:
        shown = " and ".join(str(score)[:40] for score in scores)
        raise UserError(
            "ref_min_score and ref_max_score in metadata.json must be two numbers, the smaller "
            f"first, got {shown}"
        )
    source = own.get("reference_source", f"Minari metadata of {dataset_id}")
    if not isinstance(source, str):
        raise UserError("reference_source in metadata.json is damaged")
    return Reference(low, high, source)


def _number(value: Any) -> float:
    """Return a number in JSON as a float, NaN where it is none."""
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan


def _provenance(metadata: dict[str, Any], own: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    words = own.get("provenance", {})
    if not isinstance(words, dict):
        raise UserError("provenance in metadata.json is damaged")
    named = {name: metadata[name] for name in (*_SETS, *_TEXTS, "requirements") if name in metadata}
    found = {}
    for name, value in {**named, **words}.items():
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str) for part in parts):
            raise UserError(f"{name} in metadata.json must be text, got {str(value)[:40]}")
        found[name] = ", ".join(sorted(parts))
    return tuple(sorted(found.items()))


def _texts(own: dict[str, Any], name: str) -> list[str]:
    value = own.get(name, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{name} in metadata.json is damaged")
    return value
