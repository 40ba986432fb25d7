"""Normalised scores: a return on the scale of two reference returns, always with their source.

    score = 100 (R - low) / (high - low)

`low` is what a random policy earns and `high` what an expert earns, both as mean undiscounted
return. A score without its source means little: the constants of D4RL were measured on tasks
that no longer exist in that form, so every `Reference` says where its numbers are from.
"""

import re
from typing import NamedTuple, TypeVar

T = TypeVar("T")

D4RL_SOURCE = "D4RL constants (d4rl/infos.py)"


class Reference(NamedTuple):
    """Two returns that stand for the scores 0 and 100, and where they are from."""

    low: float
    high: float
    source: str


# Source: Farama-Foundation/D4RL, d4rl/infos.py. A task's constants hold for each of its data sets
# and versions; where D4RL gives them for one version only, the name carries that version.
D4RL_RETURNS: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
    "minigrid-fourrooms": (0.01442, 2.89685),
    "flow-ring": (-165.22, 24.42),
    "flow-merge": (118.67993, 330.03179),
    "carla-lane-v0": (-0.8503839912088142, 1023.5784385429523),
    "carla-town-v0": (-114.81579500772153, 2440.1772022247314),
    "bullet-halfcheetah": (-1275.766996, 2381.6725),
    "bullet-hopper": (20.058972, 1441.8059623430963),
    "bullet-ant": (373.705955, 2650.495),
    "bullet-walker2d": (16.523877, 1623.6476303317536),
    "bullet-maze2d-open-v0": (8.75, 64.15),
    "bullet-maze2d-umaze-v0": (32.46, 153.99),
    "bullet-maze2d-medium-v0": (14.87, 238.05),
    "bullet-maze2d-large-v0": (1.82, 285.92),
}


def normalise(returns: T, reference: Reference) -> T:
    """Return 100 (returns - low) / (high - low), of a number or an array.

    Source: Fu et al. 2020 (arXiv 2004.07219), section 4.
    """
    low, high, _ = reference
    return 100 * (returns - low) / (high - low)  # ty: ignore[unsupported-operator]  # no protocol for number or array


def d4rl_reference(name: str) -> Reference | None:
    """Return the constants of a D4RL data set by its name there, such as `hopper-medium-v2`."""
    words = re.sub(r"-v\d+$", "", name).split("-")
    tasks = [name, *("-".join(words[:n]) for n in range(len(words), 0, -1))]
    task = next((task for task in tasks if task in D4RL_RETURNS), None)
    return Reference(*D4RL_RETURNS[task], D4RL_SOURCE) if task else None


def references(
    dataset_id: str, env: str | None = None, own: Reference | None = None
) -> tuple[Reference, ...]:
    """Return every reference known for a dataset: its own first, then the D4RL constants.

    Args:
        dataset_id: Minari id, such as `mujoco/hopper/medium-v0`.
        env: environment id, such as `Hopper-v5`.
        own: the reference that the dataset carries.

    The D4RL constants of a task of the same name are labelled as borrowed: today's task has
    other dynamics, and its scores are not comparable with published D4RL tables.
    """
    names = [*dataset_id.split("/"), env or ""]
    constants = next(filter(None, (d4rl_reference(name.lower()) for name in names)), None)
    if constants is None or own is not None and own[:2] == constants[:2]:
        return () if own is None else (own,)
    borrowed = constants._replace(
        source=f"{constants.source} borrowed for {env or dataset_id}, not comparable with D4RL's"
    )
    return (borrowed,) if own is None else (own, borrowed)
