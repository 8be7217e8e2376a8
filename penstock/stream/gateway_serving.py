"""Running the gateway: its processes, its log, and what subscribes to a broker beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile

import uvicorn

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.http_serving import GRACE, Server, listening, many_files, patient, require_keys, several
from penstock.stream.log import open_log

__all__ = ["serve"]


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
        return _one(view, sock)
    with tempfile.TemporaryDirectory(prefix="penstock-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return several(gateway.workers, lambda: _one(view, sock), "gateway")


def _one(view: Stream, sock: socket.socket) -> int:
    import uvloop

    return uvloop.run(_run(view, sock))


async def _run(view: Stream, sock: socket.socket) -> int:
    from penstock.stream.gateway import create_app

    gateway = view.gateway
    async with open_log(view.log) as log:
        app = create_app(view, log)
        config = uvicorn.Config(
            app,
            http=patient(gateway.limits.body_seconds.total_seconds(), gateway.limits.connections),
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
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.leave)
        subscribing = None
        if gateway.mqtt is not None:
            from penstock.stream.gateway_mqtt import subscribe

            subscribing = asyncio.create_task(subscribe(gateway.mqtt, app.state.door))
        try:
            await server.serve(sockets=[sock])
        finally:
            if subscribing is not None:
                subscribing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await subscribing
    return 0
