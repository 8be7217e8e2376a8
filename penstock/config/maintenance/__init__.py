"""Typed views of conf/maintenance/NAME.yaml: what is done about a model, and when."""

from __future__ import annotations

from penstock.config.maintenance.policy import (
    Comparison,
    Condition,
    Corrective,
    Maintenance,
    Objective,
    Preventive,
    Retraining,
)

__all__ = ["Comparison", "Condition", "Corrective", "Maintenance", "Objective", "Preventive", "Retraining"]
