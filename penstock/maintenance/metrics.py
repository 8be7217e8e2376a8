"""Figures of maintenance for Prometheus, as a file for node-exporter's textfile collector; written after every round."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from penstock.config.maintenance import Maintenance
from penstock.maintenance.incidents import Incident, Incidents
from penstock.maintenance.service_level import burns, level
from penstock.monitoring.run import Monitoring
from penstock.storage import write_bytes

__all__ = ["exposition", "failures_in_a_row", "write_textfile"]


def failures_in_a_row(incidents: list[Incident]) -> int:
    """How many of the latest incidents failed, up to one that did not."""
    count = 0
    for one in reversed([one for one in incidents if one.closed is not None and not one.is_of_operator]):
        if one.outcome != "failed":
            break
        count += 1
    return count


def exposition(
    name: str, policy: Maintenance, monitoring: Monitoring, now: datetime, root: Path = Path()
) -> bytes:
    """All figures of one model in Prometheus' text format.

    Args:
        name: Of conf/maintenance/.
        policy: What it declares.
        monitoring: The monitor that it names.
        now: The time, UTC: when a round has ended.
        root: The repository.
    """
    registry = CollectorRegistry(auto_describe=False)

    def gauge(key: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"penstock_maintenance_{key}", words, ["maintenance", *labels], registry=registry)

    incidents = Incidents(root / ".penstock/maintenance" / name / "incidents.jsonl").all()
    opened = [one.opened.timestamp() for one in incidents if one.closed is None]
    gauge("run_timestamp_seconds", "When a round last ended.").labels(name).set(now.timestamp())
    gauge(
        "incident_opened_timestamp_seconds", "When the incident that is open was opened; 0: none is."
    ).labels(name).set(min(opened, default=0.0))
    gauge("failures_in_a_row", "The latest rounds that failed.").labels(name).set(
        failures_in_a_row(incidents)
    )
    log, model, objective = monitoring.requests, monitoring.view.model, policy.objective
    left = level(log, model, now - objective.window, now, objective).left
    gauge("error_budget_left", "Share of the error budget that is left.").labels(name).set(left)
    rate = gauge("burn_rate", "How many times as fast as allowed the budget is used.", "window", "span")
    for burn in burns(log, model, now, objective):
        window = f"{burn.window.total_seconds() / 3600:g}h"
        rate.labels(name, window, "long").set(burn.rate)
        rate.labels(name, window, "short").set(burn.recent)
    return generate_latest(registry)


def write_textfile(
    name: str, policy: Maintenance, monitoring: Monitoring, now: datetime, root: Path = Path()
) -> Path:
    """Write them; returns the file."""
    path = root / ".penstock/maintenance" / name / "metrics.prom"
    write_bytes(path, exposition(name, policy, monitoring, now, root))
    return path
