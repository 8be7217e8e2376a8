"""Tests for one look, at the planned number of units. Who looks earlier and stops when it pleases needs ``sequential``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from penstock.errors import PenstockError
from penstock.experiments.counts import Joint, Moments, Proportion, Sample
from penstock.experiments.estimates import Alternative, Comparison, Estimate, adjusted, estimate, ratio

__all__ = [
    "compare",
    "compare_adjusted",
    "compare_arms",
    "compare_estimates",
    "compare_ratios",
    "holm",
    "two_proportions",
    "welch",
]

FEW = 5  # expected units in a cell, below which z is not normal enough


def compare(
    control: Sample, treatment: Sample, *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Comparison:
    """The test that fits: two proportions, or Welch's t for means.

    Raises:
        PenstockError: One is a proportion, the other a mean.
    """
    if isinstance(control, Proportion) and isinstance(treatment, Proportion):
        return two_proportions(control, treatment, alpha=alpha, alternative=alternative)
    if isinstance(control, Moments) and isinstance(treatment, Moments):
        return welch(control, treatment, alpha=alpha, alternative=alternative)
    raise PenstockError("a proportion is compared with a proportion, a mean with a mean")


def two_proportions(
    control: Proportion,
    treatment: Proportion,
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    exact: bool | None = None,
) -> Comparison:
    """z-test with the pooled share, or Fisher's exact one; Newcombe's interval (Statistics in Medicine 17, 1998, method 10).

    Args:
        control: Units and successes.
        treatment: The same.
        alpha: Level.
        alternative: Whether treatment is looked for on one side of control only.
        exact: Fisher's test; None takes it where a cell expects fewer than 5 units.
    """
    both = control + treatment
    if not control.count or not treatment.count:
        return _unknown(estimate(control), estimate(treatment), alpha, alternative, "two-proportion z")
    pooled = both.successes / both.count
    least = min(control.count, treatment.count) * min(pooled, 1 - pooled)
    if exact or (exact is None and least < FEW):
        p, method = _fisher(control, treatment, alternative), "Fisher's exact test"
    else:
        error = math.sqrt(pooled * (1 - pooled) * (1 / control.count + 1 / treatment.count))
        p = _tail((treatment.mean - control.mean) / error if error else 0.0, alternative)
        method = "two-proportion z"
    quantile = _quantile(alpha, alternative)
    low, high = _newcombe(control, treatment, quantile)
    return _compared(estimate(control), estimate(treatment), (low, high), p, alpha, alternative, method)


def welch(
    control: Moments, treatment: Moments, *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Comparison:
    """Welch's t-test, for means of arms that need not vary alike; degrees of freedom of Welch & Satterthwaite."""
    one, other = estimate(control), estimate(treatment)
    variance = one.variance + other.variance
    if math.isnan(variance):
        return _unknown(one, other, alpha, alternative, "Welch's t")
    if not variance:
        p = 1.0 if one.value == other.value else _tail(math.inf * (other.value - one.value), alternative)
        ends = (other.value - one.value,) * 2
        return _compared(one, other, ends, p, alpha, alternative, "Welch's t")
    from scipy.special import stdtr, stdtrit

    freedom = variance**2 / (one.variance**2 / (one.count - 1) + other.variance**2 / (other.count - 1))
    error = math.sqrt(variance)
    difference = other.value - one.value
    t = difference / error
    tails = {
        "two-sided": 2 * stdtr(freedom, -abs(t)),
        "greater": stdtr(freedom, -t),
        "less": stdtr(freedom, t),
    }
    reach = error * float(stdtrit(freedom, 1 - alpha / (2 if alternative == "two-sided" else 1)))
    ends = (difference - reach, difference + reach)
    return _compared(one, other, ends, float(tails[alternative]), alpha, alternative, "Welch's t")


