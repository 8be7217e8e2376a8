"""Programs that answer HTTP and stay: where they may listen, processes that share a port, connections that say nothing, the end.

What is served is an ASGI application; uvicorn speaks HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import mmap
import os
import resource
import signal
import socket
import ssl
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.console import USER_ERROR, fail, say
from penstock.errors import PenstockError

__all__ = [
    "BACKLOG",
    "BEATS",
    "GRACE",
    "Server",
    "beating",
    "configured",
    "is_loopback",
    "is_more",
    "listening",
    "many_files",
    "patient",
    "require_keys",
    "settle_garbage",
    "several",
]

BACKLOG = 4096
GRACE = 10  # seconds for what is in flight when it is told to stop
FILES = 65_536
FIRST, MOST = 0.25, 30.0  # seconds before a process that has died young is started again; doubles each time
LOOK = 0.05  # seconds between looks at the processes
FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
HANDLED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
BEATS = 0.25  # seconds between two words to the parent
GARBAGE = (20_000, 20, 20)  # requests make little that refers to itself
CALM = 10.0  # seconds after which a process that runs is forgiven that others have died


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_more(length: bytes, most: int) -> bool:
    """Whether a Content-Length says more than so many bytes. It may have any number of digits; twenty are more than enough."""
    return length.isdigit() and int(length[:20]) > most


def require_keys(name: str, host: str, keys: str | None, certificate: str | None, hint: str) -> None:
    """Refuse to listen where others can come without a key, and warn where what they send can be read on the way.

    Args:
        name: Of what listens, as its file of conf/ calls it.
        host: Where it listens.
        keys: The file of keys, if keys are asked for.
        certificate: Of TLS, if it does TLS itself.
        hint: How to make a file of keys.

    Raises:
        PenstockError: The address can be reached from elsewhere, and no keys are asked for.
    """
    if is_loopback(host):
        return
    if keys is None:
        raise PenstockError(
            f"{name}.host: {host} can be reached from elsewhere, and no keys are asked for", hint=hint
        )
    if certificate is None:
        say(
            f"{name}: warning: keys and what is sent travel in the clear; set {name}.certificate, or have a proxy do TLS"
        )


def many_files() -> None:
    """Raise the bound on open files as far as is allowed: each connection is one."""
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


# Called by a process now and then to say that it gets on.
Beat = Callable[[], None]


async def beating(beat: Beat, parent: int, leave: Callable[[], None]) -> None:
    """Tell the parent that we get on, as what hangs on the loop has this hang too; and end if it has gone.

    Args:
        beat: Tells it.
        parent: Its process.
        leave: Called when that has gone.
    """
    while os.getppid() == parent:
        beat()
        await asyncio.sleep(BEATS)
    leave()


def settle_garbage() -> None:
    """What is loaded stays: to look through it again and again for what could go would cost more than all requests do."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def several(
    workers: int, run: Callable[[int, Beat], int], name: str, *, patience: float | None = None
) -> int:
    """As many processes as are wanted; one that dies, or says nothing for too long, is started again.

    They are forked before any thread or loop is begun, so that what is open here (the socket that listens) is theirs too:
    a connection that waits to be accepted outlives whoever was to accept it. SIGHUP is passed on to all of them.

    Args:
        workers: How many.
        run: What each does; its exit code. It is given its number, from 0, which is another's once it has died, and what is to
            be called while it runs, if there is a patience.
        name: Of the program, for people.
        patience: Seconds without a word, after the first, until a process is killed; None: it need not say anything.

    Returns:
        The exit code: 0, or ``USER_ERROR`` if one of the first has ended with that while none got on.
    """
    return _Workers(workers, run, name, patience).supervise()


@dataclass
class _Worker:
    slot: int  # of its word in the memory that is shared
    started: float
    first: bool  # nothing has been before it


