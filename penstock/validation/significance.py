"""Whether the best is better than the second best, or only luckier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Two candidates on the same folds.

    Attributes:
        best: Name of the one in front.
        second: Name of the other.
        difference: Mean over the folds of best − second, in the metric's units.
        t: Corrected resampled t statistic; NaN where the folds do not vary.
        p: Two-sided p-value.
        verdict: What it means, in words.
    """

    best: str
    second: str
    difference: float
    t: float
    p: float
    verdict: str

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compare(
    best: tuple[str, Sequence[float]],
    second: tuple[str, Sequence[float]],
    *,
    test_to_train: float,
    confidence: float,
) -> Comparison:
    """Corrected resampled t-test (Nadeau & Bengio, Machine Learning 52, 2003, equation 9).

    t = mean(d) / √((1/J + n_test/n_train) · s²(d)) with J − 1 degrees of freedom: the plain t-test takes the
    folds for independent, though they share training rows, and finds differences that are not there.

    Args:
        best: Name and metric per fold.
        second: The same, on the same folds.
        test_to_train: n_test / n_train of a fold.
        confidence: 1 − the level below which a p-value counts.
    """
    differences = np.asarray(best[1], dtype=np.float64) - np.asarray(second[1], dtype=np.float64)
    differences = differences[np.isfinite(differences)]
    mean = float(differences.mean()) if len(differences) else math.nan
    t, p = _t_test(differences, test_to_train)
    return Comparison(best[0], second[0], mean, t, p, _verdict(best[0], second[0], mean, p, confidence))


def _t_test(differences: np.ndarray[Any, np.dtype[np.float64]], test_to_train: float) -> tuple[float, float]:
    folds = len(differences)
    if folds < 2:
        return math.nan, math.nan
    variance = (1 / folds + test_to_train) * float(differences.var(ddof=1))
    if variance == 0:
        return math.nan, 1.0 if differences.mean() == 0 else 0.0
    from scipy.special import stdtr

    t = float(differences.mean()) / math.sqrt(variance)
    return t, float(2 * stdtr(folds - 1, -abs(t)))


def _verdict(best: str, second: str, difference: float, p: float, confidence: float) -> str:
    if math.isnan(p):
        return f"{best} and {second} cannot be told apart: too few folds"
    level = 1 - confidence
    if p < level:
        return f"{best} is better than {second} beyond chance (p = {p:.3g} < {level:.3g})"
    return (
        f"{best} leads {second} by {abs(difference):.3g}, which chance alone may explain (p = {p:.3g}): "
        "prefer the simpler one"
    )
