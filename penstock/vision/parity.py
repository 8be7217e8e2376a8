"""Are the ONNX files the network that was trained? Every picture of the hold-out is asked of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.artifact.manifest import MODEL
from penstock.artifact.picture_manifest import INT8_MODEL
from penstock.artifact.picture_model import BATCH, PictureModel
from penstock.config import ImageExport
from penstock.console import progress
from penstock.errors import PenstockError
from penstock.vision.data import Album

__all__ = ["Int8Parity", "Parity", "compare", "compare_int8", "prove", "require"]

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Int8Parity:
    """How far the quantised file is from the fp32 one.

    Attributes:
        max_difference: Largest difference of a probability.
        label_disagreement: Share of pictures with another label.
        top1: Share of right labels.
        accuracy_drop: By how much that is less than with fp32.
    """

    max_difference: float
    label_disagreement: float
    top1: float
    accuracy_drop: float


@dataclass(frozen=True)
class Parity:
    """How far the fp32 file is from the network that it was made from, and the int8 file from that.

    Attributes:
        pictures: Pictures compared.
        max_difference: Largest difference of a probability, pictures in batches.
        max_difference_single: The same with one picture a run.
        worst_row: The picture of the largest difference, by its row in the raw file.
        label_disagreement: Share of pictures with another label.
        top1: Share of right labels.
        top1_difference: Between file and network.
        int8: The same of the quantised file, if there is one.
    """

    pictures: int
    max_difference: float
    max_difference_single: float
    worst_row: int
    label_disagreement: float
    top1: float
    top1_difference: float
    int8: Int8Parity | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the metrics file."""
        return asdict(self)


def prove(
    models: Mapping[str, PictureModel],
    album: Album,
    rows: NDArray[np.int64],
    codes: Codes,
    reference: Floats,
    *,
    title: str,
) -> Parity:
    """Ask the files of some pictures, and compare their answers with the network's.

    Args:
        models: File name → model: the fp32 file, and the int8 one if there is one.
        album: All pictures.
        rows: Which are asked of.
        codes: Their classes.
        reference: The network's probabilities, shape (n_rows, K).
        title: For the progress bar.
    """
    with progress(title, (len(models) + 1) * len(rows), unit="pictures") as advance:

        def ask(name: str, batch: int) -> Floats:
            found = []
            for start in range(0, len(rows), batch):
                pictures = [album.pixels(int(row)) for row in rows[start : start + batch]]
                found.append(models[name].predict(pictures)[1])
                advance(len(pictures))
            return np.concatenate(found).astype(np.float64)

        batched = ask(MODEL, BATCH)
        found = compare(reference, batched, ask(MODEL, 1), rows, codes)
        if INT8_MODEL not in models:
            return found
        return replace(found, int8=compare_int8(batched, ask(INT8_MODEL, BATCH), codes))


def compare(reference: Floats, batched: Floats, single: Floats, rows: Codes, codes: Codes) -> Parity:
    """Compare the fp32 file with the network.

    Args:
        reference: The network's probabilities, shape (n, K).
        batched: The file's, pictures in batches.
        single: The file's, one picture a run.
        rows: Of the pictures in the raw file.
        codes: Their classes.
    """
    difference = np.abs(batched - reference).max(axis=1)
    alone = np.abs(single - reference).max(axis=1)
    label, wanted = batched.argmax(axis=1), reference.argmax(axis=1)
    top1 = float(np.mean(label == codes))
    return Parity(
        pictures=len(reference),
        max_difference=float(difference.max()),
        max_difference_single=float(alone.max()),
        worst_row=int(rows[int(np.maximum(difference, alone).argmax())]),
        label_disagreement=float(np.mean((label != wanted) | (single.argmax(axis=1) != wanted))),
        top1=top1,
        top1_difference=abs(top1 - float(np.mean(wanted == codes))),
    )


def compare_int8(fp32: Floats, int8: Floats, codes: Codes) -> Int8Parity:
    """Compare the quantised file with the fp32 one, of which shapes are as for ``compare``."""
    top1 = float(np.mean(int8.argmax(axis=1) == codes))
    return Int8Parity(
        max_difference=float(np.abs(int8 - fp32).max()),
        label_disagreement=float(np.mean(int8.argmax(axis=1) != fp32.argmax(axis=1))),
        top1=top1,
        accuracy_drop=float(np.mean(fp32.argmax(axis=1) == codes)) - top1,
    )


def require(parity: Parity, bounds: ImageExport) -> None:
    """Fail when a bound is passed.

    Raises:
        PenstockError: Names the bound, the figure and the worst picture.
    """
    checks = {
        "max_difference": max(parity.max_difference, parity.max_difference_single),
        "max_label_disagreement": parity.label_disagreement,
    }
    for name, figure in checks.items():
        bound = getattr(bounds, name)
        if not figure <= bound:
            raise PenstockError(
                f"the ONNX file is not the trained network: {name} is {figure:.3g}, export.{name} allows "
                f"{bound:.3g} (worst: row {parity.worst_row} of the raw file)",
                hint="an operator may be exported otherwise than torch computes it; try another export.opset, "
                "and widen the bound only if you know why",
            )
    allowed = bounds.quantise.max_accuracy_drop
    if parity.int8 is not None and not parity.int8.accuracy_drop <= allowed:
        raise PenstockError(
            f"the int8 file is {parity.int8.accuracy_drop:.2%} less accurate than the fp32 one, "
            f"export.quantise.max_accuracy_drop allows {allowed:.2%}",
            hint="calibrate on more pictures or by another method, or set export.quantise.enabled: false",
        )
