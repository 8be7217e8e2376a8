"""`penstock monitor …`. Every command imports what it needs when it runs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.console import progress, say
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.monitoring.run import Monitoring, Ran

__all__ = ["monitor"]

monitor = typer.Typer(
    no_args_is_help=True,
    help="What a model is asked and answers, compared with what it was made for, as conf/monitor/NAME.yaml declares it.",
)

Name = Annotated[str, typer.Argument(help="Of conf/monitor/NAME.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Hydra overrides, such as windows.every=1d.", show_default=False)
]
Moment = Annotated[str | None, typer.Option(help="ISO 8601, such as 2026-01-31T06:00Z; without a zone, UTC.")]


def _monitoring(name: str, overrides: list[str] | None) -> Monitoring:
    # Before NumPy: matrices of a hundred columns are multiplied slower by two threads than by one.
    from penstock.reproducible import pin_numerics

    pin_numerics()
    from penstock.monitoring.run import Monitoring, declared

    return Monitoring(name, declared(name, overrides))


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise PenstockError(f"{option} {text}: no time", hint="write it as 2026-01-31T06:00Z") from error
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


@monitor.command()
def run(name: Name, overrides: Overrides = None, since: Moment = None, until: Moment = None) -> None:
    """Judge every window that is complete and new, or of which more has come true, and tell who is to be told."""
    monitoring = _monitoring(name, overrides)
    with progress(f"monitor {name}", None, unit="windows") as advance:
        ran = monitoring.run(
            datetime.now(UTC),
            since=_moment(since, "--since"),
            until=_moment(until, "--until"),
            advance=advance,
        )
    _told(monitoring, ran)


@monitor.command()
def watch(
    name: Name,
    overrides: Overrides = None,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds from one run to the next.")] = 300.0,
    metrics: Annotated[
        str | None, typer.Option(help="[ADDRESS:]PORT where Prometheus may ask, such as 9109.")
    ] = None,
) -> None:
    """Run again and again until Ctrl-C. What goes wrong once is told, and tried again."""
    import contextlib
    import signal
    import threading

    from penstock.metrics_serving import serving
    from penstock.monitoring.metrics import exposition

    monitoring = _monitoring(name, overrides)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    policies = {name: monitoring.view.alerting}
    with contextlib.ExitStack() as stack:
        if metrics is not None:
            port = stack.enter_context(serving(metrics, lambda: exposition(Path(), policies)))
            say(f"metrics on port {port}")
        while not stop.is_set():
            try:
                _told(monitoring, monitoring.run(datetime.now(UTC)))
            except PenstockError as error:
                say(f"monitor {name}: {error}; tried again in {every:.0f} s")
            stop.wait(every)


@monitor.command()
def report(
    name: Name,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[default: reports/monitor/NAME.html]")
    ] = None,
    evidently: Annotated[
        bool, typer.Option("--evidently", help="Evidently's page of the latest window as well.")
    ] = False,
) -> None:
    """Write the page: verdict, findings, every column's history."""
    monitoring = _monitoring(name, overrides)
    from penstock.monitoring.page import monitor_page
    from penstock.storage import write_text

    now = datetime.now(UTC)
    path = out or Path("reports/monitor") / f"{name}.html"
    windows = monitoring.history.windows(last=100)
    write_text(path, monitor_page(name, monitoring.view, windows, monitoring.history.mutes(now), now))
    say(f"{path}")
    if evidently:
        if not windows:
            raise PenstockError(f"monitor {name}: no window was judged", hint=f"penstock monitor run {name}")
        from penstock.monitoring.evidently_page import write_evidently

        reference, current = monitoring.latest()
        say(f"{write_evidently(reference, current, path.with_suffix('.evidently.html'))}")


