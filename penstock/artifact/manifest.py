"""What lies beside an ONNX file and says what it is, what it takes and what it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from penstock.config import Column, ColumnType, View
from penstock.errors import PenstockError
from penstock.storage import read_json

__all__ = ["MANIFEST", "MODEL", "Input", "Manifest", "Output", "element_type", "read", "read_as"]

MODEL = "model.onnx"
MANIFEST = "manifest.json"

ElementType = Literal["float", "double", "string"]


def element_type(kind: ColumnType) -> ElementType:
    """The ONNX element type in which a column enters.

    Dates are days and date-times are seconds since 1970-01-01 UTC, in double precision, which holds them exactly.
    """
    if kind in {"date", "datetime"}:
        return "double"
    return "string" if kind in {"category", "text"} else "float"


class Input(View):
    """One raw column: shape (rows, 1). Missing is NaN, or "" for a string."""

    name: str
    element: ElementType
    column: Column


class Output(View):
    """One tensor that comes out."""

    name: str
    element: Literal["float", "string"]
    shape: tuple[str | int, ...]


class Manifest(View):
    """Everything a consumer of the ONNX file may rely on.

    It holds no time, path or commit id: the same inputs give the same manifest in every clone.

    Attributes:
        format: Version of this layout.
        name: Data set and model.
        title: For people.
        task: What is predicted.
        target: The column that is predicted.
        sha256: Of the ONNX file.
        opset: Version of each operator set that the file uses.
        inputs: In the order of the graph.
        outputs: label and probabilities, or value.
        classes: Labels in the order of the probabilities; None for regression.
        positive: The class whose probability is the score (binary).
        threshold: The score from which the label is ``positive`` (binary).
        metrics: Cross-validated means; the hold-out is judged later, through this file.
        parameters: The choice that was fitted.
        data_sha256: Of the typed table that the graph started from.
        code_sha256: Of the source files that made the model, paths and contents in sorted order.
        versions: Libraries that made it.
    """

    format: Literal[1]
    name: str
    title: str
    task: Literal["binary", "multiclass", "regression"]
    target: str
    sha256: str
    opset: dict[str, int]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    classes: tuple[str, ...] | None
    positive: str | None
    threshold: float | None
    metrics: dict[str, float | None]
    parameters: dict[str, Any]
    data_sha256: str
    code_sha256: str
    versions: dict[str, str]

    @property
    def columns(self) -> dict[str, Column]:
        """The contract of the inputs."""
        return {item.name: item.column for item in self.inputs}


def read(folder: Path) -> Manifest:
    """Read the manifest of an artefact.

    Raises:
        PenstockError: It is missing, or not a manifest of this version.
    """
    return read_as(Manifest, folder)


AnyManifest = TypeVar("AnyManifest", bound=View)


def read_as(kind: type[AnyManifest], folder: Path) -> AnyManifest:
    """Read the manifest of an artefact of some kind.

    Raises:
        PenstockError: It is missing, or not a manifest of that kind.
    """
    path = folder / MANIFEST
    if not path.is_file():
        there = "there is no such folder" if not folder.is_dir() else f"there is no {MANIFEST} in it"
        raise PenstockError(
            f"{folder}: {there}", hint="name a folder such as models/churn; `dvc repro` makes it"
        )
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise PenstockError(
            f"{path}: {where}: {first['msg']}", hint="export the model anew: `dvc repro`"
        ) from error
