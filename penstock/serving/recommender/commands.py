"""`penstock recommend …`. Every command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["recommend"]

recommend = typer.Typer(no_args_is_help=True, help="Recommendations that react to the last interaction.")


@recommend.command()
def up(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="A name of conf/recommend/NAME.yaml, and Hydra overrides such as port=9000 workers=2.",
            show_default="default",
        ),
    ] = None,
) -> None:
    """Serve recommendations over HTTP until Ctrl-C, with a page to click through them."""
    from penstock.serving.recommender.declared import declared
    from penstock.serving.recommender.running import serve

    sys.exit(serve(declared(what or [])))


@recommend.command()
def replay(
    interactions: Annotated[
        Path, typer.Option(help="Interactions with their part, as the graph has split them.")
    ] = Path("data/prepared/ratings.parquet"),
    url: Annotated[str, typer.Option(help="Of a recommender that runs.")] = "http://127.0.0.1:8700",
    users: Annotated[int | None, typer.Option(min=1, help="The first so many. [default: all]")] = None,
    k: Annotated[int, typer.Option(min=1, max=500, help="Length of a list.")] = 10,
    model: Annotated[
        Path, typer.Option(help="The artefact that is asked beside it, without a server.")
    ] = Path("models/ratings"),
    key: Annotated[str | None, typer.Option(envvar="PENSTOCK_KEY", help="A client's key.")] = None,
    keep: Annotated[bool, typer.Option(help="Leave the users in the store.")] = False,
) -> None:
    """Let the users of the hold-out live again: every interaction, then the list, then what they took up next.

    The server must say, list for list, what the artefact says offline; the exit code is 1 if it does not.
    """
    from penstock.serving.recommender.replay import replayed

    outcome = replayed(interactions, model, url, users=users, k=k, key=key, keep=keep)
    print(outcome.words())
    sys.exit(0 if outcome.same else 1)
