"""Asking predictors: HTTP/1.1 over connections that stay open, with nothing between the parser and whoever waits.

A general client (httpx, aiohttp) costs more than a router may: 0.2 to 0.5 ms a request. What is spoken here is what
predictors speak: one request at a time on a connection, a body of a known length or in chunks, no redirects, no cookies.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import httptools

from penstock.config.rollout import Router
from penstock.errors import PenstockError
from penstock.sources.secrets import revealed

__all__ = ["CONNECT", "Answer", "BrokenError", "Outcome", "Pool", "predictor_key"]

CONNECT = 0.5  # seconds until a connection is given up


class BrokenError(Exception):
    """No answer: nobody listens, the connection broke, or what came is no HTTP.

    Attributes:
        heard: Something of an answer had come.
    """

    def __init__(self, why: str, *, heard: bool = False) -> None:
        super().__init__(why)
        self.heard = heard


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


# What comes of a request: an answer, or why there is none.
Outcome = Answer | BrokenError | TimeoutError
Told = Callable[[Outcome], None]


class _Connection(asyncio.Protocol):
    """One request at a time."""

    __slots__ = (
        "_answer", "_chunks", "_heard", "_is_whole", "_parser", "_room", "_told", "keeps", "most", "transport",
    )  # fmt: skip

    def __init__(self, most: int) -> None:
        self.most = most
        self.transport: asyncio.Transport | None = None
        self.keeps = True  # may be used again
        self._heard = False  # anything of the answer has come
        self._is_whole = False
        self._told: Told | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer = Answer()
        self._chunks: list[bytes] = []
        self._room = most

    # --- asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._told is None or self._parser is None:
            self.close()  # nobody has asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._failed(f"no HTTP: {error}")
            return
        # Not before all that came is read: whoever is told may ask the next thing at once.
        if self._is_whole and self._told is not None:
            told, self._told = self._told, None
            told(self._answer)

    def connection_lost(self, _: Exception | None) -> None:
        self.keeps = False
        self.transport = None
        self._parser = None  # it refers to this
        self._failed("the connection broke")

    # --- the parser's

    def on_message_begin(self) -> None:
        if self._is_whole:
            self.keeps = False  # a second answer, which nobody has asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_whole:
            return
        self._answer.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        if self._is_whole:
            return
        self._room -= len(body)
        if self._room < 0:
            self._failed(f"more than {self.most} bytes")
            return
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._is_whole or self._told is None or self._parser is None:
            return
        answer = self._answer
        answer.status = self._parser.get_status_code()
        if answer.status < 200:  # 100 to 199 come before an answer
            self._answer, self._chunks, self._room = Answer(), [], self.most
            return
        if answer.status > 599:
            self._failed(f"status {answer.status}, which is none of HTTP")
            return
        answer.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self.keeps = self.keeps and self._parser.should_keep_alive()
        self._is_whole = True

    # --- ours

    @property
    def is_open(self) -> bool:
        return self.keeps and self.transport is not None and not self.transport.is_closing()

    def ask(self, request: bytes, told: Told) -> None:
        """Have it told what comes of a request, once; never, if this is closed before."""
        assert self.transport is not None
        self._told = told
        self._answer, self._chunks, self._room = Answer(), [], self.most
        self._heard = self._is_whole = False
        self.transport.write(request)

    def _failed(self, why: str) -> None:
        told, self._told = self._told, None
        self.close()
        if told is not None:
            told(BrokenError(why, heard=self._heard))

    def close(self) -> None:
        self.keeps = False
        self._told = None
        if self.transport is not None:
            self.transport.abort()


def _settle(waiting: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not waiting.done():  # given up
        waiting.set_result(outcome)


class _Exchange:
    """A request on a connection that was idle, with nobody who waits for it but whom it tells."""

    __slots__ = ("_connection", "_late", "_pool", "_told")

    def __init__(self, pool: Pool, connection: _Connection, told: Told) -> None:
        self._pool, self._connection, self._told = pool, connection, told

    def start(self, request: bytes, seconds: float) -> None:
        self._late = asyncio.get_running_loop().call_later(seconds, self._gave_up)
        self._connection.ask(request, self._ended)

    def _ended(self, outcome: Outcome) -> None:
        self._late.cancel()
        self._pool.leave(self._connection)
        self._told(outcome)

    def _gave_up(self) -> None:
        self._connection.close()
        self._pool.leave(self._connection)
        self._told(TimeoutError())


class Pool:
    """Connections to one replica.

    Args:
        url: ``http://host:port``, or ``unix:/path``.
        most: Connections at a time; who comes later waits for one.
        answer_bytes: Of an answer, at most.
        key: That predictors ask for, if they do.
    """

    def __init__(self, url: str, most: int, answer_bytes: int, key: str | None = None) -> None:
        self.url, self.most, self.answer_bytes = url, most, answer_bytes
        self.busy = 0
        self._is_closed = False
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        if url.startswith("unix:"):
            self.host, self._path, self._address = b"localhost", url.removeprefix("unix:"), ("", 0)
        else:
            parts = urlsplit(url)
            self.host, self._path = parts.netloc.encode(), ""
            self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._lines = b"host: %b\r\n" % self.host
        if key is not None:
            self._lines += b"authorization: Bearer %b\r\n" % key.encode("latin-1")

    def start(self, head: bytes, body: bytes, seconds: float, told: Told) -> bool:
        """One request at once, if a connection is idle and nobody waits for one; whether it is.

        Args:
            head: As ``ask`` has it.
            body: Whole.
            seconds: Until the answer has come whole.
            told: Called with what comes of it, once, on the event loop. A connection that has been idle may have been closed
                at the other end just then: a ``BrokenError`` of which nothing was heard says nothing of the replica.
        """
        if self._waiting or self.busy >= self.most:
            return False
        connection = self._open_one()
        if connection is None:
            return False
        self.busy += 1
        _Exchange(self, connection, told).start(self._request(head, body), seconds)
        return True

    def _request(self, head: bytes, body: bytes) -> bytes:
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, self._lines, len(body), body)

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
        request = self._request(head, body)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            await self._room()
            connection = None
            try:
                while True:
                    connection, is_new = self._open_one(), False
                    if connection is None:
                        connection, is_new = await self._connection(), True
                    waiting: asyncio.Future[Outcome] = loop.create_future()
                    connection.ask(request, partial(_settle, waiting))
                    outcome = await waiting
                    if isinstance(outcome, Answer):
                        return outcome
                    if is_new or not isinstance(outcome, BrokenError) or outcome.heard:
                        raise outcome
            except asyncio.CancelledError:
                if connection is not None:
                    connection.close()  # what comes on it later would be another's answer
                raise
            finally:
                self.leave(connection)

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
                self.leave(None)
            else:
                with contextlib.suppress(ValueError):  # whoever left may have passed it over already
                    self._waiting.remove(turn)
            raise

    def leave(self, connection: _Connection | None) -> None:
        """Be done with a connection, which the next may have."""
        if connection is not None and connection.is_open and not self._is_closed:
            self._idle.append(connection)
        elif connection is not None:
            connection.close()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.busy -= 1

    def _open_one(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the one that was used last is the likeliest to be open
            if connection.is_open:
                return connection
        return None

    async def _connection(self) -> _Connection:
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
        return made[1]

    def close(self) -> None:
        """Close what is idle; what is busy closes when it is done with."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()


def predictor_key(view: Router) -> str | None:
    """The key that predictors elsewhere ask for, if one is declared.

    Raises:
        PenstockError: There is no such secret, or it is none that a header can have.
    """
    if view.predictor_key is None:
        return None
    key = revealed(view.predictor_key).strip()  # files of secrets end with a line
    if not re.fullmatch(r"[!-~]+", key):
        raise PenstockError(
            "router.predictor_key: it has characters that no header can have",
            hint="the key is what `penstock keys add` has shown, in one line",
        )
    return key
