"""What SageMaker and Application Auto Scaling are asked for, as plain values: nothing here speaks to anybody.

Models and configurations of an endpoint cannot be changed, only replaced. Their names end in a hash of what they are made of, so
that making one twice is making it once, and one that is there under its name is the right one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.config.deploying.aws import AllAtOnce, Aws, Canary, Linear, Rolling

__all__ = [
    "PRODUCTION",
    "SHADOW",
    "Names",
    "config_request",
    "deployment",
    "model_request",
    "policy_request",
    "target_request",
    "update_request",
]

# A guarded update asks that the old and the new configuration have variants of the same names.
PRODUCTION, SHADOW = "production", "shadow"


@dataclass(frozen=True)
class Names:
    """Names that follow from the endpoint's and from the account, as deploy/aws/*.tf gives them.

    Attributes:
        endpoint: Its name.
        account: Twelve digits.
        partition: aws, aws-cn, ….
        region: Where.
    """

    endpoint: str
    account: str
    partition: str
    region: str

    @property
    def bucket(self) -> str:
        """Of artefacts and of the journal."""
        return f"{self.endpoint}-artefacts-{self.account}-{self.region}"

    @property
    def role(self) -> str:
        """What containers run as."""
        return f"arn:{self.partition}:iam::{self.account}:role/{self.endpoint}-endpoint"

    @property
    def rollback_alarms(self) -> tuple[str, str]:
        """Alarms that end an update."""
        return f"{self.endpoint}-errors", f"{self.endpoint}-latency"

    @property
    def shadow_alarm(self) -> str:
        """The alarm that stops a promotion."""
        return f"{self.endpoint}-shadow-errors"

    @property
    def scaled(self) -> str:
        """What is scaled."""
        return f"endpoint/{self.endpoint}/variant/{PRODUCTION}"


def _named(prefix: str, content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _tags(view: Aws, **more: str) -> list[dict[str, str]]:
    tags = {"project": view.name, "managed-by": "penstock"} | more
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def model_request(view: Aws, names: Names, *, image: str, digest: str, version: str) -> dict[str, Any]:
    """CreateModel.

    Args:
        view: What is declared.
        names: Of the account.
        image: The predictor's, by digest.
        digest: SHA-256 of the archive.
        version: Of the model.
    """
    content = {
        "PrimaryContainer": {
            "Image": image,
            "ModelDataUrl": f"s3://{names.bucket}/artefacts/{digest}/model.tar.gz",
            "Environment": {"PENSTOCK_SIGNATURES": "required" if view.key else "optional"},
        },
        "ExecutionRoleArn": names.role,
    }
    return {
        "ModelName": _named(view.name, content),
        **content,
        "EnableNetworkIsolation": True,  # a model answers, and calls nobody
        "Tags": _tags(view, artefact=digest[:12], version=version),
    }


def config_request(view: Aws, champion: str, challenger: str | None) -> dict[str, Any]:
    """CreateEndpointConfig.

    Args:
        view: What is declared.
        champion: The model that answers.
        challenger: The model that gets copies of the requests, if any.
    """
    content: dict[str, Any] = {
        "ProductionVariants": [_variant(view, PRODUCTION, champion, view.instances.count, 1.0)]
    }
    if challenger is not None:
        content["ShadowProductionVariants"] = [
            _variant(view, SHADOW, challenger, view.shadow.count, view.shadow.percent / 100)
        ]
    return {"EndpointConfigName": _named(view.name, content), **content, "Tags": _tags(view)}


def _variant(view: Aws, name: str, model: str, count: int, weight: float) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InstanceType": view.instances.type,
        "InitialInstanceCount": count,
        "InitialVariantWeight": weight,
        "ContainerStartupHealthCheckTimeoutInSeconds": int(view.instances.health.total_seconds()),
    }


def deployment(update: AllAtOnce | Canary | Linear | Rolling, alarms: Sequence[str]) -> dict[str, Any]:
    """DeploymentConfig of UpdateEndpoint.

    Args:
        update: How traffic moves.
        alarms: What rolls it back.
    """
    wait = int(update.wait.total_seconds())
    rollback = {"Alarms": [{"AlarmName": name} for name in alarms]}
    if isinstance(update, Rolling):
        policy = {"MaximumBatchSize": _percent(update.percent), "WaitIntervalInSeconds": wait}
        return {"RollingUpdatePolicy": policy, "AutoRollbackConfiguration": rollback}
    routing: dict[str, Any] = {"Type": update.kind.upper(), "WaitIntervalInSeconds": wait}
    if isinstance(update, Canary):
        routing["CanarySize"] = _percent(update.percent)
    if isinstance(update, Linear):
        routing["LinearStepSize"] = _percent(update.percent)
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": int(update.keep_old.total_seconds()),
        },
        "AutoRollbackConfiguration": rollback,
    }


def _percent(value: int) -> dict[str, Any]:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def update_request(view: Aws, config: str, guarded: dict[str, Any] | None) -> dict[str, Any]:
    """UpdateEndpoint.

    Args:
        view: What is declared.
        config: Name of the configuration.
        guarded: DeploymentConfig; None where variants come or go, which a guarded update refuses.
    """
    request: dict[str, Any] = {
        "EndpointName": view.name,
        "EndpointConfigName": config,
        # Instances that the load has called for stay; the rest is as the configuration says.
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [
            {"VariantPropertyType": "DesiredWeight"},
            {"VariantPropertyType": "DataCaptureConfig"},
        ],
    }
    if guarded is not None:
        request["DeploymentConfig"] = guarded
    return request


def target_request(view: Aws, names: Names) -> dict[str, Any]:
    """RegisterScalableTarget."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": names.scaled,
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "MinCapacity": view.instances.count,
        "MaxCapacity": view.scaling.most,
    }


def policy_request(view: Aws, names: Names) -> dict[str, Any]:
    """PutScalingPolicy: so many invocations for each instance."""
    return {
        "PolicyName": f"{view.name}-invocations",
        "PolicyType": "TargetTrackingScaling",
        "ServiceNamespace": "sagemaker",
        "ResourceId": names.scaled,
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": float(view.scaling.invocations),
            "PredefinedMetricSpecification": {
                "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
            },
            "ScaleInCooldown": int(view.scaling.cooldown_in.total_seconds()),
            "ScaleOutCooldown": int(view.scaling.cooldown_out.total_seconds()),
        },
    }
