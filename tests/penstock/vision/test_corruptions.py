"""Corruptions: worse from grade to grade, alike at any size, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from penstock.errors import PenstockError
from penstock.vision.corruptions import KINDS, SEVERITIES, corrupt

SIDES = (32, 96, 512)


def _scene(height: int, width: int) -> Any:
    """A textured ground with a bright disc, a dark square and stripes: edges of every direction and size."""
    y, x = np.mgrid[0:height, 0:width] / min(height, width)
    picture = np.stack([90 + 60 * y, 70 + 80 * x, 120 - 40 * y * x], axis=2)
    picture[(x - 0.3) ** 2 + (y - 0.35) ** 2 < 0.04] = (230, 200, 40)
    picture[(abs(x - 0.7) < 0.15) & (abs(y - 0.7) < 0.15)] = (20, 30, 60)
    picture[(y > 0.8) & (x < 0.4) & (np.floor(x * 12) % 2 == 0)] = (240, 240, 240)
    for cells in (4, 16, 64, 256):
        texture = np.random.default_rng(cells).integers(0, 256, (cells, cells), dtype=np.uint8)
        grown = Image.fromarray(texture).resize((width, height), Image.Resampling.BICUBIC)
        picture += (np.asarray(grown, dtype=np.float64)[..., None] - 128) / 8
    return np.clip(picture, 0, 255).astype(np.uint8)


def _distance(first: Any, second: Any) -> float:
    """Root mean square over what a network sees: 32 pixels across, whatever the picture's size."""
    small = [
        np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
        for picture in (first, second)
    ]
    return float(np.sqrt(((small[0] - small[1]) ** 2).mean()))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_grade_is_worse(kind: str, side: int) -> None:
    picture = _scene(side, side)
    before = picture.copy()
    pixels = [
        np.sqrt(((corrupt(picture, kind, grade, seed=3).astype(float) - picture) ** 2).mean())
        for grade in SEVERITIES
    ]
    assert 0.4 < pixels[0] < pixels[1] < pixels[2] < 110
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("kind", ["gaussian_blur", "motion_blur", "brightness", "contrast"])
def test_a_grade_looks_alike_at_any_size(kind: str) -> None:
    seen = [_distance(corrupt(_scene(side, side), kind, 3, seed=3), _scene(side, side)) for side in (96, 512)]
    assert seen[0] == pytest.approx(seen[1], rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), severity=st.sampled_from(SEVERITIES))
def test_any_shape_is_kept(kind: str, height: int, width: int, severity: int) -> None:
    picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = corrupt(picture, kind, severity, seed=0)
    assert found.shape == picture.shape
    assert found.dtype == np.uint8


def test_seed_decides_and_nothing_else_does() -> None:
    picture = _scene(40, 60)
    for kind in KINDS:
        again = [corrupt(picture, kind, 2, seed=[1, 7]) for _ in range(2)]
        np.testing.assert_array_equal(*again)
    for kind in ("gaussian_noise", "motion_blur"):
        assert (corrupt(picture, kind, 2, seed=[1, 8]) != corrupt(picture, kind, 2, seed=[1, 7])).any()


def test_brightness_keeps_the_hue() -> None:
    red = np.full((4, 4, 3), (100, 50, 0), dtype=np.uint8)
    np.testing.assert_array_equal(corrupt(red, "brightness", 2, seed=0)[0, 0], (164, 82, 0))
    black = np.zeros((4, 4, 3), dtype=np.uint8)
    assert len(set(corrupt(black, "brightness", 3, seed=0)[0, 0].tolist())) == 1


def test_contrast_keeps_the_mean() -> None:
    picture = _scene(64, 64)
    flat = corrupt(picture, "contrast", 3, seed=0)
    np.testing.assert_allclose(flat.mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=0.6)
    assert flat.std() < picture.std() * 0.5


def test_blurs_leave_an_even_picture_even() -> None:
    even = np.full((50, 30, 3), 77, dtype=np.uint8)
    for kind in ("gaussian_blur", "motion_blur", "pixelate", "contrast"):
        np.testing.assert_array_equal(corrupt(even, kind, 3, seed=0), even)


@pytest.mark.parametrize(("kind", "severity"), [("snow", 1), ("jpeg", 0), ("jpeg", 4)])
def test_unknown_is_named(kind: str, severity: int) -> None:
    with pytest.raises(PenstockError, match=f"{kind!r} of severity {severity}.*"):
        corrupt(_scene(32, 32), kind, severity, seed=0)
