"""The fitted estimator as ONNX nodes: converters of skl2onnx and onnxmltools, and what they lack."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from penstock.artifact.graph import ML, ML_OPSET, OPSET, Graph
from penstock.errors import PenstockError

__all__ = ["emit_classifier", "emit_regressor"]


def emit_classifier(graph: Graph, model: Any, matrix: str, n_inputs: int) -> str:
    """Add a fitted classifier and return its probabilities, float, shape (rows, n_classes)."""
    if type(model).__name__ == "Calibrated":
        inner = emit_classifier(graph, model.estimator_, matrix, n_inputs)
        return _calibrated(graph, model, inner)
    if type(model).__name__ == "DummyClassifier":
        return _constant(graph, np.asarray(model.class_prior_), matrix, n_inputs)
    converted = _converted(model, n_inputs)
    return graph.absorb(converted, matrix, converted.graph.output[1].name)


def emit_regressor(graph: Graph, model: Any, matrix: str, n_inputs: int) -> str:
    """Add a fitted regressor and return its values, float, shape (rows, 1)."""
    if type(model).__name__ == "TransformedTargetRegressor":
        # In double precision: a price has more digits than e to a single-precision power keeps.
        double = graph.add("Exp", _shifted(graph, *_regressed(graph, model.regressor_, matrix, n_inputs)))
        return graph.cast(graph.add("Sub", double, graph.constant([[1.0]], np.float64)), TensorProto.FLOAT)
    value, offset = _regressed(graph, model, matrix, n_inputs)
    return value if offset == 0 else graph.cast(_shifted(graph, value, offset), TensorProto.FLOAT)


def _regressed(graph: Graph, model: Any, matrix: str, n_inputs: int) -> tuple[str, float]:
    """A regressor's value less an offset, float, shape (rows, 1), and the offset."""
    if type(model).__name__ == "DummyRegressor":
        return _constant(graph, np.asarray(model.constant_).ravel(), matrix, n_inputs), 0.0
    offset = 0.0
    if type(model).__module__.startswith("lightgbm"):
        text, offset = _centred(_single_precision(model.booster_.model_to_string()))
        converted = _lightgbm(text, n_inputs)
        _doubled(converted)
        matrix = graph.cast(matrix, TensorProto.DOUBLE)
    else:
        converted = _converted(model, n_inputs)
    value = graph.absorb(converted, matrix, converted.graph.output[0].name)
    return graph.add("Reshape", value, graph.constant([-1, 1], np.int64)), offset


def _doubled(model: ModelProto) -> None:
    """Let an ensemble of regression trees add up in double precision, in place; it then takes doubles."""
    for node in model.graph.node:
        if node.op_type != "TreeEnsembleRegressor":
            continue
        for attribute in node.attribute:
            if attribute.name in {"nodes_values", "nodes_hitrates", "target_weights", "base_values"}:
                values = np.array(attribute.floats, dtype=np.float64)
                attribute.CopyFrom(
                    helper.make_attribute(f"{attribute.name}_as_tensor", numpy_helper.from_array(values))
                )


def _shifted(graph: Graph, value: str, offset: float) -> str:
    """The value and its offset in double precision."""
    double = graph.cast(value, TensorProto.DOUBLE)
    return double if offset == 0 else graph.add("Add", double, graph.constant([[offset]], np.float64))


def _centred(model: str) -> tuple[str, float]:
    """Take the mean out of a LightGBM model's first tree, into which LightGBM puts that of the target.

    Hundreds of leaves are then added up near zero, where single precision is fine, and not near the target.
    """
    found = re.search(r"^leaf_value=(.+)$", model, flags=re.MULTILINE)
    assert found is not None
    values = np.array(found.group(1).split(), dtype=np.float64)
    offset = float(values.mean())
    shifted = " ".join(repr(float(value)) for value in values - offset)
    return model[: found.start(1)] + shifted + model[found.end(1) :], offset


def _constant(graph: Graph, row: Any, matrix: str, n_inputs: int) -> str:
    """The same row for every row: nothing is learnt from the matrix, which only says how many there are."""
    zeros = graph.add("MatMul", matrix, graph.constant(np.zeros((n_inputs, len(row)))))
    return graph.add("Add", zeros, graph.constant(row[None, :]))


