"""What a load says while it runs: sentences for a person, or one JSON object a line for a machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal

from penstock.console import say
from penstock.loading.alerts import Alert
from penstock.loading.report import Report
from penstock.sources.secrets import hidden

__all__ = ["Events"]


class Events:
    """Where events go.

    Args:
        form: human or json.
        told: Takes a line.
    """

    def __init__(self, form: Literal["human", "json"] = "human", told: Any = say) -> None:
        self.form, self.told = form, told

    def _event(self, event: str, words: str, **fields: Any) -> None:
        if self.form == "human":
            self.told(hidden(words))
            return
        entry = {"time": datetime.now(UTC).isoformat(), "event": event, **fields}
        self.told(hidden(json.dumps(entry, default=str, ensure_ascii=False)))

    def progressed(self, report: Report) -> None:
        """A run has begun, or has committed."""
        if not report.commits:
            self._event("load.started", f"{report.name}: reading", load=report.name)
            return
        words = (
            f"{report.name}: {report.read:,} rows read, {report.added:,} new, load {report.load} is stored"
        )
        numbers = report.model_dump(
            include={"read", "added", "updated", "quarantined", "rows", "load", "commits"}
        )
        self._event("load.committed", words, load_name=report.name, **numbers)

    def finished(self, report: Report) -> None:
        """A run has ended well."""
        seconds = (report.ended - report.started).total_seconds() if report.ended else 0.0
        for change in report.changes:
            types = " → ".join(kind for kind in (change.was, change.found) if kind)
            self._event(
                "load.schema_changed",
                f"{report.name}: the column {change.column!r}: {change.what} {types} ({change.policy})",
                load_name=report.name,
                **change.model_dump(),
            )
        if report.quarantined:
            worst = sorted(report.reasons.items(), key=lambda item: (-item[1], item[0]))
            told = "".join(f"\n    {count} × {rule}" for rule, count in worst[:8])
            self._event(
                "load.quarantined",
                f"{report.name}: {report.quarantined} rows are in data/quarantine/loads/{report.name}/{told}",
                load_name=report.name,
                quarantined=report.quarantined,
                reasons=report.reasons,
            )
        words = f"{report.name}: {report.read:,} rows read, {report.added:,} new, {report.updated:,} changed"
        words += f", {report.filtered:,} left out" if report.filtered else ""
        words += f"; {report.rows:,} in the table" if report.commits else "; nothing new"
        fields = report.model_dump(mode="json", exclude={"changes", "reasons", "name", "error"})
        self._event(
            "load.finished", f"{words} ({seconds:.1f} s)", load_name=report.name, seconds=seconds, **fields
        )

    def failed(self, report: Report) -> None:
        """A run has ended with an error."""
        self._event(
            "load.failed",
            f"error in {report.name}: {report.error}",
            load_name=report.name,
            error=report.error,
        )

    def alert(self, alert: Alert, *, raised: bool) -> None:
        """An alert is raised, or cleared."""
        words = (
            f"{'ALERT' if raised else 'over'}: {alert.load}: {alert.rule} ({alert.severity}): {alert.message}"
        )
        self._event("alert.raised" if raised else "alert.cleared", words, **alert.model_dump())
