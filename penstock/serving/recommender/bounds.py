"""Around an application: what is too much, too slow or from elsewhere is refused before it costs anything; the rest is counted."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from penstock.config.serving.recommender import Recommend
from penstock.console import say
from penstock.http_serving import is_loopback, is_more
from penstock.requests import REQUEST_ID, new_request_id
from penstock.serving.recommender.metrics import Metrics
from penstock.serving.refusals import Refusal

__all__ = ["Bounded", "refused"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
OPEN = "/health/"  # answered also when there is too much: who asks wants to know that


def refused(refusal: Refusal) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """A refusal as status, headers and body."""
    body = orjson.dumps(refusal.content())
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.after is not None:
        headers.append((b"retry-after", b"%d" % refusal.after))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="penstock"'))
    if refusal.status in {408, 413}:
        headers.append((b"connection", b"close"))  # what is still to come of the body is not waited for
    return refusal.status, headers, body


class Bounded:
    """The application with its bounds.

    Args:
        app: What answers. It finds the request's id in ``scope["request_id"]``.
        view: What is declared.
        metrics: What is counted.
    """

    def __init__(self, app: App, view: Recommend, metrics: Metrics) -> None:
        self._app, self._view, self._metrics = app, view, metrics
        self._in_flight = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request = scope["request_id"] = _request_id(scope["headers"])
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request.encode("ascii"))]
            await send(message)

        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            self._require_room(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _replayed(body, receive), answer)
        except Refusal as refusal:
            await _send(refusal, answer)
        except Exception as error:
            # What nobody has thought of is told in the log, and not to whoever has asked.
            say("recommend: a defect:\n" + "".join(traceback.format_exception(error)))
            if not status:
                await _send(Refusal(500, "defect", "this cannot be answered; the log says why"), answer)
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def _require_room(self, scope: Message) -> None:
        limits = self._view.limits
        if self._in_flight > limits.in_flight and not scope["path"].startswith(OPEN):
            raise Refusal(503, "busy", f"{limits.in_flight} requests are being answered", after=1)
        if self._view.keys is None and not self._is_ours(scope["headers"]):
            # A page elsewhere that has its name point here is not to read what is only for this machine.
            raise Refusal(400, "host", "expected the address of this machine in the header Host")

    def _is_ours(self, headers: list[tuple[bytes, bytes]]) -> bool:
        for name, value in headers:
            if name == b"host":
                host = value.decode("latin-1")
                host = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
                return is_loopback(host)
        return False

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Refusal: It is too large, packed, or does not come.
        """
        limits = self._view.limits
        most, patience = limits.body_bytes, limits.body_seconds.total_seconds()
        for name, value in scope["headers"]:
            if name == b"content-length" and is_more(value, most):
                raise Refusal(413, "size", f"expected at most {most} bytes")
            if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
                raise Refusal(415, "encoding", "expected a body that is not packed")
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(patience):
                while more:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise Refusal(408, "gone", "the body has not come whole")
                    part, more = event.get("body", b""), event.get("more_body", False)
                    size += len(part)
                    if size > most:
                        raise Refusal(413, "size", f"expected at most {most} bytes")
                    parts.append(part)
        except TimeoutError:
            raise Refusal(408, "slow", f"expected the whole body within {patience:.0f} s") from None
        return b"".join(parts)


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if REQUEST_ID.fullmatch(text):
                return text
    return new_request_id()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as one message, and then what comes."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _send(refusal: Refusal, send: Send) -> None:
    status, headers, body = refused(refusal)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
