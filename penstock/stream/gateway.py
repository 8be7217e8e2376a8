"""The gateway: devices push readings over HTTP, WebSocket or MQTT, and are answered when the log has them.

What is pushed is checked whole, then appended as one record; what the log has not acknowledged is never acknowledged here.
A push of HTTP does not go through FastAPI's own machinery, which would cost more than the checking: it is a plain ASGI
route inside the application, whose OpenAPI describes it all the same.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from starlette.routing import Route

from penstock.config.streaming import Stream
from penstock.http_serving import is_more
from penstock.keys import presented
from penstock.sources.secrets import hidden
from penstock.stream.keys import Keys
from penstock.stream.log import FullError, Log, UnavailableError
from penstock.stream.messages import MessageError, Push, checked

__all__ = ["Door", "Refusal", "create_app", "unpacked"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RETRY = 1  # seconds after which a refused device may try again
MOST_DEVICES = 100_000  # whose rates are remembered
SECOND = 1_000_000_000
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TRANSPORTS = ("http", "ws", "mqtt")
REASONS = (
    "clock",
    "content",
    "device",
    "encoding",
    "key",
    "log",
    "pending",
    "rate",
    "size",
    "slow",
    "type",
)
TITLES = {
    400: "Not a body",
    401: "No key",
    403: "Another device's key",
    404: "Not here",
    413: "Too large",
    408: "Too slow",
    415: "Not in this encoding",
    422: "Not a message of readings",
    429: "Too much at once",
    503: "Not now",
}


class Refusal(Exception):  # noqa: N818  (it is an answer)
    """Why a push is not taken.

    Attributes:
        status: Of HTTP.
        detail: In words.
        reason: For the metrics.
        errors: Fields, and what is wrong with each.
        after: Seconds after which it is worth another try.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        errors: list[tuple[str, str]] | None = None,
        after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail
        self.errors, self.after = errors or [], after

    def problem(self) -> dict[str, Any]:
        """As RFC 9457 has it."""
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            told["errors"] = [{"field": name, "message": words} for name, words in self.errors]
        return told


