"""From a fitted pipeline to one ONNX file that takes raw columns, and its manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
from onnx import TensorProto

from penstock.artifact import derived as derivations
from penstock.artifact import encoders, estimators
from penstock.artifact.derived import SECONDS_A_DAY, Tensors
from penstock.artifact.graph import ML, Graph
from penstock.artifact.manifest import Input, Output, element_type
from penstock.config import Column, Derived
from penstock.features.columns import Columns
from penstock.features.derive import inputs as inputs_of

__all__ = ["MADE_WITH", "code_sha256", "data_sha256", "inputs", "library_versions", "outputs", "to_onnx"]

MADE_WITH = (
    "lightgbm",
    "numpy",
    "onnx",
    "onnxmltools",
    "onnxruntime",
    "penstock",
    "polars",
    "scikit-learn",
    "skl2onnx",
)


def inputs(columns: Columns, derived: Sequence[Derived], contract: Mapping[str, Column]) -> tuple[Input, ...]:
    """The raw columns that the graph takes: features, and what features are derived from."""
    by_name = {item.name: item for item in derived}
    needed: set[str] = set()
    waiting = list(columns.features)
    while waiting:
        name = waiting.pop()
        if name in by_name:
            waiting.extend(inputs_of(by_name[name]))
        else:
            needed.add(name)
    return tuple(
        Input(name=name, element=element_type(column.type), column=column)
        for name, column in contract.items()
        if name in needed
    )


def outputs(columns: Columns) -> tuple[Output, ...]:
    """What the graph gives."""
    if columns.classes is None:
        return (Output(name="value", element="float", shape=("rows", 1)),)
    return (
        Output(name="label", element="string", shape=("rows",)),
        Output(name="probabilities", element="float", shape=("rows", len(columns.classes))),
    )


def to_onnx(
    pipeline: Any,
    columns: Columns,
    derived: Sequence[Derived],
    takes: Sequence[Input],
    *,
    threshold: float | None,
    name: str,
) -> onnx.ModelProto:
    """Write a fitted pipeline as one graph from raw columns to answers.

    Args:
        pipeline: Steps "encode", "reduce" and "model", fitted.
        columns: Its feature columns.
        derived: How they come from raw columns.
        takes: The raw columns, as ``inputs`` names them.
        threshold: Score of the positive class from which it is the label (binary).
        name: Of the graph.

    Raises:
        PenstockError: A part of the pipeline has no ONNX form.
    """
    graph = Graph()
    tensors = _feature_tensors(graph, columns, derived, takes)
    matrix = encoders.emit(graph, pipeline, tensors)
    n_inputs = _width(pipeline, columns)
    model = pipeline.named_steps["model"]
    if columns.classes is None:
        value = estimators.emit_regressor(graph, model, matrix, n_inputs)
        graph.output(value, "value", "float", ["rows", 1])
    else:
        probabilities = estimators.emit_classifier(graph, model, matrix, n_inputs)
        label = _label(graph, probabilities, [str(label) for label in columns.classes], threshold)
        graph.output(label, "label", "string", ["rows"])
        graph.output(probabilities, "probabilities", "float", ["rows", len(columns.classes)])
    return graph.model(name)


def _feature_tensors(
    graph: Graph, columns: Columns, derived: Sequence[Derived], takes: Sequence[Input]
) -> Tensors:
    tensors: Tensors = {item.name: graph.input(item.name, item.element) for item in takes}
    kinds = {item.name: item.column.type for item in takes}
    wanted = set(columns.features) | {name for item in derived for name in inputs_of(item)}
    for item in derived:
        if item.name in wanted and all(name in tensors for name in inputs_of(item)):
            tensors[item.name] = derivations.emit(
                graph, item, tensors, is_datetime=lambda name: kinds[name] == "datetime"
            )
    for name, kind in kinds.items():
        if kind in {"date", "datetime"}:
            tensors[name] = _days(graph, tensors[name], is_datetime=kind == "datetime")
    return tensors


def _days(graph: Graph, tensor: str, *, is_datetime: bool) -> str:
    if is_datetime:
        tensor = graph.add("Div", tensor, graph.constant([[float(SECONDS_A_DAY)]], np.float64))
    return graph.cast(tensor, TensorProto.FLOAT)


def _width(pipeline: Any, columns: Columns) -> int:
    row = pl.DataFrame(
        {name: [0.0] for name in columns.numeric} | {name: [""] for name in columns.categorical},
        schema=dict.fromkeys(columns.numeric, pl.Float32) | dict.fromkeys(columns.categorical, pl.String),
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return int(pipeline[:-1].transform(row).shape[1])


def _label(graph: Graph, probabilities: str, classes: list[str], threshold: float | None) -> str:
    if len(classes) == 2:
        score = graph.add("Gather", probabilities, graph.constant(1, np.int64), axis=1)
        positive = graph.add("GreaterOrEqual", score, graph.constant(0.5 if threshold is None else threshold))
        code = graph.cast(positive, TensorProto.INT64)
    else:
        code = graph.add("ArgMax", probabilities, axis=1, keepdims=0)
    return graph.add(
        "LabelEncoder",
        code,
        domain=ML,
        keys_int64s=list(range(len(classes))),
        values_strings=classes,
        default_string=classes[0],
    )


def library_versions(made_with: Sequence[str] = MADE_WITH) -> dict[str, str]:
    """The libraries whose version can change the bytes of an artefact, and Python's minor version."""
    versions = {name: importlib.metadata.version(name) for name in made_with}
    return {**versions, "python": ".".join(platform.python_version_tuple()[:2])}


def data_sha256(frame: pl.DataFrame) -> str:
    """Hash of a table's columns, types and values: what it says, not how a file is compressed."""
    digest = hashlib.sha256(repr(list(frame.schema.items())).encode())
    for name in frame.columns:
        series = frame[name].cast(pl.String)
        digest.update(series.is_null().to_numpy().tobytes())
        digest.update("\x1f".join(series.fill_null("").to_list()).encode())
    return digest.hexdigest()


def code_sha256(root: Path, parts: Sequence[str]) -> str:
    """Hash of source files: the paths, relative to ``root`` and sorted, and what is in them.

    Args:
        root: The repository.
        parts: Files, and folders of which every .py file counts.
    """
    files: set[Path] = set()
    for part in parts:
        path = root / part
        files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.relative_to(root).as_posix()):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
