"""Metrics of one set of predictions, and what a set of folds says about their mean.

They are computed with NumPy alone: the stages that only evaluate then start without scikit-learn. What
has no value (an AUC of one class, say) is NaN, without a warning, and becomes null in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.config import Scoring

__all__ = [
    "DEFAULT_THRESHOLD",
    "Summary",
    "classification",
    "decide",
    "greater_is_better",
    "names",
    "regression",
    "roc_auc",
    "summarise",
    "uses_threshold",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DEFAULT_THRESHOLD = 0.5
SMALLER_IS_BETTER = frozenset(
    {"log_loss", "brier", "calibration_error", "cost", "rmse", "mae", "mape", "median_error"}
)
THRESHOLDED = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "f_beta", "mcc", "cost")
RANKED = ("roc_auc", "pr_auc", "log_loss", "brier", "calibration_error")
REGRESSION = ("r2", "rmse", "mae", "mape", "median_error")


def greater_is_better(name: str) -> bool:
    """Whether a larger value of the metric is a better one. A suffix ``_default`` changes nothing."""
    return name.removesuffix("_default") not in SMALLER_IS_BETTER


def uses_threshold(name: str) -> bool:
    """Whether the metric judges decisions, not scores."""
    return name in THRESHOLDED


def names(kind: str, *, tuned: bool) -> tuple[str, ...]:
    """The metrics of a task in the order of report.

    Args:
        kind: binary, multiclass or regression.
        tuned: Whether there is a tuned threshold beside the default one.
    """
    if kind == "regression":
        return REGRESSION
    decisions = THRESHOLDED if kind == "binary" else THRESHOLDED[:-1]
    default = tuple(f"{name}_default" for name in decisions) if tuned else ()
    return (*decisions, *RANKED, *default)


def _quotient(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan


def decide(probabilities: Floats, threshold: float | Floats | None) -> Integers:
    """The class chosen for every row, shape (n,).

    Args:
        probabilities: Shape (n, K).
        threshold: Two classes: the positive one (code 1) is chosen where its probability is at least this,
            one number or one per row; None is 0.5. More classes: must be None; the most probable is chosen.
    """
    if probabilities.shape[1] > 2:
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
    cut = DEFAULT_THRESHOLD if threshold is None else threshold
    chosen: Integers = (probabilities[:, 1] >= cut).astype(np.int64)
    return chosen


def classification(
    y: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    *,
    threshold: float | Floats | None,
    scoring: Scoring,
) -> dict[str, float]:
    """All classification metrics.

    Two classes: code 1 is the positive one. More: precision, recall, F, and the areas are macro averages
    over the classes that occur (one against the rest).

    Args:
        y: Class codes, shape (n,).
        probabilities: Shape (n, K).
        threshold: The tuned threshold (or one per row); its metrics then have the plain names, and those at
            0.5 the suffix ``_default``. None: 0.5, without the second set.
        scoring: β of F-beta, costs, calibration bins.

    Returns:
        Name → value; NaN where a metric has none. ``cost`` (two classes only) is the mean cost per row;
        ``brier`` is the mean squared error of the positive probability, or summed over more classes
        (Brier 1950); ``calibration_error`` is the expected calibration error over equal-width bins (Naeini
        et al. 2015), of the positive class, or of the chosen class when there are more.
    """
    codes = np.asarray(y, dtype=np.int64)
    scores = np.asarray(probabilities, dtype=np.float64)
    found = {
        **_decisions(codes, decide(scores, threshold), scores.shape[1], scoring),
        **_ranked(codes, scores, scoring),
    }
    if threshold is not None and scores.shape[1] == 2:
        default = _decisions(codes, decide(scores, None), 2, scoring)
        found |= {f"{name}_default": value for name, value in default.items()}
    return found


def _decisions(y: Integers, chosen: Integers, n_classes: int, scoring: Scoring) -> dict[str, float]:
    table = np.bincount(y * n_classes + chosen, minlength=n_classes**2).reshape(n_classes, n_classes)
    hits, actual, predicted, total = np.diag(table), table.sum(axis=1), table.sum(axis=0), table.sum()
    recalls = [_quotient(hits[k], actual[k]) for k in range(n_classes)]
    judged = [1] if n_classes == 2 else [k for k in range(n_classes) if actual[k] + predicted[k]]
    precisions = [_quotient(hits[k], predicted[k]) if predicted[k] else 0.0 for k in judged]
    found = {
        "accuracy": _quotient(hits.sum(), total),
        "balanced_accuracy": _mean([value for value in recalls if not math.isnan(value)]),
        "precision": _mean(precisions),
        "recall": recalls[1]
        if n_classes == 2
        else _mean([0.0 if math.isnan(recalls[k]) else recalls[k] for k in judged]),
        "f1": _mean([_f_beta(hits[k], actual[k], predicted[k], 1.0) for k in judged]),
        "f_beta": _mean([_f_beta(hits[k], actual[k], predicted[k], scoring.beta) for k in judged]),
        "mcc": _mcc(hits.sum(), total, actual, predicted),
    }
    if n_classes == 2:
        cost = scoring.costs.false_positive * table[0, 1] + scoring.costs.false_negative * table[1, 0]
        found["cost"] = _quotient(cost, total)
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _f_beta(hits: int, actual: int, predicted: int, beta: float) -> float:
    return _quotient((1 + beta**2) * hits, beta**2 * actual + predicted)


def _mcc(hits: int, total: int, actual: Integers, predicted: Integers) -> float:
    """Gorodkin's R_K (2004), which for two classes is Matthews' coefficient; 0 where it is undefined."""
    wide, mine, theirs = float(total), actual.astype(np.float64), predicted.astype(np.float64)
    covariance = hits * wide - mine @ theirs
    spread = (wide**2 - theirs @ theirs) * (wide**2 - mine @ mine)
    return float(covariance / math.sqrt(spread)) if spread > 0 else 0.0


def _ranked(y: Integers, scores: Floats, scoring: Scoring) -> dict[str, float]:
    n_classes = scores.shape[1]
    judged = [1] if n_classes == 2 else range(n_classes)
    areas = [(roc_auc(y == k, scores[:, k]), _average_precision(y == k, scores[:, k])) for k in judged]
    areas = [pair for pair in areas if not math.isnan(pair[0])]
    if n_classes == 2:
        confidence, right = scores[:, 1], (y == 1)
        brier = float(np.mean((scores[:, 1] - y) ** 2))
    else:
        confidence, right = scores.max(axis=1), scores.argmax(axis=1) == y
        brier = float(np.mean(((scores - np.eye(n_classes)[y]) ** 2).sum(axis=1)))
    # The smallest step of single precision, in which exported models compute: a sure mistake stays finite.
    own = np.clip(scores[np.arange(len(y)), y], np.finfo(np.float32).eps, 1.0)
    return {
        "roc_auc": _mean([area for area, _ in areas]),
        "pr_auc": _mean([area for _, area in areas]),
        "log_loss": float(-np.mean(np.log(own))),
        "brier": brier,
        "calibration_error": _calibration_error(right, confidence, scoring.calibration_bins),
    }


def roc_auc(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties count half.

    Computed from mid-ranks (Mann & Whitney 1947). NaN where one class is missing.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mid_ranks[group][positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _average_precision(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Σ (recall step × precision) over the distinct thresholds; no interpolation."""
    n_positive = int(positive.sum())
    if not n_positive or n_positive == len(positive):
        return math.nan
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_tie]
    flagged = np.arange(1, len(scores) + 1)[last_of_tie]
    return float((np.diff(hits, prepend=0) / n_positive * (hits / flagged)).sum())