def _converted(model: Any, n_inputs: int) -> ModelProto:
    """A model of one input, float, shape (rows, n_inputs).

    Raises:
        PenstockError: No converter knows the estimator.
    """
    if type(model).__module__.startswith("lightgbm"):
        return _lightgbm(_single_precision(model.booster_.model_to_string()), n_inputs)
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    options = {id(model): {"zipmap": False}} if hasattr(model, "classes_") else None
    try:
        with warnings.catch_warnings():
            # The converter of support vector machines still looks at attributes that scikit-learn deprecates.
            warnings.simplefilter("ignore", FutureWarning)
            return convert_sklearn(
                model,
                initial_types=[("matrix", FloatTensorType([None, n_inputs]))],
                target_opset={"": OPSET, ML: ML_OPSET},
                options=options,
            )
    except (MissingConverter, MissingShapeCalculator) as error:
        raise PenstockError(
            f"{type(model).__name__} cannot be exported to ONNX", hint="choose another model in `candidates`"
        ) from error


def _lightgbm(text: str, n_inputs: int) -> ModelProto:
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    return convert_lightgbm(
        lightgbm.Booster(model_str=text),
        initial_types=[("matrix", FloatTensorType([None, n_inputs]))],
        # The converter takes the main operator set alone; the few nodes that it adds are the same in 20.
        target_opset=15,
        zipmap=False,
    )


def _single_precision(model: str) -> str:
    """Round each threshold of a LightGBM model down to single precision.

    For single-precision x, x ≤ t is x ≤ (t rounded down). Rounded to nearest, as a converter does it, a
    threshold may rise to the next value of the data and send that row the other way.
    """

    def lowered(match: re.Match[str]) -> str:
        values = np.array(match.group(2).split(), dtype=np.float64)
        single = values.astype(np.float32)
        down = np.where(single > values, np.nextafter(single, np.float32(-np.inf)), single)
        return match.group(1) + " ".join(repr(float(value)) for value in down)

    # The trees' lengths in bytes are an aid to reading in parallel, and no longer hold.
    model = re.sub(r"^tree_sizes=.*\n", "", model, flags=re.MULTILINE)
    return re.sub(r"^(threshold=)(.+)$", lowered, model, flags=re.MULTILINE)


def _calibrated(graph: Graph, model: Any, probabilities: str) -> str:
    score = graph.add("Gather", probabilities, graph.constant([1], np.int64), axis=1)
    double = graph.cast(score, TensorProto.DOUBLE)
    mapped = _sigmoid(graph, model, double) if model.method == "sigmoid" else _isotonic(graph, model, double)
    positive = graph.cast(mapped, TensorProto.FLOAT)
    return graph.concat([graph.add("Sub", graph.constant([[1.0]]), positive), positive])


def _sigmoid(graph: Graph, model: Any, score: str) -> str:
    from penstock.validation.calibration import CLIP

    def constant(value: float) -> str:
        return graph.constant([[value]], np.float64)

    inside = graph.add("Min", graph.add("Max", score, constant(CLIP)), constant(1 - CLIP))
    odds = graph.add("Log", graph.add("Div", inside, graph.add("Sub", constant(1.0), inside)))
    return graph.add(
        "Sigmoid", graph.add("Add", graph.add("Mul", odds, constant(model.a_)), constant(model.b_))
    )


def _isotonic(graph: Graph, model: Any, score: str) -> str:
    """Straight lines between knots: y₀ + Σ slopeᵢ · (clip(s, xᵢ, xᵢ₊₁) − xᵢ)."""
    x, y = np.asarray(model.x_, dtype=np.float64), np.asarray(model.y_, dtype=np.float64)
    if len(x) == 1:
        zero = graph.add("Mul", score, graph.constant([[0.0]], np.float64))
        return graph.add("Add", zero, graph.constant([[y[0]]], np.float64))
    slopes = np.diff(y) / np.diff(x)
    left, right = graph.constant(x[None, :-1], np.float64), graph.constant(x[None, 1:], np.float64)
    steps = graph.add("Sub", graph.add("Min", graph.add("Max", score, left), right), left)
    risen = graph.add("MatMul", steps, graph.constant(slopes[:, None], np.float64))
    return graph.add("Add", risen, graph.constant([[y[0]]], np.float64))
