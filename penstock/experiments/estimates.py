"""Means, ratios and adjusted means with their variances: what tests and intervals are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from penstock.experiments.counts import Joint, Proportion, Sample

__all__ = ["Alternative", "Comparison", "Estimate", "adjusted", "cautious", "estimate", "ratio", "stratified"]

Alternative = Literal["two-sided", "greater", "less"]
UNEQUAL = 1.5  # times as many units in one arm as in the other


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: It; NaN without units.
        variance: Of the estimate, not of a unit; NaN where there are too few units.
        count: Units behind it.
    """

    value: float
    variance: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """Treatment against control.

    Attributes:
        control: Its estimate.
        treatment: The other's.
        difference: Treatment − control.
        low: Lower end of the difference's interval of confidence 1 − alpha; −∞ where it has none.
        high: Upper end; ∞ where it has none.
        p: p-value of there being no difference (or none in the direction of ``alternative``).
        alpha: Level.
        alternative: In which direction one looks.
        method: Name of the test.
        units: Of control and treatment together.
        control_units: Of control.
    """

    control: float
    treatment: float
    difference: float
    low: float
    high: float
    p: float
    alpha: float
    alternative: Alternative
    method: str
    units: int
    control_units: int

    @property
    def significant(self) -> bool:
        """Whether chance alone does not explain it."""
        return self.p <= self.alpha

    def dump(self) -> dict[str, Any]:
        """As JSON has it: what is NaN or infinite is null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def estimate(sample: Sample | Estimate) -> Estimate:
    """Of the mean."""
    if isinstance(sample, Estimate):
        return sample
    known = sample.count > (0 if isinstance(sample, Proportion) else 1)
    return Estimate(sample.mean, sample.variance / sample.count if known else math.nan, sample.count)


def ratio(joint: Joint) -> Estimate:
    """Σy / Σx, for a metric of a smaller thing than the unit: clicks per page view where users are assigned.

    Delta method (Deng, Knoblich & Lu, KDD 2018): Var = (s²_y − 2R·s_xy + R²·s²_x) / (n·x̄²).
    """
    if joint.count < 2 or not joint.x:
        return Estimate(math.nan, math.nan, joint.count)
    found = joint.y / joint.x
    of_y, of_x, both = joint.covariance
    mean = joint.x / joint.count
    variance = max(0.0, of_y - 2 * found * both + found * found * of_x) / (joint.count * mean * mean)
    return Estimate(found, variance, joint.count)


def adjusted(*arms: Joint) -> list[Estimate]:
    """Means of y, adjusted for what was known of the units before (CUPED; Deng, Xu, Kohavi & Walker, WSDM 2013).

    ȳ − θ·(x̄ − x̄ of all arms), θ = s_xy / s²_x pooled within arms: the variance falls by the squared correlation. x must not
    be touched by the treatment: it was measured before the assignment.
    """
    weights = [max(0, arm.count - 1) for arm in arms]
    spread = sum(w * arm.covariance[1] for w, arm in zip(weights, arms, strict=True) if w)
    both = sum(w * arm.covariance[2] for w, arm in zip(weights, arms, strict=True) if w)
    theta = both / spread if spread else 0.0
    units = sum(arm.count for arm in arms)
    center = sum(arm.x for arm in arms) / units if units else math.nan
    found = []
    for arm in arms:
        y, x = arm.means
        of_y, of_x, together = arm.covariance
        variance = max(0.0, of_y - 2 * theta * together + theta * theta * of_x)
        known = arm.count > 1
        found.append(
            Estimate(y - theta * (x - center), variance / arm.count if known else math.nan, arm.count)
        )
    return found


def cautious(one: Estimate, other: Estimate) -> tuple[Estimate, Estimate]:
    """Where one arm has far fewer units, they are not taken to vary less than those of the other arm.

    Of a skewed metric few units rarely include a large value: then both their mean and their variance come out too small, and a
    difference seems certain that is none. In arms of about equal size this cancels out.
    """
    if not min(one.count, other.count) * UNEQUAL < max(one.count, other.count):
        return one, other
    few, many = sorted((one, other), key=lambda arm: arm.count)
    if few.count and few.variance * few.count < many.variance * many.count:
        few = replace(few, variance=many.variance * many.count / few.count)
    return (few, many) if one.count < other.count else (many, few)


def stratified(pairs: Sequence[tuple[Sample | Estimate, Sample | Estimate]]) -> tuple[Estimate, Estimate]:
    """Control and treatment over times of different shares, such as the steps of a ramp.

    Pooled counts would compare the hours in which control had most users with those in which treatment had (Simpson's
    paradox). Instead each time's means count with the same weight in both, 1 / (1/n_c + 1/n_t). The counts of the result are
    effective ones: of two arms of equal size that know as much.
    """
    known = [cautious(estimate(one), estimate(other)) for one, other in pairs]
    known = [
        (one, other)
        for one, other in known
        if one.count and other.count and not math.isnan(one.variance + other.variance)
    ]
    weights = [one.count * other.count / (one.count + other.count) for one, other in known]
    total = sum(weights)
    if not total:
        return Estimate(math.nan, math.nan, 0), Estimate(math.nan, math.nan, 0)

    def arm(parts: Sequence[Estimate]) -> Estimate:
        shares = [weight / total for weight in weights]
        return Estimate(
            sum(w * part.value for w, part in zip(shares, parts, strict=True)),
            sum(w * w * part.variance for w, part in zip(shares, parts, strict=True)),
            round(2 * total),
        )

    return arm([one for one, _ in known]), arm([other for _, other in known])
