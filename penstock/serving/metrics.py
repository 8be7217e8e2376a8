"""What a predictor counts.

With several processes Prometheus' client counts in files, under a lock: about a microsecond for each number, and a request has
nine. They are summed up here first, without a lock, as they are counted on the event loop alone; and written four times a
second, and before this process tells them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Metrics", "Spread", "Sum"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RUN_SECONDS = (0.00005, 0.0001, 0.00025, *SECONDS[:10])
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Sum:
    """A counter with its labels."""

    def __init__(self, child: Any) -> None:
        self._child, self._pending = child, 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Count."""
        self._pending += amount

    def flush(self) -> None:
        """Write what was counted."""
        if self._pending:
            self._child.inc(self._pending)
            self._pending = 0.0


class Spread:
    """A histogram with its labels."""

    def __init__(self, child: Any, bounds: tuple[float, ...]) -> None:
        self._child, self._bounds = child, bounds
        self._counts, self._total, self._any = [0] * (len(bounds) + 1), 0.0, False

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value
        self._any = True

    def flush(self) -> None:
        """Write what was counted."""
        if not self._any:
            return
        # The client has no way to add several values at once; these two are what its own observe() adds to.
        for bucket, count in zip(self._child._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        self._child._sum.inc(self._total)
        self._counts, self._total, self._any = [0] * len(self._counts), 0.0, False


class Metrics:
    """Counters of one process; with several, Prometheus' files put them together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._sums: dict[tuple[str, ...], Sum] = {}
        self._spreads: dict[tuple[str, ...], Spread] = {}
        self.requests = Counter(
            "penstock_serving_requests",
            "Requests for predictions, by model, protocol and status.",
            ["model", "protocol", "status"],
            registry=registry,
        )
        self.rows = Counter(
            "penstock_serving_rows", "Rows that were answered.", ["model", "version"], registry=registry
        )
        self.refusals = Counter(
            "penstock_serving_refusals",
            "Requests that were not answered, by reason.",
            ["model", "reason"],
            registry=registry,
        )
        self.seconds = Histogram(
            "penstock_serving_seconds",
            "From a request's arrival to its answer.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.run_seconds = Histogram(
            "penstock_serving_run_seconds",
            "Of a run of the model.",
            ["model"],
            buckets=RUN_SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "penstock_serving_batch_rows", "Rows of a run.", ["model"], buckets=ROWS, registry=registry
        )
        self.queued = Gauge(
            "penstock_serving_queued_rows",
            "Rows that wait for a model.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.serving = Gauge(
            "penstock_serving_workers",
            "Processes that answer by this version unless another is asked for.",
            ["model", "version"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.reloads = Counter(
            "penstock_serving_reloads",
            "Changed artefacts, by whether they could be loaded.",
            ["model", "outcome"],
            registry=registry,
        )
        self.records = Counter(
            "penstock_serving_records",
            "Records for the request log, by what became of them.",
            ["outcome"],
            registry=registry,
        )

    def sum(self, name: str, *labels: str) -> Sum:
        """A counter of this name with its labels, looked up once."""
        found = self._sums.get((name, *labels))
        if found is None:
            found = self._sums[name, *labels] = Sum(getattr(self, name).labels(*labels))
        return found

    def spread(self, name: str, *labels: str) -> Spread:
        """A histogram of this name with its labels, looked up once."""
        found = self._spreads.get((name, *labels))
        if found is None:
            bounds = {"seconds": SECONDS, "run_seconds": RUN_SECONDS, "batch_rows": ROWS}[name]
            found = self._spreads[name, *labels] = Spread(getattr(self, name).labels(*labels), bounds)
        return found

    def flush(self) -> None:
        """Write what was counted since it was last written."""
        for counted in self._sums.values():
            counted.flush()
        for spread in self._spreads.values():
            spread.flush()
