"""A stand-in for Azure Resource Manager, for there is no emulator of it: it answers by what is published, as far as it goes.

It holds every body against the published shapes (tests/schemas/azure.json), expands templates, takes its time with operations
as the guidelines for asynchronous ones say, and refuses what the documentation of managed online endpoints says is refused:
traffic that does not add to 100, a deployment that is both live and mirrored to, a second operation while one runs, an
endpoint without its workspace. What a real Azure does beyond that, nothing here can show.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema

from tests.servers.arm_template import Group, expanded

__all__ = ["SUBSCRIPTION", "TENANT", "Fault", "Request", "StandIn", "azure_stand_in", "shapes"]

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
TENANT = "aaaaaaaa-1111-2222-3333-444444444444"
SHAPES = Path(__file__).parents[1] / "schemas/azure.json"
ML = "microsoft.machinelearningservices/workspaces"
SLOW = (f"{ML}/onlineendpoints", f"{ML}/onlineendpoints/deployments", "microsoft.resources/deployments", ML)


def shapes() -> dict[str, Any]:
    """Published shapes by type of resource, in small letters."""
    whole = json.loads(SHAPES.read_text(encoding="utf-8"))
    return {
        kind.lower(): {
            "apiVersion": rule["apiVersion"],
            "schema": {"$ref": rule["$ref"], "$defs": whole["$defs"]},
        }
        for kind, rule in whole["resources"].items()
    }


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]


@dataclass
class Fault:
    """What is answered instead, to requests whose method and path match, a number of times."""

    method: str
    path: str  # a regular expression
    status: int
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1


class Refused(Exception):
    """Azure would say no."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class StandIn:
    """The state of the stand-in.

    Attributes:
        resources: Bodies by id in small letters.
        requests: All that was asked, in order.
        faults: What is answered instead.
        polls: Times that an operation says that it is running.
        held: Paths whose operations do not end until they are taken out of it.
        bin: Deleted vaults by name.
        metrics: Of the endpoint: requests by class of status, such as {"2xx": 990, "5xx": 10}.
        url: Where it answers.
    """

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.polls = 1
        self.held: set[str] = set()
        self.bin: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, float] = {}
        self.failing: dict[
            str, tuple[str, str]
        ] = {}  # by end of path: code and words with which its operation fails
        self.url = ""
        self.lock = threading.RLock()
        self._operations: dict[str, dict[str, Any]] = {}
        self._shapes = shapes()
        self._tags = 0

    def writes(self) -> list[str]:
        """Methods and paths of what was to change something."""
        return [
            f"{r.method} {r.path}" for r in self.requests if r.method in ("PUT", "DELETE", "POST", "PATCH")
        ]

    def named(self, ending: str) -> dict[str, Any]:
        """The resource whose id ends so."""
        return next(body for key, body in self.resources.items() if key.endswith(ending.lower()))

    # --- answering -------------------------------------------------------------------------------------

    def answer(self, request: Request) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if (
                    fault.times
                    and fault.method == request.method
                    and re.search(fault.path, request.path, re.I)
                ):
                    fault.times -= 1
                    body = {"error": {"code": fault.code, "message": fault.message}} if fault.code else None
                    return fault.status, fault.headers, body
            try:
                return self._routed(request)
            except Refused as error:
                return error.status, {}, {"error": {"code": error.code, "message": str(error)}}

    def _routed(self, request: Request) -> tuple[int, dict[str, str], Any]:
        path = request.path
        if path.startswith("/msi/token"):
            return 200, {}, self._token(request)
        if request.headers.get("authorization", "").removeprefix("Bearer ") != _jwt(f"{self.url}"):
            raise Refused(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if path.startswith("/operations/"):
            return self._operation(path.rpartition("/")[2])
        if "api-version" not in request.query:
            raise Refused(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        if path.split("/")[2].lower() != SUBSCRIPTION:
            raise Refused(
                404, "SubscriptionNotFound", f"The subscription '{path.split('/')[2]}' could not be found."
            )
        if path.lower().endswith("/deletedvaults"):
            return 200, {}, {"value": list(self.bin.values())}
        if path.lower().endswith("/purge"):
            self.bin.pop(path.split("/")[-2])
            return 202, {"Location": self._begin(path, lambda: None), "Retry-After": "0"}, None
        if path.lower().endswith("/providers/microsoft.insights/metrics"):
            return 200, {}, self._measured()
        if path.lower().endswith("/resources"):
            return 200, {}, {"value": self._listed(path.lower().removesuffix("/resources"))}
        match request.method:
            case "GET":
                return self._get(path)
            case "PUT":
                return self._put(path, request)
            case "DELETE":
                return self._delete(path)
        raise Refused(405, "MethodNotAllowed", request.method)

    def _token(self, request: Request) -> dict[str, Any]:
        resource = request.query["resource"][0]
        return {
            "access_token": _jwt(resource.rstrip("/")),
            "expires_on": str(int(time.time()) + 86_400),
            "resource": resource,
            "token_type": "Bearer",
        }

    def _measured(self) -> dict[str, Any]:
        series = [
            {
                "metadatavalues": [{"name": {"value": "statuscodeclass"}, "value": kind}],
                "data": [
                    {"timeStamp": "2026-01-01T00:00:00Z", "average": count},
                    {"timeStamp": "2026-01-01T00:01:00Z"},
                ],
            }
            for kind, count in self.metrics.items()
        ]
        return {"value": [{"name": {"value": "RequestsPerMinute"}, "timeseries": series}]}

    def _listed(self, group: str) -> list[dict[str, Any]]:
        """Top resources of a group, as Azure lists them."""
        self._known(group)
        return [
            {"id": body["id"], "name": body["name"], "type": body["type"], "tags": body.get("tags", {})}
            for key, body in self.resources.items()
            if key.startswith(group + "/")
            and key.count("/providers/") == 1
            and len(key.split("/")) == 9
            and "microsoft.resources/" not in key
        ]

    def _known(self, path: str) -> dict[str, Any]:
        found = self.resources.get(path.lower())
        if found is None:
            kind = "ResourceGroupNotFound" if len(path.split("/")) == 5 else "ResourceNotFound"
            raise Refused(404, kind, f"The Resource '{path}' was not found.")
        return found

    def _get(self, path: str) -> tuple[int, dict[str, str], Any]:
        body = self._known(path)
        self._advance(path)
        headers = {"ETag": body["etag"]} if "etag" in body else {}
        return 200, headers, {k: v for k, v in body.items() if k != "etag"}

    # --- operations ------------------------------------------------------------------------------------

    def _begin(self, path: str, end: Callable[[], None]) -> str:
        name = uuid.uuid4().hex
        self._operations[name] = {"path": path, "polls": self.polls, "end": end, "state": "InProgress"}
        return f"{self.url}/operations/{name}"

    def _operation(self, name: str) -> tuple[int, dict[str, str], Any]:
        known = self._operations[name]
        self._advance(known["path"])
        body: dict[str, Any] = {"status": known["state"]}
        if known["state"] == "Failed":
            body["error"] = dict(zip(("code", "message"), known["reason"], strict=True))
        return 200, {"Retry-After": "0"}, body

    def _advance(self, path: str) -> None:
        for known in self._operations.values():
            if known["path"].lower() == path.lower() and known["state"] == "InProgress":
                if any(path.lower().endswith(h.lower()) for h in self.held):
                    return
                known["polls"] -= 1
                if known["polls"] < 0:
                    reason = next(
                        (r for e, r in self.failing.items() if path.lower().endswith(e.lower())), None
                    )
                    known["state"] = "Failed" if reason else "Succeeded"
                    known["reason"] = reason
                    if reason:
                        self.resources[path.lower()]["properties"]["provisioningState"] = "Failed"
                    else:
                        known["end"]()

    # --- writing ---------------------------------------------------------------------------------------

    def _put(self, path: str, request: Request) -> tuple[int, dict[str, str], Any]:
        key, body = path.lower(), request.body
        kind = _kind(path)
        version = request.query["api-version"][0]
        old = self.resources.get(key)
        self._checked(path, kind, version, body)
        if old is not None and str(old.get("properties", {}).get("provisioningState")) in (
            "Creating",
            "Updating",
        ):
            raise Refused(409, "Conflict", f"{kind}: another operation is in progress")
        wanted = request.headers.get("if-match")
        if wanted is not None and (old is None or wanted != old.get("etag")):
            raise Refused(412, "PreconditionFailed", "The resource was changed meanwhile.")
        if kind.endswith("/onlineendpoints"):
            self._traffic_checked(key, body["properties"])
        self._tags += 1
        new = {
            **json.loads(json.dumps(body)),
            "id": path,
            "name": path.rpartition("/")[2],
            "type": kind,
            "etag": f'"{self._tags}"',
        }
        properties = new.setdefault("properties", {})
        if kind == "microsoft.managedidentity/userassignedidentities":
            properties["principalId"] = str(uuid.uuid5(uuid.NAMESPACE_URL, path))
        if not kind.endswith(("onlineendpoints", "deployments")):
            new.pop("etag")  # as providers differ in
        self.resources[key] = new
        if kind not in SLOW:
            properties["provisioningState"] = "Succeeded"
            return 201 if old is None else 200, {}, {k: v for k, v in new.items() if k != "etag"}
        properties["provisioningState"] = "Creating" if old is None else "Updating"
        where = self._begin(path, lambda: self._ended(key))
        answered = {k: v for k, v in new.items() if k != "etag"}
        return 201 if old is None else 200, {"Azure-AsyncOperation": where, "Retry-After": "0"}, answered

    def _ended(self, key: str) -> None:
        body = self.resources.get(key)
        if body is None:
            return
        body["properties"]["provisioningState"] = "Succeeded"
        if body["type"] == "microsoft.resources/deployments":
            self._template(body)

    def _template(self, body: dict[str, Any]) -> None:
        properties = body["properties"]
        name = body["id"].split("/")[4]
        place = self.resources[body["id"].lower().partition("/providers/")[0]]["location"]
        group = Group(SUBSCRIPTION, name, place, TENANT)

        def put(identifier: str, version: str, inner: dict[str, Any]) -> None:
            self._checked(identifier, _kind(identifier), version, inner)
            old = self.resources.get(identifier.lower(), {})
            new = {
                **inner,
                "id": identifier,
                "name": identifier.rpartition("/")[2],
                "type": _kind(identifier),
            }
            new.setdefault("properties", {})
            new["properties"] = {**new["properties"], "provisioningState": "Succeeded"}
            if new["type"] == "microsoft.managedidentity/userassignedidentities":
                new["properties"]["principalId"] = str(uuid.uuid5(uuid.NAMESPACE_URL, identifier))
            self.resources[identifier.lower()] = {**old, **new}

        try:
            ids, outputs = expanded(
                properties["template"],
                properties["parameters"],
                group,
                put,
                lambda identifier: self._known(identifier)["properties"],
            )
        except (ValueError, Refused) as error:
            properties["provisioningState"] = "Failed"
            properties["error"] = {"code": "InvalidTemplate", "message": str(error)}
            raise
        properties["outputs"] = outputs
        properties["outputResources"] = [{"id": i} for i in ids]

    def _checked(self, path: str, kind: str, version: str, body: Mapping[str, Any]) -> None:
        shape = self._shapes.get(kind)
        if shape is None:
            raise Refused(404, "InvalidResourceType", f"The resource type '{kind}' could not be found.")
        if version != shape["apiVersion"]:
            raise Refused(
                400,
                "InvalidApiVersionParameter",
                f"{kind} is asked by {shape['apiVersion']} here, not {version}",
            )
        error = jsonschema.Draft202012Validator(shape["schema"]).iter_errors(body)
        found = jsonschema.exceptions.best_match(error)
        if found is not None:
            raise Refused(400, "InvalidRequestContent", f"{kind}: {found.json_path}: {found.message}")
        parts = path.split("/")
        parent = "/".join(parts[:5]) if len(parts) == 9 else ""
        if (
            path.count("/providers/") == 1
            and len(parts) > 9
            and "/versions/" not in path
            and "/default/" not in path
        ):
            parent = "/".join(parts[:-2])
        if parent and len(parts) > 5:
            self._known(parent)
        if kind == f"{ML}/onlineendpoints/deployments":
            for needed in ("model", "environmentId"):
                self._known(body["properties"][needed])

    def _traffic_checked(self, key: str, properties: Mapping[str, Any]) -> None:
        traffic, mirror = properties.get("traffic") or {}, properties.get("mirrorTraffic") or {}
        if sum(traffic.values()) not in (0, 100):
            raise Refused(400, "BadArgument", "Sum of traffic is not 0 or 100")
        for name in {*traffic, *mirror}:
            if f"{key}/deployments/{name}" not in self.resources:
                raise Refused(400, "BadArgument", f"There is no deployment {name}")
        if any(traffic.get(name) for name in mirror) or sum(mirror.values()) > 50:
            raise Refused(
                400, "BadArgument", "mirror traffic goes to a deployment without live traffic, 50 % at most"
            )

    def _delete(self, path: str) -> tuple[int, dict[str, str], Any]:
        key = path.lower()
        if key not in self.resources:
            return 204, {}, None
        group = len(path.split("/")) == 5

        def end() -> None:
            for name in [k for k in self.resources if k == key or k.startswith(key + "/")]:
                body = self.resources.pop(name)
                if body.get("type") == "microsoft.keyvault/vaults":
                    self.bin[body["name"]] = {
                        "name": body["name"],
                        "properties": {"vaultId": body["id"], "location": body["location"]},
                    }

        where = self._begin(path, end)
        name = "Location" if group else "Azure-AsyncOperation"
        return 202, {name: where, "Retry-After": "0"}, None


def _kind(path: str) -> str:
    """Type of an id, in small letters: of the last provider in it."""
    parts = path.lower().split("/")
    if "providers" not in parts:
        return "microsoft.resources/resourcegroups"
    at = len(parts) - 1 - parts[::-1].index("providers")
    return "/".join([parts[at + 1], *parts[at + 2 :: 2]])


def _jwt(audience: str) -> str:
    """A token as storage's emulator wants it: it looks at whom it is for and who gave it, at no signature."""

    def part(item: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(item).encode()).decode().rstrip("=")

    claims = {
        "aud": audience,
        "iss": f"https://sts.windows.net/{TENANT}/",
        "nbf": 1_700_000_000,
        "iat": 1_700_000_000,
        "exp": 4_000_000_000,
    }
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}.c2ln"


@contextmanager
def azure_stand_in() -> Iterator[StandIn]:
    """A stand-in without anything in it, for the time of the block."""
    state = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            content = self.rfile.read(length)
            split = urlsplit(self.path)
            request = Request(
                self.command,
                unquote(split.path),
                parse_qs(split.query),
                json.loads(content) if content else None,
                {k.lower(): v for k, v in self.headers.items()},
            )
            status, headers, body = state.answer(request)
            payload = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _serve

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
