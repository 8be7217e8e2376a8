"""The fitted transformer as ONNX nodes: numbers in one matrix, categories by look-up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from penstock.artifact.derived import Tensors
from penstock.artifact.graph import ML, Graph
from penstock.errors import PenstockError

__all__ = ["emit"]

# No category is called so: the encoders' answer to it is their answer to anything unknown.
UNKNOWN = "\x00unknown"


def emit(graph: Graph, transformer: Any, tensors: Tensors) -> str:
    """Add the nodes of a fitted transformer.

    Args:
        graph: Where to add them.
        transformer: The steps "encode" and "reduce", fitted, as ``penstock.features.recipe`` builds them.
        tensors: Feature columns, shape (rows, 1): numbers in single precision, strings.

    Returns:
        The tensor of the matrix, float, shape (rows, n_outputs).
    """
    encode, reduce = transformer.named_steps["encode"], transformer.named_steps["reduce"]
    blocks = []
    for name, fitted, columns in encode.transformers_:
        chosen = [tensors[column] for column in columns]
        match name:
            case "numeric":
                blocks.append(_numeric(graph, fitted, chosen))
            case "one_hot":
                blocks.append(_one_hot(graph, fitted, chosen))
            case "ordinal" | "target":
                blocks.append(_looked_up(graph, fitted, chosen))
            case _:
                raise PenstockError(f"the transformer {name!r} cannot be exported")
    return _reduced(graph, reduce, graph.concat(blocks))


def _numeric(graph: Graph, pipeline: Any, columns: list[str]) -> str:
    values = graph.concat(columns)
    # A ratio or a product may overflow: what is infinite counts as missing, as it does in training.
    missing = graph.add("Or", graph.add("IsNaN", values), graph.add("IsInf", values))
    clipper, imputer = pipeline.named_steps["clip"], pipeline.named_steps["impute"]
    clipped = values
    if clipper.method != "none":
        clipped = graph.add("Max", clipped, graph.constant(clipper.lower_[None, :]))
        clipped = graph.add("Min", clipped, graph.constant(clipper.upper_[None, :]))
    statistics = np.asarray(imputer.statistics_, dtype=np.float32)
    filled = graph.add("Where", missing, graph.constant(statistics[None, :]), clipped)
    if imputer.add_indicator and len(imputer.indicator_.features_):
        marks = graph.add("Gather", missing, graph.constant(imputer.indicator_.features_, np.int64), axis=1)
        filled = graph.concat([filled, graph.cast(marks, TensorProto.FLOAT)])
    scaler = pipeline.named_steps.get("scale")
    return filled if scaler is None else _scaled(graph, scaler, filled)


def _scaled(graph: Graph, scaler: Any, values: str) -> str:
    """The scaler's own arithmetic, rounding for rounding.

    A decimal that lies midway between two others is where trees like to cut: there the last bit decides the branch.
    """

    def step(op: str, tensor: str, row: NDArray[Any]) -> str:
        if row.dtype == np.float32:
            return graph.add(op, tensor, graph.constant(row[None, :]))
        # NumPy widens a single-precision column for a double-precision operand and rounds the result.
        double = graph.add(
            op, graph.cast(tensor, TensorProto.DOUBLE), graph.constant(row[None, :], np.float64)
        )
        return graph.cast(double, TensorProto.FLOAT)

    match type(scaler).__name__:
        case "StandardScaler":
            # Alone among the three it rounds its statistics to the precision of the data first.
            centred = step("Sub", values, scaler.mean_.astype(np.float32))
            return step("Div", centred, scaler.scale_.astype(np.float32))
        case "MinMaxScaler":
            return step("Add", step("Mul", values, scaler.scale_), scaler.min_)
        case _:
            return step("Div", step("Sub", values, scaler.center_), scaler.scale_)


def _probed(encoder: Any) -> list[tuple[list[str], NDArray[np.float32]]]:
    """For each column: its categories, and what the encoder makes of each and, last, of an unknown one.

    The encoder is asked rather than taken apart: rare categories, unknown ones and smoothing are then its own.
    """
    import warnings

    categories = [[str(value) for value in known] for known in encoder.categories_]
    answers = []
    for at, known in enumerate(categories):
        rows = np.array([[first[0] for first in categories]] * (len(known) + 1), dtype=object)
        rows[:, at] = [*known, UNKNOWN]
        with warnings.catch_warnings():
            # An encoder that gives all zeros to an unknown category says so each time.
            warnings.simplefilter("ignore", UserWarning)
            answers.append((known, np.asarray(_answers(encoder, rows), dtype=np.float32)))
    return answers


def _answers(encoder: Any, rows: NDArray[Any]) -> Any:
    import polars as pl

    names = getattr(encoder, "feature_names_in_", None)
    if names is None:
        return encoder.transform(rows)
    return encoder.transform(pl.DataFrame({name: list(rows[:, at]) for at, name in enumerate(names)}))


def _one_hot(graph: Graph, encoder: Any, columns: list[str]) -> str:
    """One comparison for each output: its column's code with its own."""
    probed = _probed(encoder)
    codes: list[str] = []
    source: list[int] = []
    local: list[int] = []
    first = 0
    for at, ((known, answers), column) in enumerate(zip(probed, columns, strict=True)):
        width = _width(encoder, at)
        block = answers[:, first : first + width]
        number = np.where(block.any(axis=1), block.argmax(axis=1), -1)
        codes.append(_look_up(graph, column, known, number[:-1].tolist(), int(number[-1]), "int64s"))
        source.extend([at] * width)
        local.extend(range(width))
        first += width
    gathered = graph.add("Gather", graph.concat(codes), graph.constant(source, np.int64), axis=1)
    equal = graph.add("Equal", gathered, graph.constant([local], np.int64))
    return graph.cast(equal, TensorProto.FLOAT)


def _width(encoder: Any, at: int) -> int:
    rare = encoder.infrequent_categories_[at] if encoder.min_frequency is not None else None
    n_known = len(encoder.categories_[at])
    return n_known if rare is None or len(rare) == 0 else n_known - len(rare) + 1


def _looked_up(graph: Graph, encoder: Any, columns: list[str]) -> str:
    """Ordinal and target encoding: a number, or one per class, for each category."""
    probed = _probed(encoder)
    per_column = probed[0][1].shape[1] // len(columns)
    outputs = []
    for at, ((known, answers), column) in enumerate(zip(probed, columns, strict=True)):
        for part in range(at * per_column, (at + 1) * per_column):
            values = answers[:, part].tolist()
            outputs.append(_look_up(graph, column, known, values[:-1], values[-1], "floats"))
    return graph.concat(outputs)


def _look_up(graph: Graph, column: str, keys: list[str], values: list[Any], default: Any, kind: str) -> str:
    attributes = {"keys_strings": keys, f"values_{kind}": values, f"default_{kind[:-1]}": default}
    return graph.add("LabelEncoder", column, domain=ML, **attributes)


def _reduced(graph: Graph, reduce: Any, matrix: str) -> str:
    match type(reduce).__name__:
        case "str" | "FunctionTransformer":
            return matrix
        case "PCA":
            centred = graph.add("Sub", matrix, graph.constant(reduce.mean_[None, :]))
            return graph.add("MatMul", centred, graph.constant(reduce.components_.T))
        case "TruncatedSVD":
            return graph.add("MatMul", matrix, graph.constant(reduce.components_.T))
        case "SelectKBest":
            chosen = reduce.get_support(indices=True)
            return graph.add("Gather", matrix, graph.constant(chosen, np.int64), axis=1)
    raise PenstockError(f"features.reduce: {type(reduce).__name__} cannot be exported")
