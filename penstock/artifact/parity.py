"""Is the ONNX file the same model? Every row of the hold-out, one by one and all at once, is asked of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.artifact.inputs import feeds
from penstock.artifact.model import Model
from penstock.config import Export
from penstock.errors import PenstockError

__all__ = ["Parity", "compare", "require"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Parity:
    """How far the ONNX file is from the pipeline that it was made from.

    Attributes:
        rows: Rows compared.
        max_difference: Largest difference of a probability; of a value, in standard deviations of the target.
        max_difference_single: The same with one row a call.
        worst_row: Its row in the hold-out.
        label_disagreement: Share of rows with another label.
        metric_difference: Difference of the deciding metric.
    """

    rows: int
    max_difference: float
    max_difference_single: float
    worst_row: int
    label_disagreement: float
    metric_difference: float

    def as_dict(self) -> dict[str, Any]:
        """For the metrics file."""
        return asdict(self)


def compare(
    model: Model,
    raw: pl.DataFrame,
    reference: Floats,
    *,
    spread: float,
    threshold: float | None,
    metric: Callable[[Floats], float],
) -> Parity:
    """Compare the artefact with the pipeline's answers.

    Args:
        model: The artefact.
        raw: The hold-out, typed raw columns.
        reference: The pipeline's probabilities, shape (n, K), or values, shape (n,).
        spread: What a difference is divided by: 1 for probabilities, the target's deviation for values.
        threshold: Binary: score from which the label is the positive class.
        metric: Of predictions shaped as ``reference``.
    """
    arrays = feeds(raw, model.manifest.inputs)
    whole, labels = _answers(model, arrays)
    rows = ({name: array[row : row + 1] for name, array in arrays.items()} for row in range(raw.height))
    single = np.concatenate([_answers(model, row)[0] for row in rows])
    difference = np.abs(whole - reference).reshape(len(reference), -1).max(axis=1) / spread
    alone = np.abs(single - reference).reshape(len(reference), -1).max(axis=1) / spread
    disagreement = 0.0
    if model.manifest.classes is not None:
        wanted = np.array(model.manifest.classes, dtype=object)[_codes(reference, threshold)]
        disagreement = float(np.mean(np.asarray(labels, dtype=object) != wanted))
    return Parity(
        rows=len(reference),
        max_difference=float(difference.max()),
        max_difference_single=float(alone.max()),
        worst_row=int(np.maximum(difference, alone).argmax()),
        label_disagreement=disagreement,
        metric_difference=abs(metric(whole) - metric(reference)),
    )


def _answers(model: Model, arrays: Mapping[str, NDArray[Any]]) -> tuple[Floats, Any]:
    outputs = model.run_arrays(arrays)
    if model.manifest.classes is None:
        return outputs["value"][:, 0].astype(np.float64), None
    return outputs["probabilities"].astype(np.float64), outputs["label"]


def _codes(probabilities: Floats, threshold: float | None) -> NDArray[np.int64]:
    if probabilities.shape[1] == 2:
        # The graph compares in single precision; so must whoever checks it.
        cut = np.float32(0.5 if threshold is None else threshold)
        return (probabilities[:, 1].astype(np.float32) >= cut).astype(np.int64)
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def require(parity: Parity, bounds: Export) -> None:
    """Fail when a bound is passed.

    Raises:
        PenstockError: Names the bound, the figure and the worst row.
    """
    checks = {
        "max_difference": max(parity.max_difference, parity.max_difference_single),
        "max_label_disagreement": parity.label_disagreement,
        "max_metric_difference": parity.metric_difference,
    }
    for name, figure in checks.items():
        bound = getattr(bounds, name)
        if not figure <= bound:
            raise PenstockError(
                f"the ONNX file is not the trained model: {name} is {figure:.3g}, export.{name} allows {bound:.3g}"
                f" (worst: row {parity.worst_row} of the hold-out)",
                hint="a model of trees may flip a row that lies on a threshold; widen the bound only if you know why",
            )
