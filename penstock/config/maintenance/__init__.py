"""Typed views of conf/maintenance/NAME.yaml: what is done about a model, and when."""

from __future__ import annotations

from penstock.config.maintenance.policy import (
    ByRollout,
    Comparison,
    Condition,
    Corrective,
    Maintenance,
    Objective,
    Preventive,
    Prices,
    Probe,
    Retraining,
)

__all__ = [
    "ByRollout",
    "Comparison",
    "Condition",
    "Corrective",
    "Maintenance",
    "Objective",
    "Preventive",
    "Prices",
    "Probe",
    "Retraining",
]
