"""What lies beside the ONNX file of a recommender and says what it is, takes and gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from penstock.artifact.manifest import MANIFEST, read_as
from penstock.config.base import View
from penstock.storage import read_json

__all__ = ["ITEMS", "Limits", "RecommenderManifest", "Tensor", "is_of_interactions", "read"]

ITEMS = "items.json"


class Tensor(View):
    """One tensor that goes in or comes out."""

    name: str
    element: Literal["int64", "float"]
    shape: tuple[str | int, ...]


class Limits(View):
    """What one request may ask for. The graph knows no bounds of its own.

    Attributes:
        history: Ids in a history.
        exclude: Ids that are not to be returned.
        k: Items that come back.
        batch: Requests in one run.
    """

    history: int
    exclude: int
    k: int
    batch: int


class RecommenderManifest(View):
    """Everything a consumer of the ONNX file may rely on.

    It holds no time, path or commit id: the same inputs give the same manifest in every clone.

    Attributes:
        format: Version of this layout.
        kind: What the model is about.
        name: Data set.
        title: For people.
        task: What is predicted: the next items.
        sha256: Of model.onnx.
        items_sha256: Of items.json: id, key, title, genres, year and popularity of each item.
        opset: Version of each operator set that the file uses.
        inputs: items, exclude, k, diversity. Ids are padded with -1 anywhere; unknown ones count for nothing.
        outputs: recommended, scores, because.
        order: In which a history is given. The last item is the most recent.
        items: How many can be returned.
        voting: How many items of a history count, the last known ones. All are masked.
        pool: Best items among which diversity chooses.
        limits: What one request may ask for.
        model: Which of the candidates it is.
        metrics: On the validation part; the hold-out is judged later, through this file.
        parameters: The choice that was trained.
        data_sha256: Of the interactions that the training started from.
        code_sha256: Of the source files that made the model, paths and contents in sorted order.
        versions: Libraries that made it.
    """

    format: Literal[1]
    kind: Literal["interactions"]
    name: str
    title: str
    task: Literal["interactions"]
    sha256: str
    items_sha256: str
    opset: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    order: Literal["oldest_first"]
    items: int
    voting: int
    pool: int
    limits: Limits
    model: str
    metrics: dict[str, float | None]
    parameters: dict[str, Any]
    data_sha256: str
    code_sha256: str
    versions: dict[str, str]


def is_of_interactions(folder: Path) -> bool:
    """Whether the artefact in ``folder`` recommends items. What is no artefact at all does not."""
    path = folder / MANIFEST
    if not path.is_file():
        return False
    content = read_json(path)
    return isinstance(content, dict) and content.get("kind") == "interactions"


def read(folder: Path) -> RecommenderManifest:
    """Read the manifest of a recommender.

    Raises:
        PenstockError: It is missing, or not a manifest of this version.
    """
    return read_as(RecommenderManifest, folder)
