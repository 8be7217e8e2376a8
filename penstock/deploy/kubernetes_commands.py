"""`penstock deploy kubernetes …`. Every command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from penstock.console import say
from penstock.errors import PenstockError

__all__ = ["kubernetes"]

kubernetes = typer.Typer(
    no_args_is_help=True, help="Kubernetes: rollouts as manifests. The rest is deploy/kubernetes/."
)


@kubernetes.command()
def render(
    name: Annotated[str, typer.Argument(help="Of conf/rollout/NAME.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides, such as state.kind=redis.", show_default=False),
    ] = None,
    target: Annotated[
        Literal["router", "kserve"],
        typer.Option(
            "--for", help="Our router, which honours what is declared; or KServe, which honours little of it."
        ),
    ] = "router",
    percent: Annotated[
        int | None, typer.Option(min=0, max=100, help="For KServe: what the new version gets now.")
    ] = None,
    cluster: Annotated[str, typer.Option(help="Of conf/deploy/NAME.yaml.")] = "kubernetes",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file, instead of standard output.")
    ] = None,
) -> None:
    """A rollout as manifests. What cannot be honoured there is refused, with a word on what can."""
    import yaml

    from penstock.composition import composed_file
    from penstock.config import validated
    from penstock.config.deploying import Kubernetes
    from penstock.config.rollout import Rollout
    from penstock.deploy.kubernetes import kserve, router, runtime
    from penstock.storage import write_text

    given = overrides or []
    root = Path()
    view = validated(
        Rollout,
        composed_file("rollout", name, given, root),
        Path(f"conf/rollout/{name}.yaml"),
        hint="mend it there",
    )
    place = validated(
        Kubernetes,
        composed_file("deploy", cluster, [], root),
        Path(f"conf/deploy/{cluster}.yaml"),
        hint="mend it there",
    )
    if percent is not None and target != "kserve":
        raise PenstockError(
            "--percent: is KServe's alone; the router takes its steps as declared",
            hint="penstock rollout set … changes them while it runs",
        )
    if target == "router":
        documents = router(name, view, place, given)
    else:
        documents = [runtime(place), *kserve(name, view, place, percent)]
        say("note: KServe judges no version: errors and latency are looked at by whoever sets the share")
    again = " ".join(
        filter(
            None, ["penstock deploy kubernetes render", name, *map(_quoted, given), _options(target, percent)]
        )
    )
    text = f"# Rendered: {again}\n" + yaml.safe_dump_all(
        documents, sort_keys=False, width=160, allow_unicode=True, explicit_start=True
    )
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        say(f"{out}: {len(documents)} documents")


def _options(target: str, percent: int | None) -> str:
    words = [] if target == "router" else ["--for", target]
    return " ".join([*words, *([] if percent is None else ["--percent", str(percent)])])


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
