"""Record what the package `crafter` does, for the tests that run without it.

    python tests/world_models/record_crafter.py

needs `pip install crafter==1.8.3`. It writes `data/crafter.json.gz` beside it:

- `starts`: for each random start, the digest of the state after every step.
- `lives`: for each seed of the 64 x 64 world, the digests of its first state and of every step.
- `examples`: for some starts, the whole last state, so that a failure names a field.
- `noise`: values of OpenSimplex noise.
"""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
from crafter_package import PackageWorld
from crafter_starts import digest, random_actions, random_start

from rlssm.world_models.schema_json import state_to_json

DATA = Path(__file__).parent / "data" / "crafter.json.gz"
STARTS, LIVES, LIFE, EXAMPLES = 1_100, 3, 150, 20


def record() -> dict:
    seen: Counter[str] = Counter()
    starts = [record_start(seed, seen) for seed in range(STARTS)]
    lives = [record_life(seed) for seed in range(LIVES)]
    print(f"{sum(map(len, starts)) // 16} transitions;", dict(sorted(seen.items())))
    examples = [state_to_json(final_state(seed)) for seed in range(EXAMPLES)]
    return {"starts": starts, "lives": lives, "examples": examples, "noise": record_noise()}


def record_start(seed: int, seen: Counter[str]) -> str:
    start = random_start(seed)
    world = PackageWorld(start.size, start.view)
    world.install(start)
    before, digests = start, []
    for action in random_actions(seed):
        reward, over = world.step(action)
        after = world.state
        digests.append(digest(after, reward))
        count_events(before, after, seen)
        before = after
        if over:
            seen["over"] += 1
            break
    return "".join(digests)


def count_events(before, after, seen: Counter[str]) -> None:
    for name, count in after.player.achievements.items():
        seen[name] += count - before.player.achievements[name]
    old, new = ({e.entity_id: e.kind for e in s.objects} for s in (before, after))
    seen.update(f"{kind} gone" for key, kind in old.items() if key not in new)
    seen.update(f"{kind} born" for key, kind in new.items() if key not in old)
    seen["hurt"] += after.player.health < before.player.health


def final_state(seed: int):
    start = random_start(seed)
    world = PackageWorld(start.size, start.view)
    world.install(start)
    for action in random_actions(seed):
        if world.step(action)[1]:
            break
    return world.state


def record_life(seed: int) -> str:
    world = PackageWorld((64, 64), seed=seed)
    digests = [digest(world.state, 0.0)]
    for action in random_actions(seed, LIFE):
        reward, over = world.step(action)
        digests.append(digest(world.state, reward))
        if over:
            break
    return "".join(digests)


def record_noise() -> list:
    import opensimplex

    rng = np.random.RandomState(0)
    seeds = [0, 1, 2**31 - 2]
    points = rng.uniform(-40, 40, (60, 2)).round(3).tolist() + [
        [x / 7, y / 7] for x in range(6) for y in range(6)
    ]
    return [
        [seed, x, y, z, opensimplex.OpenSimplex(seed).noise3(x, y, z)]
        for seed in seeds
        for (x, y), z in zip(points, [0, 3, 5.5] * 32, strict=True)
    ]


if __name__ == "__main__":
    with gzip.open(DATA, "wt") as file:
        json.dump(record(), file)
    print(DATA.stat().st_size, "bytes")
