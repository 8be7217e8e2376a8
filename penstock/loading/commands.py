"""`penstock ingest …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    pass

__all__ = ["ingest"]


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
    names: Annotated[
        list[str], typer.Argument(help="Of conf/load/NAME.yaml, one or more; then overrides, key=value.")
    ],
    since: Annotated[str | None, typer.Option(help="Read again from here: a number, or ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Read up to here, this not included.")] = None,
    full: Annotated[bool, typer.Option(help="Read everything, whatever was read before.")] = False,
    watch: Annotated[str | None, typer.Option(help="Again and again, at this interval: 30s, 5m, 1h.")] = None,
    log: Annotated[Literal["human", "json"], typer.Option(help="What is said on standard error.")] = "human",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="With --watch: serve Prometheus metrics at this port of 127.0.0.1, or ADDRESS:PORT."
        ),
    ] = None,
    fail_on_alert: Annotated[bool, typer.Option(help="Exit with 3 if an alert is raised.")] = False,
) -> None:
    """Load what is new."""
