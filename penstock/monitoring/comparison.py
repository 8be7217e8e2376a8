"""How a window differs from the reference, family by family, as plain numbers; many resampled pairs at once.

The same functions judge a window and calibrate the judgement, so the two cannot come to differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.monitoring.coding import Coding
from penstock.monitoring.distances import jensen_shannon, kolmogorov_smirnov, psi, wasserstein
from penstock.monitoring.sketch import Sketch

__all__ = [
    "DISTANCES",
    "Moments",
    "Stack",
    "correlation_shift",
    "drift",
    "estimated_auc",
    "performance",
    "slices",
    "stacked",
    "weighted_auc",
]

Array = NDArray[np.float64]
LENT = 100.0  # rows of the whole that a slice's variance is mixed with
DISTANCES = ("psi", "wasserstein", "jensen_shannon", "kolmogorov_smirnov")


@dataclass(frozen=True)
class Stack:
    """Sketches side by side: the arrays of ``Sketch`` with one more dimension in front, shape (samples, …)."""

    rows: Array
    counts: Array
    sums: Array
    first: Array
    second: Array
    known: Array
    loss: Array
    residual: Array
    squares: Array
    ranking: Array
    scores: Array
    leftover: Array | None = None  # what a resample's own rows give, where the moments would flatter them


def stacked(sketch: Sketch) -> Stack:
    """One sketch as a stack of one."""
    return Stack(
        np.array([float(sketch.rows)]),
        *(
            np.asarray(getattr(sketch, name))[None]
            for name in (
                "counts",
                "sums",
                "first",
                "second",
                "known",
                "loss",
                "residual",
                "squares",
                "ranking",
                "scores",
            )
        ),
    )


def drift(coding: Coding, spreads: Array, reference: Stack, window: Stack) -> Array:
    """Distances of every part.

    Args:
        coding: Of the columns.
        spreads: Standard deviation of each part in the reference, shape (parts,); 0 where it is no number.
        reference: Of shape (samples, …).
        window: Likewise.

    Returns:
        Shape (samples, parts, 4), in the order of ``DISTANCES``; Wasserstein's in standard deviations.
    """
    found = np.zeros((len(window.rows), len(coding.parts), len(DISTANCES)))
    for at, part in enumerate(coding.parts):
        place = coding.slice(at)
        values = slice(place.start, place.stop - 2)
        # What is missing, the column's own part tells; how numbers are written is a question of those there are.
        looked = values if part.kind == "grain" else place
        p, q = reference.counts[:, looked], window.counts[:, looked]
        found[:, at, 0] = psi(p, q)
        found[:, at, 2] = jensen_shannon(p, q)
        found[:, at, 3] = kolmogorov_smirnov(p, q, ordered=part.kind == "number")
        if part.kind == "number" and spreads[at] > 0:
            far = wasserstein(
                reference.counts[:, values],
                reference.sums[:, values],
                window.counts[:, values],
                window.sums[:, values],
            )
            there = window.counts[:, values].sum(axis=-1) > 0
            found[:, at, 1] = np.where(there, far / spreads[at], 0.0)
    return found


@dataclass(frozen=True)
class Moments:
    """Second moments of the reference in its embedding.

    The components are those of every other row: on rows that they are fitted to, they leave less over than on any others.

    Attributes:
        part: Which part each direction belongs to, shape (directions,).
        minor: Directions in which the reference hardly varies (principal components of the correlation matrix that
            make up the last tenth of the variance), each divided by its standard deviation there,
            shape (directions, minor ones).
    """

    part: NDArray[np.int64]
    minor: Array

    @classmethod
    def of(cls, part: NDArray[np.int64], points: NDArray[np.float32]) -> Moments:
        """Of a reference's points, shape (rows, directions)."""
        if not len(part):
            return cls(part, np.zeros((0, 0)))
        fitted = points[::2].astype(np.float64)
        values, vectors = np.linalg.eigh(fitted.T @ fitted / len(fitted))
        values = np.maximum(values, 0.0)
        # Directions without any variance are sums that hold by definition: a little noise there is not news.
        kept = (np.cumsum(values) <= 0.1 * values.sum()) & (values > 0.01)
        return cls(part, vectors[:, kept] / np.sqrt(values[kept]))

    def leftover(self, points: NDArray[np.float32]) -> Array:
        """Of each row, what the main components do not explain, about 1 on average, shape (rows,)."""
        if not self.minor.shape[1]:
            return np.zeros(len(points))
        return np.asarray(((points.astype(np.float64) @ self.minor) ** 2).mean(axis=1))


def _correlation(stack: Stack) -> Array:
    mean = stack.first / stack.rows[:, None]
    covariance = stack.second / stack.rows[:, None, None] - mean[:, :, None] * mean[:, None, :]
    spread = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 1e-9))
    return np.asarray(covariance / (spread[:, :, None] * spread[:, None, :]))


