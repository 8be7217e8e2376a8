"""Where to cut a probability into a yes or a no."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.config import Scoring

__all__ = ["tune"]


def tune(y: NDArray[np.integer], scores: NDArray[np.floating], scoring: Scoring) -> float | None:
    """The threshold that serves ``scoring.threshold`` best on these rows.

    It lies half-way between two neighbouring scores, so that no row of these sits on the edge, and has six
    significant digits, so that what is written down is what is used. Of equally good ones the highest: it
    flags the fewest.

    Args:
        y: 0 or 1, shape (n,).
        scores: Probability of 1, from a model that has not seen the row, shape (n,).
        scoring: "f1" maximises F1; "cost" minimises the total cost; "default" is no tuning.

    Returns:
        The threshold, or None for "default" and where one class is missing.
    """
    positive = np.asarray(y) == 1
    n_positive = int(positive.sum())
    if scoring.threshold == "default" or n_positive in (0, len(positive)):
        return None
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ranked = np.asarray(scores, dtype=np.float64)[order]
    last_of_tie = np.append(np.diff(ranked) != 0, True)
    hits = np.append(0, np.cumsum(positive[order])[last_of_tie])
    flagged = np.append(0, np.arange(1, len(ranked) + 1)[last_of_tie])
    if scoring.threshold == "f1":
        value = 2 * hits / (n_positive + flagged)
    else:
        costs = scoring.costs
        value = -(costs.false_positive * (flagged - hits) + costs.false_negative * (n_positive - hits))
    edges = np.concatenate([[1.0], ranked[last_of_tie], [0.0]])
    at = int(np.argmax(value))
    return float(f"{(edges[at] + edges[at + 1]) / 2:.6g}")
