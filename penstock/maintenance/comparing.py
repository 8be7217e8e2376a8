"""Champion against challenger, on the same rows: the hold-out, and what has come true of late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.config.maintenance import Comparison

__all__ = ["Scores", "Verdict", "compare", "delong"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Two models on the same rows.

    Attributes:
        positive: Of two classes, whether the positive one came true, shape (rows,); None for other tasks.
        champion: Its scores, shape (rows,); for other tasks its losses.
        challenger: Likewise.
    """

    positive: NDArray[np.bool_] | None
    champion: Array
    challenger: Array

    @property
    def usable(self) -> bool:
        """Whether there is anything to compare."""
        if self.positive is None:
            return len(self.champion) > 1
        return 1 < int(self.positive.sum()) < len(self.positive) - 1

    def gain(self) -> tuple[float, float]:
        """How much better the challenger is, and the standard error of that: of the AUC, else of the mean loss."""
        if self.positive is not None:
            return delong(self)
        saved = self.champion - self.challenger
        return float(saved.mean()), float(saved.std(ddof=1) / np.sqrt(len(saved)))


@dataclass(frozen=True)
class Verdict:
    """What is to become of the challenger.

    Attributes:
        promote: Whether it takes over.
        why: In words.
        gain: Of the AUC (else of the loss) on recent truth, None without enough of it.
        p_value: That there is none, one-sided.
        holdout_gain: The same on the hold-out.
    """

    promote: bool
    why: str
    gain: float | None
    p_value: float | None
    holdout_gain: float


def delong(scores: Scores) -> tuple[float, float]:
    """How much greater the challenger's AUC is, and the standard error of that (DeLong, DeLong and Clarke-Pearson, 1988).

    Computed from midranks (Sun and Xu, 2014).
    """
    from scipy.stats import rankdata

    assert scores.positive is not None
    at = scores.positive
    m, n = int(at.sum()), int((~at).sum())
    tens, ones, areas = [], [], []
    for values in (scores.champion, scores.challenger):
        whole = rankdata(values)
        over = (whole[at] - rankdata(values[at])) / n  # share of negatives below each positive
        under = 1 - (whole[~at] - rankdata(values[~at])) / m
        tens.append(over)
        ones.append(under)
        areas.append(over.mean())
    spread = np.cov(np.stack(tens)) / m + np.cov(np.stack(ones)) / n
    variance = spread[0, 0] + spread[1, 1] - 2 * spread[0, 1]
    return float(areas[1] - areas[0]), float(np.sqrt(max(variance, 0.0)))


def compare(holdout: Scores, recent: Scores | None, policy: Comparison) -> Verdict:
    """Promote or keep.

    The challenger must be better on recent truth beyond chance, and must not have lost more than is allowed on the hold-out.
    Without enough recent truth, it must be better on the hold-out beyond chance. In doubt the champion stays: it is known.

    Args:
        holdout: Rows that neither has learnt from.
        recent: Rows with recent truth that neither has learnt from; None without any.
        policy: As declared.
    """
    before, doubt = holdout.gain()
    enough = recent is not None and len(recent.champion) >= policy.min_truths and recent.usable
    if recent is None or not enough:
        p = _chance(before, doubt)
        why = f"too little recent truth; on the hold-out it is better by {before:+.4g} (p = {p:.2g})"
        return Verdict(before > policy.min_gain and p < policy.alpha, why, None, p, before)
    gain, error = recent.gain()
    p = _chance(gain, error)
    better = gain > policy.min_gain and p < policy.alpha
    why = f"better by {gain:+.4g} on recent truth (p = {p:.2g}), by {before:+.4g} on the hold-out"
    return Verdict(better and before >= -policy.max_loss, why, gain, p, before)


def _chance(gain: float, error: float) -> float:
    """Probability of such a gain, or a greater one, where there is none."""
    from scipy.stats import norm

    return float(norm.sf(gain / error)) if error > 0 else 1.0
