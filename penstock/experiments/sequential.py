"""Tests that may be looked at after every unit, and stopped whenever one likes.

Two of them. ``always_valid`` is for any mean (shares included) and has an interval: the normal mixture of Robbins, as an
asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, Annals of Statistics 52, 2024) and as the mixture
SPRT of Johari, Koomen, Pekelis & Walsh (Operations Research 70, 2022): with the difference d of variance V and a mixture
N(0, τ²), E = √(V / (V + τ²)) · exp(d²·τ² / (2V·(V + τ²))), p = min(1, 1 / E). It needs a few hundred units to hold, hence
``LEAST``. ``exact_proportions`` holds from the first unit on, however rare the event: errors of a canary.

What both promise: if there is no difference, P(p ≤ alpha at any time, ever) ≤ alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import PenstockError
from penstock.experiments.counts import Proportion, Sample
from penstock.experiments.estimates import Alternative, Comparison, Estimate, cautious, estimate
from penstock.experiments.horizon import holm

__all__ = [
    "LEAST",
    "Segment",
    "always_valid",
    "always_valid_arms",
    "exact_proportions",
    "mixture_evidence",
    "mixture_reach",
    "tuning",
]

LEAST = 50  # units of each arm, before which nothing is said
Array = NDArray[np.float64]


def tuning(alpha: float) -> float:
    """τ² / V at the planned number of units that makes the interval shortest there (Waudby-Smith et al., appendix B.2)."""
    lean = -2 * math.log(alpha)
    return lean + math.log(lean) + 1


def mixture_evidence(z: Any, ratio: Any, alternative: Alternative = "two-sided") -> Any:
    """The logarithm of E, for numbers or for whole arrays of them.

    Args:
        z: Difference over its standard error.
        ratio: τ² / V.
        alternative: "greater" and "less" mix over effects of that sign only, and gain a factor of up to 2.
    """
    two_sided = 0.5 * (z * z * ratio / (1 + ratio) - np.log1p(ratio))
    if alternative == "two-sided":
        return two_sided
    from scipy.special import log_ndtr

    sign = 1.0 if alternative == "greater" else -1.0
    return two_sided + math.log(2) + log_ndtr(sign * z * np.sqrt(ratio / (1 + ratio)))


def mixture_reach(ratio: float, alpha: float, alternative: Alternative = "two-sided") -> float:
    """How many standard errors the interval reaches from the difference, the same ``ratio`` as above."""
    two_sided = math.sqrt((1 + 1 / ratio) * (math.log1p(ratio) - 2 * math.log(alpha)))
    if alternative == "two-sided":
        return two_sided
    low, high = -two_sided, two_sided + 1.0  # evidence rises with z
    for _ in range(60):
        middle = (low + high) / 2
        if mixture_evidence(middle, ratio, "greater") < -math.log(alpha):
            low = middle
        else:
            high = middle
    return high


def always_valid(
    control: Sample | Estimate,
    treatment: Sample | Estimate,
    *,
    planned: int,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    margin: float = 0.0,
) -> Comparison:
    """Treatment against control, now; ask again as often as you like.

    Args:
        control: Counts, or an estimate (a ratio, an adjusted mean).
        treatment: The same.
        planned: Units of both arms at which the interval is to be shortest; any number is valid, but it is chosen before
            the first look and then kept.
        alpha: Level over all looks together.
        alternative: Whether treatment is looked for on one side only; the interval then has one end.
        margin: The difference that is tested, 0 as a rule.
    """
    one, other = cautious(estimate(control), estimate(treatment))
    difference, variance = other.value - one.value, one.variance + other.variance
    p, low, high = 1.0, -math.inf, math.inf
    if min(one.count, other.count) >= LEAST and variance > 0:
        # V is σ² / h, h the harmonic number of units: τ² = σ² · tuning / h_planned stays the same whatever the shares.
        harmonic = one.count * other.count / (one.count + other.count)
        ratio = tuning(alpha) * harmonic / (max(2, planned) / 4)
        error = math.sqrt(variance)
        evidence = float(mixture_evidence((difference - margin) / error, ratio, alternative))
        p = math.exp(min(0.0, -evidence))
        reach = mixture_reach(ratio, alpha, alternative) * error
        low = -math.inf if alternative == "less" else difference - reach
        high = math.inf if alternative == "greater" else difference + reach
    return Comparison(
        one.value,
        other.value,
        difference,
        low,
        high,
        p,
        alpha,
        alternative,
        "always-valid normal mixture",
        one.count + other.count,
        one.count,
    )


def always_valid_arms(
    control: Sample | Estimate,
    treatments: Mapping[str, Sample | Estimate],
    *,
    planned: int,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
) -> dict[str, Comparison]:
    """Each treatment against control, as ``horizon.compare_arms``: Holm's p-values, Bonferroni's intervals.

    Args:
        control: As for ``always_valid``.
        treatments: The others.
        planned: Units of control and one treatment.
        alpha: Chance of any false find among all arms and all looks.
        alternative: As for ``always_valid``.
    """
    share = alpha / max(1, len(treatments))
    found = {
        arm: always_valid(control, sample, planned=planned, alpha=share, alternative=alternative)
        for arm, sample in treatments.items()
    }
    corrected = holm([comparison.p for comparison in found.values()])
    return {
        arm: replace(comparison, p=p, alpha=alpha)
        for (arm, comparison), p in zip(found.items(), corrected, strict=True)
    }


# --- exact, for proportions -------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """Counts from a time during which shares were the same.

    Attributes:
        control: Units and events.
        treatment: The same.
        share: Probability that a unit of these two arms came to treatment.
    """

    control: Proportion
    treatment: Proportion
    share: float = 0.5


def exact_proportions(
    segments: Sequence[Segment] | Segment, *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Comparison:
    """Whether an event is more (or less) frequent in treatment: exact, from the first unit on, for events however rare.

    For shares (θ_c, θ_t) of the event, a unit with outcome x in an arm counts q(x | arm) / Σ_arm P(arm)·q(x | arm). Where x does
    not depend on the arm this has mean 1, whatever the distribution of x, also one that changes from hour to hour: the product
    over units is a test martingale as soon as assignment is random with known probabilities. (The growth-optimal choice of
    Turner, Ly & Grünwald, "Generic E-variables for exact sequential k-sample tests", 2024, with arms drawn rather than in
    blocks.) E is its mean over a grid of (θ_c, θ_t), so it is a function of four counts, which routers can add up.

    The interval is Newcombe's of one look, for the eye; p alone is always valid.

    Args:
        segments: One for each time during which shares were the same.
        alpha: Level over all looks together.
        alternative: Whether the event is looked for to be more ("greater") or less frequent in treatment.

    Raises:
        PenstockError: A share that is not between 0 and 1.
    """
    from penstock.experiments.horizon import two_proportions

    given = [segments] if isinstance(segments, Segment) else list(segments)
    logs = sum((_log_products(segment, alternative) for segment in given), np.zeros(1))
    top = float(logs.max())
    evidence = top + math.log(float(np.exp(logs - top).mean()))
    control = sum((segment.control for segment in given), Proportion())
    treatment = sum((segment.treatment for segment in given), Proportion())
    shown = two_proportions(control, treatment, alpha=alpha, alternative=alternative, exact=False)
    return replace(shown, p=math.exp(min(0.0, -evidence)), method="exact mixture e-value")


@cache
def _grid(alternative: Alternative) -> tuple[Array, Array]:
    """θ_c and θ_t: log-odds of control from one in 160,000 up, and log odds ratios from 0.02 up. A finer grid finds no more."""
    base = np.linspace(-12.0, 12.0, 25)
    steps = np.geomspace(0.02, 4.0, 10)
    sides = {"greater": steps, "less": -steps, "two-sided": np.concatenate([-steps, steps])}[alternative]
    control = np.repeat(base, len(sides))
    return 1 / (1 + np.exp(-control)), 1 / (1 + np.exp(-(control + np.tile(sides, len(base)))))


def _log_products(segment: Segment, alternative: Alternative) -> Array:
    if not 0 < segment.share < 1:
        raise PenstockError(
            f"share: {segment.share}: treatment's part of the two arms lies between 0 and 1, both excluded"
        )
    of_control, of_treatment = _grid(alternative)
    pooled = (1 - segment.share) * of_control + segment.share * of_treatment
    products: Array = np.zeros_like(pooled)
    for sample, share in ((segment.control, of_control), (segment.treatment, of_treatment)):
        events = sample.successes * np.log(share / pooled)
        others = (sample.count - sample.successes) * np.log((1 - share) / (1 - pooled))
        products += events + others
    return products
