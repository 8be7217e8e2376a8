"""`penstock maintain …`. Every command imports what it needs when it runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from penstock.console import say
from penstock.errors import PenstockError

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
def incidents(name: Name) -> None:
    """All incidents, the latest last."""
    from penstock.maintenance.incidents import Incidents

    for one in Incidents(Path(".penstock/maintenance") / name / "incidents.jsonl").all():
        ended = f"{one.closed:%Y-%m-%d %H:%M}" if one.closed else "open"
        print(f"{one.id}  {one.opened:%Y-%m-%d %H:%M} … {ended}  {one.outcome:<12}{', '.join(one.causes)}")


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
