"""Typed views of conf/monitor/NAME.yaml: what is watched of one model, and who is told."""

from __future__ import annotations

from penstock.config.monitoring.alerting import Alerting, Receiver
from penstock.config.monitoring.limits import Limits, Service, Trends
from penstock.config.monitoring.monitor import Fairness, Monitor, Season, Windows
from penstock.config.monitoring.reference import LogReference, Reference, TableReference

__all__ = [
    "Alerting",
    "Fairness",
    "Limits",
    "LogReference",
    "Monitor",
    "Receiver",
    "Reference",
    "Season",
    "Service",
    "TableReference",
    "Trends",
    "Windows",
]
