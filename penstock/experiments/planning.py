"""How many units an experiment takes, how long that lasts, and what it could see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from penstock.errors import PenstockError
from penstock.experiments.sequential import mixture_reach, tuning

__all__ = [
    "Plan",
    "detectable_mean",
    "detectable_proportion",
    "duration",
    "plan_means",
    "plan_proportions",
    "power_means",
    "power_proportions",
]

MOST_UNITS = 10**12


@dataclass(frozen=True)
class Plan:
    """What it takes.

    Attributes:
        metric: Whether a share or a mean is compared.
        baseline: Of control: the share, or 0 for a mean, whose level does not matter.
        effect: Least difference that is to be found, in the metric's units.
        deviation: Standard deviation of a unit in control.
        alpha: Level, over all comparisons together.
        power: Probability of finding the effect if it is there.
        units: Of each arm, control first, for one look at the end.
        total: Of all arms.
        sequential: Of all arms, at which the always-valid test has that power; it ends earlier as a rule.
    """

    metric: Literal["proportion", "mean"]
    baseline: float
    effect: float
    deviation: float
    alpha: float
    power: float
    units: tuple[int, ...]
    total: int
    sequential: int

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "units": list(self.units)}


def power_proportions(
    baseline: float, effect: float, control: float, treatment: float, *, alpha: float = 0.05
) -> float:
    """Of the two-sided pooled z-test; Fleiss, Levin & Paik, *Statistical Methods for Rates and Proportions*, chapter 4.

    Args:
        baseline: Share in control.
        effect: Difference in treatment; the two together lie within [0, 1].
        control: Units.
        treatment: Units.
        alpha: Level.
    """
    other = baseline + effect
    pooled = (control * baseline + treatment * other) / (control + treatment)
    null = math.sqrt(pooled * (1 - pooled) * (1 / control + 1 / treatment))
    actual = math.sqrt(baseline * (1 - baseline) / control + other * (1 - other) / treatment)
    return _beyond(_quantile(alpha / 2) * null, abs(effect), actual)


def power_means(
    effect: float, deviation: float, control: float, treatment: float, *, alpha: float = 0.05
) -> float:
    """Of the two-sided t-test, by the noncentral t distribution.

    Args:
        effect: Difference of means.
        deviation: Standard deviation of a unit, the same in both arms.
        control: Units, 2 or more.
        treatment: The same.
        alpha: Level.
    """
    from scipy.special import nctdtr, stdtrit

    freedom = control + treatment - 2
    shift = abs(effect) / (deviation * math.sqrt(1 / control + 1 / treatment))
    if shift > 30:  # where the noncentral distribution loses its digits, and nothing is left to lose
        return 1.0
    if freedom > 10_000:
        return _beyond(_quantile(alpha / 2), shift, 1.0)
    limit = float(stdtrit(freedom, 1 - alpha / 2))
    # On the wrong side of zero there is less than 1e-8 from 5 on, where SciPy's function becomes NaN at times.
    wrong = nctdtr(freedom, shift, -limit) if shift < 5 else 0.0
    return float(1 - nctdtr(freedom, shift, limit) + wrong)


def plan_proportions(
    baseline: float,
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    shares: Sequence[float] = (0.5, 0.5),
) -> Plan:
    """Units for a share of ``baseline`` that is to move by ``effect``.

    Args:
        baseline: Share in control, within (0, 1).
        effect: Least difference to be found, absolute: 0.01 is one point.
        alpha: Level, two-sided, over all comparisons with control.
        power: To be reached in each.
        shares: Of the arms, control first.

    Raises:
        PenstockError: Shares or effects that cannot be, or too small to be found at all.
    """
    if not 0 < baseline < 1 or not 0 <= baseline + effect <= 1:
        raise PenstockError(
            f"baseline {baseline} and effect {effect}: both shares lie between 0 and 1",
            hint="the effect is absolute: 0.01 for one point, not for one per cent of the baseline",
        )
    deviation = math.sqrt(baseline * (1 - baseline))
    other = baseline + effect
    mean = math.sqrt((baseline * (1 - baseline) + other * (1 - other)) / 2)
    return _plan(
        lambda c, t, level: power_proportions(baseline, effect, c, t, alpha=level),
        lambda c, t: abs(effect) / math.sqrt(mean**2 * (1 / c + 1 / t)),
        ("proportion", baseline, effect, deviation),
        alpha,
        power,
        shares,
    )


def plan_means(
    deviation: float,
    effect: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    shares: Sequence[float] = (0.5, 0.5),
) -> Plan:
    """Units for a mean that is to move by ``effect``; the same arguments as for proportions.

    Args:
        deviation: Standard deviation of a unit; after CUPED times √(1 − ρ²).
        effect: Least difference to be found.
        alpha: Level.
        power: To be reached.
        shares: Of the arms, control first.

    Raises:
        PenstockError: As ``plan_proportions``.
    """
    if not (deviation > 0 and math.isfinite(deviation)):
        raise PenstockError(f"deviation: {deviation} is not above 0")
    return _plan(
        lambda c, t, level: power_means(effect, deviation, c, t, alpha=level),
        lambda c, t: abs(effect) / (deviation * math.sqrt(1 / c + 1 / t)),
        ("mean", 0.0, effect, deviation),
        alpha,
        power,
        shares,
    )


def detectable_proportion(
    baseline: float, control: int, treatment: int, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Least rise of a share that so many units find with that power; NaN where there is none below 1."""
    return _least(
        lambda effect: power_proportions(baseline, effect, control, treatment, alpha=alpha),
        1 - baseline,
        power,
    )


