"""Answers beside the truth, whole and by slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import Scoring
from penstock.validation import metrics

__all__ = ["Judged", "by_slice", "judge"]

SLICE_BINS = 4
# Below this a slice's metric says more about chance than about the model.
FEW_ROWS = 20


@dataclass(frozen=True)
class Judged:
    """Predictions, what was true, and how good they are.

    Attributes:
        y: Class codes, or values, shape (n,).
        prediction: Probabilities, shape (n, K), or values, shape (n,).
        classes: Labels in the order of their codes; None for regression.
        threshold: Score from which the label is the positive class (binary).
        scoring: What the metrics depend on.
        metrics: All of them.
    """

    y: NDArray[Any]
    prediction: NDArray[np.float64]
    classes: tuple[str, ...] | None
    threshold: float | None
    scoring: Scoring
    metrics: dict[str, float]


def judge(
    truth: pl.Series,
    prediction: NDArray[np.floating],
    *,
    classes: tuple[str, ...] | None,
    threshold: float | None,
    scoring: Scoring,
) -> Judged:
    """Compare predictions with the target.

    Args:
        truth: The raw target, every value of which is in ``classes``.
        prediction: Probabilities, shape (n, K), or values, shape (n,).
        classes: Labels in the order of the probabilities; None for regression.
        threshold: Binary: the decision threshold.
        scoring: What the metrics depend on.
    """
    guess = np.asarray(prediction, dtype=np.float64)
    y: NDArray[Any]
    if classes is None:
        y = truth.cast(pl.Float64).to_numpy()
    else:
        codes = dict(zip(classes, range(len(classes)), strict=True))
        y = truth.cast(pl.String).replace_strict(codes, return_dtype=pl.Int64).to_numpy()
    return Judged(y, guess, classes, threshold, scoring, _measured(y, guess, classes, threshold, scoring))


def _measured(
    y: NDArray[Any],
    guess: NDArray[np.float64],
    classes: tuple[str, ...] | None,
    threshold: float | None,
    scoring: Scoring,
) -> dict[str, float]:
    if classes is None:
        return metrics.regression(y, guess)
    return metrics.classification(y, guess, threshold=threshold, scoring=scoring)


def by_slice(frame: pl.DataFrame, columns: Sequence[str], judged: Judged) -> pl.DataFrame:
    """Every metric for every value of some columns; numbers of many values by their quartiles.

    Args:
        frame: The raw rows that were judged.
        columns: Which to slice by; those that are not there are an error of polars.
        judged: The whole.

    Returns:
        column, value, count and the metrics; first the whole, as column "" and value "all". Slices of fewer
        than 20 rows have no metrics.
    """
    names = list(judged.metrics)
    rows: list[dict[str, Any]] = [{"column": "", "value": "all", "count": frame.height, **judged.metrics}]
    for column in columns:
        values = _values(frame[column])
        for value in sorted(values.unique().to_list(), key=_sort_key):
            at = (values == value).to_numpy()
            row: dict[str, Any] = {"column": column, "value": value, "count": int(at.sum())}
            if row["count"] >= FEW_ROWS:
                row |= _measured(
                    judged.y[at], judged.prediction[at], judged.classes, judged.threshold, judged.scoring
                )
            rows.append(row)
    schema = {"column": pl.String, "value": pl.String, "count": pl.Int64, **dict.fromkeys(names, pl.Float64)}
    return pl.DataFrame(rows, schema=schema).with_columns(pl.col(names).fill_nan(None))


def _values(series: pl.Series) -> pl.Series:
    """What a row's slice is called."""
    if series.dtype.is_numeric() and series.n_unique() > 2 * SLICE_BINS:
        values = series.cast(pl.Float64).to_numpy()
        edges = np.unique(np.nanquantile(values, [share / SLICE_BINS for share in range(1, SLICE_BINS)]))
        ends = ["-inf", *(f"{edge:.6g}" for edge in edges), "inf"]
        names = [f"({low}, {high}]" for low, high in pairwise(ends)]
        codes = np.searchsorted(edges, values, side="left")
        labels = [
            names[code] if known else "missing" for code, known in zip(codes, ~np.isnan(values), strict=True)
        ]
        return pl.Series(series.name, labels)
    return series.cast(pl.String).fill_null("missing")


def _sort_key(value: str) -> tuple[int, float, str]:
    """Numbers and intervals by their lower end, words by the alphabet after them."""
    first = value.lstrip("([").split(",")[0]
    try:
        return (0, float(first), value)
    except ValueError:
        return (1, 0.0, value)
