"""`penstock maintain …`. Every command imports what it needs when it runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.console import say
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.maintenance.incidents import Incidents, What
    from penstock.maintenance.run import Maintaining

__all__ = ["maintain"]

maintain = typer.Typer(
    no_args_is_help=True,
    help="What is done about a model that is no longer good, as conf/maintenance/NAME.yaml declares it.",
)

Name = Annotated[str, typer.Argument(help="Of conf/maintenance/NAME.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides.", show_default=False)]


@maintain.command()
def run(
    name: Name,
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done; do nothing.")] = False,
) -> None:
    """Decide from what `penstock monitor` found, and do it: roll back, retrain, compare, promote or keep."""
    from penstock.maintenance.metrics import write_textfile
    from penstock.maintenance.run import Maintaining, declared
    from penstock.reproducible import pin_numerics

    pin_numerics()
    maintaining = Maintaining(name, declared(name, overrides or []))
    if plan:
        planned = maintaining.decided()
        steps = [
            word for word, does in (("roll back", planned.rollback), ("retrain", planned.retrain)) if does
        ]
        say(f"maintain {name}: {' and '.join(steps) or 'nothing'}: {planned.why or 'nothing is to be done'}")
        return
    before = len(maintaining.incidents.entries())
    try:
        action = maintaining.run()
    finally:
        write_textfile(name, maintaining.policy, maintaining.monitoring, datetime.now(UTC))
    if action.kind is None:
        say(f"maintain {name}: {action.why or 'nothing is to be done'}")
    for entry in maintaining.incidents.entries()[before:]:
        print(f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.what:<12}{entry.words}")


@maintain.command()
def watch(
    name: Name,
    overrides: Overrides = None,
    every: Annotated[float, typer.Option(min=1.0, help="Seconds from one round to the next.")] = 3600.0,
    metrics: Annotated[
        str | None,
        typer.Option(help="[ADDRESS:]PORT where Prometheus may ask, such as 9109; of the monitor, too."),
    ] = None,
) -> None:
    """Monitor and maintain again and again until Ctrl-C, where no scheduler does. What goes wrong once is told, and tried again."""
    import contextlib
    import signal
    import threading
    import traceback

    from penstock.maintenance.metrics import write_textfile
    from penstock.maintenance.run import Maintaining, declared
    from penstock.metrics_serving import serving
    from penstock.monitoring.metrics import exposition as of_monitor
    from penstock.reproducible import pin_numerics

    pin_numerics()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    told = [b""]
    with contextlib.ExitStack() as stack:
        if metrics is not None:
            port = stack.enter_context(serving(metrics, lambda: told[0]))
            say(f"metrics on port {port}")
        while not stop.is_set():
            try:
                maintaining = Maintaining(name, declared(name, overrides or []))  # anew: it may have changed
                try:
                    _round(name, maintaining)
                finally:
                    monitoring = maintaining.monitoring
                    written = write_textfile(name, maintaining.policy, monitoring, datetime.now(UTC))
                    alerting = {maintaining.policy.monitor: monitoring.view.alerting}
                    told[0] = written.read_bytes() + of_monitor(Path(), alerting)
            except PenstockError as error:
                say(f"maintain {name}: {error}; tried again in {every:.0f} s")
            except Exception:  # a full disk, or what nobody has thought of: it goes on, and says so
                say(f"maintain {name}: a defect; tried again in {every:.0f} s:\n{traceback.format_exc()}")
            stop.wait(every)


def _round(name: str, maintaining: Maintaining) -> None:
    """Monitor, decide and act once, and print what was written down."""
    before = len(maintaining.incidents.entries())
    try:
        maintaining.monitoring.run(datetime.now(UTC))
        action = maintaining.run()
        say(f"maintain {name}: {action.why or 'nothing is to be done'}")
    finally:
        for entry in maintaining.incidents.entries()[before:]:
            print(f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.what:<13}{_one_line(entry.words)}", flush=True)


@maintain.command()
def status(name: Name) -> None:
    """What holds, what would be done, and how much error budget is left; exit code 1 while an incident is open."""
    from penstock.maintenance.run import Maintaining, declared
    from penstock.maintenance.service_level import level

    policy = declared(name)
    maintaining = Maintaining(name, policy)
    now = datetime.now(UTC)
    every = maintaining.incidents.all()
    trained = [entry.at for one in every for entry in one.entries if entry.what == "retrained"]
    print(f"{'retrained':<18}{f'{max(trained):%Y-%m-%d %H:%M} UTC' if trained else 'not yet'}")
    log, model = maintaining.monitoring.requests, maintaining.monitoring.view.model
    objective = policy.objective
    budget = level(log, model, now - objective.window, now, objective)
    print(f"{'error budget':<18}{budget.left:.1%} left, of {budget.requests} requests")
    print(f"{'next':<18}{maintaining.decided().why or 'nothing is to be done'}")
    opened = [one for one in every if one.closed is None]
    for one in opened:
        seen = f"acknowledged {one.acknowledged:%H:%M}" if one.acknowledged else "not acknowledged"
        print(f"{'open':<18}{one.id} since {one.opened:%Y-%m-%d %H:%M} UTC, {seen}: {one.entries[0].words}")
    if opened:
        raise typer.Exit(1)


@maintain.command()
def incidents(name: Name) -> None:
    """All incidents, the latest last; exit code 1 if the log is not what was written."""
    log = _log(name)
    for one in log.all():
        ended = f"{one.closed:%Y-%m-%d %H:%M}" if one.closed else "open"
        print(f"{one.id}  {one.opened:%Y-%m-%d %H:%M} … {ended}  {one.outcome:<12}{', '.join(one.causes)}")
    if (broken := log.broken()) is not None:
        say(f"{log.path}:{broken}: this is not what was written; a backup has it")
        raise typer.Exit(1)


Why = Annotated[str, typer.Argument(help="For whoever reads it later.")]
Who = Annotated[str, typer.Option(help="[default: the user]")]
Which = Annotated[
    str | None, typer.Option("--incident", help="Its id, or how that begins. [default: the open one]")
]


@maintain.command("open")
def begin(
    name: Name,
    why: Why,
    down: Annotated[
        bool, typer.Option("--down", help="Users have no good answers: it counts against availability.")
    ] = False,
    who: Who = "",
) -> None:
    """Open an incident by hand. Until you close it, maintenance begins nothing by itself."""
    from penstock.maintenance.incidents import OPERATOR, Entry

    log, now = _log(name), datetime.now(UTC)
    found = [one.id for one in log.all() if one.closed is None]
    if found:
        raise PenstockError(
            f"incident {found[0]} is open", hint=f"penstock maintain ack {name} …, and close it"
        )
    entry = Entry(
        incident=f"{now:%Y%m%dT%H%M%S%f}-{OPERATOR}",
        at=now,
        what="opened",
        kind="corrective",
        causes=(OPERATOR,),
        down=down,
        words=why,
        who=_person(who),
    )
    log.append(entry)
    say(f"{entry.incident} is open")


@maintain.command()
def ack(name: Name, why: Why = "", incident: Which = None, who: Who = "") -> None:
    """Say that you look after an incident."""
    _by_hand(name, incident, "acknowledged", why, who)


@maintain.command()
def close(name: Name, why: Why, incident: Which = None, who: Who = "") -> None:
    """Close an incident by hand, and say how it ended."""
    _by_hand(name, incident, "closed", why, who)


def _by_hand(name: str, incident: str | None, what: What, why: str, who: str) -> None:
    from penstock.maintenance.incidents import Entry

    log = _log(name)
    found = log.open_one(incident)
    if what == "closed" and not found.is_of_operator and not found.is_handed_over:
        raise PenstockError(
            f"{found.id}: a round is at it, and closes it itself",
            hint="if that was killed, the next round closes it: penstock maintain run",
        )
    log.append(
        Entry(
            incident=found.id,
            at=datetime.now(UTC),
            what=what,
            kind=found.kind,
            causes=found.causes,
            words=why,
            who=_person(who),
        )
    )
    say(f"{found.id}: {what}")


def _log(name: str) -> Incidents:
    from penstock.maintenance.incidents import Incidents
    from penstock.maintenance.run import declared

    declared(name)  # a name that is misspelt has no log, which would look as if all were well
    return Incidents(Path(".penstock/maintenance") / name / "incidents.jsonl")


def _person(who: str) -> str:
    import getpass

    from penstock.maintenance.incidents import ITSELF

    try:
        found = who or getpass.getuser()
    except (KeyError, OSError) as error:  # in a container, a number may have no name
        raise PenstockError("nobody is known here by name", hint="say who you are: --who NAME") from error
    if found == ITSELF:
        raise PenstockError(f"--who {ITSELF}: that is the program's name", hint="give your own")
    return found


def _one_line(words: str) -> str:
    return " ".join(words.split())


@maintain.command()
def reliability(
    name: Name,
    since: Annotated[
        datetime | None,
        typer.Option(help="UTC. [default: the window of the error budget ago]", show_default=False),
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="UTC. [default: now]", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="A page, as a file.", show_default=False)] = None,
) -> None:
    """What a reliability review asks, of any period: history, targets, budget, burn rates, MTBF, MTTD, MTTR, costs."""
    from penstock.maintenance.review import lines, page, review
    from penstock.maintenance.run import Maintaining, declared
    from penstock.storage import write_text

    policy = declared(name)
    end = until.replace(tzinfo=UTC) if until is not None else datetime.now(UTC)
    begin = since.replace(tzinfo=UTC) if since is not None else end - policy.objective.window
    if begin >= end:
        raise PenstockError(f"--since {begin:%Y-%m-%d %H:%M} is not before --until", hint="both are UTC")
    found = review(name, policy, Maintaining(name, policy).monitoring, begin, end)
    if html is not None:
        write_text(html, page(found))
        say(f"{html} written")
    if as_json:
        import json

        print(json.dumps(found.dump(), indent=2))
    elif html is None:
        for label, value in lines(found):
            print(f"{label:<18}{value}")


@maintain.command()
def probe(name: Name) -> None:
    """Ask once whether anybody is there, and write it down; exit code 1 if not. For a scheduler."""
    from penstock.maintenance.run import declared
    from penstock.maintenance.service_level import probe as asked

    view = declared(name).probe
    if view is None:
        raise PenstockError(f"conf/maintenance/{name}.yaml: declares no probe", hint="probe: {url: http://…}")
    good, words = asked(view, Path(".penstock/maintenance") / name / "probes.jsonl", datetime.now(UTC))
    if not good:
        say(f"{view.url}: {words}")
        raise typer.Exit(1)


@maintain.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Where to; not there yet.")],
    keep_days: Annotated[
        float, typer.Option(min=0.01, help="How long you keep it: whoever asks to be forgotten is told.")
    ] = 90.0,
) -> None:
    """Save state (rollouts, incidents, history, recommendations, keys' hashes, flags, conf/) while everything runs."""
    from penstock.maintenance.backups import backup as saved

    done = saved(Path(), folder, datetime.now(UTC), timedelta(days=keep_days))
    say(f"{folder}: {len(done.files)} files, {sum(one.bytes for one in done.files)} bytes")
    for words in done.left_out:
        say(f"left out: {words}")


@maintain.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there and differs.")] = False,
) -> None:
    """Put state back, verified first. Nothing that uses it may be running."""
    from penstock.maintenance.backups import restore as put_back

    done, forgotten = put_back(Path(), folder, force=force)
    say(f"{len(done.files)} files are as of {done.created:%Y-%m-%d %H:%M:%S} UTC")
    if forgotten:
        say(
            f"{len(forgotten)} times somebody was forgotten since then ({', '.join(forgotten)}): "
            "do it again, penstock forget"
        )
