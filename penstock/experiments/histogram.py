"""A histogram of latencies that routers can add up, with quantiles of a known relative accuracy.

Buckets grow by a constant factor, as in DDSketch (Masson, Rim & Lee, VLDB 2019): any quantile is off by at most ``accuracy`` of
itself, whatever the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from penstock.errors import PenstockError

__all__ = ["Histogram"]

LEAST, MOST = (
    1e-3,
    1e8,
)  # milliseconds; what lies beyond counts as one of these, so buckets are at most 1,270 at 1 %


class Histogram:
    """Counts of positive numbers.

    Args:
        accuracy: Of quantiles, relative; histograms that are added up have the same.
        counts: For each bucket that is not empty.
    """

    def __init__(self, accuracy: float = 0.01, counts: Mapping[int, int] | None = None) -> None:
        if not 0 < accuracy < 1:
            raise PenstockError(f"accuracy: {accuracy} does not lie between 0 and 1")
        self.accuracy = accuracy
        self.counts: dict[int, int] = dict(counts or {})
        self._factor = 1 / math.log((1 + accuracy) / (1 - accuracy))

    def add(self, value: float, times: int = 1) -> None:
        """Count a value. NaN is an error of the caller's; zero and less count as the least."""
        bucket = self._bucket(value)
        self.counts[bucket] = self.counts.get(bucket, 0) + times

    def _bucket(self, value: float) -> int:
        return math.ceil(math.log(min(MOST, max(LEAST, value))) * self._factor)

    def _value(self, bucket: int) -> float:
        """In the middle of a bucket, relatively."""
        return math.exp(bucket / self._factor) * (1 - self.accuracy)

    @property
    def count(self) -> int:
        """Of values."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The value below which that share of them lies; NaN if there are none."""
        left = share * max(0, self.count - 1)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left < 0:
                return self._value(bucket)
        return math.nan

    def above(self, value: float) -> int:
        """How many are greater, to the buckets' accuracy."""
        limit = self._bucket(value)
        return sum(times for bucket, times in self.counts.items() if bucket > limit)

    def __add__(self, other: Histogram) -> Histogram:
        if other.accuracy != self.accuracy:
            raise PenstockError(
                f"histograms of accuracy {self.accuracy} and {other.accuracy} do not add up",
                hint="count both with the same",
            )
        total = dict(self.counts)
        for bucket, times in other.counts.items():
            total[bucket] = total.get(bucket, 0) + times
        return Histogram(self.accuracy, total)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and (self.accuracy, self.counts) == (other.accuracy, other.counts)

    __hash__ = None  # type: ignore[assignment]

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"accuracy": self.accuracy, "counts": {str(at): n for at, n in sorted(self.counts.items())}}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave."""
        return cls(float(state["accuracy"]), {int(at): int(n) for at, n in state["counts"].items()})
