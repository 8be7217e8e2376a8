"""Running the gateway: its processes, its log, and what subscribes to a broker beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from typing import TYPE_CHECKING

import uvicorn

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.http_serving import GRACE, Beat, Server, listening, many_files, patient, require_keys, several
from penstock.stream.log import Log, open_log

if TYPE_CHECKING:
    from penstock.stream.gateway import Door

__all__ = ["serve"]

LOOK = 5.0  # seconds between looks at the log


def serve(view: Stream) -> int:
    """Run the gateway until it is told to stop (SIGTERM, SIGINT); its exit code.

    Raises:
        PenstockError: It may not listen there, or cannot.
    """
    gateway = view.gateway
    require_keys(
        "gateway",
        gateway.host,
        gateway.keys,
        gateway.certificate,
        "name a file of keys: gateway.keys=conf/devices.yaml, and `penstock stream keys add DEVICE`",
    )
    many_files()
    sock = listening(gateway.host, gateway.port, "gateway")
    kind = "https" if gateway.certificate else "http"
    port = sock.getsockname()[1]
    say(f"gateway: {kind}://{gateway.host}:{port}/v1/readings" + ("" if gateway.keys else ", without keys"))
    if gateway.workers == 1:
        return _one(view, sock, 0, lambda: None)
    with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return several(gateway.workers, lambda number, beat: _one(view, sock, number, beat), "gateway")


def _one(view: Stream, sock: socket.socket, number: int, beat: Beat) -> int:
    import uvloop

    return uvloop.run(_run(view, sock, number, beat))


async def _run(view: Stream, sock: socket.socket, number: int, beat: Beat) -> int:
    from penstock.stream.gateway import create_app

    gateway = view.gateway
    async with open_log(view.log) as log:
        app = create_app(view, log)
        beat()  # it has what it needs: another that cannot begin is no reason to end
        door: Door = app.state.door
        config = uvicorn.Config(
            app,
            http=patient(
                gateway.limits.body_seconds.total_seconds(),
                gateway.limits.connections,
                told=door.metrics.connections.set,
            ),
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