@monitor.command()
def status(
    name: Name,
    overrides: Overrides = None,
    stale: Annotated[
        float, typer.Option(min=0, help="Hours that the latest window may be old; 0: as old as it is.")
    ] = 0,
) -> None:
    """What holds; exit code 1 if an alert does that is not muted, 3 if nothing was judged for too long."""
    monitoring = _monitoring(name, overrides)
    from penstock.monitoring.alerting import active

    windows = monitoring.history.windows(last=200)
    now = datetime.now(UTC)
    if not windows:
        say(f"monitor {name}: no window was judged yet")
        sys.exit(3)
    mutes = monitoring.history.mutes(now)
    last = windows[-1]
    print(
        f"{'window':<14}{last.start:%Y-%m-%d %H:%M} … {last.end:%Y-%m-%d %H:%M} UTC, {last.rows} rows, truth of {last.truths}"
    )
    for key in ("roc_auc", "estimated_roc_auc", "accuracy", "loss", "latency_p95_ms", "errors"):
        if last.metrics.get(key) is not None:
            print(f"{key:<14}{last.metrics[key]:.4g}" if len(key) < 14 else f"{key} {last.metrics[key]:.4g}")
    alerts = active(windows, monitoring.view.alerting)
    for alert in alerts.values():
        muted = f" (muted until {mutes[alert.cause].until:%Y-%m-%d %H:%M})" if alert.cause in mutes else ""
        print(f"{alert.severity:<14}{alert.cause}: {alert.headline}{muted}")
    if stale and (now - last.end).total_seconds() > stale * 3600:
        say(
            f"monitor {name}: the latest window ended {(now - last.end).total_seconds() / 3600:.1f} hours ago"
        )
        sys.exit(3)
    sys.exit(1 if any(cause not in mutes for cause in alerts) else 0)


@monitor.command()
def mute(
    name: Name,
    cause: Annotated[
        str, typer.Argument(help="inputs, predictions, performance, fairness, skew, service or truth.")
    ],
    span: Annotated[str, typer.Option("--for", help="How long: 90m, 12h, 2d.")] = "1d",
    why: Annotated[str, typer.Option(help="For whoever wonders.")] = "",
    by: Annotated[str, typer.Option(help="[default: the user]")] = "",
) -> None:
    """Hear nothing of a cause for a time; if it holds afterwards, it is told again."""
    import getpass

    from penstock.monitoring.findings import CAUSES
    from penstock.monitoring.history import Mute

    if cause not in CAUSES.values():
        raise PenstockError(
            f"{cause}: no such cause", hint=f"there are {', '.join(sorted(set(CAUSES.values())))}"
        )
    monitoring = _monitoring(name, None)
    until = datetime.now(UTC) + _span(span)
    monitoring.history.mute(Mute(cause=cause, until=until, why=why, by=by or getpass.getuser()))
    say(f"{name}: {cause} is muted until {until:%Y-%m-%d %H:%M} UTC")


@monitor.command()
def unmute(name: Name, cause: Annotated[str, typer.Argument(help="As it was muted.")]) -> None:
    """End a mute before its time."""
    monitoring = _monitoring(name, None)
    if not monitoring.history.unmute(cause):
        raise PenstockError(f"{name}: {cause} is not muted")
    say(f"{name}: {cause} is heard of again")


def _span(text: str) -> timedelta:
    from penstock.config.loading.spans import duration

    try:
        found = duration(text)
    except ValueError as error:
        raise PenstockError(f"--for {text}: {error}") from error
    if not isinstance(found, timedelta):
        raise PenstockError(f"--for {text}: no span of time", hint="write 90m, 12h or 2d")
    return found


def _told(monitoring: Monitoring, ran: Ran) -> None:
    from penstock.monitoring.metrics import write_textfile

    for window in ran.judged:
        for cause in window.causes:
            print(f"{window.start:%Y-%m-%dT%H:%M} {cause.severity:<9}{cause.name:<12}{cause.headline}")
    quiet = sum(not window.causes for window in ran.judged)
    say(f"monitor {monitoring.name}: {len(ran.judged)} windows judged, {quiet} with nothing to look into")
    for alert in ran.change.raised:
        say(f"alert: {alert.cause} ({alert.severity}): {alert.headline}")
    for alert in ran.change.cleared:
        say(f"over: {alert.cause}")
    write_textfile(Path(), {monitoring.name: monitoring.view.alerting})