def _calibration_error(right: NDArray[np.bool_], confidence: Floats, bins: int) -> float:
    cell = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    gap = np.bincount(cell, weights=confidence, minlength=bins) - np.bincount(
        cell, weights=right, minlength=bins
    )
    return float(np.abs(gap).sum() / len(right))


def regression(y: NDArray[np.floating], prediction: NDArray[np.floating]) -> dict[str, float]:
    """All regression metrics, in the units of the target where they have units.

    ``mape`` is a share (0.1 is 10 %) over the rows whose target is not 0; ``median_error`` is the median
    absolute error; ``r2`` is NaN for a constant target. A model whose prediction overflows has infinite
    errors.
    """
    actual, guess = np.asarray(y, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return _errors(actual, guess)


def _errors(actual: Floats, guess: Floats) -> dict[str, float]:
    error = np.abs(actual - guess)
    spread = float(((actual - actual.mean()) ** 2).sum())
    some = actual != 0
    return {
        "r2": 1 - float((error**2).sum()) / spread if spread > 0 else math.nan,
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(error.mean()),
        "mape": float(np.mean(error[some] / np.abs(actual[some]))) if some.any() else math.nan,
        "median_error": float(np.median(error)),
    }


@dataclass(frozen=True)
class Summary:
    """What a metric's values over the folds say.

    Attributes:
        mean: Mean over the folds that have a value; NaN where none has.
        std: Sample standard deviation over the folds; NaN for fewer than two.
        low: Lower end of the confidence interval of the mean.
        high: Upper end.
    """

    mean: float
    std: float
    low: float
    high: float


def summarise(values: Sequence[float], *, test_to_train: float, confidence: float) -> Summary:
    """Mean, spread and confidence interval of a metric over resampled folds.

    Folds share training rows, so their values are not independent and the naive variance of the mean,
    s² / J, is too small. The interval is Student's t with the corrected variance (1/J + n_test/n_train) s²
    (Nadeau & Bengio, Inference for the Generalization Error, Machine Learning 52, 2003).

    Args:
        values: One per fold and repeat; NaN where a fold has none.
        test_to_train: n_test / n_train of a fold.
        confidence: Level of the interval.
    """
    found = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    if not len(found):
        return Summary(math.nan, math.nan, math.nan, math.nan)
    mean = float(found.mean())
    if len(found) < 2:
        return Summary(mean, math.nan, math.nan, math.nan)
    from scipy.special import stdtrit

    std = float(found.std(ddof=1))
    quantile = float(stdtrit(len(found) - 1, (1 + confidence) / 2))
    half = quantile * std * math.sqrt(1 / len(found) + test_to_train)
    return Summary(mean, std, mean - half, mean + half)
