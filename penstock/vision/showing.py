"""Sheets of hold-out pictures: what the model gets wrong, and where it looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.config import Backbone
from penstock.console import say
from penstock.vision.holdout import Holdout
from penstock.vision.sheets import PAPER, contact_sheet, thumbnail

__all__ = ["explained_sheet", "wrong_sheet"]

Integers = NDArray[np.int64]

WRONG_SIDE, WRONG_COLUMNS = 96, 10
EXPLAINED_SIDE, EXPLAINED_COLUMNS = 128, 8  # four pairs in a row


def wrong_sheet(holdout: Holdout, places: Integers) -> bytes:
    """A JPEG of some pictures, in the order of ``places``; one grey square where there are none."""
    shown = [thumbnail(holdout.pixels(at), WRONG_SIDE) for at in places]
    return contact_sheet(shown or [_blank(WRONG_SIDE)], WRONG_COLUMNS)


def explained_sheet(
    weights: Path, backbone: Backbone, holdout: Holdout, places: Integers, codes: Integers
) -> tuple[bytes, bool]:
    """Pairs of what the network sees and the same with its Grad-CAM map, as a JPEG.

    Args:
        weights: Of the final network.
        backbone: What it is.
        holdout: The pictures.
        places: Which of them.
        codes: The class of each that is to be explained.

    Returns:
        The sheet, and whether there is anything on it: not where there are no places, nor where the network
        has no map of features, which is said and is no error.
    """
    if not len(places):
        return contact_sheet([_blank(EXPLAINED_SIDE)]), False
    from penstock.vision import backbone as backbones
    from penstock.vision.explain import NotExplainableError, explained

    network, _ = backbones.load(weights, backbone)
    pictures = (holdout.pixels(at) for at in places)
    pairs = explained(network, backbones.preprocess(backbone, network), pictures, codes.tolist())
    try:
        shown = [thumbnail(pixels, EXPLAINED_SIDE) for pair in pairs for pixels in pair]
    except NotExplainableError as error:
        say(str(error))
        return contact_sheet([_blank(EXPLAINED_SIDE)]), False
    return contact_sheet(shown, EXPLAINED_COLUMNS), True


def _blank(side: int) -> NDArray[np.uint8]:
    return np.full((side, side, 3), PAPER, dtype=np.uint8)