def correlation_shift(coding: Coding, moments: Moments, reference: Stack, window: Stack) -> Array:
    """How the relations between columns differ, whatever each column does by itself.

    Returns:
        Shape (samples, parts + 1): for each part the root of the mean square of what its correlations with all other
        parts changed by; last, the reconstruction error of a principal component analysis: the mean square of what
        the reference's main components do not explain, 1 for rows like the reference's.
    """
    found = np.zeros((len(window.rows), len(coding.parts) + 1))
    if not len(moments.part):
        return found
    change = (_correlation(window) - _correlation(reference)) ** 2
    for at in np.unique(moments.part):
        mine = moments.part == at
        if not mine.all():
            found[:, at] = np.sqrt(change[:, mine][:, :, ~mine].mean(axis=2).max(axis=1))
    if window.leftover is not None:
        found[:, -1] = window.leftover
    elif moments.minor.shape[1]:
        second = window.second / window.rows[:, None, None]
        energy = np.einsum("im,bij,jm->bm", moments.minor, second, moments.minor, optimize=True)
        found[:, -1] = energy.mean(axis=1)
    return found


def weighted_auc(ranking: Array) -> Array:
    """Area under the ROC curve from counts by score; ties count half.

    Args:
        ranking: Negative and positive ones, shape (…, 2, steps).

    Returns:
        Shape (…); 0.5 where one class is absent.
    """
    negative, positive = ranking[..., 0, :], ranking[..., 1, :]
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = negative.sum(axis=-1) * positive.sum(axis=-1)
    area = (positive * below).sum(axis=-1)
    return np.asarray(np.where(pairs > 0, area / np.where(pairs > 0, pairs, 1.0), 0.5))


def estimated_auc(scores: Array, calibrated: Array) -> Array:
    """The area that is to be expected when the calibrated probabilities are right, without any truth.

    Args:
        scores: Counts by score, shape (…, steps).
        calibrated: Probability of the positive class at each step, shape (steps,).
    """
    return weighted_auc(np.stack([scores * (1 - calibrated), scores * calibrated], axis=-2))


def performance(coding: Coding, reference: Stack, window: Stack, *, ranked: bool) -> Array:
    """How much worse the window is.

    Args:
        coding: Of the columns.
        reference: Of shape (samples, …).
        window: Likewise, with truths.
        ranked: Whether the scores are probabilities of a class that came true or not.

    Returns:
        Shape (samples, 3): the rise of the mean loss, the fall of the AUC (0 where nothing is ranked), and how far the
        mean residual moved, either way (calibration in the large).
    """
    first = coding.slice(0)

    def mean(stack: Stack, what: Array) -> Array:
        return np.asarray(what[:, first].sum(axis=1) / np.maximum(stack.known[:, first].sum(axis=1), 1e-9))

    rise = mean(window, window.loss) - mean(reference, reference.loss)
    moved = np.abs(mean(window, window.residual) - mean(reference, reference.residual))
    fall = weighted_auc(reference.ranking) - weighted_auc(window.ranking) if ranked else np.zeros_like(rise)
    return np.stack([rise, fall, moved], axis=1)


def slices(coding: Coding, chosen: NDArray[np.int64], least: int, reference: Stack, window: Stack) -> Array:
    """Loss and residual of slices, as standard scores of the difference of two means.

    Args:
        coding: Of the columns.
        chosen: Codes that are slices, shape (slices,).
        least: Rows that a slice must have in the window; three times as many in the reference.
        reference: Of shape (samples, …).
        window: Likewise, with truths.

    Returns:
        Shape (samples, slices, 2); 0 where a slice is too small.
    """
    n, m = window.known[:, chosen], reference.known[:, chosen]
    # A resample of a few rows has lighter tails than the world: such a slice would be called out too often.
    judged = (n >= least) & (m >= 3 * least)
    n, m = np.maximum(n, 1.0), np.maximum(m, 1.0)
    found = []
    place = coding.slice(0)
    rows = np.maximum(reference.known[:, place].sum(axis=1), 1.0)[:, None]
    for at, name in enumerate(("loss", "residual")):
        now, before = getattr(window, name)[:, chosen] / n, getattr(reference, name)[:, chosen] / m
        mean = getattr(reference, name)[:, place].sum(axis=1)[:, None] / rows
        overall = reference.squares[:, at, place].sum(axis=1)[:, None] / rows - mean**2
        own = reference.squares[:, at, chosen] / m - before**2
        # A slice in which the model has hardly erred yet does not show how much errors vary: the whole lends it some.
        variance = np.maximum((m * own + LENT * overall) / (m + LENT), 1e-9)
        score = (now - before) / np.sqrt(variance * (1 / n + 1 / m))
        found.append(np.where(judged, score if name == "loss" else np.abs(score), 0.0))
    return np.stack(found, axis=2)
