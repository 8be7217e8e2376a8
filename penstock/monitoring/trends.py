"""What no single window shows: slow ramps, and changes of the error that add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.config.monitoring import Trends
from penstock.monitoring.findings import Finding

__all__ = ["Past", "adwin", "condensed", "cusum", "mann_kendall", "theil_sen", "trend_findings"]

Array = NDArray[np.float64]
LEAST = 8  # windows to a trend
POINTS = 200  # of one window's error stream
BASELINE = 8  # windows that a sum of deviations starts from


@dataclass(frozen=True)
class Past:
    """What is kept of a window that was judged.

    Attributes:
        rows: How many.
        means: Of each column, in standard deviations of the reference.
        loss: Mean, None without truth.
        errors: Means of the loss over stretches of rows, in the order of time.
        truths: Rows whose truth is known.
    """

    rows: int
    means: Mapping[str, float]
    loss: float | None = None
    errors: Sequence[float] = field(default_factory=tuple)
    truths: int = 0


def condensed(errors: Sequence[float], most: int = POINTS) -> tuple[float, ...]:
    """An error stream of at most so many points, each the mean of as many others."""
    step = -(-len(errors) // most) if errors else 1
    return tuple(float(np.mean(errors[at : at + step])) for at in range(0, len(errors), step))


def mann_kendall(values: Array) -> float:
    """The p value of Mann and Kendall's test that a series goes neither up nor down; ties are allowed for.

    Args:
        values: In the order of time, shape (n,).
    """
    n = len(values)
    signs = np.sign(values[None, :] - values[:, None])
    statistic = float(signs[np.triu_indices(n, 1)].sum())
    ties = np.unique(values, return_counts=True)[1].astype(float)
    variance = (n * (n - 1) * (2 * n + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()) / 18
    if variance <= 0 or statistic == 0:
        return 1.0
    return math.erfc((abs(statistic) - 1) / math.sqrt(2 * variance))


def theil_sen(values: Array) -> float:
    """Median slope between any two of a series: what one step changes."""
    left, right = np.triu_indices(len(values), 1)
    return float(np.median((values[right] - values[left]) / (right - left)))


def cusum(values: Array, errors: Array, *, slack: float) -> float:
    """The greatest upward cumulative sum of deviations, in standard errors (Page, 1954).

    Args:
        values: Means of windows in the order of time, shape (n,); the first ``BASELINE`` say what is usual.
        errors: Their standard errors, likewise.
        slack: As much as one window may be off.
    """
    usual = float(np.average(values[:BASELINE], weights=1 / errors[:BASELINE] ** 2))
    doubt = 1 / (1 / errors[:BASELINE] ** 2).sum()
    total = 0.0
    for value, error in zip(values[BASELINE:], errors[BASELINE:], strict=True):
        total = max(0.0, total + (value - usual) / math.sqrt(error**2 + doubt) - slack)
    return total


def adwin(errors: Sequence[Sequence[float]], *, delta: float, scale: float) -> float | None:
    """Whether the mean error rose in the last window, by adaptive windowing (Bifet and Gavaldà, 2007).

    river's implementation: its exponential histogram is well tried, and needs 0.3 µs a value. It is run anew over the
    history each time, which costs a millisecond and leaves no state to keep or to lose.

    Args:
        errors: Of each window in the order of time.
        delta: Confidence.
        scale: The greatest error, as the bound is for values between 0 and 1.

    Returns:
        The mean it fell back to, or None.
    """
    from river.drift import ADWIN

    detector = ADWIN(delta=delta, clock=1)  # type: ignore[no-untyped-call]
    rose: float | None = None
    for number, window in enumerate(errors):
        for error in window:
            before = detector.estimation
            detector.update(min(1.0, error / scale))  # type: ignore[no-untyped-call]
            if detector.drift_detected and detector.estimation > before and number == len(errors) - 1:
                rose = float(detector.estimation * scale)
    return rose


def trend_findings(past: Sequence[Past], settings: Trends, *, spread: float, scale: float) -> list[Finding]:
    """What the last windows show together.

    Args:
        past: Windows in the order of time, the one that is judged last.
        settings: As declared.
        spread: Standard deviation of the loss of one row in the reference.
        scale: The greatest loss that a row can have.
    """
    recent = list(past[-settings.windows :])
    found = _ramps(recent, settings) if len(recent) >= LEAST else []
    known = [one for one in recent if one.loss is not None and one.truths]
    if len(known) > BASELINE and recent[-1].loss is not None:
        found += _rising(known, settings, spread)
    if recent and recent[-1].errors:
        rose = adwin([one.errors for one in known], delta=settings.adwin_delta, scale=scale)
        if rose is not None:
            words = f"concept drift: the error has risen to {rose:.3g} and stays there (ADWIN)"
            found.append(
                Finding(
                    family="concept", subject="error", severity="warning", score=1.5, words=words, value=rose
                )
            )
    return found


def _ramps(recent: Sequence[Past], settings: Trends) -> list[Finding]:
    names = [name for name in recent[-1].means if all(name in one.means for one in recent)]
    found = []
    for name in names:
        values = np.array([one.means[name] for one in recent])
        p = mann_kendall(values)
        moved = theil_sen(values) * (len(values) - 1)
        if p * len(names) < settings.alpha and abs(moved) >= settings.min_shift:
            column = name.partition("#")[0]
            words = f"`{column}` moves steadily: by {moved:+.2f} σ over {len(values)} windows (Mann and Kendall, p = {p * len(names):.1g})"
            score = math.log(p * len(names) + 1e-12) / math.log(settings.alpha)
            found.append(
                Finding(
                    family="trend", subject=column, severity="warning", score=score, words=words, value=moved
                )
            )
    return found


def _rising(known: Sequence[Past], settings: Trends, spread: float) -> list[Finding]:
    values = np.array([one.loss for one in known], dtype=float)
    errors = spread / np.sqrt(np.array([one.truths for one in known], dtype=float))
    total = cusum(values, errors, slack=settings.cusum_slack)
    if total <= settings.cusum_limit:
        return []
    usual = float(values[:BASELINE].mean())
    words = f"concept drift: the error creeps up, {usual:.3g} → {values[-1]:.3g} (CUSUM {total:.1f}, limit {settings.cusum_limit:g})"
    score = total / settings.cusum_limit
    return [
        Finding(
            family="concept",
            subject="loss",
            severity="warning",
            score=score,
            words=words,
            value=float(values[-1]),
            expected=usual,
        )
    ]
