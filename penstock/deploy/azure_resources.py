"""What is asked of Azure: ids, and the documents that are put there. Pure functions; a test holds each against the published API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from penstock.config.deploying import Azure
from penstock.errors import PenstockError

__all__ = [
    "COLOURS",
    "FOUNDATION",
    "MANAGED",
    "VERSIONS",
    "Colour",
    "Foundation",
    "Ids",
    "alerts",
    "autoscale",
    "deployment",
    "differs",
    "endpoint",
    "environment_version",
    "fingerprint",
    "group",
    "model_version",
    "parameters",
    "traffic_checked",
]

Colour = Literal["blue", "green"]
COLOURS: tuple[Colour, Colour] = ("blue", "green")
MANAGED = "penstock"  # the tag without which nothing is replaced or removed
FOUNDATION = "penstock-foundation"
MODELS = "/models"  # where the artefact is mounted in the image
# Of the API that each type is asked by; tests/schemas has their shapes.
VERSIONS = {
    "autoscale": "2022-10-01",
    "alert": "2018-03-01",
    "deployment": "2026-06-01",
    "group": "2025-04-01",
    "metrics": "2024-02-01",
    "ml": "2025-12-01",
    "vault": "2026-05-15",
}


@dataclass(frozen=True)
class Foundation:
    """What the template's outputs say."""

    storage: str
    container: str
    registry: str
    vault: str
    workspace: str
    identity: str
    actions: str


@dataclass(frozen=True)
class Ids:
    """Ids of one deployment's resources.

    Attributes:
        subscription: Its path.
        group: Of the resource group.
        foundation: Of the template's deployment.
    """

    view: Azure

    @property
    def subscription(self) -> str:
        return f"/subscriptions/{self.view.subscription}"

    @property
    def group(self) -> str:
        return f"{self.subscription}/resourceGroups/{self.view.resource_group}"

    @property
    def foundation(self) -> str:
        return f"{self.group}/providers/Microsoft.Resources/deployments/{FOUNDATION}"

    def workspace(self, made: Foundation) -> str:
        """Of the machine-learning workspace."""
        return f"{self.group}/providers/Microsoft.MachineLearningServices/workspaces/{made.workspace}"

    def endpoint(self, made: Foundation) -> str:
        """Of the managed online endpoint."""
        return f"{self.workspace(made)}/onlineEndpoints/{self.view.endpoint}"

    def colour(self, made: Foundation, colour: Colour) -> str:
        """Of one of the endpoint's two deployments."""
        return f"{self.endpoint(made)}/deployments/{colour}"

    def autoscale(self, colour: Colour) -> str:
        """Of the rule by which a colour grows and shrinks."""
        return f"{self.group}/providers/Microsoft.Insights/autoscaleSettings/{self.view.endpoint}-{colour}"

    def alert(self, name: str) -> str:
        """Of an alert on metrics."""
        return f"{self.group}/providers/Microsoft.Insights/metricAlerts/{self.view.endpoint}-{name}"

    def model(self, made: Foundation, version: str) -> str:
        """Of a registered artefact."""
        return f"{self.workspace(made)}/models/{self.view.name}/versions/{version}"

    def environment(self, made: Foundation, version: str) -> str:
        """Of a registered image."""
        return f"{self.workspace(made)}/environments/{self.view.name}-predictor/versions/{version}"


def group(view: Azure) -> dict[str, Any]:
    """The resource group, tagged as ours."""
    return {"location": view.location, "tags": _tags(view)}


def parameters(view: Azure) -> dict[str, Any]:
    """Of deploy/azure/foundation.json."""
    given = {
        "name": view.name,
        "location": view.location,
        "deployer": view.deployer or "",
        "email": view.alerts.email or "",
        "tags": _tags(view),
    }
    return {name: {"value": value} for name, value in given.items()}


def model_version(view: Azure, uri: str, sha256: str) -> dict[str, Any]:
    """A registered artefact, by the address of its folder."""
    return {
        "properties": {
            "modelType": "custom_model",
            "modelUri": uri,
            "description": f"{view.model}: ONNX file and manifest",
            "tags": {MANAGED: view.name, "sha256": sha256},
        }
    }


def environment_version(view: Azure, image: str) -> dict[str, Any]:
    """The predictor's image as deploy/azure/Dockerfile makes it, and where its program ``serve`` answers."""

    def route(path: str) -> dict[str, Any]:
        return {"path": path, "port": view.port}

    return {
        "properties": {
            "image": image,
            "osType": "Linux",
            "inferenceConfig": {
                "livenessRoute": route("/ping"),
                "readinessRoute": route("/ping"),
                "scoringRoute": route("/invocations"),
            },
            "tags": {MANAGED: view.name},
        }
    }


