"""The page of a monitor: what is wrong now, and how it came about. One file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

from penstock.config.monitoring import Monitor
from penstock.monitoring.alerting import active
from penstock.monitoring.history import Mute, WindowRecord
from penstock.report.page import render
from penstock.report.wording import figure, number, share

__all__ = ["monitor_page", "sparkline"]

WIDTH, HEIGHT = 120.0, 28.0
SHOWN = 100  # windows
METRICS = {
    "roc_auc": "AUC",
    "estimated_roc_auc": "AUC, estimated before the truth is known",
    "accuracy": "Accuracy",
    "loss": "Loss",
    "residual": "Truth less prediction",
    "positives": "Share of the positive class",
    "estimated_positives": "The same, estimated",
    "reconstruction_error": "Unusual combinations (1 is the reference)",
    "errors": "Share of errors",
    "latency_p50_ms": "Latency, median, ms",
    "latency_p95_ms": "Latency, 95th percentile, ms",
    "latency_p99_ms": "Latency, 99th percentile, ms",
}


def sparkline(values: Sequence[float | None], words: str, marks: Sequence[bool] = ()) -> Markup:
    """A small curve; windows without a value are gaps, marked ones have a dot.

    Args:
        values: In the order of time.
        words: The curve in words, for who cannot see it.
        marks: Which are marked.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    step = (WIDTH - 4) / max(1, len(values) - 1)
    path, dots, pen = [], [], "M"
    for at, value in enumerate(values):
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        x, y = 2 + at * step, HEIGHT - 3 - (value - low) / span * (HEIGHT - 6)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
        if at < len(marks) and marks[at]:
            dots.append(
                Markup('<circle cx="{}" cy="{}" r="2.2" class="alarm"/>').format(f"{x:.1f}", f"{y:.1f}")
            )
    return Markup(
        '<svg class="small" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
        '<path d="{}" class="line holdout"/>{}</svg>'
    ).format(WIDTH, HEIGHT, WIDTH, HEIGHT, words, "".join(path), Markup("").join(dots))


def monitor_page(
    name: str, view: Monitor, windows: Sequence[WindowRecord], mutes: dict[str, Mute], now: datetime
) -> str:
    """The page.

    Args:
        name: Of the monitor.
        view: What it declares.
        windows: In the order of time.
        mutes: That have not run out.
        now: The time, UTC.
    """
    windows = windows[-SHOWN:]
    alerts = active(windows, view.alerting)
    last = windows[-1] if windows else None
    sections = [
        ("verdict", "Verdict"),
        ("findings", "Findings"),
        ("columns", "Columns"),
        ("metrics", "Metrics"),
        ("history", "History"),
    ]
    return render(
        "monitor.html",
        sections=sections,
        name=name,
        view=view,
        now=f"{now:%Y-%m-%d %H:%M} UTC",
        last=last,
        verdict=_verdict(windows),
        alerts=list(alerts.values()),
        mutes=mutes,
        figures=_figures(last),
        columns=_columns(windows),
        metrics=_metrics(windows),
        history=[_line(window) for window in reversed(windows)],
    )


def _verdict(windows: Sequence[WindowRecord]) -> list[str]:
    """Sentences, the gravest first."""
    return [f"{cause.severity}: {cause.headline}" for cause in windows[-1].causes] if windows else []


def _figures(last: WindowRecord | None) -> list[tuple[str, str, str]]:
    if last is None:
        return []
    told = [
        ("Window", f"{last.start:%m-%d %H:%M}", f"until {last.end:%m-%d %H:%M} UTC"),
        ("Rows", number(last.rows), f"truth of {number(last.truths)}"),
        ("Versions", str(len(last.versions)), ", ".join(last.versions)),
    ]
    for key, words in (
        ("roc_auc", "AUC"),
        ("estimated_roc_auc", "AUC, estimated"),
        ("latency_p95_ms", "p95, ms"),
    ):
        value = last.metrics.get(key)
        if value is not None:
            told.append((words, figure(value), ""))
    return told


def _columns(windows: Sequence[WindowRecord]) -> list[dict[str, Any]]:
    """The one that is farthest off first."""
    names = list(windows[-1].psi) if windows else []
    found = []
    for name in names:
        values = [window.psi.get(name) for window in windows]
        alarms = [_alarmed(window, name) for window in windows]
        words = f"PSI of {name} over {len(values)} windows, now {number(values[-1], 2)}"
        found.append(
            {
                "name": name,
                "psi": values[-1] or 0.0,
                "alarm": alarms[-1],
                "alarms": sum(alarms),
                "chart": sparkline(values, words, alarms),
                "words": "; ".join(f.words for f in windows[-1].findings if f.subject == name),
            }
        )
    return sorted(found, key=lambda one: (-one["alarm"], -one["psi"]))


def _alarmed(window: WindowRecord, name: str) -> bool:
    return any(one.subject == name and one.severity != "info" for one in window.findings)


def _metrics(windows: Sequence[WindowRecord]) -> list[dict[str, Any]]:
    found = []
    for key, words in METRICS.items():
        values = [window.metrics.get(key) for window in windows]
        known = [value for value in values if value is not None]
        if known:
            found.append(
                {"name": words, "value": known[-1], "chart": sparkline(values, f"{words}, by window")}
            )
    return found


def _line(window: WindowRecord) -> dict[str, Any]:
    return {
        "start": f"{window.start:%Y-%m-%d %H:%M}",
        "rows": window.rows,
        "truths": share(window.truths / window.rows) if window.rows else "–",
        "causes": [(cause.name, cause.severity, cause.headline) for cause in window.causes],
    }
