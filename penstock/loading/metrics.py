"""Figures of all loads for Prometheus, counted from their journals: right after any restart, whoever asks.

As a file for node-exporter's textfile collector after each run, and over HTTP while ``--watch`` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from penstock import metrics_serving
from penstock.loading.alerts import newest
from penstock.loading.journal import journals
from penstock.loading.report import Report
from penstock.storage import write_bytes

__all__ = ["exposition", "serving", "write_textfile"]

SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14400)
OUTCOMES = ("added", "updated", "unchanged", "quarantined", "filtered")
Now = Callable[[], datetime]


class _Loads:
    """A collector: reads the journals whenever it is asked."""

    def __init__(self, root: Path, now: Now) -> None:
        self.root, self.now = root, now

    def collect(self) -> Iterator[Metric]:
        runs = {name: journal.runs() for name, journal in journals(self.root).items()}
        yield from _counters(runs)
        yield from _gauges(runs, self.now())
        yield _durations(runs)


def _counters(runs: dict[str, list[Report]]) -> Iterator[Metric]:
    rows = CounterMetricFamily(
        "penstock_load_rows", "Rows, by what became of them.", labels=["load", "outcome"]
    )
    ran = CounterMetricFamily("penstock_load_runs", "Runs, by how they ended.", labels=["load", "outcome"])
    size = CounterMetricFamily("penstock_load_bytes", "Bytes read, as they are in memory.", labels=["load"])
    commits = CounterMetricFamily("penstock_load_commits", "Commits.", labels=["load"])
    rejects = CounterMetricFamily(
        "penstock_load_rejects", "Rejected rows by broken rule.", labels=["load", "rule"]
    )
    changes = CounterMetricFamily(
        "penstock_load_schema_changes", "Changes of the source's shape.", labels=["load", "what"]
    )
    for name, reports in runs.items():
        for outcome in OUTCOMES:
            rows.add_metric([name, outcome], sum(getattr(run, outcome) for run in reports))
        for outcome in ("done", "failed", "killed"):
            ran.add_metric([name, outcome], sum(run.outcome == outcome for run in reports))
        size.add_metric([name], sum(run.bytes for run in reports))
        commits.add_metric([name], sum(run.commits for run in reports))
        for rule, count in sorted(_summed([run.reasons for run in reports]).items()):
            rejects.add_metric([name, rule], count)
        kinds = [change.what for run in reports for change in run.changes]
        for kind in sorted(set(kinds)):
            changes.add_metric([name, kind], kinds.count(kind))
    yield from (rows, ran, size, commits, rejects, changes)


def _gauges(runs: dict[str, list[Report]], now: datetime) -> Iterator[Metric]:
    success = GaugeMetricFamily(
        "penstock_load_last_success_timestamp_seconds", "When a run last ended well.", labels=["load"]
    )
    fresh = GaugeMetricFamily(
        "penstock_load_freshness_seconds",
        "Age of the newest row, by the cursor if it is a time.",
        labels=["load"],
    )
    table = GaugeMetricFamily("penstock_load_table_rows", "Rows in the table.", labels=["load"])
    left = GaugeMetricFamily(
        "penstock_load_lag_rows", "Rows that the source had left at the end.", labels=["load"]
    )
    for name, reports in runs.items():
        done = [run for run in reports if run.outcome == "done" and run.ended]
        if not done:
            continue
        last = done[-1]
        assert last.ended is not None
        success.add_metric([name], last.ended.timestamp())
        latest = newest(reports)
        if latest is not None:
            fresh.add_metric([name], (now - latest).total_seconds())
        committed = [run for run in done if run.commits]
        if committed:
            table.add_metric([name], committed[-1].rows)
        if last.remaining is not None:
            left.add_metric([name], last.remaining)
    yield from (success, fresh, table, left)


def _durations(runs: dict[str, list[Report]]) -> Metric:
    took = HistogramMetricFamily("penstock_load_duration_seconds", "How long runs took.", labels=["load"])
    for name, reports in runs.items():
        seconds = [(run.ended - run.started).total_seconds() for run in reports if run.ended is not None]
        buckets = [(str(float(at)), float(sum(s <= at for s in seconds))) for at in SECONDS]
        took.add_metric([name], [*buckets, ("+Inf", float(len(seconds)))], sum_value=sum(seconds))
    return took


def _summed(counts: list[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for key, count in each.items():
            total[key] = total.get(key, 0) + count
    return total


def exposition(root: Path = Path(), now: Now = lambda: datetime.now(UTC)) -> bytes:
    """All figures in Prometheus' text format.

    Counters count what the journals still hold (the last runs of each load): that they once fall is a reset, which
    Prometheus knows how to take.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Loads(root, now))
    return generate_latest(registry)


def write_textfile(root: Path = Path()) -> Path:
    """Write them for node-exporter's textfile collector; returns the file."""
    path = root / ".penstock/loads/metrics.prom"
    write_bytes(path, exposition(root))
    return path


@contextmanager
def serving(address: str, root: Path = Path()) -> Iterator[int]:
    """Answer ``GET /metrics`` for the time of the block.

    Args:
        address: PORT, of 127.0.0.1, or ADDRESS:PORT; 0 takes a free one.
        root: The repository.

    Yields:
        The port.

    Raises:
        PenstockError: The address is none, is taken, or is not this machine's own and no credentials are set.
    """
    with metrics_serving.serving(address, lambda: exposition(root)) as port:
        yield port
