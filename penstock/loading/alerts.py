"""When somebody is to be told: pure rules over what runs did, and who was told already.

A rule speaks once when it begins to hold and once when it ceases to; between, it is silent.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from penstock.alert_posting import Notice, post
from penstock.config.base import View
from penstock.config.loading.monitoring import Monitor, Notify, Severity, Volume
from penstock.loading.report import Report
from penstock.storage import read_json, write_json

__all__ = ["Alert", "evaluate", "newest", "send", "transitions", "volume_deviation"]

# Of a normal distribution, one standard deviation in median absolute deviations.
MAD_TO_SIGMA = 1.4826
Rule = Literal["freshness", "reject_share", "duration", "volume", "schema_change", "failures"]


class Alert(View):
    """Something is not as it was declared to be."""

    load: str
    rule: Rule
    severity: Severity
    message: str


def newest(runs: Sequence[Report]) -> datetime | None:
    """The time of the newest row that is stored: the cursor if it is a time, else the end of the last good run."""
    done = [run for run in runs if run.outcome == "done"]
    if not done:
        return None
    cursor = done[-1].cursor
    if isinstance(cursor, str):
        try:
            moment = datetime.fromisoformat(cursor)
        except ValueError:
            return done[-1].ended
        return moment if moment.tzinfo else moment.replace(tzinfo=done[-1].started.tzinfo)
    return done[-1].ended


def evaluate(name: str, runs: Sequence[Report], monitor: Monitor, now: datetime) -> list[Alert]:
    """Which rules do not hold.

    Args:
        name: Of the load.
        runs: As a journal gives them, the oldest first.
        monitor: What is declared.
        now: The time, UTC.
    """
    found: list[tuple[Rule, Severity, str]] = []
    ended = [run for run in runs if run.outcome != "running"]
    done = [run for run in ended if run.outcome == "done"]
    failures = 0
    for run in reversed(ended):
        if run.outcome == "done":
            break
        failures += 1
    if failures >= monitor.consecutive_failures:
        said = ended[-1].error or ended[-1].outcome
        found.append(
            ("failures", "critical", f"{failures} runs in a row have failed: {said.splitlines()[0]}")
        )
    if monitor.freshness is not None:
        latest = newest(runs)
        if latest is None or now - latest > monitor.freshness:
            age = "there is none" if latest is None else f"it is {_shown(now - latest)} old"
            found.append(
                (
                    "freshness",
                    "critical",
                    f"the newest row should be {_shown(monitor.freshness)} old at most; {age}",
                )
            )
    if done:
        found += _of_run(done[-1], done[:-1], monitor)
    return [Alert(load=name, rule=rule, severity=severity, message=text) for rule, severity, text in found]


def _of_run(run: Report, before: Sequence[Report], monitor: Monitor) -> list[tuple[Rule, Severity, str]]:
    found: list[tuple[Rule, Severity, str]] = []
    share = run.quarantined / max(1, run.read)
    if monitor.max_reject_share is not None and share > monitor.max_reject_share:
        worst = sorted(run.reasons.items(), key=lambda item: -item[1])[:3]
        told = ", ".join(f"{count} × {rule}" for rule, count in worst)
        found.append(
            (
                "reject_share",
                "warning",
                f"{share:.2%} of rows rejected, more than {monitor.max_reject_share:.2%}: {told}",
            )
        )
    if monitor.duration is not None and run.ended is not None and run.ended - run.started > monitor.duration:
        took = _shown(run.ended - run.started)
        found.append(("duration", "warning", f"the run took {took}, more than {_shown(monitor.duration)}"))
    if monitor.volume is not None:
        said = _volume(run, before, monitor.volume)
        if said:
            found.append(("volume", "warning", said))
    if monitor.schema_change != "off" and run.changes:
        told = ", ".join(f"{change.column}: {change.what}" for change in run.changes)
        found.append(("schema_change", monitor.schema_change, f"the source changed its shape: {told}"))
    return found


def _volume(run: Report, before: Sequence[Report], rule: Volume) -> str | None:
    if rule.min_rows is not None and run.read < rule.min_rows:
        return f"{run.read} rows, fewer than {rule.min_rows}"
    if rule.max_rows is not None and run.read > rule.max_rows:
        return f"{run.read} rows, more than {rule.max_rows}"
    counts = [earlier.read for earlier in before][-rule.runs :]
    if len(counts) < rule.min_runs:
        return None
    deviation = volume_deviation(run.read, counts)
    if abs(deviation) <= rule.deviations:
        return None
    return f"{run.read} rows, where the median of {len(counts)} runs is {statistics.median(counts):.0f}"


def volume_deviation(rows: int, before: Sequence[int]) -> float:
    """How far a count is from the median of others, in standard deviations estimated robustly.

    The scale is the median absolute deviation, but no less than that of counts of independent events (the square root
    of the mean, Poisson) nor a hundredth of the median: counts that happened to be equal make no scale of zero.
    """
    median = statistics.median(before)
    spread = MAD_TO_SIGMA * statistics.median([abs(count - median) for count in before])
    return float((rows - median) / max(spread, median**0.5, 0.01 * median, 1.0))


def _shown(span: Any) -> str:
    seconds = int(span.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds} s"


# --- who was told -----------------------------------------------------------------------------------


def transitions(folder: Path, alerts: Sequence[Alert]) -> tuple[list[Alert], list[Alert]]:
    """What is to be said now: alerts that are new, and those that hold no longer. Remembers both.

    Args:
        folder: The load's own.
        alerts: Those that hold.
    """
    path = folder / "alerts.json"
    before = {
        entry["rule"]: Alert.model_validate(entry) for entry in (read_json(path) if path.is_file() else [])
    }
    now = {alert.rule: alert for alert in alerts}
    raised = [alert for rule, alert in now.items() if rule not in before]
    cleared = [alert for rule, alert in before.items() if rule not in now]
    if raised or cleared or before != now:
        write_json(path, [alert.model_dump() for alert in alerts])
    return raised, cleared


def send(notify: Notify, raised: Sequence[Alert], cleared: Sequence[Alert], now: datetime) -> None:
    """Post alerts to Alertmanager's API (v2), or to a Slack webhook.

    Raises:
        PenstockError: It cannot be reached, or refuses them; without any secret of the address.
    """
    post(
        notify.url,
        notify.format,
        [_notice(alert) for alert in raised],
        [_notice(alert) for alert in cleared],
        now,
        key="monitor.notify",
        hint="mend url in conf/load/",
    )


def _notice(alert: Alert) -> Notice:
    return Notice(f"load_{alert.rule}", alert.load, alert.severity, alert.message, {"load": alert.load})
