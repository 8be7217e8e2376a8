"""What a router answers besides predictions: the console, operators' commands, metrics, whether it lives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from penstock.config.rollout import Rollout
from penstock.errors import PenstockError
from penstock.http_serving import is_loopback
from penstock.keys import Keys, Purpose
from penstock.rollout.audit import broken
from penstock.rollout.desk import Desk
from penstock.rollout.settings import Settings
from penstock.rollout.shared import Shared
from penstock.rollout.state import StateError, Store, open_store

__all__ = ["OPERATORS", "create_back", "told"]

OPERATORS = Purpose("operator", b"penstock-oper", "penstock rollout keys add OPERATOR")
FILES = Path(__file__).parent / "page"
KINDS = {"index.html": "text/html", "console.css": "text/css", "console.js": "text/javascript"}
MARK = "x-penstock-console"  # a page elsewhere cannot send it without asking first
MOST = 65_536
ENTRIES = 30
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator asks for.

    Attributes:
        why: In words; goes into the audit trail.
        to: Of a promotion, the arm.
        arm: Of a stop.
        set: Settings, ``key=value``.
        flag: Name of a feature flag.
        variant: That it is switched to.
    """

    why: str = ""
    to: str | None = None
    arm: str | None = None
    set: list[str] = []
    flag: str | None = None
    variant: str | None = None


def _done(desk: Desk, verb: str, command: Command, who: str) -> Settings | None:
    verbs: dict[str, Callable[[], Settings | None]] = {
        "promote": lambda: desk.promote(command.to, who, command.why),
        "rollback": lambda: desk.rollback(who, command.why),
        "pause": lambda: desk.pause(who, command.why),
        "resume": lambda: desk.resume(who, command.why),
        "set": lambda: desk.set(command.set, who, command.why),
        "apply": lambda: desk.apply(who, command.why),
        "stop": lambda: desk.stop(_given(command.arm, "arm"), who, command.why or "asked for"),
        "flag": lambda: _none(
            desk.flag(_given(command.flag, "flag"), _given(command.variant, "variant"), who, command.why)
        ),
    }
    if verb not in verbs:
        raise PenstockError(f"there is no {verb}", hint=f"there are: {', '.join(verbs)}")
    return verbs[verb]()


def _none(_: Any) -> None:
    return None


def _given(value: str | None, name: str) -> str:
    if value is None:
        raise PenstockError(f"which {name}?", hint=f'say it: {{"{name}": …}}')
    return value


def told(view: Rollout, store: Store) -> dict[str, Any]:
    """All that is known of a rollout, for a page or a person.

    Args:
        view: What is declared.
        store: The state.

    Raises:
        StateError: It does not answer.
    """
    settings = store.settings()
    facts = store.facts("")
    trail = store.history(
        ENTRIES
    )  # all of it would be read every second; `penstock rollout history` checks the whole
    return {
        "model": view.model,
        "settings": None if settings is None else settings.model_dump(mode="json"),
        "shares": {} if settings is None else settings.shares(),
        "stage": None if settings is None else settings.stage,
        "champion": None if settings is None else settings.champion,
        "report": facts.get("report"),
        "policy": store.policy(),
        "replicas": {key[8:]: value for key, value in facts.items() if key.startswith("replica/")},
        "routers": {key[7:]: value for key, value in facts.items() if key.startswith("router/")},
        "history": [entry.dump() for entry in trail[::-1]],
        "broken": broken(trail, whole=False),
        "entries": trail[-1].number if trail else 0,
    }


def create_back(view: Rollout, shared: Shared, registry: CollectorRegistry) -> Starlette:
    """The application.

    Args:
        view: What is declared.
        shared: The state, followed.
        registry: Of the metrics.
    """
    contents = {name: (FILES / name).read_bytes() for name in KINDS}
    operators = None if view.router.operators is None else Keys(Path(view.router.operators), OPERATORS)

    def operator(request: Request) -> str | None:
        """Who asks; None if that is nobody who may."""
        if operators is not None:
            return operators.whose(request.scope["headers"])
        # Only this machine reaches it; but a browser on it may be on another's page.
        return "loopback" if MARK in request.headers else None

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in KINDS:
            return Response("not here\n", 404, media_type="text/plain")
        return Response(contents[name], headers=HEADERS, media_type=KINDS[name])

    async def state(request: Request) -> Response:
        if operator(request) is None:
            return _refused(401, "say who you are: an operator's key")
        try:
            found = await shared.asked(lambda store: told(view, store))
        except StateError as error:
            found = {
                "model": view.model,
                "down": str(error),
                "settings": shared.settings.model_dump(mode="json"),
                "shares": shared.settings.shares(),
                "champion": shared.settings.champion,
            }
        return Response(orjson.dumps(found), headers=HEADERS, media_type="application/json")

    async def act(request: Request) -> Response:
        who = operator(request)
        if who is None:
            return _refused(401, "say who you are: an operator's key")
        try:
            body = await _body(request)
            command = msgspec.json.decode(body or b"{}", type=Command)
        except (msgspec.DecodeError, ValueError) as error:
            return _refused(422, str(error))
        verb = request.path_params["verb"]

        def done() -> Settings | None:
            store = open_store(view)  # of its own: a smoke test takes its time
            try:
                return _done(Desk(view, store), verb, command, who)
            finally:
                store.close()

        try:
            settings = await asyncio.to_thread(done)
        except PenstockError as error:
            return _refused(409, str(error))
        except StateError as error:
            return _refused(503, f"the state does not answer: {error}")
        version = None if settings is None else settings.version
        return Response(orjson.dumps({"version": version}), headers=HEADERS, media_type="application/json")

    async def metrics(_: Request) -> Response:
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            every = CollectorRegistry()
            multiprocess.MultiProcessCollector(every)  # type: ignore[no-untyped-call]
            return Response(generate_latest(every), media_type="text/plain; version=0.0.4")
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    async def alive(_: Request) -> Response:
        return Response("live\n", media_type="text/plain")

    async def moved(_: Request) -> Response:
        return Response(status_code=307, headers={"location": "/console/"})

    routes = [
        Route("/console", moved),
        Route("/console/", file),
        Route("/console/state", state),
        Route("/console/{name}", file),
        Route("/admin/{verb}", act, methods=["POST"]),
        Route("/metrics", metrics),
        Route("/health/live", alive),
    ]
    hosts = []
    if is_loopback(view.router.host):
        # A page elsewhere that has its name point here is not to act on what is only for this machine.
        hosts = [Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])]
    return Starlette(routes=routes, middleware=hosts)


async def _body(request: Request) -> bytes:
    found = b""
    try:
        async for chunk in request.stream():
            found += chunk
            if len(found) > MOST:
                raise ValueError("too much is asked at once")
    except ClientDisconnect:
        raise ValueError("the request did not come whole") from None
    return found


def _refused(status: int, words: str) -> Response:
    return Response(orjson.dumps({"error": words}), status, headers=HEADERS, media_type="application/json")