def compare_ratios(
    control: Joint, treatment: Joint, *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Comparison:
    """Ratios of sums, as clicks per view where users are assigned: delta method, normal."""
    return _normal(ratio(control), ratio(treatment), alpha, alternative, "ratio by delta method")


def compare_adjusted(
    control: Joint, treatment: Joint, *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Comparison:
    """Means adjusted for a covariate from before the experiment (CUPED), normal."""
    one, other = adjusted(control, treatment)
    return _normal(one, other, alpha, alternative, "mean adjusted by CUPED")


def compare_arms(
    control: Sample,
    treatments: Mapping[str, Sample],
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> dict[str, Comparison]:
    """Each treatment against control. The chance of any false find among them is at most alpha.

    p-values are Holm's; intervals are Bonferroni's, hence hold together, and are a little wider than the p-values say.
    """
    share = alpha / max(1, len(treatments))
    found = {
        arm: compare(control, sample, alpha=share, alternative=alternative)
        for arm, sample in treatments.items()
    }
    return _together(found, alpha)


def compare_estimates(
    control: Estimate,
    treatments: Mapping[str, Estimate],
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    method: str = "z",
) -> dict[str, Comparison]:
    """The same for ratios and adjusted means: normal tests of estimates."""
    share = alpha / max(1, len(treatments))
    return _together(
        {arm: _normal(control, item, share, alternative, method) for arm, item in treatments.items()}, alpha
    )


def holm(p: Sequence[float]) -> list[float]:
    """p-values that may be read together (Holm, Scandinavian Journal of Statistics 6, 1979), in the given order."""
    corrected = [1.0] * len(p)
    worst = 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        worst = max(worst, min(1.0, (len(p) - rank) * p[at]))
        corrected[at] = worst
    return corrected


# --- pieces -----------------------------------------------------------------------------------------


def _together(found: Mapping[str, Comparison], alpha: float) -> dict[str, Comparison]:
    """Holm's p-values in place of each comparison's own."""
    corrected = holm([comparison.p for comparison in found.values()])
    return {
        arm: replace(comparison, p=p, alpha=alpha)
        for (arm, comparison), p in zip(found.items(), corrected, strict=True)
    }


def _normal(
    one: Estimate, other: Estimate, alpha: float, alternative: Alternative, method: str
) -> Comparison:
    variance = one.variance + other.variance
    if math.isnan(variance):
        return _unknown(one, other, alpha, alternative, method)
    difference, error = other.value - one.value, math.sqrt(variance)
    z = difference / error if error else (math.inf * difference if difference else 0.0)
    reach = _quantile(alpha, alternative) * error
    ends = (difference - reach, difference + reach)
    return _compared(one, other, ends, _tail(z, alternative), alpha, alternative, method)


def _compared(
    one: Estimate,
    other: Estimate,
    ends: tuple[float, float],
    p: float,
    alpha: float,
    alternative: Alternative,
    method: str,
) -> Comparison:
    low = -math.inf if alternative == "less" else ends[0]
    high = math.inf if alternative == "greater" else ends[1]
    return Comparison(
        one.value,
        other.value,
        other.value - one.value,
        low,
        high,
        min(1.0, p),
        alpha,
        alternative,
        method,
        one.count + other.count,
        one.count,
    )


def _unknown(
    one: Estimate, other: Estimate, alpha: float, alternative: Alternative, method: str
) -> Comparison:
    """Too few units to say anything."""
    return _compared(one, other, (-math.inf, math.inf), 1.0, alpha, alternative, method)


def _tail(z: float, alternative: Alternative) -> float:
    if alternative == "two-sided":
        return math.erfc(abs(z) / math.sqrt(2))
    return 0.5 * math.erfc((z if alternative == "greater" else -z) / math.sqrt(2))


def _quantile(alpha: float, alternative: Alternative) -> float:
    from scipy.special import ndtri

    return float(ndtri(1 - alpha / (2 if alternative == "two-sided" else 1)))


def _fisher(control: Proportion, treatment: Proportion, alternative: Alternative) -> float:
    from scipy.stats import fisher_exact

    table = [
        [treatment.successes, treatment.count - treatment.successes],
        [control.successes, control.count - control.successes],
    ]
    return float(fisher_exact(table, alternative=alternative).pvalue)


def _newcombe(control: Proportion, treatment: Proportion, quantile: float) -> tuple[float, float]:
    """The two shares' Wilson intervals, put together."""
    one, other = _wilson(control, quantile), _wilson(treatment, quantile)
    difference = treatment.mean - control.mean
    return (
        difference - math.hypot(treatment.mean - other[0], one[1] - control.mean),
        difference + math.hypot(other[1] - treatment.mean, control.mean - one[0]),
    )


def _wilson(sample: Proportion, quantile: float) -> tuple[float, float]:
    n, share, square = sample.count, sample.mean, quantile * quantile
    center = (share + square / (2 * n)) / (1 + square / n)
    reach = quantile * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, center - reach), min(1.0, center + reach)
