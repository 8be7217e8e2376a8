"""How loads stand, for a person to read."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.loading.alerts import newest
from penstock.loading.journal import journals
from penstock.loading.report import Report
from penstock.storage import read_json

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["runs_table", "status", "status_table"]

MARKS = {
    "done": "[green]done[/]",
    "failed": "[red]failed[/]",
    "killed": "[red]killed[/]",
    "running": "[cyan]running[/]",
}


def status(root: Path, now: datetime) -> list[dict[str, Any]]:
    """How each load stands: its last run, the age of its data, what it brought and rejected, and who was told."""
    found = []
    for name, journal in journals(root).items():
        runs = journal.runs()
        if not runs:
            continue
        last, latest = runs[-1], newest(runs)
        path = journal.folder / "alerts.json"
        committed = [run for run in runs if run.commits]
        found.append(
            {
                "load": name,
                "outcome": last.outcome,
                "started": last.started.isoformat(),
                "seconds": None if last.ended is None else (last.ended - last.started).total_seconds(),
                "age_seconds": None if latest is None else (now - latest).total_seconds(),
                "rows": committed[-1].rows if committed else 0,
                "read": last.read,
                "added": last.added,
                "updated": last.updated,
                "quarantined": last.quarantined,
                "lag": last.remaining,
                "cursor": last.cursor,
                "error": last.error,
                "alerts": read_json(path) if path.is_file() else [],
            }
        )
    return found


def status_table(root: Path, now: datetime) -> Table:
    """The same as a table of 80 columns."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("load")
    table.add_column("last run")
    for name in ("age", "rows", "read", "new", "changed", "rejected", "took"):
        table.add_column(name, justify="right")
    table.add_column("alerts")
    for entry in status(root, now):
        table.add_row(
            entry["load"],
            MARKS[entry["outcome"]],
            _span(entry["age_seconds"]),
            _count(entry["rows"]),
            _count(entry["read"]),
            _count(entry["added"]),
            _count(entry["updated"]),
            _share(entry["quarantined"], entry["read"]),
            _span(entry["seconds"]),
            " ".join(f"[red]{alert['rule']}[/]" for alert in entry["alerts"]),
        )
    return table


def runs_table(runs: list[Report]) -> Table:
    """The last runs of one load, the newest first, with what was rejected and what changed."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("started (UTC)", "outcome"):
        table.add_column(name)
    for name in ("read", "new", "changed", "rejected"):
        table.add_column(name, justify="right")
    table.add_column("what was said")
    for run in reversed(runs):
        said = [
            f"{count} × {rule}" for rule, count in sorted(run.reasons.items(), key=lambda item: -item[1])[:3]
        ]
        said += [f"{change.column}: {change.what} ({change.policy})" for change in run.changes]
        if run.error:
            said.insert(0, run.error.splitlines()[0])
        table.add_row(
            run.started.strftime("%Y-%m-%d %H:%M:%S"),
            MARKS[run.outcome],
            _count(run.read),
            _count(run.added),
            _count(run.updated),
            _count(run.quarantined),
            "; ".join(said),
        )
    return table


def _count(number: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (size if unit != 'k' else 1e3):.3g}{unit}"
    return str(number)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if part else "0"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for size, unit in ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m")):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"
