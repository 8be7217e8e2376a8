"""Figures of all monitors for Prometheus, read from their histories: right after any restart, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from penstock.config.monitoring import Alerting
from penstock.monitoring.alerting import active
from penstock.monitoring.history import History, WindowRecord
from penstock.storage import write_bytes

__all__ = ["exposition", "write_textfile"]

WINDOWS = 200
CAUSES = ("inputs", "predictions", "performance", "fairness", "skew", "service", "truth")
PLAIN = {
    "penstock_monitor_window_end_timestamp_seconds": "End of the latest window that was judged.",
    "penstock_monitor_window_rows": "Rows of it.",
    "penstock_monitor_window_truths": "Rows of it whose truth is known.",
}


class _Monitors:
    """A collector: reads the histories whenever it is asked."""

    def __init__(self, root: Path, policies: dict[str, Alerting]) -> None:
        self.root, self.policies = root, policies

    def collect(self) -> Iterator[Metric]:
        plain = {name: GaugeMetricFamily(name, words, labels=["monitor"]) for name, words in PLAIN.items()}
        findings = GaugeMetricFamily(
            "penstock_monitor_findings",
            "Findings in the latest window.",
            labels=["monitor", "cause", "severity"],
        )
        alerts = GaugeMetricFamily(
            "penstock_monitor_alert",
            "Whether a cause has come back often enough to be an alert (1), by severity.",
            labels=["monitor", "cause", "severity"],
        )
        psi = GaugeMetricFamily(
            "penstock_monitor_psi", "Population stability index of a column.", labels=["monitor", "column"]
        )
        metric = GaugeMetricFamily(
            "penstock_monitor_metric",
            "A metric of the latest window that has it.",
            labels=["monitor", "metric"],
        )
        for name, path in _histories(self.root).items():
            windows = History(path).windows(last=WINDOWS)
            if not windows:
                continue
            last = windows[-1]
            for family, value in zip(
                plain.values(), (last.end.timestamp(), last.rows, last.truths), strict=True
            ):
                family.add_metric([name], float(value))
            _add_findings(findings, name, last)
            holding = active(windows, self.policies.get(name, Alerting()))
            for cause in CAUSES:
                for severity in ("warning", "critical"):
                    on = cause in holding and holding[cause].severity == severity
                    alerts.add_metric([name, cause, severity], float(on))
            for column, found in sorted(last.psi.items()):
                if found is not None:
                    psi.add_metric([name, column], found)
            for key, found in sorted(_latest(windows).items()):
                metric.add_metric([name, key], found)
        yield from (*plain.values(), findings, alerts, psi, metric)


def _histories(root: Path) -> dict[str, Path]:
    return {path.parent.name: path for path in sorted((root / ".penstock/monitor").glob("*/history.sqlite"))}


def _add_findings(family: GaugeMetricFamily, name: str, last: WindowRecord) -> None:
    found = last.causes
    for cause in CAUSES:
        mine = [finding for one in found if one.name == cause for finding in one.findings]
        for severity in ("warning", "critical"):
            family.add_metric([name, cause, severity], float(sum(one.severity == severity for one in mine)))


def _latest(windows: list[WindowRecord]) -> dict[str, float]:
    """Each metric of the latest window that has it: truth comes late."""
    found: dict[str, float] = {}
    for window in windows:
        found |= {name: value for name, value in window.metrics.items() if value is not None}
    return found


def exposition(root: Path, policies: dict[str, Alerting]) -> bytes:
    """All figures in Prometheus' text format.

    Args:
        root: The repository.
        policies: Of monitors by name; one that is not there has the defaults.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Monitors(root, policies))
    return generate_latest(registry)


def write_textfile(root: Path, policies: dict[str, Alerting]) -> Path:
    """Write them for node-exporter's textfile collector; returns the file."""
    path = root / ".penstock/monitor/metrics.prom"
    write_bytes(path, exposition(root, policies))
    return path
