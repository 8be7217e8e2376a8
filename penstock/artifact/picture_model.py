"""Loading and asking a picture classifier: ONNX Runtime, NumPy, and nothing of what trained it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.artifact import picture_manifest as manifests
from penstock.artifact.model import open_session, read_verified
from penstock.artifact.picture_manifest import PictureManifest, Variant
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["BATCH", "PictureModel", "load"]

BATCH = 16  # pictures in one run: more are no faster each, and take that much more memory


@dataclass(frozen=True)
class PictureModel:
    """A loaded artefact.

    Attributes:
        manifest: What it is.
        session: The ONNX session of one of its files.
    """

    manifest: PictureManifest
    session: InferenceSession

    def predict(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[list[str], NDArray[np.float32]]:
        """Labels and probabilities. Pictures of one size share a run, wherever they stand.

        Args:
            pictures: RGB, each of shape (height, width, 3), of any size.

        Returns:
            The labels, and the probabilities in the order of ``manifest.classes``, shape (n, K).

        Raises:
            PenstockError: An array is not a picture.
        """
        labels = [""] * len(pictures)
        probabilities = np.empty((len(pictures), len(self.manifest.classes)), dtype=np.float32)
        places: dict[tuple[int, ...], list[int]] = {}
        for place, picture in enumerate(pictures):
            _require_picture(picture, place)
            places.setdefault(picture.shape, []).append(place)
        for alike in places.values():
            for start in range(0, len(alike), BATCH):
                chosen = alike[start : start + BATCH]
                label, found = self._run(np.stack([pictures[place] for place in chosen]))
                probabilities[chosen] = found
                for place, name in zip(chosen, label, strict=True):
                    labels[place] = str(name)
        return labels, probabilities

    def _run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
        feeds = {self.manifest.inputs[0].name: batch}
        label, probabilities = self.session.run(["label", "probabilities"], feeds)
        return label, probabilities


def _require_picture(picture: NDArray[np.uint8], place: int) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise PenstockError(
            f"picture {place}: {picture.dtype} of shape {picture.shape} is not uint8 of (height, width, 3)",
            hint="decode it with penstock.pictures.decode",
        )


def load(folder: Path, variant: Variant = "fp32", *, threads: int = 1) -> PictureModel:
    """Load an artefact.

    Args:
        folder: Holds the ONNX files and manifest.json.
        variant: Which of the files.
        threads: Within one operator. One thread gives the same bits on every run.

    Raises:
        PenstockError: Something is missing, the file's hash is not the manifest's, or it refers to data
            outside itself.
    """
    manifest = manifests.read(folder)
    if variant == "int8" and manifest.int8 is None:
        raise PenstockError(
            f"{folder}: has no int8 variant", hint="take fp32, or set export.quantise.enabled and export anew"
        )
    sha256 = manifest.sha256 if variant == "fp32" or manifest.int8 is None else manifest.int8.sha256
    path = folder / manifest.file(variant)
    return PictureModel(manifest, open_session(path, read_verified(path, sha256), threads))
