"""Running the indexer: a process, its health and its metrics, and the end of it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.stream.indexer import Indexer
from penstock.stream.log import open_log
from penstock.stream.store import Store, open_store

__all__ = ["serve"]

WAIT = 1.0  # seconds between tries to reach the store at the start


def serve(view: Stream) -> int:
    """Run the indexer until it is told to stop (SIGTERM, SIGINT); its exit code.

    Raises:
        PenstockError: It may not listen where it is declared to, or what is declared is wrong.
    """
    import uvloop

    return uvloop.run(_run(view))


async def _run(view: Stream) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_log(view.log) as log, open_store(view.store) as store:
        await log.create()
        await _created(store, stop)
        indexer = Indexer(view, log, store)
        server = await _looked_at(view, indexer, store)
        try:
            await indexer.run(stop)
        finally:
            server.close()
    return 0


async def _created(store: Store, stop: asyncio.Event) -> None:
    """The store may be coming up as we are."""
    told = False
    while not stop.is_set():
        try:
            await store.create()
        except PenstockError as error:
            if type(error) is PenstockError:
                raise
            if not told:
                say(f"indexer: {error.message}; it is waited for")
                told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WAIT)
        else:
            return


async def _looked_at(view: Stream, indexer: Indexer, store: Store) -> asyncio.Server:
    """Health and metrics over HTTP. Too little for a framework, and the loop is the indexer's."""
    from prometheus_client import generate_latest

    host, port = view.indexer.metrics_host, view.indexer.metrics_port
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise PenstockError(
            f"indexer.metrics_host: {host} can be reached from elsewhere",
            hint="leave it at 127.0.0.1, and have whatever scrapes it, or a proxy that asks for credentials, here",
        )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, TimeoutError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].split(b"?")[0] if head.count(b" ") >= 2 else b""
                status, kind, body = b"404 Not Found", b"text/plain", b"not here\n"
                if path == b"/metrics":
                    status, kind = b"200 OK", b"text/plain; version=0.0.4; charset=utf-8"
                    body = generate_latest(indexer.metrics.registry)
                elif path == b"/health/live":
                    status, body = b"200 OK", b"live\n"
                elif path == b"/health/ready":
                    ready = await store.ready()
                    status = b"200 OK" if ready else b"503 Service Unavailable"
                    body = b"ready\n" if ready else b"the store does not answer\n"
                writer.write(
                    b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                    % (status, kind, len(body), body)
                )
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, host, port, family=socket.AF_INET)
    except OSError as error:
        raise PenstockError(
            f"indexer: cannot listen at {host}:{port}: {error.strerror}",
            hint="choose another: indexer.metrics_port=0 takes one that is free",
        ) from error
    bound = server.sockets[0].getsockname()[1]
    say(f"indexer: http://{host}:{bound}/metrics")
    return server
