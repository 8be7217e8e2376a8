"""Straight from the parser: what uvicorn's own way holds to, this holds to as well. On a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from penstock.http_direct import Answering, Headers, direct
from penstock.http_serving import Server, configured, listening
from tests.penstock.rollout.routers import until

ANSWER = b"y" * 200_000


class Echo:
    """Answers at once, as much as it is told."""

    body_bytes, body_seconds, draining = 1000, 0.3, False

    def __init__(self) -> None:
        self.taken = 0

    def route(self, url: bytes) -> bytes | None:
        return url if url == b"/x" else None

    def admit(self, _: bytes, __: Headers) -> Callable[[Answering], None] | None:
        return None

    def take(self, _: bytes, __: Headers, content: bytes, answering: Answering) -> None:
        assert len(content) == 2
        self.taken += 1
        answering(200, b"content-length: %d\r\n" % len(ANSWER), ANSWER)

    def too_large(self, _: bytes, __: Headers, answering: Answering) -> None:
        answering(413, b"content-length: 0\r\n", b"")

    def too_slow(self, _: bytes, __: Headers, answering: Answering) -> None:
        answering(408, b"content-length: 0\r\n", b"")


async def nobody(_scope, _receive, send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def run(test) -> None:
    async def whole() -> None:
        echo = Echo()
        server = Server(configured(nobody, direct(echo), 5.0))
        sock = listening("127.0.0.1", 0, "test")
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        await until(lambda: server.started)
        closing: list[asyncio.StreamWriter] = []
        try:
            await test(echo, closing, *sock.getsockname())
        finally:
            for writer in closing:
                writer.transport.abort()
            server.leave()
            await serving

    uvloop.run(whole())


REQUEST = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"


def test_whoever_does_not_read_is_not_read_from():
    async def test(echo, closing, host, port):
        reader, writer = await asyncio.open_connection(host, port)
        closing.append(writer)
        many = 300  # 60 MB of answers
        writer.transport.pause_reading()
        for _ in range(many):
            writer.write(REQUEST)
            await asyncio.sleep(0.001)  # a request a packet, or nearly
        taken = -1
        while taken != echo.taken:
            taken = echo.taken
            await asyncio.sleep(0.3)
        assert taken < many / 2, "answers have piled up"
        writer.transport.resume_reading()
        for _ in range(many):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(ANSWER)) == ANSWER
        assert echo.taken == many

    run(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: " + b"9" * 18 + b"\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, 413),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhi", 408),
        (b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n", 404),
        (b"POST /y HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", 404),
        (b"POST /x HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi", 200),
    ],
)
def test_each_request_has_one_answer(request_, status):
    async def test(_, closing, host, port):
        reader, writer = await asyncio.open_connection(host, port)
        closing.append(writer)
        writer.write(request_)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 %d" % status)
        if b"HTTP/1.0" in request_ or status in {408, 413}:
            assert b"connection: close" in head
            assert len(await asyncio.wait_for(reader.read(), 5)) == (len(ANSWER) if status == 200 else 0)

    run(test)
