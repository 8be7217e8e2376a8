"""The predictor as an ASGI application: predictions by a plain route, all else by FastAPI, which describes both."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import orjson
from fastapi import Depends, FastAPI, Request
from fastapi import Response as HttpResponse
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from starlette.exceptions import HTTPException

from penstock.config.serving import Serve
from penstock.http_serving import is_more
from penstock.keys import Keys
from penstock.serving.description import described
from penstock.serving.metrics import Metrics
from penstock.serving.open_inference import EXTENSIONS
from penstock.serving.predictor import ADMIN, Predictor, Response, Route, routed
from penstock.serving.refusals import Refusal
from penstock.serving.registry import Model

__all__ = ["Application", "create_app"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Application:
    """An ASGI application; ``open`` is to be awaited before it is asked, which the lifespan protocol does too."""

    def __init__(self, view: Serve) -> None:
        several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.view = view
        self.registry = CollectorRegistry()
        # Several processes count in files that all can read, which is a registry of its own.
        self.metrics = Metrics(CollectorRegistry() if several else self.registry)
        if several:
            multiprocess.MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        self._predictor: Predictor | None = None  # made on the loop
        self.predictor_keys = view.keys is not None
        self.rest = _rest(self)

    @property
    def predictor(self) -> Predictor:
        """What answers, once it is open."""
        assert self._predictor is not None, "open() comes first"
        return self._predictor

    async def open(self) -> None:
        """Load the models.

        Raises:
            PenstockError: One cannot be loaded.
        """
        self._predictor = Predictor(self.view, self.metrics)
        await self.predictor.open()

    async def close(self) -> None:
        """Write what is to be logged."""
        await self.predictor.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = routed(scope["path"]) if scope["type"] == "http" else None
        if route is not None and scope["method"] == "POST":
            await self._predict(route, scope, receive, send)
            return
        if route is not None:
            answer = _json({"error": "expected POST"}, 405)
            answer.headers["allow"] = "POST"
            await answer(scope, receive, send)
            return
        if self.predictor_keys and scope["type"] == "http" and scope["path"] == "/openapi.json":
            try:
                self.predictor.require_key(scope["headers"])  # it tells of the models' columns and categories
            except Refusal as refusal:
                await _refused(refusal)(scope, receive, send)
                return
        await self.rest(scope, receive, send)

    async def _predict(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        predictor, headers = self.predictor, scope["headers"]
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def done(response: Response) -> None:
            if not answer.done():
                answer.set_result(response)

        call = None
        try:
            call = predictor.call(route, headers, b"", done)
            predictor.require_key(headers)
            body = await _body(headers, receive, self.view)
            if body is None:
                return
            call.content = body
            predictor.take(call)
        except Refusal as refusal:
            predictor.refuse(call or predictor.call(route, (), b"", done), refusal)
        response = await answer
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers()})
        await send({"type": "http.response.body", "body": response.body})


async def _body(headers: list[tuple[bytes, bytes]], receive: Receive, view: Serve) -> bytes | None:
    """The whole body; None if whoever sent it is gone.

    Raises:
        Refusal: It is too large, or does not come.
    """
    most, patience = view.limits.body_bytes, view.limits.body_seconds.total_seconds()
    for name, value in headers:
        if name == b"content-length" and is_more(value, most):
            raise _too_large(most)
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(patience):
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return None
                part, more = event.get("body", b""), event.get("more_body", False)
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, "slow", f"expected the whole body within {patience:.0f} s") from None
    return b"".join(parts)


def _too_large(most: int) -> Refusal:
    return Refusal(413, "size", f"expected at most {most} bytes")


# --- all else ---------------------------------------------------------------------------------------


def _json(content: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(orjson.dumps(content), status, media_type="application/json")


def _refused(refusal: Refusal) -> HttpResponse:
    answer = _json(refusal.content(), refusal.status)
    if refusal.status == 401:
        answer.headers["www-authenticate"] = 'Bearer realm="penstock"'
    return answer


def _rest(application: Application) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await application.open()
        try:
            yield
        finally:
            await application.close()

    app = FastAPI(
        title="Penstock predictor",
        version=installed("penstock"),
        description="Models of the graph, over the Open Inference Protocol and as plain JSON.",
        docs_url=None,  # its scripts would come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )

    def client(request: Request) -> None:
        application.predictor.require_key(request.scope["headers"])

    def refused(_: Request, refusal: Exception) -> HttpResponse:
        assert isinstance(refusal, Refusal)
        return _refused(refusal)

    def failed(_: Request, error: Exception) -> HttpResponse:
        assert isinstance(error, HTTPException)
        answer = _json({"error": str(error.detail)}, error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, failed)
    _health(app, application)
    _metadata(app, application, Depends(client))
    _admin(app, application)
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        return described(generated(), application.predictor)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _health(app: FastAPI, application: Application) -> None:
    @app.get("/v2/health/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/v2/health/ready", tags=["health"], responses={503: {"description": "Not ready."}})
    async def ready(response: HttpResponse) -> dict[str, bool]:
        """Whether a request for a prediction would be likely to be answered."""
        found = application.predictor.ready()
        response.status_code = 200 if found else 503
        return {"ready": found}

    @app.get("/metrics", tags=["health"], response_class=HttpResponse)
    async def measured() -> HttpResponse:
        """Counters for Prometheus, of all processes."""
        application.metrics.flush()
        text = generate_latest(application.registry)
        return HttpResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _metadata(app: FastAPI, application: Application, client: Any) -> None:
    def told(model: Model, version: str | None) -> HttpResponse:
        artefact = model.lane(version).artefact
        return _json(
            {
                "name": model.name,
                "versions": model.versions,
                "platform": "onnx_onnxv1",
                "inputs": [info.told() for info in artefact.inputs],
                "outputs": [info.told() for info in artefact.outputs],
                "parameters": {"version": artefact.version, "title": artefact.title, "kind": artefact.kind},
            }
        )

    @app.get("/v2", tags=["models"], dependencies=[client])
    async def server() -> HttpResponse:
        """The server."""
        return _json({"name": "penstock", "version": installed("penstock"), "extensions": EXTENSIONS})

    @app.get("/v2/models", tags=["models"], dependencies=[client])
    async def models() -> HttpResponse:
        """Names of the models, with the version that answers."""
        found = application.predictor.registry.models.values()
        return _json({"models": [{"name": model.name, "version": model.active.version} for model in found]})

    @app.get("/v2/models/{model}", tags=["models"], dependencies=[client])
    async def metadata(model: str) -> HttpResponse:
        """A model: its versions, and what it takes and gives."""
        return told(application.predictor.registry.model(model), None)

    @app.get("/v2/models/{model}/versions/{version}", tags=["models"], dependencies=[client])
    async def version_metadata(model: str, version: str) -> HttpResponse:
        """A version of a model."""
        return told(application.predictor.registry.model(model), version)

    @app.get("/v2/models/{model}/ready", tags=["models"], dependencies=[client])
    async def model_ready(model: str) -> HttpResponse:
        """Whether a model is loaded."""
        application.predictor.registry.model(model)
        return _json({"name": model, "ready": True})

    @app.get("/v2/models/{model}/versions/{version}/ready", tags=["models"], dependencies=[client])
    async def version_ready(model: str, version: str) -> HttpResponse:
        """Whether a version of a model is loaded."""
        application.predictor.registry.model(model).lane(version)
        return _json({"name": model, "version": version, "ready": True})


def _admin(app: FastAPI, application: Application) -> None:
    declared = application.view.admin_keys
    keys = None if declared is None else Keys(Path(declared), ADMIN)

    def administrator(request: Request) -> None:
        if keys is None:
            raise Refusal(403, "admin", "no keys for /admin/ are declared: admin_keys")
        if keys.whose(request.scope["headers"]) is None:
            raise Refusal(401, "admin", "expected an administrator's key: Authorization: Bearer KEY")

    allowed = [Depends(administrator)]

    @app.get("/admin/models", tags=["admin"], dependencies=allowed)
    async def models() -> HttpResponse:
        """What is loaded, and from where."""
        return _json(
            [
                {
                    "name": model.name,
                    "folder": model.declared.path,
                    "version": model.active.version,
                    "sha256": model.active.artefact.sha256,
                    "versions": model.versions,
                    "run_ms": model.active.artefact.fixed_cost * 1000,
                    "on_loop": model.active.batcher.on_loop,
                }
                for model in application.predictor.registry.models.values()
            ]
        )

    @app.post(
        "/admin/models/{model}/reload",
        tags=["admin"],
        responses={409: {"description": "Not loaded."}},
        dependencies=allowed,
    )
    async def reload(model: str) -> HttpResponse:
        """Load what lies in the model's folder now, here and in the other processes."""
        registry = application.predictor.registry
        registry.model(model)
        outcome = await registry.reload(model)
        if application.view.workers > 1:
            os.kill(os.getppid(), signal.SIGHUP)  # whose parent passes it on to all
        told = {name: getattr(outcome, name) for name in ("model", "outcome", "version", "before")}
        if outcome.error is not None:
            return _json({"error": outcome.error, **told}, 409)
        return _json(told)


def create_app(view: Serve) -> Application:
    """The predictor's ASGI application.

    Args:
        view: What is declared.
    """
    return Application(view)
