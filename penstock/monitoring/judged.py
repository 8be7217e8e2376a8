"""Rows as they are judged: inputs beside what was answered and, once it is known, what was true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["GUESS", "LABEL", "SCORE", "TRUTH", "Losses", "Target", "losses"]

# Beside the inputs in one table; no column of a contract can be called so by accident.
SCORE = "@score"  # probability of the positive class, of the class that was answered, or the value
LABEL = "@label"
TRUTH = "@truth"
GUESS = "@guess"  # multiclass: the probability that was given to what came true

FLOOR = 1e-3  # of a probability in a logarithm: one row that was sure and wrong is not to outweigh a window
WILD = 3.0  # errors of a regression are cut off at so many times the reference's 99th percentile


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes:
        task: Its kind.
        positive: Of two classes, the one whose probability is the score.
        threshold: From which score the label is ``positive``.
        cap: Of a regression, where an error is cut off; infinite elsewhere.
    """

    task: Literal["binary", "multiclass", "regression"]
    positive: str | None = None
    threshold: float = 0.5
    cap: float = float("inf")

    @property
    def outputs(self) -> Sequence[str]:
        """Columns of the answer that have a distribution."""
        return (SCORE,) if self.task == "regression" else (SCORE, LABEL)

    @property
    def loss(self) -> str:
        """What ``Losses.loss`` is called."""
        return "absolute error" if self.task == "regression" else "log loss"


@dataclass(frozen=True)
class Losses:
    """Of rows whose truth is known; each array of shape (rows,).

    Attributes:
        loss: Log loss; of a regression the absolute error.
        residual: Truth less prediction; of several classes, wrong (0 or 1) less how probable that was.
        positive: Whether the positive class came true; of several classes, whether the answer did.
        score: The score.
    """

    loss: NDArray[np.float64]
    residual: NDArray[np.float64]
    positive: NDArray[np.bool_]
    score: NDArray[np.float64]


def losses(frame: pl.DataFrame, target: Target) -> Losses:
    """How wrong each row was.

    Args:
        frame: SCORE, TRUTH and, of several classes, LABEL and GUESS; no row without.
        target: What is predicted.
    """
    score = frame[SCORE].cast(pl.Float64).to_numpy()
    if target.task == "regression":
        residual = frame[TRUTH].cast(pl.Float64, strict=False).fill_null(0.0).to_numpy() - score
        residual = np.clip(residual, -target.cap, target.cap)
        return Losses(np.abs(residual), residual, residual > 0, score)
    truth = frame[TRUTH].cast(pl.String)
    if target.task == "binary":
        positive = (truth == target.positive).to_numpy()
        held = np.where(positive, score, 1 - score)
        residual = positive - score
    else:
        positive = (truth == frame[LABEL].cast(pl.String)).to_numpy()
        held = frame[GUESS].cast(pl.Float64).to_numpy()
        residual = (1 - score) - ~positive
        residual = -residual
    return Losses(-np.log(np.clip(held, FLOOR, 1.0)), residual, positive, score)
