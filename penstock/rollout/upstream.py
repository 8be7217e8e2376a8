"""Asking predictors: HTTP/1.1 over connections that stay open, with nothing between the parser and whoever waits.

A general client (httpx, aiohttp) costs more than a router may: 0.2 to 0.5 ms a request. What is spoken here is what
predictors speak: one request at a time on a connection, a body of a known length or in chunks, no redirects, no cookies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

__all__ = ["Answer", "BrokenError", "Pool"]

CONNECT = 0.5  # seconds


class BrokenError(Exception):
    """No answer: nobody listens, the connection broke, or what came is no HTTP."""


@dataclass(slots=True)
class Answer:
    """What a predictor said.

    Attributes:
        status: Of HTTP.
        headers: Names in lower case.
        body: Whole.
    """

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class _Connection(asyncio.Protocol):
    """One request at a time."""

    __slots__ = ("_answer", "_chunks", "_parser", "_room", "_waiting", "heard", "keeps", "most", "transport")

    def __init__(self, most: int) -> None:
        self.most = most
        self.transport: asyncio.Transport | None = None
        self.keeps = True  # may be used again
        self.heard = False  # anything of the answer has come
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer = Answer()
        self._chunks: list[bytes] = []
        self._room = most

    # --- asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._waiting is None or self._parser is None:
            self.close()  # nobody has asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._failed(f"no HTTP: {error}")

    def connection_lost(self, _: Exception | None) -> None:
        self.keeps = False
        self.transport = None
        self._parser = None  # it refers to this
        self._failed("the connection broke")

    # --- the parser's

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._room -= len(body)
        if self._room < 0:
            self._failed(f"more than {self.most} bytes")
            return
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done() or self._parser is None:
            return
        answer = self._answer
        answer.status = self._parser.get_status_code()
        answer.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self.keeps = self.keeps and self._parser.should_keep_alive()
        waiting.set_result(answer)

    # --- ours

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        assert self.transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._answer, self._chunks, self._room, self.heard = Answer(), [], self.most, False
        self.transport.write(request)
        return self._waiting

    def _failed(self, why: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(BrokenError(why))
        self.close()

    def close(self) -> None:
        self.keeps = False
        self._waiting = None
        if self.transport is not None:
            self.transport.abort()


class Pool:
    """Connections to one replica.

    Args:
        url: ``http://host:port``, or ``unix:/path``.
        most: Connections at a time; who comes later waits for one.
        answer_bytes: Of an answer, at most.
    """

    def __init__(self, url: str, most: int, answer_bytes: int) -> None:
        self.url, self.most, self.answer_bytes = url, most, answer_bytes
        self.busy = 0
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        if url.startswith("unix:"):
            self.host, self._path, self._address = b"localhost", url.removeprefix("unix:"), ("", 0)
        else:
            parts = urlsplit(url)
            self.host, self._path = parts.netloc.encode(), ""
            self._address = (parts.hostname or "127.0.0.1", parts.port or 80)

    async def ask(self, head: bytes, body: bytes, seconds: float) -> Answer:
        r"""One request.

        A connection that has been idle may have been closed at the other end just then: where nothing of an answer has come
        on such a one, it is asked again on a new one. What is asked here changes nothing, so twice does no harm.

        Args:
            head: Method, path and headers, without Host, Content-Length and the empty line: ``POST /v1/… HTTP/1.1\r\n…``.
            body: Whole.
            seconds: Until the answer has come whole.

        Raises:
            BrokenError: There is no answer.
            TimeoutError: None has come in time.
        """
        request = b"%bhost: %b\r\ncontent-length: %d\r\n\r\n%b" % (head, self.host, len(body), body)
        async with asyncio.timeout(seconds):
            await self._room()
            try:
                while True:
                    connection, is_new = await self._connection()
                    try:
                        answer = await connection.ask(request)
                    except BrokenError:
                        if is_new or connection.heard:
                            raise
                        continue
                    except BaseException:  # cancelled: what comes on it later would be another's answer
                        connection.close()
                        raise
                    if connection.keeps and connection.transport is not None:
                        self._idle.append(connection)
                    else:
                        connection.close()
                    return answer
            finally:
                self._leave()

    async def _room(self) -> None:
        if self.busy < self.most and not self._waiting:
            self.busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # whoever leaves hands its place over
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            else:
                self._waiting.remove(turn)
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.busy -= 1

    async def _connection(self) -> tuple[_Connection, bool]:
        while self._idle:
            connection = self._idle.pop()  # the one that was used last is the likeliest to be open
            if (
                connection.keeps
                and connection.transport is not None
                and not connection.transport.is_closing()
            ):
                return connection, False
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT):
                if self._path:
                    made = await loop.create_unix_connection(
                        lambda: _Connection(self.answer_bytes), self._path
                    )
                else:
                    made = await loop.create_connection(
                        lambda: _Connection(self.answer_bytes), *self._address
                    )
        except TimeoutError:
            raise BrokenError(f"{self.url}: no connection within {CONNECT} s") from None
        except OSError as error:
            raise BrokenError(f"{self.url}: {error.strerror or error}") from error
        return made[1], True

    def close(self) -> None:
        """Close what is idle; what is busy closes when it is done with."""
        while self._idle:
            self._idle.pop().close()
