"""How good the answers to a set of pictures are, how sure that is, and whether two networks really differ.

NumPy alone, SciPy for one test. Everything is for one label out of two classes or more, none of which is
"the positive one": averages over classes are plain ones (macro), over the classes that occur.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import ImageScoring
from penstock.validation import curves

__all__ = [
    "Comparison",
    "Interval",
    "compare",
    "compare_all",
    "confusion_matrix",
    "expected_calibration_error",
    "measure",
    "most_confident_errors",
    "per_class",
    "reliability",
    "top1_interval",
    "topk",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RESAMPLES = 10_000


# --- figures ----------------------------------------------------------------------------------------


def measure(
    y: NDArray[np.integer], probabilities: NDArray[np.floating], scoring: ImageScoring
) -> dict[str, float]:
    """All figures of one set of answers.

    Args:
        y: Class codes, shape (n,), n ≥ 1.
        probabilities: Shape (n, K).
        scoring: The k of top-k, and the bins of the calibration error.

    Returns:
        top1, topk, balanced_accuracy, precision_macro, recall_macro, f1_macro, log_loss, brier (summed over
        the classes; Brier 1950), ece.
    """
    codes, scores = np.asarray(y, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    table = confusion_matrix(codes, scores.argmax(axis=1), scores.shape[1])
    precision, recall, f1 = _rates(table)
    actual, predicted = table.sum(axis=1), table.sum(axis=0)
    seen = (actual + predicted) > 0
    # The smallest step of single precision, in which networks compute: a sure mistake stays finite.
    own = np.clip(scores[np.arange(len(codes)), codes], np.finfo(np.float32).eps, 1.0)
    return {
        "top1": float(np.diag(table).sum() / len(codes)),
        "topk": topk(codes, scores, scoring.top),
        "balanced_accuracy": float(recall[actual > 0].mean()),
        "precision_macro": float(precision[seen].mean()),
        "recall_macro": float(recall[seen].mean()),
        "f1_macro": float(f1[seen].mean()),
        "log_loss": float(-np.log(own).mean()),
        "brier": float(((scores - np.eye(scores.shape[1])[codes]) ** 2).sum(axis=1).mean()),
        "ece": expected_calibration_error(codes, scores, scoring.calibration_bins),
    }


def topk(y: Integers, probabilities: Floats, k: int) -> float:
    """Share of pictures whose class is among the ``k`` most probable; of equals, the first class goes first."""
    own = probabilities[np.arange(len(y)), y][:, None]
    before = np.arange(probabilities.shape[1])[None, :] < y[:, None]
    ahead = (probabilities > own) | ((probabilities == own) & before)
    return float((ahead.sum(axis=1) < k).mean())


def confusion_matrix(y: Integers, chosen: NDArray[np.integer], n_classes: int) -> Integers:
    """Counts, shape (K, K): actual down, predicted across."""
    found: Integers = np.bincount(y * n_classes + chosen, minlength=n_classes**2)
    return found.reshape(n_classes, n_classes)


def _rates(table: Integers) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class; 0 where there is nothing to divide by."""
    hits, actual, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return (
        hits / np.maximum(predicted, 1),
        hits / np.maximum(actual, 1),
        2 * hits / np.maximum(actual + predicted, 1),
    )


def per_class(y: Integers, chosen: NDArray[np.integer], classes: Sequence[str]) -> pl.DataFrame:
    """class, support, precision, recall, f1, and what the class is most often mistaken for (null: nothing)."""
    table = confusion_matrix(y, chosen, len(classes))
    precision, recall, f1 = _rates(table)
    errors = table - np.diag(np.diag(table))
    mistaken = [
        classes[at] if most else None
        for at, most in zip(errors.argmax(axis=1), errors.max(axis=1), strict=True)
    ]
    return pl.DataFrame(
        {
            "class": list(classes),
            "support": table.sum(axis=1),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "mistaken_for": pl.Series(mistaken, dtype=pl.String),
        }
    )


def reliability(y: Integers, probabilities: Floats, bins: int) -> pl.DataFrame:
    """Of the chosen class: mean probability (predicted), share right (observed), count of each non-empty bin."""
    chosen = probabilities.argmax(axis=1)
    return curves.calibration(chosen == y, probabilities.max(axis=1), bins)


def expected_calibration_error(y: Integers, probabilities: Floats, bins: int) -> float:
    """Mean gap between probability and share right of the chosen class (Naeini et al. 2015), equal-width bins."""
    gaps = reliability(y, probabilities, bins)
    distance = (gaps["predicted"] - gaps["observed"]).abs()
    return float((distance * gaps["count"]).sum() / len(y))


def most_confident_errors(y: Integers, probabilities: Floats, count: int) -> Integers:
    """Positions of at most ``count`` wrong answers, the most probable first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != y)
    order = np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")
    return wrong[order][:count]


# --- how sure ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A share and its percentile bootstrap interval. Where all is right (or wrong) it has no width."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same pictures.

    Attributes:
        difference: Top-1 of the first − top-1 of the second.
        low, high: Its paired bootstrap interval.
        only_first: Pictures that the first alone has right.
        only_second: Pictures that the second alone has right.
        p: Two-sided, of McNemar's exact test.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def top1_interval(right: NDArray[np.bool_], *, confidence: float, seed: int) -> Interval:
    """Top-1 and its bootstrap interval.

    Args:
        right: Whether each answer is right, shape (n,).
        confidence: Level of the interval.
        seed: Of the resamples.
    """
    hits, total = int(right.sum()), len(right)
    # n draws with replacement out of n zeros and ones: their sum is binomial, so it is drawn as that.
    shares = np.random.default_rng(seed).binomial(total, hits / total, RESAMPLES) / total
    return Interval(hits / total, *_ends(shares, confidence))


def compare(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, confidence: float, seed: int
) -> Comparison:
    """Whether one network is right more often than another on the same pictures.

    Only pictures on which they disagree say anything (McNemar 1947); under equality each of those is a coin's
    toss, so p is exact, without the χ² that few disagreements do not follow.

    Args:
        first: Whether each answer of the first is right, shape (n,).
        second: The same of the second.
        confidence: Level of the interval.
        seed: Of the resamples.
    """
    total = len(first)
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    shares = [gained / total, lost / total, (total - gained - lost) / total]
    # As above, with three outcomes: a resample of pairs is multinomial.
    drawn = np.random.default_rng(seed).multinomial(total, shares, RESAMPLES)
    low, high = _ends((drawn[:, 0] - drawn[:, 1]) / total, confidence)
    return Comparison((gained - lost) / total, low, high, gained, lost, _mcnemar(gained, lost))


def _ends(values: Floats, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _mcnemar(gained: int, lost: int) -> float:
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def compare_all(
    right: Mapping[str, NDArray[np.bool_]],
    pairs: Sequence[tuple[str, str]],
    *,
    confidence: float,
    seed: int,
) -> dict[str, Comparison]:
    """``compare`` for every pair of which both are there, by "first_second"."""
    return {
        f"{first}_{second}": compare(right[first], right[second], confidence=confidence, seed=seed)
        for first, second in pairs
        if first in right and second in right
    }
