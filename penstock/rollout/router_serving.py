"""Running the router: processes that share a port, each following the state by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from pathlib import Path

from penstock.config.rollout import Rollout
from penstock.console import say
from penstock.errors import PenstockError
from penstock.http_serving import (
    Beat,
    Server,
    configured,
    is_loopback,
    listening,
    many_files,
    patient,
    settle_garbage,
    several,
)
from penstock.rollout.desk import Desk
from penstock.rollout.shared import Shared
from penstock.rollout.state import StateError, open_store

__all__ = ["serve"]

BEAT = 0.5
PATIENCE = 10.0  # seconds without a beat, until a process is taken for stuck and killed


def serve(view: Rollout) -> int:
    """Run the router until it is told to stop (SIGTERM, SIGINT); its exit code.

    Raises:
        PenstockError: It may not listen there, or cannot; or what is declared cannot be served.
    """
    router = view.router
    if not is_loopback(router.host):
        missing = [name for name in ("keys", "operators") if getattr(router, name) is None]
        if missing:
            raise PenstockError(
                f"router.host: {router.host} can be reached from elsewhere, and router.{missing[0]} asks for no keys",
                hint=f"router.{missing[0]}=conf/{missing[0]}.yaml, and `penstock rollout keys add`",
            )
        say("router: warning: keys and what is sent travel in the clear; have a proxy do TLS")
    many_files()
    _begun(view)
    sock = listening(router.host, router.port, "router")
    port = sock.getsockname()[1]
    say(f"router: http://{router.host}:{port}/v1/models/{view.model}/predict, console at /console/")
    if router.workers == 1:
        return _one(view, sock, lambda: None)
    with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return several(router.workers, lambda _, beat: _one(view, sock, beat), "router", patience=PATIENCE)


def _begun(view: Rollout) -> None:
    """The first settings, if there are none. Nothing of the state is open when processes are forked."""
    try:
        store = open_store(view)
    except StateError as error:
        raise PenstockError(
            f"state: {error}",
            hint="a router that starts must know what is in force; one that runs goes on without",
        ) from error
    try:
        _, warning = Desk(view, store).begin()
    finally:
        store.close()
    if warning is not None:
        say(f"router: {warning}")


def _one(view: Rollout, sock: socket.socket, beat: Beat) -> int:
    import uvloop

    return uvloop.run(_run(view, sock, beat))


async def _beating(beat: Beat) -> None:
    while True:
        beat()
        await asyncio.sleep(BEAT)


async def _run(view: Rollout, sock: socket.socket, beat: Beat) -> int:
    # Prometheus looks for the folder that processes share when it is imported, so: now.
    from prometheus_client import CollectorRegistry

    from penstock.http_direct import direct
    from penstock.rollout.back import create_back
    from penstock.rollout.protocol import Direct
    from penstock.rollout.records import Records
    from penstock.rollout.router import Router

    with contextlib.closing(open_store(view)) as store:
        settings = Desk(view, store).settings()
    flags = None
    if view.router.flags is not None:
        from penstock.rollout.flags import Flags

        flags = Flags(Path(view.router.flags), view.model)
    shared = Shared(view, settings)
    registry = CollectorRegistry()
    records = Records(view) if view.requests is not None else None
    app = Router(
        view,
        shared,
        back=create_back(view, shared, registry),
        records=records,
        flags=flags,
        registry=registry,
    )
    limits = view.router
    protocol = patient(limits.timeouts.body.total_seconds(), limits.connections, direct(Direct(app)))
    config = configured(app, protocol, limits.timeouts.idle.total_seconds())
    server = Server(config)
    loop = asyncio.get_running_loop()

    def leave() -> None:
        app.draining = True
        server.leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    with contextlib.suppress(StateError):
        await shared.look()
    settle_garbage()
    tasks = [
        asyncio.create_task(shared.follow()),
        asyncio.create_task(shared.hand_over()),
        asyncio.create_task(app.tend()),
        asyncio.create_task(_beating(beat)),
    ]
    try:
        await server.serve(sockets=[sock])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.close()
        await shared.close()
        if records is not None:
            await asyncio.to_thread(records.close)
    return 0
