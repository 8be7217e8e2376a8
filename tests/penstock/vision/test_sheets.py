"""A contact sheet shows every picture whole, in its place."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from penstock.vision.sheets import GAP, PAPER, contact_sheet, data_uri, thumbnail


def plain(colour: tuple[int, int, int], width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def test_a_thumbnail_keeps_the_proportions() -> None:
    wide = thumbnail(plain((255, 0, 0), 100, 50), 40)
    assert wide.shape == (40, 40, 3)
    assert tuple(wide[20, 1]) == tuple(wide[11, 38]) == (255, 0, 0)
    assert tuple(wide[8, 20]) == tuple(wide[31, 20]) == PAPER
    assert tuple(thumbnail(plain((0, 0, 255), 3, 3), 40)[0, 0]) == (0, 0, 255)  # enlarged
    assert thumbnail(plain((0, 0, 255), 5000, 2), 40).shape == (40, 40, 3)


def test_every_picture_is_in_its_place() -> None:
    colours = [(40 * at, 255 - 40 * at, 128) for at in range(5)]
    content = contact_sheet([plain(colour, 32, 32) for colour in colours], columns=3)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        pixels = np.asarray(image)
    step = 32 + GAP
    assert pixels.shape == (2 * step - GAP, 3 * step - GAP, 3)
    for at, colour in enumerate([*colours, PAPER]):
        row, column = divmod(at, 3)
        np.testing.assert_allclose(pixels[row * step + 16, column * step + 16], colour, atol=4)


def test_the_same_pictures_give_the_same_bytes() -> None:
    pictures = [np.random.default_rng(at).integers(0, 256, (16, 16, 3), dtype=np.uint8) for at in range(7)]
    assert contact_sheet(pictures) == contact_sheet(pictures)
    kind, _, text = data_uri(contact_sheet(pictures)).partition(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(text, validate=True) == contact_sheet(pictures)
