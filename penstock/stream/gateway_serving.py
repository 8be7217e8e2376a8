"""Running the gateway: processes that share a port, connections that say nothing, and the end of both."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.config.streaming import Stream
from penstock.console import fail, say
from penstock.errors import PenstockError
from penstock.stream.log import Log, open_log

if TYPE_CHECKING:
    from penstock.stream.gateway import Door

__all__ = ["Server", "listening", "serve"]

BACKLOG = 4096
GRACE = 10  # seconds for what is in flight when it is told to stop
FILES = 65_536
LOOK = 5.0  # seconds between looks at the log
AGAIN = 0.5  # seconds before a process that has died is started again


def serve(view: Stream) -> int:
    """Run the gateway until it is told to stop (SIGTERM, SIGINT); its exit code.

    Raises:
        PenstockError: It may not listen there, or cannot.
    """
    _allowed(view)
    _many_files()
    sock = listening(view.gateway.host, view.gateway.port, "gateway")
    gateway = view.gateway
    kind = "https" if gateway.certificate else "http"
    port = sock.getsockname()[1]
    say(f"gateway: {kind}://{gateway.host}:{port}/v1/readings" + ("" if gateway.keys else ", without keys"))
    if gateway.workers == 1:
        return _one(view, sock)
    with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return _several(view, sock)


def _allowed(view: Stream) -> None:
    gateway = view.gateway
    try:
        local = ipaddress.ip_address(gateway.host).is_loopback
    except ValueError:
        local = gateway.host == "localhost"
    if not local and gateway.keys is None:
        raise PenstockError(
            f"gateway.host: {gateway.host} can be reached from elsewhere, and no keys are asked for",
            hint="name a file of keys: gateway.keys=conf/devices.yaml, and `penstock stream keys add DEVICE`",
        )
    if not local and gateway.certificate is None:
        say(
            "gateway: warning: keys and readings travel in the clear; set gateway.certificate, or have a proxy do TLS"
        )


def _many_files() -> None:
    """Each connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listening(host: str, port: int, name: str) -> socket.socket:
    """A socket that listens where it is declared.

    Args:
        host: An address of this machine.
        port: 0 takes one that is free.
        name: Of what listens, as conf/stream/ calls it.

    Raises:
        PenstockError: Another has the port, or there is no such address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        sock = socket.socket(found[0][0])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[0][4])
        sock.listen(BACKLOG)
    except OSError as error:
        raise PenstockError(
            f"{name}: cannot listen at {host}:{port}: {error.strerror}",
            hint=f"choose another: {name}.port=0 takes one that is free",
        ) from error
    sock.setblocking(False)
    return sock


def _several(view: Stream, sock: socket.socket) -> int:
    """As many processes as are declared; one that dies is started again."""
    from prometheus_client import multiprocess

    # Forked before any thread or loop is begun: the socket is theirs as it is ours.
    children: dict[int, int] = {}  # the number of each, by its process
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, stop)
    while True:
        while len(children) < view.gateway.workers and not stopping:
            number = min(set(range(view.gateway.workers)) - set(children.values()))
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = _one(view, sock, number)
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children[pid] = number
        if not children:
            return 0
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        children.pop(pid, None)
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        if not stopping:
            say(f"gateway: process {pid} has ended ({os.waitstatus_to_exitcode(status)}); another is started")
            time.sleep(AGAIN)


def _one(view: Stream, sock: socket.socket, number: int = 0) -> int:
    import uvloop

    try:
        return uvloop.run(_run(view, sock, number))
    except PenstockError as error:
        if view.gateway.workers == 1:
            raise
        return fail(error, where="gateway")


async def _run(view: Stream, sock: socket.socket, number: int) -> int:
    from penstock.stream.gateway import create_app

    gateway = view.gateway
    async with open_log(view.log) as log:
        app = create_app(view, log)
        door: Door = app.state.door
        config = uvicorn.Config(
            app,
            http=_protocol(view, door.metrics.connections.set),
            ws="websockets-sansio",
            ws_max_size=gateway.limits.body_bytes + 1024,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(gateway.limits.idle_seconds.total_seconds()),
            timeout_graceful_shutdown=GRACE,
            ssl_certfile=gateway.certificate,
            ssl_keyfile=gateway.private_key,
        )
        server = Server(config)
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, server.leave)
        beside = [asyncio.create_task(_watched(log, door))]
        # A session belongs to one connection: a broker ends the older one of two.
        if gateway.mqtt is not None and number == 0:
            from penstock.stream.gateway_mqtt import subscribe

            beside.append(asyncio.create_task(subscribe(gateway.mqtt, door)))
        for task in beside:  # neither ends by itself, but by a fault that is to be seen
            task.add_done_callback(lambda _: server.leave())
        try:
            await server.serve(sockets=[sock])
        finally:
            for task in beside:
                task.cancel()
            ended = await asyncio.gather(*beside, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome
    return 0


async def _watched(log: Log, door: Door) -> None:
    """Tell whether the log takes records, until it is cancelled; whoever looks at the metrics need not push."""
    while True:
        ready = False
        with contextlib.suppress(Exception):  # whatever it is, the log is not ready, and the gateway goes on
            async with asyncio.timeout(LOOK):
                ready = await log.ready()
        door.metrics.log_ready.set(ready)
        await asyncio.sleep(LOOK)


class Server(uvicorn.Server):
    """Told to stop by us: uvicorn would end the process by the same signal, with the log still open."""

    def leave(self) -> None:
        """Take nothing new, and finish what is under way."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _protocol(view: Stream, told: Callable[[float], None]) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol, with a limit on connections and on how long one may be open before it has asked for anything.

    A connection that says nothing costs whoever makes it nothing; here it is the first to go when there are too many.

    Args:
        view: What is declared.
        told: Called with how many there are, whenever that changes.
    """
    limits = view.gateway.limits
    patience, most = limits.body_seconds.total_seconds(), limits.connections
    silent: dict[Any, None] = {}  # in the order in which they came

    class Patient(HttpToolsProtocol):
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            silent[self] = None
            self._limit = self.loop.call_later(patience, self._give_up)
            told(len(self.connections))
            if len(self.connections) > most:
                oldest = next(iter(silent))
                oldest._give_up()

        def on_headers_complete(self) -> None:
            self._heard()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._heard()
            super().connection_lost(exc)
            told(len(self.connections))

        def _heard(self) -> None:
            silent.pop(self, None)
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

        def _give_up(self) -> None:
            self._heard()
            if self.transport is not None and not self.transport.is_closing():
                self.transport.abort()

    return Patient
