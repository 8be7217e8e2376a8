"""What is to be done, from what was found: a pure function, so that a policy can be tried on a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock.config.maintenance import Maintenance
from penstock.maintenance.incidents import Incident, Kind

__all__ = ["Action", "decide"]


@dataclass(frozen=True)
class Action:
    """What is to be done.

    Attributes:
        kind: Of maintenance; None: nothing.
        causes: Why.
        rollback: Whether the version before is to be put in place first.
        retrain: Whether a challenger is to be made.
        why: In words.
    """

    kind: Kind | None
    causes: tuple[str, ...] = ()
    rollback: bool = False
    retrain: bool = False
    why: str = ""


def decide(
    alerts: Mapping[str, str],
    policy: Maintenance,
    past: Sequence[Incident],
    now: datetime,
    *,
    began: datetime,
    estimated_auc: float | None = None,
) -> Action:
    """Decide.

    Corrective comes before condition-based, and that before preventive maintenance. While an incident is open nothing new is
    begun: two retrainings at once would be compared with champions that are no longer.

    Args:
        alerts: Causes that hold, with their severity.
        policy: What is declared.
        past: Incidents in the order of time.
        now: The time, UTC.
        began: When the model was put in place, for the calendar.
        estimated_auc: Of the latest window, where there is one.
    """
    if any(incident.closed is None for incident in past):
        return Action(None, why=f"incident {next(one.id for one in past if one.closed is None)} is open")
    corrective = _corrective(alerts, policy)
    if corrective.kind is not None:
        # What was taken back once is not taken back again because the same alert has not cleared yet.
        before = [one for one in past if one.kind == "corrective" and one.causes == corrective.causes]
        if not before or _rested(
            before, now, policy.condition.rest if policy.condition else timedelta(days=1)
        ):
            return corrective
        return Action(
            None, why=f"{before[-1].id} dealt with {', '.join(corrective.causes)} a short while ago"
        )
    condition = _condition(alerts, policy, estimated_auc)
    if condition.kind is not None and policy.condition is not None:
        if _rested([one for one in past if one.kind != "preventive"], now, policy.condition.rest):
            return condition
        return Action(None, why=f"{condition.why}; retrained less than {policy.condition.rest} ago")
    return _preventive(policy, past, now, began)


def _rested(past: Sequence[Incident], now: datetime, rest: timedelta) -> bool:
    return all(now - (incident.closed or incident.opened) >= rest for incident in past)


def _corrective(alerts: Mapping[str, str], policy: Maintenance) -> Action:
    if policy.corrective is None:
        return Action(None)
    broken = tuple(sorted(name for name in alerts if name in policy.corrective.causes))
    if not any(alerts[name] == "critical" for name in broken):
        return Action(None)
    return Action(
        "corrective",
        broken,
        rollback=True,
        retrain=policy.corrective.retrain,
        why=f"{', '.join(broken)}: critical",
    )


def _condition(alerts: Mapping[str, str], policy: Maintenance, estimated_auc: float | None) -> Action:
    if policy.condition is None:
        return Action(None)
    found = tuple(sorted(name for name in alerts if name in policy.condition.causes))
    if found:
        return Action("condition", found, retrain=True, why=f"{', '.join(found)}: not as it was")
    least = policy.condition.min_estimated_auc
    if least is not None and estimated_auc is not None and estimated_auc < least:
        why = f"an AUC of {estimated_auc:.3f} is to be expected, less than {least:g}"
        return Action("condition", ("predictions",), retrain=True, why=why)
    return Action(None)


def _preventive(policy: Maintenance, past: Sequence[Incident], now: datetime, began: datetime) -> Action:
    if policy.preventive is None:
        return Action(None)
    last = max([began, *(one.at for incident in past for one in incident.entries if one.what == "retrained")])
    if now - last < policy.preventive.every:
        return Action(None, why="nothing is due")
    return Action("preventive", retrain=True, why=f"last trained {(now - last).days} days ago")
