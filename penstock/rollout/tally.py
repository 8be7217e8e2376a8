"""What a router has counted and not yet handed to the state: sums, attributions, users. Bounded, whatever becomes of the state."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from penstock.rollout.state import Attribution, Exposure, Store

__all__ = ["BOUNDS", "Batch", "Tally", "quantile"]

# Upper ends in seconds of the buckets of latency, each a fifth above the one before: 0.2 ms to about 20 s.
BOUNDS = tuple(0.0002 * 1.2**at for at in range(64))
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

    def took(self, stage: str, arm: str, seconds: float, slow: float | None) -> None:
        """How long an answer took."""
        self.add(stage, arm, "seconds", seconds)
        self.add(stage, arm, f"under_{bisect_right(BOUNDS, seconds)}")
        if slow is not None and seconds > slow:
            self.add(stage, arm, "slow")

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


def quantile(counters: dict[str, float], share: float) -> float | None:
    """Seconds within which a share of answers came, as an upper end of a bucket; None if there were none.

    Args:
        counters: Of an arm.
        share: Such as 0.99.
    """
    buckets = [counters.get(f"under_{at}", 0.0) for at in range(len(BOUNDS) + 1)]
    total = sum(buckets)
    if not total:
        return None
    seen = 0.0
    for at, count in enumerate(buckets):
        seen += count
        if seen >= share * total:
            return BOUNDS[min(at, len(BOUNDS) - 1)]
    return BOUNDS[-1]