def detectable_mean(
    deviation: float, control: int, treatment: int, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The same for a mean."""
    return _least(
        lambda effect: power_means(effect, deviation, control, treatment, alpha=alpha),
        100 * deviation,
        power,
    )


def duration(units: int, per_day: float, *, traffic: float = 1.0, whole_weeks: bool = True) -> int:
    """Days until so many new units have come.

    Args:
        units: Of all arms.
        per_day: New units a day; who comes again is no new unit.
        traffic: Share of them that takes part.
        whole_weeks: Round up to weeks: weekdays differ, and each should count alike.

    Raises:
        PenstockError: Nobody comes.
    """
    if not per_day * traffic > 0:
        raise PenstockError(f"per_day {per_day} and traffic {traffic}: both are above 0")
    days = math.ceil(units / (per_day * traffic))
    return -(-days // 7) * 7 if whole_weeks else days


# --- pieces -----------------------------------------------------------------------------------------


def _plan(
    reached: Callable[[float, float, float], float],
    signal: Callable[[float, float], float],
    about: tuple[Literal["proportion", "mean"], float, float, float],
    alpha: float,
    power: float,
    shares: Sequence[float],
) -> Plan:
    if len(shares) < 2 or min(shares) <= 0 or not 0 < alpha < 1 or not alpha < power < 1:
        raise PenstockError(
            f"shares {list(shares)}, alpha {alpha}, power {power}: two or more shares above 0, and 0 < alpha < power < 1"
        )
    parts = [share / sum(shares) for share in shares]
    one, other = parts[0], min(parts[1:])
    level = alpha / (len(parts) - 1)
    total = _first(lambda n: reached(n * one, n * other, level) >= power, about[2])
    # The always-valid test at its best number of units; that it may end before only adds to its power.
    reach = mixture_reach(tuning(level), level)
    sequential = _first(lambda n: _beyond(reach, signal(n * one, n * other), 1.0) >= power, about[2])
    units = tuple(math.ceil(total * part) for part in parts)
    return Plan(about[0], about[1], about[2], about[3], alpha, power, units, sum(units), sequential)


def _first(enough: Callable[[int], bool], effect: float) -> int:
    """The least number that is enough."""
    high = 8
    while not enough(high):
        high *= 2
        if high > MOST_UNITS:
            raise PenstockError(
                f"effect: {effect} would take more than {MOST_UNITS:.0e} units", hint="look for a larger one"
            )
    low = high // 2 if high > 8 else 4
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _least(reached: Callable[[float], float], most: float, power: float) -> float:
    if reached(most) < power:
        return math.nan
    low, high = 0.0, most
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    return high


def _beyond(limit: float, shift: float, error: float) -> float:
    """P(|N(shift, error²)| > limit)."""
    if not error:
        return float(shift > limit)
    root = error * math.sqrt(2)
    return 0.5 * (math.erfc((limit - shift) / root) + math.erfc((limit + shift) / root))


def _quantile(upper: float) -> float:
    from scipy.special import ndtri

    return float(-ndtri(upper))
