"""`penstock ingest …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from penstock.console import USER_ERROR, say
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.config.loading import Load
    from penstock.loading.events import Events
    from penstock.loading.load import Bounds

__all__ = ["ingest"]

ALERT = 3  # exit code of --fail-on-alert


class _Named(TyperGroup):
    """`ingest NAME` is `ingest run NAME`: what is no command is the name of a load."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


ingest = typer.Typer(
    cls=_Named,
    no_args_is_help=True,
    help="Load what is new from a source into a table: `penstock ingest NAME`, as conf/load/NAME.yaml declares it.",
)


@ingest.command()
def run(
    name: Annotated[str, typer.Argument(help="Of conf/load/NAME.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, such as source.path=new.csv.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Read again from here: a number, or ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Read up to here, this not included.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Read everything, whatever was read before.")] = False,
    watch: Annotated[str | None, typer.Option(help="Again and again, at this interval: 30s, 5m, 1h.")] = None,
    log: Annotated[Literal["human", "json"], typer.Option(help="What is said on standard error.")] = "human",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="With --watch: serve Prometheus metrics at this port of 127.0.0.1, or at ADDRESS:PORT."
        ),
    ] = None,
    fail_on_alert: Annotated[
        bool, typer.Option("--fail-on-alert", help="Exit with 3 if an alert holds.")
    ] = False,
) -> None:
    """Load what is new (the name alone does it, too)."""
    from penstock.loading.declared import declared
    from penstock.loading.events import Events
    from penstock.loading.load import Bounds

    load = declared(name, overrides or ())
    _ignored_by_git(load)
    events = Events(log)
    bounds = Bounds(since, until, full)
    if watch is None:
        if metrics:
            raise PenstockError(
                "--metrics goes with --watch", hint="the file .penstock/loads/metrics.prom is always written"
            )
        alerts = _once(name, load, events, bounds, lambda: False)
        if alerts is None:
            sys.exit(USER_ERROR)
        if alerts and fail_on_alert:
            sys.exit(ALERT)
        return
    if bounds.given:
        raise PenstockError(
            "--watch reads what is new", hint="leave --since, --until and --full out, or run once"
        )
    _watched(name, load, events, watch, metrics)


def _once(name: str, load: Load, events: Events, bounds: Bounds, stopped: Any) -> int | None:
    """One run with all that is written about it; returns how many alerts hold, None if it failed."""
    from datetime import UTC, datetime

    from penstock.loading import alerts, metrics
    from penstock.loading.journal import Journal
    from penstock.loading.load import Folders
    from penstock.loading.load import run as run_load
    from penstock.loading.report import Report

    folders = Folders.of(name)
    journal = Journal(folders.own)
    last: list[Report] = []

    def told(report: Report) -> None:
        last[:] = [report]
        journal.note(report)
        events.progressed(report)

    failed = False
    try:
        report = run_load(name, load, folders, bounds=bounds, told=told, stopped=stopped)
    except PenstockError as error:
        failed = True
        if not last:  # it never began: another process has it, or its settings are wrong
            raise
        report = last[0].model_copy(
            update={"outcome": "failed", "ended": datetime.now(UTC), "error": str(error)}
        )
    journal.note(report)
    (events.failed if failed else events.finished)(report)
    now = datetime.now(UTC)
    holding = alerts.evaluate(name, journal.runs(), load.monitor, now)
    raised, cleared = alerts.transitions(folders.own, holding)
    for alert in raised:
        events.alert(alert, raised=True)
    for alert in cleared:
        events.alert(alert, raised=False)
    if raised or cleared:
        for notify in load.monitor.notify:
            try:
                alerts.send(notify, raised, cleared, now)
            except PenstockError as error:  # the rows are in; that nobody could be told must not undo it
                say(f"warning: {error}")
    metrics.write_textfile()
    return None if failed else len(holding)


def _ignored_by_git(load: Load) -> None:
    """Keep a table that lies in the repository out of git: into git goes what `dvc add` says of it."""
    import subprocess

    path = Path(getattr(load.destination, "path", ""))
    if (
        path == Path()
        or path.is_absolute()
        or "://" in str(path)
        or ".." in path.parts
        or not Path(".git").exists()
    ):
        return
    if subprocess.run(["git", "check-ignore", "-q", path], check=False).returncode != 1:
        return
    file = path.parent / ".gitignore"
    lines = file.read_text().splitlines() if file.is_file() else []
    from penstock.storage import write_text

    # Names alone: DVC does not follow a pattern and its exceptions.
    write_text(file, "\n".join(sorted({*lines, f"/{path.name}"})) + "\n")
    say(f"{file}: {path.name} is left out of git; `dvc add {path}` versions it")


def _watched(name: str, load: Load, events: Events, interval: str, metrics: str | None) -> None:
    from contextlib import nullcontext

    from penstock.config.loading.spans import duration
    from penstock.loading.load import Bounds
    from penstock.loading.metrics import serving
    from penstock.loading.watching import stopping, watch

    try:
        every = duration(interval)
    except ValueError as error:
        raise PenstockError(f"--watch {error}") from error

    def run_once() -> bool:
        try:
            return _once(name, load, events, Bounds(), stop.is_set) is not None
        except PenstockError as error:
            say(f"error in {name}: {error}")
            return False

    with stopping() as stop, serving(metrics) if metrics else nullcontext() as port:
        if port:
            say(f"metrics: http://127.0.0.1:{port}/metrics")
        watch(every, run_once, stop)


@ingest.command()
def status(
    name: Annotated[str | None, typer.Argument(help="One load: its last runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a machine.")] = False,
    last: Annotated[int, typer.Option(min=1, help="Runs of one load.")] = 10,
) -> None:
    """How loads stand: age of the data, rows, rejects, alerts."""
    import json
    from datetime import UTC, datetime

    from rich.console import Console

    from penstock.loading.journal import Journal
    from penstock.loading.load import Folders
    from penstock.loading.status import runs_table, status_table
    from penstock.loading.status import status as entries

    root = Path()
    now = datetime.now(UTC)
    if name is None:
        if as_json:
            print(json.dumps(entries(root, now), indent=2))
            return
        Console().print(status_table(root, now))
        return
    runs = Journal(Folders.of(name).own).runs()[-last:]
    if not runs:
        raise PenstockError(f"{name}: has never run here", hint=f"penstock ingest {name}")
    if as_json:
        print(json.dumps([run.model_dump(mode="json") for run in runs], indent=2))
        return
    Console().print(runs_table(runs))


@ingest.command(name="list")
def list_loads() -> None:
    """The loads that conf/load/ declares."""
    from penstock.loading.declared import names

    for name in names():
        print(name)


@ingest.command()
def compact(name: Annotated[str, typer.Argument(help="Of conf/load/NAME.yaml.")]) -> None:
    """Put a table's small files together, and give back space that no reader needs."""
    from penstock.loading.declared import declared
    from penstock.loading.destinations import open_table
    from penstock.loading.load import Folders, locked

    with locked(name, Folders.of(name).own), open_table(declared(name).destination) as table:
        fewer = table.compact()
    say(f"{name}: {fewer} files fewer")


@ingest.command()
def metrics() -> None:
    """Print Prometheus metrics of all loads."""
    from penstock.loading.metrics import exposition

    sys.stdout.write(exposition().decode())


@ingest.command()
def examples() -> None:
    """Write the data that the examples under conf/load/ read, to data/examples/."""
    from penstock.examples.data import make

    for path in make():
        say(f"{path} written")
