"""Reliability over any period, from incidents: availability, MTBF, MTTR, and how much of the error budget is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from penstock.maintenance.incidents import Incident

__all__ = ["Reliability", "reliability"]


@dataclass(frozen=True)
class Reliability:
    """Of a period.

    Attributes:
        period: How long it was.
        failures: Incidents with down time that began in it.
        down: Time without good answers; overlapping incidents count once.
        availability: Share of the period with them.
        mtbf: Mean time between failures: up time by failures; None without any.
        mttr: Mean time to repair, of failures that are over; None without any.
        budget: Down time that the objective allows.
        left: Share of the budget that is left; negative when it is overdrawn.
        burn: How many times as fast as allowed the budget was used; 1 uses it up exactly.
    """

    period: timedelta
    failures: int
    down: timedelta
    availability: float
    mtbf: timedelta | None
    mttr: timedelta | None
    budget: timedelta
    left: float
    burn: float


def reliability(
    incidents: Sequence[Incident], since: datetime, until: datetime, *, objective: float
) -> Reliability:
    """Count.

    Args:
        incidents: Of one model.
        since: Begin of the period.
        until: Its end; an incident that is open then is counted so far.
        objective: Share of the time that is promised.
    """
    period = until - since
    spans = [
        (max(one.opened, since), min(one.closed or until, until))
        for one in incidents
        if one.down and one.opened < until and (one.closed or until) > since
    ]
    down = _union(spans)
    failures = [one for one in incidents if one.down and since <= one.opened < until]
    repaired = [one.closed - one.opened for one in failures if one.closed is not None and one.closed <= until]
    budget = period * (1 - objective)
    return Reliability(
        period=period,
        failures=len(failures),
        down=down,
        availability=1 - down / period,
        mtbf=(period - down) / len(failures) if failures else None,
        mttr=sum(repaired, timedelta()) / len(repaired) if repaired else None,
        budget=budget,
        left=1 - down / budget,
        burn=down / budget,
    )


def _union(spans: Sequence[tuple[datetime, datetime]]) -> timedelta:
    total, reached = timedelta(), None
    for start, end in sorted(spans):
        first = start if reached is None else max(start, reached)
        total += max(timedelta(), end - first)
        reached = end if reached is None else max(reached, end)
    return total
