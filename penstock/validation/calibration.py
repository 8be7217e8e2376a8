"""Turning scores into probabilities that mean what they say."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from penstock.errors import PenstockError

__all__ = ["CLIP", "Calibrated"]

Floats = NDArray[np.float64]

# Scores are kept this far from 0 and 1 before their log-odds are taken: single precision, in which the
# exported graph computes, still tells 1 − CLIP from 1.
CLIP = 1e-6
NEWTON_STEPS = 100


class Calibrated(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted binary classifier and a map of its score, learnt on scores of rows it had not seen.

    "sigmoid": p = 1 / (1 + exp(−(a · log-odds(s) + b))), fitted by maximum likelihood with Platt's smoothed
    targets (Platt 1999), on log-odds so that a well calibrated model gives a = 1, b = 0 (Kull et al. 2017,
    their "logistic" map). "isotonic": the best non-decreasing step, joined by straight lines (Zadrozny &
    Elkan 2002), constant beyond the outer knots.

    Attributes:
        estimator_: The classifier, fitted on all rows.
        classes_: Its classes, shape (2,).
        a_, b_: Slope and intercept (sigmoid).
        x_, y_: Knots: scores strictly ascending, and their probabilities, shape (n_knots,) (isotonic).
    """

    def __init__(self, *, method: Literal["sigmoid", "isotonic"] = "sigmoid") -> None:
        self.method = method

    def fit(self, X: Any, y: Any) -> Self:
        """Not offered: the map must be learnt on scores of rows that the classifier has not seen.

        Raises:
            NotImplementedError: Always; ``fit_scores`` is what there is.
        """
        raise NotImplementedError

    def fit_scores(self, estimator: Any, scores: Floats, y: NDArray[np.integer]) -> Self:
        """Learn the map and adopt the classifier.

        Args:
            estimator: A fitted classifier of two classes.
            scores: Out-of-fold probabilities of class 1, shape (n,).
            y: 0 or 1, shape (n,).

        Raises:
            PenstockError: The classifier has more than two classes, or ``y`` only one.
        """
        if len(estimator.classes_) != 2:
            raise PenstockError(
                f"train.calibration {self.method} is for two classes; this model has {len(estimator.classes_)}",
                hint="set train.calibration to none",
            )
        codes = np.asarray(y, dtype=np.int64)
        if len(np.unique(codes)) < 2:
            raise PenstockError(
                "train.calibration needs out-of-fold rows of both classes",
                hint="set train.calibration to none",
            )
        self.estimator_ = estimator
        self.classes_ = estimator.classes_
        if self.method == "sigmoid":
            self.a_, self.b_ = _platt(_log_odds(scores), codes)
        else:
            self.x_, self.y_ = _isotonic(scores, codes)
        return self

    def calibrated(self, scores: Floats) -> Floats:
        """The map applied to probabilities of class 1, shape (n,)."""
        check_is_fitted(self, "estimator_")
        if self.method == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-(self.a_ * _log_odds(scores) + self.b_))))
        return np.interp(scores, self.x_, self.y_)

    def predict_proba(self, X: Any) -> Floats:
        """Calibrated probabilities, shape (n, 2)."""
        check_is_fitted(self, "estimator_")
        positive = self.calibrated(np.asarray(self.estimator_.predict_proba(X)[:, 1], dtype=np.float64))
        return np.column_stack([1 - positive, positive])

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of the larger probability, shape (n,)."""
        return np.asarray(self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(np.int64)])


def _log_odds(scores: Floats) -> Floats:
    clipped = np.clip(np.asarray(scores, dtype=np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _platt(z: Floats, y: NDArray[np.int64]) -> tuple[float, float]:
    """Newton's method on the log loss against smoothed targets: a, b of 1 / (1 + exp(−(a z + b)))."""
    n_positive = int(y.sum())
    n_negative = len(y) - n_positive
    target = np.where(y == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    design = np.column_stack([z, np.ones_like(z)])
    weights = np.array([0.0, np.log((n_positive + 1) / (n_negative + 1))])
    loss = _log_loss(design @ weights, target)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(design @ weights)))
        gradient = design.T @ (p - target)
        # A ridge far below rounding keeps the step defined when all scores are equal.
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-10 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (following := _log_loss(design @ (weights - size * step), target)) > loss and size > 1e-10:
            size /= 2
        improved, loss = loss - following, min(loss, following)
        if improved < 1e-12 * len(y):
            break
        weights = weights - size * step
    return float(weights[0]), float(weights[1])


def _log_loss(margin: Floats, target: Floats) -> float:
    return float((np.logaddexp(0, margin) - target * margin).sum())


def _isotonic(scores: Floats, y: NDArray[np.int64]) -> tuple[Floats, Floats]:
    from sklearn.isotonic import IsotonicRegression

    # Single precision first: two knots that it cannot tell apart would be a division by zero when exported.
    single = np.asarray(scores, dtype=np.float32).astype(np.float64)
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(single, y)
    return np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(
        fitted.y_thresholds_, dtype=np.float64
    )
