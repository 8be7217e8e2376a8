"""A stand-in for AWS: moto's server, with the part of SageMaker that moto lacks written from AWS's documentation.

moto has no UpdateEndpoint, drops ShadowProductionVariants, and knows an endpoint only as InService. Here

- every request to SageMaker is validated against botocore's own model of the service before it is looked at;
- an endpoint goes Creating → InService, InService → Updating → InService, Updating → RollingBack → InService with the old
  configuration where one of the alarms that the update names rings or the new model does not come up, Creating → Failed;
- a guarded update (DeploymentConfig) is refused where variants differ in name before and after, and a rolling one where there
  is more than one variant (https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-exclusions.html);
- one shadow beside one production variant at most (API reference, CreateEndpointConfig);
- an endpoint that is changing is not updated, and a configuration that is in use is not deleted.

What it shows is that requests are well formed and that the order in which they are sent is one that the documentation allows; not
that AWS is as it is documented.

Run as a program it listens on 127.0.0.1. Under /by-the-book/ it is told what tests need: whom to kill at which request that changes
something, which models do not come up; and it tells which requests have come.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import botocore.session
from botocore.validate import ParamValidator
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.responses import ActionResult
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sagemaker.exceptions import AWSValidationException
from moto.sagemaker.models import FakeEndpoint, FakeEndpointConfig
from moto.sagemaker.responses import SageMakerResponse
from werkzeug.serving import run_simple

LOOKS = 1  # descriptions until a change has come to its end
MOVING = {"Creating", "Updating", "RollingBack", "Deleting"}


class Told:
    """What the tests have told, and what has come."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.victim: int | None = None
        self.at = -1
        self.before = False
        self.changes: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.broken: set[str] = set()


TOLD = Told()
MODEL = botocore.session.get_session().get_service_model("sagemaker")


def refuse(message: str) -> AWSValidationException:
    return AWSValidationException(message)


def validated(action: str, content: dict[str, Any]) -> None:
    """Refuse what botocore's model of the service does not know."""
    report = ParamValidator().validate(content, MODEL.operation_model(action).input_shape)
    if report.has_errors():
        raise refuse(report.generate_report())


# moto's classes, extended


def create_endpoint_config(self: SageMakerResponse) -> Any:
    shadows = self._get_param("ShadowProductionVariants") or []
    production = self._get_param("ProductionVariants")
    name = self._get_param("EndpointConfigName")
    if name in self.sagemaker_backend.endpoint_configs:
        raise refuse(f"Cannot create already existing endpoint configuration {name}.")
    if shadows and (len(shadows) != 1 or len(production) != 1):
        raise refuse("one production variant and one shadow variant at most")
    self.sagemaker_backend.validate_production_variants(shadows)
    names = [variant["VariantName"] for variant in production + shadows]
    if len(set(names)) != len(names):
        raise refuse("names of variants are unique")
    result = ORIGINAL["create_endpoint_config"](self)
    self.sagemaker_backend.endpoint_configs[name].shadow_production_variants = shadows
    return result


def create_model(self: SageMakerResponse) -> Any:
    name = self._get_param("ModelName")
    if name in self.sagemaker_backend._models:
        raise refuse(f"Cannot create already existing model {name}.")
    return ORIGINAL["create_model"](self)


def delete_endpoint_config(self: SageMakerResponse) -> Any:
    name = self._get_param("EndpointConfigName")
    used = {endpoint.endpoint_config_name for endpoint in self.sagemaker_backend.endpoints.values()}
    if name in used:
        raise refuse(f"endpoint configuration {name} is in use")
    return ORIGINAL["delete_endpoint_config"](self)


def create_endpoint(self: SageMakerResponse) -> Any:
    name = self._get_param("EndpointName")
    if name in self.sagemaker_backend.endpoints:
        raise refuse(f"Cannot create already existing endpoint {name}.")
    result = ORIGINAL["create_endpoint"](self)
    endpoint = self.sagemaker_backend.endpoints[name]
    endpoint.endpoint_status, endpoint.looks = "Creating", LOOKS
    config = self.sagemaker_backend.endpoint_configs[endpoint.endpoint_config_name]
    endpoint.shadow_production_variants = endpoint._process_production_variants(
        config.shadow_production_variants
    )
    return result


