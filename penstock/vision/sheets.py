"""Contact sheets: many pictures as one, for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from penstock.pictures import Pixels

__all__ = ["COLUMNS", "contact_sheet", "data_uri", "thumbnail"]

COLUMNS = 12
GAP = 2  # pixels between pictures
PAPER = (128, 128, 128)  # neither light nor dark, as the page may be either
QUALITY = 80


def thumbnail(pixels: Pixels, side: int) -> Pixels:
    """The whole picture in a square, its proportions kept, grey beside it.

    Args:
        pixels: RGB, shape (height, width, 3).
        side: Of the square, in pixels.

    Returns:
        RGB, shape (side, side, 3).
    """
    height, width = pixels.shape[:2]
    share = side / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    small = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(square)


def contact_sheet(thumbnails: Sequence[Pixels], columns: int = COLUMNS) -> bytes:
    """Squares of one size in rows, as a JPEG; the same pictures give the same bytes.

    Args:
        thumbnails: At least one; RGB, each of shape (side, side, 3).
        columns: Of a full row.
    """
    side = thumbnails[0].shape[0]
    columns = min(columns, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    step = side + GAP
    sheet = Image.new("RGB", (columns * step - GAP, rows * step - GAP), PAPER)
    for at, pixels in enumerate(thumbnails):
        row, column = divmod(at, columns)
        sheet.paste(Image.fromarray(pixels), (column * step, row * step))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds it, so that a page needs no other file."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
