"""Offline data: Minari datasets and D4RL files as flat arrays, and the views learners take."""

from rlssm.data.dataset import (
    DatasetInfo,
    Episode,
    OfflineDataset,
    from_episodes,
    transitions,
    windows,
    with_hidden,
    with_returns,
    with_rewards,
)
from rlssm.data.minari_io import load, read, write
from rlssm.data.minari_store import local_ids
from rlssm.data.scores import Reference, normalise, references

__all__ = [
    "DatasetInfo",
    "Episode",
    "OfflineDataset",
    "Reference",
    "from_episodes",
    "load",
    "local_ids",
    "normalise",
    "read",
    "references",
    "transitions",
    "windows",
    "with_hidden",
    "with_returns",
    "with_rewards",
    "write",
]
