"""`penstock serve` and `penstock keys`. Every command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock.console import say

__all__ = ["keys", "serve"]

keys = typer.Typer(no_args_is_help=True, help="Keys of those who may ask a predictor.")

CLIENTS, ADMINS = Path("conf/clients.yaml"), Path("conf/admins.yaml")
Admin = Annotated[bool, typer.Option(help="For /admin/, rather than for predictions.")]
File = Annotated[
    Path | None,
    typer.Option(help="What `keys` or `admin_keys` names. [default: conf/clients.yaml or conf/admins.yaml]"),
]
Name = Annotated[str, typer.Argument(help="Whose key.")]


def serve(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="A name of conf/serve/NAME.yaml, or folders of artefacts such as models/churn; and Hydra overrides "
            "such as port=9000 workers=2.",
            show_default="default: everything in models/",
        ),
    ] = None,
) -> None:
    """Serve artefacts over HTTP until Ctrl-C: the Open Inference Protocol, and rows of named columns as JSON."""
    from penstock.serving.declared import declared
    from penstock.serving.running import serve as run

    sys.exit(run(declared(what or [])))


@keys.command("add")
def add_key(name: Name, file: File = None, admin: Admin = False) -> None:
    """A new key, printed once on standard output."""
    from penstock.keys import add
    from penstock.serving.predictor import ADMIN, CLIENT

    path = file or (ADMINS if admin else CLIENTS)
    print(f"{name} {add(path, name, ADMIN if admin else CLIENT)}")
    say(f"kept as a hash in {path}")


@keys.command("list")
def list_keys(file: File = None, admin: Admin = False) -> None:
    """Who has keys, and how many."""
    from penstock.keys import known
    from penstock.serving.predictor import ADMIN, CLIENT

    for name, hashes in sorted(
        known(file or (ADMINS if admin else CLIENTS), ADMIN if admin else CLIENT).items()
    ):
        print(f"{name}\t{len(hashes)}")


@keys.command("revoke")
def revoke_key(name: Name, file: File = None, admin: Admin = False) -> None:
    """Take all keys from someone; running predictors see it at once."""
    from penstock.keys import revoke
    from penstock.serving.predictor import ADMIN, CLIENT

    path = file or (ADMINS if admin else CLIENTS)
    say(f"{name}: {revoke(path, name, ADMIN if admin else CLIENT)} keys revoked")
