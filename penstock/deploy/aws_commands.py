"""`penstock deploy aws …`. Every command imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.console import say
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.config.deploying.aws import Aws
    from penstock.deploy.aws_release import Release
    from penstock.deploy.terraform import Terraform

__all__ = ["aws"]

aws = typer.Typer(
    no_args_is_help=True,
    help="AWS: an endpoint of SageMaker with a champion and a challenger in its shadow, as conf/deploy/NAME.yaml declares it.",
)
Name = Annotated[str, typer.Argument(help="Of conf/deploy/NAME.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Hydra overrides, such as model=models/housing.", show_default=False),
]
Infrastructure = Annotated[
    bool, typer.Option(help="Whether to bring buckets, roles and alarms in line too, by Terraform.")
]
ROOT = Path()


def _declared(name: str, overrides: list[str] | None) -> Aws:
    from penstock.composition import composed_file
    from penstock.config import validated
    from penstock.config.deploying.aws import Aws

    found = composed_file("deploy", name, overrides or [], ROOT)
    return validated(Aws, found, Path(f"conf/deploy/{name}.yaml"), hint="mend it there, or by an override")


@contextmanager
def _release(view: Aws) -> Iterator[Release]:
    """Releases to what is declared; what AWS refuses is told without a traceback."""
    from penstock.deploy.aws_release import Release, connected

    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ModuleNotFoundError as error:
        raise PenstockError("boto3 is not installed", hint="install Penstock's extra `cloud`") from error
    try:
        yield Release(view, connected(view), pause=view.pause.total_seconds())
    except ClientError as error:
        told = error.response["Error"]
        raise PenstockError(
            f"AWS refuses {error.operation_name}: {told.get('Code')}: {told.get('Message')}",
            hint="mend what it says; the same command goes on from where it ended",
        ) from error
    except BotoCoreError as error:
        raise PenstockError(
            f"AWS cannot be asked: {error}",
            hint="credentials are found as `aws` finds them: AWS_PROFILE, a role, …",
        ) from error


@aws.command()
def plan(name: Name = "aws", overrides: Overrides = None, infrastructure: Infrastructure = True) -> None:
    """Say what `apply` would do, and do nothing."""
    from penstock.deploy.aws_infrastructure import infrastructure as declared

    view = _declared(name, overrides)
    if infrastructure:
        terraform = declared(view, ROOT)
        terraform.prepare()
        terraform.plan()
    with _release(view) as release:
        for line in release.planned(ROOT):
            print(line)


@aws.command()
def apply(name: Name = "aws", overrides: Overrides = None, infrastructure: Infrastructure = True) -> None:
    """Make the infrastructure, and bring the artefact out: as champion if there is none, else into the shadow."""
    from penstock.deploy.aws_infrastructure import existing, state_bucket
    from penstock.deploy.aws_infrastructure import infrastructure as declared

    view = _declared(name, overrides)
    with _release(view) as release:
        release.packed(ROOT)  # an artefact that nobody signed is refused before anything is made for it
        if infrastructure:
            state_bucket(view, release.clients.s3)
            terraform = declared(view, ROOT)
            terraform.prepare()
            _unlocked(terraform, view, release)
            terraform.apply(existing(release.names))
        release.apply(ROOT)
        _told(release)


@aws.command()
def promote(
    name: Name = "aws",
    overrides: Overrides = None,
    now: Annotated[bool, typer.Option("--now", help="However short it has been in the shadow.")] = False,
) -> None:
    """Let the challenger answer, by the declared shift of traffic; an alarm brings the champion back."""
    with _release(_declared(name, overrides)) as release:
        release.promote(at_once=now)
        _told(release)


@aws.command()
def rollback(
    name: Name = "aws",
    overrides: Overrides = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Only give up what is half done, if anything is.")
    ] = False,
) -> None:
    """Take the challenger away, or bring the former champion back; give up what is half done."""
    with _release(_declared(name, overrides)) as release:
        release.rollback(unfinished=unfinished)
        _told(release)


@aws.command()
def status(name: Name = "aws", overrides: Overrides = None) -> None:
    """Who answers, who is tried, what is half done, which alarms ring; exit code 1 if it is not well."""
    with _release(_declared(name, overrides)) as release:
        release.journal.read()
        wrong = _told(release)
    sys.exit(1 if wrong else 0)


@aws.command()
def destroy(
    name: Name = "aws",
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    artefacts: Annotated[bool, typer.Option(help="Delete artefacts, images and the journal too.")] = False,
    infrastructure: Infrastructure = True,
) -> None:
    """Delete the endpoint and everything made for it."""
    from penstock.deploy.aws_infrastructure import infrastructure as declared

    view = _declared(name, overrides)
    with _release(view) as release:
        if infrastructure and not artefacts and release.has_artefacts():
            raise PenstockError(
                f"s3://{release.names.bucket} has artefacts, which would be gone for ever",
                hint="--artefacts deletes them; --no-infrastructure keeps the bucket and deletes the endpoint alone",
            )
        if not yes:
            typer.confirm(f"Delete endpoint {view.name} in {view.region}?", abort=True)
        release.remove()
        if infrastructure:
            terraform = declared(view, ROOT)
            terraform.prepare()
            _unlocked(terraform, view, release)
            terraform.destroy(**({"empty_bucket": True} if artefacts else {}))


def _unlocked(terraform: Terraform, view: Aws, release: Release) -> None:
    """Take away the lock that a change of this machine has left when it was cut off."""
    from penstock.deploy.aws_infrastructure import left_lock

    if terraform.killed() and (lock := left_lock(view, release.clients.s3)):
        say("the last change was cut off; its lock is taken away, and what it had made is taken over")
        terraform.unlock(lock)


def _told(release: Release) -> list[str]:
    lines, wrong = release.told()
    for label, words in lines:
        print(f"{label:<12}{words}")
    for words in wrong:
        say(f"not well: {words}")
    return wrong
