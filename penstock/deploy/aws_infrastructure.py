"""deploy/aws/*.tf with the values of conf/deploy/NAME.yaml, and the bucket that a shared state is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.config.deploying.aws import Aws
from penstock.deploy.terraform import Terraform

__all__ = ["infrastructure", "state_bucket", "values"]


def values(view: Aws) -> dict[str, Any]:
    """Values of the variables of deploy/aws/variables.tf."""
    return {
        "name": view.name,
        "region": view.region,
        "log_days": view.log_days,
        "artefact_days": view.artefact_days,
        "alarms": view.alarms.model_dump(mode="json"),
        "retraining": view.retraining.model_dump(mode="json") if view.retraining else None,
        "deployer": view.deployer.model_dump(mode="json") if view.deployer else None,
    }


def infrastructure(view: Aws, root: Path) -> Terraform:
    """What everything but the endpoint itself is made by.

    Args:
        view: What is declared.
        root: The repository.
    """
    backend: dict[str, str | bool] | None = None
    if view.state.bucket is not None:
        backend = {
            "bucket": view.state.bucket,
            "key": f"terraform/{view.name}.tfstate",
            "region": view.region,
            "encrypt": True,
            "use_lockfile": True,
        }
    return Terraform(
        root / "deploy" / "aws", root / ".penstock" / "deploy" / "aws" / view.name, values(view), backend
    )


def state_bucket(view: Aws, s3: Any) -> None:
    """Make the bucket of a shared state, unless it is there. Terraform cannot: it would have to note it there."""
    from botocore.exceptions import ClientError

    bucket = view.state.bucket
    if bucket is None:
        return
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": view.region}}
        s3.create_bucket(
            Bucket=bucket,
            ObjectOwnership="BucketOwnerEnforced",
            **({} if view.region == "us-east-1" else elsewhere),
        )
    # Said each time: whoever was killed after making it comes here again.
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": True}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