def update_endpoint(self: SageMakerResponse) -> Any:
    backend, name = self.sagemaker_backend, self._get_param("EndpointName")
    backend.describe_endpoint(name)  # refuses what is not there
    endpoint: FakeEndpoint = backend.endpoints[name]
    if endpoint.endpoint_status != "InService":
        raise refuse(f"Cannot update in-progress endpoint {endpoint.arn}.")
    wanted = self._get_param("EndpointConfigName")
    backend.describe_endpoint_config(wanted)
    if wanted == endpoint.endpoint_config_name:
        raise refuse("To update an endpoint, you must create a new EndpointConfig.")
    guarded = self._get_param("DeploymentConfig")
    if guarded:
        before = names_of(backend.endpoint_configs[endpoint.endpoint_config_name])
        after = names_of(backend.endpoint_configs[wanted])
        if before != after:
            raise refuse(f"variants {sorted(before)} before, {sorted(after)} after: not in a guarded update")
        if len(guarded.keys() & {"BlueGreenUpdatePolicy", "RollingUpdatePolicy"}) != 1:
            raise refuse("Only one update policy should be used in the deployment configuration.")
        if "RollingUpdatePolicy" in guarded and len(before) != 1:
            raise refuse("no rolling deployment of several variants")
    endpoint.pending = wanted
    endpoint.guards = [
        item["AlarmName"] for item in (guarded or {}).get("AutoRollbackConfiguration", {}).get("Alarms", [])
    ]
    endpoint.retains = bool(self._get_param("RetainAllVariantProperties"))
    touched(endpoint, "Updating")
    return ActionResult({"EndpointArn": endpoint.arn})


def delete_endpoint(self: SageMakerResponse) -> Any:
    name = self._get_param("EndpointName")
    self.sagemaker_backend.describe_endpoint(name)
    endpoint = self.sagemaker_backend.endpoints[name]
    if endpoint.endpoint_status in MOVING:
        raise refuse(f"Cannot delete in-progress endpoint {endpoint.arn}.")
    touched(endpoint, "Deleting")
    return ActionResult({})


def describe_endpoint(self: SageMakerResponse) -> Any:
    name = self._get_param("EndpointName")
    endpoint = self.sagemaker_backend.endpoints.get(name)
    if endpoint is not None and endpoint.endpoint_status in MOVING:
        advanced(self, endpoint)
    return ORIGINAL["describe_endpoint"](self)


def names_of(config: FakeEndpointConfig) -> set[str]:
    return {item["VariantName"] for item in config.production_variants + config.shadow_production_variants}


def touched(endpoint: FakeEndpoint, status: str) -> None:
    from datetime import UTC, datetime

    endpoint.endpoint_status, endpoint.looks = status, LOOKS
    endpoint.last_modified_time = datetime.now(UTC)


def advanced(self: SageMakerResponse, endpoint: FakeEndpoint) -> None:
    """One look further along."""
    backend = self.sagemaker_backend
    alarms = cloudwatch_backends[self.current_account][self.region].alarms
    if endpoint.endpoint_status == "Updating":
        ringing = [name for name in endpoint.guards if name in alarms and alarms[name].state_value == "ALARM"]
        if ringing:
            endpoint.failure_reason = (
                f"Alarm {ringing[0]} went into ALARM state; the deployment was rolled back."
            )
            touched(endpoint, "RollingBack")
            return
    endpoint.looks -= 1
    if endpoint.looks > 0:
        return
    config = endpoint.pending if endpoint.endpoint_status == "Updating" else endpoint.endpoint_config_name
    variants = backend.endpoint_configs[config]
    dead = any(item["ModelName"] in TOLD.broken for item in variants.production_variants)
    match endpoint.endpoint_status:
        case "Deleting":
            del backend.endpoints[endpoint.endpoint_name]
        case "Creating" if dead:
            endpoint.failure_reason = (
                "The primary container for production variant production did not pass the ping health check."
            )
            touched(endpoint, "Failed")
        case "Updating" if dead:
            endpoint.failure_reason = "The new fleet did not pass the ping health check."
            touched(endpoint, "RollingBack")
        case "Updating":
            counts = {
                item["VariantName"]: item["CurrentInstanceCount"] for item in endpoint.production_variants
            }
            endpoint.endpoint_config_name = config
            endpoint.production_variants = endpoint._process_production_variants(variants.production_variants)
            endpoint.shadow_production_variants = endpoint._process_production_variants(
                variants.shadow_production_variants
            )
            for item in endpoint.production_variants if endpoint.retains else []:
                item["CurrentInstanceCount"] = item["DesiredInstanceCount"] = counts[item["VariantName"]]
            endpoint.failure_reason = None
            touched(endpoint, "InService")
        case _:
            touched(endpoint, "InService")


