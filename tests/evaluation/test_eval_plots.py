import numpy as np
import pytest
from PIL import Image

from rlssm.errors import UserError
from rlssm.evaluation.plots import Curve, _band, _running_mean, learning_curves

STEPS = np.arange(1, 31) * 1000


def curve(members: int, height: float = 1.0) -> Curve:
    rng = np.random.default_rng(members)
    rise = height * (1 - np.exp(-STEPS / 8e3))
    return Curve(STEPS, rise[:, None] + 0.1 * rng.normal(size=(len(STEPS), members)))


def test_picture_of_several_runs(tmp_path):
    values = curve(3, 0.5)
    values.values[:4, 1] = np.nan
    path = tmp_path / "curves.png"
    runs = {"s5": curve(5), "gru": values, "none": curve(1, 0.1)}
    learning_curves(path, runs, metric="episode/return", title="T", smooth=3)
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape == (630, 1050, 3)
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (picture == color).all(-1).sum() > 500  # the three means are there
    assert (picture == 255).all(-1).mean() > 0.6


def test_a_single_point_is_seen(tmp_path):
    learning_curves(tmp_path / "x.png", {"x": Curve(STEPS[:1], np.ones((1, 1)))}, metric="m")
    picture = np.asarray(Image.open(tmp_path / "x.png").convert("RGB"))
    assert (picture == (0x00, 0x72, 0xB2)).all(-1).sum() > 20


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_other_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    learning_curves(path, {"x": curve(2)}, metric="m")
    assert path.stat().st_size > 1000


def test_band_is_the_bootstrap_interval_of_the_mean():
    values = np.random.default_rng(0).normal(size=(3, 30))
    low, high = _band(values, resamples=4000)
    half = 1.96 * values.std(axis=1) / np.sqrt(30)
    np.testing.assert_allclose(low, values.mean(1) - half, atol=0.05)
    np.testing.assert_allclose(high, values.mean(1) + half, atol=0.05)
    values[1, 0] = np.nan
    assert np.isnan(_band(values)).tolist() == [[False, True, False]] * 2


def test_running_mean_is_a_loop_over_windows():
    rng = np.random.default_rng(0)
    x = np.where(rng.random(20) < 0.3, np.nan, rng.normal(size=20))
    for width in (1, 3, 5):
        reach = width // 2
        expected = [
            np.nan if np.isnan(x[i]) else np.nanmean(x[max(0, i - reach) : i + reach + 1])
            for i in range(20)
        ]
        np.testing.assert_allclose(_running_mean(x, width), expected)


@pytest.mark.parametrize(
    ("curves", "options", "message"),
    [
        ({}, {}, "curves must be one or more"),
        ({"x": curve(1)}, {"smooth": 2}, "smooth must be odd and at least 1, got 2"),
        ({"x": Curve(STEPS[:1], np.full((1, 2), np.nan))}, {}, "x has no value to draw"),
    ],
)
def test_mistakes_are_named(tmp_path, curves, options, message):
    with pytest.raises(UserError, match=message):
        learning_curves(tmp_path / "x.png", curves, metric="m", **options)


@pytest.mark.parametrize("name", ["nowhere/x.png", "x.unknown"])
def test_unwritable_pictures(tmp_path, name):
    with pytest.raises(UserError, match=f"cannot write .*{name}"):
        learning_curves(tmp_path / name, {"x": curve(1)}, metric="m")