def endpoint(
    view: Azure,
    made: Foundation,
    traffic: Mapping[str, int],
    mirror: Mapping[str, int],
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """The endpoint, and which colour gets what share of the requests.

    Args:
        view: What is declared.
        made: What it stands on.
        traffic: Percent by colour.
        mirror: Percent copied, of one colour.
        tags: How far a promotion has come.

    Raises:
        PenstockError: Azure would not take these shares.
    """
    traffic_checked(traffic, mirror)
    return {
        "location": view.location,
        "kind": "Managed",
        "tags": {**_tags(view), **tags},
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {made.identity: {}}},
        "properties": {
            "authMode": "AADToken",
            "publicNetworkAccess": "Enabled" if view.public else "Disabled",
            "traffic": dict(traffic),
            "mirrorTraffic": dict(mirror),
        },
    }


def traffic_checked(traffic: Mapping[str, int], mirror: Mapping[str, int]) -> None:
    """Refuse what Azure would refuse, before anything is asked of it.

    Raises:
        PenstockError: The shares do not add to 100, or a colour is to be both mirrored and live.
    """
    total = sum(traffic.values())
    strange = sorted((set(traffic) | set(mirror)) - set(COLOURS))
    if strange:
        raise PenstockError(
            f"traffic: there is no deployment {strange[0]!r}", hint="there are blue and green"
        )
    if any(not 0 <= share <= 100 for share in traffic.values()) or total not in (0, 100):
        shares = ", ".join(f"{name} {share} %" for name, share in traffic.items())
        raise PenstockError(f"traffic: {shares} adds to {total} %", hint="shares add to 100 %, or all are 0")
    if len(mirror) > 1 or any(not 1 <= share <= 50 for share in mirror.values()):
        raise PenstockError(
            f"mirror: {dict(mirror)}: Azure copies requests to one deployment, 1 to 50 % of them",
            hint="lower rollout.mirror",
        )
    both = [name for name in mirror if traffic.get(name, 0)]
    if both:
        raise PenstockError(
            f"mirror: {both[0]} already answers {traffic[both[0]]} % of the requests",
            hint="a deployment is mirrored to or answers; Azure allows no third",
        )


def deployment(
    view: Azure, *, model: str, environment: str, version: str, folder: str, capacity: int | None = None
) -> dict[str, Any]:
    """One colour: an artefact, an image, and the machines behind it.

    Args:
        view: What is declared.
        model: Id of the registered artefact.
        environment: Id of the registered image.
        version: First twelve hex digits of the artefact's hash, as answers and metrics name it.
        folder: Last part of the artefact's address: what is mounted has its name.
        capacity: Machines as they are, where autoscaling has seen to it.
    """
    machines = view.instances
    probe = {"initialDelay": "PT5S", "period": "PT5S", "timeout": "PT2S", "successThreshold": 1}
    return {
        "location": view.location,
        "kind": "Managed",
        "tags": {**_tags(view), "version": version},
        "sku": {"name": "Default", "capacity": capacity or machines.least},
        "properties": {
            "endpointComputeType": "Managed",
            "description": f"{view.model} {version}",
            "model": model,
            "modelMountPath": MODELS,
            "environmentId": environment,
            # The program `serve` of the image goes by these; who may ask is the endpoint's business.
            "environmentVariables": {
                "PENSTOCK_MODEL": f"{MODELS}/{view.name}/{version}/{folder}",
                "PENSTOCK_PORT": str(view.port),
                "PENSTOCK_SIGNATURES": "required" if view.signed_by else "optional",
            },
            "instanceType": machines.type,
            "egressPublicNetworkAccess": "Enabled" if view.public else "Disabled",
            "appInsightsEnabled": True,
            "scaleSettings": {"scaleType": "Default"},
            "requestSettings": {
                "requestTimeout": _span(machines.timeout),
                "maxConcurrentRequestsPerInstance": machines.concurrency,
                "maxQueueWait": _span(machines.queue),
            },
            "livenessProbe": {**probe, "failureThreshold": 6},
            "readinessProbe": {**probe, "failureThreshold": 3},
        },
    }


