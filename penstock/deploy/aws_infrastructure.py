"""deploy/aws/*.tf with the values of conf/deploy/NAME.yaml, and the bucket that a shared state is in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.config.deploying.aws import Aws
from penstock.deploy.terraform import Terraform

if TYPE_CHECKING:
    from penstock.deploy.aws_requests import Names

__all__ = ["existing", "infrastructure", "left_lock", "state_bucket", "values"]


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


def left_lock(view: Aws, s3: Any) -> str | None:
    """The identity of the lock on a shared state, if there is one."""
    from botocore.exceptions import ClientError

    if view.state.bucket is None:
        return None  # a lock on this machine ends with who holds it
    try:
        found = s3.get_object(Bucket=view.state.bucket, Key=f"terraform/{view.name}.tfstate.tflock")
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchBucket"}:
            return None
        raise
    return str(json.loads(found["Body"].read())["ID"])


def existing(names: Names) -> Callable[[str, dict[str, Any]], str | None]:
    """Which of the things that cannot be made twice are there; all others are made and brought in line by one call.

    Args:
        names: Of the account.
    """
    import boto3
    from botocore.exceptions import ClientError

    session = boto3.Session(region_name=names.region)
    iam = f"arn:{names.partition}:iam::{names.account}"

    def there(service: str, operation: str, **place: Any) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = getattr(session.client(service), operation)(**place)
        except ClientError as error:
            code, status = (
                error.response["Error"]["Code"],
                error.response["ResponseMetadata"]["HTTPStatusCode"],
            )
            if status == 404 or "NotFound" in code or "NoSuch" in code:
                return None
            raise
        return found

    def identity(kind: str, values: dict[str, Any]) -> str | None:
        name = str(values.get("name") or values.get("bucket") or "")
        match kind:
            case "aws_s3_bucket":
                return name if there("s3", "head_bucket", Bucket=name) else None
            case "aws_ecr_repository":
                return name if there("ecr", "describe_repositories", repositoryNames=[name]) else None
            case "aws_iam_role":
                return name if there("iam", "get_role", RoleName=name) else None
            case "aws_iam_policy":
                arn = f"{iam}:policy/{name}"
                return arn if there("iam", "get_policy", PolicyArn=arn) else None
            case "aws_iam_openid_connect_provider":
                arn = f"{iam}:oidc-provider/{str(values['url']).removeprefix('https://')}"
                return (
                    arn
                    if there("iam", "get_open_id_connect_provider", OpenIDConnectProviderArn=arn)
                    else None
                )
            case "aws_cloudwatch_log_group":
                found = there("logs", "describe_log_groups", logGroupNamePrefix=name) or {}
                return name if name in {item["logGroupName"] for item in found.get("logGroups", [])} else None
            case "aws_codebuild_project":
                found = there("codebuild", "batch_get_projects", names=[name]) or {}
                return name if found.get("projects") else None
            case "aws_scheduler_schedule":
                return f"default/{name}" if there("scheduler", "get_schedule", Name=name) else None
            case _:
                return None

    return identity