EXTENDED = [
    create_model, create_endpoint_config, delete_endpoint_config, create_endpoint, update_endpoint, delete_endpoint, describe_endpoint,
]  # fmt: skip
ORIGINAL: dict[str, Callable[..., Any]] = {}
for function in EXTENDED:
    ORIGINAL[function.__name__] = getattr(SageMakerResponse, function.__name__, None)  # type: ignore[assignment]

    def checked(self: SageMakerResponse, function: Callable[..., Any] = function) -> Any:
        validated("".join(part.title() for part in function.__name__.split("_")), json.loads(self.body))
        return function(self)

    setattr(SageMakerResponse, function.__name__, checked)


# A refusal of what is not TLS. moto knows no conditions and would refuse everything; here every connection passes for TLS 1.2.

judge = IAMPolicyStatement.is_action_permitted
TLS = {"Bool": {"aws:SecureTransport": "false"}}, {"NumericLessThan": {"s3:TlsVersion": "1.2"}}


def over_tls(self: IAMPolicyStatement, *arguments: Any, **named: Any) -> PermissionResult:
    if self._statement.get("Condition") in TLS:
        return PermissionResult.NEUTRAL
    return judge(self, *arguments, **named)


IAMPolicyStatement.is_action_permitted = over_tls  # type: ignore[method-assign]


# The program


class Gate:
    """What every request passes: noted, and at the one that was named somebody is killed before it is done or after."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = read_whole(environ)
        path = environ["PATH_INFO"]
        if path.startswith("/by-the-book/"):
            answer = json.dumps(told(path.rsplit("/", 1)[1], json.loads(body or "{}"))).encode()
            start_response("200 OK", [("Content-Type", "application/json")])
            return [answer]
        action = named(environ)
        if action is None:
            return self.app(environ, start_response)
        with TOLD.lock:
            mine = len(TOLD.changes) == TOLD.at
            TOLD.changes.append(action)
            if "SageMaker." in environ.get("HTTP_X_AMZ_TARGET", ""):
                TOLD.requests.append({"action": action, "content": json.loads(body)})
        if mine and TOLD.before:
            os.kill(TOLD.victim or 0, signal.SIGKILL)
            start_response("503 Service Unavailable", [])
            return []
        answer_parts = list(self.app(environ, start_response))
        if mine:
            os.kill(TOLD.victim or 0, signal.SIGKILL)
        return answer_parts


def read_whole(environ: dict[str, Any]) -> bytes:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if not length:
        return b""
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def named(environ: dict[str, Any]) -> str | None:
    """What a request changes; None if it only looks."""
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        action = target.rsplit(".", 1)[1]
        return None if action.startswith(("Describe", "List", "Get")) else action
    if environ["REQUEST_METHOD"] in {"PUT", "DELETE"}:
        return f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].rsplit('/', 1)[-1]}"
    return None


def told(what: str, content: dict[str, Any]) -> Any:
    with TOLD.lock:
        if what == "kill":
            TOLD.victim, TOLD.at, TOLD.before = content["pid"], content["at"], content["before"]
            TOLD.changes.clear()
        if what == "broken":
            TOLD.broken = set(content["models"])
        if what == "reset":
            TOLD.reset()
        return {"changes": TOLD.changes, "requests": TOLD.requests}


if __name__ == "__main__":
    run_simple(
        "127.0.0.1", int(sys.argv[1]), Gate(DomainDispatcherApplication(create_backend_app)), threaded=True
    )
