"""`penstock maintain …`. Every command imports what it needs when it runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from penstock.console import say

__all__ = ["maintain"]

maintain = typer.Typer(
    no_args_is_help=True,
    help="What is done about a model that is no longer good, as conf/maintenance/NAME.yaml declares it.",
)

Name = Annotated[str, typer.Argument(help="Of conf/maintenance/NAME.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Hydra overrides.", show_default=False)]


@maintain.command()
def run(name: Name, overrides: Overrides = None) -> None:
    """Decide from what `penstock monitor` found, and do it: roll back, retrain, compare, promote or keep."""
    from penstock.maintenance.run import Maintaining, declared
    from penstock.reproducible import pin_numerics

    pin_numerics()
    maintaining = Maintaining(name, declared(name, overrides or []))
    action = maintaining.run()
    if action.kind is None:
        say(f"maintain {name}: {action.why or 'nothing is to be done'}")
        return
    for entry in maintaining.incidents.all()[-1].entries:
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
    name: Name, days: Annotated[float, typer.Option(min=0.01, help="Back from now.")] = 30.0
) -> None:
    """Availability, MTBF, MTTR and error budget over a period."""
    from penstock.maintenance.incidents import Incidents
    from penstock.maintenance.reliability import reliability as counted
    from penstock.maintenance.run import declared

    now = datetime.now(UTC)
    found = Incidents(Path(".penstock/maintenance") / name / "incidents.jsonl").all()
    told = counted(found, now - timedelta(days=days), now, objective=declared(name).objective.availability)
    print(f"{'availability':<14}{told.availability * 100:.3f} %")
    print(f"{'failures':<14}{told.failures}")
    print(f"{'down':<14}{told.down}")
    print(f"{'MTBF':<14}{told.mtbf or '–'}")
    print(f"{'MTTR':<14}{told.mttr or '–'}")
    print(
        f"{'budget':<14}{told.budget}, {told.left * 100:.1f} % left, used {told.burn:.2f} times as fast as allowed"
    )
