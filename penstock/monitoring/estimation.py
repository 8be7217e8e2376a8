"""How good the answers are likely to be, before anyone knows the truth.

Confidence-based estimation (CBPE): a row to which the calibrated model gives p is a positive with probability p, so
counts of true and false positives can be expected, and with them the AUC. It holds as long as p is right, that is
under covariate shift that the model's own columns show; concept drift cannot be seen without truth, by nobody.
Calibrated is not the same everywhere: for a window that is shifted, the reference's rows are weighted by how much they
look like the window's (the odds of a logistic regression that tells the two apart; Bickel et al., 2009), and the
scores are calibrated for such rows. Weights are tempered to keep an effective sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.monitoring.comparison import estimated_auc
from penstock.monitoring.judged import SCORE, TRUTH, losses
from penstock.monitoring.reference import Reference
from penstock.monitoring.sketch import GRID, steps

__all__ = ["Estimate", "density_ratio", "estimate"]

Array = NDArray[np.float64]
RIDGE = 1.0  # of the regression that tells reference and window apart
EFFECTIVE = 0.25  # share of the reference's rows that the weights must be worth
ROUNDS = 25


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of a window.

    Attributes:
        roc_auc: Area under the ROC curve.
        positives: Share of the positive class.
        effective: Rows of the reference that the weights are worth (Kish).
    """

    roc_auc: float
    positives: float
    effective: float


def density_ratio(reference: Array, window: Array) -> Array:
    """How much more often the window has rows like each of the reference's, mean 1.

    Args:
        reference: Points, shape (rows, directions).
        window: Points, likewise.

    Returns:
        Shape (rows of the reference,).
    """
    points = np.concatenate([reference, window])
    points = np.concatenate([np.ones((len(points), 1)), points], axis=1)
    label = np.concatenate([np.zeros(len(reference)), np.ones(len(window))])
    balance = np.where(label == 1, 0.5 / len(window), 0.5 / len(reference)) * len(points)
    theta = np.zeros(points.shape[1])
    penalty = np.full(points.shape[1], RIDGE)
    penalty[0] = 0.0
    for _ in range(ROUNDS):  # Newton's steps of a penalised logistic regression
        chance = 1 / (1 + np.exp(-np.clip(points @ theta, -30, 30)))
        gradient = points.T @ (balance * (label - chance)) - penalty * theta
        curvature = (points * (balance * chance * (1 - chance))[:, None]).T @ points + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        theta += step
        if np.abs(step).max() < 1e-6:
            break
    odds = np.clip(points[: len(reference)] @ theta, -8, 8)
    for temper in (1.0, 0.8, 0.6, 0.4, 0.2):
        weights = np.exp(temper * odds)
        if weights.sum() ** 2 / (weights**2).sum() >= EFFECTIVE * len(weights):
            break
    return np.asarray(weights / weights.mean())


def estimate(reference: Reference, window: pl.DataFrame) -> Estimate | None:
    """Estimate a window.

    Args:
        reference: With truth; of two classes.
        window: Inputs and SCORE, some thousand rows at most.

    Returns:
        None where nothing can be estimated.
    """
    from scipy.optimize import isotonic_regression

    known = reference.frame.filter(pl.col(TRUTH).is_not_null())
    scored = window.filter(pl.col(SCORE).is_not_null())
    if reference.target.task != "binary" or known.height < 200 or scored.height < 20:
        return None
    before, now = (
        reference.embedding(reference.coding.encode(frame)[0]).astype(np.float64) for frame in (known, scored)
    )
    weights = density_ratio(before, now)
    found = losses(known, reference.target)
    at = steps(found.score, reference.target)
    positive, both = (
        np.bincount(at[at >= 0], weights=(weights * side)[at >= 0], minlength=GRID)
        for side in (found.positive.astype(float), np.ones(len(weights)))
    )
    prior = 0.5
    middle = (np.arange(GRID) + 0.5) / GRID
    share = (positive + prior * middle) / (both + prior)
    calibrated = isotonic_regression(share, weights=both + prior).x
    mine = steps(scored[SCORE].cast(pl.Float64).to_numpy(), reference.target)
    scores = np.bincount(mine[mine >= 0], minlength=GRID).astype(float)
    return Estimate(
        roc_auc=float(estimated_auc(scores, calibrated)),
        positives=float((scores * calibrated).sum() / max(1.0, scores.sum())),
        effective=float(weights.sum() ** 2 / (weights**2).sum()),
    )
