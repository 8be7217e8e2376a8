"""`penstock deploy …`: to AWS, to Azure, to Kubernetes. Every command imports what it needs when it runs."""

from __future__ import annotations

import typer

from penstock.deploy.aws_commands import aws
from penstock.deploy.azure_commands import azure
from penstock.deploy.kubernetes_commands import kubernetes

__all__ = ["deploy"]

deploy = typer.Typer(
    no_args_is_help=True, help="Artefacts to the clouds: plan, apply, promote, roll back, status, destroy."
)
deploy.add_typer(aws, name="aws")
deploy.add_typer(azure, name="azure")
deploy.add_typer(kubernetes, name="kubernetes")
