"""Record what the package `popgym` does, for the tests that run without it.

    python tests/envs/record_popgym.py

needs `pip install popgym==1.0.7 mazelib`. It writes `data/popgym.json.gz` beside it: for every task
two episodes, played at random and by somebody who mostly knows the hidden things, each with

- `hidden`: where ships, mines, cards or walls are, or the physical state at the start.
- `start`: the first observation.
- `actions`, and what every one of them led to: `obs`, `reward`, `terminated`, `truncated`.
"""

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data" / "popgym.json.gz"
GAMES = (
    "CountRecall", "HigherLower", "Concentration", "Battleship", "MineSweeper",
    "LabyrinthExplore", "LabyrinthEscape", "VelocityOnlyCartPole",
)  # fmt: skip
LONGEST = 300  # steps kept of an episode, but for two exceptions below
KNOWING = 0.8  # of the moves of the second player


def record() -> dict[str, list[dict[str, Any]]]:
    return {
        f"{game}{level}".replace("MineSweeper", "Minesweeper"): [
            record_episode(f"{game}{level}", knowing, seed) for seed, knowing in enumerate((0, 1))
        ]
        for game in GAMES
        for level in ("Easy", "Medium", "Hard")
    }


def record_episode(name: str, knowing: int, seed: int) -> dict[str, Any]:
    import popgym.envs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env: Any = getattr(popgym.envs, name)()
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    episode: dict[str, Any] = {"hidden": plain(hidden(name, env)), "start": plain(obs)}
    episode |= {key: [] for key in ("actions", "obs", "reward", "terminated", "truncated")}
    over, longest = False, LONGEST
    if name == "LabyrinthExploreEasy" and not knowing:
        longest = 2000  # to its end
    if name.startswith("Velocity"):
        longest = 100  # what a pole does later hangs on the last digits of float32
    while not over and len(episode["actions"]) < longest:
        action = choose(name, env, rng, knowing)
        obs, *rest = env.step(action)
        for key, value in zip(
            ("actions", "obs", "reward", "terminated", "truncated"),
            (action, obs, *rest[:3]),
            strict=True,
        ):
            episode[key].append(plain(value))
        over = rest[1] or rest[2]
    return episode


def hidden(name: str, env: Any) -> Any:
    """Return what an episode is about and the player cannot see."""
    if name.startswith("Concentration"):
        return env.deck_idx_type[env.deck.idx]
    if name.startswith("Battleship"):
        return env.board
    if name.startswith("MineSweeper"):
        return env.hidden_grid
    if name.startswith("Labyrinth"):
        return {"grid": env.maze.grid, "place": env.position}
    return env.state if name.startswith("Velocity") else None


def choose(name: str, env: Any, rng: np.random.Generator, knowing: int) -> Any:
    """Return a random move, or now and then one that the hidden things suggest."""
    env.action_space.seed(int(rng.integers(2**31)))
    if not knowing or rng.random() > KNOWING:
        return env.action_space.sample()
    if name.startswith("CountRecall"):
        return int(env.counts[env.query])
    if name.startswith("HigherLower"):
        ranks = env.deck.ranks_idx
        return int(ranks[env.deck.idx[env.deck.deck_len - 1]] < ranks[env.deck["player"][-1]])
    if name.startswith("Concentration"):
        kinds, up, hand = hidden(name, env), env.deck["face_up_idx"], env.deck["in_play_idx"]
        down = [i for i in range(len(kinds)) if i not in up and i not in hand]
        return [i for i in down if not hand or kinds[i] == kinds[hand[0]]][0]
    if name.startswith("Battleship"):
        return rng.choice(np.argwhere((env.board == 1) & (env.guesses == 0)))
    if name.startswith("MineSweeper"):
        return rng.choice(np.argwhere(env.hidden_grid == 0))
    if name.startswith("LabyrinthEscape"):
        return way_out(env)
    if name.startswith("Labyrinth"):
        new = [a for a in range(4) if env.explored[env.move(a)] == 0]
        return int(rng.choice(new)) if new else env.action_space.sample()
    x, x_dot, theta, theta_dot = env.state
    return int(theta + theta_dot + 0.1 * x + 0.2 * x_dot > 0)


def way_out(env: Any) -> int:
    """Return the first move of the shortest way to the exit, where a move is two coordinates."""
    moves, grid = ((0, -1), (0, 1), (-1, 0), (1, 0)), env.maze.grid
    distance, edge = {env.maze.end: 0}, [env.maze.end]
    for place in edge:
        for row, column in moves:
            near = (place[0] - row, place[1] - column)
            inside = all(0 <= x < len(grid) for x in near)
            if inside and grid[near] != 1 and near not in distance:
                distance[near] = distance[place] + 1
                edge.append(near)
    return min(range(4), key=lambda a: distance[env.move(a)])


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    return np.asarray(value).tolist()


if __name__ == "__main__":
    DATA.write_bytes(gzip.compress(json.dumps(record()).encode(), mtime=0))
    print(DATA, DATA.stat().st_size, "bytes")
