"""Normalised scores are D4RL's, and always say whose they are."""

import numpy as np
import pytest

from rlssm.data.scores import D4RL_SOURCE, Reference, d4rl_reference, normalise, references

PUBLISHED = {
    "halfcheetah-medium-v2": (-280.178953, 12135.0),
    "halfcheetah-medium-replay-v0": (-280.178953, 12135.0),
    "hopper-full-replay-v2": (-20.272305, 3234.3),
    "walker2d-medium-expert-v1": (1.629008, 4592.3),
    "ant-random-v2": (-325.6, 3879.7),
    "antmaze-large-diverse-v2": (0.0, 1.0),
    "kitchen-mixed-v0": (0.0, 4.0),
    "pen-cloned-v1": (96.262799, 3076.8331017826877),
    "door-expert-v1": (-56.512833, 2880.5693087298737),
    "hammer-human-v1": (-274.856578, 12794.134825156867),
    "relocate-human-v0": (-6.425911, 4233.877797728884),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "minigrid-fourrooms-v0": (0.01442, 2.89685),
    "minigrid-fourrooms-random-v0": (0.01442, 2.89685),
    "flow-ring-random-v0": (-165.22, 24.42),
    "bullet-hopper-medium-replay-v0": (20.058972, 1441.8059623430963),
    "bullet-maze2d-large-v0": (1.82, 285.92),
    "carla-lane-v0": (-0.8503839912088142, 1023.5784385429523),
}


@pytest.mark.parametrize(("name", "constants"), PUBLISHED.items())
def test_constants_are_those_of_d4rl(name, constants):
    assert d4rl_reference(name) == Reference(*constants, D4RL_SOURCE)


@pytest.mark.parametrize("name", ["maze2d-umaze-v0", "swimmer-medium-v2", "medium-v2", "", "pens"])
def test_names_d4rl_does_not_have_have_no_constants(name):
    assert d4rl_reference(name) is None


@pytest.mark.parametrize(
    ("total", "score"), [(7031.5, 58.9), (6689.7, 56.1), (4889.7, 41.6), (12135.0, 100.0)]
)
def test_scores_are_the_published_ones(total, score):
    reference = d4rl_reference("halfcheetah-medium-v2")
    assert normalise(total, reference) == pytest.approx(score, abs=0.05)
    np.testing.assert_allclose(normalise(np.array([total, -280.178953]), reference)[1], 0.0)


def test_borrowed_constants_say_so():
    own = Reference(0.0, 5.0, "measured")
    hopper = (-20.272305, 3234.3)
    assert references("mujoco/hopper/medium-v0") == (
        Reference(*hopper, f"{D4RL_SOURCE} borrowed for mujoco/hopper/medium-v0, not comparable "
                  "with D4RL's"),
    )  # fmt: skip
    assert references("mine/x-v0", "Hopper-v5", own) == (
        own,
        Reference(*hopper, f"{D4RL_SOURCE} borrowed for Hopper-v5, not comparable with D4RL's"),
    )
    imported = Reference(*hopper, D4RL_SOURCE)
    assert references("d4rl/hopper-medium-v2", "Hopper-v5", imported) == (imported,)
    assert references("mine/x-v0", "Pendulum-v1") == ()
    assert references("mine/x-v0", None, own) == (own,)
