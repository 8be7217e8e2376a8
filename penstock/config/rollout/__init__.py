"""Typed views of conf/rollout/NAME.yaml: which versions of a model there are, and who is answered by which."""

from __future__ import annotations

from penstock.config.rollout.arms import Arm
from penstock.config.rollout.judging import Guardrails, Kpi, LatencyGuardrail, RateGuardrail
from penstock.config.rollout.rollout import Plan, RedisState, Rollout, Router, SqliteState, State, Timeouts
from penstock.config.rollout.strategies import (
    AB,
    Bandit,
    BlueGreen,
    Canary,
    Feature,
    Rolling,
    Shadow,
    Single,
    Strategy,
)

__all__ = [
    "AB",
    "Arm",
    "Bandit",
    "BlueGreen",
    "Canary",
    "Feature",
    "Guardrails",
    "Kpi",
    "LatencyGuardrail",
    "Plan",
    "RateGuardrail",
    "RedisState",
    "Rolling",
    "Rollout",
    "Router",
    "Shadow",
    "Single",
    "SqliteState",
    "State",
    "Strategy",
    "Timeouts",
]
