"""What is kept of an arm: counts and sums that add up, whoever counted them and in whichever order.

Nothing else is needed to compare arms later, so a store keeps a few numbers for each arm and metric, and raises them in place
(``UPDATE … SET total = total + ?``, ``HINCRBYFLOAT``). Integers add up exactly; sums of floats to rounding. Values far from
zero compared with their spread (times since 1970, say) should be counted from some fixed origin: sums of squares lose about
2·log₁₀(mean / deviation) of a float's 16 digits.

One unit, one value: units are what is assigned (users, as a rule), not requests. Whoever counts each request of a user as one
more trial believes in more evidence than there is; see ``ratios`` in ``horizon`` for metrics of requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import PenstockError

__all__ = ["Joint", "Moments", "Proportion", "Sample", "merged"]


@dataclass(frozen=True)
class Proportion:
    """Units, and how many of them did it.

    Attributes:
        count: Units.
        successes: Those of them that converted, failed, or whatever is counted.
    """

    count: int = 0
    successes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.count:
            raise PenstockError(f"counts: {self.successes} successes of {self.count} units cannot be")

    def __add__(self, other: Proportion) -> Proportion:
        return Proportion(self.count + other.count, self.successes + other.successes)

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """From one true or false for each unit."""
        array = np.asarray(values, dtype=bool)
        return cls(int(array.size), int(array.sum()))

    @property
    def mean(self) -> float:
        """Their share; NaN without units."""
        return self.successes / self.count if self.count else math.nan

    @property
    def variance(self) -> float:
        """Of one unit. Two imagined units, one of each kind, keep it above zero where all did the same."""
        share = (self.successes + 1) / (self.count + 2)
        return share * (1 - share)

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave."""
        return cls(int(state["count"]), int(state["successes"]))


@dataclass(frozen=True)
class Moments:
    """A number of each unit.

    Attributes:
        count: Units.
        total: Sum of their values.
        squares: Sum of the squares.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        _refuse(self.count, self.total, self.squares)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """From one value for each unit."""
        array = np.asarray(values, dtype=np.float64)
        return cls(int(array.size), float(array.sum()), float((array * array).sum()))

    @property
    def mean(self) -> float:
        """NaN without units."""
        return self.total / self.count if self.count else math.nan

    @property
    def variance(self) -> float:
        """Of one unit, unbiased; NaN with fewer than two."""
        return _spread(self.count, self.total, self.total, self.squares)

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave."""
        return cls(int(state["count"]), float(state["total"]), float(state["squares"]))


@dataclass(frozen=True)
class Joint:
    """Two numbers of each unit: a ratio's numerator and denominator, or a metric and what was known before.

    Attributes:
        count: Units.
        y: Sum of the first, the metric or numerator.
        x: Sum of the second, the covariate or denominator.
        yy: Sum of y².
        xx: Sum of x².
        xy: Sum of x·y.
    """

    count: int = 0
    y: float = 0.0
    x: float = 0.0
    yy: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def __post_init__(self) -> None:
        _refuse(self.count, self.y, self.yy)
        _refuse(self.count, self.x, self.xx)
        if not math.isfinite(self.xy):
            raise PenstockError(f"counts: a sum of products is {self.xy}", hint="leave such values out")

    def __add__(self, other: Joint) -> Joint:
        return Joint(
            self.count + other.count,
            self.y + other.y,
            self.x + other.x,
            self.yy + other.yy,
            self.xx + other.xx,
            self.xy + other.xy,
        )

    @classmethod
    def of(cls, y: ArrayLike, x: ArrayLike) -> Self:
        """From two values for each unit; both of the same length."""
        first, second = np.asarray(y, np.float64), np.asarray(x, np.float64)
        if first.shape != second.shape:
            raise PenstockError(f"counts: {first.size} values of y for {second.size} of x")
        return cls(
            int(first.size),
            float(first.sum()),
            float(second.sum()),
            float((first * first).sum()),
            float((second * second).sum()),
            float((first * second).sum()),
        )

    @property
    def means(self) -> tuple[float, float]:
        """Of y and x; NaN without units."""
        return (self.y / self.count, self.x / self.count) if self.count else (math.nan, math.nan)

    @property
    def covariance(self) -> tuple[float, float, float]:
        """Variance of y, variance of x, covariance; unbiased, NaN with fewer than two units."""
        return (
            _spread(self.count, self.y, self.y, self.yy),
            _spread(self.count, self.x, self.x, self.xx),
            _spread(self.count, self.x, self.y, self.xy, signed=True),
        )

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave."""
        return cls(int(state["count"]), *(float(state[key]) for key in ("y", "x", "yy", "xx", "xy")))


Sample = Proportion | Moments  # what has a count, a mean and a variance
Kept = TypeVar("Kept", Proportion, Moments, Joint)


def merged(kind: type[Kept], parts: Iterable[Kept]) -> Kept:
    """All of them in one; nothing at all gives an empty one."""
    total = kind()
    for part in parts:
        total = total + part
    return total


def _refuse(count: int, total: float, squares: float) -> None:
    """Sums that no values have."""
    if count < 0 or not (math.isfinite(total) and math.isfinite(squares)):
        raise PenstockError(
            f"counts: {count} units with sum {total} and sum of squares {squares} cannot be",
            hint="values that are NaN or infinite are to be left out, or counted as failures",
        )
    # Cauchy–Schwarz, with room for rounding.
    if squares * count < total * total * (1 - 1e-9) - 1e-300:
        raise PenstockError(
            f"counts: a sum of squares of {squares} is too small for {count} units of sum {total}"
        )


def _spread(count: int, one: float, other: float, products: float, *, signed: bool = False) -> float:
    if count < 2:
        return math.nan
    found = (products - one * (other / count)) / (count - 1)
    return found if signed else max(0.0, found)
