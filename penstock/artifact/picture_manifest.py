"""What lies beside the ONNX files of a picture classifier and says what they are, take and give."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from penstock.artifact.manifest import MANIFEST, MODEL, Output, read_as
from penstock.config import PictureContract, View
from penstock.storage import read_json

__all__ = ["INT8_MODEL", "Int8", "PictureInput", "PictureManifest", "Variant", "is_of_pictures", "read"]

# In a folder of its own, which is empty where no int8 file is wanted.
INT8_MODEL = "int8/model.onnx"

Variant = Literal["fp32", "int8"]


class PictureInput(View):
    """Pictures of one size: RGB, the channels last."""

    name: str
    element: Literal["uint8"]
    shape: tuple[str | int, ...]


class Int8(View):
    """The quantised file, and what it costs.

    Attributes:
        sha256: Of the file.
        accuracy_drop: Top-1 on the hold-out, of fp32 less that of int8; negative where int8 is better.
        label_disagreement: Share of the hold-out's pictures with another label.
    """

    sha256: str
    accuracy_drop: float
    label_disagreement: float


class PictureManifest(View):
    """Everything a consumer of the ONNX files may rely on.

    It holds no time, path or commit id: the same inputs give the same manifest in every clone.

    Attributes:
        format: Version of this layout.
        kind: What the model is about.
        name: Data set.
        title: For people.
        task: What is predicted: one label for each picture.
        sha256: Of model.onnx.
        int8: Of int8/model.onnx; None where there is none.
        opset: Version of each operator set that the files use.
        inputs: The one input.
        outputs: label and probabilities.
        classes: Labels in the order of the probabilities.
        side: Of the square that the network sees, in pixels; the graph scales to it.
        temperature: What the logits are divided by, in the graph.
        contract: What a picture must be, and the side to which a larger one is scaled before the graph.
        metrics: On the validation part; the hold-out is judged later, through these files.
        parameters: The choice that was trained.
        data_sha256: Of the pictures and labels that the training started from.
        code_sha256: Of the source files that made the model, paths and contents in sorted order.
        versions: Libraries that made it.
    """

    format: Literal[1]
    kind: Literal["images"]
    name: str
    title: str
    task: Literal["images"]
    sha256: str
    int8: Int8 | None
    opset: dict[str, int]
    inputs: tuple[PictureInput]
    outputs: tuple[Output, ...]
    classes: tuple[str, ...]
    side: int
    temperature: float
    contract: PictureContract
    metrics: dict[str, float | None]
    parameters: dict[str, Any]
    data_sha256: str
    code_sha256: str
    versions: dict[str, str]

    def file(self, variant: Variant) -> str:
        """Name of the file of a variant."""
        return MODEL if variant == "fp32" else INT8_MODEL


def is_of_pictures(folder: Path) -> bool:
    """Whether the artefact in ``folder`` classifies pictures. What is no artefact at all does not."""
    path = folder / MANIFEST
    if not path.is_file():
        return False
    content = read_json(path)
    return isinstance(content, dict) and content.get("kind") == "images"


def read(folder: Path) -> PictureManifest:
    """Read the manifest of a picture classifier.

    Raises:
        PenstockError: It is missing, or not a manifest of this version.
    """
    return read_as(PictureManifest, folder)
