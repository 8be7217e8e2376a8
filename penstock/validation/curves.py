"""Curves and scatters as tables that DVC plots read; the same ones out-of-fold and on the hold-out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import Scalar, Scoring
from penstock.storage import write_csv
from penstock.validation.metrics import decide

__all__ = [
    "calibration",
    "confusion",
    "gain",
    "precision_recall",
    "predicted_actual",
    "residuals",
    "roc",
    "write_all",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_POINTS = 500


def _thinned(frame: pl.DataFrame) -> pl.DataFrame:
    """At most MOST_POINTS rows, evenly spaced, with the first and the last."""
    if frame.height <= MOST_POINTS:
        return frame
    return frame[np.unique(np.linspace(0, frame.height - 1, MOST_POINTS).round().astype(np.int64))]


def _counts(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Distinct scores downwards; true and false positives when all from that score upwards are flagged."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_tie].astype(np.float64)
    flagged = np.arange(1, len(scores) + 1, dtype=np.float64)[last_of_tie]
    return scores[order][last_of_tie], hits, flagged - hits


def roc(positive: NDArray[np.bool_], scores: Floats) -> pl.DataFrame:
    """ROC curve: fpr, tpr, threshold, from (0, 0) to (1, 1); null where a class is missing.

    The first point flags nothing; its threshold is null.
    """
    thresholds, hits, false = _counts(positive, scores)
    n_positive, n_negative = hits[-1], false[-1]
    frame = pl.DataFrame(
        {
            "fpr": np.append(0.0, false) / n_negative if n_negative else np.full(len(false) + 1, np.nan),
            "tpr": np.append(0.0, hits) / n_positive if n_positive else np.full(len(hits) + 1, np.nan),
            "threshold": np.append(np.nan, thresholds),
        }
    )
    return _thinned(frame.fill_nan(None))


def precision_recall(positive: NDArray[np.bool_], scores: Floats) -> pl.DataFrame:
    """Precision-recall curve: recall (ascending), precision, threshold; recall null without positives."""
    thresholds, hits, false = _counts(positive, scores)
    recall = hits / hits[-1] if hits[-1] else np.full(len(hits), np.nan)
    frame = pl.DataFrame({"recall": recall, "precision": hits / (hits + false), "threshold": thresholds})
    return _thinned(frame.fill_nan(None))


def calibration(positive: NDArray[np.bool_], scores: Floats, bins: int) -> pl.DataFrame:
    """Reliability: mean predicted and observed share, and rows, of every non-empty bin of equal width."""
    cell = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    return (
        pl.DataFrame({"cell": cell, "predicted": scores, "observed": positive.astype(np.float64)})
        .group_by("cell", maintain_order=True)
        .agg(pl.col("predicted").mean(), pl.col("observed").mean(), pl.len().cast(pl.Int64).alias("count"))
        .sort("cell")
        .drop("cell")
    )


def gain(positive: NDArray[np.bool_], scores: Floats) -> pl.DataFrame:
    """Cumulative gain: of all positives, the share (gain) found among the best-scored share of rows."""
    _, hits, false = _counts(positive, scores)
    reached = np.append(0.0, hits) / hits[-1] if hits[-1] else np.full(len(hits) + 1, np.nan)
    share = np.append(0.0, hits + false) / len(scores)
    return _thinned(pl.DataFrame({"share": share, "gain": reached}).fill_nan(None))


def confusion(y: Integers, chosen: Integers, classes: Sequence[Scalar]) -> pl.DataFrame:
    """One line per row, actual and predicted label: the form of DVC's confusion template."""
    labels = np.array([str(label) for label in classes])
    return pl.DataFrame({"actual": labels[y], "predicted": labels[chosen]})


def residuals(y: Floats, prediction: Floats) -> pl.DataFrame:
    """Predicted and residual (actual − predicted), by ascending prediction."""
    frame = pl.DataFrame({"predicted": prediction, "residual": y - prediction})
    return _thinned(frame.sort("predicted", "residual"))


def predicted_actual(y: Floats, prediction: Floats) -> pl.DataFrame:
    """Actual and predicted, by ascending actual value."""
    return _thinned(pl.DataFrame({"actual": y, "predicted": prediction}).sort("actual", "predicted"))


def _by_class(
    curve: Callable[[NDArray[np.bool_], Floats], pl.DataFrame],
    y: Integers,
    probabilities: Floats,
    classes: Sequence[Scalar],
) -> pl.DataFrame:
    """The curve of the positive class; of more than two, one against the rest with a column ``class``."""
    if len(classes) == 2:
        return curve(y == 1, probabilities[:, 1])
    return pl.concat(
        curve(y == k, probabilities[:, k]).with_columns(pl.lit(str(label)).alias("class"))
        for k, label in enumerate(classes)
    )


def write_all(
    folder: Path,
    y: NDArray[np.integer] | NDArray[np.floating],
    prediction: NDArray[np.floating],
    *,
    classes: Sequence[Scalar] | None,
    threshold: float | Floats | None,
    scoring: Scoring,
) -> None:
    """Write every curve of a task to ``folder``.

    Classification: roc.csv, precision_recall.csv, calibration.csv, gain.csv, confusion.csv. Regression:
    residuals.csv, predicted_actual.csv.

    Args:
        folder: Where to write; made if absent.
        y: Class codes or target values, shape (n,).
        prediction: Probabilities, shape (n, K), or predicted values, shape (n,).
        classes: Labels in the order of their codes; None for regression.
        threshold: Two classes: the decision threshold, or one per row; None for 0.5.
        scoring: Calibration bins.
    """
    guess = np.asarray(prediction, dtype=np.float64)
    if classes is None:
        actual = np.asarray(y, dtype=np.float64)
        write_csv(folder / "residuals.csv", residuals(actual, guess))
        write_csv(folder / "predicted_actual.csv", predicted_actual(actual, guess))
        return
    codes = np.asarray(y, dtype=np.int64)

    def reliability(positive: NDArray[np.bool_], scores: Floats) -> pl.DataFrame:
        return calibration(positive, scores, scoring.calibration_bins)

    curves = {"roc": roc, "precision_recall": precision_recall, "calibration": reliability, "gain": gain}
    for name, curve in curves.items():
        write_csv(folder / f"{name}.csv", _by_class(curve, codes, guess, classes))
    write_csv(folder / "confusion.csv", confusion(codes, decide(guess, threshold), classes))
