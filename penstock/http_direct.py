"""Requests straight from the parser to what answers them and back, without a task or an ASGI message between.

What is to be answered so is chosen by its address; all else goes the way of ASGI, as does a request that is sent before the one
before it is answered: uvicorn keeps those in order. By `benchmarks/serve.py` a prediction costs so, with its record and its
metrics, about what it costs by ASGI without a record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from penstock.http_serving import is_more

__all__ = ["Answering", "Answers", "Headers", "direct"]

MOST_ROUTES = 1024  # addresses that are remembered; one may make up any number of them,
LONGEST_ROUTE = 256  # as long as one likes

Headers = list[tuple[bytes, bytes]]
# Takes the answer, once, on the event loop: status, lines of headers (each with its end), body.
Answering = Callable[[int, bytes, bytes], None]


class Answers(Protocol):
    """What answers."""

    @property
    def body_bytes(self) -> int:
        """Of a body, at most."""

    @property
    def body_seconds(self) -> float:
        """Until a body has come whole."""

    @property
    def draining(self) -> bool:
        """It is told to stop: connections are closed behind their answers."""

    def route(self, url: bytes) -> Any:
        """Of what is posted to an address; None if it goes the way of ASGI."""

    def admit(self, route: Any, headers: Headers) -> Callable[[Answering], None] | None:
        """What refuses whoever may not ask, and of whose body nothing is kept; None lets them in. None of these raises."""

    def take(self, route: Any, headers: Headers, content: bytes, answering: Answering) -> None:
        """Answer a request that has come whole, now or later."""

    def too_large(self, route: Any, headers: Headers, answering: Answering) -> None:
        """Refuse a body that is larger than it may be."""

    def too_slow(self, route: Any, headers: Headers, answering: Answering) -> None:
        """Refuse a body that has not come in time."""


class _Never:
    """Uvicorn tells the cycle that its client is gone, or that a body has come; what is answered here is not to be told."""

    def set(self) -> None: ...


class _Cycle:
    """In the place of uvicorn's cycle of request and response."""

    message_event = _Never()

    def __init__(self, route: Any, headers: Headers, *, keep_alive: bool) -> None:
        self.route, self.headers, self.keep_alive = route, headers, keep_alive
        self.parts: list[bytes] = []
        self.size = 0
        self.whole = self.response_complete = self.disconnected = False
        self.late: asyncio.TimerHandle | None = None
        self.refused: Callable[[Answering], None] | None = None


def direct(answers: Answers) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol, with what is posted to some addresses answered by ``answers`` itself."""
    most, patience = answers.body_bytes, answers.body_seconds
    routes: dict[bytes, Any] = {}

    def route_of(url: bytes) -> Any:
        try:
            return routes[url]
        except KeyError:
            found = answers.route(url)
            if len(routes) < MOST_ROUTES and len(url) <= LONGEST_ROUTE:
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
            self._now = now = _Cycle(route, self.headers, keep_alive=keep)
            self.cycle: Any = now
            now.refused = answers.admit(route, now.headers)
            for name, value in self.headers:
                if name == b"content-length" and is_more(value, most):
                    answers.too_large(route, now.headers, self._answering(now))

        def on_body(self, body: bytes) -> None:
            now = self._now
            if now is None:
                super().on_body(body)
                return
            if now.response_complete:
                return
            now.size += len(body)
            if now.size > most:
                answers.too_large(now.route, now.headers, self._answering(now))
            elif now.refused is None:
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
            if now.refused is not None:
                now.refused(self._answering(now))
            else:
                content = now.parts[0] if len(now.parts) == 1 else b"".join(now.parts)
                answers.take(now.route, now.headers, content, self._answering(now))

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
            if not self.pipeline:  # as uvicorn has it: these are read when it is their turn
                self.flow.resume_reading()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.flow.write_paused:  # which it has become as the answer was written
                self.flow.pause_reading()

        def _late(self, now: _Cycle) -> None:
            if not now.response_complete and not now.whole:
                answers.too_slow(now.route, now.headers, self._answering(now))

        def _answering(self, now: _Cycle) -> Answering:
            def answer(status: int, head: bytes, body: bytes) -> None:
                if now.response_complete or now.disconnected or self.transport.is_closing():
                    now.response_complete = True
                    return
                close = not now.keep_alive or not now.whole or answers.draining
                parts = [STATUS_LINE[status]]
                parts.extend(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
                if close:
                    parts.append(b"connection: close\r\n")
                parts += (head, b"\r\n", body)
                content = b"".join(parts)
                now.response_complete = True
                self.transport.write(content)
                if close:
                    self.transport.close()
                self.on_response_complete()

            return answer

    return Direct
