"""What happens to photographs on their way: noise, blur, light, compression.

After Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
(ICLR 2019), of whose fifteen kinds these are seven, in three grades for their five. Theirs come in one set of
sizes for 32 pixels and one for 224; here lengths are shares of the picture's shorter side, so that a grade
looks the same at any size.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from penstock.errors import PenstockError

__all__ = ["KINDS", "SEVERITIES", "corrupt"]

Pixels = NDArray[np.uint8]
Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]

SEVERITIES = (1, 2, 3)

NOISE = (0.04, 0.08, 0.16)  # standard deviation, of the full range
GRAINS = 128  # of noise along the shorter side, at most: finer ones would vanish when the network scales down
BLUR = (0.01, 0.02, 0.03)  # standard deviation, of the shorter side
MOTION = (0.05, 0.1, 0.15)  # length of the streak, of the shorter side
COPIES = 17  # along a streak, at most: in a large picture every few pixels will do
BRIGHTER = (0.1, 0.25, 0.4)  # added to the value, of the full range
CONTRAST = (0.6, 0.4, 0.2)  # of it that is left
# By size of the picture, (at 32 pixels, at 224 and more): between, by the logarithm of the shorter side.
QUALITY = ((80.0, 25.0), (60.0, 15.0), (40.0, 7.0))
BLOCKS = ((26.0, 112.0), (22.0, 80.0), (18.0, 56.0))  # along the shorter side
SMALL, LARGE = 32.0, 224.0


def corrupt(pixels: Pixels, kind: str, severity: int, *, seed: int | list[int]) -> Pixels:
    """A corrupted copy of a picture.

    Args:
        pixels: RGB, shape (height, width, 3).
        kind: One of KINDS.
        severity: One of SEVERITIES.
        seed: Of what is random: noise, and the direction of motion. The same at every severity.

    Returns:
        RGB of the same shape.

    Raises:
        PenstockError: There is no such kind or severity.
    """
    if kind not in KINDS or severity not in SEVERITIES:
        raise PenstockError(
            f"no corruption {kind!r} of severity {severity}",
            hint=f"kinds: {', '.join(KINDS)}; severities: {SEVERITIES[0]} to {SEVERITIES[-1]}",
        )
    return KINDS[kind](pixels, severity - 1, np.random.default_rng(seed))


def _noise(pixels: Pixels, grade: int, random: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    grain = max(1, round(min(height, width) / GRAINS))
    noise = random.normal(size=(math.ceil(height / grain), math.ceil(width / grain), 3))
    grown = noise.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]
    return _pixels(pixels + 255 * NOISE[grade] * grown)


def _gaussian_blur(pixels: Pixels, grade: int, random: np.random.Generator) -> Pixels:
    radius = BLUR[grade] * min(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)), dtype=np.uint8)


def _motion_blur(pixels: Pixels, grade: int, random: np.random.Generator) -> Pixels:
    """The mean of copies along a straight streak."""
    height, width = pixels.shape[:2]
    length, angle = MOTION[grade] * min(height, width), random.uniform(0, math.pi)
    room = math.ceil(length / 2) + 1
    padded = Image.fromarray(np.pad(pixels, ((room, room), (room, room), (0, 0)), mode="edge"))
    steps = min(2 * math.ceil(length) + 1, COPIES)
    total = np.zeros((height, width, 3))
    for step in np.linspace(-length / 2, length / 2, steps):
        # Maps a pixel of the result to its place in the padded picture.
        shift = (1, 0, room + step * math.cos(angle), 0, 1, room + step * math.sin(angle))
        moved = padded.transform(
            (width, height), Image.Transform.AFFINE, shift, resample=Image.Resampling.BILINEAR
        )
        total += np.asarray(moved)
    return _pixels(total / steps)


def _brightness(pixels: Pixels, grade: int, random: np.random.Generator) -> Pixels:
    """Hue and saturation stay; the value (of hue, saturation, value) grows until it is full."""
    value = pixels.max(axis=2, keepdims=True).astype(np.float64)
    brighter = np.minimum(value + 255 * BRIGHTER[grade], 255)
    coloured = pixels / np.maximum(value, 1) * brighter
    return _pixels(np.where(value > 0, coloured, brighter))


def _contrast(pixels: Pixels, grade: int, random: np.random.Generator) -> Pixels:
    middle = pixels.mean(axis=(0, 1), keepdims=True)
    return _pixels((pixels - middle) * CONTRAST[grade] + middle)


def _jpeg(pixels: Pixels, grade: int, random: np.random.Generator) -> Pixels:
    # Its blocks have 8 pixels whatever the picture's size: the smaller the picture, the milder it must be.
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=round(_by_size(pixels, QUALITY[grade])))
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _pixelate(pixels: Pixels, grade: int, random: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    share = _by_size(pixels, BLOCKS[grade]) / min(height, width)
    small = (max(1, round(width * share)), max(1, round(height * share)))
    image = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST), dtype=np.uint8)


def _by_size(pixels: Pixels, ends: tuple[float, float]) -> float:
    side = math.log(min(pixels.shape[:2]))
    return float(np.interp(side, [math.log(SMALL), math.log(LARGE)], ends))


def _pixels(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


KINDS: dict[str, Corruption] = {
    "gaussian_noise": _noise,
    "gaussian_blur": _gaussian_blur,
    "motion_blur": _motion_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}
