"""When somebody is told. A cause must come back before it is an alert, and stay away before it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from penstock.alert_posting import Notice, post
from penstock.config.monitoring import Alerting
from penstock.monitoring.findings import Cause, worst
from penstock.monitoring.history import History, Mute, Told, WindowRecord

__all__ = ["Change", "active", "changes", "notice", "tell"]


def active(windows: Sequence[WindowRecord], policy: Alerting) -> dict[str, Told]:
    """Alerts that hold after the last window; they follow from the history alone.

    Args:
        windows: In the order of time.
        policy: How often a cause must come, and stay away.
    """
    holding: dict[str, Told] = {}
    seen: list[dict[str, Cause]] = []
    for window in windows:
        seen.append({cause.name: cause for cause in window.causes})
        for name in list(holding):
            if not any(name in one for one in seen[-policy.clear_after :]):
                del holding[name]
        for name, cause in seen[-1].items():
            recent = [one[name] for one in seen[-policy.raise_within :] if name in one]
            at_once = policy.critical_at_once and cause.severity == "critical"
            if name in holding:
                before = holding[name]
                gravest = worst([before.severity, cause.severity])
                holding[name] = before.model_copy(update={"severity": gravest, "headline": cause.headline})
            elif at_once or len(recent) >= policy.raise_after:
                holding[name] = Told(
                    cause=name, severity=cause.severity, headline=cause.headline, since=window.start
                )
    return holding


@dataclass(frozen=True)
class Change:
    """What is to be said now.

    Attributes:
        raised: Alerts that nobody has been told of, or that have become graver.
        cleared: Alerts that were told and are over.
        told: What is to be remembered.
    """

    raised: list[Told]
    cleared: list[Told]
    told: list[Told]


def changes(now: Mapping[str, Told], before: Mapping[str, Told], mutes: Mapping[str, Mute]) -> Change:
    """Compare what holds with what was told. Who is muted is told of when the mute runs out, if it still holds.

    Args:
        now: Alerts that hold.
        before: Alerts that were told.
        mutes: That have not run out, by cause.
    """
    raised = [
        alert
        for name, alert in now.items()
        if name not in mutes
        and (name not in before or worst([before[name].severity, alert.severity]) != before[name].severity)
    ]
    cleared = [alert for name, alert in before.items() if name not in now]
    fresh = {alert.cause for alert in raised}
    told = [
        alert if name in fresh else before[name]
        for name, alert in now.items()
        if name in fresh or name in before
    ]
    return Change(raised, cleared, told)


def notice(monitor: str, alert: Told, policy: Alerting) -> Notice:
    """An alert as it is posted. Severity is no part of what it is told from others by, so that it can rise."""
    return Notice(
        f"monitor_{alert.cause}",
        monitor,
        alert.severity,
        alert.headline,
        {"monitor": monitor, "cause": alert.cause},
        {"runbook_url": f"{policy.runbook}#{alert.cause}", "since": alert.since.isoformat()},
    )


def tell(monitor: str, history: History, policy: Alerting, now: datetime) -> Change:
    """Post what has changed to every receiver, and remember it once all have it.

    A receiver that is away makes an error and is tried again with the next run; those that were reached are told once
    more then, which Alertmanager takes for the same alert.

    Raises:
        PenstockError: A receiver cannot be reached.
    """
    holding = active(history.windows(last=200), policy)
    change = changes(holding, history.told(), history.mutes(now))
    if change.raised or change.cleared:
        for number, receiver in enumerate(policy.receivers):
            post(
                receiver.url,
                receiver.format,
                [notice(monitor, alert, policy) for alert in change.raised],
                [notice(monitor, alert, policy) for alert in change.cleared],
                now,
                key=f"alerting.receivers[{number}]",
                hint=f"mend url in conf/monitor/{monitor}.yaml",
            )
    history.tell(change.told)
    return change
