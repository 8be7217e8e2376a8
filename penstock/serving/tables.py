"""Artefacts of tables: rows of named columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.artifact.manifest import Input
from penstock.artifact.model import load
from penstock.serving.artefacts import VERSION_LENGTH, Artefact, Outputs, Rules, TensorInfo, Work
from penstock.serving.open_inference import InferRequest
from penstock.serving.refusals import Refusal
from penstock.serving.table_rows import Rows, TableDecoder

__all__ = ["TableArtefact"]

DATATYPES = {"float": "FP32", "double": "FP64", "string": "BYTES"}


@dataclass(slots=True)
class _TableWork(Work):
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)


class TableArtefact(Artefact):
    """A model of the graph's tables.

    Raises:
        PenstockError: As ``penstock.artifact.model.load``.
    """

    kind = "tables"

    def __init__(self, folder: Path, rules: Rules) -> None:
        self.model = load(folder)
        manifest = self.manifest = self.model.manifest
        self.sha256, self.version, self.title = (
            manifest.sha256,
            manifest.sha256[:VERSION_LENGTH],
            manifest.title or manifest.name,
        )
        self.decoder = TableDecoder(
            manifest.inputs, most=rules.limits.rows, ignore_others=rules.ignore_others
        )
        self.inputs = tuple(
            TensorInfo(item.name, DATATYPES[item.element], (-1, 1)) for item in manifest.inputs
        )
        self.outputs = tuple(
            TensorInfo(
                item.name,
                DATATYPES[item.element],
                tuple(size if isinstance(size, int) else -1 for size in item.shape),
            )
            for item in manifest.outputs
        )
        self._names = [item.name for item in manifest.outputs]

    def plain(self, content: bytes) -> Work:
        return _TableWork(self.decoder.body(content))

    def tensors(self, request: InferRequest) -> Work:
        rows: int | None = None
        for name, tensor in request.inputs.items():
            if len(tensor.shape) > 2 or (len(tensor.shape) == 2 and tensor.shape[1] != 1):
                raise Refusal(
                    400,
                    "shape",
                    f"inputs: {name!r}: expected a shape of [rows, 1] or [rows], found {list(tensor.shape)}",
                )
            if rows is not None and tensor.shape[0] != rows:
                raise Refusal(
                    400, "shape", f"inputs: {name!r}: has {tensor.shape[0]} rows, those before it have {rows}"
                )
            rows = tensor.shape[0]
        columns = {name: tensor.listed() for name, tensor in request.inputs.items()}
        return _TableWork(self.decoder.tensors(columns, rows or 0))

    def run(self, works: Sequence[Work]) -> Outputs:
        feeds = self.decoder.feeds([work.rows for work in cast(Sequence[_TableWork], works)])
        return dict(zip(self._names, self.model.session.run(self._names, feeds), strict=True))

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        classes = self.manifest.classes
        if classes is None:
            return [{"value": value} for value in outputs["value"][:, 0].tolist()]
        labels, probabilities = outputs["label"].tolist(), outputs["probabilities"]
        if self.manifest.task == "binary":
            return [
                {"label": label, "probability": probability}
                for label, probability in zip(labels, probabilities[:, 1].tolist(), strict=True)
            ]
        return [
            {"label": label, "probabilities": dict(zip(classes, each, strict=True))}
            for label, each in zip(labels, probabilities.tolist(), strict=True)
        ]

    def records(self, work: Work) -> list[dict[str, Any]]:
        return self.decoder.records(cast(_TableWork, work).rows)

    def row_schema(self) -> dict[str, Any]:
        columns = {item.name: _column_schema(item) for item in self.manifest.inputs}
        required = [item.name for item in self.manifest.inputs if not item.column.nullable]
        return {
            "type": "object",
            "properties": columns,
            **({"required": required} if required else {}),
            "additionalProperties": self.decoder.ignore_others,
        }

    def answer_schema(self) -> dict[str, Any]:
        if self.manifest.classes is None:
            return _object({"value": {"type": "number"}})
        share = {"type": "number", "minimum": 0, "maximum": 1}
        label = {"type": "string", "enum": list(self.manifest.classes)}
        if self.manifest.task == "binary":
            return _object({"label": label, "probability": share})
        return _object(
            {"label": label, "probabilities": _object(dict.fromkeys(self.manifest.classes, share))}
        )

    def example(self, rows: int) -> Work:
        numbers, strings = [], []
        for item in self.decoder.columns:
            if item.element == "string":
                strings.append((item.column.values or ("",))[0])
            else:
                numbers.append(_middle(item))
        return _TableWork(Rows([tuple(numbers)] * rows, [tuple(strings)] * rows))


def _middle(item: Input) -> float:
    column = item.column
    if column.type in {"integer", "number"}:
        bounds = [float(bound) for bound in (column.min, column.max) if bound is not None]
        return sum(bounds) / len(bounds) if bounds else 0.0
    return 0.0 if column.type == "boolean" else math.nan


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _column_schema(item: Input) -> dict[str, Any]:
    column = item.column
    kinds = {
        "integer": {"type": "integer"},
        "number": {"type": "number"},
        "boolean": {"type": "boolean"},
        "category": {"type": "string"},
        "text": {"type": "string"},
        "date": {"type": "string", "format": "date"},
        "datetime": {"type": "string", "format": "date-time"},
    }
    schema: dict[str, Any] = dict(kinds[column.type])
    if column.type in {"integer", "number"}:
        whole = int if column.type == "integer" else float
        for key, bound in (("minimum", column.min), ("maximum", column.max)):
            if bound is not None:
                schema[key] = whole(float(bound))
    if column.values is not None:
        schema["enum"] = list(column.values)
    elif column.type == "category" and not column.nullable:
        schema["pattern"] = r"\S"
    if column.nullable:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    return schema
