"""Running the indexer: a process, its health and its metrics, and the end of it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import orjson

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.stream.indexer import Indexer
from penstock.stream.log import Log, open_log
from penstock.stream.store import Store, open_store
from penstock.stream.writing import Metrics, looked_after

if TYPE_CHECKING:
    from penstock.stream.lake import Lake
    from penstock.stream.windower import Windower

__all__ = ["PARTS", "serve"]

WAIT = 1.0  # seconds between tries to reach the store at the start


PARTS = ("readings", "windows", "lake")


def serve(view: Stream, parts: Collection[str] = PARTS) -> int:
    """Run the indexer until it is told to stop (SIGTERM, SIGINT); its exit code.

    Args:
        view: What is declared.
        parts: What of it is to be done here: readings to the store, windows, and the lake, as far as they are declared.

    Raises:
        PenstockError: It may not listen where it is declared to, or what is declared is wrong.
    """
    import uvloop

    return uvloop.run(_run(view, parts))


async def _run(view: Stream, parts: Collection[str]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_log(view.log) as log, open_store(view.store) as store:
        await log.create()
        await _created(store, stop)
        metrics = Metrics()
        members = _members(view, parts, log, store, metrics)
        activities = next((m.activities for m in members if hasattr(m, "activities")), dict)
        server = await _looked_at(view, metrics, store, activities)
        looking = asyncio.create_task(looked_after(store, metrics))
        try:
            async with asyncio.TaskGroup() as tasks:
                for member in members:
                    tasks.create_task(member.run(stop))
        except* PenstockError as several:
            raise several.exceptions[0] from None
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            server.close()
    return 0


def _members(
    view: Stream, parts: Collection[str], log: Log, store: Store, metrics: Metrics
) -> list[Indexer | Windower | Lake]:
    """Each is of a group of its own: none waits for another, and each goes on where it was."""
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise PenstockError(
            f"indexer: there is no part {min(unknown)!r}", hint=f"expected some of {', '.join(PARTS)}"
        )
    members: list[Indexer | Windower | Lake] = []
    if "readings" in parts:
        members.append(Indexer(view, log, store, metrics))
    if "windows" in parts and view.indexer.windows is not None:
        from penstock.stream.windower import Windower, classifier

        members.append(Windower(view, log, store, metrics, classifier(view)))
    if "lake" in parts and view.lake is not None:
        from penstock.stream.lake import Lake

        members.append(Lake(view, log, metrics))
    if not members:
        raise PenstockError(
            f"indexer: nothing is declared of {', '.join(parts)}", hint="declare `lake` or `indexer.windows`"
        )
    return members


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


async def _looked_at(
    view: Stream, metrics: Metrics, store: Store, activities: Callable[[], dict[str, Any]]
) -> asyncio.Server:
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
                    body = generate_latest(metrics.registry)
                elif path == b"/activities":
                    status, kind, body = b"200 OK", b"application/json", orjson.dumps(activities())
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