def autoscale(view: Azure, target: str, colour: Colour) -> dict[str, Any]:
    """More machines above the declared load, fewer below half of it."""
    machines = view.instances

    def rule(operator: str, threshold: float, direction: str, cooldown: str) -> dict[str, Any]:
        return {
            "metricTrigger": {
                "metricName": "CpuUtilizationPercentage",
                "metricNamespace": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments",
                "metricResourceUri": target,
                "timeGrain": "PT1M",
                "statistic": "Average",
                "timeWindow": "PT5M",
                "timeAggregation": "Average",
                "operator": operator,
                "threshold": threshold,
            },
            "scaleAction": {
                "direction": direction,
                "type": "ChangeCount",
                "value": "1",
                "cooldown": cooldown,
            },
        }

    return {
        "location": view.location,
        "tags": _tags(view),
        "properties": {
            "enabled": True,
            "name": f"{view.endpoint}-{colour}",
            "targetResourceUri": target,
            "profiles": [
                {
                    "name": "load",
                    "capacity": {
                        "minimum": str(machines.least),
                        "maximum": str(machines.most),
                        "default": str(machines.least),
                    },
                    "rules": [
                        rule("GreaterThan", machines.cpu, "Increase", "PT5M"),
                        rule("LessThan", machines.cpu / 2, "Decrease", "PT10M"),
                    ],
                }
            ],
        },
    }


def alerts(view: Azure, target: str, actions: str) -> dict[str, dict[str, Any]]:
    """Alerts on the endpoint by name: slow answers, and failing ones."""

    def alert(metric: str, words: str, threshold: float, dimensions: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "location": "global",
            "tags": _tags(view),
            "properties": {
                "description": words,
                "severity": 1,
                "enabled": True,
                "scopes": [target],
                "evaluationFrequency": "PT1M",
                "windowSize": "PT5M",
                "autoMitigate": True,
                "targetResourceType": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
                "criteria": {
                    "odata.type": "Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria",
                    "allOf": [
                        {
                            "criterionType": "StaticThresholdCriterion",
                            "name": metric,
                            "metricName": metric,
                            "metricNamespace": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
                            "dimensions": dimensions,
                            "operator": "GreaterThan",
                            "threshold": threshold,
                            "timeAggregation": "Average",
                        }
                    ],
                },
                "actions": [{"actionGroupId": actions}] if actions else [],
            },
        }

    failing = [{"name": "statusCodeClass", "operator": "Include", "values": ["5xx"]}]
    return {
        "slow": alert(
            "RequestLatency_P99",
            f"the slowest hundredth takes longer than {view.alerts.latency.total_seconds() * 1000:g} ms",
            view.alerts.latency.total_seconds() * 1000,
            [],
        ),
        "failing": alert(
            "RequestsPerMinute",
            f"more than {view.alerts.failures:g} requests a minute fail",
            view.alerts.failures,
            failing,
        ),
    }


def differs(wanted: Any, present: Any, where: str = "") -> str | None:
    """The first thing in which what is there is not as wanted; None if nothing.

    What is there may have more: defaults, states, times. Text is compared without case where it is an id or a place,
    as Azure gives those back in a case of its own.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(present, Mapping):
            return where or "all"
        lower = {str(key).lower(): value for key, value in present.items()}
        for key, value in wanted.items():
            if value is None or (
                isinstance(value, Mapping | list) and not value and not lower.get(key.lower())
            ):
                continue
            found = differs(value, lower.get(key.lower()), f"{where}.{key}".lstrip("."))
            if found:
                return found
        return None
    if isinstance(wanted, list):
        if not isinstance(present, list) or len(present) != len(wanted):
            return where
        pairs = enumerate(zip(wanted, present, strict=True))
        return next(filter(None, (differs(w, p, f"{where}[{n}]") for n, (w, p) in pairs)), None)
    if isinstance(wanted, str) and isinstance(present, str):
        loose = wanted.startswith("/") or where.endswith(("location", "metricNamespace"))
        same = wanted.lower() == present.lower().replace(" ", "") if loose else wanted == present
        return None if same or _span_of(wanted) == (_span_of(present) or "?") else where
    return None if wanted == present else where


def fingerprint(template: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Tells one foundation from another: template and parameters, hashed."""
    text = json.dumps([template, given], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _tags(view: Azure) -> dict[str, str]:
    return {MANAGED: view.name}


def _span(span: timedelta) -> str:
    """ISO 8601, of less than a day: PT0.5S, PT5S."""
    return f"PT{span.total_seconds():g}S"


def _span_of(text: str) -> float | None:
    """Seconds of a time span that Azure may write otherwise: PT60S comes back as PT1M."""
    from pydantic import TypeAdapter, ValidationError

    if not text.startswith("PT"):
        return None
    try:
        return TypeAdapter(timedelta).validate_python(text).total_seconds()
    except ValidationError:
        return None
