"""Small datasets of every kind, and damage to their files."""

import json
from pathlib import Path

import jax
import numpy as np

from rlssm.data.dataset import DatasetInfo, Episode, OfflineDataset, from_episodes
from rlssm.data.scores import Reference
from rlssm.types import Box, DictSpace, Discrete, Space, Spec

SPACES: dict[str, Space] = {
    "box": Box((3,)),
    "scalar": Box(()),
    "matrix": Box((2, 3)),
    "discrete": Discrete(5),
    "image": Box((32, 33, 3), "uint8"),
    "flags": Box((4,), "bool"),
    "dict": DictSpace(
        (
            ("goal", DictSpace((("x", Box((2,))), ("y", Discrete(3))))),
            ("mask", Box((2,), "bool")),
            ("position", Box((3,))),
        )
    ),
}
BOUNDS = ((-0.4, -3.0), (0.4, 3.0))


def sample(space: Space, rows: int, rng: np.random.Generator):
    match space:
        case Discrete(n):
            return rng.integers(n, size=rows).astype(np.int32)
        case Box(shape, "bool"):
            return rng.random((rows, *shape)) < 0.5
        case Box(shape, "uint8"):
            return rng.integers(256, size=(rows, *shape)).astype(np.uint8)
        case Box(shape):
            return rng.normal(size=(rows, *shape)).astype(np.float32)
        case DictSpace(parts):
            return {name: sample(part, rows, rng) for name, part in parts}


def make_episode(spec: Spec, steps: int, terminal: bool, rng: np.random.Generator) -> Episode:
    ends = np.arange(steps) == steps - 1
    if isinstance(spec.action, Discrete):
        action = sample(spec.action, steps, rng)
    else:
        action = rng.uniform(-1, 1, (steps, *spec.action.shape)).astype(np.float32)
    return Episode(
        obs=sample(spec.obs, steps + 1, rng),
        action=action,
        reward=rng.normal(size=steps).astype(np.float32),
        terminated=ends & terminal,
        truncated=ends & (not terminal),
    )


def make_dataset(
    obs: str = "box", *, discrete: bool = False, lengths=(4, 2, 7), seed=0, dataset_id="box/test-v0"
) -> OfflineDataset:
    """Return a dataset whose episodes terminate and are truncated in turn."""
    rng = np.random.default_rng(seed)
    spec = Spec(SPACES[obs], Discrete(3) if discrete else Box((2,)), 50)
    info = DatasetInfo(
        id=dataset_id,
        spec=spec,
        action_bounds=None if discrete else BOUNDS,
        env="Pendulum-v1",
        reference=Reference(-1200.0, -150.5, "measured over 100 episodes"),
        provenance=(("algorithm_name", "SAC"), ("author", "A. Person, B. Person"), ("seed", "3")),
        transforms=("reward * 2 + 1",),
    )
    episodes = [make_episode(spec, n, i % 2 == 0, rng) for i, n in enumerate(lengths)]
    return from_episodes(episodes, info)


def assert_identical(a, b) -> None:
    """Two pytrees have one structure and the same bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def edit_metadata(folder: Path, **entries) -> None:
    """Change entries of metadata.json (None removes one) and drop the checksums."""
    path = folder / "data" / "metadata.json"
    metadata = {**json.loads(path.read_text()), **entries, "rlssm_checksums": None}
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a folder."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}