class Metrics:
    """What the gateway counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.messages = Counter(
            "penstock_gateway_messages",
            "Messages, by what became of them.",
            ["transport", "outcome"],
            registry=registry,
        )
        self.readings = Counter(
            "penstock_gateway_readings", "Readings that were acknowledged.", ["transport"], registry=registry
        )
        self.bytes = Counter(
            "penstock_gateway_bytes",
            "Bytes of messages that were acknowledged.",
            ["transport"],
            registry=registry,
        )
        self.refusals = Counter(
            "penstock_gateway_refusals",
            "Messages that were refused, by reason.",
            ["reason"],
            registry=registry,
        )
        self.seconds = Histogram(
            "penstock_gateway_seconds",
            "From the first byte of a message to its acknowledgement.",
            ["transport"],
            buckets=SECONDS,
            registry=registry,
        )
        self.pending = Gauge(
            "penstock_gateway_pending_bytes",
            "Bytes that the log has not acknowledged yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.connections = Gauge(
            "penstock_gateway_connections",
            "Connections of HTTP and WebSocket that are open.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.log_ready = Gauge(
            "penstock_gateway_log_ready",
            "1 while the log takes records.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.mqtt = Gauge(
            "penstock_gateway_mqtt_connected",
            "1 while it is subscribed at the broker; 0 where it is not, or none is declared.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        # What is counted from nothing on has a rate from its first event on.
        for transport in TRANSPORTS:
            for outcome in ("taken", "refused"):
                self.messages.labels(transport, outcome)
            for of_transport in (self.readings, self.bytes, self.seconds):
                of_transport.labels(transport)
        for reason in REASONS:
            self.refusals.labels(reason)


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


@dataclass
class Door:
    """What every transport asks: whether this may be taken, and whether the log has it.

    Attributes:
        view: What is declared.
        log: Where messages go.
        metrics: What is counted.
        keys: Of devices; None on a machine's own addresses alone.
        clock: Nanoseconds since 1970.
    """

    view: Stream
    log: Log
    metrics: Metrics
    keys: Keys | None = None
    clock: Callable[[], int] = time.time_ns
    _pending: int = 0
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        limits = self.view.gateway.limits
        self._past = int(limits.past.total_seconds() * SECOND)
        self._future = int(limits.future.total_seconds() * SECOND)
        self._append = limits.append.total_seconds()

    def device(self, headers: list[tuple[bytes, bytes]]) -> str | None:
        """Whose key the headers have; None where keys are not asked for.

        Raises:
            Refusal: They have none, or one that is nobody's.
        """
        if self.keys is None:
            return None
        key = presented(headers)
        found = None if key is None else self.keys.device(key)
        if found is None:
            told = "expected the device's key: Authorization: Bearer KEY, X-Api-Key, or HTTP basic"
            raise Refusal(401, "key", told if key is None else f"the key is no device's; {told}")
        return found

    async def take(self, body: bytes, owner: str | None, transport: str, began: float) -> int:
        """Check a message and append it.

        Args:
            body: JSON, unpacked.
            owner: The device whose key came with it; None if keys are not asked for.
            transport: http, ws or mqtt.
            began: ``time.perf_counter`` when its first byte came.

        Returns:
            How many readings it has.

        Raises:
            Refusal: Nothing of it is taken (503: or it is not known whether it was; sent again, it counts once).
        """
        limits = self.view.gateway.limits
        now = self.clock()
        if len(body) > limits.body_bytes:
            raise _too_large(limits.body_bytes)
        try:
            message = checked(body, most=limits.readings, now=now, past=self._past, future=self._future)
        except MessageError as error:
            skewed = error.errors[0][0].endswith(".time") and "clock" in error.errors[0][1]
            raise Refusal(
                422, "clock" if skewed else "content", "nothing of this message was taken", error.errors
            ) from None
        if owner is not None and message.device != owner:
            raise Refusal(
                403,
                "device",
                "the key is another device's",
                [("deviceId", f"expected {owner!r}, whose key it is")],
            )
        self._rate(message.device, len(body))
        await self._appended(message.device, body, now, transport)
        metrics = self.metrics
        metrics.messages.labels(transport, "taken").inc()
        metrics.readings.labels(transport).inc(len(message.readings))
        metrics.bytes.labels(transport).inc(len(body))
        metrics.seconds.labels(transport).observe(time.perf_counter() - began)
        return len(message.readings)

    async def _appended(self, device: str, body: bytes, now: int, transport: str) -> None:
        limits = self.view.gateway.limits
        if self._pending + len(body) > limits.pending_bytes:
            raise Refusal(503, "pending", "too much is on its way to the log", after=RETRY)
        self._pending += len(body)
        self.metrics.pending.set(self._pending)
        headers = {"received": b"%d" % now, "transport": transport.encode()}
        try:
            async with asyncio.timeout(self._append):
                await self.log.append(
                    self.view.log.readings.name, device.encode("utf-8", "surrogatepass"), body, headers
                )
        except FullError as error:
            raise Refusal(503, "pending", hidden(error.message), after=RETRY) from error
        except UnavailableError as error:
            raise Refusal(503, "log", "the log has not acknowledged; send it again", after=RETRY) from error
        except TimeoutError as error:
            raise Refusal(
                503, "log", "the log has not acknowledged in time; send it again", after=RETRY
            ) from error
        finally:
            self._pending -= len(body)
            self.metrics.pending.set(self._pending)

    def _rate(self, device: str, size: int) -> None:
        limits = self.view.gateway.limits
        burst, rate = limits.device_burst_bytes, limits.device_bytes_per_second
        now = time.monotonic()
        bucket = self._buckets.get(device)
        if bucket is None:
            bucket = self._buckets[device] = _Bucket(burst, now)
            if len(self._buckets) > MOST_DEVICES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(device)
        bucket.left = min(burst, bucket.left + (now - bucket.at) * rate)
        bucket.at = now
        if size > bucket.left:
            after = max(1.0, (min(size, burst) - bucket.left) / rate)
            raise Refusal(429, "rate", f"expected at most {rate} bytes per second of a device", after=after)
        bucket.left -= size

    def refused(self, refusal: Refusal, transport: str) -> None:
        """Count a refusal."""
        self.metrics.messages.labels(transport, "refused").inc()
        self.metrics.refusals.labels(refusal.reason).inc()


def _too_large(most: int) -> Refusal:
    return Refusal(413, "size", f"expected at most {most} bytes of a message, unpacked")


# --- HTTP -------------------------------------------------------------------------------------------


class _Push:
    """``POST /v1/readings`` as a plain ASGI application."""

    def __init__(self, door: Door) -> None:
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        try:
            owner = self.door.device(scope["headers"])
            body = await self._body(scope["headers"], receive)
            count = await self.door.take(body, owner, "http", began)
        except Refusal as refusal:
            self.door.refused(refusal, "http")
            await _answer(send, refusal.status, refusal.problem(), refusal)
        except _GoneError:
            return
        else:
            await _answer(send, 200, {"accepted": count})

    async def _body(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
        limits = self.door.view.gateway.limits
        most, encoding = limits.body_bytes, b""
        for name, value in headers:
            if name == b"content-length" and is_more(value, most):
                raise _too_large(most)
            if name == b"content-encoding":
                encoding = value.strip().lower()
            if name == b"content-type" and b"json" not in value.lower() and value:
                raise Refusal(415, "type", f"expected application/json, found {value.decode('latin-1')[:60]}")
        unpacked = _unpacker(encoding)
        whole = bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds.total_seconds()):
                more = True
                while more:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise _GoneError
                    more = event.get("more_body", False)
                    unpacked(event.get("body", b""), whole, most)
        except TimeoutError:
            told = f"expected the whole body within {limits.body_seconds.total_seconds():.0f} s"
            raise Refusal(408, "slow", told) from None
        unpacked(None, whole, most)
        return bytes(whole)


class _GoneError(Exception):
    """Nobody waits for an answer."""


def _unpacker(encoding: bytes) -> Callable[[bytes | None, bytearray, int], None]:
    """Something that appends what a piece of a body is when it is unpacked, and ends with None; never more than is allowed."""
    if encoding in {b"", b"identity"}:

        def plain(piece: bytes | None, whole: bytearray, most: int) -> None:
            if piece is None:
                return
            if len(whole) + len(piece) > most:
                raise _too_large(most)
            whole += piece

        return plain
    if encoding not in {b"gzip", b"x-gzip", b"deflate"}:
        raise Refusal(415, "encoding", f"expected gzip or deflate, found {encoding.decode('latin-1')[:60]}")
    # 32: either of the headers that gzip and deflate have.
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def zipped(piece: bytes | None, whole: bytearray, most: int) -> None:
        try:
            if piece is None:
                if not unzip.eof:
                    raise Refusal(400, "encoding", "the packed body is cut short")
                return
            # One byte more than may be shows that it is too much, and is all that is unpacked of a bomb.
            whole += unzip.decompress(piece, most + 1 - len(whole))
        except zlib.error as error:
            raise Refusal(
                400, "encoding", f"the body is not what its Content-Encoding says: {error}"
            ) from error
        if len(whole) > most or unzip.unconsumed_tail:
            raise _too_large(most)
        if unzip.unused_data:
            raise Refusal(400, "encoding", "something follows the packed body")

    return zipped


def unpacked(body: bytes, encoding: bytes, most: int) -> bytes:
    """A body that came whole.

    Args:
        body: As it came.
        encoding: gzip or deflate; empty for none.
        most: Bytes that it may be when it is unpacked.

    Raises:
        Refusal: It is more, or not what it is said to be.
    """
    take, whole = _unpacker(encoding), bytearray()
    take(body, whole, most)
    take(None, whole, most)
    return bytes(whole)


async def _answer(send: Send, status: int, content: dict[str, Any], refusal: Refusal | None = None) -> None:
    body = orjson.dumps(content)
    kind = b"application/json" if refusal is None else b"application/problem+json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    if refusal is not None:
        if refusal.after is not None:
            headers.append((b"retry-after", b"%d" % -(-refusal.after // 1)))
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="penstock"'))
        if status in {408, 413}:
            # What is still to come of the body is not waited for.
            headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# --- the application --------------------------------------------------------------------------------


def create_app(view: Stream, log: Log, *, clock: Callable[[], int] = time.time_ns) -> FastAPI:
    """The gateway's application, over a log that is open.

    Args:
        view: What is declared.
        log: Where messages go.
        clock: Nanoseconds since 1970.
    """
    several = view.gateway.workers > 1
    registry = CollectorRegistry()
    # Several processes count in files that all can read, which is a registry of its own.
    metrics = Metrics(CollectorRegistry() if several else registry)
    keys = None if view.gateway.keys is None else Keys(Path(view.gateway.keys))
    door = Door(view, log, metrics, keys, clock)
    if several:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        ProcessCollector(registry=registry)  # memory, files, CPU: of one process, where there is one
    app = FastAPI(
        title="Penstock gateway",
        version="1",
        description="Readings of phones and other devices, on their way to the log.",
        docs_url=None,  # its scripts would come from elsewhere
        redoc_url=None,
    )
    app.state.door = door
    app.router.routes.append(Route("/v1/readings", _Push(door), methods=["POST"]))

    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "live"}

    @app.get(
        "/health/ready", tags=["health"], responses={503: {"description": "The log does not take records."}}
    )
    async def ready(response: Response) -> dict[str, str]:
        """Whether a push would be likely to be taken."""
        if await log.ready():
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "the log does not take records"}

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def measured() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.websocket("/v1/readings")
    async def pushes(socket: WebSocket) -> None:
        await _socket(door, socket)

    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(described(), keyed=keys is not None)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _socket(door: Door, socket: WebSocket) -> None:
    """One message a frame, one answer a message, in their order."""
    try:
        owner = door.device(socket.scope["headers"])
    except Refusal as refusal:
        door.refused(refusal, "ws")
        await socket.close(1008, refusal.detail[:120])
        return
    await socket.accept()
    try:
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            began = time.perf_counter()
            frame = event.get("bytes")
            body = (
                frame if frame is not None else str(event.get("text") or "").encode("utf-8", "surrogatepass")
            )
            try:
                answer: dict[str, Any] = {
                    "status": 200,
                    "accepted": await door.take(body, owner, "ws", began),
                }
            except Refusal as refusal:
                door.refused(refusal, "ws")
                answer = refusal.problem()
                if refusal.after is not None:
                    answer["retryAfter"] = refusal.after
            await socket.send_text(orjson.dumps(answer).decode())
    except (WebSocketDisconnect, RuntimeError):  # it went while it was answered
        return


def _described(schema: dict[str, Any], *, keyed: bool) -> dict[str, Any]:
    """OpenAPI with the route that FastAPI does not know."""
    push = Push.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.setdefault("components", {}).setdefault("schemas", {})
    parts.update(push.pop("$defs", {}))
    parts["Push"] = push
    parts["Problem"] = {
        "title": "Problem",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["field", "message"],
                    "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                },
            },
        },
    }
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    statuses = (400, 408, 413, 415, 422, 429, 503, *((401, 403) if keyed else ()))
    accepted = {
        "type": "object",
        "required": ["accepted"],
        "properties": {"accepted": {"type": "integer", "description": "Readings that are durable now."}},
    }
    schema["paths"]["/v1/readings"] = {
        "post": {
            "tags": ["readings"],
            "summary": "Push a message of readings",
            "description": "Answered when the log has it. The same message again counts once. The body may be packed "
            "by gzip or deflate. A WebSocket at the same address takes a message a frame.",
            "operationId": "push_readings",
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Push"}}},
            },
            "responses": {
                "200": {"description": "Taken.", "content": {"application/json": {"schema": accepted}}},
                **{str(status): {"description": TITLES[status], "content": problem} for status in statuses},
            },
            **({"security": [{"bearer": []}, {"key": []}, {"basic": []}]} if keyed else {}),
        }
    }
    if keyed:
        schema["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
            "basic": {"type": "http", "scheme": "basic"},
        }
    return schema
