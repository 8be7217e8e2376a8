"""`penstock deploy azure …`. Every command imports what it needs when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from penstock.console import say

if TYPE_CHECKING:
    from penstock.deploy.azure_standing import Cloud

__all__ = ["azure"]

azure = typer.Typer(
    no_args_is_help=True,
    help="Azure: a managed online endpoint with a blue and a green deployment, as conf/deploy/NAME.yaml declares it.",
)
Name = Annotated[str, typer.Argument(help="Of conf/deploy/NAME.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, such as location=northeurope.", show_default=False),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextmanager
def _cloud(name: str, overrides: list[str] | None) -> Iterator[Cloud]:
    from penstock.composition import composed_file
    from penstock.config import validated
    from penstock.config.deploying import Azure
    from penstock.deploy.azure_standing import opened

    root = Path()
    found = composed_file("deploy", name, overrides or [], root)
    view = validated(Azure, found, Path(f"conf/deploy/{name}.yaml"), hint="mend it there, or by an override")
    with opened(view, say, root) as cloud:
        yield cloud


@contextmanager
def _journalled(verb: str, name: str, cloud: Cloud) -> Iterator[None]:
    """One at a time on this machine, and written down. What there is to do is asked of Azure, not of the journal."""
    from penstock.deploy.azure_history import History

    with History(cloud.root, name).run(verb):
        yield


@azure.command()
def plan(
    name: Name = "azure",
    overrides: Overrides = None,
    changes: Annotated[
        bool, typer.Option("--exit-code", help="End with 3 if there is something to do.")
    ] = False,
) -> None:
    """What `apply` would do. Nothing is written."""
    from penstock.deploy import azure as verbs

    with _cloud(name, overrides) as cloud:
        found = verbs.plan(cloud)
    for change in found:
        print(change)
    say(f"{len(found)} to do" if found else "nothing to do: all is as declared")
    if changes and found:
        sys.exit(3)


@azure.command()
def apply(name: Name = "azure", overrides: Overrides = None) -> None:
    """Bring Azure in line with what is declared. A new artefact goes beside the live one, without requests; `promote` gives it some."""
    from penstock.deploy import azure as verbs

    with _cloud(name, overrides) as cloud, _journalled("apply", name, cloud):
        done = verbs.apply(cloud)
    say(f"{len(done)} done" if done else "nothing to do: all is as declared")


@azure.command()
def promote(
    name: Name = "azure",
    overrides: Overrides = None,
    to: Annotated[
        Literal["mirror", "canary", "full"] | None, typer.Option(help="The stage.", show_default="the next")
    ] = None,
    now: Annotated[
        bool, typer.Option(help="Skip the time it is to bake, and the verdict on its requests.")
    ] = False,
) -> None:
    """One stage further: copies of requests, then a share of them, then all. What fails too often is not promoted."""
    from penstock.deploy import azure_promotion

    with _cloud(name, overrides) as cloud, _journalled("promote", name, cloud):
        say(azure_promotion.promote(cloud, to, now=now))


@azure.command()
def rollback(name: Name = "azure", overrides: Overrides = None) -> None:
    """All requests to the model before, which is still there: one request to Azure."""
    from penstock.deploy import azure_promotion

    with _cloud(name, overrides) as cloud, _journalled("rollback", name, cloud):
        say(azure_promotion.rollback(cloud))


@azure.command()
def status(
    name: Name = "azure",
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Who gets what share, and how each part is; exit code 1 if one is not well."""
    from penstock.deploy.azure_standing import standing

    with _cloud(name, overrides) as cloud:
        now = standing(cloud)
    rows = {
        colour: {
            "version": now.version(colour) or None,
            "image": now.holds(colour)[1] or None,
            "state": now.state(colour),
            "traffic": now.traffic.get(colour, 0),
            "mirror": now.mirror.get(colour, 0),
        }
        for colour in now.colours
    }
    if as_json:
        print(json.dumps({"stage": now.stage, "live": now.live, "deployments": rows}, indent=2))
    else:
        for colour, row in rows.items():
            words = f"{row['version'] or '-':<14}{row['state']:<12}{row['traffic']:>3} % answered"
            print(f"{colour:<8}{words}" + (f", {row['mirror']} % copied" if row["mirror"] else ""))
        print(
            f"stage   {now.stage or '-'}" + (f", since {now.since:%Y-%m-%d %H:%M} UTC" if now.since else "")
        )
    well = now.live is not None and all(row["state"] in ("Succeeded", "absent") for row in rows.values())
    sys.exit(0 if well else 1)


@azure.command()
def destroy(name: Name = "azure", overrides: Overrides = None, yes: Yes = False) -> None:
    """Remove all of it, and only it: endpoint, workspace, resource group, and the vault's name."""
    from penstock.deploy import azure as verbs

    with _cloud(name, overrides) as cloud:
        if not yes:
            typer.confirm(
                f"Remove resource group {cloud.view.resource_group} with endpoint {cloud.view.endpoint}?",
                abort=True,
            )
        with _journalled("destroy", name, cloud):
            done = verbs.destroy(cloud)
    for line in done:
        say(f"- {line}")
    say("removed" if done else "nothing is there")
