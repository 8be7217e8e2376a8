"""Requests for predictions straight from the parser to the model and back, without a task or an ASGI message between.

All else goes the way of ASGI, as does a request that is sent before the one before it is answered: uvicorn keeps those in order.
Measured by `benchmarks/serve.py`, this answers about twice as many requests a second as the same by ASGI.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from penstock.serving.predictor import Call, Predictor, Response, Route, routed
from penstock.serving.refusals import Refusal

__all__ = ["direct"]

MOST_ROUTES = 1024  # addresses that are remembered; one may make up any number of them
HEAD = (
    b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nx-model-version: %b\r\n\r\n"
)


class _Never:
    """Uvicorn tells the cycle that its client is gone, or that a body has come; a prediction is not to be told."""

    def set(self) -> None: ...


class _Cycle:
    """A prediction in the place of uvicorn's cycle of request and response."""

    message_event = _Never()

    def __init__(self, route: Route, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> None:
        self.route, self.headers, self.keep_alive = route, headers, keep_alive
        self.parts: list[bytes] = []
        self.size = 0
        self.whole = self.response_complete = self.disconnected = False
        self.late: asyncio.TimerHandle | None = None


def direct(predictor: Predictor) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol, with predictions answered by ``predictor`` itself."""
    limits = predictor.view.limits
    most, patience = limits.body_bytes, limits.body_seconds.total_seconds()
    routes: dict[bytes, Route | None] = {}

    def route_of(url: bytes) -> Route | None:
        try:
            return routes[url]
        except KeyError:
            path = url.partition(b"?")[0].decode("ascii", "replace")
            found = routed(urllib.parse.unquote(path))
            if len(routes) < MOST_ROUTES:
                routes[url] = found
            return found

    class Direct(HttpToolsProtocol):
        _now: _Cycle | None = None  # what is being received or answered

        def on_headers_complete(self) -> None:
            busy = self.cycle is not None and not self.cycle.response_complete
            route = None if busy or self.parser.get_method() != b"POST" else route_of(self.url)
            if route is None or self.expect_100_continue or self.parser.should_upgrade():
                self._now = None
                super().on_headers_complete()
                return
            keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
            self._now = _Cycle(route, self.headers, keep_alive=keep)
            self.cycle: Any = self._now
            for name, value in self.headers:
                if name == b"content-length" and value.isdigit() and int(value) > most:
                    self._refuse(self._now, Refusal(413, "size", f"expected at most {most} bytes"))

        def on_body(self, body: bytes) -> None:
            now = self._now
            if now is None:
                super().on_body(body)
                return
            if now.response_complete:
                return
            now.size += len(body)
            if now.size > most:
                self._refuse(now, Refusal(413, "size", f"expected at most {most} bytes"))
            else:
                now.parts.append(body)

        def on_message_complete(self) -> None:
            now = self._now
            if now is None:
                super().on_message_complete()
                return
            self._now = None
            now.whole = True
            if now.late is not None:
                now.late.cancel()
            if now.response_complete:
                return
            content = now.parts[0] if len(now.parts) == 1 else b"".join(now.parts)
            try:
                call = self._call(now, content)
                predictor.require_key(now.headers)
            except Refusal as refusal:
                self._refuse(now, refusal)
            else:
                predictor.take(call)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            now = self._now
            if now is not None and not now.whole and now.late is None and not now.response_complete:
                now.late = self.loop.call_later(patience, self._late, now)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._now is not None and self._now.late is not None:
                self._now.late.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            # Whoever does not read answers is not read from.
            super().pause_writing()
            self.flow.pause_reading()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.flow.resume_reading()

        def _late(self, now: _Cycle) -> None:
            if not now.response_complete and not now.whole:
                words = f"expected the whole body within {patience:.0f} s"
                self._refuse(now, Refusal(408, "slow", words))

        def _call(self, now: _Cycle, content: bytes) -> Call:
            return predictor.call(
                now.route, now.headers, content, lambda response: self._answer(now, response)
            )

        def _refuse(self, now: _Cycle, refusal: Refusal) -> None:
            call = predictor.call(now.route, (), b"", lambda response: self._answer(now, response))
            predictor.refuse(call, refusal)

        def _answer(self, now: _Cycle, response: Response) -> None:
            if now.response_complete or now.disconnected or self.transport.is_closing():
                now.response_complete = True
                return
            now.response_complete = True
            close = not now.keep_alive or not now.whole or predictor.draining
            parts = [STATUS_LINE[response.status]]
            parts.extend(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
            if close:
                parts.append(b"connection: close\r\n")
            if response.status == 200 and response.json_length is None and response.version is not None:
                size, request = len(response.body), response.request.encode("ascii")
                parts.append(HEAD % (size, request, response.version.encode("ascii")))
            else:
                parts.extend(
                    b"%b: %b\r\n" % header for header in response.headers() if header[0] != b"connection"
                )
                parts.append(b"\r\n")
            parts.append(response.body)
            self.transport.write(b"".join(parts))
            if close:
                self.transport.close()
            self.on_response_complete()

    return Direct