class _Workers:
    def __init__(
        self, workers: int, run: Callable[[int, Beat], int], name: str, patience: float | None
    ) -> None:
        self.wanted, self.run, self.name, self.patience = workers, run, name, patience
        self.alive: dict[int, _Worker] = {}  # by process
        self.stopping = False
        self.code = 0
        self.wait, self.due = FIRST, 0.0
        # When each last said something, by the clock that all processes have; 0: nothing yet.
        self.words = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")

    def supervise(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._signal(signal.SIGHUP))
        for slot in range(self.wanted):
            self._start(slot, first=True)
        while self.alive or not self.stopping:
            pid, status = _ended()
            if pid in self.alive:
                self._gone(pid, os.waitstatus_to_exitcode(status))
            elif not self.stopping:
                self._look()
                time.sleep(LOOK)
            else:
                time.sleep(LOOK)
        return self.code

    def _look(self) -> None:
        now = time.monotonic()
        for pid, worker in self.alive.items():
            word = self.words[worker.slot]
            if self.patience is not None and word and now - word > self.patience:
                say(f"{self.name}: process {pid} has not got on for {now - word:.0f} s, and is killed")
                self.words[worker.slot] = 0.0
                os.kill(pid, signal.SIGKILL)
        free = set(range(self.wanted)) - {worker.slot for worker in self.alive.values()}
        if free and now >= self.due:
            self._start(min(free), first=False)

    def _start(self, slot: int, *, first: bool) -> None:
        self.words[slot] = 0.0
        # A signal that comes while there are two of us is for whom it was sent to, once it can be handled.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                self._child(slot)
            self.alive[pid] = _Worker(slot, time.monotonic(), first)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        if self.stopping:
            self._signal(signal.SIGTERM)

    def _child(self, slot: int) -> NoReturn:
        code = 1

        def beat() -> None:
            self.words[slot] = time.monotonic()

        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            code = self.run(slot, beat)
        except PenstockError as error:
            code = fail(error, where=self.name)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _gone(self, pid: int, code: int) -> None:
        from prometheus_client import multiprocess

        worker = self.alive.pop(pid)
        lived = time.monotonic() - worker.started
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        if self.stopping:
            return
        self.words[worker.slot] = 0.0
        if code == USER_ERROR and worker.first and lived < CALM and not any(self.words):
            self.code = USER_ERROR  # it has said why, and none of the others does better
            self._stop()
            return
        calm = lived > CALM
        self.wait = FIRST if calm else min(MOST, self.wait * 2)
        self.due = time.monotonic() + (0.0 if calm else self.wait)
        say(f"{self.name}: process {pid} has ended ({code}); another is started")

    def _stop(self) -> None:
        self.stopping = True
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        for pid in list(self.alive):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _ended() -> tuple[int, int]:
    """A child that has ended, and its status; (0, 0) if none has."""
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def configured(
    app: Any,
    protocol: type[HttpToolsProtocol],
    idle_seconds: float,
    certificate: str | None = None,
    private_key: str | None = None,
) -> uvicorn.Config:
    """How what answers HTTP alone is served: no WebSockets, no log of its own, nothing told of what serves it.

    Args:
        app: ASGI; it is opened and closed by whoever serves it.
        protocol: As ``patient`` makes it.
        idle_seconds: Until a connection that asks nothing more is closed.
        certificate: Of TLS, a file; None: it speaks in the clear.
        private_key: Its key, a file.
    """
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(idle_seconds),
        timeout_graceful_shutdown=GRACE,
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
    )


class Server(uvicorn.Server):
    """Told to stop by us: uvicorn would end the process by the same signal, with what it writes to still open.

    Where processes share a socket, each accepts one connection and then looks to those that it has: by itself a process that
    is woken first would take all that wait, and the others none.
    """

    def leave(self) -> None:
        """Take nothing new, and finish what is under way."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self.servers = [_Accepting(self, sock) for sock in sockets or []]  # type: ignore[misc]


class _Accepting:
    """In the place of asyncio's server."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server, self._sock = server, sock
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[Any]] = set()
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._sock)

    async def wait_closed(self) -> None:
        if self._coming:
            await asyncio.wait(self._coming)

    def _accept(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except OSError as error:
            if error.errno in FULL:
                # No file is left for it: until one is, looking again at once would only keep the loop busy.
                self._loop.remove_reader(self._sock)
                self._loop.call_later(FIRST, self._again)
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connected(connection))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    def _again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)

    async def _connected(self, connection: socket.socket) -> None:
        config, server = self._server.config, self._server

        def protocol() -> asyncio.Protocol:
            kind: Any = config.http_protocol_class
            made: asyncio.Protocol = kind(
                config=config, server_state=server.server_state, app_state=server.lifespan.state
            )
            return made

        try:
            await self._loop.connect_accepted_socket(protocol, connection, ssl=config.ssl)
        except (OSError, ssl.SSLError):  # it went, or does not speak TLS
            connection.close()


def patient(
    patience: float,
    most: int,
    protocol: type[HttpToolsProtocol] = HttpToolsProtocol,
    told: Callable[[float], None] = lambda _: None,
) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol, with a limit on connections and on how long one may be open before it has asked for anything.

    A connection that says nothing costs whoever makes it nothing; here it is the first to go when there are too many.

    Args:
        patience: Seconds until the head of the first request has come.
        most: Connections at a time.
        protocol: What is to be limited.
        told: Called with how many connections there are, whenever that changes.
    """
    silent: dict[Any, None] = {}  # in the order in which they came

    class Patient(protocol):  # type: ignore[misc, valid-type]
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
