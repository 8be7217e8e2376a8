"""What a router has counted and not yet handed to the state: sums, attributions, users. Bounded, whatever becomes of the state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.experiments.histogram import Histogram
from penstock.rollout.state import Attribution, Exposure, Store

__all__ = ["Batch", "Tally", "histogram"]

ACCURACY = 0.05  # of quantiles of latency, relative
FACTOR = 1 / math.log((1 + ACCURACY) / (1 - ACCURACY))
MOST = 200_000  # attributions, and users, that may wait for the state


@dataclass
class Batch:
    """What is on its way to the state."""

    counts: dict[tuple[str, str, str], float]
    attributions: deque[Attribution]
    exposures: dict[Exposure, None]

    def write(self, store: Store, *, enters: bool) -> None:
        """Write it; what is written is in it no more.

        Args:
            store: The state.
            enters: Users count in the KPI before any outcome of theirs has come.

        Raises:
            StateError: The state cannot be reached.
        """
        if self.attributions:
            store.attribute(self.attributions)
            self.attributions = deque()
        if self.exposures:
            store.expose(self.exposures, enters=enters)
            self.exposures = {}
        if self.counts:
            store.add(self.counts)
            self.counts = {}


@dataclass
class Tally:
    """Of one router process.

    Attributes:
        counts: By stage, arm and name.
        attributions: Which arm requests were of.
        exposures: Users that were answered.
        lost: Attributions that were left out because there were too many.
    """

    counts: dict[tuple[str, str, str], float] = field(default_factory=dict)
    attributions: deque[Attribution] = field(default_factory=deque)
    exposures: dict[Exposure, None] = field(default_factory=dict)
    lost: int = 0

    def add(self, stage: str, arm: str, name: str, value: float = 1.0) -> None:
        """Add to a counter."""
        key = (stage, arm, name)
        self.counts[key] = self.counts.get(key, 0.0) + value

    def took(self, stage: str, arm: str, seconds: float) -> None:
        """How long an answer took, in the buckets of ``penstock.experiments.histogram``."""
        self.add(stage, arm, f"ms_{math.ceil(math.log(max(1e-3, 1e3 * seconds)) * FACTOR)}")

    def attribute(self, one: Attribution) -> None:
        """Keep which arm a request was of."""
        if len(self.attributions) >= MOST:
            self.attributions.popleft()
            self.lost += 1
        self.attributions.append(one)

    def expose(self, one: Exposure) -> None:
        """Keep that a user was answered."""
        if len(self.exposures) < MOST:
            self.exposures[one] = None

    def take(self) -> Batch:
        """All of it, for the state's thread to write; what it could not is brought back by ``keep``. For the loop's thread."""
        batch = Batch(self.counts, self.attributions, self.exposures)
        self.counts, self.attributions, self.exposures = {}, deque(), {}
        return batch

    def keep(self, batch: Batch) -> None:
        """Take back what could not be written."""
        for (stage, arm, name), value in batch.counts.items():
            self.add(stage, arm, name, value)
        self.attributions.extendleft(reversed(batch.attributions))
        while len(self.attributions) > MOST:
            self.attributions.popleft()
            self.lost += 1
        for one in batch.exposures:
            self.expose(one)


def histogram(counters: Mapping[str, float]) -> Histogram:
    """The latencies of an arm, milliseconds.

    Args:
        counters: Of the arm.
    """
    found = {int(name[3:]): round(value) for name, value in counters.items() if name.startswith("ms_")}
    return Histogram(ACCURACY, found)
